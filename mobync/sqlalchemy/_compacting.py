"""Compaction of a whole database: every owner in turn."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import BusyError
from ..sync import Mobync
from ..types import CompactResult
from ._synchronizer import SQLAlchemySynchronizer


def compact_all(mobync: Mobync) -> Iterator[tuple[str, CompactResult | None]]:
    """Compact the log of every owner in turn. Only the syncs of that owner wait meanwhile.

    The work is done while you iterate, and you can stop at any time. Owners who begin to sync
    meanwhile may or may not be included.

    Args:
        mobync: a Mobync whose synchronizer is a SQLAlchemySynchronizer.

    Yields:
        An owner and the result of :meth:`Mobync.compact`; None if another sync of that owner took
        too long. The log is right in any case, and unchanged or smaller.

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
