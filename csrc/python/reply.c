/* reply.c - what the device gets: as a dict for apply(), as JSON for apply_json().
 *
 * The four members that every reply has come first. A request for pages, a named device, or a server
 * that skips refused diffs adds more. Those are few and small, so Python makes their JSON.
 */
#include "binding.h"

mb_outcomes *downstream_of(sync_state *s)
{
    return s->is_restored ? &s->restored_downstream : &s->result.downstream;
}

diff_list *source_of(sync_state *s)
{
    return s->is_restored ? &s->restored : &s->window;
}

int64_t clock_of_device(const sync_state *s)
{
    return resets(s) ? 0 : reply_clock(s);
}

/* Sets an item and takes the reference to it.  Returns 0 or -1. */
static int put(PyObject *dict, const char *key, PyObject *value)
{
    const int result = value == NULL ? -1 : PyDict_SetItemString(dict, key, value);
    Py_XDECREF(value);
    return result;
}

static int put_more(sync_state *s, PyObject *reply)
{
    const bool has_more = s->next_page >= 0;
    if (s->page.asked && put(reply, "more", PyBool_FromLong(has_more)) < 0)
        return -1;
    if (has_more && put(reply, "cursor", write_cursor(s)) < 0)
        return -1;
    if (s->device != NULL &&
        put(reply, "mark", Py_NewRef(s->new_mark != NULL ? s->new_mark : s->mark)) < 0)
        return -1;
    if (resets(s) && put(reply, "reset", Py_NewRef(Py_True)) < 0)
        return -1;
    if (resets(s) && s->seen_clock != s->client_clock &&
        put(reply, "seen_clock", PyLong_FromLongLong(s->seen_clock)) < 0)
        return -1;
    if (s->part > 0 && put(reply, "part", PyLong_FromLongLong(s->part)) < 0)
        return -1;
    if (!s->skips)
        return 0;
    return put(reply, "refused", s->refused != NULL ? Py_NewRef(s->refused) : PyList_New(0));
}

PyObject *make_reply(sync_state *s)
{
    PyObject *reply = PyDict_New();
    if (reply == NULL)
        return NULL;
    if (put(reply, "success", Py_NewRef(Py_True)) < 0 ||
        put(reply, "message", PyUnicode_FromString("")) < 0 ||
        put(reply, "logical_clock", PyLong_FromLongLong(clock_of_device(s))) < 0 ||
        put(reply, "diffs", outcomes_to_list(s->state, downstream_of(s), source_of(s))) < 0 ||
        put_more(s, reply) < 0)
        Py_CLEAR(reply);
    return reply;
}

/* ---- as JSON ------------------------------------------------------------------------------- */

/* Prints the diffs piece by piece, and releases the rows of each piece. So the window and the reply
 * of a large pull are never in memory together. Returns how many bytes were printed. */
static size_t print_diffs(sync_state *s, char *at)
{
    enum { PIECE = 1000 };
    const mb_outcomes *downstream = downstream_of(s);
    diff_list *source = source_of(s);
    size_t size = 0, begin = 0, end;
    do {
        end = downstream->count - begin < PIECE ? downstream->count : begin + PIECE;
        size += mb_reply_put_piece(&source->diffs, downstream, begin, end, clock_of_device(s),
                                   at + size);
        for (; begin < end; begin++)
            forget_texts(source, downstream->items[begin].source);
    } while (begin < downstream->count);
    return size;
}

/* Prints the four members, with room for more after them; `size` is how much is printed. */
static PyObject *print_reply(sync_state *s, size_t room, size_t *size)
{
    const size_t most = mb_reply_most_bytes(&source_of(s)->diffs, downstream_of(s));
    if (most > PY_SSIZE_T_MAX - room)
        return PyErr_NoMemory();
    PyObject *reply = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(most + room));
    if (reply != NULL)
        *size = print_diffs(s, PyBytes_AS_STRING(reply));
    return reply;
}

/* The JSON text of the members that only some replies have: an object, "{}" if there are none. */
static PyObject *print_more(sync_state *s)
{
    PyObject *more = PyDict_New();
    PyObject *text = NULL;
    if (more != NULL && put_more(s, more) == 0)
        text = PyDict_GET_SIZE(more) == 0 ? PyUnicode_FromString("{}")
                                          : PyObject_CallOneArg(s->state->json_dumps, more);
    Py_XDECREF(more);
    return text;
}

PyObject *make_json_reply(sync_state *s)
{
    Py_ssize_t more_size;
    size_t size = 0;
    PyObject *more = print_more(s);
    const char *text = more == NULL ? NULL : PyUnicode_AsUTF8AndSize(more, &more_size);
    PyObject *reply = text == NULL ? NULL : print_reply(s, (size_t)more_size + 2, &size);
    if (reply != NULL && more_size > 2) {
        /* Replaces the bracket after the last member by a comma and the members of the other object. */
        char *at = PyBytes_AS_STRING(reply) + size - 1;
        at[0] = ',';
        at[1] = ' ';
        memcpy(at + 2, text + 1, (size_t)more_size - 1);
        size += (size_t)more_size;
    }
    Py_XDECREF(more);
    if (reply != NULL)
        _PyBytes_Resize(&reply, (Py_ssize_t)size);
    return reply;
}

/* ---- listeners ----------------------------------------------------------------------------- */

int acknowledge(const sync_state *s)
{
    const mb_outcomes *upstream = &s->result.upstream;
    for (size_t i = 0; s->callers != NULL && i < upstream->count; i++) {
        PyObject *clock = PyLong_FromLongLong(s->highest + 1 + (long long)i);
        if (clock == NULL)
            return -1;
        PyObject *caller = PyTuple_GET_ITEM(s->callers, (Py_ssize_t)upstream->items[i].source);
        const int result = PyDict_SetItem(caller, s->state->logical_clock, clock);
        Py_DECREF(clock);
        if (result < 0)
            return -1;
    }
    return 0;
}

/* Whether the request is one of a named device that was done already. */
static bool repeats(const sync_state *s)
{
    return s->turn == RETRY || s->turn == STARTED_OVER;
}

int tell_listeners(sync_state *s)
{
    const bool is_last = s->next_page < 0;
    const Py_ssize_t refused = s->refused == NULL ? 0 : PyList_GET_SIZE(s->refused);
    PyObject *device = s->device == NULL ? Py_None : s->device;
    PyObject *report = Py_BuildValue(
        "(OLnnnnnOOLO)", s->owner_id, (long long)reply_clock(s),
        is_last ? (Py_ssize_t)s->request.diffs.count : 0, (Py_ssize_t)accepted_count(s),
        (Py_ssize_t)downstream_of(s)->count, (Py_ssize_t)s->result.conflicts, is_last ? refused : 0,
        device, resets(s) ? Py_True : Py_False, (long long)s->client_clock,
        repeats(s) ? Py_True : Py_False);
    PyObject *told = report == NULL
                         ? NULL
                         : PyObject_CallMethodOneArg((PyObject *)s->server, s->state->tell, report);
    Py_XDECREF(report);
    Py_XDECREF(told);
    return told == NULL ? -1 : 0;
}
