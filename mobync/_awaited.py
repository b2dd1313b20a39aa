"""Makes the methods of a Mobync for an event loop from those that block."""

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
    """The awaited version of a method of a Mobync.

    Args:
        method: the blocking method; a subclass may override it.

    Returns:
        A method with the same arguments, results and exceptions. With an asyncio Synchronizer, the
        event loop continues while it waits, and a cancelled task rolls back. With another one it
        waits in a thread, which runs to its end even if the task is cancelled.
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
