"""Statements that are built and compiled once, and then executed as text.

SQLAlchemy builds a statement, looks for its compiled form by its parts, and sorts its values. This
takes several times as long as the database needs for one row. The statements of a small sync are
always the same, so their text is cached. If this would leave something out (an event of the app on
statements, a translated schema, a default that Python makes), SQLAlchemy gets the statement itself.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import BigInteger, CompoundSelect, Integer, Select, String, Text
from sqlalchemy.dialects.mysql import LONGTEXT
from sqlalchemy.engine import Connection, CursorResult, Dialect
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import NullType

from ._values import variant_of

_AS_READ = (String, Text, LONGTEXT, Integer, BigInteger, NullType)

_MOST_KEPT = 200  # statements of one kind: which fields a row carries is the device's choice


class Prepared:
    """One statement, which is executed with other values each time.

    Args:
        statement: what to execute; all of its values are named bind parameters.
        keys: for an insert, the columns that a row has.
    """

    __slots__ = ("_keys", "_statement", "_text")

    def __init__(self, statement: Any, keys: Sequence[str] | None = None) -> None:
        self._statement = statement
        self._keys = keys
        self._text: _Text | None = None

    def execute(self, connection: Connection, values: Mapping[str, Any]) -> CursorResult[Any]:
        """Execute it once. Rows are as the driver gives them, if the types need no conversion."""
        text = self._text_for(connection.dialect)
        if text.sql is None or not takes_text(connection):
            return connection.execute(self._statement, dict(values))
        return connection.exec_driver_sql(text.sql, text.parameters(values))

    def text(self, dialect: Dialect, values: Mapping[str, Any]) -> tuple[str, Sequence[Any]] | None:
        """Its text with a mark for each value, and the values; None if SQLAlchemy must execute
        it."""
        text = self._text
        if text is None or text.dialect is not dialect:
            text = self._text_for(dialect)
        return None if text.marked is None else (text.marked, text.in_order(values))

    def _text_for(self, dialect: Dialect) -> _Text:
        text = self._text
        if text is None or text.dialect is not dialect:
            text = self._text = _Text(self._statement, self._keys, dialect)
        return text


class _Text:
    """A statement as text of a dialect; ``sql`` is None if SQLAlchemy must execute it.

    ``marked`` is the text with a mark in the place of each value, if the driver takes such texts.
    """

    __slots__ = (
        *("_fixed", "_in_order", "_is_as_given", "_is_positional", "_names", "_to_driver"),
        *("dialect", "marked", "sql"),
    )

    def __init__(
        self, statement: ClauseElement, keys: Sequence[str] | None, dialect: Dialect
    ) -> None:
        columns = None if keys is None else [*keys]
        compiled = statement.compile(dialect=dialect, column_keys=columns)
        assert isinstance(compiled, SQLCompiler)
        self.dialect = dialect
        as_read = _gives_rows_as_read(statement, dialect)
        self.sql = str(compiled) if as_read and not _needs_sqlalchemy(compiled) else None
        self._is_positional = compiled.positional
        marks = _Marks()
        self.marked = self.sql if compiled.positional else None
        if self.sql is not None and dialect.paramstyle == "pyformat":
            self.marked = self.sql.replace("%%", "%%%%") % marks
        elif self.sql is not None and dialect.paramstyle == "numeric_dollar":
            by_name = statement.compile(dialect=_with_names(dialect), column_keys=columns)
            self.marked = str(by_name).replace("%%", "%%%%") % marks
        self._names = compiled.positiontup or marks.names
        self._in_order = _picker(marks.names or self._names)
        self._fixed = {n: b.effective_value for n, b in compiled.binds.items() if not b.required}
        self._to_driver: dict[str, Callable[[Any], Any]] = {}
        for name, bind in compiled.binds.items():
            process = bind.type.dialect_impl(dialect).bind_processor(dialect)
            if process is not None:
                self._to_driver[name] = process
        self._is_as_given = not self._fixed and not self._to_driver

    def parameters(self, values: Mapping[str, Any]) -> Any:
        """The values as the driver takes them with the text."""
        given = self._given(values)
        return tuple([given[name] for name in self._names]) if self._is_positional else given

    def in_order(self, values: Mapping[str, Any]) -> Sequence[Any]:
        """The values in the order of the marks."""
        return self._in_order(values if self._is_as_given else self._given(values))

    def _given(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        given = {**self._fixed, **values} if self._fixed else values
        if self._to_driver:
            given = dict(given)
            for name, process in self._to_driver.items():
                given[name] = process(given[name])
        return given


def _picker(names: Sequence[str]) -> Callable[[Mapping[str, Any]], Sequence[Any]]:
    """A function that gives the values of some names in their order."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda values: [values[name] for name in names]


def _with_names(dialect: Dialect) -> Dialect:
    """A dialect that writes the name of a value in its place, whatever the driver wants there."""
    named = copy.copy(dialect)
    named.paramstyle, named.positional = "pyformat", False
    named.identifier_preparer = named.preparer(named)
    return named


class _Marks(dict[str, str]):
    """Puts a mark in the place of each name, and keeps their order."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __missing__(self, name: str) -> str:
        self.names.append(name)
        return "%s"


class Kept:
    """Prepared statements of one kind by their shape."""

    def __init__(self) -> None:
        self._statements: dict[Hashable, Prepared] = {}

    def get(self, shape: Hashable, make: Callable[[], Prepared]) -> Prepared:
        """The statement of a shape, made if it is not there."""
        kept = self._statements.get(shape)
        if kept is None:
            if len(self._statements) >= _MOST_KEPT:
                self._statements.clear()
            kept = self._statements[shape] = make()
        return kept


def takes_text(connection: Connection) -> bool:
    """Whether nothing on the way to the driver would be left out."""
    events = connection.dispatch
    return not (
        events.before_execute
        or events.after_execute
        or connection.get_execution_options().get("schema_translate_map")
    )


def _gives_rows_as_read(statement: ClauseElement, dialect: Dialect) -> bool:
    """Whether the values of the driver, if any, are already those of the columns' types."""
    selects = statement.selects if isinstance(statement, CompoundSelect) else [statement]
    columns = (c for each in selects if isinstance(each, Select) for c in each.selected_columns)
    return all(type(variant_of(column.type, dialect)) in _AS_READ for column in columns)


def _needs_sqlalchemy(compiled: SQLCompiler) -> bool:
    """Whether a statement is more than its text: some values become part of the text, are made by
    Python, or are returned.
    """
    return bool(
        compiled.literal_execute_params
        or compiled.post_compile_params
        or compiled.escaped_bind_names
        or compiled.insert_prefetch
        or compiled.update_prefetch
        or compiled.effective_returning
    )
