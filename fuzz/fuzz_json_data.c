/* fuzz_json_data.c - one json_data against cJSON.
 *
 * The input is the text of a json_data.  Holds of what mb_diff_check accepts: it is UTF-8 to iconv
 * too, and no control character is in it; cJSON parses it whole and finds the same members with the
 * same names and the same id; each span lies in the text; and the object put together again from
 * its spans is accepted and has the same members.
 */
#include "oracle.h"

#include <cjson/cJSON.h>
#include <iconv.h>

static mb_status check(mb_text json_data, mb_arena *arena, mb_diff *diff, mb_error *error)
{
    *diff = (mb_diff){.id = {"d", 1}, .owner = {"o", 1}, .model = {"m", 1}, .json_data = json_data};
    return mb_diff_check(diff, NULL, arena, error);
}

static void expect_clean_text(mb_text text)
{
    bool in_string = false;
    for (size_t i = 0; i < text.size; i++) {
        HOLDS((unsigned char)text.at[i] >= 0x20 ||
              (!in_string && strchr("\t\r\n", text.at[i]) != NULL && text.at[i] != '\0'));
        if (in_string && text.at[i] == '\\')
            i++;
        else if (text.at[i] == '"')
            in_string = !in_string;
    }

    static iconv_t utf8 = (iconv_t)-1;
    if (utf8 == (iconv_t)-1)
        utf8 = iconv_open("UTF-32LE", "UTF-8");
    HOLDS(utf8 != (iconv_t)-1);
    char *decoded = malloc(4 * text.size);
    HOLDS(decoded != NULL);
    char *from = (char *)(uintptr_t)text.at, *to = decoded;
    size_t left = text.size, room = 4 * text.size;
    HOLDS(iconv(utf8, &from, &left, &to, &room) == 0 && left == 0);
    free(decoded);
}

static void expect_cjson_agrees(const mb_diff *diff)
{
    const mb_text text = diff->json_data;
    const char *end;
    cJSON *parsed = cJSON_ParseWithLengthOpts(text.at, text.size, &end, false);
    HOLDS(parsed != NULL && cJSON_IsObject(parsed));
    for (; end < text.at + text.size; end++)
        HOLDS(strchr(" \t\r\n", *end) != NULL);

    const mb_member *member = diff->members;
    const char *id = NULL;
    const cJSON *child;
    cJSON_ArrayForEach(child, parsed)
    {
        HOLDS(member < diff->members + diff->member_count);
        HOLDS(mb_text_equal(member->name, (mb_text){child->string, strlen(child->string)}));
        HOLDS(cJSON_IsString(child) == (*member->value.at == '"'));
        if (strcmp(child->string, "id") == 0)
            id = cJSON_GetStringValue(child);
        member++;
    }
    HOLDS(member == diff->members + diff->member_count);
    HOLDS(id != NULL && mb_text_equal(diff->object_id, (mb_text){id, strlen(id)}));
    cJSON_Delete(parsed);
}

static void expect_accepted_when_put_together(const mb_diff *diff, mb_arena *arena)
{
    char *rebuilt = malloc(diff->json_data.size);
    HOLDS(rebuilt != NULL);
    char *at = rebuilt;
    for (size_t i = 0; i < diff->member_count; i++) {
        const mb_member *member = &diff->members[i];
        HOLDS(lies_inside(member->quoted, diff->json_data));
        HOLDS(lies_inside(member->value, diff->json_data));
        *at++ = i == 0 ? '{' : ',';
        memcpy(at, member->quoted.at, member->quoted.size);
        at += member->quoted.size;
        *at++ = ':';
        memcpy(at, member->value.at, member->value.size);
        at += member->value.size;
    }
    *at++ = '}';

    mb_diff again;
    mb_error error;
    HOLDS(check((mb_text){rebuilt, (size_t)(at - rebuilt)}, arena, &again, &error) == MB_OK);
    HOLDS(mb_text_equal(again.object_id, diff->object_id));
    HOLDS(again.member_count == diff->member_count);
    for (size_t i = 0; i < diff->member_count; i++)
        HOLDS(mb_text_equal(again.members[i].name, diff->members[i].name) &&
              mb_text_equal(again.members[i].value, diff->members[i].value));
    free(rebuilt);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    mb_arena *arena = new_arena(1);
    mb_diff diff;
    mb_error error = {.reason = NULL};
    const mb_status status = check((mb_text){(const char *)bytes, size}, arena, &diff, &error);
    HOLDS(status != MB_NO_MEMORY);
    HOLDS(status == MB_OK || (error.reason != NULL && error.offset <= size));
    if (status == MB_OK) {
        expect_clean_text(diff.json_data);
        if (!has_long_number(diff.json_data))
            expect_cjson_agrees(&diff);
        expect_accepted_when_put_together(&diff, arena);
    }
    mb_arena_free(arena);
    return 0;
}
