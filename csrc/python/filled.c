/* filled.c - the server's part of a sync: what rows have after a write that no diff said.
 *
 * A database fills in defaults, computes columns, and has triggers.  So where the store says of which
 * models that is (filled_models), mobync/_sync/filling.py notes before the writes what the log says of
 * the objects, reads their rows back behind them, and appends what differs to the log.  The device that
 * pushed gets it behind the rest of its reply; the others get it as they get every diff.
 *
 *     begin_filling    before the rows are written
 *     fill_in          when all is in the log
 *     send_filled      when what goes downstream is known
 *
 * A store without such models pays for the look at one attribute.
 */
#include "binding.h"

#include "../core/arena.h"

/* ---- before the writes --------------------------------------------------------------------- */

/* The type, model, json_data and time of what goes upstream. */
static PyObject *timed_operation(sync_state *s, size_t place)
{
    const mb_outcome *outcome = &s->result.upstream.items[place];
    return Py_BuildValue("(ONNL)", s->state->type_names[outcome->type],
                         diff_text(&s->request, outcome->source, MODEL_TEXT),
                         outcome_json_data(outcome, &s->request),
                         (long long)outcome->utc_timestamp);
}

int begin_filling(sync_state *s, const store *app, bool is_push)
{
    if (accepted_count(s) == 0 || !s->has_transaction)
        return 0;
    PyObject *models = PyObject_GetAttr(app->object, s->state->filled_models);
    Py_XDECREF(models);
    if (models == NULL || models == Py_None)
        return models == NULL ? -1 : 0;
    PyObject *operations = make_rows(s, NULL, accepted_count(s), timed_operation);
    if (operations == NULL)
        return -1;
    s->filling = PyObject_CallFunction(s->state->begin_filling, "OOOOi", s->server, app->object,
                                       s->owner_id, operations, is_push);
    Py_DECREF(operations);
    if (s->filling == Py_None)
        Py_CLEAR(s->filling);
    return s->filling == NULL && PyErr_Occurred() ? -1 : 0;
}

/* ---- behind them --------------------------------------------------------------------------- */

int fill_in(sync_state *s)
{
    if (s->filling == NULL)
        return 0;
    PyObject *clock = PyLong_FromLongLong(reply_clock(s));
    PyObject *rows =
        clock == NULL ? NULL : PyObject_CallMethodOneArg(s->filling, s->state->finish, clock);
    Py_XDECREF(clock);
    const rows_reader reader = {s->state,  s->server->diffs_model_name, false, false, s->scratch,
                                &s->filled};
    const int result = rows == NULL ? -1 : read_value_rows(&reader, rows);
    Py_XDECREF(rows);
    s->filled_count = s->filled.diffs.count;
    return result;
}

int send_filled(sync_state *s)
{
    const size_t count = s->filled.diffs.count;
    if (count == 0 || resets(s))
        return 0;
    mb_outcomes *downstream = downstream_of(s);
    diff_list *source = source_of(s);
    const size_t sent = downstream->count, first = source->diffs.count;
    mb_outcome *items = mb_arena_get_array(s->scratch, sent + count, sizeof *items);
    if (items == NULL)
        return check_memory(MB_NO_MEMORY);
    if (sent > 0)
        memcpy(items, downstream->items, sent * sizeof *items);
    for (size_t i = 0; i < count; i++) {
        const mb_diff *diff = &s->filled.diffs.items[i];
        items[sent + i] = (mb_outcome){first + i, diff->type, diff->utc_timestamp, diff->json_data};
    }
    if (diff_list_append(source, &s->filled) < 0)
        return -1;
    *downstream = (mb_outcomes){items, sent + count};
    return 0;
}
