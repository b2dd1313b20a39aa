"""Who listens in this process, and what each of them has not been told yet.

A listener holds one number and never a queue: however slow its device is, it costs no more.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import NamedTuple

NO_CLOCK = -1


class News(NamedTuple):
    """What has happened since a listener looked last.

    Attributes:
        clock: the highest clock announced, NO_CLOCK if none was.
        doubtful: whether announcements may have been missed.
    """

    clock: int
    doubtful: bool


class Listener:
    """What one device is still to be told.

    Attributes:
        wake: called in any thread when there is something new, once after each ``take``.
        ended: nothing more is to be told.
    """

    def __init__(self) -> None:
        self.wake: Callable[[], object] = _nobody_waits
        self.ended = False
        # Reentrant, as is the hub's: a signal handler may end the streams, and a garbage
        # collection may close some, while this very thread is in here.
        self._lock = threading.RLock()
        self._clock = NO_CLOCK
        self._doubtful = True
        self._woken = False

    def offer(self, clock: int) -> None:
        self._note(clock, doubtful=False)

    def doubt(self) -> None:
        self._note(NO_CLOCK, doubtful=True)

    def end(self) -> None:
        self.ended = True
        self.wake()

    def take(self) -> News:
        with self._lock:
            news = News(self._clock, self._doubtful)
            self._clock, self._doubtful, self._woken = NO_CLOCK, False, False
        return news

    def _note(self, clock: int, doubtful: bool) -> None:
        with self._lock:
            self._clock = max(self._clock, clock)
            self._doubtful = self._doubtful or doubtful
            woken, self._woken = self._woken, True
        if not woken:
            self.wake()


def _nobody_waits() -> None:
    """Wake nobody: the listener will look before it waits."""


class Hub:
    """The listeners of a process by topic.  Any method may be called in any thread."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all listeners, as a forked child must: they are its parent's."""
        self._lock = threading.RLock()
        self._topics: dict[str, set[Listener]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def join(self, topic: str, listener: Listener, most: int | None) -> bool:
        """Add a listener, unless there are ``most`` of them; say whether it was added."""
        with self._lock:
            if most is not None and self._count >= most:
                return False
            self._topics.setdefault(topic, set()).add(listener)
            self._count += 1
        return True

    def leave(self, topic: str, listener: Listener) -> None:
        with self._lock:
            listeners = self._topics.get(topic, set())
            if listener in listeners:
                listeners.remove(listener)
                self._count -= 1
                if not listeners:
                    del self._topics[topic]

    def tell(self, topic: str, clock: int) -> None:
        with self._lock:
            listeners = tuple(self._topics.get(topic, ()))
        for listener in listeners:
            listener.offer(clock)

    def doubt(self) -> None:
        """Have every listener read the clock again: announcements may have been missed."""
        for listener in self._all():
            listener.doubt()

    def end(self) -> None:
        for listener in self._all():
            listener.end()

    def _all(self) -> list[Listener]:
        with self._lock:
            return [listener for listeners in self._topics.values() for listener in listeners]


class Place:
    """A listener's place in a hub: given up by ``leave``, or with this object.

    Args:
        hub: where the listener has joined.
        topic: what it listens to.
        listener: the listener.

    Attributes:
        clock: the owner's, if it was read since the listener joined.
    """

    def __init__(self, hub: Hub, topic: str, listener: Listener) -> None:
        self.listener = listener
        self.clock: int | None = None
        self.leave = weakref.finalize(self, hub.leave, topic, listener)
        self.leave.atexit = False

    def read(self, clock_now: Callable[[], int]) -> None:
        """Read the clock now; what makes it doubtful from here on has it read again.

        Gives up the place if that raises.
        """
        announced, _ = self.listener.take()
        try:
            self.clock = max(announced, clock_now())
        except BaseException:
            self.leave()
            raise
