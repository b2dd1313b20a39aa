"""Wakes a thread that waits for a socket."""

from __future__ import annotations

import selectors
import socket
from contextlib import suppress


class Bell:
    """Any thread, or a signal handler, rings it; the waiting thread hears it.

    The waiting thread opens it in a ``with``. A ring before that is lost.
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
        """Wake the thread that waits, or will wait next. This never waits."""
        if (ends := self._ends) is not None:
            with suppress(OSError):  # rung often enough, or just closed
                ends[1].send(b"\0")

    def wait(self, timeout_s: float, also: int | None = None, *, writable: bool = False) -> bool:
        """Wait for the bell, or for another socket.

        Args:
            timeout_s: at most so many seconds.
            also: the descriptor of the other socket.
            writable: also wait until that socket can be written to.

        Returns:
            Whether anything came.
        """
        assert self._ends is not None
        inside = self._ends[0]
        # Made for each wait, so that under gevent it is one that lets other greenlets run.
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
