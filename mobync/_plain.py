"""Functions of the app are called and must answer at once: nobody waits for a coroutine."""

from __future__ import annotations

import inspect

_PLAIN = "{} must be a plain function, not a coroutine ({}): make it a def; it runs in a thread"


_NEVER_RUNS = "{} must be a plain function, not a generator: nothing in it would run"


def check_plain(name: str, function: object, *, may_yield: bool = False) -> None:
    """Refuse an ``async def``, with or without a ``yield``, and what ``asynccontextmanager`` makes.

    Args:
        name: what to call the function in the error.
        function: whatever is called later.
        may_yield: whether its answer is iterated over; else a ``yield`` is a mistake, too.

    Raises:
        TypeError: it is one.
    """
    if not may_yield and inspect.isgeneratorfunction(function):
        raise TypeError(_NEVER_RUNS.format(name))
    waits = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(
        getattr(function, "__wrapped__", function)
    )
    if waits:
        raise TypeError(_PLAIN.format(name, "async def"))


def refuse_awaitable(name: str, answer: object) -> None:
    """Refuse what an ``async def`` answers, however it was hidden.

    Raises:
        TypeError: it is an awaitable, or an async generator.
    """
    if answer is None:  # to find out that it is no awaitable would take longer
        return
    if inspect.isawaitable(answer) or inspect.isasyncgen(answer):
        close = getattr(answer, "close", None)
        if close is not None:
            close()  # else Python warns that it was never awaited
        raise TypeError(_PLAIN.format(name, f"it returned a {type(answer).__name__}"))
