"""Who listens in this process, and what each of them has not been told yet.

A listener holds one number and never a queue: however slow its device is, it costs no more.
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
    """What has happened since a listener looked last.

    Attributes:
        clock: the highest clock that this process announced, NO_CLOCK if none.
        hint: the highest one that others announced, as they say.
        doubtful: whether announcements may have been missed.
    """

    clock: int
    hint: int
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
    """Wake nobody: the listener will look before it waits."""


_Listeners = dict[int, weakref.ref[Listener]]


class Hub:
    """The listeners of a process by topic.  Any method may be called in any thread.

    It does not keep a listener alive: one that dies without a word is gone from here as well.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all listeners, as a forked child must: they are its parent's."""
        self._lock = threading.RLock()
        self._listeners = _Listeners()
        self._topics: dict[str, _Listeners] = {}
        self._devices: dict[str, _Listeners] = {}  # by topics of their own

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
        """Add a listener under a number of its own; of a device with a name, to its topic too.

        Raises:
            BusyError: there are ``most`` already.
            TooManyListenersError: the topic has ``most_each`` already.
        """
        with self._lock:
            if len(self._topics.get(topic, ())) >= most_each:
                raise TooManyListenersError(f"{most_each} devices of this owner listen already")
            if len(self._listeners) >= most:
                raise BusyError(f"{most} devices are listening already, which is the limit")
            joined = [self._listeners, self._topics.setdefault(topic, _Listeners())]
            if device_topic is not None:
                joined.append(self._devices.setdefault(device_topic, _Listeners()))
            for listeners in joined:
                # In C, so that a signal handler that raises does not come between.
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
        """Pass on what somebody else said, who may be mistaken or lie."""
        for listener in _alive(self._topics.get(topic, _Listeners())):
            listener.hint(clock)
        self.doubt_device(topic)

    def doubt_device(self, device_topic: str) -> None:
        """Have a device's listeners read the clock again, which says whether it was revoked."""
        for listener in _alive(self._devices.get(device_topic, _Listeners())):
            listener.doubt()

    def doubt(self) -> None:
        """Have every listener read the clock again: announcements may have been missed."""
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
    """A new listener's place in a hub: given up by ``leave``, or with this object.

    Args:
        hub: where it joins.
        topic: what it listens to.
        most: see :meth:`Hub.join`.
        most_each: see :meth:`Hub.join`.
        device_topic: see :meth:`Hub.join`.

    Attributes:
        listener: who has the place.
        clock: the owner's, if it was read since the listener joined.

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
        """Read the clock now; what makes it doubtful from here on has it read again.

        Gives up the place if that raises.
        """
        self.listener.reassure()
        try:
            self.clock = clock_now()
        except BaseException:
            self.leave()
            raise
