"""Every adapter behind a real socket, on the servers that people run it on."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import http_app
import pytest
import uvicorn
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from werkzeug.serving import WSGIRequestHandler as WerkzeugHandler
from werkzeug.serving import make_server

TESTS = Path(__file__).resolve().parent
POLL_INTERVAL_S = 0.01  # how soon a server that is told to stop looks up
START_TIMEOUT_S = 60

Address = tuple[str, int]


@contextmanager
def _in_thread(serve: Callable[[], None], stop: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        stop()
        thread.join()


@contextmanager
def flask_on_werkzeug() -> Iterator[Address]:
    class Handler(WerkzeugHandler):
        def log(self, *_: object) -> None:
            pass

    server = make_server(
        "127.0.0.1", 0, http_app.flask_app(), threaded=True, request_handler=Handler
    )
    server.daemon_threads = True
    with _in_thread(lambda: server.serve_forever(POLL_INTERVAL_S), server.shutdown):
        yield "127.0.0.1", server.port
    server.server_close()


@contextmanager
def django_on_its_own_server() -> Iterator[Address]:
    class Handler(WSGIRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadedWSGIServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.set_app(http_app.django_wsgi_app())
    with _in_thread(lambda: server.serve_forever(POLL_INTERVAL_S), server.shutdown):
        yield "127.0.0.1", server.server_port
    server.server_close()


@contextmanager
def on_uvicorn(app: object, *, lifespan: Any = "off", **options: Any) -> Iterator[Address]:
    """Serve any ASGI app; the options are uvicorn's."""
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        port=0,
        lifespan=lifespan,
        log_level="critical",
        timeout_graceful_shutdown=1,
        **options,
    )
    server = uvicorn.Server(config)
    # Of TCP by name, or asyncio holds back the second piece of each answer for 40 ms.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen()

    def serve() -> None:
        asyncio.run(server.serve([listening]))

    def stop() -> None:
        server.should_exit = True

    with listening, _in_thread(serve, stop):
        yield "127.0.0.1", listening.getsockname()[1]


def starletteon_uvicorn() -> AbstractContextManager[Address]:
    return on_uvicorn(http_app.starlette_app())


def fastapion_uvicorn() -> AbstractContextManager[Address]:
    return on_uvicorn(http_app.fastapi_app())


def djangoon_uvicorn() -> AbstractContextManager[Address]:
    return on_uvicorn(http_app.django_asgi_app())


@contextmanager
def _on_gunicorn(app: str) -> Iterator[Address]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        command = [sys.executable, "-m", "gunicorn", f"http_app:{app}()"]
        options = ["--threads", "8", "--graceful-timeout", "1", "--log-level", "critical"]
        server = subprocess.Popen(
            [*command, *options, "--bind", f"fd://{listening.fileno()}"],
            cwd=TESTS,
            pass_fds=[listening.fileno()],
        )
        try:
            yield "127.0.0.1", port  # connections wait in the backlog until it accepts
        finally:
            server.terminate()
            server.wait(START_TIMEOUT_S)


def flask_on_gunicorn() -> AbstractContextManager[Address]:
    return _on_gunicorn("flask_app")


def django_on_gunicorn() -> AbstractContextManager[Address]:
    return _on_gunicorn("django_wsgi_app")


SERVERS = {
    "flask on werkzeug": flask_on_werkzeug,
    "flask on gunicorn": flask_on_gunicorn,
    "starlette on uvicorn": starletteon_uvicorn,
    "fastapi on uvicorn": fastapion_uvicorn,
    "django on its own server": django_on_its_own_server,
    "django on gunicorn": django_on_gunicorn,
    "django on uvicorn": djangoon_uvicorn,
}

TAKES_ALL_FIRST = {"django on uvicorn"}  # Django takes in the whole body before any view is asked
WITHOUT_CHUNKS = {"django on its own server"}  # it gives no body to the app if it has no length


@pytest.fixture(scope="module")
def address_of() -> Iterator[Callable[[str], Address]]:
    """Where the server of a name is; the first who asks starts it."""
    with ExitStack() as started:
        yield cache(lambda name: started.enter_context(SERVERS[name]()))


@pytest.fixture(params=SERVERS)
def address(request: pytest.FixtureRequest, address_of: Callable[[str], Address]) -> Address:
    return address_of(request.param)
