/* test_restore.c - the objects of refused diffs go back to the server's state.
 *
 * As in test_merge.c, JSON is written with ' for ".  What goes downstream is told a line a diff: clock,
 * time, type, id and json_data; a delete that was made up has the id "-".  Refused is what has an id
 * with a "!".
 */
#include "../../csrc/core/text.h"
#include "quoted.h"
#include "recognize.h"
#include "scarcity.h"

enum { ROOM = 8 };

typedef struct {
    const char *id;
    mb_type type;
    int64_t clock;
    int64_t at_ms;
    const char *json_data;
} edit;

/* A log, and a request of which some was refused.  The window is the log from the client's clock. */
typedef struct {
    const char *name;
    edit log[ROOM];
    edit request[ROOM];
    int64_t client_clock;
    const char *downstream;
} refusal;

static const refusal refusals[] = {
    {"a refused create is deleted",
     {{NULL, MB_CREATE, 0, 0, NULL}},
     {{"!c", MB_CREATE, 0, 5, "{'id': 'x', 'a': 1}"}},
     0,
     "0 0 delete - {\"id\": \"x\"}\n"},
    {"a refused update of a row that was seen is undone by updates",
     {{"s1", MB_CREATE, 0, 5, "{'id': 'x', 'a': 1}"},
      {"s2", MB_UPDATE, 1, 6, "{'id': 'x', 'a': 2}"}},
     {{"!u", MB_UPDATE, 0, 9, "{'id': 'x', 'a': 3}"}},
     2,
     "0 5 update s1 {\"id\": \"x\", \"a\": 1}\n1 6 update s2 {\"id\": \"x\", \"a\": 2}\n"},
    {"a field that the row never had takes a new row",
     {{"s1", MB_CREATE, 0, 5, "{'id': 'x', 'a': 1}"}},
     {{"!u", MB_UPDATE, 0, 9, "{'id': 'x', 'b': 3}"}},
     1,
     "0 0 delete - {\"id\": \"x\"}\n0 5 create s1 {\"id\": \"x\", \"a\": 1}\n"},
    {"a row that the device deleted is made again",
     {{"s1", MB_CREATE, 0, 0, "{'id': 'x', 'a': 1}"}},
     {{"!d", MB_DELETE, 0, 9, "{'id': 'x'}"}},
     1,
     "0 0 delete - {\"id\": \"x\"}\n0 1 create s1 {\"id\": \"x\", \"a\": 1}\n"},
    {"a row of a life that the device has not seen is made again",
     {{"s1", MB_DELETE, 3, 5, "{'id': 'x'}"}, {"s2", MB_CREATE, 4, 6, "{'id': 'x', 'a': 1}"}},
     {{"!u", MB_UPDATE, 0, 9, "{'id': 'x', 'a': 3}"}},
     3,
     "4 0 delete - {\"id\": \"x\"}\n4 6 create s2 {\"id\": \"x\", \"a\": 1}\n"},
    {"a row that the device made itself is its own",
     {{"c", MB_CREATE, 4, 6, "{'id': 'x', 'a': 1}"}},
     {{"c", MB_CREATE, 0, 6, "{'id': 'x', 'a': 1}"},
      {"!u", MB_UPDATE, 0, 9, "{'id': 'x', 'a': 3}"}},
     4,
     "4 6 update c {\"id\": \"x\", \"a\": 1}\n"},
    {"a row that both made is made again",
     {{"s", MB_CREATE, 4, 6, "{'id': 'x', 'a': 1}"}},
     {{"!c", MB_CREATE, 0, 6, "{'id': 'x', 'a': 2}"}},
     4,
     "4 0 delete - {\"id\": \"x\"}\n4 6 create s {\"id\": \"x\", \"a\": 1}\n"},
    {"an accepted edit of the object counts too",
     {{"s1", MB_CREATE, 0, 5, "{'id': 'x', 'a': 1}"},
      {"k", MB_UPDATE, 1, 6, "{'id': 'x', 'b': 2}"}},
     {{"k", MB_UPDATE, 0, 6, "{'id': 'x', 'b': 2, 'lost': 1}"},
      {"!u", MB_UPDATE, 0, 9, "{'id': 'x', 'a': 3}"}},
     1,
     "0 0 delete - {\"id\": \"x\"}\n0 5 create s1 {\"id\": \"x\", \"a\": 1}\n"
     "1 6 update k {\"id\": \"x\", \"b\": 2}\n"},
    {"what was dead stays dead, the first refused last",
     {{"s", MB_DELETE, 4, 6, "{'id': 'y'}"}},
     {{"!cx", MB_CREATE, 0, 6, "{'id': 'x'}"}, {"!cy", MB_CREATE, 0, 6, "{'id': 'y'}"}},
     4,
     "4 0 delete - {\"id\": \"y\"}\n4 1 delete - {\"id\": \"x\"}\n"},
    {"other objects get what the merge says, in log order",
     {{"s1", MB_CREATE, 2, 9, "{'id': 'z', 'a': 1}"},
      {"s2", MB_CREATE, 4, 6, "{'id': 'x', 'a': 1}"},
      {"s3", MB_UPDATE, 5, 1, "{'id': 'z', 'b': 1}"}},
     {{"!ux", MB_UPDATE, 0, 6, "{'id': 'x', 'a': 2}"},
      {"uz", MB_UPDATE, 0, 8, "{'id': 'z', 'c': 1}"}},
     5,
     "4 6 update s2 {\"id\": \"x\", \"a\": 1}\n5 1 update s3 {\"id\": \"z\", \"b\": 1}\n"},
    {"an id is printed as JSON",
     {{NULL, MB_CREATE, 0, 0, NULL}},
     {{"!c", MB_CREATE, 0, 5, "{'id': '\\u0022\\\\\\n\\u00e9'}"}},
     0,
     "0 0 delete - {\"id\": \"\\\"\\\\\\n\xc3\xa9\"}\n"},
};

typedef struct {
    mb_diffs history;
    mb_diffs window;
    mb_diffs request;
    int64_t client_clock;
} lists;

static mb_diffs read_edits(mb_arena *arena, const edit *edits, int64_t from_clock)
{
    mb_diffs list;
    mb_error error;
    CHECK(mb_diffs_new(arena, ROOM, &list) == MB_OK);
    list.count = 0;
    for (size_t i = 0; i < ROOM && edits[i].id != NULL; i++) {
        if (edits[i].clock < from_clock)
            continue;
        mb_diff *diff = &list.items[list.count++];
        *diff = (mb_diff){.id = keep(arena, edits[i].id),
                          .owner = MB_TEXT("anna"),
                          .model = MB_TEXT("tasks"),
                          .json_data = keep(arena, edits[i].json_data),
                          .logical_clock = edits[i].clock,
                          .utc_timestamp = edits[i].at_ms,
                          .type = edits[i].type};
        CHECK(mb_diff_check(diff, NULL, arena, &error) == MB_OK);
    }
    return list;
}

static lists read_lists(mb_arena *arena, const refusal *r)
{
    lists l = {read_edits(arena, r->log, 0), read_edits(arena, r->log, r->client_clock),
               read_edits(arena, r->request, 0), r->client_clock};
    CHECK(recognize(arena, &l.window, &l.request) == MB_OK);
    for (size_t i = 0; i < l.request.count; i++)
        l.request.items[i].excluded = r->request[i].id[0] == '!';
    return l;
}

static void tell(FILE *told, const mb_diffs *diffs, const mb_outcomes *downstream)
{
    for (size_t i = 0; i < downstream->count; i++) {
        const mb_outcome *outcome = &downstream->items[i];
        const mb_diff *diff = &diffs->items[outcome->source];
        const mb_text id = diff->id.size != 0 ? diff->id : MB_TEXT("-");
        const mb_text type = mb_type_name(outcome->type);
        fprintf(told, "%d %d %.*s %.*s %.*s\n", (int)diff->logical_clock,
                (int)outcome->utc_timestamp, (int)type.size, type.at, (int)id.size, id.at,
                (int)outcome->json_data.size, outcome->json_data.at);
    }
}

static mb_status restore_and_tell(void *context, mb_arena *arena, FILE *told)
{
    lists *l = context;
    mb_merge_result merged;
    mb_diffs diffs;
    mb_outcomes downstream;
    if (mb_merge(arena, &l->window, &l->request, &merged) != MB_OK)
        return MB_NO_MEMORY;
    int64_t clock = 0;
    for (size_t i = 0; i < l->history.count; i++)
        clock = l->history.items[i].logical_clock + 1;
    const mb_refused_sync sync = {&l->window,      &l->request,     &merged,
                                  MB_TEXT("anna"), l->client_clock, clock};
    if (mb_restore(arena, &l->history, &sync, &diffs, &downstream) != MB_OK)
        return MB_NO_MEMORY;
    tell(told, &diffs, &downstream);
    for (size_t i = 0; i < diffs.count; i++)
        CHECK(mb_text_equal(diffs.items[i].owner, MB_TEXT("anna")));
    return MB_OK;
}

static void check_restored(lists *l, mb_arena *arena, const char *wanted)
{
    char *text;
    size_t size;
    FILE *told = open_memstream(&text, &size);
    CHECK(restore_and_tell(l, arena, told) == MB_OK);
    fclose(told);
    CHECK_TEXT(text, wanted);
    free(text);
}

TEST(objects_of_refused_diffs_go_back_to_the_servers_state)
{
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        mb_arena *arena;
        at_row("%s", refusals[i].name);
        CHECK(mb_arena_new(NULL, 0, &arena) == MB_OK);
        lists l = read_lists(arena, &refusals[i]);
        check_restored(&l, arena, refusals[i].downstream);
        mb_arena_free(arena);
    }
}

TEST(what_a_malformed_diff_set_is_not_known_so_the_row_is_made_again)
{
    static const refusal r = {.log = {{"s1", MB_CREATE, 0, 5, "{'id': 'x', 'a': 1}"}},
                              .client_clock = 1};
    mb_arena *arena;
    CHECK(mb_arena_new(NULL, 0, &arena) == MB_OK);
    lists l = read_lists(arena, &r);
    mb_error error;
    mb_refuse(&error, MB_MISSING, "owner");
    l.request.items[0] = (mb_diff){.id = MB_TEXT("u"),
                                   .model = MB_TEXT("tasks"),
                                   .json_data = keep(arena, "{'id': 'x', 'a': NaN}")};
    l.request.items[1] = (mb_diff){.id = MB_TEXT("v"), .json_data = keep(arena, "[]")};
    l.request.count = 2;
    CHECK(mb_keep_malformed(&l.request.items[0], &error, arena) == MB_OK);
    CHECK(mb_keep_malformed(&l.request.items[1], &error, arena) == MB_OK);
    check_restored(&l, arena,
                   "0 0 delete - {\"id\": \"x\"}\n0 5 create s1 {\"id\": \"x\", \"a\": 1}\n");
    mb_arena_free(arena);
}

TEST(objects_are_restored_or_memory_is_out)
{
    static const refusal r = {.log = {{"s1", MB_CREATE, 2, 9, "{'id': 'z', 'a': 1}"},
                                      {"s2", MB_CREATE, 4, 6, "{'id': 'x', 'a': 1}"},
                                      {"s3", MB_UPDATE, 5, 1, "{'id': 'x', 'a': 2, 'b': 1}"}},
                              .request = {{"!ux", MB_UPDATE, 0, 6, "{'id': 'x', 'a': 2}"},
                                          {"!uz", MB_UPDATE, 0, 8, "{'id': 'z', 'c': 1}"},
                                          {"!uy", MB_CREATE, 0, 8, "{'id': 'y', 'c': 1}"}},
                              .client_clock = 5};
    mb_arena *arena;
    CHECK(mb_arena_new(NULL, 0, &arena) == MB_OK);
    lists l = read_lists(arena, &r);
    CHECK(check_survives_scarcity(restore_and_tell, &l) == 0);
    mb_arena_free(arena);
}

int main(void)
{
    RUN(objects_of_refused_diffs_go_back_to_the_servers_state);
    RUN(what_a_malformed_diff_set_is_not_known_so_the_row_is_made_again);
    RUN(objects_are_restored_or_memory_is_out);
    return tests_end();
}
