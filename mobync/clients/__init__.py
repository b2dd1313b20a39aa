"""Protocols of offline databases that apps already use, over the same merge and the same log.

Each client has a module: it reads a request of its own protocol, lets :class:`mobync.Mobync` merge
it, and answers in that protocol. It knows no HTTP: ``mobync.http`` authenticates, and serves it
beside ``/sync``.
"""

from ._client import Client
from .rxdb import RxDB
from .watermelon import Watermelon

CLIENTS: tuple[type[Client], ...] = (RxDB, Watermelon)
"""Every client that an endpoint serves, unless it is told which."""

__all__ = ["CLIENTS", "Client", "RxDB", "Watermelon"]
