"""Live updates through a broker: the messages to send, and a connection that is restored.

One thread of a process holds the connection, from the first listener or announcement on. It has no
event loop: under gevent a thread is a greenlet, and all greenlets would run in that loop. After
each new connection, all listeners read their clock again, because earlier announcements did not
arrive here.
"""

from __future__ import annotations

import abc
import atexit

# Modules that clients import when they connect. If the thread imported them and the process forked
# meanwhile, these modules would stay locked in the child.
import email.parser  # noqa: F401
import encodings.idna  # noqa: F401
import logging
import random
import re
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from ..types import MAX_LOGICAL_CLOCK
from ._bell import Bell
from ._live import Live

logger = logging.getLogger("mobync.live")

ANSWER_TIMEOUT_S = 10.0  # a broker that takes longer counts as gone
FLUSH_TIMEOUT_S = 3.0
PAUSE_S = 0.1  # after the first failure; twice as long after each further one
LONGEST_PAUSE_S = 10.0

MAX_WAITING = 10_000
EVERYBODY = "* 0"  # tells processes to read their clocks, in place of too many messages
_MESSAGE = re.compile(r"([0-9a-f]{32}) ([0-9]{1,16})")


class Outbox:
    """Messages for other processes: a clock for each topic, or to read their clocks."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may sync, and then it announces
        self._clocks: dict[str, int] = {}
        self._everybody = False
        self._sending = False

    @property
    def is_empty(self) -> bool:
        """Whether everything was sent."""
        with self._lock:
            return not (self._clocks or self._everybody or self._sending)

    def put(self, topic: str, clock: int) -> None:
        with self._lock:
            self._clocks[topic] = max(clock, self._clocks.get(topic, 0))
            if len(self._clocks) > MAX_WAITING:
                self._clocks.clear()
                self._everybody = True

    @contextmanager
    def delivery(self) -> Iterator[list[str]]:
        """Take the messages out; an exception inside puts them back."""
        with self._lock:
            self._sending = True
            clocks, self._clocks = self._clocks, {}
            everybody, self._everybody = self._everybody, False
        messages = [EVERYBODY] if everybody else []
        messages += [f"{topic} {clock}" for topic, clock in clocks.items()]
        try:
            yield messages
        except BaseException:
            with self._lock:
                self._everybody = self._everybody or everybody
                for topic, clock in clocks.items():
                    self.put(topic, clock)
            raise
        finally:
            self._sending = False


class BrokeredLive(Live):
    """A Live whose processes reach each other through a broker.

    Subclasses implement the connection (``_converse``).

    Args:
        broker: its name in the app's log.
        heartbeat_s: see :class:`Live`; also how long the broker may be silent before mobync checks
            that it still answers.
        recheck_s: see :class:`Live`.
        max_listeners: see :class:`Live`.
        max_listeners_per_owner: see :class:`Live`.
    """

    def __init__(
        self,
        broker: str,
        heartbeat_s: float,
        recheck_s: float,
        max_listeners: int | None,
        max_listeners_per_owner: int,
    ) -> None:
        super().__init__(
            heartbeat_s=heartbeat_s,
            recheck_s=recheck_s,
            max_listeners=max_listeners,
            max_listeners_per_owner=max_listeners_per_owner,
        )
        self._broker = broker
        self._closed = False
        self._stopped = False
        self._bell = Bell()
        self._disconnect()

    def _disconnect(self) -> None:
        self._outbox = Outbox()
        self._bell.close()
        self._starting = threading.RLock()
        self._thread: threading.Thread | None = None
        self._broken = False
        self._heard_a_stranger = False

    def _forked(self) -> None:
        super()._forked()
        self._disconnect()  # thread, connection and messages belong to the parent

    def close(self) -> None:
        self.hang_up()
        with self._starting:
            self._closed = True
        atexit.unregister(self.close)
        thread = self._thread
        if thread is not None and thread.is_alive():
            self._bell.ring()
            thread.join(FLUSH_TIMEOUT_S)
            if not self._outbox.is_empty:
                logger.warning("%s: some announcements were not sent before close", self._broker)
            self._stopped = True
            self._bell.ring()
            thread.join(FLUSH_TIMEOUT_S)

    @abc.abstractmethod
    def _converse(self) -> None:
        """Connect and subscribe; then send the outbox and receive messages until ``_is_done``.

        Calls ``_subscribed`` whenever a subscription has begun.  The bell rings when the outbox
        has something new, and when it may be done.  Raises when the broker is gone.
        """

    @property
    def _is_done(self) -> bool:
        return self._stopped or (self._closed and self._outbox.is_empty)

    def _subscribed(self) -> None:
        if self._broken:
            self._broken = False
            logger.info("%s: connected again", self._broker)
        self._hub.doubt()

    def _hear(self, message: str) -> None:
        if message == EVERYBODY:
            self._hub.doubt()
        elif (match := _MESSAGE.fullmatch(message)) and int(match[2]) <= MAX_LOGICAL_CLOCK:
            self._hub.hint(match[1], int(match[2]))
        elif not self._heard_a_stranger:
            self._heard_a_stranger = True  # there may be many of these
            logger.warning("%s: not a message of mobync: %r", self._broker, message[:100])

    def _spread(self, topic: str, clock: int) -> None:
        if not self._closed:
            self._outbox.put(topic, clock)
            self._start()
            self._bell.ring()

    def _start(self) -> None:
        with self._starting:
            if self._closed or (self._thread is not None and self._thread.is_alive()):
                return
            self._thread = threading.Thread(
                target=self._work, name=f"mobync live: {self._broker}", daemon=True
            )
            self._thread.start()
        atexit.unregister(self.close)
        atexit.register(self.close)

    def _work(self) -> None:
        with self._bell:
            self._stay_connected()

    def _stay_connected(self) -> None:
        pause_s = PAUSE_S
        while not self._is_done:
            began = time.monotonic()
            try:
                self._converse()
            except Exception as error:  # after any error, devices wait for the next try
                self._lost(error)
            if time.monotonic() - began > LONGEST_PAUSE_S:
                pause_s = PAUSE_S
            self._pause(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _lost(self, error: Exception) -> None:
        if not self._broken:
            self._broken = True
            reason = " ".join("".join(traceback.format_exception_only(error)).split())
            logger.warning("%s: connection lost, trying again: %s", self._broker, reason)

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._is_done and (left := until - time.monotonic()) > 0:
            self._bell.wait(left)
