"""Rows that foreign keys change: by ON DELETE CASCADE, SET NULL and SET DEFAULT.

On SQLite and PostgreSQL, a row that a foreign key deletes or changes fires its triggers. But if
mobync has deleted the referenced row, these triggers take the change as mobync's own, and no diff
contains it. So a trigger on the referenced table notes the rows that refer to a row, before that
row is deleted.

On MariaDB and MySQL, such a row fires no triggers. There the trigger of the first deleted row
follows the foreign keys to all other rows.

The foreign keys are those of the declared tables, which need not be models.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import Column, ForeignKeyConstraint, Table
from sqlalchemy.exc import NoReferenceError
from sqlalchemy.sql.compiler import IdentifierPreparer

from ._model import Model

Key = ForeignKeyConstraint

_CHANGING = ("SET NULL", "SET DEFAULT")


@dataclass
class Cascade:
    """The rows that are deleted or changed together with a row of a table.

    Attributes:
        table: of the row.
        gone: by table, the foreign keys because of which its rows are deleted too. The table of the
            row comes first; each other table comes after those that it depends on.
        changed: models whose rows change but stay, with the foreign keys that change them.
        models: all models, by table.
    """

    table: Table
    gone: dict[Table, list[Key]]
    changed: list[tuple[Model, Key]]
    models: dict[Table, Model]

    def direct(self) -> list[tuple[Model, Key]]:
        """Models with the foreign keys by which their rows refer to the row itself."""
        own = [(self.models[t], key) for t, keys in self.gone.items() for key in keys
               if t in self.models]  # fmt: skip
        return [each for each in (*own, *self.changed) if each[1].referred_table is self.table]


def cascades(models: Iterable[Model]) -> list[Cascade]:
    """What is deleted or changed together with rows of each table that rows of models depend on."""
    by_table = {model.table: model for model in models}
    parents: dict[Table, None] = {}
    waiting = [key.referred_table for t in by_table for key in _keys(t, ("CASCADE", *_CHANGING))]
    while waiting:
        table = waiting.pop()
        if table not in parents:
            parents[table] = None
            waiting += [key.referred_table for key in _keys(table, ("CASCADE",))]
    tables = {**by_table, **parents}
    return [_cascade_of(table, list(tables), by_table) for table in parents]


def _cascade_of(table: Table, tables: Sequence[Table], models: dict[Table, Model]) -> Cascade:
    gone = {table}
    before = 0
    while len(gone) > before:
        before = len(gone)
        gone |= {t for t in tables if any(k.referred_table in gone for k in _keys(t, ("CASCADE",)))}
    keys = {
        t: [key for key in _keys(t, ("CASCADE",)) if key.referred_table in gone]
        for t in tables
        if t in gone
    }
    changed = [
        (model, key)
        for t, model in models.items()
        for key in _keys(t, _CHANGING)
        if key.referred_table in gone
    ]
    return Cascade(table, {t: keys[t] for t in _in_order(table, keys)}, changed, models)


def _in_order(first: Table, keys: dict[Table, list[Key]]) -> list[Table]:
    """The tables, each after those on whose rows its own rows depend, as far as possible."""
    ordered = [first]
    left = [table for table in keys if table is not first]
    while left:
        ready = [
            table
            for table in left
            if all(key.referred_table in (*ordered, table) for key in keys[table])
        ]
        ordered += ready or left
        left = [table for table in left if table not in ordered]
    return ordered


def _keys(table: Table, acts: Sequence[str]) -> Iterator[Key]:
    """The foreign keys of a table with such an action, to known tables."""
    for key in sorted(table.foreign_key_constraints, key=lambda each: tuple(each.column_keys)):
        if (key.ondelete or "").upper() in acts:
            with suppress(NoReferenceError):
                _ = [element.column for element in key.elements]
                yield key


# ---- as SQL --------------------------------------------------------------------------------------


class Gone:
    """The rows that are deleted together with a row, as parts of a statement with WITH RECURSIVE.

    MariaDB does not find OLD in such a part if the part is used twice, so variables hold its key.

    Args:
        cascade: the cascade of the row's table.
        preparer: what quotes names for the database.

    Attributes:
        variables: what SET sets before the statement.
        parts: the parts of the statement.
        is_the_row: the condition that a row of the table is the deleted row itself.

    Raises:
        ValueError: foreign keys of several tables go in a circle.
    """

    def __init__(self, cascade: Cascade, preparer: IdentifierPreparer) -> None:
        self._cascade = cascade
        self._preparer = preparer
        self._names: dict[Table, str] = {}
        table = cascade.table
        own = list(table.primary_key.columns) or self._columns(table)
        names = [preparer.quote(column.name) for column in own]
        self.variables = [f"@mobync_old{n} = OLD.{name}" for n, name in enumerate(names)]
        self.is_the_row = " AND ".join(f"{name} = @mobync_old{n}" for n, name in enumerate(names))
        self.parts = [self._part(table) for table in cascade.gone]

    def name(self, table: Table) -> str:
        """The name for the deleted rows of a table."""
        return self._names[table]

    def joined(self, table: Table, key: Key) -> str:
        """What follows FROM for rows of a table that refer to deleted rows."""
        target = self._names[key.referred_table]
        rows = f"{self._preparer.format_table(table)} AS mobync_row"
        return f"{target} JOIN {rows} ON {matches(key, 'mobync_row', target, self._preparer)}"

    def _part(self, table: Table) -> str:
        name = self._names[table] = f"mobync_gone{len(self._names)}"
        columns = [self._preparer.quote(column.name) for column in self._columns(table)]
        selects = []
        if table is self._cascade.table:
            row = f"SELECT {', '.join(columns)} FROM {self._preparer.format_table(table)}"
            selects.append(f"{row} WHERE {self.is_the_row}")
        keys = self._cascade.gone[table]
        for key in sorted(keys, key=lambda each: each.referred_table is table):
            if key.referred_table not in self._names:
                raise ValueError(
                    f"capture=True cannot follow ON DELETE CASCADE in a circle, from "
                    f"{table.name!r} to {key.referred_table.name!r}"
                )
            fields = ", ".join(f"mobync_row.{column}" for column in columns)
            selects.append(f"SELECT {fields} FROM {self.joined(table, key)}")
        return f"{name} ({', '.join(columns)}) AS ({' UNION '.join(selects)})"

    def _columns(self, table: Table) -> list[Column[object]]:
        """The columns that are noted, or that other rows refer to."""
        wanted = set(table.primary_key.columns)
        model = self._cascade.models.get(table)
        if model is not None and model.owner is not None:
            wanted |= {model.id, model.owner}
        keys = [key for keys in self._cascade.gone.values() for key in keys]
        for key in (*keys, *(key for _, key in self._cascade.changed)):
            wanted |= {element.column for element in key.elements if key.referred_table is table}
        return [column for column in table.columns if column in wanted]


def matches(key: Key, row: str, target: str, preparer: IdentifierPreparer) -> str:
    """The condition that a row refers to another by a foreign key."""
    return " AND ".join(
        f"{row}.{preparer.quote(each.parent.name)} = {target}.{preparer.quote(each.column.name)}"
        for each in key.elements
    )
