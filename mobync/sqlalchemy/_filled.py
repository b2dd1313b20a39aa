"""Finds the columns that the database fills in."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Column

from ..types import Diff, FilledModel
from ._model import Model


def filled_models(
    models: Mapping[str, Model], read_back: Collection[str]
) -> dict[str, FilledModel] | None:
    """What the database fills in, by the names of the models; None: nothing.

    Args:
        models: all.
        read_back: names of models that the app wants to be read back after each write.
    """
    found = {}
    for name, model in models.items():
        own = {f: column for f, column in model.fields.items() if f != Diff.ID}
        changes = bool(changing_fields(model))
        created = frozenset(f for f, column in own.items() if _has_value(column))
        if created or changes or name in read_back:
            found[name] = FilledModel(created, changes or name in read_back)
    return found or None


def changing_fields(model: Model) -> frozenset[str]:
    """The fields whose values an update may change without setting them."""
    found = {f for f, column in model.fields.items() if _changes(column)}
    return model.server_fields | found - {Diff.ID}


def _has_value(column: Column[Any]) -> bool:
    """Whether a new row has a value that nobody wrote."""
    return (
        column.default is not None
        or column.server_default is not None
        or column.identity is not None
        or column is column.table.autoincrement_column
    )


def _changes(column: Column[Any]) -> bool:
    """Whether writing another column may change this one."""
    return (
        column.onupdate is not None
        or column.server_onupdate is not None
        or column.computed is not None
    )
