/* fuzz_merge.c - the merge of two lists of diffs that need not make sense.
 *
 * The input is a row of decisions: which ids, objects, fields and times the diffs of both lists
 * have, out of few, so that they meet.  Holds whatever they are: the outcomes come in order, each
 * from another diff, none from one that the server knows; what leaves is a well-formed diff of the
 * same object; marked as written are those that outcomes come from and, of objects whose create goes
 * up, edits; the lists are as they were; the hash seed makes no difference; what the request touches
 * and the rest, merged apart, make the whole; the same request again sends up nothing of an object
 * that nobody deleted; as a retry, of which all is known, it sends up nothing at all; and of a device
 * that starts over nothing known goes up, and nothing down.
 */
#include "oracle.h"

enum { MOST = 12 }; /* diffs in a list */

static const char *const ids[] = {"1", "2", "3", "4", "5", "6", "7", "8", "9"};
static const char *const json_datas[] = {
    "{\"id\":\"x\"}",
    "{\"id\":\"x\",\"a\":1}",
    "{\"a\":2,\"id\":\"x\",\"b\":1}",
    "{\"id\":\"y\",\"a\":1,\"a\":2,\"id\":\"x\"}",
    " { \"\\u0061\" : 1.0 , \"\\u0069d\" : \"\\u0078\" , \"b\":{\"a\":[]} } ",
    "{\"id\":\"x\",\"b\":2,\"a\":1,\"c\":\"\\u00e9\"}",
    "{\"id\":\"y\"}",
    "{\"id\":\"y\",\"a\":2,\"\":null}",
    "{\"b\":1,\"id\":\"y\",\"id\":\"y\",\"b\":2}",
};

static mb_text text_of(const char *string)
{
    return (mb_text){string, strlen(string)};
}

static void check(mb_diff *diff, mb_arena *arena)
{
    mb_error error;
    HOLDS(mb_diff_check(diff, NULL, arena, &error) == MB_OK);
}

static void check_row(mb_diff *row, mb_arena *arena)
{
    mb_error error;
    HOLDS(mb_log_row_check(row, arena, &error) == MB_OK);
}

static mb_diffs invent_diffs(decisions *from, bool ids_recur, mb_arena *arena)
{
    mb_diffs diffs;
    HOLDS(mb_diffs_new(arena, choose(from, MOST + 1), &diffs) == MB_OK);
    for (size_t i = 0; i < diffs.count; i++) {
        mb_diff *diff = &diffs.items[i];
        const size_t choices = sizeof json_datas / sizeof *json_datas;
        diff->type = (mb_type)choose(from, 3);
        diff->json_data = text_of(json_datas[choose(from, (unsigned)choices)]);
        diff->model = text_of(choose(from, 8) == 0 ? "n" : "m");
        diff->owner = text_of("o");
        diff->id = text_of(ids[ids_recur ? choose(from, 9) : i % 9]);
        diff->utc_timestamp = choose(from, 6);
        diff->logical_clock = choose(from, 8);
        if (!ids_recur && choose(from, 2) == 0)
            check_row(diff, arena); /* of a window */
        else
            check(diff, arena);
    }
    return diffs;
}

static mb_merge_result merge(mb_arena *arena, mb_diffs *window, mb_diffs *request)
{
    mb_merge_result result;
    recognize(arena, window, request);
    HOLDS(mb_merge(arena, window, request, &result) == MB_OK);
    return result;
}

static bool is_before(const mb_diff *a, const mb_diff *b)
{
    if (a->logical_clock != b->logical_clock)
        return a->logical_clock < b->logical_clock;
    return a->utc_timestamp != b->utc_timestamp ? a->utc_timestamp < b->utc_timestamp : a < b;
}

static mb_diff expect_well_formed(const mb_outcome *outcome, const mb_diffs *list, mb_arena *arena)
{
    HOLDS(outcome->source < list->count);
    const mb_diff *source = &list->items[outcome->source];
    mb_diff diff = *source;
    diff.type = outcome->type;
    diff.json_data = outcome->json_data;
    diff.utc_timestamp = outcome->utc_timestamp;
    check(&diff, arena);
    HOLDS(mb_text_equal(diff.object_id, source->object_id));
    HOLDS(diff.type == source->type || diff.type == MB_UPDATE);
    HOLDS(diff.utc_timestamp >= source->utc_timestamp);
    return diff;
}

static bool same_object(const mb_diff *a, const mb_diff *b)
{
    return mb_text_equal(a->model, b->model) && mb_text_equal(a->object_id, b->object_id);
}

static void expect_written(const mb_diffs *request, const mb_merge_result *result)
{
    for (size_t i = 0; i < request->count; i++) {
        const mb_diff *diff = &request->items[i];
        bool is_source = false, is_folded = false;
        for (size_t k = 0; k < result->upstream.count; k++) {
            const mb_outcome *outcome = &result->upstream.items[k];
            is_source |= outcome->source == i;
            is_folded |= outcome->type == MB_CREATE && diff->type != MB_DELETE && !diff->repeated &&
                         same_object(&request->items[outcome->source], diff);
        }
        HOLDS(!is_source || result->written[i]);
        HOLDS(!result->written[i] || is_source || is_folded);
    }
}

static void expect_same_outcome(const mb_outcome *a, const mb_outcome *b)
{
    HOLDS(a->source == b->source && a->type == b->type);
    HOLDS(a->utc_timestamp == b->utc_timestamp && mb_text_equal(a->json_data, b->json_data));
}

static void expect_same_outcomes(mb_outcomes a, mb_outcomes b)
{
    HOLDS(a.count == b.count);
    for (size_t i = 0; i < a.count; i++)
        expect_same_outcome(&a.items[i], &b.items[i]);
}

static mb_merge_result merge_part(mb_arena *arena, mb_diffs *window, mb_diffs *request,
                                  mb_selection part)
{
    mb_merge_result result;
    recognize(arena, window, request);
    HOLDS(mb_select(arena, window, request, &part) == MB_OK);
    HOLDS(mb_merge(arena, window, request, &result) == MB_OK);
    return result;
}

static void expect_parts_make_the_whole(mb_arena *arena, mb_diffs *window, mb_diffs *request,
                                        const mb_merge_result *whole)
{
    const mb_merge_result touched =
        merge_part(arena, window, request, (mb_selection){true, true, 0, 0});
    const mb_merge_result others =
        merge_part(arena, window, request, (mb_selection){false, false, 0, MB_MAX_INTEGER});
    expect_same_outcomes(touched.upstream, whole->upstream);
    HOLDS(others.upstream.count == 0);
    HOLDS(touched.conflicts + others.conflicts == whole->conflicts);
    size_t i = 0;
    for (size_t k = 0; k < whole->downstream.count; k++) {
        const mb_outcome *expected = &whole->downstream.items[k];
        const bool is_touched =
            i < touched.downstream.count && touched.downstream.items[i].source == expected->source;
        HOLDS(is_touched || k - i < others.downstream.count);
        expect_same_outcome(
            is_touched ? &touched.downstream.items[i] : &others.downstream.items[k - i], expected);
        i += is_touched;
    }
    HOLDS(i + others.downstream.count == whole->downstream.count);
    HOLDS(i == touched.downstream.count);
}

static void expect_page_is_some(mb_arena *arena, const mb_diffs *window, size_t limit)
{
    int64_t end;
    size_t on_page = 0;
    HOLDS(mb_page_end(arena, window, limit, SIZE_MAX, &end) == MB_OK);
    for (size_t i = 0; i < window->count; i++)
        on_page += window->items[i].logical_clock < end;
    HOLDS(end == -1 || (on_page > 0 && on_page < window->count));
}

static bool has_delete_of(const mb_diffs *diffs, const mb_diff *diff)
{
    for (size_t i = 0; i < diffs->count; i++)
        if (diffs->items[i].type == MB_DELETE && same_object(&diffs->items[i], diff))
            return true;
    return false;
}

/* The window as it is once the outcomes are logged, met by the same request. */
static void expect_retry_sends_nothing(mb_arena *arena, const mb_diffs *window, mb_diffs *request,
                                       mb_outcomes upstream)
{
    mb_diffs later;
    HOLDS(mb_diffs_new(arena, window->count + upstream.count, &later) == MB_OK);
    memcpy(later.items, window->items, window->count * sizeof *later.items);
    for (size_t i = 0; i < upstream.count; i++) {
        mb_diff *logged = &later.items[window->count + i];
        *logged = expect_well_formed(&upstream.items[i], request, arena);
        logged->logical_clock = 8 + (int64_t)i;
    }
    const mb_merge_result again = merge(arena, &later, request);
    for (size_t i = 0; i < again.upstream.count; i++) {
        const mb_diff *sent = &request->items[again.upstream.items[i].source];
        HOLDS(has_delete_of(window, sent) || has_delete_of(request, sent));
    }
}

static void expect_known_retry_writes_nothing(mb_arena *arena, mb_diffs *window, mb_diffs *request)
{
    mb_merge_result result;
    recognize(arena, window, request);
    mb_know_all(request);
    HOLDS(mb_merge(arena, window, request, &result) == MB_OK);
    HOLDS(result.upstream.count == 0);
    for (size_t i = 0; i < request->count; i++)
        HOLDS(!result.written[i] && !result.unlogged[i]);
}

static void expect_starting_over_holds(mb_arena *arena, mb_diffs *log, mb_diffs *request,
                                       int64_t device_clock)
{
    mb_merge_result result;
    recognize(arena, log, request);
    HOLDS(mb_merge_behind(arena, log, request, device_clock, &result) == MB_OK);
    HOLDS(result.downstream.count == 0);
    for (size_t i = 0; i < result.upstream.count; i++) {
        const mb_outcome *outcome = &result.upstream.items[i];
        const mb_diff *diff = &request->items[outcome->source];
        (void)expect_well_formed(outcome, request, arena);
        HOLDS(!diff->known && !diff->repeated);
        bool is_logged = outcome->type == MB_CREATE;
        for (size_t k = 0; k < log->count; k++)
            is_logged |= same_object(&log->items[k], diff);
        HOLDS(is_logged); /* of what the log does not have only a create goes up */
    }
    expect_written(request, &result);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    decisions from = {bytes, bytes + size};
    mb_arena *arena = new_arena(1);
    mb_arena *other = new_arena(UINT64_C(0x123456789abcdef));
    mb_diffs window = invent_diffs(&from, false, arena);
    mb_diffs request = invent_diffs(&from, true, arena);
    mb_diff as_it_was[2][MOST];
    const mb_merge_result result = merge(arena, &window, &request);
    memcpy(as_it_was[0], window.items, window.count * sizeof *window.items);
    memcpy(as_it_was[1], request.items, request.count * sizeof *request.items);

    for (size_t i = 0; i < result.upstream.count; i++) {
        const mb_outcome *outcome = &result.upstream.items[i];
        (void)expect_well_formed(outcome, &request, arena);
        HOLDS(i == 0 || result.upstream.items[i - 1].source < outcome->source);
        HOLDS(!request.items[outcome->source].known && !request.items[outcome->source].repeated);
    }
    for (size_t i = 0; i < result.downstream.count; i++) {
        const mb_outcome *outcome = &result.downstream.items[i];
        (void)expect_well_formed(outcome, &window, arena);
        HOLDS(i == 0 || is_before(&window.items[result.downstream.items[i - 1].source],
                                  &window.items[outcome->source]));
    }
    expect_written(&request, &result);
    mb_merge_result same;
    HOLDS(mb_merge(other, &window, &request, &same) == MB_OK);
    expect_same_outcomes(same.upstream, result.upstream);
    expect_same_outcomes(same.downstream, result.downstream);
    HOLDS(memcmp(same.written, result.written, request.count * sizeof *result.written) == 0);
    HOLDS(memcmp(as_it_was[0], window.items, window.count * sizeof *window.items) == 0);
    HOLDS(memcmp(as_it_was[1], request.items, request.count * sizeof *request.items) == 0);
    expect_parts_make_the_whole(arena, &window, &request, &result);
    expect_page_is_some(arena, &window, 1 + choose(&from, MOST));
    expect_retry_sends_nothing(arena, &window, &request, result.upstream);
    expect_known_retry_writes_nothing(arena, &window, &request);
    expect_starting_over_holds(arena, &window, &request, choose(&from, 9));
    mb_arena_free(other);
    mb_arena_free(arena);
    return 0;
}
