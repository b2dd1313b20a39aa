"""The methods of a Mobync for an event loop: each beside the one that waits."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

M = TypeVar("M")
P = ParamSpec("P")
T = TypeVar("T")


def awaited(
    method: Callable[Concatenate[M, P], T],
) -> Callable[Concatenate[M, P], Coroutine[Any, Any, T]]:
    """What does the same as a method of a Mobync, and is awaited.

    Args:
        method: the one that waits; a subclass may have another of the same name.

    Returns:
        A method that takes the same, returns the same and raises the same.  With a Synchronizer
        of asyncio the event loop goes on while it waits, and a task that is cancelled rolls back.
        With any other it waits in a thread, which goes on to its end when the task is cancelled.
    """
    name = method.__name__

    async def call(self: M, /, *args: P.args, **kwargs: P.kwargs) -> T:
        synchronizer = self.synchronizer  # type: ignore[attr-defined]  # of a Mobync
        result: T = await synchronizer._waiting.run(getattr(self, name), *args, **kwargs)
        return result

    functools.update_wrapper(call, method)
    call.__name__ = f"{name}_async"
    call.__qualname__ = f"Mobync.{name}_async"
    call.__doc__ = f"Await what :meth:`{name}` does: it takes, returns and raises the same."
    return call
