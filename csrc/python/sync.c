/* sync.c - one sync inside the owner's transaction: the order of the protocol.
 *
 * The order is that of docs/protocol.md, "Around the merge". The form of the diffs was checked before
 * (request.c), and the transaction begins and ends around this (attempt.c). From here on, there are
 * only calls of the app's own methods.
 */
#include "binding.h"

static int answer_again(sync_state *s, const store *app);
static int start_over(sync_state *s, const store *app);
static int answer_page(sync_state *s);
static int merge_allowed(sync_state *s);
static int write_all(sync_state *s, const store *app, bool is_push);
static int restore_excluded(sync_state *s, const store *app);
static int check_push_clock(const sync_state *s);

/* ---- the order ----------------------------------------------------------------------------- */

/* The steps of docs/protocol.md. A page before the last ends after the window. */
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

/* The backend's own edits: those of a device that is up to date, for which no rule is asked. */
int push_in_transaction(sync_state *s, const store *app)
{
    if (find_highest_clock(s, app, 0) < 0 || check_push_clock(s) < 0 || recognize(s) < 0 ||
        merge_request(s) < 0 || write_all(s, app, true) < 0)
        return -1;
    return s->highest < 0 && accepted_count(s) > 0 ? begin_log(s, app) : 0;
}

/* ---- merge --------------------------------------------------------------------------------- */

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
        if (take_number(PyObject_CallMethodNoArgs((PyObject *)s->server, s->state->now_ms),
                        &now_ms) < 0)
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
    if (read_log(s, app, 0, -1, LOG_MEMBERS, &s->history) < 0)
        return -1;
    const mb_refused_sync refused = {
        .window = &s->window.diffs,
        .request = &s->request.diffs,
        .merged = &s->result,
        .owner = s->owner,
        .client_clock = s->client_clock,
        .reply_clock = reply_clock(s),
    };
    if (check_memory(mb_restore(s->scratch, &s->history.diffs, &refused, &s->restored.diffs,
                                &s->restored_downstream)) < 0)
        return -1;
    s->is_restored = true;
    return make_ids(s, &s->restored.diffs);
}

/* ---- write --------------------------------------------------------------------------------- */

/* Writes what the merge sends upstream, the log, and what the rows have then that no diff said. */
static int write_all(sync_state *s, const store *app, bool is_push)
{
    if (begin_filling(s, app, is_push) < 0 || write_models(s, app) < 0 || append_log(s, app) < 0)
        return -1;
    return fill_in(s);
}

static int check_push_clock(const sync_state *s)
{
    if (s->push_clock < 0 || s->push_clock == s->highest + 1)
        return 0;
    return raise_format(s->state->logical_clock_error, "the log has changed since it was read");
}

int64_t reply_clock(const sync_state *s)
{
    const size_t count = accepted_count(s) + s->filled_count;
    return s->next_page >= 0 ? s->client_clock : s->highest + 1 + (int64_t)count;
}

/* ---- the other turns of a device ------------------------------------------------------------ */

/* A page before the last. */
static int answer_page(sync_state *s)
{
    return merge_request(s) < 0 ? -1 : keep_page(s);
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
