/* test_compact.c - what compaction takes from a log, and what it must leave.
 *
 * As in test_merge.c, JSON is written with ' for ".  A log is told in its order; what became of it
 * is told back without what was dropped.
 */
#include "../../csrc/core/text.h"
#include "quoted.h"
#include "recognize.h"
#include "scarcity.h"

#include <inttypes.h>

typedef struct {
    mb_arena *arena;
    mb_diffs diffs;
    size_t room;
} log_story;

static log_story begin_with(size_t room)
{
    log_story l = {.room = room};
    CHECK(mb_arena_new(NULL, 0, &l.arena) == MB_OK);
    CHECK(mb_diffs_new(l.arena, room, &l.diffs) == MB_OK);
    l.diffs.count = 0;
    return l;
}

static log_story begin(void)
{
    return begin_with(8);
}

static mb_diff *logged(log_story *l, mb_type type, const char *json_data)
{
    char id[32];
    mb_error error;
    CHECK(l->diffs.count < l->room);
    snprintf(id, sizeof id, "d%zu", l->diffs.count);
    mb_diff *diff = &l->diffs.items[l->diffs.count++];
    *diff = (mb_diff){.id = keep(l->arena, id),
                      .owner = MB_TEXT("anna"),
                      .model = MB_TEXT("tasks"),
                      .json_data = keep(l->arena, json_data),
                      .logical_clock = (int64_t)l->diffs.count,
                      .type = type};
    CHECK(mb_diff_check(diff, NULL, l->arena, &error) == MB_OK);
    return diff;
}

static void tell(FILE *told, const mb_diff *diff, const mb_compacted *fate)
{
    const mb_text left = fate->fate == MB_TRIMMED ? fate->json_data : diff->json_data;
    if (fate->fate == MB_DROPPED)
        return;
    fprintf(told, "%.*s %.*s ", (int)diff->id.size, diff->id.at, (int)mb_type_name(diff->type).size,
            mb_type_name(diff->type).at);
    for (size_t at = 0; at < left.size; at++)
        fputc(left.at[at] == '"' ? '\'' : left.at[at], told);
    fputc('\n', told);
}

/* Compacts the log in one piece; to be freed. */
static char *compacted(const log_story *l)
{
    char *text;
    size_t size;
    mb_compaction *compaction;
    mb_compacted *fates;
    CHECK(mb_compaction_new(l->arena, &compaction) == MB_OK);
    CHECK(mb_compact(compaction, &l->diffs, l->arena, &fates) == MB_OK);
    FILE *told = open_memstream(&text, &size);
    for (size_t i = 0; i < l->diffs.count; i++)
        tell(told, &l->diffs.items[i], &fates[i]);
    fclose(told);
    return text;
}

/* Ends the story. */
static void check_left(log_story *l, const char *file, int line, const char *wanted)
{
    char *left = compacted(l);
    check_text(file, line, "what is left", left, wanted);
    free(left);
    mb_arena_free(l->arena);
}

#define CHECK_LEFT(l, wanted) check_left(l, __FILE__, __LINE__, wanted)

/* ---- the rules ----------------------------------------------------------------------------- */

TEST(a_log_in_which_nothing_was_written_twice_is_kept)
{
    log_story l = begin();
    logged(&l, MB_CREATE, "{'id': 'x', 'a': 1}");
    logged(&l, MB_UPDATE, "{'id': 'x', 'b': 1}");
    logged(&l, MB_UPDATE, "{'id': 'y', 'b': 1}");
    logged(&l, MB_DELETE, "{'id': 'z'}");
    CHECK_LEFT(&l, "d0 create {'id': 'x', 'a': 1}\n"
                   "d1 update {'id': 'x', 'b': 1}\n"
                   "d2 update {'id': 'y', 'b': 1}\n"
                   "d3 delete {'id': 'z'}\n");
}

TEST(an_empty_log_stays_empty)
{
    log_story l = begin();
    CHECK_LEFT(&l, "");
}

TEST(an_update_loses_the_fields_that_were_written_again)
{
    log_story l = begin();
    logged(&l, MB_UPDATE, "{'a': 1.0, 'b': 9007199254740993, 'id': 'x', 'c': 1}");
    logged(&l, MB_UPDATE, "{'id': 'x', 'a': 2, 'c': 1}");
    logged(&l, MB_UPDATE, "{'id': 'x', 'a': 3}");
    CHECK_LEFT(&l, "d0 update {'b':9007199254740993,'id':'x'}\n"
                   "d1 update {'id':'x','c':1}\n"
                   "d2 update {'id': 'x', 'a': 3}\n");
}

TEST(an_update_of_which_nothing_is_left_is_dropped)
{
    log_story l = begin();
    logged(&l, MB_UPDATE, "{'id': 'x', 'a': 1}");
    logged(&l, MB_UPDATE, "{'id': 'x'}");
    logged(&l, MB_UPDATE, "{'id': 'x', 'a': 2, 'b': 2}");
    CHECK_LEFT(&l, "d2 update {'id': 'x', 'a': 2, 'b': 2}\n");
}

TEST(a_create_stays_whole)
{
    log_story l = begin();
    logged(&l, MB_CREATE, "{'id': 'x', 'a': 1, 'b': 1}");
    logged(&l, MB_UPDATE, "{'id': 'x', 'a': 2}");
    logged(&l, MB_UPDATE, "{'id': 'x', 'a': 3}");
    CHECK_LEFT(&l, "d0 create {'id': 'x', 'a': 1, 'b': 1}\n"
                   "d2 update {'id': 'x', 'a': 3}\n");
}

TEST(of_a_dead_object_its_last_delete_is_left)
{
    log_story l = begin();
    logged(&l, MB_CREATE, "{'id': 'x', 'a': 1}");
    logged(&l, MB_DELETE, "{'id': 'x'}");
    logged(&l, MB_CREATE, "{'id': 'x', 'a': 2}");
    logged(&l, MB_UPDATE, "{'id': 'x', 'b': 3}");
    logged(&l, MB_DELETE, "{'id': 'x', 'why': 'done'}");
    CHECK_LEFT(&l, "d4 delete {'id': 'x', 'why': 'done'}\n");
}

TEST(an_object_born_again_keeps_its_last_delete_and_its_new_life)
{
    log_story l = begin();
    logged(&l, MB_UPDATE, "{'id': 'x', 'z': 1}");
    logged(&l, MB_DELETE, "{'id': 'x'}");
    logged(&l, MB_CREATE, "{'id': 'x', 'a': 1}");
    logged(&l, MB_UPDATE, "{'id': 'x', 'a': 2}");
    logged(&l, MB_UPDATE, "{'id': 'x', 'a': 3}");
    CHECK_LEFT(&l, "d1 delete {'id': 'x'}\n"
                   "d2 create {'id': 'x', 'a': 1}\n"
                   "d4 update {'id': 'x', 'a': 3}\n");
}

TEST(the_last_diff_holds_the_clock_and_is_kept_whatever_it_says)
{
    log_story l = begin();
    logged(&l, MB_UPDATE, "{'id': 'x', 'a': 1}");
    logged(&l, MB_UPDATE, "{'id': 'x', 'a': 1, 'a': 2}");
    CHECK_LEFT(&l, "d1 update {'id': 'x', 'a': 1, 'a': 2}\n");

    l = begin();
    logged(&l, MB_UPDATE, "{'id': 'x', 'a': 1}");
    logged(&l, MB_UPDATE, "{'id': 'x'}");
    CHECK_LEFT(&l, "d0 update {'id': 'x', 'a': 1}\n"
                   "d1 update {'id': 'x'}\n");
}

TEST(names_are_compared_decoded_and_of_duplicates_the_last_is_left)
{
    log_story l = begin();
    logged(&l, MB_UPDATE, "{'\\u0069d': 'y', 'a': 1, '\\u0062': 2, 'a': 3, 'id': '\\u0078'}");
    logged(&l, MB_UPDATE, "{'id': 'x', 'b': 1, 'A': 1}");
    logged(&l, MB_UPDATE, "{'id': 'X', 'a': 1}");
    logged(&l, MB_UPDATE, "{'id': 'x', 'a': 1}")->model = MB_TEXT("notes");
    CHECK_LEFT(&l, "d0 update {'a':3,'id':'\\u0078'}\n"
                   "d1 update {'id': 'x', 'b': 1, 'A': 1}\n"
                   "d2 update {'id': 'X', 'a': 1}\n"
                   "d3 update {'id': 'x', 'a': 1}\n");
}

TEST(the_clock_decides_what_is_later_and_not_the_list)
{
    log_story l = begin();
    logged(&l, MB_UPDATE, "{'id': 'x', 'a': 1}")->logical_clock = 9;
    logged(&l, MB_UPDATE, "{'id': 'x', 'a': 2, 'b': 2}")->logical_clock = 5;
    logged(&l, MB_DELETE, "{'id': 'x'}")->logical_clock = 3;
    logged(&l, MB_CREATE, "{'id': 'x', 'a': 0}")->logical_clock = 4;
    logged(&l, MB_CREATE, "{'id': 'x', 'a': 7}")->logical_clock = 2;
    CHECK_LEFT(&l, "d0 update {'id': 'x', 'a': 1}\n"
                   "d1 update {'id':'x','b':2}\n"
                   "d2 delete {'id': 'x'}\n"
                   "d3 create {'id': 'x', 'a': 0}\n");
}

/* ---- any log ------------------------------------------------------------------------------- */

enum { RANDOM_DIFFS = 60 };

static uint32_t random_below(uint64_t *state, uint32_t limit)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 33) % limit;
}

static log_story begin_at_random(uint64_t seed)
{
    static const mb_type types[] = {MB_CREATE, MB_UPDATE, MB_UPDATE, MB_UPDATE, MB_DELETE};
    log_story l = begin_with(RANDOM_DIFFS);
    uint64_t state = seed;
    for (int i = 0; i < RANDOM_DIFFS; i++) {
        char json[128];
        size_t size = (size_t)snprintf(json, sizeof json, "{'id': 'x%u'", random_below(&state, 4));
        for (uint32_t more = random_below(&state, 4); more > 0; more--)
            size += (size_t)snprintf(json + size, sizeof json - size, ", 'f%u': %d",
                                     random_below(&state, 4), i);
        snprintf(json + size, sizeof json - size, "}");
        logged(&l, types[random_below(&state, 5)], json);
    }
    return l;
}

/* Compacts a log piece by piece from its end; what a piece was read into is gone before the next.
 * Gives what compacted() gives; to be freed. */
static char *compacted_in_pieces(const log_story *l, size_t piece_size)
{
    char *told_of[RANDOM_DIFFS];
    char *text;
    size_t size;
    mb_arena *arena;
    mb_compaction *compaction;
    CHECK(mb_arena_new(NULL, 99, &arena) == MB_OK);
    CHECK(mb_compaction_new(arena, &compaction) == MB_OK);
    for (size_t end = l->diffs.count; end > 0;) {
        const size_t first = end < piece_size ? 0 : end - piece_size;
        log_story piece = begin_with(piece_size);
        mb_compacted *fates;
        for (size_t i = first; i < end; i++) {
            char *json = strndup(l->diffs.items[i].json_data.at, l->diffs.items[i].json_data.size);
            mb_diff *diff = logged(&piece, l->diffs.items[i].type, json);
            diff->id = l->diffs.items[i].id;
            diff->logical_clock = l->diffs.items[i].logical_clock;
            free(json);
        }
        CHECK(mb_compact(compaction, &piece.diffs, piece.arena, &fates) == MB_OK);
        for (size_t i = first; i < end; i++) {
            FILE *told = open_memstream(&told_of[i], &size);
            tell(told, &piece.diffs.items[i - first], &fates[i - first]);
            fclose(told);
        }
        mb_arena_free(piece.arena);
        end = first;
    }
    mb_arena_free(arena);

    FILE *told = open_memstream(&text, &size);
    for (size_t i = 0; i < l->diffs.count; i++) {
        fputs(told_of[i], told);
        free(told_of[i]);
    }
    fclose(told);
    return text;
}

TEST(a_log_may_be_compacted_in_pieces_of_any_size)
{
    for (uint64_t seed = 0; seed < 10; seed++) {
        log_story l = begin_at_random(seed);
        char *whole = compacted(&l);
        for (size_t size = 1; size <= RANDOM_DIFFS; size += size < 8 ? 1 : 13) {
            char *pieces = compacted_in_pieces(&l, size);
            at_row("log %" PRIu64 ", pieces of %zu", seed, size);
            CHECK_TEXT(pieces, whole);
            free(pieces);
        }
        free(whole);
        mb_arena_free(l.arena);
    }
}

/* Puts what is left of a log in its place. */
static void compact(log_story *l)
{
    mb_compaction *compaction;
    mb_compacted *fates;
    size_t left = 0;
    CHECK(mb_compaction_new(l->arena, &compaction) == MB_OK);
    CHECK(mb_compact(compaction, &l->diffs, l->arena, &fates) == MB_OK);
    for (size_t i = 0; i < l->diffs.count; i++) {
        mb_error error;
        if (fates[i].fate == MB_DROPPED)
            continue;
        mb_diff *diff = &l->diffs.items[left++];
        *diff = l->diffs.items[i];
        if (fates[i].fate == MB_TRIMMED)
            diff->json_data = fates[i].json_data;
        CHECK(mb_diff_check(diff, NULL, l->arena, &error) == MB_OK);
    }
    CHECK(left < l->diffs.count);
    l->diffs.count = left;
}

TEST(what_was_compacted_once_stays_as_it_is)
{
    for (uint64_t seed = 0; seed < 50; seed++) {
        log_story l = begin_at_random(seed);
        char *once = compacted(&l);
        compact(&l);
        at_row("log %" PRIu64, seed);
        CHECK_LEFT(&l, once);
        free(once);
    }
}

/* The rows of a device that had none and pulls the whole log; to be freed. */
static char *rows_after_pull(log_story *l)
{
    mb_diffs nothing = {NULL, 0};
    mb_merge_result result;
    char *text;
    size_t size;
    CHECK(recognize(l->arena, &l->diffs, &nothing) == MB_OK);
    CHECK(mb_merge(l->arena, &l->diffs, &nothing, &result) == MB_OK);
    FILE *told = open_memstream(&text, &size);
    for (char object = '0'; object < '4'; object++) {
        char fields[4][16] = {""};
        for (size_t i = 0; i < result.downstream.count; i++) {
            const mb_outcome *o = &result.downstream.items[i];
            mb_diff diff = l->diffs.items[o->source];
            mb_error error;
            diff.json_data = o->json_data;
            CHECK(mb_diff_check(&diff, NULL, l->arena, &error) == MB_OK);
            if (diff.object_id.at[1] != object)
                continue;
            if (o->type != MB_UPDATE)
                memset(fields, 0, sizeof fields);
            for (size_t m = 0; m < diff.member_count && o->type != MB_DELETE; m++)
                if (diff.members[m].name.at[0] == 'f')
                    snprintf(fields[diff.members[m].name.at[1] - '0'], sizeof *fields, "%.*s",
                             (int)diff.members[m].value.size, diff.members[m].value.at);
        }
        fprintf(told, "x%c: %s,%s,%s,%s\n", object, fields[0], fields[1], fields[2], fields[3]);
    }
    fclose(told);
    return text;
}

TEST(a_device_that_pulls_a_compacted_log_ends_with_the_same_rows)
{
    for (uint64_t seed = 0; seed < 100; seed++) {
        log_story l = begin_at_random(seed);
        char *whole = rows_after_pull(&l);
        compact(&l);
        char *rest = rows_after_pull(&l);
        at_row("log %" PRIu64, seed);
        CHECK_TEXT(rest, whole);
        free(rest);
        free(whole);
        mb_arena_free(l.arena);
    }
}

TEST(what_a_compaction_remembers_does_not_grow_with_the_log)
{
    scarce_memory memory = {0};
    const mb_allocator allocator = scarce_allocator(&memory);
    mb_arena *arena;
    mb_compaction *compaction;
    size_t after_one = 0;
    CHECK(mb_arena_new(&allocator, 0, &arena) == MB_OK);
    CHECK(mb_compaction_new(arena, &compaction) == MB_OK);
    for (int piece = 0; piece < 500; piece++) {
        log_story l = begin();
        mb_compacted *fates;
        logged(&l, MB_UPDATE, "{'id': 'x', 'a': 1, 'b': 2}");
        logged(&l, MB_UPDATE, "{'id': 'y', 'c': 3}");
        l.diffs.items[0].logical_clock = 2; /* has it sort, too */
        l.diffs.items[1].logical_clock = 1;
        CHECK(mb_compact(compaction, &l.diffs, l.arena, &fates) == MB_OK);
        mb_arena_free(l.arena);
        if (piece == 0)
            after_one = memory.bytes;
    }
    CHECK(memory.bytes == after_one);
    mb_arena_free(arena);
    CHECK(memory.live == 0);
}

/* Compacts a piece of one update of x. */
static bool is_dropped(mb_compaction *compaction, mb_text model)
{
    log_story l = begin();
    mb_compacted *fates;
    logged(&l, MB_UPDATE, "{'id': 'x', 'a': 1}")->model = model;
    CHECK(mb_compact(compaction, &l.diffs, l.arena, &fates) == MB_OK);
    const bool dropped = fates[0].fate == MB_DROPPED;
    mb_arena_free(l.arena);
    return dropped;
}

TEST(the_texts_of_a_piece_may_end_with_it)
{
    mb_arena *arena;
    mb_compaction *compaction;
    char place[] = "tasks";
    const mb_text model = {place, 5};
    CHECK(mb_arena_new(NULL, 0, &arena) == MB_OK);
    CHECK(mb_compaction_new(arena, &compaction) == MB_OK);
    CHECK(!is_dropped(compaction, model));
    memcpy(place, "notes", 5);
    CHECK(!is_dropped(compaction, model));
    CHECK(!is_dropped(compaction, MB_TEXT("lists")));
    CHECK(is_dropped(compaction, MB_TEXT("notes")));
    mb_arena_free(arena);
}

/* ---- without memory ------------------------------------------------------------------------ */

static mb_status compact_and_tell(void *context, mb_arena *arena, FILE *told)
{
    const log_story *l = context;
    const mb_diffs later = {l->diffs.items + l->diffs.count / 2, l->diffs.count / 2};
    const mb_diffs earlier = {l->diffs.items, l->diffs.count - later.count};
    mb_compaction *compaction;
    mb_compacted *fates_later, *fates_earlier;
    if (mb_compaction_new(arena, &compaction) != MB_OK ||
        mb_compact(compaction, &later, arena, &fates_later) != MB_OK ||
        mb_compact(compaction, &earlier, arena, &fates_earlier) != MB_OK)
        return MB_NO_MEMORY;
    for (size_t i = 0; i < earlier.count; i++)
        tell(told, &earlier.items[i], &fates_earlier[i]);
    for (size_t i = 0; i < later.count; i++)
        tell(told, &later.items[i], &fates_later[i]);
    return MB_OK;
}

TEST(a_log_is_compacted_or_memory_is_out)
{
    log_story l = begin_with(16);
    for (int i = 0; i < 16; i++) {
        char json[64];
        snprintf(json, sizeof json, "{'id': 'x%d', 'f%d': 1, 'a': %d}", i % 9, i, i);
        logged(&l, i % 7 == 6 ? MB_DELETE : MB_UPDATE, json)->logical_clock = i ^ 1;
    }
    CHECK(check_survives_scarcity(compact_and_tell, &l) == 0);
    mb_arena_free(l.arena);
}

int main(void)
{
    RUN(a_log_in_which_nothing_was_written_twice_is_kept);
    RUN(an_empty_log_stays_empty);
    RUN(an_update_loses_the_fields_that_were_written_again);
    RUN(an_update_of_which_nothing_is_left_is_dropped);
    RUN(a_create_stays_whole);
    RUN(of_a_dead_object_its_last_delete_is_left);
    RUN(an_object_born_again_keeps_its_last_delete_and_its_new_life);
    RUN(the_last_diff_holds_the_clock_and_is_kept_whatever_it_says);
    RUN(names_are_compared_decoded_and_of_duplicates_the_last_is_left);
    RUN(the_clock_decides_what_is_later_and_not_the_list);
    RUN(a_log_may_be_compacted_in_pieces_of_any_size);
    RUN(what_was_compacted_once_stays_as_it_is);
    RUN(a_device_that_pulls_a_compacted_log_ends_with_the_same_rows);
    RUN(what_a_compaction_remembers_does_not_grow_with_the_log);
    RUN(the_texts_of_a_piece_may_end_with_it);
    RUN(a_log_is_compacted_or_memory_is_out);
    return tests_end();
}
