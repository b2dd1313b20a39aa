/* write.c - writes what the merge sends upstream: the rows of the models, then the log.
 *
 * Consecutive rows with the same type and model are passed to the store together. If the store
 * refuses one of them, it may say which. If it does not, everything is done again row by row, to
 * find the row. If the server skips, a row that does not fit is recorded, and another attempt
 * continues without its diff. After a few such attempts, rows are also written one by one, so that
 * one more attempt finds all rows that do not fit: there must not be as many attempts as refusals.
 *
 * When all rows are written, the store checks what a database would check only at the commit, where
 * it names no row any more. A row that is refused then is treated like any other.
 *
 * A store without transactions gets one diff at a time, each for its model and then for the log, so
 * a crash leaves at most one that is in a table and not in the log.
 */
#include "binding.h"

#include "../core/arena.h"
#include "../core/text.h"

size_t accepted_count(const sync_state *s)
{
    return s->result.upstream.count;
}

int make_id(module_state *state, mb_arena *arena, mb_text *id)
{
    PyObject *uuid = PyObject_CallNoArgs(state->make_uuid);
    PyObject *str = uuid == NULL ? NULL : PyObject_Str(uuid);
    mb_text text = {NULL, 0};
    const int borrowed = str == NULL ? -1 : borrow_text(str, &text);
    char *copy = borrowed < 0 ? NULL : mb_arena_get_array(arena, text.size, 1);
    if (copy != NULL) {
        memcpy(copy, text.at, text.size);
        *id = (mb_text){copy, text.size};
    } else if (borrowed == 0) {
        check_memory(MB_NO_MEMORY);
    }
    Py_XDECREF(uuid);
    Py_XDECREF(str);
    return copy == NULL ? -1 : 0;
}

/* ---- rows ---------------------------------------------------------------------------------- */

static const mb_outcome *upstream_at(const sync_state *s, size_t place)
{
    return &s->result.upstream.items[place];
}

static PyObject *model_row(sync_state *s, size_t place)
{
    return outcome_json_data(upstream_at(s, place), &s->request);
}

/* A diff as the log gets it: under the device's own id, unless the log already has that one, from a
 * device that was restored from a backup.
 *
 * renamed    room for a diff under another id
 */
static const mb_diff *log_diff(sync_state *s, size_t source, mb_diff *renamed)
{
    const mb_diff *diff = &s->request.diffs.items[source];
    if (!s->notes[source].gets_fresh_id)
        return diff;
    *renamed = *diff;
    return make_id(s->state, s->scratch, &renamed->id) < 0 ? NULL : renamed;
}

static PyObject *log_row_json(sync_state *s, size_t place)
{
    mb_diff renamed;
    const mb_outcome *outcome = upstream_at(s, place);
    const mb_diff *diff = log_diff(s, outcome->source, &renamed);
    if (diff == NULL)
        return NULL;
    const int64_t clock = s->highest + 1 + (int64_t)place;
    const size_t most = mb_log_row_most_bytes(diff, outcome, s->owner);
    char *text = PyMem_Malloc(most);
    if (text == NULL)
        return PyErr_NoMemory();
    const size_t size = mb_log_row_put(diff, outcome, s->owner, clock, text);
    PyObject *row = PyUnicode_DecodeUTF8(text, (Py_ssize_t)size, NULL);
    PyMem_Free(text);
    return row;
}

static PyObject *log_row_tuple(sync_state *s, size_t place)
{
    mb_diff renamed;
    const mb_outcome *outcome = upstream_at(s, place);
    const mb_diff *diff = log_diff(s, outcome->source, &renamed);
    if (diff == NULL)
        return NULL;
    const long long clock = s->highest + 1 + (int64_t)place;
    PyObject *id =
        diff == &renamed ? text_to_str(diff->id) : diff_text(&s->request, outcome->source, ID_TEXT);
    return Py_BuildValue("(NOLLONN)", id, s->owner_id, clock, (long long)outcome->utc_timestamp,
                         s->state->type_names[outcome->type],
                         diff_text(&s->request, outcome->source, MODEL_TEXT), model_row(s, place));
}

PyObject *make_rows(sync_state *s, const size_t *places, size_t count, make_row row)
{
    PyObject *rows = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; rows != NULL && i < count; i++)
        put_item(&rows, i, row(s, places == NULL ? i : places[i]));
    return rows;
}

/* ---- calls of the store -------------------------------------------------------------------- */

/* Passes a row, or a list of rows, to a method of the store; takes the reference to it, which may
 * be NULL. An error of the store is about the rows at these positions. */
static int write_rows(sync_state *s, const store *app, PyObject *method, PyObject *where,
                      const size_t *places, size_t count, PyObject *rows)
{
    s->written_places = places;
    s->written_count = count;
    PyObject *answer = call_store(app, method, where, rows);
    Py_XDECREF(answer);
    return answer == NULL ? -1 : 0;
}

/* Where the run ends that begins there in the order: its rows are of one type and model. */
static size_t end_of_run(const sync_state *s, size_t begin)
{
    const mb_diff *diffs = s->request.diffs.items;
    const mb_outcome *first = upstream_at(s, s->order[begin]);
    const mb_text model = diffs[first->source].model;
    size_t end = begin + 1;
    for (; end < accepted_count(s); end++) {
        const mb_outcome *next = upstream_at(s, s->order[end]);
        if (next->type != first->type || !mb_text_equal(diffs[next->source].model, model))
            break;
    }
    return end;
}

/* Writes the rows at these places, which are of one type and model. */
static int write_run(sync_state *s, const store *app, PyObject *method, const size_t *places,
                     size_t count, PyObject *rows)
{
    PyObject *model = diff_text(&s->request, upstream_at(s, *places)->source, MODEL_TEXT);
    if (model == NULL) {
        Py_XDECREF(rows);
        return -1;
    }
    const int result = write_rows(s, app, method, model, places, count, rows);
    Py_DECREF(model);
    return result;
}

static int write_runs(sync_state *s, const store *app)
{
    const size_t count = accepted_count(s);
    for (size_t begin = 0, end; begin < count; begin = end) {
        const size_t *places = &s->order[begin];
        end = end_of_run(s, begin);
        const mb_type type = upstream_at(s, places[0])->type;
        if (write_run(s, app, s->state->optional_names[CREATE_MANY + type], places, end - begin,
                      make_rows(s, places, end - begin, model_row)) < 0)
            return -1;
    }
    return 0;
}

/* ---- the order of the rows ----------------------------------------------------------------- */

static PyObject *operation_tuple(sync_state *s, size_t place)
{
    const mb_outcome *outcome = upstream_at(s, place);
    return Py_BuildValue("(ONN)", s->state->type_names[outcome->type],
                         diff_text(&s->request, outcome->source, MODEL_TEXT), model_row(s, place));
}

/* Reads the positions that write_order() returned: each must occur once. */
static int take_order(sync_state *s, PyObject *given)
{
    const size_t count = accepted_count(s);
    PyObject *places = PySequence_Tuple(given);
    bool *seen = mb_arena_get_array(s->scratch, count, sizeof *seen);
    bool complete = places != NULL && (size_t)PyTuple_GET_SIZE(places) == count;
    if (places == NULL || (seen == NULL && check_memory(MB_NO_MEMORY) < 0)) {
        Py_XDECREF(places);
        return -1;
    }
    for (size_t i = 0; complete && i < count; i++) {
        PyObject *place = PyTuple_GET_ITEM(places, (Py_ssize_t)i);
        s->order[i] = PyLong_Check(place) ? PyLong_AsSize_t(place) : SIZE_MAX;
        complete = s->order[i] < count && !seen[s->order[i]];
        if (complete)
            seen[s->order[i]] = true;
    }
    Py_DECREF(places);
    return complete ? 0 : raise_format(PyExc_ValueError, "write_order() must give each place once");
}

static int find_order(sync_state *s, const store *app)
{
    const size_t count = accepted_count(s);
    s->order = mb_arena_get_array(s->scratch, count, sizeof *s->order);
    if (s->order == NULL)
        return check_memory(MB_NO_MEMORY);
    for (size_t i = 0; i < count; i++)
        s->order[i] = i;
    if (count == 1 || !app->has[WRITE_ORDER] || !app->has[TRANSACTION])
        return 0;
    PyObject *given = call_store(app, s->state->optional_names[WRITE_ORDER], NULL,
                                 make_rows(s, s->order, count, operation_tuple));
    const int result = given == NULL ? -1 : take_order(s, given);
    Py_XDECREF(given);
    return result;
}

/* ---- rows that do not fit ------------------------------------------------------------------ */

/* Replaces the position in an error about a row of a run by the position of its diff in the
 * request. */
static int place_misfit(sync_state *s, PyObject *error, size_t *source)
{
    PyObject *place = PyObject_GetAttr(error, s->state->index);
    if (place == NULL)
        return -1;
    const bool is_only_row = s->written_count == 1;
    const size_t at = place == Py_None || is_only_row ? 0 : PyLong_AsSize_t(place);
    Py_DECREF(place);
    if (at == (size_t)-1 && PyErr_Occurred())
        return -1;
    if (at >= s->written_count)
        return raise_format(PyExc_IndexError, "the index of an InvalidDiffError is that of a row");
    *source = upstream_at(s, s->written_places[at])->source;
    return name_diff(s, error, *source);
}

/* Records one row that does not fit. Returns 1 if another attempt can do without it. Returns 0 if
 * not, because an earlier attempt found the same. If the log refuses a diff, the diff gets another
 * id first. */
static int note_row(sync_state *s, PyObject *error)
{
    size_t source = 0;
    if (place_misfit(s, error, &source) < 0)
        return -1;
    diff_notes *notes = &s->notes[source];
    const bool is_taken = PyErr_GivenExceptionMatches(error, s->state->id_taken_error);
    if (s->writes_log && is_taken && !notes->gets_fresh_id) {
        notes->gets_fresh_id = true;
        return 1;
    }
    if (!s->skips || notes->misfit != NULL)
        return 0;
    notes->misfit = Py_NewRef(error);
    return 1;
}

/* The same for a row and the others that were found with it. */
static int note_rows(sync_state *s, PyObject *error)
{
    PyObject *others = PyObject_GetAttr(error, s->state->others);
    PyObject *rest = others == NULL ? NULL : PySequence_Tuple(others);
    Py_XDECREF(others);
    if (rest == NULL)
        return -1;
    int again = note_row(s, error);
    for (Py_ssize_t i = 0; again >= 0 && i < PyTuple_GET_SIZE(rest); i++) {
        const int other = note_row(s, PyTuple_GET_ITEM(rest, i));
        again = other < 0 ? -1 : again && other;
    }
    Py_DECREF(rest);
    return again;
}

/* Whether the error says which row it is about, or does not have to. */
static int says_which(const sync_state *s, PyObject *error)
{
    PyObject *place = PyObject_GetAttr(error, s->state->index);
    const int says = place == NULL ? -1 : place != Py_None || s->written_count == 1;
    Py_XDECREF(place);
    return says;
}

enum { MOST_RUNS_THAT_FAIL = 10 }; /* before rows are written one by one */

/* Raises BeginAgain.  Always returns -1. */
static int begin_again(sync_state *s, PyObject *error)
{
    s->restarts++;
    s->singly |= s->skips && s->restarts >= MOST_RUNS_THAT_FAIL;
    return raise_made(PyObject_CallOneArg(s->state->begin_again, error));
}

/* After a refused row: continues the attempt without it and the rows that depend on it, to find
 * what else does not fit. Returns 0, or -1 with what was raised. */
static int go_on_without_row(sync_state *s)
{
    if (!s->skips || !PyErr_ExceptionMatches(s->state->invalid_diff_error))
        return -1;
    PyObject *error = take_exception();
    const size_t source = upstream_at(s, *s->written_places)->source;
    const int noted = note_row(s, error);
    if (noted > 0) {
        take_along(s, &s->request.diffs.items[source]);
        Py_XSETREF(s->misfit, error);
        return 0;
    }
    if (noted == 0)
        restore_exception(error);
    else
        Py_DECREF(error);
    return -1;
}

int note_misfit(sync_state *s)
{
    if (s->written_count == 0 || !PyErr_ExceptionMatches(s->state->invalid_diff_error))
        return -1;
    PyObject *error = take_exception();
    int again = says_which(s, error);
    if (again == 1) {
        again = note_rows(s, error);
    } else if (again == 0 && !s->singly) {
        s->singly = true;
        again = 1;
    }
    if (again == 1) {
        begin_again(s, error);
    } else if (again == 0) {
        restore_exception(Py_NewRef(error));
    }
    Py_DECREF(error);
    return -1;
}

/* ---- the whole ----------------------------------------------------------------------------- */

static int check_clocks(const sync_state *s)
{
    if (s->highest < MB_MAX_INTEGER - (int64_t)accepted_count(s))
        return 0;
    return raise_format(PyExc_OverflowError, "the owner's logical clock is used up");
}

static int write_with_its_log(sync_state *s, const store *app, const size_t *place)
{
    if (write_run(s, app, s->state->type_names[upstream_at(s, *place)->type], place, 1,
                  model_row(s, *place)) < 0)
        return go_on_without_row(s);
    if (s->has_transaction)
        return 0;
    return write_rows(s, app, s->state->type_names[MB_CREATE], s->server->diffs_model_name, place,
                      1, log_row_json(s, *place));
}

/* Writes row by row, with the log if there is no transaction. One attempt finds all rows that do
 * not fit, unless the store cannot continue after the first. */
static int write_each(sync_state *s, const store *app)
{
    int result = 0;
    for (size_t i = 0; result == 0 && i < accepted_count(s); i++)
        if (!s->notes[upstream_at(s, s->order[i])->source].taken_along)
            result = write_with_its_log(s, app, &s->order[i]);
    if (s->misfit == NULL || (result < 0 && !PyErr_ExceptionMatches(PyExc_Exception)))
        return result;
    PyErr_Clear();
    return begin_again(s, s->misfit);
}

/* Nothing is being written any more: a refusal of the commit is not about a row. */
static void forget_places(sync_state *s)
{
    s->written_places = NULL;
    s->written_count = 0;
}

/* Makes the store check what it would find out only at the commit, while each row still belongs to
 * a diff. */
static int check_written(sync_state *s, const store *app)
{
    if (!app->has[CHECK_WRITTEN] || !s->has_transaction)
        return 0;
    return write_rows(s, app, s->state->optional_names[CHECK_WRITTEN], NULL, s->order,
                      accepted_count(s), PyLong_FromSize_t(accepted_count(s)));
}

int write_models(sync_state *s, const store *app)
{
    if (accepted_count(s) == 0)
        return 0;
    if (check_clocks(s) < 0 || find_order(s, app) < 0)
        return -1;
    const bool in_runs = s->has_transaction && !s->singly;
    if ((in_runs ? write_runs(s, app) : write_each(s, app)) < 0 || check_written(s, app) < 0)
        return -1;
    forget_places(s);
    return 0;
}

int append_log(sync_state *s, const store *app)
{
    const size_t count = accepted_count(s);
    if (count == 0 || !s->has_transaction)
        return 0;
    for (size_t i = 0; i < count; i++)
        s->order[i] = i;
    s->writes_log = true;
    const bool takes_tuples = app->has[APPEND_LOG];
    PyObject *method = s->state->optional_names[takes_tuples ? APPEND_LOG : CREATE_MANY];
    const make_row row = takes_tuples ? log_row_tuple : log_row_json;
    const size_t step = s->singly ? 1 : count;
    for (const size_t *places = s->order; places < s->order + count; places += step)
        if (write_rows(s, app, method, s->server->diffs_model_name, places, step,
                       make_rows(s, places, step, row)) < 0)
            return -1;
    s->writes_log = false;
    forget_places(s);
    return 0;
}
