/* module.c - the extension module mobync._core: its state, its life.
 *
 * Everything that a call needs hangs on the module's state, so that each interpreter that imports
 * the module has its own.  The module holds the types Exchange and Compaction, and no rule of the merge.
 *
 * Does not declare itself safe for interpreters with a GIL of their own: cJSON's parser, which
 * decodes escaped strings, resets a position that all threads of the process share.
 */
#include "binding.h"

static module_state *get_state(PyObject *module)
{
    return PyModule_GetState(module);
}

static int import_attribute(const char *module_name, const char *name, PyObject **attribute)
{
    PyObject *module = PyImport_ImportModule(module_name);
    if (module == NULL)
        return -1;
    *attribute = PyObject_GetAttrString(module, name);
    Py_DECREF(module);
    return *attribute == NULL ? -1 : 0;
}

/* Ids and names come from strangers; a seed that they cannot know keeps the hash tables flat.
 * The hash of a str is such a number, and follows PYTHONHASHSEED where someone wants it fixed. */
static int make_hash_seed(module_state *state)
{
    const Py_hash_t hash = PyObject_Hash(state->json_data);
    if (hash == -1)
        return -1;
    state->hash_seed = (uint64_t)hash;
    return 0;
}

static int intern_names(module_state *state)
{
    const struct {
        PyObject **place;
        const char *name;
    } names[] = {
        {&state->id, "id"},
        {&state->owner, "owner"},
        {&state->logical_clock, "logical_clock"},
        {&state->utc_timestamp, "utc_timestamp"},
        {&state->type, "type"},
        {&state->model, "model"},
        {&state->json_data, "json_data"},
        {&state->type_names[MB_CREATE], "create"},
        {&state->type_names[MB_UPDATE], "update"},
        {&state->type_names[MB_DELETE], "delete"},
        {&state->name, "name"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        *names[i].place = PyUnicode_InternFromString(names[i].name);
        if (*names[i].place == NULL)
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

static int add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **type)
{
    *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return *type == NULL ? -1 : PyModule_AddType(module, *type);
}

static int module_exec(PyObject *module)
{
    module_state *state = get_state(module);
    if (intern_names(state) < 0 || make_fields(state) < 0 || make_hash_seed(state) < 0 ||
        import_attribute("mobync.errors", "InvalidDiffError", &state->invalid_diff_error) < 0 ||
        import_attribute("mobync.types", "OperationType", &state->operation_type) < 0 ||
        import_attribute("mobync.errors", "shown", &state->shown) < 0 ||
        import_attribute("json", "loads", &state->json_loads) < 0)
        return -1;
    if (add_type(module, &exchange_spec, &state->exchange_type) < 0)
        return -1;
    return add_type(module, &compaction_spec, &state->compaction_type);
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    module_state *state = get_state(module);
    Py_VISIT(state->exchange_type);
    Py_VISIT(state->compaction_type);
    Py_VISIT(state->invalid_diff_error);
    Py_VISIT(state->operation_type);
    Py_VISIT(state->json_loads);
    Py_VISIT(state->shown);
    Py_VISIT(state->fields);
    Py_VISIT(state->blank);
    return 0;
}

static int module_clear(PyObject *module)
{
    module_state *state = get_state(module);
    Py_CLEAR(state->exchange_type);
    Py_CLEAR(state->compaction_type);
    Py_CLEAR(state->invalid_diff_error);
    Py_CLEAR(state->operation_type);
    Py_CLEAR(state->json_loads);
    Py_CLEAR(state->shown);
    Py_CLEAR(state->fields);
    Py_CLEAR(state->blank);
    Py_CLEAR(state->id);
    Py_CLEAR(state->owner);
    Py_CLEAR(state->logical_clock);
    Py_CLEAR(state->utc_timestamp);
    Py_CLEAR(state->type);
    Py_CLEAR(state->model);
    Py_CLEAR(state->json_data);
    for (int i = 0; i < 3; i++)
        Py_CLEAR(state->type_names[i]);
    Py_CLEAR(state->name);
    return 0;
}

static void module_free(void *module)
{
    module_state *state = get_state(module);
    module_clear(module);
    mb_arena_free(state->idle_arena);
    state->idle_arena = NULL;
}

PyDoc_STRVAR(text_member_doc,
             "text_member(body, name, /)\n--\n\n"
             "The text of a string in a JSON object; None where there is no such string.");

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
    if (borrow_json(state, body, &json) < 0)
        return NULL;
    if (take_arena(state, &arena) != MB_OK)
        return PyErr_NoMemory();

    PyObject *text = NULL;
    if (mb_json_text_member(json, name, arena, &found) != MB_OK)
        PyErr_NoMemory();
    else if (found.at == NULL)
        text = Py_NewRef(Py_None);
    else
        text = PyUnicode_DecodeUTF8(found.at, (Py_ssize_t)found.size, NULL);
    give_back_arena(state, arena);
    return text;
}

PyDoc_STRVAR(
    log_values_doc,
    "log_values(rows, /)\n--\n\n"
    "The values of rows of the log that are JSON text, a tuple each in the order in which\n"
    "mobync prints them; None if a row has anything but the seven fields.");

static PyObject *module_log_values(PyObject *module, PyObject *rows)
{
    mb_arena *arena;
    module_state *state = get_state(module);
    PyObject *taken = snapshot(rows);
    if (taken == NULL)
        return NULL;
    PyObject *values = NULL;
    if (take_arena(state, &arena) == MB_OK) {
        values = read_log_values(state, taken, arena);
        give_back_arena(state, arena);
    } else {
        PyErr_NoMemory();
    }
    Py_DECREF(taken);
    return values;
}

static PyMethodDef module_functions[] = {
    {"log_values", module_log_values, METH_O, log_values_doc},
    {"text_member", module_text_member, METH_VARARGS, text_member_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
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
