/* diff.c - the seven fields of a diff: read, checked, printed.
 *
 * The log and the wire carry the same record.  This file is the one place that knows what it looks
 * like and which values are allowed (docs/protocol.md, "The wire").
 *
 * Does not: know what a caller allows of a request, but for what it is given (mb_request_rules).
 */
#include "arena.h"
#include "json.h"
#include "names.h"
#include "text.h"

static const mb_text type_names[] = {
    [MB_CREATE] = {"create", 6}, [MB_UPDATE] = {"update", 6}, [MB_DELETE] = {"delete", 6}};

mb_status mb_diffs_new(mb_arena *arena, size_t count, mb_diffs *diffs)
{
    mb_diff *items = mb_arena_get_array(arena, count, sizeof *items);
    if (items == NULL)
        return MB_NO_MEMORY;
    *diffs = (mb_diffs){items, count};
    return MB_OK;
}

bool mb_type_read(mb_text name, mb_type *type)
{
    for (mb_type candidate = MB_CREATE; candidate <= MB_DELETE; candidate++) {
        if (mb_text_equal(name, type_names[candidate])) {
            *type = candidate;
            return true;
        }
    }
    return false;
}

mb_text mb_type_name(mb_type type)
{
    return type_names[type];
}

static mb_status refuse(mb_error *error, const char *field, const char *reason)
{
    *error = (mb_error){.field = field, .reason = reason, .of_whole_field = true};
    return MB_INVALID;
}

/* ---- checking ------------------------------------------------------------------------------ */

/* A text that was read from JSON is clean: whoever read it has looked at each byte. */
static mb_status check_text(mb_text text, const char *field, bool is_clean, mb_error *error)
{
    if (text.size == 0)
        return refuse(error, field, "must not be empty");
    if (text.size > MB_MAX_JSON_DATA)
        return refuse(error, field, "is longer than 256 MiB");
    if (!is_clean && !mb_json_is_clean_text(text))
        return refuse(error, field, "must be UTF-8 without U+0000");
    return MB_OK;
}

static mb_status check_integer(int64_t value, const char *field, mb_error *error)
{
    if (value < 0 || value > MB_MAX_INTEGER)
        return refuse(error, field, "must be an integer of 0 to 9007199254740991");
    return MB_OK;
}

/* Finds the object's id among the members; of duplicates the last counts. */
static mb_status read_object_id(mb_diff *diff, const mb_json *json, mb_arena *arena,
                                mb_error *error)
{
    const mb_member *id = NULL;
    for (size_t i = 0; i < diff->member_count; i++)
        if (mb_is_id(&diff->members[i]))
            id = &diff->members[i];
    if (id == NULL)
        return refuse(error, "json_data", "has no \"id\"");
    if (id->value.at[0] != '"' || id->value.size == 2) {
        error->field = "json_data";
        error->reason = "\"id\" must be a string that is not empty";
        error->offset = mb_json_offset(json, id->value);
        return MB_INVALID;
    }
    return mb_json_decode_string(id->value, arena, &diff->object_id);
}

static mb_status check_json_data(mb_diff *diff, mb_arena *arena, mb_error *error)
{
    if (diff->json_data.size > MB_MAX_JSON_DATA)
        return refuse(error, "json_data", "is longer than 256 MiB");
    mb_json json = mb_json_begin(diff->json_data, error);
    mb_status status = mb_json_read_object(&json, arena, &diff->members, &diff->member_count);
    if (status == MB_OK)
        status = mb_json_end(&json);
    diff->depth = json.deepest;
    if (status == MB_OK)
        status = read_object_id(diff, &json, arena, error);
    if (status == MB_INVALID)
        error->field = "json_data";
    return status;
}

mb_status mb_diff_check(mb_diff *diff, mb_arena *arena, mb_error *error)
{
    *error = (mb_error){.reason = NULL};
    const bool from_json = diff->text.size != 0;
    mb_status status = check_text(diff->id, "id", from_json, error);
    if (status == MB_OK)
        status = check_text(diff->owner, "owner", from_json, error);
    if (status == MB_OK)
        status = check_integer(diff->logical_clock, "logical_clock", error);
    if (status == MB_OK)
        status = check_integer(diff->utc_timestamp, "utc_timestamp", error);
    if (status == MB_OK)
        status = check_text(diff->model, "model", from_json, error);
    if (status == MB_OK)
        status = check_json_data(diff, arena, error);
    return status;
}

static mb_status refuse_over(mb_error *error, const char *field, const char *reason,
                             const size_t *limit)
{
    refuse(error, field, reason);
    error->limit = limit;
    return MB_INVALID;
}

mb_status mb_diff_check_rules(const mb_diff *diff, const mb_request_rules *rules, mb_error *error)
{
    if (rules->log_model.size != 0 && mb_text_equal(diff->model, rules->log_model))
        return refuse(error, "model", "must not be the log itself");
    if (diff->json_data.size > rules->json_data_bytes)
        return refuse_over(error, "json_data", "has too many bytes", &rules->json_data_bytes);
    if (diff->depth > rules->depth)
        return refuse_over(error, "json_data", "is nested too many levels deep", &rules->depth);
    return MB_OK;
}

void mb_diffs_limit_skew(mb_diffs *diffs, int64_t now_ms, int64_t max_skew_ms)
{
    for (size_t i = 0; i < diffs->count; i++) {
        if (diffs->items[i].utc_timestamp - now_ms > max_skew_ms) {
            diffs->items[i].utc_timestamp = now_ms;
            diffs->items[i].is_whole = false;
        }
    }
}

/* ---- reading ------------------------------------------------------------------------------- */

/* In the order in which they mostly stand. */
enum { ID, OWNER, LOGICAL_CLOCK, UTC_TIMESTAMP, TYPE, MODEL, JSON_DATA, FIELDS };

static const mb_text field_names[FIELDS] = {
    [ID] = {"id", 2},
    [OWNER] = {"owner", 5},
    [LOGICAL_CLOCK] = {"logical_clock", 13},
    [UTC_TIMESTAMP] = {"utc_timestamp", 13},
    [TYPE] = {"type", 4},
    [MODEL] = {"model", 5},
    [JSON_DATA] = {"json_data", 9},
};

/* A diff as it stands: the text of each value, empty where a field is missing. */
typedef struct {
    mb_text values[FIELDS];
    size_t member_count;
    const char *reserved; /* the first key that the rules reserve, or NULL */
} diff_members;

/* Which of the seven has that name; FIELDS if none.  The guess is the one that is tried first. */
static size_t field_of(mb_text name, size_t guess)
{
    if (guess < FIELDS &&
        (name.at == field_names[guess].at || mb_text_equal(name, field_names[guess])))
        return guess;
    size_t field = 0;
    while (field < FIELDS && !mb_text_equal(name, field_names[field]))
        field++;
    return field;
}

static const char *find_reserved(mb_text name, const mb_request_rules *rules)
{
    for (const char *const *key = rules->reserved; *key != NULL; key++)
        if (mb_text_equal(name, (mb_text){*key, strlen(*key)}))
            return *key;
    return NULL;
}

/* Reads the members of a diff.  Of a name that stands twice the last counts. */
static mb_status read_members(mb_json *json, const mb_request_rules *rules, mb_arena *arena,
                              diff_members *members)
{
    size_t read = 0;
    bool more = true;

    *members = (diff_members){.member_count = 0};
    mb_status status = mb_json_enter(json, '{');
    while (status == MB_OK && more) {
        const size_t place = members->member_count;
        const mb_text guess = place < FIELDS ? field_names[place] : (mb_text){NULL, 0};
        mb_member name;
        mb_text value;
        status = mb_json_next_member(json, guess, arena, &read, &more, &name);
        if (status == MB_OK && more)
            status = mb_json_read_value(json, &value);
        if (status != MB_OK || !more)
            continue;
        const size_t field = field_of(name.name, place);
        if (field < FIELDS)
            members->values[field] = value;
        else if (rules != NULL && members->reserved == NULL)
            members->reserved = find_reserved(name.name, rules);
        members->member_count++;
    }
    return status;
}

/* The text of a value; error on anything but a string. */
static mb_status read_text(const diff_members *members, size_t field, mb_arena *arena,
                           mb_text *text, mb_error *error)
{
    const mb_text value = members->values[field];
    if (value.size == 0)
        return refuse(error, field_names[field].at, "is missing");
    if (value.at[0] != '"')
        return refuse(error, field_names[field].at, "must be a string");
    return mb_json_decode_string(value, arena, text);
}

static mb_status read_integer(const diff_members *members, size_t field, int64_t *integer,
                              mb_error *error)
{
    const mb_text value = members->values[field];
    if (value.size == 0)
        return refuse(error, field_names[field].at, "is missing");
    if (!mb_json_read_integer(value, integer))
        return refuse(error, field_names[field].at, "must be an integer of 0 to 9007199254740991");
    return MB_OK;
}

static mb_status read_type(const diff_members *members, mb_arena *arena, mb_type *type,
                           mb_error *error)
{
    mb_text name = {NULL, 0};
    const mb_status status = read_text(members, TYPE, arena, &name, error);
    if (status == MB_OK && !mb_type_read(name, type))
        return refuse(error, "type", "must be \"create\", \"update\" or \"delete\"");
    return status;
}

/* Reads the seven fields in the order in which a person reads them: the first bad one is named. */
static mb_status read_fields(const diff_members *members, mb_arena *arena, mb_diff *diff,
                             mb_error *error)
{
    mb_status status = read_text(members, ID, arena, &diff->id, error);
    if (status == MB_OK)
        status = read_text(members, OWNER, arena, &diff->owner, error);
    if (status == MB_OK)
        status = read_integer(members, LOGICAL_CLOCK, &diff->logical_clock, error);
    if (status == MB_OK)
        status = read_integer(members, UTC_TIMESTAMP, &diff->utc_timestamp, error);
    if (status == MB_OK)
        status = read_type(members, arena, &diff->type, error);
    if (status == MB_OK)
        status = read_text(members, MODEL, arena, &diff->model, error);
    if (status == MB_OK)
        status = read_text(members, JSON_DATA, arena, &diff->json_data, error);
    if (status == MB_OK)
        diff->quoted_json_data = members->values[JSON_DATA];
    return status;
}

static mb_status add_diff(mb_diffs *diffs, size_t *room, mb_arena *arena, mb_diff **added)
{
    if (diffs->count == *room) {
        const size_t more = *room == 0 ? 16 : *room * 2;
        mb_diff *items = mb_arena_get_items(arena, more, sizeof *items);
        if (items == NULL)
            return MB_NO_MEMORY;
        if (diffs->count != 0)
            memcpy(items, diffs->items, diffs->count * sizeof *items);
        diffs->items = items;
        *room = more;
    }
    *added = &diffs->items[diffs->count++];
    **added = (mb_diff){.type = MB_CREATE};
    return MB_OK;
}

/* Reads the diff where the reader stands; with rules, for one of a request, checks it too. */
static mb_status read_next_diff(mb_json *json, const mb_request_rules *rules, mb_arena *arena,
                                mb_diff *diff)
{
    const char *begin = json->at;
    diff_members members;
    mb_status status = read_members(json, rules, arena, &members);
    if (status == MB_OK)
        status = read_fields(&members, arena, diff, json->error);
    diff->text = (mb_text){begin, (size_t)(json->at - begin)};
    diff->is_whole = members.member_count == FIELDS;
    if (status == MB_OK && rules != NULL)
        status = mb_diff_check(diff, arena, json->error);
    if (status == MB_OK && members.reserved != NULL)
        status = refuse(json->error, members.reserved, "may not be a key of a diff");
    if (status == MB_OK && rules != NULL)
        status = mb_diff_check_rules(diff, rules, json->error);
    if (status == MB_INVALID)
        json->error->diff_id = diff->id;
    return status;
}

/* Reads an array of diffs where the reader stands; without rules, the rows of a log. */
static mb_status read_diffs(mb_json *json, const mb_request_rules *rules, mb_arena *arena,
                            mb_diffs *diffs, size_t *index)
{
    mb_diffs found = {NULL, 0};
    size_t room = 0;
    size_t read = 0;
    bool more = false;

    mb_status status = mb_json_enter(json, '[');
    if (status == MB_OK)
        status = mb_json_next_element(json, &read, &more);
    while (status == MB_OK && more) {
        mb_diff *diff;
        if (rules != NULL && found.count == rules->diffs)
            return refuse_over(json->error, "diffs", "are too many for one request", &rules->diffs);
        *index = found.count;
        status = add_diff(&found, &room, arena, &diff);
        if (status == MB_OK)
            status = read_next_diff(json, rules, arena, diff);
        if (status == MB_OK) {
            *index = SIZE_MAX;
            status = mb_json_next_element(json, &read, &more);
        }
    }
    if (status == MB_OK)
        *diffs = found;
    return status;
}

mb_status mb_diff_read(mb_text text, mb_arena *arena, mb_diff *diff, mb_error *error)
{
    *error = (mb_error){.reason = NULL};
    mb_diff found = {.type = MB_CREATE};
    mb_json json = mb_json_begin(text, error);
    mb_status status = read_next_diff(&json, NULL, arena, &found);
    if (status == MB_OK)
        status = mb_json_end(&json);
    if (status == MB_OK)
        *diff = found;
    return status;
}

mb_status mb_diffs_read(mb_text text, mb_arena *arena, mb_diffs *diffs, size_t *index,
                        mb_error *error)
{
    *error = (mb_error){.reason = NULL};
    *index = SIZE_MAX;
    mb_diffs found;
    mb_json json = mb_json_begin(text, error);
    mb_status status = read_diffs(&json, NULL, arena, &found, index);
    if (status == MB_OK)
        status = mb_json_end(&json);
    if (status == MB_OK)
        *diffs = found;
    return status;
}

/* Reads one member of a request's body; of duplicates the last counts. */
static mb_status read_request_member(mb_json *json, mb_text name, const mb_request_rules *rules,
                                     mb_arena *arena, mb_request *request, size_t *index)
{
    if (mb_text_equal(name, MB_TEXT("diffs")))
        return read_diffs(json, rules, arena, &request->diffs, index);
    mb_text value;
    if (mb_json_read_value(json, &value) != MB_OK)
        return MB_INVALID;
    const struct {
        mb_text name;
        mb_text *place;
        bool may_be_null;
    } texts[] = {{MB_TEXT("logical_clock"), &request->logical_clock, false},
                 {MB_TEXT("limit"), &request->limit, true},
                 {MB_TEXT("cursor"), &request->cursor, true}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        if (!mb_text_equal(name, texts[i].name))
            continue;
        *texts[i].place = texts[i].may_be_null && value.at[0] == 'n' ? (mb_text){NULL, 0} : value;
        if (value.at[0] == '"')
            return mb_json_decode_string(value, arena, texts[i].place);
    }
    return MB_OK;
}

mb_status mb_request_read(mb_text body, const mb_request_rules *rules, mb_arena *arena,
                          mb_request *request, size_t *index, mb_error *error)
{
    const mb_text no_guess = {NULL, 0};
    *error = (mb_error){.reason = NULL};
    *index = SIZE_MAX;
    mb_request found = {.diffs = {NULL, SIZE_MAX}};
    mb_json json = mb_json_begin(body, error);
    size_t read = 0;
    bool more = true;

    mb_status status = mb_json_enter(&json, '{');
    while (status == MB_OK && more) {
        mb_member name;
        status = mb_json_next_member(&json, no_guess, arena, &read, &more, &name);
        if (status == MB_OK && more)
            status = read_request_member(&json, name.name, rules, arena, &found, index);
    }
    if (status == MB_OK)
        status = mb_json_end(&json);
    if (status == MB_OK && found.logical_clock.at == NULL)
        status = refuse(error, "logical_clock", "is missing");
    if (status == MB_OK && found.diffs.count == SIZE_MAX)
        status = refuse(error, "diffs", "is missing");
    if (status == MB_OK)
        *request = found;
    return status;
}

/* ---- printing ------------------------------------------------------------------------------ */

static char *put_integer(char *at, int64_t value)
{
    char digits[20];
    size_t first = sizeof digits;
    do {
        digits[--first] = (char)('0' + value % 10);
        value /= 10;
    } while (value != 0);
    return mb_text_put(at, (mb_text){digits + first, sizeof digits - first});
}

/* A number of bytes, or the largest where memory cannot have so many. */
static size_t saturated(uint64_t bytes)
{
    const uint64_t most = SIZE_MAX;
    return (size_t)(bytes < most ? bytes : most);
}

/* A character that is escaped takes six bytes, but for those that stand in JSON itself: two. */
static uint64_t most_bytes_of(const mb_diff *diff, const mb_outcome *outcome, mb_text owner)
{
    enum { NAMES_AND_NUMBERS = 168 }; /* 101 of names, type and punctuation, two integers, quotes */
    return NAMES_AND_NUMBERS + UINT64_C(6) * diff->id.size + UINT64_C(6) * owner.size +
           UINT64_C(6) * diff->model.size + UINT64_C(2) * outcome->json_data.size +
           diff->quoted_json_data.size;
}

static char *put_json_data(char *at, const mb_diff *diff, const mb_outcome *outcome)
{
    const bool is_its_own = outcome->json_data.at == diff->json_data.at;
    if (is_its_own && diff->quoted_json_data.size != 0)
        return mb_text_put(at, diff->quoted_json_data);
    return mb_json_put_string(at, outcome->json_data);
}

static char *put_diff(char *at, const mb_diff *diff, const mb_outcome *outcome, mb_text owner,
                      int64_t logical_clock)
{
    at = mb_text_put(at, MB_TEXT("{\"id\": "));
    at = mb_json_put_string(at, diff->id);
    at = mb_text_put(at, MB_TEXT(", \"owner\": "));
    at = mb_json_put_string(at, owner);
    at = mb_text_put(at, MB_TEXT(", \"logical_clock\": "));
    at = put_integer(at, logical_clock);
    at = mb_text_put(at, MB_TEXT(", \"utc_timestamp\": "));
    at = put_integer(at, outcome->utc_timestamp);
    at = mb_text_put(at, MB_TEXT(", \"type\": \""));
    at = mb_text_put(at, mb_type_name(outcome->type));
    at = mb_text_put(at, MB_TEXT("\", \"model\": "));
    at = mb_json_put_string(at, diff->model);
    at = mb_text_put(at, MB_TEXT(", \"json_data\": "));
    at = put_json_data(at, diff, outcome);
    return mb_text_put(at, MB_TEXT("}"));
}

size_t mb_log_row_most_bytes(const mb_diff *diff, const mb_outcome *outcome, mb_text owner)
{
    return saturated(most_bytes_of(diff, outcome, owner));
}

size_t mb_log_row_put(const mb_diff *diff, const mb_outcome *outcome, mb_text owner,
                      int64_t logical_clock, char *at)
{
    return (size_t)(put_diff(at, diff, outcome, owner, logical_clock) - at);
}

static bool leaves_as_it_came(const mb_diff *diff, const mb_outcome *outcome)
{
    return diff->is_whole && outcome->type == diff->type &&
           outcome->utc_timestamp == diff->utc_timestamp &&
           outcome->json_data.at == diff->json_data.at;
}

size_t mb_reply_most_bytes(const mb_diffs *window, const mb_outcomes *downstream)
{
    enum { HEAD_AND_TAIL = 96, SEPARATOR = 2 };
    uint64_t bytes = HEAD_AND_TAIL;
    for (size_t i = 0; i < downstream->count; i++) {
        const mb_outcome *outcome = &downstream->items[i];
        const mb_diff *diff = &window->items[outcome->source];
        bytes += SEPARATOR + (leaves_as_it_came(diff, outcome)
                                  ? diff->text.size
                                  : most_bytes_of(diff, outcome, diff->owner));
    }
    return saturated(bytes);
}

size_t mb_reply_put(const mb_diffs *window, const mb_outcomes *downstream, int64_t logical_clock,
                    char *at)
{
    const char *begin = at;
    at = mb_text_put(at, MB_TEXT("{\"success\": true, \"message\": \"\", \"logical_clock\": "));
    at = put_integer(at, logical_clock);
    at = mb_text_put(at, MB_TEXT(", \"diffs\": ["));
    for (size_t i = 0; i < downstream->count; i++) {
        const mb_outcome *outcome = &downstream->items[i];
        const mb_diff *diff = &window->items[outcome->source];
        if (i != 0)
            at = mb_text_put(at, MB_TEXT(", "));
        at = leaves_as_it_came(diff, outcome)
                 ? mb_text_put(at, diff->text)
                 : put_diff(at, diff, outcome, diff->owner, diff->logical_clock);
    }
    at = mb_text_put(at, MB_TEXT("]}"));
    return (size_t)(at - begin);
}
