/* test_malformed.c - limits, and diffs that break a rule but do not end their request.
 *
 * As in test_merge.c, JSON is written with ' for ", and in a diff's json_data with ` for \".
 */
#include "../../csrc/core/text.h"
#include "frame.h"
#include "scarcity.h"

#define HEAD "'id':'a','owner':'o','logical_clock':0,'utc_timestamp':1,'type':'update','model':'m',"
#define ID   "'json_data':'{`id`:`x`}'"
#define GOOD "{" HEAD ID "}"

static const char *const no_keys[] = {"self", NULL};
static const mb_request_rules rules = {.reserved = no_keys,
                                       .log_model = {"log", 3},
                                       .diffs = 3,
                                       .json_data_bytes = 40,
                                       .fields = 3,
                                       .depth = 3,
                                       .extra_bytes = 20,
                                       .extra_depth = 2};

typedef struct {
    char *body;
    mb_arena *arena;
    mb_status status;
    mb_request request;
    size_t index;
    mb_error error;
} reading;

/* The body of a request with these diffs, of exactly its size. */
static mb_text body_of(const char *diffs)
{
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    fputs("{\"logical_clock\":0,\"diffs\":[", out);
    for (const char *at = diffs; *at != '\0'; at++) {
        if (*at == '`')
            fputs("\\\"", out);
        else
            fputc(*at == '\'' ? '"' : *at, out);
    }
    fputs("]}", out);
    fclose(out);
    return (mb_text){text, size};
}

static reading read(const char *diffs, bool keep)
{
    reading r = {.index = 77};
    const mb_text body = body_of(diffs);
    CHECK(mb_arena_new(NULL, 0, &r.arena) == MB_OK);
    r.body = malloc(body.size);
    memcpy(r.body, body.at, body.size);
    free((char *)body.at);
    r.status = mb_request_read((mb_text){r.body, body.size}, &rules, keep, r.arena, &r.request,
                               &r.index, &r.error);
    return r;
}

static void end(reading *r)
{
    mb_arena_free(r->arena);
    free(r->body);
}

static const struct {
    const char *diff;
    mb_code code;
    const char *id; /* as far as they can be read */
    const char *object;
} malformed[] = {
    {"{" HEAD "'json_data':'{`id`:`x`,`v`:NaN}'}", MB_BAD_JSON, "a", "x"},
    {"{" HEAD "'json_data':'{`v`:NaN,`id`:`x`}'}", MB_BAD_JSON, "a", ""},
    {"{" HEAD "'json_data':'{`id`:`x`} x'}", MB_BAD_JSON, "a", "x"},
    {"{" HEAD "'json_data':'{`id`:`x`,`v`:`\\\\ud83d`}'}", MB_LONE_SURROGATE, "a", "x"},
    {"{" HEAD "'json_data':'{`id`:`x`,`v`:`\\\\u0000`}'}", MB_ZERO_CHARACTER, "a", "x"},
    {"{" HEAD "'json_data':'{`id`:`x`,`v`:`012345678901234567890123`}'}", MB_TOO_MANY_BYTES, "a",
     "x"},
    {"{" HEAD "'json_data':'{`id`:`x`,`a`:1,`b`:1,`c`:1}'}", MB_TOO_MANY_FIELDS, "a", "x"},
    {"{" HEAD "'json_data':'{`id`:`x`,`v`:[[[]]]}'}", MB_TOO_DEEP, "a", "x"},
    {"{" HEAD "'json_data':'{`id`:`x`,`id`:7}'}", MB_BAD_OBJECT_ID, "a", ""},
    {"{" HEAD "'json_data':'{}'}", MB_NO_OBJECT_ID, "a", ""},
    {"{" HEAD "'json_data':7}", MB_NOT_A_STRING, "a", ""},
    {"{" HEAD "'x':0}", MB_MISSING, "a", ""},
    {"{'id':7," ID ",'model':'m'}", MB_NOT_A_STRING, "", "x"},
    {"{'id':'b'," ID ",'model':'m','owner':'\\ud83d'}", MB_LONE_SURROGATE, "b", "x"},
    {"{'id':'b','model':'m','owner':'\\ud83d\\ud83d'," ID "}", MB_LONE_SURROGATE, "b", ""},
    {"{'id':'b','model':'m','\\u0000':['\\udc00\\u0000',{}]," ID "}", MB_ZERO_CHARACTER, "b", ""},
    {"{" HEAD ID ",'type':'upsert'}", MB_NOT_A_TYPE, "a", "x"},
    {"{" HEAD ID ",'model':'log'}", MB_LOG_MODEL, "a", "x"},
    {"{" HEAD ID ",'self':1}", MB_RESERVED_KEY, "a", "x"},
    {"{" HEAD ID ",'id':''}", MB_EMPTY, "", "x"},
    {"{" HEAD ID ",'utc_timestamp':true}", MB_NOT_AN_INTEGER, "a", "x"},
    {"{" HEAD ID ",'e':'0123456789012345'}", MB_TOO_MANY_EXTRA_BYTES, "a", "x"},
    {"{" HEAD ID ",'e':1,'id':'a2345678901234'}", MB_TOO_MANY_EXTRA_BYTES, "a2345678901234", "x"},
    {"{" HEAD ID ",'e':[[[]]]}", MB_EXTRA_TOO_DEEP, "a", "x"},
    {"7", MB_NOT_AN_OBJECT, "", ""},
    {"[{'id':'a'}]", MB_NOT_AN_OBJECT, "", ""},
    {"'\\udc00'", MB_LONE_SURROGATE, "", ""},
    {"{}", MB_MISSING, "", ""},
};

static bool is(mb_text text, const char *wanted)
{
    return mb_text_equal(text, (mb_text){wanted, strlen(wanted)});
}

TEST(what_is_malformed_ends_a_request_that_does_not_keep_it)
{
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++) {
        char diffs[400];
        (void)snprintf(diffs, sizeof diffs, "%s,%s", GOOD, malformed[i].diff);
        reading r = read(diffs, false);
        at_row("%s: %s", malformed[i].diff, r.error.reason);
        CHECK(r.status == MB_INVALID && r.index == 1);
        CHECK(r.error.code == malformed[i].code);
        end(&r);
    }
}

TEST(what_is_malformed_stays_with_what_can_be_read_of_it)
{
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++) {
        char diffs[400];
        (void)snprintf(diffs, sizeof diffs, "%s, %s ,%s", GOOD, malformed[i].diff, GOOD);
        reading r = read(diffs, true);
        at_row("%s", malformed[i].diff);
        CHECK(r.status == MB_OK && r.request.diffs.count == 3);
        const mb_diff *diff = &r.request.diffs.items[1];
        CHECK(diff[-1].malformed == NULL && diff[1].malformed == NULL);
        CHECK(diff->malformed != NULL && diff->excluded);
        CHECK(diff->malformed->code == malformed[i].code && diff->malformed->reason != NULL);
        CHECK(is(diff->id, malformed[i].id));
        CHECK(is(diff->object_id, malformed[i].object));
        CHECK(mb_text_equal(diff->malformed->diff_id, diff->id) ||
              diff->malformed->diff_id.size == 0);
        end(&r);
    }
}

TEST(what_is_within_the_limits_is_taken)
{
    static const char *const good[] = {
        GOOD,
        "{" HEAD "'json_data':'{`id`:`x`,`v`:`01234567890123456789`}'}",
        "{" HEAD "'json_data':'{`id`:`x`,`a`:1,`b`:[[]]}'}",
        "{" HEAD ID ",'e':'012345678901234'}",
        "{" HEAD ID ",'e':[[1],[2]]}",
        "{'e':[[]]," HEAD ID "}",
        GOOD "," GOOD "," GOOD,
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        reading r = read(good[i], false);
        at_row("%s: %s", good[i], r.error.reason);
        CHECK(r.status == MB_OK);
        end(&r);
    }
}

TEST(what_is_not_json_or_too_many_refuses_the_whole)
{
    static const char *const bad[] = {
        GOOD ",{" HEAD "'json_data':}",
        "{'id':7",
        GOOD " " GOOD,
        "{'id':'\\ud83d',}",
        "nul",
        GOOD "," GOOD "," GOOD ",7",
        "\xff",
        "{'id':7,'x':'\\u12'}",
        "",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        reading r = read(bad[i], true);
        at_row("%s", bad[i]);
        CHECK((r.status == MB_INVALID) == (bad[i][0] != '\0'));
        end(&r);
    }
}

static mb_status read_and_tell(void *context, mb_arena *arena, FILE *told)
{
    size_t index;
    mb_error error;
    mb_request request;
    const mb_status status =
        mb_request_read(*(const mb_text *)context, &rules, true, arena, &request, &index, &error);
    if (status == MB_OK)
        fprintf(told, "%s", request.diffs.items[1].malformed->reason);
    return status;
}

TEST(a_malformed_diff_is_kept_or_memory_is_out)
{
    mb_text body = body_of(GOOD ",{'model':'\\u00e9','\\u00e9':1," ID ",'id':'\\ud83d'}");
    CHECK(check_survives_scarcity(read_and_tell, &body) > 0);
    free((char *)body.at);
}

TEST(each_code_has_one_text)
{
    for (mb_code code = MB_LONE_SURROGATE; code < MB_CODES; code++) {
        mb_error error = {.offset = 7};
        at_row("code %d", (int)code);
        CHECK(mb_refuse(&error, code, "model") == MB_INVALID);
        CHECK(error.code == code && error.reason != NULL && error.reason[0] != '\0');
        CHECK(error.of_whole_field && error.offset == 0);
        CHECK_TEXT(error.field, "model");
    }
}

int main(void)
{
    RUN(what_is_malformed_ends_a_request_that_does_not_keep_it);
    RUN(what_is_malformed_stays_with_what_can_be_read_of_it);
    RUN(what_is_within_the_limits_is_taken);
    RUN(what_is_not_json_or_too_many_refuses_the_whole);
    RUN(a_malformed_diff_is_kept_or_memory_is_out);
    RUN(each_code_has_one_text);
    return tests_end();
}
