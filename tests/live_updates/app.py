"""A server of one process: it pushes for an owner, and tells the owner's devices.

Its environment says where: LISTEN_FD (an open socket), DATABASE_URL, LIVE_KIND, LIVE_URL,
LIVE_CHANNEL, HEARTBEAT_S.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import FrameType

import uvicorn
from sqlalchemy import Column, MetaData, String, Table, create_engine
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mobync import Mobync
from mobync.sqlalchemy import SQLAlchemySynchronizer

from .brokers import live_on

metadata = MetaData()
notes = Table(
    "notes", metadata, Column("id", String(40), primary_key=True), Column("owner", String(40))
)
engine = create_engine(os.environ["DATABASE_URL"])
store = SQLAlchemySynchronizer(engine, {"notes": notes})
mobync = Mobync(store)
live = live_on(
    os.environ["LIVE_KIND"],
    os.environ["LIVE_URL"],
    os.environ["LIVE_CHANNEL"],
    heartbeat_s=float(os.environ["HEARTBEAT_S"]),
    recheck_s=3600,
    max_listeners_per_owner=1000,
)
mobync.listen(live.announce)


def clock_of(owner_id: str) -> int:
    highest = store.highest_logical_clock(owner_id)
    assert highest is not None
    return highest + 1


def push_note(owner_id: str) -> int:
    return mobync.push(owner_id, [("create", "notes", {"id": uuid.uuid4().hex})])


async def events(request: Request) -> Response:
    owner_id = request.query_params["owner"]
    last_event_id = request.headers.get("Last-Event-ID")
    stream = live.events(owner_id, lambda: clock_of(owner_id), last_event_id)
    return StreamingResponse(stream, media_type="text/event-stream")


async def push(request: Request) -> Response:
    return JSONResponse(await run_in_threadpool(push_note, request.query_params["owner"]))


async def listeners(request: Request) -> Response:
    return JSONResponse(live.listeners)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    yield
    await run_in_threadpool(live.close)
    engine.dispose()


class Server(uvicorn.Server):
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        live.hang_up()
        super().handle_exit(sig, frame)


def main() -> None:
    routes = [
        Route("/events", events),
        Route("/push", push, methods=["POST"]),
        Route("/listeners", listeners),
    ]
    with socket.socket(fileno=int(os.environ["LISTEN_FD"])) as listening:
        app = Starlette(routes=routes, lifespan=lifespan)
        Server(uvicorn.Config(app)).run(sockets=[listening])


if __name__ == "__main__":
    main()
