"""The Synchronizer: models, log and owner's lock in one database."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Table, func, select
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session, scoped_session

from ..errors import BusyError, InvalidDiffError
from ..synchronizer import Synchronizer
from ..types import Diff, FilterType, ReadFilter
from ._connections import source_of
from ._locking import (
    does_not_fit,
    is_duplicate_key,
    is_lock_timeout,
    is_sqlite_busy,
    is_transient,
    lock_owner,
    read_head,
    set_head,
    waiting,
)
from ._model import Model, Row, describe, describe_log, first_of, table_and_fields
from ._printed_log import LogValues, PrintedLog, highest_clock
from ._statements import (
    delete_rows,
    existing_ids,
    insert_rows,
    read_owners,
    read_page,
    read_rows,
    update_rows,
)
from ._tables import diffs_table, heads_of
from ._values import is_mysql
from ._write_order import write_order

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_LOCK_TIMEOUT_S = 86_400
PAGE_ROWS = 1000  # of owned_rows, in memory at once


@dataclass
class _Transaction:
    """What is known while an owner's transaction is open."""

    connection: Connection
    owner_id: str
    clock: int  # the highest of the owner's log
    refused: _RefusedInsert | None = None


@dataclass
class _RefusedInsert:
    error: IntegrityError
    engine: Engine
    model: Model
    owner: Any
    ids: list[Any]


class SQLAlchemySynchronizer(Synchronizer):
    """Keeps models and log in a database of SQLAlchemy 2.  Complete: nothing must be overridden.

    The three rules say yes, because every statement is confined to the owner's rows; override
    ``validate_*`` to say more.  Inside them ``self`` is in the owner's transaction: ``self.read``
    and ``self.connection`` see what the sync sees.

    What devices send is decoded to the columns' types, and what does not fit is refused, by name
    (docs/databases.md has the table).  Rows are written by statements on tables, so a mapped
    class's validators, events and version counter do not run; column defaults and ``onupdate`` do.

    One object serves any number of threads; each transaction works on a copy of it.

    Args:
        engine: an Engine, for transactions of mobync's own; or a Session, a scoped_session or
            Flask-SQLAlchemy's ``db``, whose transaction is then shared: what the app has pending
            is flushed first and committed or rolled back with the sync, and objects of rows that
            the sync changes are read anew.
        models: by the name that devices use, a Table or a mapped class.  Its key is ``id``, a
            String or Uuid, alone or together with the owner column.
        diffs: the log, as :func:`diffs_table` declares it; None finds ``diffs`` in the metadata of
            the models, or declares it there.
        owner_column: the field of every model that says whose a row is: a String, Integer or Uuid
            that holds the ``owner_id`` of ``Mobync.apply``.
        lock_timeout_s: seconds to wait for another sync of the same owner, and for any row that
            is locked.  MySQL and MariaDB count whole seconds, at least one.
        shared: names of models that have no owner column, on purpose: any device may write any
            row of them, unless a rule says no.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a table cannot be synced, and why; or the database is of another kind than
            SQLite, PostgreSQL, MySQL and MariaDB.
    """

    def __init__(
        self,
        engine: Engine | Session | scoped_session[Any] | Any,
        models: Mapping[str, Table | type[Any]],
        *,
        diffs: Table | type[Any] | None = None,
        owner_column: str = "owner",
        lock_timeout_s: float = 10.0,
        shared: Collection[str] = (),
    ) -> None:
        if not isinstance(lock_timeout_s, int | float) or isinstance(lock_timeout_s, bool):
            raise TypeError("lock_timeout_s must be a number (seconds)")
        if not (math.isfinite(lock_timeout_s) and 0 <= lock_timeout_s <= MAX_LOCK_TIMEOUT_S):
            raise ValueError(f"lock_timeout_s must be of 0 to {MAX_LOCK_TIMEOUT_S}")
        if isinstance(shared, str):
            raise TypeError("shared must be several names, not a str")
        strangers = set(shared) - set(models)
        if strangers:
            raise ValueError(f"shared names no model: {', '.join(map(repr, sorted(strangers)))}")

        self._log = describe_log(_find_log(models) if diffs is None else diffs)
        self._printed_log = PrintedLog(self._log)
        self._heads = heads_of(self._log.table)
        self._source = source_of(engine, self._log.table)
        dialect = self._source.dialect()
        self._models = {
            name: describe(name, model, owner_column, name in shared, dialect)
            for name, model in models.items()
        }
        self._check_apart()
        self._lock_timeout_s = float(lock_timeout_s)
        self._open: _Transaction | None = None

    def _check_apart(self) -> None:
        own = {self._log.table, self._heads}
        for name, model in self._models.items():
            if name == self._log.name or model.table in own:
                raise ValueError(f"model {name!r}: devices must not write {self._log.name!r}")

    # ---- rules -----------------------------------------------------------------------------------

    def validate_create(self, owner_id: str, **kwargs: Any) -> bool:
        return True

    def validate_update(self, owner_id: str, **kwargs: Any) -> bool:
        return True

    def validate_delete(self, owner_id: str, **kwargs: Any) -> bool:
        return True

    # ---- transactions ----------------------------------------------------------------------------

    @property
    def connection(self) -> Connection:
        """The connection of the open transaction, for statements of the app's own.

        Raises:
            RuntimeError: no transaction is open.
        """
        return self._transaction().connection

    @contextmanager
    def transaction(self, owner_id: str) -> Iterator[Self]:
        """Hold one sync of this owner together; nobody else can sync this owner meanwhile.

        Yields:
            A copy of this synchronizer that works in the transaction.

        Raises:
            BusyError: another sync of this owner, or whoever has locked a row that the sync
                writes, took longer than ``lock_timeout_s``; on SQLite, any other writer.
            InvalidDiffError: an ``id`` of a create is taken, by a row of whatever owner.
            RuntimeError: a transaction is open already.
            ValueError: the database cannot keep ``owner_id`` apart from others.
        """
        if self._open is not None:
            raise RuntimeError("a transaction is open already")
        inside = copy.copy(self)
        opened: _Transaction | None = None
        try:
            with (
                self._source.transaction() as connection,
                waiting(connection, self._lock_timeout_s),
            ):
                opened = inside._open = self._lock(connection, owner_id)
                yield inside
        except DBAPIError as error:
            if opened is None and (is_lock_timeout(error) or is_sqlite_busy(error)):
                raise BusyError(
                    f"another sync of this owner took longer than {self._lock_timeout_s:g} s"
                ) from error
            if is_lock_timeout(error):
                raise BusyError(
                    f"a row was locked by somebody else for longer than {self._lock_timeout_s:g} s"
                ) from error
            refused = opened.refused if opened is not None else None
            if refused is not None and refused.error is error:
                taken = _ids_taken(refused)
                if taken is not None:
                    raise taken from error
            raise
        finally:
            inside._open = None

    def _lock(self, connection: Connection, owner_id: str) -> _Transaction:
        if is_mysql(connection.dialect) and owner_id.endswith(" "):
            raise ValueError("owner_id ends in a space, which MySQL and MariaDB do not compare")
        self._log.owner_value(owner_id, connection.dialect)
        clock = lock_owner(connection, self._heads, self._log.table, owner_id)
        self._source.after_lock(connection, self._heads, owner_id, clock)
        return _Transaction(connection, owner_id, clock)

    def _transaction(self) -> _Transaction:
        if self._open is None:
            raise RuntimeError("only inside of transaction(owner_id), which says whose rows")
        return self._open

    def is_transient(self, error: Exception) -> bool:
        return is_transient(error) and self.may_begin_again()

    def may_begin_again(self) -> bool:
        return self._source.may_begin_again()

    def write_order(self, operations: Sequence[tuple[str, str, str]]) -> Sequence[int]:
        return write_order(operations, self._models)

    def highest_logical_clock(self, owner_id: str) -> int:
        if self._open is not None and self._open.owner_id == owner_id:
            return self._open.clock
        with self._reading() as connection:
            clock = read_head(connection, self._heads, owner_id)
            if clock is None:
                log = self._log.table
                highest = select(func.max(log.c.logical_clock)).where(log.c.owner == owner_id)
                clock = connection.scalar(highest)
        return -1 if clock is None else clock

    def owners(self) -> Iterator[str]:
        """List everyone who has a log or has ever synced, each once.

        A page is a statement of its own: who begins to sync meanwhile may or may not be listed.
        """
        yield from read_owners(self._reading, self._heads, self._log.table, PAGE_ROWS)

    # ---- reading ---------------------------------------------------------------------------------

    def read(self, where: str, filters: Sequence[ReadFilter] = ()) -> list[Row]:
        """Read rows as dicts of JSON values.

        Inside a transaction these are rows of its owner.  Outside, the filters must say whose, by
        ``equal`` on the owner column, unless the model is shared.  A model's owner column is in no
        row, just as devices know none; the log has it.

        Raises:
            InvalidDiffError: there is no such model.
            ValueError: a filter names an unknown field, or compares with what does not fit it, or
                there is none on the owner.
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
            return read_rows(connection, model, owner, filters)

    def owned_rows(self, owner_id: str, where: str, after: str | None = None) -> Iterator[Row]:
        """Read the rows of a model that are an owner's, a page at a time, in the order of ids.

        Each page is a statement of its own: outside of a transaction, what is written meanwhile
        may or may not be among the rows.

        Args:
            owner_id: whose rows.
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

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        if self._open is not None:
            self._source.before_statement()
            yield self._open.connection
            return
        connections: AbstractContextManager[Connection] = self._source.reading()
        with connections as connection:
            yield connection

    # ---- writing ---------------------------------------------------------------------------------

    def create(self, where: str, data_json: str) -> None:
        self.create_many(where, [data_json])

    def update(self, where: str, data_json: str) -> None:
        self.update_many(where, [data_json])

    def delete(self, where: str, data_json: str) -> None:
        self.delete_many(where, [data_json])

    def create_many(self, where: str, rows_json: Sequence[str]) -> None:
        opened, model, owner = self._writing(where, rows_json)
        if not rows_json:
            return
        connection = opened.connection
        printed: list[LogValues] | None = None
        if model is self._log:
            printed = self._printed_log.values(rows_json, owner, connection.dialect)
        rows: list[Row] = []
        try:
            if printed is not None:
                self._printed_log.insert(connection, rows_json, printed)
            else:
                rows = model.new_rows(rows_json, owner, connection.dialect)
                with _refusing_misfits(model):
                    insert_rows(connection, model, rows)
        except IntegrityError as error:
            rows = rows or model.new_rows(rows_json, owner, connection.dialect)
            ids = [row[model.id.key] for row in rows]
            opened.refused = _RefusedInsert(error, connection.engine, model, owner, ids)
            raise
        if model is self._log:
            if printed is not None:
                clock = highest_clock(printed)
            else:
                key = self._log.fields[Diff.LOGICAL_CLOCK].key
                clock = max(row[key] for row in rows)
            opened.clock = max(opened.clock, clock)
            set_head(connection, self._heads, opened.owner_id, opened.clock)
        self._source.after_write(model.table)

    def update_many(self, where: str, rows_json: Sequence[str]) -> None:
        opened, model, owner = self._writing(where, rows_json)
        dialect = opened.connection.dialect
        changes = model.changes(rows_json, owner, dialect)
        if not changes:
            return
        with _refusing_misfits(model):
            update_rows(opened.connection, model, owner, changes)
        self._source.after_write(model.table)

    def delete_many(self, where: str, rows_json: Sequence[str]) -> None:
        opened, model, owner = self._writing(where, rows_json)
        ids = model.row_ids(rows_json, opened.connection.dialect)
        if not ids:
            return
        delete_rows(opened.connection, model, owner, ids)
        self._source.after_write(model.table)

    def _writing(self, where: str, rows_json: Sequence[str]) -> tuple[_Transaction, Model, Any]:
        opened = self._transaction()
        try:
            model = self._model(where)
        except InvalidDiffError as unknown:  # so no row fits
            misfits = [InvalidDiffError(unknown.reason, place) for place in range(len(rows_json))]
            raise first_of(misfits or [unknown]) from None
        self._source.before_statement()
        return opened, model, model.owner_value(opened.owner_id, opened.connection.dialect)

    def _model(self, where: str) -> Model:
        if where == self._log.name:
            return self._log
        model = self._models.get(where)
        if model is None:
            raise InvalidDiffError(f"model {where!r:.100} is unknown")
        return model


@contextmanager
def _refusing_misfits(model: Model) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if does_not_fit(error):
            raise InvalidDiffError(f"{model.where}a value does not fit its column") from error
        raise


def _ids_taken(refused: _RefusedInsert) -> InvalidDiffError | None:
    """Which of an insert's rows have the key of a row that exists, whoever's it is.

    Without an index where the database takes different ids for the same; None if that is not why
    the insert failed.
    """
    with refused.engine.connect() as connection:
        taken = set(existing_ids(connection, refused.model, refused.owner, refused.ids))
    reason = f"{refused.model.where}id cannot be used"
    misfits = [
        InvalidDiffError(reason, place) for place, id_ in enumerate(refused.ids) if id_ in taken
    ]
    if misfits:
        return first_of(misfits)
    duplicate = is_duplicate_key(refused.error, refused.model.table)
    return InvalidDiffError(reason) if taken or duplicate else None


def _on_owner(model: Model, f: ReadFilter) -> bool:
    """Whether a filter says whose rows to read."""
    return (
        model.owner is not None
        and f.field_name == model.owner_field
        and f.filter_by is FilterType.equal
        and f.data is not None
    )


def _find_log(models: Mapping[str, Table | type[Any]]) -> Table:
    if not models:
        raise ValueError("without models, say where the log is: diffs=diffs_table(metadata)")
    table, _ = table_and_fields(*next(iter(models.items())))
    metadata = table.metadata
    key = "diffs" if metadata.schema is None else f"{metadata.schema}.diffs"
    declared = metadata.tables.get(key)
    return diffs_table(metadata) if declared is None else declared
