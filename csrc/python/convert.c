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

/* Makes room for more diffs, all zero, without counting them in. The diffs may move, from an arena
 * into memory of the list's own. */
static int make_room(diff_list *list, size_t room)
{
    const size_t count = list->diffs.count, had = list->objects == NULL ? 0 : count;
    if (room > PY_SSIZE_T_MAX / sizeof(mb_diff))
        return check_memory(MB_NO_MEMORY);
    mb_diff *old = list->diffs.items;
    mb_diff *items = PyMem_Realloc(list->owns_diffs ? old : NULL, room * sizeof *items);
    if (items == NULL)
        return check_memory(MB_NO_MEMORY);
    if (!list->owns_diffs && count > 0)
        memcpy(items, old, count * sizeof *items);
    memset(&items[count], 0, (room - count) * sizeof *items);
    list->diffs.items = items;
    list->owns_diffs = true;
    diff_objects *objects = PyMem_Realloc(list->objects, room * sizeof *objects);
    if (objects == NULL)
        return check_memory(MB_NO_MEMORY);
    memset(&objects[had], 0, (room - had) * sizeof *objects);
    list->objects = objects;
    return 0;
}

int diff_list_new(diff_list *list, Py_ssize_t count)
{
    *list = (diff_list){.json = NULL};
    const int result = make_room(list, (size_t)count);
    list->diffs.count = result < 0 ? 0 : (size_t)count;
    return result;
}

int diff_list_append(diff_list *list, diff_list *more)
{
    const size_t count = list->diffs.count, added = more->diffs.count;
    if (make_room(list, count + added) < 0)
        return -1;
    memcpy(&list->diffs.items[count], more->diffs.items, added * sizeof *more->diffs.items);
    memcpy(&list->objects[count], more->objects, added * sizeof *more->objects);
    list->diffs.count += added;
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

/* The values of a diff's fields while they are read. What reads them runs no code up to the first
 * mistake, so they are borrowed; the exception is made when all have been read. */
typedef struct {
    module_state *state;
    PyObject *values[FIELDS]; /* NULL where a field is missing */
    mb_diff *diff;
    PyObject **texts; /* where the list keeps those of the diff */
    bool is_exact;    /* out: the values are nothing but str and int, not of a subclass */
    mb_error error;   /* out: of the first field with a mistake */
} reading;

/* Raises for a status of a diff that is not MB_OK.  Always returns -1. */
static int raise_reading(reading *r, mb_status status, size_t index)
{
    r->error.diff_id = r->diff->id;
    return raise_status(r->state, status, index, &r->error);
}

/* Notes the rule that the diff breaks.  Returns MB_INVALID. */
static mb_status refuse(reading *r, mb_code code, const char *field)
{
    return mb_refuse(&r->error, code, field);
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

int take_number(PyObject *given, int64_t *number)
{
    *number = given == NULL ? -1 : PyLong_AsLongLong(given);
    Py_XDECREF(given);
    if (*number < 0 && !PyErr_Occurred())
        return raise_format(PyExc_ValueError, "a number of 0 or more was expected, not %lld",
                            (long long)*number);
    return *number < 0 ? -1 : 0;
}

/* Clears the exception that a str has no UTF-8. Returns false if it is another one. */
static bool forget_lone_surrogate(void)
{
    if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError))
        return false;
    PyErr_Clear();
    return true;
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

/* What borrow_text() raised, as a status. */
static mb_status refuse_unread(reading *r, const char *field)
{
    return forget_lone_surrogate() ? refuse(r, MB_LONE_SURROGATE, field) : MB_NO_MEMORY;
}

static inline mb_status read_text(reading *r, PyObject *value, const char *field,
                                  diff_text_name which)
{
    PyObject *exact;
    if (value == NULL)
        return refuse(r, MB_MISSING, field);
    if (PyUnicode_CheckExact(value)) {
        exact = Py_NewRef(value);
    } else {
        if (!PyUnicode_Check(value))
            return refuse(r, MB_NOT_A_STRING, field);
        exact = PyUnicode_FromObject(value);
        r->is_exact = false;
    }
    if (exact == NULL || borrow_text(exact, text_of(r->diff, which)) < 0) {
        Py_XDECREF(exact);
        return refuse_unread(r, field);
    }
    r->texts[which] = exact;
    return MB_OK;
}

static inline mb_status read_integer(reading *r, PyObject *value, const char *field,
                                     int64_t *integer)
{
    int overflow = 0;
    if (value == NULL)
        return refuse(r, MB_MISSING, field);
    if (!PyLong_CheckExact(value)) {
        if (!PyLong_Check(value) || PyBool_Check(value))
            return refuse(r, MB_NOT_AN_INTEGER, field);
        r->is_exact = false;
    }
    *integer = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow != 0 || *integer < 0 || *integer > MB_MAX_INTEGER)
        return refuse(r, MB_NOT_AN_INTEGER, field);
    return MB_OK;
}

/* A type is its name; a row may also have the member of OperationType. */
static inline mb_status read_type(reading *r, PyObject *value)
{
    mb_text name;
    if (value == NULL)
        return refuse(r, MB_MISSING, "type");
    if (!PyUnicode_CheckExact(value))
        r->is_exact = false;
    for (mb_type type = MB_CREATE; type <= MB_DELETE; type++)
        if (value == r->state->type_names[type] || value == r->state->operation_types[type]) {
            r->diff->type = type; /* interned names nearly always end here */
            return MB_OK;
        }
    if (!PyUnicode_Check(value))
        return refuse(r, MB_NOT_A_STRING, "type");
    if (borrow_text(value, &name) < 0)
        return refuse_unread(r, "type");
    return mb_type_read(name, &r->diff->type) ? MB_OK : refuse(r, MB_NOT_A_TYPE, "type");
}

/* Reads the fields in the order in which people read them: the error is that of the first bad one.
 */
static mb_status read_fields(reading *r)
{
    PyObject *const *values = r->values;
    mb_diff *diff = r->diff;
    mb_status status = read_text(r, values[ID], "id", ID_TEXT);
    if (status == MB_OK)
        status = read_text(r, values[OWNER], "owner", OWNER_TEXT);
    if (status == MB_OK)
        status = read_integer(r, values[LOGICAL_CLOCK], "logical_clock", &diff->logical_clock);
    if (status == MB_OK)
        status = read_integer(r, values[UTC_TIMESTAMP], "utc_timestamp", &diff->utc_timestamp);
    if (status == MB_OK)
        status = read_type(r, values[TYPE]);
    if (status == MB_OK)
        status = read_text(r, values[MODEL], "model", MODEL_TEXT);
    return status == MB_OK ? read_text(r, values[JSON_DATA], "json_data", JSON_DATA_TEXT) : status;
}

/* Reads the fields of a refused diff that name its object, after the field with the mistake. If a
 * request continues without the diff, that object is restored. The values must be held: to make the
 * exception for a lone surrogate can start the garbage collector, which runs code. */
static void read_object_anyway(reading *r)
{
    const mb_error first = r->error;
    if (r->texts[MODEL_TEXT] == NULL)
        read_text(r, r->values[MODEL], "model", MODEL_TEXT);
    if (r->texts[JSON_DATA_TEXT] == NULL)
        read_text(r, r->values[JSON_DATA], "json_data", JSON_DATA_TEXT);
    PyErr_Clear();
    r->error = first;
}

/* ---- the values of a diff ------------------------------------------------------------------ */

/* Whether a key is a field; false for one whose comparison would run code. */
static bool is_plain_key(PyObject *key, PyObject *field)
{
    return key == field || (PyUnicode_CheckExact(key) && PyUnicode_Compare(key, field) == 0);
}

/* Finds the values of a diff as it nearly always comes: a dict that has the seven fields in their
 * order and no more. To walk along takes less than to look each key up, and runs no code. */
static bool find_plain_values(reading *r, PyObject *dict)
{
    PyObject *key, *const *fields = &PyTuple_GET_ITEM(r->state->fields, 0);
    Py_ssize_t position = 0;
    if (!PyDict_CheckExact(dict) || PyDict_GET_SIZE(dict) != FIELDS)
        return false;
    for (int i = 0; i < FIELDS; i++)
        if (!PyDict_Next(dict, &position, &key, &r->values[i]) || !is_plain_key(key, fields[i]))
            return false;
    return true;
}

/* Finds the values of a dict that nobody else has. Returns 0, or -1 with what a strange key raised.
 */
static int find_values(reading *r, PyObject *dict)
{
    for (int i = 0; i < FIELDS; i++) {
        r->values[i] = PyDict_GetItemWithError(dict, PyTuple_GET_ITEM(r->state->fields, i));
        if (r->values[i] == NULL && PyErr_Occurred())
            return -1;
    }
    return 0;
}

/* ---- a diff of a request ------------------------------------------------------------------- */

static void begin_reading(reading *r, module_state *state, size_t index, const diff_list *list)
{
    r->state = state;
    r->diff = &list->diffs.items[index];
    r->diff->is_utf8 = true; /* as CPython gives it */
    r->texts = list->objects[index].texts;
    r->is_exact = true;
}

/* Checks the keys of a request's diff: each is a str, and none is reserved. */
static int check_keys(reading *r, PyObject *dict, Py_ssize_t index)
{
    PyObject *key;
    Py_ssize_t position = 0;
    while (PyDict_Next(dict, &position, &key, NULL)) {
        if (!PyUnicode_Check(key)) {
            PyObject *shown = PyObject_CallOneArg(r->state->shown, key);
            if (shown != NULL)
                raise_invalid(r->state, index, r->diff, "a key must be a str, not %S", shown);
            Py_XDECREF(shown);
            return -1;
        }
        for (const char *const *name = reserved_keys; *name != NULL; name++)
            if (PyUnicode_CompareWithASCIIString(key, *name) == 0) {
                refuse(r, MB_RESERVED_KEY, *name);
                return raise_reading(r, MB_INVALID, (size_t)index);
            }
    }
    return 0;
}

/* Copies the dict of a request's diff, and finds its values in the copy. Returns 0, or -1 with an
 * exception. */
static int hold_values(reading *r, PyObject *dict, PyObject **copy)
{
    *copy = PyDict_Copy(dict);
    return *copy == NULL ? -1 : find_values(r, *copy);
}

int read_diff(module_state *state, PyObject *dict, Py_ssize_t index, const mb_request_rules *rules,
              mb_arena *arena, diff_list *list, PyObject **copy)
{
    reading r;
    begin_reading(&r, state, (size_t)index, list);
    if (!find_plain_values(&r, dict) && hold_values(&r, dict, copy) < 0)
        return -1;
    mb_status status = read_fields(&r);
    const bool must_hold = status == MB_INVALID || (status == MB_OK && !r.is_exact);
    if (must_hold && *copy == NULL && hold_values(&r, dict, copy) < 0)
        return -1;
    if (status == MB_INVALID)
        read_object_anyway(&r);
    else if (status == MB_OK)
        status = mb_diff_check(r.diff, rules, arena, &r.error);
    if (status != MB_OK)
        return raise_reading(&r, status, (size_t)index);
    return *copy == NULL ? 0 : check_keys(&r, *copy, index);
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

/* Checks the form of a row. Reading the members again takes longer than storing them, unless there
 * are many. */
static mb_status check_row(const rows_reader *reader, mb_diff *diff, size_t index, mb_error *error)
{
    enum { FEW = 1000 };
    return reader->with_members || index < FEW ? mb_diff_check(diff, NULL, reader->arena, error)
                                               : mb_log_row_check(diff, reader->arena, error);
}

static int read_json_rows(const rows_reader *reader, PyObject *rows)
{
    mb_diffs *diffs = &reader->list->diffs;
    mb_text text = {NULL, 0};
    mb_error error;
    size_t index;
    reader->list->json = Py_NewRef(rows);
    if (borrow_json(reader->state, rows, &text) < 0)
        return -1;
    mb_status status = mb_diffs_read(text, reader->arena, diffs, &index, &error);
    for (size_t i = 0; status == MB_OK && i < diffs->count; i++) {
        index = i;
        status = check_row(reader, &diffs->items[i], i, &error);
        error.diff_id = diffs->items[i].id;
    }
    return status == MB_OK ? 0 : raise_status(reader->state, status, index, &error);
}

/* Reads the fields of a row, and the times that only a folded one has: text, or None. */
static mb_status read_row(reading *r, PyObject *times)
{
    const mb_status status = times == NULL || times == Py_None
                                 ? MB_OK
                                 : read_text(r, times, "field_times", FIELD_TIMES_TEXT);
    return status == MB_OK ? read_fields(r) : status;
}

/* Checks the row that was read with this status. */
static int end_row(const rows_reader *reader, reading *r, mb_status status, size_t index)
{
    if (status == MB_OK)
        status = check_row(reader, r->diff, index, &r->error);
    return status == MB_OK ? 0 : raise_reading(r, status, index);
}

/* A copy of a row as an exact dict: a new reference. */
static PyObject *row_to_dict(PyObject *row, size_t index)
{
    PyObject *dict = PyDict_New();
    if (dict == NULL || PyDict_Update(dict, row) == 0)
        return dict;
    if (PyErr_ExceptionMatches(PyExc_AttributeError) || PyErr_ExceptionMatches(PyExc_TypeError))
        raise_format(PyExc_TypeError, "row %zu must be a dict, not %.100s", index,
                     Py_TYPE(row)->tp_name);
    Py_DECREF(dict);
    return NULL;
}

static int read_dict_row(const rows_reader *reader, PyObject *row, size_t index)
{
    reading r;
    PyObject *dict = NULL, *times = NULL;
    begin_reading(&r, reader->state, index, reader->list);
    if (!find_plain_values(&r, row)) {
        dict = row_to_dict(row, index);
        times = dict == NULL ? NULL : PyDict_GetItemWithError(dict, reader->state->field_times);
        if (dict == NULL || PyErr_Occurred() || find_values(&r, dict) < 0) {
            Py_XDECREF(dict);
            return -1;
        }
    }
    const mb_status status = read_row(&r, times);
    Py_XDECREF(dict);
    return end_row(reader, &r, status, index);
}

/* Raises for something that has no rows. Always returns -1. */
static int refuse_rows(PyObject *rows, PyObject *log_model)
{
    static const char wanted[] = "JSON text or a sequence of dicts, not";
    const char *type = Py_TYPE(rows)->tp_name;
    if (log_model == NULL)
        return raise_format(PyExc_TypeError, "expected %s %.100s", wanted, type);
    return raise_format(PyExc_TypeError, "read(%R) must return %s %.100s", log_model, wanted, type);
}

int read_rows(const rows_reader *reader, PyObject *rows)
{
    if (PyUnicode_Check(rows) || PyBytes_Check(rows))
        return read_json_rows(reader, rows);
    PyObject *taken = snapshot(rows);
    if (taken == NULL) {
        const bool no_rows =
            PyErr_ExceptionMatches(PyExc_TypeError) && Py_TYPE(rows)->tp_iter == NULL;
        return no_rows ? refuse_rows(rows, reader->log_model) : -1;
    }
    const Py_ssize_t count = PyTuple_GET_SIZE(taken);
    int result = diff_list_new(reader->list, count);
    for (Py_ssize_t i = 0; result == 0 && i < count; i++)
        result = read_dict_row(reader, PyTuple_GET_ITEM(taken, i), (size_t)i);
    Py_DECREF(taken);
    return result;
}

/* The values of a row: a new reference to a tuple of seven, or eight with the times. */
static PyObject *take_values(const rows_reader *reader, PyObject *row, size_t index)
{
    if (!PySequence_Check(row)) {
        raise_format(PyExc_TypeError, "read_log(%R) gave row %zu, which is %.100s, not a tuple",
                     reader->log_model, index, Py_TYPE(row)->tp_name);
        return NULL;
    }
    PyObject *values = PySequence_Tuple(row);
    const Py_ssize_t count = values == NULL ? FIELDS : PyTuple_GET_SIZE(values);
    if (count == FIELDS || count == FIELDS + 1)
        return values;
    raise_format(PyExc_TypeError, "read_log(%R) gave row %zu, which has %zd values, not %d",
                 reader->log_model, index, count, FIELDS);
    Py_DECREF(values);
    return NULL;
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

/* Reads a row as the next diff of the list, which has room for it. */
static int add_row(const rows_reader *reader, PyObject *row)
{
    diff_list *list = reader->list;
    const size_t index = list->diffs.count;
    PyObject *values = take_values(reader, row, index);
    if (values == NULL)
        return -1;
    list->diffs.count++;
    reading r;
    PyObject *const *items = PySequence_Fast_ITEMS(values);
    begin_reading(&r, reader->state, index, list);
    memcpy(r.values, items, sizeof r.values);
    const bool has_times = PyTuple_GET_SIZE(values) > FIELDS && !reader->skip_times;
    const mb_status status = read_row(&r, has_times ? items[FIELDS] : NULL);
    Py_DECREF(values);
    if (end_row(reader, &r, status, index) < 0)
        return -1;
    if (index > 0) {
        share_text(list, index, OWNER_TEXT);
        share_text(list, index, MODEL_TEXT);
    }
    return 0;
}

int read_value_rows(const rows_reader *reader, PyObject *rows)
{
    size_t room = 8;
    PyObject *row, *iterator = PyObject_GetIter(rows);
    if (iterator == NULL)
        return -1;
    int result = make_room(reader->list, room);
    while (result == 0 && (row = PyIter_Next(iterator)) != NULL) {
        if (reader->list->diffs.count == room)
            result = make_room(reader->list, room *= 2);
        if (result == 0)
            result = add_row(reader, row);
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

int diffs_between(const mb_diffs *all, int64_t first, int64_t end, mb_arena *arena, mb_diffs *found)
{
    if (check_memory(mb_diffs_new(arena, all->count, found)) < 0)
        return -1;
    found->count = 0;
    for (size_t i = 0; i < all->count; i++)
        if (all->items[i].logical_clock >= first && all->items[i].logical_clock < end)
            found->items[found->count++] = all->items[i];
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

/* Makes the object of a text that came as JSON; where the list has objects, only at the first use. If
 * the text equals that of the diff before, its object is used, because owners and models mostly are
 * the same. */
static PyObject *make_text(diff_list *list, size_t index, diff_text_name which)
{
    mb_diff *diff = &list->diffs.items[index];
    const mb_text text = *text_of(diff, which);
    if (list->objects == NULL)
        return text_to_str(text);
    diff_objects *objects = &list->objects[index];
    PyObject *before = index == 0 ? NULL : objects[-1].texts[which];
    const bool is_same = before != NULL && mb_text_equal(text, *text_of(diff - 1, which));
    objects->texts[which] = is_same ? Py_NewRef(before) : text_to_str(text);
    return Py_XNewRef(objects->texts[which]);
}

static inline PyObject *text_at(diff_list *list, size_t index, diff_text_name which)
{
    PyObject *text = list->objects == NULL ? NULL : list->objects[index].texts[which];
    return text != NULL ? Py_NewRef(text) : make_text(list, index, which);
}

PyObject *diff_text(diff_list *list, size_t index, diff_text_name which)
{
    return text_at(list, index, which);
}

PyObject *outcome_json_data(const mb_outcome *outcome, diff_list *list)
{
    if (outcome->json_data.at == list->diffs.items[outcome->source].json_data.at)
        return text_at(list, outcome->source, JSON_DATA_TEXT);
    return text_to_str(outcome->json_data);
}

int outcome_values(module_state *state, const mb_outcome *outcome, diff_list *list,
                   PyObject *values[FIELDS])
{
    const size_t source = outcome->source;
    values[ID] = text_at(list, source, ID_TEXT);
    values[OWNER] = text_at(list, source, OWNER_TEXT);
    values[LOGICAL_CLOCK] = PyLong_FromLongLong(list->diffs.items[source].logical_clock);
    values[UTC_TIMESTAMP] = PyLong_FromLongLong(outcome->utc_timestamp);
    values[TYPE] = Py_NewRef(state->type_names[outcome->type]);
    values[MODEL] = text_at(list, source, MODEL_TEXT);
    values[JSON_DATA] = outcome_json_data(outcome, list);
    if (values[ID] != NULL && values[OWNER] != NULL && values[LOGICAL_CLOCK] != NULL &&
        values[UTC_TIMESTAMP] != NULL && values[MODEL] != NULL && values[JSON_DATA] != NULL)
        return 0;
    for (int i = 0; i < FIELDS; i++)
        Py_CLEAR(values[i]);
    return -1;
}

static PyObject *outcome_to_dict(module_state *state, const mb_outcome *outcome, diff_list *list)
{
    PyObject *values[FIELDS];
    if (outcome_values(state, outcome, list, values) < 0)
        return NULL;
    PyObject *const *fields = &PyTuple_GET_ITEM(state->fields, 0);
    PyObject *dict = PyDict_Copy(state->blank);
    for (int i = 0; i < FIELDS; i++) {
        if (dict != NULL && PyDict_SetItem(dict, fields[i], values[i]) < 0)
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
