"""Notes of rows that something other than mobync has written, and the diffs of a log to compare."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

MOST_OBJECTS = 50  # for which the log is searched by text

_PLAIN = re.compile(r"[A-Za-z0-9_.:@ -]+", re.ASCII)  # JSON has no other spelling but \\uXXXX


class Note(NamedTuple):
    """A row that something other than mobync has written.

    Attributes:
        number: the number of the note.
        model, id: which row; the id as devices have it.
        noted_ms: when, in milliseconds since 1970.
    """

    number: int
    model: str
    id: str
    noted_ms: int


def searched_texts(ids: Sequence[str]) -> list[str] | None:
    r"""Texts of which each diff of some objects has one, or the beginning of an escape, ``\u``.

    Returns:
        None for so many objects, or such ids, that reading the whole log takes less.
    """
    searched = [max(_PLAIN.findall(id_), key=len, default="") for id_ in ids]
    return searched if len(ids) <= MOST_OBJECTS and all(searched) else None
