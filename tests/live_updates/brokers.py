"""PostgreSQL and Redis as brokers.  A test that takes ``broker`` runs on both.

Redis is the one that MOBYNC_TEST_REDIS_URL names, by default redis://127.0.0.1:6379; a channel of
its own keeps each test apart.  For PostgreSQL see databases.py.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from databases import server_url
from sqlalchemy.engine import URL

from mobync.live import Live, PostgreSQLLive, RedisLive

from .devices import eventually
from .network import Network

KINDS = ("postgresql", "redis")

REDIS_VARIABLE = "MOBYNC_TEST_REDIS_URL"
REDIS_URL = "redis://127.0.0.1:6379"


def live_on(kind: str, url: str, channel: str, **options: Any) -> Live:
    if kind == "postgresql":
        return PostgreSQLLive(url, channel=channel, **options)
    return RedisLive(url, channel=channel, **options)


class Broker:
    """A broker, as the processes of one test use it.

    Attributes:
        kind: one of KINDS.
        url: where it is.
        channel: the test's own.
    """

    def __init__(self, kind: str, stack: ExitStack) -> None:
        self.kind = kind
        self.channel = f"mobync_{uuid.uuid4().hex[:16]}"
        if kind == "postgresql":
            found = server_url("postgresql").update_query_dict({"application_name": self.channel})
            self.url = found.render_as_string(hide_password=False)
        else:
            found = os.environ.get(REDIS_VARIABLE, REDIS_URL)
            self.url = f"{found}?client_name={self.channel}"
        self._stack = stack

    def live(self, network: Network | None = None, **options: Any) -> Live:
        """Another process of the app, as far as the broker can tell.

        The clock is not read again on its own, unless the options say so.
        """
        url = self.url
        if network is not None:
            there = urlsplit(url)
            user = f"{there.netloc.rpartition('@')[0]}@" if "@" in there.netloc else ""
            url = there._replace(netloc=f"{user}127.0.0.1:{network.port}").geturl()
        made = live_on(self.kind, url, self.channel, **{"recheck_s": 3600, **options})
        self._stack.callback(made.close)
        return made

    def network(self, up: bool = True) -> Network:
        there = urlsplit(self.url)
        port = there.port or {"postgresql": 5432, "redis": 6379}[self.kind]
        return self._stack.enter_context(Network(there.hostname or "127.0.0.1", port, up))

    def await_subscribers(self, count: int) -> None:
        """Wait until so many processes hear what is announced."""
        eventually(lambda: self._subscribers() == count)

    def end_connections(self) -> None:
        """End them all from the server's side, as a restart does."""
        if self.kind == "postgresql":
            ours = "FROM pg_stat_activity WHERE application_name = %s"
            self._query(f"SELECT pg_terminate_backend(pid) {ours}", self.channel)
        else:
            with self._redis() as client:
                for one in client.client_list():
                    if one["name"] == self.channel:
                        client.client_kill_filter(_id=one["id"])

    def say(self, message: str) -> None:
        """Send a message that no mobync has made."""
        if self.kind == "postgresql":
            self._query("SELECT pg_notify(%s, %s)", self.channel, message)
        else:
            with self._redis() as client:
                client.publish(self.channel, message)

    def _subscribers(self) -> int:
        if self.kind == "postgresql":
            subscribed = "application_name = %s AND state = 'idle' AND query <> ''"
            found = self._query(
                f"SELECT count(*) FROM pg_stat_activity WHERE {subscribed}", self.channel
            )
            return int(found[0][0])
        with self._redis() as client:
            return int(client.pubsub_numsub(self.channel)[0][1])

    def _redis(self) -> redis.Redis:
        return redis.Redis.from_url(os.environ.get(REDIS_VARIABLE, REDIS_URL))

    def _query(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        url = server_url("postgresql").set(drivername="postgresql")
        plain = url.render_as_string(hide_password=False)
        with psycopg.connect(plain, autocommit=True) as connection:
            return connection.execute(query, parameters).fetchall()


@contextmanager
def pgbouncer(
    directory: Path, pool_mode: str, server: URL | None = None, pool_size: int = 20
) -> Iterator[str]:
    """A PgBouncer before the server, or a database of it, and the URL of what is behind it."""
    server = server_url("postgresql") if server is None else server
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    reached_by = {
        "host": server.host,
        "port": server.port or 5432,
        "dbname": server.database,
        "user": server.username,
        "password": server.password,
    }
    lines = [
        "[databases]",
        "behind = " + " ".join(f"{name}={value}" for name, value in reached_by.items() if value),
        "[pgbouncer]",
        "listen_addr = 127.0.0.1",
        f"listen_port = {port}",
        "unix_socket_dir =",
        "auth_type = any",
        f"pool_mode = {pool_mode}",
        f"default_pool_size = {pool_size}",
    ]
    settings = directory / "pgbouncer.ini"
    settings.write_text("\n".join(lines) + "\n")
    as_user = ["-u", "nobody"] if os.geteuid() == 0 else []  # it refuses to be root
    found = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    assert found, "install PgBouncer: sh .ci/services"
    process = subprocess.Popen([found, *as_user, str(settings)], stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: answers(port))
        yield f"postgresql://anybody@127.0.0.1:{port}/behind"
    finally:
        process.terminate()
        process.wait()


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@contextmanager
def open_broker(kind: str) -> Iterator[Broker]:
    with ExitStack() as stack:
        yield Broker(kind, stack)


@pytest.fixture(params=KINDS)
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    with open_broker(request.param) as opened:
        yield opened
