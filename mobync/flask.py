"""The first name of :mod:`mobync.http.flask`, which goes on working."""

from .http.flask import NAME, MobyncSync

__all__ = ["NAME", "MobyncSync"]
