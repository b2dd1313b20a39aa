"""The small types that apps and synchronizers share with mobync, as in mobync 0.2.0."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypedDict


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


@dataclass
class ReadFilter:
    """A condition on the rows that :meth:`Synchronizer.read` returns.

    Attributes:
        field_name: the field to compare.
        filter_by: how; ``major`` keeps rows whose field is greater than ``data``.
        data: what to compare with.
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
            _core.Exchange([diff])
        except (InvalidDiffError, ValueError, RecursionError):
            return False
        return True


MAX_LOGICAL_CLOCK: Final = 2**53 - 1  # what every JSON client can hold exactly


class DiffDict(TypedDict):
    """A diff as it travels: what a device sends, what the log holds, what a reply brings."""

    id: str
    owner: str
    logical_clock: int
    utc_timestamp: int
    type: str
    model: str
    json_data: str


class Refusal(TypedDict):
    """A diff that was left out of a sync with ``on_refusal='skip'``.

    ``code`` is 'unauthorized', 'invalid' for what the rules or the app's tables cannot take, or
    'depends_on_refused' for a diff of an object whose create or delete, earlier in the request,
    was refused.
    """

    id: str
    code: str
    message: str


class PlainReply(TypedDict):
    """What every reply has."""

    success: bool
    message: str
    logical_clock: int
    diffs: list[DiffDict]


class Reply(PlainReply, total=False):
    """What :meth:`Mobync.apply` returns, ready to be sent as JSON.

    ``more`` is there if the request has a limit or a cursor, ``cursor`` if there is more, and
    ``refused`` with ``on_refusal='skip'``.
    """

    more: bool
    cursor: str
    refused: list[Refusal]


@dataclass(frozen=True)
class SyncReport:
    """What a committed transaction did to an owner's log, for those who :meth:`Mobync.listen`.

    Attributes:
        owner_id: whose log.
        logical_clock: that of the reply: the owner's, except on a page before the last.
        pushed: diffs that came with the request, or operations of the backend.
        accepted: diffs that went into the log; if any, the owner's other devices have news.
        sent: diffs in the reply.
        conflicts: fields that both sides wrote, and objects that one side deleted and the other
            edited, between which the merge decided.
        refused: diffs that were left out because a rule refused them.
    """

    owner_id: str
    logical_clock: int
    pushed: int = 0
    accepted: int = 0
    sent: int = 0
    conflicts: int = 0
    refused: int = 0


class MergeResult(NamedTuple):
    """What :func:`merge` returns.

    Attributes:
        upstream: diffs of the client that the server must apply, in the client's order.
        downstream: diffs of the server that the client must apply, in log order.
    """

    upstream: list[DiffDict]
    downstream: list[DiffDict]


class CompactResult(NamedTuple):
    """What :meth:`Mobync.compact` did to an owner's log.

    Attributes:
        rows_before, rows_after: diffs in the log.
        bytes_before, bytes_after: of the seven fields: text in UTF-8, integers 8 bytes each.
    """

    rows_before: int
    rows_after: int
    bytes_before: int
    bytes_after: int
