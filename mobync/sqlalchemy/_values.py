"""The codecs of column types: how each type stores a device's value, on each database."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from sqlalchemy import types as sql
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Dialect

from .._relational import values
from .._relational.values import Codec, DoesNotFit, as_is


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
    return codec.encode in (str, int, bool, as_is) and not isinstance(type_, sql.TypeDecorator)


def variant_of(type_: sql.TypeEngine[Any], dialect: Dialect) -> sql.TypeEngine[Any]:
    """What with_variant() declared for this database, or else the type itself."""
    # dialect_impl() would give the driver's own class, which for a Float can be a Numeric's.
    variants: Mapping[str, sql.TypeEngine[Any]] = getattr(type_, "_variant_mapping", {})
    return variants.get(dialect.name, type_)


def is_mysql(dialect: Dialect) -> bool:
    return dialect.name in ("mysql", "mariadb")


# ---- numbers and truth ------------------------------------------------------------------------


def _boolean(_: Any, dialect: Dialect) -> Codec:
    return values.boolean()


def _integer(type_: sql.Integer, dialect: Dialect) -> Codec:
    bits = next(bits for kind, bits in _INTEGER_BITS if isinstance(type_, kind))
    if getattr(type_, "unsigned", False):
        return values.integer(0, 2**bits - 1)
    return values.integer(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _float(type_: sql.Float[Any], dialect: Dialect) -> Codec:
    scale = type_.scale if is_mysql(dialect) else None
    digits = None if scale is None else ((type_.precision or 0) - scale, scale)
    return values.floating(_is_single(type_, dialect), digits)


def _is_single(type_: sql.Float[Any], dialect: Dialect) -> bool:
    """Whether a database stores it as a float of 4 bytes."""
    if dialect.name == "sqlite" or isinstance(type_, sql.Double):
        return False
    if isinstance(type_, sql.REAL):
        return not is_mysql(dialect)
    if is_mysql(dialect) and (type_.precision is None or type_.scale is not None):
        return True
    return type_.precision is not None and type_.precision <= 24


def _numeric(type_: sql.Numeric[Any], dialect: Dialect) -> Codec:
    # MySQL takes a literal with an exponent, as Decimal prints small numbers, for a double.
    written: Callable[[Decimal], Any] = _in_full if is_mysql(dialect) else as_is
    return values.numeric(*_numeric_size(type_, dialect), dialect.name == "sqlite", written)


def _in_full(number: Decimal) -> str:
    return format(number, "f")


def _numeric_size(type_: sql.Numeric[Any], dialect: Dialect) -> tuple[int, int]:
    """How many digits may stand before and after the point."""
    if type_.precision is not None:
        scale = type_.scale or 0
        return type_.precision - scale, scale
    if is_mysql(dialect):
        return 10, 0
    return 131_072, 16_383  # what PostgreSQL's unbounded numeric holds


_INTEGER_BITS: tuple[tuple[type[Any], int], ...] = (
    (mysql.TINYINT, 8),
    (sql.SmallInteger, 16),
    (mysql.MEDIUMINT, 24),
    (sql.BigInteger, 64),
    (sql.Integer, 32),
)

# ---- text and bytes ---------------------------------------------------------------------------


def _char(type_: sql.String, dialect: Dialect) -> Codec:
    """The codec of a CHAR, which is filled with spaces; the database or mobync removes them
    again."""
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
    return values.string(type_.length, _size_on_mysql(type_) if is_mysql(dialect) else None)


def _binary(type_: Any, dialect: Dialect) -> Codec:
    if isinstance(type_, sql.BINARY) and dialect.name != "sqlite":
        return values.binary(type_.length or 1, filled_up=True)
    most_bytes = type_.length or (_size_on_mysql(type_) if is_mysql(dialect) else None)
    return values.binary(most_bytes)


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
    if type_.enum_class is not None:
        return values.choice(dict(zip(type_.enums, type_.enum_class, strict=True)))
    return values.choice({name: name for name in type_.enums})


def _uuid(type_: Any, dialect: Dialect) -> Codec:
    return values.uuid_of(uuid.UUID if type_.as_uuid else str)


# ---- dates and times --------------------------------------------------------------------------


def _datetime(type_: sql.DateTime, dialect: Dialect) -> Codec:
    least, most = _moments(type_, dialect)
    return values.moment(_decimals_of_second(type_, dialect), least, most, type_.timezone)


def _moments(type_: sql.DateTime, dialect: Dialect) -> tuple[dt.datetime, dt.datetime]:
    """The first and last moment that can be kept and read again in whatever time zone."""
    if is_mysql(dialect) and isinstance(type_, sql.TIMESTAMP):
        return dt.datetime(1970, 1, 2), dt.datetime(2038, 1, 18)
    if dialect.name == "postgresql" and type_.timezone:
        return values.SAFE_MOMENTS
    return dt.datetime.min, dt.datetime.max


def _decimals_of_second(type_: Any, dialect: Dialect) -> int:
    if is_mysql(dialect):
        return getattr(type_, "fsp", None) or 0
    if dialect.name == "postgresql":
        precision = getattr(type_, "precision", None)
        return 6 if precision is None else precision
    return 6


def _date(_: Any, dialect: Dialect) -> Codec:
    return values.date()


def _time(type_: sql.Time, dialect: Dialect) -> Codec | None:
    return None if type_.timezone else values.time(_decimals_of_second(type_, dialect))


# ---- JSON in JSON -----------------------------------------------------------------------------


def _json(_: Any, dialect: Dialect) -> Codec:
    def most_levels() -> int:
        # Only now, since a URL of MySQL may lead to MariaDB, which a connection finds out.
        is_mariadb = dialect.name == "mariadb" or getattr(dialect, "is_mariadb", False)
        return values.json_depth(is_mysql(dialect), is_mariadb)

    return values.json_value(most_levels, dialect.name == "sqlite")


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
