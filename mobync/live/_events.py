"""Decides what a listening device gets, and when.

``_steps`` decides and never waits; the two drivers below it wait, one for asyncio and one for
threads.
"""

from __future__ import annotations

import asyncio
import logging
import math
import queue
import random
import time
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial

from ..errors import DeviceRevokedError
from ._hub import NO_CLOCK, Place

logger = logging.getLogger("mobync.live")

HEARTBEAT = b":\n\n"
RECONNECT_MS = (1000, 5000)  # random, so that a restarted server does not get all devices at once
MAX_LOGICAL_CLOCK_DIGITS = 16

Run = Callable[[Callable[[], int]], Awaitable[int]]
"""Calls a function that waits, without keeping the event loop from going on."""


@dataclass
class Course:
    """The settings and the state that the streams of a Live share.

    Attributes:
        heartbeat_s: seconds of silence before a device is sent a comment.
        recheck_s: seconds from one read of a clock to the next; after one that failed, not more
            than ``heartbeat_s``.
        unreadable: whether the last read failed; the app's log gets one line for all streams.
    """

    heartbeat_s: float
    recheck_s: float
    unreadable: bool = False

    def failed(self, error: Exception) -> None:
        if not self.unreadable:
            self.unreadable = True
            reason = " ".join("".join(traceback.format_exception_only(error)).split())
            logger.warning("a clock cannot be read, trying again: %s", reason)

    def succeeded(self) -> None:
        if self.unreadable:
            self.unreadable = False
            logger.info("clocks can be read again")


class _Ask(Enum):
    CLOCK = "send me the owner's clock, or throw what reading it raised"


# Bytes to send, how many seconds to wait at most, or a question.
_Steps = Generator[bytes | float | _Ask, int | None, None]


def _steps(place: Place, last_event_id: str | None, course: Course) -> _Steps:
    listener, current = place.listener, place.clock
    told, hinted = _clock_of(last_event_id), NO_CLOCK
    yield b"retry: %d\n\n" % random.randint(*RECONNECT_MS)  # makes a WSGI server send the headers
    beat_at = time.monotonic() + course.heartbeat_s
    recheck_at = math.inf if current is None else time.monotonic() + course.recheck_s
    while not listener.ended:
        clock, hint, doubtful = listener.take()
        due = doubtful or time.monotonic() >= recheck_at
        if due or hint > max(told, clock):
            try:
                current = yield _Ask.CLOCK
            except Exception as error:
                if (
                    recheck_at == math.inf
                ):  # the clock was never read, so the caller must get the error
                    raise
                if isinstance(error, DeviceRevokedError):
                    return
                course.failed(error)
                recheck_at = time.monotonic() + min(course.recheck_s, course.heartbeat_s)
            else:
                course.succeeded()
                recheck_at = time.monotonic() + course.recheck_s
                assert current is not None
                if not due:
                    current = max(current, told)  # a replica may lag
        # A clock that is read may be lower if the server lost its log. The device must learn this.
        # Announcements can arrive in the wrong order.
        known = max(clock, told if current is None else current)
        current = None
        news = known if known != told else NO_CLOCK
        told = known
        if hint > max(
            told, hinted
        ):  # the database does not have it: it is true and the read lags, or it is forged
            news = hinted = hint
        if news != NO_CLOCK:
            yield b"id: %d\nevent: clock\ndata: %d\n\n" % (news, news)
            beat_at = time.monotonic() + course.heartbeat_s
        elif time.monotonic() >= beat_at:
            yield HEARTBEAT
            beat_at = time.monotonic() + course.heartbeat_s
        yield max(0.0, min(beat_at, recheck_at) - time.monotonic())


def _clock_of(last_event_id: str | None) -> int:
    text = last_event_id or ""
    if text.isascii() and text.isdigit() and len(text) <= MAX_LOGICAL_CLOCK_DIGITS:
        return int(text)
    return NO_CLOCK


async def async_events(
    place: Place,
    clock_now: Callable[[], int],
    last_event_id: str | None,
    course: Course,
    run: Run,
) -> AsyncGenerator[bytes, None]:
    """The events of one device; ``clock_now`` is called by ``run``, which is awaited."""
    loop = asyncio.get_running_loop()
    woken = asyncio.Event()

    def wake() -> None:
        with suppress(RuntimeError):  # the loop is closed, so nobody waits
            loop.call_soon_threadsafe(woken.set)

    place.listener.wake = wake
    steps = _steps(place, last_event_id, course)
    answer: int | Exception | None = None
    try:
        while (step := _next(steps, answer)) is not None:
            answer = None
            if isinstance(step, bytes):
                yield step
            elif isinstance(step, float):
                timer = loop.call_later(step, woken.set)
                try:
                    await woken.wait()
                finally:
                    timer.cancel()
                woken.clear()
            else:
                try:
                    answer = await run(clock_now)
                except Exception as error:
                    answer = error
    finally:
        place.leave()


def blocking_events(
    place: Place,
    clock_now: Callable[[], int],
    last_event_id: str | None,
    course: Course,
) -> Generator[bytes, None, None]:
    """The events of one device; waits in the thread that asks for the next one."""
    woken: queue.SimpleQueue[None] = queue.SimpleQueue()  # its put may interrupt its own get
    place.listener.wake = partial(woken.put, None)
    steps = _steps(place, last_event_id, course)
    answer: int | Exception | None = None
    try:
        while (step := _next(steps, answer)) is not None:
            answer = None
            if isinstance(step, bytes):
                yield step
            elif isinstance(step, float):
                with suppress(queue.Empty):
                    woken.get(timeout=step)
            else:
                try:
                    answer = clock_now()
                except Exception as error:
                    answer = error
    finally:
        place.leave()


def _next(steps: _Steps, answer: int | Exception | None) -> bytes | float | _Ask | None:
    try:
        return steps.throw(answer) if isinstance(answer, Exception) else steps.send(answer)
    except StopIteration:
        return None
