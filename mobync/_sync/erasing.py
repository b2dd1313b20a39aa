"""Erases an owner: rows, log, and the state of the devices."""

from __future__ import annotations

from collections import Counter
from typing import Any

from .. import _core
from ..synchronizer import Synchronizer
from ..types import Diff, EraseReceipt
from .attempts import OwnerLog, in_transaction, plain_answer
from .backend_edits import json_text
from .devices import Device, keeps_devices
from .owner_state import OWNER
from .parts import drop_parts

PIECE = 1000


def erase_owner(server: _core.Mobync, owner_id: str) -> tuple[EraseReceipt, tuple[str, ...]]:
    """Delete all data of an owner in one transaction, and refuse the owner's devices from now on.

    Returns:
        The receipt, and the names of the devices.

    Raises:
        BusyError: another transaction of this owner took too long.
    """
    erased = in_transaction(server, owner_id, _erase)
    server._noted.pop(owner_id, None)
    return erased


def _erase(log: OwnerLog) -> tuple[EraseReceipt, tuple[str, ...]]:
    devices = _revoke_all(log)
    if plain_answer("keeps_parts", log.store.keeps_parts()):
        drop_parts(log.store, log.owner_id, None)
    erased = log.store.erase_owned(log.owner_id)
    counts = plain_answer("erase_owned", erased)
    if counts is None:
        counts = erase_by_log(log)
    rows = dict(counts)
    diffs = rows.pop(log.model, 0)
    return EraseReceipt(log.owner_id, rows, diffs, len(devices)), devices


def _revoke_all(log: OwnerLog) -> tuple[str, ...]:
    """Store only that the devices are refused. They get this answer, and drop their rows."""
    if not keeps_devices(log.store):
        return ()
    kept = plain_answer("read_devices", log.store.read_devices(log.owner_id, None))
    if not kept:
        return ()
    tombstone = Device(revoked=True).to_text()
    states = {name: None if name == OWNER else tombstone for name in kept}
    plain_answer("write_devices", log.store.write_devices(log.owner_id, states))
    return tuple(name for name in states if name != OWNER)


def erase_by_log(log: OwnerLog) -> Counter[str]:
    """Erase all objects that are alive in the log, and the log itself.

    Returns:
        How many rows were deleted of each model, and of the log.
    """
    objects: dict[tuple[str, str], None] = {}
    rows = sorted(log.rows(0), key=lambda row: int(row[Diff.LOGICAL_CLOCK]))
    for row in rows:
        thing = row[Diff.MODEL], _core.text_member(row[Diff.JSON_DATA], Diff.ID) or ""
        if row[Diff.TYPE] == "delete":
            objects.pop(thing, None)
        else:
            objects[thing] = None
    counts = Counter(model for model, _ in objects)
    for model in reversed(counts):  # the oldest last, because newer objects may refer to them
        _delete(log.store, model, [{Diff.ID: i} for m, i in reversed(objects) if m == model])
    _delete(log.store, log.model, [{n: row[n] for n in (Diff.ID, Diff.OWNER)} for row in rows])
    counts[log.model] = len(rows)
    return counts


def _delete(store: Synchronizer, model: str, keys: list[dict[str, Any]]) -> None:
    for begin in range(0, len(keys), PIECE):
        texts = [json_text(key) for key in keys[begin : begin + PIECE]]
        plain_answer("delete_many", store.delete_many(model, texts))
