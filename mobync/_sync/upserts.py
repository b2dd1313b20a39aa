"""Turns upserts of the backend into creates and updates.

The current objects are read first, without the owner's lock if the store can do that. The push is
then made for the clock of that moment. If somebody syncs in between, the objects are read again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .. import _core
from ..errors import InvalidDiffError
from ..synchronizer import same_json
from ..types import Diff, DiffDict
from .attempts import OwnerLog, in_transaction, plain_answer
from .logged_objects import Key, LoggedObjects

_CREATED: Any = object()  # stands for the row of an object that this push creates


class PlainEdits(NamedTuple):
    """The edits of a push, without upserts.

    Attributes:
        diffs: creates, updates and deletes.
        places: the place of each in the push.
        clock: the owner's next clock when the objects were read.
    """

    diffs: list[DiffDict]
    places: list[int]
    clock: int


def plain_edits(server: _core.Mobync, owner_id: str, diffs: Sequence[DiffDict]) -> PlainEdits:
    """Turn each upsert into a create, an update with the fields that differ, or nothing.

    Args:
        server: the Mobync with the synchronizer.
        owner_id: the owner of the rows.
        diffs: diffs of the types 'create', 'update', 'delete' and 'upsert'.

    Raises:
        InvalidDiffError: an upsert is malformed.
        BusyError: a sync of this owner took too long.
    """
    for index, diff in enumerate(diffs):
        if diff["type"] == "upsert":
            _check(diff, index, server.diffs_model_name)

    def look(log: OwnerLog) -> PlainEdits:
        return _Look(log, diffs).plain()

    reading = plain_answer("reading", server.synchronizer.reading(owner_id))
    if reading is None:
        return in_transaction(server, owner_id, look)
    with reading as store:
        return look(OwnerLog(store, server.diffs_model_name, owner_id))


def _check(diff: DiffDict, index: int, log_model: str) -> None:
    try:
        _core.check_diff({**diff, "type": "create"}, log_model)
    except InvalidDiffError as misfit:
        misfit.index = index
        raise


class _Look:
    """The objects of a push, as of one moment, with the earlier edits of the push applied."""

    def __init__(self, log: OwnerLog, diffs: Sequence[DiffDict]) -> None:
        self._log = log
        self._diffs = diffs
        self._now: dict[Key, Any] = {}  # the object's row, None if there is none
        self._set: dict[Key, dict[str, Any]] = {}  # fields that an earlier edit has set

    def plain(self) -> PlainEdits:
        self._find()
        found = PlainEdits([], [], self._clock())
        for place, diff in enumerate(self._diffs):
            data = json.loads(diff["json_data"]) if self._is_known(diff) else {}
            plain = self._plain(diff, data) if diff["type"] == "upsert" else diff
            if plain is not None:
                found.diffs.append(plain)
                found.places.append(place)
                self._follow(plain, data)
        return found

    def _is_known(self, diff: DiffDict) -> bool:
        return _key(diff) in self._now

    def _clock(self) -> int:
        highest = self._log.highest_clock()
        if highest is None:
            clocks = (int(row[Diff.LOGICAL_CLOCK]) for row in self._log.rows(0))
            highest = max(clocks, default=-1)
        return highest + 1

    def _find(self) -> None:
        """Find the upserted objects in the rows, or else in the log."""
        ids: dict[str, dict[str, None]] = {}
        for diff in self._diffs:
            if diff["type"] == "upsert":
                model, id_ = _key(diff)
                ids.setdefault(model, {})[id_] = None
        for model, wanted in ids.items():
            rows = self._rows(model, list(wanted))
            self._now.update({(model, id_): rows.get(id_) for id_ in wanted})

    def _rows(self, model: str, ids: Sequence[str]) -> Mapping[str, Any]:
        store, owner_id = self._log.store, self._log.owner_id
        try:
            rows = plain_answer("find_owned_rows", store.find_owned_rows(owner_id, model, ids))
        except NotImplementedError:
            logged = LoggedObjects(model, frozenset(ids))
            logged.follow(self._log)
            return {id_: text for (_, id_), text in logged.whole.items()}
        return {_row_id(row): row for row in rows}

    def _plain(self, diff: DiffDict, data: dict[str, Any]) -> DiffDict | None:
        key = _key(diff)
        row = self._now[key]
        if row is None:
            return {**diff, "type": "create"}
        set_before = self._set.get(key, {})
        rest = {name: value for name, value in data.items() if name not in set_before}
        differing = {
            name
            for name in data.keys() & set_before.keys()
            if not same_json(data[name], set_before[name])
        }
        if row is _CREATED:
            differing |= {name for name, value in rest.items() if value is not None}
        elif rest:
            logged = json.dumps({**rest, Diff.ID: key[1]})
            edits = self._log.store.edits_between(diff["model"], logged, row)
            differing |= {name for _, changed in edits for name in _object(changed)} & rest.keys()
            if isinstance(row, Mapping):  # the write refuses unknown fields by name
                differing |= {n for n, value in rest.items() if n not in row and value is not None}
        differing.discard(Diff.ID)
        if not differing:
            return None
        kept = [text for name, text in _members(diff) if name in differing or name == Diff.ID]
        return {**diff, "type": "update", "json_data": "{" + ", ".join(kept) + "}"}

    def _follow(self, diff: DiffDict, data: dict[str, Any]) -> None:
        """Let the next upsert of the object see this edit."""
        key = _key(diff)
        if key not in self._now:
            return
        if diff["type"] == "delete":
            self._now[key] = None
            self._set.pop(key, None)
        elif diff["type"] == "create":
            self._now[key] = _CREATED
            self._set[key] = dict(data)
        elif self._now[key] is not None:
            self._set.setdefault(key, {}).update(data)


def _key(diff: DiffDict) -> Key:
    return diff["model"], _core.text_member(diff["json_data"], Diff.ID) or ""


def _members(diff: DiffDict) -> list[tuple[str, str]]:
    """The members of a JSON object, by their names: each as it was given."""
    return [
        (name, f"{json.dumps(name, ensure_ascii=False)}: {text}")
        for name, text in _core.members(diff["json_data"])
    ]


def _object(row: Mapping[str, Any] | str) -> Mapping[str, Any]:
    loaded: Mapping[str, Any] = json.loads(row) if isinstance(row, str) else row
    return loaded


def _row_id(row: Mapping[str, Any] | str) -> str:
    return str(_object(row)[Diff.ID])
