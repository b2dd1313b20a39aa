"""A Django app of one process for gunicorn, of any kind of worker; its environment as of app.py.

Beside pushes and events it does what Django refuses where an event loop is running.
"""

from __future__ import annotations

import os
import uuid

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

from mobync import Mobync
from mobync.memory import MemorySynchronizer

from .brokers import live_on

store = MemorySynchronizer()
mobync = Mobync(store)
live = live_on(
    os.environ["LIVE_KIND"],
    os.environ["LIVE_URL"],
    os.environ["LIVE_CHANNEL"],
    heartbeat_s=float(os.environ["HEARTBEAT_S"]),
    recheck_s=3600,
)
mobync.listen(live.announce)


def clock_of(owner_id: str) -> int:
    highest = store.highest_logical_clock(owner_id)
    return 0 if highest is None else highest + 1


def events(request: HttpRequest) -> StreamingHttpResponse:
    owner_id = request.GET["owner"]
    stream = live.blocking_events(
        owner_id, lambda: clock_of(owner_id), request.headers.get("Last-Event-ID")
    )
    return StreamingHttpResponse(stream, content_type="text/event-stream")


def push(request: HttpRequest) -> HttpResponse:
    row = {"id": uuid.uuid4().hex}
    clock = mobync.push(request.GET["owner"], [("create", "notes", row)])
    return JsonResponse(clock, safe=False)


def query(request: HttpRequest) -> HttpResponse:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        return JsonResponse(cursor.fetchone()[0], safe=False)


async def wait(request: HttpRequest) -> HttpResponse:
    return JsonResponse("waited", safe=False)


urlpatterns = [
    path("events", events),
    path("push", push),
    path("query", query),
    path("async", wait),
]

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
)
django.setup()
application = get_wsgi_application()
