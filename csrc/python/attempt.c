/* attempt.c - the attempts of a sync, each with a store.
 *
 * Python owns the lock, the transaction and the decision to start again: mobync/_sync/attempts.py is
 * a generator that yields a store for each attempt. run_attempts() does the work with it and tells
 * the generator what happened.
 *
 *     attempts      lock, begin ---store--->  sync_in_transaction  ---nothing--->  commit
 *                   roll back, begin again?  <----------- throw ------------  an exception
 */
#include "binding.h"

void forget_attempt(sync_state *s)
{
    diff_list *const lists[] = {&s->window, &s->later, &s->history, &s->restored, &s->filled};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        diff_list_clear(lists[i]);
    Py_CLEAR(s->turn_taken);
    Py_CLEAR(s->new_mark);
    Py_CLEAR(s->refused);
    Py_CLEAR(s->misfit);
    Py_CLEAR(s->filling);
}

int begin_attempt(sync_state *s)
{
    forget_attempt(s);
    s->turn = NEXT;
    s->has_later = s->is_restored = s->is_retry = s->is_behind = s->writes_log = false;
    s->result = (mb_merge_result){.conflicts = 0};
    s->restored_downstream.count = s->written_count = s->filled_count = 0;
    s->window_from = s->next_page = -1;
    s->highest = HEAD_UNREAD;
    s->page.pull_clock = s->pull_clock;
    s->page.stamp = s->stamp;
    for (size_t i = 0; i < s->request.diffs.count; i++)
        s->notes[i].taken_along = false;
    s->order = NULL;
    if (s->scratch == NULL) {
        s->scratch = s->arena;
        return 0;
    }
    if (s->retried != NULL)
        mb_arena_empty(s->retried, 0);
    else if (take_arena(s->state, &s->retried) < 0)
        return -1;
    s->scratch = s->retried;
    return 0;
}

static int attempt(sync_state *s, PyObject *given, in_transaction work)
{
    store app;
    if (begin_attempt(s) < 0 || open_store(s->state, given, &app) < 0)
        return -1;
    const int result = work(s, &app);
    return result < 0 ? note_misfit(s) : result;
}

/* A generator cannot raise StopIteration unchanged. If the app raised it, it arrives as the cause
 * of a RuntimeError that no other frame has seen, and is taken out of that. */
static void unwrap_stop_iteration(void)
{
    if (!PyErr_ExceptionMatches(PyExc_RuntimeError))
        return;
    PyObject *raised = take_exception();
    PyObject *cause = PyException_GetCause(raised);
    PyObject *traceback = PyException_GetTraceback(raised);
    const bool is_ours = traceback == NULL || ((PyTracebackObject *)traceback)->tb_next == NULL;
    if (is_ours && cause != NULL && PyErr_GivenExceptionMatches(cause, PyExc_StopIteration))
        restore_exception(Py_NewRef(cause));
    else
        restore_exception(Py_NewRef(raised));
    Py_XDECREF(traceback);
    Py_XDECREF(cause);
    Py_DECREF(raised);
}

/* Throws the exception that is set into the generator. */
static PyObject *throw_into(sync_state *s, PyObject *attempts)
{
    PyObject *thrown = take_exception();
    PyObject *given = PyObject_CallMethodOneArg(attempts, s->state->throw_, thrown);
    Py_DECREF(thrown);
    if (given == NULL && PyErr_ExceptionMatches(PyExc_StopIteration))
        raise_format(PyExc_RuntimeError, "transaction() swallowed an exception");
    return given;
}

int run_attempts(sync_state *s, PyObject *attempts, in_transaction work)
{
    PyObject *given = NULL;
    if (attempts == NULL)
        return -1;
    PySendResult sent = PyIter_Send(attempts, Py_None, &given);
    while (sent == PYGEN_NEXT) {
        const int done = attempt(s, given, work);
        Py_CLEAR(given);
        if (done == 0) {
            sent = PyIter_Send(attempts, Py_None, &given); /* commits */
        } else {
            given = throw_into(s, attempts);
            sent = given != NULL ? PYGEN_NEXT : PYGEN_ERROR;
        }
    }
    if (sent == PYGEN_ERROR)
        unwrap_stop_iteration();
    Py_XDECREF(given);
    Py_DECREF(attempts);
    return sent == PYGEN_RETURN ? 0 : -1;
}

int run_sync(sync_state *s, in_transaction work)
{
    const int has_transaction = has_own(s->state, s->server->synchronizer, TRANSACTION);
    if (has_transaction < 0)
        return -1;
    s->has_transaction = has_transaction;
    return run_attempts(s,
                        PyObject_CallFunctionObjArgs(s->state->attempts, (PyObject *)s->server,
                                                     s->owner_id, Py_True,
                                                     s->device == NULL ? Py_None : s->device, NULL),
                        work);
}
