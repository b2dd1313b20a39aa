/* convert.c - diffs from Python to C and back.
 *
 * A diff comes in as a dict and leaves as one. In between, the core borrows the UTF-8 that CPython
 * stores inside each str. So the str objects are held as long as the merge lasts, and a text that
 * the merge did not change leaves as the same object that came in.
 *
 * Input is hostile until it is read: hashing or comparing a strange key can run any code. So a dict of
 * a request is copied before anything in it is used that could run code, and the values of a row are
 * held while they are read.
 *
 * A window can have a million rows. So a store may return them one by one, as values: each row is
 * read and released before the next is made. If a text equals that of the row before, as owners and
 * models mostly do, it is stored once.
 */
#include "binding.h"

#include "../core/text.h"

#include <stdarg.h>

const char *const reserved_keys[] = {"owner_id", "self", NULL};

/* ---- lists --------------------------------------------------------------------------------- */

void forget_texts(diff_list *list, size_t index)
{
    if (list->objects == NULL)
        return;
    list->diffs.items[index].id = list->diffs.items[index].json_data = (mb_text){NULL, 0};
    Py_CLEAR(list->objects[index].texts[ID_TEXT]);
    Py_CLEAR(list->objects[index].texts[JSON_DATA_TEXT]);
}

void diff_list_clear(diff_list *list)
{
    diff_list cleared = *list;
    *list = (diff_list){.json = NULL};
    for (size_t i = 0; cleared.objects != NULL && i < cleared.diffs.count; i++)
        for (int text = 0; text < TEXTS; text++)
            Py_XDECREF(cleared.objects[i].texts[text]);
    if (cleared.owns_diffs)
        PyMem_Free(cleared.diffs.items);
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

int diff_list_new(diff_list *list, Py_ssize_t count)
{
    mb_diff *items = PyMem_Calloc((size_t)count, sizeof *items);
    diff_objects *objects = PyMem_Calloc((size_t)count, sizeof *objects);
    if (items == NULL || objects == NULL) {
        PyMem_Free(items);
        PyMem_Free(objects);
        PyErr_NoMemory();
        return -1;
    }
    *list = (diff_list){.diffs = {items, (size_t)count}, .owns_diffs = true, .objects = objects};
    return 0;
}

/* Makes room for more diffs, without counting them in.  The diffs may move. */
static int make_room(diff_list *list, size_t room)
{
    if (room > PY_SSIZE_T_MAX / sizeof(mb_diff))
        return check_memory(MB_NO_MEMORY);
    mb_diff *items = PyMem_Realloc(list->diffs.items, room * sizeof *items);
    if (items != NULL)
        list->diffs.items = items;
    list->owns_diffs = true;
    diff_objects *objects = PyMem_Realloc(list->objects, room * sizeof *objects);
    if (objects != NULL)
        list->objects = objects;
    return check_memory(items == NULL || objects == NULL ? MB_NO_MEMORY : MB_OK);
}

/* Room for the diffs of a list and `more` behind them, in memory of the list's own. */
static int own_room(diff_list *list, size_t more)
{
    const size_t count = list->diffs.count;
    diff_list room = {.json = NULL};
    if (diff_list_new(&room, (Py_ssize_t)(count + more)) < 0)
        return -1;
    if (count > 0)
        memcpy(room.diffs.items, list->diffs.items, count * sizeof *room.diffs.items);
    if (count > 0 && list->objects != NULL)
        memcpy(room.objects, list->objects, count * sizeof *room.objects);
    if (list->owns_diffs)
        PyMem_Free(list->diffs.items);
    PyMem_Free(list->objects);
    list->diffs.items = room.diffs.items;
    list->owns_diffs = true;
    list->objects = room.objects;
    return 0;
}

int diff_list_append(diff_list *list, diff_list *more)
{
    const size_t count = list->diffs.count;
    if (own_room(list, more->diffs.count) < 0)
        return -1;
    memcpy(&list->diffs.items[count], more->diffs.items,
           more->diffs.count * sizeof *more->diffs.items);
    memcpy(&list->objects[count], more->objects, more->diffs.count * sizeof *more->objects);
    list->diffs.count += more->diffs.count;
    more->diffs.count = 0; /* its references are the other's now */
    diff_list_clear(more);
    return 0;
}

void put_item(PyObject **list, size_t place, PyObject *item)
{
    if (item == NULL)
        Py_CLEAR(*list);
    else
        PyList_SET_ITEM(*list, (Py_ssize_t)place, item);
}

/* ---- one diff ------------------------------------------------------------------------------ */

enum { ID, OWNER, LOGICAL_CLOCK, UTC_TIMESTAMP, TYPE, MODEL, JSON_DATA };

static const char *const field_names[FIELDS] = {"id",   "owner", "logical_clock", "utc_timestamp",
                                                "type", "model", "json_data"};

/* A dict while it is read as a diff. */
typedef struct {
    module_state *state;
    Py_ssize_t index;
    PyObject *values[FIELDS]; /* references, NULL where a field is missing */
    bool is_whole;            /* the dict has the fields and no more */
    mb_diff *diff;
    PyObject **texts; /* where the list keeps those of the diff */
} reading;

/* Raises the error of the core for a rule that the diff breaks. Always returns -1. */
static int refuse(const reading *r, mb_code code, const char *field)
{
    return raise_rule(r->state, code, field, r->index, r->texts[ID_TEXT]);
}

int borrow_text(PyObject *str, mb_text *text)
{
    Py_ssize_t size;
    if (PyUnicode_IS_COMPACT_ASCII(str)) {
        *text = (mb_text){PyUnicode_DATA(str), (size_t)PyUnicode_GET_LENGTH(str)};
        return 0;
    }
    const char *at = PyUnicode_AsUTF8AndSize(str, &size);
    if (at == NULL)
        return -1;
    *text = (mb_text){at, (size_t)size};
    return 0;
}

bool forget_lone_surrogate(void)
{
    if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError))
        return false;
    PyErr_Clear();
    return true;
}

static void release_values(reading *r, int count)
{
    for (int i = 0; i < count; i++)
        Py_XDECREF(r->values[i]);
}

/* Whether a key is a field; false for one whose comparison would run code. */
static bool is_plain_key(PyObject *key, PyObject *field)
{
    return key == field || (PyUnicode_CheckExact(key) && PyUnicode_Compare(key, field) == 0);
}

/* Takes references to the values of a dict whose first keys are the fields in their order, as those of
 * most stores and devices are: to walk along takes less than to look each key up, and runs no code. */
static bool take_values_in_order(reading *r, PyObject *dict)
{
    PyObject *key, *value;
    Py_ssize_t position = 0;
    int taken = 0;
    while (taken < FIELDS && PyDict_Next(dict, &position, &key, &value) &&
           is_plain_key(key, PyTuple_GET_ITEM(r->state->fields, taken)))
        r->values[taken++] = Py_NewRef(value);
    r->is_whole = taken == FIELDS && PyDict_GET_SIZE(dict) == FIELDS;
    if (taken < FIELDS)
        release_values(r, taken);
    return taken == FIELDS;
}

/* Takes references to the values of the fields.  Returns 0, or -1 with what a strange key raised. */
static int take_values(reading *r, PyObject *dict)
{
    if (take_values_in_order(r, dict))
        return 0;
    for (int i = 0; i < FIELDS; i++) {
        r->values[i] = PyDict_GetItemWithError(dict, PyTuple_GET_ITEM(r->state->fields, i));
        if (r->values[i] == NULL && PyErr_Occurred()) {
            release_values(r, i);
            return -1;
        }
        Py_XINCREF(r->values[i]);
    }
    return 0;
}

/* Takes the values of a dict that has nothing but the seven fields, in their order, as nothing but str
 * and int.  That runs no code, so such a dict need not be copied. */
static bool take_plain_values(reading *r, PyObject *dict)
{
    if (!take_values_in_order(r, dict))
        return false;
    bool is_plain = r->is_whole;
    for (int i = 0; i < FIELDS; i++)
        is_plain &= i == LOGICAL_CLOCK || i == UTC_TIMESTAMP ? PyLong_CheckExact(r->values[i])
                                                             : PyUnicode_CheckExact(r->values[i]);
    if (!is_plain)
        release_values(r, FIELDS);
    return is_plain;
}

/* The place of one of a diff's texts. */
static mb_text *text_of(mb_diff *diff, diff_text_name which)
{
    static const size_t offsets[TEXTS] = {
        [ID_TEXT] = offsetof(mb_diff, id),
        [OWNER_TEXT] = offsetof(mb_diff, owner),
        [MODEL_TEXT] = offsetof(mb_diff, model),
        [JSON_DATA_TEXT] = offsetof(mb_diff, json_data),
        [FIELD_TIMES_TEXT] = offsetof(mb_diff, field_times),
    };
    return (mb_text *)((char *)diff + offsets[which]);
}

static int take_text(const reading *r, PyObject *value, const char *field, diff_text_name which)
{
    if (value == NULL)
        return refuse(r, MB_MISSING, field);
    if (!PyUnicode_Check(value))
        return refuse(r, MB_NOT_A_STRING, field);
    PyObject *exact = PyUnicode_CheckExact(value) ? Py_NewRef(value) : PyUnicode_FromObject(value);
    if (exact == NULL)
        return -1;
    if (borrow_text(exact, text_of(r->diff, which)) < 0) {
        Py_DECREF(exact);
        return forget_lone_surrogate() ? refuse(r, MB_LONE_SURROGATE, field) : -1;
    }
    r->texts[which] = exact;
    return 0;
}

static int read_text(const reading *r, int field, diff_text_name which)
{
    return take_text(r, r->values[field], field_names[field], which);
}

/* Reads the field that only a folded row of the log has: text, or None. */
static int take_times(const reading *r, PyObject *times)
{
    return times == Py_None ? 0 : take_text(r, times, "field_times", FIELD_TIMES_TEXT);
}

static int take_times_in(const reading *r, PyObject *dict)
{
    if (PyDict_GET_SIZE(dict) <= FIELDS)
        return 0;
    PyObject *times = PyDict_GetItemWithError(dict, r->state->field_times);
    if (times == NULL)
        return PyErr_Occurred() ? -1 : 0;
    Py_INCREF(times);
    const int result = take_times(r, times);
    Py_DECREF(times);
    return result;
}

static int read_integer(const reading *r, int field, int64_t *integer)
{
    PyObject *value = r->values[field];
    int overflow = 0;
    if (value == NULL)
        return refuse(r, MB_MISSING, field_names[field]);
    const bool is_integer = PyLong_Check(value) && !PyBool_Check(value);
    *integer = is_integer ? PyLong_AsLongLongAndOverflow(value, &overflow) : -1;
    if (*integer == -1 && PyErr_Occurred())
        return -1;
    if (overflow != 0 || *integer < 0 || *integer > MB_MAX_INTEGER)
        return refuse(r, MB_NOT_AN_INTEGER, field_names[field]);
    return 0;
}

/* A type is its name; a row may also have the member of OperationType. */
static int read_type(const reading *r, mb_type *type)
{
    PyObject *value = r->values[TYPE];
    if (value == NULL)
        return refuse(r, MB_MISSING, "type");
    PyObject *name = Py_IS_TYPE(value, (PyTypeObject *)r->state->operation_type)
                         ? PyObject_GetAttr(value, r->state->name)
                         : Py_NewRef(value);
    if (name == NULL)
        return -1;
    int result = -1;
    mb_text text = {NULL, 0};
    if (!PyUnicode_Check(name))
        refuse(r, MB_NOT_A_STRING, "type");
    else if (borrow_text(name, &text) < 0)
        result = forget_lone_surrogate() ? refuse(r, MB_LONE_SURROGATE, "type") : -1;
    else
        result = mb_type_read(text, type) ? 0 : refuse(r, MB_NOT_A_TYPE, "type");
    Py_DECREF(name);
    return result;
}

/* Reads the fields in the order in which people read them: the error names the first bad one. */
static int read_fields(const reading *r)
{
    if (read_text(r, ID, ID_TEXT) < 0 || read_text(r, OWNER, OWNER_TEXT) < 0 ||
        read_integer(r, LOGICAL_CLOCK, &r->diff->logical_clock) < 0 ||
        read_integer(r, UTC_TIMESTAMP, &r->diff->utc_timestamp) < 0 ||
        read_type(r, &r->diff->type) < 0 || read_text(r, MODEL, MODEL_TEXT) < 0)
        return -1;
    return read_text(r, JSON_DATA, JSON_DATA_TEXT);
}

/* Reads the fields of a refused diff that name its object, after the field with the mistake. If a
 * request continues without the diff, that object is restored. Keeps the exception that is set. */
static void read_object_anyway(const reading *r)
{
    PyObject *exception = take_exception();
    if (r->texts[MODEL_TEXT] == NULL && read_text(r, MODEL, MODEL_TEXT) < 0)
        PyErr_Clear();
    if (r->texts[JSON_DATA_TEXT] == NULL && read_text(r, JSON_DATA, JSON_DATA_TEXT) < 0)
        PyErr_Clear();
    restore_exception(exception);
}

/* Checks the keys of a request's diff: each is a str, and none is reserved. */
static int check_keys(const reading *r, PyObject *dict)
{
    PyObject *key;
    Py_ssize_t position = 0;
    while (PyDict_Next(dict, &position, &key, NULL)) {
        if (!PyUnicode_Check(key)) {
            PyObject *shown = PyObject_CallOneArg(r->state->shown, key);
            if (shown != NULL)
                raise_invalid(r->state, r->index, r->texts[ID_TEXT], "a key must be a str, not %S",
                              shown);
            Py_XDECREF(shown);
            return -1;
        }
        for (const char *const *name = reserved_keys; *name != NULL; name++)
            if (PyUnicode_CompareWithASCIIString(key, *name) == 0)
                return refuse(r, MB_RESERVED_KEY, *name);
    }
    return 0;
}

static reading begin_reading(module_state *state, Py_ssize_t index, const diff_list *list)
{
    mb_diff *diff = &list->diffs.items[index];
    diff->is_utf8 = true; /* as CPython gives it */
    return (reading){
        .state = state, .index = index, .diff = diff, .texts = list->objects[index].texts};
}

int read_diff(module_state *state, PyObject *dict, Py_ssize_t index, const mb_request_rules *rules,
              mb_arena *arena, diff_list *list, PyObject **copy)
{
    reading r = begin_reading(state, index, list);
    if (!take_plain_values(&r, dict)) {
        *copy = PyDict_Copy(dict);
        if (*copy == NULL || take_values(&r, *copy) < 0)
            return -1;
    }
    const int result = read_fields(&r);
    if (result < 0)
        read_object_anyway(&r);
    release_values(&r, FIELDS);
    if (result < 0)
        return -1;

    mb_error error;
    const mb_status status = mb_diff_check(r.diff, rules, arena, &error);
    if (status != MB_OK)
        return raise_status(state, status, index, r.texts[ID_TEXT], &error);
    return r.is_whole ? 0 : check_keys(&r, *copy);
}

/* ---- the rows of a window ------------------------------------------------------------------ */

int borrow_json(module_state *state, PyObject *json, mb_text *text)
{
    if (PyBytes_Check(json)) {
        *text = (mb_text){PyBytes_AS_STRING(json), (size_t)PyBytes_GET_SIZE(json)};
        return 0;
    }
    if (!PyUnicode_Check(json))
        return raise_format(PyExc_TypeError, "JSON text must be str or bytes, not %.100s",
                            Py_TYPE(json)->tp_name);
    if (borrow_text(json, text) == 0)
        return 0;
    return forget_lone_surrogate()
               ? raise_invalid(state, -1, NULL, "the JSON text has a lone surrogate")
               : -1;
}

/* Reading the members again takes longer than storing them, unless there are many. */
static mb_status check_row(mb_diff *diff, bool with_members, size_t index, mb_arena *arena,
                           mb_error *error)
{
    enum { FEW = 1000 };
    return with_members || index < FEW ? mb_diff_check(diff, NULL, arena, error)
                                       : mb_log_row_check(diff, arena, error);
}

static int read_json_rows(module_state *state, PyObject *rows, bool with_members, mb_arena *arena,
                          mb_diffs *diffs)
{
    mb_text text = {NULL, 0};
    if (borrow_json(state, rows, &text) < 0)
        return -1;

    mb_error error;
    size_t index;
    mb_status status = mb_diffs_read(text, arena, diffs, &index, &error);
    for (size_t i = 0; status == MB_OK && i < diffs->count; i++) {
        index = i;
        status = check_row(&diffs->items[i], with_members, i, arena, &error);
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
            raise_format(PyExc_TypeError, "row %zd must be a dict, not %.100s", index,
                         Py_TYPE(row)->tp_name);
        Py_CLEAR(dict);
    }
    return dict;
}

static int refuse_rows(PyObject *rows, PyObject *log_model)
{
    static const char wanted[] = "JSON text or a sequence of dicts, not";
    const char *type = Py_TYPE(rows)->tp_name;
    if (log_model == NULL)
        return raise_format(PyExc_TypeError, "expected %s %.100s", wanted, type);
    return raise_format(PyExc_TypeError, "read(%R) must return %s %.100s", log_model, wanted, type);
}

/* Reads the fields from the values that were taken, and releases those. */
static int read_row(reading *r, bool with_members, mb_arena *arena)
{
    mb_error error;
    const int result = read_fields(r);
    release_values(r, FIELDS);
    if (result < 0)
        return -1;
    const mb_status status = check_row(r->diff, with_members, (size_t)r->index, arena, &error);
    return status == MB_OK ? 0
                           : raise_status(r->state, status, r->index, r->texts[ID_TEXT], &error);
}

static int read_dict_row(module_state *state, PyObject *row, Py_ssize_t index, bool with_members,
                         mb_arena *arena, diff_list *list)
{
    reading r = begin_reading(state, index, list);
    PyObject *dict = row_to_dict(row, index);
    const bool taken = dict != NULL && take_times_in(&r, dict) == 0 && take_values(&r, dict) == 0;
    Py_XDECREF(dict);
    return taken ? read_row(&r, with_members, arena) : -1;
}

int read_rows(module_state *state, PyObject *rows, PyObject *log_model, bool with_members,
              mb_arena *arena, diff_list *list)
{
    if (PyUnicode_Check(rows) || PyBytes_Check(rows)) {
        list->json = Py_NewRef(rows);
        return read_json_rows(state, rows, with_members, arena, &list->diffs);
    }

    PyObject *taken = snapshot(rows);
    if (taken == NULL) {
        const bool no_rows =
            PyErr_ExceptionMatches(PyExc_TypeError) && Py_TYPE(rows)->tp_iter == NULL;
        return no_rows ? refuse_rows(rows, log_model) : -1;
    }
    const Py_ssize_t count = PyTuple_GET_SIZE(taken);
    int result = diff_list_new(list, count);
    for (Py_ssize_t i = 0; result == 0 && i < count; i++)
        result = read_dict_row(state, PyTuple_GET_ITEM(taken, i), i, with_members, arena, list);
    Py_DECREF(taken);
    return result;
}

/* Takes references to the values of a row. */
static int take_row_values(reading *r, PyObject *row, PyObject *log_model)
{
    if (!PySequence_Check(row))
        return raise_format(PyExc_TypeError,
                            "read_log(%R) gave row %zd, which is %.100s, not a tuple", log_model,
                            r->index, Py_TYPE(row)->tp_name);
    PyObject *values = PySequence_Tuple(row);
    if (values == NULL)
        return -1;
    const Py_ssize_t count = PyTuple_GET_SIZE(values);
    int result = 0;
    if (count == FIELDS + 1)
        result = take_times(r, PyTuple_GET_ITEM(values, FIELDS));
    else if (count != FIELDS)
        result =
            raise_format(PyExc_TypeError, "read_log(%R) gave row %zd, which has %zd values, not %d",
                         log_model, r->index, count, FIELDS);
    for (Py_ssize_t i = 0; result == 0 && i < FIELDS; i++)
        r->values[i] = Py_NewRef(PyTuple_GET_ITEM(values, i));
    Py_DECREF(values);
    return result;
}

/* Stores a text once if it equals that of the row before. */
static void share_text(diff_list *list, size_t index, diff_text_name which)
{
    mb_text *text = text_of(&list->diffs.items[index], which);
    const mb_text before = *text_of(&list->diffs.items[index - 1], which);
    if (!mb_text_equal(*text, before))
        return;
    *text = before;
    Py_SETREF(list->objects[index].texts[which], Py_NewRef(list->objects[index - 1].texts[which]));
}

/* Reads a row as the next diff of the list. */
static int add_value_row(module_state *state, PyObject *row, PyObject *log_model, bool with_members,
                         mb_arena *arena, diff_list *list)
{
    const size_t index = list->diffs.count++;
    list->diffs.items[index] = (mb_diff){.members = NULL};
    list->objects[index] = (diff_objects){{NULL}};
    reading r = begin_reading(state, (Py_ssize_t)index, list);
    if (take_row_values(&r, row, log_model) < 0 || read_row(&r, with_members, arena) < 0)
        return -1;
    if (index > 0) {
        share_text(list, index, OWNER_TEXT);
        share_text(list, index, MODEL_TEXT);
    }
    return 0;
}

int read_value_rows(module_state *state, PyObject *rows, PyObject *log_model, bool with_members,
                    mb_arena *arena, diff_list *list)
{
    enum { FIRST_ROOM = 8 };
    size_t room = FIRST_ROOM;
    PyObject *row, *iterator = PyObject_GetIter(rows);
    if (iterator == NULL)
        return -1;
    int result = make_room(list, room);
    while (result == 0 && (row = PyIter_Next(iterator)) != NULL) {
        if (list->diffs.count == room)
            result = make_room(list, room *= 2);
        if (result == 0)
            result = add_value_row(state, row, log_model, with_members, arena, list);
        Py_DECREF(row);
    }
    Py_DECREF(iterator);
    return result == 0 && PyErr_Occurred() ? -1 : result;
}

/* Raises for a row that was not requested. Always returns -1. */
static int refuse_row(PyObject *method, PyObject *log_model, size_t row, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    PyObject *what = PyUnicode_FromFormatV(format, arguments);
    va_end(arguments);
    if (what != NULL && log_model != NULL)
        raise_format(PyExc_ValueError, "%U(%R) gave row %zu, which %U", method, log_model, row,
                     what);
    else if (what != NULL)
        raise_format(PyExc_ValueError, "row %zu %U", row, what);
    Py_XDECREF(what);
    return -1;
}

int check_window(const diff_list *window, mb_text owner, int64_t first_clock, PyObject *method,
                 PyObject *log_model)
{
    for (size_t i = 0; i < window->diffs.count; i++) {
        const mb_diff *diff = &window->diffs.items[i];
        if (!mb_text_equal(diff->owner, owner))
            return refuse_row(method, log_model, i, "belongs to another owner");
        if (diff->logical_clock < first_clock)
            return refuse_row(method, log_model, i,
                              "has logical_clock %lld, but %lld and later was asked for",
                              (long long)diff->logical_clock, (long long)first_clock);
    }
    return 0;
}

int64_t highest_of(const mb_diffs *diffs)
{
    int64_t highest = -1;
    for (size_t i = 0; i < diffs->count; i++)
        if (diffs->items[i].logical_clock > highest)
            highest = diffs->items[i].logical_clock;
    return highest;
}

/* ---- back to Python ------------------------------------------------------------------------ */

PyObject *text_to_str(mb_text text)
{
    return PyUnicode_DecodeUTF8(text.at, (Py_ssize_t)text.size, NULL);
}

/* Makes the object of a text that came as JSON, at the first use. If the text equals that of the diff
 * before, its object is used, because owners and models mostly are the same. */
static PyObject *make_text(diff_list *list, size_t index, diff_text_name which)
{
    mb_diff *diff = &list->diffs.items[index];
    diff_objects *objects = &list->objects[index];
    const mb_text text = *text_of(diff, which);
    PyObject *before = index == 0 ? NULL : objects[-1].texts[which];
    const bool is_same = before != NULL && mb_text_equal(text, *text_of(diff - 1, which));
    objects->texts[which] = is_same ? Py_NewRef(before) : text_to_str(text);
    return Py_XNewRef(objects->texts[which]);
}

PyObject *diff_text(diff_list *list, size_t index, diff_text_name which)
{
    if (list->objects == NULL)
        return text_to_str(*text_of(&list->diffs.items[index], which));
    PyObject *text = list->objects[index].texts[which];
    return text != NULL ? Py_NewRef(text) : make_text(list, index, which);
}

PyObject *outcome_json_data(const mb_outcome *outcome, diff_list *list)
{
    if (outcome->json_data.at == list->diffs.items[outcome->source].json_data.at)
        return diff_text(list, outcome->source, JSON_DATA_TEXT);
    return text_to_str(outcome->json_data);
}

int outcome_values(module_state *state, const mb_outcome *outcome, diff_list *list,
                   PyObject *values[FIELDS])
{
    const size_t source = outcome->source;
    values[ID] = diff_text(list, source, ID_TEXT);
    values[OWNER] = diff_text(list, source, OWNER_TEXT);
    values[LOGICAL_CLOCK] = PyLong_FromLongLong(list->diffs.items[source].logical_clock);
    values[UTC_TIMESTAMP] = PyLong_FromLongLong(outcome->utc_timestamp);
    values[TYPE] = Py_NewRef(state->type_names[outcome->type]);
    values[MODEL] = diff_text(list, source, MODEL_TEXT);
    values[JSON_DATA] = outcome_json_data(outcome, list);
    bool has_all = true;
    for (int i = 0; i < FIELDS; i++)
        has_all = has_all && values[i] != NULL;
    for (int i = 0; !has_all && i < FIELDS; i++)
        Py_CLEAR(values[i]);
    return has_all ? 0 : -1;
}

static PyObject *outcome_to_dict(module_state *state, const mb_outcome *outcome, diff_list *list)
{
    PyObject *values[FIELDS];
    if (outcome_values(state, outcome, list, values) < 0)
        return NULL;
    PyObject *dict = PyDict_Copy(state->blank);
    for (Py_ssize_t i = 0; i < FIELDS; i++) {
        if (dict != NULL && PyDict_SetItem(dict, PyTuple_GET_ITEM(state->fields, i), values[i]) < 0)
            Py_CLEAR(dict);
        Py_DECREF(values[i]);
    }
    return dict;
}

PyObject *outcomes_to_list(module_state *state, const mb_outcomes *outcomes, diff_list *list)
{
    PyObject *dicts = PyList_New((Py_ssize_t)outcomes->count);
    for (size_t i = 0; dicts != NULL && i < outcomes->count; i++)
        put_item(&dicts, i, outcome_to_dict(state, &outcomes->items[i], list));
    return dicts;
}
