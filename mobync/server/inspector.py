"""The inspector: a page that shows owners, their logs, and which edit set which field and why.

The page is for the people who run the server. It only reads, except that a person may change an
owner's devices (_device_changes.py). It treats every text of a device as hostile: it never turns a
text into HTML, and its Content-Security-Policy allows only its own scripts.

``/`` and ``/inspect/static/`` contain no data, and anybody gets them. Requests to ``/inspect/api/``
must pass ``allow``. The page sends a token as ``Authorization: Bearer``. If ``allow`` accepts
cookies, it must also call :func:`from_own_page`, so that no other site can ask in the name of
somebody who has a cookie.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Table
from sqlalchemy.engine import Engine
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from .. import Mobync
from ..errors import BusyError
from ._device_changes import ChangeError, Devices, asked_by_own_page
from ._history import lives_of
from ._log_pages import OWNERS, Entry, LogPages, Only
from ._views import entry_view, history_view
from .lost import LostEdits
from .objects import Objects
from .pushes import Push, Pushes

__all__ = [
    "API_HEADERS",
    "Live",
    "asked_by_own_page",
    "bearer_token",
    "from_loopback",
    "from_own_page",
    "routes",
]

MAX_CLOCK = 2**53 - 1
MOST_CLOCKS = 200  # of a history

# Headers of a proxy; the last ones are the beginnings of many names.
_PROXY_HEADERS = {"forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip"}
_PROXY_HEADERS |= {"true-client-ip", "client-ip"}
_PROXY_PREFIXES = (
    *("x-forwarded", "x-original-", "x-envoy-", "x-amzn-", "x-azure-"),
    *("cf-", "cdn-", "fastly-", "fly-", "tailscale-"),
)

_HOST = re.compile(r"(?:\[([^\]]+)\]|([^:\[\]]+))(?::[0-9]*)?")

_STATIC = Path(__file__).parent / "static"
_SCRIPTS = (
    *("app.js", "api.js", "devices.js", "dom.js", "log.js", "lost.js", "object.js"),
    *("objects.js", "owners.js", "picture.js", "tabs.js", "text.js"),
)
_TYPES = {
    "icon.svg": "image/svg+xml",
    "style.css": "text/css",
    **dict.fromkeys(_SCRIPTS, "text/javascript"),
}

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_STATIC_HEADERS = _HEADERS | {"Cache-Control": "no-cache"}
API_HEADERS = _HEADERS | {"Cache-Control": "no-store"}
_STREAM_HEADERS = API_HEADERS | {"X-Accel-Buffering": "no"}


class Live(Protocol):
    """Tells about an owner's new clocks: an object of ``mobync.live``."""

    def events(
        self, owner_id: str, clock_now: Callable[[], int], last_event_id: str | None
    ) -> AsyncIterator[bytes]:
        """Server-Sent Events, each with a logical clock as its data.

        Raises:
            BusyError: too many devices and pages listen already.
        """
        ...


def routes(
    engine: Engine,
    diffs: Table,
    heads: Table,
    allow: Callable[[Request], bool],
    live: Live | None = None,
    *,
    lost: LostEdits | None = None,
    pushes: Pushes | None = None,
    documents: Table | None = None,
    mobync: Mobync | None = None,
    may_change: Callable[[Request], bool] | None = None,
) -> list[Route]:
    """The routes of the inspector: the page at ``/``, the rest below ``/inspect``.

    Args:
        engine: the database of the log.
        diffs: the log, as ``mobync.sqlalchemy.diffs_table`` declares it.
        heads: the table of the owners' heads.
        allow: decides whether the sender of a request may see every owner's data; called in a
            thread. It can use :func:`from_loopback` or :func:`bearer_token`.
        live: tells the page that a log has grown; without it the page asks every few seconds.
        lost: the edits that lost; None: they are not shown.
        pushes: which device made which edits; None: this is not shown.
        documents: the table of the owners' objects, if they are documents.
        mobync: the Mobync that has the owners' devices; None: they are not shown.
        may_change: decides whether the sender of a request may revoke, forget and name devices;
            called in a thread. None: nobody may. If it checks a cookie, it must also call
            :func:`asked_by_own_page`.

    Returns:
        Routes for a Starlette app. Mount them at its root or below a prefix.
    """
    objects = None if documents is None else Objects(engine, documents)
    devices = Devices(mobync, may_change)
    api = _Api(LogPages(engine, diffs, heads), live, lost, pushes, objects, devices)
    answers = {
        "owners": api.owners,
        "clock": api.clock,
        "size": api.size,
        "log": api.log,
        "history": api.history,
        "lost": api.lost,
        "models": api.models,
        "objects": api.objects,
        "devices": api.devices,
    }
    found = [
        Route("/", _page),
        Route("/inspect/static/{name}", _static),
        *(Route(f"/inspect/api/{name}", _json(answer, allow)) for name, answer in answers.items()),
        Route("/inspect/api/change", _changing(devices, allow), methods=["POST"]),
    ]
    if live is not None:
        found.append(Route("/inspect/api/events", _stream(api.events, allow)))
    return found


def bearer_token(request: Request) -> str | None:
    """The token in a request's ``Authorization: Bearer``; None if there is none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def from_loopback(request: Request) -> bool:
    """Whether a request was made on this machine, to a name of this machine.

    The name of another site can point to 127.0.0.1 (DNS rebinding), so that a browser on this
    machine sends the site's requests here. These have that name as ``Host``, and are refused.
    Requests of another site's page, and requests with the headers of a proxy, are refused too. A
    proxy on this machine that sends no such header looks like a person, so do not use this function
    behind one.
    """
    if _was_passed_on(request) or not from_own_page(request):
        return False
    peer = request.client.host if request.client is not None else ""
    return _is_loopback(peer) and _is_loopback(_host_name(request.headers.get("host", "")))


def from_own_page(request: Request) -> bool:
    """Whether, by what the browser says, no other site's page made a request."""
    return request.headers.get("sec-fetch-site", "none") in ("none", "same-origin")


def _was_passed_on(request: Request) -> bool:
    return any(
        name in _PROXY_HEADERS or name.startswith(_PROXY_PREFIXES) for name in request.headers
    )


def _host_name(host: str) -> str:
    match = _HOST.fullmatch(host)
    return "" if match is None else match[1] or match[2]


def _is_loopback(name: str) -> bool:
    if name.lower() == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


# ---- what is served -----------------------------------------------------------------------------


class _BadQuery(ValueError):
    """A parameter of the query is missing or malformed; says which."""


class _Api:
    """The answers of ``/inspect/api``. Their size is limited, however long the log is."""

    def __init__(
        self,
        pages: LogPages,
        live: Live | None,
        lost: LostEdits | None,
        pushes: Pushes | None,
        objects: Objects | None,
        devices: Devices,
    ) -> None:
        self._pages = pages
        self._live = live
        self._lost = lost
        self._pushes = pushes
        self._objects = objects
        self._devices = devices

    def owners(self, request: Request) -> dict[str, Any]:
        page = self._pages.owners(_optional(request, "first") or "", _optional(request, "after"))
        return {
            "owners": [
                {"owner": owner.owner_id, "logical_clock": owner.logical_clock} for owner in page
            ],
            "next": page[-1].owner_id if len(page) == OWNERS else None,
        }

    def clock(self, request: Request) -> dict[str, Any]:
        clock = self._pages.logical_clock(_text(request, "owner"))
        return {
            "logical_clock": clock,
            "events": self._live is not None,
            "keeps_lost": self._lost is not None,
            "has_objects": self._objects is not None,
            "has_devices": self._devices.are_shown,
        }

    def size(self, request: Request) -> dict[str, Any]:
        size = self._pages.size(_text(request, "owner"), _clock(request, "first") or 0)
        return {
            "rows": size.rows,
            "bytes": size.bytes,
            "next": size.end_clock,
            "complete": size.complete,
        }

    def log(self, request: Request) -> dict[str, Any]:
        after = _clock(request, "after")
        only = Only(
            model=_optional(request, "model"),
            object_id=_optional(request, "object"),
            after=-1 if after is None else after,
        )
        owner = _text(request, "owner")
        piece = self._pages.piece(owner, _clock(request, "before"), only)
        known = self._pushes_of(owner, piece.entries)
        return {
            "entries": [
                entry_view(entry, known.get(entry.logical_clock)) for entry in piece.entries
            ],
            "next": piece.next_before,
        }

    def _pushes_of(self, owner: str, entries: Sequence[Entry]) -> dict[int, Push]:
        if self._pushes is None:
            return {}
        return self._pushes.of(owner, [entry.logical_clock for entry in entries])

    def history(self, request: Request) -> dict[str, Any]:
        only = Only(model=_text(request, "model"), object_id=_text(request, "object"))
        owner = _text(request, "owner")
        piece = self._pages.entries_at(owner, _clocks(request), only)
        oldest_first = piece.entries[::-1]
        known = self._pushes_of(owner, oldest_first)
        view = history_view(
            oldest_first,
            lives_of(oldest_first, known),
            _clock(request, "life"),
            _clock(request, "field") or 0,
            known,
        )
        return view | {"next": piece.next_before}

    def lost(self, request: Request) -> dict[str, Any]:
        owner, model, object_id = (
            _text(request, "owner"),
            _optional(request, "model"),
            _optional(request, "object"),
        )
        return {"lost": [] if self._lost is None else self._lost.newest(owner, model, object_id)}

    def models(self, request: Request) -> dict[str, Any]:
        owner = _text(request, "owner")
        return {"models": [] if self._objects is None else self._objects.models(owner)}

    def objects(self, request: Request) -> dict[str, Any]:
        owner, model = _text(request, "owner"), _text(request, "model")
        if self._objects is None:
            return {"objects": [], "next": None}
        find = _optional(request, "find")
        return self._objects.page(owner, model, _optional(request, "after"), find)

    def devices(self, request: Request) -> dict[str, Any]:
        return self._devices.listed(_text(request, "owner"), request)

    def events(self, request: Request) -> AsyncIterator[bytes]:
        assert self._live is not None
        owner_id = _text(request, "owner")
        return self._live.events(
            owner_id,
            lambda: self._pages.logical_clock(owner_id),
            request.headers.get("last-event-id"),
        )


def _page(request: Request) -> Response:
    return FileResponse(_STATIC / "index.html", headers=_STATIC_HEADERS)


def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in _TYPES:
        return JSONResponse({"message": "not found"}, 404, API_HEADERS)
    return FileResponse(_STATIC / name, media_type=_TYPES[name], headers=_STATIC_HEADERS)


def _json(
    answer: Callable[[Request], dict[str, Any]], allow: Callable[[Request], bool]
) -> Callable[[Request], Response]:
    def endpoint(request: Request) -> Response:
        if not allow(request):
            return _refusal()
        try:
            return JSONResponse(answer(request), headers=API_HEADERS)
        except _BadQuery as error:
            return JSONResponse({"message": str(error)}, 400, API_HEADERS)
        except BusyError as error:
            return JSONResponse({"message": str(error)}, 503, API_HEADERS)

    return endpoint


def _changing(
    devices: Devices, allow: Callable[[Request], bool]
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        if not await run_in_threadpool(allow, request):
            return _refusal()
        try:
            return JSONResponse(await devices.change(request), headers=API_HEADERS)
        except ChangeError as error:
            return JSONResponse({"message": str(error)}, error.status, API_HEADERS)
        except BusyError as error:
            return JSONResponse({"message": str(error)}, 503, API_HEADERS)

    return endpoint


def _stream(
    events: Callable[[Request], AsyncIterator[bytes]],
    allow: Callable[[Request], bool],
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        if not await run_in_threadpool(allow, request):
            return _refusal()
        try:
            stream = events(request)
        except _BadQuery as error:
            return JSONResponse({"message": str(error)}, 400, API_HEADERS)
        except BusyError as error:
            return JSONResponse({"message": str(error)}, 503, API_HEADERS)
        return StreamingResponse(stream, media_type="text/event-stream", headers=_STREAM_HEADERS)

    return endpoint


def _refusal() -> Response:
    message = "an administrator's token is needed"
    return JSONResponse({"message": message}, 401, API_HEADERS | {"WWW-Authenticate": "Bearer"})


# ---- what is asked ------------------------------------------------------------------------------


def _text(request: Request, name: str) -> str:
    text = _optional(request, name)
    if not text:
        raise _BadQuery(f"{name} is missing")
    return text


def _optional(request: Request, name: str) -> str | None:
    text = request.query_params.get(name)
    if text is not None and "\0" in text:
        raise _BadQuery(f"{name} has U+0000")
    return text


def _clock(request: Request, name: str) -> int | None:
    text = request.query_params.get(name)
    return None if text is None else _number(name, text)


def _clocks(request: Request) -> list[int]:
    texts = _text(request, "clocks").split(",")
    if len(texts) > MOST_CLOCKS:
        raise _BadQuery(f"clocks has more than {MOST_CLOCKS}")
    return [_number("clocks", text) for text in texts]


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= MAX_CLOCK):
        raise _BadQuery(f"{name} must be a number from 0 to 2**53 - 1")
    return int(text)
