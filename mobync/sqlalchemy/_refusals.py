"""Rows that only the database refuses: finds which rows of a run these are, and the reason in words
for the device.

A run of rows is written at once, in a savepoint; a single row needs none. If the database refuses
the run, the bad rows are found by halving: a half that can be written stays, the other one is
halved again, and so on. Finding one row among n takes about two tries for each halving.

A reason names constraints and columns. The rest of a database's message may have data of other
rows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sqlalchemy import ForeignKeyConstraint, UniqueConstraint
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import ColumnCollectionConstraint

from .._relational.refused import TAKEN, Refusal, Said, in_words, refusal_of_original, said_of
from .._relational.rows import first_of
from ..errors import IdTakenError, InvalidDiffError
from ._errors import kind_of
from ._model import Model
from ._packets import refusing_too_large
from ._statements import existing_ids

_MOST_TRIES = 500  # of parts of a run

Reason = Callable[[DBAPIError], "str | None"]
"""Why the database refused a row; None for an error that is no refusal."""


# ---- which row ----------------------------------------------------------------------------------


def write_run(
    connection: Connection,
    count: int,
    write: Callable[[int, int], object],
    reason_of: Reason,
    known: Callable[[], list[InvalidDiffError]] = list,
) -> None:
    """Write a run of rows; if the database refuses some, say which.

    Args:
        connection: in a transaction.
        count: of rows.
        write: writes those from one place to before another, by statements on the connection.
        reason_of: why the database refused a row.
        known: finds all rows whose key is taken, if that is why the database refused the run.

    Raises:
        InvalidDiffError: ``index`` is the place of the first row that is refused, ``others`` has
            what else was found.
        sqlalchemy.exc.DBAPIError: an error that is no refusal.
    """
    if count == 1:
        try:
            with refusing_too_large(connection, 0):
                write(0, 1)
        except DBAPIError as error:
            reason = reason_of(error)
            if reason is None:
                raise
            raise InvalidDiffError(reason, 0) from error
        return
    refusal = _try(connection, write, reason_of, 0, count) if count else None
    if refusal is None:
        return
    misfits = known() if refusal.reason.endswith(TAKEN) else []
    misfits = misfits or find_refused(count, partial(_try, connection, write, reason_of))
    if misfits:
        raise first_of(misfits)


def find_refused(
    count: int, attempt: Callable[[int, int], InvalidDiffError | None]
) -> list[InvalidDiffError]:
    """Find the refused rows of some that cannot be written together.

    Args:
        count: of rows.
        attempt: writes the rows from one place to before another, or writes none of them and says
            why. It names the row only if there is just one.

    Returns:
        The refusals in the order of their rows; none if what stood in the way is gone.
    """
    found: list[InvalidDiffError] = []
    middle = count // 2
    untried = [(middle, count), (0, middle)]
    tries = 0
    while untried and not (found and tries >= _MOST_TRIES):
        begin, end = untried.pop()
        tries += 1
        refusal = attempt(begin, end)
        if refusal is None:
            continue
        if end - begin == 1:
            found.append(refusal)
        else:
            middle = (begin + end) // 2
            untried += [(middle, end), (begin, middle)]
    return found


def _try(
    connection: Connection,
    write: Callable[[int, int], object],
    reason_of: Reason,
    begin: int,
    end: int,
) -> InvalidDiffError | None:
    """Write some rows, or write none and say why. It names the row only if there is just one."""

    def work() -> None:
        with refusing_too_large(connection, begin):
            write(begin, end)

    return in_savepoint(connection, work, reason_of, begin)


def in_savepoint(
    connection: Connection, work: Callable[[], object], reason_of: Reason, place: int
) -> InvalidDiffError | None:
    """Do some work, or nothing of it if the database refuses it.

    Args:
        connection: in a transaction.
        work: what to do.
        reason_of: why the database refused it.
        place: the place of the row that a refusal names.

    Returns:
        The refusal; None if the work is done.

    Raises:
        sqlalchemy.exc.DBAPIError: an error that is no refusal.
    """
    savepoint = connection.begin_nested()
    try:
        work()
    except DBAPIError as error:
        reason = reason_of(error)
        if reason is None:
            raise  # after a deadlock, say, there is no savepoint to go back to
        savepoint.rollback()
        refusal = InvalidDiffError(reason, place)
        refusal.__cause__ = error
        return refusal
    savepoint.commit()
    return None


def ids_taken(
    connection: Connection, model: Model, owner: Any, ids: Sequence[Any]
) -> list[InvalidDiffError]:
    """Which rows of a run of creates have the key of an existing row, of any owner.

    Ids that only the database takes for the same (by a collation) are not among them.
    """
    taken = set(existing_ids(connection, model, owner, ids))
    reason = f"{model.where}{TAKEN}"
    return [IdTakenError(reason, place) for place, id_ in enumerate(ids) if id_ in taken]


# ---- why ----------------------------------------------------------------------------------------


def refusal_of(error: Exception) -> Refusal | None:
    """Why the database refused what it was given; None for an error that is no refusal."""
    original = error.orig if isinstance(error, DBAPIError) else None
    return refusal_of_original(original, kind_of(error))


def reason_of(error: DBAPIError, model: Model, kind: str) -> str | None:
    """Why the database refused a row of a model.

    Args:
        error: what the database said.
        model: of the row.
        kind: 'create', 'update' or 'delete'.
    """
    refusal = refusal_of(error)
    if refusal is None:
        return None
    if refusal is Refusal.REFERENCE and kind == "delete":
        refusal = Refusal.REFERRED
    said = said_of(error.orig)
    fields = _fields(model, said.columns or _declared_columns(model, refusal, said.constraint))
    if _is_key(model, refusal, said):
        return f"{model.where}{TAKEN}"
    return f"{model.where}{in_words(refusal, fields, said.constraint)}"


def reason_in_log(error: DBAPIError, log: Model) -> str | None:
    """Why the database refused a row of the log, as far as a device can be at fault."""
    refusal = refusal_of(error)
    of_device = refusal is Refusal.MISFIT or _is_key(log, refusal, said_of(error.orig))
    return reason_of(error, log, "create") if of_device else None


def reason_at_commit(error: Exception) -> str | None:
    """Why the database refused to commit: a constraint that it checks only then."""
    refusal = refusal_of(error)
    if refusal is None or not isinstance(error, DBAPIError):
        return None
    return f"when all was written: {in_words(refusal, [], said_of(error.orig).constraint)}"


def _declared_columns(model: Model, refusal: Refusal, constraint: str | None) -> list[str]:
    """The columns of the foreign key, unique constraint or unique index that the table declares by
    this name; none if that is not certain.
    """
    table = model.table
    keys = [key for key in table.constraints if isinstance(key, ForeignKeyConstraint)]
    uniques = [each for each in table.constraints if isinstance(each, UniqueConstraint)]
    declared: list[Any] = [*keys]
    if refusal is Refusal.UNIQUE:
        declared = [*uniques, *(index for index in table.indexes if index.unique)]
    found = [each for each in declared if each.name == constraint]
    if not found and constraint is not None and refusal is Refusal.UNIQUE:
        # MariaDB and MySQL call one without a name after its first column, and count if several
        # begin with the same one: owner, owner_2, owner_3.
        firsts = Counter(_first_of(each) for each in (*uniques, *keys) if each.name is None)
        names = {constraint, re.sub(r"_[0-9]+$", "", constraint)}
        for each in uniques:
            first = _first_of(each)
            if each.name is None and first in names and (first == constraint or firsts[first] > 1):
                found.append(each)
    return [column.name for column in found[0].columns] if len(found) == 1 else []


def _first_of(constraint: ColumnCollectionConstraint) -> str:
    return str(next(iter(constraint.columns)).name)


def _fields(model: Model, columns: Sequence[str]) -> list[str]:
    """The fields of columns, without the owner's, which no device sends; none if one is unknown."""
    by_column = {column.name: field for field, column in model.fields.items()}
    owner = None if model.owner is None else model.owner.name
    others = [name for name in columns if name != owner]
    known = all(name in by_column for name in others)
    return [by_column[name] for name in others] if known else []


def _is_key(model: Model, refusal: Refusal | None, said: Said) -> bool:
    """Whether the row was refused because its primary key exists already."""
    key = model.table.primary_key
    names = (key.name or f"{model.table.name}_pkey", "PRIMARY")
    of_key = said.constraint in names or set(said.columns) == {c.name for c in key.columns}
    return of_key and refusal is Refusal.UNIQUE
