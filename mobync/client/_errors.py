"""The errors of a sync."""

from __future__ import annotations


class ClientError(Exception):
    """A sync of a :class:`Device` did not finish. Nothing is lost: call it again."""


class OfflineError(ClientError):
    """The server does not answer, or is busy. It may answer later."""


class TokenError(ClientError):
    """The server accepts neither the token nor a new one."""


class ServerError(ClientError):
    """The server gave an answer that another try would not change: somebody has to fix something.

    Attributes:
        status: the HTTP status.
        code: the server's code; empty if the answer is not from mobync.
    """

    def __init__(self, message: str, status: int, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class OtherOwnerError(ServerError):
    """The token and the rows of this file belong to different owners. Nothing was sent or changed:
    sync with a token of the first owner, or in another file.
    """


class DeviceRevokedError(ServerError):
    """A person has revoked this device. Its rows and its unsent edits are gone, and it may not
    sync.
    """
