"""Lets scripts of other sites use the endpoint of `mobync serve` (CORS).

The token is in a header that only a script can set, so cookies are not needed across origins, and
are not allowed. Other sites cannot use the inspector and the metrics.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

PREFLIGHT_S = 7200  # browsers keep none for longer
SENT_HEADERS = (
    "Authorization",
    "Content-Encoding",
    "Content-Type",
    "Last-Event-ID",
    "X-Request-ID",
)
READ_HEADERS = ("Retry-After", "Server-Timing", "X-Request-ID")

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def across_origins(app: ASGIApp, origins: Sequence[str], routes: Iterable[Route]) -> ASGIApp:
    """Let scripts of other sites use some routes of an app.

    Args:
        app: the whole app, so that scripts can read its errors too.
        origins: the origins of those sites, as :func:`check_origin` accepts them.
        routes: the routes that the sites may use.
    """
    methods = {route.path: sorted(route.methods or ()) for route in routes}
    by_path = {path: _allowing(app, origins, methods[path]) for path in methods}

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        await by_path.get(scope.get("path", ""), app)(scope, receive, send)

    return serve


def _allowing(app: ASGIApp, origins: Sequence[str], methods: Sequence[str]) -> ASGIApp:
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=methods,
        allow_headers=SENT_HEADERS,
        expose_headers=READ_HEADERS,
        max_age=PREFLIGHT_S,
    )


def check_origin(origin: str) -> None:
    """Check that browsers send an origin in exactly this form, because it is compared exactly.

    Raises:
        ValueError: none does. The message says what to write instead, if that is known.
    """
    if origin == "*":
        raise ValueError("'*' is not an origin: name each site that may use the server")
    if origin == "null":
        raise ValueError("'null' is the origin of sandboxed pages of any site: it names no site")
    meant = _as_browsers_send(origin)
    if meant == origin:
        return
    advice = f": write {meant}" if meant is not None else ""
    raise ValueError(f"{origin!r:.100} is not an origin such as https://app.example{advice}")


def _as_browsers_send(origin: str) -> str | None:
    """The origin of a text, which may be a URL; None if it is not a web address."""
    try:
        url = urlsplit(origin)
        port = "" if url.port is None else f":{url.port}"
        host = (url.hostname or "").encode("idna").decode()
    except ValueError:
        return None
    meant = f"{url.scheme}://{f'[{host}]' if ':' in host else host}{port}"
    meant = meant.removesuffix(_default_port(meant))
    return meant if _ORIGIN.fullmatch(meant) else None


def _default_port(origin: str) -> str:
    """The default port of a scheme, like ``:443``, which browsers leave out."""
    return _DEFAULT_PORTS.get(origin.partition(":")[0], "://")
