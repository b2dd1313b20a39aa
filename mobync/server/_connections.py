"""Limits connections of `mobync serve` that do nothing, so that they leave room for others.

uvicorn limits how long a connection may be idle between requests. But it waits without limit for a
first byte, for the end of a head, for the rest of a refused body, and for a client that does not
read. Each such connection uses a file descriptor, and a process without free descriptors cannot
accept anybody.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import time
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

logger = logging.getLogger("mobync.server")

HEAD_S = 10.0  # for a head, counted from the start of the connection or from the last answer
REST_S = 5.0  # for the rest of a body that was answered before it arrived
READ_S = 60.0  # in which a client must read something of its answer
MAX_HEAD_BYTES = 64 * 1024

BACKLOG = 128  # connections that are accepted in one iteration of the loop
FEWEST_CONNECTIONS = 16
_OTHER_DESCRIPTORS = 64  # of files and brokers
_DESCRIPTORS_OF_THREAD = 6  # two connections to a database; SQLite's have three files each
_LOG_EACH_S = 60.0


def _send_at_once(connection: Any) -> None:
    """Send the body of an answer right after its head, without waiting until the client has the
    head.

    asyncio does this (TCP_NODELAY), but not on a socket that uvicorn shares between workers.
    """
    if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class LimitedProtocol(HttpToolsProtocol):
    """HTTP on one connection, which is closed when it exceeds a limit of time or size.

    Attributes:
        max_connections: of the process; any further connection is closed at once.
    """

    max_connections = 1000

    _deadline: asyncio.TimerHandle | None = None
    _in_head = True
    _head_bytes = 0  # that arrived before the end of the head
    _named_bytes = 0  # for a head that arrived at once: its address and headers

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        _send_at_once(transport.get_extra_info("socket"))
        if len(self.connections) > self.max_connections:
            _seldom.warn(f"{self.max_connections} connections are open, which is the limit")
            transport.abort()
        else:
            self._end_unless_within(HEAD_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._go_on()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response("The head of the request is too long.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes, self._named_bytes = True, 0, 0

    def on_url(self, url: bytes) -> None:
        self._count(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(name, value)
        super().on_header(name, value)

    def _count(self, *parts: bytes) -> None:
        self._named_bytes += sum(map(len, parts))
        if self._named_bytes > MAX_HEAD_BYTES:
            raise ValueError("the head is too long")  # the parser gives up, and uvicorn answers 400

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._go_on()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self.cycle.response_complete:
            self._end_unless_within(HEAD_S)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:  # else the next request is here already
            self._end_unless_within(REST_S if self.cycle.more_body else HEAD_S)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._end_unless_read()

    def _end_unless_within(self, seconds: float) -> None:
        self._go_on()
        self._deadline = self.loop.call_later(seconds, self._late)

    def _end_unless_read(self) -> None:
        """Close the connection of a client that reads nothing more of its answer."""
        self._go_on()
        left = self.transport.get_write_buffer_size()
        self._deadline = self.loop.call_later(READ_S, self._late, left)

    def _go_on(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self, unread_before: int | None = None) -> None:
        unread = self.transport.get_write_buffer_size()
        if unread == 0:
            if unread_before is None:
                self.transport.close()
            elif self.cycle.response_complete:
                self._end_unless_within(HEAD_S)
        elif unread_before is not None and unread >= unread_before:
            self.transport.abort()
        else:
            self._end_unless_read()


def connections_that_fit(wanted: int, threads: int) -> int:
    """How many connections a process may have, after asking the system for more descriptors.

    Args:
        wanted: how many there should be.
        threads: syncs at the same time.
    """
    if sys.platform == "win32":  # has no such limit, and no such module
        return wanted
    import resource

    others = BACKLOG + _OTHER_DESCRIPTORS + _DESCRIPTORS_OF_THREAD * threads
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY or most > wanted + others:
        most = max(now, wanted + others)
    if now != resource.RLIM_INFINITY and now < most:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (most, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        )
    return max(FEWEST_CONNECTIONS, min(wanted, most - others))


def log_lack_of_descriptors_seldom(loop: asyncio.AbstractEventLoop) -> None:
    """Log one line where asyncio would log a traceback for each waiting connection."""

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if context.get("message") == "socket.accept() out of system resource":
            _seldom.warn(f"no connection can be accepted: {context.get('exception')}")
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(handle)


class _Seldom:
    """Logs a message at most once a minute."""

    def __init__(self) -> None:
        self._next: dict[str, float] = {}

    def warn(self, line: str) -> None:
        now = time.monotonic()
        if now >= self._next.get(line, now):
            self._next[line] = now + _LOG_EACH_S
            logger.warning("%s", line)


_seldom = _Seldom()
