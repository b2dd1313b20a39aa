"""The app that ``INSTALLED_APPS`` names as ``mobync.django``."""

from django.apps import AppConfig
from django.core import checks

from ._checks import check_mobync


class MobyncConfig(AppConfig):
    """The log, and what belongs to it."""

    name = "mobync.django"
    label = "mobync"
    verbose_name = "mobync"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        checks.register(check_mobync)
