"""The sync route as an ASGI app, as routes of Starlette, and as a router of FastAPI.

A worker thread checks the token, the event loop reads the body, and then a worker thread syncs.
With an asyncio Synchronizer, everything runs in the event loop.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from .. import http
from .._extras import needing

with needing("asgi"):
    from anyio import CapacityLimiter, fail_after, move_on_after, to_thread
    from starlette.applications import Starlette
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import Response, StreamingResponse
    from starlette.routing import Route

if TYPE_CHECKING:
    from fastapi import APIRouter

THREADS = 40

WAITING_PER_OWNER = 100  # syncs; so many devices of an owner may listen, and sync at the same news
TURN_S = 2.0  # for such a wait

# A body must keep arriving, and must not take longer than this plus one second for each so many
# bytes.
PAUSE_S = 20.0
BODY_S = 60.0
BYTES_PER_S = 16 * 1024

T = TypeVar("T")

Answer = Callable[[Request], Awaitable[Response]]


class SyncApp(Starlette):
    """An ASGI app that serves ``POST /sync``, ``GET /sync/events`` and the routes of clients.

    It runs alone or mounted.

    Args:
        endpoint: the endpoint.
        threads: how many syncs run at the same time; further syncs wait. Checking tokens has as
            many threads of its own, and so has opening streams.
    """

    def __init__(self, endpoint: http.Endpoint, *, threads: int = THREADS) -> None:
        super().__init__(routes=routes(endpoint, threads=threads))


def routes(endpoint: http.Endpoint, *, threads: int = THREADS) -> list[Route]:
    """The routes for your own Starlette app.

    Args:
        endpoint: the endpoint.
        threads: as in :class:`SyncApp`.

    Raises:
        TypeError: ``endpoint`` is not an Endpoint, or ``threads`` is not an int.
        ValueError: ``threads`` is less than 1.
    """
    answers = Answers(endpoint, threads)
    return [
        *(Route(path, answers.to(path), methods=["POST"]) for path in http.ROUTES),
        Route("/sync/events", answers.events, methods=["GET"]),
    ]


def router(endpoint: http.Endpoint, *, threads: int = THREADS, **options: Any) -> APIRouter:
    """The routes for ``include_router`` of a FastAPI app.

    Args:
        endpoint: the endpoint.
        threads: as in :class:`SyncApp`.
        **options: options of the APIRouter: prefix, tags, dependencies and so on.
    """
    http.check_endpoint(endpoint, can_await=True)
    with needing("fastapi"):
        from . import fastapi

    return fastapi.router(endpoint, threads=threads, **options)


class Answers:
    """The functions that answer the routes.

    With an asyncio Synchronizer they run in the event loop, otherwise in worker threads.

    Args:
        endpoint: the endpoint.
        threads: as in :class:`SyncApp`.

    Raises:
        TypeError, ValueError: as in :func:`routes`.
    """

    def __init__(self, endpoint: http.Endpoint, threads: int) -> None:
        http.check_endpoint(endpoint, can_await=True)
        if not isinstance(threads, int) or isinstance(threads, bool):
            raise TypeError(f"threads must be an int, not {type(threads).__name__}")
        if threads < 1:
            raise ValueError("threads must be 1 or more: a sync needs one")
        self._endpoint = endpoint
        # These are not the threads of the app's other routes, because syncs that wait for a lock
        # hold theirs.
        # Each kind of work has its own threads, so checking a token does not wait for a database.
        self._asking, self._syncing, self._opening = (CapacityLimiter(threads) for _ in range(3))
        self._turns = _Turns()

    def to(self, path: str) -> Answer:
        """The function that answers one of ``http.ROUTES``."""

        async def sync(request: Request) -> Response:
            """Send a device's edits, and get the edits of the owner's other devices."""
            return await self.sync(request, path)

        return sync

    async def sync(self, request: Request, path: str, owner_id: str | None = None) -> Response:
        """Answer a POST; authenticate the sender, unless the owner is known."""
        asked = request.headers, path, owner_id, request.query_params.get("device")
        upload = await self._run(self._asking, self._endpoint.admit, *asked)
        if isinstance(upload, http.Response):
            return _response(upload)
        with upload:
            try:
                refused = await _read(request, upload)
            except ClientDisconnect:
                return Response(status_code=400)  # for the access log: nobody gets this answer
            refused = refused or await self._owner_of(upload)
            if refused is not None:
                return _response(refused)
            async with self._turns.of(upload.owner_id) as has_turn:
                if not has_turn:
                    return _response(upload.too_many())
                return _response(await self._run(self._syncing, upload.answer))

    async def _owner_of(self, upload: http.Upload) -> http.Response | None:
        """Find the owner whose token is in the body; return the response that refuses."""
        if upload.owner_id is None:
            return await self._run(self._asking, upload.authenticate)
        return None

    async def events(self, request: Request) -> Response:
        """Hear at once when the log has grown, by Server-Sent Events."""
        return await self.stream(request, None)

    async def stream(self, request: Request, owner_id: str | None) -> Response:
        """Answer a GET for events; authenticate the sender, unless the owner is known."""
        events = self._endpoint.events
        asked = request.headers, nullcontext, owner_id, request.query_params.get("device")
        stream = await self._run(self._opening, events, *asked)
        if isinstance(stream, http.Response):
            return _response(stream)
        if request.method == "HEAD":
            return Response(headers=stream.headers)
        return StreamingResponse(stream.body, headers=stream.headers)

    async def _run(self, limiter: CapacityLimiter, work: Callable[..., T], *args: Any) -> T:
        waiting = self._endpoint.waiting
        if not waiting.can_await:
            return await to_thread.run_sync(work, *args, limiter=limiter)
        async with limiter:
            return await waiting.run(partial(work, *args))


class _Turns:
    """The syncs of each owner that run or wait. They wait here without a thread, so an owner who
    sends many requests does not take the threads that other owners need.
    """

    def __init__(self) -> None:
        self._of: dict[str | None, CapacityLimiter] = {}

    @asynccontextmanager
    async def of(self, owner_id: str | None) -> AsyncIterator[bool]:
        """Wait for the owner's turn; yield whether it came in time."""
        turns = self._of.setdefault(owner_id, CapacityLimiter(http.SYNCS_PER_OWNER))
        sync = object()
        has_turn = False
        try:
            if turns.statistics().tasks_waiting < WAITING_PER_OWNER:
                with move_on_after(TURN_S):
                    await turns.acquire_on_behalf_of(sync)
                    has_turn = True
            yield has_turn
        finally:
            if has_turn:
                turns.release_on_behalf_of(sync)
            if not (turns.borrowed_tokens or turns.statistics().tasks_waiting):
                self._of.pop(owner_id, None)


async def _read(request: Request, upload: http.Upload) -> http.Response | None:
    """Take the body; return the response if it is refused before its end."""
    pieces = request.stream()
    began = time.monotonic()
    try:
        while True:
            left_s = began + BODY_S + upload.size / BYTES_PER_S - time.monotonic()
            with fail_after(min(PAUSE_S, left_s)):
                piece = await anext(pieces)
            refused = upload.add(piece)
            if refused is not None:
                return refused
    except StopAsyncIteration:
        return None
    except TimeoutError:
        answer = upload.too_slow()
        if request.scope.get("http_version", "").startswith("1"):
            answer.headers["Connection"] = "close"  # otherwise the server would wait for the rest
        return answer


def _response(answer: http.Response) -> Response:
    return Response(answer.body, answer.status, answer.headers)
