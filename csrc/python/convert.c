/* convert.c - diffs from Python to C and back.
 *
 * A diff comes in as a dict and leaves as one; in between, the core borrows the UTF-8 that CPython
 * keeps inside each str.  So the str objects are held as long as the merge lasts, and a text that
 * the merge did not change goes out as the very object that came in.
 *
 * Input is hostile until it is read: hashing or comparing a strange key can run any code.  So the
 * dicts of a request are copied before anything of them is looked at, and of a row the values are
 * held while they are read.
 */
#include "binding.h"

#include "../core/text.h"

#include <stdarg.h>

const char *const reserved_keys[] = {"owner_id", "self", NULL};

/* ---- lists --------------------------------------------------------------------------------- */

void diff_list_clear(diff_list *list)
{
    diff_list cleared = *list;
    *list = (diff_list){.json = NULL};
    for (size_t i = 0; cleared.objects != NULL && i < cleared.diffs.count; i++) {
        Py_XDECREF(cleared.objects[i].id);
        Py_XDECREF(cleared.objects[i].owner);
        Py_XDECREF(cleared.objects[i].model);
        Py_XDECREF(cleared.objects[i].json_data);
    }
    PyMem_Free(cleared.objects);
    Py_XDECREF(cleared.json);
}

PyObject *snapshot(PyObject *sequence)
{
    if (PyList_Check(sequence))
        return PyList_AsTuple(sequence);
    if (PyTuple_Check(sequence))
        return PyTuple_GetSlice(sequence, 0, PyTuple_GET_SIZE(sequence));
    return PySequence_Tuple(sequence);
}

int diff_list_new(diff_list *list, Py_ssize_t count, mb_arena *arena)
{
    diff_list made = {.json = NULL};
    if (mb_diffs_new(arena, (size_t)count, &made.diffs) == MB_OK)
        made.objects = PyMem_Calloc((size_t)count, sizeof *made.objects);
    if (made.objects == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    *list = made;
    return 0;
}

/* ---- memory and errors --------------------------------------------------------------------- */

static void *allocate_with_python(void *context, size_t bytes)
{
    (void)context;
    return PyMem_Malloc(bytes);
}

static void release_with_python(void *context, void *block)
{
    (void)context;
    PyMem_Free(block);
}

/* One arena is kept, taken out while it is in use: two calls that overlap have two.  The GIL is held
 * in both functions. */
mb_status take_arena(module_state *state, mb_arena **arena)
{
    if (state->idle_arena != NULL) {
        *arena = state->idle_arena;
        state->idle_arena = NULL;
        return MB_OK;
    }
    const mb_allocator allocator = {allocate_with_python, release_with_python, NULL};
    return mb_arena_new(&allocator, state->hash_seed, arena);
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

module_state *state_at_end(PyTypeObject *type)
{
    PyObject *module = ((PyHeapTypeObject *)type)->ht_module;
    return module != NULL ? PyModule_GetState(module) : NULL;
}

int raise_invalid(module_state *state, Py_ssize_t index, PyObject *id, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    PyObject *reason = PyUnicode_FromFormatV(format, arguments);
    va_end(arguments);
    if (reason == NULL)
        return -1;

    PyObject *number = index >= 0 ? PyLong_FromSsize_t(index) : Py_NewRef(Py_None);
    if (number != NULL) {
        const bool is_id = id != NULL && PyUnicode_Check(id) && PyUnicode_GetLength(id) > 0;
        PyObject *diff_id = is_id ? id : Py_None;
        PyObject *error =
            PyObject_CallFunctionObjArgs(state->invalid_diff_error, reason, number, diff_id, NULL);
        if (error != NULL)
            PyErr_SetObject(state->invalid_diff_error, error);
        Py_XDECREF(error);
        Py_DECREF(number);
    }
    Py_DECREF(reason);
    return -1;
}

int raise_status(module_state *state, mb_status status, Py_ssize_t index, PyObject *id,
                 const mb_error *error)
{
    if (status == MB_NO_MEMORY) {
        PyErr_NoMemory();
        return -1;
    }
    if (error->field == NULL)
        return raise_invalid(state, index, id, "%s (at byte %zu)", error->reason, error->offset);
    if (!error->of_whole_field)
        return raise_invalid(state, index, id, "%s: %s (at byte %zu)", error->field, error->reason,
                             error->offset);
    if (error->limit != NULL)
        return raise_invalid(state, index, id, "%s %s: %zu are allowed", error->field,
                             error->reason, *error->limit);
    return raise_invalid(state, index, id, "%s %s", error->field, error->reason);
}

int raise_read_status(module_state *state, mb_status status, size_t index, const mb_error *error)
{
    PyObject *id = NULL;
    if (status == MB_INVALID && error->diff_id.size != 0) {
        id = PyUnicode_DecodeUTF8(error->diff_id.at, (Py_ssize_t)error->diff_id.size, NULL);
        if (id == NULL)
            return -1;
    }
    raise_status(state, status, index == SIZE_MAX ? -1 : (Py_ssize_t)index, id, error);
    Py_XDECREF(id);
    return -1;
}

/* ---- one diff ------------------------------------------------------------------------------ */

/* The UTF-8 of a str, which stays valid as long as the str does. */
static int borrow_text(module_state *state, PyObject *str, PyObject *key, Py_ssize_t index,
                       PyObject *id, mb_text *text)
{
    Py_ssize_t size;
    const char *at = PyUnicode_AsUTF8AndSize(str, &size);
    if (at == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError))
            return -1;
        PyErr_Clear();
        return raise_invalid(state, index, id, "%U: a lone surrogate", key);
    }
    *text = (mb_text){at, (size_t)size};
    return 0;
}

/* Finds the values of a dict whose first keys are the fields in their order and interned, as those of
 * most stores are: to walk along takes less than to look each key up. */
static bool find_values_in_order(module_state *state, PyObject *dict, PyObject *values[FIELDS])
{
    PyObject *key;
    Py_ssize_t position = 0;
    for (Py_ssize_t i = 0; i < FIELDS; i++)
        if (!PyDict_Next(dict, &position, &key, &values[i]) ||
            key != PyTuple_GET_ITEM(state->fields, i))
            return false;
    return true;
}

static void release_values(PyObject *const *values, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++)
        Py_XDECREF(values[i]);
}

/* Takes references to the values of the fields, NULL where one is missing.  Returns 0, or -1 with
 * what a strange key raised. */
static int take_values(module_state *state, PyObject *dict, PyObject *values[FIELDS])
{
    const bool found = find_values_in_order(state, dict, values);
    for (Py_ssize_t i = 0; i < FIELDS; i++) {
        if (!found)
            values[i] = PyDict_GetItemWithError(dict, PyTuple_GET_ITEM(state->fields, i));
        if (!found && values[i] == NULL && PyErr_Occurred()) {
            release_values(values, i);
            return -1;
        }
        Py_XINCREF(values[i]);
    }
    return 0;
}

static int refuse_missing(module_state *state, PyObject *key, Py_ssize_t index, PyObject *id)
{
    return raise_invalid(state, index, id, "%U is missing", key);
}

static int read_text_field(module_state *state, PyObject *value, PyObject *key, Py_ssize_t index,
                           PyObject *id, PyObject **object, mb_text *text)
{
    if (value == NULL)
        return refuse_missing(state, key, index, id);
    if (!PyUnicode_Check(value))
        return raise_invalid(state, index, id, "%U must be a string", key);
    *object = PyUnicode_FromObject(value); /* an exact str, whatever subclass came in */
    if (*object == NULL)
        return -1;
    return borrow_text(state, *object, key, index, id, text);
}

static int read_integer_field(module_state *state, PyObject *value, PyObject *key, Py_ssize_t index,
                              PyObject *id, int64_t *integer)
{
    if (value == NULL)
        return refuse_missing(state, key, index, id);
    int overflow = 0;
    const bool is_integer = PyLong_Check(value) && !PyBool_Check(value);
    *integer = is_integer ? PyLong_AsLongLongAndOverflow(value, &overflow) : -1;
    if (*integer == -1 && PyErr_Occurred())
        return -1;
    if (overflow != 0 || *integer < 0 || *integer > MB_MAX_INTEGER)
        return raise_invalid(state, index, id, "%U must be an integer of 0 to %lld", key,
                             (long long)MB_MAX_INTEGER);
    return 0;
}

/* A type is its name; a row may also hold the member of OperationType. */
static int read_type_field(module_state *state, PyObject *value, Py_ssize_t index, PyObject *id,
                           mb_type *type)
{
    if (value == NULL)
        return refuse_missing(state, state->type, index, id);
    PyObject *name = Py_IS_TYPE(value, (PyTypeObject *)state->operation_type)
                         ? PyObject_GetAttr(value, state->name)
                         : Py_NewRef(value);
    if (name == NULL)
        return -1;

    int result = -1;
    mb_text text = {NULL, 0};
    if (!PyUnicode_Check(name))
        raise_invalid(state, index, id, "type must be a string");
    else if (borrow_text(state, name, state->type, index, id, &text) == 0) {
        if (mb_type_read(text, type))
            result = 0;
        else
            raise_invalid(state, index, id, "type must be \"create\", \"update\" or \"delete\"");
    }
    Py_DECREF(name);
    return result;
}

/* Reads the fields in the order in which a person reads them: the first bad one is named. */
static int read_fields(module_state *state, PyObject *const values[FIELDS], Py_ssize_t index,
                       mb_diff *diff, diff_objects *objects)
{
    if (read_text_field(state, values[0], state->id, index, NULL, &objects->id, &diff->id) < 0)
        return -1;
    PyObject *id = objects->id;
    if (read_text_field(state, values[1], state->owner, index, id, &objects->owner, &diff->owner) <
            0 ||
        read_integer_field(state, values[2], state->logical_clock, index, id,
                           &diff->logical_clock) < 0 ||
        read_integer_field(state, values[3], state->utc_timestamp, index, id,
                           &diff->utc_timestamp) < 0 ||
        read_type_field(state, values[4], index, id, &diff->type) < 0 ||
        read_text_field(state, values[5], state->model, index, id, &objects->model, &diff->model) <
            0)
        return -1;
    return read_text_field(state, values[6], state->json_data, index, id, &objects->json_data,
                           &diff->json_data);
}

int read_diff(module_state *state, PyObject *dict, Py_ssize_t index, mb_arena *arena,
              diff_list *list)
{
    mb_diff *diff = &list->diffs.items[index];
    PyObject *values[FIELDS];
    if (take_values(state, dict, values) < 0)
        return -1;
    const int result = read_fields(state, values, index, diff, &list->objects[index]);
    release_values(values, FIELDS);
    if (result < 0)
        return -1;

    mb_error error = {.reason = NULL};
    const mb_status status = mb_diff_check(diff, arena, &error);
    if (status != MB_OK)
        return raise_status(state, status, index, list->objects[index].id, &error);
    return 0;
}

static int refuse_key_that_is_no_str(module_state *state, PyObject *key, Py_ssize_t index,
                                     PyObject *id)
{
    PyObject *shown = PyObject_CallOneArg(state->shown, key);
    if (shown != NULL)
        raise_invalid(state, index, id, "a key must be a str, not %S", shown);
    Py_XDECREF(shown);
    return -1;
}

int check_keys(module_state *state, PyObject *dict, Py_ssize_t index, PyObject *id)
{
    PyObject *key;
    Py_ssize_t position = 0;
    while (PyDict_Next(dict, &position, &key, NULL)) {
        if (!PyUnicode_Check(key))
            return refuse_key_that_is_no_str(state, key, index, id);
        for (const char *const *name = reserved_keys; *name != NULL; name++)
            if (PyUnicode_CompareWithASCIIString(key, *name) == 0)
                return raise_invalid(state, index, id, "%s may not be a key of a diff", *name);
    }
    return 0;
}

/* ---- the rows of a window ------------------------------------------------------------------ */

int borrow_json(module_state *state, PyObject *json, mb_text *text)
{
    if (PyUnicode_Check(json)) {
        Py_ssize_t size;
        const char *at = PyUnicode_AsUTF8AndSize(json, &size);
        if (at != NULL) {
            *text = (mb_text){at, (size_t)size};
            return 0;
        }
        if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError))
            return -1;
        PyErr_Clear();
        return raise_invalid(state, -1, NULL, "the JSON text has a lone surrogate");
    }
    if (!PyBytes_Check(json)) {
        PyErr_Format(PyExc_TypeError, "JSON text must be str or bytes, not %.100s",
                     Py_TYPE(json)->tp_name);
        return -1;
    }
    *text = (mb_text){PyBytes_AS_STRING(json), (size_t)PyBytes_GET_SIZE(json)};
    return 0;
}

static int read_json_rows(module_state *state, PyObject *rows, mb_arena *arena, mb_diffs *diffs)
{
    mb_text text = {NULL, 0};
    if (borrow_json(state, rows, &text) < 0)
        return -1;

    mb_error error;
    size_t index;
    mb_status status = mb_diffs_read(text, arena, diffs, &index, &error);
    for (size_t i = 0; status == MB_OK && i < diffs->count; i++) {
        index = i;
        status = mb_diff_check(&diffs->items[i], arena, &error);
        error.diff_id = diffs->items[i].id;
    }
    return status == MB_OK ? 0 : raise_read_status(state, status, index, &error);
}

/* A row as an exact dict: a new reference. */
static PyObject *row_to_dict(PyObject *row, Py_ssize_t index)
{
    if (PyDict_CheckExact(row))
        return Py_NewRef(row);
    PyObject *dict = PyDict_New();
    if (dict == NULL)
        return NULL;
    if (PyDict_Update(dict, row) < 0) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError) || PyErr_ExceptionMatches(PyExc_TypeError))
            PyErr_Format(PyExc_TypeError, "row %zd must be a dict, not %.100s", index,
                         Py_TYPE(row)->tp_name);
        Py_CLEAR(dict);
    }
    return dict;
}

int read_rows(module_state *state, PyObject *rows, mb_arena *arena, diff_list *list)
{
    if (PyUnicode_Check(rows) || PyBytes_Check(rows)) {
        list->json = Py_NewRef(rows);
        return read_json_rows(state, rows, arena, &list->diffs);
    }

    PyObject *taken = snapshot(rows);
    if (taken == NULL) {
        if (PyErr_ExceptionMatches(PyExc_TypeError) && Py_TYPE(rows)->tp_iter == NULL)
            PyErr_Format(PyExc_TypeError, "expected JSON text or a sequence of dicts, not %.100s",
                         Py_TYPE(rows)->tp_name);
        return -1;
    }
    const Py_ssize_t count = PyTuple_GET_SIZE(taken);
    int result = diff_list_new(list, count, arena);
    for (Py_ssize_t i = 0; result == 0 && i < count; i++) {
        PyObject *dict = row_to_dict(PyTuple_GET_ITEM(taken, i), i);
        result = dict == NULL ? -1 : read_diff(state, dict, i, arena, list);
        Py_XDECREF(dict);
    }
    Py_DECREF(taken);
    return result;
}

int check_window(const diff_list *window, mb_text owner, int64_t first_clock)
{
    for (size_t i = 0; i < window->diffs.count; i++) {
        const mb_diff *diff = &window->diffs.items[i];
        if (!mb_text_equal(diff->owner, owner)) {
            PyErr_Format(PyExc_ValueError, "row %zu is of another owner than was asked for", i);
            return -1;
        }
        if (diff->logical_clock < first_clock) {
            PyErr_Format(PyExc_ValueError,
                         "row %zu has logical_clock %lld, but %lld and later was asked for", i,
                         (long long)diff->logical_clock, (long long)first_clock);
            return -1;
        }
    }
    return 0;
}

/* ---- back to Python ------------------------------------------------------------------------ */

static PyObject *text_to_str(mb_text text)
{
    return PyUnicode_DecodeUTF8(text.at, (Py_ssize_t)text.size, NULL);
}

/* A text of a diff: the object that it came in, or one that is made when first asked for.
 *
 * place     where the list keeps it
 * before    the same text of the diff before, or NULL: owners and models are mostly the same
 */
static PyObject *object_or_str(PyObject **place, mb_text text, PyObject *before,
                               mb_text text_before)
{
    if (*place == NULL && before != NULL && mb_text_equal(text, text_before))
        *place = Py_NewRef(before);
    if (*place == NULL)
        *place = text_to_str(text);
    return Py_XNewRef(*place);
}

static const mb_text no_text = {NULL, 0};

PyObject *diff_id(diff_list *list, size_t index)
{
    const mb_text id = list->diffs.items[index].id;
    if (list->objects == NULL)
        return text_to_str(id);
    return object_or_str(&list->objects[index].id, id, NULL, no_text);
}

static PyObject *diff_owner(diff_list *list, size_t index)
{
    const mb_diff *diff = &list->diffs.items[index];
    if (list->objects == NULL)
        return text_to_str(diff->owner);
    diff_objects *objects = &list->objects[index];
    if (index == 0)
        return object_or_str(&objects->owner, diff->owner, NULL, no_text);
    return object_or_str(&objects->owner, diff->owner, objects[-1].owner, diff[-1].owner);
}

PyObject *diff_model(diff_list *list, size_t index)
{
    const mb_diff *diff = &list->diffs.items[index];
    if (list->objects == NULL)
        return text_to_str(diff->model);
    diff_objects *objects = &list->objects[index];
    if (index == 0)
        return object_or_str(&objects->model, diff->model, NULL, no_text);
    return object_or_str(&objects->model, diff->model, objects[-1].model, diff[-1].model);
}

static PyObject *diff_json_data(diff_list *list, size_t index)
{
    const mb_text json_data = list->diffs.items[index].json_data;
    if (list->objects == NULL)
        return text_to_str(json_data);
    return object_or_str(&list->objects[index].json_data, json_data, NULL, no_text);
}

PyObject *outcome_json_data(const mb_outcome *outcome, diff_list *list)
{
    if (outcome->json_data.at == list->diffs.items[outcome->source].json_data.at)
        return diff_json_data(list, outcome->source);
    return text_to_str(outcome->json_data);
}

/* Makes a dict of the seven fields, whose references it takes; one may be NULL, with an error. */
static PyObject *values_to_dict(module_state *state, PyObject *const values[FIELDS])
{
    PyObject *dict = PyDict_Copy(state->blank);
    for (Py_ssize_t i = 0; i < FIELDS; i++) {
        if (dict != NULL &&
            (values[i] == NULL ||
             PyDict_SetItem(dict, PyTuple_GET_ITEM(state->fields, i), values[i]) < 0))
            Py_CLEAR(dict);
        Py_XDECREF(values[i]);
    }
    return dict;
}

int whole_diff_values(module_state *state, diff_list *list, size_t index, PyObject *values[FIELDS])
{
    const mb_diff *diff = &list->diffs.items[index];
    values[0] = diff_id(list, index);
    values[1] = diff_owner(list, index);
    values[2] = PyLong_FromLongLong(diff->logical_clock);
    values[3] = PyLong_FromLongLong(diff->utc_timestamp);
    values[4] = Py_NewRef(state->type_names[diff->type]);
    values[5] = diff_model(list, index);
    values[6] = diff_json_data(list, index);
    bool all = true;
    for (int i = 0; i < FIELDS; i++)
        all = all && values[i] != NULL;
    for (int i = 0; !all && i < FIELDS; i++)
        Py_CLEAR(values[i]);
    return all ? 0 : -1;
}

PyObject *whole_diff_to_dict(module_state *state, diff_list *list, size_t index)
{
    PyObject *values[FIELDS];
    if (whole_diff_values(state, list, index, values) < 0)
        return NULL;
    return values_to_dict(state, values);
}

PyObject *outcome_to_dict(module_state *state, const mb_outcome *outcome, diff_list *list,
                          int64_t logical_clock)
{
    PyObject *values[FIELDS] = {
        diff_id(list, outcome->source),
        diff_owner(list, outcome->source),
        PyLong_FromLongLong(logical_clock),
        PyLong_FromLongLong(outcome->utc_timestamp),
        Py_NewRef(state->type_names[outcome->type]),
        diff_model(list, outcome->source),
        outcome_json_data(outcome, list),
    };
    return values_to_dict(state, values);
}

static PyObject *values_to_tuple(PyObject *const values[FIELDS])
{
    PyObject *tuple = PyTuple_New(FIELDS);
    for (Py_ssize_t i = 0; i < FIELDS; i++) {
        if (tuple != NULL)
            PyTuple_SET_ITEM(tuple, i, values[i]);
        else
            Py_DECREF(values[i]);
    }
    return tuple;
}

/* The values of one row as a tuple, or None. */
static PyObject *read_row_values(module_state *state, PyObject *row, Py_ssize_t index,
                                 mb_arena *arena, diff_list *list)
{
    mb_text text = {NULL, 0};
    mb_error error;
    PyObject *values[FIELDS];
    mb_diff *diff = &list->diffs.items[index];
    if (borrow_json(state, row, &text) < 0)
        return NULL;
    const mb_status status = mb_diff_read(text, arena, diff, &error);
    if (status == MB_NO_MEMORY)
        return PyErr_NoMemory();
    if (status != MB_OK || !diff->is_whole)
        return Py_NewRef(Py_None);
    if (whole_diff_values(state, list, (size_t)index, values) < 0)
        return NULL;
    return values_to_tuple(values);
}

PyObject *read_log_values(module_state *state, PyObject *rows, mb_arena *arena)
{
    const Py_ssize_t count = PyTuple_GET_SIZE(rows);
    diff_list list = {.json = NULL};
    PyObject *read = NULL;
    if (diff_list_new(&list, count, arena) < 0)
        return NULL;
    read = PyList_New(count);
    for (Py_ssize_t i = 0; read != NULL && read != Py_None && i < count; i++) {
        PyObject *values = read_row_values(state, PyTuple_GET_ITEM(rows, i), i, arena, &list);
        if (values == NULL || values == Py_None)
            Py_SETREF(read, values);
        else
            PyList_SET_ITEM(read, i, values);
    }
    diff_list_clear(&list);
    return read;
}
