"""Live updates through PostgreSQL's LISTEN and NOTIFY, on one connection for each process."""

from __future__ import annotations

import re
import time
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .._extras import needing
from ._brokered import ANSWER_TIMEOUT_S, BrokeredLive, logger
from ._live import HEARTBEAT_S, MAX_LISTENERS_PER_OWNER, RECHECK_S

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn

LONGEST_CHANNEL_BYTES = 63
HEARD_WITHIN_S = 5.0  # a notification that this process sends itself
NOTIFY = b"SELECT pg_notify($1, message) FROM unnest($2::text[]) AS message"


class PostgreSQLLive(BrokeredLive):
    """For processes that share a PostgreSQL server; needs ``psycopg`` 3.

    The connection is a separate session to the primary. It must not go through a pooler in
    transaction mode, because LISTEN would end with each transaction. Each new connection is tested
    with a notification from a second connection; if it does not arrive, the app's log gets a
    warning.

    Args:
        url: a URL or connection string of libpq, or a URL of SQLAlchemy with one host: the driver
            in ``postgresql+psycopg://`` is ignored.
        channel: the channel of NOTIFY, the same in all processes of the app; at most 63 bytes.
        heartbeat_s: see :class:`Live`; also how long the server may be silent before mobync checks
            that it still answers.
        recheck_s: see :class:`Live`.
        max_listeners: see :class:`Live`.
        max_listeners_per_owner: see :class:`Live`.

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
        max_listeners_per_owner: int = MAX_LISTENERS_PER_OWNER,
    ) -> None:
        with needing("live-postgresql"):
            import psycopg
            from psycopg.conninfo import conninfo_to_dict

        if not 0 < len(channel.encode()) <= LONGEST_CHANNEL_BYTES or "\0" in channel:
            raise ValueError(f"channel must have 1 to {LONGEST_CHANNEL_BYTES} bytes: {channel!r}")
        try:
            parameters = conninfo_to_dict(re.sub(r"^(postgres(ql)?)\+\w+:", r"\1:", url))
        except psycopg.ProgrammingError:
            # Its message may hold the password.
            raise ValueError("url is not a connection string of PostgreSQL") from None
        super().__init__(
            "PostgreSQL", heartbeat_s, recheck_s, max_listeners, max_listeners_per_owner
        )
        defaults = {"connect_timeout": int(ANSWER_TIMEOUT_S), "application_name": "mobync live"}
        self._parameters: dict[str, Any] = {**defaults, **parameters, "client_encoding": "utf8"}
        self._channel = channel
        self._call: str | None = None  # the notification that it still waits for
        self._hear_call_until = 0.0

    def _converse(self) -> None:
        import psycopg
        from psycopg.sql import SQL, Identifier

        connection = psycopg.connect(**self._parameters, autocommit=True)
        try:
            listen = SQL("LISTEN {}").format(Identifier(self._channel))
            pgconn = connection.pgconn
            self._ask(pgconn, listen.as_bytes(connection))
            self._subscribed()
            self._call_oneself()
            silent = False
            while True:
                with self._outbox.delivery() as messages:
                    if messages or silent:
                        self._notify(pgconn, messages)
                self._drain(pgconn)  # also notifications that came with the answer
                if self._is_done:
                    return
                if (
                    self._outbox.is_empty
                ):  # otherwise the bell rang during the question to the server
                    silent = not self._bell.wait(self._rest_s(), pgconn.socket)
        finally:
            connection.close()

    def _call_oneself(self) -> None:
        """Send a notification from another session; this one must receive it."""
        import psycopg

        self._call = None
        parameters = {**self._parameters, "application_name": "mobync live, calling itself"}
        call = (
            f"{uuid.uuid4().hex} 0"  # older processes take it for an owner whom nobody listens to
        )
        with suppress(
            psycopg.Error, TimeoutError
        ):  # then it is not known whether notifications arrive
            other = psycopg.connect(**parameters, autocommit=True)
            try:
                self._notify(other.pgconn, [call])
            finally:
                other.close()
            self._call, self._hear_call_until = call, time.monotonic() + HEARD_WITHIN_S

    def _hear(self, message: str) -> None:
        if message == self._call:
            self._call = None
        else:
            super()._hear(message)

    def _rest_s(self) -> float:
        """How long to wait; before that, warn if the test notification is late."""
        if self._call is None:
            return self._heartbeat_s
        left_s = self._hear_call_until - time.monotonic()
        if left_s > 0:
            return min(left_s, self._heartbeat_s)
        self._call = None
        logger.warning(
            "PostgreSQL: notifications do not arrive, so devices hear up to %g s late about syncs "
            "of other processes. LISTEN needs its own session, which a pooler in transaction mode "
            "(PgBouncer) does not give. Pass PostgreSQLLive a URL that leads to the server itself "
            "(mobync serve: --events-url).",
            self._course.recheck_s,
        )
        return self._heartbeat_s

    def _drain(self, pgconn: PGconn) -> None:
        pgconn.consume_input()
        while notify := pgconn.notifies():
            self._hear(notify.extra.decode(errors="replace"))

    def _notify(self, pgconn: PGconn, messages: list[str]) -> None:
        array = ",".join(f'"{message}"' for message in messages)
        self._ask(pgconn, NOTIFY, self._channel.encode(), b"{%s}" % array.encode())

    def _ask(self, pgconn: PGconn, query: bytes, *parameters: bytes) -> None:
        """Run a statement; a server that does not answer counts as gone.

        Raises:
            psycopg.Error, TimeoutError: the server is gone, or refuses.
        """
        from psycopg import OperationalError
        from psycopg.pq import ExecStatus

        pgconn.send_query_params(query, parameters)
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        while True:
            unsent = pgconn.flush() != 0
            if unsent or pgconn.is_busy():
                if time.monotonic() > deadline or self._stopped:
                    raise TimeoutError(f"no answer in {ANSWER_TIMEOUT_S:g} s")
                left_s = deadline - time.monotonic()
                self._bell.wait(left_s, pgconn.socket, writable=unsent)
                pgconn.consume_input()
            elif (result := pgconn.get_result()) is None:
                return
            elif result.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
                raise OperationalError(result.get_error_message())
