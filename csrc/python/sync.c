/* sync.c - one sync inside the owner's transaction.
 *
 * The order is that of docs/protocol.md, "Around the merge"; sync_in_transaction() has the same
 * order. The form of the diffs was checked before (request.c). Python owns the lock, the
 * transaction and the decision to start again: mobync/_sync/attempts.py is a generator that yields
 * a store for each attempt. run_sync() does the work with it and tells the generator what happened.
 *
 *     attempts      lock, begin ---store--->  sync_in_transaction  ---nothing--->  commit
 *                   roll back, begin again?  <----------- throw ------------  an exception
 *
 * Between the two there are only calls of the app's own methods.
 *
 * A request without diffs writes nothing. If the store can read without the lock, it is answered
 * that way (run_pull): first the head is read, and the window only if there is something new.
 */
#include "binding.h"

/* ---- load the window ----------------------------------------------------------------------- */

static int read_window(sync_state *s, const store *app, int64_t first, int64_t end)
{
    diff_list_clear(&s->window);
    s->window_from = end < 0 ? first : -1;
    return read_log(s->state, app, &s->log, first, end, LOG_ROWS, s->scratch, &s->window);
}

static int recognize(sync_state *s)
{
    size_t index = SIZE_MAX;
    mb_error error;
    const mb_status status =
        mb_recognize(s->scratch, &s->window.diffs, &s->request.diffs, s->skips, &index, &error);
    if (status != MB_OK)
        return raise_read_status(s->state, status, index, &error);
    s->is_retry = false;
    for (size_t i = 0; i < s->request.diffs.count && !s->is_retry; i++)
        s->is_retry = s->request.diffs.items[i].known;
    return 0;
}

static size_t included_count(const mb_diffs *diffs)
{
    size_t count = 0;
    for (size_t i = 0; i < diffs->count; i++)
        count += !diffs->items[i].excluded;
    return count;
}

/* Reads the deletes after a piece of the window. Deletes that an earlier piece of this page has
 * read are only searched.
 *
 * later    out: in the arena of the attempt
 */
static int find_later_deletes(sync_state *s, const store *app, int64_t end, mb_diffs *later)
{
    if (!s->has_later && read_log(s->state, app, &s->log, end, s->page.pull_clock, LOG_DELETES,
                                  s->scratch, &s->later) < 0)
        return -1;
    s->has_later = true;
    if (check_memory(mb_diffs_new(s->scratch, s->later.diffs.count, later)) < 0)
        return -1;
    later->count = 0;
    for (size_t i = 0; i < s->later.diffs.count; i++)
        if (s->later.diffs.items[i].logical_clock >= end)
            later->items[later->count++] = s->later.diffs.items[i];
    return 0;
}

/* A device at clock 0 has no rows, and does not get objects that were dead when its pull began.
 * Only the deletes after a piece of the window show whether the piece has the last word about an
 * object.
 *
 * end    the clock after the piece; -1: it is the rest
 */
static int exclude_dead(sync_state *s, const store *app, int64_t end)
{
    static const mb_diffs nothing = {NULL, 0};
    mb_diffs *window = &s->window.diffs;
    const mb_diffs *request = &s->request.diffs;
    const int64_t pull_clock = s->page.pull_clock;
    if (s->client_clock != 0)
        return 0;
    if (check_memory(mb_exclude_dead(s->scratch, window, request, &nothing, pull_clock)) < 0)
        return -1;
    if (end < 0 || end >= pull_clock || included_count(window) == 0)
        return 0;
    mb_diffs later;
    if (find_later_deletes(s, app, end, &later) < 0)
        return -1;
    return check_memory(mb_exclude_dead(s->scratch, window, request, &later, pull_clock));
}

static int check_not_ahead(sync_state *s, int64_t clock)
{
    if (clock <= s->highest + 1)
        return 0;
    raise_format(
        s->state->logical_clock_error,
        "logical_clock %lld is ahead of the server's log: the server has lost diffs that this "
        "device has seen; drop the rows, pull from 0 without diffs, then send the unsent edits",
        (long long)clock);
    PyObject *error = take_exception();
    if (PyObject_SetAttr(error, s->state->ahead, Py_True) < 0)
        Py_CLEAR(error);
    return raise_made(error);
}

static int select_diffs(sync_state *s, bool request, int64_t from, int64_t before)
{
    const mb_selection selection = {request, request, from, before};
    return check_memory(mb_select(s->scratch, &s->window.diffs, &s->request.diffs, &selection));
}

/* Reads a piece of the window, finds where the page ends in it, and keeps the diffs that a device
 * without edits may get.
 *
 * end    the clock after the piece; -1: it is the rest
 */
static int read_piece(sync_state *s, const store *app, int64_t first, int64_t end)
{
    if (read_window(s, app, first, end) < 0)
        return -1;
    if (s->page.pull_clock < 0) {
        const int64_t seen = highest_of(&s->window.diffs);
        s->page.pull_clock = (seen > s->highest ? seen : s->highest) + 1;
    }
    if (recognize(s) < 0 || exclude_dead(s, app, end) < 0 ||
        check_memory(mb_page_end(s->scratch, &s->window.diffs, (size_t)s->page.limit,
                                 (size_t)s->server->max_reply_bytes, &s->next_page)) < 0)
        return -1;
    if (s->next_page < 0)
        s->next_page = end;
    return s->next_page < 0 ? 0 : select_diffs(s, false, s->page.first_clock, s->next_page);
}

/* Looks for a page before the last. Leaves its diffs in the window and the clock after it in
 * next_page. There, -1 means that this is the last page, which is merged with the request.
 *
 * Reads about as much as the page has if the store can read a piece, and skips gaps of any width
 * that compaction left. Otherwise it reads the whole rest.
 */
static int load_page(sync_state *s, const store *app)
{
    s->next_page = -1;
    if (s->page.limit == 0)
        return 0;
    if (ask_highest_clock(s->state, app, &s->log, &s->highest) < 0)
        return -1;
    int64_t first = s->page.first_clock, clocks = s->page.limit;
    while (first + clocks <= s->highest) {
        if (read_piece(s, app, first, first + clocks) < 0)
            return -1;
        if (included_count(&s->window.diffs) > 0)
            return 0;
        first = s->next_page;
        clocks = clocks < MB_MAX_INTEGER / 4 ? clocks * 2 : clocks;
    }
    return read_piece(s, app, first, -1);
}

/* Finds the owner's highest clock after the window was read. The last diffs of a log that is read
 * from its beginning may have been folded away: then only the store knows the clock. */
static int find_highest(sync_state *s, const store *app, int64_t read_from)
{
    int64_t head = -1;
    s->highest = highest_of(&s->window.diffs);
    if ((s->client_clock == 0 || resets(s)) && ask_highest_clock(s->state, app, &s->log, &head) < 0)
        return -1;
    if (head > s->highest)
        s->highest = head;
    if (s->highest >= 0 || read_from == 0)
        return 0;
    return find_highest_clock(s->state, app, &s->log, read_from - 1, s->scratch, &s->highest);
}

/* Reads what the device has not seen. If a window is sent in pages, only the last page goes
 * downstream, together with the objects that the request edits. */
static int load_window(sync_state *s, const store *app)
{
    if (s->page.asked && load_page(s, app) < 0)
        return -1;
    if (s->next_page >= 0)
        return 0;
    const int64_t first = s->page.first_clock;
    const int64_t read_from = s->request.diffs.count == 0 ? first : s->client_clock;
    if (s->window_from != read_from && read_window(s, app, read_from, -1) < 0)
        return -1;
    if (find_highest(s, app, read_from) < 0)
        return -1;
    if (check_not_ahead(s, first > read_from ? first : read_from) < 0 || recognize(s) < 0)
        return -1;
    if (s->page.pull_clock < 0)
        s->page.pull_clock = s->highest + 1;
    if (s->page.asked && select_diffs(s, true, first, INT64_MAX) < 0)
        return -1;
    return exclude_dead(s, app, -1);
}

/* ---- merge --------------------------------------------------------------------------------- */

static int read_time(sync_state *s, int64_t *now_ms)
{
    PyObject *answer = PyObject_CallMethodNoArgs((PyObject *)s->server, s->state->now_ms);
    *now_ms = answer == NULL ? -1 : PyLong_AsLongLong(answer);
    Py_XDECREF(answer);
    if (*now_ms == -1 && PyErr_Occurred())
        return -1;
    return 0;
}

static mb_status merge_by_turn(sync_state *s)
{
    const mb_diffs *window = &s->window.diffs, *request = &s->request.diffs;
    if (s->turn == STARTS_OVER)
        return mb_merge_behind(s->scratch, window, request, s->seen_clock, &s->result);
    return mb_merge(s->scratch, window, request, &s->result);
}

/* Merging uses no Python object, so a large merge lets other threads run. */
static mb_status merge_lists(sync_state *s)
{
    enum { GIL_FREE_DIFFS = 1000 };
    if (s->window.diffs.count + s->request.diffs.count < GIL_FREE_DIFFS)
        return merge_by_turn(s);
    mb_status status;
    Py_BEGIN_ALLOW_THREADS;
    status = merge_by_turn(s);
    Py_END_ALLOW_THREADS;
    return status;
}

int merge_request(sync_state *s)
{
    int64_t now_ms;
    if (s->request.diffs.count > 0) {
        if (read_time(s, &now_ms) < 0)
            return -1;
        mb_diffs_limit_skew(&s->request.diffs, now_ms, s->server->max_clock_skew_ms);
    }
    return check_memory(merge_lists(s));
}

/* A device that does not page gets everything at once; the size of that is limited. */
static int check_reply_size(sync_state *s)
{
    size_t bytes = 0;
    for (size_t i = 0; i < s->result.downstream.count; i++)
        bytes += s->result.downstream.items[i].json_data.size;
    if (s->page.asked || bytes <= (size_t)s->server->max_reply_bytes)
        return 0;
    return raise_format(s->state->page_error,
                        "the reply would have over %zd bytes: ask for it in pages, with limit",
                        s->server->max_reply_bytes);
}

/* Runs after the rules were asked. A retry was merged before that, and is merged again only if a
 * diff was excluded meanwhile. */
static int merge_allowed(sync_state *s)
{
    const bool excluded = s->refused != NULL && PyList_GET_SIZE(s->refused) > 0;
    if ((excluded || !s->is_retry) && merge_request(s) < 0)
        return -1;
    return check_reply_size(s);
}

/* ---- restore what was excluded ------------------------------------------------------------- */

/* The deletes that are made for restoring need ids. */
static int make_ids(sync_state *s, mb_diffs *diffs)
{
    for (size_t i = 0; i < diffs->count; i++)
        if (diffs->items[i].id.size == 0 && make_id(s->state, s->scratch, &diffs->items[i].id) < 0)
            return -1;
    return 0;
}

/* Restores the device's rows of objects with excluded diffs to the server's state. */
static int restore_excluded(sync_state *s, const store *app)
{
    if (s->refused == NULL || PyList_GET_SIZE(s->refused) == 0)
        return 0;
    diff_list_clear(&s->history);
    if (read_log(s->state, app, &s->log, 0, -1, LOG_MEMBERS, s->scratch, &s->history) < 0)
        return -1;
    const mb_refused_sync refused = {
        .window = &s->window.diffs,
        .request = &s->request.diffs,
        .merged = &s->result,
        .owner = s->log.owner,
        .client_clock = s->client_clock,
        .reply_clock = reply_clock(s),
    };
    if (check_memory(mb_restore(s->scratch, &s->history.diffs, &refused, &s->restored.diffs,
                                &s->restored_downstream)) < 0)
        return -1;
    s->is_restored = true;
    return make_ids(s, &s->restored.diffs);
}

/* ---- named devices ------------------------------------------------------------------------- */

bool resets(const sync_state *s)
{
    return s->turn == STARTS_OVER || s->turn == STARTED_OVER;
}

static bool keeps_devices(const store *app)
{
    return app->has[READ_DEVICES] && app->has[WRITE_DEVICES];
}

/* Reads an attribute of the turn that is a number of 0 or more. */
static int turn_number(const sync_state *s, const char *name, int64_t *number)
{
    PyObject *value = PyObject_GetAttrString(s->turn_taken, name);
    *number = value == NULL ? -1 : PyLong_AsLongLong(value);
    Py_XDECREF(value);
    return *number < 0 ? -1 : 0;
}

/* Finds out what kind of request of a named device it is. It may be only a poll, so the head is
 * read. If the database does not store devices after all, the request is treated as one of a device
 * without a name. */
static int admit_device(sync_state *s, const store *app)
{
    if (s->device == NULL)
        return 0;
    const Py_ssize_t count = (Py_ssize_t)s->request.diffs.count;
    const bool is_first_page = s->page.first_clock == s->client_clock;
    const bool may_poll = count == 0 && is_first_page;
    if (may_poll && find_highest_clock(s->state, app, &s->log, 0, s->scratch, &s->highest) < 0)
        return -1;
    s->turn_taken = PyObject_CallFunction(
        s->state->admit, "OOOOLOLKnLLL", s->server, app->object, s->log.owner_id, s->device,
        (long long)s->number, s->mark, (long long)s->client_clock, (unsigned long long)s->content,
        count, may_poll ? (long long)s->highest : -2, (long long)s->page.first_clock,
        (long long)s->page.stamp);
    if (s->turn_taken == Py_None) {
        Py_CLEAR(s->turn_taken);
        Py_CLEAR(s->device);
        return 0;
    }
    int64_t kind;
    if (s->turn_taken == NULL || turn_number(s, "kind", &kind) < 0 ||
        turn_number(s, "seen_clock", &s->seen_clock) < 0)
        return -1;
    s->turn = (turn_kind)kind;
    return 0;
}

/* The same for a device without a name, after the window was read: only a device that is behind can
 * be too far behind, and reading the owner's state takes a statement. Without the lock nothing is
 * written: run_pull has made sure that nothing has to be. */
static int admit_nameless(sync_state *s, const store *app)
{
    if (s->device != NULL || !keeps_devices(app))
        return 0;
    PyObject *stamp = PyObject_CallFunction(
        s->state->admit_nameless, "OOOLLLLi", s->server, app->object, s->log.owner_id,
        (long long)s->client_clock, (long long)s->page.first_clock, (long long)s->page.stamp,
        (long long)s->highest, s->page.asked);
    s->page.stamp = stamp == NULL ? -1 : PyLong_AsLongLong(stamp);
    Py_XDECREF(stamp);
    return s->page.stamp < 0 ? -1 : 0;
}

/* Which diffs of the request were excluded, by index: a retry has the same. */
static PyObject *excluded_indexes(const sync_state *s)
{
    PyObject *indexes = PyList_New(0);
    for (size_t i = 0; indexes != NULL && s->refused != NULL && i < s->request.diffs.count; i++) {
        PyObject *index = s->request.diffs.items[i].excluded ? PyLong_FromSize_t(i) : NULL;
        if (index != NULL && PyList_Append(indexes, index) < 0)
            Py_CLEAR(indexes);
        Py_XDECREF(index);
    }
    if (PyErr_Occurred())
        Py_CLEAR(indexes);
    return indexes;
}

/* Makes the store remember what the device's next request, or a retry of this one, must be. */
static int keep_turn(sync_state *s)
{
    if (s->device == NULL || s->turn == POLL)
        return 0;
    PyObject *indexes = excluded_indexes(s);
    PyObject *clock = PyLong_FromLongLong(resets(s) ? 0 : reply_clock(s));
    PyObject *refused = s->refused == NULL ? Py_None : s->refused;
    if (indexes != NULL && clock != NULL)
        s->new_mark = PyObject_CallMethod(s->turn_taken, "keep", "OOOL", clock, indexes, refused,
                                          (long long)s->highest);
    Py_XDECREF(indexes);
    Py_XDECREF(clock);
    return s->new_mark == NULL ? -1 : 0;
}

/* Makes the store remember from which clock the device needs the log while it pulls in pages. */
static int keep_page(sync_state *s)
{
    if (s->device == NULL)
        return 0;
    PyObject *stamp = PyObject_CallMethod(s->turn_taken, "keep_page", "L", (long long)s->highest);
    s->page.stamp = stamp == NULL ? -1 : PyLong_AsLongLong(stamp);
    Py_XDECREF(stamp);
    return s->page.stamp < 0 ? -1 : 0;
}

/* A page before the last. */
static int answer_page(sync_state *s)
{
    return merge_request(s) < 0 ? -1 : keep_page(s);
}

/* Excludes what the first try of a retry did. */
static int exclude_again(sync_state *s)
{
    PyObject *kept = PyObject_GetAttrString(s->turn_taken, "refused");
    PyObject *indexes = NULL, *refused = NULL;
    if (kept == NULL ||
        !PyArg_ParseTuple(kept, "O!O!", &PyList_Type, &indexes, &PyList_Type, &refused)) {
        Py_XDECREF(kept);
        return -1;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(indexes); i++) {
        const size_t index = PyLong_AsSize_t(PyList_GET_ITEM(indexes, i));
        if (index < s->request.diffs.count)
            s->request.diffs.items[index].excluded = true;
    }
    Py_XSETREF(s->refused, Py_NewRef(refused));
    Py_DECREF(kept);
    return PyErr_Occurred() ? -1 : 0;
}

/* Writes what the merge sends upstream, the log, and what the rows have then that no diff said. */
static int write_all(sync_state *s, const store *app, bool is_push)
{
    if (begin_filling(s, app, is_push) < 0 || write_models(s, app) < 0 || append_log(s, app) < 0)
        return -1;
    return fill_in(s);
}

/* The server has done this request: all of it is known; no rule is asked and nothing is written. */
static int answer_again(sync_state *s, const store *app)
{
    if (load_window(s, app) < 0)
        return -1;
    if (s->next_page >= 0)
        return answer_page(s);
    if (exclude_again(s) < 0)
        return -1;
    mb_know_all(&s->request.diffs);
    if (merge_request(s) < 0 || check_reply_size(s) < 0 || restore_excluded(s, app) < 0)
        return -1;
    return keep_turn(s);
}

/* The server cannot know the device's rows. It accepts the edits, and the device pulls again from
 * 0. */
static int start_over(sync_state *s, const store *app)
{
    if (read_window(s, app, 0, -1) < 0 || recognize(s) < 0 || find_highest(s, app, 0) < 0)
        return -1;
    if (validate_new(s, app) < 0 || merge_allowed(s) < 0 || write_all(s, app, false) < 0)
        return -1;
    return keep_turn(s);
}

/* ---- the order ----------------------------------------------------------------------------- */

static int take_request(sync_state *s, const store *app)
{
    if (load_window(s, app) < 0 || admit_nameless(s, app) < 0)
        return -1;
    if (s->next_page >= 0)
        return answer_page(s);
    if (validate_new(s, app) < 0 || merge_allowed(s) < 0 || write_all(s, app, false) < 0 ||
        restore_excluded(s, app) < 0 || send_filled(s) < 0)
        return -1;
    return keep_turn(s);
}

int sync_in_transaction(sync_state *s, const store *app)
{
    if (admit_device(s, app) < 0)
        return -1;
    switch (s->turn) {
    case POLL:
        return 0;
    case STARTED_OVER:
        return exclude_again(s) < 0 ? -1 : keep_turn(s);
    case STARTS_OVER:
        return start_over(s, app);
    case RETRY:
        return answer_again(s, app);
    case NEXT:
    default:
        return take_request(s, app);
    }
}

/* Records that a log begins now, so no device without a name can have seen anything of it. */
static int begin_log(sync_state *s, const store *app)
{
    if (!keeps_devices(app))
        return 0;
    PyObject *begun =
        PyObject_CallFunctionObjArgs(s->state->begin_log, app->object, s->log.owner_id, NULL);
    Py_XDECREF(begun);
    return begun == NULL ? -1 : 0;
}

static int check_push_clock(const sync_state *s)
{
    if (s->push_clock < 0 || s->push_clock == s->highest + 1)
        return 0;
    return raise_format(s->state->logical_clock_error, "the log has changed since it was read");
}

/* The backend's own edits: those of a device that is up to date, for which no rule is asked. */
int push_in_transaction(sync_state *s, const store *app)
{
    if (find_highest_clock(s->state, app, &s->log, 0, s->scratch, &s->highest) < 0 ||
        check_push_clock(s) < 0 || recognize(s) < 0 || merge_request(s) < 0 ||
        write_all(s, app, true) < 0)
        return -1;
    return s->highest < 0 && accepted_count(s) > 0 ? begin_log(s, app) : 0;
}

int64_t reply_clock(const sync_state *s)
{
    const size_t count = accepted_count(s) + s->filled_count;
    return s->next_page >= 0 ? s->client_clock : s->highest + 1 + (int64_t)count;
}

/* ---- attempts ------------------------------------------------------------------------------ */

/* Forgets the previous attempt. */
static int begin_attempt(sync_state *s)
{
    diff_list_clear(&s->window);
    diff_list_clear(&s->history);
    diff_list_clear(&s->later);
    s->has_later = false;
    s->restored_downstream.count = s->restored.diffs.count = 0;
    s->is_restored = s->is_retry = s->is_behind = false;
    s->turn = NEXT;
    Py_CLEAR(s->turn_taken);
    Py_CLEAR(s->new_mark);
    Py_CLEAR(s->refused);
    s->result = (mb_merge_result){.conflicts = 0};
    s->window_from = s->highest = s->next_page = -1;
    s->page.pull_clock = s->pull_clock;
    s->page.stamp = s->stamp;
    for (size_t i = 0; i < s->request.diffs.count; i++)
        s->notes[i].taken_along = false;
    s->order = NULL;
    Py_CLEAR(s->misfit);
    s->written_count = 0;
    s->writes_log = false;
    Py_CLEAR(s->filling);
    diff_list_clear(&s->filled);
    s->filled_count = 0;
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

/* Does `work` with each store that a generator yields; takes the reference to the generator, which
 * may be NULL. */
static int run_attempts(sync_state *s, PyObject *attempts, in_transaction work)
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
                                                     s->log.owner_id, Py_True,
                                                     s->device == NULL ? Py_None : s->device, NULL),
                        work);
}

/* ---- a pull without the lock --------------------------------------------------------------- */

enum { HEAD_UNREAD = -2 };

/* Finds out whether the store sees less than the device has seen. Then only a read under the lock
 * can say whether the log has lost it, because a store may be behind for a moment. */
static void compare_with_head(sync_state *s)
{
    s->is_behind = s->highest + 1 < s->client_clock || s->highest + 1 < s->page.first_clock;
}

static int read_head(sync_state *s, const store *app)
{
    if (ask_highest_clock(s->state, app, &s->log, &s->highest) < 0)
        return -1;
    compare_with_head(s);
    return 0;
}

/* Here the store sees one moment, so the head and the window belong together. */
static int pull_at_one_moment(sync_state *s, const store *app)
{
    if (read_head(s, app) < 0)
        return -1;
    return s->is_behind ? 0 : sync_in_transaction(s, app);
}

/* Answers a pull from the head alone, or from the window if there is something new. Returns like
 * run_pull. */
static int pull_from(sync_state *s, PyObject *reading)
{
    const bool has_news = s->highest + 1 > s->page.first_clock;
    if (has_news &&
        run_attempts(s, PyObject_CallOneArg(s->state->one_moment, reading), pull_at_one_moment) < 0)
        return -1;
    return !s->is_behind;
}

/* Answers a poll of a named device, if nothing has to be stored about it. Returns like run_pull. If
 * the database does not store devices after all, the request becomes one of a device without a
 * name. */
static int poll_from(sync_state *s, const store *app)
{
    enum { KEEPS_NONE = -2, NO_POLL = -1 };
    const bool is_first_page = s->page.first_clock == s->client_clock;
    PyObject *highest =
        PyObject_CallFunction(s->state->poll, "OOOOLOL", s->server, app->object, s->log.owner_id,
                              s->device, (long long)s->number, s->mark,
                              is_first_page ? (long long)s->client_clock : (long long)NO_POLL);
    if (highest == NULL)
        return -1;
    const bool is_known = highest != Py_None;
    if (is_known)
        s->highest = PyLong_AsLongLong(highest);
    Py_DECREF(highest);
    if (PyErr_Occurred())
        return -1;
    if (is_known && s->highest == KEEPS_NONE)
        Py_CLEAR(s->device);
    else if (is_known)
        s->turn = POLL;
    return is_known && s->device != NULL;
}

/* Whether it may have to be written that a device without a name was seen, which takes the lock.
 * s->highest is the head from the same statement, or HEAD_UNREAD. Returns 1, 0, or -1 with an
 * exception. */
static int must_note(sync_state *s, const store *app)
{
    s->highest = HEAD_UNREAD;
    if (s->device != NULL || !keeps_devices(app))
        return 0;
    PyObject *head = PyObject_CallFunctionObjArgs(s->state->poll_nameless, s->server, app->object,
                                                  s->log.owner_id, NULL);
    if (head == NULL)
        return -1;
    const bool is_noted = head != Py_None;
    if (is_noted)
        s->highest = PyLong_AsLongLong(head);
    Py_DECREF(head);
    return PyErr_Occurred() ? -1 : !is_noted;
}

/* Whether the log is empty for every device, so nothing has to be recorded about this one. Returns
 * like run_pull. */
static int pull_nothing(sync_state *s, const store *app)
{
    if (read_head(s, app) < 0)
        return -1;
    return s->highest == -1 && s->client_clock == 0 && s->page.first_clock == 0;
}

/* Answers a device without a name, if nothing has to be recorded about it. Returns like run_pull.
 */
static int pull_nameless(sync_state *s, const store *app, PyObject *reading)
{
    const int is_to_note = must_note(s, app);
    if (is_to_note != 0)
        return is_to_note < 0 ? -1 : pull_nothing(s, app);
    if (s->highest != HEAD_UNREAD)
        compare_with_head(s);
    else if (read_head(s, app) < 0)
        return -1;
    return pull_from(s, reading);
}

int run_pull(sync_state *s)
{
    store app;
    if (open_store(s->state, s->server->synchronizer, &app) < 0 || begin_attempt(s) < 0)
        return -1;
    if (!app.has[READING])
        return 0;
    PyObject *arguments[2] = {NULL, s->log.owner_id};
    PyObject *reading = call_store(&app, s->state->optional_names[READING], arguments, 1);
    if (reading == NULL)
        return -1;
    int answered = 0;
    if (reading != Py_None && s->device != NULL)
        answered = poll_from(s, &app);
    if (reading != Py_None && s->device == NULL)
        answered = pull_nameless(s, &app, reading);
    Py_DECREF(reading);
    return answered;
}
