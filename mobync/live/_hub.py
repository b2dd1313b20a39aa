"""The listeners of this process, and the news that each of them has not got yet.

A listener holds one number and no queue, so a slow device costs no more than a fast one.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import NamedTuple

from ..errors import BusyError, TooManyListenersError

NO_CLOCK = -1
_numbers = count()  # of listeners


class News(NamedTuple):
    """The news since a listener last looked.

    Attributes:
        clock: the highest clock that this process announced, NO_CLOCK if none.
        hint: the highest clock that other processes announced.
        doubtful: whether announcements may have been missed.
    """

    clock: int
    hint: int
    doubtful: bool


class Listener:
    """The news for one device.

    Attributes:
        wake: called in any thread when there is something new, once after each ``take``.
        ended: whether the stream is to end.
    """

    def __init__(self) -> None:
        self.wake: Callable[[], object] = _nobody_waits
        self.ended = False
        # Reentrant, like the hub's lock: while this thread is in here, a signal handler may end the
        # streams, and the garbage collector may close some.
        self._lock = threading.RLock()
        self._clock = self._hint = NO_CLOCK
        self._doubtful = True
        self._woken = False

    def offer(self, clock: int) -> None:
        self._note(clock=clock)

    def hint(self, clock: int) -> None:
        self._note(hint=clock)

    def doubt(self) -> None:
        self._note(doubtful=True)

    def reassure(self) -> None:
        """Forget the doubt, before the clock is read."""
        self._doubtful = False

    def end(self) -> None:
        self.ended = True
        self.wake()

    def take(self) -> News:
        with self._lock:
            news = News(self._clock, self._hint, self._doubtful)
            self._clock = self._hint = NO_CLOCK
            self._doubtful = self._woken = False
        return news

    def _note(self, clock: int = NO_CLOCK, hint: int = NO_CLOCK, doubtful: bool = False) -> None:
        with self._lock:
            self._clock = max(self._clock, clock)
            self._hint = max(self._hint, hint)
            self._doubtful = self._doubtful or doubtful
            woken, self._woken = self._woken, True
        if not woken:
            self.wake()


def _nobody_waits() -> None:
    """Wake nobody, because the listener will look before it waits."""


_Listeners = dict[int, weakref.ref[Listener]]


class Hub:
    """The listeners of a process, by topic. Any thread may call any method.

    It does not keep a listener alive: a listener that dies disappears from here too.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all listeners. A forked child does this, because they belong to its parent."""
        self._lock = threading.RLock()
        self._listeners = _Listeners()
        self._topics: dict[str, _Listeners] = {}
        self._devices: dict[str, _Listeners] = {}  # by their own topics

    def __len__(self) -> int:
        return len(self._listeners)

    def join(
        self,
        topic: str,
        number: int,
        listener: Listener,
        most: int,
        most_each: int,
        device_topic: str | None = None,
    ) -> None:
        """Add a listener under a new number; if its device has a name, also to the device's topic.

        Raises:
            BusyError: there are ``most`` already.
            TooManyListenersError: the topic has ``most_each`` already.
        """
        with self._lock:
            if len(self._topics.get(topic, ())) >= most_each:
                raise TooManyListenersError(
                    f"{most_each} devices of this owner are listening already, which is the limit"
                )
            if len(self._listeners) >= most:
                raise BusyError(f"{most} devices are listening already, which is the limit")
            joined = [self._listeners, self._topics.setdefault(topic, _Listeners())]
            if device_topic is not None:
                joined.append(self._devices.setdefault(device_topic, _Listeners()))
            for listeners in joined:
                # In C, so that no signal handler can raise in between.
                listeners[number] = weakref.ref(listener, partial(listeners.pop, number))

    def leave(self, topic: str, number: int, device_topic: str | None = None) -> None:
        with self._lock:
            self._listeners.pop(number, None)
            _leave(self._topics, topic, number)
            if device_topic is not None:
                _leave(self._devices, device_topic, number)

    def tell(self, topic: str, clock: int) -> None:
        for listener in _alive(self._topics.get(topic, _Listeners())):
            listener.offer(clock)

    def hint(self, topic: str, clock: int) -> None:
        """Pass on the announcement of another process, which may be wrong or forged."""
        for listener in _alive(self._topics.get(topic, _Listeners())):
            listener.hint(clock)
        self.doubt_device(topic)

    def doubt_device(self, device_topic: str) -> None:
        """Let a device's listeners read the clock again, which finds out whether it was revoked."""
        for listener in _alive(self._devices.get(device_topic, _Listeners())):
            listener.doubt()

    def doubt(self) -> None:
        """Let every listener read the clock again, because announcements may have been missed."""
        for listener in _alive(self._listeners):
            listener.doubt()

    def end(self) -> None:
        for listener in _alive(self._listeners):
            listener.end()


def _leave(topics: dict[str, _Listeners], topic: str, number: int) -> None:
    listeners = topics.get(topic, _Listeners())
    listeners.pop(number, None)
    if not listeners:
        topics.pop(topic, None)


def _alive(listeners: _Listeners) -> list[Listener]:
    found = (ref() for ref in list(listeners.values()))
    return [listener for listener in found if listener is not None]


class Place:
    """A new listener's place in a hub, until ``leave`` or the death of this object.

    Args:
        hub: the hub to join.
        topic: the topic to listen to.
        most: see :meth:`Hub.join`.
        most_each: see :meth:`Hub.join`.
        device_topic: see :meth:`Hub.join`.

    Attributes:
        listener: the listener.
        clock: the owner's clock, if it was read after the listener joined.

    Raises:
        BusyError, TooManyListenersError: see :meth:`Hub.join`.
    """

    def __init__(
        self,
        hub: Hub,
        topic: str,
        most: int,
        most_each: int,
        device_topic: str | None = None,
    ) -> None:
        self.listener = Listener()
        self.clock: int | None = None
        number = next(_numbers)
        self.leave = weakref.finalize(self, hub.leave, topic, number, device_topic)
        self.leave.atexit = False
        hub.join(topic, number, self.listener, most, most_each, device_topic)

    def read(self, clock_now: Callable[[], int]) -> None:
        """Read the clock now. If it becomes doubtful later, it is read again.

        If this raises, the place is given up.
        """
        self.listener.reassure()
        try:
            self.clock = clock_now()
        except BaseException:
            self.leave()
            raise
