/* test_json.c - strict JSON as text spans: what is taken, what is refused and where.
 *
 * Every document is read from a piece of memory that ends where the document does, without a
 * terminator, so that AddressSanitizer or valgrind sees the first byte read too many.
 */
#include "../../csrc/core/json.h"
#include "../../csrc/core/text.h"
#include "scarcity.h"

#include <inttypes.h>

/* A text that the compiler measures, so that it may hold U+0000. */
#define BYTES(literal) "" literal, sizeof(literal) - 1

typedef struct {
    char *text; /* of exactly the document's size */
    mb_arena *arena;
    mb_status status;
    mb_error error;
    const mb_member *members;
    size_t count;
} document;

static char *copy_exactly(const char *text, size_t size)
{
    char *copy = malloc(size);
    CHECK(copy != NULL || size == 0);
    if (size != 0)
        memcpy(copy, text, size);
    return copy;
}

static document read_document(const char *text, size_t size)
{
    document d = {.text = copy_exactly(text, size), .error = {.reason = ""}};
    CHECK(mb_arena_new(NULL, 0, &d.arena) == MB_OK);
    mb_json_object object = {.count = 0};
    d.status = mb_json_read_object((mb_text){d.text, size}, SIZE_MAX, d.arena, &object, &d.error);
    d.members = object.members;
    d.count = object.count;
    return d;
}

static void close_document(document *d)
{
    mb_arena_free(d->arena);
    free(d->text);
}

static bool is(mb_text text, const char *wanted, size_t size)
{
    return mb_text_equal(text, (mb_text){wanted, size});
}

/* Checks that a document is refused at that byte, with a reason. */
static void check_refused(const char *text, size_t size, size_t offset)
{
    document d = read_document(text, size);
    at_row("%s: %s at %zu, not %zu", text, d.error.reason, d.error.offset, offset);
    CHECK(d.status == MB_INVALID);
    CHECK(d.error.offset == offset);
    CHECK(d.error.reason != NULL && d.error.reason[0] != '\0');
    CHECK(d.error.field == NULL);
    close_document(&d);
}

/* ---- what is taken ------------------------------------------------------------------------- */

TEST(a_value_is_the_exact_text_between_the_white_space)
{
    static const char *const values[] = {
        "0",        "-0",          "-0.0",      "1.50",   "1e400",
        "1E+2",     "0e-0",        "0.1000",    "1.0",    "9007199254740993",
        "true",     "false",       "null",      "\"\"",   "12345678901234567890123",
        "[]",       "{}",          "[ ]",       "{ }",    "-1.5e-10",
        "[1,2]",    "[ 1 , 2 ]",   "{\"a\":1}", "[[[]]]", "{ \"a\" : { } , \"b\" : [ ] }",
        "\"\\n\"",  "\"\\u00e9\"", "[{},[]]",   "[\"\"]", "\"\\ud83d\\ude00\"",
        "\"\x7f\"", "\"/\"",       "\"\\/\"",   "\"]\"",  "\"\xf0\x9f\x98\x80\"",
    };
    static const char *const spaces[] = {"", " ", "\t\r\n ", "\n\n\n"};
    for (size_t v = 0; v < sizeof values / sizeof *values; v++) {
        for (size_t s = 0; s < sizeof spaces / sizeof *spaces; s++) {
            char text[200];
            const char *space = spaces[s];
            const int size = snprintf(text, sizeof text, "%s{%s\"v\"%s:%s%s%s,%s\"w\":0}%s", space,
                                      space, space, space, values[v], space, space, space);
            document d = read_document(text, (size_t)size);
            at_row("%s: %s", text, d.error.reason);
            CHECK(d.status == MB_OK);
            CHECK(d.count == 2);
            CHECK(is(d.members[0].name, BYTES("v")));
            CHECK(is(d.members[0].quoted, BYTES("\"v\"")));
            CHECK(is(d.members[0].value, values[v], strlen(values[v])));
            CHECK(is(d.members[1].value, BYTES("0")));
            close_document(&d);
        }
    }
}

TEST(an_object_may_be_empty)
{
    static const char *const texts[] = {"{}", " { } ", "\n{\t}\r\n"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        document d = read_document(texts[i], strlen(texts[i]));
        CHECK(d.status == MB_OK);
        CHECK(d.count == 0);
        CHECK(d.members != NULL);
        close_document(&d);
    }
}

TEST(spans_point_into_the_document)
{
    document d = read_document(BYTES(" {\"plain\" : [1], \"esc\\u0061ped\":\"x\"}"));
    CHECK(d.status == MB_OK);
    CHECK(d.members[0].name.at == d.text + 3);
    CHECK(d.members[0].quoted.at == d.text + 2);
    CHECK(d.members[0].value.at == d.text + 12);
    CHECK(d.members[1].quoted.at == d.text + 17);
    CHECK(d.members[1].value.at == d.text + 32);
    close_document(&d);
}

TEST(members_keep_their_order_however_many)
{
    enum { MOST = 200 };
    for (size_t count = 0; count <= MOST; count++) {
        char *text;
        size_t size;
        FILE *out = open_memstream(&text, &size);
        fputc('{', out);
        for (size_t i = 0; i < count; i++)
            fprintf(out, "%s\"name%zu\":%zu", i == 0 ? "" : ",", i, i * i);
        fputc('}', out);
        fclose(out);

        document d = read_document(text, size);
        at_row("%zu members", count);
        CHECK(d.status == MB_OK);
        CHECK(d.count == count);
        for (size_t i = 0; i < count; i++) {
            char name[32], value[32];
            snprintf(name, sizeof name, "name%zu", i);
            snprintf(value, sizeof value, "%zu", i * i);
            CHECK(is(d.members[i].name, name, strlen(name)));
            CHECK(is(d.members[i].value, value, strlen(value)));
        }
        close_document(&d);
        free(text);
    }
}

TEST(the_members_stay_when_more_memory_is_taken)
{
    enum { ALL_OF_A_BLOCK = 8192 };
    static const char *const texts[] = {"{}", "{\"a\":1}", "{\"a\":1, \"b\":[2]}", "{ \"a\" : 1}",
                                        "{\"a\":1,\"b\":2,\"c\":\"3\"}"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        mb_member before[3];
        document d = read_document(texts[i], strlen(texts[i]));
        at_row("%s", texts[i]);
        CHECK(d.status == MB_OK);
        memcpy(before, d.members, d.count * sizeof *before);
        for (size_t taken = 0; taken < ALL_OF_A_BLOCK; taken += 16)
            memset(mb_arena_get(d.arena, 16), 0xa5, 16);
        CHECK(memcmp(before, d.members, d.count * sizeof *before) == 0);
        close_document(&d);
    }
}

TEST(a_name_may_stand_twice)
{
    document d = read_document(BYTES("{\"a\":1,\"\\u0061\":2,\"A\":3,\"a\":4}"));
    CHECK(d.status == MB_OK);
    CHECK(d.count == 4);
    CHECK(is(d.members[0].name, BYTES("a")) && is(d.members[0].value, BYTES("1")));
    CHECK(is(d.members[1].name, BYTES("a")) && is(d.members[1].value, BYTES("2")));
    CHECK(is(d.members[2].name, BYTES("A")) && is(d.members[2].value, BYTES("3")));
    CHECK(is(d.members[3].name, BYTES("a")) && is(d.members[3].value, BYTES("4")));
    close_document(&d);
}

TEST(a_name_is_decoded_and_kept_as_it_stood)
{
    document d = read_document(BYTES("{\"na\\u006de\":1,\"\\\"\\\\\\/\\b\\f\\n\\r\\t\":2,"
                                     "\"\":3,\"\\uD83D\\uDe00!\":4,\"\\u0001\":5}"));
    CHECK(d.status == MB_OK);
    CHECK(d.count == 5);
    CHECK(is(d.members[0].name, BYTES("name")));
    CHECK(is(d.members[0].quoted, BYTES("\"na\\u006de\"")));
    CHECK(is(d.members[1].name, BYTES("\"\\/\b\f\n\r\t")));
    CHECK(is(d.members[2].name, BYTES("")));
    CHECK(is(d.members[3].name, BYTES("\xf0\x9f\x98\x80!")));
    CHECK(is(d.members[4].name, BYTES("\x01")));
    close_document(&d);
}

/* ---- what is refused ----------------------------------------------------------------------- */

typedef struct {
    const char *text;
    size_t size;
    size_t offset; /* of the byte at fault */
} refusal;

static void check_all_refused(const refusal *rows, size_t count)
{
    for (size_t i = 0; i < count; i++)
        check_refused(rows[i].text, rows[i].size, rows[i].offset);
}

#define CHECK_ALL_REFUSED(rows) check_all_refused(rows, sizeof(rows) / sizeof *(rows))

TEST(what_is_not_an_object_is_refused)
{
    static const refusal rows[] = {
        {BYTES(""), 0},       {BYTES("  "), 2},
        {BYTES("[]"), 0},     {BYTES("1"), 0},
        {BYTES("\"id\""), 0}, {BYTES("null"), 0},
        {BYTES(" \0{}"), 1},  {BYTES("\xef\xbb\xbf{}"), 0}, /* a byte order mark */
        {BYTES("\f{}"), 0},   {BYTES("\xc2\xa0{}"), 0},
        {BYTES("//\n{}"), 0}, {BYTES("}"), 0},
    };
    CHECK_ALL_REFUSED(rows);
}

TEST(a_text_without_an_address_is_refused_as_empty)
{
    mb_error error = {.reason = ""};
    mb_arena *arena;
    mb_json_object object;
    const mb_text none = {NULL, 0};
    CHECK(mb_arena_new(NULL, 0, &arena) == MB_OK);
    CHECK(mb_json_read_object(none, SIZE_MAX, arena, &object, &error) == MB_INVALID);
    CHECK(error.offset == 0 && error.reason[0] != '\0');
    mb_arena_free(arena);
}

TEST(a_refused_object_leaves_no_members_behind)
{
    document d = read_document(BYTES("{\"a\":1,\"b\":2,}"));
    CHECK(d.status == MB_INVALID);
    CHECK(d.members == NULL && d.count == 0);
    close_document(&d);
}

TEST(text_behind_the_object_is_refused)
{
    static const refusal rows[] = {
        {BYTES("{}{}"), 2},           {BYTES("{} x"), 3}, {BYTES("{}}"), 2},   {BYTES("{},"), 2},
        {BYTES("{\"a\":1} null"), 8}, {BYTES("{}\0"), 2}, {BYTES("{} \0"), 3}, {BYTES("{}/**/"), 2},
        {BYTES("{}\xef\xbb\xbf"), 2}, {BYTES("{}\v"), 2},
    };
    CHECK_ALL_REFUSED(rows);
}

TEST(a_broken_structure_is_refused_where_it_breaks)
{
    static const refusal rows[] = {
        {BYTES("{,}"), 1},
        {BYTES("{\"a\":1,}"), 7},
        {BYTES("{\"a\":1,,\"b\":2}"), 7},
        {BYTES("{\"a\":1 \"b\":2}"), 7},
        {BYTES("{\"a\":1\"b\":2}"), 6},
        {BYTES("{\"a\":\"x\"\"b\":2}"), 8},
        {BYTES("{\"a\":1, \"b\":null\"c\":3}"), 16},
        {BYTES("{\"a\" 1}"), 5},
        {BYTES("{\"a\"}"), 4},
        {BYTES("{\"a\":}"), 5},
        {BYTES("{\"a\"::1}"), 5},
        {BYTES("{\"a\":,}"), 5},
        {BYTES("{\"a\",\"b\"}"), 4},
        {BYTES("{a:1}"), 1},
        {BYTES("{'a':1}"), 1},
        {BYTES("{1:1}"), 1},
        {BYTES("{null:1}"), 1},
        {BYTES("{{}:1}"), 1},
        {BYTES("{:1}"), 1},
        {BYTES("{\"a\":1]"), 6},
        {BYTES("{\"a\":[1,]}"), 8},
        {BYTES("{\"a\":[,1]}"), 6},
        {BYTES("{\"a\":[,]}"), 6},
        {BYTES("{\"a\":[1 2]}"), 8},
        {BYTES("{\"a\":[1}}"), 7},
        {BYTES("{\"a\":[\"b\":1]}"), 9},
        {BYTES("{\"a\":{\"b\":1]}"), 11},
        {BYTES("{\"a\":{\"b\":1,}}"), 12},
        {BYTES("{\"a\":{\"b\"}}"), 9},
        {BYTES("{\"a\":{1}}"), 6},
        {BYTES("{\"a\":{[]}}"), 6},
        {BYTES("{\"a\":[{}{}]}"), 8},
        {BYTES("{\"a\":[[]{}]}"), 8},
        {BYTES("{\"a\":{\"b\":[{\"c\":[]]}]}}"), 18},
        {BYTES("{\"a\":[{\"b\":[1,{\"c\":2},3]},[4}]}"), 28},
        {BYTES("{\"a\":1\0}"), 6},
        {BYTES("{\0}"), 1},
        {BYTES("{\"a\":\0}"), 5},
        {BYTES("{\"a\":1/**/}"), 6},
    };
    CHECK_ALL_REFUSED(rows);
}

TEST(what_is_not_a_number_or_literal_of_json_is_refused)
{
    static const refusal rows[] = {
        {BYTES("{\"a\":01}"), 6},       {BYTES("{\"a\":00}"), 6},
        {BYTES("{\"a\":-01}"), 7},      {BYTES("{\"a\":-}"), 6},
        {BYTES("{\"a\":+1}"), 5},       {BYTES("{\"a\":.5}"), 5},
        {BYTES("{\"a\":1.}"), 7},       {BYTES("{\"a\":1.e1}"), 7},
        {BYTES("{\"a\":-.5}"), 6},      {BYTES("{\"a\":1e}"), 7},
        {BYTES("{\"a\":1e+}"), 8},      {BYTES("{\"a\":1e-}"), 8},
        {BYTES("{\"a\":1e+-1}"), 8},    {BYTES("{\"a\":1e1.5}"), 8},
        {BYTES("{\"a\":1.5.5}"), 8},    {BYTES("{\"a\":0x10}"), 6},
        {BYTES("{\"a\":1_000}"), 6},    {BYTES("{\"a\":1 0}"), 7},
        {BYTES("{\"a\":--1}"), 6},      {BYTES("{\"a\":1a}"), 6},
        {BYTES("{\"a\":NaN}"), 5},      {BYTES("{\"a\":nan}"), 5},
        {BYTES("{\"a\":Infinity}"), 5}, {BYTES("{\"a\":-Infinity}"), 6},
        {BYTES("{\"a\":inf}"), 5},      {BYTES("{\"a\":True}"), 5},
        {BYTES("{\"a\":nul}"), 5},      {BYTES("{\"a\":nulL}"), 5},
        {BYTES("{\"a\":nulll}"), 9},    {BYTES("{\"a\":truefalse}"), 9},
        {BYTES("{\"a\":t}"), 5},        {BYTES("{\"a\":undefined}"), 5},
        {BYTES("{\"a\":[01]}"), 7},     {BYTES("{\"a\":[-Infinity]}"), 7},
        {BYTES("{\"a\":\xd9\xa1}"), 5}, /* an Arabic digit one */
    };
    CHECK_ALL_REFUSED(rows);
}

TEST(a_lone_surrogate_is_refused)
{
    static const refusal rows[] = {
        {BYTES("{\"\\ud800\":1}"), 2},
        {BYTES("{\"a\":\"\\ud800\"}"), 6},
        {BYTES("{\"a\":\"\\uDBFF\"}"), 6},
        {BYTES("{\"a\":\"\\udc00\"}"), 6},
        {BYTES("{\"a\":\"\\uDFFF\"}"), 6},
        {BYTES("{\"a\":\"x\\ud800y\"}"), 7},
        {BYTES("{\"a\":\"\\ud800\\n\"}"), 6},
        {BYTES("{\"a\":\"\\ud800\\u0041\"}"), 6},
        {BYTES("{\"a\":\"\\ud800\\ud800\"}"), 6},
        {BYTES("{\"a\":\"\\ud800\\udbff\"}"), 6},
        {BYTES("{\"a\":\"\\ud800\\ue000\"}"), 6},
        {BYTES("{\"a\":\"\\ud800 \\udc00\"}"), 6},
        {BYTES("{\"a\":\"\\ud800\\\\udc00\"}"), 6},
        {BYTES("{\"a\":\"\\ud800\\udc0g\"}"), 6},
        {BYTES("{\"a\":\"\\udc00\\ud800\"}"), 6}, /* in the wrong order */
        {BYTES("{\"a\":\"\\ud83d\\ude00\\ude00\"}"), 18},
        {BYTES("{\"a\":\"\\ud83d\\ude00\\ud83d\"}"), 18},
        {BYTES("{\"a\":[{\"b\":\"\\udead\"}]}"), 12},
    };
    CHECK_ALL_REFUSED(rows);
}

TEST(u0000_is_refused_raw_and_escaped)
{
    static const refusal rows[] = {
        {BYTES("{\"a\":\"\0\"}"), 6},        {BYTES("{\"a\":\"x\0y\"}"), 7},
        {BYTES("{\"a\0\":1}"), 3},           {BYTES("{\"a\":\"\\u0000\"}"), 6},
        {BYTES("{\"a\":\"x\\u0000y\"}"), 7}, {BYTES("{\"\\u0000\":1}"), 2},
        {BYTES("{\"a\":[\"\\u0000\"]}"), 7}, {BYTES("{\"a\":\"\\\0\"}"), 7},
    };
    CHECK_ALL_REFUSED(rows);
}

TEST(a_raw_control_character_is_refused)
{
    for (int c = 0; c < 0x20; c++) {
        char in_value[] = "{\"a\":\"?\"}", in_name[] = "{\"?\":1}";
        in_value[6] = (char)c;
        in_name[2] = (char)c;
        check_refused(in_value, sizeof in_value - 1, 6);
        check_refused(in_name, sizeof in_name - 1, 2);
    }
}

TEST(no_other_escape_is_known)
{
    for (int c = 0; c < 256; c++) {
        char text[] = "{\"a\":\"\\?\"}";
        text[7] = (char)c;
        if (c == 'u')
            continue;
        if (c != 0 && strchr("\"\\/bfnrt", c) != NULL) {
            char closed[] = "{\"a\":\"\\? \"}";
            closed[7] = (char)c;
            document d = read_document(closed, sizeof closed - 1);
            at_row("%s", closed);
            CHECK(d.status == MB_OK);
            close_document(&d);
        } else {
            check_refused(text, sizeof text - 1, 7);
        }
    }
}

TEST(an_escape_needs_four_hexadecimal_digits)
{
    static const refusal rows[] = {
        {BYTES("{\"a\":\"\\u\"}"), 8},         {BYTES("{\"a\":\"\\u0\"}      "), 9},
        {BYTES("{\"a\":\"\\u00\"}     "), 10}, {BYTES("{\"a\":\"\\u004\"}    "), 11},
        {BYTES("{\"a\":\"\\u00g1\"}"), 10},    {BYTES("{\"a\":\"\\u 041\"}"), 8},
        {BYTES("{\"a\":\"\\u-041\"}"), 8},     {BYTES("{\"a\":\"\\u0x41\"}"), 9},
        {BYTES("{\"a\":\"\\U0041\"}"), 7},     {BYTES("{\"a\":\"\\u00`1\"}"), 10},
        {BYTES("{\"a\":\"\\u00@1\"}"), 10},    {BYTES("{\"a\":\"\\u00/1\"}"), 10},
        {BYTES("{\"a\":\"\\u00:1\"}"), 10},    {BYTES("{\"a\":\"\\u00G1\"}"), 10},
    };
    CHECK_ALL_REFUSED(rows);
}

TEST(what_is_not_closed_is_refused_at_the_end)
{
    static const char *const texts[] = {
        "{",
        "{ ",
        "{\"",
        "{\"a",
        "{\"a\\",
        "{\"a\"",
        "{\"a\" ",
        "{\"a\":",
        "{\"a\": ",
        "{\"a\":\"",
        "{\"a\":\"b",
        "{\"a\":\"b\\",
        "{\"a\":\"b\"",
        "{\"a\":1",
        "{\"a\":1.",
        "{\"a\":1e",
        "{\"a\":1e+",
        "{\"a\":-",
        "{\"a\":1 ",
        "{\"a\":1,",
        "{\"a\":1, ",
        "{\"a\":[",
        "{\"a\":[ ",
        "{\"a\":[1",
        "{\"a\":[1,",
        "{\"a\":[1]",
        "{\"a\":[1] ",
        "{\"a\":{",
        "{\"a\":{}",
        "{\"a\":{\"b",
        "{\"a\":{\"b\"",
        "{\"a\":{\"b\":",
        "{\"a\":{\"b\":1",
        "{\"a\":[[",
        "{\"a\":[{",
        "{\"a\":null",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        const size_t size = strlen(texts[i]);
        check_refused(texts[i], size, size);
        document d = read_document(texts[i], size);
        CHECK_TEXT(d.error.reason, "the JSON text ends too early");
        close_document(&d);
    }
}

/* One of everything. */
static const char rich[] =
    " {\"id\": \"x\", \"\\u006e\\ud83d\\ude00\\n\": [0, -12.5e+10, true, false, null, {}, [], "
    "{\"a\": {\"b\": \"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"}}, \"\\\\\\\"\"], \"id\" : 1 } ";

TEST(every_prefix_of_a_document_is_refused)
{
    const size_t whole = sizeof rich - 2; /* without the space at its end */
    for (size_t size = 0; size < whole; size++) {
        document d = read_document(rich, size);
        at_row("the first %zu bytes", size);
        CHECK(d.status == MB_INVALID);
        CHECK(d.error.offset <= size);
        CHECK(d.error.reason != NULL && d.error.reason[0] != '\0');
        close_document(&d);
    }
    for (size_t size = whole; size < sizeof rich; size++) {
        document d = read_document(rich, size);
        CHECK(d.status == MB_OK);
        CHECK(d.count == 3);
        close_document(&d);
    }
}

TEST(a_document_with_one_wrong_byte_is_refused_or_still_whole)
{
    char text[sizeof rich - 1];
    memcpy(text, rich, sizeof text);
    for (size_t at = 0; at < sizeof text; at++) {
        for (int byte = 0; byte < 256; byte++) {
            text[at] = (char)byte;
            document d = read_document(text, sizeof text);
            at_row("byte %zu is %d", at, byte);
            CHECK(d.status == MB_OK || d.error.offset <= sizeof text);
            for (size_t i = 0; d.status == MB_OK && i < d.count; i++) {
                char alone[2 * sizeof text];
                const int size = snprintf(alone, sizeof alone, "{%.*s:%.*s}",
                                          (int)d.members[i].quoted.size, d.members[i].quoted.at,
                                          (int)d.members[i].value.size, d.members[i].value.at);
                document again = read_document(alone, (size_t)size);
                CHECK(again.status == MB_OK);
                CHECK(again.count == 1);
                CHECK(mb_text_equal(again.members[0].name, d.members[i].name));
                CHECK(mb_text_equal(again.members[0].value, d.members[i].value));
                close_document(&again);
            }
            close_document(&d);
        }
        text[at] = rich[at];
    }
}

/* ---- nesting ------------------------------------------------------------------------------- */

/* Gives an object that holds `depth` - 1 arrays or objects in each other. */
static char *nest(size_t depth, bool with_objects, size_t *size)
{
    char *text;
    FILE *out = open_memstream(&text, size);
    for (size_t i = 0; i < depth; i++)
        fputs(i == 0 || (with_objects && i % 3 != 1) ? "{\"a\":" : "[", out);
    fputs("0", out);
    for (size_t i = depth; i-- > 0;)
        fputs(i == 0 || (with_objects && i % 3 != 1) ? "}" : "]", out);
    fclose(out);
    return text;
}

TEST(a_thousand_levels_are_taken_and_one_more_is_refused)
{
    for (int with_objects = 0; with_objects < 2; with_objects++) {
        size_t size;
        char *text = nest(1000, with_objects != 0, &size);
        document deepest = read_document(text, size);
        CHECK(deepest.status == MB_OK);
        CHECK(deepest.count == 1);
        CHECK(is(deepest.members[0].value, text + 5, size - 6));
        close_document(&deepest);
        free(text);

        for (size_t depth = 1001; depth < 1010; depth++) {
            text = nest(depth, with_objects != 0, &size);
            document too_deep = read_document(text, size);
            CHECK(too_deep.status == MB_INVALID);
            CHECK(text[too_deep.error.offset] == '[' || text[too_deep.error.offset] == '{');
            CHECK(strstr(too_deep.error.reason, "1000") != NULL);
            size_t opened = 0;
            for (size_t i = 0; i < too_deep.error.offset; i++)
                opened += text[i] == '[' || text[i] == '{';
            CHECK(opened == 1000);
            close_document(&too_deep);
            free(text);
        }
    }
}

TEST(brackets_side_by_side_are_not_nested)
{
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    fputs("{\"a\":[", out);
    for (size_t i = 0; i < 3000; i++)
        fputs("[],{},[{}],{\"b\":[]},", out);
    fputs("0]", out);
    for (size_t i = 0; i < 3000; i++)
        fputs(",\"c\":[[{}]]", out);
    fputs("}", out);
    fclose(out);
    document d = read_document(text, size);
    CHECK(d.status == MB_OK);
    CHECK(d.count == 3001);
    close_document(&d);
    free(text);
}

TEST(each_bracket_is_closed_by_its_own_kind_at_any_depth)
{
    for (size_t depth = 2; depth <= 40; depth++) {
        size_t size;
        char *text = nest(depth, true, &size);
        for (size_t at = size - depth; at < size; at++) {
            const char right = text[at];
            text[at] = right == '}' ? ']' : '}';
            check_refused(text, size, at);
            text[at] = right;
        }
        free(text);
    }
}

/* ---- UTF-8 --------------------------------------------------------------------------------- */

static size_t encode_utf8(uint32_t scalar, char *out)
{
    if (scalar < 0x80) {
        out[0] = (char)scalar;
        return 1;
    }
    if (scalar < 0x800) {
        out[0] = (char)(0xc0 | scalar >> 6);
        out[1] = (char)(0x80 | (scalar & 0x3f));
        return 2;
    }
    if (scalar < 0x10000) {
        out[0] = (char)(0xe0 | scalar >> 12);
        out[1] = (char)(0x80 | (scalar >> 6 & 0x3f));
        out[2] = (char)(0x80 | (scalar & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | scalar >> 18);
    out[1] = (char)(0x80 | (scalar >> 12 & 0x3f));
    out[2] = (char)(0x80 | (scalar >> 6 & 0x3f));
    out[3] = (char)(0x80 | (scalar & 0x3f));
    return 4;
}

static bool is_scalar(uint32_t code_point)
{
    return code_point <= 0x10ffff && !(code_point >= 0xd800 && code_point <= 0xdfff);
}

/* UTF-8 by its definition: what some scalar values, one after the other, are encoded as. */
static bool encodes_scalars(const char *text, size_t size)
{
    for (size_t at = 0; at < size;) {
        const unsigned char first = (unsigned char)text[at];
        const size_t length = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
        char wanted[4];
        uint32_t scalar = length == 1 ? first : first & 0x3fU >> (length - 1);
        if (length > size - at)
            return false;
        for (size_t i = 1; i < length; i++)
            scalar = scalar << 6 | ((unsigned char)text[at + i] & 0x3f);
        if (!is_scalar(scalar) || encode_utf8(scalar, wanted) != length ||
            memcmp(wanted, text + at, length) != 0)
            return false;
        at += length;
    }
    return true;
}

static bool is_clean(const char *text, size_t size)
{
    char *exact = copy_exactly(text, size);
    const bool clean = mb_json_is_clean_text((mb_text){exact, size});
    free(exact);
    return clean;
}

static bool is_taken_as_value(const char *text, size_t size)
{
    char quoted[16] = "{\"a\":\"";
    memcpy(quoted + 6, text, size);
    memcpy(quoted + 6 + size, "\"}", 2);
    document d = read_document(quoted, size + 8);
    const bool taken = d.status == MB_OK;
    CHECK(taken || d.error.offset >= 6);
    close_document(&d);
    return taken;
}

TEST(every_class_of_bad_utf8_is_refused)
{
    static const struct {
        const char *text;
        size_t size;
    } rows[] = {
        {BYTES("\x80")}, /* a continuation alone */
        {BYTES("\xbf")},
        {BYTES("a\x80")},
        {BYTES("\xc3\xa9\xa9")}, /* one too many */
        {BYTES("\xc0\x80")},     /* overlong */
        {BYTES("\xc0\xaf")},
        {BYTES("\xc1\xbf")},
        {BYTES("\xe0\x80\x80")},
        {BYTES("\xe0\x9f\xbf")},
        {BYTES("\xf0\x80\x80\x80")},
        {BYTES("\xf0\x8f\xbf\xbf")},
        {BYTES("\xed\xa0\x80")}, /* surrogates */
        {BYTES("\xed\xbf\xbf")},
        {BYTES("\xed\xa0\xbd\xed\xb8\x80")},
        {BYTES("\xf4\x90\x80\x80")}, /* beyond U+10FFFF */
        {BYTES("\xf5\x80\x80\x80")},
        {BYTES("\xf7\xbf\xbf\xbf")},
        {BYTES("\xf8\x88\x80\x80\x80")},
        {BYTES("\xfe")},
        {BYTES("\xff")},
        {BYTES("\xc3")}, /* cut short */
        {BYTES("\xe2\x82")},
        {BYTES("\xe2")},
        {BYTES("\xf0\x9f\x98")},
        {BYTES("\xf0\x9f")},
        {BYTES("\xf0")},
        {BYTES("\xc3z")}, /* something else where it goes on */
        {BYTES("\xe2z\xac")},
        {BYTES("\xe2\x82z")},
        {BYTES("\xf0z\x98\x80")},
        {BYTES("\xf0\x9fz\x80")},
        {BYTES("\xf0\x9f\x98z")},
        {BYTES("\xf0\x9f\x98\xc3")},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        at_row("row %zu", i);
        CHECK(!encodes_scalars(rows[i].text, rows[i].size));
        CHECK(!is_clean(rows[i].text, rows[i].size));
        CHECK(!is_taken_as_value(rows[i].text, rows[i].size));
    }
}

TEST(a_text_is_clean_exactly_when_it_encodes_scalar_values)
{
    static const unsigned char later[] = {0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f,
                                          0xa0, 0xbf, 0xc0, 0xc2, 0xed, 0xf4, 0xff};
    enum { KINDS = sizeof later };
    for (int first = 0; first < 256; first++) {
        for (size_t rest = 0; rest < KINDS * KINDS * KINDS; rest++) {
            const char text[4] = {(char)first, (char)later[rest / KINDS / KINDS],
                                  (char)later[rest / KINDS % KINDS], (char)later[rest % KINDS]};
            for (size_t size = 1; size <= sizeof text; size++) {
                const bool clean = encodes_scalars(text, size) && memchr(text, '\0', size) == NULL;
                if (mb_json_is_clean_text((mb_text){text, size}) != clean) {
                    at_row("%02x %02x %02x %02x, %zu bytes", first, text[1] & 0xff, text[2] & 0xff,
                           text[3] & 0xff, size);
                    CHECK(false);
                }
            }
        }
    }
    CHECK(mb_json_is_clean_text(MB_TEXT("")));
    CHECK(mb_json_is_clean_text((mb_text){NULL, 0}));
}

TEST(the_ends_of_every_range_of_utf8_are_taken)
{
    static const uint32_t ends[] = {0x20,    0x7f,    0x80,    0x7ff,   0x800,    0xfff,   0x1000,
                                    0xcfff,  0xd000,  0xd7ff,  0xe000,  0xfeff,   0xfffe,  0xffff,
                                    0x10000, 0x3ffff, 0x40000, 0xfffff, 0x100000, 0x10ffff};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        char text[4];
        const size_t size = encode_utf8(ends[i], text);
        at_row("U+%04" PRIX32, ends[i]);
        CHECK(is_clean(text, size));
        CHECK(is_taken_as_value(text, size));
    }
}

/* ---- decoding and encoding ----------------------------------------------------------------- */

static void check_escape(uint32_t code_point)
{
    char text[32], wanted[4];
    if (code_point < 0x10000) {
        snprintf(text, sizeof text, code_point % 2 == 0 ? "{\"\\u%04x\":0}" : "{\"\\u%04X\":0}",
                 (unsigned)code_point);
    } else {
        const unsigned above = (unsigned)code_point - 0x10000;
        snprintf(text, sizeof text, "{\"\\u%04x\\u%04X\":0}", 0xd800 + (above >> 10),
                 0xdc00 + (above & 0x3ff));
    }
    document d = read_document(text, strlen(text));
    at_row("%s", text);
    if (code_point == 0 || !is_scalar(code_point)) {
        CHECK(d.status == MB_INVALID);
    } else {
        CHECK(d.status == MB_OK);
        CHECK(is(d.members[0].name, wanted, encode_utf8(code_point, wanted)));
    }
    close_document(&d);
}

TEST(every_escaped_code_point_is_decoded)
{
    enum { PRIME = 61 }; /* steps through all digits */
    for (uint32_t code_point = 0; code_point < 0x100; code_point++)
        check_escape(code_point);
    for (uint32_t code_point = 0x100; code_point <= 0xffff; code_point += PRIME)
        check_escape(code_point);
    for (uint32_t code_point = 0xd7f0; code_point < 0xd810; code_point++)
        check_escape(code_point);
    for (uint32_t code_point = 0xdbf0; code_point < 0xdc10; code_point++)
        check_escape(code_point);
    for (uint32_t code_point = 0xdff0; code_point < 0xe010; code_point++)
        check_escape(code_point);
    for (uint32_t code_point = 0x10000; code_point <= 0x10ffff; code_point += PRIME * PRIME)
        check_escape(code_point);
    check_escape(0xffff);
    check_escape(0x10ffff);
}

/* A text as a JSON string, made in no more room than was asked for; to be freed. */
static mb_text encode(mb_text text)
{
    bool is_like_json = true; /* no control character that JSON cannot have */
    for (size_t i = 0; i < text.size; i++)
        is_like_json &= (unsigned char)text.at[i] >= 0x20 || strchr("\t\n\r", text.at[i]) != NULL;
    char *room = malloc((is_like_json ? 2 : 6) * text.size + MB_STRING_ROOM);
    CHECK(room != NULL);
    return (mb_text){room, (size_t)(mb_json_put_string(room, text) - room)};
}

/* Encodes a text and decodes it again, in memory of exactly its size; gives the encoded size. */
static size_t check_round_trip(const char *text, size_t size)
{
    mb_arena *arena;
    mb_text decoded;
    char *exact = copy_exactly(text, size);
    CHECK(mb_arena_new(NULL, 0, &arena) == MB_OK);
    const mb_text quoted = encode((mb_text){exact, size});

    char *alone = copy_exactly(quoted.at, quoted.size);
    CHECK(mb_json_decode_string((mb_text){alone, quoted.size}, arena, &decoded) == MB_OK);
    CHECK(is(decoded, text, size));

    char *object = malloc(quoted.size + 6);
    CHECK(object != NULL);
    snprintf(object, quoted.size + 6, "{\"\":%.*s}", (int)quoted.size, quoted.at);
    document d = read_document(object, quoted.size + 5);
    CHECK(d.status == MB_OK);
    CHECK(is(d.members[0].value, quoted.at, quoted.size));
    close_document(&d);

    free(object);
    free(alone);
    free(exact);
    free((char *)quoted.at);
    mb_arena_free(arena);
    return quoted.size;
}

TEST(every_character_survives_encoding)
{
    for (uint32_t scalar = 1; scalar <= 0x10ffff; scalar += scalar < 0x900 ? 1 : 1009) {
        char text[6] = "a";
        if (!is_scalar(scalar))
            continue;
        const size_t size = encode_utf8(scalar, text + 1);
        at_row("U+%04" PRIX32, scalar);
        const size_t alone = check_round_trip(text + 1, size);
        text[1 + size] = 'z';
        CHECK(check_round_trip(text, size + 2) == alone + 2);
        if (scalar >= 0x20 && scalar != '"' && scalar != '\\')
            CHECK(alone == size + 2); /* nothing is escaped that need not be */
    }
    CHECK(check_round_trip("", 0) == 2);
}

/* A string is walked block by block: no byte may mean something else for where it stands.  Behind it
 * stands what a word takes for a quote if one stands before (scan.h). */
TEST(a_byte_means_the_same_wherever_it_stands_in_a_block)
{
    enum { BLOCKS = 37 };
    for (size_t size = 1; size <= BLOCKS; size++) {
        for (size_t place = 0; place < size; place++) {
            for (unsigned byte = 0; byte < 0x100; byte++) {
                char text[BLOCKS + 7] = "{\"\":\"";
                char *inside = text + 5;
                char plain[BLOCKS];
                memset(plain, 'x', size);
                memset(plain + place, '#', size - place);
                plain[place] = (char)byte;
                memcpy(inside, plain, size);
                memcpy(inside + size, "\"}", 2);
                at_row("byte %02x at %zu of %zu", byte, place, size);

                const bool escapes = byte < 0x20 || byte == '"' || byte == '\\';
                const mb_text alone = {plain, size};
                CHECK(mb_json_is_clean_text(alone) == (byte != 0 && byte < 0x80));
                document d = read_document(text, size + 7);
                CHECK((d.status == MB_OK) == (!escapes && byte < 0x80));
                close_document(&d);
                if (byte != 0 && byte < 0x80)
                    CHECK((check_round_trip(plain, size) == size + 2) == !escapes);
            }
        }
    }
}

/* A string as it is printed, one byte after the other. Returns its size. */
static size_t encode_slowly(mb_text text, char *printed)
{
    static const char escaped[] = "\b\t\n\f\r\"\\", letters[] = "btnfr\"\\";
    char *at = printed;
    *at++ = '"';
    for (size_t i = 0; i < text.size; i++) {
        const char c = text.at[i];
        const char *found = memchr(escaped, c, sizeof escaped - 1);
        if (found != NULL)
            at += sprintf(at, "\\%c", letters[found - escaped]);
        else if ((unsigned char)c < 0x20)
            at += sprintf(at, "\\u%04x", (unsigned)c);
        else
            *at++ = c;
    }
    *at++ = '"';
    return (size_t)(at - printed);
}

TEST(random_texts_are_encoded_as_byte_by_byte)
{
    enum { LONGEST = 64, EACH = 200 };
    uint64_t random = 1;
    for (size_t size = 0; size <= LONGEST; size++) {
        for (unsigned n = 0; n < EACH; n++) {
            char text[LONGEST], slow[6 * LONGEST + 3];
            for (size_t i = 0; i < size; i++) {
                random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
                const unsigned byte = (unsigned)(random >> 56);
                text[i] = (char)(random >> 40 & 7 ? 'a' + byte % 26 : byte);
            }
            at_row("text %u of %zu bytes", n, size);
            char *exact = copy_exactly(text, size);
            const mb_text quoted = encode((mb_text){exact, size});
            CHECK(is(quoted, slow, encode_slowly((mb_text){text, size}, slow)));
            free((char *)quoted.at);
            free(exact);
        }
    }
}

TEST(encoding_stays_within_its_memory_at_any_size)
{
    static char text[3000];
    for (size_t size = 1; size < sizeof text; size += size < 50 ? 1 : 491) {
        for (size_t escaped = 0; escaped <= size; escaped += size / 3 + 1) {
            memset(text, '\x1f', escaped);
            memset(text + escaped, 'x', size - escaped);
            at_row("%zu bytes, %zu to escape", size, escaped);
            CHECK(check_round_trip(text, size) == size + 2 + 5 * escaped);
        }
    }
}

TEST(an_encoded_string_larger_than_a_block_does_not_overrun_it)
{
    static char text[6 * 4096];
    for (size_t size = sizeof text - 40; size <= sizeof text; size++) {
        memset(text, 'x', size);
        CHECK(check_round_trip(text, size) == size + 2);
        text[size - 1] = '"';
        CHECK(check_round_trip(text, size) == size + 3);
    }
}

TEST(a_string_without_escapes_is_borrowed)
{
    static const char quoted[] = "\"caf\xc3\xa9\"";
    scarce_memory memory = {0};
    const mb_allocator allocator = scarce_allocator(&memory);
    mb_arena *arena;
    mb_text decoded;
    CHECK(mb_arena_new(&allocator, 0, &arena) == MB_OK);
    CHECK(mb_json_decode_string((mb_text){quoted, 7}, arena, &decoded) == MB_OK);
    CHECK(decoded.at == quoted + 1 && decoded.size == 5);
    CHECK(mb_json_decode_string(MB_TEXT("\"\""), arena, &decoded) == MB_OK);
    CHECK(decoded.size == 0);
    CHECK(memory.asked == 1);
    mb_arena_free(arena);
}

TEST(a_member_is_looked_for_without_decoding_other_names)
{
    static const char *const others[] = {"\\u0061",          "auth_tokex\\u006e", "auth_toke\\n",
                                         "auth_toke\\u00e9", "auth_token\\u0061", "\\/"};
    enum { TIMES = 2000 };
    scarce_memory memory = {0};
    const mb_allocator allocator = scarce_allocator(&memory);
    mb_arena *arena;
    mb_text found;
    char *body;
    size_t size;
    FILE *printed = open_memstream(&body, &size);
    fprintf(printed, "{\"auth\\u005ftoken\":\"t\"");
    for (size_t i = 0; i < TIMES * sizeof others / sizeof *others; i++)
        fprintf(printed, ",\"%s\":1", others[i % (sizeof others / sizeof *others)]);
    fprintf(printed, "}");
    fclose(printed);

    CHECK(mb_arena_new(&allocator, 0, &arena) == MB_OK);
    feed_cjson(&memory);
    CHECK(mb_json_text_member((mb_text){body, size}, MB_TEXT("auth_token"), arena, &found) ==
          MB_OK);
    feed_cjson(NULL);
    CHECK(found.size == 1 && found.at[0] == 't');
    CHECK(memory.asked < 10); /* the arena, and the one name that is the wanted one */
    mb_arena_free(arena);
    free(body);
}

TEST(an_integer_is_read_from_its_digits)
{
    static const struct {
        const char *text;
        int64_t integer; /* -1: is not one */
    } rows[] = {
        {"0", 0},
        {"7", 7},
        {"1600000000000", INT64_C(1600000000000)},
        {"4294967296", INT64_C(4294967296)},
        {"9007199254740990", MB_MAX_INTEGER - 1},
        {"9007199254740991", MB_MAX_INTEGER},
        {"9007199254740992", -1},
        {"9007199254740993", -1},
        {"9999999999999999", -1},
        {"10000000000000000", -1},
        {"18446744073709551616", -1},
        {"18446744073709551617", -1},
        {"340282366920938463463374607431768211456", -1},
        {"-1", -1},
        {"-0", 0},
        {"1.0", -1},
        {"1e3", -1},
        {"true", -1},
        {"null", -1},
        {"\"5\"", -1},
        {"[5]", -1},
        {" 5", -1},
        {"5 ", -1},
        {"", -1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const size_t size = strlen(rows[i].text);
        char *exact = copy_exactly(rows[i].text, size);
        int64_t integer = -1;
        at_row("%s", rows[i].text);
        CHECK(mb_json_read_integer((mb_text){exact, size}, &integer) == (rows[i].integer != -1));
        CHECK(integer == rows[i].integer);
        free(exact);
    }
}

/* ---- arrays -------------------------------------------------------------------------------- */

static mb_status read_members(mb_json *json, mb_arena *arena)
{
    size_t read = 0;
    bool more = true;
    mb_status status = mb_json_enter(json, '{');
    while (status == MB_OK && more) {
        mb_member member;
        status = mb_json_next_member(json, (mb_text){NULL, 0}, arena, &read, &more, &member);
        if (status == MB_OK && more)
            status = mb_json_read_value(json, &member.value);
    }
    return status;
}

/* Reads an array of objects; `objects` counts those that were read. */
static mb_status read_array(const char *text, size_t size, size_t *objects, mb_error *error)
{
    char *exact = copy_exactly(text, size);
    mb_arena *arena;
    size_t read = 0;
    bool more = false;
    *objects = 0;
    CHECK(mb_arena_new(NULL, 0, &arena) == MB_OK);
    mb_json json = mb_json_begin((mb_text){exact, size}, error);
    mb_status status = mb_json_enter(&json, '[');
    if (status == MB_OK)
        status = mb_json_next_element(&json, &read, &more);
    while (status == MB_OK && more) {
        status = read_members(&json, arena);
        if (status == MB_OK) {
            ++*objects;
            status = mb_json_next_element(&json, &read, &more);
        }
    }
    if (status == MB_OK)
        status = mb_json_end(&json);
    mb_arena_free(arena);
    free(exact);
    return status;
}

TEST(an_array_is_walked_element_by_element)
{
    static const struct {
        const char *text;
        size_t objects;
    } rows[] = {{"[]", 0},
                {" [ ] ", 0},
                {"[{}]", 1},
                {"[{},{}]", 2},
                {" [ { } , {\"a\":[1,{}]} ,{} ] ", 3}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        mb_error error = {.reason = ""};
        size_t objects;
        at_row("%s", rows[i].text);
        CHECK(read_array(rows[i].text, strlen(rows[i].text), &objects, &error) == MB_OK);
        CHECK(objects == rows[i].objects);
    }
}

TEST(an_array_may_be_longer_than_it_may_be_deep)
{
    enum { LENGTH = 1200 };
    char *text;
    size_t size, objects;
    mb_error error = {.reason = ""};
    FILE *out = open_memstream(&text, &size);
    for (size_t i = 0; i < LENGTH; i++)
        fprintf(out, "%s{\"a\":[{\"b\":[]}]}", i == 0 ? "[" : ",");
    fputs("]", out);
    fclose(out);
    CHECK(read_array(text, size, &objects, &error) == MB_OK);
    CHECK(objects == LENGTH);
    free(text);
}

TEST(a_broken_array_is_refused_where_it_breaks)
{
    static const refusal rows[] = {
        {BYTES(""), 0},     {BYTES("{}"), 0},        {BYTES("["), 1},      {BYTES("[{}"), 3},
        {BYTES("[{},"), 4}, {BYTES("[{},]"), 4},     {BYTES("[,{}]"), 1},  {BYTES("[{}{}]"), 3},
        {BYTES("[{}}"), 3}, {BYTES("[{}]]"), 4},     {BYTES("[{}] 1"), 5}, {BYTES("[1]"), 1},
        {BYTES("[[]]"), 1}, {BYTES("[null]"), 1},    {BYTES("[{},1]"), 4}, {BYTES("[{},,{}]"), 4},
        {BYTES("[]\0"), 2}, {BYTES("[{\"a\"}]"), 5},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        mb_error error = {.reason = ""};
        size_t objects;
        const mb_status status = read_array(rows[i].text, rows[i].size, &objects, &error);
        at_row("%s: %s at %zu", rows[i].text, error.reason, error.offset);
        CHECK(status == MB_INVALID);
        CHECK(error.offset == rows[i].offset);
    }
}

/* ---- without memory ------------------------------------------------------------------------ */

static mb_status read_rich(void *context, mb_arena *arena, FILE *told)
{
    const mb_text *text = context;
    mb_error error;
    mb_json_object object = {.count = 0};
    const mb_status status = mb_json_read_object(*text, SIZE_MAX, arena, &object, &error);
    for (size_t i = 0; status == MB_OK && i < object.count; i++) {
        const mb_text name = object.members[i].name, value = object.members[i].value;
        fprintf(told, "%.*s = %.*s\n", (int)name.size, name.at, (int)value.size, value.at);
    }
    return status;
}

TEST(an_object_is_read_or_memory_is_out)
{
    mb_text text = {rich, sizeof rich - 1};
    CHECK(check_survives_scarcity(read_rich, &text) > 0);
}

/* The reader takes usual members another way than the others: here all are others, or the first 40 are
 * usual. */
TEST(an_object_of_many_members_is_read_or_memory_is_out)
{
    for (size_t usual = 0; usual <= 40; usual += 40) {
        char *many;
        size_t size;
        FILE *out = open_memstream(&many, &size);
        for (size_t i = 0; i < 60; i++)
            fprintf(out, "%c\"%zu%s\":%s", i == 0 ? '{' : ',', i,
                    i >= usual && i % 20 == 0 ? "\\u000a" : "", i < usual ? "1" : "[]");
        fputs("}", out);
        fclose(out);
        mb_text text = {many, size};
        CHECK(check_survives_scarcity(read_rich, &text) > 0);
        free(many);
    }
}

static mb_status decode(void *context, mb_arena *arena, FILE *told)
{
    const mb_text *quoted = context;
    mb_text decoded;
    const mb_status status = mb_json_decode_string(*quoted, arena, &decoded);
    if (status == MB_OK)
        fprintf(told, "%.*s", (int)decoded.size, decoded.at);
    return status;
}

TEST(a_string_is_decoded_or_memory_is_out)
{
    mb_text plain = MB_TEXT("\"plain\"");
    mb_text escaped = MB_TEXT("\"two\\nlines \\u0022quoted\\\" \xf0\x9f\x98\x80\\u0001\"");
    CHECK(check_survives_scarcity(decode, &plain) == 0);
    CHECK(check_survives_scarcity(decode, &escaped) > 0);
}

int main(void)
{
    RUN(a_value_is_the_exact_text_between_the_white_space);
    RUN(an_object_may_be_empty);
    RUN(spans_point_into_the_document);
    RUN(members_keep_their_order_however_many);
    RUN(the_members_stay_when_more_memory_is_taken);
    RUN(a_name_may_stand_twice);
    RUN(a_name_is_decoded_and_kept_as_it_stood);
    RUN(what_is_not_an_object_is_refused);
    RUN(a_text_without_an_address_is_refused_as_empty);
    RUN(a_refused_object_leaves_no_members_behind);
    RUN(text_behind_the_object_is_refused);
    RUN(a_broken_structure_is_refused_where_it_breaks);
    RUN(what_is_not_a_number_or_literal_of_json_is_refused);
    RUN(a_lone_surrogate_is_refused);
    RUN(u0000_is_refused_raw_and_escaped);
    RUN(a_raw_control_character_is_refused);
    RUN(no_other_escape_is_known);
    RUN(an_escape_needs_four_hexadecimal_digits);
    RUN(what_is_not_closed_is_refused_at_the_end);
    RUN(every_prefix_of_a_document_is_refused);
    RUN(a_document_with_one_wrong_byte_is_refused_or_still_whole);
    RUN(a_thousand_levels_are_taken_and_one_more_is_refused);
    RUN(brackets_side_by_side_are_not_nested);
    RUN(each_bracket_is_closed_by_its_own_kind_at_any_depth);
    RUN(every_class_of_bad_utf8_is_refused);
    RUN(a_text_is_clean_exactly_when_it_encodes_scalar_values);
    RUN(the_ends_of_every_range_of_utf8_are_taken);
    RUN(every_escaped_code_point_is_decoded);
    RUN(every_character_survives_encoding);
    RUN(a_byte_means_the_same_wherever_it_stands_in_a_block);
    RUN(random_texts_are_encoded_as_byte_by_byte);
    RUN(encoding_stays_within_its_memory_at_any_size);
    RUN(an_encoded_string_larger_than_a_block_does_not_overrun_it);
    RUN(a_string_without_escapes_is_borrowed);
    RUN(a_member_is_looked_for_without_decoding_other_names);
    RUN(an_integer_is_read_from_its_digits);
    RUN(an_array_is_walked_element_by_element);
    RUN(an_array_may_be_longer_than_it_may_be_deep);
    RUN(a_broken_array_is_refused_where_it_breaks);
    RUN(an_object_is_read_or_memory_is_out);
    RUN(an_object_of_many_members_is_read_or_memory_is_out);
    RUN(a_string_is_decoded_or_memory_is_out);
    return tests_end();
}
