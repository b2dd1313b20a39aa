"""The app that `mobync serve` runs: /sync, /sync/events, /health, /metrics and the inspector."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .. import Mobync, __version__, asgi
from .._http_coding import SentHeaders
from ..http import Authenticate, Endpoint, ReadingContext, Stream
from ..http import Response as Answer
from ..live import InProcessLive, Live, PostgreSQLLive, RedisLive
from ..sqlalchemy import DocumentSynchronizer
from . import inspector, logs
from .database import database_url, new_engine
from .metrics import CONTENT_TYPE, MeasuredMobync, Metrics
from .settings import Settings
from .tokens import Tokens, load_tokens

logger = logging.getLogger("mobync.server")

RECHECK_S = 2.0  # how late a device learns of a sync at another worker, if nobody tells
RETRY_AFTER_S = 1


def from_environment() -> Starlette:
    """Make the app of a worker: the factory that the server calls in each."""
    settings = Settings.from_environment()
    logs.configure(settings.log_format)
    return create_app(settings)


def create_app(settings: Settings) -> Starlette:
    """Make the app.  The tables must be there.

    Args:
        settings: how to serve.

    Returns:
        An ASGI app; the end of its lifespan closes what was opened here.

    Raises:
        DatabaseError, SecretError: the database or the secret cannot be used.
    """
    url = database_url(settings.database)
    tokens = load_tokens(None if settings.secret_file is None else Path(settings.secret_file))
    engine = new_engine(url, settings.threads)
    store = DocumentSynchronizer(engine)
    metrics = Metrics()
    live = live_of(settings)
    mobync = MeasuredMobync(store, metrics)
    mobync.listen(metrics.count_sync)
    mobync.listen(logs.log_sync)
    if live is not None:
        mobync.listen(live.announce)
    endpoint = CountingEndpoint(
        metrics, mobync, tokens.owner, max_body_bytes=settings.max_body_bytes, live=live
    )

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        if live is not None:
            _hang_up_when_told_to_stop(live)
        try:
            yield
        finally:
            if live is not None:
                live.close()
            engine.dispose()

    return Starlette(
        routes=[
            *asgi.routes(endpoint, threads=settings.threads),
            Route("/health", _health(engine)),
            Route("/metrics", _metrics(metrics)),
            *_inspector(settings, engine, store, tokens, live),
        ],
        exception_handlers={DBAPIError: _database_error, NoConnectionError: _database_error},
        lifespan=lifespan,
    )


class CountingEndpoint(Endpoint):
    """An endpoint that counts what it refuses."""

    def __init__(
        self,
        metrics: Metrics,
        mobync: Mobync,
        authenticate: Authenticate,
        *,
        max_body_bytes: int,
        live: Live | None,
    ) -> None:
        super().__init__(mobync, authenticate, max_body_bytes=max_body_bytes, live=live)
        self._metrics = metrics

    def refuse(self, headers: SentHeaders) -> Answer | None:
        answer = super().refuse(headers)
        self._count(answer)
        return answer

    def sync(self, headers: SentHeaders, body: bytes) -> Answer:
        answer = super().sync(headers, body)
        self._count(answer)
        return answer

    def events(
        self, headers: SentHeaders, context: ReadingContext = nullcontext
    ) -> Stream[AsyncIterator[bytes]] | Answer:
        answer = super().events(headers, context)
        self._count(answer)
        return answer

    def _count(self, answer: object) -> None:
        if isinstance(answer, Answer) and answer.code:
            self._metrics.count_refusal(answer.code)


def live_of(settings: Settings) -> Live | None:
    """What tells devices that a log has moved; None if nothing shall.

    Raises:
        ImportError: the broker's client is not installed.
        ValueError: the broker's URL cannot be used.
    """
    url = database_url(settings.database)
    if settings.events == "off":
        return None
    if settings.events != "auto":
        return RedisLive(settings.events)
    if url.get_backend_name() == "postgresql":
        return PostgreSQLLive(_conninfo(url))
    if settings.workers == 1:
        return InProcessLive()
    return InProcessLive(recheck_s=RECHECK_S)


def _conninfo(url: URL) -> str:
    """The connection string of libpq that means what SQLAlchemy makes of a URL.

    As a URL it would not: SQLAlchemy leaves spaces as they are, and has its own way to name
    several hosts.

    Raises:
        ImportError: psycopg is not installed.
        ValueError: the URL has options of SQLAlchemy's driver that libpq does not have.
    """
    import psycopg
    from psycopg.conninfo import make_conninfo

    dialect = url.set(drivername="postgresql+psycopg").get_dialect()()
    _, parameters = dialect.create_connect_args(url)
    parameters.pop("context", None)  # how the driver converts types
    try:
        return make_conninfo("", **parameters)
    except psycopg.ProgrammingError:  # its message may hold the password
        raise ValueError("the URL of the database has an option that LISTEN cannot have") from None


def _hang_up_when_told_to_stop(live: Live) -> None:
    """End the streams of events before the server waits for its responses to end."""
    if threading.current_thread() is not threading.main_thread():
        return  # no server of ours, which has its signals there
    for number in (signal.SIGINT, signal.SIGTERM):
        before = signal.getsignal(number)

        def hang_up(number: int, frame: FrameType | None, before: Any = before) -> None:
            live.hang_up()
            if callable(before):
                before(number, frame)

        signal.signal(number, hang_up)


def _health(engine: Engine) -> Any:
    def health(request: Request) -> Response:
        try:
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        except (DBAPIError, NoConnectionError) as error:
            _log_outage(error)
            return JSONResponse(
                {"status": "unavailable", "message": "the database does not answer"}, 503
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
    store: DocumentSynchronizer,
    tokens: Tokens,
    live: Live | None,
) -> list[Route]:
    if settings.inspector == "off":
        return []

    def allow(request: Request) -> bool:
        if settings.inspector == "loopback" and inspector.from_loopback(request):
            return True
        return tokens.is_admin(inspector.bearer_token(request))

    tables = store.metadata.tables
    return inspector.routes(engine, tables["diffs"], tables["diffs_heads"], allow, live)


async def _database_error(request: Request, error: Exception) -> Response:
    """Have the device try again where the database was not there; what else it says is a bug.

    Where it hangs, all connections wait for it, and who wants one gets a TimeoutError of the pool.
    """
    assert isinstance(error, DBAPIError | NoConnectionError)
    if isinstance(error, DBAPIError) and not _is_outage(error):
        raise error
    _log_outage(error)
    return JSONResponse(
        {"success": False, "code": "unavailable", "message": "the database does not answer"},
        503,
        {"Retry-After": str(RETRY_AFTER_S)},
    )


def _is_outage(error: DBAPIError) -> bool:
    return error.connection_invalidated or error.statement is None


def _log_outage(error: DBAPIError | NoConnectionError) -> None:
    reason = error.orig if isinstance(error, DBAPIError) else "all connections wait for it"
    logger.error("the database does not answer: %s", " ".join(str(reason).split()))
