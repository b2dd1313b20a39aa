"""The log and the devices in Django's admin, read-only: an edit there would break a log."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from .models import Device, Diff, Head


class _ReadOnly(admin.ModelAdmin):  # type: ignore[type-arg]  # Django 4.2's cannot be subscripted
    """Pages on which nothing can be changed."""

    actions = None
    show_full_result_count = False  # counting a long log takes long

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Diff)
class DiffAdmin(_ReadOnly):
    list_display = ("owner", "logical_clock", "utc_timestamp", "type", "model", "diff_id")
    list_filter = ("type",)
    search_fields = ("=owner", "=diff_id", "=model")
    ordering = ("-number",)


@admin.register(Head)
class HeadAdmin(_ReadOnly):
    list_display = ("owner", "logical_clock")
    search_fields = ("=owner",)
    fields = ("owner", "logical_clock")


@admin.register(Device)
class DeviceAdmin(_ReadOnly):
    list_display = ("owner", "device")
    search_fields = ("=owner", "=device")
