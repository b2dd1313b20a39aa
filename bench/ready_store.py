"""A store that costs nothing, so that what is measured is mobync."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from workload import Diff

from mobync import ReadFilter, Synchronizer

CLOCK = 1000  # where the window begins


class Ready(Synchronizer):
    """A store that costs nothing: its window is there, and what it is given is gone."""

    def __init__(self, window: list[Diff] | str) -> None:
        rows: list[Diff] = json.loads(window) if isinstance(window, str) else window
        self._window = window
        self._highest = max((row["logical_clock"] for row in rows), default=CLOCK - 1)

    @contextmanager
    def transaction(self, owner_id: str) -> Iterator[Synchronizer]:
        yield self

    def read(self, where: str, filters: Sequence[ReadFilter]) -> Any:
        return self._window

    def highest_logical_clock(self, owner_id: str) -> int:
        return self._highest

    def create(self, where: str, data_json: str) -> None:
        pass

    update = delete = create

    def create_many(self, where: str, rows_json: Sequence[str]) -> None:
        pass

    update_many = delete_many = create_many

    def validate_create(self, owner_id: str, **diff: Any) -> bool:
        return True

    validate_update = validate_delete = validate_create


class ReadyWithNamedRules(Ready):
    """The same with rules that name the fields, which take Python less to call."""

    def validate_create(
        self,
        owner_id: str,
        id: str,
        owner: str,
        logical_clock: int,
        utc_timestamp: int,
        type: str,
        model: str,
        json_data: str,
    ) -> bool:
        return True

    validate_update = validate_delete = validate_create
