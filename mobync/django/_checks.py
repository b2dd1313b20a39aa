"""What ``manage.py check`` reports.

``mobync.E001``: a mistake in the setting, or in what it names, such as a model that cannot be
synced.  ``mobync.E002``: a database with the wrong settings; only with ``--database``.
``mobync.W001``: nothing tracks the edits of the app's own code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning
from django.db import connections

from ._settings import complaint_about


def check_mobync(
    app_configs: Any, databases: Sequence[str] | None = None, **_: Any
) -> list[CheckMessage]:
    """Check ``settings.MOBYNC``, and the databases that are named."""
    from ..http.django import SETTING, check_setting

    found: list[CheckMessage] = []
    if hasattr(settings, SETTING):
        found = check_setting() or _check_tracking()
    for alias in databases or ():
        complaint = complaint_about(connections[alias])
        if complaint is not None:
            found.append(Error(f"settings.DATABASES[{alias!r}]: {complaint}", id="mobync.E002"))
    return found


def _check_tracking() -> list[CheckMessage]:
    from ..http.django import SETTING, endpoint_of_settings
    from ._synchronizer import DjangoSynchronizer
    from ._tracking import is_tracked

    store = endpoint_of_settings().mobync.synchronizer
    if not isinstance(store, DjangoSynchronizer) or is_tracked(store):
        return []
    complaint = "devices do not get what the admin and the app's own code edit"
    hint = "Call mobync.django.track(mobync) where the Mobync is made, or silence this check."
    return [Warning(f"settings.{SETTING}: {complaint}", hint=hint, id="mobync.W001")]
