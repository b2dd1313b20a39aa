/* mobync.c - the type that apps use: its settings, and the entry into a sync.
 *
 * mobync.Mobync is this type with documentation and with everything that is not a sync (adopt,
 * compact, listen). Each method here reads its arguments, runs one sync (sync.c) and returns the
 * result.
 */
#include "binding.h"

#include <structmember.h>
#include <time.h>

/* ---- settings ------------------------------------------------------------------------------ */

enum { MOST_DEPTH = 1000 /* what cJSON is built for */ };

/* A setting that is a count; without an argument the old value stays. */
static int check_count(const char *name, PyObject *given, Py_ssize_t most, Py_ssize_t *count)
{
    if (given == NULL)
        return 0;
    if (!PyLong_Check(given) || PyBool_Check(given))
        return raise_format(PyExc_TypeError, "%s must be an int, not %.100s", name,
                            Py_TYPE(given)->tp_name);
    *count = PyLong_AsSsize_t(given);
    if (*count < 0 || *count > most)
        return raise_format(PyExc_ValueError, "%s must be of 0 to %zd", name, most);
    return 0;
}

static int check_seconds(const char *name, PyObject *given, double *seconds)
{
    if (given == NULL)
        return 0;
    if ((!PyFloat_Check(given) && !PyLong_Check(given)) || PyBool_Check(given))
        return raise_format(PyExc_TypeError, "%s must be a number (seconds)", name);
    *seconds = PyFloat_AsDouble(given);
    if (!(*seconds >= 0 && *seconds <= (double)PY_TIMEOUT_MAX / 1e6))
        return raise_format(PyExc_ValueError, "%s must be finite and not negative", name);
    return 0;
}

static int check_anonymous(PyObject *given, bool *refuses)
{
    if (given == NULL)
        return 0;
    if (!PyBool_Check(given))
        return raise_format(PyExc_TypeError, "anonymous_devices must be True or False");
    *refuses = given == Py_False;
    return 0;
}

static int check_on_refusal(module_state *state, PyObject *given, bool *skips)
{
    if (given == NULL)
        return 0;
    *skips = PyUnicode_Check(given) && PyUnicode_CompareWithASCIIString(given, "skip") == 0;
    if (*skips || (PyUnicode_Check(given) && PyUnicode_CompareWithASCIIString(given, "raise") == 0))
        return 0;
    return raise_shown(state, PyExc_ValueError, "on_refusal must be 'raise' or 'skip', not %S",
                       given);
}

enum { SETTINGS = 14 };

/* Reads the settings in the order of the arguments. If one is refused, the earlier ones stay set;
 * they have no effect without a synchronizer. */
static int read_settings(module_state *state, mobync_object *self, PyObject *const given[SETTINGS])
{
    if (check_count("max_clock_skew_ms", given[0], MB_MAX_INTEGER, &self->max_clock_skew_ms) < 0 ||
        check_seconds("lock_timeout_s", given[1], &self->lock_timeout_s) < 0 ||
        check_count("max_diffs", given[2], PY_SSIZE_T_MAX, &self->max_diffs) < 0 ||
        check_count("max_json_data_bytes", given[3], MB_MAX_JSON_DATA, &self->max_json_data_bytes) <
            0 ||
        check_count("max_depth", given[4], MOST_DEPTH, &self->max_depth) < 0 ||
        check_count("max_fields", given[5], PY_SSIZE_T_MAX, &self->max_fields) < 0 ||
        check_count("max_reply_bytes", given[6], PY_SSIZE_T_MAX, &self->max_reply_bytes) < 0 ||
        check_count("max_pull_diffs", given[7], PY_SSIZE_T_MAX, &self->max_pull_diffs) < 0 ||
        check_on_refusal(state, given[8], &self->skips) < 0 ||
        check_seconds("device_retention_s", given[9], &self->device_retention_s) < 0 ||
        check_seconds("first_pull_retention_s", given[10], &self->first_pull_retention_s) < 0 ||
        check_anonymous(given[11], &self->refuses_nameless) < 0 ||
        check_count("max_request_bytes", given[12], PY_SSIZE_T_MAX, &self->max_request_bytes) < 0 ||
        check_count("max_devices", given[13], PY_SSIZE_T_MAX, &self->max_devices) < 0)
        return -1;
    if (self->max_pull_diffs == 0)
        return raise_format(PyExc_ValueError, "max_pull_diffs must be 1 or more");
    if (self->max_devices == 0)
        return raise_format(PyExc_ValueError, "max_devices must be 1 or more");
    return 0;
}

/* Sets the synchronizer. Python code checks that it is usable, and makes the locks. */
static int take_synchronizer(module_state *state, mobync_object *self, PyObject *synchronizer,
                             PyObject *log_model)
{
    PyObject *checked =
        PyObject_CallFunctionObjArgs(state->check_synchronizer, synchronizer, log_model, NULL);
    Py_XDECREF(checked);
    PyObject *locks = checked == NULL ? NULL : PyObject_CallOneArg(state->locks_of, synchronizer);
    Py_XSETREF(self->locks, locks);
    Py_XSETREF(self->noted, locks == NULL ? NULL : PyDict_New());
    if (self->noted == NULL)
        return -1;
    const int keeps_devices = has_own(state, synchronizer, READ_DEVICES);
    if (keeps_devices < 0)
        return -1;
    if (!keeps_devices && self->refuses_nameless)
        return raise_format(PyExc_ValueError,
                            "anonymous_devices=False needs a synchronizer that keeps devices: "
                            "read_devices and write_devices");
    self->diffs_model_name = Py_NewRef(log_model);
    self->synchronizer = Py_NewRef(synchronizer);
    return 0;
}

static int mobync_init(mobync_object *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"synchronizer",
                            "diffs_model_name",
                            "max_clock_skew_ms",
                            "lock_timeout_s",
                            "max_diffs",
                            "max_json_data_bytes",
                            "max_depth",
                            "max_fields",
                            "max_reply_bytes",
                            "max_pull_diffs",
                            "on_refusal",
                            "device_retention_s",
                            "first_pull_retention_s",
                            "anonymous_devices",
                            "max_request_bytes",
                            "max_devices",
                            NULL};
    module_state *state = state_of_type(Py_TYPE(self));
    PyObject *synchronizer, *log_model = NULL, *given[SETTINGS] = {NULL};
    if (self->synchronizer != NULL) /* what a running sync borrows must stay */
        return raise_format(PyExc_RuntimeError, "Mobync.__init__() was called before");
    if (state == NULL || import_package(state) < 0 ||
        !PyArg_ParseTupleAndKeywords(
            args, kwargs, "O|O$OOOOOOOOOOOOOO:Mobync", names, &synchronizer, &log_model, &given[0],
            &given[1], &given[2], &given[3], &given[4], &given[5], &given[6], &given[7], &given[8],
            &given[9], &given[10], &given[11], &given[12], &given[13]))
        return -1;
    log_model = log_model == NULL ? PyUnicode_FromString("diffs") : Py_NewRef(log_model);
    const int result = log_model == NULL ||
                               check_text("diffs_model_name", log_model, &self->log_model) < 0 ||
                               read_settings(state, self, given) < 0
                           ? -1
                           : take_synchronizer(state, self, synchronizer, log_model);
    Py_XDECREF(log_model);
    return result;
}

static PyObject *mobync_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
                            PyObject *Py_UNUSED(kwargs))
{
    mobync_object *self = (mobync_object *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->max_clock_skew_ms = 300000;
    self->lock_timeout_s = 10;
    self->max_diffs = 200000;
    self->max_json_data_bytes = (Py_ssize_t)16 * 1024 * 1024;
    self->max_depth = MOST_DEPTH;
    self->max_fields = 10000;
    self->max_reply_bytes = (Py_ssize_t)256 * 1024 * 1024;
    self->max_pull_diffs = 50000;
    self->max_request_bytes = (Py_ssize_t)256 * 1024 * 1024;
    self->device_retention_s = 90.0 * 24 * 60 * 60;
    self->first_pull_retention_s = 24.0 * 60 * 60;
    self->max_devices = 1000;
    return (PyObject *)self;
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
    s->next_page = s->highest = s->push_clock = -1;
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
    "Merge what a device did with what the other devices of its owner did meanwhile.\n\n"
    "Writes the app's tables and the log, all or nothing where the Synchronizer has\n"
    "transactions.  Calling again with the same request is always right.  Each of the dicts\n"
    "in ``diffs`` that went upstream gets its new ``logical_clock`` once all is written.\n\n"
    "Args:\n"
    "    logical_clock: the clock of the reply to the device's last sync, 0 before the first;\n"
    "        an int, or its digits.\n"
    "    diffs: a list of dicts: the device's edits, in the order in which it made them.\n"
    "    owner_id: the authenticated owner; everything is stored for this owner, whatever the\n"
    "        diffs say.\n"
    "    limit: about how many diffs the reply may have; the rest comes in further pages\n"
    "        (docs/protocol.md, \"Pages\").\n"
    "    cursor: of the last reply, if that said that there is more.\n"
    "    device: the name that the device gave itself (docs/protocol.md, \"Named devices\"); a\n"
    "        Synchronizer that keeps no devices does not look at it.\n"
    "    request: of a named device the number of its requests with diffs that were answered, and "
    "one.\n"
    "    mark: of a named device the ``mark`` of the last reply.\n"
    "    part: of a named device, whose diffs do not fit one request, which part of them these\n"
    "        are, from 1 (docs/protocol.md, \"A request in parts\"); their dicts stay as they "
    "are.\n"
    "    more_diffs: whether another part follows.\n"
    "    upload: a name that all parts have, and that the device takes again only for the same.\n\n"
    "Returns:\n"
    "    A dict: ``success`` (True), ``message`` (''), the new ``logical_clock``, and the\n"
    "    ``diffs`` that the device must apply; with a limit or a cursor also ``more``, and the\n"
    "    next ``cursor`` if there is more; with on_refusal='skip' also ``refused``;\n"
    "    for a named device ``mark``, and ``reset`` (True) if it must drop its rows and pull\n"
    "    from 0; for a part its number, ``part``, and before the last nothing else that counts.\n\n"
    "Raises:\n"
    "    InvalidDiffError: a diff is malformed, or the app's tables refuse it.\n"
    "    UnauthorizedError: a rule of the app refused a diff.\n"
    "    LogicalClockError: the clock is not an int of 0 or more, or ahead of the server.\n"
    "    UnknownDeviceError: a named device is not as the server knows it: it takes a new name.\n"
    "    PartsMissingError: the last part came, and not all before it are there.\n"
    "    RequestTooLargeError: the parts are longer than ``max_request_bytes`` in all.\n"
    "    NoPartsError: the store cannot keep parts.\n"
    "    DeviceRevokedError: a person has ended the device.\n"
    "    TooManyDevicesError: the device is new, and its owner has ``max_devices``.\n"
    "    PageError: ``limit`` or ``cursor`` cannot be right, or the reply is too large for one\n"
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
    request_head head = {NULL,    Py_None, Py_None, Py_None, Py_None,
                         Py_None, Py_None, Py_None, Py_None};
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
    "    body: the request as JSON, str or bytes: an object with ``logical_clock`` and ``diffs``,\n"
    "        perhaps ``limit`` and ``cursor``, and ``device``, ``request`` and ``mark``, and\n"
    "        ``part``, ``more_diffs`` and ``upload``; whatever else it has is the app's own\n"
    "        business.\n"
    "    owner_id: whom the app authenticated.\n\n"
    "Returns:\n"
    "    The reply as JSON: bytes of UTF-8.\n\n"
    "Raises:\n"
    "    InvalidDiffError: the body is malformed, or a diff in it.\n"
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
    int64_t highest;
    store app;
    sync_state s;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:logical_clock", names, &owner_id) ||
        open_sync(self, &s) < 0)
        return NULL;
    if (name_log(&s, owner_id) == 0 && open_store(s.state, self->synchronizer, &app) == 0 &&
        find_highest_clock(s.state, &app, &s.log, 0, s.arena, &highest) == 0)
        clock = PyLong_FromLongLong(highest + 1);
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

static PyObject *mobync_reduce(PyObject *self, PyObject *Py_UNUSED(protocol))
{
    raise_format(PyExc_TypeError,
                 "a %.100s holds locks and cannot be pickled or copied: make another one of the "
                 "same Synchronizer",
                 Py_TYPE(self)->tp_name);
    return NULL;
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
    {"__reduce_ex__", mobync_reduce, METH_O, NULL},
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
    {"_noted", T_OBJECT_EX, offsetof(mobync_object, noted), READONLY, NULL},
    {"_locks", T_OBJECT_EX, offsetof(mobync_object, locks), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyObject *mobync_anonymous_devices(mobync_object *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(!self->refuses_nameless);
}

static PyGetSetDef mobync_attributes[] = {
    {"anonymous_devices", (getter)mobync_anonymous_devices, NULL, NULL, NULL},
    {"synchronizer", (getter)mobync_synchronizer, NULL, NULL, NULL},
    {"on_refusal", (getter)mobync_on_refusal, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(
    mobync_doc,
    "Mobync(synchronizer, diffs_model_name='diffs', *, max_clock_skew_ms=300000, "
    "lock_timeout_s=10.0, max_diffs=200000, max_json_data_bytes=16777216, max_depth=1000, "
    "max_fields=10000, max_reply_bytes=268435456, max_pull_diffs=50000, on_refusal='raise', "
    "device_retention_s=7776000.0, first_pull_retention_s=86400.0, anonymous_devices=True, "
    "max_request_bytes=268435456, max_devices=1000)\n"
    "--\n\n"
    "The server half of mobync over one Synchronizer; apps use mobync.Mobync.");

static PyType_Slot mobync_slots[] = {
    {Py_tp_doc, (void *)mobync_doc},
    {Py_tp_new, SLOT_FUNCTION(mobync_new)},
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
