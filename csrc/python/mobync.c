/* mobync.c - the type that apps use: its settings, and the entry into a sync.
 *
 * mobync.Mobync is this type with checked settings and with everything that is not a sync (adopt,
 * compact, listen). Each method here reads its arguments, runs one sync (sync.c) and returns the
 * result.
 */
#include "binding.h"

#include <structmember.h>
#include <time.h>

/* ---- an object ------------------------------------------------------------------------------ */

/* Takes what mobync.Mobync passes, all of it checked: the synchronizer, the name of its log, the
 * locks of its owners, and the Settings of mobync/_sync/settings.py. */
static int mobync_init(mobync_object *self, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *synchronizer, *log_model, *locks;
    module_state *state = state_of_type(Py_TYPE(self));
    if (self->synchronizer != NULL) /* what a running sync borrows must stay */
        return raise_format(PyExc_RuntimeError, "Mobync.__init__() was called before");
    if (state == NULL || import_package(state) < 0 ||
        !PyArg_ParseTuple(args, "OOO(ndnnnnnnbddbnn):Mobync", &synchronizer, &log_model, &locks,
                          &self->max_clock_skew_ms, &self->lock_timeout_s, &self->max_diffs,
                          &self->max_json_data_bytes, &self->max_depth, &self->max_fields,
                          &self->max_reply_bytes, &self->max_pull_diffs, &self->skips,
                          &self->device_retention_s, &self->first_pull_retention_s,
                          &self->anonymous_devices, &self->max_request_bytes, &self->max_devices) ||
        check_text("diffs_model_name", log_model, &self->log_model) < 0)
        return -1;
    self->noted = PyDict_New();
    if (self->noted == NULL)
        return -1;
    self->diffs_model_name = Py_NewRef(log_model);
    self->locks = Py_NewRef(locks);
    self->synchronizer = Py_NewRef(synchronizer);
    return 0;
}

static int mobync_traverse(mobync_object *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->synchronizer);
    Py_VISIT(self->diffs_model_name);
    Py_VISIT(self->locks);
    Py_VISIT(self->noted);
    return 0;
}

static int mobync_clear(mobync_object *self)
{
    Py_CLEAR(self->synchronizer);
    Py_CLEAR(self->diffs_model_name);
    Py_CLEAR(self->locks);
    Py_CLEAR(self->noted);
    return 0;
}

static void mobync_dealloc(mobync_object *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    mobync_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* ---- syncs --------------------------------------------------------------------------------- */

static int refuse_no_init(void)
{
    return raise_format(PyExc_RuntimeError, "Mobync.__init__() was not called");
}

/* A sync of a Mobync that is ready for one. */
static int open_sync(mobync_object *self, sync_state *s)
{
    *s = (sync_state){.state = state_of_type(Py_TYPE(self)), .server = self, .skips = self->skips};
    s->next_page = s->push_clock = -1;
    s->highest = HEAD_UNREAD;
    return s->state != NULL && self->synchronizer != NULL ? 0 : refuse_no_init();
}

/* Runs a sync that has begun, and calls the listeners. */
static int finish_sync(sync_state *s, in_transaction work)
{
    const bool only_pulls = work == sync_in_transaction && s->request.diffs.count == 0;
    const int pulled = only_pulls ? run_pull(s) : 0;
    if (pulled < 0 || (pulled == 0 && run_sync(s, work) < 0) || acknowledge(s) < 0)
        return -1;
    return tell_listeners(s);
}

PyDoc_STRVAR(
    apply_doc,
    "apply($self, logical_clock, diffs, owner_id, *, limit=None, cursor=None, device=None,\n"
    "      request=None, mark=None, part=None, more_diffs=False, upload=None)\n--\n\n"
    "Merge a device's edits with the edits of its owner's other devices.\n\n"
    "Writes the app's tables and the log. If the Synchronizer has transactions, it writes\n"
    "everything or nothing. The same request may always be sent again. When everything is\n"
    "written, each dict in ``diffs`` that went upstream gets its new ``logical_clock``.\n\n"
    "Args:\n"
    "    logical_clock: the clock of the last reply that the device has applied, 0 before the\n"
    "        first; an int, or its digits as a str.\n"
    "    diffs: a list of dicts: the device's edits, in the order in which it made them.\n"
    "    owner_id: the authenticated owner; everything is stored for this owner, whatever the\n"
    "        diffs say.\n"
    "    limit: about how many diffs the reply may have; the rest comes in further pages\n"
    "        (docs/protocol.md, \"Pages\").\n"
    "    cursor: the ``cursor`` of the last reply, if its ``more`` was True.\n"
    "    device: the name that the device gave itself (docs/protocol.md, \"Named devices\"); a\n"
    "        Synchronizer that does not store devices ignores it.\n"
    "    request: for a named device: how many of its requests with diffs were answered, plus "
    "1.\n"
    "    mark: for a named device: the ``mark`` of the last reply.\n"
    "    part: for a named device that sends a request in parts: the number of this part, from\n"
    "        1 (docs/protocol.md, \"A request in parts\"). The dicts of parts get no new clock.\n"
    "    more_diffs: whether another part follows.\n"
    "    upload: a random text, the same for all parts of a request and for nothing else.\n\n"
    "Returns:\n"
    "    A dict: ``success`` (True), ``message`` (''), the new ``logical_clock``, and the\n"
    "    ``diffs`` that the device must apply. With a limit or a cursor, it also has ``more``,\n"
    "    and the next ``cursor`` if there is more. With on_refusal='skip' it has ``refused``.\n"
    "    For a named device it has ``mark``, and ``reset`` (True) if the device must drop its\n"
    "    rows and pull from 0. For a part it has ``part``, the number of the part; for a part\n"
    "    before the last, nothing else in the dict means anything.\n\n"
    "Raises:\n"
    "    InvalidDiffError: a diff is malformed, or the app's tables refuse it.\n"
    "    UnauthorizedError: a rule of the app refused a diff.\n"
    "    LogicalClockError: the clock is not an int of 0 or more, or it is ahead of the server.\n"
    "    UnknownDeviceError: what a named device says about itself does not match what the\n"
    "        server has stored. The device takes a new name.\n"
    "    PartsMissingError: the last part arrived, but earlier parts are missing.\n"
    "    RequestTooLargeError: the parts together are longer than ``max_request_bytes``.\n"
    "    NoPartsError: the Synchronizer cannot store parts.\n"
    "    DeviceRevokedError: a person has revoked the device, or the owner was erased.\n"
    "    OwnerMovedError: the data of the device belongs to another owner now.\n"
    "    OtherOwnerError: the device has the rows of another owner.\n"
    "    TooManyDevicesError: the device is new, and its owner already has ``max_devices``.\n"
    "    PageError: ``limit`` or ``cursor`` is not valid, or the reply is too large for one\n"
    "        page.\n"
    "    BusyError: another sync of this owner took too long.\n"
    "    TypeError, ValueError: ``owner_id`` is not text, or a method of the Synchronizer\n"
    "        returned a wrong value.\n");

/* A part of a request, as dicts: what keeps parts takes JSON. */
static PyObject *apply_part(mobync_object *self, module_state *state, PyObject *owner_id,
                            PyObject *diffs, const request_head *head)
{
    return PyObject_CallFunctionObjArgs(state->apply_part, (PyObject *)self, owner_id, head->clock,
                                        diffs, head->limit, head->cursor, head->device,
                                        head->number, head->mark, head->part, head->more_diffs,
                                        head->upload, NULL);
}

static PyObject *mobync_apply(mobync_object *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"logical_clock", "diffs", "owner_id", "limit",      "cursor", "device",
                            "request",       "mark",  "part",     "more_diffs", "upload", NULL};
    PyObject *diffs, *owner_id, *reply = NULL;
    request_head head = {
        {NULL, Py_None, Py_None, Py_None, Py_None, Py_None, Py_None, Py_None, Py_None}};
    sync_state s;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO|$OOOOOOOO:apply", names, &head.clock,
                                     &diffs, &owner_id, &head.limit, &head.cursor, &head.device,
                                     &head.number, &head.mark, &head.part, &head.more_diffs,
                                     &head.upload) ||
        open_sync(self, &s) < 0)
        return NULL;
    if (head.part != Py_None)
        return apply_part(self, s.state, owner_id, diffs, &head);
    if (begin_sync(&s, diffs, owner_id, &head) == 0 && finish_sync(&s, sync_in_transaction) == 0)
        reply = make_reply(&s);
    end_sync(&s);
    return reply;
}

PyDoc_STRVAR(
    apply_json_doc,
    "apply_json($self, body, owner_id)\n--\n\n"
    "Do what apply() does, from the body of a request to the body of the reply.\n\n"
    "Only what is passed to the Synchronizer becomes a Python object.\n\n"
    "Args:\n"
    "    body: the request as JSON, str or bytes: an object with ``logical_clock`` and ``diffs``.\n"
    "        It may also have the other arguments of apply(), from ``limit`` to ``upload``.\n"
    "        Other members are for the app.\n"
    "    owner_id: the authenticated owner.\n\n"
    "Returns:\n"
    "    The reply as JSON: bytes of UTF-8.\n\n"
    "Raises:\n"
    "    InvalidDiffError: the body, or a diff in it, is malformed.\n"
    "    TypeError: ``body`` is neither str nor bytes.\n"
    "    The other exceptions of apply().\n");

/* Applies a body; of a part of a request gives what take_part() needs instead, for the caller. */
static PyObject *apply_body(mobync_object *self, PyObject *body, PyObject *owner_id, bool is_whole,
                            PyObject **part_said)
{
    PyObject *reply = NULL;
    sync_state s;
    if (open_sync(self, &s) < 0)
        return NULL;
    s.is_whole = is_whole;
    if (begin_json_sync(&s, body, owner_id) == 0) {
        *part_said = Py_XNewRef(s.part_said);
        if (s.part_said == NULL && finish_sync(&s, sync_in_transaction) == 0)
            reply = make_json_reply(&s);
    }
    end_sync(&s);
    return reply;
}

/* Keeps a part of a request; with the last one, applies the whole.  Takes the reference. */
static PyObject *apply_parts(mobync_object *self, PyObject *owner_id, PyObject *part_said)
{
    module_state *state = state_of_type(Py_TYPE(self));
    PyObject *nothing = NULL, *reply = NULL, *whole = NULL;
    PyObject *taken = PyObject_CallObject(state->take_part, part_said);
    Py_DECREF(part_said);
    if (taken != NULL && PyArg_ParseTuple(taken, "OO", &reply, &whole))
        reply =
            reply != Py_None ? Py_NewRef(reply) : apply_body(self, whole, owner_id, true, &nothing);
    else
        reply = NULL;
    Py_XDECREF(taken);
    return reply;
}

static PyObject *mobync_apply_json(mobync_object *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"body", "owner_id", NULL};
    PyObject *body, *owner_id, *part_said = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:apply_json", names, &body, &owner_id))
        return NULL;
    PyObject *reply = apply_body(self, body, owner_id, false, &part_said);
    return part_said == NULL ? reply : apply_parts(self, owner_id, part_said);
}

PyDoc_STRVAR(push_doc, "_push_diffs($self, diffs, owner_id, clock=-1, /)\n--\n\n"
                       "Make the backend's own edits, given as diffs; return the owner's clock.\n\n"
                       "Raises LogicalClockError if ``clock`` is not the clock before, unless -1.");

static PyObject *mobync_push(mobync_object *self, PyObject *args)
{
    PyObject *diffs, *owner_id, *clock = NULL;
    long long push_clock = -1;
    sync_state s;
    if (!PyArg_ParseTuple(args, "OO|L:_push_diffs", &diffs, &owner_id, &push_clock) ||
        open_sync(self, &s) < 0)
        return NULL;
    s.push_clock = push_clock;
    if (begin_push(&s, diffs, owner_id) == 0 && finish_sync(&s, push_in_transaction) == 0)
        clock = PyLong_FromLongLong(reply_clock(&s));
    end_sync(&s);
    return clock;
}

PyDoc_STRVAR(validate_doc, "validate($self, diff, owner_id)\n--\n\n"
                           "Check one diff as apply() would: its form, then the app's rule.\n\n"
                           "Args:\n"
                           "    diff: the diff as a device would send it: a dict.\n"
                           "    owner_id: the authenticated owner.\n\n"
                           "Returns:\n"
                           "    True.\n\n"
                           "Raises:\n"
                           "    InvalidDiffError: the diff is malformed.\n"
                           "    UnauthorizedError: the rule refused it.\n");

static PyObject *mobync_validate(mobync_object *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"diff", "owner_id", NULL};
    PyObject *diff, *owner_id, *answer = NULL;
    sync_state s;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:validate", names, &diff, &owner_id) ||
        open_sync(self, &s) < 0)
        return NULL;
    store app;
    PyObject *diffs = PyTuple_Pack(1, diff);
    if (diffs != NULL && begin_push(&s, diffs, owner_id) == 0 &&
        open_store(s.state, self->synchronizer, &app) == 0 && check_rule(&s, &app, 0) == 0)
        answer = Py_NewRef(Py_True);
    Py_XDECREF(diffs);
    end_sync(&s);
    return answer;
}

PyDoc_STRVAR(logical_clock_doc,
             "logical_clock($self, owner_id)\n--\n\n"
             "The clock that a reply to this owner would have now: the log's highest plus one.\n\n"
             "Reads outside of any transaction of mobync.\n\n"
             "Args:\n"
             "    owner_id: the owner of the log.\n\n"
             "Raises:\n"
             "    TypeError, ValueError: ``owner_id`` is not text, or the Synchronizer returned\n"
             "        a wrong value.\n");

static PyObject *mobync_logical_clock(mobync_object *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"owner_id", NULL};
    PyObject *owner_id, *clock = NULL;
    store app;
    sync_state s;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:logical_clock", names, &owner_id) ||
        open_sync(self, &s) < 0)
        return NULL;
    if (take_owner(&s, owner_id) == 0 && begin_attempt(&s) == 0 &&
        open_store(s.state, self->synchronizer, &app) == 0 && find_highest_clock(&s, &app, 0) == 0)
        clock = PyLong_FromLongLong(s.highest + 1);
    end_sync(&s);
    return clock;
}

/* ---- the type ------------------------------------------------------------------------------ */

PyDoc_STRVAR(now_ms_doc, "_now_ms($self, /)\n--\n\n"
                         "The server's time: milliseconds since 1970.");

static PyObject *mobync_now_ms(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(ignored))
{
    struct timespec now;
    if (timespec_get(&now, TIME_UTC) != TIME_UTC) {
        raise_format(PyExc_OSError, "the system has no clock");
        return NULL;
    }
    return PyLong_FromLongLong((long long)now.tv_sec * 1000 + now.tv_nsec / 1000000);
}

static PyObject *mobync_synchronizer(mobync_object *self, void *Py_UNUSED(closure))
{
    if (self->synchronizer == NULL)
        refuse_no_init();
    return Py_XNewRef(self->synchronizer);
}

static PyObject *mobync_on_refusal(mobync_object *self, void *Py_UNUSED(closure))
{
    return PyUnicode_FromString(self->skips ? "skip" : "raise");
}

#define KEYWORDS(function) (PyCFunction)(void (*)(void))(function), METH_VARARGS | METH_KEYWORDS

static PyMethodDef mobync_methods[] = {
    {"apply", KEYWORDS(mobync_apply), apply_doc},
    {"apply_json", KEYWORDS(mobync_apply_json), apply_json_doc},
    {"validate", KEYWORDS(mobync_validate), validate_doc},
    {"logical_clock", KEYWORDS(mobync_logical_clock), logical_clock_doc},
    {"_push_diffs", (PyCFunction)mobync_push, METH_VARARGS, push_doc},
    {"_now_ms", mobync_now_ms, METH_NOARGS, now_ms_doc},
    {NULL, NULL, 0, NULL},
};

#define SETTING(name, type)                                                                        \
    {                                                                                              \
#name, type, offsetof(mobync_object, name), READONLY, NULL                                 \
    }

static PyMemberDef mobync_members[] = {
    SETTING(diffs_model_name, T_OBJECT_EX),
    SETTING(max_clock_skew_ms, T_PYSSIZET),
    SETTING(lock_timeout_s, T_DOUBLE),
    SETTING(max_diffs, T_PYSSIZET),
    SETTING(max_json_data_bytes, T_PYSSIZET),
    SETTING(max_depth, T_PYSSIZET),
    SETTING(max_fields, T_PYSSIZET),
    SETTING(max_reply_bytes, T_PYSSIZET),
    SETTING(max_pull_diffs, T_PYSSIZET),
    SETTING(max_request_bytes, T_PYSSIZET),
    SETTING(device_retention_s, T_DOUBLE),
    SETTING(first_pull_retention_s, T_DOUBLE),
    SETTING(max_devices, T_PYSSIZET),
    SETTING(anonymous_devices, T_BOOL),
    {"_noted", T_OBJECT_EX, offsetof(mobync_object, noted), READONLY, NULL},
    {"_locks", T_OBJECT_EX, offsetof(mobync_object, locks), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef mobync_attributes[] = {
    {"synchronizer", (getter)mobync_synchronizer, NULL, NULL, NULL},
    {"on_refusal", (getter)mobync_on_refusal, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot mobync_slots[] = {
    {Py_tp_doc, "Mobync(synchronizer, diffs_model_name, locks, settings, /)\n--\n\n"
                "The base of mobync.Mobync, which apps use."},
    {Py_tp_init, SLOT_FUNCTION(mobync_init)},
    {Py_tp_traverse, SLOT_FUNCTION(mobync_traverse)},
    {Py_tp_clear, SLOT_FUNCTION(mobync_clear)},
    {Py_tp_dealloc, SLOT_FUNCTION(mobync_dealloc)},
    {Py_tp_methods, mobync_methods},
    {Py_tp_members, mobync_members},
    {Py_tp_getset, mobync_attributes},
    {0, NULL},
};

PyType_Spec mobync_spec = {
    .name = "mobync._core.Mobync",
    .basicsize = sizeof(mobync_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = mobync_slots,
};
