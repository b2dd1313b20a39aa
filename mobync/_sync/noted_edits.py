"""Notes of rows that something else than mobync has written, turned into diffs.

At the start of an owner's transaction, before anything of the log is read: so a sync merges with
what the rows say by then.  A note says which row; what was changed is found by comparing the row
with what the log says of its object.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from .. import _core
from ..errors import InvalidDiffError
from ..synchronizer import Synchronizer
from ..types import DiffDict, LogRow
from .adopting import log_row, log_rows_of
from .attempts import OwnerLog, plain_answer
from .backend_edits import Operation, diffs_of, naming_rows, object_id
from .devices import begin_log, keeps_devices
from .logged_objects import LoggedObjects
from .reconciling import PIECE_ROWS, Found, compare

logger = logging.getLogger("mobync")

Report = tuple[str, int, int, int]
"""Owner, logical clock, diffs pushed and accepted: the first fields of a SyncReport."""


def log_noted(server: _core.Mobync, store: Synchronizer, owner_id: str) -> Report | None:
    """Bring what was noted of an owner's rows into the log, and drop the notes.

    A row that can be no diff is passed over, with a line in the app's log: what an admin wrote must
    not end the syncs of the owner's devices.

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
        store.append_log(log.model, rows)
    store.capture.forget(store, notes)
    return (owner_id, clock + len(rows), len(notes), len(rows)) if rows else None


def log_edits(
    server: _core.Mobync, store: Synchronizer, owner_id: str, operations: Sequence[Operation]
) -> Report:
    """Bring edits that the app's own code has made of an owner's rows into the log.

    Args:
        server: whose settings.
        store: the Synchronizer, in a transaction of the owner.
        owner_id: whose rows.
        operations: what was done, at least one.

    Returns:
        What to tell the listeners when it is committed.

    Raises:
        InvalidDiffError: a row cannot be a diff.
    """
    log = OwnerLog(store, server.diffs_model_name, owner_id)
    highest = log.highest_clock()
    clock = 0 if highest is None else highest + 1
    with naming_rows(operations):
        rows = log_rows_of(operations, log, server._now_ms(), clock)
    if clock == 0 and keeps_devices(store):
        begin_log(store, owner_id)
    store.append_log(log.model, rows)
    return owner_id, clock + len(rows), len(operations), len(rows)


def _compare(log: OwnerLog, model: str, ids: list[str]) -> Iterator[Found]:
    """What has to go into the log of each object, if anything."""
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
    """What the log says of some objects."""
    logged = LoggedObjects(model, frozenset(ids))
    rows = log.store.capture.logged(log.store, log.owner_id, model, ids)
    if rows is None:
        logged.follow_to_end(lambda work: work(log))
    else:
        logged.take_in(rows, log.owner_id)
    return logged


UNREADABLE: Any = object()
# An app's own column type may make objects, of which the codec of its impl raises the last ones.
_UNREADABLE_ERRORS = (
    *(ValueError, LookupError, ArithmeticError),
    *(TypeError, AttributeError, InvalidDiffError),
)


def read_rows(log: OwnerLog, model: str, ids: Sequence[str]) -> dict[str, Any]:
    """The rows that there are, by id."""
    rows = log.store.find_owned_rows(log.owner_id, model, ids)
    return {object_id(row): row for row in plain_answer("find_owned_rows", rows)}


def find_rows(log: OwnerLog, model: str, ids: Sequence[str]) -> dict[str, Any]:
    """The rows that there are, by id; one by one where some cannot be read."""
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
