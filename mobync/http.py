"""The sync route without a framework: headers and body in; status, headers and body out.

:class:`Endpoint` knows HTTP and no framework; ``mobync.flask``, ``mobync.asgi`` and
``mobync.django`` know their framework and leave everything else to it.  docs/http.md has the
statuses, docs/openapi.yaml the whole of it for machines.
"""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from . import _core
from ._http_coding import (
    GZIP_FROM_BYTES,
    Headers,
    SentHeaders,
    TooLongError,
    accepts_gzip,
    bearer_token,
    deflated,
    inflated,
    is_json,
)
from ._owner_places import OwnerPlaces
from .errors import (
    BusyError,
    InvalidDiffError,
    LogicalClockError,
    MobyncError,
    PageError,
    UnauthorizedError,
)
from .live import Live
from .sync import Mobync
from .types import Diff, FilterType, ReadFilter

logger = logging.getLogger("mobync.http")

MAX_BODY_BYTES = 32 * 1024 * 1024
SYNCS_PER_OWNER = 3  # more could only wait, each in a thread that another owner's sync may need
RETRY_AFTER_S = 1

EVENT_HEADERS = {
    "Content-Type": "text/event-stream",
    "Content-Encoding": "identity",  # middleware that compresses (Django's) would keep them back
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would keep the events back
}

MAX_ECHO = 1000  # characters of a message or id that go back: the client sent them
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

_places = OwnerPlaces(SYNCS_PER_OWNER)

request_id: ContextVar[str | None] = ContextVar("mobync_request_id", default=None)
"""The id of the request that is answered, for the app's log; None between requests."""

Body = TypeVar("Body", AsyncIterator[bytes], Iterator[bytes])
ReadingContext = Callable[[], AbstractContextManager[Any]]
Authenticate = Callable[[str | None, Mapping[str, str]], str | None]


@dataclass(frozen=True)
class Response:
    """What an adapter sends.

    Attributes:
        status: of HTTP.
        headers: all but those that a server adds itself, as Content-Length.
        body: JSON, in gzip if the headers say so.
        code: why it was refused, as in the body; empty if it was not.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    code: str = ""


@dataclass(frozen=True)
class Stream(Generic[Body]):
    """The response to a device that may listen; its status is 200.

    Attributes:
        headers: all but those that a server adds itself.
        body: Server-Sent Events, which end when the device hangs up or the server stops.
    """

    headers: dict[str, str]
    body: Body


@dataclass(eq=False)
class _Refusal(Exception):
    status: int
    code: str
    message: str
    more: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


class Endpoint:
    """``POST /sync`` and ``GET /sync/events`` for an adapter to serve.

    One object serves any number of threads.

    Args:
        mobync: what merges.
        authenticate: called with the request's token, or None, and its headers (their names in any
            case); returns the owner's id, or None or '' to refuse.  The token is that of
            ``Authorization: Bearer``, else the ``auth_token`` of the body.  What it raises reaches
            the framework.
        max_body_bytes: bytes that a body may have, before and after gzip is undone.
        live: a ``mobync.live`` that is told of every sync (``mobync.listen(live.announce)``); None
            answers 404 to who asks for events.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: ``max_body_bytes`` is not positive.
    """

    def __init__(
        self,
        mobync: Mobync,
        authenticate: Authenticate,
        *,
        max_body_bytes: int = MAX_BODY_BYTES,
        live: Live | None = None,
    ) -> None:
        if not isinstance(mobync, Mobync):
            raise TypeError(f"mobync must be a Mobync, not {type(mobync).__name__}")
        if not callable(authenticate):
            raise TypeError("authenticate must be callable")
        if not isinstance(max_body_bytes, int) or isinstance(max_body_bytes, bool):
            raise TypeError("max_body_bytes must be an int")
        if max_body_bytes < 1:
            raise ValueError("max_body_bytes must be positive")
        self.mobync = mobync
        self.authenticate = authenticate
        self.max_body_bytes = max_body_bytes
        self.live = live

    def refuse(self, headers: SentHeaders) -> Response | None:
        """Refuse a sync by its headers, before its body is read.

        Args:
            headers: the request's.

        Returns:
            The response; None to read the body, of which one byte more than ``max_body_bytes`` is
            enough for :meth:`sync` to refuse it.
        """
        seen = Headers(headers)
        try:
            self._check(seen)
        except _Refusal as refusal:
            return _refused(refusal, _request_id(seen), {})
        return None

    def sync(self, headers: SentHeaders, body: bytes) -> Response:
        """Answer ``POST /sync``.  Blocks while it syncs: an event loop calls it in a thread.

        Args:
            headers: the request's.
            body: as it was sent, in gzip if the headers say so.

        Returns:
            The response; of a refused request, too.

        Raises:
            What ``authenticate`` and the Synchronizer raise, but for MobyncErrors of the sync.
        """
        seen = Headers(headers)
        number = _request_id(seen)
        timing: dict[str, str] = {}
        reset = request_id.set(number)
        try:
            self._check(seen)
            token = bearer_token(seen)
            if token is not None:
                owner_id = self._owner(token, seen)
                text = self._decoded(seen, body)
            else:
                text = self._decoded(seen, body)
                owner_id = self._owner(_core.text_member(text, "auth_token"), seen)
            reply = self._apply(text, owner_id, timing)
            return _accepted(seen, number, timing, reply)
        except _Refusal as refusal:
            return _refused(refusal, number, timing)
        finally:
            request_id.reset(reset)

    def events(
        self, headers: SentHeaders, context: ReadingContext = nullcontext
    ) -> Stream[AsyncIterator[bytes]] | Response:
        """Answer ``GET /sync/events`` in an event loop.

        Asks ``authenticate`` and reads the owner's clock, so call it in a thread; iterate the body
        in the loop.

        Args:
            headers: the request's; the token is in ``Authorization`` or is the app's business.
            context: entered around each read of the owner's clock; all but the first happen
                later and in other threads.

        Returns:
            The stream, or the response that refuses; 404 if there is no ``live``.

        Raises:
            What ``authenticate`` and the Synchronizer raise.
        """
        return self._listen(headers, context, lambda live: live.events)

    def blocking_events(
        self, headers: SentHeaders, context: ReadingContext = nullcontext
    ) -> Stream[Iterator[bytes]] | Response:
        """Do what :meth:`events` does for WSGI: the thread that iterates the body waits."""
        return self._listen(headers, context, lambda live: live.blocking_events)

    def _listen(
        self,
        headers: SentHeaders,
        context: ReadingContext,
        opener: Callable[[Live], Callable[..., Body]],
    ) -> Stream[Body] | Response:
        seen = Headers(headers)
        number = _request_id(seen)
        reset = request_id.set(number)
        try:
            if self.live is None:
                raise _Refusal(404, "no_events", "this server tells no events: sync now and then")
            owner_id = self._owner(bearer_token(seen), seen)

            def clock_now() -> int:
                with context():
                    return self._clock(owner_id)

            try:
                # Read now, while what the Synchronizer raises can still become a status.
                body = opener(self.live)(
                    owner_id, clock_now, seen.get("last-event-id"), read_first=True
                )
            except BusyError as error:
                raise _refusal(error) from error
            return Stream({**EVENT_HEADERS, "X-Request-ID": number}, body)
        except _Refusal as refusal:
            return _refused(refusal, number, {})
        finally:
            request_id.reset(reset)

    def _check(self, headers: Headers) -> None:
        """Refuse what the headers alone make impossible."""
        content_type = headers.get("content-type", "")
        if not is_json(content_type):
            raise _Refusal(
                415,
                "unsupported_media_type",
                f"Content-Type must be application/json in UTF-8, not {content_type!r}",
                headers={"Accept": "application/json"},
            )
        coding = headers.get("content-encoding", "")
        if coding.strip().lower() not in ("", "identity", "gzip", "x-gzip"):
            raise _Refusal(
                415,
                "unsupported_media_type",
                f"Content-Encoding must be gzip or absent, not {coding!r}",
                headers={"Accept-Encoding": "gzip"},
            )
        length = headers.get("content-length", "").strip()
        if length.isdecimal() and length.isascii():
            # A number of too many digits to be read is too large as well.
            digits = length.lstrip("0") or "0"
            if len(digits) > 18 or int(digits) > self.max_body_bytes:
                raise self._too_large()

    def _too_large(self) -> _Refusal:
        return _Refusal(
            413, "too_large", f"the body must not be longer than {self.max_body_bytes} bytes"
        )

    def _decoded(self, headers: Headers, body: bytes) -> bytes:
        if len(body) > self.max_body_bytes:
            raise self._too_large()
        if headers.get("content-encoding", "").strip().lower() in ("", "identity"):
            return body
        try:
            return inflated(body, self.max_body_bytes)
        except TooLongError:
            raise self._too_large() from None
        except ValueError as error:
            raise _Refusal(400, "invalid_request", str(error)) from error

    def _owner(self, token: str | None, headers: Headers) -> str:
        owner_id = self.authenticate(token, headers)
        if not isinstance(owner_id, str | None):
            raise TypeError(
                f"authenticate must return a str or None, not {type(owner_id).__name__}"
            )
        if owner_id is None or owner_id == "":
            raise _Refusal(
                401,
                "unauthenticated",
                "there is no token: it goes into Authorization: Bearer, or auth_token of a sync"
                if token is None
                else "the token is not accepted",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return owner_id

    def _apply(self, text: bytes, owner_id: str, timing: dict[str, str]) -> bytes:
        began = time.perf_counter()
        try:
            with _places.hold((id(self), owner_id)):
                return self.mobync.apply_json(text, owner_id)
        except MobyncError as error:
            raise _refusal(error) from error
        finally:
            spent_ms = (time.perf_counter() - began) * 1000
            timing["Server-Timing"] = f"apply;dur={spent_ms:.1f}"

    def _clock(self, owner_id: str) -> int:
        """The owner's logical clock, read outside of any transaction of mobync's."""
        store = self.mobync.synchronizer
        highest = store.highest_logical_clock(owner_id)
        if highest is None:
            log = store.read(
                self.mobync.diffs_model_name,
                [
                    ReadFilter(Diff.OWNER, FilterType.equal, owner_id),
                    ReadFilter(Diff.LOGICAL_CLOCK, FilterType.majorOrEqual, 0),
                ],
            )
            highest = _core.Exchange([]).meet(log, owner_id, 0)
        return 0 if highest is None else highest + 1


def _refusal(error: MobyncError) -> _Refusal:
    if isinstance(error, BusyError):
        return _Refusal(503, "busy", str(error), headers={"Retry-After": str(RETRY_AFTER_S)})
    if isinstance(error, LogicalClockError):
        if error.ahead:
            return _Refusal(409, "clock_ahead", str(error), {"pull_anew": True})
        return _Refusal(400, "invalid_clock", str(error))
    if isinstance(error, UnauthorizedError):
        return _Refusal(403, "unauthorized", str(error), _place(error))
    if isinstance(error, InvalidDiffError):
        code = "invalid_request" if error.index is None else "invalid_diff"
        return _Refusal(400, code, str(error), _place(error))
    code = "invalid_page" if isinstance(error, PageError) else "invalid_request"
    return _Refusal(400, code, str(error))


def _place(error: InvalidDiffError | UnauthorizedError) -> dict[str, Any]:
    place: dict[str, Any] = {"reason": _shortened(error.reason)}
    if error.index is not None:
        place["index"] = error.index
    if error.diff_id is not None and len(error.diff_id) <= MAX_ECHO:
        place["id"] = error.diff_id
    return place


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_ECHO else text[:MAX_ECHO] + "…"


def _request_id(headers: Headers) -> str:
    sent = headers.get("x-request-id", "")
    return sent if _REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex


def _accepted(headers: Headers, number: str, timing: dict[str, str], reply: bytes) -> Response:
    own = {**_own_headers(number), **timing, "Vary": "Accept-Encoding"}
    if len(reply) >= GZIP_FROM_BYTES and accepts_gzip(headers.get("accept-encoding", "")):
        own["Content-Encoding"] = "gzip"
        reply = deflated(reply)
    return Response(200, own, reply)


def _refused(refusal: _Refusal, number: str, timing: dict[str, str]) -> Response:
    message = _shortened(refusal.message)
    line = message if message.isprintable() else ascii(message)
    logger.warning("refused request=%s status=%d %s", number, refusal.status, line)
    body = {"success": False, "message": message, "code": refusal.code, **refusal.more}
    own = {**_own_headers(number), **timing, **refusal.headers}
    return Response(refusal.status, own, json.dumps(body).encode(), refusal.code)


def _own_headers(number: str) -> dict[str, str]:
    return {
        "Content-Type": "application/json",
        "Cache-Control": "no-store",
        "X-Request-ID": number,
    }
