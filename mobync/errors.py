"""What apply can refuse, and why.

All derive from :class:`MobyncError`, so ``except MobyncError`` in a sync route catches what the
device did wrong and lets the app's own exceptions through.  The codes in parentheses are those of
the 2020 paper "Offline-online data synchronization for Dart mobile applications", appendix A.
"""

from __future__ import annotations

from collections.abc import Sequence


class MobyncError(Exception):
    """A sync that mobync refused.  Nothing of it was written."""


class InvalidDiffError(MobyncError):
    """A diff, or the list of them, is malformed (ERROR_INVALID_DATA, ERROR_MALFORMED_UPDATE).

    The whole request is refused; sending it again unchanged is refused again.

    Attributes:
        reason: what is wrong, for the developer of the client.
        index: place of the diff in the request, from 0; None where the list itself is at fault.
        diff_id: the diff's id, if it has one that is a str; of a push or an adopt the row's id.
        others: what was found malformed at the same time, in later places.
    """

    # For an app's subclass whose __init__ does not call this one.
    reason: str = "refused"
    index: int | None = None
    diff_id: str | None = None
    others: Sequence[InvalidDiffError] = ()

    def __init__(self, reason: str, index: int | None = None, diff_id: str | None = None) -> None:
        super().__init__(reason, index, diff_id)
        self.reason = reason
        self.index = index
        self.diff_id = diff_id

    def __str__(self) -> str:
        return _located("invalid", self.index, self.diff_id, self.reason)


class IdTakenError(InvalidDiffError):
    """A row has an id that another row of its table has already.

    A Synchronizer raises it from ``create``, ``create_many`` or ``append_log``.  From the log it
    means that the device went back to a backup: the diff comes again under another id.
    """


class UnauthorizedError(MobyncError):
    """A ``validate_*`` of the app said no.

    A rule may raise it with a reason of its own; :meth:`Mobync.apply` adds the place.

    Attributes:
        reason: which rule refused, or what the rule says.
        index: place of the diff in the request, from 0.
        diff_id: the diff's id.
    """

    # For an app's subclass whose __init__ does not call this one.
    reason: str = "refused"
    index: int | None = None
    diff_id: str | None = None

    def __init__(self, reason: str, index: int | None = None, diff_id: str | None = None) -> None:
        super().__init__(reason, index, diff_id)
        self.reason = reason
        self.index = index
        self.diff_id = diff_id

    def __str__(self) -> str:
        return _located("unauthorized", self.index, self.diff_id, self.reason)


class LogicalClockError(MobyncError):
    """The device's logical clock cannot be right (ERROR_INVALID_HEIGHT).

    It is negative, or not an integer, or ahead of the server, which then has lost diffs that the
    device has seen.  A device that is ahead must start again: pull everything from clock 0.

    Attributes:
        ahead: whether it is ahead of the server, and not malformed.
    """

    def __init__(self, message: str, *, ahead: bool = False) -> None:
        super().__init__(message)
        self.ahead = ahead


class UnknownDeviceError(MobyncError):
    """A named device is not as the server knows it.

    Its request was overtaken by a later one, or it is a copy of the device, or the server is a
    backup that has forgotten.  The device takes a new name, gives what it has not sent new ids, and
    sends it as request 1, without a mark, with the clock that it has.
    """


class DeviceRevokedError(MobyncError):
    """A person has ended this named device, or the owner was erased.

    No request of it is taken any more.  The device drops the owner's rows.
    """


class OwnerMovedError(MobyncError):
    """What this named device has was given to another owner: a guest has signed in.

    The device keeps its rows and what it has not sent, and goes on with that owner's token.
    """


class SameIdError(ValueError):
    """Two owners have objects of the same id, and nobody said whether these are the same.

    Attributes:
        objects: the model and the id of each.
    """

    def __init__(self, objects: Sequence[tuple[str, str]]) -> None:
        super().__init__(objects)
        self.objects = objects

    def __str__(self) -> str:
        named = ", ".join(f"{model!r:.100} {id_!r:.100}" for model, id_ in self.objects[:10])
        more = f" and {len(self.objects) - 10} more" if len(self.objects) > 10 else ""
        return (
            f"both owners have {named}{more}: same=(...) names the models whose objects are the "
            "same if their ids are"
        )


class NoPartsError(MobyncError):
    """The server cannot keep the parts of a request: its store has nowhere to put them.

    The device sends fewer diffs at a time, each time as a whole request.
    """


class PartsMissingError(MobyncError):
    """The last part of a request came, and not all before it are there.

    The device sends those that are missing, and then the last one again.

    Attributes:
        missing: their numbers.
    """

    def __init__(self, missing: Sequence[int]) -> None:
        super().__init__(missing)
        self.missing = list(missing)

    def __str__(self) -> str:
        some = ", ".join(map(str, self.missing[:20]))
        more = ", ..." if len(self.missing) > 20 else ""
        return f"parts of this request are missing: {some}{more}; send them, and this one again"


class RequestTooLargeError(MobyncError):
    """The parts of a request are too long in all.

    The device sends fewer diffs at a time.
    """


class PageError(MobyncError):
    """The ``limit`` or the ``cursor`` of a request cannot be right.

    A cursor goes on with the ``logical_clock`` and the diffs of the request that got it.
    """


class BusyError(MobyncError):
    """Another sync of this owner, or who had locked a row, took too long (ERROR_SERVER_BUSY).

    The same request may be sent again.
    """


class TooManyListenersError(BusyError):
    """As many devices of this owner listen for events as one owner may have.

    The same request may be sent again when one of them has left.
    """


class UnavailableError(BusyError):
    """The database cannot do it now: it is away, full, read-only, or too slow.

    The same request may be sent again later.
    """


def _located(kind: str, index: int | None, diff_id: str | None, reason: str) -> str:
    if index is None:
        return f"{kind} request: {reason}"
    name = f" ({diff_id!r})" if diff_id is not None else ""
    return f"{kind} diff {index}{name}: {reason}"


def shown(value: object) -> str:
    """A value for an error's message: what Python shows of it, cut short."""
    try:
        return f"{value!r:.100}"
    except ValueError:  # an int of more digits than Python prints
        return f"a {type(value).__name__} too long to show"
