"""Notes of rows that something other than mobync has written; triggers make them.

A trigger on each model's table writes a note when a row is inserted, updated or deleted: the owner,
the id and the time. It first checks whether mobync is writing: on PostgreSQL by a setting of the
transaction, on MariaDB and MySQL by a variable of the session. On SQLite, which has one writer at a
time, it looks for a row in the table of notes, which is deleted before mobync's transaction
commits.

While mobync writes, other triggers may write, too. On PostgreSQL these are deeper, and only what
they write is noted. Elsewhere a trigger cannot tell the two apart: it notes everything, with a
negative time, and mobync drops the notes of its own writes before it commits.

A note does not have the values of the row. The code that turns notes into diffs compares the row
with the log (mobync/_sync/noted_edits.py), so an unnecessary note does no harm.
"""

from __future__ import annotations

import copy
import hashlib
import re
import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
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
    literal_column,
    or_,
    select,
    text,
    update,
)
from sqlalchemy import types as sql
from sqlalchemy.dialects.mysql import LONGTEXT
from sqlalchemy.engine import Connection, Dialect, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from ..errors import BusyError
from ..sync import Mobync
from ._cascades import Cascade, cascades
from ._deferred import Write
from ._locking import READS_OWN_ROWS
from ._model import Model, plain_type
from ._notes import Note, searched_texts
from ._settings import named, schema_of
from ._tables import _OPTIONS, KEY_LENGTH, beside
from ._triggers import SETTING, family_of, trigger_of_cascade, triggers_of_model
from ._values import is_mysql

if TYPE_CHECKING:
    from ._synchronizer import SQLAlchemySynchronizer

_CHECKED = "mobync_triggers_checked"
_NUMBERS_A_STATEMENT = 500
_LONGEST_NAME = 60  # PostgreSQL cuts names at 63 bytes, MySQL refuses them at 64 characters
_NOTED = "@mobync_noted"  # on MariaDB and MySQL: the highest number before mobync writes
_NOBODY = ""  # the owner of the row that means, on SQLite, that mobync is writing


def notes_table(log: Table) -> Table:
    """The table of notes of a log; it is declared now if needed."""
    name, declared = beside(log, "notes")
    if declared is not None:
        return declared
    number = BigInteger().with_variant(
        Integer(), "sqlite"
    )  # otherwise SQLite would not number them
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


@dataclass
class OwnWrites:
    """What mobync writes in a transaction.

    Attributes:
        owner_id: whose rows.
        writes: how often it has certainly written each row, by model and id as devices have it.
        owners: the owners for whose rows every write counts as mobync's.
    """

    owner_id: str
    writes: Counter[tuple[str, str]] = field(default_factory=Counter)
    owners: set[str] = field(default_factory=set)

    def counting(self, model: str, ids: Sequence[Any], write: Write) -> Write:
        """Wrap what writes rows, and count the rows that it writes.

        If it writes fewer rows than it should, for example because a trigger has deleted one, none
        of them counts: mobync does not know which one is missing, and an unnecessary note does no
        harm.

        Args:
            model: whose rows.
            ids: the ids of all of them.
            write: what writes some of them.
        """

        def write_and_count(begin: int, end: int) -> int | None:
            count = write(begin, end)
            if count is None or count == end - begin:
                self.writes.update((model, str(id_)) for id_ in ids[begin:end])
            return count

        return write_and_count


class Capture:
    """The notes of a synchronizer.

    Args:
        log: the log.
        models: the models whose tables have triggers: those that belong to owners.
        dialect: the dialect of the database, as far as it is known.

    Raises:
        ValueError: foreign keys between them cannot be followed.
    """

    def __init__(self, log: Table, models: Sequence[Model], dialect: Dialect) -> None:
        self.notes_table = notes_table(log)
        self.models = {model.name: model for model in models if model.owner is not None}
        self._cascades = cascades(self.models.values())
        if is_mysql(dialect):
            self.ddl(dialect)  # raises an error for foreign keys that cannot be followed
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
        """Drop notes that were turned into diffs; newer notes stay."""
        table = self.notes_table
        for begin in range(0, len(notes), _NUMBERS_A_STATEMENT):
            numbers = [note.number for note in notes[begin : begin + _NUMBERS_A_STATEMENT]]
            store.connection.execute(delete(table).where(table.c.number.in_(numbers)))

    def owners(self, connection: Connection) -> list[str]:
        """The owners with notes, as in their owner columns."""
        owner = self.notes_table.c.owner
        found = connection.scalars(select(owner).where(owner != _NOBODY).distinct()).all()
        return sorted({self._owner_of(each) for each in found})

    def _owner_of(self, noted: str) -> str:
        uuids = any(_is_uuid(model.owner) for model in self.models.values())
        return str(uuid.UUID(noted)) if uuids and _HEX_UUID.fullmatch(noted) else noted

    def _of_owner(self, owner_id: str) -> Any:
        forms = [owner_id]
        if _UUID.fullmatch(owner_id):
            forms.append(owner_id.replace("-", ""))  # as databases without UUIDs store it
        return self.notes_table.c.owner.in_(forms)

    def logged(
        self, store: SQLAlchemySynchronizer, owner_id: str, model: str, ids: Sequence[str]
    ) -> list[dict[str, Any]] | None:
        """Diffs of the log that may belong to these objects, including all that do.

        Returns:
            None if there are so many objects that reading the whole log is faster.
        """
        searched = searched_texts(ids)
        if searched is None:
            return None
        log = self._log.c
        json_data: Any = log.json_data
        says = [json_data.contains(part, autoescape=True) for part in searched]
        escaped = json_data.contains("\\u", autoescape=True)  # an id may be spelled like this
        statement = select(
            log.id, log.owner, log.logical_clock, log.utc_timestamp, log.type, log.model, json_data
        ).where(log.owner == owner_id, log.model == model, or_(*says, escaped))
        names = ("id", "owner", "logical_clock", "utc_timestamp", "type", "model", "json_data")
        rows = store.connection.execute(statement)
        return [dict(zip(names, row, strict=True)) for row in rows]

    # ---- marking a transaction as mobync's -----------------------------------------------------

    @contextmanager
    def writing(
        self, connection: Connection, session: Session | None, own: OwnWrites
    ) -> Iterator[None]:
        """Leave no notes of mobync's own writes; keep those of other triggers and of a session's
        flushes.

        Args:
            connection: in a transaction.
            session: the app's session, if the transaction belongs to it.
            own: mobync's writes, which are complete when the context ends.
        """
        marks = [self._mark(connection, is_first=True)]
        flushes = {
            "before_flush": lambda *_: self._unmark(connection),
            "after_flush": lambda *_: marks.append(self._mark(connection)),
        }
        for name, listener in flushes.items() if session is not None else ():
            event.listen(session, name, listener)
        try:
            yield
            self._settle(connection, own, min(marks))
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

    def _settle(self, connection: Connection, own: OwnWrites, after: int) -> None:
        """Drop the notes of mobync's own writes, and keep those of other triggers.

        A row that mobync has written once and that has two notes was written by a trigger, too.
        So was each row of another owner, who may use the same ids.

        Args:
            connection: in the transaction.
            own: mobync's writes.
            after: the number after which the notes begin; on MariaDB and MySQL, the session knows
                it.
        """
        if connection.dialect.name == "postgresql":
            return
        table, notes = self.notes_table, self.notes_table.c
        # Notes of other transactions have turned their times before they can be seen here. Many may
        # be waiting, so they are not even read.
        begin: Any = literal_column(_NOTED) if is_mysql(connection.dialect) else after
        statement = select(notes.number, notes.owner, notes.model, notes.object_id)
        statement = statement.where(notes.number > begin, notes.noted_at < 0)
        dropped: list[int] = []
        kept: list[int] = []
        writes = Counter(own.writes)
        statement = statement.order_by(notes.number).execution_options(**{READS_OWN_ROWS: True})
        for number, noted_owner, model, object_id in connection.execute(statement):
            owner_id, found = self._owner_of(noted_owner), self.models.get(model)
            key = model, object_id if found is None else _as_device_has(found.id, object_id)
            is_own = owner_id in own.owners
            if owner_id == own.owner_id and writes[key] > 0:
                is_own = True
                writes[key] -= 1
            (dropped if is_own else kept).append(number)
        turned = update(table).values(noted_at=-notes.noted_at)
        for change, numbers in ((delete(table), dropped), (turned, kept)):
            for begin in range(0, len(numbers), _NUMBERS_A_STATEMENT):
                some = numbers[begin : begin + _NUMBERS_A_STATEMENT]
                connection.execute(change.where(notes.number.in_(some)))

    def _mark(self, connection: Connection, *, is_first: bool = False) -> int:
        """Mark what follows as mobync's writes.

        Args:
            connection: in the transaction.
            is_first: whether this is the first mark of the transaction.

        Returns:
            On SQLite, a number: notes that are made under this mark have higher ones.
        """
        if connection.dialect.name == "sqlite":
            nobody = {"owner": _NOBODY, "model": "", "object_id": "", "noted_at": 0}
            key = connection.execute(insert(self.notes_table).values(nobody)).inserted_primary_key
            return int(key[0]) if key else 0
        if connection.dialect.name == "postgresql":
            connection.execute(select(func.set_config(SETTING, "on", True)))
        elif is_first:
            notes = named(self.notes_table, connection)
            # SET with a subquery would lock notes, and wait for transactions that have made some.
            connection.exec_driver_sql(
                f"SELECT 1, COALESCE(MAX(number), 0) INTO @mobync_writing, {_NOTED} FROM {notes}"
            )
        else:
            connection.exec_driver_sql("SET @mobync_writing = 1")
        return 0

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
        """Make sure that the triggers exist, once for each connection of a pool.

        Raises:
            ValueError: one is missing.
        """
        checked: set[Trigger] = connection.info.setdefault(_CHECKED, set())  # of all tenants
        wanted = self._triggers(connection)
        if wanted <= checked:
            return
        missing = sorted(name for _, name in wanted - _triggers_there(connection, wanted))
        if missing:
            raise ValueError(
                f"capture=True needs triggers, and {missing[0]!r} is missing: make them with "
                "mobync.sqlalchemy.create_triggers(engine, store)"
            )
        checked |= wanted

    def _triggers(self, connection: Connection) -> set[Trigger]:
        kinds = _KINDS.get(connection.dialect.name, "u")  # if one exists, the others were made too
        names = [
            (model.table, self.trigger_name(name, kind))
            for name, model in self.models.items()
            for kind in kinds
        ]
        for each in self.cascades(connection.dialect):
            names.append((each.table, self.trigger_name(each.table.fullname, "c")))
        return {(schema_of(table, connection), name) for table, name in names}

    def cascades(self, dialect: Dialect) -> list[Cascade]:
        """For each table that needs a trigger: the rows that are deleted or changed together with
        its rows.
        """
        found = self._cascades
        return found if is_mysql(dialect) else [each for each in found if each.direct()]

    def trigger_name(self, of: str, kind: str = "u") -> str:
        """The name of a trigger.

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
        """The statements that make the triggers and replace existing ones."""
        statements: list[str] = []
        for model in self.models.values():
            statements += triggers_of_model(self, model, dialect)
        for cascade in self.cascades(dialect):
            statements += trigger_of_cascade(self, cascade, dialect)
        return statements


_KINDS = {"postgresql": "ut"}

Trigger = tuple[str | None, str]
"""The schema of its table, None if it need not be said, and its name."""

_TRIGGERS = {  # the schemas of their tables, their names, and whether the schemas can be left out
    "postgresql": "SELECT nspname, tgname, pg_table_is_visible(tgrelid) FROM pg_trigger"
    " JOIN pg_class ON pg_class.oid = tgrelid JOIN pg_namespace ON pg_namespace.oid = relnamespace"
    " WHERE NOT tgisinternal",
    "mysql": "SELECT event_object_schema, trigger_name, event_object_schema = DATABASE()"
    " FROM information_schema.triggers",
}


def _triggers_there(connection: Connection, wanted: Collection[Trigger]) -> set[Trigger]:
    """The triggers of a database; on SQLite, of the schemas of those that are wanted."""
    found: set[Trigger] = set()
    if connection.dialect.name == "sqlite":
        quote = connection.dialect.identifier_preparer.quote
        for schema in {schema for schema, _ in wanted}:
            tables = f"{quote(schema or 'main')}.sqlite_master"
            names = connection.scalars(text(f"SELECT name FROM {tables} WHERE type = 'trigger'"))
            found |= {(schema, name) for name in names}
        return found
    rows = connection.execute(text(_TRIGGERS[family_of(connection.dialect)]))
    for schema, name, is_found in rows:
        found |= {(schema, name), (None, name)} if is_found else {(schema, name)}
    return found


_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_HEX_UUID = re.compile(r"[0-9a-f]{32}", re.ASCII)


def _is_uuid(column: Column[Any] | None) -> bool:
    return column is not None and isinstance(plain_type(column.type), sql.Uuid)


def _as_device_has(column: Column[Any], noted: str) -> str:
    """An id as devices have it, from the form of the database."""
    is_uuid = _is_uuid(column) and (_HEX_UUID.fullmatch(noted) or _UUID.fullmatch(noted))
    return str(uuid.UUID(noted)) if is_uuid else noted


def capture_of(store: SQLAlchemySynchronizer) -> Capture:
    """The capture of a synchronizer.

    Raises:
        TypeError: it is not a synchronizer with ``capture=True``.
    """
    capture: Capture | None = getattr(store, "capture", None)
    if capture is None:
        raise TypeError("store must be a SQLAlchemySynchronizer(..., capture=True)")
    return capture


def capture_ddl(store: SQLAlchemySynchronizer, engine: Engine | Dialect) -> list[str]:
    """The statements that make the triggers of a synchronizer, for a migration.

    They replace existing triggers. Each is one statement, without a semicolon at the end.

    Args:
        store: a ``SQLAlchemySynchronizer(..., capture=True)``.
        engine: the database, or its dialect.

    Raises:
        TypeError: ``store`` does not capture.
    """
    dialect = engine if isinstance(engine, Dialect) else _dialect_of(engine)
    return capture_of(store).ddl(dialect)


def _dialect_of(engine: Engine) -> Dialect:
    """The dialect of an engine; it names tables in the schemas that the engine has for them."""
    if not engine.get_execution_options().get("schema_translate_map"):
        return engine.dialect
    dialect = copy.copy(engine.dialect)
    preparer: Any = copy.copy(dialect.identifier_preparer)
    preparer.schema_for_object = lambda table: schema_of(table, engine)
    dialect.identifier_preparer = preparer
    return dialect


def create_triggers(engine: Engine, store: SQLAlchemySynchronizer) -> None:
    """Make the triggers of a synchronizer, or replace them. The tables must exist.

    Args:
        engine: the database.
        store: a ``SQLAlchemySynchronizer(..., capture=True)``.

    Raises:
        TypeError: ``store`` does not capture, or ``engine`` is not an Engine that blocks.
        sqlalchemy.exc.DBAPIError: a table does not exist, or this user may not make triggers.
    """
    if not isinstance(engine, Engine):
        raise TypeError(
            f"engine must be an Engine, not {type(engine).__name__}: for an AsyncEngine, await "
            "create_triggers_async()"
        )
    with engine.begin() as connection:
        for statement in capture_ddl(store, engine):
            connection.exec_driver_sql(statement)


def log_noted(mobync: Mobync) -> Iterator[tuple[str, int | None]]:
    """Add the edits that triggers have noted to the logs now, and tell the listeners.

    Use it in a job that runs every few seconds, so that listening devices hear about edits by SQL
    before somebody syncs. The work is done while you iterate.

    Args:
        mobync: a Mobync whose synchronizer is a ``SQLAlchemySynchronizer(..., capture=True)``.

    Yields:
        Each owner with notes, and the owner's logical clock afterwards; None if another sync of
        that owner took too long.

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
