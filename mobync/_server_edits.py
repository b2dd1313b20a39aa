"""The app's own edits, as the diffs of a device that is up to date."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from .errors import InvalidDiffError
from .types import DiffDict

Operation = tuple[str, str, Mapping[str, Any] | str]


def diffs_of(operations: Iterable[Operation], owner_id: str, now_ms: int) -> list[DiffDict]:
    """Make a diff of each ``(type, model, data)``, all of one moment.

    Raises:
        InvalidDiffError: an operation is not of that form.
    """
    diffs: list[DiffDict] = []
    for index, operation in enumerate(operations):
        try:
            kind, model, row = operation
            text = json_text(row)
        except (TypeError, ValueError) as error:
            raise InvalidDiffError(
                f"an operation is (type, model, data): {error}", index
            ) from error
        diffs.append(
            {
                "id": str(uuid.uuid4()),
                "owner": owner_id,
                "logical_clock": 0,
                "utc_timestamp": now_ms,
                "type": kind,
                "model": model,
                "json_data": text,
            }
        )
    return diffs


def json_text(row: Mapping[str, Any] | str) -> str:
    """A row as JSON text; text is taken as it is."""
    return row if isinstance(row, str) else json.dumps(dict(row), ensure_ascii=False)


def object_id(row: Mapping[str, Any] | str) -> str:
    """The id of a row.

    Raises:
        InvalidDiffError: it has none that is a str.
    """
    try:
        loaded = json.loads(row) if isinstance(row, str) else row
        found = loaded["id"]
    except (ValueError, LookupError, TypeError):
        found = None
    if not isinstance(found, str):
        raise InvalidDiffError(f"a row to adopt needs an id that is a str: {row!r:.100}")
    return found


class LiveObjects:
    """Which objects of one model an owner's log says are alive.

    Attributes:
        next_clock: how far the log has been followed.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self.next_clock = 0
        self._ids: set[str] = set()

    def follow(self, downstream: Iterable[DiffDict], highest: int | None) -> None:
        """Take in what a device would be sent that had seen everything before ``next_clock``."""
        for diff in downstream:
            if diff["model"] == self.model and diff["type"] == "create":
                self._ids.add(object_id(diff["json_data"]))
            elif diff["model"] == self.model and diff["type"] == "delete":
                self._ids.discard(object_id(diff["json_data"]))
        if highest is not None:
            self.next_clock = highest + 1

    def missing(self, rows: Iterable[Mapping[str, Any] | str]) -> list[Operation]:
        """A create for each row whose object is not alive in the log."""
        new = {object_id(row): row for row in rows if object_id(row) not in self._ids}
        return [("create", self.model, row) for row in new.values()]
