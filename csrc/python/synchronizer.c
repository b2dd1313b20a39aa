/* synchronizer.c - the app: its database and its rules.
 *
 * An app subclasses mobync.Synchronizer. That is this base with documentation, abstract methods and
 * the defaults of the optional ones. The base itself has no data and no __init__, so a subclass
 * does not have to call it, and other bases can come after it.
 *
 * All calls of the app go through here. Two checks are here too. The first is which optional
 * methods a store overrides: a default means that the store does not offer the method. The second
 * is for answers that would have to be awaited: `async def validate_create` answers every question
 * with a coroutine, which is true, and must not count as a yes.
 */
#include "binding.h"

/* ---- the type ------------------------------------------------------------------------------ */

static int synchronizer_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static void synchronizer_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *refuse_abstract(PyObject *self, PyObject *args, PyObject *kwargs)
{
    (void)args, (void)kwargs;
    raise_format(PyExc_NotImplementedError,
                 "%.100s does not implement this method of mobync.Synchronizer",
                 Py_TYPE(self)->tp_name);
    return NULL;
}

#define ABSTRACT(name, arguments)                                                                  \
    {                                                                                              \
        name, (PyCFunction)(void (*)(void))refuse_abstract, METH_VARARGS | METH_KEYWORDS,          \
            name "(" arguments ")\n--\n\nThe app's; see mobync.Synchronizer."                      \
    }

static PyMethodDef synchronizer_methods[] = {
    ABSTRACT("read", "$self, where, filters"),
    ABSTRACT("create", "$self, where, data_json"),
    ABSTRACT("update", "$self, where, data_json"),
    ABSTRACT("delete", "$self, where, data_json"),
    ABSTRACT("validate_create", "$self, owner_id, **kwargs"),
    ABSTRACT("validate_update", "$self, owner_id, **kwargs"),
    ABSTRACT("validate_delete", "$self, owner_id, **kwargs"),
    {NULL, NULL, 0, NULL},
};

static PyType_Slot synchronizer_slots[] = {
    {Py_tp_doc, "Synchronizer()\n--\n\nThe base of mobync.Synchronizer, which apps subclass."},
    {Py_tp_traverse, SLOT_FUNCTION(synchronizer_traverse)},
    {Py_tp_dealloc, SLOT_FUNCTION(synchronizer_dealloc)},
    {Py_tp_methods, synchronizer_methods},
    {0, NULL},
};

PyType_Spec synchronizer_spec = {
    .name = "mobync._core.Synchronizer",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = synchronizer_slots,
};

/* ---- a store ------------------------------------------------------------------------------- */

/* Whether a store overrides a method. CPython caches the look-up for each class. */
int has_own(module_state *state, PyObject *object, optional_method which)
{
    PyObject *method = PyObject_GetAttr(object, state->optional_names[which]);
    if (method == NULL)
        return -1;
    const bool own =
        !PyMethod_Check(method) || PyMethod_GET_FUNCTION(method) != state->default_methods[which];
    Py_DECREF(method);
    return own;
}

int open_store(module_state *state, PyObject *object, store *opened)
{
    const int is_store = PyObject_TypeCheck(object, state->synchronizer_type);
    if (!is_store) {
        return raise_format(PyExc_TypeError, "transaction() must yield a Synchronizer, not %.100s",
                            Py_TYPE(object)->tp_name);
    }
    opened->object = object;
    for (int i = 0; i < OPTIONAL_METHODS; i++) {
        const int own = has_own(state, object, (optional_method)i);
        if (own < 0)
            return -1;
        opened->has[i] = own;
    }
    return 0;
}

PyObject *plain_answer(const store *app, PyObject *answer, PyObject *method)
{
    const PyAsyncMethods *async = answer == NULL ? NULL : Py_TYPE(answer)->tp_as_async;
    if (answer == NULL || (!PyCoro_CheckExact(answer) &&
                           (async == NULL || (async->am_await == NULL && async->am_anext == NULL))))
        return answer;
    PyObject *waiting = PyObject_GetAttrString(app->object, "_waiting");
    PyObject *plain =
        waiting == NULL ? NULL : PyObject_CallMethod(waiting, "answer", "OO", method, answer);
    Py_XDECREF(waiting);
    Py_DECREF(answer);
    return plain;
}

PyObject *call_store(const store *app, PyObject *method, PyObject *where, PyObject *last)
{
    if (last == NULL)
        return NULL;
    PyObject *arguments[3] = {app->object, where == NULL ? last : where, last};
    const size_t count = where == NULL ? 2 : 3;
    PyObject *answer =
        PyObject_VectorcallMethod(method, arguments, count | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    Py_DECREF(last);
    return plain_answer(app, answer, method);
}

/* ---- the log ------------------------------------------------------------------------------- */

enum { EQUAL, MAJOR_OR_EQUAL, MINOR }; /* in the order of state->filter_types */

/* Takes the reference to the value, which may be NULL. */
static int add_filter(module_state *state, PyObject *filters, PyObject *field, int type,
                      PyObject *value)
{
    PyObject *filter = value == NULL
                           ? NULL
                           : PyObject_CallFunctionObjArgs(state->read_filter, field,
                                                          state->filter_types[type], value, NULL);
    const int result = filter == NULL ? -1 : PyList_Append(filters, filter);
    Py_XDECREF(filter);
    Py_XDECREF(value);
    return result;
}

static PyObject *make_filters(const sync_state *s, int64_t first, int64_t end, bool only_deletes)
{
    module_state *state = s->state;
    PyObject *filters = PyList_New(0);
    PyObject *clock = state->logical_clock;
    if (filters == NULL)
        return NULL;
    if (add_filter(state, filters, state->owner, EQUAL, Py_NewRef(s->owner_id)) < 0 ||
        add_filter(state, filters, clock, MAJOR_OR_EQUAL, PyLong_FromLongLong(first)) < 0 ||
        (end >= 0 && add_filter(state, filters, clock, MINOR, PyLong_FromLongLong(end)) < 0) ||
        (only_deletes && add_filter(state, filters, state->type, EQUAL,
                                    Py_NewRef(state->type_names[MB_DELETE])) < 0))
        Py_CLEAR(filters);
    return filters;
}

/* Rows that are not diffs are the store's mistake: nothing that a device sent can cause them. */
static void blame_log(module_state *state, PyObject *method, PyObject *log_model)
{
    if (!PyErr_ExceptionMatches(state->invalid_diff_error))
        return;
    PyObject *cause = take_exception();
    raise_format(PyExc_ValueError, "%U(%R) gave an %S", method, log_model, cause);
    PyObject *blamed = take_exception();
    PyException_SetCause(blamed, cause);
    restore_exception(blamed);
}

int read_log(sync_state *s, const store *app, int64_t first, int64_t end, log_part part,
             diff_list *rows)
{
    PyObject *log_model = s->server->diffs_model_name;
    const bool as_values = app->has[READ_LOG];
    PyObject *method = as_values ? s->state->optional_names[READ_LOG] : s->state->read;
    PyObject *given =
        call_store(app, method, log_model, make_filters(s, first, end, part == LOG_DELETES));
    if (given == NULL)
        return -1;
    const rows_reader reader = {.state = s->state,
                                .log_model = log_model,
                                .with_members = part == LOG_MEMBERS,
                                .skip_times = part == LOG_UNTIMED,
                                .arena = s->scratch,
                                .list = rows};
    int result = as_values ? read_value_rows(&reader, given) : read_rows(&reader, given);
    Py_DECREF(given);
    if (result < 0)
        blame_log(s->state, method, log_model);
    else
        result = check_window(rows, s->owner, first, method, log_model);
    return result;
}

int ask_highest_clock(sync_state *s, const store *app)
{
    s->highest = HEAD_UNREAD;
    if (!app->has[HIGHEST_LOGICAL_CLOCK])
        return 0;
    PyObject *name = s->state->optional_names[HIGHEST_LOGICAL_CLOCK];
    PyObject *answer = call_store(app, name, NULL, Py_NewRef(s->owner_id));
    if (answer == NULL)
        return -1;
    int result = 0;
    if (answer != Py_None) {
        s->highest = PyLong_Check(answer) ? PyLong_AsLongLong(answer) : HEAD_UNREAD;
        if (s->highest < -1 || s->highest > MB_MAX_INTEGER) {
            PyErr_Clear();
            result = raise_shown(s->state, PyExc_TypeError,
                                 "highest_logical_clock() must return an int of -1 or more, or "
                                 "None, not %S",
                                 answer);
        }
    }
    Py_DECREF(answer);
    return result;
}

int find_highest_clock(sync_state *s, const store *app, int64_t from)
{
    if (ask_highest_clock(s, app) < 0)
        return -1;
    if (s->highest != HEAD_UNREAD)
        return 0;
    diff_list rows = {.json = NULL};
    const int result = read_log(s, app, from, -1, LOG_ROWS, &rows);
    s->highest = highest_of(&rows.diffs);
    diff_list_clear(&rows);
    return result;
}
