"""`mobync serve` behind a real PgBouncer in transaction mode."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from databases import server_url
from live_updates import brokers
from live_updates.devices import Device, Log, report
from server_process import diff, mobync, serving
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import NullPool

from mobync.server._live import live_of
from mobync.server.database import DatabaseError, new_engine
from mobync.server.settings import Settings
from mobync.server.tokens import Tokens

SECRET = "a secret for tests, long enough"
SERVER_CONNECTIONS = 3  # fewer than those who sync at the same time, so that they change hands


@pytest.fixture
def direct() -> Iterator[URL]:
    """A database of its own; PgBouncer passes on no search_path."""
    name = f"mobync_{uuid.uuid4().hex[:16]}"
    server = create_engine(
        server_url("postgresql"), poolclass=NullPool, isolation_level="AUTOCOMMIT"
    )
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield server.url.set(database=name)
    finally:
        with server.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def pooled(direct: URL, tmp_path: Path) -> Iterator[URL]:
    """The same database through a PgBouncer of this test."""
    with brokers.pgbouncer(tmp_path, "transaction", direct, SERVER_CONNECTIONS) as url:
        yield make_url(url)


def text_of(url: URL, **query: str) -> str:
    return url.update_query_dict(query).render_as_string(hide_password=False)


def test_no_sync_fails_behind_pgbouncer_in_transaction_mode(direct, pooled, tmp_path):
    url = text_of(pooled, prepare_threshold="None")
    events = ("--events-url", text_of(direct))
    with serving(tmp_path, "-d", url, *events, MOBYNC_SECRET=SECRET) as server:

        def sync(owner: str) -> set[int]:
            token = Tokens(SECRET).for_owner(owner, 3600)
            return {
                server.sync(token, n, diff(n, "create", id=f"t{n}")).status_code for n in range(20)
            }

        owners = [f"owner {n}" for n in range(2 * SERVER_CONNECTIONS)]
        with ThreadPoolExecutor(len(owners)) as pool:
            statuses = set().union(*pool.map(sync, owners))
        assert statuses == {200}
        assert server.get("/health").status_code == 200


def test_events_are_heard_by_the_url_that_goes_around_the_pooler(direct, pooled):
    settings = Settings(text_of(pooled, prepare_threshold="None"), None, events_url=text_of(direct))
    log = Log()
    with (
        closing(live_of(settings)) as here,
        closing(live_of(settings)) as other,
        Device(here, log) as phone,
    ):
        assert phone.clock() == 0
        log.clock = 1
        other.announce(report("anna", 1))
        assert phone.clock() == 1


@pytest.mark.parametrize(("given", "meant"), [("None", None), ("0", 0), ("7", 7)])
def test_an_option_of_the_driver_in_the_url_has_the_type_that_it_wants(direct, given, meant):
    engine = new_engine(make_url(text_of(direct, prepare_threshold=given)))
    with engine.connect() as connection:
        assert connection.connection.driver_connection.prepare_threshold == meant
    engine.dispose()


def test_what_is_no_number_is_refused_by_name(direct):
    with pytest.raises(DatabaseError, match="prepare_threshold must be a number or None"):
        new_engine(make_url(text_of(direct, prepare_threshold="often")))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--events-url", "mariadb://root@127.0.0.1/x"), "must be a URL postgresql://"),
        (("--events-url", "postgresql://127.0.0.1/x", "--events", "off"), "--events off"),
    ],
)
def test_an_url_for_events_that_cannot_be_meant_is_a_misuse(arguments, said, tmp_path):
    ended = mobync(tmp_path, "serve", *arguments, MOBYNC_SECRET=SECRET)
    assert ended.returncode == 2
    assert said in ended.stderr
