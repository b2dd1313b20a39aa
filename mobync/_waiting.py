"""How a caller waits: a thread blocks, and a task lets other tasks run meanwhile.

A sync waits for the owner's lock and before another attempt, and the app's rules may return an
awaitable. All of this goes through the :class:`Waiting` of the Synchronizer, so that threads and
tasks share the same code.
"""

from __future__ import annotations

import asyncio
import queue
import random
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any, ParamSpec, Protocol, TypeVar

from ._plain import refuse_awaitable

P = ParamSpec("P")
T = TypeVar("T")

RETRY_PAUSES_S = (0.02, 0.1, 0.5)  # about; after an error that another attempt may not meet


def about(pause_s: float) -> float:
    """A pause that differs from that of others who were in the way."""
    return pause_s * random.uniform(0.5, 1.5)


class Queue(Protocol):
    """A queue: one caller waits for items, and any thread puts them."""

    def put(self, item: object, /) -> object:
        """Put an item; this never waits."""

    def get(self, *, timeout: float) -> object:
        """Take an item.

        Raises:
            queue.Empty: there was no item in so many seconds.
        """


class Waiting:
    """How a thread waits.

    Attributes:
        can_await: whether the app's rules may be ``async def``.
    """

    can_await = False

    def caller(self) -> Hashable:
        """The caller, so that nobody waits for a lock of their own."""
        return threading.get_ident()

    def holder(self) -> Hashable:
        """The same as :meth:`caller`, but it never raises. None: a caller who can hold nothing."""
        return threading.get_ident()

    def queue(self) -> Queue:
        """A queue to wait at."""
        return queue.SimpleQueue()

    def sleep(self, seconds: float) -> None:
        """Wait some seconds."""
        time.sleep(seconds)

    def answer(self, name: str, answer: Any) -> Any:
        """The answer of a function of the app.

        Raises:
            TypeError: it must be awaited, and cannot be.
        """
        refuse_awaitable(name, answer)
        return answer

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function that waits in this way, while the event loop continues."""
        return await asyncio.to_thread(function, *args, **kwargs)


IN_A_THREAD = Waiting()
