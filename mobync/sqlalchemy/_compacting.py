"""Compaction of a whole database: every owner in turn."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import BusyError
from ..sync import Mobync
from ..types import CompactResult
from ._synchronizer import SQLAlchemySynchronizer


def compact_all(mobync: Mobync) -> Iterator[tuple[str, CompactResult | None]]:
    """Compact the log of every owner, one after the other; only that one waits meanwhile.

    Nothing happens until the iterator is asked; stopping it leaves the rest for another time.
    Owners who begin to sync meanwhile may or may not be among them.

    Args:
        mobync: one whose synchronizer is a SQLAlchemySynchronizer.

    Yields:
        An owner and what :meth:`Mobync.compact` did for them; None where another sync of that
        owner took too long: their log is right, and as it was, or smaller.

    Raises:
        TypeError: the synchronizer is of another kind.
    """
    if not isinstance(mobync.synchronizer, SQLAlchemySynchronizer):
        raise TypeError(
            "compact_all needs a SQLAlchemySynchronizer, which can list owners, "
            f"not a {type(mobync.synchronizer).__name__}"
        )
    return _compact_each(mobync, mobync.synchronizer.owners())


def _compact_each(
    mobync: Mobync, owners: Iterator[str]
) -> Iterator[tuple[str, CompactResult | None]]:
    for owner_id in owners:
        try:
            yield owner_id, mobync.compact(owner_id)
        except BusyError:
            yield owner_id, None
