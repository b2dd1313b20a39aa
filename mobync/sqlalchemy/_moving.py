"""Gives rows to another owner."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Table, update
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from ..errors import InvalidDiffError
from ._model import Model
from ._refusals import reason_of
from ._statements import _owned, delete_rows, read_fields

Same = Mapping[str, Sequence[str]]


def defer_foreign_keys(connection: Connection) -> None:
    """Let the database check foreign keys after all rows are written, if it can.

    A foreign key that contains the owner is broken between the updates of the two tables.
    """
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
    elif connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET CONSTRAINTS ALL DEFERRED")


def give_rows(
    connection: Connection, models: Sequence[Model], owner: Any, new_owner: Any, same: Same
) -> dict[str, int]:
    """Give all rows of an owner to another one.

    Args:
        connection: in a transaction in which both are locked.
        models: the models of the rows, each after those that its rows refer to.
        owner, new_owner: functions that give the two owners as the owner column of a model has
            them.
        same: by model, ids of rows that are deleted if the new owner has a row with the same id.

    Returns:
        How many rows were given, by model.

    Raises:
        InvalidDiffError: the database refuses it, for example because of a unique key.
    """
    counts: dict[str, int] = {}
    doubled: dict[str, list[Any]] = {}
    for model in models:
        there = read_fields(connection, model, new_owner(model), same.get(model.name, ()), [])
        doubled[model.name] = [model.read_id(row, connection.dialect) for row in there]
        counts[model.name] = _give(
            connection, model, owner(model), new_owner(model), doubled[model.name]
        )
    for model in reversed(models):  # rows that referred to them now refer to the new owner's rows
        if doubled[model.name]:
            delete_rows(connection, model, owner(model), doubled[model.name])
    return counts


def _give(
    connection: Connection, model: Model, owner: Any, new_owner: Any, but: Sequence[Any]
) -> int:
    assert model.owner is not None
    table = model.table
    statement = update(table).where(*_owned(model, owner, connection.dialect))
    if but:
        statement = statement.where(model.id.not_in(but))
    values = {**unchanged(table), model.owner: new_owner}
    with refusing(model):
        return connection.execute(statement.values(values)).rowcount


def unchanged(table: Table) -> dict[Any, Any]:
    """Values for columns that change with each update, so that they stay as they are."""
    changing = (c for c in table.columns if c.onupdate is not None or c.server_onupdate is not None)
    return {column: column for column in changing if column.computed is None}


@contextmanager
def refusing(model: Model) -> Iterator[None]:
    """Turn the database's refusal of rows into an error with a reason.

    Raises:
        InvalidDiffError: the database refused them.
    """
    try:
        yield
    except DBAPIError as error:
        reason = reason_of(error, model, "update")
        if reason is None:
            raise
        said = reason.removeprefix(model.where)
        raise InvalidDiffError(
            f"a row of {model.name!r} cannot be the new owner's: {said}"
        ) from error
