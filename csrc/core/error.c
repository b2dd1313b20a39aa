/* error.c - the message for each rule that a diff can break.
 *
 * Diffs come as JSON, which the core reads, and as objects of a language, which its binding reads.
 * Both refuse the same things, so the messages are in one table that both use.
 *
 * Does not: know where in a text the mistake is, or why a text is not JSON; json.c knows that.
 */
#include "error.h"

#define OTHER_OBJECT "is already the id of a diff of another object in the log"

const mb_error mb_other_object = {
    .code = MB_OTHER_OBJECT, .field = "id", .reason = OTHER_OBJECT, .of_whole_field = true};

static const char *const reasons[MB_CODES] = {
    [MB_LONE_SURROGATE] = "has a lone surrogate",
    [MB_ZERO_CHARACTER] = "U+0000 cannot be stored",
    [MB_NOT_AN_OBJECT] = "a diff must be a JSON object",
    [MB_MISSING] = "is missing",
    [MB_NOT_A_STRING] = "must be a string",
    [MB_NOT_AN_INTEGER] = "must be an integer from 0 to 9007199254740991",
    [MB_NOT_A_TYPE] = "must be \"create\", \"update\" or \"delete\"",
    [MB_EMPTY] = "must not be empty",
    [MB_TOO_LONG] = "is longer than 256 MiB",
    [MB_NOT_UTF8] = "must be UTF-8 without U+0000",
    [MB_NO_OBJECT_ID] = "has no \"id\"",
    [MB_BAD_OBJECT_ID] = "\"id\" must be a string that is not empty",
    [MB_OTHER_OBJECT] = OTHER_OBJECT,
    [MB_LOG_MODEL] = "must not be the log itself",
    [MB_RESERVED_KEY] = "may not be a key of a diff",
    [MB_TOO_MANY_DIFFS] = "are too many for one request",
    [MB_TOO_MANY_BYTES] = "has too many bytes",
    [MB_TOO_MANY_FIELDS] = "has too many fields",
    [MB_TOO_DEEP] = "is nested too many levels deep",
    [MB_TOO_MANY_EXTRA_BYTES] = "has too many bytes beyond the seven fields",
    [MB_EXTRA_TOO_DEEP] = "is nested too many levels deep beyond the seven fields",
};

mb_status mb_refuse(mb_error *error, mb_code code, const char *field)
{
    *error =
        (mb_error){.code = code, .field = field, .reason = reasons[code], .of_whole_field = true};
    return MB_INVALID;
}

mb_status mb_refuse_at(mb_error *error, mb_code code, const char *field, size_t offset)
{
    *error = (mb_error){.code = code, .field = field, .reason = reasons[code], .offset = offset};
    return MB_INVALID;
}

mb_status mb_refuse_over(mb_error *error, mb_code code, const char *field, const size_t *limit)
{
    mb_refuse(error, code, field);
    error->limit = limit;
    return MB_INVALID;
}
