"""The app's own edits, as the diffs of a device that is up to date."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from . import _core
from ._log import OwnerLog
from ._transactions import OwnerTransactions
from ._writing import Writing
from .errors import InvalidDiffError
from .types import DiffDict

Operation = tuple[str, str, Mapping[str, Any] | str]


def push_operations(
    transactions: OwnerTransactions, operations: Sequence[Operation], now_ms: int
) -> tuple[int, int]:
    """Write edits into the models and the log.

    Args:
        transactions: of the owner.
        operations: the edits.
        now_ms: when they were made.

    Returns:
        The owner's logical clock afterwards, and how many diffs went into the log.

    Raises:
        InvalidDiffError: an operation is malformed or does not fit; ``index`` says which.
        BusyError: another transaction of this owner took too long.
    """
    diffs = diffs_of(operations, transactions.owner_id, now_ms)
    with naming_rows(operations):
        exchange = _core.Exchange(diffs, transactions.log_model)
        writing = Writing(transactions, exchange)

        def write(log: OwnerLog) -> tuple[int, int]:
            next_clock = log.highest_clock(0) + 1
            exchange.meet([])
            exchange.merge()
            accepted = writing.write(log, next_clock)
            return next_clock + accepted, accepted

        return writing.run(write)


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
