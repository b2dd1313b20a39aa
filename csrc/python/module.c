/* module.c - the extension module mobync._core: its state and its plain functions.
 *
 * Everything that a call needs is in the module's state, so each interpreter that imports the
 * module has its own. There is no rule of the merge here.
 *
 * Does not declare itself safe for interpreters with their own GIL: cJSON's parser, which decodes
 * escaped strings, resets a position that all threads of the process share.
 */
#include "binding.h"

#include "../core/json.h"

#include <stddef.h>

static module_state *get_state(PyObject *module)
{
    return PyModule_GetState(module);
}

module_state *state_of_type(PyTypeObject *type)
{
    PyObject *mro = type->tp_mro;
    for (Py_ssize_t i = 0; mro != NULL && i < PyTuple_GET_SIZE(mro); i++) {
        PyTypeObject *base = (PyTypeObject *)PyTuple_GET_ITEM(mro, i);
        PyObject *module =
            base->tp_flags & Py_TPFLAGS_HEAPTYPE ? ((PyHeapTypeObject *)base)->ht_module : NULL;
        if (module != NULL && PyModule_GetDef(module) == &mobync_core_module)
            return get_state(module);
    }
    return NULL;
}

/* ---- memory -------------------------------------------------------------------------------- */

/* The raw allocator, because large requests are read and merged without the GIL. */
static void *allocate_raw(void *context, size_t bytes)
{
    (void)context;
    return PyMem_RawMalloc(bytes);
}

static void release_raw(void *context, void *block)
{
    (void)context;
    PyMem_RawFree(block);
}

/* One arena is stored, and taken out while it is in use: two calls that overlap use two. The GIL is
 * held in both functions. */
int take_arena(module_state *state, mb_arena **arena)
{
    if (state->idle_arena != NULL) {
        *arena = state->idle_arena;
        state->idle_arena = NULL;
        return 0;
    }
    const mb_allocator allocator = {allocate_raw, release_raw, NULL};
    return check_memory(mb_arena_new(&allocator, state->hash_seed, arena));
}

void give_back_arena(module_state *state, mb_arena *arena)
{
    enum { KEPT_BYTES = 8 << 20 }; /* what a sync of some thousand diffs takes */
    if (arena == NULL || state == NULL || state->idle_arena != NULL) {
        mb_arena_free(arena);
        return;
    }
    mb_arena_empty(arena, KEPT_BYTES);
    state->idle_arena = arena;
}

/* ---- what the calls look up ---------------------------------------------------------------- */

/* What is imported: an attribute of a module, or of an object in it. */
typedef struct {
    const char *module;
    const char *object; /* or NULL */
    const char *name;
} imported;

static int import_attribute(const imported *wanted, PyObject **place)
{
    PyObject *module = PyImport_ImportModule(wanted->module);
    PyObject *holder = module;
    if (module != NULL && wanted->object != NULL) {
        holder = PyObject_GetAttrString(module, wanted->object);
        Py_DECREF(module);
    }
    if (holder == NULL)
        return -1;
    Py_XSETREF(*place, PyObject_GetAttrString(holder, wanted->name));
    Py_DECREF(holder);
    return *place == NULL ? -1 : 0;
}

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* In the order of the state. */
static int import_all(const imported *wanted, size_t count, PyObject **places)
{
    for (size_t i = 0; i < count; i++)
        if (import_attribute(&wanted[i], &places[i]) < 0)
            return -1;
    return 0;
}

/* clang-format off */
static const imported at_once[] = {
    {"mobync.errors", NULL, "InvalidDiffError"}, {"mobync.errors", NULL, "IdTakenError"},
    {"mobync.errors", NULL, "UnauthorizedError"}, {"mobync.errors", NULL, "LogicalClockError"},
    {"mobync.errors", NULL, "PageError"}, {"mobync.errors", NULL, "shown"},
    {"mobync.types", "OperationType", "create"}, {"mobync.types", "OperationType", "update"},
    {"mobync.types", "OperationType", "delete"},
    {"mobync.types", "FilterType", "equal"}, {"mobync.types", "FilterType", "majorOrEqual"},
    {"mobync.types", "FilterType", "minor"}, {"mobync.types", NULL, "ReadFilter"},
    {"json", NULL, "loads"}, {"json", NULL, "dumps"}, {"uuid", NULL, "uuid4"},
};

static const imported with_package[] = {
    {"mobync._sync.attempts", NULL, "BeginAgain"}, {"mobync._sync.attempts", NULL, "one_moment"},
    {"mobync._sync.attempts", NULL, "attempts"},
    {"mobync._sync.devices", NULL, "admit"}, {"mobync._sync.devices", NULL, "poll"},
    {"mobync._sync.devices", NULL, "admit_nameless"}, {"mobync._sync.devices", NULL, "poll_nameless"},
    {"mobync._sync.devices", NULL, "begin_log"},
    {"mobync._sync.parts", NULL, "take_part"}, {"mobync._sync.parts", NULL, "apply_part"},
    {"mobync._sync.filling", NULL, "begin_filling"},
};

static const char *const names[] = {
    "id", "owner", "logical_clock", "utc_timestamp", "type", "model", "json_data",
    "create", "update", "delete", "validate_create", "validate_update", "validate_delete",
    "transaction", "write_order", "highest_logical_clock", "create_many", "update_many",
    "delete_many", "check_written", "append_log", "read_log", "reading",
    "read_devices", "write_devices",
    "read", "throw", "ahead", "index", "diff_id", "others", "reason", "_now_ms", "_tell",
    "field_times", "filled_models", "finish",
};
/* clang-format on */

/* Where a member of the state is among its objects. */
#define PLACE(member)                                                                              \
    ((offsetof(module_state, member) - offsetof(module_state, objects)) / sizeof(PyObject *))

_Static_assert(PLACE(begin_again) - PLACE(invalid_diff_error) == COUNT(at_once),
               "each has a place");
_Static_assert(PLACE(default_methods) - PLACE(begin_again) == COUNT(with_package), "so has each");
_Static_assert(PLACE(fields) - PLACE(id) == COUNT(names), "and each name");
_Static_assert(PLACE(blank) < STATE_OBJECTS, "all are visited");

int import_package(module_state *state)
{
    if (state->default_methods[OPTIONAL_METHODS - 1] != NULL)
        return 0;
    if (import_all(with_package, COUNT(with_package), &state->objects[PLACE(begin_again)]) < 0)
        return -1;
    for (int i = 0; i < OPTIONAL_METHODS; i++) {
        const char *name = PyUnicode_AsUTF8(state->optional_names[i]);
        const imported method = {"mobync.synchronizer", "Synchronizer", name};
        if (name == NULL || import_attribute(&method, &state->default_methods[i]) < 0)
            return -1;
    }
    return 0;
}

static int intern_names(module_state *state)
{
    for (size_t i = 0; i < COUNT(names); i++) {
        PyObject **place = &state->objects[PLACE(id) + i];
        *place = PyUnicode_InternFromString(names[i]);
        if (*place == NULL)
            return -1;
    }
    return 0;
}

static int make_fields(module_state *state)
{
    state->fields = PyTuple_Pack(FIELDS, state->id, state->owner, state->logical_clock,
                                 state->utc_timestamp, state->type, state->model, state->json_data);
    state->blank = PyDict_New();
    if (state->fields == NULL || state->blank == NULL)
        return -1;
    for (Py_ssize_t i = 0; i < FIELDS; i++)
        if (PyDict_SetItem(state->blank, PyTuple_GET_ITEM(state->fields, i), Py_None) < 0)
            return -1;
    return 0;
}

/* Ids and names come from strangers; a seed that they cannot know keeps the hash tables flat. The
 * hash of a str is such a number, and follows PYTHONHASHSEED if someone wants it fixed. */
static int make_hash_seed(module_state *state)
{
    const Py_hash_t hash = PyObject_Hash(state->json_data);
    if (hash == -1)
        return -1;
    state->hash_seed = (uint64_t)hash;
    return 0;
}

static int add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **type)
{
    *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return *type == NULL ? -1 : PyModule_AddType(module, *type);
}

static int module_exec(PyObject *module)
{
    module_state *state = get_state(module);
    if (intern_names(state) < 0 || make_fields(state) < 0 || make_hash_seed(state) < 0 ||
        import_all(at_once, COUNT(at_once), &state->objects[PLACE(invalid_diff_error)]) < 0 ||
        add_type(module, &synchronizer_spec, &state->synchronizer_type) < 0 ||
        add_type(module, &mobync_spec, &state->mobync_type) < 0)
        return -1;
    return add_type(module, &compaction_spec, &state->compaction_type);
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    module_state *state = get_state(module);
    Py_VISIT(state->synchronizer_type);
    Py_VISIT(state->mobync_type);
    Py_VISIT(state->compaction_type);
    for (size_t i = 0; i < STATE_OBJECTS; i++)
        Py_VISIT(state->objects[i]);
    return 0;
}

static int module_clear(PyObject *module)
{
    module_state *state = get_state(module);
    Py_CLEAR(state->synchronizer_type);
    Py_CLEAR(state->mobync_type);
    Py_CLEAR(state->compaction_type);
    for (size_t i = 0; i < STATE_OBJECTS; i++)
        Py_CLEAR(state->objects[i]);
    return 0;
}

static void module_free(void *module)
{
    module_state *state = get_state(module);
    module_clear(module);
    mb_arena_free(state->idle_arena);
    state->idle_arena = NULL;
}

/* ---- plain functions ----------------------------------------------------------------------- */

PyDoc_STRVAR(text_member_doc,
             "text_member(body, name, /)\n--\n\n"
             "The text of a string in a JSON object; None where there is no such string.");

/* Finds the member without the GIL if that takes a while: the body is an immutable object of the
 * caller, and nobody else uses the arena meanwhile. */
static mb_status find_text_member(mb_text json, mb_text name, mb_arena *arena, mb_text *found)
{
    enum { LARGE_BYTES = 64 * 1024 };
    if (json.size < LARGE_BYTES)
        return mb_json_text_member(json, name, arena, found);
    PyThreadState *thread = PyEval_SaveThread();
    const mb_status status = mb_json_text_member(json, name, arena, found);
    PyEval_RestoreThread(thread);
    return status;
}

static PyObject *module_text_member(PyObject *module, PyObject *args)
{
    PyObject *body;
    mb_text name, json = {NULL, 0}, found;
    Py_ssize_t name_size;
    mb_arena *arena;
    module_state *state = get_state(module);
    if (!PyArg_ParseTuple(args, "Os#:text_member", &body, &name.at, &name_size))
        return NULL;
    name.size = (size_t)name_size;
    if (borrow_json(state, body, &json) < 0 || take_arena(state, &arena) < 0)
        return NULL;

    PyObject *text = NULL;
    if (check_memory(find_text_member(json, name, arena, &found)) == 0)
        text = found.at == NULL ? Py_NewRef(Py_None) : text_to_str(found);
    give_back_arena(state, arena);
    return text;
}

PyDoc_STRVAR(members_doc,
             "members(json_text, /)\n--\n\n"
             "The members of a JSON object in the order in which they stand: of each its name,\n"
             "decoded, and the exact text of its value.  A name may stand twice.");

static PyObject *members_to_list(const mb_member *members, size_t count)
{
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; list != NULL && i < count; i++)
        put_item(
            &list, i,
            Py_BuildValue("(NN)", text_to_str(members[i].name), text_to_str(members[i].value)));
    return list;
}

/* Code that shows the content of a log parses it with the reader of the merge. So it can show
 * everything that the merge accepts, exactly, however long its numbers and however deep its lists.
 */
static PyObject *module_members(PyObject *module, PyObject *text)
{
    module_state *state = get_state(module);
    mb_text borrowed = {NULL, 0};
    mb_arena *arena;
    if (borrow_json(state, text, &borrowed) < 0 || take_arena(state, &arena) < 0)
        return NULL;

    PyObject *list = NULL;
    mb_json_object object;
    mb_error error = {.reason = NULL};
    const mb_status status = mb_json_read_object(borrowed, SIZE_MAX, arena, &object, &error);
    if (status == MB_OK)
        list = members_to_list(object.members, object.count);
    else
        raise_status(state, status, SIZE_MAX, &error);
    give_back_arena(state, arena);
    return list;
}

PyDoc_STRVAR(check_text_doc, "check_text(name, text, /)\n--\n\n"
                             "Check that an argument is text that a database can hold.");

static PyObject *module_check_text(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *name;
    PyObject *text;
    mb_text utf8;
    if (!PyArg_ParseTuple(args, "sO:check_text", &name, &text) || check_text(name, text, &utf8) < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(check_diff_doc, "check_diff(diff, diffs_model_name=None, /)\n--\n\n"
                             "Check the form of one diff; raises InvalidDiffError.");

static PyObject *module_check_diff(PyObject *module, PyObject *args)
{
    PyObject *diff;
    const char *log_model = NULL;
    sync_state s = {.state = get_state(module)};
    if (!PyArg_ParseTuple(args, "O|z:check_diff", &diff, &log_model))
        return NULL;
    PyObject *diffs = PyTuple_Pack(1, diff);
    const int result = diffs == NULL ? -1 : begin_merge(&s, diffs, log_model);
    Py_XDECREF(diffs);
    end_sync(&s);
    return result < 0 ? NULL : Py_NewRef(Py_None);
}

PyDoc_STRVAR(check_log_doc, "check_log(rows, owner_id, first_clock=0, /)\n--\n\n"
                            "Check that rows are diffs of this owner's log, from a clock on.\n\n"
                            "Returns the highest clock among them, -1 if there are none.");

static PyObject *module_check_log(PyObject *module, PyObject *args)
{
    PyObject *rows;
    mb_text owner;
    Py_ssize_t size;
    long long first_clock = 0;
    mb_arena *arena;
    diff_list list = {.json = NULL};
    module_state *state = get_state(module);
    if (!PyArg_ParseTuple(args, "Os#|L:check_log", &rows, &owner.at, &size, &first_clock) ||
        take_arena(state, &arena) < 0)
        return NULL;
    owner.size = (size_t)size;
    PyObject *highest = NULL;
    const rows_reader reader = {state, NULL, false, false, arena, &list};
    if (read_rows(&reader, rows) == 0 && check_window(&list, owner, first_clock, NULL, NULL) == 0)
        highest = PyLong_FromLongLong(highest_of(&list.diffs));
    diff_list_clear(&list);
    give_back_arena(state, arena);
    return highest;
}

PyDoc_STRVAR(merge_doc,
             "merge(server_diffs, client_diffs, /)\n--\n\n"
             "Merge two lists of diffs; returns (upstream, downstream), a list of dicts each.");

static PyObject *merged_lists(sync_state *s, PyObject *server_diffs)
{
    size_t index = SIZE_MAX;
    mb_error error;
    const rows_reader reader = {s->state, NULL, false, false, s->arena, &s->window};
    if (read_rows(&reader, server_diffs) < 0)
        return NULL;
    mb_status status =
        mb_recognize(s->arena, &s->window.diffs, &s->request.diffs, false, &index, &error);
    if (status == MB_OK)
        status = mb_merge(s->arena, &s->window.diffs, &s->request.diffs, &s->result);
    if (status != MB_OK) {
        raise_status(s->state, status, index, &error);
        return NULL;
    }
    return Py_BuildValue("(NN)", outcomes_to_list(s->state, &s->result.upstream, &s->request),
                         outcomes_to_list(s->state, &s->result.downstream, &s->window));
}

static PyObject *module_merge(PyObject *module, PyObject *args)
{
    PyObject *server_diffs, *client_diffs, *lists = NULL;
    sync_state s = {.state = get_state(module)};
    if (!PyArg_ParseTuple(args, "OO:merge", &server_diffs, &client_diffs))
        return NULL;
    if (begin_merge(&s, client_diffs, NULL) == 0)
        lists = merged_lists(&s, server_diffs);
    end_sync(&s);
    return lists;
}

static PyMethodDef module_functions[] = {
    {"members", module_members, METH_O, members_doc},
    {"check_diff", module_check_diff, METH_VARARGS, check_diff_doc},
    {"check_log", module_check_log, METH_VARARGS, check_log_doc},
    {"check_text", module_check_text, METH_VARARGS, check_text_doc},
    {"merge", module_merge, METH_VARARGS, merge_doc},
    {"text_member", module_text_member, METH_VARARGS, text_member_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, SLOT_FUNCTION(module_exec)},
#if PY_VERSION_HEX >= 0x030c0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_SUPPORTED},
#endif
    {0, NULL},
};

struct PyModuleDef mobync_core_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "mobync._core",
    .m_doc = "The merge of offline edits, in C.",
    .m_size = sizeof(module_state),
    .m_methods = module_functions,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__core(void)
{
    return PyModuleDef_Init(&mobync_core_module);
}
