"""A device in Python: a local SQLite file that is synced with a server of mobync.

For tests, desktop apps, scripts and edge machines; and to be read by who writes a client in another
language (docs/writing-a-client.md).  From the inside out:

* ``_database``: the file, and the transaction that each step is;
* ``_rows``: the rows, and what they were before the edits that wait;
* ``_outbox``: the edits that wait;
* ``_replica``: what edits and answers do to them, which is all of a client but the network;
* ``_transport``, ``_server``: the network, the token, and the patience that it takes;
* ``_device``, ``_live``: what an app uses.
"""

from ._device import Device, SyncResult
from ._errors import ClientError, DeviceRevokedError, OfflineError, ServerError, TokenError
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
    "RefusedEdit",
    "ServerError",
    "SyncResult",
    "TokenError",
    "Transport",
]
