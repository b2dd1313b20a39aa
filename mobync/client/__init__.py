"""A device in Python: a local SQLite file that is synced with a mobync server.

It is for tests, desktop apps, scripts and edge machines, and shows how to write a client in another
language (docs/writing-a-client.md). From the inside out:

* ``_database``: the file, and the transaction that each step is;
* ``_rows``: the rows, and their state before the waiting edits;
* ``_outbox``: the waiting edits;
* ``_replica``: applies edits and answers to them: a whole client without the network;
* ``_transport``, ``_server``: the network, the token, and tries until there is an answer;
* ``_device``, ``_live``: what an app uses.
"""

from ._device import Device, SyncResult
from ._errors import (
    ClientError,
    DeviceRevokedError,
    OfflineError,
    OtherOwnerError,
    ServerError,
    TokenError,
)
from ._live import Live
from ._replica import RefusedEdit
from ._transport import Answer, Events, HttpTransport, Transport

__all__ = [
    "Answer",
    "ClientError",
    "Device",
    "DeviceRevokedError",
    "Events",
    "HttpTransport",
    "Live",
    "OfflineError",
    "OtherOwnerError",
    "RefusedEdit",
    "ServerError",
    "SyncResult",
    "TokenError",
    "Transport",
]
