"""mobync in a Django project: an app for ``INSTALLED_APPS``, and a store over the ORM.

Nothing of Django is imported before it is asked for, since an app is imported before Django knows
its models.  The names of the sync routes are those of :mod:`mobync.http.django`, whose first name
this was; they go on working.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .._extras import needing

with needing("django"):
    import django as _django  # noqa: F401

if TYPE_CHECKING:
    from ..http.django import SETTING, endpoint_of_settings, events, sync, urlpatterns
    from ._synchronizer import DjangoSynchronizer

__all__ = [
    "SETTING",
    "DjangoSynchronizer",
    "endpoint_of_settings",
    "events",
    "sync",
    "urlpatterns",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "._synchronizer" if name == "DjangoSynchronizer" else "mobync.http.django"
    return getattr(import_module(module, __name__), name)
