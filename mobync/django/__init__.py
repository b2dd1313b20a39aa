"""mobync in a Django project: an app for ``INSTALLED_APPS``, and a store over the ORM.

Django imports an app before it knows the models, so each name is imported when it is first used.
The names of the sync routes are those of :mod:`mobync.http.django`; they were here before, and
still work.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .._extras import needing

with needing("django"):
    import django as _django  # noqa: F401

if TYPE_CHECKING:
    from ..http.django import SETTING, endpoint_of_settings, events, sync, urlpatterns
    from ._synchronizer import DjangoSynchronizer
    from ._tracking import track

__all__ = [
    "SETTING",
    "DjangoSynchronizer",
    "endpoint_of_settings",
    "events",
    "sync",
    "track",
    "urlpatterns",
]

_MODULES = {"DjangoSynchronizer": "._synchronizer", "track": "._tracking"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _MODULES.get(name, "mobync.http.django")
    return getattr(import_module(module, __name__), name)
