"""The first name of :mod:`mobync.http.asgi`, which goes on working."""

from .http.asgi import THREADS, SyncApp, router, routes

__all__ = ["THREADS", "SyncApp", "router", "routes"]
