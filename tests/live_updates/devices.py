"""Devices that listen: to a Live in this process, or to a server by HTTP."""

from __future__ import annotations

import asyncio
import http.client
import re
import socket
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from urllib.parse import quote

from mobync import SyncReport
from mobync.live import Live

PATIENCE_S = 60  # for what is sure to come
POLL_S = 0.01
MODES = ("asyncio", "threads")

_EVENT = re.compile(rb"id: ([0-9]+)\nevent: clock\ndata: \1\n\n")


def report(owner_id: str, clock: int, accepted: int = 1) -> SyncReport:
    return SyncReport(owner_id, clock, pushed=1, accepted=accepted)


class Log:
    """An owner's clock in the database, as the app reads it."""

    def __init__(self, clock: int = 0) -> None:
        self.clock = clock
        self.error: Exception | None = None
        self.reads = 0

    def __call__(self) -> int:
        self.reads += 1
        if self.error is not None:
            raise self.error
        return self.clock


def is_heartbeat(chunk: bytes) -> bool:
    return chunk.startswith(b":") and chunk.endswith(b"\n\n")


def clock_in(chunk: bytes) -> int:
    found = _EVENT.fullmatch(chunk)
    assert found, f"not an event: {chunk!r}"
    return int(found[1])


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(POLL_S)


class Device:
    """Reads a stream of a Live chunk by chunk, and only when it is told to.

    Args:
        live: whom it listens to.
        clock_now: gives the owner's clock.
        mode: one of MODES.
        owner_id: whose device.
        last_event_id: what it says it has heard.
        read_first: as of ``Live.events``.
    """

    def __init__(
        self,
        live: Live,
        clock_now: Callable[[], int],
        mode: str = "threads",
        owner_id: str = "anna",
        last_event_id: str | None = None,
        read_first: bool = False,
    ) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._next: Callable[[], bytes]
        self._end: Callable[[], None]
        if mode == "asyncio":
            stream = live.events(owner_id, clock_now, last_event_id, read_first=read_first)
            loop = self._loop = asyncio.new_event_loop()
            self._next = lambda: loop.run_until_complete(anext(stream))
            self._end = lambda: loop.run_until_complete(stream.aclose())
        else:
            blocking = live.blocking_events(
                owner_id, clock_now, last_event_id, read_first=read_first
            )
            self._next = lambda: next(blocking)
            self._end = blocking.close
        self._thread = ThreadPoolExecutor(1)
        self._left = False

    def __enter__(self) -> Device:
        assert re.fullmatch(rb"retry: [0-9]+\n\n", self.chunk())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.leave()

    def leave(self) -> None:
        if self._left:
            return
        self._left = True
        self._thread.submit(self._end).result(PATIENCE_S)
        if self._loop is not None:
            self._loop.close()
        self._thread.shutdown()

    def chunk(self) -> bytes:
        return self._thread.submit(self._next).result(PATIENCE_S)

    def clock(self) -> int:
        """The clock in the next event, which no heartbeat comes before."""
        return clock_in(self.chunk())

    def heartbeats_until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert is_heartbeat(self.chunk())
            assert time.monotonic() < deadline, "it did not come about"

    def clock_after_heartbeats(self) -> int:
        deadline = time.monotonic() + PATIENCE_S
        while is_heartbeat(chunk := self.chunk()):
            assert time.monotonic() < deadline, "heartbeats only"
        return clock_in(chunk)

    def has_ended(self) -> bool:
        try:
            self.chunk()
        except (StopIteration, StopAsyncIteration):
            return True
        except RuntimeError as error:  # as a Future turns a StopIteration into
            return isinstance(error.__cause__, StopIteration)
        return False


class HttpDevice:
    """Listens to a server, one response at a time.

    Args:
        port: the server's.
        owner_id: whose device.
        last_event_id: what it says it has heard.
    """

    def __init__(self, port: int, owner_id: str, last_event_id: int | None = None) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        headers = {} if last_event_id is None else {"Last-Event-ID": str(last_event_id)}
        self._connection.request("GET", f"/events?owner={quote(owner_id)}", headers=headers)
        self._socket = self._connection.sock
        self._response = self._connection.getresponse()
        assert self._response.status == 200
        assert self._chunk().startswith(b"retry: ")

    def __enter__(self) -> HttpDevice:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.leave()

    def leave(self) -> None:
        self._response.close()
        self._connection.close()

    def vanish(self) -> None:
        """Go without a word of farewell but a reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.leave()

    def next(self) -> int | None:
        """The clock in what comes next, None if it is a heartbeat."""
        chunk = self._chunk()
        return None if is_heartbeat(chunk) else clock_in(chunk)

    def clock(self) -> int:
        """The clock in the next event, after whatever heartbeats."""
        deadline = time.monotonic() + PATIENCE_S
        while (clock := self.next()) is None:
            assert time.monotonic() < deadline, "heartbeats only"
        return clock

    def rest(self) -> bytes:
        return self._response.read()

    def _chunk(self) -> bytes:
        lines = [self._response.readline()]
        while lines[-1] not in (b"\n", b""):
            lines.append(self._response.readline())
        return b"".join(lines)
