/* window.c - loads what a device has not seen: the window, or a page of it.
 *
 * The store is asked for rows by clock; the core finds out which diffs of the request are among them,
 * where a page ends, and what a new device does not get.
 */
#include "binding.h"

int read_window(sync_state *s, const store *app, int64_t first, int64_t end)
{
    diff_list_clear(&s->window);
    s->window_from = end < 0 ? first : -1;
    if (s->highest == HEAD_UNREAD && ask_highest_clock(s, app) < 0)
        return -1;
    if (s->highest != HEAD_UNREAD && s->highest < first)
        return 0; /* the log ends before it */
    const log_part part = s->request.diffs.count == 0 ? LOG_UNTIMED : LOG_ROWS;
    return read_log(s, app, first, end, part, &s->window);
}

int recognize(sync_state *s)
{
    size_t index = SIZE_MAX;
    mb_error error;
    const mb_status status =
        mb_recognize(s->scratch, &s->window.diffs, &s->request.diffs, s->skips, &index, &error);
    if (status != MB_OK)
        return raise_status(s->state, status, index, &error);
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
    if (!s->has_later && read_log(s, app, end, s->page.pull_clock, LOG_DELETES, &s->later) < 0)
        return -1;
    s->has_later = true;
    return diffs_between(&s->later.diffs, end, INT64_MAX, s->scratch, later);
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
    if (ask_highest_clock(s, app) < 0)
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

/* Finds the owner's highest clock after the window was read. The last diffs of the log may have been
 * folded away: then only the store knows the clock. */
int find_highest(sync_state *s, const store *app, int64_t read_from)
{
    const int64_t last = highest_of(&s->window.diffs);
    const bool is_known = s->highest != HEAD_UNREAD || last >= 0 || read_from == 0;
    if (s->highest < last)
        s->highest = last;
    return is_known ? 0 : find_highest_clock(s, app, read_from - 1);
}

/* Reads what the device has not seen. If a window is sent in pages, only the last page goes
 * downstream, together with the objects that the request edits. */
int load_window(sync_state *s, const store *app)
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
