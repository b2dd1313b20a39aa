/* test_select.c - which part of a window and a request is merged.
 *
 * As in test_merge.c, JSON is written with ' for ".  What counts is told by the ids that are left.
 */
#include "../../csrc/core/text.h"
#include "quoted.h"
#include "recognize.h"
#include "scarcity.h"

enum { ROOM = 8 };

static const mb_diffs no_diffs = {NULL, 0};

typedef struct {
    mb_arena *arena;
    mb_diffs window;
    mb_diffs request;
} lists;

static lists begin(void)
{
    lists l;
    CHECK(mb_arena_new(NULL, 0, &l.arena) == MB_OK);
    CHECK(mb_diffs_new(l.arena, ROOM, &l.window) == MB_OK);
    CHECK(mb_diffs_new(l.arena, ROOM, &l.request) == MB_OK);
    l.window.count = l.request.count = 0;
    return l;
}

static void add(lists *l, mb_diffs *list, const char *id, int64_t clock, const char *json_data)
{
    mb_error error;
    CHECK(list->count < ROOM);
    mb_diff *diff = &list->items[list->count++];
    *diff = (mb_diff){.id = keep(l->arena, id),
                      .owner = MB_TEXT("anna"),
                      .model = MB_TEXT("tasks"),
                      .json_data = keep(l->arena, json_data),
                      .logical_clock = clock,
                      .type = MB_CREATE};
    CHECK(mb_diff_check(diff, NULL, l->arena, &error) == MB_OK);
}

/* A window of four objects, of which the request has a diff of y. */
static lists begin_with_four(void)
{
    lists l = begin();
    add(&l, &l.window, "w3", 3, "{'id': 'x', 'a': 1}");
    add(&l, &l.window, "w4", 4, "{'id': 'y', 'a': 1}");
    add(&l, &l.window, "w6", 6, "{'id': 'z', 'a': 1}");
    add(&l, &l.window, "w9", 9, "{'id': 'y', 'a': 2}");
    add(&l, &l.request, "r1", 0, "{'id': 'y', 'b': 1}");
    CHECK(recognize(l.arena, &l.window, &l.request) == MB_OK);
    return l;
}

static void tell_left(FILE *told, const mb_diffs *list)
{
    for (size_t i = 0; i < list->count; i++)
        if (!list->items[i].excluded)
            fprintf(told, "%.*s ", (int)list->items[i].id.size, list->items[i].id.at);
}

static void check_selected(lists l, mb_selection selection, const char *wanted)
{
    char *text;
    size_t size;
    CHECK(mb_select(l.arena, &l.window, &l.request, &selection) == MB_OK);
    FILE *told = open_memstream(&text, &size);
    tell_left(told, &l.window);
    tell_left(told, &l.request);
    fclose(told);
    const bool same = strcmp(text, wanted) == 0;
    free(text);
    mb_arena_free(l.arena);
    CHECK(same);
}

TEST(a_page_has_what_the_request_has_no_diff_of)
{
    check_selected(begin_with_four(), (mb_selection){false, false, 3, 6}, "w3 ");
    check_selected(begin_with_four(), (mb_selection){false, false, 4, 7}, "w6 ");
}

TEST(the_last_page_has_all_of_what_the_request_has_diffs_of)
{
    check_selected(begin_with_four(), (mb_selection){true, true, 6, 100}, "w4 w6 w9 r1 ");
}

TEST(the_objects_of_the_request_can_be_had_alone)
{
    check_selected(begin_with_four(), (mb_selection){false, true, 0, 0}, "w4 w9 ");
}

TEST(what_is_excluded_is_not_merged)
{
    lists l = begin_with_four();
    const mb_selection page = {false, false, 0, 100};
    mb_merge_result result;
    CHECK(mb_select(l.arena, &l.window, &l.request, &page) == MB_OK);
    CHECK(mb_merge(l.arena, &l.window, &l.request, &result) == MB_OK);
    CHECK(result.upstream.count == 0 && result.downstream.count == 2);
    CHECK(result.downstream.items[0].source == 0 && result.downstream.items[1].source == 2);
    mb_arena_free(l.arena);
}

TEST(what_was_excluded_counts_again_once_recognized)
{
    lists l = begin_with_four();
    const mb_selection nothing = {false, false, 0, 0};
    CHECK(mb_select(l.arena, &l.window, &l.request, &nothing) == MB_OK);
    CHECK(recognize(l.arena, &l.window, &l.request) == MB_OK);
    for (size_t i = 0; i < l.window.count; i++)
        CHECK(!l.window.items[i].excluded);
    CHECK(!l.request.items[0].excluded);
    mb_arena_free(l.arena);
}

static void add_delete(lists *l, const char *id, int64_t clock, const char *json_data)
{
    add(l, &l->window, id, clock, json_data);
    l->window.items[l->window.count - 1].type = MB_DELETE;
}

/* Tells what is left of the window for a device at clock 0; `later` lies behind it. */
static void check_alive(lists l, mb_diffs later, int64_t pull_clock, const char *wanted)
{
    char *text;
    size_t size;
    CHECK(recognize(l.arena, &l.window, &l.request) == MB_OK);
    CHECK(mb_exclude_dead(l.arena, &l.window, &l.request, &later, pull_clock) == MB_OK);
    FILE *told = open_memstream(&text, &size);
    tell_left(told, &l.window);
    fclose(told);
    CHECK_TEXT(text, wanted);
    free(text);
    mb_arena_free(l.arena);
}

TEST(a_device_that_holds_nothing_does_not_hear_of_the_dead)
{
    lists l = begin();
    add(&l, &l.window, "born again", 5, "{'id': 'y'}"); /* in no order */
    add_delete(&l, "dead", 1, "{'id': 'x'}");
    add(&l, &l.window, "first", 2, "{'id': 'y'}");
    add_delete(&l, "end of first", 3, "{'id': 'y'}");
    add_delete(&l, "requested", 4, "{'id': 't'}");
    add(&l, &l.window, "update", 6, "{'id': 'y'}");
    add(&l, &l.request, "r1", 0, "{'id': 't'}");
    check_alive(l, no_diffs, 7, "born again requested update ");
}

TEST(what_dies_behind_a_page_is_not_on_it)
{
    lists l = begin();
    add(&l, &l.window, "x", 1, "{'id': 'x'}");
    add(&l, &l.window, "y", 2, "{'id': 'y'}");
    add(&l, &l.request, "no delete", 3, "{'id': 'y'}"); /* the list of what is later, for now */
    add(&l, &l.request, "end of x", 4, "{'id': 'x'}");
    add(&l, &l.request, "end of y", 5, "{'id': 'y'}");
    l.request.items[1].type = l.request.items[2].type = MB_DELETE;
    const mb_diffs later = l.request;
    l.request = no_diffs;
    check_alive(l, later, 5, "y ");
}

TEST(what_dies_after_a_pull_began_is_told)
{
    lists l = begin();
    add(&l, &l.window, "x", 1, "{'id': 'x'}");
    add_delete(&l, "end of x", 5, "{'id': 'x'}");
    add_delete(&l, "end of y", 6, "{'id': 'y'}");
    add(&l, &l.window, "y again", 7, "{'id': 'y'}");
    check_alive(l, no_diffs, 5, "x end of x end of y y again ");
}

static int64_t end_of(const lists *l, size_t limit)
{
    int64_t end;
    CHECK(mb_page_end(l->arena, &l->window, limit, SIZE_MAX, &end) == MB_OK);
    return end;
}

TEST(a_page_ends_with_a_clock)
{
    lists l = begin();
    CHECK(end_of(&l, 1) == -1);
    add(&l, &l.window, "c", 7, "{'id': 'x'}"); /* in no order */
    add(&l, &l.window, "a", 5, "{'id': 'x'}");
    add(&l, &l.window, "b", 5, "{'id': 'x'}");
    add(&l, &l.window, "d", 7, "{'id': 'x'}");
    CHECK(end_of(&l, 1) == 6);
    CHECK(end_of(&l, 2) == 7);
    CHECK(end_of(&l, 3) == 7);
    CHECK(end_of(&l, 4) == -1);
    mb_arena_free(l.arena);
}

static int64_t end_by_bytes(const lists *l, size_t max_bytes)
{
    int64_t end;
    CHECK(mb_page_end(l->arena, &l->window, 100, max_bytes, &end) == MB_OK);
    return end;
}

TEST(a_page_ends_before_its_text_is_too_long)
{
    enum { EACH = 1 + 4 + 5 + 11 }; /* id, owner, model, json_data */
    lists l = begin();
    for (int clock = 5; clock < 9; clock++)
        add(&l, &l.window, "a", clock, "{'id': 'x'}");
    CHECK(end_by_bytes(&l, 4 * EACH) == -1);
    CHECK(end_by_bytes(&l, 4 * EACH - 1) == 8);
    CHECK(end_by_bytes(&l, 2 * EACH) == 7);
    CHECK(end_by_bytes(&l, EACH) == 6);
    CHECK(end_by_bytes(&l, 0) == 6);
    mb_arena_free(l.arena);
}

TEST(diffs_of_one_clock_alone_are_one_page)
{
    lists l = begin();
    add(&l, &l.window, "a", 5, "{'id': 'x'}");
    add(&l, &l.window, "b", 5, "{'id': 'x'}");
    CHECK(end_of(&l, 1) == -1);
    mb_arena_free(l.arena);
}

static uint64_t fingerprint(const char *first, const char *second)
{
    lists l = begin();
    add(&l, &l.request, first, 0, "{'id': 'x'}");
    add(&l, &l.request, second, 0, "{'id': 'x'}");
    const uint64_t made = mb_request_fingerprint(&l.request);
    mb_arena_free(l.arena);
    return made;
}

TEST(a_fingerprint_tells_ids_and_their_order)
{
    const mb_diffs none = {NULL, 0};
    CHECK(fingerprint("a", "b") == fingerprint("a", "b"));
    CHECK(fingerprint("a", "b") != fingerprint("b", "a"));
    CHECK(fingerprint("a", "b") != fingerprint("ab", "c"));
    CHECK(fingerprint("a", "b") != mb_request_fingerprint(&none));
}

TEST(the_content_of_a_request_is_all_that_its_diffs_say)
{
    lists l = begin();
    add(&l, &l.request, "a", 0, "{'id': 'x'}");
    mb_diff *diff = &l.request.items[0];
    const mb_diff as_it_was = *diff;
    const uint64_t content = mb_request_content(&l.request);
    CHECK(mb_request_content(&l.request) == content);
    for (int i = 0; i < 7; i++) {
        *diff = as_it_was;
        mb_text *const texts[] = {&diff->id, &diff->owner, &diff->model, &diff->json_data};
        if (i < 4)
            *texts[i] = MB_TEXT("another");
        else if (i == 4)
            diff->type = as_it_was.type == MB_CREATE ? MB_UPDATE : MB_CREATE;
        else
            *(i == 5 ? &diff->logical_clock : &diff->utc_timestamp) += 1;
        CHECK(mb_request_content(&l.request) != content);
    }
    *diff = as_it_was;
    diff->known = diff->excluded = true; /* what the server found is not what the device says */
    CHECK(mb_request_content(&l.request) == content);
    mb_arena_free(l.arena);
}

static mb_status select_and_tell(void *context, mb_arena *arena, FILE *told)
{
    lists l = *(lists *)context;
    const mb_selection last = {true, true, 6, 100};
    int64_t end;
    if (mb_select(arena, &l.window, &l.request, &last) != MB_OK ||
        mb_exclude_dead(arena, &l.window, &l.request, &l.window, 100) != MB_OK ||
        mb_page_end(arena, &l.window, 2, SIZE_MAX, &end) != MB_OK)
        return MB_NO_MEMORY;
    tell_left(told, &l.window);
    tell_left(told, &l.request);
    fprintf(told, "%d", (int)end);
    return MB_OK;
}

TEST(a_selection_is_made_or_memory_is_out)
{
    lists l = begin_with_four();
    CHECK(check_survives_scarcity(select_and_tell, &l) == 0);
    mb_arena_free(l.arena);
}

int main(void)
{
    RUN(a_page_has_what_the_request_has_no_diff_of);
    RUN(the_last_page_has_all_of_what_the_request_has_diffs_of);
    RUN(the_objects_of_the_request_can_be_had_alone);
    RUN(what_is_excluded_is_not_merged);
    RUN(what_was_excluded_counts_again_once_recognized);
    RUN(a_device_that_holds_nothing_does_not_hear_of_the_dead);
    RUN(what_dies_behind_a_page_is_not_on_it);
    RUN(what_dies_after_a_pull_began_is_told);
    RUN(a_page_ends_with_a_clock);
    RUN(a_page_ends_before_its_text_is_too_long);
    RUN(diffs_of_one_clock_alone_are_one_page);
    RUN(a_fingerprint_tells_ids_and_their_order);
    RUN(the_content_of_a_request_is_all_that_its_diffs_say);
    RUN(a_selection_is_made_or_memory_is_out);
    return tests_end();
}
