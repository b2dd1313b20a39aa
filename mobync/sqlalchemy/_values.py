"""JSON values of a device, and the columns that they are kept in.

A codec is made for a column type on a database.  It decodes what ``json.loads`` gave (numbers that
are not integers as Decimal, so that nothing is lost on the way) to what the database driver takes,
and encodes what the driver gives to something that ``json.dumps`` takes.  A value that the column
cannot hold is refused, never rounded, cut or bent: the device would go on showing something else
than the server has.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import math
import operator
import re
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal
from itertools import repeat
from typing import Any, NamedTuple

from sqlalchemy import types as sql
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Dialect

UTC = dt.timezone.utc
MAX_JSON_DEPTH = 200
_MOST_UTF8_BYTES = 4  # of one character


class DoesNotFit(ValueError):
    """Why a column cannot hold a value; follows the field's name: "must be true or false"."""


class Codec(NamedTuple):
    """Between a JSON value, never null, and the value of one column type.

    Attributes:
        decode: from JSON; raises DoesNotFit.
        encode: to JSON.
        keeps: whether decoding each of several values, at least one, would give the value itself.
            It may say no where it would: it is there to decode thousands of values at once.
    """

    decode: Callable[[Any], Any]
    encode: Callable[[Any], Any]
    keeps: Callable[[list[Any]], bool] = lambda values: False


def codec_of(type_: sql.TypeEngine[Any], dialect: Dialect) -> Codec | None:
    """The codec of a column type on a database; None for a type that cannot be synced."""
    if isinstance(type_, sql.PickleType | mysql.SET):
        return None
    type_ = variant_of(type_, dialect)
    if isinstance(type_, sql.TypeDecorator):
        type_ = variant_of(type_.type_engine(dialect), dialect)
    for kind, make in _MAKERS:
        if isinstance(type_, kind):
            return make(type_, dialect)
    return None


def is_json_as_read(type_: sql.TypeEngine[Any], codec: Codec) -> bool:
    """Whether encoding a value of this type gives the value itself."""
    # What an app's own TypeDecorator makes of a string need not be a str.
    return codec.encode in (str, int, bool, _as_is) and not isinstance(type_, sql.TypeDecorator)


def variant_of(type_: sql.TypeEngine[Any], dialect: Dialect) -> sql.TypeEngine[Any]:
    """What with_variant() declared for this database, or else the type itself."""
    # dialect_impl() would give the driver's own class, which for a Float can be a Numeric's.
    variants: Mapping[str, sql.TypeEngine[Any]] = getattr(type_, "_variant_mapping", {})
    return variants.get(dialect.name, type_)


def is_mysql(dialect: Dialect) -> bool:
    return dialect.name in ("mysql", "mariadb")


def _as_is(value: Any) -> Any:
    return value


# ---- numbers and truth ------------------------------------------------------------------------


def _boolean(_: Any, dialect: Dialect) -> Codec:
    def decode(value: Any) -> bool:
        # Where a device keeps its rows in SQLite, its booleans are 0 and 1.
        if isinstance(value, bool) or (isinstance(value, int) and value in (0, 1)):
            return bool(value)
        raise DoesNotFit("must be true or false")

    def keeps(values: list[Any]) -> bool:
        return set(map(type, values)) == {bool}

    return Codec(decode, bool, keeps)


def _integer(type_: sql.Integer, dialect: Dialect) -> Codec:
    bits = next(bits for kind, bits in _INTEGER_BITS if isinstance(type_, kind))
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    if getattr(type_, "unsigned", False):
        low, high = 0, 2**bits - 1

    def decode(value: Any) -> int:
        number = _number(value)
        if number is None or number != number.to_integral_value():
            raise DoesNotFit("must be an integer")
        if not low <= number <= high:
            raise DoesNotFit(f"must be of {low} to {high}")
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


def _float(type_: sql.Float[Any], dialect: Dialect) -> Codec:
    single = _is_single(type_, dialect)
    scale = type_.scale if is_mysql(dialect) else None

    def decode(value: Any) -> float:
        number = _number(value)
        if number is None:
            raise DoesNotFit("must be a number")
        if not math.isfinite(float(number)):
            raise DoesNotFit("is too large")
        if single and not _fits_single(number):
            raise DoesNotFit(f"is no number of {_SINGLE_DIGITS} digits, which a 4-byte float keeps")
        if scale is not None:
            _check_digits(number, (type_.precision or 0) - scale, scale)
        return float(number)

    return Codec(decode, float)


# What every decimal of so many digits survives, within the range; MariaDB and MySQL give no more.
_SINGLE_DIGITS = 6
_SINGLE_LEAST, _SINGLE_MOST = Decimal("1.17550e-38"), Decimal("3.40282e38")


def _is_single(type_: sql.Float[Any], dialect: Dialect) -> bool:
    """Whether a database makes floats of 4 bytes of it."""
    if dialect.name == "sqlite" or isinstance(type_, sql.Double):
        return False
    if isinstance(type_, sql.REAL):
        return not is_mysql(dialect)
    if is_mysql(dialect) and (type_.precision is None or type_.scale is not None):
        return True
    return type_.precision is not None and type_.precision <= 24


def _fits_single(number: Decimal) -> bool:
    digits = "".join(map(str, number.as_tuple().digits)).strip("0")
    if not digits:
        return True
    return len(digits) <= _SINGLE_DIGITS and _SINGLE_LEAST <= abs(number) <= _SINGLE_MOST


def _numeric(type_: sql.Numeric[Any], dialect: Dialect) -> Codec:
    whole_digits, scale = _numeric_size(type_, dialect)

    def decode(value: Any) -> Any:
        number = _number(_decimal_of_text(value) if isinstance(value, str) else value)
        if number is None:
            raise DoesNotFit("must be a number")
        _check_digits(number, whole_digits, scale)
        if dialect.name == "sqlite" and Decimal(repr(float(number))) != number:
            raise DoesNotFit("has more digits than SQLite keeps")
        # MySQL takes a literal with an exponent, as Decimal prints small numbers, for a double.
        return format(number, "f") if is_mysql(dialect) else number

    return Codec(decode, _encode_decimal)


def _numeric_size(type_: sql.Numeric[Any], dialect: Dialect) -> tuple[int, int]:
    """How many digits may stand before and after the point."""
    if type_.precision is not None:
        scale = type_.scale or 0
        return type_.precision - scale, scale
    if is_mysql(dialect):
        return 10, 0
    return 131_072, 16_383  # what PostgreSQL's unbounded numeric holds


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
    """Decimals often travel as text, because many a client has doubles only."""
    return Decimal(text) if _DECIMAL.fullmatch(text) else None


def _encode_decimal(value: Decimal | float) -> int | float | str:
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if number == number.to_integral_value() and number.adjusted() < 15:
        return int(number)
    if Decimal(repr(float(number))) == number:
        return float(number)
    return format(number, "f")


_INTEGER_BITS: tuple[tuple[type[Any], int], ...] = (
    (mysql.TINYINT, 8),
    (sql.SmallInteger, 16),
    (mysql.MEDIUMINT, 24),
    (sql.BigInteger, 64),
    (sql.Integer, 32),
)

# ---- text and bytes ---------------------------------------------------------------------------


def _char(type_: sql.String, dialect: Dialect) -> Codec:
    """Of a CHAR, which is filled with spaces; either the database takes them off again or we do."""
    plain = _string(type_, dialect)
    if dialect.name == "sqlite":  # to which it is a name for TEXT
        return plain

    def decode(value: Any) -> Any:
        text = plain.decode(value)
        if text.endswith(" "):
            raise DoesNotFit("ends in a space, which a CHAR does not keep")
        if len(text) > (type_.length or 1):
            raise DoesNotFit(f"is longer than {type_.length or 1} characters")
        return text

    return Codec(decode, lambda value: str(value).rstrip(" "))


def _string(type_: sql.String, dialect: Dialect) -> Codec:
    most_bytes = _size_on_mysql(type_) if is_mysql(dialect) else None

    def decode(value: Any) -> str:
        if not isinstance(value, str):
            raise DoesNotFit("must be a string")
        if "\0" in value:
            raise DoesNotFit("must not contain U+0000")
        if type_.length is not None and len(value) > type_.length:
            raise DoesNotFit(f"is longer than {type_.length} characters")
        if most_bytes is not None and len(value.encode()) > most_bytes:
            raise DoesNotFit(f"is longer than {most_bytes} bytes")
        return value

    def keeps(values: list[Any]) -> bool:
        if set(map(type, values)) != {str} or any(map(operator.contains, values, repeat("\0"))):
            return False
        longest = max(map(len, values))
        return (type_.length is None or longest <= type_.length) and (
            most_bytes is None or longest * _MOST_UTF8_BYTES <= most_bytes
        )

    return Codec(decode, str, keeps)


def _binary(type_: Any, dialect: Dialect) -> Codec:
    most_bytes = type_.length or (_size_on_mysql(type_) if is_mysql(dialect) else None)
    filled_up = isinstance(type_, sql.BINARY) and dialect.name != "sqlite"
    if filled_up:
        most_bytes = type_.length or 1

    def decode(value: Any) -> bytes:
        if not isinstance(value, str):
            raise DoesNotFit("must be a string of base64")
        try:
            content = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise DoesNotFit("must be a string of base64") from None
        if most_bytes is not None and len(content) > most_bytes:
            raise DoesNotFit(f"is longer than {most_bytes} bytes")
        if filled_up and len(content) != most_bytes:
            raise DoesNotFit(f"must be of {most_bytes} bytes, since a BINARY is filled up")
        return content

    return Codec(decode, lambda value: base64.b64encode(value).decode())


def _size_on_mysql(type_: Any) -> int | None:
    """How many bytes a text or blob holds where the declaration gives no length."""
    if type_.length is not None:
        return None
    return next((size for kinds, size in _MYSQL_SIZES if isinstance(type_, kinds)), None)


_MYSQL_SIZES: tuple[tuple[tuple[type[Any], ...], int], ...] = (
    ((mysql.TINYTEXT, mysql.TINYBLOB), 2**8 - 1),
    ((mysql.MEDIUMTEXT, mysql.MEDIUMBLOB), 2**24 - 1),
    ((mysql.LONGTEXT, mysql.LONGBLOB), 2**32 - 1),
    ((sql.Text, sql.LargeBinary), 2**16 - 1),
)


def _enum(type_: sql.Enum, dialect: Dialect) -> Codec:
    members: dict[str, Any] = {name: name for name in type_.enums}
    if type_.enum_class is not None:
        members = dict(zip(type_.enums, type_.enum_class, strict=True))
    names = {member: name for name, member in members.items()}

    def decode(value: Any) -> Any:
        if not isinstance(value, str) or value not in members:
            raise DoesNotFit(f"must be one of {', '.join(map(repr, members))}")
        return members[value]

    return Codec(decode, lambda value: names[value])


def _uuid(type_: Any, dialect: Dialect) -> Codec:
    def decode(value: Any) -> Any:
        # One spelling only: two that mean the same row would be two objects to the merge.
        if not isinstance(value, str) or not _UUID.fullmatch(value):
            raise DoesNotFit("must be a UUID of 36 lower-case characters")
        return uuid.UUID(value) if type_.as_uuid else value

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


def _datetime(type_: sql.DateTime, dialect: Dialect) -> Codec:
    decimals = _decimals_of_second(type_, dialect)
    least, most = _moments(type_, dialect)

    def decode(value: Any) -> dt.datetime:
        try:
            moment = _read_datetime(value)
            if moment.tzinfo is not None:
                moment = moment.astimezone(UTC)
        except (ValueError, OverflowError):
            raise DoesNotFit(
                "must be a date and time (ISO 8601, or milliseconds since 1970)"
            ) from None
        if not least <= moment.replace(tzinfo=None) <= most:
            raise DoesNotFit(f"must be of {least.isoformat()} to {most.isoformat()}")
        _check_decimals(moment.microsecond, decimals)
        return moment.replace(tzinfo=UTC if type_.timezone else None)

    def encode(value: dt.datetime) -> str:
        if type_.timezone:  # SQLite and MySQL give back what they were given without its zone
            value = value.astimezone(UTC) if value.tzinfo is not None else value.replace(tzinfo=UTC)
        return value.isoformat()

    return Codec(decode, encode)


def _moments(type_: sql.DateTime, dialect: Dialect) -> tuple[dt.datetime, dt.datetime]:
    """The first and last moment that can be kept and read again in whatever time zone."""
    if is_mysql(dialect) and isinstance(type_, sql.TIMESTAMP):
        return dt.datetime(1970, 1, 2), dt.datetime(2038, 1, 18)
    if dialect.name == "postgresql" and type_.timezone:
        return dt.datetime.min + dt.timedelta(days=1), dt.datetime.max - dt.timedelta(days=1)
    return dt.datetime.min, dt.datetime.max


def _decimals_of_second(type_: Any, dialect: Dialect) -> int:
    if is_mysql(dialect):
        return getattr(type_, "fsp", None) or 0
    if dialect.name == "postgresql":
        precision = getattr(type_, "precision", None)
        return 6 if precision is None else precision
    return 6


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


def _date(_: Any, dialect: Dialect) -> Codec:
    def decode(value: Any) -> dt.date:
        try:
            if isinstance(value, int) and not isinstance(value, bool) and value % _MS_A_DAY == 0:
                return (_EPOCH + dt.timedelta(milliseconds=value)).date()
            match = _DATE.fullmatch(value) if isinstance(value, str) else None
            if match is not None:
                return dt.date(*map(int, match.groups()))
        except (ValueError, OverflowError):
            pass
        raise DoesNotFit("must be a date (YYYY-MM-DD, or milliseconds since 1970 of a midnight)")

    return Codec(decode, dt.date.isoformat)


def _time(type_: sql.Time, dialect: Dialect) -> Codec | None:
    if type_.timezone:
        return None
    decimals = _decimals_of_second(type_, dialect)

    def decode(value: Any) -> dt.time:
        match = _TIME.fullmatch(value) if isinstance(value, str) else None
        try:
            time = None if match is None else dt.time(*_clock(list(match.groups())))
        except ValueError:
            time = None
        if time is None:
            raise DoesNotFit("must be a time (HH:MM:SS)")
        _check_decimals(time.microsecond, decimals)
        return time

    return Codec(decode, dt.time.isoformat)


# ---- JSON in JSON -----------------------------------------------------------------------------


def _json(_: Any, dialect: Dialect) -> Codec:
    def decode(value: Any) -> Any:
        # SQLite keeps a JSON text that is a number as a number of its own.
        if dialect.name == "sqlite" and isinstance(value, int) and abs(value) >= 2**63:
            raise DoesNotFit("is too large")
        return _plain_json(value)

    return Codec(decode, _as_is)


def _plain_json(value: Any, depth: int = 0) -> Any:
    """The value with floats where it has Decimals, if they say the same."""
    if depth > MAX_JSON_DEPTH:
        raise DoesNotFit(f"is nested deeper than {MAX_JSON_DEPTH} levels")
    if isinstance(value, dict):
        return {name: _plain_json(member, depth + 1) for name, member in value.items()}
    if isinstance(value, list):
        return [_plain_json(element, depth + 1) for element in value]
    if isinstance(value, Decimal):
        if Decimal(repr(float(value))) != value:
            raise DoesNotFit("has a number with more digits than a double keeps")
        return float(value)
    return value


# In this order: an Enum is a String, and in SQLAlchemy 2.0 a Float is a Numeric.
_MAKERS: tuple[tuple[Any, Callable[[Any, Dialect], Codec | None]], ...] = (
    (sql.Boolean, _boolean),
    (sql.Integer, _integer),
    (sql.Float, _float),
    (sql.Numeric, _numeric),
    (sql.Enum, _enum),
    (sql.CHAR, _char),
    (sql.NCHAR, _char),
    (sql.String, _string),
    (sql.Uuid, _uuid),
    (sql.LargeBinary, _binary),
    (sql.BINARY, _binary),
    (sql.VARBINARY, _binary),
    (sql.DateTime, _datetime),
    (sql.Date, _date),
    (sql.Time, _time),
    (sql.JSON, _json),
)
