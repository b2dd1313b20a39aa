"""The old name of :mod:`mobync.http.asgi`, which still works."""

from .http.asgi import THREADS, SyncApp, router, routes

__all__ = ["THREADS", "SyncApp", "router", "routes"]
