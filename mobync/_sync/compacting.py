"""Compaction of an owner's log, in pieces. The owner's devices can sync between two pieces.

The first walk goes from the end of the log to its beginning, and drops what no device can need. The
second walk goes from the beginning to the horizon, and folds (folding.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from .. import _core
from .._waiting import Waiting
from ..errors import InvalidDiffError
from ..types import MAX_LOGICAL_CLOCK, CompactResult, Diff, FilterType, ReadFilter
from .attempts import OwnerLog, in_transaction, plain_answer, without_lock
from .backend_edits import json_text
from .devices import keeps_devices, read_states
from .folding import Horizon, fold_piece, is_empty, plan_horizon

COMPACT_PIECE_CLOCKS = 10_000
COMPACT_LARGEST_PIECE_CLOCKS = 160_000  # across gaps; rows fit in memory if there are none
COMPACT_PAUSE_S = 0.11  # SQLite looks for its lock every 0.1 s, at the least


def compact_log(server: _core.Mobync, owner_id: str) -> CompactResult:
    """Drop from a log what no device can need, and fold it below its horizon.

    Args:
        server: whose settings and locks.
        owner_id: whose log it is.

    Returns:
        Rows and bytes of the log before and after, and what holds its horizon.

    Raises:
        BusyError: another transaction of this owner took too long.
        ValueError: the Synchronizer gave rows that are no log of this owner.
    """
    if _has_nothing(server, owner_id):
        return CompactResult(0, 0, 0, 0)
    plan = in_transaction(server, owner_id, partial(plan_horizon, server))
    compaction = _core.Compaction(plan.horizon, plan.keeps_times, plan.keeps_clock)
    totals = [0, 0, 0, 0]
    waiting = server.synchronizer._waiting
    for piece in _pieces_from_the_end(plan, waiting):
        compact = partial(_compact_piece, compaction, *piece)
        # A second try would see the diffs of the first try as later ones.
        counts = in_transaction(server, owner_id, compact, retries=False)
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
        piece.rows = counts[0]
    unfolded = 0
    for piece in _pieces_to_the_horizon(plan, compaction.expects_folds, waiting):
        fold = partial(fold_piece, compaction, plan, *piece)
        folded = in_transaction(server, owner_id, fold, retries=False)
        if folded is None:  # another compaction of this owner has taken over
            break
        piece.rows = folded.rows
        totals[1] -= folded.dropped
        totals[3] += folded.bytes
        unfolded += folded.unfolded
    return CompactResult(
        *totals, horizon=plan.reached, held_by=plan.held_by, unfolded_objects=unfolded
    )


def _has_nothing(server: _core.Mobync, owner_id: str) -> bool:
    """Whether there is certainly nothing of an owner; then nothing shall be written either."""
    reading = without_lock(server, owner_id)
    if reading is None:
        return False
    with reading as log:
        if keeps_devices(log.store) and read_states(log.store, owner_id):
            return False
        return is_empty(log, log.highest_clock())


class _Piece:
    """A range of clocks of the log, without its end, and the rows in it."""

    def __init__(self, first_clock: int, end_clock: int) -> None:
        self.first_clock = first_clock
        self.end_clock = end_clock
        self.rows = 0

    def __iter__(self) -> Iterator[int]:
        return iter((self.first_clock, self.end_clock))


def _pieces_from_the_end(plan: Horizon, waiting: Waiting) -> Iterator[_Piece]:
    end_clock = MAX_LOGICAL_CLOCK if plan.highest is None else plan.highest + 1
    size = MAX_LOGICAL_CLOCK if plan.highest is None else COMPACT_PIECE_CLOCKS
    while end_clock > 0:
        piece = _Piece(max(0, end_clock - size), end_clock)
        yield piece
        end_clock = piece.first_clock
        size = _next_size(size, piece, waiting, is_last=end_clock == 0)


def _pieces_to_the_horizon(
    plan: Horizon, expects_folds: bool, waiting: Waiting
) -> Iterator[_Piece]:
    """The pieces in which a log is folded; only its end if there is nothing to fold."""
    first_clock = 0 if expects_folds else plan.horizon
    size = MAX_LOGICAL_CLOCK if plan.highest is None else COMPACT_PIECE_CLOCKS
    while first_clock < plan.horizon or plan.reached < plan.horizon:
        piece = _Piece(first_clock, min(first_clock + size, plan.horizon))
        yield piece
        first_clock = piece.end_clock
        size = _next_size(size, piece, waiting, is_last=first_clock == plan.horizon)


def _next_size(size: int, piece: _Piece, waiting: Waiting, *, is_last: bool) -> int:
    """Pause after a piece that had rows, so that others can sync; cross gaps in growing steps."""
    if piece.rows == 0:
        return min(size * 2, COMPACT_LARGEST_PIECE_CLOCKS)
    if not is_last:
        # Locks are seldom fair: this pause lets a waiting sync have it.
        waiting.sleep(COMPACT_PAUSE_S)
    return COMPACT_PIECE_CLOCKS


def _compact_piece(
    compaction: _core.Compaction, first_clock: int, end_clock: int, log: OwnerLog
) -> list[int]:
    before = ReadFilter(Diff.LOGICAL_CLOCK, FilterType.minor, end_clock)
    rows = log.read(first_clock, *([] if end_clock == MAX_LOGICAL_CLOCK else [before]))
    try:
        changes, *counts = compaction.piece(rows, log.owner_id, first_clock, end_clock)
    except InvalidDiffError as damage:
        raise log.damaged(damage) from damage
    trimmed, dropped = [], []
    for diff_id, left in changes:
        row = {Diff.ID: diff_id, Diff.OWNER: log.owner_id}
        if left is None:
            dropped.append(json_text(row))
        else:
            trimmed.append(json_text({**row, Diff.JSON_DATA: left}))
    if trimmed:
        plain_answer("update_many", log.store.update_many(log.model, trimmed))
    if dropped:
        plain_answer("delete_many", log.store.delete_many(log.model, dropped))
    return counts
