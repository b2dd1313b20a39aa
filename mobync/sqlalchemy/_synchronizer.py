"""The Synchronizer: models, log and owner's lock in one database."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Table, delete, func, select
from sqlalchemy.engine import Connection, Dialect, Engine
from sqlalchemy.exc import DBAPIError, NoSuchTableError
from sqlalchemy.exc import TimeoutError as NoConnectionError
from sqlalchemy.orm import Session, scoped_session

from .._relational.filled import Columns, check_columns, check_models, refuse_fields
from .._relational.read_window import ReadWindow
from .._relational.rows import changed_fields, first_of
from .._relational.store import RelationalSynchronizer, check_arguments
from .._relational.write_order import write_order
from ..errors import BusyError, InvalidDiffError, MobyncError, UnavailableError
from ..types import FIELD_TIMES, Diff, FilterType, LogRow, ReadFilter
from ._capture import Capture, OwnWrites
from ._connections import (
    EngineSource,
    SnapshotSource,
    Source,
    drop_if_spoiled,
    is_after_commit,
    source_of,
)
from ._deferred import Deferred, Write
from ._devices import OWNER_ITSELF, Devices, check_names
from ._direct import Statement, read_alone, read_directly
from ._errors import OUTAGES, Kind, is_sqlite_busy, kind_of
from ._filled import filled_models
from ._kept_values import kept, owned_models
from ._locking import (
    Head,
    head_select,
    head_update,
    lock_owner,
    make_empty_head,
    read_head,
    waiting,
)
from ._missing import missing_table, naming_missing
from ._model import (
    Model,
    Row,
    describe,
    describe_log,
    references,
    table_and_fields,
)
from ._moving import defer_foreign_keys, give_rows
from ._plain_log import PlainLog, highest_clock, ids
from ._refusals import Reason, ids_taken, reason_at_commit, reason_in_log, reason_of, write_run
from ._settings import check_once, is_checked
from ._statements import (
    PIECE_ROWS,
    delete_of,
    delete_rows,
    encoded_values,
    erase_rows,
    in_pieces,
    insert_of,
    insert_rows,
    read_fields,
    read_owners,
    read_page,
    read_rows,
    rows_select,
    update_of,
    update_rows,
)
from ._tables import diffs_table
from ._talks import can_read, somebody_listens
from ._transactions import Held, Talking, Transaction, copy_of, has_plain_copies, opened_by
from ._values import is_mysql

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..synchronizer import Synchronizer


T = TypeVar("T")

PAGE_ROWS = 1000  # of owned_rows, in memory at once
_UNMARKED = nullcontext()
# The methods that read a log without its owner's lock.
_READS = (*("transaction", "reading", "read", "read_log", "highest_logical_clock", "read_devices"),)
_NONE: Columns = MappingProxyType({})


class _LateRefusalError(InvalidDiffError):
    """A commit was refused; the same transaction, started again, would name the row."""


class SQLAlchemySynchronizer(RelationalSynchronizer[Transaction, Model]):
    """Stores models and log in a database with SQLAlchemy 2. You do not have to override anything.

    The three rules accept everything, because every statement touches only the owner's rows.
    Override ``validate_*`` for your own rules. Inside them ``self`` is in the owner's transaction:
    ``self.read`` and ``self.connection`` see what the sync sees.

    What devices send is converted to the columns' types. A value that does not fit is refused, and
    the error names it (docs/databases.md has the table). Rows are written by statements on tables,
    so the validators, events and version counter of a mapped class do not run; column defaults and
    ``onupdate`` do.

    One object serves any number of threads; each transaction works on a copy of it.

    Args:
        engine: an Engine, for mobync's own transactions; or a Session, a scoped_session or
            Flask-SQLAlchemy's ``db``, whose transaction is then shared. In that case the app's
            pending changes are flushed first, and committed or rolled back with the sync, and
            objects of rows that the sync changes are read again.
        models: Tables or mapped classes, by the names that devices use. The primary key is ``id``,
            a String or Uuid, alone or together with the owner column.
        diffs: the log, as :func:`diffs_table` declares it; None finds ``diffs`` in the metadata of
            the models, or declares it there.
        owner_column: the field of every model that holds the ``owner_id`` of ``Mobync.apply``: a
            String, Integer or Uuid.
        lock_timeout_s: seconds to wait for another sync of the same owner, and for any locked row.
            MySQL and MariaDB count whole seconds, at least one.
        shared: names of models that have no owner column, on purpose: any device may write any row
            of them, unless a rule refuses.
        capture: whether triggers, which :func:`create_triggers` makes, note rows that something
            other than mobync writes, so that the owner's next sync sends them to the devices.
        server_columns: by model, names of fields that devices get but may not write, such as those
            that a trigger sets. ``push`` may write them.
        hidden_columns: by model, names of columns that devices neither get nor may write.
        read_back: names of models whose rows are read back after every write, because a trigger may
            change any of their fields. This happens by itself for models with defaults,
            ``onupdate``, computed columns or ``server_columns``.

    Attributes:
        capture: the notes, or None.
        filled_models: the models that the database fills in, or None.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a table cannot be synced, with the reason; or the database is not SQLite,
            PostgreSQL, MySQL or MariaDB.
    """

    _has_plain_copies = True
    _reads_as_usual = True  # whether no subclass reads a log in another way

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        cls._has_plain_copies = has_plain_copies(cls, SQLAlchemySynchronizer)
        cls._reads_as_usual = all(_is_ours(cls, name) for name in _READS)

    def __init__(
        self,
        engine: Engine | Session | scoped_session[Any] | Any,
        models: Mapping[str, Table | type[Any]],
        *,
        diffs: Table | type[Any] | None = None,
        owner_column: str = "owner",
        lock_timeout_s: float = 10.0,
        shared: Collection[str] = (),
        capture: bool = False,
        server_columns: Columns = _NONE,
        hidden_columns: Columns = _NONE,
        read_back: Collection[str] = (),
    ) -> None:
        check_arguments(models, lock_timeout_s, shared, "Tables or mapped classes")
        if not isinstance(capture, bool):
            raise TypeError("capture must be True or False")
        check_columns("server_columns", server_columns, models)
        check_columns("hidden_columns", hidden_columns, models)
        check_models("read_back", read_back, models)

        log = _find_log(models) if diffs is None else diffs
        self._log, self._full_log = describe_log(log), describe_log(log, with_field_times=True)
        self._plain_log = PlainLog(self._log)
        self.diffs_model_name: str = self._log.name
        self._devices = Devices(self._log.table)
        self._source = self._source_of(engine, self._log.table)
        dialect = self._source.dialect()
        self._models = {
            name: describe(
                name,
                model,
                owner_column,
                name in shared,
                dialect,
                hidden=hidden_columns.get(name, ()),
                server=server_columns.get(name, ()),
            )
            for name, model in models.items()
        }
        self.filled_models = filled_models(self._models, read_back)
        self._check_apart()
        self._deferred = Deferred(self._models)
        self._tables = [
            *(model.table for model in self._models.values()),
            *self._mobyncs_tables(),
        ]
        self._own_tables = {table.fullname: table for table in self._mobyncs_tables()}
        self.capture: Capture | None = None
        if capture:
            self.capture = Capture(self._log.table, list(self._models.values()), dialect)
            notes = self.capture.notes_table
            self._tables.append(notes)
            self._own_tables[notes.fullname] = notes
        self._lock_timeout_s = float(lock_timeout_s)
        self._open: Transaction | None = None

    def _mobyncs_tables(self) -> list[Table]:
        devices = self._devices
        return [self._log.table, devices.heads.table, devices.table, devices.parts.table]

    def _source_of(self, engine: Any, log: Table) -> Source:
        return source_of(engine, log)

    def _check_apart(self) -> None:
        own = self._mobyncs_tables()
        for name, model in self._models.items():
            if name == self._log.name or model.table in own:
                raise ValueError(f"model {name!r}: devices must not write {self._log.name!r}")

    # ---- transactions ----------------------------------------------------------------------------

    @property
    def connection(self) -> Connection:
        """The connection of the open transaction, for your own statements.

        Raises:
            RuntimeError: no transaction is open.
        """
        return self._transaction().settle()

    def transaction(self, owner_id: str) -> AbstractContextManager[Self]:
        """Run one sync of this owner in a transaction; nobody else can sync this owner meanwhile.

        Yields:
            A copy of this synchronizer that works in the transaction.

        Raises:
            BusyError: another sync of this owner, or another lock on a row that the sync writes,
                took longer than ``lock_timeout_s``; on SQLite, any other writer.
            UnavailableError: the database does not answer, is full, read-only, or too slow.
            InvalidDiffError: a deferred constraint refuses what was written.
            RuntimeError: a transaction is open already.
            ValueError: the database cannot tell ``owner_id`` from others, or its settings would
                change what devices send.
            sqlalchemy.exc.NoSuchTableError: a table was not made.
        """
        return Held(self, self._locked(owner_id))

    def _attempt(
        self, owner_id: str, carefully: bool, device: str | None = None
    ) -> AbstractContextManager[Self]:
        """Talk to the driver at first, unless a subclass says what is around a transaction."""
        own = not self._reads_alone()
        is_marked = self.capture is not None  # by a statement of its own
        source = self._source
        if own or carefully or is_marked or not isinstance(source, EngineSource):
            return self.transaction(owner_id)
        if somebody_listens(source.engine):
            return self.transaction(owner_id)
        return Held(self, Talking(self, owner_id, source, device))

    @contextmanager
    def _locked(self, owner_id: str) -> Iterator[Transaction]:
        with self._source.transaction() as connection, self._prepared(connection):
            opened = self._lock(connection, owner_id)
            with self._marked(opened):
                yield opened
                self._source.before_statement()  # what is pending fails as the app's own
            opened.is_written = True

    @contextmanager
    def _begun(
        self, owner_id: str, source: EngineSource, connection: Connection
    ) -> Iterator[Transaction]:
        """Do what _locked() does, on a connection of the source that has not begun."""
        with source.begun(connection), self._prepared(connection):
            yield self._lock(connection, owner_id)

    def _meaning(
        self, error: DBAPIError | NoConnectionError, opened: Transaction | None
    ) -> MobyncError | NoSuchTableError | None:
        """The error that the device gets for an error of the database; None if it gets none."""
        missing = missing_table(error, self._tables) if isinstance(error, DBAPIError) else None
        if missing is not None:
            return missing
        kind = kind_of(error)
        too_long = f"longer than {self._lock_timeout_s:g} s"
        if opened is None and (kind is Kind.LOCKED or is_sqlite_busy(error)):
            return BusyError(f"another sync of this owner took {too_long}")
        if kind is Kind.LOCKED:
            return BusyError(f"a row was locked by another transaction for {too_long}")
        if kind is Kind.CONFLICT and not self.may_begin_again():
            return BusyError("the database ended the transaction in favour of another one")
        if opened is not None and opened.is_written and self.may_begin_again():
            reason = reason_at_commit(error)
            if reason is not None:
                is_new = self._deferred.expect(opened.connection.dialect)
                return _LateRefusalError(reason) if is_new else InvalidDiffError(reason)
        return _outage(error)

    def _all_writes_are_own(self, owner_id: str) -> None:
        own = self._transaction().own
        if own is not None:
            own.owners.add(owner_id)

    def _marked(self, opened: Transaction) -> AbstractContextManager[None]:
        """Tell triggers, if there are any, that the writes are mobync's."""
        if self.capture is None:
            return _UNMARKED
        self._source.before_statement()  # what the app has pending is the app's
        opened.own = OwnWrites(opened.owner_id)
        return self.capture.writing(opened.connection, self._source.session(), opened.own)

    def _prepared(self, connection: Connection) -> AbstractContextManager[None]:
        self._check_settings(connection)
        return waiting(connection, self._lock_timeout_s)

    def _check_settings(self, connection: Connection) -> None:
        if not is_checked(connection, self._own_tables):
            check_once(connection, self._own_tables)
        if self._devices.found is None:
            self._devices.find_out(connection)
        if self.capture is not None:
            self.capture.check_once(connection)

    def _check_owner(self, owner_id: str, dialect: Dialect) -> Any:
        """Check that the database can keep an owner; returns it as the log's column does."""
        if is_mysql(dialect) and owner_id.endswith(" "):
            raise ValueError("owner_id ends in a space, which MySQL and MariaDB do not compare")
        return self._log.owner_value(owner_id, dialect)

    def _lock(self, connection: Connection, owner_id: str) -> Transaction:
        self._check_owner(owner_id, connection.dialect)
        heads = self._devices.heads
        head = lock_owner(connection, heads, self._log.table, owner_id, self._lock_timeout_s)
        self._source.after_lock(connection, heads, owner_id, head.clock)
        return opened_by(connection, owner_id, head)

    def _joining(self, connection: Connection, owner_id: str) -> Self:
        """Lock an owner in a transaction that the caller has begun and will end.

        Then the caller calls :meth:`_fill_head`.

        Returns:
            A copy that works in it.

        Raises:
            BusyError: another sync of this owner took too long, or waits for this transaction.
        """
        inside = copy_of(self)
        inside._source = SnapshotSource(connection)
        try:
            with naming_missing(self._tables), inside._prepared(connection):
                make_empty_head(connection, inside._devices.heads, owner_id)
                inside._open = inside._lock(connection, owner_id)
        except DBAPIError as error:
            if kind_of(error) is Kind.LOCKED or is_sqlite_busy(error):
                too_long = f"longer than {self._lock_timeout_s:g} s"
                raise BusyError(f"another sync of this owner took {too_long}") from error
            if kind_of(error) is Kind.CONFLICT:
                begun = connection.get_transaction()
                if begun is not None:  # MariaDB would commit what came after this, without the rest
                    begun.rollback()
                raise BusyError(
                    f"the database ended the transaction in favour of another one, when it was to "
                    f"lock owner {owner_id!r:.100}: roll back and try again (if both write the same"
                    " owners in several flushes, mobync.sqlalchemy.lock_owners() avoids it)"
                ) from error
            raise
        return inside

    def _fill_head(self) -> None:
        """Give a head that was made empty the clock of the log, which may be older than the
        heads."""
        opened = self._transaction()
        if opened.clock == -1 and is_mysql(opened.connection.dialect):
            self._move_head_to(self._head_of_log(opened.connection, opened.owner_id).clock)

    def is_transient(self, error: Exception) -> bool:
        passes = kind_of(error) is Kind.CONFLICT or isinstance(error, _LateRefusalError)
        return passes and not is_after_commit(error) and self.may_begin_again()

    def may_begin_again(self) -> bool:
        return self._source.may_begin_again()

    def write_order(self, operations: Sequence[tuple[str, str, str]]) -> Sequence[int]:
        return write_order(operations, references(self._models), self._read_fields)

    def _read_fields(self, where: str, ids: Sequence[str], fields: Sequence[str]) -> list[Row]:
        """Read some fields of the owner's rows with these ids, and the id."""
        if self._open is None:
            return []
        model = self._models[where]
        with self._reading() as connection:
            owner = model.owner_value(self._open.owner_id, connection.dialect)
            return read_fields(connection, model, owner, ids, fields)

    def highest_logical_clock(self, owner_id: str) -> int:
        opened, source = self._open, self._source
        if opened is not None and opened.owner_id == owner_id:
            return opened.clock
        if opened is None and isinstance(source, EngineSource):
            rows = self._read_alone(source, partial(head_select, self._devices.heads, owner_id))
            if rows:
                return int(rows[0][0])
        with self._reading() as connection:
            return self._read_head(connection, owner_id).clock

    def _read_alone(
        self,
        source: EngineSource,
        statement_of: Callable[[], Statement],
        only_directly: bool = False,
    ) -> Sequence[Any] | None:
        """Read rows outside of a transaction.

        Args:
            source: of a connection.
            statement_of: gives the statement and its values.
            only_directly: whether to read nothing if SQLAlchemy must execute the statement.

        Returns:
            The rows; None: nothing was read.
        """
        is_heard = somebody_listens(source.engine)
        if is_heard and only_directly:
            return None
        try:
            connection = source.connect() if is_heard else source.connect_unheard()
            try:
                self._check_settings(connection)
                statement = statement_of()
                rows = None if is_heard else read_directly(connection, *statement)
                if rows is None and not only_directly:
                    rows = read_alone(connection, *statement)
                return rows
            except BaseException as error:
                drop_if_spoiled(connection, error)
                raise
            finally:
                connection.close()
        except (DBAPIError, NoConnectionError) as error:
            missing = missing_table(error, self._tables) if isinstance(error, DBAPIError) else None
            meant = missing or _outage(error)
            if meant is None:
                raise
            raise meant from error

    def _read_head(self, connection: Connection, owner_id: str) -> Head:
        head = read_head(connection, self._devices.heads, owner_id)
        return self._head_of_log(connection, owner_id) if head is None else head

    def _head_of_log(self, connection: Connection, owner_id: str) -> Head:
        """The head of an owner who has no row for it yet."""
        log = self._log.table
        highest = select(func.max(log.c.logical_clock)).where(log.c.owner == owner_id)
        clock = connection.scalar(highest)
        return Head(-1 if clock is None else clock)

    def reading(self, owner_id: str) -> AbstractContextManager[Self] | None:
        """Available with an Engine, unless a subclass overrides ``transaction`` to read in it."""
        is_free = self._reads_alone() and self._open is None
        snapshot = self._source.snapshot() if is_free else None
        if snapshot is None:
            return None
        self._check_owner(owner_id, self._source.dialect())
        if self.capture is not None:
            with self._reading() as connection:
                self.capture.check_once(connection)
                if self.capture.has_notes(connection, owner_id):
                    return None  # a transaction turns them into diffs first
        return self._reading_at(snapshot, owner_id)

    def _has_notes(self, owner_id: str) -> bool:
        if self.capture is None or not self._reads_alone():
            return False
        if not isinstance(self._source, EngineSource):  # the app's session commits when it wants
            return False
        with self._reading() as connection:
            return self.capture.has_notes(connection, owner_id)

    def _reads_alone(self) -> bool:
        return type(self).transaction is SQLAlchemySynchronizer.transaction

    def _reading_window(
        self,
        reading: AbstractContextManager[Synchronizer],
        owner_id: str,
        first_clock: int,
        highest: int,
        limit: int = 0,
        device: str = OWNER_ITSELF,
    ) -> AbstractContextManager[Synchronizer]:
        """A short window, the head and a device are read in one statement, which needs no
        transaction."""
        # What comes after a page is not read with it.
        most = min(limit or PIECE_ROWS, PIECE_ROWS)
        source, clocks = self._source, range(first_clock, first_clock + most)
        if highest >= clocks.stop or not self._reads_as_usual or self._devices.found is None:
            return reading
        if not isinstance(source, EngineSource) or not can_read(source.engine):
            return reading
        check_names([device], source.dialect())
        statement = partial(self._window_statement, owner_id, clocks, device, source.dialect())
        rows = self._read_alone(source, statement, only_directly=True)
        window = None if rows is None else self._window_of(rows, clocks, device)
        return reading if window is None else nullcontext(window)

    def _window_statement(
        self, owner_id: str, clocks: range, device: str, dialect: Dialect
    ) -> Statement:
        log = self._with_field_times(self._log)
        owner = log.owner_value(owner_id, dialect)
        return self._devices.window(log, owner_id, owner, clocks, device, dialect)

    def _window_of(
        self, rows: Sequence[Sequence[Any]], clocks: range, device: str
    ) -> ReadWindow | None:
        """What rows of :meth:`_window_statement` say; None if they lack the head or later diffs."""
        log = self._with_field_times(self._log)
        width = len(log.fields)
        heads = [row[:-width] for row in rows if row[-width] is None]
        if not heads or heads[0][0] >= clocks.stop:
            return None
        clock, *texts = heads[0]
        found = [row[-width:] for row in rows if row[-width] is not None]
        diffs = encoded_values(log, found, self._source.dialect())
        states = {device: texts[1], OWNER_ITSELF: texts[0]} if self._devices.are_kept else None
        return ReadWindow(clock, states, clocks.start, [*diffs])

    @contextmanager
    def _reading_at(
        self, snapshot: AbstractContextManager[Connection], owner_id: str
    ) -> Iterator[Self]:
        inside = copy_of(self)
        with naming_missing(self._tables), _naming_outages(), snapshot as connection:
            self._check_settings(connection)
            head = self._read_head(connection, owner_id)
            inside._open = opened_by(connection, owner_id, head)
            try:
                yield inside
            finally:
                inside._open = None

    @contextmanager
    def snapshot(self) -> Iterator[Self]:
        """Read log and rows as of one moment, while syncs continue.

        Yields:
            A copy of this synchronizer that can read, and cannot write.

        Raises:
            TypeError: the synchronizer has a session, which has its own transaction.
        """
        if not isinstance(self._source, EngineSource):
            raise TypeError("snapshot() needs a synchronizer that was given an Engine")
        with self._source.snapshot() as connection:
            inside = copy_of(self)
            inside._source = SnapshotSource(connection)
            yield inside

    def owners(self) -> Iterator[str]:
        """List every owner with a log once; some of these logs may still be empty.

        Each page is a separate statement, so owners who begin to sync meanwhile may or may not be
        listed.
        """
        yield from read_owners(self._reading, self._devices.heads.table, self._log.table, PAGE_ROWS)

    # ---- devices ---------------------------------------------------------------------------------

    def keeps_clock(self) -> bool:
        return True  # the head does

    def keeps_field_times(self) -> bool:
        found = self._devices.found
        return found is not None and found.field_times

    def read_devices(self, owner_id: str, names: Sequence[str] | None) -> dict[str, str] | None:
        """Available if the database has the table of devices (docs/databases.md).

        Raises:
            InvalidDiffError: on MySQL and MariaDB, a name ends in a space.
        """
        if self._open is not None and self._open.owner_id == owner_id:
            return self._read_devices(self._open, names) if self._devices.are_kept else None
        self._check_owner(owner_id, self._source.dialect())
        with self._reading() as connection:
            self._devices.find_out(connection)
            if not self._devices.are_kept:
                return None
            opened = opened_by(connection, owner_id, self._read_head(connection, owner_id))
            return self._read_devices(opened, names)

    def _read_devices(self, opened: Transaction, names: Sequence[str] | None) -> dict[str, str]:
        states = opened.states
        check_names(names or (), opened.connection.dialect)
        unknown = None if names is None else [name for name in names if name not in states]
        if unknown is None or unknown:
            if opened is self._open:
                self._before_read(opened)
            found = self._devices.read(opened.connection, opened.owner_id, unknown)
            states |= {**dict.fromkeys(unknown or ()), **found}
        wanted = {**states} if names is None else {name: states[name] for name in names}
        return {name: text for name, text in wanted.items() if text is not None}

    def write_devices(self, owner_id: str, states: Mapping[str, str | None]) -> None:
        opened = self._transaction()
        if opened.owner_id != owner_id:
            raise ValueError(f"the transaction is not for owner {owner_id!r:.100}")
        if not self._devices.are_kept:
            raise RuntimeError(f"the database has no table {self._devices.table.name!r}")
        self._read_devices(opened, list(states))
        self._source.before_statement()
        writes = self._devices.writes(owner_id, states, opened.states)
        if not opened.note(writes, lambda write: write):
            for statement, values in writes:
                statement.execute(opened.connection, values)
        opened.states |= states

    def keeps_parts(self) -> bool:
        """Whether the database has the table of parts (docs/databases.md)."""
        return self._devices.keep_parts

    def write_part(self, owner_id: str, device: str, part: int, pieces: Sequence[str]) -> None:
        parts, connection = self._devices.parts, self._of_parts(owner_id)
        parts.write(connection, owner_id, device, part, pieces)

    def read_parts(self, owner_id: str, device: str) -> Iterator[tuple[int, str]]:
        return self._devices.parts.read(self._of_parts(owner_id), owner_id, device)

    def drop_parts(self, owner_id: str, device: str | None) -> None:
        self._devices.parts.drop(self._of_parts(owner_id), owner_id, device)

    def _of_parts(self, owner_id: str) -> Connection:
        opened = self._transaction()
        if opened.owner_id != owner_id:
            raise ValueError(f"the transaction is not for owner {owner_id!r:.100}")
        connection = opened.settle()
        self._source.before_statement()
        return connection

    def erase_owned(self, owner_id: str) -> dict[str, int]:
        """Delete the owner's rows of all models except shared ones, the log, the head and the
        notes.

        Raises:
            sqlalchemy.exc.IntegrityError: a row of another owner refers to a row of this one.
        """
        opened = self._transaction()
        if opened.owner_id != owner_id:
            raise ValueError(f"the transaction is not for owner {owner_id!r:.100}")
        connection = opened.settle()
        self._source.before_statement()
        self._all_writes_are_own(owner_id)
        counts = self._erase_models(opened)
        own = [(self._log.name, self._log.table), ("", self._devices.heads.table)]
        if self.capture is not None:
            own.append(("", self.capture.notes_table))
        for name, table in own:
            gone = connection.execute(delete(table).where(table.c.owner == owner_id))
            if name:
                counts[name] = gone.rowcount
        opened.clock = -1
        return counts

    def _erase_models(self, opened: Transaction) -> dict[str, int]:
        counts: dict[str, int] = {}
        for name in reversed(self.owned_models(opened.owner_id)):
            model = self._models[name]
            counts[name] = erase_rows(opened.connection, model, opened.owner_in(model))
            self._source.after_write(model.table)
        return counts

    # ---- two owners ------------------------------------------------------------------------------

    def moving(
        self, old_owner_id: str, new_owner_id: str
    ) -> AbstractContextManager[tuple[Self, Self]] | None:
        """Available unless a subclass overrides ``transaction``, which locks one owner only."""
        if type(self).transaction is not SQLAlchemySynchronizer.transaction:
            return None
        return self._moving(old_owner_id, new_owner_id)

    @contextmanager
    def _moving(self, old_owner_id: str, new_owner_id: str) -> Iterator[tuple[Self, Self]]:
        first, second = sorted((old_owner_id, new_owner_id))
        with Held(self, self._locked(first)) as one:
            one._all_writes_are_own(first)
            one._all_writes_are_own(second)
            other = copy_of(one)
            other._open = self._lock(one.connection, second)
            try:
                yield (one, other) if first == old_owner_id else (other, one)
            finally:
                other._open = None

    def move_owned(self, new_owner_id: str, same: Mapping[str, Sequence[str]]) -> dict[str, int]:
        """Set the owner column of the owner's rows, in all models except shared ones.

        Raises:
            InvalidDiffError: the database refuses the new owner.
            ValueError: the owner column cannot keep ``new_owner_id``.
        """
        opened = self._transaction()
        connection = opened.settle()
        self._source.before_statement()
        defer_foreign_keys(connection)
        return self._move_models(opened, new_owner_id, same)

    def _move_models(
        self, opened: Transaction, new_owner_id: str, same: Mapping[str, Sequence[str]]
    ) -> dict[str, int]:
        connection = opened.connection

        def new_owner(model: Model) -> Any:
            return model.owner_value(new_owner_id, connection.dialect)

        models = [self._models[name] for name in self.owned_models(opened.owner_id)]
        counts = give_rows(connection, models, opened.owner_in, new_owner, same)
        for model in models:
            self._source.after_write(model.table)
        return counts

    def raise_clock(self, clock: int) -> None:
        self._move_head_to(clock)

    def _poll(self, owner_id: str, device: str) -> tuple[int, dict[str, str] | None] | None:
        devices, source = self._devices, self._source
        if devices.found is None:
            with self._reading() as connection:
                self._check_settings(connection)
        if not devices.are_kept:
            return -1, None
        if isinstance(source, EngineSource) and self._open is None:
            check_names([device], source.dialect())
            rows = self._read_alone(source, partial(devices.poll, owner_id, device))
        else:
            with self._reading() as connection:
                self._check_settings(connection)
                check_names([device], connection.dialect)
                statement, values = devices.poll(owner_id, device)
                rows = statement.execute(connection, values).all()
        if not rows:
            return None
        clock, *texts = rows[0]
        states = zip((OWNER_ITSELF, device), texts, strict=True)
        return clock, {name: text for name, text in states if text is not None}

    # ---- reading ---------------------------------------------------------------------------------

    def read(self, where: str, filters: Sequence[ReadFilter] = ()) -> list[Row]:
        """Read rows as dicts of JSON values.

        Inside a transaction, these are rows of its owner. Outside, the filters must name the owner,
        by ``equal`` on the owner column, unless the model is shared. Rows of a model do not have
        the owner column; rows of the log do.

        Raises:
            InvalidDiffError: there is no such model.
            ValueError: a filter names an unknown field, or has a value that does not fit it, or no
                filter names the owner.
        """
        model = self._model(where)
        owner: Any = None
        if self._open is not None:
            owner_id = self._open.owner_id
            owner = model.owner_value(owner_id, self._open.connection.dialect)
            filters = [f for f in filters if not (_on_owner(model, f) and f.data == owner_id)]
        elif model.owner is not None and not any(_on_owner(model, f) for f in filters):
            raise ValueError(f"reading {where!r} needs a filter equal on {model.owner_field!r}")
        with self._reading() as connection:
            if model is self._log:
                self._devices.find_out(connection)
                model = self._with_field_times(model)
            rows = read_rows(connection, model, owner, filters)
        if model is self._full_log:
            for row in rows:
                if row[FIELD_TIMES] is None:
                    del row[FIELD_TIMES]
        return rows

    def read_log(self, where: str, filters: Sequence[ReadFilter]) -> Iterable[Sequence[Any]]:
        """Read rows of the log as values: all at once if they are few, else one by one."""
        assert self._open is not None
        opened, log = self._open, self._with_field_times(self._log)
        filters = [f for f in filters if not (_on_owner(log, f) and f.data == opened.owner_id)]
        dialect = opened.connection.dialect
        statement, values = rows_select(log, opened.owner_in(self._log), filters, dialect)
        if opened.clock - _first_clock(filters) < PIECE_ROWS:
            self._source.before_statement()
            return encoded_values(log, opened.select(statement, values), dialect)
        with self._reading() as connection:
            return encoded_values(log, in_pieces(connection, statement, values), dialect)

    def owned_rows(self, owner_id: str, where: str, after: str | None = None) -> Iterator[Row]:
        """Read an owner's rows of a model, a page at a time, in the order of their ids.

        Each page is a separate statement, so outside a transaction, rows that are written meanwhile
        may or may not be included.

        Args:
            owner_id: the owner of the rows.
            where: the model.
            after: the id after which to begin.

        Raises:
            InvalidDiffError: there is no such model.
            ValueError: the owner column cannot keep ``owner_id``.
        """
        model = self._model(where)
        while True:
            with self._reading() as connection:
                owner = model.owner_value(owner_id, connection.dialect)
                page = read_page(connection, model, owner, after, PAGE_ROWS)
            yield from page
            if len(page) < PAGE_ROWS:
                return
            after = page[-1][Diff.ID]

    def find_owned_rows(self, owner_id: str, where: str, ids: Sequence[str]) -> list[Row]:
        """Read those rows of :meth:`owned_rows` that have one of these ids."""
        model = self._model(where)
        with self._reading() as connection:
            owner = model.owner_value(owner_id, connection.dialect)
            return read_fields(connection, model, owner, ids, list(model.fields))

    def owned_models(self, owner_id: str) -> list[str]:
        """The models that are not shared; one comes after those that its rows refer to."""
        return owned_models(self._models)

    def _kept_models(self) -> Collection[Model]:
        """The models that may hold rows of owners."""
        return self._models.values()

    def edits_between(
        self, where: str, logged: str, row: Mapping[str, Any] | str
    ) -> list[tuple[str, Mapping[str, Any] | str]]:
        """The edits that change the log's state of an object into its row.

        A field of the log is equal to the row if writing the log's value and reading it again would
        give the row's value. A value that the database filled in is not in the log, so it is an
        edit.
        """
        assert isinstance(row, Mapping)
        model, dialect = self._model(where), self.connection.dialect
        changed = changed_fields(logged, row, lambda f, value: kept(model, f, value, dialect))
        return [("update", {Diff.ID: row[Diff.ID], **changed})] if changed else []

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        if self._open is not None:
            self._before_read(self._open)
            yield self._open.connection
            return
        connections: AbstractContextManager[Connection] = self._source.reading()
        with naming_missing(self._tables), _naming_outages(), connections as connection:
            yield connection

    def _before_read(self, opened: Transaction) -> None:
        """Let a read see what was written so far."""
        self._source.before_statement()
        if opened.direct is not None:
            opened.direct.flush()

    # ---- writing ---------------------------------------------------------------------------------

    def create(self, where: str, data_json: str) -> None:
        with self._savepoint(where):
            self.create_many(where, [data_json])

    def update(self, where: str, data_json: str) -> None:
        with self._savepoint(where):
            self.update_many(where, [data_json])

    def delete(self, where: str, data_json: str) -> None:
        with self._savepoint(where):
            self.delete_many(where, [data_json])

    @contextmanager
    def _savepoint(self, where: str) -> Iterator[None]:
        """Let the transaction continue after a refused row."""
        opened = self._transaction()
        self._before_write(opened, where)
        savepoint = opened.settle().begin_nested()
        before = None if opened.own is None else opened.own.writes.copy()
        try:
            yield
        except InvalidDiffError:
            savepoint.rollback()
            if opened.own is not None and before is not None:
                opened.own.writes = before
            raise
        savepoint.commit()

    def create_many(self, where: str, rows_json: Sequence[str]) -> None:
        opened, model, owner = self._writing(where, rows_json)
        model = self._with_field_times(model)
        if model.server_fields and not self._writes_as_server:
            refuse_fields(rows_json, model.server_fields, model.where)
        if rows_json:
            rows = model.new_rows(rows_json, owner, opened.connection.dialect)
            self._insert(opened, model, owner, rows)
            if model.table is self._log.table:
                key = model.fields[Diff.LOGICAL_CLOCK].key
                self._move_head(opened, max(row[key] for row in rows))
        self._source.after_write(model.table)

    def check_written(self, count: int) -> None:
        written = self._transaction().written
        if written is not None:
            self._source.before_statement()
            written.check(count)

    def append_log(self, where: str, rows: Sequence[LogRow]) -> None:
        opened, log, owner = self._writing(where, rows)
        connection = opened.connection
        if not rows or log is not self._log or not self._plain_log.takes(rows, connection.dialect):
            super().append_log(where, rows)
            return
        if not opened.note(rows, self._plain_log.insert_of):
            write_run(
                connection,
                len(rows),
                lambda i, j: self._plain_log.insert(connection, rows[i:j]),
                self._reason_of(log, "create"),
                lambda: ids_taken(connection, log, owner, ids(rows)),
            )
        self._move_head(opened, highest_clock(rows))
        self._source.after_write(log.table)

    def _move_head_to(self, clock: int) -> None:
        """Set the owner's clock, even if no diff of the log has it."""
        opened = self._transaction()
        if clock > opened.clock:
            self._move_head(opened, clock)

    def _move_head(self, opened: Transaction, clock: int) -> None:
        opened.clock = max(opened.clock, clock)
        heads = self._devices.heads
        if not opened.note([opened.clock], partial(head_update, heads, opened.owner_id)):
            statement, values = head_update(heads, opened.owner_id, opened.clock)
            statement.execute(opened.connection, values)

    def _insert(self, opened: Transaction, model: Model, owner: Any, rows: list[Row]) -> None:
        if opened.note(rows, lambda row: (insert_of(model, row), row)):
            return
        connection = opened.connection
        ids = [row[model.id.key] for row in rows]
        self._write_run(
            opened,
            model,
            "create",
            ids,
            lambda i, j: insert_rows(connection, model, rows[i:j]),
            lambda: ids_taken(connection, model, owner, ids),
        )

    def update_many(self, where: str, rows_json: Sequence[str]) -> None:
        opened, model, owner = self._writing(where, rows_json)
        model = self._with_field_times(model)
        connection = opened.connection
        dialect = connection.dialect
        if model.server_fields and not self._writes_as_server:
            refuse_fields(rows_json, model.server_fields, model.where)
        changes = model.changes(rows_json, owner, dialect)
        changed = [change for change in changes if change[1]]
        if not opened.note(changed, lambda change: update_of(model, owner, *change, dialect)):
            self._write_run(
                opened,
                model,
                "update",
                [id_ for id_, _ in changes],
                lambda i, j: update_rows(connection, model, owner, changes[i:j]),
            )
        self._source.after_write(model.table)

    def delete_many(self, where: str, rows_json: Sequence[str]) -> None:
        opened, model, owner = self._writing(where, rows_json)
        connection = opened.connection
        dialect = connection.dialect
        ids = model.row_ids(rows_json, dialect)
        if not opened.note(ids, lambda id_: delete_of(model, owner, id_, dialect)):
            self._write_run(
                opened,
                model,
                "delete",
                ids,
                lambda i, j: delete_rows(connection, model, owner, ids[i:j]),
            )
        self._source.after_write(model.table)

    def _write_run(
        self,
        opened: Transaction,
        model: Model,
        kind: str,
        ids: Sequence[Any],
        write: Write,
        known: Callable[[], list[InvalidDiffError]] = list,
    ) -> None:
        """Write a run of rows, and note it if the database checks some only at the commit."""
        reason_of = self._reason_of(model, kind)
        counting = write if opened.own is None else opened.own.counting(model.name, ids, write)
        write_run(opened.connection, len(ids), counting, reason_of, known)
        if opened.written is not None and model.table is not self._log.table:
            opened.written.add(model, kind, ids, write, reason_of)

    def _before_write(self, opened: Transaction, where: str) -> None:
        self._source.before_statement()
        if not opened.is_watched and where != self._log.name:
            opened.written = self._deferred.watch(opened.connection)
            opened.is_watched = True
            if opened.written is not None:
                opened.settle()

    def _reason_of(self, model: Model, kind: str) -> Reason:
        if model.table is self._log.table:
            return partial(reason_in_log, log=model)
        return partial(reason_of, model=model, kind=kind)

    def _writing(self, where: str, rows: Sequence[object]) -> tuple[Transaction, Model, Any]:
        opened = self._open or self._transaction()
        try:
            model = self._models.get(where) or self._model(where)
        except InvalidDiffError as unknown:  # so no row fits
            misfits = [InvalidDiffError(unknown.reason, place) for place in range(len(rows))]
            raise first_of(misfits or [unknown]) from None
        self._before_write(opened, where)
        return opened, model, opened.owner_in(model)

    def _with_field_times(self, model: Model) -> Model:
        """The log with its column ``field_times``, if it has one; another model as it is."""
        return self._full_log if model is self._log and self.keeps_field_times() else model

    def _model(self, where: str) -> Model:
        if where == self._log.name:
            return self._log
        model = self._models.get(where)
        if model is None:
            raise InvalidDiffError(f"model {where!r:.100} is unknown")
        return model


def _outage(error: DBAPIError | NoConnectionError) -> UnavailableError | None:
    if kind_of(error) not in OUTAGES:
        return None
    if isinstance(error, NoConnectionError):
        return UnavailableError("all connections to the database are in use")
    return UnavailableError("the database cannot do it now")


@contextmanager
def _naming_outages() -> Iterator[None]:
    try:
        yield
    except (DBAPIError, NoConnectionError) as error:
        outage = _outage(error)
        if outage is None:
            raise
        raise outage from error


def _on_owner(model: Model, f: ReadFilter) -> bool:
    """Whether a filter says whose rows to read."""
    return (
        model.owner is not None
        and f.field_name == model.owner_field
        and f.filter_by is FilterType.equal
        and f.data is not None
    )


def _first_clock(filters: Sequence[ReadFilter]) -> int:
    """The clock from which filters ask for diffs."""
    firsts = [
        f.data
        for f in filters
        if f.field_name == Diff.LOGICAL_CLOCK and f.filter_by is FilterType.majorOrEqual
    ]
    return max(firsts, default=0)


def _is_ours(cls: type, name: str) -> bool:
    """Whether a class has a method from a class of this package.

    What the method says of itself does not tell: a decorator may have copied it from another one.
    """
    owner = next(each for each in cls.__mro__ if name in vars(each))
    return owner.__module__.startswith(__package__)


def _find_log(models: Mapping[str, Table | type[Any]]) -> Table:
    if not models:
        raise ValueError("without models, pass the log: diffs=diffs_table(metadata)")
    table, _ = table_and_fields(*next(iter(models.items())))
    metadata = table.metadata
    key = "diffs" if metadata.schema is None else f"{metadata.schema}.diffs"
    declared = metadata.tables.get(key)
    return diffs_table(metadata) if declared is None else declared
