/* device.c - what kind of request of a device it is, and what is stored about it.
 *
 * mobync/_sync/devices.py decides both: a few comparisons with the stored state, once in a sync. This
 * file calls it, inside the owner's transaction.
 */
#include "binding.h"

bool resets(const sync_state *s)
{
    return s->turn == STARTS_OVER || s->turn == STARTED_OVER;
}

bool keeps_devices(const store *app)
{
    return app->has[READ_DEVICES] && app->has[WRITE_DEVICES];
}

/* Reads an attribute of the turn that is a number of 0 or more. */
static int turn_number(const sync_state *s, const char *name, int64_t *number)
{
    return take_number(PyObject_GetAttrString(s->turn_taken, name), number);
}

/* Finds out what kind of request of a named device it is. It may be only a poll, so the head is
 * read. If the database does not store devices after all, the request is treated as one of a device
 * without a name. */
int admit_device(sync_state *s, const store *app)
{
    if (s->device == NULL)
        return 0;
    const Py_ssize_t count = (Py_ssize_t)s->request.diffs.count;
    const bool is_first_page = s->page.first_clock == s->client_clock;
    const bool may_poll = count == 0 && is_first_page;
    if (may_poll && find_highest_clock(s, app, 0) < 0)
        return -1;
    s->turn_taken = PyObject_CallFunction(
        s->state->admit, "OOOOLOLKnLLL", s->server, app->object, s->owner_id, s->device,
        (long long)s->number, s->mark, (long long)s->client_clock, (unsigned long long)s->content,
        count, may_poll ? (long long)s->highest : HEAD_UNREAD, (long long)s->page.first_clock,
        (long long)s->page.stamp);
    if (s->turn_taken == Py_None) {
        Py_CLEAR(s->turn_taken);
        Py_CLEAR(s->device);
        return 0;
    }
    int64_t kind;
    if (s->turn_taken == NULL || turn_number(s, "kind", &kind) < 0 ||
        turn_number(s, "seen_clock", &s->seen_clock) < 0)
        return -1;
    s->turn = (turn_kind)kind;
    return 0;
}

/* The same for a device without a name, after the window was read: only a device that is behind can
 * be too far behind, and reading the owner's state takes a statement. Without the lock nothing is
 * written: run_pull has made sure that nothing has to be. */
int admit_nameless(sync_state *s, const store *app)
{
    if (s->device != NULL || !keeps_devices(app))
        return 0;
    return take_number(PyObject_CallFunction(
                           s->state->admit_nameless, "OOOLLLLi", s->server, app->object,
                           s->owner_id, (long long)s->client_clock, (long long)s->page.first_clock,
                           (long long)s->page.stamp, (long long)s->highest, s->page.asked),
                       &s->page.stamp);
}

/* Which diffs of the request were excluded, by index: a retry has the same. */
static PyObject *excluded_indexes(const sync_state *s)
{
    PyObject *indexes = PyList_New(0);
    for (size_t i = 0; indexes != NULL && s->refused != NULL && i < s->request.diffs.count; i++) {
        PyObject *index = s->request.diffs.items[i].excluded ? PyLong_FromSize_t(i) : NULL;
        if (index != NULL && PyList_Append(indexes, index) < 0)
            Py_CLEAR(indexes);
        Py_XDECREF(index);
    }
    if (PyErr_Occurred())
        Py_CLEAR(indexes);
    return indexes;
}

/* Makes the store remember what the device's next request, or a retry of this one, must be. */
int keep_turn(sync_state *s)
{
    if (s->device == NULL || s->turn == POLL)
        return 0;
    PyObject *indexes = excluded_indexes(s);
    PyObject *clock = PyLong_FromLongLong(clock_of_device(s));
    PyObject *refused = s->refused == NULL ? Py_None : s->refused;
    if (indexes != NULL && clock != NULL)
        s->new_mark = PyObject_CallMethod(s->turn_taken, "keep", "OOOL", clock, indexes, refused,
                                          (long long)s->highest);
    Py_XDECREF(indexes);
    Py_XDECREF(clock);
    return s->new_mark == NULL ? -1 : 0;
}

/* Makes the store remember from which clock the device needs the log while it pulls in pages. */
int keep_page(sync_state *s)
{
    if (s->device == NULL)
        return 0;
    return take_number(PyObject_CallMethod(s->turn_taken, "keep_page", "L", (long long)s->highest),
                       &s->page.stamp);
}

/* Excludes what the first try of a retry did. */
int exclude_again(sync_state *s)
{
    PyObject *kept = PyObject_GetAttrString(s->turn_taken, "refused");
    PyObject *indexes = NULL, *refused = NULL;
    if (kept == NULL ||
        !PyArg_ParseTuple(kept, "O!O!", &PyList_Type, &indexes, &PyList_Type, &refused)) {
        Py_XDECREF(kept);
        return -1;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(indexes); i++) {
        const size_t index = PyLong_AsSize_t(PyList_GET_ITEM(indexes, i));
        if (index < s->request.diffs.count)
            s->request.diffs.items[index].excluded = true;
    }
    Py_XSETREF(s->refused, Py_NewRef(refused));
    Py_DECREF(kept);
    return PyErr_Occurred() ? -1 : 0;
}

/* Records that a log begins now, so no device without a name can have seen anything of it. */
int begin_log(sync_state *s, const store *app)
{
    if (!keeps_devices(app))
        return 0;
    PyObject *begun =
        PyObject_CallFunctionObjArgs(s->state->begin_log, app->object, s->owner_id, NULL);
    Py_XDECREF(begun);
    return begun == NULL ? -1 : 0;
}
