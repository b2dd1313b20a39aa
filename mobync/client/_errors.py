"""What a sync can end with, beside its result."""

from __future__ import annotations


class ClientError(Exception):
    """A sync of a :class:`Device` did not come to its end.  Nothing is lost: call it again."""


class OfflineError(ClientError):
    """The server gives no answer, or none now.  It may in a while."""


class TokenError(ClientError):
    """The server does not take the token, and asking for another one did not help."""


class ServerError(ClientError):
    """An answer after which trying again is of no use: somebody has to fix something.

    Attributes:
        status: of HTTP.
        code: what the server calls it; empty if it is no answer of mobync.
    """

    def __init__(self, message: str, status: int, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class DeviceRevokedError(ServerError):
    """A person has ended this device.  Its rows are gone, and what waited; it may not sync."""
