"""The state of each live object by an owner's log, followed as the log grows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

from .. import _core
from ..errors import InvalidDiffError
from ..types import Diff, DiffDict, FilterType, ReadFilter
from .attempts import OwnerLog

PIECE_CLOCKS = 10_000
LARGEST_PIECE_CLOCKS = 160_000  # across gaps, which compaction leaves

T = TypeVar("T")
RunWork = Callable[[Callable[[OwnerLog], T]], T]

Key = tuple[str, str]
"""The model and the id of an object."""


class LoggedObjects:
    """The live objects of an owner's log: all of them, or those of one model.

    Memory grows with the live objects, and not with the length of the log.

    Args:
        model: the model; None for all.
        ids: only objects with these ids; None for all.

    Attributes:
        whole: by key, the JSON text of each object that the log has from its create on.
        partly: objects of which the log has updates only, so that no device has them.
        next_clock: how far the log has been followed.
    """

    def __init__(self, model: str | None = None, ids: frozenset[str] | None = None) -> None:
        self.whole: dict[Key, str] = {}
        self.partly: set[Key] = set()
        self.next_clock = 0
        self._model = model
        self._ids = ids

    def follow(self, log: OwnerLog, end_clock: int | None = None) -> tuple[int, set[Key]]:
        """Read the log from ``next_clock`` on, up to ``end_clock`` or to its end.

        Returns:
            How many diffs there were, and of which objects.

        Raises:
            ValueError: the Synchronizer returned rows that are not a log of this owner.
        """
        before = [] if end_clock is None else [_before(end_clock)]
        rows = log.rows(self.next_clock, *before)
        try:
            highest = self.take_in(rows, log.owner_id)
        except InvalidDiffError as damage:
            raise log.damaged(damage) from damage
        if end_clock is None:
            head = log.highest_clock()  # the last rows may have been folded away
            self.next_clock = max(self.next_clock, highest + 1, 0 if head is None else head + 1)
        else:
            self.next_clock = end_clock
        keys = {(row[Diff.MODEL], _object_of(row)) for row in rows}
        return len(rows), keys

    def follow_to_end(
        self, run: RunWork[Any], progress: Callable[[int, int], object] | None = None
    ) -> None:
        """Read the rest of the log, in pieces if the store can read pieces.

        Args:
            run: does some work with the log, in a transaction of the owner.
            progress: called after each piece with the clock that it leads to, and the last one.
        """
        highest = run(OwnerLog.highest_clock)
        if highest is None:
            run(self.follow)
            return
        size = PIECE_CLOCKS
        while self.next_clock <= highest:
            end = min(self.next_clock + size, highest + 1)
            diffs, _ = run(partial(self.follow, end_clock=end))
            size = PIECE_CLOCKS if diffs else min(size * 2, LARGEST_PIECE_CLOCKS)
            if progress is not None:
                progress(end, highest + 1)

    def take_in(self, rows: Iterable[Mapping[str, Any]], owner_id: str) -> int:
        """Apply rows of the log that come after all rows so far.

        Returns:
            The highest clock among them, -1 if there are none.
        """
        rows = sorted(rows, key=lambda row: int(row[Diff.LOGICAL_CLOCK]))
        highest = _core.check_log(rows, owner_id, self.next_clock)
        edits: dict[Key, list[Mapping[str, Any]]] = {}
        for row in rows:
            key = row[Diff.MODEL], _object_of(row)
            if self._is_wanted(key):
                self._note(row, key, edits.setdefault(key, []))
        self._fold(edits)
        return highest

    def _is_wanted(self, key: Key) -> bool:
        return (self._model is None or key[0] == self._model) and (
            self._ids is None or key[1] in self._ids
        )

    def _note(self, row: Mapping[str, Any], key: Key, edits: list[Mapping[str, Any]]) -> None:
        """Add an edit of an object, unless it reaches no device.

        A create that follows updates of the same life reaches devices as one more update.
        """
        kind = row[Diff.TYPE]
        if kind == "delete":
            self.partly.discard(key)
            self.whole.pop(key, None)
            edits.clear()
        elif key in self.partly:
            return
        elif kind == "update" and not edits and key not in self.whole:
            self.partly.add(key)
        else:
            edits.append(row)

    def _fold(self, edits: Mapping[Key, list[Mapping[str, Any]]]) -> None:
        """Let the core make one text from each object's create and its later edits."""
        diffs: list[DiffDict] = []
        keys: list[Key] = []
        for key, rows in edits.items():
            before = self.whole.get(key)
            texts = [] if before is None else [before]
            texts += [row[Diff.JSON_DATA] for row in rows]
            for place, text in enumerate(texts if rows else ()):
                diffs.append(_edit(len(diffs), "update" if place else "create", key[0], text))
                keys.append(key)
        upstream, _ = _core.merge([], diffs)
        for diff in upstream:
            self.whole[keys[int(diff["id"])]] = diff["json_data"]


def _before(clock: int) -> ReadFilter:
    return ReadFilter(Diff.LOGICAL_CLOCK, FilterType.minor, clock)


def _object_of(row: Mapping[str, Any]) -> str:
    return _core.text_member(row[Diff.JSON_DATA], Diff.ID) or ""


def _edit(number: int, kind: str, model: str, json_data: str) -> DiffDict:
    return {
        "id": str(number),
        "owner": "owner",
        "logical_clock": 0,
        "utc_timestamp": number,
        "type": kind,
        "model": model,
        "json_data": json_data,
    }
