"""The old name of :mod:`mobync.http.flask`, which still works."""

from .http.flask import NAME, MobyncSync

__all__ = ["NAME", "MobyncSync"]
