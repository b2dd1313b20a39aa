"""The endpoint: headers and body in; status, headers and body out."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from types import MappingProxyType, TracebackType
from typing import Any, Generic, TypeVar

from .. import _core
from .._plain import check_plain, check_takes, refuse_awaitable
from .._sync.known_devices import LONGEST_NAME, clock_of_listener, is_name
from .._sync.owner_locks import OwnerLocks
from .._sync.parts import HOLDS
from .._waiting import IN_A_THREAD, Waiting
from ..clients import CLIENTS, Client
from ..errors import (
    BusyError,
    DeviceRevokedError,
    InvalidDiffError,
    LogicalClockError,
    MobyncError,
    NoPartsError,
    OtherOwnerError,
    OwnerMovedError,
    PageError,
    PartsMissingError,
    RequestTooLargeError,
    TooManyDevicesError,
    UnauthorizedError,
    UnavailableError,
    UnknownDeviceError,
)
from ..live import Live
from ..sync import Mobync
from ..synchronizer import Synchronizer
from ._coding import (
    GZIP_FROM_BYTES,
    Headers,
    SentHeaders,
    accepts_gzip,
    bearer_token,
    deflated,
    inflated,
    is_json,
)
from ._in_flight import BytesInFlight

logger = logging.getLogger("mobync.http")

MAX_BODY_BYTES = 32 * 1024 * 1024
MAX_UNAUTHENTICATED_BODY_BYTES = 1024 * 1024
BODIES_IN_FLIGHT = 8  # of max_body_bytes each
OWNERS_SHARE = 4  # the part of them that one owner may have
READ_BYTES = 256 * 1024  # at a time
SYNCS_PER_OWNER = 3  # more could only wait, and use threads that other owners need
PATIENCE_S = 0.25  # devices that hear about a sync come together, and most are done sooner
RETRY_AFTER_S = 1

SYNC = "/sync"
ROUTES = (SYNC, *(f"{SYNC}/{kind.name}/{route}" for kind in CLIENTS for route in kind.routes))
"""The paths that take a POST; an adapter serves all, of clients that an endpoint lacks as a 404."""

EVENT_HEADERS = {
    "Content-Type": "text/event-stream",
    "Content-Encoding": "identity",  # else Django's compressing middleware would hold them back
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # else nginx would hold the events back
}

MAX_ECHO = 1000  # characters of a message or id in an answer, because the client chose them
_BEARER = {"WWW-Authenticate": "Bearer"}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

_places = OwnerLocks(SYNCS_PER_OWNER)
_in_flight = BytesInFlight()
_PARTS = "parts"  # who holds requests that are put together from parts

request_id: ContextVar[str | None] = ContextVar("mobync_request_id", default=None)
"""The id of the request that is answered, for the app's log; None between requests."""

Body = TypeVar("Body", AsyncIterator[bytes], Iterator[bytes])
ReadingContext = Callable[[], AbstractContextManager[Any]]
Authenticate = Callable[[str | None, Mapping[str, str]], "str | Awaitable[str | None] | None"]
Read = Callable[[int], bytes]
Work = Callable[[bytes, str], bytes]  # from a request's body and its owner to the reply


class ExpiredTokenError(Exception):
    """Raised by ``authenticate`` for a token that was valid once. 401 ``token_expired``."""


@dataclass(frozen=True)
class Response:
    """The response that an adapter sends.

    Attributes:
        status: the HTTP status.
        headers: all headers except those that a server adds itself, such as Content-Length.
        body: JSON, compressed with gzip if the headers say so.
        code: the reason of a refusal, as in the body; empty if it is not a refusal.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    code: str = ""


@dataclass(frozen=True)
class Stream(Generic[Body]):
    """The response to a device that may listen; its status is 200.

    Attributes:
        headers: all headers except those that a server adds itself.
        body: Server-Sent Events, which end when the device hangs up or the server stops.
    """

    headers: dict[str, str]
    body: Body


@dataclass(frozen=True)
class _Opener(Generic[Body]):
    """How a stream is opened, and for which device."""

    context: ReadingContext
    opens: Callable[[Live], Callable[..., Body]]
    device: str | None


@dataclass(eq=False)
class _Refusal(Exception):
    status: int
    code: str
    message: str
    more: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    owner_id: str | None = None

    def of(self, owner_id: str) -> _Refusal:
        """This refusal, with the owner and the device."""
        self.owner_id = owner_id
        return self

    def fields(self) -> dict[str, Any]:
        """The fields for the log; they contain ids, and nothing else that a device wrote."""
        place = {"index": self.more.get("index"), "diff": self.more.get("id")}
        known = {"owner": self.owner_id, **place}
        told = {name: value for name, value in known.items() if value is not None}
        return {"status": self.status, "code": self.code, **told}


class Endpoint:
    """``POST /sync`` and ``GET /sync/events`` for an adapter to serve, and the routes of clients.

    One object serves any number of threads.

    Args:
        mobync: the Mobync that merges.
        authenticate: called with the token of the request, or None, and its headers (found by names
            in any case). It returns the owner's id, or None or '' to refuse. It may be an ``async
            def`` if the Synchronizer is for asyncio. The token is that of ``Authorization:
            Bearer``, or else the ``auth_token`` of the body. It may raise
            :class:`ExpiredTokenError`; other exceptions reach the framework.
        max_body_bytes: how many bytes a body may have, before and after gzip.
        max_unauthenticated_body_bytes: the same for a request without ``Authorization: Bearer``,
            whose body must be read before its sender is known; None for 1 MiB, or
            ``max_body_bytes`` if that is less.
        max_bytes_in_flight: how many bytes of bodies, including their uncompressed content, this
            process may hold at once; None for eight times ``max_body_bytes``. One owner may have a
            quarter of them, and all requests without ``Authorization`` together another quarter.
            Requests that are put together from parts may have all but two ``max_body_bytes``.
        live: a ``mobync.live`` that hears about every sync (``mobync.listen(live.announce)``); with
            None, requests for events get a 404.
        clients: the ``mobync.clients`` to serve, with their settings; None for all of them without
            settings.

    Attributes:
        waiting: how its methods wait: in the thread that calls them, or in a task.

    Raises:
        TypeError: an argument has the wrong type, or ``authenticate`` takes other arguments.
        ValueError: a number of bytes is not positive, or does not fit the others; or a client is
            given twice.
    """

    def __init__(
        self,
        mobync: Mobync,
        authenticate: Authenticate,
        *,
        max_body_bytes: int = MAX_BODY_BYTES,
        max_unauthenticated_body_bytes: int | None = None,
        max_bytes_in_flight: int | None = None,
        live: Live | None = None,
        clients: Iterable[Client] | None = None,
    ) -> None:
        if not isinstance(mobync, Mobync):
            advice = ": give Mobync(synchronizer)" if isinstance(mobync, Synchronizer) else ""
            raise TypeError(f"mobync must be a Mobync, not {type(mobync).__name__}{advice}")
        if not callable(authenticate):
            raise TypeError("authenticate must be callable")
        self.waiting: Waiting = mobync.synchronizer._waiting
        if not self.waiting.can_await:
            check_plain("authenticate", authenticate)
        check_takes("authenticate", authenticate, "token", "headers")
        if live is not None and not isinstance(live, Live):
            raise TypeError(f"live must be one of mobync.live, not {type(live).__name__}")
        self.mobync = mobync
        self.authenticate = authenticate
        self.max_body_bytes = _bytes("max_body_bytes", max_body_bytes, MAX_BODY_BYTES)
        self.max_unauthenticated_body_bytes = _bytes(
            "max_unauthenticated_body_bytes",
            max_unauthenticated_body_bytes,
            min(MAX_UNAUTHENTICATED_BODY_BYTES, self.max_body_bytes),
        )
        self.max_bytes_in_flight = _bytes(
            "max_bytes_in_flight", max_bytes_in_flight, BODIES_IN_FLIGHT * self.max_body_bytes
        )
        if self.max_unauthenticated_body_bytes > self.max_body_bytes:
            raise ValueError("max_unauthenticated_body_bytes must not exceed max_body_bytes")
        if self.max_bytes_in_flight < 2 * self.max_body_bytes:
            raise ValueError(
                "max_bytes_in_flight must be at least twice max_body_bytes: "
                "for a body and its uncompressed content"
            )
        self.live = live
        self._works = self._works_of([kind() for kind in CLIENTS] if clients is None else clients)

    def _works_of(self, clients: Iterable[Client]) -> dict[str, Callable[..., bytes]]:
        """The function that answers each path."""
        works: dict[str, Callable[..., bytes]] = {SYNC: self._sync}
        for client in clients:
            if not isinstance(client, Client):
                advice = ": make one" if isinstance(client, type) else ""
                raise TypeError(f"clients must be from mobync.clients, not {client!r:.100}{advice}")
            for route in client.routes:
                path = f"{SYNC}/{client.name}/{route}"
                if path in works:
                    raise ValueError(f"clients has two of {type(client).__name__}")
                works[path] = self._work_of(client, route)
        return works

    def _sync(self, body: bytes, owner_id: str) -> bytes:
        return self.mobync.apply_json(body, owner_id)

    def _work_of(self, client: Client, route: str) -> Callable[..., bytes]:
        def work(body: bytes, owner_id: str, device: str | None = None) -> bytes:
            return client.answer(route, self.mobync, owner_id, body, device)

        return work

    def refuse(self, headers: SentHeaders) -> Response | None:
        """Refuse a sync if its headers are enough to refuse the body; does not check the token.

        Args:
            headers: the request's.

        Returns:
            The response; None: read the body. If it is too long, reading ``max_body_bytes`` plus
            one byte is enough for :meth:`sync` to refuse it.
        """
        seen = Headers(headers)
        number = _request_id(seen)
        try:
            self._check(seen, self._max_bytes(bearer_token(seen) is not None))
        except _Refusal as refusal:
            return self._refused(refusal, number)
        return None

    def admit(
        self,
        headers: SentHeaders,
        path: str = SYNC,
        owner_id: str | None = None,
        device: str | None = None,
    ) -> Upload | Response:
        """Admit a sync by its headers and the token in them, before its body is read.

        Args:
            headers: the headers of the request.
            path: one of ``ROUTES``.
            owner_id: the owner, if already known; then ``authenticate`` is not called.
            device: the name of a client's device: the parameter ``device`` of the URL. It is
                ignored for ``/sync``, whose body has the name.

        Returns:
            The Upload that takes the body, or the response that refuses. The response is a 404 if
            the path belongs to a client that is not served.

        Raises:
            Exception: what ``authenticate`` raises.
        """
        seen = Headers(headers)
        number = _request_id(seen)
        try:
            with _KnownAs(number):
                work = self._work(path, device)
                token = bearer_token(seen)
                is_known = owner_id is not None or token is not None
                self._check(seen, self._max_bytes(is_known))
                if owner_id is None and token is not None:
                    owner_id = self._owner(token, seen)
        except _Refusal as refusal:
            return self._refused(refusal, number)
        return Upload(self, work, seen, number, owner_id)

    def _work(self, path: str, device: str | None) -> Work:
        work = self._works.get(path)
        if work is None:
            raise _Refusal(404, "no_client", f"this server does not serve {path}")
        return work if path == SYNC else partial(work, device=self._device(device))

    def receive(
        self, headers: SentHeaders, read: Read, path: str = SYNC, device: str | None = None
    ) -> Response:
        """Answer ``POST /sync``; read the body after its sender was admitted.

        Args:
            headers: the headers of the request.
            read: called with a number; returns at most so many next bytes of the body, and none
                at its end.
            path: one of ``ROUTES``.
            device: as in :meth:`admit`.

        Returns:
            The response, also for a refused request.

        Raises:
            Exception: what ``read``, ``authenticate`` and the Synchronizer raise, except
                MobyncErrors of the sync.
        """
        upload = self.admit(headers, path, device=device)
        if isinstance(upload, Response):
            return upload
        with upload:
            return upload.read(read) or upload.answer()

    def sync(
        self, headers: SentHeaders, body: bytes, path: str = SYNC, device: str | None = None
    ) -> Response:
        """Answer ``POST /sync`` whose body is already read. (:meth:`receive` authenticates before.)

        It blocks while it syncs, so an event loop calls it in a thread.

        Args:
            headers: the headers of the request.
            body: the body as it was sent, in gzip if the headers say so.
            path: one of ``ROUTES``.
            device: as in :meth:`admit`.

        Returns:
            The response, also for a refused request.

        Raises:
            Exception: what ``authenticate`` and the Synchronizer raise, except MobyncErrors of the
                sync.
        """
        upload = self.admit(headers, path, device=device)
        if isinstance(upload, Response):
            return upload
        with upload:
            return upload.add(body) or upload.answer()

    def events(
        self,
        headers: SentHeaders,
        context: ReadingContext = nullcontext,
        owner_id: str | None = None,
        device: str | None = None,
    ) -> Stream[AsyncIterator[bytes]] | Response:
        """Answer ``GET /sync/events`` in an event loop.

        This calls ``authenticate`` and reads the owner's clock, so call it in a thread. Iterate the
        body in the loop.

        Args:
            headers: the headers of the request. The token is in ``Authorization``, or where the
                app's ``authenticate`` looks for it.
            context: entered around each read of the owner's clock; all reads but the first happen
                later and in other threads.
            owner_id: the owner, if already known; then ``authenticate`` is not called.
            device: the name of the device: the parameter ``device`` of the URL. Its stream ends
                when it is revoked.

        Returns:
            The stream, or the response that refuses: 404 if there is no ``live``, 403 if the
            device was revoked.

        Raises:
            Exception: what ``authenticate`` and the Synchronizer raise.
        """
        run = self.waiting.run if self.waiting.can_await else IN_A_THREAD.run  # of any request
        opener = _Opener(context, lambda live: partial(live.events, run=run), device)
        return self._listen(headers, opener, owner_id)

    def blocking_events(
        self,
        headers: SentHeaders,
        context: ReadingContext = nullcontext,
        device: str | None = None,
    ) -> Stream[Iterator[bytes]] | Response:
        """The same as :meth:`events`, for WSGI: the thread that iterates the body waits."""
        return self._listen(headers, _Opener(context, lambda live: live.blocking_events, device))

    def _listen(
        self, headers: SentHeaders, opener: _Opener[Body], owner_id: str | None = None
    ) -> Stream[Body] | Response:
        seen = Headers(headers)
        number = _request_id(seen)
        try:
            with _KnownAs(number):
                body = self._opened(seen, opener, owner_id)
        except _Refusal as refusal:
            return self._refused(refusal, number)
        return Stream({**EVENT_HEADERS, "X-Request-ID": number}, body)

    def _opened(self, headers: Headers, opener: _Opener[Body], known: str | None) -> Body:
        if self.live is None:
            raise _Refusal(404, "no_events", "this server sends no events: sync from time to time")
        device = self._device(opener.device)
        owner_id = known or self._owner(bearer_token(headers), headers)

        def clock_now() -> int:
            around = opener.context()
            refuse_awaitable("context", around)
            with around:
                return clock_of_listener(self.mobync, owner_id, device)

        seen = headers.get("last-event-id")
        try:
            # Read now, while an exception of the Synchronizer can still become a status.
            stream = opener.opens(self.live)
            return stream(owner_id, clock_now, seen, read_first=True, device=device)
        except MobyncError as error:
            raise _refusal(error).of(owner_id) from error

    def _device(self, said: str | None) -> str | None:
        """The name of a device in its URL, if it is valid."""
        if said is None and not self.mobync.anonymous_devices:
            message = "device is missing in the URL: this server takes named devices only"
            raise _Refusal(400, "invalid_request", message)
        if said is not None and not is_name(said):
            message = f"device must be a text of 1 to {LONGEST_NAME} characters"
            raise _Refusal(400, "invalid_request", message)
        return said

    def _max_bytes(self, is_known: bool) -> int:
        return self.max_body_bytes if is_known else self.max_unauthenticated_body_bytes

    def _check(self, headers: Headers, max_bytes: int) -> None:
        """Refuse a request whose headers are enough to refuse it."""
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
            # A number with too many digits to be read is also too large.
            digits = length.lstrip("0") or "0"
            if len(digits) > 18 or int(digits) > max_bytes:
                raise self._too_large(max_bytes)

    def _too_large(self, max_bytes: int) -> _Refusal:
        where = "" if max_bytes == self.max_body_bytes else " if Authorization has no Bearer token"
        return _Refusal(
            413, "too_large", f"the body must not be longer than {max_bytes} bytes{where}"
        )

    def _owner(self, token: str | None, headers: Headers) -> str:
        try:
            answer = self.authenticate(token, headers)
            owner_id: object = self.waiting.answer("authenticate", answer)
        except ExpiredTokenError:
            message = "the token has expired"
            raise _Refusal(401, "token_expired", message, headers=_BEARER) from None
        except BusyError as error:
            raise _busy(error) from error
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
                headers=_BEARER,
            )
        return owner_id

    def _apply(self, work: Work, text: bytes, owner_id: str) -> bytes:
        try:
            with _places.hold((id(self), owner_id), PATIENCE_S, self.waiting):
                return work(text, owner_id)
        except MobyncError as error:
            raise _refusal(error).of(owner_id) from error

    def _refused(
        self, refusal: _Refusal, number: str, timing: Mapping[str, str] = MappingProxyType({})
    ) -> Response:
        """Log a refusal, and turn it into a response. This is called once for each refusal."""
        message = _shortened(refusal.message)
        line = message if message.isprintable() else ascii(message)
        with _KnownAs(number):
            logger.warning(
                "refused request=%s status=%d %s",
                number,
                refusal.status,
                line,
                extra={"fields": refusal.fields()},
            )
        body = {"success": False, "message": message, "code": refusal.code, **refusal.more}
        own = {**_own_headers(number), **timing, **refusal.headers}
        return Response(refusal.status, own, json.dumps(body).encode(), refusal.code)


class Upload:
    """A sync that was admitted by its headers. It takes the body and answers.

    :meth:`Endpoint.admit` makes it. It is a context manager: when it is left, its bytes are no
    longer in flight. If a server gives up a request while a thread answers it, the bytes are in
    flight until that thread ends.

    Attributes:
        size: how many bytes of the body have arrived.
    """

    def __init__(
        self, endpoint: Endpoint, work: Work, headers: Headers, number: str, owner_id: str | None
    ) -> None:
        self.size = 0
        self._endpoint = endpoint
        self._work = work
        self._headers = headers
        self._number = number
        self._owner_id = owner_id
        self._max_bytes = (
            endpoint.max_unauthenticated_body_bytes if owner_id is None else endpoint.max_body_bytes
        )
        self._holder = (id(endpoint), owner_id)
        self._body = BytesIO()
        self._content: bytes | None = None
        self._guard = threading.Lock()  # of the three below
        self._held = 0
        self._is_answering = self._is_left = False
        self._held_of_parts = 0  # only the answer knows it
        self._timing: dict[str, str] = {}

    def __enter__(self) -> Upload:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._guard:
            self._is_left = True
            if not self._is_answering:
                self._let_go(self._held)

    def add(self, piece: bytes) -> Response | None:
        """Take the next piece of the body.

        Returns:
            The response if the body is too long, or there is no room for it; else None.
        """
        self.size += len(piece)
        try:
            self._hold(len(piece), self.size)
        except _Refusal as refusal:
            return self._refused(refusal)
        self._body.write(piece)
        return None

    def read(self, read: Read) -> Response | None:
        """Take the whole body, by calls of ``read`` with the largest number of bytes to return.

        Returns:
            The response if the body is too long, or there is no room for it; else None.
        """
        refused = None
        while refused is None and (piece := read(READ_BYTES)):
            refused = self.add(piece)
        return refused

    def too_slow(self) -> Response:
        """The response if the body does not arrive."""
        return self._refused(_Refusal(408, "too_slow", "the body did not come in time"))

    def too_many(self) -> Response:
        """The response if too many other syncs of this owner run or wait."""
        return self._refused(
            _busy(BusyError("too many syncs of this owner are running or waiting"))
        )

    @property
    def owner_id(self) -> str | None:
        """The owner; None: only the body says who sent it, see :meth:`authenticate`."""
        return self._owner_id

    def authenticate(self) -> Response | None:
        """Find the owner by the token in the body, if it was not in the headers. It may block.

        Returns:
            The response that refuses; else None.

        Raises:
            Exception: what ``authenticate`` raises.
        """
        if self._owner_id is not None:
            return None
        with self._guard:
            self._is_answering = True
        try:
            with _KnownAs(self._number):
                self._find_owner()
        except _Refusal as refusal:
            return self._refused(refusal)
        finally:
            with self._guard:
                self._is_answering = False
                if self._is_left:
                    self._let_go(self._held)
        return None

    def _find_owner(self) -> str:
        if self._content is None:
            self._content = self._text()
        if self._owner_id is None:
            token = _core.text_member(self._content, "auth_token")
            self._owner_id = self._endpoint._owner(token, self._headers)
        return self._owner_id

    def answer(self) -> Response:
        """Sync with the body. It blocks meanwhile, so an event loop calls it in a thread.

        Returns:
            The response, also for a refused request.

        Raises:
            What ``authenticate`` and the Synchronizer raise, except MobyncErrors of the sync.
        """
        with self._guard:
            self._is_answering = True
        try:
            with _KnownAs(self._number):
                reply = self._synced()
        except _Refusal as refusal:
            return self._refused(refusal)
        finally:
            with self._guard:
                self._is_answering = False
                self._let_go(self._held)
        return _accepted(self._headers, self._number, self._timing, reply)

    def _synced(self) -> bytes:
        owner_id = self._find_owner()
        text, self._content = self._content or b"", None
        began = time.perf_counter()
        reset = HOLDS.set(self._hold_parts)
        try:
            return self._endpoint._apply(self._work, text, owner_id)
        finally:
            HOLDS.reset(reset)
            self._let_go_of_parts()
            spent_ms = (time.perf_counter() - began) * 1000
            self._timing["Server-Timing"] = f"apply;dur={spent_ms:.1f}"

    def _text(self) -> bytes:
        """The decompressed body; the compressed one is released."""
        body, self._body = self._body.getvalue(), BytesIO()
        if self._headers.get("content-encoding", "").strip().lower() in ("", "identity"):
            return body
        text = BytesIO()
        try:
            for piece in inflated(body):
                self._hold(len(piece), text.tell() + len(piece))
                text.write(piece)
        except ValueError as error:
            raise _Refusal(400, "invalid_request", str(error)) from error
        del body
        with self._guard:
            self._let_go(self.size)
        return text.getvalue()

    def _hold(self, size: int, so_far: int) -> None:
        if so_far > self._max_bytes:
            raise self._endpoint._too_large(self._max_bytes)
        most = self._endpoint.max_bytes_in_flight
        # A body of the maximum length fits, compressed and decompressed.
        share = max(most // OWNERS_SHARE, 2 * self._max_bytes)
        if not _in_flight.take(self._holder, size, most=most, most_of_holder=share):
            raise _Refusal(
                503,
                "busy",
                "too many bodies are being received",
                headers={"Retry-After": str(RETRY_AFTER_S)},
            )
        with self._guard:
            self._held += size

    def _let_go(self, size: int) -> None:
        if size:
            self._held -= size
            _in_flight.give_back(self._holder, size)

    def _hold_parts(self, size: int) -> None:
        """Hold a request that is put together from parts, in place of what was held of it before:
        its transaction may begin again.

        Raises:
            RequestTooLargeError: there is never room for so much.
            BusyError: there is no room now.
        """
        self._let_go_of_parts()
        most = self._endpoint.max_bytes_in_flight
        share = most - 2 * self._endpoint.max_body_bytes  # others send their bodies meanwhile
        if size > share:
            raise RequestTooLargeError(
                f"the parts of a request must not have more than {share} bytes in all here "
                "(max_bytes_in_flight)"
            )
        if not _in_flight.take(_PARTS, size, most=most, most_of_holder=share):
            raise BusyError("too many requests are being put together from parts")
        self._held_of_parts = size

    def _let_go_of_parts(self) -> None:
        size, self._held_of_parts = self._held_of_parts, 0
        if size:
            _in_flight.give_back(_PARTS, size)

    def _refused(self, refusal: _Refusal) -> Response:
        refusal.owner_id = refusal.owner_id or self._owner_id
        return self._endpoint._refused(refusal, self._number, self._timing)


def _bytes(name: str, given: int | None, default: int) -> int:
    if given is None:
        return default
    if not isinstance(given, int) or isinstance(given, bool):
        raise TypeError(f"{name} must be an int")
    if given < 1:
        raise ValueError(f"{name} must be positive")
    return given


class _KnownAs:
    """Answer a request with its request id set; a generator would take three times as long."""

    __slots__ = ("_number", "_reset")

    def __init__(self, number: str) -> None:
        self._number = number

    def __enter__(self) -> None:
        self._reset = request_id.set(self._number)

    def __exit__(self, *error: object) -> None:
        request_id.reset(self._reset)


def check_endpoint(given: object, *, can_await: bool = False) -> None:
    """Check the argument of an adapter.

    Args:
        given: the argument.
        can_await: whether the adapter is for asyncio.

    Raises:
        TypeError: it is not an Endpoint, or it is for asyncio and the adapter is not.
    """
    if not isinstance(given, Endpoint):
        advice = ": give Endpoint(mobync, authenticate)" if isinstance(given, Mobync) else ""
        raise TypeError(
            f"endpoint must be a mobync.http.Endpoint, not {type(given).__name__}{advice}"
        )
    if given.waiting.can_await and not can_await:
        raise TypeError(
            "the endpoint's Synchronizer is for asyncio: serve it with mobync.http.asgi or "
            "mobync.http.fastapi, or use a SQLAlchemySynchronizer with a blocking engine"
        )


def _refusal(error: MobyncError) -> _Refusal:
    if isinstance(error, BusyError):
        return _busy(error)
    if isinstance(error, LogicalClockError):
        if error.ahead:
            told = {"pull_anew": True, **({"behind": True} if error.behind else {})}
            return _Refusal(409, "clock_ahead", str(error), told)
        return _Refusal(400, "invalid_clock", str(error))
    if isinstance(error, UnauthorizedError):
        return _Refusal(403, "unauthorized", str(error), _place(error))
    if isinstance(error, InvalidDiffError):
        code = "invalid_request" if error.index is None else "invalid_diff"
        return _Refusal(400, code, str(error), _place(error))
    more = {"missing": error.missing} if isinstance(error, PartsMissingError) else {}
    others = (answer for kind, answer in _OTHER_REFUSALS if isinstance(error, kind))
    return _Refusal(*next(others, (400, "invalid_request")), str(error), more)


_OTHER_REFUSALS = (
    (PageError, (400, "invalid_page")),
    (UnknownDeviceError, (409, "unknown_device")),
    (DeviceRevokedError, (403, "device_revoked")),
    (OwnerMovedError, (403, "owner_moved")),
    (OtherOwnerError, (403, "other_owner")),
    (PartsMissingError, (409, "parts_missing")),
    (RequestTooLargeError, (413, "request_too_large")),
    (NoPartsError, (400, "no_parts")),
    (TooManyDevicesError, (403, "too_many_devices")),
)


def _busy(error: BusyError) -> _Refusal:
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    if isinstance(error, UnavailableError):
        return _Refusal(503, "unavailable", str(error), headers=headers)
    return _Refusal(503, "busy", str(error), headers=headers)


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
    return sent if sent and _REQUEST_ID.fullmatch(sent) else os.urandom(16).hex()


def _accepted(headers: Headers, number: str, timing: dict[str, str], reply: bytes) -> Response:
    own = {**_own_headers(number), **timing, "Vary": "Accept-Encoding"}
    if len(reply) >= GZIP_FROM_BYTES and accepts_gzip(headers.get("accept-encoding", "")):
        own["Content-Encoding"] = "gzip"
        reply = deflated(reply)
    return Response(200, own, reply)


def _own_headers(number: str) -> dict[str, str]:
    return {
        "Content-Type": "application/json",
        "Cache-Control": "no-store",
        "X-Request-ID": number,
    }
