"""Checks the constraints that a database checks only at the commit, where it does not name a row.

On PostgreSQL these can be all constraints and constraint triggers, on SQLite foreign keys. MariaDB
and MySQL defer nothing. So mobync notes the rows of a sync while it writes them, and checks the
constraints after the last one. On PostgreSQL it uses a statement, inside a savepoint from before
the first row. SQLite has no such statement, so it uses selects.

On PostgreSQL, the bad rows are found by halving, as for rows that are refused at once. Two rows
that swap a value cannot be written one without the other. So rows that cannot be written alone are
finally tried together.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from sqlalchemy import ColumnElement, and_, exists, select, text
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.exc import DBAPIError

from .._relational.refused import Refusal, in_words
from .._relational.rows import first_of
from ..errors import InvalidDiffError
from ._model import Model
from ._refusals import Reason, find_refused, in_savepoint, refusal_of
from ._settings import named, schema_of
from ._sqlite_keys import Key, SQLiteKeys

_IDS_A_STATEMENT = 500
_MOST_TOGETHER = 20  # rows that are tried together, so at most some 200 tries

# Foreign keys, unique keys and exclusions are kept by triggers too.
_HAS_DEFERRABLE = text(
    "SELECT EXISTS (SELECT FROM pg_trigger"
    " WHERE tgdeferrable AND tgrelid = to_regclass(CAST(:name AS text)))"
)

Write = Callable[[int, int], "int | None"]
"""Writes the rows of a run from one place to before another; says how many, if it may be fewer."""


class _Run(NamedTuple):
    """Rows of one kind and model that were written at once.

    Attributes:
        begin: the place of its first row among all that were written.
        model: whose rows.
        kind: 'create', 'update' or 'delete'.
        ids: the ids of its rows, as their column stores them.
        write: writes them again.
        reason_of: why the database refused one.
    """

    begin: int
    model: Model
    kind: str
    ids: Sequence[Any]
    write: Write
    reason_of: Reason

    @property
    def end(self) -> int:
        return self.begin + len(self.ids)


class Deferred:
    """Whether a database checks rows of some tables only at the commit.

    Args:
        models: the models, by name.
    """

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models = models
        self._sqlite_keys = SQLiteKeys(models)
        self._found: WeakKeyDictionary[Dialect, dict[tuple[str | None, ...], bool]] = (
            WeakKeyDictionary()
        )
        self._always: set[str] = set()

    def watch(self, connection: Connection) -> Written | None:
        """What notes the rows that the transaction writes; None if no row must be noted."""
        name = connection.dialect.name
        if name == "sqlite" and (keys := self._sqlite_keys.late(connection)):
            return _WrittenToSQLite(connection, keys)
        if name == "postgresql" and self._models and self._has_deferrable(connection):
            return _WrittenToPostgreSQL(connection)
        return None

    def expect(self, dialect: Dialect) -> bool:
        """After a refused commit: watch from now on, because the tables do not show the reason.

        A trigger may write to other tables, and a table may be altered.

        Returns:
            Whether the same transaction could end in another way now.
        """
        if dialect.name == "sqlite":
            return self._sqlite_keys.doubt(dialect)
        is_new = dialect.name == "postgresql" and dialect.name not in self._always
        if is_new:
            self._always.add(dialect.name)
        return is_new

    def _has_deferrable(self, connection: Connection) -> bool:
        dialect = connection.dialect
        if dialect.name in self._always:
            return True
        found = self._found.setdefault(dialect, {})
        schemas = tuple(schema_of(model.table, connection) for model in self._models.values())
        if schemas not in found:
            names = dict.fromkeys(named(model.table, connection) for model in self._models.values())
            found[schemas] = any(
                connection.scalar(_HAS_DEFERRABLE, {"name": name}) for name in names
            )
        return found[schemas]


class Written:
    """The rows that a transaction has written, and how to write them again."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._runs: list[_Run] = []
        self._count = 0

    def add(
        self, model: Model, kind: str, ids: Sequence[Any], write: Write, reason_of: Reason
    ) -> None:
        """Note a run that was written; ``ids`` are those of its rows."""
        self._runs.append(_Run(self._count, model, kind, ids, write, reason_of))
        self._count += len(ids)

    def check(self, count: int) -> None:
        """Check all rows.

        Args:
            count: how many rows the sync has. If other rows were written too, mobync cannot know
                which is which, and leaves the check to the commit.

        Raises:
            InvalidDiffError: some cannot stay; ``index`` is the place of the first among those
                that were written, ``others`` has the rest.
            sqlalchemy.exc.DBAPIError: rows that the transaction wrote before these cannot stay.
        """
        misfits = self._misfits() if count == self._count else []
        if misfits:
            raise first_of(misfits)

    def _misfits(self) -> list[InvalidDiffError]:
        raise NotImplementedError


# ---- PostgreSQL ---------------------------------------------------------------------------------


class _WrittenToPostgreSQL(Written):
    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._before = connection.begin_nested()

    def _misfits(self) -> list[InvalidDiffError]:
        refused = self._look()
        if refused is None:
            self._before.commit()
            return []
        self._before.rollback()
        if self._look() is not None:
            raise refused
        misfits = find_refused(self._count, self._try_run)
        return self._without_those_that_fit_together(misfits)

    def _look(self) -> DBAPIError | None:
        """Find what the database refuses. It checks again at the commit, so all is left as it
        was."""
        savepoint = self._connection.begin_nested()
        try:
            self._connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")
        except DBAPIError as error:
            if refusal_of(error) is None:
                raise
            return error
        finally:
            savepoint.rollback()
        return None

    def _try_run(self, begin: int, end: int) -> InvalidDiffError | None:
        return self._try([(begin, end)])

    def _try(self, pieces: Sequence[tuple[int, int]]) -> InvalidDiffError | None:
        """Write some rows again, and let the database check them; or write none and say why.

        The rows are given as pieces, each from one place to before another.
        """

        def write_and_look() -> None:
            for begin, end in pieces:
                self._write(begin, end)
            self._connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")
            self._connection.exec_driver_sql("SET CONSTRAINTS ALL DEFERRED")

        place = pieces[0][0]
        reason_of = self._run_of(place).reason_of
        return in_savepoint(self._connection, write_and_look, reason_of, place)

    def _write(self, begin: int, end: int) -> None:
        while begin < end:
            run = self._run_of(begin)
            run.write(begin - run.begin, min(end, run.end) - run.begin)
            begin = run.end

    def _run_of(self, place: int) -> _Run:
        return self._runs[bisect_right(self._runs, place, key=lambda run: run.begin) - 1]

    def _without_those_that_fit_together(
        self, misfits: list[InvalidDiffError]
    ) -> list[InvalidDiffError]:
        by_place = {misfit.index or 0: misfit for misfit in misfits}
        while 1 < len(by_place) <= _MOST_TOGETHER:
            for group in _groups(list(by_place)):
                if self._try([(place, place + 1) for place in group]) is None:
                    for place in group:
                        del by_place[place]
                    break
            else:
                break
        return list(by_place.values())


def _groups(places: list[int]) -> Iterator[tuple[int, ...]]:
    """Groups of places: for each place, all others; then all pairs, with neighbours first."""
    but_one = (tuple(p for p in places if p != left) for left in places)
    pairs = (
        (places[i], places[i + apart])
        for apart in range(1, len(places))
        for i in range(len(places) - apart)
    )
    return chain(but_one if len(places) > 2 else (), pairs)


# ---- SQLite -------------------------------------------------------------------------------------


class _WrittenToSQLite(Written):
    def __init__(self, connection: Connection, keys: Sequence[Key]) -> None:
        super().__init__(connection)
        self._keys = keys

    def _misfits(self) -> list[InvalidDiffError]:
        """Rows that refer to one that is not there; if there are none, the deletes of rows to which
        others still refer.
        """
        written: list[InvalidDiffError] = []
        deleted: list[InvalidDiffError] = []
        for key in self._keys:
            written += self._dangling(key)
            deleted += self._bereft(key)
        return sorted(written or deleted, key=lambda misfit: misfit.index or 0)

    def _dangling(self, key: Key) -> Iterator[InvalidDiffError]:
        """Rows of a model that refer to rows that do not exist."""
        if key.model is not None and key.id is not None:
            reason = f"{key.model.where}{in_words(Refusal.REFERENCE, key.fields, None)}"
            yield from self._refused(key, key.id, self._places(key.model, False), reason)

    def _bereft(self, key: Key) -> Iterator[InvalidDiffError]:
        """Deleted rows to which others still refer."""
        if key.target is not None and key.by_id is not None:
            reason = f"{key.target.where}{in_words(Refusal.REFERRED, [], None)}"
            yield from self._refused(key, key.by_id, self._places(key.target, True), reason)

    def _places(self, model: Model, deletes: bool) -> dict[Any, int]:
        return {
            id_: place
            for run in self._runs
            if run.model is model and (run.kind == "delete") is deletes
            for place, id_ in enumerate(run.ids, run.begin)
        }

    def _refused(
        self, key: Key, column: ColumnElement[Any], places: Mapping[Any, int], reason: str
    ) -> Iterator[InvalidDiffError]:
        """An error for each of these rows whose reference leads nowhere, found by a column with
        ids."""
        for id_ in dict.fromkeys(_selected(self._connection, key, column, list(places))):
            yield InvalidDiffError(reason, places[id_])


def _selected(
    connection: Connection, key: Key, column: ColumnElement[Any], ids: list[Any]
) -> Iterator[Any]:
    """Which of these values a column has in rows whose reference leads nowhere."""
    is_there = and_(*(mine == other for mine, other in key.pairs))
    leads_nowhere = ~exists(
        select(1).select_from(key.referred).where(is_there).correlate(key.table)
    )
    refers = [mine.is_not(None) for mine, _ in key.pairs]
    for begin in range(0, len(ids), _IDS_A_STATEMENT):
        piece = ids[begin : begin + _IDS_A_STATEMENT]
        statement = select(column).where(column.in_(piece), *refers, leads_nowhere)
        yield from connection.scalars(statement)
