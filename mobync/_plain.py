"""Checks of functions of the app: they are not async, because nobody would await them, and they
take what they are called with."""

from __future__ import annotations

import inspect
from collections.abc import Callable

_PLAIN = "{} must be a plain function, not a coroutine ({}): make it a def; it runs in a thread"
_NEVER_AWAITABLE = frozenset((type(None), bool, int, str, bytes, list, tuple, dict))
_NEVER_RUNS = "{} must be a plain function, not a generator: nothing in it would run"


def check_plain(name: str, function: object, *, may_yield: bool = False) -> None:
    """Refuse an ``async def``, with or without a ``yield``, and the result of
    ``asynccontextmanager``.

    Args:
        name: the name of the function in the error.
        function: the function that is called later.
        may_yield: whether its answer is iterated over; otherwise a ``yield`` is a mistake too.

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


def check_takes(
    name: str, function: Callable[..., object], *given: object, **named: object
) -> None:
    """Refuse a function that cannot be called with these arguments.

    Raises:
        TypeError: it cannot; it says how the function is called.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some that are written in C do not say what they take
        return
    try:
        signature.bind(*given, **named)
    except TypeError as error:
        called = ", ".join([*map(str, given), *named])
        raise TypeError(
            f"{name} is called with ({called}), but takes {signature}: {error}"
        ) from None


def refuse_awaitable(name: str, answer: object) -> None:
    """Refuse the answer of an ``async def``, even of one that was wrapped.

    Raises:
        TypeError: it is an awaitable, or an async generator.
    """
    if type(answer) in _NEVER_AWAITABLE:  # to find this out of an object takes longer
        return
    if inspect.isawaitable(answer) or inspect.isasyncgen(answer):
        close = getattr(answer, "close", None)
        if close is not None:
            close()  # else Python warns that it was never awaited
        raise TypeError(_PLAIN.format(name, f"it returned a {type(answer).__name__}"))
