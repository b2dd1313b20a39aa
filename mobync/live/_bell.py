"""A thread that waits for a socket can be called by the other threads of its process."""

from __future__ import annotations

import selectors
import socket
from contextlib import suppress


class Bell:
    """Rung by any thread, or by a signal handler; heard by the one that waits.

    It is open in a ``with`` of the one that waits; what rings before is lost.
    """

    def __init__(self) -> None:
        self._ends: tuple[socket.socket, socket.socket] | None = None

    def __enter__(self) -> None:
        ends = socket.socketpair()
        for end in ends:
            end.setblocking(False)
        self._ends = ends

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        ends, self._ends = self._ends, None
        for end in ends or ():
            end.close()

    def ring(self) -> None:
        """Have who waits, or waits next, look up.  Never waits."""
        if (ends := self._ends) is not None:
            with suppress(OSError):  # rung often enough, or closed just now
                ends[1].send(b"\0")

    def wait(self, timeout_s: float, also: int | None = None, *, writable: bool = False) -> bool:
        """Wait for the bell, or for another socket.

        Args:
            timeout_s: seconds to wait at most.
            also: the descriptor of the other socket.
            writable: wait until that one can be written to as well, not only read.

        Returns:
            Whether anything came.
        """
        assert self._ends is not None
        inside = self._ends[0]
        # Made for each wait: under gevent it then is one that lets the other greenlets run.
        with selectors.DefaultSelector() as selector:
            selector.register(inside, selectors.EVENT_READ)
            if also is not None:
                write = selectors.EVENT_WRITE if writable else 0
                selector.register(also, selectors.EVENT_READ | write)
            came = selector.select(max(0.0, timeout_s))
        with suppress(BlockingIOError):
            while inside.recv(4096):
                pass
        return bool(came)
