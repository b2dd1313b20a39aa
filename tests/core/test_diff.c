/* test_diff.c - the seven fields of a diff: read, checked, printed. */
#include "../../csrc/core/text.h"
#include "scarcity.h"

#include <inttypes.h>

/* A text that the compiler measures, so that it may hold U+0000. */
#define BYTES(literal) "" literal, sizeof(literal) - 1

static mb_arena *new_arena(void)
{
    mb_arena *arena;
    CHECK(mb_arena_new(NULL, 0, &arena) == MB_OK);
    return arena;
}

static mb_diff good_diff(void)
{
    return (mb_diff){.id = MB_TEXT("d1"),
                     .owner = MB_TEXT("anna"),
                     .model = MB_TEXT("tasks"),
                     .json_data = MB_TEXT("{\"id\": \"x\", \"done\": 1.50}"),
                     .logical_clock = 12,
                     .utc_timestamp = INT64_C(1600000000000),
                     .type = MB_UPDATE};
}

/* A diff as the log has it; to be freed. */
static char *print_diff(const mb_diff *diff)
{
    const mb_outcome unchanged = {
        .type = diff->type, .utc_timestamp = diff->utc_timestamp, .json_data = diff->json_data};
    const size_t most = mb_log_row_most_bytes(diff, &unchanged, diff->owner);
    char *room = malloc(most);
    CHECK(room != NULL);
    const size_t size = mb_log_row_put(diff, &unchanged, diff->owner, diff->logical_clock, room);
    CHECK(size <= most);
    char *printed = strndup(room, size);
    free(room);
    return printed;
}

static bool same_diff(const mb_diff *a, const mb_diff *b)
{
    return mb_text_equal(a->id, b->id) && mb_text_equal(a->owner, b->owner) &&
           mb_text_equal(a->model, b->model) && mb_text_equal(a->json_data, b->json_data) &&
           a->logical_clock == b->logical_clock && a->utc_timestamp == b->utc_timestamp &&
           a->type == b->type;
}

/* ---- checking ------------------------------------------------------------------------------ */

/* Checks that the diff is refused for that field, at that byte of it. */
static void check_refused(mb_diff diff, const char *field, size_t offset)
{
    mb_arena *arena = new_arena();
    mb_error error = {.field = "", .reason = "", .offset = SIZE_MAX};
    CHECK(mb_diff_check(&diff, NULL, arena, &error) == MB_INVALID);
    CHECK_TEXT(error.field, field);
    CHECK(error.reason != NULL && error.reason[0] != '\0');
    CHECK(error.offset == offset);
    mb_arena_free(arena);
}

static void check_taken(mb_diff diff)
{
    mb_arena *arena = new_arena();
    mb_error error;
    CHECK(mb_diff_check(&diff, NULL, arena, &error) == MB_OK);
    mb_arena_free(arena);
}

TEST(a_checked_diff_knows_its_object_and_members)
{
    mb_arena *arena = new_arena();
    mb_error error;
    mb_diff diff = good_diff();
    diff.json_data = MB_TEXT(" {\"a\":1.50, \"\\u0069d\": \"\\u0078\" ,\"b\":{\"id\":7}}");
    CHECK(mb_diff_check(&diff, NULL, arena, &error) == MB_OK);
    CHECK(mb_text_equal(diff.object_id, MB_TEXT("x")));
    CHECK(diff.member_count == 3);
    CHECK(mb_text_equal(diff.members[0].name, MB_TEXT("a")));
    CHECK(mb_text_equal(diff.members[0].value, MB_TEXT("1.50")));
    CHECK(mb_text_equal(diff.members[1].name, MB_TEXT("id")));
    CHECK(mb_text_equal(diff.members[2].value, MB_TEXT("{\"id\":7}")));
    mb_arena_free(arena);
}

/* A row of a log is checked as any diff, and says the same of itself but for the members. */
TEST(a_row_of_a_log_is_checked_without_keeping_its_members)
{
    static const char *const rows[] = {
        "{\"id\":\"x\"}",
        " {\"a\":1.50, \"\\u0069d\": \"\\u0078\" ,\"b\":{\"id\":7}} ",
        "{\"id\":\"x\",\"id\":\"y\"}",
        "{\"id\":\"x\",\"a\":[[[]]],\"a\":1}",
        "{}",
        "{\"a\":1}",
        "{\"id\":7,\"a\":1}",
        "{\"id\":\"\"}",
        "{\"id\":\"x\",}",
        "{\"id\":\"x\"} 1",
        "[]",
        "",
        "{\"id\":\"\\ud800\"}",
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        mb_arena *arena = new_arena();
        mb_error error, row_error;
        mb_diff diff = good_diff();
        diff.json_data = (mb_text){rows[i], strlen(rows[i])};
        mb_diff row = diff;
        at_row("%s", rows[i]);
        const mb_status status = mb_diff_check(&diff, NULL, arena, &error);
        CHECK(mb_log_row_check(&row, arena, &row_error) == status);
        if (status == MB_INVALID) {
            CHECK(row_error.code == error.code && row_error.offset == error.offset);
            CHECK_TEXT(row_error.field, error.field);
        } else {
            CHECK(row.members == NULL && row.member_count == diff.member_count);
            CHECK(row.depth == diff.depth && row.has_fields == diff.has_fields);
            CHECK(mb_text_equal(row.object_id, diff.object_id));
        }
        mb_arena_free(arena);
    }
}

TEST(a_row_of_a_log_is_refused_for_any_field)
{
    mb_arena *arena = new_arena();
    mb_error error;
    mb_diff diff = good_diff();
    diff.utc_timestamp = -1;
    CHECK(mb_log_row_check(&diff, arena, &error) == MB_INVALID);
    CHECK_TEXT(error.field, "utc_timestamp");
    mb_arena_free(arena);
}

TEST(a_reply_can_be_printed_piece_by_piece)
{
    enum { DIFFS = 5 };
    mb_arena *arena = new_arena();
    mb_diff items[DIFFS];
    mb_outcome outcomes[DIFFS];
    for (size_t i = 0; i < DIFFS; i++) {
        mb_error error;
        items[i] = good_diff();
        items[i].logical_clock = (int64_t)i;
        CHECK(mb_log_row_check(&items[i], arena, &error) == MB_OK);
        outcomes[i] = (mb_outcome){i, items[i].type, items[i].utc_timestamp, items[i].json_data};
    }
    const mb_diffs window = {items, DIFFS};
    char whole[4096], pieces[4096];
    for (size_t count = 0; count <= DIFFS; count++) {
        const mb_outcomes downstream = {outcomes, count};
        const size_t size = mb_reply_put(&window, &downstream, 9, whole);
        for (size_t cut = 0; cut <= count; cut++) {
            at_row("%zu of %zu", cut, count);
            if (count != 0 && (cut == 0 || cut == count))
                continue; /* what is printed first has the head, and what is last the tail */
            size_t put = mb_reply_put_piece(&window, &downstream, 0, cut, 9, pieces);
            if (count != 0)
                put += mb_reply_put_piece(&window, &downstream, cut, count, 9, pieces + put);
            CHECK(put == size && memcmp(whole, pieces, size) == 0);
        }
    }
    mb_arena_free(arena);
}

TEST(a_checked_diff_knows_how_deep_it_is)
{
    static const struct {
        const char *json_data;
        unsigned depth;
    } rows[] = {{"{\"id\":\"x\"}", 1},
                {"{\"id\":\"x\",\"a\":[]}", 2},
                {"{\"a\":[{\"b\":[0]}],\"id\":\"x\",\"c\":{}}", 4},
                {"{\"a\":{\"b\":{\"c\":{}}},\"id\":\"x\"}", 4},
                {"{\"id\":\"[[[[\"}", 1}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        mb_arena *arena = new_arena();
        mb_error error;
        mb_diff diff = good_diff();
        diff.json_data = (mb_text){rows[i].json_data, strlen(rows[i].json_data)};
        at_row("%s", rows[i].json_data);
        CHECK(mb_diff_check(&diff, NULL, arena, &error) == MB_OK);
        CHECK(diff.depth == rows[i].depth);
        mb_arena_free(arena);
    }
}

TEST(of_two_ids_the_last_names_the_object)
{
    mb_arena *arena = new_arena();
    mb_error error;
    mb_diff diff = good_diff();
    diff.json_data = MB_TEXT("{\"id\":7,\"i\\u0064\":\"x\",\"id\":\"y\",\"ID\":\"z\"}");
    CHECK(mb_diff_check(&diff, NULL, arena, &error) == MB_OK);
    CHECK(mb_text_equal(diff.object_id, MB_TEXT("y")));
    mb_arena_free(arena);

    diff.json_data = MB_TEXT("{\"id\":\"x\",\"id\":7}");
    check_refused(diff, "json_data", 15);
}

TEST(a_text_field_must_be_clean_and_not_empty)
{
    static const struct {
        const char *text;
        size_t size;
    } bad[] = {{BYTES("")},         {BYTES("\0")},           {BYTES("a\0")},
               {BYTES("\xff")},     {BYTES("\xc3")},         {BYTES("a\x80")},
               {BYTES("\xc0\x80")}, {BYTES("\xed\xa0\x80")}, {BYTES("\xf4\x90\x80\x80")}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char *exact = malloc(bad[i].size);
        if (bad[i].size != 0)
            memcpy(exact, bad[i].text, bad[i].size);
        const mb_text text = {exact, bad[i].size};
        mb_diff diff = good_diff();
        at_row("row %zu", i);
        diff.id = text;
        check_refused(diff, "id", 0);
        diff = good_diff();
        diff.owner = text;
        check_refused(diff, "owner", 0);
        diff = good_diff();
        diff.model = text;
        check_refused(diff, "model", 0);
        if (bad[i].size != 0 && memchr(exact, 0, bad[i].size) != NULL) {
            diff.is_utf8 = true;
            check_refused(diff, "model", 0);
        }
        free(exact);
    }
    mb_diff diff = good_diff();
    diff.id = (mb_text){NULL, 0};
    check_refused(diff, "id", 0);

    diff = good_diff();
    diff.id = MB_TEXT("\x01 \"\\ \xf0\x9f\x98\x80");
    diff.owner = diff.model = diff.id;
    check_taken(diff);
    diff.is_utf8 = true;
    check_taken(diff);
}

TEST(clock_and_timestamp_are_integers_that_json_clients_can_hold)
{
    static const int64_t good[] = {0, 1, INT64_C(1) << 31, MB_MAX_INTEGER - 1, MB_MAX_INTEGER};
    static const int64_t bad[] = {-1, MB_MAX_INTEGER + 1, MB_MAX_INTEGER + 2, INT64_MAX, INT64_MIN};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        mb_diff diff = good_diff();
        diff.logical_clock = diff.utc_timestamp = good[i];
        check_taken(diff);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        mb_diff diff = good_diff();
        at_row("%" PRId64, bad[i]);
        diff.logical_clock = bad[i];
        check_refused(diff, "logical_clock", 0);
        diff = good_diff();
        diff.utc_timestamp = bad[i];
        check_refused(diff, "utc_timestamp", 0);
    }
}

TEST(json_data_must_be_an_object_that_names_its_object)
{
    static const struct {
        const char *text;
        size_t size;
        size_t offset;
    } rows[] = {
        {BYTES(""), 0},
        {BYTES("null"), 0},
        {BYTES("[]"), 0},
        {BYTES("{}"), 0},
        {BYTES("{\"name\":\"x\"}"), 0},
        {BYTES("{\"Id\":\"x\"}"), 0},
        {BYTES("{\"a\":{\"id\":\"x\"}}"), 0},
        {BYTES("{\"id\":\"\"}"), 6},
        {BYTES("{\"id\":7}"), 6},
        {BYTES("{\"id\":null}"), 6},
        {BYTES("{\"id\": [\"x\"]}"), 7},
        {BYTES("{\"a\":0,\"id\":{}}"), 12},
        {BYTES("{\"id\":\"x\",}"), 10},
        {BYTES("{\"id\":\"x\"} {}"), 11},
        {BYTES("{\"id\":\"x\",\"a\":01}"), 15},
        {BYTES("{\"id\":\"x\",\"a\":NaN}"), 14},
        {BYTES("{\"id\":\"\\u0000\"}"), 7},
        {BYTES("{\"id\":\"\\ud800\"}"), 7},
        {BYTES("{\"id\":\"\xff\"}"), 7},
        {BYTES("{\"id\":\"x\"}\0"), 10},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        mb_diff diff = good_diff();
        diff.json_data = (mb_text){rows[i].text, rows[i].size};
        at_row("%s", rows[i].text);
        check_refused(diff, "json_data", rows[i].offset);
    }
    mb_diff diff = good_diff();
    diff.json_data = (mb_text){NULL, 0};
    check_refused(diff, "json_data", 0);
}

TEST(a_text_over_256_mib_is_refused_unread)
{
    mb_diff diff = good_diff();
    diff.json_data.size = MB_MAX_JSON_DATA + 1; /* reading it would crash */
    check_refused(diff, "json_data", 0);
    diff = good_diff();
    diff.id.size = SIZE_MAX;
    check_refused(diff, "id", 0);
}

TEST(types_have_the_names_of_the_wire)
{
    static const char *const names[] = {"create", "update", "delete"};
    static const mb_type types[] = {MB_CREATE, MB_UPDATE, MB_DELETE};
    mb_type type;
    for (size_t i = 0; i < 3; i++) {
        const mb_text name = {names[i], 6};
        CHECK(mb_text_equal(mb_type_name(types[i]), name));
        CHECK(mb_type_read(name, &type));
        CHECK(type == types[i]);
    }
    static const char *const others[] = {"", "Create", "creat", "created", "updates", " delete"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        CHECK(!mb_type_read((mb_text){others[i], strlen(others[i])}, &type));
    CHECK(!mb_type_read((mb_text){NULL, 0}, &type));
}

TEST(a_clock_that_runs_ahead_is_lowered_to_now)
{
    mb_diff items[] = {good_diff(), good_diff(), good_diff(), good_diff()};
    mb_diffs diffs = {items, 4};
    const int64_t now = INT64_C(1600000000000), skew = 300000;
    items[0].utc_timestamp = 0;
    items[1].utc_timestamp = now + skew;
    items[2].utc_timestamp = now + skew + 1;
    items[3].utc_timestamp = MB_MAX_INTEGER;
    mb_diffs_limit_skew(&diffs, now, skew);
    CHECK(items[0].utc_timestamp == 0);
    CHECK(items[1].utc_timestamp == now + skew);
    CHECK(items[2].utc_timestamp == now);
    CHECK(items[3].utc_timestamp == now);
    mb_diffs_limit_skew(&(mb_diffs){NULL, 0}, now, skew);
}

TEST(a_new_list_is_zeroed)
{
    scarce_memory memory = {0};
    const mb_allocator allocator = scarce_allocator(&memory);
    const mb_diff zero = {.type = MB_CREATE};
    mb_arena *arena;
    mb_diffs diffs;
    CHECK(mb_arena_new(&allocator, 0, &arena) == MB_OK);
    CHECK(mb_diffs_new(arena, 3, &diffs) == MB_OK);
    CHECK(diffs.count == 3);
    for (size_t i = 0; i < 3; i++) {
        CHECK(same_diff(&diffs.items[i], &zero));
        CHECK(!diffs.items[i].known && !diffs.items[i].repeated);
    }
    CHECK(mb_diffs_new(arena, 0, &diffs) == MB_OK);
    CHECK(diffs.count == 0);
    CHECK(mb_diffs_new(arena, SIZE_MAX, &diffs) == MB_NO_MEMORY);
    CHECK(diffs.count == 0);
    mb_arena_free(arena);
}

/* ---- reading ------------------------------------------------------------------------------- */

typedef struct {
    char *text; /* of exactly the list's size */
    mb_arena *arena;
    mb_status status;
    mb_diffs diffs;
    size_t index;
    mb_error error;
} list;

static list read_list(const char *text, size_t size)
{
    list l = {.text = malloc(size), .arena = new_arena(), .index = 12345, .error = {.offset = 99}};
    CHECK(l.text != NULL || size == 0);
    if (size != 0)
        memcpy(l.text, text, size);
    l.status = mb_diffs_read((mb_text){l.text, size}, l.arena, &l.diffs, &l.index, &l.error);
    return l;
}

static void close_list(list *l)
{
    mb_arena_free(l->arena);
    free(l->text);
}

TEST(a_list_of_diffs_is_read_in_order)
{
    list l = read_list(
        BYTES(" [ {\"id\":\"d1\",\"owner\":\"anna\",\"logical_clock\":12,"
              "\"utc_timestamp\":1600000000000,\"type\":\"update\",\"model\":\"tasks\","
              "\"json_data\":\"{\\\"id\\\": \\\"x\\\", \\\"done\\\": 1.50}\"} ,\n"
              "{\"json_data\":\"\",\"type\":\"delete\",\"model\":\"\",\"utc_timestamp\":0,"
              "\"logical_clock\":9007199254740991,\"owner\":\"\",\"id\":\"\"} ] "));
    const mb_diff first = good_diff();
    const mb_diff second = {.type = MB_DELETE, .logical_clock = MB_MAX_INTEGER};
    CHECK(l.status == MB_OK);
    CHECK(l.diffs.count == 2);
    CHECK(same_diff(&l.diffs.items[0], &first));
    CHECK(same_diff(&l.diffs.items[1], &second)); /* form is the business of mb_diff_check */
    close_list(&l);

    l = read_list(BYTES("[]"));
    CHECK(l.status == MB_OK);
    CHECK(l.diffs.count == 0);
    close_list(&l);
}

/* A diff as text, with one of its seven members given, the others good. */
static char *diff_with(const char *field, const char *value)
{
    static const char *const good[][2] = {{"id", "\"d\""},
                                          {"owner", "\"anna\""},
                                          {"logical_clock", "1"},
                                          {"utc_timestamp", "2"},
                                          {"type", "\"create\""},
                                          {"model", "\"tasks\""},
                                          {"json_data", "\"{\\\"id\\\":\\\"x\\\"}\""}};
    char *text;
    size_t size;
    const char *comma = "";
    FILE *out = open_memstream(&text, &size);
    fputc('{', out);
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        const char *own = strcmp(field, good[i][0]) == 0 ? value : good[i][1];
        if (own == NULL)
            continue;
        fprintf(out, "%s\"%s\":%s", comma, good[i][0], own);
        comma = ",";
    }
    fputc('}', out);
    fclose(out);
    return text;
}

TEST(a_list_may_be_long)
{
    enum { LENGTH = 200 };
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    for (int i = 0; i < LENGTH; i++) {
        char clock[16];
        snprintf(clock, sizeof clock, "%d", i);
        char *diff = diff_with("logical_clock", clock);
        fprintf(out, "%s%s", i == 0 ? "[" : ",", diff);
        free(diff);
    }
    fputs("]", out);
    fclose(out);
    list l = read_list(text, size);
    CHECK(l.status == MB_OK);
    CHECK(l.diffs.count == LENGTH);
    for (int i = 0; i < LENGTH; i++)
        CHECK(l.diffs.items[i].logical_clock == i);
    close_list(&l);
    free(text);
}

/* Checks that this value of a field is refused, and that the second of three diffs is blamed. */
static void check_field_refused(const char *field, const char *value)
{
    char *good = diff_with("", NULL);
    char *bad = diff_with(field, value);
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    fprintf(out, "[%s,%s,%s]", good, bad, good);
    fclose(out);

    list l = read_list(text, size);
    at_row("%s %s", field, value == NULL ? "(missing)" : value);
    CHECK(l.status == MB_INVALID);
    CHECK(l.index == 1);
    CHECK_TEXT(l.error.field, field);
    CHECK(l.error.reason != NULL && l.error.reason[0] != '\0');
    close_list(&l);
    free(text);
    free(bad);
    free(good);
}

TEST(a_field_of_the_wrong_kind_is_named_with_its_diff)
{
    static const char *const texts[] = {"id", "owner", "type", "model", "json_data"};
    static const char *const no_texts[] = {NULL, "null", "1", "true", "[]", "{}", "[\"x\"]"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        for (size_t j = 0; j < sizeof no_texts / sizeof *no_texts; j++)
            check_field_refused(texts[i], no_texts[j]);

    static const char *const integers[] = {"logical_clock", "utc_timestamp"};
    static const char *const no_integers[] = {NULL,
                                              "null",
                                              "true",
                                              "\"1\"",
                                              "[1]",
                                              "-1",
                                              "1.0",
                                              "1e3",
                                              "0.5",
                                              "9007199254740992",
                                              "9007199254740993",
                                              "10000000000000000",
                                              "18446744073709551617"};
    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++)
        for (size_t j = 0; j < sizeof no_integers / sizeof *no_integers; j++)
            check_field_refused(integers[i], no_integers[j]);

    static const char *const no_types[] = {"\"\"", "\"Create\"", "\"upsert\"", "\"create \""};
    for (size_t i = 0; i < sizeof no_types / sizeof *no_types; i++)
        check_field_refused("type", no_types[i]);
}

TEST(other_members_are_passed_over_and_of_duplicates_the_last_counts)
{
    list l = read_list(BYTES(
        "[{\"extra\":{\"id\":[]},\"id\":7,\"\\u0069d\":\"d\\u0031\",\"owner\":\"anna\","
        "\"logical_clock\":\"no\",\"logical_clock\":12,\"utc_timestamp\":1600000000000,"
        "\"type\":\"create\",\"type\":\"upd\\u0061te\",\"model\":\"tasks\",\"Model\":\"other\","
        "\"json_data\":\"{\\\"id\\\": \\\"x\\\", \\\"done\\\": 1.50}\",\"\":null}]"));
    const mb_diff wanted = good_diff();
    CHECK(l.status == MB_OK);
    CHECK(l.diffs.count == 1);
    CHECK(same_diff(&l.diffs.items[0], &wanted));
    close_list(&l);
}

TEST(a_broken_list_is_refused_with_the_diff_and_the_byte)
{
    char *good = diff_with("", NULL);
    const size_t whole = strlen(good);
    const struct {
        const char *before;
        const char *after;
        size_t index;
        size_t offset; /* behind `before` and the diff */
    } rows[] = {
        {"[", "", SIZE_MAX, 0},    {"[", ",", 1, 1},
        {"[", ",]", 1, 1},         {"[", "}", SIZE_MAX, 0},
        {"[", "]]", SIZE_MAX, 1},  {"[", "] 1", SIZE_MAX, 2},
        {"[", ",1]", 1, 1},        {"[", ",{\"id\":01}]", 1, 8},
        {"[", ",{\"id\"}]", 1, 6}, {"[", ",[]]", 1, 1},
        {"[", ",null]", 1, 1},     {"[", " {}]", SIZE_MAX, 1},
        {"[{", "]", 0, SIZE_MAX},  {"", "", SIZE_MAX, SIZE_MAX},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char *text;
        size_t size;
        FILE *out = open_memstream(&text, &size);
        fprintf(out, "%s%s%s", rows[i].before, good, rows[i].after);
        fclose(out);
        list l = read_list(text, size);
        at_row("%s: %s", text, l.error.reason);
        CHECK(l.status == MB_INVALID);
        CHECK(l.index == rows[i].index);
        CHECK(l.error.field == NULL);
        if (rows[i].offset != SIZE_MAX)
            CHECK(l.error.offset == strlen(rows[i].before) + whole + rows[i].offset);
        close_list(&l);
        free(text);
    }
    free(good);
}

TEST(a_diff_that_was_read_keeps_its_own_text)
{
    list l = read_list(BYTES("[ {\"id\":\"a\",\"owner\":\"o\",\"model\":\"m\",\"type\":\"delete\","
                             "\"json_data\" : \"\\u007b}\" ,\"logical_clock\":1,"
                             "\"utc_timestamp\":2, \"more\":[] } ]"));
    CHECK(l.status == MB_OK);
    CHECK(mb_text_equal(l.diffs.items[0].json_data, MB_TEXT("{}")));
    CHECK(mb_text_equal(l.diffs.items[0].quoted_json_data, MB_TEXT("\"\\u007b}\"")));
    CHECK(l.diffs.items[0].text.at == l.text + 2);
    const mb_text whole = l.diffs.items[0].text;
    CHECK(whole.at[whole.size - 1] == '}' && memcmp(whole.at + whole.size, " ]", 2) == 0);
    close_list(&l);
}

TEST(every_prefix_of_a_list_is_refused)
{
    char *good = diff_with("id", "\"\\n\\ud83d\\ude00\"");
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    fprintf(out, "[%s,%s]", good, good);
    fclose(out);
    for (size_t prefix = 0; prefix < size; prefix++) {
        list l = read_list(text, prefix);
        at_row("the first %zu bytes", prefix);
        CHECK(l.status == MB_INVALID);
        CHECK(l.error.offset <= prefix);
        close_list(&l);
    }
    list l = read_list(text, size);
    CHECK(l.status == MB_OK && l.diffs.count == 2);
    close_list(&l);
    free(text);
    free(good);
}

TEST(the_list_and_the_diff_are_two_of_the_thousand_levels)
{
    char *good = diff_with("", NULL);
    for (size_t depth = 998; depth <= 999; depth++) {
        char *text;
        size_t size;
        FILE *out = open_memstream(&text, &size);
        fprintf(out, "[{\"deep\":");
        for (size_t i = 0; i < depth; i++)
            fputc('[', out);
        for (size_t i = 0; i < depth; i++)
            fputc(']', out);
        fprintf(out, ",%s]", good + 1);
        fclose(out);
        list l = read_list(text, size);
        CHECK(l.status == (depth == 998 ? MB_OK : MB_INVALID));
        CHECK(depth == 998 || l.error.offset == 9 + 998);
        close_list(&l);
        free(text);
    }
    free(good);
}

/* ---- a request ----------------------------------------------------------------------------- */

typedef struct {
    char *body; /* of exactly its size */
    mb_arena *arena;
    mb_status status;
    mb_request request;
    size_t index;
    mb_error error;
} reading;

static const char *const no_keys[] = {"self", "owner_id", NULL};
static const mb_request_rules no_limits = {no_keys,  {NULL, 0}, SIZE_MAX, SIZE_MAX,
                                           SIZE_MAX, SIZE_MAX,  SIZE_MAX, SIZE_MAX};

static reading read_with_rules(const char *body, size_t size, const mb_request_rules *rules)
{
    reading r = {.body = malloc(size), .arena = new_arena(), .index = 12345};
    CHECK(r.body != NULL || size == 0);
    if (size != 0)
        memcpy(r.body, body, size);
    r.status = mb_request_read((mb_text){r.body, size}, rules, false, r.arena, &r.request, &r.index,
                               &r.error);
    return r;
}

static reading read_request(const char *body, size_t size)
{
    return read_with_rules(body, size, &no_limits);
}

static void close_reading(reading *r)
{
    mb_arena_free(r->arena);
    free(r->body);
}

/* A body in which DIFF stands for a good diff; to be freed. */
static char *body_of(const char *pattern)
{
    char *text;
    size_t size;
    char *good = diff_with("", NULL);
    FILE *out = open_memstream(&text, &size);
    for (const char *at = pattern; *at != '\0';) {
        const bool is_diff = strncmp(at, "DIFF", 4) == 0;
        if (is_diff)
            fputs(good, out);
        else
            fputc(*at, out);
        at += is_diff ? 4 : 1;
    }
    fclose(out);
    free(good);
    return text;
}

TEST(a_request_has_a_clock_and_diffs_among_others)
{
    static const struct {
        const char *body;
        const char *clock;
        size_t diffs;
    } rows[] = {
        {"{\"logical_clock\":7,\"diffs\":[]}", "7", 0},
        {" { \"diffs\" : [ DIFF , DIFF ] , \"logical_clock\" : 0 } ", "0", 2},
        {"{\"logical_clock\":\"12\",\"auth_token\":{\"a\":[1]},\"diffs\":[DIFF]}", "12", 1},
        {"{\"logical_cloc\\u006b\":\"\\u0031\",\"diff\\u0073\":[DIFF]}", "1", 1},
        {"{\"logical_clock\":1,\"diffs\":[DIFF],\"logical_clock\":2,\"diffs\":[]}", "2", 0},
        {"{\"diffs\":[],\"logical_clock\":1e400}", "1e400", 0}, /* a matter of the caller */
        {"{\"diffs\":[],\"logical_clock\":null}", "null", 0},
        {"{\"diffs\":[],\"logical_clock\":\"\"}", "", 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char *body = body_of(rows[i].body);
        reading r = read_request(body, strlen(body));
        at_row("%s", rows[i].body);
        CHECK(r.status == MB_OK);
        CHECK(r.request.diffs.count == rows[i].diffs);
        CHECK(mb_text_equal(r.request.logical_clock,
                            (mb_text){rows[i].clock, strlen(rows[i].clock)}));
        close_reading(&r);
        free(body);
    }
}

TEST(a_broken_request_is_refused_with_what_and_where)
{
    static const struct {
        const char *body;
        const char *field; /* NULL: not JSON, or not where it should be */
        size_t index;
        size_t offset; /* SIZE_MAX: of no byte */
    } rows[] = {
        {"", NULL, SIZE_MAX, 0},
        {"[]", NULL, SIZE_MAX, 0},
        {"null", NULL, SIZE_MAX, 0},
        {"{}", "logical_clock", SIZE_MAX, SIZE_MAX},
        {"{\"diffs\":[]}", "logical_clock", SIZE_MAX, SIZE_MAX},
        {"{\"logical_clock\":1}", "diffs", SIZE_MAX, SIZE_MAX},
        {"{\"logical_clock\":1,\"Diffs\":[]}", "diffs", SIZE_MAX, SIZE_MAX},
        {"{\"logical_clock\":1,\"diffs\":{}}", NULL, SIZE_MAX, 27},
        {"{\"logical_clock\":1,\"diffs\":null}", NULL, SIZE_MAX, 27},
        {"{\"logical_clock\":01,\"diffs\":[]}", NULL, SIZE_MAX, 18},
        {"{\"logical_clock\":1,\"diffs\":[],}", NULL, SIZE_MAX, 30},
        {"{\"logical_clock\":1,\"diffs\":[]} x", NULL, SIZE_MAX, 31},
        {"{\"logical_clock\":1,\"diffs\":[],\"a\":\"\\ud800\"}", NULL, SIZE_MAX, 35},
        {"{\"logical_clock\":1 \"diffs\":[]}", NULL, SIZE_MAX, 19},
        {"{\"diffs\":[1]}", NULL, 0, 10},
        {"{\"diffs\":[{}]}", "id", 0, SIZE_MAX},
        {"{\"diffs\":[DIFF,{\"id\":7}]}", "id", 1, SIZE_MAX},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char *body = body_of(rows[i].body);
        reading r = read_request(body, strlen(body));
        at_row("%s: %s at %zu", rows[i].body, r.error.reason, r.error.offset);
        CHECK(r.status == MB_INVALID);
        CHECK(r.index == rows[i].index);
        CHECK(r.error.reason != NULL && r.error.reason[0] != '\0');
        CHECK((r.error.field == NULL) == (rows[i].field == NULL));
        if (rows[i].field != NULL)
            CHECK_TEXT(r.error.field, rows[i].field);
        if (rows[i].offset != SIZE_MAX)
            CHECK(r.error.offset == rows[i].offset);
        close_reading(&r);
        free(body);
    }
}

TEST(a_reserved_key_of_a_diff_is_refused_by_its_name)
{
    static const struct {
        const char *member;
        const char *name;
    } keys[] = {{"\"self\":1", "self"},
                {"\"owner_id\":[]", "owner_id"},
                {"\"owner\\u005fid\":1", "owner_id"}};
    char *good = diff_with("", NULL);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        char *body;
        size_t size;
        FILE *out = open_memstream(&body, &size);
        fprintf(out, "{\"logical_clock\":1,\"diffs\":[%s,{\"a\":1,%s,%s]}", good, keys[i].member,
                good + 1);
        fclose(out);
        reading r = read_request(body, size);
        at_row("%s: %s", keys[i].member, r.error.reason);
        CHECK(r.status == MB_INVALID);
        CHECK(r.index == 1);
        CHECK(r.error.of_whole_field);
        CHECK_TEXT(r.error.field, keys[i].name);
        close_reading(&r);
        free(body);
    }
    free(good);
}

TEST(a_diff_that_the_rules_forbid_is_refused_before_the_next_is_read)
{
    const mb_request_rules rules = {no_keys, MB_TEXT("log"), SIZE_MAX, 20, SIZE_MAX,
                                    2,       SIZE_MAX,       SIZE_MAX};
    const struct {
        const char *name;
        const char *value;
        const size_t *limit;
    } rows[] = {
        {"model", "\"log\"", NULL},
        {"json_data", "\"{\\\"id\\\":\\\"x\\\",\\\"a\\\":[]}       \"", &rules.json_data_bytes},
        {"json_data", "\"{\\\"id\\\":\\\"x\\\",\\\"a\\\":[[]]}\"", &rules.depth}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char *bad = diff_with(rows[i].name, rows[i].value);
        char *body;
        size_t size;
        FILE *out = open_memstream(&body, &size);
        fprintf(out, "{\"diffs\":[%s,{}]}", bad);
        fclose(out);
        reading r = read_with_rules(body, size, &rules);
        at_row("%s %s: %s", rows[i].name, rows[i].value, r.error.reason);
        CHECK(r.status == MB_INVALID);
        CHECK(r.index == 0);
        CHECK_TEXT(r.error.field, rows[i].name);
        CHECK(r.error.limit == rows[i].limit);
        CHECK(r.error.diff_id.size != 0);
        close_reading(&r);
        free(body);
        free(bad);
    }
}

TEST(more_diffs_than_the_rules_allow_are_not_read)
{
    const mb_request_rules two = {no_keys,  {NULL, 0}, 2,        SIZE_MAX,
                                  SIZE_MAX, SIZE_MAX,  SIZE_MAX, SIZE_MAX};
    char *body = body_of("{\"diffs\":[DIFF,DIFF,no JSON");
    reading r = read_with_rules(body, strlen(body), &two);
    CHECK(r.status == MB_INVALID);
    CHECK(r.index == SIZE_MAX);
    CHECK_TEXT(r.error.field, "diffs");
    CHECK(r.error.limit == &two.diffs);
    close_reading(&r);
    free(body);
}

TEST(a_limit_or_cursor_of_null_is_none)
{
    static const char *const bodies[] = {
        "{\"diffs\":[],\"logical_clock\":0,\"limit\":null,\"cursor\":null}",
        "{\"limit\":5,\"cursor\":\"a\",\"diffs\":[],\"logical_clock\":0,\"limit\":null,"
        "\"cursor\":null}",
        "{\"diffs\":[],\"logical_clock\":0,\"limit\":\"null\",\"cursor\":\"null\"}"};
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        reading r = read_request(bodies[i], strlen(bodies[i]));
        at_row("%s", bodies[i]);
        CHECK(r.status == MB_OK);
        CHECK((r.request.limit.at == NULL) == (i < 2));
        CHECK((r.request.cursor.at == NULL) == (i < 2));
        close_reading(&r);
    }
}

TEST(what_a_device_says_of_itself_is_read_and_what_is_no_string_is_empty)
{
    const char *body =
        "{\"diffs\":[],\"logical_clock\":0,\"device\":\"p\\u00e9\",\"request\":\"2\","
        "\"mark\":{\"a\":1}}";
    reading r = read_request(body, strlen(body));
    CHECK(r.status == MB_OK);
    CHECK(mb_text_equal(r.request.device, MB_TEXT("p\xc3\xa9")));
    CHECK(mb_text_equal(r.request.number, MB_TEXT("2")));
    CHECK(r.request.mark.at != NULL && r.request.mark.size == 0);
    close_reading(&r);
    body = "{\"diffs\":[],\"logical_clock\":0,\"device\":null,\"request\":3,\"mark\":null}";
    r = read_request(body, strlen(body));
    CHECK(r.status == MB_OK);
    CHECK(r.request.device.at == NULL && r.request.mark.at == NULL);
    CHECK(mb_text_equal(r.request.number, MB_TEXT("3")));
    close_reading(&r);
}

TEST(what_a_request_says_of_its_parts_is_read_and_the_array_as_it_stands)
{
    const char *body = "{\"diffs\": \n [ \n ] ,\"logical_clock\":0,\"part\":2,"
                       "\"more_diffs\":true,\"upload\":\"\\u00e9\"}";
    reading r = read_request(body, strlen(body));
    CHECK(r.status == MB_OK);
    CHECK(mb_text_equal(r.request.part, MB_TEXT("2")));
    CHECK(mb_text_equal(r.request.more_diffs, MB_TEXT("true")));
    CHECK(mb_text_equal(r.request.upload, MB_TEXT("\xc3\xa9")));
    CHECK(mb_text_equal(r.request.diffs_text, MB_TEXT("[ \n ]")));
    close_reading(&r);
    body = "{\"logical_clock\":0,\"part\":null,\"more_diffs\":\"true\",\"upload\":1,"
           "\"diffs\":[1],\"diffs\":[]}";
    r = read_request(body, strlen(body));
    CHECK(r.status == MB_INVALID);
    close_reading(&r);
    body = "{\"logical_clock\":0,\"part\":null,\"more_diffs\":\"true\",\"upload\":1,"
           "\"diffs\":[ ],\"diffs\":[]}";
    r = read_request(body, strlen(body));
    CHECK(r.status == MB_OK);
    CHECK(r.request.part.at == NULL);
    CHECK(mb_text_equal(r.request.more_diffs, MB_TEXT("\"true\"")));
    CHECK(r.request.upload.at != NULL && r.request.upload.size == 0);
    CHECK(mb_text_equal(r.request.diffs_text, MB_TEXT("[]")));
    close_reading(&r);
}

TEST(every_prefix_of_a_request_is_refused)
{
    char *body =
        body_of("{\"auth\\ntoken\":[{}],\"diffs\":[DIFF,DIFF],\"logical_clock\":\"\\u0031\"}");
    for (size_t prefix = 0; prefix < strlen(body); prefix++) {
        reading r = read_request(body, prefix);
        at_row("the first %zu bytes", prefix);
        CHECK(r.status == MB_INVALID);
        CHECK(r.error.offset <= prefix);
        close_reading(&r);
    }
    reading r = read_request(body, strlen(body));
    CHECK(r.status == MB_OK);
    close_reading(&r);
    free(body);
}

/* ---- printing ------------------------------------------------------------------------------ */

TEST(a_printed_diff_has_the_seven_fields_in_order)
{
    const mb_diff diff = good_diff();
    char *printed = print_diff(&diff);
    CHECK_TEXT(printed,
               "{\"id\": \"d1\", \"owner\": \"anna\", \"logical_clock\": 12, "
               "\"utc_timestamp\": 1600000000000, \"type\": \"update\", \"model\": \"tasks\", "
               "\"json_data\": \"{\\\"id\\\": \\\"x\\\", \\\"done\\\": 1.50}\"}");
    free(printed);
}

/* Checks that the diff, printed and read, is itself, and printed again the same text. */
static void check_round_trip(const mb_diff *diff)
{
    char *printed = print_diff(diff);
    const size_t size = strlen(printed) + 2;
    char *text = malloc(size + 1);
    CHECK(text != NULL);
    snprintf(text, size + 1, "[%s]", printed);

    list l = read_list(text, size);
    CHECK(l.status == MB_OK);
    CHECK(l.diffs.count == 1);
    CHECK(same_diff(&l.diffs.items[0], diff));
    char *again = print_diff(&l.diffs.items[0]);
    CHECK_TEXT(again, printed);
    free(again);
    close_list(&l);
    free(text);
    free(printed);
}

TEST(print_and_read_give_back_every_text)
{
    static const struct {
        const char *text;
        size_t size;
    } rows[] = {{BYTES("")},
                {BYTES("\"")},
                {BYTES("\\")},
                {BYTES("\\\"\\\\\"\"")},
                {BYTES("\\u0041")},
                {BYTES("a/b")},
                {BYTES("\b\f\n\r\t\v")},
                {BYTES("\x01\x02\x03\x04\x05\x06\x07\x0e\x0f\x10\x1e\x1f\x7f")},
                {BYTES("\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80")},
                {BYTES("\xf4\x8f\xbf\xbf\n")},
                {BYTES("\xe2\x80\xa8\"\xef\xbb\xbf")},
                {BYTES("{\"id\": \"\\ud83d\\ude00\", \"n\": 9007199254740993, \"e\": 1e400}")},
                {BYTES(" {\t\"id\"\r\n:\"x\"} ")}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const mb_text text = {rows[i].text, rows[i].size};
        mb_diff diff = good_diff();
        at_row("row %zu", i);
        diff.id = text;
        check_round_trip(&diff);
        diff.owner = diff.model = diff.json_data = text;
        check_round_trip(&diff);
    }
    const mb_diff empty = {.type = MB_DELETE};
    check_round_trip(&empty);
}

TEST(print_and_read_give_back_every_size_of_text)
{
    enum { LONGEST = 400 };
    char text[LONGEST], json[LONGEST];
    for (size_t size = 0; size <= LONGEST; size++) {
        memset(text, size % 2 == 0 ? 'x' : '\x02', LONGEST);
        memset(json, size % 2 == 0 ? '1' : '\n', LONGEST);
        mb_diff diff = good_diff();
        at_row("%zu bytes", size);
        diff.json_data = (mb_text){json, size};
        diff.id = (mb_text){text, LONGEST - size};
        check_round_trip(&diff);
    }
}

TEST(print_and_read_give_back_every_integer)
{
    static const int64_t integers[] = {0,
                                       1,
                                       9,
                                       10,
                                       99,
                                       100,
                                       1234567,
                                       INT64_C(2147483647),
                                       INT64_C(2147483648),
                                       INT64_C(4294967296),
                                       INT64_C(999999999999999),
                                       INT64_C(1000000000000000),
                                       MB_MAX_INTEGER - 1,
                                       MB_MAX_INTEGER};
    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++) {
        mb_diff diff = good_diff();
        at_row("%" PRId64, integers[i]);
        diff.logical_clock = integers[i];
        diff.utc_timestamp = MB_MAX_INTEGER - integers[i];
        check_round_trip(&diff);
    }
    for (int type = MB_CREATE; type <= MB_DELETE; type++) {
        mb_diff diff = good_diff();
        diff.type = (mb_type)type;
        check_round_trip(&diff);
    }
}

TEST(what_was_read_is_printed_with_its_json_data_as_it_stood)
{
    list l = read_list(BYTES("[{\"id\":\"a\",\"owner\":\"o\",\"model\":\"m\",\"type\":\"delete\","
                             "\"json_data\":\"\\u007b\\/}\",\"logical_clock\":1,"
                             "\"utc_timestamp\":2}]"));
    CHECK(l.status == MB_OK);
    char *printed = print_diff(&l.diffs.items[0]);
    CHECK_TEXT(printed, "{\"id\": \"a\", \"owner\": \"o\", \"logical_clock\": 1, "
                        "\"utc_timestamp\": 2, \"type\": \"delete\", \"model\": \"m\", "
                        "\"json_data\": \"\\u007b\\/}\"}");
    free(printed);
    close_list(&l);
}

/* Prints a reply, as text with ' for "; to be freed. */
static char *reply_to(const mb_diffs *window, const mb_outcomes *downstream, int64_t clock)
{
    const size_t most = mb_reply_most_bytes(window, downstream);
    char *room = malloc(most);
    CHECK(room != NULL);
    const size_t size = mb_reply_put(window, downstream, clock, room);
    CHECK(size <= most);
    char *printed = strndup(room, size);
    free(room);
    for (char *at = printed; *at != '\0'; at++)
        if (*at == '"')
            *at = '\'';
    return printed;
}

TEST(a_reply_holds_the_clock_and_what_goes_down)
{
    list l =
        read_list(BYTES("[{\"id\":\"a\",\"owner\":\"o\",\"model\":\"m\",\"type\":\"create\","
                        "\"json_data\":\"\\u007b}\",\"logical_clock\":1,\"utc_timestamp\":2}]"));
    CHECK(l.status == MB_OK);
    mb_diffs none = {NULL, 0};
    mb_outcome items[] = {
        {.type = MB_CREATE, .utc_timestamp = 2, .json_data = l.diffs.items[0].json_data},
        {.type = MB_UPDATE, .utc_timestamp = 3, .json_data = MB_TEXT("{'new':\n}")}};

    char *reply = reply_to(&none, &(mb_outcomes){NULL, 0}, MB_MAX_INTEGER);
    CHECK_TEXT(reply, "{'success': true, 'message': '', 'logical_clock': 9007199254740991, "
                      "'diffs': []}");
    free(reply);
    reply = reply_to(&l.diffs, &(mb_outcomes){items, 2}, 0);
    CHECK_TEXT(reply, "{'success': true, 'message': '', 'logical_clock': 0, 'diffs': ["
                      "{'id':'a','owner':'o','model':'m','type':'create',"
                      "'json_data':'\\u007b}','logical_clock':1,'utc_timestamp':2}, "
                      "{'id': 'a', 'owner': 'o', 'logical_clock': 1, 'utc_timestamp': 3, "
                      "'type': 'update', 'model': 'm', 'json_data': '{'new':\\n}'}]}");
    free(reply);
    close_list(&l);
}

TEST(a_reply_may_be_long)
{
    enum { LENGTH = 300 };
    char *good = diff_with("json_data", "\"{\\u0022id\\u0022:\\u0022x\\u0022}\"");
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    fprintf(out, "[%s]", good);
    fclose(out);
    list l = read_list(text, size);
    CHECK(l.status == MB_OK);
    mb_outcome items[LENGTH];
    for (size_t i = 0; i < LENGTH; i++)
        items[i] = (mb_outcome){.type = MB_UPDATE,
                                .utc_timestamp = MB_MAX_INTEGER,
                                .json_data = i % 2 == 0 ? l.diffs.items[0].json_data
                                                        : MB_TEXT("{\"id\":\"\\u0078\"}")};

    char *reply = reply_to(&l.diffs, &(mb_outcomes){items, LENGTH}, 0);
    size_t found = 0;
    for (const char *at = reply; (at = strstr(at, "'json_data': ")) != NULL; at++)
        found++;
    CHECK(found == LENGTH);
    free(reply);
    close_list(&l);
    free(text);
    free(good);
}

/* ---- without memory ------------------------------------------------------------------------ */

static mb_status read_and_tell(void *context, mb_arena *arena, FILE *told)
{
    const mb_text *text = context;
    mb_diffs diffs;
    size_t index;
    mb_error error;
    const mb_status status = mb_diffs_read(*text, arena, &diffs, &index, &error);
    for (size_t i = 0; status == MB_OK && i < diffs.count; i++)
        fprintf(told, "%.*s %" PRId64 " %.*s\n", (int)diffs.items[i].id.size, diffs.items[i].id.at,
                diffs.items[i].logical_clock, (int)diffs.items[i].json_data.size,
                diffs.items[i].json_data.at);
    return status;
}

TEST(a_list_is_read_or_memory_is_out)
{
    char *plain = diff_with("json_data", "\"[]\"");
    char *escaped = diff_with("json_data", "\"{\\\"id\\\": \\\"\\ud83d\\ude00\\\"}\"");
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    for (size_t i = 0; i < 20; i++) /* more than the list has room for at first */
        fprintf(out, "%s%s", i == 0 ? "[" : ",", i % 9 == 0 ? escaped : plain);
    fputs("]", out);
    fclose(out);
    mb_text whole = {text, size};
    CHECK(check_survives_scarcity(read_and_tell, &whole) > 0);
    free(text);
    free(escaped);
    free(plain);
}

static mb_status read_request_and_tell(void *context, mb_arena *arena, FILE *told)
{
    const mb_text *body = context;
    mb_request request;
    size_t index;
    mb_error error;
    const mb_status status =
        mb_request_read(*body, &no_limits, false, arena, &request, &index, &error);
    if (status == MB_OK)
        fprintf(told, "%.*s, %zu diffs", (int)request.logical_clock.size, request.logical_clock.at,
                request.diffs.count);
    return status;
}

TEST(a_request_is_read_or_memory_is_out)
{
    char *body =
        body_of("{\"auth\\ntoken\":0,\"diffs\":[DIFF,DIFF],\"logical_clock\":\"\\u0031\"}");
    mb_text text = {body, strlen(body)};
    CHECK(check_survives_scarcity(read_request_and_tell, &text) > 0);
    free(body);
}

static mb_status check_and_tell(void *context, mb_arena *arena, FILE *told)
{
    mb_diff diff = good_diff();
    mb_error error;
    diff.json_data = *(const mb_text *)context;
    const mb_status status = mb_diff_check(&diff, NULL, arena, &error);
    if (status == MB_OK)
        fprintf(told, "%.*s %zu", (int)diff.object_id.size, diff.object_id.at, diff.member_count);
    return status;
}

TEST(a_diff_is_checked_or_memory_is_out)
{
    mb_text plain = MB_TEXT("{\"id\":\"x\",\"a\":1}");
    mb_text escaped = MB_TEXT("{\"i\\u0064\":\"\\u0078\",\"a\\n\":\"\\n\"}");
    CHECK(check_survives_scarcity(check_and_tell, &plain) == 0);
    CHECK(check_survives_scarcity(check_and_tell, &escaped) > 0);
}

TEST(even_in_a_bad_list_a_want_of_memory_is_not_called_invalid)
{
    mb_text bad = MB_TEXT("[{\"id\":\"\\n\",\"a\\u0062\":\"\\u0000\"}]");
    for (size_t nth = 1;; nth++) {
        attempt a = try_once(read_and_tell, &bad, 0, nth);
        const bool refused = a.memory.asked >= nth;
        at_row("allocation %zu refused", nth);
        CHECK(a.memory.live == 0);
        CHECK(a.status == (refused ? MB_NO_MEMORY : MB_INVALID));
        free(a.told);
        if (!refused)
            break;
    }
}

int main(void)
{
    RUN(a_checked_diff_knows_its_object_and_members);
    RUN(a_row_of_a_log_is_checked_without_keeping_its_members);
    RUN(a_row_of_a_log_is_refused_for_any_field);
    RUN(a_reply_can_be_printed_piece_by_piece);
    RUN(a_checked_diff_knows_how_deep_it_is);
    RUN(of_two_ids_the_last_names_the_object);
    RUN(a_text_field_must_be_clean_and_not_empty);
    RUN(clock_and_timestamp_are_integers_that_json_clients_can_hold);
    RUN(json_data_must_be_an_object_that_names_its_object);
    RUN(a_text_over_256_mib_is_refused_unread);
    RUN(types_have_the_names_of_the_wire);
    RUN(a_clock_that_runs_ahead_is_lowered_to_now);
    RUN(a_new_list_is_zeroed);
    RUN(a_list_of_diffs_is_read_in_order);
    RUN(a_list_may_be_long);
    RUN(a_field_of_the_wrong_kind_is_named_with_its_diff);
    RUN(other_members_are_passed_over_and_of_duplicates_the_last_counts);
    RUN(a_broken_list_is_refused_with_the_diff_and_the_byte);
    RUN(a_diff_that_was_read_keeps_its_own_text);
    RUN(every_prefix_of_a_list_is_refused);
    RUN(the_list_and_the_diff_are_two_of_the_thousand_levels);
    RUN(a_request_has_a_clock_and_diffs_among_others);
    RUN(a_broken_request_is_refused_with_what_and_where);
    RUN(a_reserved_key_of_a_diff_is_refused_by_its_name);
    RUN(a_diff_that_the_rules_forbid_is_refused_before_the_next_is_read);
    RUN(more_diffs_than_the_rules_allow_are_not_read);
    RUN(a_limit_or_cursor_of_null_is_none);
    RUN(what_a_device_says_of_itself_is_read_and_what_is_no_string_is_empty);
    RUN(what_a_request_says_of_its_parts_is_read_and_the_array_as_it_stands);
    RUN(every_prefix_of_a_request_is_refused);
    RUN(a_printed_diff_has_the_seven_fields_in_order);
    RUN(print_and_read_give_back_every_text);
    RUN(print_and_read_give_back_every_size_of_text);
    RUN(print_and_read_give_back_every_integer);
    RUN(what_was_read_is_printed_with_its_json_data_as_it_stood);
    RUN(a_reply_holds_the_clock_and_what_goes_down);
    RUN(a_reply_may_be_long);
    RUN(a_list_is_read_or_memory_is_out);
    RUN(a_request_is_read_or_memory_is_out);
    RUN(a_diff_is_checked_or_memory_is_out);
    RUN(even_in_a_bad_list_a_want_of_memory_is_not_called_invalid);
    return tests_end();
}
