/* json.h - strict JSON, read as exact text spans.
 *
 * A reader goes through a document from left to right. It checks everything (RFC 8259, UTF-8, no
 * lone surrogate, no U+0000) and returns where things are. It turns a value into a C number only if
 * the caller asks for an integer.
 */
#ifndef MB_JSON_H
#define MB_JSON_H

#include "mobync.h"

typedef struct {
    const char *start;
    const char *at;
    const char *end;
    unsigned depth; /* arrays and objects that are open */
    unsigned deepest;
    bool escaped;     /* whether the last string had an escape */
    bool has_escapes; /* whether any string so far had one */
    bool lenient;     /* takes lone surrogates and U+0000; such a string must not be decoded */
    mb_error *error;  /* filled on MB_INVALID */
} mb_json;

/* Begins to read a document; `text` and `error` are borrowed. */
mb_json mb_json_begin(mb_text text, mb_error *error);

/* Checks that only white space is left.  Returns MB_OK or MB_INVALID. */
mb_status mb_json_end(mb_json *json);

/* An object that was read. */
typedef struct {
    const mb_member *members; /* in their order; a name may occur twice */
    size_t count;
    unsigned depth;   /* levels of nesting, its own braces included */
    bool has_escapes; /* whether a string in it has an escape */
} mb_json_object;

/* Reads a document that is an object.
 *
 * text     borrowed
 * most     how many members it may have
 * object   out: in arena
 * error    out: filled on MB_INVALID
 *
 * Returns MB_OK, MB_INVALID or MB_NO_MEMORY.
 */
mb_status mb_json_read_object(mb_text text, size_t most, mb_arena *arena, mb_json_object *object,
                              mb_error *error);

/* Enters an object or array: `bracket` is '{' or '['.  Returns MB_OK or MB_INVALID. */
mb_status mb_json_enter(mb_json *json, char bracket);

/* Goes to the next member of the object that was entered; the caller then reads its value.
 *
 * guess   a name that probably comes next, so that one comparison is enough to read it; or empty.
 *         It has only characters that need no escape in a JSON string
 * read    in, out: members read so far; counts up
 * more    out: false if the object was closed instead
 * name    out: decoded, and in its original text
 *
 * Returns MB_OK, MB_INVALID or MB_NO_MEMORY.
 */
mb_status mb_json_next_member(mb_json *json, mb_text guess, mb_arena *arena, size_t *read,
                              bool *more, mb_member *name);

/* Goes to the next element of the array that was entered; like mb_json_next_member. */
mb_status mb_json_next_element(mb_json *json, size_t *read, bool *more);

/* Reads a value of any kind.
 *
 * value   out: its exact text
 *
 * Returns MB_OK or MB_INVALID.
 */
mb_status mb_json_read_value(mb_json *json, mb_text *value);

/* Decodes a string from its text in a checked document, including the quotes. Borrows from the
 * document if nothing is escaped. Returns MB_OK or MB_NO_MEMORY. */
mb_status mb_json_decode_string(mb_text quoted, mb_arena *arena, mb_text *decoded);

/* The room for a JSON string, beside that for the characters. The string is written in blocks, so
 * some of it is more than the quotes need. */
enum { MB_STRING_ROOM = 18 };

/* Writes a text as a JSON string, including the quotes.
 *
 * at    has room for MB_STRING_ROOM, and for six bytes for each byte of the text. Two for each are
 *       enough if the text has no control characters except tab, line feed and carriage return.
 *
 * Returns the place after it.
 */
char *mb_json_put_string(char *at, mb_text text);

/* Prints an object of some members with their original texts, in arena. Returns MB_OK or MB_NO_MEMORY. */
mb_status mb_json_print_object(const mb_member *const *members, size_t count, mb_arena *arena,
                               mb_text *json);

/* Whether the text is UTF-8 (RFC 3629) without U+0000. */
bool mb_json_is_clean_text(mb_text text);

/* Reads a value's text as an integer of 0 ... MB_MAX_INTEGER; false if it is not written as one. */
bool mb_json_read_integer(mb_text value, int64_t *integer);

#endif
