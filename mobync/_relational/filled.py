"""What an app says of columns that only the server writes, or that devices do not know."""

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
        ValueError: it names no model.
    """
    if not isinstance(given, Mapping) or not all(map(_are_names, given.values())):
        raise TypeError(
            f"{argument} must be a dict of several names by model, "
            f"as {{'tasks': ['number']}}, not {given!r:.100}"
        )
    _check_known(argument, given, models)


def check_models(argument: str, given: Collection[str], models: Collection[str]) -> None:
    """Check an argument that names models; raises as check_columns()."""
    if not _are_names(given):
        raise TypeError(f"{argument} must be several names, not {given!r:.100}")
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
        argument: its name, for the error.
        model: the model's.
        given: what the app names.
        fields: those that there are; no argument may name ``id``.

    Raises:
        ValueError: one is not among them, or is the id.
    """
    names = frozenset(given)
    wrong = sorted(names - set(fields) | names & {Diff.ID})
    if wrong:
        raise ValueError(f"{argument}: model {model!r} has no such field {wrong[0]!r}")
    return names


def refuse_fields(rows_json: Sequence[str], fields: Collection[str], where: str) -> None:
    """Refuse rows that carry fields which only the server writes.

    Args:
        rows_json: of a device.
        fields: of the server.
        where: what a refusal begins with.

    Raises:
        InvalidDiffError: names the field; says in which rows.
    """

    def read(rows: Sequence[str]) -> list[None]:
        for row_json in rows:
            for name in read_object(row_json, where):
                if name in fields:
                    raise InvalidDiffError(f"{where}{name!r} is set by the server")
        return []

    located(read, rows_json)
