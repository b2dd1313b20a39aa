"""Edits that lost: a device sent them, and the merge or a rule did not write them.

The log does not have them, so the server stores the newest ones of each owner in another table, for
people who ask where an edit went. It finds them by comparing a request with its reply. If the reply
has another value of a field that the edit had set, or a delete of the object, the edit lost. The
log shows whether the edit was a retry of one that had been written.

No sync depends on this: if edits cannot be stored, the server's log has a line about it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    bindparam,
    delete,
    inspect,
    select,
    update,
)
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from ..sqlalchemy import create_tables
from ..sqlalchemy._locking import isolation_level
from ..sqlalchemy._tables import _OPTIONS, KEY_LENGTH, MODEL_LENGTH, _long_text, heads_of
from ._inserting import insert_from, value_of, values_for
from ._members import members_of

KEPT = 1000  # of an owner, the newest
MOST_OF_A_SYNC = 200
MOST_FIELDS = 100  # of an edit
VALUE_CHARACTERS = 1000
PAGE = 100
IDS_AT_ONCE = 500

LATER = "later"  # another edit of the field has a later time
DELETED = "deleted"  # the object was deleted: a delete wins over an edit
RECREATED = "recreated"  # a delete lost: the object was created again
OTHER = "other"  # the server's value stands, for another reason

logger = logging.getLogger("mobync.server")


@dataclass(frozen=True)
class LostEdit:
    """One edit of a device that was not written, or a part of one.

    Attributes:
        id: the id of the diff.
        model, object: the object that it edited.
        type: ``create``, ``update`` or ``delete``.
        utc_timestamp: when the device says that it was made, milliseconds since 1970.
        lost_at: when the server decided, milliseconds since 1970.
        device: the name of the device; None: it has none.
        why: one of the words above, or the code of a refusal.
        winner: the time of the edit that won, milliseconds since 1970; None if there is none.
        fields: name, lost value and the value that won (None if there is none), as JSON texts, cut.
        seen: the device had seen the log below this clock; None: this is not known.
        clock: where it would be in the log; None: this is not known.
    """

    id: str
    model: str
    object: str
    type: str
    utc_timestamp: int
    lost_at: int
    device: str | None
    why: str
    winner: int | None
    fields: list[tuple[str, str, str | None]]
    seen: int | None = None
    clock: int | None = None


class LostEdits:
    """The table of edits that lost.

    Args:
        engine: the database of the log.
        log: as ``mobync.sqlalchemy.diffs_table`` declares it.
    """

    def __init__(self, engine: Engine, log: Table) -> None:
        self._engine = engine
        level = isolation_level(engine.dialect.name)  # at which a sync waits for no read of heads
        self._unlocked = engine.execution_options(**({"isolation_level": level} if level else {}))
        self._log = log
        self._metadata = MetaData()
        self.table = Table(
            "diffs_lost",
            self._metadata,
            Column("owner", String(KEY_LENGTH), nullable=False),
            Column("id", String(KEY_LENGTH), nullable=False),
            Column("model", String(MODEL_LENGTH), nullable=False),
            Column("object", String(KEY_LENGTH), nullable=False),
            Column("lost_at", BigInteger, nullable=False),
            Column("edit", _long_text(), nullable=False),
            PrimaryKeyConstraint("owner", "id"),
            Index("diffs_lost_object", "owner", "model", "object"),
            Index("diffs_lost_newest", "owner", "lost_at"),
            **_OPTIONS,
        )

        # An owner who was erased meanwhile has no head.
        self._heads = heads_of(log).c
        is_owners = self._heads.owner == value_of(self.table.c.owner)
        self._insert_if_owner = insert_from(self.table, is_owners)

    def make(self) -> None:
        """Make the table, if it is missing."""
        create_tables(self._engine, self._metadata)

    def record(self, owner_id: str, request: Any, reply: Any) -> None:
        """Store the edits that lost in a committed sync; an error is only logged.

        Args:
            owner_id: the owner.
            request: the request as the device sent it: the body, or its members.
            reply: the reply of the server: the body, or its members.
        """
        try:
            sent, told = _read(request), _read(reply)
            diffs = well_formed(sent.get("diffs"))
            written = self.written(owner_id, [diff["id"] for diff in diffs])
            found = find_lost(diffs, sent.get("device"), told, written)
            seen = _count(sent.get("logical_clock"))
            clock = None if told.get("reset") else _count(told.get("logical_clock"))
            self.keep(owner_id, [replace(edit, seen=seen, clock=clock) for edit in found])
        except (SQLAlchemyError, ValueError, RecursionError) as error:
            # Two syncs at the same time, a database that does not answer, a body that only the core
            # can read.
            logger.warning("lost edits are not stored: %s", type(error).__name__)

    def keep(self, owner_id: str, edits: Sequence[LostEdit]) -> None:
        """Store the edits that lost in one sync, and drop the oldest ones beyond the limit.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the database does not accept them.
        """
        columns = self.table.c
        fitting = [edit for edit in edits[:MOST_OF_A_SYNC] if _fits(edit)]
        if not fitting:
            return
        ids = [edit.id for edit in fitting]
        rows = [
            {
                "owner": owner_id,
                "id": edit.id,
                "model": edit.model,
                "object": edit.object,
                "lost_at": edit.lost_at,
                "edit": json.dumps(asdict(edit)),
            }
            for edit in fitting
        ]
        with self._unlocked.begin() as connection:
            of_owner = columns.owner == owner_id
            connection.execute(delete(self.table).where(of_owner, columns.id.in_(ids)))
            connection.execute(self._insert_if_owner, [values_for(row) for row in rows])
            self._drop_oldest(connection, owner_id)
        # An erasing that ended before the commit above has not seen these rows.
        with self._unlocked.connect() as connection:
            head = select(self._heads.owner).where(self._heads.owner == owner_id)
            is_erased = connection.scalar(head) is None
        if is_erased:
            self.erase(owner_id)

    def _drop_oldest(self, connection: Connection, owner_id: str) -> None:
        columns = self.table.c
        newest_first = columns.lost_at.desc()
        of_owner = columns.owner == owner_id
        oldest = select(columns.lost_at).where(of_owner).order_by(newest_first)
        limit = connection.scalar(oldest.offset(KEPT).limit(1))
        if limit is not None:
            connection.execute(delete(self.table).where(of_owner, columns.lost_at <= limit))

    def written(self, owner_id: str, ids: Sequence[str]) -> dict[str, str]:
        """The ``json_data`` of those diffs that the log has, by id."""
        columns = self._log.c
        found: dict[str, str] = {}
        with self._engine.connect() as connection:
            for first in range(0, len(ids), IDS_AT_ONCE):
                some = columns.id.in_(ids[first : first + IDS_AT_ONCE])
                rows = select(columns.id, columns.json_data).where(columns.owner == owner_id, some)
                found |= {row.id: row.json_data for row in connection.execute(rows)}
        return found

    def newest(
        self, owner_id: str, model: str | None = None, object_id: str | None = None
    ) -> list[dict[str, Any]]:
        """The newest edits that lost, of an owner or of one object."""
        columns = self.table.c
        conditions = [columns.owner == owner_id]
        if model is not None:
            conditions.append(columns.model == model)
        if object_id is not None:
            conditions.append(columns.object == object_id)
        newest = select(columns.edit).where(*conditions).order_by(columns.lost_at.desc())
        with self._engine.connect() as connection:
            return [json.loads(text) for text in connection.scalars(newest.limit(PAGE))]

    def move(self, old_owner_id: str, new_owner_id: str) -> None:
        """Give the lost edits of an owner to another one; the table may be missing."""
        if not inspect(self._engine).has_table(self.table.name):
            return
        columns = self.table.c
        of_new = select(columns.id).where(columns.owner == new_owner_id)
        with self._engine.begin() as connection:
            there = connection.scalars(of_new).all()
            of_old = columns.owner == old_owner_id
            connection.execute(delete(self.table).where(of_old, columns.id.in_(there)))
            kept = connection.execute(select(columns.id, columns.edit).where(of_old)).all()
            moved = [{"of": row.id, "new": new_owner_id, "text": _moved(row.edit)} for row in kept]
            if moved:
                to_new = update(self.table).where(of_old, columns.id == bindparam("of"))
                to_new = to_new.values(owner=bindparam("new"), edit=bindparam("text"))
                connection.execute(to_new, moved)
            self._drop_oldest(connection, new_owner_id)

    def erase(self, owner_id: str) -> None:
        """Delete the lost edits of an owner; the table may be missing."""
        if not inspect(self._engine).has_table(self.table.name):
            return
        with self._engine.begin() as connection:
            connection.execute(delete(self.table).where(self.table.c.owner == owner_id))


def _moved(edit: str) -> str:
    """An edit without its clocks, which belong to the old owner's log."""
    return json.dumps({**json.loads(edit), "seen": None, "clock": None})


def _fits(edit: LostEdit) -> bool:
    """Whether the edit fits the columns; a refused edit may not."""
    is_text = _is_text(edit.id + edit.object + edit.model)
    short = len(edit.id) <= KEY_LENGTH >= len(edit.object) and len(edit.model) <= MODEL_LENGTH
    return is_text and short


def _is_text(text: str) -> bool:
    """Whether every database can store the text."""
    return "\0" not in text and text == text.encode(errors="replace").decode()


def _read(message: Any) -> Any:
    """The members of a body. Numbers that are too long for Python do not matter here."""
    if not isinstance(message, bytes | str):
        return message
    return json.loads(message, parse_int=lambda text: int(text) if len(text) < 20 else None)


def _count(number: Any) -> int | None:
    return number if type(number) is int else None


def well_formed(diffs: Any) -> list[dict[str, Any]]:
    """The diffs of a request whose objects are known."""
    texts = ("id", "type", "model", "json_data")
    return [
        diff
        for diff in diffs or ()
        if isinstance(diff, dict)
        and all(isinstance(diff.get(name), str) for name in texts)
        and isinstance(diff.get("utc_timestamp"), int)
        and _is_text(diff["id"])
    ]


# ---- finding them -------------------------------------------------------------------------------


def find_lost(
    diffs: Sequence[Mapping[str, Any]],
    device: Any,
    reply: Mapping[str, Any],
    written: Mapping[str, str],
) -> Iterator[LostEdit]:
    """Find the edits of a request that lost.

    Args:
        diffs: the diffs of the request, as the device sent them.
        device: the name of the device, if it has one.
        reply: the reply of the server.
        written: the ``json_data`` in the log of those diffs that it has, by id.

    Yields:
        The edits that lost, each with the fields that lost.
    """
    told = _Told(reply.get("diffs", ()))
    refused = {refusal.get("id"): refusal["code"] for refusal in reply.get("refused", ())}
    accepted = _written_fields(diffs, written)
    for diff in diffs:
        object_id, fields = members_of(diff["json_data"])
        if object_id is None:
            continue
        thing = diff["model"], object_id
        code = refused.get(diff["id"])
        if code is not None:
            all_of_it = [(name, text, None) for name, text in fields.items()]
            yield _lost(device, diff, object_id, code, None, all_of_it)
            continue
        left = {name: text for name, text in fields.items() if (*thing, name) not in accepted}
        yield from told.beaten(device, diff, object_id, left)


def _written_fields(
    diffs: Iterable[Mapping[str, Any]], written: Mapping[str, str]
) -> set[tuple[str, str, str]]:
    """The fields of this request in the log; a create may have the fields of later updates."""
    found = set()
    for diff in diffs:
        if diff.get("id") in written:
            object_id, fields = members_of(written[diff["id"]])
            found |= {(diff["model"], object_id or "", name) for name in fields}
    return found


class _Told:
    """What a reply says about each object."""

    def __init__(self, diffs: Iterable[Mapping[str, Any]]) -> None:
        self._values: dict[tuple[str, str, str], tuple[str, int]] = {}
        self._last: dict[tuple[str, str], tuple[str, int]] = {}
        for diff in diffs:
            object_id, fields = members_of(diff["json_data"])
            thing, made_at = (diff["model"], object_id or ""), diff["utc_timestamp"]
            self._last[thing] = diff["type"], made_at
            for name, text in fields.items():
                self._values[(*thing, name)] = text, made_at

    def beaten(
        self,
        device: Any,
        diff: Mapping[str, Any],
        object_id: str,
        fields: Mapping[str, str],
    ) -> Iterator[LostEdit]:
        """The part of a diff that the reply contradicts: at most one edit, with the fields that
        lost.
        """
        last, made_at = self._last.get((diff["model"], object_id), ("", 0))
        if diff["type"] == "delete":
            if last in ("create", "update"):
                yield _lost(device, diff, object_id, RECREATED, made_at, [])
            return
        if last == "delete":
            lost = [(name, text, None) for name, text in fields.items()]
            if lost:
                yield _lost(device, diff, object_id, DELETED, made_at, lost)
            return
        beaten = []
        for name, text in fields.items():
            value, won_at = self._values.get((diff["model"], object_id, name), (text, 0))
            if value != text:
                beaten.append((name, text, value))
                made_at = won_at
        if beaten:
            why = LATER if made_at > diff["utc_timestamp"] else OTHER
            yield _lost(device, diff, object_id, why, made_at, beaten)


def _lost(
    device: Any,
    diff: Mapping[str, Any],
    object_id: str,
    why: str,
    winner: int | None,
    fields: Sequence[tuple[str, str, str | None]],
) -> LostEdit:
    return LostEdit(
        id=diff["id"],
        model=diff["model"],
        object=object_id,
        type=diff["type"],
        utc_timestamp=diff["utc_timestamp"],
        lost_at=time.time_ns() // 1_000_000,
        device=device if isinstance(device, str) else None,
        why=why,
        winner=winner,
        fields=[
            (_cut(name), _cut(text), None if other is None else _cut(other))
            for name, text, other in fields[:MOST_FIELDS]
        ],
    )


def _cut(text: str) -> str:
    return text if len(text) <= VALUE_CHARACTERS else f"{text[:VALUE_CHARACTERS]}…"
