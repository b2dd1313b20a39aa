"""The app that ``INSTALLED_APPS`` names as ``mobync.django``."""

import logging

from django.apps import AppConfig
from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ._checks import check_mobync

logger = logging.getLogger("mobync")


class MobyncConfig(AppConfig):
    """The log, and what belongs to it."""

    name = "mobync.django"
    label = "mobync"
    verbose_name = "mobync"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        checks.register(check_mobync)
        _import_mobync()


def _import_mobync() -> None:
    """Import the module of the project's Mobync, so that its models are tracked from now on.

    The first request of a process may be one of the admin.
    """
    from ..http.django import SETTING

    given = getattr(settings, SETTING, None)
    named = given.get("mobync") if isinstance(given, dict) else None
    if not isinstance(named, str):
        return
    try:
        import_string(named)
    except (ImportError, TypeError, ValueError, ImproperlyConfigured) as error:
        # `manage.py check` must be able to say it.
        logger.error("settings.%s: %s: edits by the app's own code are not logged", SETTING, error)
