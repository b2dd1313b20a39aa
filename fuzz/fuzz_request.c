/* fuzz_request.c - the body of a sync request: read, and answered.
 *
 * The input is the JSON text of a body.  Holds: an error points into the input; what is accepted is
 * the object that cJSON parses, with as many diffs and none that breaks a rule; each diff's
 * text lies in the body and holds the same diff when it is read alone; what is malformed may stay,
 * and then only what is not JSON or too much is refused; a cursor is the same to
 * whoever asks for it; and the reply that sends the diffs back is JSON with just these diffs in it.
 */
#include "oracle.h"

#include <cjson/cJSON.h>

static mb_diffs read_array(const char *begin, mb_text diffs, const char *end, mb_arena *arena)
{
    const size_t size = strlen(begin) + diffs.size + strlen(end);
    char *array = mb_arena_get(arena, size + 1);
    mb_diffs read;
    mb_error error;
    size_t index;
    HOLDS(array != NULL);
    (void)snprintf(array, size + 1, "%s%.*s%s", begin, (int)diffs.size, diffs.at, end);
    HOLDS(mb_diffs_read((mb_text){array, size}, arena, &read, &index, &error) == MB_OK);
    return read;
}

static void expect_same(const mb_diff *a, const mb_diff *b)
{
    HOLDS(mb_text_equal(a->id, b->id) && mb_text_equal(a->owner, b->owner));
    HOLDS(mb_text_equal(a->model, b->model) && mb_text_equal(a->json_data, b->json_data));
    HOLDS(a->logical_clock == b->logical_clock && a->utc_timestamp == b->utc_timestamp);
    HOLDS(a->type == b->type);
}

static void expect_cjson_agrees(mb_text body, const mb_request *request)
{
    cJSON *parsed = cJSON_ParseWithLength(body.at, body.size);
    HOLDS(cJSON_IsObject(parsed));
    const cJSON *diffs = NULL, *clock = NULL, *limit = NULL, *cursor = NULL, *child;
    cJSON_ArrayForEach(child, parsed)
    {
        if (strcmp(child->string, "diffs") == 0)
            diffs = child;
        else if (strcmp(child->string, "logical_clock") == 0)
            clock = child;
        else if (strcmp(child->string, "limit") == 0)
            limit = child;
        else if (strcmp(child->string, "cursor") == 0)
            cursor = child;
    }
    HOLDS(clock != NULL && cJSON_IsArray(diffs));
    HOLDS((limit != NULL && !cJSON_IsNull(limit)) == (request->limit.at != NULL));
    HOLDS((cursor != NULL && !cJSON_IsNull(cursor)) == (request->cursor.at != NULL));
    HOLDS(!cJSON_IsString(cursor) ||
          mb_text_equal(request->cursor,
                        (mb_text){cursor->valuestring, strlen(cursor->valuestring)}));
    HOLDS((size_t)cJSON_GetArraySize(diffs) == request->diffs.count);
    cJSON_ArrayForEach(child, diffs)
        HOLDS(!cJSON_HasObjectItem(child, "reserved") ||
              cJSON_GetObjectItemCaseSensitive(child, "reserved") == NULL);
    cJSON_Delete(parsed);
}

static void expect_reply_holds_them(const mb_diffs *diffs, mb_arena *arena)
{
    mb_outcomes all = {mb_arena_get_array(arena, diffs->count, sizeof(mb_outcome)), diffs->count};
    for (size_t i = 0; i < diffs->count; i++)
        all.items[i] = (mb_outcome){.source = i,
                                    .type = diffs->items[i].type,
                                    .utc_timestamp = diffs->items[i].utc_timestamp,
                                    .json_data = diffs->items[i].json_data};
    const size_t most = mb_reply_most_bytes(diffs, &all);
    char *printed = mb_arena_get(arena, most);
    const mb_text reply = {printed, mb_reply_put(diffs, &all, 7, printed)};
    HOLDS(reply.size <= most);
    const char prefix[] =
        "{\"success\": true, \"message\": \"\", \"logical_clock\": 7, \"diffs\": ";
    HOLDS(reply.size > sizeof prefix && memcmp(reply.at, prefix, sizeof prefix - 1) == 0);
    HOLDS(reply.at[reply.size - 1] == '}');
    const mb_text sent = {reply.at + sizeof prefix - 1, reply.size - sizeof prefix};
    const mb_diffs again = read_array("", sent, "", arena);
    HOLDS(again.count == diffs->count);
    for (size_t i = 0; i < diffs->count; i++)
        expect_same(&again.items[i], &diffs->items[i]);
}

/* The same body where what is malformed may stay: whoever takes it strictly finds nothing of that. */
static void expect_malformed_are_kept(mb_text body, const mb_request_rules *rules,
                                      mb_status strictly, mb_arena *arena)
{
    mb_request request;
    mb_error error;
    mb_diffs window = {NULL, 0};
    size_t index, malformed = 0;
    const mb_status status = mb_request_read(body, rules, true, arena, &request, &index, &error);
    HOLDS(status != MB_NO_MEMORY && (strictly != MB_OK || status == MB_OK));
    if (status != MB_OK)
        return;
    for (size_t i = 0; i < request.diffs.count; i++) {
        const mb_diff *diff = &request.diffs.items[i];
        mb_diff same = *diff;
        HOLDS(lies_inside(diff->text, body));
        HOLDS(diff->excluded == (diff->malformed != NULL));
        HOLDS(diff->malformed != NULL ? diff->malformed->reason != NULL
                                      : mb_diff_check(&same, rules, arena, &error) == MB_OK);
        malformed += diff->malformed != NULL;
    }
    HOLDS(malformed == 0 || strictly == MB_INVALID);
    recognize(arena, &window, &request.diffs);
    HOLDS(mb_link_objects(arena, &request.diffs) == MB_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static const char *const reserved[] = {"reserved", NULL};
    const mb_request_rules rules = {reserved, {"log", 3}, 1000, 1000, 50, 100, 200, 20};
    const mb_text body = {(const char *)bytes, size};
    mb_arena *arena = new_arena(1);
    mb_request request;
    mb_error error;
    size_t index;
    const mb_status status = mb_request_read(body, &rules, false, arena, &request, &index, &error);
    HOLDS(status != MB_NO_MEMORY);
    HOLDS(status == MB_OK || (error.reason != NULL && error.offset <= size));
    expect_malformed_are_kept(body, &rules, status, arena);
    mb_text cursor;
    HOLDS(mb_json_text_member(body, (mb_text){"cursor", 6}, arena, &cursor) == MB_OK);
    if (status == MB_OK) {
        for (size_t i = 0; i < request.diffs.count; i++) {
            const mb_diff *diff = &request.diffs.items[i];
            HOLDS(lies_inside(diff->text, body));
            mb_diff same = *diff;
            HOLDS(mb_diff_check(&same, &rules, arena, &error) == MB_OK);
            const mb_diffs alone = read_array("[", diff->text, "]", arena);
            HOLDS(alone.count == 1);
            expect_same(&alone.items[0], diff);
        }
        if (!has_long_number(body))
            expect_cjson_agrees(body, &request);
        HOLDS(cursor.at == NULL || mb_text_equal(cursor, request.cursor));
        expect_reply_holds_them(&request.diffs, arena);
    }
    mb_arena_free(arena);
    return 0;
}
