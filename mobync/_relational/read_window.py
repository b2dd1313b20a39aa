"""A short window that was read together with the owner's head, so it needs no transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..synchronizer import Synchronizer
from ..types import _COMPARE, FIELD_TIMES, LOG_FIELDS, Diff, FilterType, ReadFilter


class ReadWindow(Synchronizer):
    """Answers a request without diffs from rows that one statement has read.

    Args:
        highest: the owner's highest clock, -1 for an empty log.
        states: what is stored for the owner and for a device, None for nothing; or None: the
            database stores no devices.
        first_clock: the clock from which the log was read.
        rows: the values of its rows, in the order of the log's fields.
    """

    def __init__(
        self,
        highest: int,
        states: Mapping[str, str | None] | None,
        first_clock: int,
        rows: Sequence[Sequence[Any]],
    ) -> None:
        self._highest = highest
        self._states = states
        self._first_clock = first_clock
        self._rows = rows

    def highest_logical_clock(self, owner_id: str) -> int:
        return self._highest

    def read_log(self, where: str, filters: Sequence[ReadFilter]) -> Sequence[Sequence[Any]]:
        rows, begins = self._rows, False
        for f in filters:
            if f.field_name == Diff.OWNER:
                continue  # all rows are this owner's
            is_first = (f.field_name, f.filter_by) == (Diff.LOGICAL_CLOCK, FilterType.majorOrEqual)
            begins |= is_first and f.data >= self._first_clock
            place, compare = LOG_FIELDS.index(f.field_name), _COMPARE[f.filter_by]
            rows = [row for row in rows if compare(row[place], f.data)]
        if not begins:
            raise RuntimeError(f"the log was read from clock {self._first_clock} on")
        return rows

    def read(self, where: str, filters: Sequence[ReadFilter]) -> list[dict[str, Any]]:
        rows = [dict(zip(_FIELDS, row, strict=False)) for row in self.read_log(where, filters)]
        for row in rows:
            if row.get(FIELD_TIMES, "") is None:
                del row[FIELD_TIMES]
        return rows

    def read_devices(self, owner_id: str, names: Sequence[str] | None) -> dict[str, str] | None:
        if self._states is None:
            return None
        if names is None or not self._states.keys() >= set(names):
            raise RuntimeError(f"of the devices only {sorted(self._states)} were read")
        return {name: text for name in names if (text := self._states[name]) is not None}

    def write_devices(self, owner_id: str, states: Mapping[str, str | None]) -> None:
        self._refuse()

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("a window is only read")

    create = update = delete = _refuse
    validate_create = validate_update = validate_delete = _refuse


_FIELDS = (*LOG_FIELDS, FIELD_TIMES)
