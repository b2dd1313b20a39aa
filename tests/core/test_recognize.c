/* test_recognize.c - what of a request is known, and where an id names two things.
 *
 * As in test_merge.c, JSON is written with ' for ".
 */
#include "../../csrc/core/text.h"
#include "quoted.h"
#include "scarcity.h"

enum { ROOM = 6 };

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

static mb_diff *add(lists *l, mb_diffs *list, const char *id, const char *model,
                    const char *json_data)
{
    mb_error error;
    CHECK(list->count < ROOM);
    mb_diff *diff = &list->items[list->count++];
    *diff = (mb_diff){.id = keep(l->arena, id),
                      .owner = MB_TEXT("anna"),
                      .model = keep(l->arena, model),
                      .json_data = keep(l->arena, json_data),
                      .type = MB_UPDATE};
    CHECK(mb_diff_check(diff, NULL, l->arena, &error) == MB_OK);
    return diff;
}

static void keep_malformed(lists *l, mb_diff *diff)
{
    mb_error error;
    mb_refuse(&error, MB_MISSING, "owner");
    CHECK(mb_keep_malformed(diff, &error, l->arena) == MB_OK);
}

static mb_status recognize(lists *l, bool keep, size_t *index, mb_error *error)
{
    return mb_recognize(l->arena, &l->window, &l->request, keep, index, error);
}

TEST(a_known_diff_points_at_the_windows_whatever_it_says)
{
    lists l = begin();
    size_t index;
    mb_error error;
    add(&l, &l.window, "a", "m", "{'id': 'x', 'f': 1}");
    add(&l, &l.window, "b", "m", "{'id': 'x'}");
    add(&l, &l.request, "new", "m", "{'id': 'x'}");
    add(&l, &l.request, "b", "m", "{'id': 'x', 'g': 2}")->type = MB_DELETE;
    CHECK(recognize(&l, false, &index, &error) == MB_OK);
    CHECK(!l.request.items[0].known && l.request.items[0].logged == NULL);
    CHECK(l.request.items[1].known && l.request.items[1].logged == &l.window.items[1]);
    CHECK(!l.window.items[0].known && l.window.items[1].known);
    mb_arena_free(l.arena);
}

TEST(an_id_of_another_object_or_model_is_refused_with_its_index)
{
    static const char *const others[][2] = {{"m", "{'id': 'y'}"}, {"n", "{'id': 'x'}"}};
    for (size_t i = 0; i < 2; i++) {
        lists l = begin();
        size_t index = 99;
        mb_error error;
        add(&l, &l.window, "a", "m", "{'id': 'x'}");
        add(&l, &l.request, "new", "m", "{'id': 'x'}");
        add(&l, &l.request, "a", others[i][0], others[i][1]);
        CHECK(recognize(&l, false, &index, &error) == MB_INVALID);
        CHECK(index == 1 && error.code == MB_OTHER_OBJECT);
        CHECK_TEXT(error.field, "id");
        CHECK(mb_text_equal(error.diff_id, MB_TEXT("a")));
        mb_arena_free(l.arena);
    }
}

TEST(such_an_id_can_be_kept_as_malformed_until_the_window_is_another)
{
    lists l = begin();
    size_t index;
    mb_error error;
    add(&l, &l.window, "a", "m", "{'id': 'x'}");
    add(&l, &l.request, "a", "m", "{'id': 'y', 'f': 1}");
    CHECK(recognize(&l, true, &index, &error) == MB_OK);
    const mb_diff *diff = &l.request.items[0];
    CHECK(diff->malformed != NULL && diff->malformed->code == MB_OTHER_OBJECT);
    CHECK(diff->excluded && !diff->known && !l.window.items[0].known);
    l.window.count = 0;
    CHECK(recognize(&l, true, &index, &error) == MB_OK);
    CHECK(diff->malformed == NULL && !diff->excluded && diff->member_count == 2);
    mb_arena_free(l.arena);
}

TEST(a_malformed_diff_is_not_known_but_its_id_counts)
{
    lists l = begin();
    size_t index;
    mb_error error;
    add(&l, &l.window, "a", "m", "{'id': 'x'}");
    keep_malformed(&l, add(&l, &l.request, "a", "m", "{'id': 'x'}"));
    add(&l, &l.request, "a", "m", "{'id': 'x'}");
    keep_malformed(&l, add(&l, &l.request, "b", "m", "{'id': 'x'}"));
    l.request.items[2].id = (mb_text){NULL, 0};
    keep_malformed(&l, add(&l, &l.request, "c", "m", "{'id': 'x'}"));
    l.request.items[3].id = (mb_text){NULL, 0};
    CHECK(recognize(&l, false, &index, &error) == MB_OK);
    CHECK(!l.request.items[0].known && l.request.items[0].excluded);
    CHECK(!l.window.items[0].known);
    CHECK(l.request.items[1].repeated && !l.request.items[1].known);
    CHECK(!l.request.items[2].repeated && !l.request.items[3].repeated);
    mb_arena_free(l.arena);
}

TEST(the_diffs_of_an_object_are_linked_in_their_order)
{
    lists l = begin();
    mb_diff *first = add(&l, &l.request, "a", "m", "{'id': 'x'}");
    mb_diff *other = add(&l, &l.request, "b", "n", "{'id': 'x'}");
    mb_diff *second = add(&l, &l.request, "c", "m", "{'id': 'x', 'f': 1}");
    mb_diff *unknown = add(&l, &l.request, "d", "m", "{'id': 'x'}");
    mb_diff *last = add(&l, &l.request, "e", "m", "{'id': 'x'}");
    keep_malformed(&l, second);
    unknown->json_data = MB_TEXT("[");
    keep_malformed(&l, unknown);
    CHECK(mb_link_objects(l.arena, &l.request) == MB_OK);
    CHECK(first->next_of_object == second && second->next_of_object == last);
    CHECK(last->next_of_object == NULL && other->next_of_object == NULL);
    CHECK(unknown->next_of_object == NULL);
    mb_arena_free(l.arena);
}

static mb_status recognize_and_tell(void *context, mb_arena *arena, FILE *told)
{
    lists *l = context;
    size_t index = 0;
    mb_error error;
    if (mb_recognize(arena, &l->window, &l->request, true, &index, &error) != MB_OK ||
        mb_link_objects(arena, &l->request) != MB_OK)
        return MB_NO_MEMORY;
    for (size_t i = 0; i < l->request.count; i++)
        fprintf(told, "%d%d ", l->request.items[i].known, l->request.items[i].malformed != NULL);
    return MB_OK;
}

TEST(a_request_is_recognized_or_memory_is_out)
{
    lists l = begin();
    add(&l, &l.window, "a", "m", "{'id': 'x'}");
    add(&l, &l.window, "b", "m", "{'id': 'x'}");
    add(&l, &l.request, "a", "m", "{'id': 'y'}");
    add(&l, &l.request, "b", "m", "{'id': 'x'}");
    CHECK(check_survives_scarcity(recognize_and_tell, &l) == 0);
    mb_arena_free(l.arena);
}

int main(void)
{
    RUN(a_known_diff_points_at_the_windows_whatever_it_says);
    RUN(an_id_of_another_object_or_model_is_refused_with_its_index);
    RUN(such_an_id_can_be_kept_as_malformed_until_the_window_is_another);
    RUN(a_malformed_diff_is_not_known_but_its_id_counts);
    RUN(the_diffs_of_an_object_are_linked_in_their_order);
    RUN(a_request_is_recognized_or_memory_is_out);
    return tests_end();
}
