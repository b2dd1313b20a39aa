"""Compaction of an owner's log, in pieces between which the owner's devices sync."""

from __future__ import annotations

import time
from functools import partial

from . import _core
from ._log import OwnerLog
from ._server_edits import json_text
from ._transactions import OwnerTransactions
from .errors import InvalidDiffError
from .types import MAX_LOGICAL_CLOCK, CompactResult, Diff, FilterType, ReadFilter

COMPACT_PIECE_CLOCKS = 10_000
COMPACT_LARGEST_PIECE_CLOCKS = 160_000  # across gaps; rows fit in memory if there are none
COMPACT_PAUSE_S = 0.11  # SQLite looks for its lock every 0.1 s, at the least


def compact_log(transactions: OwnerTransactions) -> CompactResult:
    """Drop from a log what no device can need, from its end to its beginning.

    Args:
        transactions: of the owner whose log it is.

    Returns:
        Rows and bytes of the log before and after.

    Raises:
        BusyError: another transaction of this owner took too long.
        ValueError: the Synchronizer gave rows that are no log of this owner.
    """
    compaction = _core.Compaction()
    end_clock = transactions.run(lambda log: log.store.highest_logical_clock(log.owner_id))
    end_clock = MAX_LOGICAL_CLOCK if end_clock is None else end_clock + 1
    whole_log = end_clock == MAX_LOGICAL_CLOCK
    size = MAX_LOGICAL_CLOCK if whole_log else COMPACT_PIECE_CLOCKS
    totals = [0, 0, 0, 0]
    while end_clock > 0:
        first_clock = max(0, end_clock - size)
        counts = transactions.run(
            partial(
                _compact_piece,
                compaction=compaction,
                first_clock=first_clock,
                end_clock=end_clock,
            ),
            tries_again=False,  # a second try would take what the first one saw for later diffs
        )
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
        end_clock = first_clock
        if counts[0] == 0:
            size = min(size * 2, COMPACT_LARGEST_PIECE_CLOCKS)
        elif end_clock > 0:
            size = COMPACT_PIECE_CLOCKS
            time.sleep(COMPACT_PAUSE_S)  # locks are seldom fair: who waits for it shall have it
    return CompactResult(*totals)


def _compact_piece(
    log: OwnerLog, compaction: _core.Compaction, first_clock: int, end_clock: int
) -> tuple[int, int, int, int]:
    before = [ReadFilter(Diff.LOGICAL_CLOCK, FilterType.minor, end_clock)]
    whole_log = end_clock == MAX_LOGICAL_CLOCK
    rows = log.read(first_clock, *([] if whole_log else before))
    try:
        changes, *counts = compaction.piece(rows, log.owner_id, first_clock, end_clock)
    except InvalidDiffError as damage:
        raise log.damaged(damage) from damage
    trimmed = [
        json_text({Diff.ID: diff_id, Diff.OWNER: log.owner_id, Diff.JSON_DATA: left})
        for diff_id, left in changes
        if left is not None
    ]
    dropped = [
        json_text({Diff.ID: diff_id, Diff.OWNER: log.owner_id})
        for diff_id, left in changes
        if left is None
    ]
    if trimmed:
        log.store.update_many(log.model, trimmed)
    if dropped:
        log.store.delete_many(log.model, dropped)
    rows_before, rows_after, bytes_before, bytes_after = counts
    return rows_before, rows_after, bytes_before, bytes_after
