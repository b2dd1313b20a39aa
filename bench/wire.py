"""Counts what reaches a database: statements, and round trips.

SQLite tells its statements itself and has no wire.  To PostgreSQL and MariaDB a connection goes
through a proxy here, which sees what any client sends, in whatever language it was written.
"""

from __future__ import annotations

import re
import selectors
import socket
import sqlite3
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import groupby

from sqlalchemy import event
from sqlalchemy.engine import URL, Engine

DEFAULT_PORTS = {"postgresql": 5432, "mariadb": 3306}
PIECE_BYTES = 1 << 16
STEP_S = 0.1  # after which the proxy looks whether it is to end

_COMMAND_COMPLETE = ord("C")  # what PostgreSQL ends each statement with
_MYSQL_STATEMENTS = b"\x03\x17"  # COM_QUERY and COM_STMT_EXECUTE
_COMPOUND = re.compile(rb"BEGIN NOT ATOMIC (.*); END", re.DOTALL)
_QUOTED = re.compile(rb"'(?:[^'\\]|\\.|'')*'", re.DOTALL)


@dataclass
class Traffic:
    """Statements that were sent, and how often the client waited for an answer."""

    statements: int
    round_trips: int


class Proxy:
    """Passes on what clients and a server say to each other, and remembers it."""

    def __init__(self, kind: str, url: URL) -> None:
        self._kind = kind
        self._server = (url.host or "127.0.0.1", url.port or DEFAULT_PORTS[kind])
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = url.set(host="127.0.0.1", port=self._listening.getsockname()[1])
        if kind == "postgresql":
            self.url = self.url.update_query_dict({"sslmode": "disable", "gssencmode": "disable"})
        self._passed: list[tuple[bool, bytes]] = []  # whether from a client, and what
        self._is_ending = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._is_ending = True
        self._thread.join()

    def count(self, work: Callable[[], object]) -> Traffic:
        """Do some work over one open connection, and say what it sent."""
        self._passed = passed = []
        work()
        sent = b"".join(piece for from_client, piece in passed if from_client)
        received = b"".join(piece for from_client, piece in passed if not from_client)
        speakers = [from_client for from_client, _ in passed]
        turns = [speaker for speaker, _ in groupby(speakers)].count(True)
        return Traffic(_COUNTS[self._kind](sent, received), turns)

    def _serve(self) -> None:
        with ExitStack() as opened, selectors.DefaultSelector() as selector:
            opened.enter_context(self._listening)
            selector.register(self._listening, selectors.EVENT_READ)
            while not self._is_ending:
                for key, _ in selector.select(STEP_S):
                    if key.fileobj is self._listening:
                        self._accept(opened, selector)
                    else:
                        self._pass_on(key, selector)

    def _accept(self, opened: ExitStack, selector: selectors.BaseSelector) -> None:
        client = opened.enter_context(self._listening.accept()[0])
        server = opened.enter_context(socket.create_connection(self._server))
        for speaker, listener in ((client, server), (server, client)):
            speaker.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(speaker, selectors.EVENT_READ, (speaker, listener, speaker is client))

    def _pass_on(self, key: selectors.SelectorKey, selector: selectors.BaseSelector) -> None:
        speaker, listener, from_client = key.data
        try:
            piece = speaker.recv(PIECE_BYTES)
            self._passed.append((from_client, piece))
            listener.sendall(piece)
        except ConnectionError:  # one side has gone, as the other will notice
            piece = b""
        if not piece:
            selector.unregister(speaker)
            with suppress(OSError):
                listener.shutdown(socket.SHUT_WR)


class SQLiteTrace:
    """The same for SQLite: what the connections of an engine execute from now on."""

    def __init__(self, engine: Engine) -> None:
        self._statements: list[str] = []
        event.listen(engine, "connect", self._trace)
        engine.dispose()

    def _trace(self, connection: sqlite3.Connection, record: object) -> None:
        connection.set_trace_callback(self._statements.append)

    def count(self, work: Callable[[], object]) -> Traffic:
        """Do some work, and say what it executed."""
        self._statements.clear()
        work()
        return Traffic(len(self._statements), 0)


def _postgresql_statements(sent: bytes, received: bytes) -> int:
    """Messages are a letter, a length that counts itself, and the rest."""
    count = place = 0
    while place < len(received):
        count += received[place] == _COMMAND_COMPLETE
        place += 1 + int.from_bytes(received[place + 1 : place + 5], "big")
    return count


def _mysql_statements(sent: bytes, received: bytes) -> int:
    """Packets are a length of the rest, a number, and the rest, which begins with a command."""
    count = place = 0
    while place < len(sent):
        end = place + 4 + int.from_bytes(sent[place : place + 3], "little")
        if sent[place + 4] in _MYSQL_STATEMENTS:
            count += _statements_in(sent[place + 5 : end])
        place = end
    return count


def _statements_in(text: bytes) -> int:
    """How many statements a text has: a compound statement is those that are in it."""
    compound = _COMPOUND.match(text)
    return 1 if compound is None else _QUOTED.sub(b"", compound[1]).count(b";") + 1


_COUNTS = {"postgresql": _postgresql_statements, "mariadb": _mysql_statements}
