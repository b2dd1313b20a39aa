"""Converts between JSON values of devices and values of columns.

A codec decodes a value of ``json.loads`` to a value of a column, and encodes a value of the column
for ``json.dumps``. Numbers that are not integers are Decimals, so that nothing is lost. A value
that the column cannot hold is refused, and never rounded or cut, because the device would show
another value than the server has.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import math
import operator
import re
import struct
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal
from itertools import repeat
from typing import Any, NamedTuple

UTC = dt.timezone.utc
_MOST_UTF8_BYTES = 4  # of a single character


class DoesNotFit(ValueError):
    """Why a column cannot hold a value; follows the field's name: "must be true or false"."""


class Codec(NamedTuple):
    """Converts between a JSON value, never null, and the value of one column type.

    Attributes:
        decode: from JSON; raises DoesNotFit.
        encode: to JSON.
        keeps: whether decoding each of several values, at least one, gives the value itself. It may
            wrongly say no. It makes it fast to decode thousands of values.
    """

    decode: Callable[[Any], Any]
    encode: Callable[[Any], Any]
    keeps: Callable[[list[Any]], bool] = lambda values: False


def as_is(value: Any) -> Any:
    return value


# ---- numbers and truth ------------------------------------------------------------------------


def boolean() -> Codec:
    def decode(value: Any) -> bool:
        # A device that stores its rows in SQLite has 0 and 1 for booleans.
        if isinstance(value, bool) or (isinstance(value, int) and value in (0, 1)):
            return bool(value)
        raise DoesNotFit("must be true or false")

    def keeps(values: list[Any]) -> bool:
        return set(map(type, values)) == {bool}

    return Codec(decode, bool, keeps)


def integer(low: int, high: int) -> Codec:
    def decode(value: Any) -> int:
        number = _number(value)
        if number is None or number != number.to_integral_value():
            raise DoesNotFit("must be an integer")
        if not low <= number <= high:
            raise DoesNotFit(f"must be from {low} to {high}")
        return int(number)

    def keeps(values: list[Any]) -> bool:
        return set(map(type, values)) == {int} and low <= min(values) and max(values) <= high

    return Codec(decode, int, keeps)


def _number(value: Any) -> Decimal | None:
    """A JSON number, exactly; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    return number if number.is_finite() else None


def floating(single: bool = False, digits: tuple[int, int] | None = None) -> Codec:
    """A float.

    Args:
        single: whether it has 4 bytes.
        digits: how many digits it may have before and after the point, if the column rounds.
    """

    def decode(value: Any) -> float:
        number = _number(value)
        if number is None:
            raise DoesNotFit("must be a number")
        if not math.isfinite(float(number)):
            raise DoesNotFit("is too large")
        if single and not _fits_single(number):
            raise DoesNotFit(f"has more than {_SINGLE_DIGITS} digits, which a 4-byte float keeps")
        if digits is not None:
            _check_digits(number, *digits)
        return float(number)

    return Codec(decode, _shortest_single if single else float)


def _shortest_single(value: Any) -> float:
    """The shortest number that is equal to this one in 4 bytes. asyncpg returns more digits."""
    kept = struct.pack("f", value)
    shortest = (float(f"{value:.{digits}g}") for digits in range(_SINGLE_DIGITS, 9))
    return next((each for each in shortest if struct.pack("f", each) == kept), float(value))


# A decimal of so many digits, within the range, comes back unchanged; MariaDB and MySQL return no
# more.
_SINGLE_DIGITS = 6
_SINGLE_LEAST, _SINGLE_MOST = Decimal("1.17550e-38"), Decimal("3.40282e38")


def _fits_single(number: Decimal) -> bool:
    digits = "".join(map(str, number.as_tuple().digits)).strip("0")
    if not digits:
        return True
    return len(digits) <= _SINGLE_DIGITS and _SINGLE_LEAST <= abs(number) <= _SINGLE_MOST


def numeric(
    whole_digits: int,
    scale: int,
    in_doubles: bool = False,
    written: Callable[[Decimal], Any] = as_is,
) -> Codec:
    """A decimal.

    Args:
        whole_digits: how many digits it may have before the point.
        scale: how many after it.
        in_doubles: whether the database stores them as doubles.
        written: converts a decimal for the driver.
    """

    def decode(value: Any) -> Any:
        number = _number(_decimal_of_text(value) if isinstance(value, str) else value)
        if number is None:
            raise DoesNotFit("must be a number")
        _check_digits(number, whole_digits, scale)
        if not number:
            return _ZERO  # not one with a billion digits, which would be written out
        if in_doubles and Decimal(repr(float(number))) != number:
            raise DoesNotFit("has more digits than SQLite keeps")
        return written(number)

    return Codec(decode, _encode_decimal)


_ZERO = Decimal(0)


def _check_digits(number: Decimal, whole_digits: int, scale: int) -> None:
    digits, places = _digits(number)
    if digits > whole_digits:
        raise DoesNotFit(f"has more than {whole_digits} digits before the point")
    if places > scale:
        raise DoesNotFit(f"has more than {scale} digits after the point")


def _digits(number: Decimal) -> tuple[int, int]:
    """Digits that a number needs before and after the point."""
    _, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    significant = "".join(map(str, digits)).strip("0")
    if not significant:
        return 0, 0
    trailing_zeros = len(digits) - len("".join(map(str, digits)).rstrip("0"))
    return max(number.adjusted() + 1, 0), max(-exponent - trailing_zeros, 0)


_DECIMAL = re.compile(r"-?[0-9]{1,400}(\.[0-9]{1,400})?", re.ASCII)


def _decimal_of_text(text: str) -> Decimal | None:
    """Decimals are often sent as text, because many clients have only doubles."""
    return Decimal(text) if _DECIMAL.fullmatch(text) else None


def _encode_decimal(value: Decimal | float) -> int | float | str:
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if number == number.to_integral_value() and number.adjusted() < 15:
        return int(number)
    if Decimal(repr(float(number))) == number:
        return float(number)
    return format(number, "f")


# ---- text and bytes ---------------------------------------------------------------------------


def string(most_characters: int | None = None, most_bytes: int | None = None) -> Codec:
    def decode(value: Any) -> str:
        if not isinstance(value, str):
            raise DoesNotFit("must be a string")
        if "\0" in value:
            raise DoesNotFit("must not contain U+0000")
        if most_characters is not None and len(value) > most_characters:
            raise DoesNotFit(f"is longer than {most_characters} characters")
        if most_bytes is not None and len(value.encode()) > most_bytes:
            raise DoesNotFit(f"is longer than {most_bytes} bytes")
        return value

    def keeps(values: list[Any]) -> bool:
        if set(map(type, values)) != {str} or any(map(operator.contains, values, repeat("\0"))):
            return False
        longest = max(map(len, values))
        return (most_characters is None or longest <= most_characters) and (
            most_bytes is None or longest * _MOST_UTF8_BYTES <= most_bytes
        )

    return Codec(decode, str, keeps)


def binary(most_bytes: int | None = None, filled_up: bool = False) -> Codec:
    """Bytes as base64; with ``filled_up``, exactly as many as the column has."""

    def decode(value: Any) -> bytes:
        if not isinstance(value, str):
            raise DoesNotFit("must be a base64 string")
        try:
            content = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise DoesNotFit("must be a base64 string") from None
        if most_bytes is not None and len(content) > most_bytes:
            raise DoesNotFit(f"is longer than {most_bytes} bytes")
        if filled_up and len(content) != most_bytes:
            raise DoesNotFit(f"must have {most_bytes} bytes, because a BINARY is padded")
        return content

    return Codec(decode, lambda value: base64.b64encode(value).decode())


def choice(members: Mapping[str, Any]) -> Codec:
    """One of some values, by the names that devices use."""
    names = {member: name for name, member in members.items()}

    def decode(value: Any) -> Any:
        if not isinstance(value, str) or value not in members:
            raise DoesNotFit(f"must be one of {', '.join(map(repr, members))}")
        return members[value]

    return Codec(decode, lambda value: names[value])


def uuid_of(made_of: Callable[[str], Any]) -> Codec:
    """A UUID; ``made_of`` converts its text for the column."""

    def decode(value: Any) -> Any:
        # Only one spelling, because the merge would take two spellings for two objects.
        if not isinstance(value, str) or not _UUID.fullmatch(value):
            raise DoesNotFit("must be a UUID of 36 lower-case characters")
        return made_of(value)

    return Codec(decode, lambda value: str(uuid.UUID(str(value))))


_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)

# ---- dates and times --------------------------------------------------------------------------

_DAY = r"(\d{4})-(\d\d)-(\d\d)"
_CLOCK = r"(\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?"
_DATE = re.compile(_DAY, re.ASCII)
_TIME = re.compile(_CLOCK, re.ASCII)
_DATETIME = re.compile(_DAY + "[T ]" + _CLOCK + r"(?:([Zz])|([+-])(\d\d):?(\d\d))?", re.ASCII)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=UTC)
_MS_A_DAY = 86_400_000

# The range that can be read again in any time zone.
SAFE_MOMENTS = dt.datetime.min + dt.timedelta(days=1), dt.datetime.max - dt.timedelta(days=1)


def moment(decimals: int, least: dt.datetime, most: dt.datetime, has_zone: bool) -> Codec:
    """A date and time.

    Args:
        decimals: how many decimals of a second the column stores.
        least, most: the first and last time that it stores, without a zone.
        has_zone: whether it stores the zone; otherwise the time is converted to UTC first.
    """

    def decode(value: Any) -> dt.datetime:
        try:
            read = _read_datetime(value)
            if read.tzinfo is not None:
                read = read.astimezone(UTC)
        except (ValueError, OverflowError):
            raise DoesNotFit(
                "must be a date and time (ISO 8601, or milliseconds since 1970)"
            ) from None
        if not least <= read.replace(tzinfo=None) <= most:
            raise DoesNotFit(f"must be from {least.isoformat()} to {most.isoformat()}")
        _check_decimals(read.microsecond, decimals)
        return read.replace(tzinfo=UTC if has_zone else None)

    def encode(value: dt.datetime) -> str:
        if has_zone:  # SQLite and MySQL return the time without its zone
            value = value.astimezone(UTC) if value.tzinfo is not None else value.replace(tzinfo=UTC)
        return value.isoformat()

    return Codec(decode, encode)


def _check_decimals(microsecond: int, decimals: int) -> None:
    if microsecond % 10 ** (6 - decimals):
        raise DoesNotFit(f"has more than {decimals} decimals of a second")


def _read_datetime(value: Any) -> dt.datetime:
    if isinstance(value, int) and not isinstance(value, bool):
        return _EPOCH + dt.timedelta(milliseconds=value)
    match = _DATETIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(value)
    year, month, day, *clock, utc, sign, hours, minutes = match.groups()
    zone = UTC if utc else None
    if sign:
        offset = dt.timedelta(hours=int(hours), minutes=int(minutes))
        zone = dt.timezone(-offset if sign == "-" else offset)
    return dt.datetime(int(year), int(month), int(day), *_clock(clock), tzinfo=zone)


def _clock(parts: list[str]) -> tuple[int, int, int, int]:
    hour, minute, second, fraction = parts
    nanoseconds = int((fraction or "").ljust(9, "0"))
    if nanoseconds % 1000:
        raise ValueError("finer than a microsecond")
    return int(hour), int(minute), int(second or 0), nanoseconds // 1000


def date() -> Codec:
    def decode(value: Any) -> dt.date:
        try:
            if isinstance(value, int) and not isinstance(value, bool) and value % _MS_A_DAY == 0:
                return (_EPOCH + dt.timedelta(milliseconds=value)).date()
            match = _DATE.fullmatch(value) if isinstance(value, str) else None
            if match is not None:
                return dt.date(*map(int, match.groups()))
        except (ValueError, OverflowError):
            pass
        raise DoesNotFit("must be a date (YYYY-MM-DD, or milliseconds since 1970, at midnight UTC)")

    return Codec(decode, dt.date.isoformat)


def time(decimals: int) -> Codec:
    def decode(value: Any) -> dt.time:
        match = _TIME.fullmatch(value) if isinstance(value, str) else None
        try:
            read = None if match is None else dt.time(*_clock(list(match.groups())))
        except ValueError:
            read = None
        if read is None:
            raise DoesNotFit("must be a time (HH:MM:SS)")
        _check_decimals(read.microsecond, decimals)
        return read

    return Codec(decode, dt.time.isoformat)


# ---- JSON in JSON -----------------------------------------------------------------------------


def json_value(most_levels: Callable[[], int], in_sqlite: bool) -> Codec:
    """JSON; the allowed depth is looked up for each value."""

    def decode(value: Any) -> Any:
        most = most_levels()
        # SQLite would store a JSON text that is a number as a number of its own.
        if in_sqlite and isinstance(value, int) and abs(value) >= 2**63:
            raise DoesNotFit("is too large")
        return _plain_json(value, most, most)

    return Codec(decode, as_is)


MAX_JSON_DEPTH = 200
_MARIADB_JSON_DEPTH, _MYSQL_JSON_DEPTH = 31, 99


def json_depth(is_mysql: bool, is_mariadb: bool) -> int:
    """How many levels a JSON column takes."""
    if not is_mysql:
        return MAX_JSON_DEPTH
    return _MARIADB_JSON_DEPTH if is_mariadb else _MYSQL_JSON_DEPTH


def _plain_json(value: Any, levels_left: int, most: int) -> Any:
    """The value with floats in place of Decimals, if they are equal."""
    if isinstance(value, dict | list) and levels_left == 0:
        raise DoesNotFit(f"is nested deeper than {most} levels")
    if isinstance(value, dict):
        return {name: _plain_json(member, levels_left - 1, most) for name, member in value.items()}
    if isinstance(value, list):
        return [_plain_json(element, levels_left - 1, most) for element in value]
    if isinstance(value, Decimal):
        if Decimal(repr(float(value))) != value:
            raise DoesNotFit("has a number with more digits than a double keeps")
        return float(value)
    return value
