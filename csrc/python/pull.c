/* pull.c - a request without diffs, answered without the owner's lock.
 *
 * It writes nothing. If the store can read without the lock, first the head is read, and the window
 * only if there is something new. Whatever has to be written all the same, such as that a device was
 * seen, takes the lock: then run_pull() leaves the request to run_sync().
 */
#include "binding.h"

/* Finds out whether the store sees less than the device has seen. Then only a read under the lock
 * can say whether the log has lost it, because a store may be behind for a moment. */
static void compare_with_head(sync_state *s)
{
    s->is_behind = s->highest + 1 < s->client_clock || s->highest + 1 < s->page.first_clock;
}

static int read_head(sync_state *s, const store *app)
{
    if (ask_highest_clock(s, app) < 0)
        return -1;
    compare_with_head(s);
    return 0;
}

/* Here the store sees one moment, so the head and the window belong together. */
static int pull_at_one_moment(sync_state *s, const store *app)
{
    if (read_head(s, app) < 0)
        return -1;
    return s->is_behind ? 0 : sync_in_transaction(s, app);
}

/* Answers a pull from the head alone, or from the window if there is something new. Returns like
 * run_pull. */
static int pull_from(sync_state *s, PyObject *reading)
{
    const bool has_news = s->highest + 1 > s->page.first_clock;
    if (!has_news)
        return !s->is_behind;
    PyObject *moment = PyObject_CallFunction(
        s->state->one_moment, "OOOLLL", s->server->synchronizer, reading, s->owner_id,
        (long long)s->page.first_clock, (long long)s->highest, (long long)s->page.limit);
    if (run_attempts(s, moment, pull_at_one_moment) < 0)
        return -1;
    return !s->is_behind;
}

/* Takes the reference to what a function of devices.py found out: the head, or None if a transaction
 * must find out. Returns 1, 0 for None, or -1 with an exception. */
static int take_head(sync_state *s, PyObject *given)
{
    const bool is_known = given != NULL && given != Py_None;
    if (is_known)
        s->highest = PyLong_AsLongLong(given);
    Py_XDECREF(given);
    return PyErr_Occurred() ? -1 : is_known;
}

/* Answers a poll of a named device, if nothing has to be stored about it. Returns like run_pull. If
 * the database does not store devices after all, the request becomes one of a device without a
 * name. */
static int poll_from(sync_state *s, const store *app)
{
    enum { KEEPS_NONE = -2, NO_POLL = -1 };
    const bool is_first_page = s->page.first_clock == s->client_clock;
    const int is_known = take_head(
        s, PyObject_CallFunction(s->state->poll, "OOOOLOL", s->server, app->object, s->owner_id,
                                 s->device, (long long)s->number, s->mark,
                                 is_first_page ? (long long)s->client_clock : (long long)NO_POLL));
    if (is_known <= 0)
        return is_known;
    if (s->highest == KEEPS_NONE)
        Py_CLEAR(s->device);
    else
        s->turn = POLL;
    return s->device != NULL;
}

/* Whether it may have to be written that a device without a name was seen, which takes the lock.
 * s->highest is the head from the same statement, or HEAD_UNREAD. Returns 1, 0, or -1 with an
 * exception. */
static int must_note(sync_state *s, const store *app)
{
    s->highest = HEAD_UNREAD;
    if (s->device != NULL || !keeps_devices(app))
        return 0;
    const int is_noted =
        take_head(s, PyObject_CallFunctionObjArgs(s->state->poll_nameless, s->server, app->object,
                                                  s->owner_id, NULL));
    return is_noted < 0 ? -1 : !is_noted;
}

/* Whether the log is empty for every device, so nothing has to be recorded about this one. Returns
 * like run_pull. */
static int pull_nothing(sync_state *s, const store *app)
{
    if (read_head(s, app) < 0)
        return -1;
    return s->highest == -1 && s->client_clock == 0 && s->page.first_clock == 0;
}

/* Answers a device without a name, if nothing has to be recorded about it. Returns like run_pull.
 */
static int pull_nameless(sync_state *s, const store *app, PyObject *reading)
{
    const int is_to_note = must_note(s, app);
    if (is_to_note != 0)
        return is_to_note < 0 ? -1 : pull_nothing(s, app);
    if (s->highest != HEAD_UNREAD)
        compare_with_head(s);
    else if (read_head(s, app) < 0)
        return -1;
    return pull_from(s, reading);
}

int run_pull(sync_state *s)
{
    store app;
    if (open_store(s->state, s->server->synchronizer, &app) < 0 || begin_attempt(s) < 0)
        return -1;
    if (!app.has[READING])
        return 0;
    PyObject *name = s->state->optional_names[READING];
    PyObject *reading = call_store(&app, name, NULL, Py_NewRef(s->owner_id));
    if (reading == NULL)
        return -1;
    int answered = 0;
    if (reading != Py_None && s->device != NULL)
        answered = poll_from(s, &app);
    if (reading != Py_None && s->device == NULL)
        answered = pull_nameless(s, &app, reading);
    Py_DECREF(reading);
    return answered;
}
