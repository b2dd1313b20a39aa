"""Reads and checks the requests of WatermelonDB."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import InvalidDiffError
from ..types import MAX_LOGICAL_CLOCK, Diff
from ._texts import (
    Room,
    elements,
    is_readable,
    is_readable_object,
    members_around,
    members_of,
    string_of,
    text_of,
    unread_members,
    whole_of,
)

CHANGED = "_changed"
OWN = frozenset((Diff.ID, "_status", CHANGED))  # members of a record that are not columns
KINDS = {"created": "create", "updated": "update", "deleted": "delete"}

Members = dict[str, str]  # values by name, each as its JSON text


@dataclass(frozen=True)
class PullRequest:
    """The request of a pull.

    Attributes:
        clock: the owner's clock that the phone has seen.
        is_first: whether the phone has pulled nothing yet.
        columns: the columns of each table, as far as the phone says.
        migrated: tables that are new since the phone's last pull, or that have new columns.
    """

    clock: int
    is_first: bool
    columns: Mapping[str, Sequence[str]]
    migrated: frozenset[str]

    @classmethod
    def of(cls, body: bytes, room: Room) -> PullRequest:
        """Read a request.

        Raises:
            InvalidDiffError: it is malformed.
            RequestTooLargeError: it has more names than there is room for.
        """
        request = members_of(body, "a pull")
        columns = {
            table: tuple(_names(text, f"columns of {table!r:.100}", room))
            for table, text in members_of(request.get("columns", "{}"), "columns").items()
        }
        migrated = frozenset(_migrated(request.get("migration", "null"), room))
        clock = _clock(request)
        return cls(clock or 0, clock is None, columns, migrated)


class Edit(NamedTuple):
    """A phone's edit of a record.

    The npm package sends each edit with a unique ``id``, ``type``, ``table``, ``record`` (its id)
    and the changed ``columns``. If it was sent before, it also has the ``lastPulledAt`` of that
    time, and ``age``, the milliseconds since then.

    Attributes:
        diff_id: the id of the diff in the log; a retry has the same id.
        kind: 'create', 'update' or 'delete'.
        base: the owner's clock that the phone had seen when it first sent this.
        members: the changed columns; None if the phone does not say.
        record: all columns, if the phone sends records.
        age_ms: how long ago it was first sent.
        is_unreadable: whether it has a value that the core refuses, so that it must be rejected.
    """

    diff_id: str
    kind: str
    table: str
    id: str
    base: int
    members: Members | None
    record: Members | None = None
    age_ms: int = 0
    is_unreadable: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """The record that it edits."""
        return self.table, self.id


@dataclass(frozen=True)
class PushRequest:
    """The request of a push.

    Attributes:
        clock: the owner's clock that the phone has seen.
        has_pulled: whether it has pulled before.
        edits: the edits, in its order.
    """

    clock: int
    has_pulled: bool
    edits: list[Edit]

    @classmethod
    def of(
        cls, body: bytes, owner_id: str, is_synced: Callable[[str], bool], room: Room
    ) -> PushRequest:
        """Read a request.

        Args:
            body: the request.
            owner_id: the owner.
            is_synced: whether a table of this name may be pushed.
            room: for its edits.

        Raises:
            InvalidDiffError: it is malformed, or has a table that is not synced.
            RequestTooLargeError: it has more edits than there is room for.
        """
        request = members_around(body, "a push", ("changes", "edits"))
        pulled = _clock(request)
        clock = pulled or 0
        if "edits" in request:
            if "changes" in request:
                raise InvalidDiffError("a push has changes or edits, not both")
            texts = elements(request["edits"], "edits", room)
            edits = [_edit(text, index, clock) for index, text in enumerate(texts)]
        else:
            changes = members_around(request.get("changes", "null"), "changes")
            edits = [
                edit
                for table, text in changes.items()
                for edit in _edits_of_table(table, text, clock, owner_id, room)
            ]
        for edit in edits:
            if not is_synced(edit.table):
                raise InvalidDiffError(f"the table {edit.table!r:.100} is not synced")
        return cls(clock, pulled is not None, edits)


def _clock(request: Mapping[str, str]) -> int | None:
    """The owner's clock of a ``lastPulledAt``; None before the first pull."""
    text = request.get("lastPulledAt", "null")
    return None if text == "null" else _whole(text, "lastPulledAt", 1) - 1


def _whole(text: str, name: str, least: int = 0) -> int:
    number = whole_of(text, least, MAX_LOGICAL_CLOCK)
    if number is None:
        raise InvalidDiffError(f"{name} must be an integer from {least} on, not {text:.100}")
    return number


def _names(text: str, what: str, room: Room) -> Iterator[str]:
    return (string_of(each, f"a name in {what}") for each in elements(text, what, room))


def _migrated(text: str, room: Room) -> Iterator[str]:
    """The tables that are new, and those that have new columns."""
    if text == "null":
        return
    migration = members_of(text, "migration")
    yield from _names(migration.get("tables", "[]"), "tables of the migration", room)
    what = "columns of the migration"
    for each in elements(migration.get("columns", "[]"), what, room):
        yield text_of(members_of(each, what), "table")


def _edit(text: str, index: int, clock: int) -> Edit:
    """An edit from the npm package."""
    try:
        edit = members_around(text, "an edit", ("columns", "record"))
        kind = text_of(edit, "type")
        if kind not in KINDS.values():
            raise InvalidDiffError(f"type must be create, update or delete, not {kind!r:.100}")
        pulled = _clock(edit) if "lastPulledAt" in edit else clock
        record, columns = text_of(edit, "record"), edit.get("columns", "{}")
        is_read = is_readable(record)
        if kind != "delete" and not is_readable_object(columns):
            unread_members(columns, "columns")
            is_read = False
        return Edit(
            diff_id=text_of(edit, "id"),
            kind=kind,
            table=text_of(edit, "table"),
            id=record,
            base=min(pulled or 0, clock),
            members=_columns_of(columns, "columns") if is_read and kind != "delete" else {},
            age_ms=_whole(edit.get("age", "0"), "age"),
            is_unreadable=not is_read,
        )
    except InvalidDiffError as error:
        raise InvalidDiffError(f"edits: {error.reason}", index) from error


def _columns_of(text: str, what: str) -> Members:
    return {name: value for name, value in members_of(text, what).items() if name not in OWN}


def _edits_of_table(table: str, text: str, clock: int, owner_id: str, room: Room) -> Iterator[Edit]:
    """The edits from WatermelonDB's changes of a table."""
    room.take()
    changes = members_around(text, f"changes of {table!r:.100}")
    for name, kind in KINDS.items():
        what = f"{name} of {table!r:.100}"
        for each in elements(changes.get(name, "[]"), what, room):
            if kind == "delete":
                id_ = string_of(each, f"an id in {what}")
                edit = Edit("", kind, table, id_, clock, {}, is_unreadable=not is_readable(id_))
            else:
                edit = _edit_of_record(each, kind, table, clock, what)
            yield edit._replace(diff_id=_id_of(edit, each, owner_id))


def _edit_of_record(text: str, kind: str, table: str, clock: int, what: str) -> Edit:
    if not is_readable_object(text):
        raw = unread_members(text, f"a record in {what}")
        return Edit("", kind, table, text_of(raw, Diff.ID), clock, {}, is_unreadable=True)
    raw = members_of(text, f"a record in {what}")
    record = {name: value for name, value in raw.items() if name not in OWN}
    members: Members | None = record
    if kind == "update":
        changed = raw.get(CHANGED, "null")
        members = None
        if changed.startswith('"'):
            names = json.loads(changed).split(",")
            members = {name: record[name] for name in names if name in record}
    return Edit("", kind, table, text_of(raw, Diff.ID), clock, members, record)


def _id_of(edit: Edit, text: str, owner_id: str) -> str:
    """An id for an edit without one: the same content after the same pull has the same id.

    So a request that is sent again has the same ids. A later, equal edit follows another pull.
    """
    parts = json.dumps([owner_id, edit.base, edit.kind, edit.table, text])
    return hashlib.sha256(parts.encode()).hexdigest()[:32]
