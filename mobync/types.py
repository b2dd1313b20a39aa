"""The small types that apps and synchronizers share with mobync."""

from __future__ import annotations

import enum
import json
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypedDict

if TYPE_CHECKING:
    from typing_extensions import Self


class OperationType(enum.Enum):
    """What a diff does to its object."""

    create = 0
    update = 1
    delete = 2

    @classmethod
    def validate(cls, operation_type: object) -> bool:
        """Whether ``operation_type`` is the name of an operation, as a str."""
        return isinstance(operation_type, str) and operation_type in cls.__members__


class FilterType(enum.Enum):
    """How a :class:`ReadFilter` compares a field with its ``data``."""

    equal = 0
    major = 1
    minor = 2
    majorOrEqual = 3
    minorOrEqual = 4


_COMPARE: Final[dict[FilterType, Callable[[Any, Any], Any]]] = {
    FilterType.equal: operator.eq,
    FilterType.major: operator.gt,
    FilterType.minor: operator.lt,
    FilterType.majorOrEqual: operator.ge,
    FilterType.minorOrEqual: operator.le,
}


@dataclass
class ReadFilter:
    """A condition on the rows that :meth:`Synchronizer.read` returns.

    Attributes:
        field_name: the field to compare.
        filter_by: the comparison; ``major`` keeps rows whose field is greater than ``data``.
        data: the value to compare with.
    """

    field_name: str
    filter_by: FilterType
    data: Any


class Diff:
    """The names of a diff's fields, and a check of its form."""

    ID: Final = "id"
    OWNER: Final = "owner"
    LOGICAL_CLOCK: Final = "logical_clock"
    UTC_TIMESTAMP: Final = "utc_timestamp"
    TYPE: Final = "type"
    MODEL: Final = "model"
    JSON_DATA: Final = "json_data"

    @staticmethod
    def validate(diff: object) -> bool:
        """Whether ``diff`` has the form of a diff (docs/protocol.md, "The wire").

        Args:
            diff: a dict, or a JSON object as str.
        """
        from . import _core
        from .errors import InvalidDiffError

        try:
            if isinstance(diff, str):
                diff = json.loads(diff)
            _core.check_diff(diff)
        except (InvalidDiffError, ValueError, RecursionError):
            return False
        return True


MAX_LOGICAL_CLOCK: Final = 2**53 - 1  # the largest integer that every JSON client can hold


class DiffDict(TypedDict):
    """A diff as it is in a request, in the log and in a reply."""

    id: str
    owner: str
    logical_clock: int
    utc_timestamp: int
    type: str
    model: str
    json_data: str


LogRow = tuple[str, str, int, int, str, str, str]
"""A row of the log: the values of its seven fields, in the order of ``LOG_FIELDS``."""

LOG_FIELDS: Final = (
    Diff.ID,
    Diff.OWNER,
    Diff.LOGICAL_CLOCK,
    Diff.UTC_TIMESTAMP,
    Diff.TYPE,
    Diff.MODEL,
    Diff.JSON_DATA,
)

FIELD_TIMES: Final = "field_times"
"""The optional eighth field of a row of the log, if the store supports it.

The text of a JSON object from field names to times in milliseconds since 1970, when the field was
written. A create below the horizon has it for fields whose time is not its ``utc_timestamp``;
otherwise it is null."""


class FilledModel(NamedTuple):
    """The fields of a model's rows that the database, or the app's own code, fills in.

    Attributes:
        on_create: fields that get a value in a new row that comes without one.
        on_each_write: whether any write of a row may change its other fields too.
    """

    on_create: frozenset[str]
    on_each_write: bool


class Refusal(TypedDict, total=False):
    """A diff that was left out of a sync with ``on_refusal='skip'``.

    ``id`` is the id of the diff. If the id cannot be read, there is ``index`` instead, the position
    of the diff in the request, from 0.

    ``code`` is 'unauthorized' if a rule refused the diff; 'invalid' if it is malformed or the app's
    tables cannot store it; or 'depends_on_refused' for a diff of an object whose create or delete
    was refused earlier in the request.
    """

    id: str
    code: str
    message: str


class PlainReply(TypedDict):
    """The members that every reply has."""

    success: bool
    message: str
    logical_clock: int
    diffs: list[DiffDict]


class Reply(PlainReply, total=False):
    """The result of :meth:`Mobync.apply`, ready to be sent as JSON.

    ``more`` is there if the request has a limit or a cursor, ``cursor`` if there is more,
    ``refused`` with ``on_refusal='skip'``, and ``mark`` for a named device. ``reset`` is there if
    the device must drop its rows and pull from 0. ``seen_clock`` is there with ``reset`` if the
    device's clock belongs to another owner's log: it says how much of this log the device has seen.
    ``part`` is there if the request was a part; before the last part it means that the part is
    stored.
    """

    more: bool
    cursor: str
    refused: list[Refusal]
    mark: str | None
    reset: bool
    seen_clock: int
    part: int


@dataclass(frozen=True)
class SyncReport:
    """What a committed transaction did to an owner's log, for listeners (:meth:`Mobync.listen`).

    Attributes:
        owner_id: the owner of the log.
        logical_clock: the clock of the reply: the owner's clock, except on a page before the last.
        pushed: how many diffs came with the request, or how many operations of the backend.
        accepted: how many diffs were added to the log; if any, the owner's other devices have
            something to pull.
        sent: how many diffs are in the reply.
        conflicts: how many conflicts the merge decided: fields that both sides wrote, and objects
            that one side deleted and the other edited.
        refused: how many diffs were left out because they were refused.
        device: the name that the device gave itself; None: it has no name, or it was the backend.
        reset: whether the device was told to start over (docs/protocol.md, "Named devices").
        seen_clock: the logical clock of the request; the device had not seen the log from there on.
        retry: whether it was a repeated request of a named device.
        revoked: names of devices that are refused from now on. A report with such names has nothing
            else.
    """

    owner_id: str
    logical_clock: int
    pushed: int = 0
    accepted: int = 0
    sent: int = 0
    conflicts: int = 0
    refused: int = 0
    device: str | None = None
    reset: bool = False
    seen_clock: int = 0
    retry: bool = False
    revoked: tuple[str, ...] = ()


class MergeResult(NamedTuple):
    """The result of :func:`merge`.

    Attributes:
        upstream: diffs of the client that the server must apply, in the client's order.
        downstream: diffs of the server that the client must apply, in log order.
    """

    upstream: list[DiffDict]
    downstream: list[DiffDict]


class _Counts(NamedTuple):
    rows_before: int
    rows_after: int
    bytes_before: int
    bytes_after: int


class KnownDevice(NamedTuple):
    """A named device, as the server knows it.

    Attributes:
        name: the name that the device gave itself.
        label: the label for people (:meth:`Mobync.name_device`); empty if there is none.
        first_seen_ms, last_seen_ms: when it synced, in milliseconds since 1970. A poll that brings
            nothing new is not always recorded.
        logical_clock: the clock that it got last.
        behind: how many clocks of the owner's log it has not seen.
        holds_horizon: whether the log cannot be folded further because of what it may still ask for
            (docs/protocol.md, "The horizon").
        revoked: whether its requests are refused.
        parts: how many parts of a request are stored. The request is not complete yet, or it is the
            device's last one, whose parts stay until its next request (docs/protocol.md, "A request
            in parts").
        parts_bytes: how many bytes these parts have.
        parts_ms: when the last of them came, in milliseconds since 1970; 0: there are none.
    """

    name: str
    label: str
    first_seen_ms: int
    last_seen_ms: int
    logical_clock: int
    behind: int
    holds_horizon: bool
    revoked: bool
    parts: int = 0
    parts_bytes: int = 0
    parts_ms: int = 0


class EraseReceipt(NamedTuple):
    """What :meth:`Mobync.erase` deleted.

    Attributes:
        owner_id: the owner.
        rows: how many rows, by model.
        diffs: how many rows of the log.
        devices: how many named devices are refused from now on.
    """

    owner_id: str
    rows: Mapping[str, int]
    diffs: int
    devices: int


class MoveResult(NamedTuple):
    """What :meth:`Mobync.move_owner` gave to another owner.

    Attributes:
        old, new: the owner who had the data, and the owner who has it now.
        rows: how many rows of each model.
        diffs: how many diffs were added to the log of the new owner.
        same: how many objects of both owners are one object now.
        devices: how many named devices continue under the new owner.
    """

    old: str
    new: str
    rows: Mapping[str, int]
    diffs: int
    same: int
    devices: int


class CompactResult(_Counts):
    """The result of :meth:`Mobync.compact`: a tuple of four counts, and more attributes.

    Attributes:
        rows_before, rows_after: how many diffs are in the log.
        bytes_before, bytes_after: the size of their fields: text in UTF-8, 8 bytes for an integer.
        horizon: the clock below which the log is folded (docs/protocol.md, "The horizon").
        held_by: what keeps the horizon from moving up: up to ten names of devices, or "devices
            without a name". Empty if all of the log is folded, or the store does not store devices.
        unfolded_objects: how many objects below the horizon could not be folded, because the log
            has no column for the times of their fields (``field_times``).
    """

    horizon: int
    held_by: tuple[str, ...]
    unfolded_objects: int

    def __new__(
        cls,
        rows_before: int,
        rows_after: int,
        bytes_before: int,
        bytes_after: int,
        *,
        horizon: int = 0,
        held_by: tuple[str, ...] = (),
        unfolded_objects: int = 0,
    ) -> Self:
        result = super().__new__(cls, rows_before, rows_after, bytes_before, bytes_after)
        result.horizon = horizon
        result.held_by = held_by
        result.unfolded_objects = unfolded_objects
        return result


class Difference(NamedTuple):
    """An object that differs between an owner's log and the app's table.

    Attributes:
        model, id: which object.
        log: JSON text of the object in the log; None: no such object.
        table: JSON text of the object in the table; None: no such row of this owner.
    """

    model: str
    id: str
    log: str | None
    table: str | None


class ReconcileResult(NamedTuple):
    """The result of :meth:`Mobync.reconcile`; the edits are in the log unless it only looked.

    Attributes:
        rows: how many rows were compared.
        created: how many rows the log did not have, or not completely.
        updated: how many rows had a field that differed from the log.
        deleted: how many objects of the log have no row of this owner any more.
        differences: the first 100 differences.
    """

    rows: int
    created: int
    updated: int
    deleted: int
    differences: Sequence[Difference]

    @property
    def ok(self) -> bool:
        """Whether log and rows are the same."""
        return not (self.created or self.updated or self.deleted)
