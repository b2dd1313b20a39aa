/* fuzz_restore.c - a device some of whose diffs are refused, and what it holds after the reply.
 *
 * The input decides what the log has, up to which clock the device has seen it, what it did since and
 * what of that is refused.  A row is a few fields with one value each.  Holds after the reply: of each
 * object of which something was refused the device has just the server's row, whether it takes the
 * reply in the order given or sorted by clock and timestamp; no create meets a row; the made-up deletes
 * are the only diffs without an id; and the whole is the same for another hash seed.
 */
#include "oracle.h"

enum { MOST = 12, OBJECTS = 2, FIELDS = 3 };

/* What stands in each field; 0: nothing. */
typedef struct {
    bool is_there;
    char fields[FIELDS];
} row;

static const char *const object_ids[OBJECTS] = {"x", "y"};
static unsigned ids_made;

static mb_text print(mb_arena *arena, const char *format, unsigned number)
{
    char *text = mb_arena_get(arena, 32);
    HOLDS(text != NULL);
    return (mb_text){text, (size_t)snprintf(text, 32, format, number)};
}

/* An edit that a user could make of that row: no update of what is not there. */
static mb_diff invent(decisions *from, mb_arena *arena, unsigned object, const row *before)
{
    mb_error error;
    char *text = mb_arena_get(arena, 80);
    HOLDS(text != NULL);
    mb_diff diff = {.id = print(arena, "%u", ids_made++),
                    .owner = {"o", 1},
                    .model = {"m", 1},
                    .utc_timestamp = choose(from, 4)};
    diff.type = !before->is_there ? MB_CREATE : choose(from, 4) == 0 ? MB_DELETE : MB_UPDATE;
    size_t size = (size_t)snprintf(text, 80, "{\"id\":\"%s\"", object_ids[object]);
    for (unsigned i = 0; i < FIELDS && diff.type != MB_DELETE; i++)
        if (choose(from, 2) == 0)
            size += (size_t)snprintf(text + size, 80 - size, ",\"%c\":%u", 'a' + i,
                                     1 + choose(from, 9));
    size += (size_t)snprintf(text + size, 80 - size, "}");
    diff.json_data = (mb_text){text, size};
    HOLDS(mb_diff_check(&diff, NULL, arena, &error) == MB_OK);
    return diff;
}

static unsigned object_of(mb_text id)
{
    return id.at[0] == 'x' ? 0 : 1;
}

static void apply(row *rows, mb_type type, mb_text object_id, const mb_member *members,
                  size_t count)
{
    row *r = &rows[object_of(object_id)];
    if (type == MB_DELETE)
        *r = (row){.is_there = false};
    if (type == MB_DELETE || (type == MB_UPDATE && !r->is_there))
        return;
    r->is_there = true;
    for (size_t i = 0; i < count; i++)
        if (members[i].name.at[0] != 'i')
            r->fields[members[i].name.at[0] - 'a'] = members[i].value.at[0];
}

static void apply_diff(row *rows, const mb_diff *diff)
{
    apply(rows, diff->type, diff->object_id, diff->members, diff->member_count);
}

static mb_diffs invent_log(decisions *from, mb_arena *arena, row *rows)
{
    mb_diffs log;
    HOLDS(mb_diffs_new(arena, choose(from, MOST), &log) == MB_OK);
    for (size_t i = 0; i < log.count; i++) {
        const unsigned object = choose(from, OBJECTS);
        log.items[i] = invent(from, arena, object, &rows[object]);
        log.items[i].logical_clock = (int64_t)i;
        apply_diff(rows, &log.items[i]);
    }
    return log;
}

/* What the device does to its rows. */
static mb_diffs invent_request(decisions *from, mb_arena *arena, row *rows)
{
    mb_diffs request;
    HOLDS(mb_diffs_new(arena, 1 + choose(from, MOST), &request) == MB_OK);
    for (size_t i = 0; i < request.count; i++) {
        const unsigned object = choose(from, OBJECTS);
        request.items[i] = invent(from, arena, object, &rows[object]);
        apply_diff(rows, &request.items[i]);
    }
    return request;
}

/* Excludes some; a create or delete takes along what follows of its object. */
static void refuse(decisions *from, mb_arena *arena, mb_diffs *request, bool *is_refused)
{
    HOLDS(mb_link_objects(arena, request) == MB_OK);
    for (size_t i = 0; i < request->count; i++) {
        mb_diff *diff = &request->items[i];
        if (diff->excluded || choose(from, 3) != 0)
            continue;
        diff->excluded = is_refused[object_of(diff->object_id)] = true;
        for (mb_diff *next = diff->next_of_object; next != NULL && diff->type != MB_UPDATE;
             next = next->next_of_object)
            next->excluded = true;
    }
}

/* The log with what the merge sends upstream. */
static mb_diffs log_with(mb_arena *arena, const mb_diffs *log, const mb_diffs *request,
                         const mb_outcomes *upstream)
{
    mb_diffs longer;
    mb_error error;
    HOLDS(mb_diffs_new(arena, log->count + upstream->count, &longer) == MB_OK);
    memcpy(longer.items, log->items, log->count * sizeof *log->items);
    for (size_t i = 0; i < upstream->count; i++) {
        const mb_outcome *outcome = &upstream->items[i];
        mb_diff *diff = &longer.items[log->count + i];
        *diff = request->items[outcome->source];
        diff->type = outcome->type;
        diff->json_data = outcome->json_data;
        diff->utc_timestamp = outcome->utc_timestamp;
        diff->logical_clock = (int64_t)(log->count + i);
        HOLDS(mb_diff_check(diff, NULL, arena, &error) == MB_OK);
    }
    return longer;
}

static void take_reply(row *rows, const mb_diffs *diffs, const mb_outcomes *downstream,
                       mb_arena *arena)
{
    int64_t clock = 0, time = 0;
    mb_error error;
    for (size_t i = 0; i < downstream->count; i++) {
        const mb_outcome *outcome = &downstream->items[i];
        mb_diff diff = diffs->items[outcome->source];
        HOLDS(diff.logical_clock > clock ||
              (diff.logical_clock == clock && outcome->utc_timestamp >= time));
        clock = diff.logical_clock;
        time = outcome->utc_timestamp;
        HOLDS(diff.id.size != 0 || outcome->type == MB_DELETE);
        if (diff.id.size == 0)
            diff.id = (mb_text){"made up", 7};
        diff.type = outcome->type;
        diff.json_data = outcome->json_data;
        HOLDS(mb_diff_check(&diff, NULL, arena, &error) == MB_OK);
        HOLDS(diff.type != MB_CREATE || !rows[object_of(diff.object_id)].is_there);
        apply_diff(rows, &diff);
    }
}

static void expect_same_reply(const mb_diffs *diffs, const mb_outcomes *a, const mb_outcomes *b)
{
    HOLDS(a->count == b->count);
    for (size_t i = 0; i < a->count; i++) {
        HOLDS(a->items[i].source == b->items[i].source && a->items[i].type == b->items[i].type);
        HOLDS(a->items[i].source < diffs->count);
        HOLDS(mb_text_equal(a->items[i].json_data, b->items[i].json_data));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    decisions from = {bytes, bytes + size};
    ids_made = 0;
    mb_arena *arena = new_arena(1), *other = new_arena(2);
    row server[OBJECTS] = {{false, {0}}}, device[OBJECTS] = {{false, {0}}};
    bool is_refused[OBJECTS] = {false};
    mb_diffs log = invent_log(&from, arena, server);
    const size_t seen = choose(&from, (unsigned)log.count + 1);
    for (size_t i = 0; i < seen; i++)
        apply_diff(device, &log.items[i]);
    mb_diffs request = invent_request(&from, arena, device);
    mb_diffs window = {log.items + seen, log.count - seen}, diffs, same_diffs;
    mb_outcomes downstream, same;
    mb_merge_result merged;
    recognize(arena, &window, &request);
    refuse(&from, arena, &request, is_refused);
    HOLDS(mb_merge(arena, &window, &request, &merged) == MB_OK);
    mb_diffs history = log_with(arena, &log, &request, &merged.upstream);
    for (size_t i = log.count; i < history.count; i++)
        apply_diff(server, &history.items[i]);

    const mb_refused_sync sync = {&window,      &request,      &merged,
                                  {"owner", 5}, (int64_t)seen, (int64_t)history.count};
    HOLDS(mb_restore(arena, &history, &sync, &diffs, &downstream) == MB_OK);
    HOLDS(mb_restore(other, &history, &sync, &same_diffs, &same) == MB_OK);
    expect_same_reply(&diffs, &downstream, &same);
    take_reply(device, &diffs, &downstream, arena);
    for (unsigned i = 0; i < OBJECTS; i++)
        HOLDS(!is_refused[i] || memcmp(&server[i], &device[i], sizeof device[i]) == 0);
    mb_arena_free(other);
    mb_arena_free(arena);
    return 0;
}
