"""Entries and histories as JSON for the inspector's page, with long texts cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from ._history import Life, Write
from ._log_pages import Entry
from .pushes import Push

ID_CHARACTERS = 2000  # an object with a longer id is listed, but has no page
ENTRY_FIELDS = 12
ENTRY_VALUE_CHARACTERS = 120
HISTORY_FIELDS = 100  # a page
HISTORY_VALUE_CHARACTERS = 1000


def entry_view(entry: Entry, push: Push | None = None) -> dict[str, Any]:
    """One row of the timeline, and its push, if that is known."""
    fields = [
        [_cut(name, ENTRY_VALUE_CHARACTERS), _cut(text, ENTRY_VALUE_CHARACTERS)]
        for name, text in islice(entry.members.items(), ENTRY_FIELDS)
    ]
    object_id = entry.object_id
    return {
        "logical_clock": entry.logical_clock,
        "id": entry.diff_id,
        "utc_timestamp": entry.utc_timestamp,
        "type": entry.kind,
        "model": entry.model,
        "object": None if object_id is None else _cut(object_id, ID_CHARACTERS),
        "object_is_cut": object_id is not None and len(object_id) > ID_CHARACTERS,
        "bytes": entry.size,
        "fields": fields,
        "more_fields": len(entry.members) - len(fields),
        "device": None if push is None else push.device,
    }


def history_view(
    entries: Sequence[Entry],
    lives: Sequence[Life],
    life: int | None,
    first: int,
    pushes: Mapping[int, Push] | None = None,
) -> dict[str, Any]:
    """An object's lives, and the fields of one of them.

    Args:
        entries: the entries of the object, the oldest first.
        lives: the lives of the object.
        life: which life to show, from 0; None is the last one.
        first: how many fields to skip.
        pushes: the push of each entry, by its clock, if it is known.
    """
    if life is None:
        life = len(lives) - 1
    chosen = lives[life] if 0 <= life < len(lives) else Life()
    shown = list(islice(chosen.names, first, first + HISTORY_FIELDS))
    left = len(chosen.names) - first - len(shown)
    return {
        "edits": [_edit_view(entry, (pushes or {}).get(entry.logical_clock)) for entry in entries],
        "lives": [{"created": one.created, "deleted": one.deleted} for one in lives],
        "life": life,
        "fields": [
            {
                "name": _cut(name, HISTORY_VALUE_CHARACTERS),
                "writes": [_write_view(write) for write in chosen.writes(name)],
            }
            for name in shown
        ],
        "next_field": first + len(shown) if left > 0 else None,
    }


def _edit_view(entry: Entry, push: Push | None) -> dict[str, Any]:
    return {
        "logical_clock": entry.logical_clock,
        "id": entry.diff_id,
        "utc_timestamp": entry.utc_timestamp,
        "type": entry.kind,
        "fields": len(entry.members),
        "device": None if push is None else push.device,
        "seen": None if push is None else push.seen_clock,
    }


def _write_view(write: Write) -> dict[str, Any]:
    return {
        "logical_clock": write.logical_clock,
        "value": _cut(write.text, HISTORY_VALUE_CHARACTERS),
        "why": write.why,
        "replaced": write.replaced,
        "later_ms": write.later_ms,
    }


def _cut(text: str, characters: int) -> str:
    if len(text) <= characters:
        return text
    return f"{text[:characters]}… ({len(text)} characters)"
