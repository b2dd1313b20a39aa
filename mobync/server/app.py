"""The app that `mobync serve` runs: /sync, /sync/events, /health, /metrics and the inspector."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine, ExceptionContext
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from .. import Mobync, __version__
from ..clients import RxDB, Watermelon
from ..http import SYNC, Authenticate, Endpoint, asgi
from ..http import Response as Answer
from ..http._endpoint import BODIES_IN_FLIGHT, Work
from ..http._endpoint import _Refusal as Refusal
from ..live import Live
from ..sqlalchemy import DocumentSynchronizer
from ..sqlalchemy._errors import LOST_PREPARED, OUTAGES, code_of, kind_of
from . import inspector, logs
from ._admission import Admission, OneTimeCode
from ._connections import (
    LimitedProtocol,
    connections_that_fit,
    log_lack_of_descriptors_seldom,
)
from ._cors import across_origins
from ._jwt import load_jwts
from ._keys import KeysError
from ._live import live_of
from .database import PREPARE_THRESHOLD, DatabaseError, check_writes, database_url, new_engine
from .lost import LostEdits
from .metrics import CONTENT_TYPE, MeasuredMobync, Metrics
from .pushes import Pushes, beside_log
from .settings import Settings
from .tokens import Tokens, load_tokens

logger = logging.getLogger("mobync.server")

RETRY_AFTER_S = 1

_PREPARE_NEVER = (
    f"behind PgBouncer in transaction mode use ?{PREPARE_THRESHOLD}=None in the database's URL"
)


def from_environment() -> ASGIApp:
    """Make the app of a worker: the factory that the server calls in each."""
    settings = Settings.from_environment()
    logs.configure(settings.log_format)
    LimitedProtocol.max_connections = connections_that_fit(
        settings.max_connections, settings.threads
    )
    return create_app(settings)


def create_app(settings: Settings) -> ASGIApp:
    """Make the app.  The tables must be there.

    Args:
        settings: how to serve.

    Returns:
        An ASGI app; the end of its lifespan closes what was opened here.

    Raises:
        DatabaseError, SecretError, KeysError: the database, a secret or the place of the keys
            cannot be used.
    """
    url = database_url(settings.database)
    tokens = load_tokens(None if settings.secret_file is None else Path(settings.secret_file))
    engine = new_engine(url, settings.threads)
    store = DocumentSynchronizer(engine)
    metrics = Metrics()
    _watch(engine, metrics)
    live = live_of(settings)
    lost, pushes = beside_log(engine, store)
    measured = MeasuredMobync(store, metrics, lost, max_request_bytes=settings.max_request_bytes)
    mobync = _heard(measured, metrics, live)
    endpoint = CountingEndpoint(
        metrics,
        mobync,
        _authenticate(settings, tokens),
        **_limits_of_bodies(settings),
        live=live,
        clients=[RxDB(), Watermelon(times=settings.watermelon_times)],
    )

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        _stop_when_told(live, settings.stop_timeout_s)
        log_lack_of_descriptors_seldom(asyncio.get_running_loop())
        try:
            yield
        finally:
            if live is not None:
                live.close()
            pushes.close()
            engine.dispose()

    for_devices = asgi.routes(endpoint, threads=settings.threads)
    app = Starlette(
        routes=[
            *for_devices,
            Route("/health", _health(engine, store)),
            Route("/metrics", _metrics(metrics)),
            *(Mount(path, StaticFiles(directory=at, html=True)) for path, at in settings.static),
            *_inspector(settings, engine, mobync, tokens, live, lost, pushes),
        ],
        exception_handlers={DBAPIError: _database_error, NoConnectionError: _database_error},
        lifespan=lifespan,
    )
    origins = settings.allow_origin
    return across_origins(app, origins, for_devices) if origins else app


def _limits_of_bodies(settings: Settings) -> dict[str, int]:
    """There is room for eight bodies, and for the longest request in parts."""
    longest = settings.max_body_bytes
    room = max(BODIES_IN_FLIGHT * longest, 2 * longest + settings.max_request_bytes)
    return {"max_body_bytes": longest, "max_bytes_in_flight": room}


def _heard(mobync: MeasuredMobync, metrics: Metrics, live: Live | None) -> MeasuredMobync:
    """Let everyone who wants to hear about syncs do so."""
    mobync.listen(metrics.count_sync)
    mobync.listen(logs.log_sync)
    if live is not None:
        mobync.listen(live.announce)
    return mobync


def _authenticate(settings: Settings, tokens: Tokens) -> Authenticate:
    """The ``authenticate`` of the endpoint; it also accepts the app's JWTs if these can be
    verified.
    """
    jwts = load_jwts(settings)
    if jwts is None:
        return tokens.owner
    try:
        jwts.load_keys()
    except KeysError as error:  # `mobync serve` could read them at its start
        logger.warning("%s", error)
    return jwts.beside(tokens)


class CountingEndpoint(Endpoint):
    """An endpoint that counts refusals, and requests of clients."""

    def __init__(
        self,
        metrics: Metrics,
        mobync: Mobync,
        authenticate: Authenticate,
        **options: Any,
    ) -> None:
        super().__init__(mobync, authenticate, **options)
        self._metrics = metrics

    def _work(self, path: str, device: str | None) -> Work:
        work = super()._work(path, device)
        if path == SYNC:
            return work

        def counted(body: bytes, owner_id: str) -> bytes:
            reply = work(body, owner_id)
            self._metrics.count_client(path, device is not None)
            return reply

        return counted

    def _refused(self, refusal: Refusal, *of_request: Any) -> Answer:
        self._metrics.count_refusal(refusal.code)
        return super()._refused(refusal, *of_request)


def _stop_when_told(live: Live | None, within_s: float) -> None:
    """Let a signal end the streams of events, for which the server would wait, and finally the
    process.
    """
    if threading.current_thread() is not threading.main_thread():
        return  # another program runs this server, and handles signals
    told: SimpleQueue[None] = SimpleQueue()  # an Event is not safe in a handler
    threading.Thread(target=_end_in_time, args=(told, within_s), daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM):
        before = signal.getsignal(number)

        def stop(number: int, frame: FrameType | None, before: Any = before) -> None:
            told.put(None)
            if live is not None:
                live.hang_up()
            if callable(before):
                before(number, frame)

        signal.signal(number, stop)


def _end_in_time(told: SimpleQueue[None], within_s: float) -> None:
    """End the process although syncs still run, because uvicorn and Python would wait for their
    threads.
    """
    told.get()
    time.sleep(within_s)
    logger.warning("stopping while syncs still run: the database rolls them back")
    logging.shutdown()
    os._exit(0)


def _health(engine: Engine, store: DocumentSynchronizer) -> Any:
    def health(request: Request) -> Response:
        try:
            check_writes(engine, store)
        except DatabaseError as error:
            logger.error("not healthy: %s", error)
            return JSONResponse(
                {"status": "unavailable", "message": "the database does not accept writes"}, 503
            )
        return JSONResponse({"status": "ok", "version": __version__})

    return health


def _metrics(metrics: Metrics) -> Any:
    def show(request: Request) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    return show


def _inspector(
    settings: Settings,
    engine: Engine,
    mobync: MeasuredMobync,
    tokens: Tokens,
    live: Live | None,
    lost: LostEdits,
    pushes: Pushes,
) -> list[Route]:
    if settings.inspector == "off":
        return []
    mobync.listen(pushes.note)
    file = settings.inspector_code
    code = None if file is None else OneTimeCode(Path(file))
    admission = Admission(settings.inspector, tokens, code)
    store = mobync.synchronizer
    assert isinstance(store, DocumentSynchronizer)
    tables = store.metadata.tables
    found = inspector.routes(
        engine,
        tables["diffs"],
        tables["diffs_heads"],
        admission.allow,
        live,
        lost=lost,
        pushes=pushes,
        documents=store.documents_table,
        mobync=mobync,
        may_change=admission.may_change,
    )
    return [*admission.routes(), *found]


async def _database_error(request: Request, error: Exception) -> Response:
    """Tell the device to try again if the database is not available; any other error is a bug.

    If the database hangs, all connections are in use, and the pool raises a TimeoutError.
    """
    if kind_of(error) not in OUTAGES:
        raise error
    return JSONResponse(
        {"success": False, "code": "unavailable", "message": "the database does not answer"},
        503,
        {"Retry-After": str(RETRY_AFTER_S)},
    )


def _watch(engine: Engine, metrics: Metrics) -> None:
    """Count all errors of the database, including those that a second try solves, and log its
    outages.
    """

    def note(context: ExceptionContext) -> None:
        error = context.sqlalchemy_exception
        if not isinstance(error, DBAPIError):
            return
        kind = kind_of(error)
        metrics.count_database_error(kind.value)
        if kind in OUTAGES:
            logger.error("the database does not answer: %s", " ".join(str(error.orig).split()))
        elif code_of(error) in LOST_PREPARED:
            logger.error("prepared statements get lost: %s", _PREPARE_NEVER)

    event.listen(engine, "handle_error", note)
