"""The errors with which apply refuses a request.

All derive from :class:`MobyncError`, so ``except MobyncError`` in a sync route catches mistakes of
the device and lets the app's own exceptions through. The codes in parentheses are those of the 2020
paper "Offline-online data synchronization for Dart mobile applications", appendix A.
"""

from __future__ import annotations

from collections.abc import Sequence


class MobyncError(Exception):
    """mobync refused a sync. Nothing of it was written."""


class InvalidDiffError(MobyncError):
    """A diff, or the list of them, is malformed (ERROR_INVALID_DATA, ERROR_MALFORMED_UPDATE).

    The whole request is refused. Sending it again unchanged is refused again.

    Attributes:
        reason: what is wrong, for the developer of the client.
        index: the position of the diff in the request, from 0; None if the list itself is
            malformed.
        diff_id: the id of the diff, if it is a str. For a push or an adopt, the id of the row.
        others: other malformed diffs that were found at the same time, at later positions.
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
    """A row has the same id as another row of its table.

    A Synchronizer raises it from ``create``, ``create_many`` or ``append_log``. If ``append_log``
    raises it, the device was restored from a backup: the diff is written again with another id.
    """


class UnauthorizedError(MobyncError):
    """A rule (``validate_*``) of the app refused a diff.

    A rule may raise it with its own reason; :meth:`Mobync.apply` adds the position.

    Attributes:
        reason: which rule refused it, or the reason that the rule gave.
        index: the position of the diff in the request, from 0.
        diff_id: the id of the diff.
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
    """The device's logical clock is not valid (ERROR_INVALID_HEIGHT).

    It is negative, not an integer, or ahead of the server, which then has lost diffs that the
    device has seen. A device that is ahead must start over: pull everything from clock 0.

    Attributes:
        ahead: True if the device must start over, False if the clock is malformed.
        behind: True if the server has lost nothing, but cannot know what the device has not seen.
            Then an object of the device that the server does not have was deleted.
    """

    def __init__(self, message: str, *, ahead: bool = False, behind: bool = False) -> None:
        super().__init__(message)
        self.ahead = ahead
        self.behind = behind


class UnknownDeviceError(MobyncError):
    """What a named device says about itself does not match what the server has stored.

    A later request arrived before this one, or the device was copied, or the server was restored
    from a backup. The device takes a new name, gives new ids to its unsent edits, and sends them as
    request 1, without a mark, with its current clock.
    """


class DeviceRevokedError(MobyncError):
    """A person has revoked this named device, or the owner was erased.

    All of its requests are refused. The device drops the owner's rows.
    """


class OwnerMovedError(MobyncError):
    """The data of this named device belongs to another owner now: a guest has signed in.

    The device keeps its rows and its unsent edits, and continues with that owner's token.
    """


class OtherOwnerError(MobyncError):
    """A named device has the rows of another owner, and its token is of this one.

    It keeps everything, and sends nothing: its rows and unsent edits are not this owner's.
    """


class SameIdError(ValueError):
    """Two owners have objects with the same id, and the app does not say that these are the same.

    Attributes:
        objects: the model and the id of each object.
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
    """The server cannot store the parts of a request.

    The device sends fewer diffs at a time, each time as a whole request.
    """


class PartsMissingError(MobyncError):
    """The last part of a request arrived, and earlier parts are missing.

    The device sends the missing parts, and then the last one again.

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
    """The parts of a request are too long together, or a client's request has too many edits.

    The device sends fewer diffs at a time.
    """


class TooManyDevicesError(MobyncError):
    """A named device is new, and its owner has as many as one owner may have (``max_devices``).

    A person must revoke or forget a device. A device that was silent for long is forgotten
    automatically.
    """


class PageError(MobyncError):
    """The ``limit`` or the ``cursor`` of a request is not valid.

    A cursor is valid only with the ``logical_clock`` and the diffs of the request that got it.
    """


class BusyError(MobyncError):
    """Another sync of this owner, or another lock, took too long (ERROR_SERVER_BUSY).

    The same request may be sent again.
    """


class TooManyListenersError(BusyError):
    """The owner already has the largest number of devices that may listen for events.

    The same request may be sent again when one of them has gone.
    """


class UnavailableError(BusyError):
    """The database cannot do it now: it does not answer, is full, read-only, or too slow.

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
    except ValueError:  # an int with more digits than Python prints
        return f"a {type(value).__name__} too long to show"
