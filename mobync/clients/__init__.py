"""The languages of offline databases that apps use already, over the same merge and the same log.

Each client has a module: it takes the request of its own protocol, has :class:`mobync.Mobync`
merge it, and answers in that protocol.  It knows no HTTP; ``mobync.http`` serves it beside
``/sync`` and asks before who it is.
"""

from ._client import Client
from .rxdb import RxDB
from .watermelon import Watermelon

CLIENTS: tuple[type[Client], ...] = (RxDB, Watermelon)
"""Every client that an endpoint serves, unless it is told which."""

__all__ = ["CLIENTS", "Client", "RxDB", "Watermelon"]
