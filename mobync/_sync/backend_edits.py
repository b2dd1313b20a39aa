"""The app's own edits, as the diffs of a device that is up to date."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from .. import _core
from ..errors import BusyError, InvalidDiffError, LogicalClockError
from ..types import DiffDict
from .upserts import plain_edits

PIECE_EDITS = 5_000  # in one transaction, while the owner's devices wait
MOST_LOOKS = 100  # how often to read the existing objects before a push with upserts

Operation = tuple[str, str, Mapping[str, Any] | str]


def push_operations(
    server: _core.Mobync, owner_id: str, operations: Sequence[Operation], at_once: bool
) -> int:
    """Write edits into the models and the log: what ``Mobync.push`` promises."""
    diffs = diffs_of(operations, owner_id, server._now_ms())
    size = max(len(diffs), 1) if at_once else PIECE_EDITS
    clock = 0
    for begin in range(0, max(len(diffs), 1), size):
        piece = range(begin, min(begin + size, len(diffs)))
        with naming_rows(operations[begin : piece.stop], piece):
            clock = _push(server, owner_id, diffs[begin : piece.stop])
    return clock


def _push(server: _core.Mobync, owner_id: str, diffs: Sequence[DiffDict]) -> int:
    if all(diff["type"] != "upsert" for diff in diffs):
        return server._push_diffs(diffs, owner_id)
    for _ in range(MOST_LOOKS):
        plain = plain_edits(server, owner_id, diffs)
        if not plain.diffs:
            return plain.clock
        try:
            with naming_rows([("", "", diff["json_data"]) for diff in diffs], plain.places):
                return server._push_diffs(plain.diffs, owner_id, plain.clock)
        except LogicalClockError:  # somebody has synced since the objects were read
            continue
    raise BusyError("other transactions were in the way at every try")


def diffs_of(operations: Iterable[Operation], owner_id: str, now_ms: int) -> list[DiffDict]:
    """Make a diff from each ``(type, model, data)``, all with the same time.

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
            reason = f"an operation is (type, model, data): {error}"
            raise InvalidDiffError(reason, index, _id_of(row)) from error
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
    """Let an InvalidDiffError name the row, because nobody knows the ids that were made above.

    Args:
        operations: what is checked or written meanwhile.
        places: the place of each operation's row, if the caller counts in another way.
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
