"""Live updates through PUBLISH and SUBSCRIBE of Redis or Valkey."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ._brokered import ANSWER_TIMEOUT_S, BrokeredLive
from ._live import HEARTBEAT_S, RECHECK_S

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.client import PubSub


class RedisLive(BrokeredLive):
    """For processes that share a Redis or Valkey server; needs ``redis``.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py takes it.
        channel: the channel, the same in all processes of the app.  Redis has one set of
            channels for all its numbered databases.
        heartbeat_s: see :class:`Live`; also how long nothing may come from the server before it
            is asked for a sign of life.
        recheck_s: see :class:`Live`.
        max_listeners: see :class:`Live`.

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
    ) -> None:
        from redis.asyncio.connection import parse_url
        from redis.exceptions import RedisError

        if not channel:
            raise ValueError("channel must not be empty")
        parse_url(url)
        super().__init__("Redis", (RedisError,), heartbeat_s, recheck_s, max_listeners)
        self._url = url
        self._channel = channel

    async def _converse(self) -> None:
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        client = Redis.from_url(
            self._url,
            socket_connect_timeout=ANSWER_TIMEOUT_S,
            socket_timeout=ANSWER_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),  # what was missed is known here alone
            decode_responses=True,
            encoding_errors="replace",
        )
        async with client, client.pubsub() as pubsub:
            await pubsub.subscribe(self._channel)
            await _until_one_fails(self._receive(pubsub), self._send(client))

    async def _send(self, client: Redis) -> None:
        while True:
            with self._outbox.delivery() as messages:
                if messages:
                    async with client.pipeline(transaction=False) as pipeline:
                        for message in messages:
                            pipeline.publish(self._channel, message)
                        await pipeline.execute()
            await self._news.wait()
            self._news.clear()

    async def _receive(self, pubsub: PubSub) -> None:
        from redis.exceptions import TimeoutError as RedisTimeoutError

        while True:
            message = await pubsub.get_message(timeout=self._heartbeat_s)
            if message is None:
                await pubsub.ping()
                message = await pubsub.get_message(timeout=ANSWER_TIMEOUT_S)
                if message is None:
                    raise RedisTimeoutError(f"no answer to PING in {ANSWER_TIMEOUT_S:g} s")
            if message["type"] == "subscribe":  # also when redis-py has connected again
                self._subscribed()
            elif message["type"] == "message":
                self._hear(message["data"])


async def _until_one_fails(*coroutines: Any) -> None:
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
