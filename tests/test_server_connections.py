"""What a client can take from `mobync serve` by doing nothing, or very little at a time."""

from __future__ import annotations

import asyncio
import resource
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import requests
import server_process
import uvicorn
from http_servers import Address, on_uvicorn
from server_process import PATIENCE_S, eventually, serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mobync.server import _connections
from mobync.server._connections import LimitedProtocol
from mobync.server.settings import Settings

SHORT_S = 0.2
LONG_ANSWER = bytes(16_000_000)  # more than a kernel keeps for a client that does not read
HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"


async def answer(request: Request) -> Response:
    """Refuse without a look at the body, give a long answer, or read the body."""
    if request.url.path == "/refused":
        return Response("no", 401)
    if request.url.path == "/long":
        return Response(LONG_ANSWER)
    return Response(str(len(await request.body())))


class Counted(LimitedProtocol):
    """A protocol of a test, so that the limit of another is not changed."""

    max_connections = 20


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    app = Starlette(routes=[Route("/{rest:path}", answer, methods=["GET", "POST"])])
    with on_uvicorn(app, http=Counted, ws="none", timeout_keep_alive=60) as found:
        yield found


def test_an_answer_is_sent_at_once_on_a_socket_that_workers_share() -> None:
    """uvicorn makes it without the name of TCP, so that asyncio leaves it as it is."""
    made: list[int] = []

    class Noting(LimitedProtocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            connection = transport.get_extra_info("socket")
            made.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            transport.close()

    async def connect() -> None:
        config = uvicorn.Config(Starlette(), ws="none")
        config.load()
        state = uvicorn.server.ServerState()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            assert listening.proto == 0
            loop = asyncio.get_running_loop()
            server = await loop.create_server(
                lambda: Noting(config=config, server_state=state, app_state={}), sock=listening
            )
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            assert await reader.read() == b""
            writer.close()
            server.close()

    asyncio.run(connect())
    assert len(made) == 1
    assert made[0] != 0


@contextmanager
def connected(address: Address) -> Iterator[socket.socket]:
    with closing(socket.create_connection(address, PATIENCE_S)) as client:
        yield client


def everything(client: socket.socket) -> bytes:
    """All that comes until the server closes."""
    got = bytearray()
    with suppress(ConnectionResetError):
        while piece := client.recv(65536):
            got += piece
    return bytes(got)


def dribble(client: socket.socket, piece: bytes) -> None:
    """Send a piece again and again until the server hangs up."""
    with suppress(OSError):
        while True:
            client.sendall(piece)
            client.settimeout(0.02)
            with suppress(TimeoutError):
                if client.recv(65536) == b"":
                    return
            client.settimeout(PATIENCE_S)


@pytest.mark.parametrize("begun", [b"", b"POST", HEAD, HEAD + b"Content-Le"])
def test_a_head_that_does_not_come_ends_the_connection(
    begun: bytes, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_connections, "HEAD_S", SHORT_S)
    with connected(address) as client:
        client.sendall(begun)
        assert everything(client) == b""


@pytest.mark.parametrize("piece", [b"\r\n", b"x"])
def test_a_head_that_comes_in_small_pieces_ends_the_connection(
    piece: bytes, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_connections, "HEAD_S", SHORT_S)
    with connected(address) as client:
        client.sendall(HEAD + b"A: " if piece == b"x" else b"")
        dribble(client, piece)


def test_the_next_head_has_no_more_time_than_the_first(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected(address) as client:
        monkeypatch.setattr(_connections, "HEAD_S", SHORT_S)
        client.sendall(HEAD + b"Content-Length: 1\r\n\r\nx")
        assert everything(client).endswith(b"\r\n\r\n1")


def test_the_rest_of_a_refused_body_is_not_waited_for(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_connections, "REST_S", SHORT_S)
    with connected(address) as client:
        client.sendall(HEAD.replace(b"/", b"/refused", 1) + b"Content-Length: 100000\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 401")
        dribble(client, b"x")


def test_a_client_that_reads_nothing_is_not_waited_for(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_connections, "READ_S", SHORT_S)
    monkeypatch.setattr(_connections, "HEAD_S", SHORT_S)
    ended = threading.Event()
    lost = Counted.connection_lost

    def connection_lost(self: Counted, exc: Exception | None) -> None:
        ended.set()
        lost(self, exc)

    monkeypatch.setattr(Counted, "connection_lost", connection_lost)
    with connected(address) as client:
        client.sendall(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
        assert ended.wait(PATIENCE_S)


def test_a_client_that_reads_slowly_gets_its_answer(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_connections, "READ_S", 2.0)
    monkeypatch.setattr(_connections, "HEAD_S", SHORT_S)
    got = 0
    with connected(address) as client:
        client.sendall(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
        while got < len(LONG_ANSWER) // 4:
            got += len(client.recv(65536))
            threading.Event().wait(0.01)
        got += len(everything(client))
    assert got > len(LONG_ANSWER)


def test_a_head_may_have_64_kib(address: Address) -> None:
    def status(size: int) -> int:
        with connected(address) as client:
            with suppress(ConnectionError):
                client.sendall(HEAD + b"A: " + b"x" * size)
                client.sendall(b"\r\nContent-Length: 0\r\n\r\n")
            return int(everything_of_head(client).split()[1])

    def everything_of_head(client: socket.socket) -> bytes:
        client.settimeout(PATIENCE_S)
        return client.recv(65536)

    assert _connections.MAX_HEAD_BYTES == 64 * 1024
    assert status(60_000) == 200
    assert status(66_000) == 400  # also where it comes at once
    assert status(500_000) == 400


def test_so_many_connections_and_no_more(address: Address) -> None:
    with ExitStack() as opened:
        clients = [opened.enter_context(connected(address)) for _ in range(25)]
        assert [everything(client) for client in clients[20:]] == [b""] * 5
        clients[0].sendall(HEAD + b"Connection: close\r\nContent-Length: 1\r\n\r\nx")
        assert everything(clients[0]).startswith(b"HTTP/1.1 200")

    def there_is_room() -> bool:
        with suppress(requests.ConnectionError):
            return requests.get(f"http://{address[0]}:{address[1]}/", timeout=PATIENCE_S).ok
        return False

    eventually(there_is_room)


def test_the_page_of_the_server_promises_what_the_server_keeps() -> None:
    page = (Path(__file__).parents[1] / "docs" / "server.md").read_text(encoding="utf-8")
    for promise in (
        f"{Settings('', None).max_connections:,} connections",
        f"{_connections.HEAD_S:.0f} seconds after the connection was opened",
        f"longer than {_connections.MAX_HEAD_BYTES // 1024} KiB",
        f"{_connections.REST_S:.0f} seconds after an answer",
        f"reads nothing of an answer for {_connections.READ_S:.0f} seconds",
    ):
        assert promise in page, promise


def test_a_chunk_of_one_byte_costs_a_few_calls() -> None:
    chunks = 20_000
    calls: Counter[str] = Counter()

    def count(frame: Any, event: str, argument: object) -> None:
        if event == "call":
            calls["all"] += 1

    app = Starlette(routes=[Route("/", answer, methods=["POST"])])
    threading.setprofile(count)
    try:
        with (
            on_uvicorn(app, http=Counted, ws="none") as address,
            connected(address) as client,
        ):
            client.sendall(HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
            client.sendall(b"1\r\nx\r\n" * chunks + b"0\r\n\r\n")
            assert everything(client).endswith(b"\r\n\r\n%d" % chunks)
    finally:
        threading.setprofile(None)
    assert calls["all"] < 5 * chunks


@pytest.fixture
def few_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    limited = ["sh", "-c", 'ulimit -n 256; exec "$@"', "sh", *server_process.MOBYNC]
    monkeypatch.setattr(server_process, "MOBYNC", limited)


@pytest.mark.usefixtures("few_descriptors")
def test_half_sent_heads_take_neither_the_descriptors_nor_the_log(tmp_path: Path) -> None:
    with serving(tmp_path, MOBYNC_SECRET="a secret for tests, long enough") as server:
        host, port = server.url.removeprefix("http://").split(":")
        with ExitStack() as opened:
            for _ in range(300):
                client = opened.enter_context(connected((host, int(port))))
                with suppress(ConnectionError):
                    client.sendall(HEAD)
            assert_few_lines(server)

        eventually(lambda: is_healthy(server))
        assert_few_lines(server)


def assert_few_lines(server: server_process.Server) -> None:
    lines = list(server.log.lines)
    assert len(lines) < 20
    assert "Traceback" not in "".join(lines)


def is_healthy(server: server_process.Server) -> bool:
    with suppress(requests.ConnectionError):
        return requests.get(f"{server.url}/health", timeout=PATIENCE_S).status_code == 200
    return False


def test_the_limit_of_connections_leaves_descriptors_for_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[int, int]] = []

    def fit(limit: tuple[int, int], wanted: int = 1000, threads: int = 10) -> int:
        monkeypatch.setattr(resource, "getrlimit", lambda _: limit)
        monkeypatch.setattr(resource, "setrlimit", lambda _, given: asked.append(given))
        return _connections.connections_that_fit(wanted, threads)

    others = 128 + 64 + 60
    assert fit((1024, 1024)) == 1024 - others
    assert asked == []
    assert fit((1024, 4096)) == 1000
    assert asked.pop() == (1000 + others, 4096)
    assert fit((1024, resource.RLIM_INFINITY)) == 1000
    assert asked.pop() == (1000 + others, resource.RLIM_INFINITY)
    assert fit((100_000, 200_000)) == 1000
    assert fit((resource.RLIM_INFINITY, resource.RLIM_INFINITY)) == 1000
    assert asked == []
    assert fit((64, 64)) == _connections.FEWEST_CONNECTIONS
