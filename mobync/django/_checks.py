"""What ``manage.py check`` looks at.

``mobync.E001`` is the setting, and what it leads to: a model that cannot be synced is an error of
the module that makes the synchronizer.  ``mobync.E002`` is how the database is set up, asked with
``--database``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.db import connections

from ._settings import complaint_about


def check_mobync(
    app_configs: Any, databases: Sequence[str] | None = None, **_: Any
) -> list[CheckMessage]:
    """Look at ``settings.MOBYNC``, and at the databases that are named."""
    from ..http.django import SETTING, check_setting

    found: list[CheckMessage] = check_setting() if hasattr(settings, SETTING) else []
    for alias in databases or ():
        complaint = complaint_about(connections[alias])
        if complaint is not None:
            found.append(Error(f"settings.DATABASES[{alias!r}]: {complaint}", id="mobync.E002"))
    return found
