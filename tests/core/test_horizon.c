/* test_horizon.c - what a log becomes below its horizon.
 *
 * As in test_merge.c, JSON is written with ' for ".  A log is told in its order: it is compacted, then
 * folded as a whole or in pieces, and what became of it is told back, with the times.
 */
#include "../../csrc/core/log.h"
#include "../../csrc/core/text.h"
#include "quoted.h"
#include "recognize.h"
#include "scarcity.h"

#include <inttypes.h>
#include <stdlib.h>

enum { MOST = 60, ALL_MAY_GO = -1 };

/* A diff as the log keeps it between two pieces. */
typedef struct {
    char id[16];
    char json_data[256];
    char field_times[256];
    mb_type type;
    int64_t clock;
    int64_t time;
    bool gone;
} kept_row;

typedef struct {
    kept_row rows[MOST];
    size_t count;
    bool keeps_times;
    int64_t holds_clock;
    size_t unfolded; /* out */
} log_story;

static log_story begin(void)
{
    return (log_story){.keeps_times = true, .holds_clock = ALL_MAY_GO};
}

static kept_row *logged(log_story *l, mb_type type, int64_t time, const char *json_data)
{
    CHECK(l->count < MOST);
    kept_row *row = &l->rows[l->count];
    *row = (kept_row){.type = type, .time = time, .clock = (int64_t)l->count};
    snprintf(row->id, sizeof row->id, "d%zu", l->count++);
    for (size_t i = 0; json_data[i] != '\0' && i + 1 < sizeof row->json_data; i++)
        row->json_data[i] = json_data[i] == '\'' ? '"' : json_data[i];
    return row;
}

static mb_text text_of(const char *text)
{
    return (mb_text){text, strlen(text)};
}

/* The rows of the log from a place to before another that are still there. */
static mb_diffs piece_of(const log_story *l, size_t first, size_t end, mb_arena *arena,
                         size_t places[MOST])
{
    mb_diffs piece;
    mb_error error;
    CHECK(mb_diffs_new(arena, end - first, &piece) == MB_OK);
    piece.count = 0;
    for (size_t i = first; i < end; i++) {
        const kept_row *row = &l->rows[i];
        if (row->gone)
            continue;
        places[piece.count] = i;
        mb_diff *diff = &piece.items[piece.count++];
        *diff = (mb_diff){.id = text_of(row->id),
                          .owner = MB_TEXT("anna"),
                          .model = MB_TEXT("tasks"),
                          .json_data = text_of(row->json_data),
                          .field_times = text_of(row->field_times),
                          .logical_clock = row->clock,
                          .utc_timestamp = row->time,
                          .type = row->type};
        CHECK(mb_diff_check(diff, NULL, arena, &error) == MB_OK);
    }
    return piece;
}

static void write_text(char *at, size_t room, mb_text text)
{
    CHECK(text.size < room);
    if (text.size != 0)
        memcpy(at, text.at, text.size);
    at[text.size] = '\0';
}

/* Compacts the whole log, and expects what is to be folded. */
static void compact(log_story *l, mb_folding *folding)
{
    size_t places[MOST];
    mb_arena *arena;
    mb_compaction *compaction;
    mb_compacted *fates;
    CHECK(mb_arena_new(NULL, 1, &arena) == MB_OK);
    const mb_diffs whole = piece_of(l, 0, l->count, arena, places);
    CHECK(mb_compaction_new(arena, &compaction) == MB_OK);
    CHECK(mb_compact(compaction, &whole, arena, &fates) == MB_OK);
    for (size_t i = 0; i < whole.count; i++) {
        kept_row *row = &l->rows[places[i]];
        row->gone = fates[i].fate == MB_DROPPED;
        if (fates[i].fate == MB_TRIMMED)
            write_text(row->json_data, sizeof row->json_data, fates[i].json_data);
        if (!row->gone && row->type != MB_CREATE)
            CHECK(mb_folding_expect(folding, &whole.items[i]) == MB_OK);
    }
    mb_arena_free(arena);
}

static void write_create(log_story *l, const mb_folded *create)
{
    for (size_t i = 0; i < l->count; i++) {
        kept_row *row = &l->rows[i];
        if (!mb_text_equal(text_of(row->id), create->id))
            continue;
        CHECK(create->bytes_before == strlen(row->json_data) + strlen(row->field_times));
        row->time = create->utc_timestamp;
        write_text(row->json_data, sizeof row->json_data, create->json_data);
        write_text(row->field_times, sizeof row->field_times, create->field_times);
    }
}

static void fold_piece(log_story *l, mb_folding *folding, size_t first, size_t end)
{
    size_t places[MOST];
    mb_arena *arena;
    mb_fold_result fold;
    CHECK(mb_arena_new(NULL, 2, &arena) == MB_OK);
    const mb_diffs piece = piece_of(l, first, end, arena, places);
    CHECK(mb_fold(folding, &piece, l->holds_clock, arena, &fold) == MB_OK);
    for (size_t i = 0; i < piece.count; i++)
        l->rows[places[i]].gone |= fold.dropped[i];
    for (size_t i = 0; i < fold.create_count; i++)
        write_create(l, &fold.creates[i]);
    l->unfolded += fold.unfolded;
    mb_arena_free(arena);
}

static void fold(log_story *l, size_t horizon, size_t piece_size)
{
    mb_arena *arena;
    mb_folding *folding;
    CHECK(mb_arena_new(NULL, 3, &arena) == MB_OK);
    CHECK(mb_folding_new(l->keeps_times, arena, &folding) == MB_OK);
    compact(l, folding);
    for (size_t first = 0; first < horizon; first += piece_size)
        fold_piece(l, folding, first, first + piece_size < horizon ? first + piece_size : horizon);
    mb_arena_free(arena);
}

/* What is left; to be freed. */
static char *told(const log_story *l)
{
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    for (size_t i = 0; i < l->count; i++) {
        const kept_row *row = &l->rows[i];
        if (!row->gone)
            fprintf(out, "%s %s @%" PRId64 " %s%s%s\n", row->id, mb_type_name(row->type).at,
                    row->time, row->json_data, row->field_times[0] == '\0' ? "" : " ",
                    row->field_times);
    }
    fclose(out);
    for (char *at = text; *at != '\0'; at++)
        *at = *at == '"' ? '\'' : *at;
    return text;
}

static void check_left(log_story *l, size_t horizon, const char *wanted)
{
    fold(l, horizon, MOST);
    char *left = told(l);
    CHECK_TEXT(left, wanted);
    free(left);
}

/* ---- the rules ----------------------------------------------------------------------------- */

TEST(a_living_object_is_one_create_with_all_its_fields_and_the_latest_time)
{
    log_story l = begin();
    logged(&l, MB_CREATE, 10, "{'id': 'x', 'a': 1.0, 'b': 2}");
    logged(&l, MB_UPDATE, 30, "{'id': 'x', 'b': 3, 'c': 9007199254740993}");
    logged(&l, MB_UPDATE, 30, "{'id': 'x', 'a': 1.00}");
    check_left(&l, 3, "d0 create @30 {'id':'x','a':1.00,'b':3,'c':9007199254740993}\n");
}

TEST(the_times_of_fields_that_have_another_one_stand_beside_it)
{
    log_story l = begin();
    logged(&l, MB_CREATE, 10, "{'id': 'x', 'a': 1, 'b': 2}");
    logged(&l, MB_UPDATE, 30, "{'id': 'x', 'b': 3}");
    logged(&l, MB_UPDATE, 20, "{'id': 'x', 'c': 4}");
    check_left(&l, 3, "d0 create @30 {'id':'x','a':1,'b':3,'c':4} {'a':10,'c':20}\n");
    logged(&l, MB_UPDATE, 40, "{'id': 'x', 'c': 5}");
    check_left(&l, 4, "d0 create @40 {'id':'x','a':1,'b':3,'c':5} {'a':10,'b':30}\n");
}

TEST(an_edit_counts_as_at_least_as_late_as_what_it_replaced)
{
    log_story l = begin();
    logged(&l, MB_CREATE, 50, "{'id': 'x', 'a': 1}");
    logged(&l, MB_UPDATE, 20, "{'id': 'x', 'a': 2}");
    check_left(&l, 2, "d0 create @50 {'id':'x','a':2}\n");
}

TEST(a_dead_object_leaves_nothing_and_one_that_was_born_again_its_last_life)
{
    log_story l = begin();
    logged(&l, MB_CREATE, 1, "{'id': 'x', 'a': 1}");
    logged(&l, MB_DELETE, 2, "{'id': 'x'}");
    logged(&l, MB_CREATE, 3, "{'id': 'y', 'a': 1, 'z': 1}");
    logged(&l, MB_DELETE, 4, "{'id': 'y'}");
    logged(&l, MB_CREATE, 5, "{'id': 'y', 'b': 2}");
    logged(&l, MB_UPDATE, 6, "{'id': 'y', 'b': 3}");
    logged(&l, MB_UPDATE, 7, "{'id': 'x', 'b': 3}"); /* of a row that was gone */
    check_left(&l, 7, "d4 create @6 {'id':'y','b':3}\n");
}

TEST(what_is_not_below_the_horizon_stays)
{
    log_story l = begin();
    logged(&l, MB_CREATE, 1, "{'id': 'x', 'a': 1}");
    logged(&l, MB_UPDATE, 2, "{'id': 'x', 'b': 2}");
    logged(&l, MB_UPDATE, 3, "{'id': 'x', 'c': 3}");
    logged(&l, MB_DELETE, 4, "{'id': 'y'}");
    check_left(&l, 2,
               "d0 create @2 {'id':'x','a':1,'b':2} {'a':1}\n"
               "d2 update @3 {'id': 'x', 'c': 3}\n"
               "d3 delete @4 {'id': 'y'}\n");
}

TEST(an_object_without_a_create_and_one_without_updates_stay_as_they_are)
{
    log_story l = begin();
    logged(&l, MB_UPDATE, 1, "{'id': 'x', 'a': 1}");
    logged(&l, MB_UPDATE, 2, "{'id': 'x', 'b': 2}");
    logged(&l, MB_CREATE, 3, "{'id': 'y', 'a': 1}");
    check_left(&l, 3,
               "d0 update @1 {'id': 'x', 'a': 1}\n"
               "d1 update @2 {'id': 'x', 'b': 2}\n"
               "d2 create @3 {'id': 'y', 'a': 1}\n");
}

TEST(a_create_of_what_is_there_is_one_more_update)
{
    log_story l = begin();
    logged(&l, MB_CREATE, 1, "{'id': 'x', 'a': 1}");
    logged(&l, MB_CREATE, 2, "{'id': 'x', 'a': 2, 'b': 2}");
    logged(&l, MB_UPDATE, 2, "{'id': 'x', 'b': 3}");
    check_left(&l, 3, "d0 create @2 {'id':'x','a':2,'b':3}\n");
}

TEST(without_room_for_times_an_object_whose_times_differ_stays)
{
    log_story l = begin();
    l.keeps_times = false;
    logged(&l, MB_CREATE, 1, "{'id': 'x', 'a': 1}");
    logged(&l, MB_UPDATE, 2, "{'id': 'x', 'b': 2}");
    logged(&l, MB_CREATE, 1, "{'id': 'y', 'a': 1}");
    logged(&l, MB_UPDATE, 2, "{'id': 'y', 'a': 2}");
    logged(&l, MB_DELETE, 2, "{'id': 'z'}");
    check_left(&l, 5,
               "d0 create @1 {'id': 'x', 'a': 1}\n"
               "d1 update @2 {'id': 'x', 'b': 2}\n"
               "d2 create @2 {'id':'y','a':2}\n");
    CHECK(l.unfolded == 1);
    l.keeps_times = true;
    check_left(&l, 5,
               "d0 create @2 {'id':'x','a':1,'b':2} {'a':1}\n"
               "d2 create @2 {'id':'y','a':2}\n");
}

TEST(the_last_diff_stays_where_it_alone_holds_the_clock)
{
    log_story l = begin();
    l.holds_clock = 2;
    logged(&l, MB_CREATE, 1, "{'id': 'x', 'a': 1}");
    logged(&l, MB_DELETE, 2, "{'id': 'y'}");
    logged(&l, MB_UPDATE, 2, "{'id': 'x', 'a': 2}");
    check_left(&l, 3,
               "d0 create @2 {'id':'x','a':2}\n"
               "d2 update @2 {'id': 'x', 'a': 2}\n");
}

TEST(names_are_compared_decoded_and_of_duplicates_the_last_counts)
{
    log_story l = begin();
    logged(&l, MB_CREATE, 1, "{'id': 'y', '\\u0061': 1, 'b': 1, '\\u0069d': 'x', 'b': 2}");
    logged(&l, MB_UPDATE, 2, "{'id': 'x', 'a': 3}");
    check_left(&l, 2, "d0 create @2 {'\\u0069d':'x','\\u0061':3,'b':2} {'b':1}\n");
}

/* ---- any log ------------------------------------------------------------------------------- */

static uint32_t random_below(uint64_t *state, uint32_t limit)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 33) % limit;
}

/* A log that devices could have made: a create of what is not there, else an update or a delete. */
static log_story begin_at_random(uint64_t seed)
{
    log_story l = begin();
    bool alive[4] = {false};
    uint64_t state = seed;
    for (int i = 0; i < MOST; i++) {
        char json[128];
        const uint32_t object = random_below(&state, 4);
        mb_type type = alive[object] ? MB_UPDATE : MB_CREATE;
        if (type == MB_UPDATE && random_below(&state, 5) == 0)
            type = MB_DELETE;
        alive[object] = type != MB_DELETE;
        size_t size = (size_t)snprintf(json, sizeof json, "{'id': 'x%u'", object);
        for (uint32_t more = type == MB_DELETE ? 0 : 1 + random_below(&state, 3); more > 0; more--)
            size += (size_t)snprintf(json + size, sizeof json - size, ", 'f%u': %d",
                                     random_below(&state, 4), i);
        snprintf(json + size, sizeof json - size, "}");
        logged(&l, type, random_below(&state, 9), json);
    }
    return l;
}

TEST(a_log_may_be_folded_in_pieces_of_any_size_and_again)
{
    for (uint64_t seed = 0; seed < 50; seed++) {
        const size_t horizon = seed % (MOST + 1);
        log_story whole = begin_at_random(seed);
        fold(&whole, horizon, MOST);
        char *wanted = told(&whole);
        for (size_t size = 1; size < MOST; size += 7) {
            log_story l = begin_at_random(seed);
            fold(&l, horizon, size);
            char *left = told(&l);
            at_row("log %" PRIu64 ", pieces of %zu", seed, size);
            CHECK_TEXT(left, wanted);
            free(left);
        }
        fold(&whole, horizon, MOST);
        char *again = told(&whole);
        CHECK_TEXT(again, wanted);
        free(again);
        free(wanted);
    }
}

TEST(below_the_horizon_there_is_one_row_for_each_living_object)
{
    for (uint64_t seed = 0; seed < 50; seed++) {
        log_story l = begin_at_random(seed);
        bool alive[4] = {false};
        size_t living = 0, left = 0;
        for (size_t i = 0; i < l.count; i++)
            alive[l.rows[i].json_data[9] - '0'] = l.rows[i].type != MB_DELETE;
        for (int object = 0; object < 4; object++)
            living += alive[object];
        fold(&l, MOST, 9);
        for (size_t i = 0; i < l.count; i++)
            left += !l.rows[i].gone;
        at_row("log %" PRIu64, seed);
        CHECK(left == living);
    }
}

/* ---- the times in a merge ------------------------------------------------------------------ */

/* Whether an edit of a field wins over a folded create, of one who starts over. */
static bool wins(const char *field_times, int64_t time)
{
    log_story l = begin();
    kept_row *row = logged(&l, MB_CREATE, 30, "{'id': 'x', 'a': 1, 'b': 2}");
    size_t places[MOST];
    mb_arena *arena;
    mb_error error;
    mb_merge_result result;
    snprintf(row->field_times, sizeof row->field_times, "%s", field_times);
    CHECK(mb_arena_new(NULL, 4, &arena) == MB_OK);
    mb_diffs log = piece_of(&l, 0, 1, arena, places);
    mb_diff edit = {.id = MB_TEXT("e"),
                    .owner = MB_TEXT("anna"),
                    .model = MB_TEXT("tasks"),
                    .json_data = MB_TEXT("{\"id\": \"x\", \"a\": 7}"),
                    .utc_timestamp = time,
                    .type = MB_UPDATE};
    mb_diffs request = {&edit, 1};
    CHECK(mb_diff_check(&edit, NULL, arena, &error) == MB_OK);
    CHECK(recognize(arena, &log, &request) == MB_OK);
    CHECK(mb_merge_behind(arena, &log, &request, 1, &result) == MB_OK);
    const bool won = result.upstream.count == 1;
    mb_arena_free(arena);
    return won;
}

TEST(a_device_that_starts_over_is_compared_by_the_time_of_each_field)
{
    CHECK(!wins("", 20));
    CHECK(wins("", 30));
    CHECK(wins("{\"a\": 10}", 20));
    CHECK(!wins("{\"a\": 10}", 9));
    CHECK(!wins("{\"b\": 10, \"c\": 1}", 20));
    CHECK(wins("{\"b\": 40, \"\\u0061\": 10}", 20));
}

TEST(times_that_are_none_are_refused)
{
    static const char *const texts[] = {"[]", "{\"a\": -1}", "{\"a\": \"1\"}", "{\"a\": 1}x", "{"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        mb_arena *arena;
        mb_error error;
        CHECK(mb_arena_new(NULL, 4, &arena) == MB_OK);
        mb_diff diff = {.id = MB_TEXT("e"),
                        .owner = MB_TEXT("anna"),
                        .model = MB_TEXT("tasks"),
                        .json_data = MB_TEXT("{\"id\": \"x\", \"a\": 7}"),
                        .field_times = text_of(texts[i])};
        at_row("%s", texts[i]);
        CHECK(mb_diff_check(&diff, NULL, arena, &error) == MB_INVALID);
        CHECK_TEXT(error.field, "field_times");
        CHECK(mb_log_row_check(&diff, arena, &error) == MB_INVALID);
        CHECK_TEXT(error.field, "field_times");
        mb_arena_free(arena);
    }
}

TEST(the_times_of_a_row_are_read_as_text_as_an_object_or_as_null)
{
    static const char row[] =
        "{'id': 'e', 'owner': 'o', 'logical_clock': 1, 'utc_timestamp': 30, 'type': 'create', "
        "'model': 'm', 'json_data': '{\\'id\\': \\'x\\', \\'a\\': 7}', 'field_times': %s}";
    static const char *const texts[] = {"null", "{'a': 10}", "'{\\'a\\': 10}'", "7"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        char text[256];
        mb_arena *arena;
        mb_diff diff;
        mb_error error;
        snprintf(text, sizeof text, row, texts[i]);
        CHECK(mb_arena_new(NULL, 4, &arena) == MB_OK);
        at_row("%s", texts[i]);
        const mb_status status = mb_diff_read(keep(arena, text), arena, &diff, &error);
        CHECK(status == (i == 3 ? MB_INVALID : MB_OK));
        if (status == MB_OK) {
            CHECK(mb_diff_check(&diff, NULL, arena, &error) == MB_OK);
            CHECK(!diff.is_whole);
            const int64_t *times;
            CHECK(mb_read_times(&diff, diff.members, arena, &times) == MB_OK);
            CHECK((times == NULL) == (i == 0));
            CHECK(i == 0 || (times[0] == 30 && times[1] == 10));
            CHECK(mb_log_row_check(&diff, arena, &error) == MB_OK);
        }
        mb_arena_free(arena);
    }
}

/* ---- texts that end ------------------------------------------------------------------------ */

static mb_diff edit_of(mb_type type, mb_text model, int64_t clock, mb_arena *arena)
{
    mb_error error;
    mb_diff diff = {.id = MB_TEXT("e"),
                    .owner = MB_TEXT("anna"),
                    .model = model,
                    .json_data = MB_TEXT("{\"id\": \"x\", \"a\": 7}"),
                    .logical_clock = clock,
                    .type = type};
    CHECK(mb_diff_check(&diff, NULL, arena, &error) == MB_OK);
    return diff;
}

static void expect_update(mb_folding *folding, mb_text model)
{
    mb_arena *arena;
    CHECK(mb_arena_new(NULL, 4, &arena) == MB_OK);
    const mb_diff update = edit_of(MB_UPDATE, model, 1, arena);
    CHECK(mb_folding_expect(folding, &update) == MB_OK);
    mb_arena_free(arena);
}

/* Whether a piece of a create and an update of x becomes one create. */
static bool is_folded(mb_folding *folding, mb_text model)
{
    mb_arena *arena;
    mb_fold_result fold;
    CHECK(mb_arena_new(NULL, 4, &arena) == MB_OK);
    mb_diff items[] = {edit_of(MB_CREATE, model, 0, arena), edit_of(MB_UPDATE, model, 1, arena)};
    const mb_diffs piece = {items, 2};
    CHECK(mb_fold(folding, &piece, -1, arena, &fold) == MB_OK);
    const bool is = fold.create_count == 1 && fold.dropped[1];
    mb_arena_free(arena);
    return is;
}

TEST(the_texts_of_what_is_expected_and_of_a_piece_may_end)
{
    mb_arena *arena;
    mb_folding *folding;
    char place[] = "tasks";
    const mb_text model = {place, 5};
    CHECK(mb_arena_new(NULL, 4, &arena) == MB_OK);
    CHECK(mb_folding_new(true, arena, &folding) == MB_OK);
    expect_update(folding, model);
    memcpy(place, "notes", 5);
    expect_update(folding, model);
    CHECK(is_folded(folding, model));
    memcpy(place, "tasks", 5);
    CHECK(is_folded(folding, model));
    CHECK(!is_folded(folding, MB_TEXT("lists")));
    mb_arena_free(arena);
}

/* ---- without memory ------------------------------------------------------------------------ */

static mb_status fold_and_tell(void *context, mb_arena *arena, FILE *out)
{
    const mb_diffs *log = context;
    mb_folding *folding;
    mb_fold_result fold;
    mb_diffs checked = {NULL, 0};
    mb_error error;
    if (mb_diffs_new(arena, log->count, &checked) != MB_OK ||
        mb_folding_new(true, arena, &folding) != MB_OK)
        return MB_NO_MEMORY;
    for (size_t i = 0; i < log->count; i++) {
        checked.items[i] = log->items[i];
        if (mb_diff_check(&checked.items[i], NULL, arena, &error) != MB_OK ||
            mb_folding_expect(folding, &checked.items[i]) != MB_OK)
            return MB_NO_MEMORY;
    }
    if (mb_fold(folding, &checked, ALL_MAY_GO, arena, &fold) != MB_OK)
        return MB_NO_MEMORY;
    for (size_t i = 0; i < fold.create_count; i++)
        fprintf(out, "%.*s %.*s\n", (int)fold.creates[i].json_data.size,
                fold.creates[i].json_data.at, (int)fold.creates[i].field_times.size,
                fold.creates[i].field_times.at);
    return MB_OK;
}

TEST(a_log_is_folded_or_memory_is_out)
{
    log_story l = begin();
    for (int i = 0; i < 8; i++) {
        char json[64];
        snprintf(json, sizeof json, "{'id': 'x%d', 'f%d': 1, 'a': %d}", i % 4, i, i);
        logged(&l, i < 4 ? MB_CREATE : MB_UPDATE, i, json)->clock = i ^ 1;
    }
    strcpy(l.rows[1].field_times, "{\"f1\": 0}");
    size_t places[MOST];
    mb_arena *arena;
    CHECK(mb_arena_new(NULL, 5, &arena) == MB_OK);
    mb_diffs log = piece_of(&l, 0, l.count, arena, places);
    CHECK(check_survives_scarcity(fold_and_tell, &log) == 0);
    mb_arena_free(arena);
}

int main(void)
{
    RUN(a_living_object_is_one_create_with_all_its_fields_and_the_latest_time);
    RUN(the_times_of_fields_that_have_another_one_stand_beside_it);
    RUN(an_edit_counts_as_at_least_as_late_as_what_it_replaced);
    RUN(a_dead_object_leaves_nothing_and_one_that_was_born_again_its_last_life);
    RUN(what_is_not_below_the_horizon_stays);
    RUN(an_object_without_a_create_and_one_without_updates_stay_as_they_are);
    RUN(a_create_of_what_is_there_is_one_more_update);
    RUN(without_room_for_times_an_object_whose_times_differ_stays);
    RUN(the_last_diff_stays_where_it_alone_holds_the_clock);
    RUN(names_are_compared_decoded_and_of_duplicates_the_last_counts);
    RUN(a_log_may_be_folded_in_pieces_of_any_size_and_again);
    RUN(below_the_horizon_there_is_one_row_for_each_living_object);
    RUN(a_device_that_starts_over_is_compared_by_the_time_of_each_field);
    RUN(times_that_are_none_are_refused);
    RUN(the_times_of_a_row_are_read_as_text_as_an_object_or_as_null);
    RUN(the_texts_of_what_is_expected_and_of_a_piece_may_end);
    RUN(a_log_is_folded_or_memory_is_out);
    return tests_end();
}
