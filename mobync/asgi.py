"""The sync route as an ASGI app, as routes of Starlette, and as a router of FastAPI.

Reading happens in the event loop, the sync itself in a worker thread.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from . import http

if TYPE_CHECKING:
    from fastapi import APIRouter

THREADS = 40

# For the app's own /openapi.json, in short; docs/openapi.yaml says it all.
_REQUEST = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["logical_clock", "diffs"],
                    "properties": {
                        "logical_clock": {"type": "integer", "minimum": 0},
                        "diffs": {"type": "array", "items": {"type": "object"}},
                    },
                }
            }
        },
    }
}

Answer = Callable[[Request], Awaitable[Response]]


class SyncApp(Starlette):
    """An ASGI app that serves ``POST /sync`` and ``GET /sync/events``, alone or mounted.

    Args:
        endpoint: what answers.
        threads: syncs at the same time; further ones wait.  As many again open streams.
    """

    def __init__(self, endpoint: http.Endpoint, *, threads: int = THREADS) -> None:
        super().__init__(routes=routes(endpoint, threads=threads))


def routes(endpoint: http.Endpoint, *, threads: int = THREADS) -> list[Route]:
    """The routes, for a Starlette of the app's own.

    Args:
        endpoint: what answers.
        threads: syncs at the same time; further ones wait.  As many again open streams.
    """
    sync, events = _answers(endpoint, threads)
    return [
        Route("/sync", sync, methods=["POST"]),
        Route("/sync/events", events, methods=["GET"]),
    ]


def router(endpoint: http.Endpoint, *, threads: int = THREADS, **options: Any) -> APIRouter:
    """The routes, for ``include_router`` of a FastAPI app.

    Args:
        endpoint: what answers.
        threads: syncs at the same time; further ones wait.  As many again open streams.
        **options: of the APIRouter: prefix, tags, dependencies and so on.
    """
    from fastapi import APIRouter

    made = APIRouter(**options)
    sync, events = _answers(endpoint, threads)
    made.post("/sync", response_class=Response, openapi_extra=_REQUEST)(sync)
    made.get("/sync/events", response_class=StreamingResponse)(events)
    return made


def _answers(endpoint: http.Endpoint, threads: int) -> tuple[Answer, Answer]:
    # Not the threads that the app's other routes use: syncs that wait for a lock hold theirs.
    syncing, opening = CapacityLimiter(threads), CapacityLimiter(threads)

    async def sync(request: Request) -> Response:
        """Send what a device did, and get what the others of its owner did."""
        early = endpoint.refuse(request.headers)
        if early is not None:
            return _response(early)
        try:
            body = await _read(request, endpoint.max_body_bytes)
        except ClientDisconnect:
            return Response(status_code=400)  # for the access log: nobody reads it
        return _response(
            await to_thread.run_sync(endpoint.sync, request.headers, body, limiter=syncing)
        )

    async def events(request: Request) -> Response:
        """Be told at once when the log has moved: Server-Sent Events."""
        stream = await to_thread.run_sync(endpoint.events, request.headers, limiter=opening)
        if isinstance(stream, http.Response):
            return _response(stream)
        if request.method == "HEAD":
            return Response(headers=stream.headers)
        return StreamingResponse(stream.body, headers=stream.headers)

    return sync, events


async def _read(request: Request, max_bytes: int) -> bytes:
    """The body, or what comes of it until it is too long."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > max_bytes:
            break
    return bytes(body)


def _response(answer: http.Response) -> Response:
    return Response(answer.body, answer.status, answer.headers)
