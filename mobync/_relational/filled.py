"""Checks arguments about columns that only the server writes, or that devices do not see."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..errors import InvalidDiffError
from ..types import Diff
from .rows import located, read_object

Columns = Mapping[str, Collection[str]]
"""By the name of a model, names of its fields."""


def check_columns(argument: str, given: Columns, models: Collection[str]) -> None:
    """Check an argument that names columns of models.

    Raises:
        TypeError: it does not have that form.
        ValueError: it names an unknown model.
    """
    if not isinstance(given, Mapping) or not all(map(_are_names, given.values())):
        raise TypeError(
            f"{argument} must be a dict with a list of names for each model, "
            f"such as {{'tasks': ['number']}}, not {given!r:.100}"
        )
    _check_known(argument, given, models)


def check_models(argument: str, given: Collection[str], models: Collection[str]) -> None:
    """Check an argument that names models; raises the same errors as check_columns()."""
    if not _are_names(given):
        raise TypeError(f"{argument} must be a list of names, not {given!r:.100}")
    _check_known(argument, given, models)


def _are_names(given: Any) -> bool:
    is_several = isinstance(given, Collection) and not isinstance(given, str | bytes)
    return is_several and all(isinstance(name, str) for name in given)


def _check_known(argument: str, given: Collection[str], models: Collection[str]) -> None:
    strangers = sorted(set(given) - set(models))
    if strangers:
        raise ValueError(f"{argument} names no model: {', '.join(map(repr, strangers))}")


def checked_fields(
    argument: str, model: str, given: Collection[str], fields: Collection[str]
) -> frozenset[str]:
    """The fields that an argument names of a model.

    Args:
        argument: the argument's name, for the error.
        model: the model's name.
        given: the fields that the app names.
        fields: the existing fields; no argument may name ``id``.

    Raises:
        ValueError: one is not among them, or is the id.
    """
    names = frozenset(given)
    wrong = sorted(names - set(fields) | names & {Diff.ID})
    if wrong:
        raise ValueError(f"{argument}: model {model!r} has no such field {wrong[0]!r}")
    return names


def refuse_fields(rows_json: Sequence[str], fields: Collection[str], where: str) -> None:
    """Refuse rows with fields that only the server writes.

    Args:
        rows_json: rows of a device.
        fields: the fields that only the server writes.
        where: the beginning of the message of a refusal.

    Raises:
        InvalidDiffError: a row has such a field; the error names the field and the rows.
    """

    def read(rows: Sequence[str]) -> list[None]:
        for row_json in rows:
            for name in read_object(row_json, where):
                if name in fields:
                    raise InvalidDiffError(f"{where}{name!r} is set by the server")
        return []

    located(read, rows_json)
