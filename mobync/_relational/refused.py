"""Why a database refuses a row, in words for the device that sent it.

A reason names constraints and columns. The rest of a database's message may have data of other
rows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from typing import Any, NamedTuple

from .database_errors import Kind, code_of_original

TAKEN = "id cannot be used"


class Refusal(Enum):
    """Why a database refuses a row. The value has the texts for a column and for a constraint.

    The last text is used if the database names neither.
    """

    UNIQUE = (
        "another row has the same {}",
        "another row has the same values (constraint {})",
        "another row has the same values",
    )
    REFERENCE = (
        "{} refers to a row that is not there, or was deleted",
        "it refers to a row that is not there, or was deleted (constraint {})",
        "it refers to a row that is not there, or was deleted",
    )
    REFERRED = (
        "",
        "rows that are still there refer to it (constraint {})",
        "rows that are still there refer to it",
    )
    NULL = ("{} must not be null", "", "a value must not be null")
    CHECK = ("", "it breaks the check {}", "it breaks a check")
    TRIGGER = ("", "", "a trigger refuses it")
    TOO_LONG = (
        "",
        "a value is too long for the index {}",
        "a value is too long for an index, or the row for its table",
    )
    MISFIT = ("{} does not fit its column", "", "a value does not fit its column")
    OTHER = ("", "it breaks the constraint {}", "it breaks a constraint")


_CODES: dict[Refusal, tuple[str | int, ...]] = {
    Refusal.UNIQUE: ("23505", 1022, 1062, 1169, 1586),
    Refusal.REFERENCE: ("23503", 1216, 1452),
    Refusal.REFERRED: ("23001", 1217, 1451),
    Refusal.NULL: ("23502", 1048, 1364),
    Refusal.CHECK: ("23514", "44000", 1369, 3819, 4025),
    Refusal.TRIGGER: ("P0001", 1644),
    Refusal.TOO_LONG: ("54000", 1118, 1713),
}
_BY_CODE = {code: refusal for refusal, codes in _CODES.items() for code in codes}

_SQLITE = {  # how the message begins; Python 3.10 gives no code
    "UNIQUE constraint failed": Refusal.UNIQUE,
    "FOREIGN KEY constraint failed": Refusal.REFERENCE,
    "NOT NULL constraint failed": Refusal.NULL,
    "CHECK constraint failed": Refusal.CHECK,
    "cannot store ": Refusal.MISFIT,  # in a STRICT table
}


def refusal_of_original(original: Any, kind: Kind) -> Refusal | None:
    """Why the database refused a row; None if the error is not a refusal.

    Args:
        original: the driver's error.
        kind: what it means.
    """
    if kind not in (Kind.MISFIT, Kind.VIOLATION):
        return None
    code, said = code_of_original(original), str(original)
    if code is not None:
        refusal = _BY_CODE.get(code)
    else:
        refusal = next((r for words, r in _SQLITE.items() if said.startswith(words)), None)
    if refusal is not None:
        return refusal
    if kind is Kind.MISFIT:
        return Refusal.MISFIT
    return (
        Refusal.OTHER if code is not None else Refusal.TRIGGER
    )  # the message of a trigger in SQLite can be any text


def in_words(refusal: Refusal, fields: Sequence[str], constraint: str | None) -> str:
    """The reason, with the fields or the constraint as far as they are known."""
    of_fields, of_constraint, plain = refusal.value
    if fields and of_fields:
        return str(of_fields.format(", ".join(map(repr, fields))))
    if constraint and of_constraint:
        return str(of_constraint.format(f"{constraint!r:.100}"))
    return str(plain)


class Said(NamedTuple):
    """The names in an error."""

    constraint: str | None = None
    columns: Sequence[str] = ()


_POSTGRESQL_KEY = re.compile(r"\((.*?)\)=\(")
# The name is the last text in quotes. A value may come before it, and can be anything.
_MYSQL_KEY = re.compile(r".*for key '([^']+)'$", re.DOTALL)
_MYSQL_COLUMN = re.compile(r".*[Cc]olumn (?:`[^`]*`\.){0,2}[`']([^`']+)[`']", re.DOTALL)
_MYSQL_CONSTRAINT = re.compile(r".*CONSTRAINT `([^`]+)`(?: FOREIGN KEY \(([^)]*)\))?", re.DOTALL)
_MYSQL_CHECK = re.compile(r"Check constraint '([^']+)' is violated")


def said_of(original: Any) -> Said:
    """The names in an error of a driver."""
    diagnosis = getattr(original, "diag", None)
    if diagnosis is not None:
        return _said_by_postgresql(
            diagnosis.constraint_name, diagnosis.column_name, diagnosis.message_detail
        )
    by_asyncpg: Any = getattr(original, "__cause__", None)
    if hasattr(by_asyncpg, "constraint_name"):
        return _said_by_postgresql(
            by_asyncpg.constraint_name, by_asyncpg.column_name, by_asyncpg.detail
        )
    first = original.args[0] if original is not None and original.args else None
    if isinstance(first, dict):  # pg8000's
        return _said_by_postgresql(first.get("n"), first.get("c"), first.get("D"))
    if isinstance(code_of_original(original), int):
        return _said_by_mysql(next(text for text in original.args if isinstance(text, str)))
    return _said_by_sqlite(str(original))


def _said_by_postgresql(constraint: str | None, column: str | None, detail: str | None) -> Said:
    if column:
        return Said(constraint, [column])
    key = _POSTGRESQL_KEY.search(detail or "")
    return Said(constraint, [] if key is None else _names(key[1], '"'))


def _said_by_mysql(message: str) -> Said:
    if (found := _MYSQL_CONSTRAINT.match(message)) is not None:
        return Said(found[1], _names(found[2] or "", "`"))
    if (found := _MYSQL_KEY.match(message) or _MYSQL_CHECK.match(message)) is not None:
        return Said(found[1].rpartition(".")[2])
    found = _MYSQL_COLUMN.match(message)
    return Said() if found is None else Said(None, [found[1]])


def _said_by_sqlite(message: str) -> Said:
    words, _, names = message.partition(": ")
    if words not in _SQLITE:
        return Said()
    if words.startswith("CHECK"):  # the check itself, where it has no name
        return Said(names)
    return Said(None, [name.rpartition(".")[2] for name in _names(names, '"')])


def _names(listed: str, quote: str) -> list[str]:
    return [name.strip(quote) for name in listed.split(", ")] if listed else []
