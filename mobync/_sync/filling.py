"""The server's part of a sync: values that rows have after a write and that no diff contained.

A database fills in defaults, computes columns and has triggers. If a model has such values, the
rows that a sync or a push has written are read back in its transaction, and compared with the log.
The differences are added to the log after the diffs that caused them, with their time, and are sent
to the device that pushed (docs/protocol.md, "The server's part").

For an object that is updated, the row before the update stands for the log's state, because a
search of the log would take longer as the log grows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import _core
from ..synchronizer import Synchronizer
from ..types import Diff, DiffDict, FilledModel, LogRow
from .adopting import creating, log_row
from .attempts import OwnerLog, plain_answer
from .backend_edits import Operation, diffs_of, json_text
from .logged_objects import Key
from .noted_edits import UNREADABLE, find_rows, read_rows, valid

Edit = tuple[str, str, str, int]
"""Type, model, json_data and time of a diff that goes upstream."""

Members = dict[str, str]
"""The fields of an object, each with the JSON text of its value."""


@dataclass
class _Written:
    """An object that is written."""

    edits: list[tuple[str, str]] = field(default_factory=list)  # type and json_data
    time_ms: int = 0  # of the latest

    def said(self, before: Members | None) -> Members | None:
        """The log's state of the object after the edits; None: it is dead.

        Args:
            before: the state before the edits; None: there was no object.
        """
        said = before
        for kind, json_data in self.edits:
            if kind == "create":
                said = dict(_core.members(json_data))
            elif kind == "delete":
                said = None
            elif said is not None:
                said = {**said, **dict(_core.members(json_data))}
        return said


class Filling:
    """The server's part of a sync; it begins before the writes and is finished after them.

    Args:
        log: the log of the owner whose transaction is open.
        written: the objects whose rows are to be read back.
        giver: the log of the owner who had the rows before; None: the same owner.
    """

    def __init__(
        self, log: OwnerLog, written: Mapping[Key, _Written], giver: OwnerLog | None = None
    ) -> None:
        self._log = log
        self._written = written
        updated = [key for key, each in written.items() if each.edits[0][0] == "update"]
        self._before = {
            key: dict(_core.members(json_text(row)))
            for key, row in self._rows(updated, giver or log).items()
            if row is not UNREADABLE
        }

    def finish(self, clock: int) -> list[LogRow]:
        """Read the rows back, and append what differs to the log.

        Args:
            clock: the log's next one.

        Returns:
            The rows that were appended.
        """
        rows = self._rows(self._written, self._log)
        diffs: list[DiffDict] = []
        deletes: list[DiffDict] = []
        for key, written in self._written.items():
            operations = list(self._operations(key, written, rows.get(key)))
            made = diffs_of(operations, self._log.owner_id, written.time_ms)
            of = deletes if any(kind == "delete" for kind, _, _ in operations[-1:]) else diffs
            of += valid(made, self._log, key[1])
        diffs += reversed(deletes)
        log_rows = [log_row(diff, self._log, place) for place, diff in enumerate(diffs, clock)]
        if log_rows:
            store = self._log.store
            plain_answer("append_log", store.append_log(self._log.model, log_rows))
        return log_rows

    def _rows(self, keys: Iterable[Key], log: OwnerLog) -> dict[Key, Any]:
        """The existing rows of some objects of an owner."""
        by_model: dict[str, list[str]] = {}
        for model, id_ in keys:
            by_model.setdefault(model, []).append(id_)
        read = find_rows if log.store._passes_over_unreadable else read_rows
        return {
            (model, id_): row
            for model, ids in by_model.items()
            for id_, row in read(log, model, ids).items()
        }

    def _operations(self, key: Key, written: _Written, row: Any) -> Sequence[Operation]:
        """The edits of an object that must be added to the log."""
        model, id_ = key
        said = written.said(self._before.get(key))
        if row is UNREADABLE:
            return []
        if row is None:
            return [] if said is None else [("delete", model, {Diff.ID: id_})]
        if said is None:
            return creating(model, id_, row, is_updated=written.edits[-1][0] == "update")
        store = self._log.store
        edits = plain_answer("edits_between", store.edits_between(model, members_text(said), row))
        return [(kind, model, data) for kind, data in edits]


def members_text(members: Members) -> str:
    return "{" + ", ".join(f"{json.dumps(f)}: {value}" for f, value in members.items()) + "}"


def begin_filling(
    server: _core.Mobync, store: Synchronizer, owner_id: str, edits: Sequence[Edit], is_push: bool
) -> Filling | None:
    """Find out, before edits are written, which rows must be read back.

    Args:
        server: the Mobync with the settings.
        store: the Synchronizer, in a transaction of the owner.
        owner_id: the owner of the rows.
        edits: the diffs that go upstream.
        is_push: whether the edits are the backend's own.
    """
    store._writes_as_server = is_push
    models = store.filled_models
    assert models is not None
    objects: dict[Key, _Written] = {}
    for kind, model, json_data, time_ms in edits:
        if model in models:
            key = model, _core.text_member(json_data, Diff.ID) or ""
            written = objects.setdefault(key, _Written())
            written.edits.append((kind, json_data))
            written.time_ms = max(written.time_ms, time_ms)
    wanted = {key: each for key, each in objects.items() if _is_filled(models[key[0]], each)}
    if not wanted:
        return None
    return Filling(OwnerLog(store, server.diffs_model_name, owner_id), wanted)


def begin_giving(old: OwnerLog, new: OwnerLog, lives: Mapping[Key, int]) -> Filling | None:
    """Find out, before rows are given to another owner, which values a trigger may change then.

    Args:
        old: of the owner who has them.
        new: of the owner who gets them.
        lives: the objects, each with the time of its last edit.

    Returns:
        None: nothing.
    """
    models = new.store.filled_models or {}
    given = {
        key: _Written([("update", json_text({Diff.ID: key[1]}))], time_ms)
        for key, time_ms in lives.items()
        if key[0] in models and models[key[0]].on_each_write
    }
    return Filling(new, given, old) if given else None


def _is_filled(model: FilledModel, written: _Written) -> bool:
    """Whether a row may have more than was written."""
    return model.on_each_write or any(
        kind == "create" and not model.on_create <= {f for f, _ in _core.members(json_data)}
        for kind, json_data in written.edits
    )
