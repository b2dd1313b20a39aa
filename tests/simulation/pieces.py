"""Compaction in pieces as small as the logs of the simulation are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from mobync._sync import compacting
from mobync._waiting import Waiting

SIZES = (1, 2, 5, compacting.COMPACT_PIECE_CLOCKS)


@contextmanager
def in_pieces(clocks: int, between: Callable[[], Any] = lambda: None) -> Iterator[None]:
    """Have `compact` take so many clocks a piece.

    Args:
        clocks: one of SIZES.
        between: called instead of a pause between two pieces, when nobody has the owner's lock.
    """
    sizes = {"COMPACT_PIECE_CLOCKS": clocks, "COMPACT_LARGEST_PIECE_CLOCKS": 4 * clocks}
    pauses = patch.object(Waiting, "sleep", lambda *_: between())
    with patch.multiple(compacting, **sizes), pauses:
        yield
