/* test_merge.c - which edits win: the rules of the protocol, section 3, told as small stories.
 *
 * A story names what the server logged since the device's last sync and what the device sends now,
 * and then what goes up and down.  Its JSON is written with ' for ".  A diff that is sent on
 * unchanged keeps its white space; what the merge writes itself has none.
 */
#include "../../csrc/core/text.h"
#include "quoted.h"
#include "recognize.h"
#include "scarcity.h"

#include <inttypes.h>

enum { FIRST_CLOCK = 3 };

typedef struct {
    mb_arena *arena;
    mb_diffs window; /* grows up to its room */
    mb_diffs request;
    size_t room;
    char *upstream; /* a line for each outcome */
    char *downstream;
} story;

static story begin_with(size_t room, uint64_t hash_seed)
{
    story s = {.room = room};
    CHECK(mb_arena_new(NULL, hash_seed, &s.arena) == MB_OK);
    CHECK(mb_diffs_new(s.arena, room, &s.window) == MB_OK);
    CHECK(mb_diffs_new(s.arena, room, &s.request) == MB_OK);
    s.window.count = s.request.count = 0;
    return s;
}

static story begin(void)
{
    return begin_with(8, 0);
}

static void end(story *s)
{
    mb_arena_free(s->arena);
    free(s->upstream);
    free(s->downstream);
}

static mb_diff *add(story *s, mb_diffs *list, const char *id, mb_type type, int64_t time,
                    const char *json_data)
{
    CHECK(list->count < s->room);
    mb_diff *diff = &list->items[list->count++];
    *diff = (mb_diff){.id = keep(s->arena, id),
                      .owner = MB_TEXT("anna"),
                      .model = MB_TEXT("tasks"),
                      .json_data = keep(s->arena, json_data),
                      .utc_timestamp = time,
                      .type = type};
    return diff;
}

static mb_diff *server_logged(story *s, const char *id, mb_type type, int64_t time,
                              const char *json_data)
{
    mb_diff *diff = add(s, &s->window, id, type, time, json_data);
    diff->logical_clock = FIRST_CLOCK + (int64_t)s->window.count;
    return diff;
}

static mb_diff *device_sends(story *s, const char *id, mb_type type, int64_t time,
                             const char *json_data)
{
    return add(s, &s->request, id, type, time, json_data);
}

/* The server has it, but the reply was lost. */
static void device_sends_again(story *s, const char *id, mb_type type, int64_t time,
                               const char *json_data)
{
    server_logged(s, id, type, time, json_data);
    device_sends(s, id, type, time, json_data);
}

/* The form of a window is checked as that of a request at times, and as rows of a log at others. */
static void check_form(story *s, mb_diffs *list)
{
    for (size_t i = 0; i < list->count; i++) {
        mb_error error;
        mb_diff *diff = &list->items[i];
        const bool is_row = list == &s->window && i % 3 != 0;
        CHECK((is_row ? mb_log_row_check(diff, s->arena, &error)
                      : mb_diff_check(diff, NULL, s->arena, &error)) == MB_OK);
        CHECK((diff->members == NULL) == is_row);
    }
}

static void tell(FILE *told, const mb_diffs *list, const mb_outcomes *outcomes)
{
    for (size_t i = 0; i < outcomes->count; i++) {
        const mb_outcome *o = &outcomes->items[i];
        const mb_text id = list->items[o->source].id;
        fprintf(told, "%.*s %.*s @%" PRId64 " ", (int)id.size, id.at,
                (int)mb_type_name(o->type).size, mb_type_name(o->type).at, o->utc_timestamp);
        for (size_t at = 0; at < o->json_data.size; at++)
            fputc(o->json_data.at[at] == '"' ? '\'' : o->json_data.at[at], told);
        fputc('\n', told);
    }
}

static void recognize_lists(story *s)
{
    check_form(s, &s->window);
    check_form(s, &s->request);
    CHECK(recognize(s->arena, &s->window, &s->request) == MB_OK);
}

static void tell_result(story *s, const mb_merge_result *result)
{
    size_t size;
    FILE *told = open_memstream(&s->upstream, &size);
    tell(told, &s->request, &result->upstream);
    fclose(told);
    told = open_memstream(&s->downstream, &size);
    tell(told, &s->window, &result->downstream);
    fclose(told);
}

static mb_merge_result sync_lists(story *s)
{
    mb_merge_result result;
    recognize_lists(s);
    CHECK(mb_merge(s->arena, &s->window, &s->request, &result) == MB_OK);
    tell_result(s, &result);
    return result;
}

/* Ends the story. */
#define CHECK_MERGED(s, up, down)                                                                  \
    do {                                                                                           \
        (void)sync_lists(s);                                                                       \
        CHECK_TEXT((s)->upstream, up);                                                             \
        CHECK_TEXT((s)->downstream, down);                                                         \
        end(s);                                                                                    \
    } while (0)

#define NOTHING ""

/* ---- one side alone ------------------------------------------------------------------------ */

TEST(nothing_on_either_side_moves_nothing)
{
    story s = begin();
    CHECK_MERGED(&s, NOTHING, NOTHING);
}

TEST(what_the_device_alone_did_goes_up_as_it_is)
{
    story s = begin();
    device_sends(&s, "l1", MB_CREATE, 10, "{'id': 'x', 'n': 9007199254740993}");
    device_sends(&s, "l2", MB_UPDATE, 11, "{ 'a': 1e400, 'id': 'y' }");
    device_sends(&s, "l3", MB_DELETE, 12, "{'id': 'z', 'why': null}");
    CHECK_MERGED(&s,
                 "l1 create @10 {'id': 'x', 'n': 9007199254740993}\n"
                 "l2 update @11 { 'a': 1e400, 'id': 'y' }\n"
                 "l3 delete @12 {'id': 'z', 'why': null}\n",
                 NOTHING);
}

TEST(what_the_server_alone_logged_goes_down_as_it_is)
{
    story s = begin();
    server_logged(&s, "s1", MB_CREATE, 10, "{'id': 'x', 'n': 9007199254740993}");
    server_logged(&s, "s2", MB_UPDATE, 11, "{ 'a': 1e400, 'id': 'y' }");
    server_logged(&s, "s3", MB_DELETE, 12, "{'id': 'z'}");
    CHECK_MERGED(&s, NOTHING,
                 "s1 create @10 {'id': 'x', 'n': 9007199254740993}\n"
                 "s2 update @11 { 'a': 1e400, 'id': 'y' }\n"
                 "s3 delete @12 {'id': 'z'}\n");
}

TEST(an_unchanged_diff_is_not_even_copied)
{
    story s = begin();
    const mb_diff *up = device_sends(&s, "l1", MB_CREATE, 10, "{'id': 'x', 'a': 1}");
    const mb_diff *down = server_logged(&s, "s1", MB_UPDATE, 10, "{'id': 'y', 'a': 1}");
    const mb_merge_result result = sync_lists(&s);
    CHECK(result.upstream.count == 1 && result.downstream.count == 1);
    CHECK(result.upstream.items[0].json_data.at == up->json_data.at);
    CHECK(result.downstream.items[0].json_data.at == down->json_data.at);
    end(&s);
}

/* ---- 3.1: what the device did, folded ------------------------------------------------------ */

TEST(later_edits_of_a_new_object_are_folded_into_its_create)
{
    story s = begin();
    device_sends(&s, "l1", MB_CREATE, 10, "{'id': 'x', 'a': 1, 'b': 1}");
    device_sends(&s, "l2", MB_CREATE, 11, "{'id': 'y'}");
    device_sends(&s, "l3", MB_UPDATE, 20, "{'c': 3, 'id': 'x', 'a': 2}");
    CHECK_MERGED(&s,
                 "l1 create @20 {'id':'x','a':2,'b':1,'c':3}\n"
                 "l2 create @11 {'id': 'y'}\n",
                 NOTHING);
}

TEST(an_edit_sorted_before_the_create_of_its_millisecond_stays_on_top)
{
    story s = begin();
    device_sends(&s, "l1", MB_UPDATE, 10, "{'id': 'x', 'a': 2}");
    device_sends(&s, "l2", MB_CREATE, 10, "{'id': 'x', 'a': 1, 'b': 1}");
    CHECK_MERGED(&s, "l2 create @10 {'id':'x','a':2,'b':1}\n", NOTHING);
}

TEST(an_edit_older_than_the_create_is_of_an_earlier_life)
{
    story s = begin();
    device_sends(&s, "l1", MB_UPDATE, 9, "{'id': 'x', 'a': 2, 'z': 2}");
    device_sends(&s, "l2", MB_CREATE, 10, "{'id': 'x', 'a': 1}");
    CHECK_MERGED(&s, "l2 create @10 {'id': 'x', 'a': 1}\n", NOTHING);
}

TEST(a_create_of_what_the_device_has_created_is_an_edit)
{
    story s = begin();
    device_sends(&s, "l1", MB_CREATE, 10, "{'id': 'x', 'a': 1}");
    device_sends(&s, "l2", MB_CREATE, 20, "{'id': 'x', 'a': 2, 'b': 2}");
    CHECK_MERGED(&s, "l1 create @20 {'id':'x','a':2,'b':2}\n", NOTHING);
}

TEST(a_clock_that_jumps_back_does_not_turn_edits_around)
{
    story s = begin();
    device_sends(&s, "l1", MB_UPDATE, 100, "{'id': 'x', 'a': 1, 'b': 1}");
    device_sends(&s, "l2", MB_UPDATE, 50, "{'id': 'x', 'a': 2}");
    CHECK_MERGED(&s,
                 "l1 update @100 {'id':'x','b':1}\n"
                 "l2 update @100 {'id': 'x', 'a': 2}\n",
                 NOTHING);
}

TEST(of_two_edits_of_one_millisecond_the_later_in_the_list_wins)
{
    story s = begin();
    device_sends(&s, "l1", MB_UPDATE, 10, "{'id': 'x', 'a': 1}");
    device_sends(&s, "l2", MB_UPDATE, 10, "{'id': 'x', 'a': 2}");
    CHECK_MERGED(&s, "l2 update @10 {'id': 'x', 'a': 2}\n", NOTHING);
}

TEST(an_edit_of_a_row_that_the_device_deleted_is_ignored)
{
    story s = begin();
    device_sends(&s, "l1", MB_DELETE, 10, "{'id': 'x'}");
    device_sends(&s, "l2", MB_UPDATE, 20, "{'id': 'x', 'a': 1}");
    CHECK_MERGED(&s, "l1 delete @10 {'id': 'x'}\n", NOTHING);
}

TEST(an_edit_of_a_row_that_the_device_deleted_is_not_one_of_the_row_that_follows)
{
    story s = begin();
    server_logged(&s, "s1", MB_UPDATE, 10, "{'id': 'x', 'z': 1}");
    device_sends(&s, "l1", MB_DELETE, 10, "{'id': 'x'}");
    device_sends(&s, "l2", MB_UPDATE, 10, "{'id': 'x', 'a': 2, 'b': 2}");
    device_sends(&s, "l3", MB_CREATE, 10, "{'id': 'x', 'a': 3}");
    CHECK_MERGED(&s,
                 "l1 delete @10 {'id': 'x'}\n"
                 "l3 create @10 {'id': 'x', 'a': 3}\n",
                 NOTHING);
}

TEST(a_delete_is_as_late_as_the_edit_before_it)
{
    story s = begin();
    device_sends(&s, "l1", MB_UPDATE, 100, "{'id': 'x', 'a': 1}");
    device_sends(&s, "l2", MB_DELETE, 50, "{'id': 'x'}");
    CHECK_MERGED(&s, "l2 delete @100 {'id': 'x'}\n", NOTHING);
}

TEST(a_create_and_a_delete_that_the_server_never_heard_of_cancel)
{
    story s = begin();
    device_sends(&s, "l1", MB_CREATE, 10, "{'id': 'x', 'a': 1}");
    device_sends(&s, "l2", MB_UPDATE, 20, "{'id': 'x', 'a': 2}");
    device_sends(&s, "l3", MB_DELETE, 30, "{'id': 'x'}");
    CHECK_MERGED(&s, NOTHING, NOTHING);
}

TEST(a_delete_of_what_the_server_has_heard_of_goes_up)
{
    story s = begin();
    device_sends_again(&s, "l1", MB_CREATE, 10, "{'id': 'x', 'a': 1}");
    device_sends(&s, "l2", MB_DELETE, 30, "{'id': 'x'}");
    CHECK_MERGED(&s, "l2 delete @30 {'id': 'x'}\n", NOTHING);
}

TEST(after_a_cancelled_life_the_first_delete_still_goes_up)
{
    story s = begin();
    device_sends(&s, "l1", MB_DELETE, 10, "{'id': 'x'}");
    device_sends(&s, "l2", MB_CREATE, 20, "{'id': 'x'}");
    device_sends(&s, "l3", MB_DELETE, 30, "{'id': 'x'}");
    CHECK_MERGED(&s, "l1 delete @10 {'id': 'x'}\n", NOTHING);
}

TEST(a_life_that_the_server_heard_of_does_not_keep_the_next_from_cancelling)
{
    story s = begin();
    device_sends_again(&s, "l1", MB_CREATE, 10, "{'id': 'x', 'a': 1}");
    device_sends(&s, "l2", MB_DELETE, 20, "{'id': 'x'}");
    device_sends(&s, "l3", MB_CREATE, 30, "{'id': 'x'}");
    device_sends(&s, "l4", MB_DELETE, 40, "{'id': 'x'}");
    CHECK_MERGED(&s, "l2 delete @20 {'id': 'x'}\n", NOTHING);
}

TEST(lives_of_one_millisecond_do_not_mix)
{
    story s = begin();
    device_sends(&s, "l1", MB_CREATE, 10, "{'id': 'x', 'a': 1}");
    device_sends(&s, "l2", MB_DELETE, 10, "{'id': 'x'}");
    device_sends(&s, "l3", MB_CREATE, 10, "{'id': 'x', 'b': 2}");
    device_sends(&s, "l4", MB_UPDATE, 10, "{'id': 'x', 'c': 3}");
    CHECK_MERGED(&s, "l3 create @10 {'id':'x','b':2,'c':3}\n", NOTHING);
}

TEST(a_delete_before_a_create_that_the_server_has_is_moot)
{
    story s = begin();
    device_sends(&s, "l1", MB_DELETE, 10, "{'id': 'x'}");
    device_sends_again(&s, "l2", MB_CREATE, 20, "{'id': 'x', 'a': 1}");
    CHECK_MERGED(&s, NOTHING, NOTHING);
}

TEST(a_known_edit_keeps_down_the_unknown_one_that_it_superseded)
{
    story s = begin();
    device_sends(&s, "l1", MB_UPDATE, 10, "{'id': 'x', 'a': 1}");
    device_sends_again(&s, "l2", MB_UPDATE, 20, "{'id': 'x', 'a': 2}");
    CHECK_MERGED(&s, NOTHING, NOTHING);
}

TEST(what_is_known_is_not_sent_again_but_what_is_new_is)
{
    story s = begin();
    device_sends_again(&s, "l1", MB_CREATE, 10, "{'id': 'x', 'a': 1}");
    device_sends_again(&s, "l2", MB_UPDATE, 20, "{'id': 'x', 'b': 1}");
    device_sends(&s, "l3", MB_UPDATE, 30, "{'id': 'x', 'b': 2}");
    CHECK_MERGED(&s, "l3 update @30 {'id': 'x', 'b': 2}\n", NOTHING);
}

TEST(a_diff_id_that_stands_twice_counts_once)
{
    story s = begin();
    device_sends(&s, "l1", MB_UPDATE, 10, "{'id': 'x', 'a': 1}");
    device_sends(&s, "l1", MB_UPDATE, 20, "{'id': 'x', 'a': 2}");
    device_sends(&s, "l1", MB_DELETE, 30, "{'id': 'x'}");
    CHECK_MERGED(&s, "l1 update @10 {'id': 'x', 'a': 1}\n", NOTHING);
}

/* ---- 3.2: what the server says, folded ----------------------------------------------------- */

TEST(an_edit_that_a_later_one_replaced_does_not_go_down)
{
    story s = begin();
    server_logged(&s, "s1", MB_UPDATE, 10, "{'id': 'x', 'a': 1, 'b': 1}");
    server_logged(&s, "s2", MB_UPDATE, 11, "{'id': 'x', 'a': 2}");
    server_logged(&s, "s3", MB_UPDATE, 12, "{'id': 'x', 'a': 3}");
    CHECK_MERGED(&s, NOTHING,
                 "s1 update @10 {'id':'x','b':1}\n"
                 "s3 update @12 {'id': 'x', 'a': 3}\n");
}

TEST(an_edit_counts_as_late_as_what_it_replaced)
{
    story s = begin();
    server_logged(&s, "s1", MB_UPDATE, 100, "{'id': 'x', 'a': 1}");
    server_logged(&s, "s2", MB_UPDATE, 10, "{'id': 'x', 'a': 2}"); /* it had seen s1 */
    device_sends(&s, "l1", MB_UPDATE, 50, "{'id': 'x', 'a': 3}");
    CHECK_MERGED(&s, NOTHING, "s2 update @10 {'id': 'x', 'a': 2}\n");
}

TEST(the_log_decides_the_order_and_not_the_list)
{
    story s = begin();
    server_logged(&s, "s1", MB_UPDATE, 30, "{'id': 'x', 'a': 1}")->logical_clock = 9;
    server_logged(&s, "s2", MB_UPDATE, 20, "{'id': 'x', 'a': 2}")->logical_clock = 7;
    server_logged(&s, "s3", MB_DELETE, 10, "{'id': 'x'}")->logical_clock = 5;
    server_logged(&s, "s4", MB_CREATE, 40, "{'id': 'x', 'a': 0}")->logical_clock = 6;
    CHECK_MERGED(&s, NOTHING,
                 "s3 delete @10 {'id': 'x'}\n"
                 "s4 create @40 {'id': 'x', 'a': 0}\n"
                 "s1 update @30 {'id': 'x', 'a': 1}\n");
}

TEST(among_diffs_of_one_clock_the_timestamp_decides)
{
    story s = begin();
    server_logged(&s, "s1", MB_UPDATE, 20, "{'id': 'x', 'a': 1}")->logical_clock = 5;
    server_logged(&s, "s2", MB_UPDATE, 10, "{'id': 'x', 'a': 2}")->logical_clock = 5;
    CHECK_MERGED(&s, NOTHING, "s1 update @20 {'id': 'x', 'a': 1}\n");
}

TEST(among_diffs_of_one_clock_and_timestamp_the_given_order_decides)
{
    story s = begin();
    server_logged(&s, "s0", MB_UPDATE, 10, "{'id': 'x', 'a': 0}")->logical_clock = 9;
    server_logged(&s, "s1", MB_UPDATE, 10, "{'id': 'x', 'a': 1}")->logical_clock = 5;
    server_logged(&s, "s2", MB_UPDATE, 10, "{'id': 'x', 'b': 2}")->logical_clock = 5;
    server_logged(&s, "s3", MB_UPDATE, 10, "{'id': 'x', 'b': 3}")->logical_clock = 5;
    server_logged(&s, "s4", MB_UPDATE, 10, "{'id': 'x', 'c': 4}")->logical_clock = 5;
    CHECK_MERGED(&s, NOTHING,
                 "s3 update @10 {'id': 'x', 'b': 3}\n"
                 "s4 update @10 {'id': 'x', 'c': 4}\n"
                 "s0 update @10 {'id': 'x', 'a': 0}\n");
}

TEST(an_edit_in_the_log_of_a_row_that_was_gone_is_ignored)
{
    story s = begin();
    server_logged(&s, "s1", MB_DELETE, 10, "{'id': 'x'}");
    server_logged(&s, "s2", MB_UPDATE, 20, "{'id': 'x', 'a': 1}");
    CHECK_MERGED(&s, NOTHING, "s1 delete @10 {'id': 'x'}\n");
}

TEST(an_edit_in_the_log_of_a_row_that_was_gone_does_not_begin_the_next)
{
    story s = begin();
    server_logged(&s, "s1", MB_DELETE, 10, "{'id': 'x'}");
    server_logged(&s, "s2", MB_UPDATE, 20, "{'id': 'x', 'a': 1}");
    server_logged(&s, "s3", MB_CREATE, 30, "{'id': 'x', 'b': 1}");
    CHECK_MERGED(&s, NOTHING,
                 "s1 delete @10 {'id': 'x'}\n"
                 "s3 create @30 {'id': 'x', 'b': 1}\n");
}

/* ---- 3.3: dead on the server --------------------------------------------------------------- */

TEST(a_delete_beats_an_edit_however_late)
{
    story s = begin();
    server_logged(&s, "s1", MB_DELETE, 10, "{'id': 'x'}");
    device_sends(&s, "l1", MB_UPDATE, 99, "{'id': 'x', 'a': 1}");
    CHECK_MERGED(&s, NOTHING, "s1 delete @10 {'id': 'x'}\n");
}

TEST(a_create_later_than_the_delete_lives)
{
    story s = begin();
    server_logged(&s, "s1", MB_DELETE, 20, "{'id': 'x'}");
    device_sends(&s, "l1", MB_CREATE, 10, "{'id': 'x', 'a': 1}");
    device_sends(&s, "l2", MB_UPDATE, 21, "{'id': 'x', 'a': 2}");
    CHECK_MERGED(&s, "l1 create @21 {'id':'x','a':2}\n", NOTHING);
}

TEST(a_create_no_later_than_the_delete_dies)
{
    story s = begin();
    server_logged(&s, "s1", MB_DELETE, 20, "{'id': 'x'}");
    device_sends(&s, "l1", MB_CREATE, 20, "{'id': 'x', 'a': 1}");
    CHECK_MERGED(&s, NOTHING, "s1 delete @20 {'id': 'x'}\n");
}

TEST(a_create_after_the_devices_own_known_delete_lives)
{
    story s = begin();
    device_sends_again(&s, "l1", MB_DELETE, 100, "{'id': 'x'}");
    device_sends(&s, "l2", MB_CREATE, 50, "{'id': 'x', 'a': 1}");
    CHECK_MERGED(&s, "l2 create @100 {'id': 'x', 'a': 1}\n", NOTHING);
}

TEST(what_both_deleted_is_gone_without_a_word)
{
    story s = begin();
    server_logged(&s, "s1", MB_DELETE, 10, "{'id': 'x'}");
    device_sends(&s, "l1", MB_DELETE, 20, "{'id': 'x'}");
    CHECK_MERGED(&s, NOTHING, NOTHING);
}

TEST(what_came_and_went_unseen_is_not_mentioned)
{
    story s = begin();
    server_logged(&s, "s1", MB_CREATE, 10, "{'id': 'x', 'a': 1}");
    server_logged(&s, "s2", MB_DELETE, 20, "{'id': 'x'}");
    CHECK_MERGED(&s, NOTHING, NOTHING);
}

TEST(what_came_and_went_is_deleted_where_the_device_has_one_of_its_own)
{
    story s = begin();
    server_logged(&s, "s1", MB_CREATE, 10, "{'id': 'x', 'a': 1}");
    server_logged(&s, "s2", MB_DELETE, 20, "{'id': 'x'}");
    device_sends(&s, "l1", MB_CREATE, 15, "{'id': 'x', 'a': 2}");
    CHECK_MERGED(&s, NOTHING, "s2 delete @20 {'id': 'x'}\n");
}

/* ---- 3.4: deleted by the device ------------------------------------------------------------ */

TEST(a_delete_takes_concurrent_edits_with_it)
{
    story s = begin();
    server_logged(&s, "s1", MB_UPDATE, 99, "{'id': 'x', 'a': 1}");
    device_sends(&s, "l1", MB_DELETE, 10, "{'id': 'x'}");
    CHECK_MERGED(&s, "l1 delete @10 {'id': 'x'}\n", NOTHING);
}

TEST(a_create_in_place_of_what_was_deleted_follows_the_delete)
{
    story s = begin();
    server_logged(&s, "s1", MB_UPDATE, 99, "{'id': 'x', 'a': 1}");
    device_sends(&s, "l1", MB_DELETE, 10, "{'id': 'x'}");
    device_sends(&s, "l2", MB_CREATE, 20, "{'id': 'x', 'b': 2}");
    device_sends(&s, "l3", MB_UPDATE, 30, "{'id': 'x', 'c': 3}");
    CHECK_MERGED(&s,
                 "l1 delete @10 {'id': 'x'}\n"
                 "l2 create @30 {'id':'x','b':2,'c':3}\n",
                 NOTHING);
}

TEST(a_delete_does_not_reach_a_life_that_began_elsewhere)
{
    story s = begin();
    server_logged(&s, "s1", MB_CREATE, 10, "{'id': 'x', 'a': 1}");
    device_sends(&s, "l1", MB_DELETE, 20, "{'id': 'x'}");
    CHECK_MERGED(&s, NOTHING, "s1 create @10 {'id': 'x', 'a': 1}\n");
}

/* ---- 3.6: alive on both sides -------------------------------------------------------------- */

TEST(different_fields_stand_beside_each_other)
{
    story s = begin();
    server_logged(&s, "s1", MB_UPDATE, 99, "{'id': 'x', 'a': 1}");
    device_sends(&s, "l1", MB_UPDATE, 10, "{'id': 'x', 'b': 2}");
    CHECK_MERGED(&s, "l1 update @10 {'id': 'x', 'b': 2}\n", "s1 update @99 {'id': 'x', 'a': 1}\n");
}

TEST(of_one_field_the_later_edit_wins_and_a_tie_goes_to_the_device)
{
    for (int64_t time = 19; time <= 21; time++) {
        story s = begin();
        server_logged(&s, "s1", MB_UPDATE, 20, "{'id': 'x', 'a': 1}");
        device_sends(&s, "l1", MB_UPDATE, time, "{'id': 'x', 'a': 2}");
        at_row("the device's edit at %" PRId64 " ms, the server's at 20", time);
        if (time < 20)
            CHECK_MERGED(&s, NOTHING, "s1 update @20 {'id': 'x', 'a': 1}\n");
        else
            CHECK_MERGED(&s,
                         time == 20 ? "l1 update @20 {'id': 'x', 'a': 2}\n"
                                    : "l1 update @21 {'id': 'x', 'a': 2}\n",
                         NOTHING);
    }
}

TEST(what_both_wrote_alike_does_not_move)
{
    story s = begin();
    server_logged(&s, "s1", MB_UPDATE, 20, "{'id': 'x', 'a': [1, {'b': 2}], 'c': 1}");
    device_sends(&s, "l1", MB_UPDATE, 10, "{'id':'x','a':[1, {'b': 2}],'d':1}");
    CHECK_MERGED(&s, "l1 update @10 {'id':'x','d':1}\n", "s1 update @20 {'id':'x','c':1}\n");
}

TEST(values_are_equal_when_their_texts_are)
{
    story s = begin();
    server_logged(&s, "s1", MB_UPDATE, 20, "{'id': 'x', 'a': 1.0, 'b': [1,2]}");
    device_sends(&s, "l1", MB_UPDATE, 30, "{'id': 'x', 'a': 1, 'b': [1, 2]}");
    CHECK_MERGED(&s, "l1 update @30 {'id': 'x', 'a': 1, 'b': [1, 2]}\n", NOTHING);
}

TEST(a_diff_keeps_those_fields_that_won)
{
    story s = begin();
    server_logged(&s, "s1", MB_UPDATE, 20,
                  "{'a': 1, 'b': 9007199254740993, 'id': 'x', 'c': 0.1000}");
    device_sends(&s, "l1", MB_UPDATE, 10, "{'d': 1e400, 'id': 'x', 'c': 5}");
    device_sends(&s, "l2", MB_UPDATE, 20, "{'id': 'x', 'a': -0, 'b': 9007199254740993}");
    CHECK_MERGED(&s,
                 "l1 update @10 {'d':1e400,'id':'x'}\n"
                 "l2 update @20 {'id':'x','a':-0}\n",
                 "s1 update @20 {'id':'x','c':0.1000}\n");
}

TEST(fields_go_up_in_the_diffs_that_they_came_from)
{
    story s = begin();
    server_logged(&s, "s1", MB_UPDATE, 5, "{'id': 'x', 'z': 1}");
    device_sends(&s, "l1", MB_UPDATE, 10, "{'id': 'x', 'a': 1}");
    device_sends(&s, "l2", MB_UPDATE, 10, "{'id': 'y', 'a': 1}");
    device_sends(&s, "l3", MB_UPDATE, 20, "{'id': 'x', 'b': 1}");
    CHECK_MERGED(&s,
                 "l1 update @10 {'id': 'x', 'a': 1}\n"
                 "l2 update @10 {'id': 'y', 'a': 1}\n"
                 "l3 update @20 {'id': 'x', 'b': 1}\n",
                 "s1 update @5 {'id': 'x', 'z': 1}\n");
}

TEST(one_id_made_on_two_devices_becomes_one_object)
{
    story s = begin();
    server_logged(&s, "s1", MB_CREATE, 10, "{'id': 'x', 'a': 1, 'b': 1}");
    device_sends(&s, "l1", MB_CREATE, 20, "{'id': 'x', 'a': 2, 'c': 3}");
    CHECK_MERGED(&s, "l1 update @20 {'id': 'x', 'a': 2, 'c': 3}\n",
                 "s1 update @10 {'id':'x','b':1}\n");
}

TEST(a_create_goes_down_whole_though_later_edits_follow)
{
    story s = begin();
    server_logged(&s, "s1", MB_CREATE, 10, "{'id': 'x', 'a': 1, 'b': 1}");
    server_logged(&s, "s2", MB_UPDATE, 20, "{'id': 'x', 'a': 2}");
    CHECK_MERGED(&s, NOTHING,
                 "s1 create @10 {'id': 'x', 'a': 1, 'b': 1}\n"
                 "s2 update @20 {'id': 'x', 'a': 2}\n");
}

TEST(a_known_create_goes_down_as_an_edit_to_a_device_that_lost_what_was_folded_in)
{
    story s = begin();
    server_logged(&s, "l1", MB_CREATE, 30, "{'id': 'x', 'a': 2, 'b': 1}");
    device_sends(&s, "l1", MB_CREATE, 10, "{'id': 'x', 'a': 1, 'b': 1}"); /* from a backup */
    CHECK_MERGED(&s, NOTHING, "l1 update @30 {'id':'x','a':2}\n");
}

TEST(an_edit_that_an_earlier_try_folded_into_the_create_is_known_too)
{
    story s = begin();
    server_logged(&s, "l1", MB_CREATE, 20, "{'id': 'x', 'a': 1, 'b': 2}");
    server_logged(&s, "s1", MB_UPDATE, 15, "{'id': 'x', 'b': 3}"); /* it had seen b: 2 */
    device_sends(&s, "l1", MB_CREATE, 10, "{'id': 'x', 'a': 1}");
    device_sends(&s, "l2", MB_UPDATE, 20, "{'id': 'x', 'b': 2}");
    CHECK_MERGED(&s, NOTHING, "s1 update @15 {'id': 'x', 'b': 3}\n");
}

TEST(a_device_that_may_hold_the_dead_row_hears_of_its_death_before_its_rebirth)
{
    story s = begin();
    server_logged(&s, "s1", MB_UPDATE, 5, "{'id': 'x', 'z': 1}");
    server_logged(&s, "s2", MB_DELETE, 10, "{'id': 'x'}");
    server_logged(&s, "s3", MB_CREATE, 20, "{'id': 'x', 'a': 1}");
    device_sends(&s, "l1", MB_UPDATE, 99, "{'id': 'x', 'a': 9}"); /* of the dead one */
    CHECK_MERGED(&s, NOTHING,
                 "s2 delete @10 {'id': 'x'}\n"
                 "s3 create @20 {'id': 'x', 'a': 1}\n");
}

TEST(what_the_server_heard_of_the_dead_row_says_nothing_of_the_one_born_since)
{
    story s = begin();
    device_sends_again(&s, "l1", MB_UPDATE, 5, "{'id': 'x', 'z': 1}");
    server_logged(&s, "s1", MB_DELETE, 10, "{'id': 'x'}");
    server_logged(&s, "s2", MB_CREATE, 20, "{'id': 'x', 'a': 1}");
    device_sends(&s, "l2", MB_UPDATE, 99, "{'id': 'x', 'a': 9}");
    CHECK_MERGED(&s, NOTHING,
                 "s1 delete @10 {'id': 'x'}\n"
                 "s2 create @20 {'id': 'x', 'a': 1}\n");
}

TEST(an_edit_of_a_row_that_the_device_cannot_have_seen_does_not_count)
{
    story s = begin();
    server_logged(&s, "s1", MB_CREATE, 10, "{'id': 'x', 'a': 1}");
    device_sends(&s, "l1", MB_UPDATE, 99, "{'id': 'x', 'a': 9, 'b': 9}");
    CHECK_MERGED(&s, NOTHING, "s1 create @10 {'id': 'x', 'a': 1}\n");
}

TEST(a_row_of_the_devices_own_is_turned_into_the_one_born_since)
{
    story s = begin();
    device_sends_again(&s, "l1", MB_CREATE, 5, "{'id': 'x', 'a': 1}");
    server_logged(&s, "s1", MB_DELETE, 10, "{'id': 'x'}");
    server_logged(&s, "s2", MB_CREATE, 20, "{'id': 'x', 'a': 2, 'b': 2}");
    CHECK_MERGED(&s, NOTHING, "s2 update @20 {'id': 'x', 'a': 2, 'b': 2}\n");
}

TEST(a_row_of_the_devices_own_with_a_field_too_many_is_replaced)
{
    story s = begin();
    device_sends_again(&s, "l1", MB_CREATE, 5, "{'id': 'x', 'a': 1, 'z': 1}");
    server_logged(&s, "s1", MB_DELETE, 10, "{'id': 'x'}");
    server_logged(&s, "s2", MB_CREATE, 20, "{'id': 'x', 'a': 2, 'b': 2}");
    CHECK_MERGED(&s, NOTHING,
                 "s1 delete @10 {'id': 'x'}\n"
                 "s2 create @20 {'id': 'x', 'a': 2, 'b': 2}\n");
}

TEST(a_device_that_deleted_the_dead_row_hears_of_the_rebirth_alone)
{
    story s = begin();
    server_logged(&s, "s1", MB_DELETE, 10, "{'id': 'x'}");
    server_logged(&s, "s2", MB_CREATE, 20, "{'id': 'x', 'a': 1}");
    device_sends(&s, "l1", MB_DELETE, 15, "{'id': 'x'}");
    CHECK_MERGED(&s, NOTHING, "s2 create @20 {'id': 'x', 'a': 1}\n");
}

TEST(an_edit_of_no_field_is_not_sent)
{
    story s = begin();
    server_logged(&s, "s1", MB_UPDATE, 10, "{'id': 'x'}");
    device_sends(&s, "l1", MB_UPDATE, 20, "{'id': 'y'}");
    device_sends(&s, "l2", MB_CREATE, 20, "{'id': 'z'}");
    CHECK_MERGED(&s, "l2 create @20 {'id': 'z'}\n", NOTHING);
}

/* ---- names --------------------------------------------------------------------------------- */

TEST(names_are_compared_decoded_and_written_as_they_stood)
{
    story s = begin();
    server_logged(&s, "s1", MB_UPDATE, 20, "{'i\\u0064': 'x', 'na\\u006de': 1, '\\u0061': 1}");
    device_sends(&s, "l1", MB_UPDATE, 10, "{'id': '\\u0078', 'name': 2, '\\u0062': 2}");
    device_sends(&s, "l2", MB_UPDATE, 30, "{'id': 'x', 'a': 2}");
    CHECK_MERGED(&s,
                 "l1 update @10 {'id':'\\u0078','\\u0062':2}\n"
                 "l2 update @30 {'id': 'x', 'a': 2}\n",
                 "s1 update @20 {'i\\u0064':'x','na\\u006de':1}\n");
}

TEST(names_ids_and_models_of_other_spelling_are_others)
{
    story s = begin();
    server_logged(&s, "s1", MB_UPDATE, 99, "{'id': 'x', 'a': 1}");
    device_sends(&s, "l1", MB_UPDATE, 10, "{'id': 'x', 'A': 2}");
    device_sends(&s, "l2", MB_UPDATE, 10, "{'id': 'X', 'a': 2}");
    device_sends(&s, "l3", MB_DELETE, 10, "{'id': 'x'}")->model = MB_TEXT("notes");
    device_sends(&s, "l4", MB_UPDATE, 10, "{'id': 'sx', 'a': 2}")->model = MB_TEXT("task");
    CHECK_MERGED(&s,
                 "l1 update @10 {'id': 'x', 'A': 2}\n"
                 "l2 update @10 {'id': 'X', 'a': 2}\n"
                 "l3 delete @10 {'id': 'x'}\n"
                 "l4 update @10 {'id': 'sx', 'a': 2}\n",
                 "s1 update @99 {'id': 'x', 'a': 1}\n");
}

TEST(of_a_member_that_stands_twice_the_last_value_counts)
{
    story s = begin();
    server_logged(&s, "s1", MB_UPDATE, 20, "{'id': 'x', 'a': 1, 'a': 2, 'b': 1, '\\u0062': 2}");
    device_sends(&s, "l1", MB_UPDATE, 10, "{'id': 'y', 'a': 2, 'c': 1, 'c': 2, 'id': 'x'}");
    CHECK_MERGED(&s, "l1 update @10 {'c':2,'id':'x'}\n", "s1 update @20 {'id':'x','\\u0062':2}\n");
}

TEST(a_diff_with_a_member_that_stands_twice_is_sent_on_unchanged_too)
{
    story s = begin();
    server_logged(&s, "s1", MB_UPDATE, 20, "{'id': 'x', 'a': 1, 'a': 2}");
    device_sends(&s, "l1", MB_UPDATE, 10, "{'id': 'y', 'b': 1, 'id': 'x', '\\u0062': 2}");
    device_sends(&s, "l2", MB_CREATE, 10, "{'id': 'z', 'c': 1, 'c': 2}");
    CHECK_MERGED(&s,
                 "l1 update @10 {'id': 'y', 'b': 1, 'id': 'x', '\\u0062': 2}\n"
                 "l2 create @10 {'id': 'z', 'c': 1, 'c': 2}\n",
                 "s1 update @20 {'id': 'x', 'a': 1, 'a': 2}\n");
}

TEST(a_member_that_stands_twice_in_a_create_is_folded_once)
{
    story s = begin();
    device_sends(&s, "l1", MB_CREATE, 10, "{'a': 1, 'id': 'y', 'a': 2, 'id': 'x', 'b': 1}");
    device_sends(&s, "l2", MB_UPDATE, 20, "{'id': 'x', 'c': 1, 'b': 2, 'c': 3}");
    CHECK_MERGED(&s, "l1 create @20 {'a':2,'id':'x','b':2,'c':3}\n", NOTHING);
}

/* ---- many lives ---------------------------------------------------------------------------- */

enum { LIVES = 300 };

/* Begins and ends LIVES lives of x, each with a field of its own; an edit comes in every third. */
static void live_often(story *s, mb_diffs *list, const char *prefix)
{
    for (int life = 0; life < LIVES; life++) {
        char id[32], json[128];
        for (int part = 0; part < 3; part++) {
            if (part == 1 && life % 3 != 0)
                continue;
            snprintf(id, sizeof id, "%s%d.%d", prefix, life, part);
            snprintf(json, sizeof json, "{'id': 'x', 'a': %d, '%s%d': %d}", life,
                     part == 0 ? "born" : "edited", life, life);
            add(s, list, id,
                part == 0   ? MB_CREATE
                : part == 1 ? MB_UPDATE
                            : MB_DELETE,
                10 * life + part, part == 2 ? "{'id': 'x'}" : json)
                ->logical_clock = FIRST_CLOCK + (int64_t)list->count;
        }
    }
}

TEST(of_many_lives_on_the_device_only_the_last_goes_up)
{
    story s = begin_with(3 * LIVES + 2, 0);
    live_often(&s, &s.request, "l");
    device_sends(&s, "last", MB_CREATE, 9000, "{'id': 'x', 'now': 1}");
    device_sends(&s, "edit", MB_UPDATE, 9001, "{'id': 'x', 'a': 2}");
    CHECK_MERGED(&s, "last create @9001 {'id':'x','now':1,'a':2}\n", NOTHING);
}

TEST(of_many_lives_on_the_device_that_ended_nothing_goes_up)
{
    story s = begin_with(3 * LIVES, 0);
    live_often(&s, &s.request, "l");
    CHECK_MERGED(&s, NOTHING, NOTHING);
}

TEST(of_many_lives_in_the_log_only_the_last_goes_down)
{
    story s = begin_with(3 * LIVES + 2, 0);
    live_often(&s, &s.window, "s");
    server_logged(&s, "last", MB_CREATE, 7, "{'id': 'x', 'now': 1}");
    server_logged(&s, "edit", MB_UPDATE, 8, "{'id': 'x', 'a': 2}");
    CHECK_MERGED(&s, NOTHING,
                 "last create @7 {'id': 'x', 'now': 1}\n"
                 "edit update @8 {'id': 'x', 'a': 2}\n");
}

TEST(a_timestamp_of_an_earlier_life_does_not_outlive_it)
{
    story s = begin();
    server_logged(&s, "s1", MB_UPDATE, 999, "{'id': 'x', 'a': 1}");
    server_logged(&s, "l1", MB_DELETE, 20, "{'id': 'x'}");
    server_logged(&s, "l2", MB_CREATE, 30, "{'id': 'x', 'a': 2}");
    device_sends(&s, "l1", MB_DELETE, 20, "{'id': 'x'}");
    device_sends(&s, "l2", MB_CREATE, 30, "{'id': 'x', 'a': 2}");
    device_sends(&s, "l3", MB_UPDATE, 40, "{'id': 'x', 'a': 3}");
    CHECK_MERGED(&s, "l3 update @40 {'id': 'x', 'a': 3}\n", NOTHING);
}

/* ---- recognizing --------------------------------------------------------------------------- */

TEST(what_both_lists_have_is_known_and_what_stands_twice_is_repeated)
{
    story s = begin();
    static const char *const window[] = {"d3", "d9", "d1"};
    static const char *const request[] = {"d1", "d2", "d1", "d3", "d2", "D3"};
    for (size_t i = 0; i < 3; i++)
        server_logged(&s, window[i], MB_DELETE, 1, "{'id': 'x'}");
    for (size_t i = 0; i < 6; i++)
        device_sends(&s, request[i], MB_DELETE, 1, "{'id': 'x'}");

    for (int again = 0; again < 2; again++) { /* marks of an earlier call do not count */
        CHECK(recognize(s.arena, &s.window, &s.request) == MB_OK);
        static const bool window_known[] = {true, false, true};
        static const bool known[] = {true, false, false, true, false, false};
        static const bool repeated[] = {false, false, true, false, true, false};
        for (size_t i = 0; i < 3; i++) {
            CHECK(s.window.items[i].known == window_known[i]);
            CHECK(!s.window.items[i].repeated);
            s.window.items[i].known = s.window.items[i].repeated = true;
        }
        for (size_t i = 0; i < 6; i++) {
            CHECK(s.request.items[i].repeated == repeated[i]);
            CHECK(repeated[i] || s.request.items[i].known == known[i]);
            s.request.items[i].known = s.request.items[i].repeated = true;
        }
    }
    end(&s);
}

TEST(nothing_is_known_to_an_empty_list)
{
    story s = begin();
    mb_diffs none = {NULL, 0};
    server_logged(&s, "d1", MB_DELETE, 1, "{'id': 'x'}")->known = true;
    CHECK(recognize(s.arena, &s.window, &none) == MB_OK);
    CHECK(!s.window.items[0].known);
    CHECK(recognize(s.arena, &none, &s.window) == MB_OK);
    CHECK(!s.window.items[0].known);
    CHECK(recognize(s.arena, &none, &none) == MB_OK);
    end(&s);
}

/* ---- named devices ------------------------------------------------------------------------- */

/* Ends the story: the request is the retry of one that was done. */
#define CHECK_RETRIED(s, down)                                                                     \
    do {                                                                                           \
        mb_merge_result result;                                                                    \
        recognize_lists(s);                                                                        \
        mb_know_all(&(s)->request);                                                                \
        CHECK(mb_merge((s)->arena, &(s)->window, &(s)->request, &result) == MB_OK);                \
        tell_result(s, &result);                                                                   \
        CHECK_TEXT((s)->upstream, NOTHING);                                                        \
        CHECK_TEXT((s)->downstream, down);                                                         \
        end(s);                                                                                    \
    } while (0)

/* Ends the story: the device starts over, and had pulled what was born below `clock`. */
#define CHECK_STARTED_OVER(s, clock, up)                                                           \
    do {                                                                                           \
        mb_merge_result result;                                                                    \
        recognize_lists(s);                                                                        \
        CHECK(mb_merge_behind((s)->arena, &(s)->window, &(s)->request, clock, &result) == MB_OK);  \
        tell_result(s, &result);                                                                   \
        CHECK_TEXT((s)->upstream, up);                                                             \
        CHECK_TEXT((s)->downstream, NOTHING);                                                      \
        end(s);                                                                                    \
    } while (0)

TEST(of_a_retry_all_is_known_whatever_the_log_has_kept)
{
    story s = begin();
    server_logged(&s, "s1", MB_UPDATE, 1, "{'id': 'x', 'a': 9}");
    device_sends(&s, "l1", MB_UPDATE, 20, "{'id': 'x', 'a': 1, 'b': 1}");
    device_sends(&s, "l2", MB_CREATE, 20, "{'id': 'y'}");
    device_sends(&s, "l3", MB_DELETE, 20, "{'id': 'z'}");
    CHECK_RETRIED(&s, "s1 update @1 {'id': 'x', 'a': 9}\n");
}

TEST(an_object_that_a_retry_deleted_and_that_lives_by_now_comes_as_a_create)
{
    story s = begin();
    device_sends(&s, "l1", MB_DELETE, 20, "{'id': 'x'}");
    server_logged(&s, "s1", MB_CREATE, 1, "{'id': 'x', 'a': 9}");
    CHECK_RETRIED(&s, "s1 create @1 {'id': 'x', 'a': 9}\n");
}

TEST(what_is_excluded_from_a_retry_stays_so)
{
    story s = begin();
    mb_merge_result result;
    device_sends(&s, "l1", MB_CREATE, 20, "{'id': 'x'}");
    recognize_lists(&s);
    s.request.items[0].excluded = true;
    mb_know_all(&s.request);
    CHECK(!s.request.items[0].known);
    CHECK(recognize(s.arena, &s.window, &s.request) == MB_OK);
    CHECK(!s.request.items[0].excluded && !s.request.items[0].known);
    mb_know_all(&s.request);
    CHECK(recognize(s.arena, &s.window, &s.request) == MB_OK); /* which forgets it */
    CHECK(mb_merge(s.arena, &s.window, &s.request, &result) == MB_OK);
    CHECK(result.upstream.count == 1);
    end(&s);
}

TEST(a_device_that_starts_over_edits_what_it_had_pulled_by_time)
{
    story s = begin();
    server_logged(&s, "s1", MB_CREATE, 10, "{'id': 'x', 'a': 1, 'b': 1}"); /* clock 4 */
    server_logged(&s, "s2", MB_UPDATE, 30, "{'id': 'x', 'a': 2}");
    device_sends(&s, "l1", MB_UPDATE, 20, "{'id': 'x', 'a': 3, 'b': 3}");
    CHECK_STARTED_OVER(&s, 5, "l1 update @20 {'id':'x','b':3}\n");
}

TEST(what_was_born_at_its_clock_or_later_a_device_that_starts_over_had_not_pulled)
{
    story s = begin();
    server_logged(&s, "s1", MB_CREATE, 10, "{'id': 'x', 'a': 1}"); /* clock 4 */
    server_logged(&s, "s2", MB_CREATE, 10, "{'id': 'y', 'a': 1}");
    device_sends(&s, "l1", MB_UPDATE, 20, "{'id': 'x', 'a': 3}");
    device_sends(&s, "l2", MB_DELETE, 20, "{'id': 'y'}");
    CHECK_STARTED_OVER(&s, 4, NOTHING);
}

TEST(a_delete_of_a_device_that_starts_over_counts_if_it_had_pulled_the_row)
{
    story s = begin();
    server_logged(&s, "s1", MB_CREATE, 10, "{'id': 'x', 'a': 1}"); /* clock 4 */
    server_logged(&s, "s2", MB_UPDATE, 30, "{'id': 'x', 'a': 2}");
    device_sends(&s, "l1", MB_DELETE, 20, "{'id': 'x'}");
    CHECK_STARTED_OVER(&s, 5, "l1 delete @20 {'id': 'x'}\n");
}

TEST(what_the_log_does_not_have_is_dead_and_only_a_create_brings_it_back)
{
    story s = begin();
    device_sends(&s, "l1", MB_UPDATE, 20, "{'id': 'x', 'a': 3}");
    device_sends(&s, "l2", MB_DELETE, 20, "{'id': 'y'}");
    device_sends(&s, "l3", MB_CREATE, 20, "{'id': 'z'}");
    device_sends(&s, "l4", MB_DELETE, 20, "{'id': 'v'}");
    device_sends(&s, "l5", MB_CREATE, 21, "{'id': 'v', 'a': 1}");
    CHECK_STARTED_OVER(&s, 5, "l3 create @20 {'id': 'z'}\nl5 create @21 {'id': 'v', 'a': 1}\n");
}

TEST(a_life_that_a_device_pulled_is_not_replaced_for_the_delete_before_it)
{
    story s = begin();
    server_logged(&s, "s1", MB_DELETE, 10, "{'id': 'x'}");
    server_logged(&s, "s2", MB_CREATE, 11, "{'id': 'x', 'a': 1}"); /* clock 5 */
    device_sends(&s, "l1", MB_UPDATE, 20, "{'id': 'x', 'b': 3}");
    CHECK_STARTED_OVER(&s, 6, "l1 update @20 {'id': 'x', 'b': 3}\n");
}

TEST(what_of_a_device_that_starts_over_the_log_has_is_not_taken_twice)
{
    story s = begin();
    device_sends_again(&s, "l1", MB_CREATE, 10, "{'id': 'x', 'a': 1}");
    server_logged(&s, "s1", MB_UPDATE, 5, "{'id': 'x', 'a': 2}");
    device_sends(&s, "l2", MB_UPDATE, 20, "{'id': 'x', 'b': 1}");
    CHECK_STARTED_OVER(&s, 9, "l2 update @20 {'id': 'x', 'b': 1}\n");
}

/* ---- any lists ----------------------------------------------------------------------------- */

static uint32_t random_below(uint64_t *state, uint32_t limit)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 33) % limit;
}

static void add_random_diff(story *s, mb_diffs *list, const char *prefix, uint64_t *state)
{
    static const mb_type types[] = {MB_CREATE, MB_UPDATE, MB_UPDATE, MB_UPDATE, MB_DELETE};
    char id[32], json[128];
    const mb_type type = types[random_below(state, 5)];
    size_t size = (size_t)snprintf(json, sizeof json, "{'id': 'x%u'", random_below(state, 5));
    for (uint32_t more = type == MB_DELETE ? 0 : random_below(state, 4); more > 0; more--)
        size += (size_t)snprintf(json + size, sizeof json - size, ", 'f%u': %u",
                                 random_below(state, 4), random_below(state, 3));
    snprintf(json + size, sizeof json - size, "}");
    snprintf(id, sizeof id, "%s%zu", prefix, list->count);
    mb_diff *diff = add(s, list, id, type, random_below(state, 40), json);
    diff->logical_clock = FIRST_CLOCK + (int64_t)list->count;
    diff->model = random_below(state, 8) == 0 ? MB_TEXT("notes") : MB_TEXT("tasks");
}

enum { RANDOM_DIFFS = 40 };

/* A story of random edits; the device repeats some of the log, and some of its own. */
static story begin_at_random(uint64_t seed, uint64_t hash_seed)
{
    story s = begin_with(RANDOM_DIFFS, hash_seed);
    uint64_t state = seed * 1000003;
    while (s.window.count < RANDOM_DIFFS / 2 + seed % 20)
        add_random_diff(&s, &s.window, "s", &state);
    for (size_t known = 0; s.request.count < RANDOM_DIFFS - seed % 7;) {
        if (known < s.window.count && random_below(&state, 3) == 0) {
            known += random_below(&state, 3);
            if (known < s.window.count)
                s.request.items[s.request.count++] = s.window.items[known++];
        } else if (s.request.count > 0 && random_below(&state, 12) == 0) {
            s.request.items[s.request.count] =
                s.request.items[random_below(&state, (uint32_t)s.request.count)];
            s.request.count++;
        } else {
            add_random_diff(&s, &s.request, "l", &state);
        }
    }
    return s;
}

TEST(the_hash_seed_changes_nothing)
{
    bool moved_up = false, moved_down = false;
    for (uint64_t seed = 0; seed < 20; seed++) {
        story wanted = begin_at_random(seed, 0);
        (void)sync_lists(&wanted);
        moved_up |= wanted.upstream[0] != '\0';
        moved_down |= wanted.downstream[0] != '\0';
        for (uint64_t hash_seed = 1; hash_seed <= 50; hash_seed++) {
            story s = begin_at_random(seed, hash_seed);
            at_row("lists %" PRIu64 ", hash seed %" PRIu64, seed, hash_seed);
            CHECK_MERGED(&s, wanted.upstream, wanted.downstream);
        }
        end(&wanted);
    }
    CHECK(moved_up && moved_down);
}

TEST(a_window_in_any_order_is_the_same_window)
{
    for (uint64_t seed = 0; seed < 200; seed++) {
        story wanted = begin_at_random(seed, 0);
        (void)sync_lists(&wanted);
        story s = begin_at_random(seed, 0);
        uint64_t state = seed;
        for (size_t i = s.window.count - 1; i > 0; i--) {
            const size_t other = random_below(&state, (uint32_t)i + 1);
            const mb_diff moved = s.window.items[i];
            s.window.items[i] = s.window.items[other];
            s.window.items[other] = moved;
        }
        at_row("lists %" PRIu64, seed);
        CHECK_MERGED(&s, wanted.upstream, wanted.downstream);
        end(&wanted);
    }
}

static bool same_diff(const mb_diff *a, const mb_diff *b)
{
    return a->id.at == b->id.at && a->id.size == b->id.size && a->model.at == b->model.at &&
           a->json_data.at == b->json_data.at && a->json_data.size == b->json_data.size &&
           a->object_id.at == b->object_id.at && a->members == b->members &&
           a->member_count == b->member_count && a->logical_clock == b->logical_clock &&
           a->utc_timestamp == b->utc_timestamp && a->type == b->type && a->known == b->known &&
           a->repeated == b->repeated;
}

TEST(a_merge_does_not_change_its_input)
{
    for (uint64_t seed = 0; seed < 50; seed++) {
        story s = begin_at_random(seed, 0);
        mb_diff window[RANDOM_DIFFS], request[RANDOM_DIFFS];
        mb_merge_result result;
        (void)sync_lists(&s);
        memcpy(window, s.window.items, s.window.count * sizeof *window);
        memcpy(request, s.request.items, s.request.count * sizeof *request);
        CHECK(mb_merge(s.arena, &s.window, &s.request, &result) == MB_OK);
        for (size_t i = 0; i < s.window.count; i++)
            CHECK(same_diff(&window[i], &s.window.items[i]));
        for (size_t i = 0; i < s.request.count; i++)
            CHECK(same_diff(&request[i], &s.request.items[i]));
        end(&s);
    }
}

TEST(both_lists_leave_in_order_and_nothing_known_goes_up)
{
    for (uint64_t seed = 0; seed < 200; seed++) {
        story s = begin_at_random(seed, seed);
        const mb_merge_result result = sync_lists(&s);
        at_row("lists %" PRIu64, seed);
        for (size_t i = 0; i < result.upstream.count; i++) {
            const size_t source = result.upstream.items[i].source;
            CHECK(source < s.request.count);
            CHECK(i == 0 || source > result.upstream.items[i - 1].source);
            CHECK(!s.request.items[source].known && !s.request.items[source].repeated);
        }
        for (size_t i = 0; i < result.downstream.count; i++) {
            const size_t source = result.downstream.items[i].source;
            CHECK(source < s.window.count);
            CHECK(i == 0 || source > result.downstream.items[i - 1].source);
        }
        end(&s);
    }
}

/* Without deletes: one that was moot, 3.4, may not be so once the server heard more. */
TEST(edits_that_come_again_after_they_were_taken_do_not_move_up_again)
{
    for (uint64_t seed = 0; seed < 200; seed++) {
        story s = begin_at_random(seed, 0);
        for (size_t i = 0; i < s.request.count; i++)
            if (s.request.items[i].type == MB_DELETE && s.request.items[i].id.at[0] == 'l')
                s.request.items[i].type = MB_UPDATE;
        const mb_merge_result result = sync_lists(&s);
        story again = begin_with(2 * RANDOM_DIFFS, 0);
        memcpy(again.window.items, s.window.items, s.window.count * sizeof(mb_diff));
        memcpy(again.request.items, s.request.items, s.request.count * sizeof(mb_diff));
        again.window.count = s.window.count;
        again.request.count = s.request.count;
        for (size_t i = 0; i < result.upstream.count; i++) {
            const mb_outcome *o = &result.upstream.items[i];
            mb_diff *logged = &again.window.items[again.window.count++];
            *logged = s.request.items[o->source];
            logged->type = o->type;
            logged->utc_timestamp = o->utc_timestamp;
            logged->json_data = o->json_data;
            logged->logical_clock = FIRST_CLOCK + (int64_t)again.window.count;
        }
        (void)sync_lists(&again);
        at_row("lists %" PRIu64, seed);
        CHECK_TEXT(again.upstream, NOTHING);
        end(&again);
        end(&s);
    }
}

/* ---- without memory ------------------------------------------------------------------------ */

/* Has the merge sort, grow a table, write a create again and cut diffs on both sides. */
static void tell_of_everything(story *s)
{
    server_logged(s, "s2", MB_UPDATE, 30, "{'id': 'x', 'a': 1, 'b': 1}")->logical_clock = 9;
    server_logged(s, "s1", MB_UPDATE, 10, "{'id': 'x', '\\u0063': 1, 'd': 1}")->logical_clock = 8;
    device_sends(s, "l1", MB_UPDATE, 20, "{'id': 'x', 'b': 2, 'c': 2}");
    device_sends(s, "l2", MB_CREATE, 20, "{'id': 'y', 'e': 1, 'f': 2}");
    device_sends(s, "l3", MB_UPDATE, 30, "{'id': 'y', 'f': 3, 'g': 3, 'h': 4, 'i': 5}");
    device_sends(s, "l4", MB_UPDATE, 30, "{'id': 'z', 'j': 3, 'k': 3, 'l': 4, 'm': 5}");
    device_sends(s, "s2", MB_UPDATE, 30, "{'id': 'x', 'a': 1, 'b': 1}");
    device_sends(s, "l5", MB_DELETE, 30, "{'id': 'w'}");
}

static mb_status merge_and_tell(void *context, mb_arena *arena, FILE *told)
{
    const story *s = context;
    mb_merge_result result;
    const mb_status status = mb_merge(arena, &s->window, &s->request, &result);
    if (status == MB_OK) {
        tell(told, &s->request, &result.upstream);
        tell(told, &s->window, &result.downstream);
    }
    return status;
}

TEST(lists_are_merged_or_memory_is_out)
{
    story s = begin();
    tell_of_everything(&s);
    (void)sync_lists(&s);
    CHECK(check_survives_scarcity(merge_and_tell, &s) > 0); /* cJSON decodes the escaped name */
    end(&s);
}

static mb_status start_over_and_tell(void *context, mb_arena *arena, FILE *told)
{
    story *s = context;
    mb_merge_result result;
    mb_status status = recognize(arena, &s->window, &s->request);
    if (status == MB_OK)
        status = mb_merge_behind(arena, &s->window, &s->request, FIRST_CLOCK + 4, &result);
    if (status == MB_OK)
        tell(told, &s->request, &result.upstream);
    return status;
}

static mb_status recognize_and_tell(void *context, mb_arena *arena, FILE *told)
{
    story *s = context;
    const mb_status status = recognize(arena, &s->window, &s->request);
    for (size_t i = 0; status == MB_OK && i < s->request.count; i++)
        fprintf(told, "%d%d ", s->request.items[i].known, s->request.items[i].repeated);
    for (size_t i = 0; status == MB_OK && i < s->window.count; i++)
        fprintf(told, "%d ", s->window.items[i].known);
    return status;
}

TEST(lists_of_a_device_that_starts_over_are_merged_or_memory_is_out)
{
    story s = begin();
    tell_of_everything(&s);
    (void)sync_lists(&s);
    CHECK(check_survives_scarcity(start_over_and_tell, &s) > 0);
    end(&s);
}

TEST(lists_are_recognized_or_memory_is_out)
{
    story s = begin();
    tell_of_everything(&s);
    CHECK(check_survives_scarcity(recognize_and_tell, &s) == 0);
    end(&s);
}

typedef struct {
    mb_text window; /* JSON arrays */
    mb_text request;
} printed_lists;

static mb_status read_checked(mb_text text, mb_arena *arena, mb_diffs *diffs)
{
    size_t index;
    mb_error error;
    mb_status status = mb_diffs_read(text, arena, diffs, &index, &error);
    for (size_t i = 0; status == MB_OK && i < diffs->count; i++)
        status = mb_diff_check(&diffs->items[i], NULL, arena, &error);
    return status;
}

static mb_status sync_from_text(void *context, mb_arena *arena, FILE *told)
{
    const printed_lists *lists = context;
    mb_diffs window, request;
    mb_merge_result result;
    if (read_checked(lists->window, arena, &window) != MB_OK ||
        read_checked(lists->request, arena, &request) != MB_OK ||
        recognize(arena, &window, &request) != MB_OK ||
        mb_merge(arena, &window, &request, &result) != MB_OK)
        return MB_NO_MEMORY;
    char *printed = malloc(mb_reply_most_bytes(&window, &result.downstream));
    CHECK(printed != NULL);
    const size_t size = mb_reply_put(&window, &result.downstream, 7, printed);
    tell(told, &request, &result.upstream);
    fprintf(told, "%.*s\n", (int)size, printed);
    free(printed);
    return MB_OK;
}

static char *print_list(const mb_diffs *list)
{
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    fputc('[', out);
    for (size_t i = 0; i < list->count; i++) {
        const mb_diff *diff = &list->items[i];
        const mb_outcome unchanged = {
            .type = diff->type, .utc_timestamp = diff->utc_timestamp, .json_data = diff->json_data};
        char *printed = malloc(mb_log_row_most_bytes(diff, &unchanged, diff->owner));
        CHECK(printed != NULL);
        const size_t bytes =
            mb_log_row_put(diff, &unchanged, diff->owner, diff->logical_clock, printed);
        fprintf(out, "%s%.*s", i == 0 ? "" : ",", (int)bytes, printed);
        free(printed);
    }
    fputc(']', out);
    fclose(out);
    return text;
}

TEST(a_whole_sync_from_text_to_text_succeeds_or_memory_is_out)
{
    story s = begin();
    tell_of_everything(&s);
    char *window = print_list(&s.window);
    char *request = print_list(&s.request);
    printed_lists lists = {{window, strlen(window)}, {request, strlen(request)}};
    CHECK(check_survives_scarcity(sync_from_text, &lists) > 0);
    free(request);
    free(window);
    end(&s);
}

int main(void)
{
    RUN(nothing_on_either_side_moves_nothing);
    RUN(what_the_device_alone_did_goes_up_as_it_is);
    RUN(what_the_server_alone_logged_goes_down_as_it_is);
    RUN(an_unchanged_diff_is_not_even_copied);

    RUN(later_edits_of_a_new_object_are_folded_into_its_create);
    RUN(an_edit_sorted_before_the_create_of_its_millisecond_stays_on_top);
    RUN(an_edit_older_than_the_create_is_of_an_earlier_life);
    RUN(a_create_of_what_the_device_has_created_is_an_edit);
    RUN(a_clock_that_jumps_back_does_not_turn_edits_around);
    RUN(of_two_edits_of_one_millisecond_the_later_in_the_list_wins);
    RUN(an_edit_of_a_row_that_the_device_deleted_is_ignored);
    RUN(an_edit_of_a_row_that_the_device_deleted_is_not_one_of_the_row_that_follows);
    RUN(a_delete_is_as_late_as_the_edit_before_it);
    RUN(a_create_and_a_delete_that_the_server_never_heard_of_cancel);
    RUN(a_delete_of_what_the_server_has_heard_of_goes_up);
    RUN(after_a_cancelled_life_the_first_delete_still_goes_up);
    RUN(a_life_that_the_server_heard_of_does_not_keep_the_next_from_cancelling);
    RUN(lives_of_one_millisecond_do_not_mix);
    RUN(a_delete_before_a_create_that_the_server_has_is_moot);
    RUN(a_known_edit_keeps_down_the_unknown_one_that_it_superseded);
    RUN(what_is_known_is_not_sent_again_but_what_is_new_is);
    RUN(a_diff_id_that_stands_twice_counts_once);

    RUN(an_edit_that_a_later_one_replaced_does_not_go_down);
    RUN(an_edit_counts_as_late_as_what_it_replaced);
    RUN(the_log_decides_the_order_and_not_the_list);
    RUN(among_diffs_of_one_clock_the_timestamp_decides);
    RUN(among_diffs_of_one_clock_and_timestamp_the_given_order_decides);
    RUN(an_edit_in_the_log_of_a_row_that_was_gone_is_ignored);

    RUN(an_edit_in_the_log_of_a_row_that_was_gone_does_not_begin_the_next);
    RUN(a_delete_beats_an_edit_however_late);
    RUN(a_create_later_than_the_delete_lives);
    RUN(a_create_no_later_than_the_delete_dies);
    RUN(a_create_after_the_devices_own_known_delete_lives);
    RUN(what_both_deleted_is_gone_without_a_word);
    RUN(what_came_and_went_unseen_is_not_mentioned);
    RUN(what_came_and_went_is_deleted_where_the_device_has_one_of_its_own);

    RUN(a_delete_takes_concurrent_edits_with_it);
    RUN(a_create_in_place_of_what_was_deleted_follows_the_delete);
    RUN(a_delete_does_not_reach_a_life_that_began_elsewhere);

    RUN(different_fields_stand_beside_each_other);
    RUN(of_one_field_the_later_edit_wins_and_a_tie_goes_to_the_device);
    RUN(what_both_wrote_alike_does_not_move);
    RUN(values_are_equal_when_their_texts_are);
    RUN(a_diff_keeps_those_fields_that_won);
    RUN(fields_go_up_in_the_diffs_that_they_came_from);
    RUN(one_id_made_on_two_devices_becomes_one_object);
    RUN(a_create_goes_down_whole_though_later_edits_follow);
    RUN(a_known_create_goes_down_as_an_edit_to_a_device_that_lost_what_was_folded_in);
    RUN(an_edit_that_an_earlier_try_folded_into_the_create_is_known_too);
    RUN(a_device_that_may_hold_the_dead_row_hears_of_its_death_before_its_rebirth);
    RUN(what_the_server_heard_of_the_dead_row_says_nothing_of_the_one_born_since);
    RUN(an_edit_of_a_row_that_the_device_cannot_have_seen_does_not_count);
    RUN(a_row_of_the_devices_own_is_turned_into_the_one_born_since);
    RUN(a_row_of_the_devices_own_with_a_field_too_many_is_replaced);
    RUN(a_device_that_deleted_the_dead_row_hears_of_the_rebirth_alone);
    RUN(an_edit_of_no_field_is_not_sent);

    RUN(names_are_compared_decoded_and_written_as_they_stood);
    RUN(names_ids_and_models_of_other_spelling_are_others);
    RUN(of_a_member_that_stands_twice_the_last_value_counts);
    RUN(a_diff_with_a_member_that_stands_twice_is_sent_on_unchanged_too);
    RUN(a_member_that_stands_twice_in_a_create_is_folded_once);

    RUN(of_many_lives_on_the_device_only_the_last_goes_up);
    RUN(of_many_lives_on_the_device_that_ended_nothing_goes_up);
    RUN(of_many_lives_in_the_log_only_the_last_goes_down);
    RUN(a_timestamp_of_an_earlier_life_does_not_outlive_it);

    RUN(what_both_lists_have_is_known_and_what_stands_twice_is_repeated);
    RUN(nothing_is_known_to_an_empty_list);

    RUN(of_a_retry_all_is_known_whatever_the_log_has_kept);
    RUN(an_object_that_a_retry_deleted_and_that_lives_by_now_comes_as_a_create);
    RUN(what_is_excluded_from_a_retry_stays_so);
    RUN(a_device_that_starts_over_edits_what_it_had_pulled_by_time);
    RUN(what_was_born_at_its_clock_or_later_a_device_that_starts_over_had_not_pulled);
    RUN(a_delete_of_a_device_that_starts_over_counts_if_it_had_pulled_the_row);
    RUN(what_the_log_does_not_have_is_dead_and_only_a_create_brings_it_back);
    RUN(a_life_that_a_device_pulled_is_not_replaced_for_the_delete_before_it);
    RUN(what_of_a_device_that_starts_over_the_log_has_is_not_taken_twice);

    RUN(the_hash_seed_changes_nothing);
    RUN(a_window_in_any_order_is_the_same_window);
    RUN(a_merge_does_not_change_its_input);
    RUN(both_lists_leave_in_order_and_nothing_known_goes_up);
    RUN(edits_that_come_again_after_they_were_taken_do_not_move_up_again);

    RUN(lists_are_merged_or_memory_is_out);
    RUN(lists_of_a_device_that_starts_over_are_merged_or_memory_is_out);
    RUN(lists_are_recognized_or_memory_is_out);
    RUN(a_whole_sync_from_text_to_text_succeeds_or_memory_is_out);
    return tests_end();
}
