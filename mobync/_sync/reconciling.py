"""Adds edits that were made without mobync to an owner's log.

The log is read first, in pieces, as a device would read it. Then the rows of each model are read in
pieces, each in its own transaction, and devices can sync in between. The log is followed, and each
row is compared with the log's state of its object at that moment. At the end there may be objects
that were alive in the log at the beginning, that were not among the rows, and that have nothing new
in the log. If their row is missing in the transaction that adds the delete, they were deleted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from .. import _core
from ..synchronizer import Synchronizer
from ..types import Difference, ReconcileResult
from .adopting import creating, log_rows_of
from .attempts import OwnerLog, in_transaction, plain_answer
from .backend_edits import Operation, json_text, naming_rows, object_id
from .devices import begin_log
from .logged_objects import Key, LoggedObjects, RunWork

PIECE_ROWS = 1000
MOST_DIFFERENCES = 100  # that a result lists

Progress = Callable[[int, int], object]


class Found(NamedTuple):
    """A row, or an object of the log, and what must be added to the log because of it."""

    key: Key
    row: Mapping[str, Any] | str | None
    operations: list[Operation]


class Piece(NamedTuple):
    """The result of a transaction."""

    found: list[Found]
    next_clock: int  # of the log, afterwards
    accepted: int  # diffs of the log


def reconcile_owner(
    server: _core.Mobync,
    owner_id: str,
    model: str | None,
    dry_run: bool,
    progress: Progress | None,
    tell: Callable[[tuple[Any, ...]], None],
) -> ReconcileResult:
    """Compare an owner's rows with the log, and add the differences to it.

    Args:
        server: the Mobync with the settings and locks.
        owner_id: the owner of the rows.
        model: their model; None for all.
        dry_run: whether to compare only.
        progress: as in ``Mobync.reconcile``.
        tell: is called after a transaction that wrote, with the fields of a SyncReport.
    """
    synchronizer: Synchronizer = server.synchronizer
    reading = plain_answer("reading", synchronizer.reading(owner_id)) if dry_run else None
    if reading is None:
        run = partial(in_transaction, server, owner_id)
        return Reconciliation(server, owner_id, model, run, dry_run, progress, tell).run()
    with reading as store:
        log = OwnerLog(store, server.diffs_model_name, owner_id)
        return Reconciliation(
            server, owner_id, model, lambda work: work(log), dry_run, progress, tell
        ).run()


class Reconciliation:
    """One comparison of an owner's rows with the log; ``run`` does it."""

    def __init__(
        self,
        server: _core.Mobync,
        owner_id: str,
        model: str | None,
        run: RunWork[Any],
        dry_run: bool,
        progress: Progress | None,
        tell: Callable[[tuple[Any, ...]], None],
    ) -> None:
        self._server = server
        self._owner_id = owner_id
        self._model = model
        self._run = run
        self._dry_run = dry_run
        self._progress = progress
        self._tell = tell
        self._logged = LoggedObjects(model)
        self._new: set[Key] = set()  # objects that the log got diffs of since the walk began
        self._rows = self._created = self._updated = self._deleted = 0
        self._differences: list[Difference] = []
        self._done = self._total = 0

    def run(self) -> ReconcileResult:
        models = [self._model] if self._model is not None else self._run(self._owned_models)
        self._logged.follow_to_end(self._run, lambda at, end: self._advance(at - self._done, end))
        self._total = self._done + len(self._logged.whole)
        for model in models:
            self._walk(model)
        for model in reversed(models):
            self._look_for(model)
        return ReconcileResult(
            self._rows, self._created, self._updated, self._deleted, self._differences
        )

    def _owned_models(self, log: OwnerLog) -> list[str]:
        return list(plain_answer("owned_models", log.store.owned_models(self._owner_id)))

    # ---- the log ---------------------------------------------------------------------------------

    def _follow(self, log: OwnerLog) -> None:
        _, keys = self._logged.follow(log)
        self._new |= keys

    def _advance(self, steps: int, total: int) -> None:
        self._done += steps
        self._total = max(self._total, self._done, total)
        if self._progress is not None:
            self._progress(self._done, self._total)

    # ---- the rows --------------------------------------------------------------------------------

    def _walk(self, model: str) -> None:
        last_id: str | None = None
        count = PIECE_ROWS
        while count == PIECE_ROWS:
            piece = self._run(partial(self._compare_rows, model=model, after=last_id))
            count = len(piece.found)
            if count:
                last_id = piece.found[-1].key[1]
                self._rows += count
                self._take(piece)

    def _compare_rows(self, log: OwnerLog, model: str, after: str | None) -> Piece:
        self._follow(log)
        rows = plain_answer("owned_rows", log.store.owned_rows(self._owner_id, model, after))
        found = [
            compare(log.store, self._logged, (model, object_id(row)), row)
            for row in islice(rows, PIECE_ROWS)
        ]
        return self._write(log, found)

    def _look_for(self, model: str) -> None:
        """Look for the rows of the objects that were not found."""
        unmet = iter([id_ for of, id_ in self._logged.whole if of == model])
        while ids := list(islice(unmet, PIECE_ROWS)):
            self._take(self._run(partial(self._compare_unmet, model=model, ids=ids)))

    def _compare_unmet(self, log: OwnerLog, model: str, ids: list[str]) -> Piece:
        self._follow(log)
        ids = [i for i in ids if (model, i) in self._logged.whole and (model, i) not in self._new]
        if not ids:
            return Piece([], self._logged.next_clock, 0)
        there = log.store.find_owned_rows(self._owner_id, model, ids)
        rows = {object_id(row): row for row in plain_answer("find_owned_rows", there)}
        found = [compare(log.store, self._logged, (model, id_), rows.get(id_)) for id_ in ids]
        return self._write(log, found)

    # ---- what differs ----------------------------------------------------------------------------

    def _write(self, log: OwnerLog, found: list[Found]) -> Piece:
        clock = self._logged.next_clock
        operations = [operation for each in found for operation in each.operations]
        if self._dry_run or not operations:
            return Piece(found, clock, 0)
        places = [n for n, each in enumerate(found, self._rows) for _ in each.operations]
        with naming_rows(operations, places):
            rows = log_rows_of(operations, log, self._server._now_ms(), clock)
        if clock == 0:
            begin_log(log.store, log.owner_id)
        plain_answer("append_log", log.store.append_log(log.model, rows))
        return Piece(found, clock + len(rows), len(rows))

    def _take(self, piece: Piece) -> None:
        """Count what a transaction did, which is committed now, and forget what was found."""
        for each in piece.found:
            logged = self._logged.whole.pop(each.key, None)
            if not each.operations:
                continue
            self._created += logged is None
            self._updated += logged is not None and each.row is not None
            self._deleted += each.row is None
            if len(self._differences) < MOST_DIFFERENCES:
                self._differences.append(_difference(each, logged))
        self._logged.next_clock = piece.next_clock
        if piece.accepted:
            told = self._owner_id, piece.next_clock, len(piece.found), piece.accepted
            self._tell(told)
        self._advance(len(piece.found), self._total)


def compare(
    store: Synchronizer,
    logged: LoggedObjects,
    key: Key,
    row: Mapping[str, Any] | str | None,
) -> Found:
    """The edits to the log that make its state of an object equal to its row.

    Args:
        store: the Synchronizer, in a transaction of the owner.
        logged: the log's state.
        key: the object; if there is no row, one that the log has completely.
        row: the owner's row; None: there is none.
    """
    model, id_ = key
    said = logged.whole.get(key)
    if row is None:
        return Found(key, None, [("delete", model, {"id": id_})])
    if said is not None:
        edits = plain_answer("edits_between", store.edits_between(model, said, row))
        return Found(key, row, [(kind, model, data) for kind, data in edits])
    return Found(key, row, creating(model, id_, row, is_updated=key in logged.partly))


def _difference(found: Found, logged: str | None) -> Difference:
    if logged is None or found.row is None:
        return Difference(*found.key, logged, None if found.row is None else json_text(found.row))
    changed = [json_text(data) for kind, _, data in found.operations if kind != "delete"]
    names = [name for text in changed for name, _ in _core.members(text)]
    said = dict(_core.members(logged))
    only_log = ", ".join(f"{json.dumps(name)}: {said[name]}" for name in names if name in said)
    return Difference(*found.key, "{" + only_log + "}", changed[0])
