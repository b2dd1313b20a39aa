"""The sync route for Django: ``path("", include("mobync.http.django"))``, and settings.

``settings.MOBYNC`` is a dict; objects may be given as dotted paths to import:

    mobync          the Mobync that merges
    authenticate    (token, headers) -> the owner's id, or None to refuse

Optional, as in mobync.http.Endpoint: max_body_bytes, max_unauthenticated_body_bytes,
max_bytes_in_flight, live, clients.

``manage.py check`` reports mistakes in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import IO, Any, cast

from .. import http
from .._extras import needing
from ._wsgi import UNREADABLE

with needing("django"):
    from django.apps import apps
    from django.conf import settings
    from django.core.checks import CheckMessage, Error
    from django.core.exceptions import ImproperlyConfigured
    from django.core.handlers.asgi import ASGIRequest
    from django.core.signals import setting_changed
    from django.db import close_old_connections
    from django.db.transaction import non_atomic_requests
    from django.http import (
        HttpRequest,
        HttpResponse,
        HttpResponseBadRequest,
        StreamingHttpResponse,
    )
    from django.http.response import HttpResponseBase
    from django.urls import URLPattern, path
    from django.urls.resolvers import RoutePattern
    from django.utils.module_loading import import_string
    from django.views.decorators.csrf import csrf_exempt
    from django.views.decorators.http import require_GET, require_POST

SETTING = "MOBYNC"
_REQUIRED = {"mobync", "authenticate"}
_OPTIONAL = {
    "max_body_bytes",
    "max_unauthenticated_body_bytes",
    "max_bytes_in_flight",
    "live",
    "clients",
}


@csrf_exempt  # it accepts only application/json, which a form of another site cannot send
@require_POST
@non_atomic_requests  # else the sync would be committed after its owner's lock was released
def sync(request: HttpRequest, path: str = "/sync") -> HttpResponse:
    """Answer ``POST /sync``, or another path of ``mobync.http.ROUTES``."""
    endpoint = endpoint_of_settings()
    upload = endpoint.admit(request.headers, path, device=request.GET.get("device"))
    if isinstance(upload, http.Response):
        return _response(upload)
    with upload:
        try:
            refused = upload.read(_stream(request).read)
        except UNREADABLE:
            return HttpResponseBadRequest()
        return _response(refused or upload.answer())


@csrf_exempt  # so that a POST gets 405
@require_GET
@non_atomic_requests
def events(request: HttpRequest) -> HttpResponseBase:
    """Answer ``GET /sync/events``."""
    endpoint = endpoint_of_settings()
    # A server of one kind would collect the other's iterator to its end, which never comes.
    listen = endpoint.events if isinstance(request, ASGIRequest) else endpoint.blocking_events
    stream = listen(request.headers, _reading, device=request.GET.get("device"))
    if isinstance(stream, http.Response):
        return _response(stream)
    return StreamingHttpResponse(stream.body, headers=stream.headers)


@contextmanager
def _reading() -> Iterator[None]:
    """Around each read of a stream: close connections that are too old, or do not work any more.

    Django itself does so when a request begins and ends, and a stream may be open for days.
    """
    close_old_connections()
    try:
        yield
    finally:
        close_old_connections()


class _SyncPattern(URLPattern):
    """A route that lets ``manage.py check`` check the setting, because URLs are all that it sees of
    us.
    """

    def check(self) -> list[CheckMessage]:
        found: list[CheckMessage] = super().check()
        # mobync.django checks an existing setting, with or without routes.
        is_looked_at = apps.is_installed("mobync.django") and hasattr(settings, SETTING)
        return found if is_looked_at else [*found, *check_setting()]


def check_setting() -> list[CheckMessage]:
    """The messages of ``manage.py check`` about the setting."""
    try:
        endpoint_of_settings()
    except ImproperlyConfigured as error:
        hint = "docs/http.md has an example of settings.MOBYNC."
        return [Error(str(error), hint=hint, id="mobync.E001")]
    return []


urlpatterns = [
    _SyncPattern(RoutePattern("sync", is_endpoint=True), sync),
    *(path(route[1:], sync, {"path": route}) for route in http.ROUTES[1:]),
    path("sync/events", events),
]


@cache
def endpoint_of_settings() -> http.Endpoint:
    """The endpoint that ``settings.MOBYNC`` describes.

    Raises:
        ImproperlyConfigured: a setting is missing, unknown, or of the wrong type.
    """
    given = getattr(settings, SETTING, None)
    if not isinstance(given, dict):
        raise ImproperlyConfigured(f"settings.{SETTING} must be a dict")
    wrong = (_REQUIRED - given.keys()) | (given.keys() - _REQUIRED - _OPTIONAL)
    if wrong:
        raise ImproperlyConfigured(
            f"settings.{SETTING}: missing or unknown: {', '.join(map(repr, sorted(wrong)))}"
        )
    try:
        found = {
            name: import_string(value) if isinstance(value, str) else value
            for name, value in given.items()
        }
        return http.Endpoint(found.pop("mobync"), found.pop("authenticate"), **found)
    except (ImportError, TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"settings.{SETTING}: {error}") from error


def _forget(*, setting: str, **_: Any) -> None:
    if setting == SETTING:
        endpoint_of_settings.cache_clear()


setting_changed.connect(_forget)


def _stream(request: HttpRequest) -> IO[bytes]:
    """The stream of the body, because Django's WSGI returns nothing of a chunked body."""
    environ = getattr(request, "environ", {})
    if environ.get("wsgi.input_terminated") and not environ.get("CONTENT_LENGTH"):
        return cast(IO[bytes], environ["wsgi.input"])
    return cast(IO[bytes], request)


def _response(answer: http.Response) -> HttpResponse:
    return HttpResponse(answer.body, status=answer.status, headers=answer.headers)
