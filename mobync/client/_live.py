"""Syncs at once: when the server has news, and when the user edits.

It has two threads. One holds a stream of events open and reads it. The other syncs when it is
woken: by an event, by an edit, or at the end of a pause.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from ._errors import OfflineError
from ._transport import Events

if TYPE_CHECKING:
    from ._device import Device, SyncResult

RECONNECT_S = 3.0  # until a server has sent ``retry``
LONGEST_PAUSE_S = 60.0
MOST_ASKED_S = 86_400.0  # that a server's wish counts; a thread cannot wait for any time


class Live:
    """A device that syncs by itself; :meth:`Device.live` makes it.

    Attributes:
        error: the error that ended it before it was closed; None if there was none. Being offline
            is not an error.
    """

    def __init__(
        self, device: Device, on_sync: Callable[[SyncResult], object] | None, poll_s: float
    ) -> None:
        self.error: BaseException | None = None
        self._device = device
        self._on_sync = on_sync
        self._poll_s = poll_s
        self._is_told = True
        self._reconnect_s = RECONNECT_S
        self._closed = threading.Event()
        self._woken = threading.Event()
        self._woken.set()
        self._lock = threading.Lock()
        self._events: Events | None = None
        self._threads = [
            threading.Thread(target=self._until_closed, args=(work,), daemon=True)
            for work in (self._hold_a_stream, self._sync_when_woken)
        ]
        device._on_edit = self._woken.set
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End it, after a running sync has finished. Call it in another thread.

        Raises:
            Exception: the ``error`` that ended it before.
        """
        self._end()
        for thread in self._threads:
            thread.join()
        self._device._on_edit = lambda: None
        if self.error is not None:
            raise self.error

    def __enter__(self) -> Live:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _end(self) -> None:
        with self._lock:
            self._closed.set()
            self._woken.set()
            if self._events is not None:
                self._events.close()

    def _until_closed(self, work: Callable[[], None]) -> None:
        try:
            while not self._closed.is_set():
                work()
        except BaseException as error:
            self.error = self.error or error
            self._end()

    # ---- the thread that listens -------------------------------------------------------------

    def _hold_a_stream(self) -> None:
        """Listen until the stream ends, and pause before the next one."""
        pause_s = self._reconnect_s
        try:
            events = self._device._server.listen(str(self._device.logical_clock), self._device.name)
            if events.answer.status == 200:
                self._read(events)
            elif events.answer.status == 404:
                self._is_told = False
                self._woken.set()  # for those who wait without a limit
                pause_s = LONGEST_PAUSE_S
            else:
                if events.answer.status == 403:
                    self._woken.set()  # the answer of the sync says why
                pause_s += events.answer.retry_after_s() or 0.0
        except OfflineError:
            pass
        self._closed.wait(random.uniform(0.5, 1.5) * min(pause_s, MOST_ASKED_S))

    def _read(self, events: Events) -> None:
        with self._lock:
            self._events = events
            if self._closed.is_set():
                events.close()
        self._is_told = True
        try:
            for name, value in fields_of(events.lines()):
                if name == "retry":
                    self._reconnect_s = float(value) / 1000  # int() takes only so many digits
                elif value != str(self._device.logical_clock):
                    self._woken.set()
        finally:
            with self._lock:
                self._events = None
            self._woken.set()  # the stream may have ended before an event

    # ---- the thread that syncs ---------------------------------------------------------------

    def _sync_when_woken(self) -> None:
        self._woken.wait(None if self._is_told else self._poll_s)
        self._woken.clear()
        if self._closed.is_set():
            return
        try:
            result = self._device.sync()
        except OfflineError:
            self._closed.wait(random.uniform(0, LONGEST_PAUSE_S))
            self._woken.set()
            return
        if self._on_sync is not None:
            self._on_sync(result)


def fields_of(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The fields of Server-Sent Events that a device needs: ``retry``, and ``data`` of a clock."""
    event = ""
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line == "":
            event = ""
        elif name == "event":
            event = value
        elif (name, event) == ("data", "clock") or (name == "retry" and value.isdecimal()):
            yield name, value
