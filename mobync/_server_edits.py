"""The app's own edits, as the diffs of a device that is up to date."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
        row: Any = None
        try:
            kind, model, row = operation
            text = json_text(row)
        except (TypeError, ValueError) as error:
            raise InvalidDiffError(
                f"an operation is (type, model, data): {error}", index, _id_of(row)
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


@contextmanager
def naming_rows(
    operations: Sequence[Operation], places: Sequence[int] | None = None
) -> Iterator[None]:
    """Have an InvalidDiffError name the row that it means: nobody knows the ids made above.

    Args:
        operations: what is checked or written meanwhile.
        places: of the row of each, if the caller counts otherwise.
    """
    try:
        yield
    except InvalidDiffError as misfit:
        for each in (misfit, *misfit.others):
            if each.index is not None:
                each.diff_id = _id_of(operations[each.index][2])
                each.index = each.index if places is None else places[each.index]
        raise


def json_text(row: Mapping[str, Any] | str) -> str:
    """A row as JSON text; text is taken as it is."""
    return row if isinstance(row, str) else json.dumps(dict(row), ensure_ascii=False)


def object_id(row: Mapping[str, Any] | str) -> str:
    """The id of a row.

    Raises:
        InvalidDiffError: it has none that is a str.
    """
    found = _id_of(row)
    if found is None:
        raise InvalidDiffError(f"a row to adopt needs an id that is a str: {row!r:.100}")
    return found


def _id_of(row: Mapping[str, Any] | str) -> str | None:
    try:
        loaded = json.loads(row) if isinstance(row, str) else row
        found = loaded["id"]
    except (ValueError, LookupError, TypeError):
        return None
    return found if isinstance(found, str) else None


class LiveObjects:
    """Which objects of one model an owner's log says are alive.

    Of some a log may know updates only: they were edited before they were adopted.

    Attributes:
        next_clock: how far the log has been followed.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self.next_clock = 0
        self._created: set[str] = set()
        self._only_updated: set[str] = set()

    def follow(self, downstream: Iterable[DiffDict], highest: int | None) -> None:
        """Take in what a device would be sent that had seen everything before ``next_clock``."""
        for diff in downstream:
            if diff["model"] != self.model:
                continue
            id_ = object_id(diff["json_data"])
            if diff["type"] == "update" and id_ not in self._created:
                self._only_updated.add(id_)
            else:
                self._only_updated.discard(id_)
            if diff["type"] == "create":
                self._created.add(id_)
            elif diff["type"] == "delete":
                self._created.discard(id_)
        if highest is not None:
            self.next_clock = highest + 1

    def missing(self, rows: Iterable[Mapping[str, Any] | str]) -> list[Operation]:
        """What brings each row into the log whose object it has not, or not whole.

        A create that follows updates of the same life would reach the devices as one more update;
        so a delete ends that life first.
        """
        new = {id_: row for row in rows if (id_ := object_id(row)) not in self._created}
        operations: list[Operation] = []
        for id_, row in new.items():
            if id_ in self._only_updated:
                operations.append(("delete", self.model, {"id": id_}))
            operations.append(("create", self.model, row))
        return operations
