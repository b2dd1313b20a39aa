"""Finds the fields that get a value in a write that does not contain it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from inspect import unwrap  # what track() has put around a method
from typing import Any

from django.db import models

from ..types import Diff, FilledModel
from ._model import Model, is_required


def filled_models(
    described: Mapping[str, Model], read_back: Collection[str]
) -> dict[str, FilledModel] | None:
    """What Django or the database fills in, by the names of the models; None: nothing.

    Args:
        described: all models.
        read_back: names of models that the app wants to be read back after each write.
    """
    found = {}
    for name, model in described.items():
        own = {f: each for f, each in model.fields.items() if f != Diff.ID}
        created = frozenset(f for f, each in own.items() if _has_value(each))
        changes = name in read_back or _may_change(model, own)
        if created or changes:
            found[name] = FilledModel(created, changes)
    return found or None


def _has_value(known: Any) -> bool:
    """Whether a new row has a value that no device sent. Django gives a text field the empty
    text."""
    if known.has_default():
        return known.default is not None
    return not (known.null or is_required(known)) or _has_database_default(known)


def _has_database_default(known: Any) -> bool:
    return getattr(known, "db_default", models.NOT_PROVIDED) is not models.NOT_PROVIDED


def _may_change(model: Model, own: Mapping[str, Any]) -> bool:
    """Whether a save may change fields that were not written."""
    by_itself = any(
        getattr(each, "generated", False) or getattr(each, "auto_now", False)
        for each in own.values()
    )
    of_server = any(not getattr(own[f], "auto_now_add", False) for f in model.server_fields)
    overridden = any(
        unwrap(getattr(model.source, method)) is not getattr(models.Model, method)
        for method in ("save", "save_base", "clean", "clean_fields")
    )
    return by_itself or of_server or overridden
