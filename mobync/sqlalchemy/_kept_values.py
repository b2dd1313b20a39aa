"""The form that a column gives to a value, to compare a row with a log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import types as sql
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import sort_tables_and_constraints

from ._model import Model


def kept(model: Model, field: str, value: Any, dialect: Dialect) -> Any:
    """The value that is read from a field after this value was written to it.

    Raises:
        DoesNotFit: the column cannot hold it.
    """
    column = model.fields[field]
    codec = model.codec(column, dialect)
    decoded = None if value is None else codec.decode(value)
    if isinstance(column.type, sql.TypeDecorator):
        decoded = _decorated(column.type, decoded, dialect)
    return None if decoded is None else codec.encode(decoded)


def _decorated(type_: sql.TypeDecorator[Any], value: Any, dialect: Dialect) -> Any:
    """A value after an app's own type has converted it for the database and back."""
    kind = type(type_)
    if kind.process_bind_param is not sql.TypeDecorator.process_bind_param:
        value = type_.process_bind_param(value, dialect)
    if kind.process_result_value is not sql.TypeDecorator.process_result_value:
        value = type_.process_result_value(value, dialect)
    return value


def owned_models(models: Mapping[str, Model]) -> list[str]:
    """The names of the models with an owner; a model comes after those that its rows refer to."""
    tables = [model.table for model in models.values()]
    in_order = sort_tables_and_constraints(tables)  # type: ignore[no-untyped-call]
    order = [table for table, _ in in_order if table is not None]
    owned = [name for name, model in models.items() if model.owner is not None]
    return sorted(owned, key=lambda name: order.index(models[name].table))
