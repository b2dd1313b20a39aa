/* test_written.c - of which diffs of a request something goes upstream, and what the rules are asked of.
 *
 * As in test_merge.c, JSON is written with ' for ".
 */
#include "../../csrc/core/text.h"
#include "quoted.h"
#include "recognize.h"
#include "scarcity.h"

typedef struct {
    const char *id;
    mb_type type;
    int64_t at_ms;
    const char *json_data;
} edit;

typedef struct {
    mb_diffs window;
    mb_diffs request;
} lists;

static mb_diffs read_edits(mb_arena *arena, const edit *edits)
{
    mb_diffs list;
    mb_error error;
    size_t count = 0;
    while (edits[count].id != NULL)
        count++;
    CHECK(mb_diffs_new(arena, count, &list) == MB_OK);
    for (size_t i = 0; i < count; i++) {
        list.items[i] = (mb_diff){.id = keep(arena, edits[i].id),
                                  .owner = MB_TEXT("anna"),
                                  .model = MB_TEXT("tasks"),
                                  .json_data = keep(arena, edits[i].json_data),
                                  .logical_clock = (int64_t)i,
                                  .utc_timestamp = edits[i].at_ms,
                                  .type = edits[i].type};
        CHECK(mb_diff_check(&list.items[i], NULL, arena, &error) == MB_OK);
    }
    return list;
}

static lists read_lists(mb_arena *arena, const edit *window, const edit *request)
{
    lists l = {read_edits(arena, window), read_edits(arena, request)};
    CHECK(recognize(arena, &l.window, &l.request) == MB_OK);
    return l;
}

static void tell_found(FILE *told, const mb_diffs *request, const bool *found)
{
    for (size_t i = 0; i < request->count; i++)
        if (found[i])
            fprintf(told, "%.*s ", (int)request->items[i].id.size, request->items[i].id.at);
}

static mb_status tell_written(const lists *l, mb_arena *arena, FILE *told)
{
    mb_merge_result result;
    if (mb_merge(arena, &l->window, &l->request, &result) != MB_OK)
        return MB_NO_MEMORY;
    tell_found(told, &l->request, result.written);
    return MB_OK;
}

static mb_status tell_to_validate(const lists *l, mb_arena *arena, FILE *told)
{
    mb_merge_result result;
    bool *found;
    if (mb_merge(arena, &l->window, &l->request, &result) != MB_OK ||
        mb_find_to_validate(arena, &l->request, &result, true, &found) != MB_OK)
        return MB_NO_MEMORY;
    tell_found(told, &l->request, found);
    return MB_OK;
}

typedef mb_status (*telling)(const lists *l, mb_arena *arena, FILE *told);

static void check_told(telling tell, const edit *window, const edit *request, const char *wanted)
{
    mb_arena *arena;
    char *text;
    size_t size;
    CHECK(mb_arena_new(NULL, 0, &arena) == MB_OK);
    const lists l = read_lists(arena, window, request);
    FILE *told = open_memstream(&text, &size);
    CHECK(tell(&l, arena, told) == MB_OK);
    fclose(told);
    CHECK_TEXT(text, wanted);
    free(text);
    mb_arena_free(arena);
}

static void check_written(const edit *window, const edit *request, const char *wanted)
{
    check_told(tell_written, window, request, wanted);
}

#define EDITS(...) ((const edit[]){__VA_ARGS__, {NULL, MB_CREATE, 0, NULL}})
static const edit none[] = {{NULL, MB_CREATE, 0, NULL}};

TEST(of_edits_in_a_create_the_last_of_each_field_is_written)
{
    check_written(none,
                  EDITS({"c", MB_CREATE, 10, "{'id': 'x', 'a': 1}"},
                        {"a2", MB_UPDATE, 20, "{'id': 'x', 'a': 2}"},
                        {"b1", MB_UPDATE, 30, "{'id': 'x', 'b': 1}"},
                        {"a3", MB_UPDATE, 40, "{'id': 'x', 'a': 3}"}),
                  "c b1 a3 ");
}

TEST(objects_are_told_apart)
{
    check_written(none,
                  EDITS({"x", MB_CREATE, 10, "{'id': 'x'}"}, {"y", MB_CREATE, 10, "{'id': 'y'}"},
                        {"x1", MB_UPDATE, 20, "{'id': 'x', 'a': 1}"},
                        {"y1", MB_UPDATE, 20, "{'id': 'y', 'a': 1}"},
                        {"x2", MB_UPDATE, 30, "{'id': 'x', 'a': 2}"}),
                  "x y y1 x2 ");
}

TEST(an_edit_that_a_sort_moved_before_its_create_is_written)
{
    check_written(none,
                  EDITS({"u", MB_UPDATE, 10, "{'id': 'x', 'a': 2}"},
                        {"c", MB_CREATE, 10, "{'id': 'x', 'a': 1}"}),
                  "u c ");
}

TEST(an_edit_that_is_older_than_the_create_after_it_is_not_written)
{
    check_written(none,
                  EDITS({"old", MB_UPDATE, 10, "{'id': 'x', 'b': 2}"},
                        {"c", MB_CREATE, 11, "{'id': 'x', 'a': 1}"}),
                  "c ");
    check_written(none,
                  EDITS({"old", MB_UPDATE, 9, "{'id': 'x', 'b': 2}"},
                        {"u", MB_UPDATE, 12, "{'id': 'x', 'b': 3}"},
                        {"counts as 12", MB_UPDATE, 5, "{'id': 'x', 'a': 2}"},
                        {"c", MB_CREATE, 11, "{'id': 'x', 'a': 1}"}),
                  "u counts as 12 c ");
}

TEST(what_is_of_an_earlier_life_is_not_written)
{
    check_written(EDITS({"c0", MB_CREATE, 5, "{'id': 'x', 'a': 1}"}),
                  EDITS({"c0", MB_CREATE, 5, "{'id': 'x', 'a': 1}"},
                        {"u0", MB_UPDATE, 10, "{'id': 'x', 'b': 1}"},
                        {"d0", MB_DELETE, 20, "{'id': 'x'}"},
                        {"ignored", MB_UPDATE, 30, "{'id': 'x', 'b': 1}"},
                        {"c1", MB_CREATE, 30, "{'id': 'x', 'a': 1}"},
                        {"u1", MB_UPDATE, 40, "{'id': 'x', 'b': 1}"}),
                  "d0 c1 u1 ");
}

TEST(of_a_row_that_both_have_what_wins_is_written)
{
    check_written(
        EDITS({"c0", MB_CREATE, 5, "{'id': 'x'}"}, {"s", MB_UPDATE, 30, "{'id': 'x', 'a': 9}"}),
        EDITS({"c0", MB_CREATE, 5, "{'id': 'x'}"}, {"lost", MB_UPDATE, 20, "{'id': 'x', 'a': 1}"},
              {"replaced", MB_UPDATE, 20, "{'id': 'x', 'b': 1}"},
              {"won", MB_UPDATE, 20, "{'id': 'x', 'b': 2}"}),
        "won ");
}

TEST(of_an_object_of_which_something_is_written_all_is_found)
{
    check_told(tell_to_validate,
               EDITS({"s", MB_CREATE, 30, "{'id': 'y', 'a': 9}"},
                     {"known", MB_UPDATE, 5, "{'id': 'x', 'b': 1}"}),
               EDITS({"known", MB_UPDATE, 5, "{'id': 'x', 'b': 1}"},
                     {"x1", MB_UPDATE, 20, "{'id': 'x', 'a': 1}"},
                     {"y1", MB_UPDATE, 20, "{'id': 'y', 'a': 1}"},
                     {"x2", MB_UPDATE, 30, "{'id': 'x', 'a': 2}"}),
               "x1 x2 ");
}

#define KNOWN                                                                                      \
    {                                                                                              \
        "k", MB_UPDATE, 5, "{'id': 'x', 'a': 1, 'a': 2}"                                           \
    }

/* The log has the update k of an earlier life; the request makes the row again. */
static void check_refolded(telling tell, const char *as_sent, const char *wanted)
{
    check_told(tell, EDITS(KNOWN, {"d", MB_DELETE, 6, "{'id': 'x'}"}),
               EDITS({"d", MB_DELETE, 6, "{'id': 'x'}"}, {"c", MB_CREATE, 7, "{'id': 'x'}"},
                     {"k", MB_UPDATE, 8, as_sent}),
               wanted);
}

TEST(of_a_known_diff_is_written_what_the_log_does_not_have_just_so)
{
    check_refolded(tell_written, "{'id': 'x', 'a': 2}", "c ");
    check_refolded(tell_written, "{'a': 3, 'a': 2, 'id': 'x'}", "c ");
    check_refolded(tell_written, "{'id': 'x'}", "c ");
    check_refolded(tell_written, "{'id': 'x', 'a': 1}", "c k ");
    check_refolded(tell_written, "{'id': 'x', 'a': 2.0}", "c k ");
    check_refolded(tell_written, "{'id': 'x', 'b': 2}", "c k ");
}

TEST(what_a_known_diff_says_is_not_written_where_the_row_is_not_made)
{
    check_written(EDITS(KNOWN), EDITS({"k", MB_UPDATE, 5, "{'id': 'x', 'b': 9}"}), "");
    check_written(EDITS(KNOWN), EDITS({"k", MB_CREATE, 9, "{'id': 'x', 'b': 9}"}), "");
    check_written(EDITS(KNOWN), EDITS({"k", MB_DELETE, 9, "{'id': 'x'}"}), "");
    check_written(EDITS(KNOWN),
                  EDITS({"k", MB_UPDATE, 5, "{'id': 'x', 'b': 9}"},
                        {"u", MB_UPDATE, 9, "{'id': 'x', 'c': 1}"}),
                  "u ");
}

TEST(a_known_diff_is_asked_of_only_where_it_may_come_into_a_new_row)
{
    check_refolded(tell_to_validate, "{'id': 'x', 'a': 1}", "c k ");
    check_refolded(tell_to_validate, "{'id': 'x', 'a': 2}", "c ");
    check_told(tell_to_validate, EDITS(KNOWN),
               EDITS({"k", MB_CREATE, 5, "{'id': 'x', 'b': 9}"},
                     {"u", MB_UPDATE, 9, "{'id': 'x', 'c': 1}"}),
               "u ");
    /* once the second create is refused, the first may bring k */
    check_told(tell_to_validate, EDITS(KNOWN, {"d", MB_DELETE, 6, "{'id': 'x'}"}),
               EDITS({"d", MB_DELETE, 6, "{'id': 'x'}"}, {"c", MB_CREATE, 7, "{'id': 'x'}"},
                     {"k", MB_UPDATE, 8, "{'id': 'x', 'b': 9}"}, {"e", MB_DELETE, 9, "{'id': 'x'}"},
                     {"c2", MB_CREATE, 10, "{'id': 'x'}"}),
               "c k e c2 ");
}

TEST(of_a_request_that_is_new_as_a_whole_all_is_asked)
{
    check_told(tell_to_validate, EDITS({"s", MB_CREATE, 30, "{'id': 'y', 'a': 9}"}),
               EDITS({"y1", MB_UPDATE, 20, "{'id': 'y', 'a': 1}"},
                     {"x", MB_CREATE, 20, "{'id': 'x'}"}, {"x", MB_CREATE, 20, "{'id': 'x'}"},
                     {"x2", MB_DELETE, 30, "{'id': 'x'}"}),
               "y1 x x2 ");
}

static mb_status find_both(void *context, mb_arena *arena, FILE *told)
{
    if (tell_written(context, arena, told) != MB_OK)
        return MB_NO_MEMORY;
    return tell_to_validate(context, arena, told);
}

TEST(what_is_written_is_found_or_memory_is_out)
{
    mb_arena *arena;
    CHECK(mb_arena_new(NULL, 0, &arena) == MB_OK);
    lists l = read_lists(arena, EDITS({"k", MB_UPDATE, 5, "{'id': 'x', 'b': 1, 'c': 2}"}),
                         EDITS({"x", MB_CREATE, 10, "{'id': 'x'}"},
                               {"k", MB_UPDATE, 5, "{'id': 'x', 'b': 1}"},
                               {"y", MB_CREATE, 10, "{'id': 'y'}"},
                               {"x1", MB_UPDATE, 20, "{'id': 'x', 'a': 1, 'b': 2}"},
                               {"y1", MB_UPDATE, 20, "{'id': 'y', 'a': 1, 'b': 2}"}));
    CHECK(check_survives_scarcity(find_both, &l) == 0);
    mb_arena_free(arena);
}

int main(void)
{
    RUN(of_edits_in_a_create_the_last_of_each_field_is_written);
    RUN(objects_are_told_apart);
    RUN(an_edit_that_a_sort_moved_before_its_create_is_written);
    RUN(an_edit_that_is_older_than_the_create_after_it_is_not_written);
    RUN(what_is_of_an_earlier_life_is_not_written);
    RUN(of_a_row_that_both_have_what_wins_is_written);
    RUN(of_an_object_of_which_something_is_written_all_is_found);
    RUN(of_a_known_diff_is_written_what_the_log_does_not_have_just_so);
    RUN(what_a_known_diff_says_is_not_written_where_the_row_is_not_made);
    RUN(a_known_diff_is_asked_of_only_where_it_may_come_into_a_new_row);
    RUN(of_a_request_that_is_new_as_a_whole_all_is_asked);
    RUN(what_is_written_is_found_or_memory_is_out);
    return tests_end();
}
