"""The sync route for Django: ``path("", include("mobync.django"))``, and settings.

``settings.MOBYNC`` is a dict; objects may be given as dotted paths to import:

    mobync          the Mobync that merges
    authenticate    (token, headers) -> the owner's id, or None to refuse
    max_body_bytes  optional, as of mobync.http.Endpoint
    live            optional, as of mobync.http.Endpoint
"""

from __future__ import annotations

from functools import cache
from typing import IO, Any, cast

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIRequest
from django.core.signals import setting_changed
from django.db.transaction import non_atomic_requests
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBadRequest,
    StreamingHttpResponse,
)
from django.http.response import HttpResponseBase
from django.urls import path
from django.utils.module_loading import import_string
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from . import http
from ._wsgi import UNREADABLE

SETTING = "MOBYNC"
_REQUIRED = {"mobync", "authenticate"}
_OPTIONAL = {"max_body_bytes", "live"}


@csrf_exempt  # it takes nothing but application/json, which a form of another site cannot send
@require_POST
@non_atomic_requests  # else the sync would be committed after its owner's lock is free again
def sync(request: HttpRequest) -> HttpResponse:
    """Answer ``POST /sync``."""
    endpoint = endpoint_of_settings()
    early = endpoint.refuse(request.headers)
    if early is not None:
        return _response(early)
    try:
        body = _stream(request).read(endpoint.max_body_bytes + 1)
    except UNREADABLE:
        return HttpResponseBadRequest()
    return _response(endpoint.sync(request.headers, body))


@csrf_exempt  # so that a POST is told 405
@require_GET
@non_atomic_requests
def events(request: HttpRequest) -> HttpResponseBase:
    """Answer ``GET /sync/events``."""
    endpoint = endpoint_of_settings()
    # Each kind of server would collect the other's iterator to its end, which never comes.
    listen = endpoint.events if isinstance(request, ASGIRequest) else endpoint.blocking_events
    stream = listen(request.headers)
    if isinstance(stream, http.Response):
        return _response(stream)
    return StreamingHttpResponse(stream.body, headers=stream.headers)


urlpatterns = [path("sync", sync), path("sync/events", events)]


@cache
def endpoint_of_settings() -> http.Endpoint:
    """The endpoint that ``settings.MOBYNC`` describes.

    Raises:
        ImproperlyConfigured: a setting is missing, unknown, or no such thing.
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
    """Where the body is read: Django's WSGI gives nothing of a body in chunks."""
    environ = getattr(request, "environ", {})
    if environ.get("wsgi.input_terminated") and not environ.get("CONTENT_LENGTH"):
        return cast(IO[bytes], environ["wsgi.input"])
    return cast(IO[bytes], request)


def _response(answer: http.Response) -> HttpResponse:
    return HttpResponse(answer.body, status=answer.status, headers=answer.headers)
