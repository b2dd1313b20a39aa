"""Pages of a long window: what a request asks for, what of the log it gets, and the next cursor."""

from __future__ import annotations

from typing import NamedTuple

from . import _core
from ._log import OwnerLog
from .errors import PageError, shown
from .types import MAX_LOGICAL_CLOCK, Diff, FilterType, ReadFilter


class Page(NamedTuple):
    """The part of the window that a request asks for.

    Attributes:
        first_clock: the logical clock with which it begins.
        limit: diffs that it should have; None: all that are left.
    """

    first_clock: int
    limit: int | None


def read_page(
    limit: int | str | None, cursor: str | None, client_clock: int, request: _core.Exchange
) -> Page | None:
    """Read what a request says of pages; None if it says nothing.

    Args:
        limit, cursor: as they came.
        client_clock: the request's logical clock.
        request: its fingerprint, taken only if there is a cursor, tells its diffs from others.

    Raises:
        PageError: the limit is no int of 1 or more, or the cursor is none that such a request got.
    """
    count = _read_limit(limit)
    if cursor is None:
        return None if count is None else Page(client_clock, count)
    if not isinstance(cursor, str):
        raise PageError(f"cursor must be a str, not {type(cursor).__name__}")
    first, dot, _ = cursor.partition(".")
    if not (dot and first.isascii() and first.isdigit() and len(first) < 17):
        raise PageError("cursor is none that a reply gave")
    if cursor != write_cursor(int(first), client_clock, request.fingerprint):
        raise PageError(
            "cursor belongs to a request with another logical_clock or other diffs: go on with "
            "those, and keep later edits for the next sync"
        )
    return Page(min(int(first), MAX_LOGICAL_CLOCK), count)


def meet_page(exchange: _core.Exchange, log: OwnerLog, page: Page) -> int | None:
    """Show an exchange a page of the log.

    Reads about as much as the page has where the store offers ``highest_logical_clock``; else
    all that is left of the window.

    Returns:
        The clock after it; None if it is the last page.
    """
    if page.limit is None:
        return None
    highest = log.store.highest_logical_clock(log.owner_id)
    begin, clocks = page.first_clock, page.limit
    met = None
    while met is None and highest is not None and begin + clocks <= highest:
        end = begin + clocks
        met = log.meet(exchange, begin, ReadFilter(Diff.LOGICAL_CLOCK, FilterType.minor, end))
        if met is None:  # a gap that compaction left, of any width
            begin, clocks = end, clocks * 2
    if met is None:
        log.meet(exchange, begin)
        next_page = exchange.page_end(page.limit)
    else:
        next_page = exchange.page_end(page.limit) or end
    if next_page is not None:
        exchange.select(False, False, page.first_clock, next_page)
        if page.first_clock == 0:
            exchange.leave_out_dead()
    return next_page


def write_cursor(first_clock: int, client_clock: int, fingerprint: int) -> str:
    """The cursor of the page that begins with ``first_clock``, for the same request."""
    return f"{first_clock}.{client_clock}.{fingerprint:x}"


def _read_limit(limit: int | str | None) -> int | None:
    if limit is None:
        return None
    count: object = limit
    if isinstance(count, str) and count.isascii() and count.isdigit() and len(count) < 100:
        count = int(count)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise PageError(f"limit must be an int of 1 or more, not {shown(limit)}")
    return min(count, MAX_LOGICAL_CLOCK)
