"""The app that tests/http_cases.py speaks to, on every adapter.

`gunicorn http_app:flask_app()` and the like serve it; tests/http_servers.py does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from mobync import BusyError, InvalidDiffError, Mobync, SyncReport, UnavailableError
from mobync.http import Endpoint
from mobync.live import InProcessLive, Live
from mobync.memory import MemorySynchronizer

MAX_BODY_BYTES = 200_000
MAX_UNAUTHENTICATED_BODY_BYTES = 190_000
HEARTBEAT_S = 0.2
MAX_LISTENERS = 3
TOKEN_START = "tök-"  # what a token is, is the app's business
ASCII_TOKEN_START = "token-of-"
SESSION_START = "session="
AWAY_TOKEN = "of-an-issuer-that-is-away"


class Store(MemorySynchronizer):
    """No one may make ``secrets``, and nothing is a ``nonsense``; ``busy`` is locked, for
    ``faulty`` the app has a bug, and all devices of ``revoked`` were ended.
    """

    def read_devices(self, owner_id: str, names: Sequence[str] | None) -> dict[str, str]:
        if owner_id == "revoked":
            return dict.fromkeys([name for name in names or () if name], '{"revoked": true}')
        return super().read_devices(owner_id, names)

    def validate_create(self, owner_id: str, **diff: Any) -> bool:
        if diff["model"] == "nonsense":
            raise InvalidDiffError("there is no such thing")
        return bool(diff["model"] != "secrets")

    @contextmanager
    def transaction(self, owner_id: str) -> Iterator[MemorySynchronizer]:
        if owner_id == "busy":
            raise BusyError("another sync of this owner took longer than 10 s")
        if owner_id == "faulty":
            raise ZeroDivisionError("a bug of the app")
        with super().transaction(owner_id) as inside:
            yield inside


def owner_of(token: str | None, headers: Mapping[str, str]) -> str | None:
    """Anna: ``token-of-anna`` or ``tök-anna``, or the cookie ``session=anna``.

    Raises:
        UnavailableError: it is AWAY_TOKEN.
    """
    if token is None:
        cookie = headers.get("Cookie", "")
        return cookie.removeprefix(SESSION_START) if cookie.startswith(SESSION_START) else None
    if token == AWAY_TOKEN:
        raise UnavailableError("nobody knows now whose token that is")
    for start in (TOKEN_START, ASCII_TOKEN_START):
        if token.startswith(start):
            return token.removeprefix(start)
    return None


def revoke_phone(mobync: Mobync, report: SyncReport) -> None:
    """A sync of the device ``remote`` revokes the device ``phone``."""
    if report.device == "remote":
        mobync.revoke_device(report.owner_id, "phone")


def make_endpoint(live: Live | None = None, **options: Any) -> Endpoint:
    """The endpoint; the options are those of Mobync."""
    live = live or InProcessLive(heartbeat_s=HEARTBEAT_S, max_listeners=MAX_LISTENERS)
    mobync = Mobync(Store(), **options)
    mobync.listen(live.announce)
    mobync.listen(partial(revoke_phone, mobync))
    return Endpoint(
        mobync,
        owner_of,
        max_body_bytes=MAX_BODY_BYTES,
        max_unauthenticated_body_bytes=MAX_UNAUTHENTICATED_BODY_BYTES,
        live=live,
    )


# ---- the adapters --------------------------------------------------------------------------------


def flask_app() -> Any:
    from flask import Flask
    from flask_wtf import CSRFProtect

    from mobync.http.flask import MobyncSync

    app = Flask(__name__)
    app.secret_key = "of a test"
    app.config["MAX_CONTENT_LENGTH"] = 1000  # of the app's forms; the sync route has its own
    sync = MobyncSync()
    sync.init_app(app, make_endpoint())
    CSRFProtect(app)
    return app


def starlette_app() -> Any:
    from mobync.http.asgi import SyncApp

    return SyncApp(make_endpoint())


def fastapi_app() -> Any:
    from fastapi import FastAPI

    from mobync.http.asgi import router

    app = FastAPI()
    app.include_router(router(make_endpoint()))
    return app


def configure_django() -> None:
    from django.conf import settings

    if settings.configured:
        return
    import django

    endpoint = make_endpoint()
    settings.configure(
        ALLOWED_HOSTS=["127.0.0.1"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=[
            "django.contrib.contenttypes",
            "django.contrib.auth",
            "mobync.django",
            "django_app",
        ],
        USE_TZ=True,
        DATA_UPLOAD_MAX_MEMORY_SIZE=1000,  # of the app's forms; the sync route has its own
        LOGGING_CONFIG=None,
        MIDDLEWARE=[
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
        ],
        MOBYNC={
            "mobync": endpoint.mobync,
            "authenticate": "http_app.owner_of",
            "max_body_bytes": MAX_BODY_BYTES,
            "max_unauthenticated_body_bytes": MAX_UNAUTHENTICATED_BODY_BYTES,
            "live": endpoint.live,
        },
        ROOT_URLCONF="mobync.http.django",
        SECRET_KEY="of a test",
    )
    django.setup()


def django_wsgi_app() -> Any:
    configure_django()
    from django.core.handlers.wsgi import WSGIHandler

    return WSGIHandler()


def django_asgi_app() -> Any:
    configure_django()
    from django.core.handlers.asgi import ASGIHandler

    return ASGIHandler()
