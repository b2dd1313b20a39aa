"""The codec of each kind of field: how it stores a value of a device."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from django.conf import settings
from django.db import models

from .._relational import values
from .._relational.values import Codec

_INTEGER_BITS = (
    (models.SmallIntegerField, 16),
    (models.PositiveSmallIntegerField, 16),
    (models.BigIntegerField, 64),
    (models.PositiveBigIntegerField, 64),
    (models.BigAutoField, 64),
    (models.IntegerField, 32),  # the others derive from it
)


def codec_of(field: Any, connection: Any) -> Codec | None:
    """The codec of a field on a database; None for a field that cannot be synced.

    A file cannot: a device would write its name, and so could name any file of the server.
    """
    if isinstance(field, models.ForeignKey):
        return codec_of(field.target_field, connection)
    if getattr(field, "generated", False):
        return codec_of(field.output_field, connection)
    for kind, make in _MAKERS:
        if isinstance(field, kind):
            codec: Codec = make(field, connection)
            return codec
    return None


def _boolean(field: Any, connection: Any) -> Codec:
    return values.boolean()


def _integer(field: Any, connection: Any) -> Codec:
    bits = next(bits for kind, bits in _INTEGER_BITS if isinstance(field, kind))
    high = 2 ** (bits - 1) - 1
    is_positive = isinstance(field, models.fields.PositiveIntegerRelDbTypeMixin)
    return values.integer(0 if is_positive else -high - 1, high)


def _float(field: Any, connection: Any) -> Codec:
    return values.floating()


def _decimal(field: Any, connection: Any) -> Codec:
    places = field.decimal_places
    return values.numeric(field.max_digits - places, places, connection.vendor == "sqlite")


def _string(field: Any, connection: Any) -> Codec:
    return values.string(field.max_length)


def _text(field: Any, connection: Any) -> Codec:
    return values.string()


def _binary(field: Any, connection: Any) -> Codec:
    return values.binary(field.max_length)


def _uuid(field: Any, connection: Any) -> Codec:
    return values.uuid_of(uuid.UUID)


def _moment(field: Any, connection: Any) -> Codec:
    least, most = values.SAFE_MOMENTS
    if not settings.USE_TZ:
        least, most = dt.datetime.min, dt.datetime.max
    return values.moment(6, least, most, settings.USE_TZ)


def _date(field: Any, connection: Any) -> Codec:
    return values.date()


def _time(field: Any, connection: Any) -> Codec:
    return values.time(6)


def _json(field: Any, connection: Any) -> Codec:
    is_mysql = connection.vendor == "mysql"

    def most_levels() -> int:
        return values.json_depth(is_mysql, is_mysql and connection.mysql_is_mariadb)

    return values.json_value(most_levels, connection.vendor == "sqlite")


# In this order: a DateTimeField is a DateField.
_MAKERS: tuple[tuple[Any, Any], ...] = (
    (models.BooleanField, _boolean),
    (models.IntegerField, _integer),
    (models.FloatField, _float),
    (models.DecimalField, _decimal),
    (models.CharField, _string),
    (models.TextField, _text),
    (models.GenericIPAddressField, _string),
    (models.BinaryField, _binary),
    (models.UUIDField, _uuid),
    (models.DateTimeField, _moment),
    (models.DateField, _date),
    (models.TimeField, _time),
    (models.JSONField, _json),
)
