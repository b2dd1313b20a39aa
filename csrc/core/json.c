/* json.c - strict JSON, read as exact text spans.
 *
 * Values must leave mobync unchanged: 9007199254740993, 1.0 and 1e400 do not survive a double. So
 * for each value we need to know where its text begins and ends, and that it is valid. cJSON keeps
 * numbers as doubles and gives neither. It accepts 01, cuts strings at U+0000 and accepts invalid
 * UTF-8. When it fails, it does not say whether the text was bad or memory was out. The scanner
 * here therefore checks every byte, once, and records the spans. Only the escapes remain. Escapes
 * of two bytes, which are frequent in json_data, are decoded here. cJSON decodes the \u of all
 * others; after the check, it can only fail because of memory.
 *
 * Most bytes of a string have no special meaning, so strings are read block by block (scan.h).
 *
 * The scanner is a loop, not a recursion: its stack has one bit for each open bracket.
 *
 * Does not: build a tree, judge duplicate members, or change a byte.
 */
#include "json.h"

#include "arena.h"
#include "error.h"
#include "scan.h"
#include "text.h"

#include <cjson/cJSON.h>
#include <string.h>

static mb_status fail(mb_json *json, const char *reason)
{
    mb_refuse_at(json->error, MB_BAD_JSON, NULL, (size_t)(json->at - json->start));
    json->error->reason = json->at < json->end ? reason : "the JSON text ends too early";
    return MB_INVALID;
}

/* Refuses a character that JSON allows but stored texts do not; a lenient reader continues. */
static mb_status refuse_character(mb_json *json, mb_code code, const char *at)
{
    if (json->lenient)
        return MB_OK;
    return mb_refuse_at(json->error, code, NULL, (size_t)(at - json->start));
}

static inline mb_json begin_document(mb_text text, mb_error *error)
{
    static const char nothing[1] = "";
    const char *start = text.at != NULL ? text.at : nothing;
    return (mb_json){.start = start, .at = start, .end = start + text.size, .error = error};
}

mb_json mb_json_begin(mb_text text, mb_error *error)
{
    return begin_document(text, error);
}

static inline bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static inline void skip_space(mb_json *json)
{
    while (json->at < json->end && *json->at <= ' ' && is_space(*json->at))
        json->at++;
}

/* The byte at the reader, or 0 at the end: no valid text has a 0. */
static char peek(const mb_json *json)
{
    if (json->at == json->end)
        return '\0';
    return *json->at;
}

static bool take(mb_json *json, char wanted)
{
    if (peek(json) != wanted)
        return false;
    json->at++;
    return true;
}

/* Most JSON has no space there. */
static inline bool take_behind_space(mb_json *json, char wanted)
{
    if (take(json, wanted))
        return true;
    skip_space(json);
    return take(json, wanted);
}

static inline mb_status end_document(mb_json *json)
{
    skip_space(json);
    if (json->at != json->end)
        return fail(json, "text follows the JSON value");
    return MB_OK;
}

mb_status mb_json_end(mb_json *json)
{
    return end_document(json);
}

/* ---- strings ------------------------------------------------------------------------------ */

static bool is_continuation(const char *at)
{
    return ((unsigned char)*at & 0xc0) == 0x80;
}

/* The bytes of the UTF-8 sequence that begins at `at` with a byte >= 0x80; 0 if it is not one. */
static size_t utf8_length(const char *at, const char *end)
{
    const unsigned char first = (unsigned char)at[0];
    const size_t left = (size_t)(end - at);
    const unsigned char second = left > 1 ? (unsigned char)at[1] : 0;

    if (first >= 0xc2 && first <= 0xdf)
        return left >= 2 && is_continuation(at + 1) ? 2 : 0;
    if (first >= 0xe0 && first <= 0xef) {
        const bool overlong = first == 0xe0 && second < 0xa0;
        const bool surrogate = first == 0xed && second > 0x9f;
        if (overlong || surrogate || left < 3)
            return 0;
        return is_continuation(at + 1) && is_continuation(at + 2) ? 3 : 0;
    }
    if (first >= 0xf0 && first <= 0xf4) {
        const bool overlong = first == 0xf0 && second < 0x90;
        const bool beyond_unicode = first == 0xf4 && second > 0x8f;
        if (overlong || beyond_unicode || left < 4)
            return 0;
        return is_continuation(at + 1) && is_continuation(at + 2) && is_continuation(at + 3) ? 4
                                                                                             : 0;
    }
    return 0;
}

/* Marks the end of the plain bytes of a string: quotes, backslashes, controls, non-ASCII bytes. */
static inline mb_block mark_not_plain(mb_block block)
{
    return mb_block_or(mb_block_control_or_not_ascii(block),
                       mb_block_or(mb_block_equal(block, '"'), mb_block_equal(block, '\\')));
}

/* Marks what must be escaped in a string. */
static inline mb_block mark_to_escape(mb_block block)
{
    return mb_block_or(mb_block_control(block),
                       mb_block_or(mb_block_equal(block, '"'), mb_block_equal(block, '\\')));
}

static inline mb_block mark_backslashes(mb_block block)
{
    return mb_block_equal(block, '\\');
}

/* Whether a short text is ASCII without zeros. Two blocks that may overlap are checked, so that no
 * byte is checked alone. */
static bool is_short_ascii(mb_text text)
{
    enum { HALF = 4, WORD = 8 };
    const uint64_t each_byte = UINT64_C(0x0101010101010101);
    uint64_t first = each_byte, last = each_byte;
    if (text.size >= WORD) {
        memcpy(&first, text.at, WORD);
        memcpy(&last, text.at + text.size - WORD, WORD);
    } else if (text.size >= HALF) {
        memcpy(&first, text.at, HALF);
        memcpy(&last, text.at + text.size - HALF, HALF);
    } else {
        return false;
    }
    const uint64_t zeros = ((first - each_byte) & ~first) | ((last - each_byte) & ~last);
    return ((zeros | first | last) & each_byte << 7) == 0;
}

bool mb_json_is_clean_text(mb_text text)
{
    if (text.size == 0 || (text.size <= 2 * sizeof(uint64_t) && is_short_ascii(text)))
        return true;
    const char *end = text.at + text.size;
    for (const char *at = text.at; at < end;) {
        at += mb_unmarked_bytes(text.at, at, end, mb_block_zero_or_not_ascii);
        if (at == end)
            break;
        const size_t length = (unsigned char)*at < 0x80 ? *at != '\0' : utf8_length(at, end);
        if (length == 0)
            return false;
        at += length;
    }
    return true;
}

/* Reads the four hexadecimal digits behind \u. */
static bool read_code_unit(mb_json *json, unsigned *unit)
{
    if (json->end - json->at < 4)
        return false;
    *unit = 0;
    for (int i = 0; i < 4; i++, json->at++) {
        const char c = *json->at;
        unsigned digit;
        if (c >= '0' && c <= '9')
            digit = (unsigned)(c - '0');
        else if (c >= 'a' && c <= 'f')
            digit = (unsigned)(c - 'a') + 10;
        else if (c >= 'A' && c <= 'F')
            digit = (unsigned)(c - 'A') + 10;
        else
            return false;
        *unit = *unit << 4 | digit;
    }
    return true;
}

static mb_status skip_unicode_escape(mb_json *json, const char *backslash)
{
    unsigned unit;
    if (!read_code_unit(json, &unit))
        return fail(json, "\\u needs four hexadecimal digits");
    if (unit == 0)
        return refuse_character(json, MB_ZERO_CHARACTER, backslash);
    if (unit >= 0xdc00 && unit <= 0xdfff)
        return refuse_character(json, MB_LONE_SURROGATE, backslash);
    if (unit >= 0xd800 && unit <= 0xdbff) {
        const char *behind = json->at;
        unsigned low = 0;
        if (!take(json, '\\') || !take(json, 'u') || !read_code_unit(json, &low) || low < 0xdc00 ||
            low > 0xdfff) {
            json->at = behind;
            return refuse_character(json, MB_LONE_SURROGATE, backslash);
        }
    }
    return MB_OK;
}

static mb_status skip_escape(mb_json *json)
{
    const char *backslash = json->at++;
    switch (peek(json)) {
    case '"':
    case '\\':
    case '/':
    case 'b':
    case 'f':
    case 'n':
    case 'r':
    case 't':
        json->at++;
        return MB_OK;
    case 'u':
        json->at++;
        return skip_unicode_escape(json, backslash);
    default:
        return fail(json, "not an escape that JSON knows");
    }
}

/* The character for the byte after a backslash; 0 for u, and for a byte that is not an escape. */
static const char escape_meaning[256] = {['"'] = '"',  ['\\'] = '\\', ['/'] = '/',  ['b'] = '\b',
                                         ['f'] = '\f', ['n'] = '\n',  ['r'] = '\r', ['t'] = '\t'};

static bool is_plain(char c)
{
    const unsigned char byte = (unsigned char)c;
    return byte >= 0x20 && byte < 0x80 && byte != '"' && byte != '\\';
}

/* Skips ASCII and escapes of two bytes, and records them, up to a quote or a byte that needs a
 * check. */
static const char *skip_plain(const mb_json *json, bool *escaped)
{
    const char *at = json->at, *end = json->end;
    while (at < end) {
        at += mb_unmarked_bytes(json->start, at, end, mark_not_plain);
        if (at == end || *at == '"')
            break;
        const bool is_escape =
            *at == '\\' && end - at > 1 && escape_meaning[(unsigned char)at[1]] != '\0';
        if (!is_escape && !is_plain(*at))
            break;
        *escaped |= is_escape;
        at += is_escape ? 2 : 1;
    }
    return at;
}

/* Skips what is left of a string, from within it up to behind its last quote. */
static mb_status skip_rest_of_string(mb_json *json)
{
    for (;;) {
        const char *at = json->at = skip_plain(json, &json->escaped);
        if (at == json->end)
            return fail(json, "");
        const unsigned char c = (unsigned char)*at;
        if (c == '"') {
            json->has_escapes |= json->escaped;
            json->at++;
            return MB_OK;
        }
        if (c == '\\') {
            json->escaped = true;
            const mb_status status = skip_escape(json);
            if (status != MB_OK)
                return status;
        } else if (c < 0x20) {
            return fail(json, "a control character in a string must be escaped");
        } else {
            const size_t length = utf8_length(at, json->end);
            if (length == 0)
                return fail(json, "not UTF-8");
            json->at += length;
        }
    }
}

/* Names and many values end in their first block. */
static inline mb_status skip_string(mb_json *json)
{
    const char *at = json->at + 1;
    if (at < json->end)
        at += mb_unmarked_bytes(json->start, at, json->end, mark_not_plain);
    json->escaped = false;
    if (at == json->end || *at != '"') {
        json->at = at;
        return skip_rest_of_string(json);
    }
    json->at = at + 1;
    return MB_OK;
}

/* Decodes a string whose first escape is given.  Returns its size, or 0 if it has an escape of more
 * than two bytes. */
static size_t decode_short_escapes(mb_text text, const char *escape, char *decoded)
{
    const char *end = text.at + text.size;
    size_t size = (size_t)(escape - text.at);
    memcpy(decoded, text.at, size);
    for (const char *at = escape; at < end;) {
        if (end - at >= MB_BLOCK) {
            const mb_block block = mb_block_load(at);
            const size_t plain = mb_bytes_before(mark_backslashes(block));
            mb_block_put(decoded + size, block); /* there is room: decoding adds no bytes */
            at += plain;
            size += plain;
            if (plain == MB_BLOCK)
                continue;
        }
        char c = *at++;
        if (c == '\\')
            c = escape_meaning[(unsigned char)*at++];
        if (c == '\0')
            return 0;
        decoded[size++] = c;
    }
    return size;
}

mb_status mb_json_decode_string(mb_text quoted, mb_arena *arena, mb_text *decoded)
{
    const mb_text inside = {quoted.at + 1, quoted.size - 2};
    const char *escape = inside.size != 0 ? memchr(inside.at, '\\', inside.size) : NULL;
    if (escape == NULL) {
        *decoded = inside;
        return MB_OK;
    }
    char *made = mb_arena_get(arena, inside.size); /* a decoded string is shorter */
    if (made == NULL)
        return MB_NO_MEMORY;
    size_t size = decode_short_escapes(inside, escape, made);
    if (size == 0) {
        cJSON *parsed = cJSON_ParseWithLength(quoted.at, quoted.size);
        if (parsed == NULL)
            return MB_NO_MEMORY;
        size = strlen(parsed->valuestring);
        memcpy(made, parsed->valuestring, size);
        cJSON_Delete(parsed);
    }
    *decoded = (mb_text){made, size};
    return MB_OK;
}

/* The letter of each byte's escape: u for one of six bytes, 0 for a byte that needs none. */
static const char escape_letter[256] = {
    'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', 'b',         't',          'n', 'u',
    'f', 'r', 'u', 'u', 'u', 'u', 'u', 'u', 'u',         'u',          'u', 'u',
    'u', 'u', 'u', 'u', 'u', 'u', 'u', 'u', ['"'] = '"', ['\\'] = '\\'};

/* Writes a character, with an escape if it needs one. */
static inline char *put_character(char *at, char c)
{
    static const char digits[] = "0123456789abcdef";
    const unsigned char byte = (unsigned char)c;
    const char letter = escape_letter[byte];
    if (letter == '\0') {
        *at++ = c;
        return at;
    }
    *at++ = '\\';
    *at++ = letter;
    if (letter == 'u') {
        at = mb_text_put(at, MB_TEXT("00"));
        *at++ = digits[byte >> 4];
        *at++ = digits[byte & 0xf];
    }
    return at;
}

char *mb_json_put_string(char *at, mb_text text)
{
    const char *from = text.at;
    const char *end = from + text.size;
    *at++ = '"';
    for (;;) {
        const mb_block block = mb_block_load_up_to(from, end); /* behind the text, it has zeros */
        const size_t plain = mb_bytes_before(mark_to_escape(block));
        mb_block_put(at, block);
        at += plain;
        from += plain;
        if (from == end)
            break;
        if (plain != MB_BLOCK)
            at = put_character(at, *from++);
    }
    *at++ = '"';
    return at;
}

/* ---- numbers and literals ------------------------------------------------------------------ */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool skip_digits(mb_json *json)
{
    const char *before = json->at;
    while (is_digit(peek(json)))
        json->at++;
    return json->at != before;
}

static mb_status skip_number(mb_json *json)
{
    take(json, '-');
    if (!take(json, '0') && !skip_digits(json))
        return fail(json, "a number needs a digit here");
    if (take(json, '.') && !skip_digits(json))
        return fail(json, "a number needs a digit here");
    if (take(json, 'e') || take(json, 'E')) {
        if (!take(json, '+'))
            take(json, '-');
        if (!skip_digits(json))
            return fail(json, "a number needs a digit here");
    }
    return MB_OK;
}

static mb_status skip_literal(mb_json *json, mb_text literal)
{
    if ((size_t)(json->end - json->at) < literal.size ||
        memcmp(json->at, literal.at, literal.size) != 0)
        return fail(json, "not a JSON value");
    json->at += literal.size;
    return MB_OK;
}

bool mb_json_read_integer(mb_text value, int64_t *integer)
{
    enum { MOST_DIGITS = 16 };
    if (mb_text_equal(value, MB_TEXT("-0"))) /* -0 is 0 for every JSON parser with integers */
        value = MB_TEXT("0");
    if (value.size == 0 || value.size > MOST_DIGITS)
        return false;
    int64_t sum = 0;
    for (size_t i = 0; i < value.size; i++) {
        if (!is_digit(value.at[i]))
            return false;
        sum = sum * 10 + (value.at[i] - '0');
    }
    if (sum > MB_MAX_INTEGER)
        return false;
    *integer = sum;
    return true;
}

/* ---- values -------------------------------------------------------------------------------- */

/* Reads `"name" :` where the reader stands, and gives the name as it stood. */
static inline mb_status skip_name(mb_json *json, mb_text *quoted)
{
    const char *begin = json->at;
    if (peek(json) != '"')
        return fail(json, "expected a member name in quotes");
    const mb_status status = skip_string(json);
    if (status != MB_OK)
        return status;
    *quoted = (mb_text){begin, (size_t)(json->at - begin)};
    return take_behind_space(json, ':') ? MB_OK : fail(json, "expected ':' after a member name");
}

static mb_status skip_scalar(mb_json *json)
{
    switch (peek(json)) {
    case '"':
        return skip_string(json);
    case 't':
        return skip_literal(json, MB_TEXT("true"));
    case 'f':
        return skip_literal(json, MB_TEXT("false"));
    case 'n':
        return skip_literal(json, MB_TEXT("null"));
    default:
        if (peek(json) == '-' || is_digit(peek(json)))
            return skip_number(json);
        return fail(json, "not a JSON value");
    }
}

static void deepen(mb_json *json)
{
    json->depth++;
    if (json->depth > json->deepest)
        json->deepest = json->depth;
}

/* Which of the open brackets belong to objects, one bit for each. */
typedef struct {
    unsigned char is_object[CJSON_NESTING_LIMIT / 8 + 1];
    unsigned lowest; /* depth at which the value began */
} bracket_stack;

static bool in_object(const mb_json *json, const bracket_stack *open)
{
    return open->is_object[json->depth / 8] >> (json->depth % 8) & 1;
}

static mb_status open_bracket(mb_json *json, bracket_stack *open)
{
    if (json->depth >= CJSON_NESTING_LIMIT)
        return fail(json, "nested deeper than 1000 levels");
    if (json->depth == open->lowest) /* most values are no brackets and need no stack */
        memset(open->is_object, 0, sizeof open->is_object);
    deepen(json);
    const unsigned depth = json->depth;
    const unsigned char bit = (unsigned char)(1u << (depth % 8));
    if (*json->at == '{')
        open->is_object[depth / 8] |= bit;
    else
        open->is_object[depth / 8] &= (unsigned char)~bit;
    json->at++;
    return MB_OK;
}

_Static_assert(CJSON_NESTING_LIMIT == 1000, "the message of open_bracket names the limit");

/* Skips a value up to where the next one begins, and closes what ends before that. */
static mb_status leave_value(mb_json *json, const bracket_stack *open, bool *done)
{
    while (json->depth > open->lowest) {
        const bool object = in_object(json, open);
        skip_space(json);
        if (take(json, ',')) {
            mb_text name;
            *done = false;
            skip_space(json);
            return object ? skip_name(json, &name) : MB_OK;
        }
        if (!take(json, object ? '}' : ']'))
            return fail(json, object ? "expected ',' or '}'" : "expected ',' or ']'");
        json->depth--;
    }
    *done = true;
    return MB_OK;
}

static mb_status skip_value(mb_json *json)
{
    bracket_stack open;
    open.lowest = json->depth;
    mb_status status = MB_OK;
    for (bool done = false; !done && status == MB_OK;) {
        skip_space(json);
        if (peek(json) == '{' || peek(json) == '[') {
            status = open_bracket(json, &open);
            if (status != MB_OK)
                break;
            skip_space(json);
            if (peek(json) != (in_object(json, &open) ? '}' : ']')) {
                mb_text name;
                if (in_object(json, &open))
                    status = skip_name(json, &name);
                continue;
            }
            json->at++;
            json->depth--;
        } else {
            status = skip_scalar(json);
        }
        if (status == MB_OK)
            status = leave_value(json, &open, &done);
    }
    return status;
}

/* Members that were found, in the arena. */
typedef struct {
    mb_member *all;
    size_t room;
    size_t count;
} member_list;

/* The place behind the last member; NULL: no memory. */
static mb_member *next_place(member_list *list, mb_arena *arena)
{
    enum { LEAST = 8 };
    if (list->count == list->room) {
        const size_t room = list->room < LEAST ? LEAST : list->room * 2;
        mb_member *more = mb_arena_get_items(arena, room, sizeof *more);
        if (more == NULL)
            return NULL;
        memcpy(more, list->all, list->count * sizeof *more);
        list->all = more;
        list->room = room;
    }
    return &list->all[list->count];
}

static inline mb_status read_value(mb_json *json, mb_text *value)
{
    skip_space(json);
    const char *begin = json->at;
    const char first = peek(json);
    mb_status status;
    if (first == '"')
        status = skip_string(json);
    else if (first == '{' || first == '[')
        status = skip_value(json);
    else
        status = skip_scalar(json);
    *value = (mb_text){begin, (size_t)(json->at - begin)};
    return status;
}

mb_status mb_json_read_value(mb_json *json, mb_text *value)
{
    return read_value(json, value);
}

static inline mb_status enter(mb_json *json, char bracket)
{
    skip_space(json);
    if (!take(json, bracket))
        return fail(json, bracket == '{' ? "expected a JSON object" : "expected a JSON array");
    deepen(json);
    return MB_OK;
}

mb_status mb_json_enter(mb_json *json, char bracket)
{
    return enter(json, bracket);
}

/* Goes to the next item between brackets, or closes them. */
static inline mb_status next_item(mb_json *json, char close, const char *expected, size_t *read,
                                  bool *more)
{
    const bool is_first = (*read)++ == 0;
    *more = true;
    if (is_first || !take(json, ',')) {
        skip_space(json);
        *more = !take(json, close);
        if (!*more)
            json->depth--;
        else if (!is_first && !take(json, ','))
            return fail(json, expected);
    }
    if (*more)
        skip_space(json);
    return MB_OK;
}

mb_status mb_json_next_element(mb_json *json, size_t *read, bool *more)
{
    return next_item(json, ']', "expected ',' or ']'", read, more);
}

/* Skips `"name":` if exactly that comes next. */
static bool take_name(mb_json *json, mb_text name, mb_text *quoted)
{
    const char *at = json->at;
    const size_t quoted_size = name.size + 2;
    if ((size_t)(json->end - at) <= quoted_size || at[0] != '"' || at[quoted_size - 1] != '"' ||
        at[quoted_size] != ':' || memcmp(at + 1, name.at, name.size) != 0)
        return false;
    *quoted = (mb_text){at, quoted_size};
    json->at += quoted_size + 1;
    return true;
}

/* Reads `"name":` at the reader. */
static mb_status read_name(mb_json *json, mb_arena *arena, mb_member *name)
{
    const mb_status status = skip_name(json, &name->quoted);
    if (status != MB_OK)
        return status;
    if (json->escaped)
        return mb_json_decode_string(name->quoted, arena, &name->name);
    name->name = (mb_text){name->quoted.at + 1, name->quoted.size - 2};
    return MB_OK;
}

mb_status mb_json_next_member(mb_json *json, mb_text guess, mb_arena *arena, size_t *read,
                              bool *more, mb_member *name)
{
    const mb_status status = next_item(json, '}', "expected ',' or '}'", read, more);
    if (status != MB_OK || !*more)
        return status;
    if (guess.size != 0 && take_name(json, guess, &name->quoted)) {
        name->name = guess;
        return MB_OK;
    }
    return read_name(json, arena, name);
}

/* Reads a member as most are: its name has no escapes, its value no brackets, and there is at most one
 * space between the two. Returns false otherwise, and also for what is wrong. */
static inline bool take_usual_member(mb_json *json, mb_member *member)
{
    const char *begin = json->at;
    if (skip_string(json) != MB_OK || json->escaped)
        return false;
    const mb_text quoted = {begin, (size_t)(json->at - begin)};
    if (!take(json, ':'))
        return false;
    (void)take(json, ' ');
    begin = json->at;
    if ((peek(json) == '"' ? skip_string(json) : skip_scalar(json)) != MB_OK)
        return false;
    *member = (mb_member){.name = {quoted.at + 1, quoted.size - 2},
                          .quoted = quoted,
                          .value = {begin, (size_t)(json->at - begin)}};
    return true;
}

/* Reads members of an object that was entered, as long as they are as most are. What follows is left
 * to the reader that takes all forms, and what is wrong is found there.
 *
 * most    no more than the list has room for
 *
 * Returns whether the object was closed.
 */
static bool take_usual_members(mb_json *json, size_t most, member_list *list)
{
    const char *behind = json->at; /* the last member */
    while (list->count < most && peek(json) == '"' &&
           take_usual_member(json, &list->all[list->count])) {
        list->count++;
        behind = json->at;
        if (take(json, '}')) {
            json->depth--;
            return true;
        }
        if (!take(json, ','))
            break;
        (void)take(json, ' ');
    }
    json->at = behind;
    return false;
}

/* Reads the members of an object that was entered, up to its end, in any form that JSON allows. */
static mb_status take_members(mb_json *json, size_t most, mb_arena *arena, member_list *list)
{
    size_t read = list->count;
    bool more = true;
    mb_status status = MB_OK;
    while (status == MB_OK && more) {
        status = next_item(json, '}', "expected ',' or '}'", &read, &more);
        if (status != MB_OK || !more)
            continue;
        mb_member *member = next_place(list, arena);
        if (member == NULL)
            return MB_NO_MEMORY;
        status = read_name(json, arena, member);
        if (status == MB_OK && list->count++ == most)
            return mb_refuse(json->error, MB_TOO_MANY_FIELDS, NULL);
        if (status == MB_OK)
            status = read_value(json, &member->value);
    }
    return status;
}

mb_status mb_json_read_object(mb_text text, size_t most, mb_arena *arena, mb_json_object *object,
                              mb_error *error)
{
    enum { FEW = 24 /* members: most objects have no more */ };
    mb_json json = begin_document(text, error);
    member_list list = {.all = mb_arena_next(arena, FEW * sizeof *list.all)};
    if (list.all == NULL)
        return MB_NO_MEMORY;
    mb_status status = enter(&json, '{');
    if (status != MB_OK)
        return status;
    const bool is_closed = take_usual_members(&json, most < FEW ? most : FEW, &list);
    list.room = list.count;
    (void)mb_arena_get(arena, list.count * sizeof *list.all); /* what was used of the next piece */
    if (!is_closed)
        status = take_members(&json, most, arena, &list);
    if (status == MB_OK)
        status = end_document(&json);
    if (status == MB_OK)
        *object = (mb_json_object){list.all, list.count, json.deepest, json.has_escapes};
    return status;
}

/* ---- printing ------------------------------------------------------------------------------ */

mb_status mb_json_print_object(const mb_member *const *members, size_t count, mb_arena *arena,
                               mb_text *json)
{
    size_t size = 2;
    for (size_t i = 0; i < count; i++)
        size += members[i]->quoted.size + members[i]->value.size + 2; /* with ':' and ',' */
    char *printed = mb_arena_get(arena, size);
    if (printed == NULL)
        return MB_NO_MEMORY;

    char *at = printed;
    *at++ = '{';
    for (size_t i = 0; i < count; i++) {
        if (i != 0)
            *at++ = ',';
        at = mb_text_put(at, members[i]->quoted);
        *at++ = ':';
        at = mb_text_put(at, members[i]->value);
    }
    *at++ = '}';
    *json = (mb_text){printed, (size_t)(at - printed)};
    return MB_OK;
}

/* ---- one member ---------------------------------------------------------------------------- */

/* Whether a name in its original text may be the wanted one. If this is true for another name, both
 * have a byte that is not ASCII. Takes no memory: the body of a stranger may have millions of
 * names. */
static bool may_be_name(mb_text quoted, mb_text wanted)
{
    mb_json inside = {.at = quoted.at + 1, .end = quoted.at + quoted.size - 1};
    for (size_t i = 0; i < wanted.size; i++) {
        const unsigned char expected = (unsigned char)wanted.at[i];
        unsigned c = (unsigned char)peek(&inside);
        if (inside.at < inside.end)
            inside.at++;
        if (c == '\\') {
            c = (unsigned char)escape_meaning[(unsigned char)*inside.at++];
            if (c == '\0' && read_code_unit(&inside, &c) && c >= 0x80)
                return expected >= 0x80;
        }
        if (c != expected)
            return false;
    }
    return inside.at == inside.end;
}

static mb_status is_name(mb_text quoted, mb_text wanted, mb_arena *arena, bool *is)
{
    mb_text decoded;
    *is = false;
    if (!may_be_name(quoted, wanted))
        return MB_OK;
    const mb_status status = mb_json_decode_string(quoted, arena, &decoded);
    *is = status == MB_OK && mb_text_equal(decoded, wanted);
    return status;
}

mb_status mb_json_text_member(mb_text text, mb_text name, mb_arena *arena, mb_text *found)
{
    mb_error error;
    mb_json json = mb_json_begin(text, &error);
    mb_text wanted = {NULL, 0}, quoted = {NULL, 0}, value = {NULL, 0};
    size_t read = 0;
    bool more = true, is_wanted = false;

    mb_status status = mb_json_enter(&json, '{');
    while (status == MB_OK && more) {
        status = next_item(&json, '}', "expected ',' or '}'", &read, &more);
        if (status == MB_OK && more)
            status = skip_name(&json, &quoted);
        if (status == MB_OK && more)
            status = mb_json_read_value(&json, &value);
        if (status == MB_OK && more)
            status = is_name(quoted, name, arena, &is_wanted);
        if (status == MB_OK && more && is_wanted)
            wanted = value;
    }
    if (status == MB_OK)
        status = mb_json_end(&json);
    *found = (mb_text){NULL, 0};
    if (status == MB_OK && wanted.at != NULL && wanted.at[0] == '"')
        status = mb_json_decode_string(wanted, arena, found);
    return status == MB_INVALID ? MB_OK : status;
}
