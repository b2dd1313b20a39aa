/* test_linear.c - twice the diffs cost twice the work, whoever chose them.
 *
 * Time is not measured.  What is counted is what the time goes into: the slots that the hash table
 * looks at, the ids that are compared, and the bytes that are asked of the allocator.  So this program
 * has the core's own fold.c and names.c with a search that counts: hash and result say how far it
 * went.  And it has the core's own recognize.c with a comparison that counts.
 */
#include "../../csrc/core/table.h"
#include "../../csrc/core/text.h"

enum { HASHES = 64 };

static struct {
    size_t searches;
    size_t slots;            /* looked at, in all searches */
    uint64_t hashes[HASHES]; /* of the first searches */
} table_work;

static mb_status counted_find(mb_table *table, uint64_t hash, mb_match match, const void *key,
                              mb_arena *arena, mb_slot **slot)
{
    const mb_status status = mb_table_find(table, hash, match, key, arena, slot);
    if (status == MB_OK) {
        const size_t found = (size_t)(*slot - table->slots);
        if (table_work.searches < HASHES)
            table_work.hashes[table_work.searches] = hash;
        table_work.searches++;
        table_work.slots += ((found - (size_t)hash) & (table->slot_count - 1)) + 1;
    }
    return status;
}

#define mb_table_find counted_find
#include "../../csrc/core/names.c"

#include "../../csrc/core/fold.c"
#undef mb_table_find

static size_t comparisons;

static bool counted_equal(mb_text a, mb_text b)
{
    comparisons++;
    return mb_text_equal(a, b);
}

#define mb_text_equal counted_equal
#include "../../csrc/core/recognize.c"
#undef mb_text_equal

#include "recognize.h"
#include "scarcity.h"

#include <inttypes.h>

/* ---- the lists ----------------------------------------------------------------------------- */

typedef struct {
    mb_arena *arena;
    mb_diffs window;
    mb_diffs request;
} lists;

static mb_text keep(mb_arena *arena, const char *text)
{
    const size_t size = strlen(text);
    char *kept = mb_arena_get(arena, size);
    CHECK(kept != NULL);
    memcpy(kept, text, size);
    return (mb_text){kept, size};
}

static void set(lists *l, mb_diffs *list, size_t at, mb_type type, const char *json_data)
{
    mb_diff *diff = &list->items[at];
    mb_error error;
    char id[32];
    snprintf(id, sizeof id, "%c%zu", list == &l->window ? 's' : 'l', at);
    *diff = (mb_diff){.id = keep(l->arena, id),
                      .owner = MB_TEXT("anna"),
                      .model = MB_TEXT("tasks"),
                      .json_data = keep(l->arena, json_data),
                      .logical_clock = (int64_t)at,
                      .utc_timestamp = 10,
                      .type = type};
    CHECK(mb_diff_check(diff, NULL, l->arena, &error) == MB_OK);
}

typedef void (*shape)(lists *l, size_t size);

static void many_objects(lists *l, size_t size)
{
    char json[128];
    for (size_t i = 0; i < size; i++) {
        snprintf(json, sizeof json, "{\"id\": \"x%zu\", \"a\": %zu, \"b\": 1}", i, i);
        set(l, &l->window, i, i % 2 == 0 ? MB_CREATE : MB_UPDATE, json);
        snprintf(json, sizeof json, "{\"id\": \"x%zu\", \"a\": 0, \"c\": 1}", size / 2 + i);
        set(l, &l->request, i, MB_UPDATE, json);
    }
}

static void one_object_of_many_fields(lists *l, size_t size)
{
    char json[128];
    for (size_t i = 0; i < size; i++) {
        snprintf(json, sizeof json, "{\"id\": \"x\", \"f%zu\": %zu, \"a\": 1}", i, i);
        set(l, &l->window, i, MB_UPDATE, json);
        snprintf(json, sizeof json, "{\"id\": \"x\", \"f%zu\": 0, \"b\": 1}", size / 2 + i);
        set(l, &l->request, i, i == 0 ? MB_CREATE : MB_UPDATE, json);
    }
}

static void one_object_of_many_lives(lists *l, size_t size)
{
    char json[128];
    for (size_t i = 0; i < size; i++) {
        const mb_type type = i % 2 == 0 ? MB_CREATE : MB_DELETE;
        snprintf(json, sizeof json, "{\"id\": \"x\", \"f%zu\": %zu}", i, i);
        set(l, &l->window, i, type, json);
        set(l, &l->request, i, type, json);
    }
}

/* So many fields that the merge finds those that follow in its table, and not by looking. */
#define FIRST_FIELDS                                                                               \
    "\"1\": 1, \"2\": 1, \"3\": 1, \"4\": 1, \"5\": 1, \"6\": 1, \"7\": 1, \"8\": 1"

/* Objects with no fields but for those whose number, multiplied by the golden ratio of 2^64, falls
 * into the first quarter of the table: a sender can choose that without knowing the hash seed.  If
 * the hash of a field were that of its name combined with such a product, all fields of one name
 * would lie side by side, and of a few names two would soon lie in each other's way. */
static void few_names_on_chosen_objects(lists *l, size_t size)
{
    size_t slots = 8;
    while (slots / 4 * 3 < 2 * size)
        slots *= 2;
    char json[256];
    for (size_t i = 0; i < 2 * size; i++) {
        const bool chosen = (i * (size_t)UINT64_C(0x9e3779b97f4a7c15) & (slots - 1)) < slots / 4;
        snprintf(json, sizeof json, "{\"id\": \"x%zu\"%s}", i,
                 chosen ? ", " FIRST_FIELDS ", \"a\": 1, \"b\": 1, \"c\": 1" : "");
        set(l, i < size ? &l->window : &l->request, i % size, MB_UPDATE, json);
    }
}

/* ---- the work ------------------------------------------------------------------------------ */

typedef void (*task)(lists *l, mb_arena *arena);

static void merge_lists(lists *l, mb_arena *arena)
{
    mb_merge_result result;
    CHECK(recognize(arena, &l->window, &l->request) == MB_OK);
    CHECK(mb_merge(arena, &l->window, &l->request, &result) == MB_OK);
}

/* All that is done where half of a request is refused. */
static void restore_half(lists *l, mb_arena *arena)
{
    static const mb_diffs nothing = {NULL, 0};
    mb_merge_result merged;
    mb_diffs diffs;
    mb_outcomes downstream;
    bool *found;
    CHECK(recognize(arena, &l->window, &l->request) == MB_OK);
    CHECK(mb_link_objects(arena, &l->request) == MB_OK);
    CHECK(mb_exclude_dead(arena, &l->window, &nothing, &l->window, INT64_MAX) == MB_OK);
    for (size_t i = 0; i < l->request.count; i += 2)
        l->request.items[i].excluded = true;
    CHECK(mb_merge(arena, &l->window, &l->request, &merged) == MB_OK);
    l->request.items[1].known = true; /* a retry, to whom knows no better */
    CHECK(mb_find_to_validate(arena, &l->request, &merged, true, &found) == MB_OK);
    const mb_refused_sync sync = {&l->window, &l->request, &merged, MB_TEXT("anna"), 1, 9};
    CHECK(mb_restore(arena, &l->window, &sync, &diffs, &downstream) == MB_OK);
}

/* Does a task with `size` diffs on each side; gives the bytes that it asked for. */
static size_t bytes_for(task take, shape fill, size_t size, uint64_t hash_seed)
{
    scarce_memory memory = {0};
    const mb_allocator allocator = scarce_allocator(&memory);
    mb_arena *arena;
    lists l;
    CHECK(mb_arena_new(NULL, 0, &l.arena) == MB_OK);
    CHECK(mb_diffs_new(l.arena, size, &l.window) == MB_OK);
    CHECK(mb_diffs_new(l.arena, size, &l.request) == MB_OK);
    fill(&l, size);

    CHECK(mb_arena_new(&allocator, hash_seed, &arena) == MB_OK);
    take(&l, arena);
    mb_arena_free(arena);
    mb_arena_free(l.arena);
    CHECK(memory.live == 0);
    return memory.bytes;
}

enum { SIZE = 6144 }; /* with as many on the other side, fills a table to its limit */

static void check_memory_is_linear(task take, shape fill)
{
    const size_t once = bytes_for(take, fill, SIZE, 0);
    const size_t twice = bytes_for(take, fill, 2 * SIZE, 0);
    at_row("%zu bytes for %d diffs, %zu for twice as many", once, SIZE, twice);
    CHECK(twice * 10 < once * 26);
    CHECK(once / SIZE < 4096);
}

static void check_searches_are_short(task take, shape fill)
{
    for (uint64_t seed = 0; seed < 8; seed++) {
        memset(&table_work, 0, sizeof table_work);
        (void)bytes_for(take, fill, SIZE, seed * UINT64_C(0x123456789abcdef));
        at_row("hash seed %" PRIu64 ": %zu slots in %zu searches", seed, table_work.slots,
               table_work.searches);
        CHECK(table_work.searches >= 2 * SIZE);
        CHECK(table_work.slots < 8 * table_work.searches);
    }
}

TEST(memory_grows_with_the_number_of_objects)
{
    check_memory_is_linear(merge_lists, many_objects);
}

TEST(memory_grows_with_the_number_of_fields)
{
    check_memory_is_linear(merge_lists, one_object_of_many_fields);
}

TEST(memory_grows_with_the_number_of_lives)
{
    check_memory_is_linear(merge_lists, one_object_of_many_lives);
}

TEST(searches_are_short_among_many_objects)
{
    check_searches_are_short(merge_lists, many_objects);
}

TEST(searches_are_short_among_many_fields)
{
    check_searches_are_short(merge_lists, one_object_of_many_fields);
}

TEST(searches_are_short_among_many_lives)
{
    check_searches_are_short(merge_lists, one_object_of_many_lives);
}

TEST(searches_are_short_among_fields_that_the_sender_arranged)
{
    check_searches_are_short(merge_lists, few_names_on_chosen_objects);
}

TEST(restoring_takes_memory_and_searches_as_merging_does)
{
    static const shape shapes[] = {many_objects, one_object_of_many_fields,
                                   one_object_of_many_lives, few_names_on_chosen_objects};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        check_memory_is_linear(restore_half, shapes[i]);
        check_searches_are_short(restore_half, shapes[i]);
    }
}

/* Ids whose last bytes are the same, by which recognize.c first looks for them. */
static void one_end_of_all_ids(lists *l, size_t size)
{
    char id[48];
    many_objects(l, size);
    for (size_t i = 0; i < size; i++) {
        snprintf(id, sizeof id, "%zu-of-this-phone", i);
        l->request.items[i].id = keep(l->arena, id);
        snprintf(id, sizeof id, "%zu-of-this-phone", size / 2 + i);
        l->window.items[i].id = keep(l->arena, id);
    }
}

static void recognize_lists(lists *l, mb_arena *arena)
{
    size_t index;
    mb_error error;
    CHECK(mb_recognize(arena, &l->window, &l->request, true, &index, &error) == MB_OK);
}

TEST(few_ids_are_compared_whoever_chose_them)
{
    static const shape shapes[] = {many_objects, one_end_of_all_ids};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        comparisons = 0;
        (void)bytes_for(recognize_lists, shapes[i], SIZE, 5);
        at_row("shape %zu: %zu comparisons", i, comparisons);
        CHECK(comparisons < 4 * SIZE);
        check_memory_is_linear(recognize_lists, shapes[i]);
    }
}

static void one_of_each(lists *l, size_t size)
{
    char json[256];
    for (size_t i = 0; i < size; i++) {
        snprintf(json, sizeof json, "{\"id\": \"x%zu\", " FIRST_FIELDS ", \"a%zu\": 1}", i, i);
        set(l, &l->window, i, MB_UPDATE, json);
        set(l, &l->request, i, MB_UPDATE, json);
    }
}

TEST(every_hash_depends_on_the_seed)
{
    enum { DIFFS = HASHES / 4 }; /* an object and a field of each on each side */
    uint64_t hashes[HASHES];
    memset(&table_work, 0, sizeof table_work);
    (void)bytes_for(merge_lists, one_of_each, DIFFS, 1);
    CHECK(table_work.searches == (size_t)DIFFS * 4);
    memcpy(hashes, table_work.hashes, sizeof hashes);
    memset(&table_work, 0, sizeof table_work);
    (void)bytes_for(merge_lists, one_of_each, DIFFS, 2);
    for (size_t i = 0; i < (size_t)DIFFS * 4; i++) {
        at_row("search %zu", i);
        CHECK(hashes[i] != table_work.hashes[i]);
    }
}

int main(void)
{
    RUN(memory_grows_with_the_number_of_objects);
    RUN(memory_grows_with_the_number_of_fields);
    RUN(memory_grows_with_the_number_of_lives);
    RUN(searches_are_short_among_many_objects);
    RUN(searches_are_short_among_many_fields);
    RUN(searches_are_short_among_many_lives);
    RUN(searches_are_short_among_fields_that_the_sender_arranged);
    RUN(restoring_takes_memory_and_searches_as_merging_does);
    RUN(few_ids_are_compared_whoever_chose_them);
    RUN(every_hash_depends_on_the_seed);
    return tests_end();
}
