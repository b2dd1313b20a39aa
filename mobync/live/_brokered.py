"""Live updates through a broker: what waits to be sent, and a connection that mends itself.

One thread of a process holds the connection, in an event loop of its own, from the first listener
or announcement on.  Whenever the connection is made, all listeners read their clock again: what
was announced before that, nobody here has heard.
"""

from __future__ import annotations

import abc
import asyncio
import atexit
import logging
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ._live import Live

logger = logging.getLogger("mobync.live")

ANSWER_TIMEOUT_S = 10.0  # a broker that takes longer is taken for gone
FLUSH_TIMEOUT_S = 3.0
PAUSE_S = 0.1  # after the first failure; twice as much after each that follows
LONGEST_PAUSE_S = 10.0

MAX_WAITING = 10_000
EVERYBODY = "* 0"  # read your clocks, says a process that had too much to say
_MESSAGE = re.compile(r"([0-9a-f]{32}) ([0-9]{1,16})")


class Outbox:
    """What other processes are to be told: a clock for each topic, or that they should look."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._clocks: dict[str, int] = {}
        self._everybody = False
        self._sending = False

    def put(self, topic: str, clock: int) -> None:
        with self._changed:
            self._clocks[topic] = max(clock, self._clocks.get(topic, 0))
            if len(self._clocks) > MAX_WAITING:
                self._clocks.clear()
                self._everybody = True

    @contextmanager
    def delivery(self) -> Iterator[list[str]]:
        """Take the messages out; an exception inside puts them back."""
        with self._changed:
            self._sending = True
            clocks, self._clocks = self._clocks, {}
            everybody, self._everybody = self._everybody, False
        messages = [EVERYBODY] if everybody else []
        messages += [f"{topic} {clock}" for topic, clock in clocks.items()]
        try:
            yield messages
        except BaseException:
            with self._changed:
                self._everybody = self._everybody or everybody
                for topic, clock in clocks.items():
                    self.put(topic, clock)
            raise
        finally:
            with self._changed:
                self._sending = False
                self._changed.notify_all()

    def wait_until_empty(self, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(self._is_empty, timeout=timeout_s)

    def _is_empty(self) -> bool:
        return not (self._clocks or self._everybody or self._sending)


class BrokeredLive(Live):
    """A Live whose processes reach each other by a broker.

    Subclasses say how to talk to it (``_converse``) and what it raises when it is gone.

    Args:
        broker: what the app's log calls it.
        errors: what ``_converse`` raises when the broker is gone.
        heartbeat_s: see :class:`Live`; also how long nothing may come from the broker before it
            is asked for a sign of life.
        recheck_s: see :class:`Live`.
        max_listeners: see :class:`Live`.
    """

    def __init__(
        self,
        broker: str,
        errors: tuple[type[Exception], ...],
        heartbeat_s: float,
        recheck_s: float,
        max_listeners: int | None,
    ) -> None:
        super().__init__(heartbeat_s=heartbeat_s, recheck_s=recheck_s, max_listeners=max_listeners)
        self._broker = broker
        self._errors: tuple[type[Exception], ...] = (*errors, OSError, asyncio.TimeoutError)
        self._closed = False
        self._stopped = False
        self._disconnect()

    def _disconnect(self) -> None:
        self._outbox = Outbox()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._broken = False

    def _forked(self) -> None:
        super()._forked()
        self._disconnect()  # thread, connection and what waits to be sent are the parent's

    def close(self) -> None:
        self.hang_up()
        with self._starting:
            self._closed = True
        atexit.unregister(self.close)
        thread = self._thread
        if thread is not None and thread.is_alive():
            if not self._outbox.wait_until_empty(FLUSH_TIMEOUT_S):
                logger.warning("%s: not all was announced before close", self._broker)
            self._stopped = True
            self._in_loop(self._hang_up_on_broker)
            thread.join(ANSWER_TIMEOUT_S)

    @abc.abstractmethod
    async def _converse(self) -> None:
        """Connect and subscribe; then send the outbox and hear messages until it breaks.

        Calls ``_subscribed`` whenever a subscription has begun.  ``_news`` is set when the outbox
        has something new.
        """

    def _subscribed(self) -> None:
        if self._broken:
            self._broken = False
            logger.info("%s: connected again", self._broker)
        self._hub.doubt()

    def _hear(self, message: str) -> None:
        if message == EVERYBODY:
            self._hub.doubt()
        elif match := _MESSAGE.fullmatch(message):
            self._hub.tell(match[1], int(match[2]))
        else:
            logger.warning("%s: not a message of mobync: %.100r", self._broker, message)

    def _spread(self, topic: str, clock: int) -> None:
        if not self._closed:
            self._outbox.put(topic, clock)
            self._start()
            self._in_loop(self._look_at_outbox)

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

    def _look_at_outbox(self) -> None:
        self._news.set()

    def _hang_up_on_broker(self) -> None:
        self._connection.cancel()

    def _in_loop(self, function: Callable[[], object]) -> None:
        # A loop that is not there yet looks at the outbox and at _stopped when it comes.
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # it is closed
                loop.call_soon_threadsafe(function)

    def _work(self) -> None:
        with suppress(asyncio.CancelledError):
            asyncio.run(self._stay_connected())

    async def _stay_connected(self) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connection = connection
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        pause_s = PAUSE_S
        while not self._stopped:
            began = time.monotonic()
            try:
                await self._converse()
            except self._errors as error:
                if not self._broken:
                    self._broken = True
                    reason = " ".join(str(error).split()) or type(error).__name__
                    logger.warning("%s: connection lost, trying again: %s", self._broker, reason)
            if time.monotonic() - began > LONGEST_PAUSE_S:
                pause_s = PAUSE_S
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
