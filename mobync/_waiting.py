"""How a caller waits for others: a thread blocks, a task lets other tasks run meanwhile.

What is around a sync waits for the owner's lock and before another attempt, and the app's rules may
answer with something to await.  All of it goes through the :class:`Waiting` of the Synchronizer, so
that there is one piece of code for threads and for tasks.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any, ParamSpec, Protocol, TypeVar

from ._plain import refuse_awaitable

P = ParamSpec("P")
T = TypeVar("T")


class Queue(Protocol):
    """What one waits at for what others put there, from whatever thread."""

    def put(self, item: object, /) -> object:
        """Put something; never waits."""

    def get(self, *, timeout: float) -> object:
        """Take something.

        Raises:
            queue.Empty: nothing was put for so many seconds.
        """


class Waiting:
    """How a thread waits.

    Attributes:
        can_await: whether the app's rules may be ``async def``.
    """

    can_await = False

    def caller(self) -> Hashable:
        """Who waits: nobody waits for what he holds himself."""
        return threading.get_ident()

    def queue(self) -> Queue:
        """A queue to wait at."""
        return queue.SimpleQueue()

    def sleep(self, seconds: float) -> None:
        """Wait some seconds."""
        time.sleep(seconds)

    def answer(self, name: str, answer: Any) -> Any:
        """What a function of the app answered.

        Raises:
            TypeError: it is to be awaited, and cannot be.
        """
        refuse_awaitable(name, answer)
        return answer

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function that waits in this way, in an event loop that goes on meanwhile."""
        return await asyncio.to_thread(function, *args, **kwargs)


IN_A_THREAD = Waiting()
