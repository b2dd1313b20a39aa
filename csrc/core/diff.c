/* diff.c - the seven fields of a diff, and the times of a folded one: read, checked, printed.
 *
 * The log and the requests contain the same record. This file is the one place that knows its form
 * and the allowed values (docs/protocol.md, "The wire").
 *
 * Does not: know what a caller allows in a request, except for what it gets (mb_request_rules).
 */
#include "arena.h"
#include "error.h"
#include "json.h"
#include "log.h"
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

/* ---- checking ------------------------------------------------------------------------------ */

static inline bool is_clean(const mb_diff *diff, mb_text text)
{
    if (diff->is_utf8)
        return memchr(text.at, '\0', text.size) == NULL;
    const bool is_checked = diff->text.size != 0; /* each byte, by the reader of JSON */
    return is_checked || mb_json_is_clean_text(text);
}

static inline mb_status check_text(const mb_diff *diff, mb_text text, const char *field,
                                   mb_error *error)
{
    if (text.size == 0)
        return mb_refuse(error, MB_EMPTY, field);
    if (text.size > MB_MAX_JSON_DATA)
        return mb_refuse(error, MB_TOO_LONG, field);
    return is_clean(diff, text) ? MB_OK : mb_refuse(error, MB_NOT_UTF8, field);
}

static mb_status check_integer(int64_t value, const char *field, mb_error *error)
{
    if (value < 0 || value > MB_MAX_INTEGER)
        return mb_refuse(error, MB_NOT_AN_INTEGER, field);
    return MB_OK;
}

/* Where a part of a text begins. */
static size_t offset_in(mb_text text, mb_text part)
{
    return (size_t)(part.at - text.at);
}

/* Decodes the object's id from its text in json_data. */
static mb_status take_object_id(mb_diff *diff, mb_text id, bool has_escapes, mb_arena *arena,
                                mb_error *error)
{
    if (id.size == 0)
        return mb_refuse(error, MB_NO_OBJECT_ID, "json_data");
    if (id.at[0] != '"' || id.size == 2)
        return mb_refuse_at(error, MB_BAD_OBJECT_ID, "json_data", offset_in(diff->json_data, id));
    if (has_escapes)
        return mb_json_decode_string(id, arena, &diff->object_id);
    diff->object_id = (mb_text){id.at + 1, id.size - 2};
    return MB_OK;
}

/* Finds the object's id among the members; the last duplicate counts. */
static mb_status read_object_id(mb_diff *diff, bool has_escapes, mb_arena *arena, mb_error *error)
{
    mb_text id = {NULL, 0};
    diff->has_fields = false;
    for (size_t i = 0; i < diff->member_count; i++) {
        if (mb_is_id(&diff->members[i]))
            id = diff->members[i].value;
        else
            diff->has_fields = true;
    }
    return take_object_id(diff, id, has_escapes, arena, error);
}

/* Goes through the members of json_data without keeping them.
 *
 * id    out: the value of the last "id" before the end or the mistake, empty if there is none
 */
static mb_status walk_members(mb_diff *diff, mb_json *json, mb_arena *arena, mb_text *id)
{
    const mb_text no_guess = {NULL, 0};
    mb_text value;
    mb_member member;
    size_t read = 0;
    bool more = true;

    *id = no_guess;
    diff->members = NULL;
    diff->member_count = 0;
    diff->has_fields = false;
    mb_status status = mb_json_enter(json, '{');
    while (status == MB_OK && more) {
        status = mb_json_next_member(json, no_guess, arena, &read, &more, &member);
        if (status == MB_OK && more)
            status = mb_json_read_value(json, &value);
        if (status != MB_OK || !more)
            continue;
        diff->member_count++;
        if (mb_is_id(&member))
            *id = value;
        else
            diff->has_fields = true;
    }
    return status;
}

static mb_status check_json_data(mb_diff *diff, const mb_request_rules *rules, mb_arena *arena,
                                 mb_error *error)
{
    if (diff->json_data.size > MB_MAX_JSON_DATA)
        return mb_refuse(error, MB_TOO_LONG, "json_data");
    if (diff->json_data.size > rules->json_data_bytes)
        return mb_refuse_over(error, MB_TOO_MANY_BYTES, "json_data", &rules->json_data_bytes);
    mb_json_object object = {.count = 0};
    mb_status status = mb_json_read_object(diff->json_data, rules->fields, arena, &object, error);
    if (status == MB_INVALID && error->code == MB_TOO_MANY_FIELDS)
        error->limit = &rules->fields;
    diff->members = object.members;
    diff->member_count = object.count;
    diff->depth = object.depth;
    if (status == MB_OK)
        status = read_object_id(diff, object.has_escapes, arena, error);
    if (status == MB_INVALID)
        error->field = "json_data";
    if (status == MB_OK && diff->depth > rules->depth)
        return mb_refuse_over(error, MB_TOO_DEEP, "json_data", &rules->depth);
    return status;
}

/* Sets the time of a member; it is probably at `at`, because both lists have the same order. */
static void set_time(const mb_member *members, size_t count, mb_text name, int64_t time,
                     int64_t *times, size_t *at)
{
    for (size_t looked = 0; looked < count; looked++) {
        const size_t place = (*at + looked) % count;
        if (mb_text_equal(members[place].name, name)) {
            times[place] = time;
            *at = place + 1;
            return;
        }
    }
}

/* Reads the members of field_times.  Returns MB_OK, MB_INVALID or MB_NO_MEMORY. */
static mb_status read_field_times_object(mb_text field_times, mb_arena *arena,
                                         mb_json_object *times, mb_error *error)
{
    mb_status status = mb_json_read_object(field_times, SIZE_MAX, arena, times, error);
    for (size_t i = 0; status == MB_OK && i < times->count; i++) {
        int64_t time;
        const mb_text value = times->members[i].value;
        if (!mb_json_read_integer(value, &time))
            status = mb_refuse_at(error, MB_NOT_AN_INTEGER, NULL, offset_in(field_times, value));
    }
    if (status == MB_INVALID)
        error->field = "field_times";
    return status;
}

static mb_status check_field_times(const mb_diff *diff, mb_arena *arena, mb_error *error)
{
    mb_json_object times;
    if (diff->field_times.size == 0)
        return MB_OK;
    return read_field_times_object(diff->field_times, arena, &times, error);
}

mb_status mb_read_times(const mb_diff *diff, const mb_member *members, mb_arena *arena,
                        const int64_t **times)
{
    mb_json_object named;
    size_t at = 0;
    mb_error error;
    *times = NULL;
    if (diff->field_times.size == 0)
        return MB_OK;
    int64_t *made = mb_arena_get_items(arena, diff->member_count, sizeof *made);
    if (made == NULL || read_field_times_object(diff->field_times, arena, &named, &error) != MB_OK)
        return MB_NO_MEMORY; /* it was checked */
    for (size_t i = 0; i < diff->member_count; i++)
        made[i] = diff->utc_timestamp;
    for (size_t i = 0; i < named.count; i++) {
        int64_t time = 0;
        (void)mb_json_read_integer(named.members[i].value, &time);
        set_time(members, diff->member_count, named.members[i].name, time, made, &at);
    }
    *times = made;
    return MB_OK;
}

/* Checks all but json_data. */
static inline mb_status check_fields(const mb_diff *diff, mb_error *error)
{
    mb_status status = check_text(diff, diff->id, "id", error);
    if (status == MB_OK)
        status = check_text(diff, diff->owner, "owner", error);
    if (status == MB_OK)
        status = check_integer(diff->logical_clock, "logical_clock", error);
    if (status == MB_OK)
        status = check_integer(diff->utc_timestamp, "utc_timestamp", error);
    if (status == MB_OK)
        status = check_text(diff, diff->model, "model", error);
    return status;
}

mb_status mb_diff_check(mb_diff *diff, const mb_request_rules *rules, mb_arena *arena,
                        mb_error *error)
{
    static const mb_request_rules none = {
        .json_data_bytes = SIZE_MAX, .depth = SIZE_MAX, .fields = SIZE_MAX};
    if (rules == NULL)
        rules = &none;
    mb_status status = check_fields(diff, error);
    if (status == MB_OK && mb_text_equal(diff->model, rules->log_model))
        return mb_refuse(error, MB_LOG_MODEL, "model");
    if (status == MB_OK)
        status = check_json_data(diff, rules, arena, error);
    if (status == MB_OK)
        status = check_field_times(diff, arena, error);
    return status;
}

mb_status mb_log_row_check(mb_diff *diff, mb_arena *arena, mb_error *error)
{
    mb_text id;
    mb_status status = check_fields(diff, error);
    if (status != MB_OK)
        return status;
    if (diff->json_data.size > MB_MAX_JSON_DATA)
        return mb_refuse(error, MB_TOO_LONG, "json_data");
    mb_json json = mb_json_begin(diff->json_data, error);
    status = walk_members(diff, &json, arena, &id);
    if (status == MB_OK)
        status = mb_json_end(&json);
    diff->depth = json.deepest;
    if (status == MB_OK)
        status = take_object_id(diff, id, json.has_escapes, arena, error);
    if (status == MB_INVALID)
        error->field = "json_data";
    return status == MB_OK ? check_field_times(diff, arena, error) : status;
}

/* Finds out which object a malformed diff is about, from json_data as far as it is JSON. */
static mb_status read_object_id_anyway(mb_diff *diff, mb_arena *arena)
{
    mb_error error;
    mb_text id;
    mb_json json = mb_json_begin(diff->json_data, &error);
    const mb_status status = walk_members(diff, &json, arena, &id);
    diff->object_id = (mb_text){NULL, 0};
    if (status != MB_NO_MEMORY && id.size != 0 && id.at[0] == '"')
        return mb_json_decode_string(id, arena, &diff->object_id);
    return status == MB_NO_MEMORY ? status : MB_OK;
}

mb_status mb_keep_malformed(mb_diff *diff, const mb_error *error, mb_arena *arena)
{
    mb_error *kept = mb_arena_get(arena, sizeof *kept);
    if (kept == NULL)
        return MB_NO_MEMORY;
    *kept = *error;
    diff->malformed = kept;
    diff->excluded = true;
    return read_object_id_anyway(diff, arena);
}

void mb_diffs_limit_skew(mb_diffs *diffs, int64_t now_ms, int64_t max_skew_ms)
{
    for (size_t i = 0; i < diffs->count; i++) {
        mb_diff *diff = &diffs->items[i];
        if (diff->malformed == NULL && diff->utc_timestamp - now_ms > max_skew_ms) {
            diff->utc_timestamp = now_ms;
            diff->is_whole = false;
        }
    }
}

/* ---- reading ------------------------------------------------------------------------------- */

/* The fields, in their usual order. */
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

/* A diff in its original text: the text of each value, empty if a field is missing. */
typedef struct {
    mb_text values[FIELDS];
    mb_text field_times; /* of a row of the log */
    size_t member_count;
    const char *reserved; /* the first key that the rules reserve, or NULL */
    size_t extra_bytes;   /* of members beyond the seven fields, duplicates of these included */
    size_t extra_depth;
} diff_members;

/* The index of the field with that name; FIELDS if there is none. The guess is tried first. */
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

/* Reads a value, and how deep it is nested. */
static mb_status read_nested_value(mb_json *json, mb_text *value, size_t *depth)
{
    const unsigned deepest = json->deepest;
    json->deepest = json->depth;
    const mb_status status = mb_json_read_value(json, value);
    *depth = json->deepest - json->depth;
    if (deepest > json->deepest)
        json->deepest = deepest;
    return status;
}

/* Processes a member of a diff. If a name occurs twice, the last one counts. */
static void note_member(diff_members *members, const mb_member *member, size_t depth,
                        const mb_request_rules *rules)
{
    const size_t field = field_of(member->name, members->member_count++);
    if (field == FIELDS && rules != NULL && members->reserved == NULL)
        members->reserved = find_reserved(member->name, rules);
    if (field == FIELDS || members->values[field].size != 0) {
        members->extra_bytes += member->quoted.size + member->value.size;
        if (depth > members->extra_depth)
            members->extra_depth = depth;
    }
    if (field < FIELDS)
        members->values[field] = member->value;
    else if (rules == NULL && mb_text_equal(member->name, MB_TEXT("field_times")))
        members->field_times = member->value;
}

static mb_status read_members(mb_json *json, const mb_request_rules *rules, mb_arena *arena,
                              diff_members *members)
{
    size_t read = 0, depth = 0;
    bool more = true;

    *members = (diff_members){.member_count = 0};
    mb_status status = mb_json_enter(json, '{');
    while (status == MB_OK && more) {
        const size_t place = members->member_count;
        const mb_text guess = place < FIELDS ? field_names[place] : (mb_text){NULL, 0};
        mb_member member;
        status = mb_json_next_member(json, guess, arena, &read, &more, &member);
        if (status == MB_OK && more)
            status = read_nested_value(json, &member.value, &depth);
        if (status == MB_OK && more)
            note_member(members, &member, depth, rules);
    }
    return status;
}

/* The text of a value; error on anything but a string. */
static mb_status read_text(const diff_members *members, size_t field, mb_arena *arena,
                           mb_text *text, mb_error *error)
{
    const mb_text value = members->values[field];
    if (value.size == 0)
        return mb_refuse(error, MB_MISSING, field_names[field].at);
    if (value.at[0] != '"')
        return mb_refuse(error, MB_NOT_A_STRING, field_names[field].at);
    return mb_json_decode_string(value, arena, text);
}

static mb_status read_integer(const diff_members *members, size_t field, int64_t *integer,
                              mb_error *error)
{
    const mb_text value = members->values[field];
    if (value.size == 0)
        return mb_refuse(error, MB_MISSING, field_names[field].at);
    if (!mb_json_read_integer(value, integer))
        return mb_refuse(error, MB_NOT_AN_INTEGER, field_names[field].at);
    return MB_OK;
}

static mb_status read_type(const diff_members *members, mb_arena *arena, mb_type *type,
                           mb_error *error)
{
    mb_text name = {NULL, 0};
    const mb_status status = read_text(members, TYPE, arena, &name, error);
    if (status == MB_OK && !mb_type_read(name, type))
        return mb_refuse(error, MB_NOT_A_TYPE, "type");
    return status;
}

/* Reads the seven fields in the order in which people read them: the error names the first bad one. */
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

/* Reads the field that only a folded row of the log has. */
static mb_status read_field_times(const diff_members *members, mb_arena *arena, mb_diff *diff,
                                  mb_error *error)
{
    const mb_text value = members->field_times;
    if (value.size == 0 || mb_text_equal(value, MB_TEXT("null")))
        return MB_OK;
    if (value.at[0] == '"')
        return mb_json_decode_string(value, arena, &diff->field_times);
    diff->field_times = value;
    return value.at[0] == '{' ? MB_OK : mb_refuse(error, MB_NOT_A_STRING, "field_times");
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

/* Checks a diff's members beyond the seven fields against the rules. */
static mb_status check_members(const diff_members *members, const mb_request_rules *rules,
                               mb_error *error)
{
    if (members->reserved != NULL)
        return mb_refuse(error, MB_RESERVED_KEY, members->reserved);
    if (members->extra_bytes > rules->extra_bytes)
        return mb_refuse_over(error, MB_TOO_MANY_EXTRA_BYTES, "a diff", &rules->extra_bytes);
    if (members->extra_depth > rules->extra_depth)
        return mb_refuse_over(error, MB_EXTRA_TOO_DEEP, "a diff", &rules->extra_depth);
    return MB_OK;
}

/* Reads the diff at the reader. With rules, it is a diff of a request and is checked too. */
static mb_status read_next_diff(mb_json *json, const mb_request_rules *rules, mb_arena *arena,
                                diff_members *members, mb_diff *diff)
{
    const char *begin = json->at;
    mb_status status = read_members(json, rules, arena, members);
    if (status == MB_OK)
        status = read_fields(members, arena, diff, json->error);
    if (status == MB_OK)
        status = read_field_times(members, arena, diff, json->error);
    diff->text = (mb_text){begin, (size_t)(json->at - begin)};
    diff->is_whole = members->member_count == FIELDS;
    if (status == MB_OK && rules != NULL)
        status = mb_diff_check(diff, rules, arena, json->error);
    if (status == MB_OK && rules != NULL)
        status = check_members(members, rules, json->error);
    if (status == MB_INVALID)
        json->error->diff_id = diff->id;
    return status;
}

/* Reads a text; if it is missing or another value, the text is empty. */
static mb_status read_text_anyway(const diff_members *members, size_t field, mb_arena *arena,
                                  mb_text *text)
{
    mb_error error;
    *text = (mb_text){NULL, 0};
    const mb_status status = read_text(members, field, arena, text, &error);
    return status == MB_NO_MEMORY ? status : MB_OK;
}

/* Skips a refused diff, if it is JSON, and keeps the members before the mistake.
 *
 * json    in: the reader, before the diff
 */
static mb_status pass_malformed(mb_json *json, const diff_members *members, mb_arena *arena,
                                mb_diff *diff)
{
    const mb_error fault = *json->error;
    *diff = (mb_diff){.type = MB_CREATE};
    json->lenient = true;
    mb_status status = mb_json_read_value(json, &diff->text);
    json->lenient = false;
    if (status == MB_OK)
        status = read_text_anyway(members, ID, arena, &diff->id);
    if (status == MB_OK)
        status = read_text_anyway(members, MODEL, arena, &diff->model);
    if (status == MB_OK)
        status = read_text_anyway(members, JSON_DATA, arena, &diff->json_data);
    if (status == MB_OK)
        status = mb_keep_malformed(diff, &fault, arena);
    return status;
}

/* What to read, for whom, and how. */
typedef struct {
    const mb_request_rules *rules; /* NULL: the rows of a log */
    bool keep_malformed;
    mb_arena *arena;
} diff_reader;

/* Refuses what is not an object, or not JSON at all. */
static mb_status refuse_element(mb_json *json)
{
    mb_text value;
    const mb_status status = mb_json_read_value(json, &value);
    return status != MB_OK ? status
                           : mb_refuse_at(json->error, MB_NOT_AN_OBJECT, NULL,
                                          (size_t)(value.at - json->start));
}

static mb_status read_element(mb_json *json, const diff_reader *reader, mb_diff *diff)
{
    const mb_json before = *json;
    diff_members members = {.member_count = 0};
    const bool is_object = json->at < json->end && *json->at == '{';
    const mb_status status =
        is_object ? read_next_diff(json, reader->rules, reader->arena, &members, diff)
                  : refuse_element(json);
    if (status != MB_INVALID || !reader->keep_malformed)
        return status;
    *json = before;
    return pass_malformed(json, &members, reader->arena, diff);
}

/* Reads an array of diffs at the reader. */
static mb_status read_diffs(mb_json *json, const diff_reader *reader, mb_diffs *diffs,
                            size_t *index)
{
    const mb_request_rules *rules = reader->rules;
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
            return mb_refuse_over(json->error, MB_TOO_MANY_DIFFS, "diffs", &rules->diffs);
        *index = found.count;
        status = add_diff(&found, &room, reader->arena, &diff);
        if (status == MB_OK)
            status = read_element(json, reader, diff);
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
    diff_members members;
    mb_status status = read_next_diff(&json, NULL, arena, &members, &found);
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
    const diff_reader reader = {.arena = arena};
    mb_status status = read_diffs(&json, &reader, &found, index);
    if (status == MB_OK)
        status = mb_json_end(&json);
    if (status == MB_OK)
        *diffs = found;
    return status;
}

static mb_status read_request_diffs(mb_json *json, const diff_reader *reader, mb_request *request,
                                    size_t *index)
{
    const char *begin = json->at;
    const mb_status status = read_diffs(json, reader, &request->diffs, index);
    if (status != MB_OK)
        return status;
    while (*begin != '[')
        begin++;
    request->diffs_text = (mb_text){begin, (size_t)(json->at - begin)};
    return MB_OK;
}

/* Reads one member of a request's body; of duplicates the last counts. If a member must be a
 * string and is not, its text is empty; the caller refuses that if it needs the member. */
static mb_status read_request_member(mb_json *json, mb_text name, const diff_reader *reader,
                                     mb_request *request, size_t *index)
{
    if (mb_text_equal(name, MB_TEXT("diffs")))
        return read_request_diffs(json, reader, request, index);
    mb_text value;
    if (mb_json_read_value(json, &value) != MB_OK)
        return MB_INVALID;
    const struct {
        mb_text name;
        mb_text *place;
        bool may_be_null;
        bool is_string;
        bool is_no_string;
    } texts[] = {{MB_TEXT("logical_clock"), &request->logical_clock, false, false, false},
                 {MB_TEXT("limit"), &request->limit, true, false, false},
                 {MB_TEXT("cursor"), &request->cursor, true, false, false},
                 {MB_TEXT("device"), &request->device, true, true, false},
                 {MB_TEXT("request"), &request->number, true, false, false},
                 {MB_TEXT("mark"), &request->mark, true, true, false},
                 {MB_TEXT("part"), &request->part, true, false, false},
                 {MB_TEXT("more_diffs"), &request->more_diffs, true, false, true},
                 {MB_TEXT("upload"), &request->upload, true, true, false}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        if (!mb_text_equal(name, texts[i].name))
            continue;
        *texts[i].place = texts[i].may_be_null && value.at[0] == 'n' ? (mb_text){NULL, 0} : value;
        if (value.at[0] == '"' && !texts[i].is_no_string)
            return mb_json_decode_string(value, reader->arena, texts[i].place);
        if (texts[i].is_string)
            texts[i].place->size = 0;
    }
    return MB_OK;
}

mb_status mb_request_read(mb_text body, const mb_request_rules *rules, bool keep_malformed,
                          mb_arena *arena, mb_request *request, size_t *index, mb_error *error)
{
    const diff_reader reader = {rules, keep_malformed, arena};
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
            status = read_request_member(&json, name.name, &reader, &found, index);
    }
    if (status == MB_OK)
        status = mb_json_end(&json);
    if (status == MB_OK && found.logical_clock.at == NULL)
        status = mb_refuse(error, MB_MISSING, "logical_clock");
    if (status == MB_OK && found.diffs.count == SIZE_MAX)
        status = mb_refuse(error, MB_MISSING, "diffs");
    if (status == MB_OK)
        *request = found;
    return status;
}

/* ---- printing ------------------------------------------------------------------------------ */

/* Writes a number below 100 as two digits. */
static inline void put_pair(char *at, uint32_t value)
{
    static const char pairs[] = "00010203040506070809101112131415161718192021222324"
                                "25262728293031323334353637383940414243444546474849"
                                "50515253545556575859606162636465666768697071727374"
                                "75767778798081828384858687888990919293949596979899";
    memcpy(at, &pairs[(size_t)value * 2], 2);
}

static char *put_integer(char *at, int64_t value)
{
    char digits[20];
    size_t first = sizeof digits;
    uint64_t left = (uint64_t)value; /* never negative; dividing an unsigned number is faster */
    for (; left >= 10000; left /= 10000) {
        const uint32_t four = (uint32_t)(left % 10000);
        first -= 4;
        put_pair(digits + first, four / 100);
        put_pair(digits + first + 2, four % 100);
    }
    for (; left >= 10; left /= 100) {
        first -= 2;
        put_pair(digits + first, (uint32_t)(left % 100));
    }
    if (left != 0 || first == sizeof digits)
        digits[--first] = (char)('0' + left);
    return mb_text_put(at, (mb_text){digits + first, sizeof digits - first});
}

/* A number of bytes, or the largest number if memory cannot have so many. */
static size_t saturated(uint64_t bytes)
{
    const uint64_t most = SIZE_MAX;
    return (size_t)(bytes < most ? bytes : most);
}

/* An escaped character takes six bytes, except for control characters that JSON has short escapes
 * for: two. */
static uint64_t most_bytes_of(const mb_diff *diff, const mb_outcome *outcome, mb_text owner)
{
    /* 101 bytes of names, type and punctuation, two integers, and the room of four strings. */
    enum { NAMES_AND_NUMBERS = 232 };
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

static char *put_head(char *at, int64_t logical_clock)
{
    at = mb_text_put(at, MB_TEXT("{\"success\": true, \"message\": \"\", \"logical_clock\": "));
    at = put_integer(at, logical_clock);
    return mb_text_put(at, MB_TEXT(", \"diffs\": ["));
}

size_t mb_reply_put_piece(const mb_diffs *window, const mb_outcomes *downstream, size_t begin,
                          size_t end, int64_t logical_clock, char *at)
{
    const char *printed = at;
    if (begin == 0)
        at = put_head(at, logical_clock);
    for (size_t i = begin; i < end; i++) {
        const mb_outcome *outcome = &downstream->items[i];
        const mb_diff *diff = &window->items[outcome->source];
        if (i != 0)
            at = mb_text_put(at, MB_TEXT(", "));
        at = leaves_as_it_came(diff, outcome)
                 ? mb_text_put(at, diff->text)
                 : put_diff(at, diff, outcome, diff->owner, diff->logical_clock);
    }
    if (end == downstream->count)
        at = mb_text_put(at, MB_TEXT("]}"));
    return (size_t)(at - printed);
}

size_t mb_reply_put(const mb_diffs *window, const mb_outcomes *downstream, int64_t logical_clock,
                    char *at)
{
    return mb_reply_put_piece(window, downstream, 0, downstream->count, logical_clock, at);
}
