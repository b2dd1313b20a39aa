"""Notes of rows that something else than mobync has written, made by triggers.

A trigger on each model's table notes the owner and the id of a row that is inserted, updated or
deleted, and when, in the table of notes beside the log.  It asks first whether mobync is writing:
on PostgreSQL by a setting of the transaction, on MariaDB and MySQL by a variable of the session, on
SQLite, which has one writer at a time, by a row of the table of notes that is gone before mobync's
transaction is committed.  Nothing of a row's values is noted: whoever turns the notes into diffs
compares the row with the log (mobync/_sync/noted_edits.py), so that a note too many does no harm.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    String,
    Table,
    Text,
    delete,
    event,
    exists,
    func,
    insert,
    or_,
    select,
    text,
)
from sqlalchemy import types as sql
from sqlalchemy.dialects.mysql import LONGTEXT
from sqlalchemy.engine import Connection, Dialect, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from .._relational.notes import Note, searched_texts
from ..errors import BusyError
from ..sync import Mobync
from ._cascades import Cascade, cascades
from ._model import Model, plain_type
from ._settings import schema_of
from ._tables import _OPTIONS, KEY_LENGTH, beside
from ._triggers import SETTING, family_of, trigger_of_cascade, triggers_of_model
from ._values import is_mysql

if TYPE_CHECKING:
    from ._synchronizer import SQLAlchemySynchronizer

_CHECKED = "mobync_triggers_checked"
_NUMBERS_A_STATEMENT = 500
_LONGEST_NAME = 60  # PostgreSQL cuts names at 63 bytes, MySQL refuses them at 64 characters
_NOBODY = ""  # the owner of the row that says, on SQLite, that mobync is writing


def notes_table(log: Table) -> Table:
    """The table of notes beside a log; declared now if it was not yet."""
    name, declared = beside(log, "notes")
    if declared is not None:
        return declared
    number = BigInteger().with_variant(Integer(), "sqlite")  # else SQLite would not number them
    return Table(
        name,
        log.metadata,
        Column("number", number, primary_key=True, autoincrement=True),
        Column("owner", String(KEY_LENGTH), nullable=False),
        Column("model", String(KEY_LENGTH), nullable=False),
        Column("object_id", Text().with_variant(LONGTEXT(), "mysql", "mariadb"), nullable=False),
        Column("noted_at", BigInteger, nullable=False),
        Index(f"{name}_owner", "owner"),
        schema=log.schema,
        **_OPTIONS,
    )


class Capture:
    """The notes of a synchronizer.

    Args:
        log: the log.
        models: whose tables have triggers: those that belong to owners.
        dialect: of the database, as far as it is known.

    Raises:
        ValueError: foreign keys between them cannot be followed.
    """

    def __init__(self, log: Table, models: Sequence[Model], dialect: Dialect) -> None:
        self.notes_table = notes_table(log)
        self.models = {model.name: model for model in models if model.owner is not None}
        self._cascades = cascades(self.models.values())
        if is_mysql(dialect):
            self.ddl(dialect)  # raises what there is to raise
        self._log = log

    # ---- notes -----------------------------------------------------------------------------------

    def has_notes(self, connection: Connection, owner_id: str) -> bool:
        """Whether there are notes of an owner."""
        found = select(exists().where(self._of_owner(owner_id)))
        return bool(connection.scalar(found))

    def notes(self, store: SQLAlchemySynchronizer, owner_id: str) -> list[Note]:
        """The notes of the owner whose transaction is open, in the order of their numbers."""
        notes = self.notes_table.c
        statement = select(notes.number, notes.model, notes.object_id, notes.noted_at)
        rows = store.connection.execute(
            statement.where(self._of_owner(owner_id)).order_by(notes.number)
        )
        return [
            Note(number, model, _as_device_has(self.models[model].id, object_id), noted_ms)
            for number, model, object_id, noted_ms in rows
            if model in self.models
        ]

    def forget(self, store: SQLAlchemySynchronizer, notes: Sequence[Note]) -> None:
        """Drop notes that have been turned into diffs; those that came meanwhile stay."""
        table = self.notes_table
        for begin in range(0, len(notes), _NUMBERS_A_STATEMENT):
            numbers = [note.number for note in notes[begin : begin + _NUMBERS_A_STATEMENT]]
            store.connection.execute(delete(table).where(table.c.number.in_(numbers)))

    def owners(self, connection: Connection) -> list[str]:
        """Who has notes, as their owner columns have them."""
        owner = self.notes_table.c.owner
        found = connection.scalars(select(owner).where(owner != _NOBODY).distinct()).all()
        return sorted({self._owner_of(each) for each in found})

    def _owner_of(self, noted: str) -> str:
        uuids = any(_is_uuid(model.owner) for model in self.models.values())
        return str(uuid.UUID(noted)) if uuids and _HEX_UUID.fullmatch(noted) else noted

    def _of_owner(self, owner_id: str) -> Any:
        forms = [owner_id]
        if _UUID.fullmatch(owner_id):
            forms.append(owner_id.replace("-", ""))  # as databases without UUIDs keep it
        return self.notes_table.c.owner.in_(forms)

    def logged(
        self, store: SQLAlchemySynchronizer, owner_id: str, model: str, ids: Sequence[str]
    ) -> list[dict[str, Any]] | None:
        """The diffs of the log that may be of some objects, among them all that are.

        Returns:
            None for so many objects that reading the whole log takes less.
        """
        searched = searched_texts(ids)
        if searched is None:
            return None
        log = self._log.c
        json_data: Any = log.json_data
        says = [json_data.contains(part, autoescape=True) for part in searched]
        escaped = json_data.contains("\\u", autoescape=True)  # an id may be spelled so
        statement = select(
            log.id, log.owner, log.logical_clock, log.utc_timestamp, log.type, log.model, json_data
        ).where(log.owner == owner_id, log.model == model, or_(*says, escaped))
        names = ("id", "owner", "logical_clock", "utc_timestamp", "type", "model", "json_data")
        rows = store.connection.execute(statement)
        return [dict(zip(names, row, strict=True)) for row in rows]

    # ---- marking a transaction as mobync's -----------------------------------------------------

    @contextmanager
    def writing(self, connection: Connection, session: Session | None) -> Iterator[None]:
        """Have the triggers note nothing of what is written, but for what a session flushes."""
        self._mark(connection)
        flushes = {
            "before_flush": lambda *_: self._unmark(connection),
            "after_flush": lambda *_: self._mark(connection),
        }
        for name, listener in flushes.items() if session is not None else ():
            event.listen(session, name, listener)
        try:
            yield
        except BaseException:
            if is_mysql(connection.dialect) and not connection.invalidated:
                try:
                    self._unmark(connection)
                except DBAPIError as error:
                    connection.invalidate(error)
            raise
        else:
            self._unmark(connection)
        finally:
            for name, listener in flushes.items() if session is not None else ():
                event.remove(session, name, listener)

    def _mark(self, connection: Connection) -> None:
        if connection.dialect.name == "sqlite":
            nobody = {"owner": _NOBODY, "model": "", "object_id": "", "noted_at": 0}
            connection.execute(insert(self.notes_table).values(nobody))
        elif connection.dialect.name == "postgresql":
            connection.execute(select(func.set_config(SETTING, "on", True)))
        else:
            connection.exec_driver_sql("SET @mobync_writing = 1")

    def _unmark(self, connection: Connection) -> None:
        if connection.dialect.name == "sqlite":
            table = self.notes_table
            connection.execute(delete(table).where(table.c.owner == _NOBODY))
        elif connection.dialect.name == "postgresql":
            connection.execute(select(func.set_config(SETTING, "", True)))
        else:
            connection.exec_driver_sql("SET @mobync_writing = NULL")

    # ---- triggers --------------------------------------------------------------------------------

    def check_once(self, connection: Connection) -> None:
        """Make sure that the triggers are there, once for each connection of a pool.

        Raises:
            ValueError: one is missing.
        """
        names = self._names(connection.dialect)
        if connection.info.get(_CHECKED) == names:
            return
        missing = names - self._triggers_there(connection)
        if missing:
            raise ValueError(
                f"capture=True needs triggers, and {min(missing)!r} is missing: make them with "
                "mobync.sqlalchemy.create_triggers(engine, store)"
            )
        connection.info[_CHECKED] = names

    def _triggers_there(self, connection: Connection) -> set[str]:
        rows = connection.execute(text(_TRIGGERS[family_of(connection.dialect)]))
        tables = [model.table for model in self.models.values()]
        tables += [cascade.table for cascade in self.cascades(connection.dialect)]
        schemas = {schema_of(table, connection) for table in tables}
        return {name for name, schema, is_found in rows if is_found or schema in schemas}

    def _names(self, dialect: Dialect) -> set[str]:
        kinds = _KINDS.get(dialect.name, "u")  # one says that the others were made, too
        names = {self.trigger_name(model, kind) for model in self.models for kind in kinds}
        return names | {
            self.trigger_name(each.table.fullname, "c") for each in self.cascades(dialect)
        }

    def cascades(self, dialect: Dialect) -> list[Cascade]:
        """What goes or changes with rows of which tables, so that these have a trigger for it."""
        found = self._cascades
        return found if is_mysql(dialect) else [each for each in found if each.direct()]

    def trigger_name(self, of: str, kind: str = "u") -> str:
        """What a trigger is called.

        Args:
            of: the model, or the full name of the table of a trigger for cascades.
            kind: a letter.
        """
        name = f"{self.notes_table.name}_{of}_{kind}"
        if len(name) <= _LONGEST_NAME and re.fullmatch(r"\w+", name, re.ASCII):
            return name
        digest = hashlib.sha256(name.encode()).hexdigest()[:16]
        return f"{self.notes_table.name[:30]}_{digest}_{kind}"

    def ddl(self, dialect: Dialect) -> list[str]:
        """The statements that make the triggers, in place of those that are there."""
        statements: list[str] = []
        for model in self.models.values():
            statements += triggers_of_model(self, model, dialect)
        for cascade in self.cascades(dialect):
            statements += trigger_of_cascade(self, cascade, dialect)
        return statements


_KINDS = {"postgresql": "ut"}

_TRIGGERS = {  # their names, the schemas of their tables, and whether these need not be named
    "sqlite": "SELECT name, NULL, 1 FROM sqlite_master WHERE type = 'trigger'",
    "postgresql": "SELECT tgname, relnamespace::regnamespace::text, pg_table_is_visible(tgrelid)"
    " FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid WHERE NOT tgisinternal",
    "mysql": "SELECT trigger_name, event_object_schema, event_object_schema = DATABASE()"
    " FROM information_schema.triggers",
}

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_HEX_UUID = re.compile(r"[0-9a-f]{32}", re.ASCII)


def _is_uuid(column: Column[Any] | None) -> bool:
    return column is not None and isinstance(plain_type(column.type), sql.Uuid)


def _as_device_has(column: Column[Any], noted: str) -> str:
    """An id as devices have it, of one as a database shows it."""
    is_uuid = _is_uuid(column) and (_HEX_UUID.fullmatch(noted) or _UUID.fullmatch(noted))
    return str(uuid.UUID(noted)) if is_uuid else noted


def capture_of(store: SQLAlchemySynchronizer) -> Capture:
    """The capture of a synchronizer.

    Raises:
        TypeError: it is no synchronizer that captures.
    """
    capture: Capture | None = getattr(store, "capture", None)
    if capture is None:
        raise TypeError("store must be a SQLAlchemySynchronizer(..., capture=True)")
    return capture


def capture_ddl(store: SQLAlchemySynchronizer, engine: Engine | Dialect) -> list[str]:
    """The statements that make the triggers of a synchronizer, for a migration.

    They replace those that are there; each is one statement, without a semicolon in the end.

    Args:
        store: a ``SQLAlchemySynchronizer(..., capture=True)``.
        engine: of which database, or its dialect.

    Raises:
        TypeError: ``store`` does not capture.
    """
    dialect = engine if isinstance(engine, Dialect) else engine.dialect
    return capture_of(store).ddl(dialect)


def create_triggers(engine: Engine, store: SQLAlchemySynchronizer) -> None:
    """Make the triggers of a synchronizer, whose tables are there, in place of older ones.

    Args:
        engine: where.
        store: a ``SQLAlchemySynchronizer(..., capture=True)``.

    Raises:
        TypeError: ``store`` does not capture.
        sqlalchemy.exc.DBAPIError: a table is not there, or the database does not let this user.
    """
    with engine.begin() as connection:
        for statement in capture_ddl(store, engine):
            connection.exec_driver_sql(statement)


def log_noted(mobync: Mobync) -> Iterator[tuple[str, int | None]]:
    """Bring what triggers have noted into the logs now, and tell who listens.

    For a job that runs every few seconds, where devices that listen for events shall hear of edits
    by SQL before somebody syncs.  Nothing happens until the iterator is asked.

    Args:
        mobync: one whose synchronizer is a ``SQLAlchemySynchronizer(..., capture=True)``.

    Yields:
        Each owner of whom there were notes, and the logical clock afterwards; None where another
        sync of that owner took too long.

    Raises:
        TypeError: the synchronizer does not capture.
    """
    return _log_each(mobync, capture_of(mobync.synchronizer))


def _log_each(mobync: Mobync, capture: Capture) -> Iterator[tuple[str, int | None]]:
    with mobync.synchronizer._reading() as connection:
        owners = capture.owners(connection)
    for owner_id in owners:
        try:
            yield owner_id, mobync.push(owner_id, [])
        except BusyError:
            yield owner_id, None
