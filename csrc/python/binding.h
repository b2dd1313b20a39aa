/* binding.h - what the files of the binding share. */
#ifndef MOBYNC_BINDING_H
#define MOBYNC_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "../core/mobync.h"

typedef struct {
    PyTypeObject *exchange_type;
    PyTypeObject *compaction_type;
    PyObject *invalid_diff_error; /* mobync.errors.InvalidDiffError */
    PyObject *operation_type;     /* mobync.types.OperationType */
    uint64_t hash_seed;

    /* Interned: the seven fields, the types, and an enum's attribute. */
    PyObject *id;
    PyObject *owner;
    PyObject *logical_clock;
    PyObject *utc_timestamp;
    PyObject *type;
    PyObject *model;
    PyObject *json_data;
    PyObject *type_names[3];
    PyObject *name;

    PyObject *json_loads; /* json.loads */
    PyObject *shown;      /* mobync.errors.shown */
} module_state;

extern struct PyModuleDef mobync_core_module;
extern PyType_Spec exchange_spec;
extern PyType_Spec compaction_spec;

/* A diff's texts as Python objects: they keep the memory alive that the mb_diff borrows, and are
 * what goes out again.  All NULL where the diff came as JSON. */
typedef struct {
    PyObject *id;
    PyObject *owner;
    PyObject *model;
    PyObject *json_data;
} diff_objects;

/* A list of diffs that came from Python.  All zero: an empty list. */
typedef struct {
    mb_diffs diffs;        /* in an arena */
    diff_objects *objects; /* one for each diff; NULL where they came as JSON */
    PyObject *json;        /* the text that they were read from, or NULL */
} diff_list;

/* Gives back what a list holds; it is empty afterwards. */
void diff_list_clear(diff_list *list);

/* A tuple of what an iterable holds now: a new reference.  A subclass of list or tuple counts as
 * what it holds, whatever its methods say. */
PyObject *snapshot(PyObject *sequence);

/* Makes room for `count` diffs that come as dicts.  Returns 0, or -1 with MemoryError. */
int diff_list_new(diff_list *list, Py_ssize_t count, mb_arena *arena);

/* Reads a diff from a dict into its place in a list, and checks its form.
 *
 * dict    an exact dict
 * list    made by diff_list_new; the caller clears it, on failure too
 *
 * Returns 0, or -1 with InvalidDiffError, MemoryError or what a strange key raised.
 */
int read_diff(module_state *state, PyObject *dict, Py_ssize_t index, mb_arena *arena,
              diff_list *list);

/* What no diff may have for a key, since it is an argument of validate_* itself; ends with NULL. */
extern const char *const reserved_keys[];

/* Checks the keys of a request's diff, whose id is given: str, and none that is reserved.
 * Returns 0, or -1 with InvalidDiffError. */
int check_keys(module_state *state, PyObject *dict, Py_ssize_t index, PyObject *id);

/* Reads the rows that Synchronizer.read gave.
 *
 * rows    JSON text (str or bytes) or an iterable of mappings
 * list    out; the caller clears it, on failure too
 *
 * Returns 0, or -1 with InvalidDiffError for a row that is no diff, TypeError for what are no
 * rows, MemoryError, or what the iterable raised.
 */
int read_rows(module_state *state, PyObject *rows, mb_arena *arena, diff_list *list);

/* Checks that rows are what was asked for: of that owner, from that clock on.  A store that does
 * not filter would have other owners' diffs merged, or old ones taken for concurrent.
 * Returns 0, or -1 with ValueError. */
int check_window(const diff_list *window, mb_text owner, int64_t first_clock);

/* A new dict of the seven fields of an outcome.
 *
 * list             the list that it came from
 * logical_clock    what to put there
 */
PyObject *outcome_to_dict(module_state *state, const mb_outcome *outcome, const diff_list *list,
                          int64_t logical_clock);

/* A new dict of a diff that was read from JSON and is_whole; `id` is its id as a str. */
PyObject *whole_diff_to_dict(module_state *state, const mb_diff *diff, PyObject *id);

/* The text of JSON that came as str or bytes; borrowed.  Returns 0, or -1 with TypeError, or with
 * InvalidDiffError for a str that is no Unicode. */
int borrow_json(module_state *state, PyObject *json, mb_text *text);

/* The id, the model or the json_data of a diff as a new reference to a str. */
PyObject *diff_id(const diff_list *list, size_t index);
PyObject *diff_model(const diff_list *list, size_t index);
PyObject *outcome_json_data(const mb_outcome *outcome, const diff_list *list);

/* Raises InvalidDiffError(reason, index, diff_id).  `id` may be NULL; `index` -1 means none.
 * Always returns -1. */
int raise_invalid(module_state *state, Py_ssize_t index, PyObject *id, const char *format, ...);

/* Raises for a status that is not MB_OK. Always returns -1. */
int raise_status(module_state *state, mb_status status, Py_ssize_t index, PyObject *id,
                 const mb_error *error);

/* The same for a status of what reads JSON, with the index that it gave. */
int raise_read_status(module_state *state, mb_status status, size_t index, const mb_error *error);

mb_status new_arena(module_state *state, mb_arena **arena);

#endif
