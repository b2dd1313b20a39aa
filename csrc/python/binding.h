/* binding.h - what the files of the binding share.
 *
 *     module        the state that the calls share, and the plain functions
 *     convert       diffs from Python to C and back
 *     errors        errors of the core as exceptions
 *     synchronizer  the app: its seven methods, and which optional ones it has
 *     request       one sync request: its diffs, its clock, its page
 *     validate      the app's rules, and which diffs are refused along with one
 *     attempt       the attempts of a sync, each with a store
 *     pull          a request without diffs, answered without the owner's lock
 *     sync          one sync inside the owner's transaction: the order of the protocol
 *     device        what kind of request of a device it is, and what is stored about it
 *     window        what a device has not seen
 *     filled        the server's part of a sync: what rows have that no diff said
 *     reply         what the device gets
 *     mobync        the type that apps use
 *     compaction    a log compacted piece by piece
 *
 * Where nothing else is said, a function that returns an int returns 0, or -1 with an exception; one
 * that returns an object returns a new reference, or NULL with an exception.
 */
#ifndef MOBYNC_BINDING_H
#define MOBYNC_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "../core/mobync.h"

/* ---- the module ---------------------------------------------------------------------------- */

enum { FIELDS = 7 };

/* The optional methods of a Synchronizer, in the order of state->optional_names. */
typedef enum {
    TRANSACTION,
    WRITE_ORDER,
    HIGHEST_LOGICAL_CLOCK,
    CREATE_MANY, /* these three in the order of mb_type */
    UPDATE_MANY,
    DELETE_MANY,
    CHECK_WRITTEN,
    APPEND_LOG,
    READ_LOG,
    READING,
    READ_DEVICES,
    WRITE_DEVICES,
    OPTIONAL_METHODS
} optional_method;

enum { HEAD_UNREAD = -2 }; /* instead of an owner's highest clock: it is not known */

enum { STATE_OBJECTS = 80 }; /* as many at most */

typedef struct {
    PyTypeObject *synchronizer_type;
    PyTypeObject *mobync_type;
    PyTypeObject *compaction_type;
    uint64_t hash_seed;
    mb_arena *idle_arena; /* of a call that is over, for the next one; or NULL */

    union { /* what the calls look up, by name and all together; module.c has the same order */
        PyObject *objects[STATE_OBJECTS];
        struct {
            /* mobync.errors */
            PyObject *invalid_diff_error, *id_taken_error, *unauthorized_error;
            PyObject *logical_clock_error, *page_error, *shown;

            /* mobync.types */
            PyObject *operation_types[3], *filter_types[3]; /* equal, majorOrEqual, minor */
            PyObject *read_filter;

            PyObject *json_loads, *json_dumps, *make_uuid;

            /* mobync._sync and mobync.synchronizer, imported when the first Mobync is made, since these modules import this */
            PyObject *begin_again, *one_moment, *attempts, *admit, *poll;
            PyObject *admit_nameless, *poll_nameless, *begin_log, *take_part, *apply_part;
            PyObject *begin_filling;
            PyObject *default_methods[OPTIONAL_METHODS]; /* of mobync.Synchronizer */

            /* Interned: the seven fields, the types, and what is called or looked up. */
            PyObject *id, *owner, *logical_clock, *utc_timestamp, *type, *model, *json_data;
            PyObject *type_names[3], *rule_names[3], *optional_names[OPTIONAL_METHODS];
            PyObject *read, *throw_, *ahead, *index, *diff_id, *others, *reason;
            PyObject *now_ms, *tell, *field_times, *filled_models, *finish;

            PyObject *fields; /* a tuple of the seven, in the order of a diff */
            PyObject *blank;  /* a dict of them: its copies have room for seven from the start */
        };
    };
} module_state;

/* A function as the value of a slot. ISO C converts a function to a number but not to void *, which
 * a slot holds. */
#define SLOT_FUNCTION(function) ((void *)(uintptr_t)(function))

extern struct PyModuleDef mobync_core_module;
extern PyType_Spec synchronizer_spec;
extern PyType_Spec mobync_spec;
extern PyType_Spec compaction_spec;

/* Imports what the calls of a Mobync need from the package. */
int import_package(module_state *state);

/* An arena for one call. */
int take_arena(module_state *state, mb_arena **arena);

/* Ends the use of an arena: it is stored for the next call, or freed. NULL is allowed for both. */
void give_back_arena(module_state *state, mb_arena *arena);

/* The state of the module of a type, or of a base of that type. NULL after the collector has taken
 * the module from the type. */
module_state *state_of_type(PyTypeObject *type);

/* ---- errors -------------------------------------------------------------------------------- */

/* Raises an exception, and takes the reference to it. It may be NULL if an exception is set that
 * says why. Always returns -1, like all of these. */
int raise_made(PyObject *exception);

/* Raises InvalidDiffError or UnauthorizedError with a reason; takes the reference to that, which may
 * be NULL with an exception set.
 *
 * index    of the diff; -1: it is not about one
 * id       of the diff; empty: it has none
 */
int raise_at(PyObject *type, Py_ssize_t index, mb_text id, PyObject *reason);

/* Raises InvalidDiffError with a text; `diff` may be NULL. */
int raise_invalid(module_state *state, Py_ssize_t index, const mb_diff *diff, const char *format,
                  ...);

/* Raises for a status of the core that is not MB_OK, about the diff at an index, or SIZE_MAX. */
int raise_status(module_state *state, mb_status status, size_t index, const mb_error *error);

/* Raises an error with a text, and replaces one that is set. Without memory for the text, it raises
 * MemoryError; before Python 3.12, PyErr_Format would then raise an error without a text. */
int raise_format(PyObject *type, const char *format, ...);

/* Raises MemoryError unless the status is MB_OK. */
int check_memory(mb_status status);

/* Raises one of mobync.errors with the text that Python shows for a value: `format` has one %S for
 * it. Always returns -1. */
int raise_shown(module_state *state, PyObject *error_type, const char *format, PyObject *value);

/* Takes the exception that is set, with its traceback: a new reference. */
PyObject *take_exception(void);

/* Sets an exception again; takes the reference. */
void restore_exception(PyObject *exception);

/* ---- diffs --------------------------------------------------------------------------------- */

typedef enum {
    ID_TEXT,
    OWNER_TEXT,
    MODEL_TEXT,
    JSON_DATA_TEXT,
    FIELD_TIMES_TEXT, /* of a folded row of the log */
    TEXTS
} diff_text_name;

/* The texts of a diff as Python objects. They keep the memory alive that the mb_diff borrows, and
 * they are what leaves again. NULL if the diff came as JSON and nobody has asked for them yet. */
typedef struct {
    PyObject *texts[TEXTS];
} diff_objects;

/* A list of diffs that came from Python.  All zero: an empty list. */
typedef struct {
    mb_diffs diffs; /* in an arena, or the list's own */
    bool owns_diffs;
    diff_objects *objects; /* one for each diff; NULL for rows that came as JSON */
    PyObject *json;        /* the text that they were read from, or NULL */
} diff_list;

/* Releases the id and json_data of a diff that is no longer needed; what came as JSON stays. */
void forget_texts(diff_list *list, size_t index);

/* Releases what a list holds; it is empty afterwards. */
void diff_list_clear(diff_list *list);

/* Moves the diffs of a list that has objects to the end of another list. Returns 0, or -1 with
 * MemoryError; then both are as they were. */
int diff_list_append(diff_list *list, diff_list *more);

/* A tuple of the current items of an iterable: a new reference. For a subclass of list or tuple,
 * its real items count, whatever its methods return. */
PyObject *snapshot(PyObject *sequence);

/* Makes room for `count` diffs that come as dicts. */
int diff_list_new(diff_list *list, Py_ssize_t count);

/* Keys that a diff of a request cannot have, because they are arguments of validate_* itself; ends
 * with NULL. */
extern const char *const reserved_keys[];

/* Reads a diff of a request from a dict into its place in a list, and checks its form.
 *
 * rules   checked too
 * list    made by diff_list_new; the caller clears it, on failure too
 * copy    out, on failure too: the dict as it was read, an exact dict; NULL where it has just the seven
 *         fields as str and int
 *
 * Returns 0, or -1 with InvalidDiffError, MemoryError or what a strange key raised.
 */
int read_diff(module_state *state, PyObject *dict, Py_ssize_t index, const mb_request_rules *rules,
              mb_arena *arena, diff_list *list, PyObject **copy);

/* How rows are read. */
typedef struct {
    module_state *state;
    PyObject
        *log_model;    /* that read() was called with, for errors; NULL: the rows are an argument */
    bool with_members; /* keep those of each json_data; everything except mb_merge needs them */
    bool skip_times;   /* of fields: only a merge with diffs of a request needs them */
    mb_arena *arena;
    diff_list *list; /* empty; the caller clears it, on failure too */
} rows_reader;

/* Reads rows from JSON text (str or bytes) or an iterable of mappings. Returns 0, or -1 with
 * InvalidDiffError for a row that is not a diff, TypeError for something that has no rows,
 * MemoryError, or what the iterable raised. */
int read_rows(const rows_reader *reader, PyObject *rows);

/* Reads rows from read_log(): an iterable of sequences of the seven fields. Each row is read and
 * released before the next one is requested. Returns like read_rows. */
int read_value_rows(const rows_reader *reader, PyObject *rows);

/* Checks that rows are what was requested: of that owner, and from that clock on. If a store did
 * not filter, diffs of other owners would be merged, or old diffs would count as concurrent.
 * Returns 0, or -1 with ValueError. */
int check_window(const diff_list *window, mb_text owner, int64_t first_clock, PyObject *method,
                 PyObject *log_model);

/* The highest logical clock of diffs; -1 if there are none. */
int64_t highest_of(const mb_diffs *diffs);

/* Copies the diffs of a list with a clock from first to before end, because a store may not support
 * the filter for that. */
int diffs_between(const mb_diffs *all, int64_t first, int64_t end, mb_arena *arena,
                  mb_diffs *found);

/* Reads an int of 0 or more that a function of the package returned; takes the reference to it,
 * which may be NULL. */
int take_number(PyObject *given, int64_t *number);

/* The UTF-8 of a str, which stays valid as long as the str does.  Returns 0, or -1 with MemoryError or,
 * for a lone surrogate, UnicodeEncodeError. */
int borrow_text(PyObject *str, mb_text *text);

/* The text of JSON that came as str or bytes; borrowed. Returns 0, or -1 with TypeError, or with
 * InvalidDiffError for a str that is not Unicode. */
int borrow_json(module_state *state, PyObject *json, mb_text *text);

/* A new str. */
PyObject *text_to_str(mb_text text);

/* Sets an item of a new list and takes the reference to it; NULL drops the list. */
void put_item(PyObject **list, size_t place, PyObject *item);

/* A text of a diff, or the json_data of an outcome of the list, as a new reference to a str. */
PyObject *diff_text(diff_list *list, size_t index, diff_text_name which);
PyObject *outcome_json_data(const mb_outcome *outcome, diff_list *list);

/* The fields of an outcome of the list, in the order of state->fields: new references. */
int outcome_values(module_state *state, const mb_outcome *outcome, diff_list *list,
                   PyObject *values[FIELDS]);

/* A new list of a dict of the seven fields for each outcome of the list. */
PyObject *outcomes_to_list(module_state *state, const mb_outcomes *outcomes, diff_list *list);

/* ---- the app ------------------------------------------------------------------------------- */

/* A Synchronizer, and which optional methods it overrides. */
typedef struct {
    PyObject *object;
    bool has[OPTIONAL_METHODS];
} store;

/* Finds out which methods a Synchronizer overrides.
 *
 * object   borrowed: it outlives the store
 *
 * Returns 0, or -1 with TypeError if it is not a Synchronizer, or with the error of a strange
 * attribute.
 */
int open_store(module_state *state, PyObject *object, store *opened);

/* Whether a Synchronizer overrides an optional method. Returns 1, 0, or -1. */
int has_own(module_state *state, PyObject *object, optional_method which);

/* Calls method(where, last) of a store, or method(last) if `where` is NULL. Takes the reference to
 * `last`, which may be NULL with an exception set. Returns a new reference to the method's
 * plain_answer(), or NULL with an exception. */
PyObject *call_store(const store *app, PyObject *method, PyObject *where, PyObject *last);

/* The answer of an app's method. An answer that must be awaited would count as a yes, and nothing
 * would be done. So the store's `_waiting` awaits it if it can, or raises TypeError.
 *
 * app       the object with the method
 * answer    takes the reference; may be NULL
 * method    the name of the method
 */
PyObject *plain_answer(const store *app, PyObject *answer, PyObject *method);

/* ---- a Mobync and its syncs ---------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD PyObject *synchronizer; /* NULL: __init__ was not called */
    PyObject *diffs_model_name;
    mb_text log_model; /* the same */
    PyObject *locks;   /* of its owners */
    PyObject *noted;   /* of mobync/_sync/devices.py: owners whose nameless devices are noted */
    Py_ssize_t max_clock_skew_ms, max_diffs, max_json_data_bytes, max_depth, max_fields;
    Py_ssize_t max_reply_bytes, max_pull_diffs, max_request_bytes, max_devices;
    double lock_timeout_s, device_retention_s, first_pull_retention_s;
    unsigned char anonymous_devices; /* this and the next: 0 or 1 */
    unsigned char skips;             /* on_refusal */
} mobync_object;

/* The paging of a request. */
typedef struct {
    bool asked;
    int64_t limit;       /* diffs that a page should have; 0: all that are left */
    int64_t first_clock; /* where the page begins */
    int64_t pull_clock;  /* the owner's clock when the pull began; -1: it begins now */
    int64_t stamp; /* by which devices.py knows the page, or the next one; 0: it is the first */
} page;

/* What is known about a diff of a request besides its content. */
typedef struct {
    PyObject *sent; /* a copy of the caller's dict, as the device sent it; NULL: it came as JSON, or
                     * has just the seven fields as str and int */
    int64_t sent_timestamp; /* before skew is taken out */
    PyObject *malformed;    /* of a dict: the error that says why; or NULL */
    PyObject *misfit;       /* the error with which a table refused its row; or NULL */
    bool gets_fresh_id;     /* the log has its id already, and keeps it under another */
    bool taken_along;       /* in this attempt: excluded since an earlier diff of its object was */
} diff_notes;

/* The kinds of request of a named device; mobync/_sync/devices.py decides, with these numbers. */
typedef enum { NEXT, RETRY, STARTS_OVER, STARTED_OVER, POLL } turn_kind;

/* One request on its way through a sync. */
typedef struct {
    module_state *state;
    mobync_object *server;
    bool skips;    /* a refused diff is excluded and the sync goes on */
    bool is_whole; /* the request came in parts, and this is all of it */
    PyObject *owner_id;
    mb_text owner;     /* the same */
    mb_arena *arena;   /* of the request, and of the first attempt */
    mb_arena *scratch; /* of the current attempt: the same, or one of its own */
    mb_arena *retried; /* the one of its own, or NULL */

    /* The request. */
    diff_list request;
    diff_notes *notes; /* of each diff */
    PyObject *callers; /* a tuple of the caller's dicts; NULL where the request came as JSON */
    int64_t client_clock;
    page page;
    PyObject *device; /* its name; NULL: it has none, or the store keeps no devices */
    PyObject *mark;   /* so this, which may be None, and the next two */
    int64_t number;
    uint64_t content;
    int64_t part;         /* of a request in parts: which this is, or of a whole one the last */
    PyObject *part_said;  /* the arguments of take_part() in mobync/_sync/parts.py, or NULL */
    int64_t pull_clock;   /* what the cursor says of it; -1: there is none */
    int64_t stamp;        /* likewise; 0: there is none */
    bool has_transaction; /* of the app's own: a sync is all or nothing */

    /* Results of earlier attempts. */
    bool singly;  /* rows are written one by one, to find those that do not fit */
    int restarts; /* for the sake of rows that do not fit */

    /* This attempt. */
    turn_kind turn;       /* NEXT for a device without a name */
    PyObject *turn_taken; /* a Turn of mobync/_sync/devices.py; NULL for a device without a name */
    PyObject *new_mark;   /* of the reply; NULL: the one that the request carried */
    int64_t seen_clock;   /* of a device that starts over: how far of this log it has seen */
    diff_list window;
    diff_list later; /* the deletes behind a page; has_later: they have been read */
    bool has_later;
    diff_list history;   /* the whole log, where objects are restored */
    int64_t window_from; /* the window is the whole log from this clock on; -1: it is a part */
    int64_t highest;     /* the owner's clock before it, -1 for an empty log; or HEAD_UNREAD */
    int64_t push_clock;  /* that a push was made for, or -1 for any: the owner's next clock */
    int64_t next_page;   /* the clock of the page after this one; -1: this is the last */
    bool is_retry;       /* the window knows a diff of the request */
    bool is_behind; /* a pull without the lock: the log that it sees ends before the device's */
    mb_merge_result result;
    PyObject *refused; /* a list of what the reply says of excluded diffs, or NULL */
    bool is_restored;
    diff_list restored; /* what goes downstream then */
    mb_outcomes restored_downstream;

    /* What is being written: positions in the merge's upstream. */
    size_t *order;
    PyObject *misfit; /* the last one that was found where rows are written one by one, or NULL */
    const size_t *written_places;
    size_t written_count; /* 0: no row is being written */
    bool writes_log;

    /* The server's part. */
    PyObject *filling;   /* of mobync/_sync/filling.py; NULL: there is none */
    diff_list filled;    /* the diffs that it made, until they go downstream */
    size_t filled_count; /* how many they were */
} sync_state;

/* Begins a sync with the arguments, or with the body of a request.
 *
 * s        all zero except state and server; the caller ends it with end_sync, on failure too
 * clock ... mark   as the caller passed them
 * body     str or bytes
 */
enum { HEAD_MEMBERS = 9 };

typedef union {
    PyObject *members[HEAD_MEMBERS];
    struct {
        PyObject *clock;
        PyObject *limit, *cursor, *device, *number, *mark, *part, *more_diffs,
            *upload; /* or None */
    };
} request_head;

int begin_sync(sync_state *s, PyObject *diffs, PyObject *owner_id, const request_head *head);
int begin_json_sync(sync_state *s, PyObject *body, PyObject *owner_id);

/* The same for edits of the backend, which come without a clock; and for a merge of two lists,
 * which is not a sync and needs no server. */
int begin_push(sync_state *s, PyObject *diffs, PyObject *owner_id);
int begin_merge(sync_state *s, PyObject *diffs, const char *log_model);

void end_sync(sync_state *s);

/* Checks that an argument is text that a database can store, and borrows its UTF-8. Returns 0, or
 * -1 with TypeError or ValueError. */
int check_text(const char *name, PyObject *text, mb_text *utf8);

/* Sets the owner and takes an arena: the part of a sync that needs no request. */
int take_owner(sync_state *s, PyObject *owner_id);

/* The cursor for the next page: a new str. */
PyObject *write_cursor(const sync_state *s);

typedef int (*in_transaction)(sync_state *s, const store *app);

/* Answers a request without diffs without the owner's lock, if the store can read that way. Returns
 * 1 when it is done, 0 if it needs the lock, or -1 with an exception. */
int run_pull(sync_state *s);

/* Does `work` in a transaction of the owner. It starts again after a transient error, and after a
 * diff is excluded. Returns 0 when it is committed, or -1 with an exception. */
int run_sync(sync_state *s, in_transaction work);

/* The two kinds of work: a device's request, and edits of the backend, for which no rule is asked.
 */
int sync_in_transaction(sync_state *s, const store *app);
int push_in_transaction(sync_state *s, const store *app);

/* Begins an attempt: forgets the one before. */
int begin_attempt(sync_state *s);

/* Releases what an attempt has read and made. */
void forget_attempt(sync_state *s);

/* Does `work` with each store that a generator yields; takes the reference to the generator, which
 * may be NULL. Returns 0 when the generator has ended, or -1 with an exception. */
int run_attempts(sync_state *s, PyObject *attempts, in_transaction work);

/* What to read from an owner's log: rows, rows without the times of their fields, rows with the
 * members of their json_data, or only deletes (a store may return all rows all the same). */
typedef enum { LOG_ROWS, LOG_UNTIMED, LOG_MEMBERS, LOG_DELETES } log_part;

/* Reads the owner's diffs with a clock from first to before end; end -1: to the last.
 *
 * rows   out: checked; the caller clears it, on failure too
 *
 * Returns 0, or -1 with an exception: ValueError for rows that are not a log of this owner. So do all
 * of these.
 */
int read_log(sync_state *s, const store *app, int64_t first, int64_t end, log_part part,
             diff_list *rows);

/* Asks the store for the owner's highest clock: -1 for an empty log, HEAD_UNREAD if the store has no
 * answer. */
int ask_highest_clock(sync_state *s, const store *app);

/* Finds the owner's highest clock, -1 for an empty log: the store's own answer, or the one from reading
 * the log from a clock on. */
int find_highest_clock(sync_state *s, const store *app, int64_t from);

/* The same after the window was read from a clock on. */
int find_highest(sync_state *s, const store *app, int64_t read_from);

/* Reads the window like read_log, unless the store says that the log ends before it. */
int read_window(sync_state *s, const store *app, int64_t first, int64_t end);

/* Finds out which diffs of the request are in the window. */
int recognize(sync_state *s);

/* Reads what the device has not seen, or a page before the last of it: then next_page is its end. */
int load_window(sync_state *s, const store *app);

/* Whether the store keeps devices. */
bool keeps_devices(const store *app);

/* Finds out what kind of request (turn) of a named device it is. */
int admit_device(sync_state *s, const store *app);

/* Finds out whether a device without a name is too far behind, after the window was read. */
int admit_nameless(sync_state *s, const store *app);

/* Excludes what the first try of a retry did. */
int exclude_again(sync_state *s);

/* Stores what the next request of a named device must be, or the clock of its next page. */
int keep_turn(sync_state *s);
int keep_page(sync_state *s);

/* Stores that the owner's log begins now. */
int begin_log(sync_state *s, const store *app);

/* Merges the request with the window. */
int merge_request(sync_state *s);

/* Asks the rules about everything that is new in the request, or about what a retry would write. If
 * the server skips, refused diffs are excluded. */
int validate_new(sync_state *s, const store *app);

/* Asks the rule about one diff, and excludes it if the rule refuses it and the server skips. */
int check_rule(sync_state *s, const store *app, size_t index);

/* If a create or a delete is excluded, excludes the device's later diffs of the object too. */
void take_along(sync_state *s, const mb_diff *excluded);

/* Adds to an error which diff of the request it is about. */
int name_diff(sync_state *s, PyObject *error, size_t index);

/* A new list of a row for each of these places in the merge's upstream; NULL: for all of it. */
typedef PyObject *(*make_row)(sync_state *s, size_t place);
PyObject *make_rows(sync_state *s, const size_t *places, size_t count, make_row row);

/* Writes the rows of the models, then the log. */
int write_models(sync_state *s, const store *app);
int append_log(sync_state *s, const store *app);

/* The server's part of a sync, if the store names models whose rows have more than was written.
 * begin_filling comes before the rows are written, fill_in when everything is in the log, and
 * send_filled when it is known what goes downstream. Return 0, or -1 with an exception.
 *
 * is_push    whether the edits are the backend's own
 */
int begin_filling(sync_state *s, const store *app, bool is_push);
int fill_in(sync_state *s);
int send_filled(sync_state *s);

/* After a failed attempt: an exception about a row gets the position of its diff in the request. It
 * becomes BeginAgain if another attempt can do without the row. Always returns -1. */
int note_misfit(sync_state *s);

/* Makes a new id, in arena. */
int make_id(module_state *state, mb_arena *arena, mb_text *id);

/* The owner's logical clock after the sync; on a page before the last, the device's own. */
int64_t reply_clock(const sync_state *s);

/* The clock that the device must store. */
int64_t clock_of_device(const sync_state *s);

/* Whether the reply tells a named device to drop its rows and pull from clock 0. */
bool resets(const sync_state *s);

/* How many diffs were accepted. */
size_t accepted_count(const sync_state *s);

/* What is sent to the device, and the list that it is from. */
mb_outcomes *downstream_of(sync_state *s);
diff_list *source_of(sync_state *s);

/* Sets the new clocks in the caller's dicts; then tells the listeners. */
int acknowledge(const sync_state *s);
int tell_listeners(sync_state *s);

/* The reply: a new dict, or bytes. */
PyObject *make_reply(sync_state *s);
PyObject *make_json_reply(sync_state *s);

#endif
