"""Rows of devices as JSON text, which of some does not fit, and how a row differs from a log."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeVar

from ..errors import InvalidDiffError
from ..synchronizer import same_json
from ..types import Diff
from .values import DoesNotFit

T = TypeVar("T")

_DECODER = json.JSONDecoder(parse_float=Decimal)


def read_json(text: str) -> Any:
    """What ``json.loads`` gives, numbers that are not integers as Decimal."""
    if text.startswith("{"):  # as it nearly always does: no white space to look for
        value, end = _DECODER.raw_decode(text)
        if end == len(text):
            return value
    return _DECODER.decode(text)


def read_object(data_json: str, where: str) -> dict[str, Any]:
    """A row that a device sent, by its fields.

    Args:
        data_json: its JSON text.
        where: what a refusal begins with.

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


def located(read: Callable[[Sequence[str]], list[T]], rows_json: Sequence[str]) -> list[T]:
    """What ``read`` makes of rows.  Where it refuses them, each is read alone to say which."""
    try:
        return read(rows_json)
    except InvalidDiffError as misfit:
        misfits = []
        for place, row_json in enumerate(rows_json):
            try:
                read([row_json])
            except InvalidDiffError as alone:
                misfits.append(InvalidDiffError(alone.reason, place))
        raise first_of(misfits or [misfit]) from None


def first_of(misfits: Sequence[InvalidDiffError]) -> InvalidDiffError:
    """The first one, which knows the others."""
    misfits[0].others = misfits[1:]
    return misfits[0]


def changed_fields(
    logged: str, row: Mapping[str, Any], kept: Callable[[str, Any], Any]
) -> dict[str, Any]:
    """The fields of a row that a log has otherwise, or has not and that are not null.

    A log keeps what devices sent, to the letter; a column gives back its own form of it.  So a
    value of the log takes the way that it took when it was written, but for the database itself,
    which keeps what it is given or refuses it (docs/databases.md, "Values").

    Args:
        logged: the object's JSON text, as the log has it.
        row: the values as they are read.
        kept: what is read of a field after a value was written to it; raises DoesNotFit.
    """
    said = json.loads(logged, parse_float=Decimal)

    def is_same(field: str, value: Any) -> bool:
        if same_json(said.get(field), value):
            return True
        try:
            return same_json(kept(field, said.get(field)), value)
        except DoesNotFit:  # as what was written by SQL, and brought into the log as it is
            return False

    return {f: value for f, value in row.items() if f != Diff.ID and not is_same(f, value)}
