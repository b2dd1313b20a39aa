"""Live updates through PostgreSQL's LISTEN and NOTIFY, on one connection a process."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

from ._brokered import ANSWER_TIMEOUT_S, BrokeredLive
from ._live import HEARTBEAT_S, RECHECK_S

if TYPE_CHECKING:
    import psycopg

LONGEST_CHANNEL_BYTES = 63
NOTIFY = "SELECT pg_notify(%s, message) FROM unnest(%s::text[]) AS message"


class PostgreSQLLive(BrokeredLive):
    """For processes that share a PostgreSQL server; needs ``psycopg`` 3.

    The connection is a session of its own, to the primary, and not through a pooler that gives a
    session's connection away between transactions, as LISTEN would end then.

    Args:
        url: a URL or connection string of libpq.  A URL of SQLAlchemy with one host does
            as well: the driver in ``postgresql+psycopg://`` is passed over.
        channel: the channel of NOTIFY, the same in all processes of the app; 63 bytes at most.
        heartbeat_s: see :class:`Live`; also how long nothing may come from the server before it
            is asked for a sign of life.
        recheck_s: see :class:`Live`.
        max_listeners: see :class:`Live`.

    Raises:
        ImportError: psycopg is not installed.
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
        import psycopg
        from psycopg.conninfo import conninfo_to_dict

        if not 0 < len(channel.encode()) <= LONGEST_CHANNEL_BYTES or "\0" in channel:
            raise ValueError(f"channel must have 1 to {LONGEST_CHANNEL_BYTES} bytes: {channel!r}")
        try:
            parameters = conninfo_to_dict(re.sub(r"^(postgres(ql)?)\+\w+:", r"\1:", url))
        except psycopg.ProgrammingError:
            # Its message may hold the password.
            raise ValueError("url is no connection string of PostgreSQL") from None
        super().__init__("PostgreSQL", (psycopg.Error,), heartbeat_s, recheck_s, max_listeners)
        defaults = {"connect_timeout": int(ANSWER_TIMEOUT_S), "application_name": "mobync live"}
        self._parameters: dict[str, Any] = {**defaults, **parameters, "client_encoding": "utf8"}
        self._channel = channel

    async def _converse(self) -> None:
        import psycopg
        from psycopg.sql import SQL, Identifier

        connection = await psycopg.AsyncConnection.connect(**self._parameters, autocommit=True)
        try:
            connection.add_notify_handler(lambda notify: self._hear(notify.payload))
            await self._ask(connection, SQL("LISTEN {}").format(Identifier(self._channel)))
            self._subscribed()
            silent = False
            while True:
                self._drain(connection)
                with self._outbox.delivery() as messages:
                    if messages or silent:
                        await self._ask(connection, NOTIFY, [self._channel, messages])
                silent = not await self._woken(connection)
        finally:
            await connection.close()

    async def _woken(self, connection: psycopg.AsyncConnection[Any]) -> bool:
        """Wait for bytes from the server or something to send; False if neither came."""
        loop, socket = asyncio.get_running_loop(), connection.fileno()
        # Not asyncio.wait_for, which before Python 3.12 may lose a cancellation.
        timer = loop.call_later(self._heartbeat_s, self._news.set)
        loop.add_reader(socket, self._news.set)
        try:
            await self._news.wait()
        finally:
            loop.remove_reader(socket)
            timer.cancel()
        self._news.clear()
        return loop.time() < timer.when()

    def _drain(self, connection: psycopg.AsyncConnection[Any]) -> None:
        connection.pgconn.consume_input()
        while notify := connection.pgconn.notifies():
            self._hear(notify.extra.decode())

    async def _ask(
        self, connection: psycopg.AsyncConnection[Any], query: Any, parameters: Any = None
    ) -> None:
        answer = asyncio.ensure_future(connection.execute(query, parameters))
        try:
            await asyncio.wait([answer], timeout=ANSWER_TIMEOUT_S)
        finally:
            if not answer.done():
                # To cancel it would be to ask a server that does not answer.
                connection.pgconn.finish()
        await answer
