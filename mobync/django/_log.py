"""The log of an owner, what is stored about devices, and parts of requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django.db import IntegrityError, connections, transaction

from .._relational.refused import TAKEN
from .._relational.rows import first_of, read_object
from ..errors import IdTakenError, InvalidDiffError
from ..types import FIELD_TIMES, LOG_FIELDS, FilterType, LogRow, ReadFilter
from ._model import IDS_A_STATEMENT
from .models import Device, Diff, Head, Part

LOG = "diffs"
OWNER_ITSELF = ""  # the name that no device has
LOG_COLUMNS = ("diff_id", *LOG_FIELDS[1:])  # in a model of Django, `id` is the primary key
_FIELDS = (*LOG_FIELDS, FIELD_TIMES)
_COLUMNS = (*LOG_COLUMNS, FIELD_TIMES)
_COLUMN_OF = dict(zip(_FIELDS, _COLUMNS, strict=True))

LOOKUPS = {
    FilterType.equal: "exact",
    FilterType.major: "gt",
    FilterType.minor: "lt",
    FilterType.majorOrEqual: "gte",
    FilterType.minorOrEqual: "lte",
}


class Log:
    """The diffs of one owner.

    Args:
        using: the alias of the database.
        owner_id: whose.
    """

    def __init__(self, using: str, owner_id: str) -> None:
        self._using = using
        self._owner_id = owner_id
        self._diffs = Diff.objects.using(using).filter(owner=owner_id)

    def read(self, filters: Sequence[ReadFilter]) -> list[dict[str, Any]]:
        """The diffs that pass all filters.

        Raises:
            ValueError: a filter names an unknown field.
        """
        diffs = self._diffs
        for f in filters:
            if f.field_name not in _COLUMN_OF:
                raise ValueError(f"{LOG!r} has no field {f.field_name!r:.100}")
            lookup = f"{_COLUMN_OF[f.field_name]}__{LOOKUPS[f.filter_by]}"
            diffs = diffs.filter(**{lookup: f.data})
        rows = [dict(zip(_FIELDS, row, strict=True)) for row in diffs.values_list(*_COLUMNS)]
        for row in rows:
            if row[FIELD_TIMES] is None:
                del row[FIELD_TIMES]
        return rows

    def append(self, rows: Sequence[LogRow]) -> None:
        """Insert diffs, each as the values of its seven fields.

        Raises:
            IdTakenError: the log has the id already.
        """
        self._insert([Diff(**dict(zip(LOG_COLUMNS, row, strict=True))) for row in rows])

    def create(self, rows_json: Sequence[str]) -> int:
        """Insert diffs that are JSON text; returns the highest clock of them."""
        objects = [read_object(each, "") for each in rows_json]
        self._insert([Diff(**_by_columns(each)) for each in objects])
        return max(int(each["logical_clock"]) for each in objects)

    def _insert(self, diffs: list[Diff]) -> None:
        if any(diff.owner != self._owner_id for diff in diffs):
            raise ValueError(f"a row of another owner for {LOG!r}")
        try:
            with transaction.atomic(using=self._using):
                Diff.objects.using(self._using).bulk_create(diffs)
        except IntegrityError as error:
            taken = self._taken([diff.diff_id for diff in diffs])
            if not taken:
                raise
            raise first_of(taken) from error

    def _taken(self, ids: Sequence[str]) -> list[InvalidDiffError]:
        found: set[str] = set()
        for begin in range(0, len(ids), IDS_A_STATEMENT):
            some = self._diffs.filter(diff_id__in=ids[begin : begin + IDS_A_STATEMENT])
            # MySQL and MariaDB do not compare spaces at the end.
            found.update(id_.rstrip(" ") for id_ in some.values_list("diff_id", flat=True))
        return [
            IdTakenError(TAKEN, place) for place, id_ in enumerate(ids) if id_.rstrip(" ") in found
        ]

    def update(self, rows_json: Sequence[str]) -> None:
        """Set the fields that each row carries."""
        for each in rows_json:
            changes = _by_columns(read_object(each, ""))
            self._diffs.filter(diff_id=changes.pop("diff_id")).update(**changes)

    def delete(self, rows_json: Sequence[str]) -> None:
        """Remove diffs by their ids."""
        ids = [read_object(each, "")["id"] for each in rows_json]
        for begin in range(0, len(ids), IDS_A_STATEMENT):
            self._diffs.filter(diff_id__in=ids[begin : begin + IDS_A_STATEMENT]).delete()


def _by_columns(members: Mapping[str, Any]) -> dict[str, Any]:
    return {_COLUMN_OF[name]: value for name, value in members.items()}


# ---- devices ------------------------------------------------------------------------------------


def read_devices(using: str, owner_id: str, names: Sequence[str] | None) -> dict[str, str]:
    """Read what is stored about some devices of an owner, or about all; not about the owner."""
    devices = Device.objects.using(using).filter(owner=owner_id)
    if names is None:
        return dict(devices.values_list("device", "state"))
    found: dict[str, str] = {}
    for begin in range(0, len(names), IDS_A_STATEMENT):
        some = devices.filter(device__in=names[begin : begin + IDS_A_STATEMENT])
        found.update(some.values_list("device", "state"))
    return found


def write_device(using: str, owner_id: str, name: str, text: str | None) -> None:
    """Store a text about a device, or about the owner itself; None deletes it."""
    if name == OWNER_ITSELF:
        Head.objects.using(using).filter(owner=owner_id).update(state=text)
        return
    devices = Device.objects.using(using).filter(owner=owner_id, device=name)
    if text is None:
        devices.delete()
    elif not devices.update(state=text):
        Device.objects.using(using).create(owner=owner_id, device=name, state=text)


# ---- parts of requests --------------------------------------------------------------------------


def has_parts(using: str) -> bool:
    """Whether the table of parts exists."""
    connection = connections[using]
    with connection.cursor() as cursor:
        return Part._meta.db_table in connection.introspection.table_names(cursor)


def write_part(using: str, owner_id: str, device: str, part: int, pieces: Sequence[str]) -> None:
    """Insert a part, each piece by its own statement, because packets have a limit."""
    for piece, text in enumerate(pieces):
        row = Part(owner=owner_id, device=device, part=part, piece=piece, diffs=text)
        row.save(using=using, force_insert=True)


def read_parts(using: str, owner_id: str, device: str) -> Iterator[tuple[int, str]]:
    """Yield the pieces of all parts of a device in order, each with the number of its part.

    Drivers fetch all rows of a statement at once, so there is one for each part.
    """
    rows = Part.objects.using(using).filter(owner=owner_id, device=device)
    for number in list(rows.order_by("part").values_list("part", flat=True).distinct()):
        pieces = rows.filter(part=number).order_by("piece").values_list("diffs", flat=True)
        for text in pieces.iterator():
            yield number, text


def drop_parts(using: str, owner_id: str, device: str | None) -> None:
    """Delete the parts of a device; without one, of all devices of the owner."""
    rows = Part.objects.using(using).filter(owner=owner_id)
    (rows if device is None else rows.filter(device=device)).delete()
