"""Live updates through PUBLISH and SUBSCRIBE of Redis or Valkey."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .._extras import needing
from ._brokered import ANSWER_TIMEOUT_S, BrokeredLive
from ._live import HEARTBEAT_S, MAX_LISTENERS_PER_OWNER, RECHECK_S

if TYPE_CHECKING:
    from redis import Redis
    from redis.client import PubSub

LOOK_UP_S = 0.5  # redis-py waits for a message or not at all; a close may wait so long for it


class RedisLive(BrokeredLive):
    """For processes that share a Redis or Valkey server; needs ``redis``.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py accepts it.
        channel: the channel, the same in all processes of the app. All numbered databases of a
            Redis share their channels.
        heartbeat_s: see :class:`Live`; also how long the server may be silent before mobync checks
            that it still answers.
        recheck_s: see :class:`Live`.
        max_listeners: see :class:`Live`.
        max_listeners_per_owner: see :class:`Live`.

    Raises:
        ImportError: redis is not installed.
        ValueError: ``url`` or another argument is malformed.
    """

    def __init__(
        self,
        url: str,
        *,
        channel: str = "mobync",
        heartbeat_s: float = HEARTBEAT_S,
        recheck_s: float = RECHECK_S,
        max_listeners: int | None = None,
        max_listeners_per_owner: int = MAX_LISTENERS_PER_OWNER,
    ) -> None:
        with needing("live-redis"):
            from redis import Redis

        if not channel:
            raise ValueError("channel must not be empty")
        Redis.from_url(url)  # which connects later
        super().__init__("Redis", heartbeat_s, recheck_s, max_listeners, max_listeners_per_owner)
        self._url = url
        self._channel = channel

    def _converse(self) -> None:
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        client: Any = Redis.from_url(  # its pubsub is not typed
            self._url,
            socket_connect_timeout=ANSWER_TIMEOUT_S,
            socket_timeout=ANSWER_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),  # only this code knows what was missed
            decode_responses=True,
            encoding_errors="replace",
        )
        with client, client.pubsub() as pubsub:
            pubsub.subscribe(self._channel)
            with self._receiving(pubsub) as failures:
                while not failures and not self._is_done:
                    self._send(client)
                    self._bell.wait(self._heartbeat_s)

    def _send(self, client: Redis) -> None:
        with self._outbox.delivery() as messages:
            if messages:
                with client.pipeline(transaction=False) as pipeline:
                    for message in messages:
                        pipeline.publish(self._channel, message)
                    pipeline.execute()

    @contextmanager
    def _receiving(self, pubsub: PubSub) -> Iterator[list[Exception]]:
        """Receive in a separate thread until the end of the block; raise what the thread raised.

        Yields the list that gets the thread's exception. The exception is in the list before the
        bell rings; the thread may still be alive then.
        """
        ended = threading.Event()
        failures: list[Exception] = []

        def receive() -> None:
            try:
                self._receive(pubsub, ended)
            except Exception as error:
                failures.append(error)
                self._bell.ring()

        receiver = threading.Thread(target=receive, name="mobync live: from Redis", daemon=True)
        receiver.start()
        try:
            yield failures
        finally:
            ended.set()
            receiver.join()
        if failures:
            raise failures[0]

    def _receive(self, pubsub: PubSub, ended: threading.Event) -> None:
        from redis.exceptions import TimeoutError as RedisTimeoutError

        heard_at, asked = time.monotonic(), False
        while not ended.is_set():
            message = pubsub.get_message(timeout=min(LOOK_UP_S, self._heartbeat_s))
            silent_s = time.monotonic() - heard_at
            if message is not None:
                heard_at, asked = time.monotonic(), False
                if message["type"] == "subscribe":  # also when redis-py has connected again
                    self._subscribed()
                elif message["type"] == "message":
                    self._hear(message["data"])
            elif asked and silent_s > self._heartbeat_s + ANSWER_TIMEOUT_S:
                raise RedisTimeoutError(f"no answer to PING in {ANSWER_TIMEOUT_S:g} s")
            elif not asked and silent_s > self._heartbeat_s:
                asked = True
                pubsub.ping()
