"""The rows of the device, and their state before the waiting edits.

A row is stored as the text of a JSON object, and changed by the texts of its members. So a value
leaves as it came, for example 1.0 or 9007199254740993.

The app's rows include the user's edits. If the outbox has an edit of an object, the object also has
a *base*: the row as the server has it, as far as this device knows. The server's diffs are applied
to the base, and the waiting edits on top of that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from .._core import members
from ._database import Database

Row = dict[str, str]
"""A field's name to the text of its value, the id included."""


class Name(NamedTuple):
    """The name of an object: its model and its id."""

    model: str
    id: str


def row_of(json_data: str) -> Row:
    """Split a JSON object into its members."""
    return dict(members(json_data))


def text_of(row: Row) -> str:
    """Join members to a JSON object."""
    inside = ", ".join(f"{json.dumps(name)}: {value}" for name, value in row.items())
    return f"{{{inside}}}"


class Rows:
    """The rows of all models.

    If the app has made a table for a model, its rows are there; all others are in `mobync_rows`.

    Raises:
        ValueError: a table of the app cannot hold rows; the message says why.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._own_tables = frozenset(self._find_own_tables())

    def _find_own_tables(self) -> Iterator[str]:
        tables = self._database.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table'"
            " AND name NOT LIKE 'mobync_%' AND name NOT LIKE 'sqlite_%'"
        )
        for (table,) in tables:
            found = self._database.execute("SELECT name FROM pragma_table_info(?)", (table,))
            if {("id",), ("data",)} <= set(found):
                self._check_foreign_keys(table)
                yield table

    def _check_foreign_keys(self, table: str) -> None:
        for key in self._database.execute(f"PRAGMA foreign_key_list({_quoted(table)})"):
            _, _, parent, column, _, on_update, on_delete, _ = key
            if {on_update, on_delete} != {"NO ACTION"}:
                raise ValueError(
                    f"{table}.{column} REFERENCES {parent} must have no ON DELETE or ON UPDATE: "
                    "other devices would not hear of the rows that it changes"
                )

    def get(self, name: Name) -> Row | None:
        """The row of an object, None if there is none."""
        where, key = self._place(name)
        found = self._database.execute(f"SELECT data FROM {where}", key)
        return row_of(found[0][0]) if found else None

    def set(self, name: Name, row: Row | None) -> None:
        """Set the row of an object, or remove it."""
        where, key = self._place(name)
        if row is None:
            self._database.execute(f"DELETE FROM {where}", key)
        elif self._database.execute(f"SELECT 1 FROM {where}", key):
            # Not REPLACE, which deletes first: a foreign key may refer to this row.
            table, _, condition = where.partition(" ")
            self._database.execute(f"UPDATE {table} SET data = ? {condition}", (text_of(row), *key))
        elif name.model in self._own_tables:
            self._database.execute(
                f"INSERT INTO {_quoted(name.model)} (id, data) VALUES (?, ?)",
                (name.id, text_of(row)),
            )
        else:
            self._database.execute(
                "INSERT INTO mobync_rows VALUES (?, ?, ?)", (*name, text_of(row))
            )

    def _place(self, name: Name) -> tuple[str, tuple[str, ...]]:
        if name.model in self._own_tables:
            return f"{_quoted(name.model)} WHERE id = ?", (name.id,)
        return "mobync_rows WHERE model = ? AND id = ?", name

    def of_model(self, model: str) -> list[dict[str, Any]]:
        """All rows of a model by their ids, as Python values."""
        if model in self._own_tables:
            found = self._database.execute(f"SELECT data FROM {_quoted(model)} ORDER BY id")
        else:
            found = self._database.execute(
                "SELECT data FROM mobync_rows WHERE model = ? ORDER BY id", (model,)
            )
        return [json.loads(data) for (data,) in found]

    def models(self) -> list[str]:
        """The models that have a row."""
        others = self._database.execute("SELECT DISTINCT model FROM mobync_rows")
        own = [
            table
            for table in self._own_tables
            if self._database.execute(f"SELECT 1 FROM {_quoted(table)} LIMIT 1")
        ]
        return sorted([*own, *(model for (model,) in others)])

    def clear(self) -> None:
        """Delete all rows."""
        for table in ("mobync_rows", *map(_quoted, self._own_tables)):
            self._database.execute(f"DELETE FROM {table}")

    # ---- bases -------------------------------------------------------------------------------

    def base(self, name: Name) -> Row | None:
        """The row as the server has it: the base, or the row itself if no edit waits."""
        found = self._database.execute(
            "SELECT data FROM mobync_base WHERE model = ? AND id = ?", name
        )
        if not found:
            return self.get(name)
        return None if found[0][0] is None else row_of(found[0][0])

    def keep_base(self, name: Name) -> None:
        """Before an edit, store the row as the base, unless an earlier edit of it already waits."""
        row = self.get(name)
        self._database.execute(
            "INSERT INTO mobync_base VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (*name, None if row is None else text_of(row)),
        )

    def set_base(self, name: Name, row: Row | None) -> None:
        self.drop_base(name)
        self._database.execute(
            "INSERT INTO mobync_base VALUES (?, ?, ?)",
            (*name, None if row is None else text_of(row)),
        )

    def drop_base(self, name: Name) -> None:
        self._database.execute("DELETE FROM mobync_base WHERE model = ? AND id = ?", name)

    def drop_bases(self) -> None:
        self._database.execute("DELETE FROM mobync_base")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
