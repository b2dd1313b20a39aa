"""A network between this process and a broker that a test can break."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType

PIECE_BYTES = 65536


class Network:
    """Forwards connections to a server; they can be cut or swallowed.

    Args:
        host: the server's.
        port: the server's.
        up: whether it is there from the start; else connections are refused until ``mend``.
    """

    def __init__(self, host: str, port: int, up: bool = True) -> None:
        self._target = (host, port)
        self._links: list[_Link] = []
        self._listener: socket.socket | None = None
        with socket.create_server(("127.0.0.1", 0)) as reserved:
            self.port: int = reserved.getsockname()[1]
        if up:
            self.mend()

    def __enter__(self) -> Network:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cut()

    @property
    def connected(self) -> bool:
        return any(link.alive for link in self._links)

    def mend(self) -> None:
        """Take connections from now on."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._thread = threading.Thread(target=self._accept, args=(self._listener,))
        self._thread.start()

    def cut(self) -> None:
        """End all connections and refuse new ones."""
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._thread.join()
            self._listener.close()
            self._listener = None
        for link in self._links:
            link.cut()
        self._links.clear()

    def swallow(self) -> None:
        """Let the connections that there are stand, and nothing pass; new ones are well."""
        for link in self._links:
            link.swallows = True

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self._links.append(_Link(client, socket.create_connection(self._target)))


class _Link:
    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.swallows = False
        self._ends = (client, server)
        self._threads = [
            threading.Thread(target=self._carry, args=ends)
            for ends in ((client, server), (server, client))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        return all(thread.is_alive() for thread in self._threads)

    def cut(self) -> None:
        self._shut()
        for thread in self._threads:
            thread.join()
        for end in self._ends:
            end.close()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(PIECE_BYTES):
                if not self.swallows:
                    target.sendall(piece)
        self._shut()

    def _shut(self) -> None:
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
