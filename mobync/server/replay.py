"""Replays an owner's log and compares the result with the stored documents."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from sqlalchemy import func, select

from .. import _core
from ..errors import InvalidDiffError
from ..sqlalchemy import Document, DocumentSynchronizer, SQLAlchemySynchronizer
from ..sqlalchemy._devices import OWNER_ITSELF
from ..sqlalchemy._folding import Key, Operation, fold, lacking
from ..types import Diff, Difference, FilterType, ReadFilter

PIECE_CLOCKS = 10_000
PIECE_DOCUMENTS = 1000


class DamagedLogError(Exception):
    """A diff of the log is malformed; the message names its clock."""


@dataclass(frozen=True)
class Check:
    """The result of comparing one owner's log and documents.

    Attributes:
        diffs: how many the log has.
        documents: how many the table has.
        log_clock: the highest clock in the log, -1 if it is empty.
        head_clock: the highest clock by the owner's head.
        mismatches: objects that differ.
        horizon: the last diff of the log may be missing if its clock is below this one.
    """

    diffs: int
    documents: int
    log_clock: int
    head_clock: int
    mismatches: list[Difference] = field(default_factory=list)
    horizon: int = 0

    @property
    def ok(self) -> bool:
        """Whether everything matches. A folded log may lack its last diffs."""
        ends = self.log_clock == self.head_clock or self.log_clock < self.head_clock < self.horizon
        return ends and not self.mismatches


def check(
    store: DocumentSynchronizer,
    owner_id: str,
    progress: Callable[[int, int], object] | None = None,
) -> Check:
    """Compare an owner's log with the owner's documents, as of one moment.

    Syncs go on meanwhile.  Memory grows with the owner's live objects.

    Args:
        store: the store of both.
        owner_id: the owner.
        progress: called with the clock up to which the log has been replayed, and its end.

    Raises:
        DamagedLogError: a diff of the log is malformed.
    """
    with store.snapshot() as then:
        said: dict[Key, str] = {}
        diffs, log_clock, head_clock = 0, -1, then.highest_logical_clock(owner_id)
        for piece in log_pieces(then, owner_id):
            _replay(piece, said)
            diffs += len(piece)
            log_clock = int(piece[-1][Diff.LOGICAL_CLOCK])
            if progress is not None:
                progress(log_clock + 1, head_clock + 1)
        mismatches: list[Difference] = []
        documents = 0
        remaining = then.documents(owner_id)
        while page := list(islice(remaining, PIECE_DOCUMENTS)):
            documents += len(page)
            mismatches += _compare(page, said)
        mismatches += [Difference(model, id_, text, None) for (model, id_), text in said.items()]
        horizon = horizon_of(then.read_devices(owner_id, [OWNER_ITSELF]))
        return Check(diffs, documents, log_clock, head_clock, mismatches, horizon)


def horizon_of(states: Mapping[str, str] | None) -> int:
    """The clock below which the last diffs of a log may be missing, from the owner's state.

    The log was folded below it, or the clock was raised when another owner's log was moved in.

    Raises:
        ValueError: the state has none.
    """
    text = (states or {}).get(OWNER_ITSELF)
    said = {} if text is None else json.loads(text)
    clocks: list[int] = [said.get(name, 0) for name in ("horizon", "nameless_from")]
    if not all(type(clock) is int for clock in clocks):
        raise ValueError("the horizon is not a clock")
    return max(clocks)


def log_pieces(
    store: SQLAlchemySynchronizer, owner_id: str
) -> Iterator[list[dict[str, str | int]]]:
    """Read an owner's log from the start, in pieces with at least one diff, ordered by clock."""
    end_clock = store.highest_logical_clock(owner_id) + 1
    first_clock: int | None = 0
    while first_clock is not None and first_clock < end_clock:
        rows = store.read(
            store.diffs_model_name,
            [
                ReadFilter(Diff.OWNER, FilterType.equal, owner_id),
                ReadFilter(Diff.LOGICAL_CLOCK, FilterType.majorOrEqual, first_clock),
                ReadFilter(Diff.LOGICAL_CLOCK, FilterType.minor, first_clock + PIECE_CLOCKS),
            ],
        )
        first_clock += PIECE_CLOCKS
        if rows:
            yield sorted(rows, key=lambda row: int(row[Diff.LOGICAL_CLOCK]))
        else:  # a compacted or an imported log may have gaps of any length
            first_clock = _next_clock(store, owner_id, first_clock)


def _next_clock(store: SQLAlchemySynchronizer, owner_id: str, from_clock: int) -> int | None:
    """The first clock of an owner's log from this one on; None if there is none."""
    log = store._log.table.c
    clock = log.logical_clock
    first = select(func.min(clock)).where(log.owner == owner_id, clock >= from_clock)
    with store._reading() as connection:
        found: int | None = connection.scalar(first)
    return found


def _replay(piece: list[dict[str, str | int]], said: dict[Key, str]) -> None:
    """Apply a piece of the log to the documents."""
    edits = [_operation(row) for row in piece]
    touched = {(edit.model, edit.id) for edit in edits} & said.keys()
    before = [Operation("create", *key, said.pop(key)) for key in touched]
    try:
        said.update(fold([*before, *edits]))
    except InvalidDiffError as damage:
        clock = piece[(damage.index or 0) - len(before)][Diff.LOGICAL_CLOCK]
        raise DamagedLogError(f"the diff of clock {clock}: {damage.reason}") from damage


def _operation(row: dict[str, str | int]) -> Operation:
    json_data = str(row[Diff.JSON_DATA])
    id_ = _core.text_member(json_data, Diff.ID)
    if id_ is None:
        raise DamagedLogError(
            f"the diff of clock {row[Diff.LOGICAL_CLOCK]}: json_data is not an object with an id"
        )
    return Operation(str(row[Diff.TYPE]), str(row[Diff.MODEL]), id_, json_data)


def _compare(page: list[Document], said: dict[Key, str]) -> list[Difference]:
    """Compare stored documents with the replayed ones, and drop the replayed ones."""
    found = {(document.model, document.id): document.text for document in page}
    unsaid = [Difference(*key, None, text) for key, text in found.items() if key not in said]
    both = {key: text for key, text in found.items() if key in said}
    log = {key: said.pop(key) for key in both}
    only_log, only_table = lacking(log, both), lacking(both, log)
    different = [
        Difference(*key, only_log.get(key, "{}"), only_table.get(key, "{}"))
        for key in both
        if key in only_log or key in only_table
    ]
    return unsaid + different
