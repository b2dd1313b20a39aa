"""Reads rows of devices, finds those that do not fit, and compares rows with a log."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Concatenate, ParamSpec, TypeVar

from ..errors import InvalidDiffError
from ..synchronizer import same_json
from ..types import Diff
from .values import DoesNotFit

P = ParamSpec("P")
T = TypeVar("T")

_DECODER = json.JSONDecoder(parse_float=Decimal)


def read_json(text: str) -> Any:
    """The same as ``json.loads``, with Decimals for numbers that are not integers."""
    if text.startswith("{"):  # nearly always: there is no white space to skip
        value, end = _DECODER.raw_decode(text)
        if end == len(text):
            return value
    return _DECODER.decode(text)


def read_object(data_json: str, where: str) -> dict[str, Any]:
    """A row that a device sent, by its fields.

    Args:
        data_json: its JSON text.
        where: the beginning of the message of a refusal.

    Raises:
        InvalidDiffError: it cannot be read, or has no id.
    """
    try:
        members = read_json(data_json)
    except (ValueError, ArithmeticError, RecursionError):
        raise InvalidDiffError(
            f"{where}cannot be read: not JSON, or a number is too long or nested too deep"
        ) from None
    if not isinstance(members, dict) or not isinstance(members.get(Diff.ID), str):
        raise InvalidDiffError(f"{where}must be an object with a string 'id'")
    return members


def located(
    read: Callable[Concatenate[Sequence[str], P], list[T]],
    rows_json: Sequence[str],
    *args: P.args,
    **kwargs: P.kwargs,
) -> list[T]:
    """The result of ``read`` for rows. If it refuses them, each is read alone to find which."""
    try:
        return read(rows_json, *args, **kwargs)
    except InvalidDiffError as misfit:
        misfits = []
        for place, row_json in enumerate(rows_json):
            try:
                read([row_json], *args, **kwargs)
            except InvalidDiffError as alone:
                misfits.append(InvalidDiffError(alone.reason, place))
        raise first_of(misfits or [misfit]) from None


def first_of(misfits: Sequence[InvalidDiffError]) -> InvalidDiffError:
    """The first error, with the others as its ``others``."""
    misfits[0].others = misfits[1:]
    return misfits[0]


def changed_fields(
    logged: str, row: Mapping[str, Any], kept: Callable[[str, Any], Any]
) -> dict[str, Any]:
    """The fields of a row whose value differs from the log's, or is missing there and not null.

    A log has the exact text that devices sent, and a column returns its own form of a value. So a
    value of the log is converted as if it were written and read again, without the database, which
    stores a value exactly or refuses it (docs/databases.md, "Values").

    Args:
        logged: the object's JSON text, as the log has it.
        row: the values as they are read.
        kept: a function that returns what is read after a value was written to a field; it raises
            DoesNotFit.
    """
    said = json.loads(logged, parse_float=Decimal)

    def is_same(field: str, value: Any) -> bool:
        if same_json(said.get(field), value):
            return True
        try:
            return same_json(kept(field, said.get(field)), value)
        except (
            DoesNotFit
        ):  # for example, a value that SQL wrote and that was added to the log unchanged
            return False

    return {f: value for f, value in row.items() if f != Diff.ID and not is_same(f, value)}
