"""Splits and joins JSON as text, so that no value is parsed and printed again."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import NoReturn

from .. import _core
from ..errors import InvalidDiffError, RequestTooLargeError
from ..types import Diff

MOST_VALUES = 1_000_000  # about, in a request with values that the core refuses

_SPACE = " \t\r\n"
_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_SINGLE = re.compile(rf"{_STRING}|[^\s,\]}}\"]+", re.DOTALL)
_STEP = re.compile(rf"{_STRING}|[\[\]{{}}\"]", re.DOTALL)


class Room:
    """How many more edits and names a request may have.

    A request may be short and have millions of them, and each takes memory and time.

    Args:
        most: how many it may have in all.
    """

    def __init__(self, most: int) -> None:
        self._most = self._left = most

    def take(self) -> None:
        """Take the room for one.

        Raises:
            RequestTooLargeError: there is none.
        """
        self._left -= 1
        if self._left < 0:
            raise RequestTooLargeError(
                f"a request must not have more than {self._most} edits (max_diffs)"
            )


def members_of(body: str | bytes, what: str) -> dict[str, str]:
    """The members of a JSON object, each as its text.

    Raises:
        InvalidDiffError: it is none; ``what`` says what should be one.
    """
    try:
        return dict(_core.members(body))
    except InvalidDiffError as error:
        raise InvalidDiffError(f"{what} must be a JSON object: {error.reason}") from error


def members_around(
    body: str | bytes, what: str, unread: Collection[str] | None = None
) -> dict[str, str]:
    """The members of a JSON object, some of which may have values that the core refuses.

    Such values contain U+0000, half an emoji, or very deep nesting. Of such a member, only the end
    was searched, and nothing else was checked.

    Args:
        body: the object.
        what: the name of the value, for an error.
        unread: the names of members that may have such values; None: all.

    Raises:
        InvalidDiffError: it is not an object, or another part of it cannot be read.
    """
    try:
        return members_of(body, what)
    except InvalidDiffError as error:
        try:
            members = _split(body if isinstance(body, str) else body.decode())
        except (ValueError, IndexError):
            raise error from None
    loose = {n: t for n, t in members.items() if unread is None or n in unread}
    others = [f"{json_of(n)}:{t}" for n, t in members.items() if n not in loose]
    names = [f"{json_of(n)}:0" for n in loose]
    checked = members_of("{" + ",".join((*names, *others)) + "}", what)
    return {**checked, **loose}


def unread_members(text: str, what: str) -> dict[str, str]:
    """The members of a JSON object that the core refuses, each as its text.

    Raises:
        InvalidDiffError: it is not JSON at all.
    """
    try:
        with suppress(RecursionError):  # JSON, as far as this checks
            json.loads(text, parse_constant=_refuse)
        return _split(text)
    except (ValueError, IndexError) as error:
        raise InvalidDiffError(f"{what} must be a JSON object") from error


def is_readable(text: str) -> bool:
    """Whether the core accepts a string."""
    return is_readable_object(f'{{"text":{json_of(text)}}}')


def is_readable_object(text: str) -> bool:
    """Whether the core accepts a text as a JSON object."""
    try:
        _core.members(text)
    except InvalidDiffError:
        return False
    return True


def _split(text: str) -> dict[str, str]:
    """The members of an object, found by searching for the end of each.

    Raises:
        ValueError, IndexError: it is not an object, or has too many values.
    """
    if sum(map(text.count, '[{"')) > MOST_VALUES:
        raise ValueError("too many values")
    members = {}
    place = _past_space(text, 0)
    if text[place] != "{":
        raise ValueError("no object")
    place = _past_space(text, place + 1)
    while text[place] != "}":
        end = _end_of(text, place)
        name = json.loads(text[place:end])
        place = _past_space(text, end)
        if not isinstance(name, str) or text[place] != ":":
            raise ValueError("no member")
        place = _past_space(text, place + 1)
        end = _end_of(text, place)
        members[name] = text[place:end]
        place = _past_space(text, end)
        if text[place] == ",":
            place = _past_space(text, place + 1)
        elif text[place] != "}":
            raise ValueError("no end of a member")
    if text[place + 1 :].strip(_SPACE):
        raise ValueError("more than an object")
    return members


def _end_of(text: str, place: int) -> int:
    """Where the value that begins at a place ends."""
    if text[place] not in "[{":
        end = _SINGLE.match(text, place)
        if end is None:
            raise ValueError("no value")
        return end.end()
    depth = 0
    for step in _STEP.finditer(text, place):
        kind = step[0]
        if kind == '"':  # otherwise each later quote would be tried, to the end of the text
            raise ValueError("no end of a string")
        depth += (kind in ("[", "{")) - (kind in ("]", "}"))
        if depth == 0:
            return step.end()
    raise ValueError("no end of a value")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def text_of(request: Mapping[str, str], name: str) -> str:
    """The member with a name, which must be a non-empty string.

    Raises:
        InvalidDiffError: it is missing or not such a string.
    """
    return string_of(request.get(name, "null"), name)


def string_of(text: str, what: str) -> str:
    """The string of a JSON text.

    Raises:
        InvalidDiffError: it is none, or is empty; ``what`` says what should be one.
    """
    try:
        value = json.loads(text) if text.startswith('"') else None
    except ValueError:
        value = None
    if not isinstance(value, str) or not value:
        raise InvalidDiffError(f"{what} must be a string that is not empty, not {text:.100}")
    return value


def whole_of(text: str, least: int, most: int) -> int | None:
    """The integer of a JSON text; None if it is not one, or is outside these limits."""
    if text.isascii() and text.isdigit() and len(text) <= len(str(most)):
        number = int(text)
        if least <= number <= most:
            return number
    return None


def elements(text: str, what: str, room: Room) -> Iterator[str]:
    """The elements of a JSON array, each as its text. The texts are not checked further.

    Raises:
        InvalidDiffError: it is not an array.
        RequestTooLargeError: the request has too many of them.
    """
    if not text.startswith("["):
        raise InvalidDiffError(f"{what} must be an array, not {text:.100}")
    try:
        place = _past_space(text, 1)
        while text[place] != "]":
            room.take()
            end = _end_of(text, place)
            yield text[place:end]
            place = _past_space(text, end)
            if text[place] == ",":
                place = _past_space(text, place + 1)
    except (ValueError, IndexError) as error:
        raise InvalidDiffError(f"{what} must be a JSON array") from error


def _past_space(text: str, place: int) -> int:
    while text[place] in _SPACE:
        place += 1
    return place


def joined(id_: str, members: Mapping[str, str]) -> str:
    """The JSON of an object from its id and the texts of the other members."""
    texts = {Diff.ID: json_of(id_), **members}
    return "{" + ",".join(f"{json_of(name)}:{text}" for name, text in texts.items()) + "}"


def json_of(text: str) -> str:
    """A string as JSON that UTF-8 can encode."""
    written = json.dumps(text, ensure_ascii=False)
    try:
        written.encode()
    except UnicodeEncodeError:  # half an emoji
        return json.dumps(text)
    return written


def same(text: str, other: str | None) -> bool:
    """Whether two values are equal for a client whose numbers are JavaScript's.

    For such a client, 9007199254740993 is 9007199254740992, and 1.0 is 1.
    """
    if other is None or text == other:
        return text == other
    try:
        return _as_read(text) == _as_read(other)
    except RecursionError:  # nested deeper than any log can have it
        return False


def _as_read(text: str) -> str:
    return json.dumps(json.loads(text, parse_int=_double, parse_float=_double), sort_keys=True)


def _double(digits: str) -> float | None:
    number = float(digits) + 0.0  # -0 is written as 0
    return None if math.isinf(number) else number  # as JSON.stringify writes what was too large
