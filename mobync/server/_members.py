"""The members of a JSON object with each value as its text, as mobync itself sees them.

``1.0`` and ``1`` are different values to the merge, and 20 digits are 20 digits, so what the
inspector shows and compares is text as well.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


class Member(NamedTuple):
    """A field's name, decoded, and its value's text."""

    name: str
    text: str


def members_of(json_data: str) -> tuple[str | None, list[Member]]:
    """Take a row of the log apart.

    Args:
        json_data: the text of a JSON object.  Of a name that stands twice the last value counts.

    Returns:
        The object's ``id``, None where it has none; and the other members in the order in which
        they stand.  Of text that is no JSON object, or is nested deeper than Python follows, both
        are empty.
    """
    try:
        texts = dict(_members(json_data))
        object_id = json.loads(texts.pop("id", "null"))
    except (ValueError, IndexError, RecursionError):
        return None, []
    if not isinstance(object_id, str):
        object_id = None
    return object_id, [Member(name, text) for name, text in texts.items()]


def _members(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    at = _expect(text, 0, "{")
    while text[at] != "}":
        if found:
            at = _expect(text, at, ",")
        name, at = _DECODER.raw_decode(text, at)
        begin = _expect(text, at, ":")
        _, end = _DECODER.raw_decode(text, begin)
        found.append((name, text[begin:end]))
        at = _skip(text, end)
    return found


def _expect(text: str, at: int, sign: str) -> int:
    at = _skip(text, at)
    if text[at] != sign:
        raise ValueError(f"no {sign!r} at character {at}")
    return _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return at if match is None else match.end()
