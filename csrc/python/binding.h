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
    mb_arena *idle_arena; /* of a call that is over, for the next one; or NULL */

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

    PyObject *fields; /* a tuple of the seven, in the order of a diff */
    PyObject *blank;  /* a dict of them: its copies have room for seven from the start */

    PyObject *json_loads; /* json.loads */
    PyObject *shown;      /* mobync.errors.shown */
} module_state;

extern struct PyModuleDef mobync_core_module;
extern PyType_Spec exchange_spec;
extern PyType_Spec compaction_spec;

/* A diff's texts as Python objects: they keep the memory alive that the mb_diff borrows, and are
 * what goes out again.  NULL where the diff came as JSON and nobody has asked for them yet. */
typedef struct {
    PyObject *id;
    PyObject *owner;
    PyObject *model;
    PyObject *json_data;
} diff_objects;

/* A list of diffs that came from Python.  All zero: an empty list. */
typedef struct {
    mb_diffs diffs;        /* in an arena */
    diff_objects *objects; /* one for each diff; NULL for rows that came as JSON */
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
PyObject *outcome_to_dict(module_state *state, const mb_outcome *outcome, diff_list *list,
                          int64_t logical_clock);

enum { FIELDS = 7 };

/* The fields of a diff that was read from JSON and is_whole, in the order of state->fields: new
 * references.  Returns 0, or -1 with MemoryError. */
int whole_diff_values(module_state *state, diff_list *list, size_t index, PyObject *values[FIELDS]);

/* A new dict of such a diff. */
PyObject *whole_diff_to_dict(module_state *state, diff_list *list, size_t index);

/* The values of rows that are whole diffs as JSON text: a new list of a tuple each, in the order of
 * state->fields; None if a row is anything else.
 *
 * rows    an exact tuple
 *
 * Returns NULL with TypeError, InvalidDiffError for a str that is no Unicode, or MemoryError.
 */
PyObject *read_log_values(module_state *state, PyObject *rows, mb_arena *arena);

/* The text of JSON that came as str or bytes; borrowed.  Returns 0, or -1 with TypeError, or with
 * InvalidDiffError for a str that is no Unicode. */
int borrow_json(module_state *state, PyObject *json, mb_text *text);

/* The id, the model or the json_data of a diff as a new reference to a str. */
PyObject *diff_id(diff_list *list, size_t index);
PyObject *diff_model(diff_list *list, size_t index);
PyObject *outcome_json_data(const mb_outcome *outcome, diff_list *list);

/* Raises InvalidDiffError(reason, index, diff_id).  `id` may be NULL; `index` -1 means none.
 * Always returns -1. */
int raise_invalid(module_state *state, Py_ssize_t index, PyObject *id, const char *format, ...);

/* Raises for a status that is not MB_OK. Always returns -1. */
int raise_status(module_state *state, mb_status status, Py_ssize_t index, PyObject *id,
                 const mb_error *error);

/* The same for a status of what reads JSON, with the index that it gave. */
int raise_read_status(module_state *state, mb_status status, size_t index, const mb_error *error);

/* An arena for one call, which nobody else has.  Returns MB_OK or MB_NO_MEMORY. */
mb_status take_arena(module_state *state, mb_arena **arena);

/* Ends the use of an arena: it is kept for the next call, or freed.  NULL is allowed for both. */
void give_back_arena(module_state *state, mb_arena *arena);

/* The state of an instance's module; NULL once the collector has taken the module from its type. */
module_state *state_at_end(PyTypeObject *type);

#endif
