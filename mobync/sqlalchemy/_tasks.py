"""How an asyncio task syncs: a greenlet runs the same code as a thread.

SQLAlchemy runs its own code in this way. When a driver has to wait, the greenlet passes the
awaitable to the task and stops; when the awaitable is done, the greenlet continues. So the event
loop is not blocked, and there is one copy of everything: the merge in C, the transactions, the
statements.

    task  --run-->  greenlet: C, the store, the driver
          <--what to await--
          --its result-->

If a task is cancelled, the CancelledError is raised where the greenlet waits. The transaction rolls
back and releases the lock, as after any other error. Drivers that talk to a server stop waiting,
and SQLAlchemy drops the connection. aiosqlite continues its statement in a thread, and a dropped
connection may keep the file's lock. So a statement of aiosqlite is awaited to its end. So is a
rule, because it may use aiosqlite. The error is raised before the next statement.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import queue
import sys
import weakref
from collections.abc import Awaitable, Callable, Generator, Hashable
from contextlib import suppress
from functools import partial
from typing import Any, ParamSpec, TypeVar

from sqlalchemy.util import concurrency

from .._extras import needing
from .._plain import refuse_awaitable
from .._waiting import Waiting

P = ParamSpec("P")
T = TypeVar("T")

_await: Callable[[Any], Any] = getattr(concurrency, "await_", None) or concurrency.await_only
_in_greenlet: Callable[[], bool] = concurrency.in_greenlet


def check_awaited() -> None:
    """Refuse to wait where the event loop would wait too.

    Raises:
        TypeError: nobody awaits what is called.
        asyncio.CancelledError: the task was cancelled while a driver worked.
    """
    if not _in_greenlet():
        raise TypeError(
            "this Synchronizer is for asyncio: await the method whose name ends with _async, such "
            "as mobync.apply_async() or, in an async rule, self.read_async()"
        )
    worker = _getcurrent()
    if getattr(worker, "cancelled", None) is not None:
        _raise_if_cancelled(worker)


def awaited(awaitable: Awaitable[T]) -> T:
    """The result of what a driver does, for code that a task runs.

    Raises:
        asyncio.CancelledError: the task was cancelled.
    """
    result: T = _await(awaitable)
    return result


def _getcurrent() -> Any:
    with needing("asyncio"):
        from greenlet import getcurrent
    return getcurrent()


class Tasks(Waiting):
    """How a task waits.

    Args:
        to_the_end: whether what a driver does, or a rule, is awaited to its end by a task that is
            cancelled.
    """

    can_await = True

    def __init__(self, to_the_end: bool) -> None:
        self._to_the_end = to_the_end

    def caller(self) -> Hashable:
        check_awaited()
        return self.holder()

    def holder(self) -> Hashable:
        if not _in_greenlet():
            return None
        task = asyncio.current_task()
        while task in _works_for:
            task = _works_for[task]
        return task

    def queue(self) -> _TaskQueue:
        return _TaskQueue()

    def sleep(self, seconds: float) -> None:
        _await(_Stoppable(asyncio.sleep(seconds)))

    def answer(self, name: str, answer: Any) -> Any:
        if not inspect.isawaitable(answer):
            refuse_awaitable(name, answer)
            return answer
        try:
            check_awaited()
        except BaseException:
            if inspect.iscoroutine(answer):
                answer.close()  # else Python warns that it was never awaited
            raise
        awaited = _await(answer)
        check_awaited()
        return awaited

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        worker = _worker(partial(function, *args, **kwargs))
        try:
            given: Any = worker.switch()
            while not worker.dead:
                try:
                    result = await self._result(worker, given)
                except BaseException:
                    given = worker.throw(*sys.exc_info())
                else:
                    given = worker.switch(result)
        finally:
            if worker.cancelled is not None:
                raise worker.cancelled
        returned: T = given
        return returned

    async def _result(self, worker: Any, given: Any) -> Any:
        """The result of what the greenlet waits for."""
        if not self._to_the_end:
            return await _raising_cancellation(given)
        if isinstance(given, _Stoppable):
            _raise_if_cancelled(worker)
            return await given
        work = asyncio.ensure_future(given)
        _works_for[work] = asyncio.current_task()
        while not work.done():
            try:
                await asyncio.wait([work])
            except asyncio.CancelledError as error:
                worker.cancelled = error
        return work.result()


async def _raising_cancellation(given: Awaitable[Any]) -> Any:
    """Await a driver; psycopg raises its own AssertionError if it is cancelled while it begins a
    pipeline.
    """
    try:
        return await given
    except AssertionError as error:
        cancelled = error.__context__
        if not isinstance(cancelled, asyncio.CancelledError):
            raise
        raise asyncio.CancelledError(*cancelled.args) from error


# The task that waits for another one which does a part of its work.
_works_for: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def _raise_if_cancelled(worker: Any) -> None:
    cancelled, worker.cancelled = worker.cancelled, None
    if cancelled is not None:
        raise cancelled


class _Stoppable:
    """Something to await that stops at once when the task is cancelled; nothing of the database."""

    def __init__(self, awaitable: Awaitable[Any]) -> None:
        self._awaitable = awaitable

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._awaitable.__await__()


def _worker(function: Callable[[], Any]) -> Any:
    """A greenlet that SQLAlchemy takes for one of its own."""
    current = _getcurrent()
    worker = _worker_class()(function, current)
    worker.gr_context = current.gr_context
    worker.cancelled = None
    return worker


@functools.cache
def _worker_class() -> Any:
    from greenlet import greenlet

    return type("Worker", (greenlet,), {"__sqlalchemy_greenlet_provider__": True})


class _TaskQueue:
    """A queue at which one task waits."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[object] = asyncio.Queue()

    def put(self, item: object, /) -> None:
        with suppress(RuntimeError):  # the loop is closed, so nobody waits
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)

    def get(self, *, timeout: float) -> object:
        try:
            return _await(_Stoppable(_within(timeout, self._items)))
        except (TimeoutError, asyncio.TimeoutError):
            raise queue.Empty from None


async def _within(timeout: float, items: asyncio.Queue[object]) -> object:
    return await asyncio.wait_for(items.get(), timeout)


IN_A_TASK = Tasks(to_the_end=False)
IN_A_TASK_TO_THE_END = Tasks(to_the_end=True)
