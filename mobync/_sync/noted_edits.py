"""Turns notes of rows that something other than mobync has written into diffs.

This happens at the start of an owner's transaction, before the log is read, so that a sync merges
with the current rows. A note only names a row. The change is found by comparing the row with the
log's state of the object.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from .. import _core
from ..errors import BusyError, InvalidDiffError
from ..synchronizer import Synchronizer
from ..types import DiffDict, LogRow
from .adopting import log_row, log_rows_of
from .attempts import OwnerLog, in_transaction, plain_answer
from .backend_edits import Operation, diffs_of, naming_rows, object_id
from .devices import begin_log
from .logged_objects import LoggedObjects
from .reconciling import PIECE_ROWS, Found, compare

logger = logging.getLogger("mobync")

Report = tuple[str, int, int, int]
"""Owner, logical clock, diffs pushed and accepted: the first fields of a SyncReport."""


def log_noted(server: _core.Mobync, store: Synchronizer, owner_id: str) -> Report | None:
    """Add the noted edits of an owner's rows to the log, and drop the notes.

    A row that cannot become a diff is skipped, with a line in the app's log, because an admin's
    edit must not stop the syncs of the owner's devices.

    Args:
        server: whose settings.
        store: the Synchronizer, in a transaction of the owner.
        owner_id: whose rows.

    Returns:
        What to tell the listeners when it is committed; None for nothing.
    """
    notes = store.capture.notes(store, owner_id)
    if not notes:
        return None
    log = OwnerLog(store, server.diffs_model_name, owner_id)
    now_ms = server._now_ms()
    times: dict[str, dict[str, int]] = {}  # of the last note of each object, by model
    for note in notes:
        times.setdefault(note.model, {})[note.id] = min(note.noted_ms, now_ms)
    models = [model for model in store.owned_models(owner_id) if model in times]
    found = [each for model in models for each in _compare(log, model, list(times[model]))]
    deleted = [each for each in found if each.row is None]
    diffs: list[DiffDict] = []
    for each in [*(each for each in found if each.row is not None), *reversed(deleted)]:
        model, id_ = each.key
        diffs += valid(diffs_of(each.operations, owner_id, times[model][id_]), log, id_)
    clock = (store.highest_logical_clock(owner_id) or 0) + 1
    rows: list[LogRow] = [log_row(diff, log, place) for place, diff in enumerate(diffs, clock)]
    if rows:
        if clock == 0:
            begin_log(store, owner_id)
        store.append_log(log.model, rows)
    store.capture.forget(store, notes)
    return (owner_id, clock + len(rows), len(notes), len(rows)) if rows else None


def log_noted_now(server: _core.Mobync, owner_id: str) -> None:
    """Add the noted edits of an owner's rows to the log, if there are any, and tell the listeners.

    This is for a device that listens, so that it hears of them before somebody syncs. It does not
    wait for a sync of the owner: many devices of an owner may listen, and a server has few threads.

    Args:
        server: with the synchronizer, outside of a transaction.
        owner_id: whose rows.
    """
    if server.synchronizer._has_notes(owner_id):
        with suppress(BusyError):  # the sync that holds the owner, or the next read, adds them
            in_transaction(server, owner_id, lambda log: None, waits=False)


def log_edits(
    server: _core.Mobync, store: Synchronizer, owner_id: str, operations: Sequence[Operation]
) -> Report:
    """Add edits of an owner's rows that the app's own code has made to the log.

    Args:
        server: whose settings.
        store: the Synchronizer, in a transaction of the owner.
        owner_id: whose rows.
        operations: the edits, at least one.

    Returns:
        What to tell the listeners when it is committed.

    Raises:
        InvalidDiffError: a row cannot become a diff.
    """
    log = OwnerLog(store, server.diffs_model_name, owner_id)
    highest = log.highest_clock()
    clock = 0 if highest is None else highest + 1
    with naming_rows(operations):
        rows = log_rows_of(operations, log, server._now_ms(), clock)
    if clock == 0:
        begin_log(store, owner_id)
    store.append_log(log.model, rows)
    return owner_id, clock + len(rows), len(operations), len(rows)


def _compare(log: OwnerLog, model: str, ids: list[str]) -> Iterator[Found]:
    """The edits of each object that must be added to the log, if any."""
    remaining = iter(ids)
    logged = _logged(log, model, ids)
    while piece := list(islice(remaining, PIECE_ROWS)):
        rows = find_rows(log, model, piece)
        for id_ in piece:
            if id_ in rows or (model, id_) in logged.whole:
                row = rows.get(id_)
                if row is not UNREADABLE:
                    yield compare(log.store, logged, (model, id_), row)


def _logged(log: OwnerLog, model: str, ids: Sequence[str]) -> LoggedObjects:
    """The log's state of some objects."""
    logged = LoggedObjects(model, frozenset(ids))
    rows = log.store.capture.logged(log.store, log.owner_id, model, ids)
    if rows is None:
        logged.follow_to_end(lambda work: work(log))
    else:
        logged.take_in(rows, log.owner_id)
    return logged


UNREADABLE: Any = object()
# An app's own column type may make any objects; for these, the codec of its impl raises the last
# two errors.
_UNREADABLE_ERRORS = (
    *(ValueError, LookupError, ArithmeticError),
    *(TypeError, AttributeError, InvalidDiffError),
)


def read_rows(log: OwnerLog, model: str, ids: Sequence[str]) -> dict[str, Any]:
    """The existing rows, by id."""
    rows = log.store.find_owned_rows(log.owner_id, model, ids)
    return {object_id(row): row for row in plain_answer("find_owned_rows", rows)}


def find_rows(log: OwnerLog, model: str, ids: Sequence[str]) -> dict[str, Any]:
    """The existing rows, by id; one by one if some cannot be read."""
    try:
        return read_rows(log, model, ids)
    except _UNREADABLE_ERRORS:
        if len(ids) == 1:
            logger.exception("row %r of %r cannot be read: no device gets it", ids[0], model)
            return {ids[0]: UNREADABLE}
    found: dict[str, Any] = {}
    for id_ in ids:
        found |= find_rows(log, model, [id_])
    return found


def valid(diffs: Sequence[DiffDict], log: OwnerLog, id_: str) -> Sequence[DiffDict]:
    """The diffs of an object, or none of them if one is malformed."""
    try:
        for diff in diffs:
            _core.check_diff(diff, log.model)
    except InvalidDiffError as misfit:
        why = "row %r of %r cannot become a diff, no device gets it: %s"
        logger.warning(why, id_, diff["model"], misfit)
        return []
    return diffs
