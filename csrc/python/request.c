/* request.c - one sync request: its diffs, its clock, its page.
 *
 * Everything that a caller passes is copied before any code of the app runs, so nothing that
 * happens later can change what the merge sees. A diff that breaks a rule refuses the request, and
 * the error says which diff. If the server skips, a diff that can be told from the others is kept
 * as malformed instead, and refused alone.
 */
#include "binding.h"

#include "../core/text.h"

#include <errno.h>

enum {
    GIL_FREE_BYTES = 16 * 1024, /* a body that takes longer to read than a thread switch */
    EXTRA_BYTES = 64 * 1024,    /* of a diff, beyond its seven fields */
    EXTRA_DEPTH = 64,
};

static mb_request_rules rules_of(const sync_state *s)
{
    const mobync_object *server = s->server;
    return (mb_request_rules){
        .reserved = reserved_keys,
        .log_model = server->log_model,
        .diffs = s->is_whole ? SIZE_MAX : (size_t)server->max_diffs,
        .json_data_bytes = (size_t)server->max_json_data_bytes,
        .depth = (size_t)server->max_depth,
        .fields = (size_t)server->max_fields,
        .extra_bytes = EXTRA_BYTES,
        .extra_depth = EXTRA_DEPTH,
    };
}

static int make_notes(sync_state *s, size_t count)
{
    s->notes = PyMem_Calloc(count, sizeof *s->notes);
    return s->notes == NULL ? check_memory(MB_NO_MEMORY) : 0;
}

/* Keeps what mb_diffs_limit_skew may change. */
static void note_timestamps(sync_state *s)
{
    for (size_t i = 0; i < s->request.diffs.count; i++)
        s->notes[i].sent_timestamp = s->request.diffs.items[i].utc_timestamp;
}

/* ---- diffs as dicts ------------------------------------------------------------------------ */

static int read_request_diff(sync_state *s, Py_ssize_t index, const mb_request_rules *rules)
{
    PyObject *caller = PyTuple_GET_ITEM(s->callers, index);
    if (!PyDict_Check(caller))
        return raise_invalid(s->state, index, NULL, "a diff must be a dict, not %.100s",
                             Py_TYPE(caller)->tp_name);
    return read_diff(s->state, caller, index, rules, s->arena, &s->request, &s->notes[index].sent);
}

/* Keeps a diff that is refused alone, and the exception that is set. */
static int keep_malformed(sync_state *s, Py_ssize_t index)
{
    if (!s->skips || !PyErr_ExceptionMatches(s->state->invalid_diff_error))
        return -1;
    mb_error error;
    mb_refuse(&error, MB_NOT_AN_OBJECT, NULL); /* the exception knows better */
    s->notes[index].malformed = take_exception();
    return check_memory(mb_keep_malformed(&s->request.diffs.items[index], &error, s->arena));
}

static int refuse_too_many(sync_state *s, const mb_request_rules *rules)
{
    mb_error error;
    mb_refuse(&error, MB_TOO_MANY_DIFFS, "diffs");
    error.limit = &rules->diffs;
    return raise_status(s->state, MB_INVALID, SIZE_MAX, &error);
}

static int read_diffs(sync_state *s, PyObject *diffs, const mb_request_rules *rules)
{
    if (!PyList_Check(diffs) && !PyTuple_Check(diffs))
        return raise_invalid(s->state, -1, NULL, "diffs must be a list, not %.100s",
                             Py_TYPE(diffs)->tp_name);
    s->callers = snapshot(diffs);
    if (s->callers == NULL)
        return -1;
    const Py_ssize_t count = PyTuple_GET_SIZE(s->callers);
    if (diff_list_new(&s->request, count) < 0 || make_notes(s, (size_t)count) < 0)
        return -1;
    for (Py_ssize_t i = 0; i < count; i++) {
        if ((size_t)i == rules->diffs)
            return refuse_too_many(s, rules);
        if (read_request_diff(s, i, rules) < 0 && keep_malformed(s, i) < 0)
            return -1;
    }
    note_timestamps(s);
    return 0;
}

/* ---- a body as JSON ------------------------------------------------------------------------ */

/* Reads a body; without the GIL where that takes long and the bytes cannot change meanwhile. */
static mb_status read_body(sync_state *s, mb_text body, bool keep_malformed,
                           const mb_request_rules *rules, mb_request *request, size_t *index,
                           mb_error *error)
{
    if (body.size < GIL_FREE_BYTES)
        return mb_request_read(body, rules, keep_malformed, s->arena, request, index, error);
    mb_status status;
    Py_BEGIN_ALLOW_THREADS;
    status = mb_request_read(body, rules, keep_malformed, s->arena, request, index, error);
    Py_END_ALLOW_THREADS;
    return status;
}

/* Reads a body that was refused for a diff once more: of a request in parts the diffs are checked when
 * all have come, so that the place of one is its place among all of them. */
static mb_status read_part_anyway(sync_state *s, mb_text body, const mb_request_rules *rules,
                                  mb_request *request)
{
    size_t index;
    mb_error error;
    if (s->skips || s->is_whole)
        return MB_INVALID;
    const mb_status status = read_body(s, body, true, rules, request, &index, &error);
    const bool is_part = status == MB_OK && request->part.at != NULL && request->device.at != NULL;
    return status == MB_OK && !is_part ? MB_INVALID : status;
}

/* A member of the body as the caller of apply would give it: text or None. */
static PyObject *member_or_none(mb_text text)
{
    return text.at == NULL ? Py_NewRef(Py_None) : text_to_str(text);
}

static int read_json_diffs(sync_state *s, PyObject *body, const mb_request_rules *rules,
                           mb_request *request)
{
    mb_text text = {NULL, 0};
    size_t index;
    mb_error error;
    s->request.json = Py_NewRef(body);
    if (borrow_json(s->state, body, &text) < 0)
        return -1;
    mb_status status = read_body(s, text, s->skips, rules, request, &index, &error);
    if (status == MB_INVALID && index != SIZE_MAX)
        status = read_part_anyway(s, text, rules, request);
    if (status != MB_OK)
        return raise_status(s->state, status, index, &error);
    s->request.objects = PyMem_Calloc(request->diffs.count, sizeof *s->request.objects);
    if (s->request.objects == NULL)
        return check_memory(MB_NO_MEMORY);
    s->request.diffs = request->diffs;
    if (make_notes(s, request->diffs.count) < 0)
        return -1;
    note_timestamps(s);
    return 0;
}

/* ---- clock and page ------------------------------------------------------------------------ */

static bool is_digits(mb_text text)
{
    for (size_t i = 0; i < text.size; i++)
        if (text.at[i] < '0' || text.at[i] > '9')
            return false;
    return text.size != 0;
}

enum { NO_COUNT = -2, NEGATIVE = -1 };

/* An int, or its digits as text: from 0 to INT64_MAX, which also stands for all larger numbers;
 * otherwise one of the two above. */
static int64_t read_count(PyObject *value)
{
    if (PyUnicode_Check(value)) {
        mb_text text = {"", 0};
        if (borrow_text(value, &text) < 0)
            PyErr_Clear(); /* a lone surrogate */
        const bool minus = text.size != 0 && text.at[0] == '-';
        if (!is_digits((mb_text){text.at + minus, text.size - minus}))
            return NO_COUNT;
        const long long count = strtoll(text.at + minus, NULL, 10);
        return minus && count != 0 ? NEGATIVE : count;
    }
    if (!PyLong_Check(value) || PyBool_Check(value))
        return NO_COUNT;
    int overflow = 0;
    const long long count = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow != 0)
        return overflow > 0 ? INT64_MAX : NEGATIVE;
    return count < 0 ? NEGATIVE : count;
}

static int read_clock(sync_state *s, PyObject *clock)
{
    module_state *state = s->state;
    s->client_clock = read_count(clock);
    if (s->client_clock == NO_COUNT)
        return raise_shown(state, state->logical_clock_error,
                           "logical_clock must be an int, not %S", clock);
    if (s->client_clock < 0 || s->client_clock > MB_MAX_INTEGER)
        return raise_format(state->logical_clock_error,
                            "logical_clock must be from 0 to 2**53 - 1");
    return 0;
}

static int read_limit(sync_state *s, PyObject *limit)
{
    if (limit == Py_None)
        return 0;
    enum { LONGEST = 100 /* characters of a limit as text */ };
    const bool is_long = PyUnicode_Check(limit) && PyUnicode_GET_LENGTH(limit) > LONGEST;
    const int64_t count = is_long ? NO_COUNT : read_count(limit);
    if (count < 1)
        return raise_shown(s->state, s->state->page_error,
                           "limit must be an int of 1 or more, not %S", limit);
    s->page.asked = true;
    s->page.limit = count < MB_MAX_INTEGER ? count : MB_MAX_INTEGER;
    return 0;
}

/* A stamp of 0 is left out. */
static PyObject *format_cursor(const sync_state *s, int64_t first_clock)
{
    char text[5 * 20 + 5], stamp[20 + 2] = "";
    if (s->page.stamp > 0)
        PyOS_snprintf(stamp, sizeof stamp, "%lld.", (long long)s->page.stamp);
    PyOS_snprintf(text, sizeof text, "%lld.%lld.%lld.%s%llx", (long long)first_clock,
                  (long long)s->client_clock, (long long)s->page.pull_clock, stamp,
                  (unsigned long long)mb_request_fingerprint(&s->request.diffs));
    return PyUnicode_FromString(text);
}

PyObject *write_cursor(const sync_state *s)
{
    return format_cursor(s, s->next_page);
}

/* Whether a cursor comes from a reply to this request. Returns 1, 0, or -1 with an error. */
static int is_own_cursor(const sync_state *s, PyObject *cursor)
{
    PyObject *own = format_cursor(s, s->page.first_clock);
    const int same = own == NULL ? -1 : PyUnicode_Compare(own, cursor) == 0;
    Py_XDECREF(own);
    return same;
}

/* Reads a number with a dot after it, and skips both. */
static bool read_part(const char **at, int64_t *number)
{
    char *end;
    errno = 0;
    *number = strtoll(*at, &end, 10);
    if (end == *at || *end != '.' || errno != 0 || *number < 0 || *number > MB_MAX_INTEGER)
        return false;
    *at = end + 1;
    return true;
}

/* A cursor says where its page begins, which request got it, where the pull began, and the stamp by
 * which devices.py knows it. */
static int read_cursor(sync_state *s, PyObject *cursor)
{
    int64_t first, client, pull, stamp = 0;
    if (cursor == Py_None)
        return 0;
    if (!PyUnicode_Check(cursor))
        return raise_format(s->state->page_error, "cursor must be a str, not %.100s",
                            Py_TYPE(cursor)->tp_name);
    Py_ssize_t size;
    const char *text = PyUnicode_AsUTF8AndSize(cursor, &size);
    const char *end = text + (text == NULL ? 0 : size);
    if (text == NULL)
        PyErr_Clear(); /* a lone surrogate */
    if (text == NULL || !read_part(&text, &first) || !read_part(&text, &client) ||
        !read_part(&text, &pull))
        return raise_format(s->state->page_error, "cursor does not come from a reply");
    if (memchr(text, '.', (size_t)(end - text)) != NULL && !read_part(&text, &stamp))
        return raise_format(s->state->page_error, "cursor does not come from a reply");
    s->page = (page){true, s->page.limit, first, pull, stamp};
    s->pull_clock = pull;
    s->stamp = stamp;
    const int own = is_own_cursor(s, cursor);
    if (own == 0)
        raise_format(s->state->page_error,
                     "cursor belongs to a request with another logical_clock or other diffs: "
                     "send those again, and keep later edits for the next sync");
    return own == 1 ? 0 : -1;
}

static int read_page(sync_state *s, PyObject *limit, PyObject *cursor)
{
    s->page.first_clock = s->client_clock;
    s->pull_clock = -1;
    if (read_limit(s, limit) < 0 || read_cursor(s, cursor) < 0)
        return -1;
    const int64_t most = s->server->max_pull_diffs;
    if (s->page.asked && (s->page.limit == 0 || s->page.limit > most))
        s->page.limit = most;
    return 0;
}

/* ---- the device ---------------------------------------------------------------------------- */

enum { LONGEST_NAME = 255 /* characters of a device's name, and of a mark */ };

/* Whether a value is text that a database can store, and short enough for a name. */
static bool is_name(PyObject *value)
{
    if (!PyUnicode_Check(value) || PyUnicode_GET_LENGTH(value) > LONGEST_NAME)
        return false;
    Py_ssize_t size;
    const char *at = PyUnicode_AsUTF8AndSize(value, &size);
    if (at == NULL)
        PyErr_Clear(); /* a lone surrogate */
    return at != NULL && size > 0 && strlen(at) == (size_t)size;
}

/* Reads what a device says about itself. It is ignored if the store does not store devices. */
static int read_device(sync_state *s, const request_head *head)
{
    if (head->device == Py_None && !s->server->anonymous_devices)
        return raise_invalid(
            s->state, -1, NULL,
            "device is missing: this server accepts only devices that name themselves");
    if (head->device == Py_None)
        return 0;
    const int kept = has_own(s->state, s->server->synchronizer, READ_DEVICES);
    if (kept <= 0)
        return kept;
    if (!is_name(head->device))
        return raise_invalid(s->state, -1, NULL, "device must be a text of 1 to 255 characters");
    if (head->mark != Py_None && !is_name(head->mark))
        return raise_invalid(s->state, -1, NULL, "mark does not come from a reply");
    s->number = read_count(head->number);
    if (s->number < 1 || s->number > MB_MAX_INTEGER)
        return raise_invalid(
            s->state, -1, NULL,
            "request must be an int from 1 to 2**53 - 1, because there is a device");
    s->device = Py_NewRef(head->device);
    s->mark = Py_NewRef(head->mark);
    s->content = mb_request_content(&s->request.diffs); /* before skew is taken out of it */
    return 0;
}

/* ---- a request in parts -------------------------------------------------------------------- */

enum { MOST_PARTS = 1000 };

/* Reads whether more parts follow, from a bool or its text in JSON.  Returns 1, 0 or -1. */
static int read_more(sync_state *s, PyObject *more)
{
    if (more == Py_None || more == Py_False || more == Py_True)
        return more == Py_True;
    const bool is_text = PyUnicode_Check(more);
    if (is_text && PyUnicode_CompareWithASCIIString(more, "true") == 0)
        return 1;
    if (is_text && PyUnicode_CompareWithASCIIString(more, "false") == 0)
        return 0;
    return raise_invalid(s->state, -1, NULL, "more_diffs must be true or false");
}

/* Finds out whether a request is a part of one, and which.  Only a device that names itself has parts;
 * in the request of another the members are the app's own business. */
static int read_part_number(sync_state *s, const request_head *head)
{
    if (head->device == Py_None || head->part == Py_None)
        return 0;
    s->part = read_count(head->part);
    if (s->part < 1 || s->part > MOST_PARTS)
        return raise_invalid(s->state, -1, NULL, "part must be an int of 1 to %d", MOST_PARTS);
    if (head->upload != Py_None && !is_name(head->upload))
        return raise_invalid(s->state, -1, NULL, "upload must be a text of 1 to 255 characters");
    return 0;
}

/* Keeps what a part says for take_part(). */
static int note_part(sync_state *s, const request_head *head, mb_text diffs)
{
    const int more = read_more(s, head->more_diffs);
    if (more < 0 || read_clock(s, head->clock) < 0 || read_device(s, head) < 0)
        return -1;
    PyObject *device = s->device == NULL ? Py_None : s->device;
    PyObject *text = text_to_str(diffs);
    if (text == NULL)
        return -1;
    s->part_said =
        Py_BuildValue("(OOOLOLOOLOON)", s->server, s->owner_id, device, (long long)s->number,
                      head->mark, (long long)s->client_clock, head->limit, head->cursor,
                      (long long)s->part, more ? Py_True : Py_False, head->upload, text);
    return s->part_said == NULL ? -1 : 0;
}

/* ---- the whole ----------------------------------------------------------------------------- */

int check_text(const char *name, PyObject *text, mb_text *utf8)
{
    if (!PyUnicode_Check(text))
        return raise_format(PyExc_TypeError, "%s must be a str, not %.100s", name,
                            Py_TYPE(text)->tp_name);
    if (borrow_text(text, utf8) < 0)
        return -1;
    if (utf8->size == 0 || memchr(utf8->at, '\0', utf8->size) != NULL)
        return raise_format(PyExc_ValueError, "%s must be text that is not empty and has no U+0000",
                            name);
    return 0;
}

int take_owner(sync_state *s, PyObject *owner_id)
{
    s->owner_id = owner_id;
    return check_text("owner_id", owner_id, &s->owner) < 0 ? -1 : take_arena(s->state, &s->arena);
}

static int link_objects(sync_state *s)
{
    if (!s->skips)
        return 0;
    return check_memory(mb_link_objects(s->arena, &s->request.diffs));
}

static int read_head(sync_state *s, const request_head *head, mb_text diffs)
{
    if (read_part_number(s, head) < 0)
        return -1;
    if (s->part > 0 && !s->is_whole)
        return note_part(s, head, diffs);
    if (read_clock(s, head->clock) < 0 || read_page(s, head->limit, head->cursor) < 0 ||
        read_device(s, head) < 0)
        return -1;
    return link_objects(s);
}

int begin_sync(sync_state *s, PyObject *diffs, PyObject *owner_id, const request_head *head)
{
    const mb_request_rules rules = rules_of(s);
    if (take_owner(s, owner_id) < 0 || read_diffs(s, diffs, &rules) < 0)
        return -1;
    return read_head(s, head, (mb_text){NULL, 0});
}

int begin_push(sync_state *s, PyObject *diffs, PyObject *owner_id)
{
    const mb_request_rules rules = rules_of(s);
    s->skips = false;
    return take_owner(s, owner_id) < 0 ? -1 : read_diffs(s, diffs, &rules);
}

int begin_merge(sync_state *s, PyObject *diffs, const char *log_model)
{
    const mb_request_rules rules = {
        .reserved = reserved_keys,
        .log_model = {log_model, log_model == NULL ? 0 : strlen(log_model)},
        .diffs = SIZE_MAX,
        .json_data_bytes = SIZE_MAX,
        .fields = SIZE_MAX,
        .depth = SIZE_MAX,
    };
    return take_arena(s->state, &s->arena) < 0 ? -1 : read_diffs(s, diffs, &rules);
}

int begin_json_sync(sync_state *s, PyObject *body, PyObject *owner_id)
{
    const mb_request_rules rules = rules_of(s);
    mb_request request;
    if (take_owner(s, owner_id) < 0 || read_json_diffs(s, body, &rules, &request) < 0)
        return -1;
    const mb_text texts[HEAD_MEMBERS] = {request.logical_clock, request.limit,      request.cursor,
                                         request.device,        request.number,     request.mark,
                                         request.part,          request.more_diffs, request.upload};
    request_head head = {{NULL}};
    int result = 0;
    for (int i = 0; i < HEAD_MEMBERS && result == 0; i++) {
        head.members[i] = member_or_none(texts[i]);
        result = head.members[i] == NULL ? -1 : 0;
    }
    if (result == 0)
        result = read_head(s, &head, request.diffs_text);
    for (int i = 0; i < HEAD_MEMBERS; i++)
        Py_XDECREF(head.members[i]);
    return result;
}

void end_sync(sync_state *s)
{
    for (size_t i = 0; s->notes != NULL && i < s->request.diffs.count; i++) {
        Py_XDECREF(s->notes[i].sent);
        Py_XDECREF(s->notes[i].malformed);
        Py_XDECREF(s->notes[i].misfit);
    }
    PyMem_Free(s->notes);
    Py_XDECREF(s->callers);
    Py_XDECREF(s->device);
    Py_XDECREF(s->mark);
    Py_XDECREF(s->part_said);
    diff_list_clear(&s->request);
    forget_attempt(s);
    give_back_arena(s->state, s->retried);
    give_back_arena(s->state, s->arena);
}
