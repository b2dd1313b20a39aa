"""Devices that listen by HTTP to several server processes, with PostgreSQL or Redis between."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from databases import Database, open_database
from live_updates.brokers import KINDS, open_broker
from live_updates.devices import HttpDevice, eventually, report
from live_updates.server import DJANGO_ON_GEVENT, Server
from sqlalchemy import Column, MetaData, String, Table

from mobync.sqlalchemy import diffs_table

HEARTBEAT_S = 0.2
IDLE_LISTENERS = 200

Servers = tuple[Server, Server]


@contextmanager
def started(kind: str, directory: Path) -> Iterator[Servers]:
    """Two servers that share a database and a broker."""
    with (
        open_broker(kind) as broker,
        open_database("postgresql" if kind == "postgresql" else "sqlite", directory) as database,
    ):
        make_tables(database)
        with (
            Server(broker, database.url, directory / "first.log", HEARTBEAT_S) as first,
            Server(broker, database.url, directory / "second.log", HEARTBEAT_S) as second,
        ):
            yield first, second


def make_tables(database: Database) -> None:
    metadata = MetaData()
    columns = Column("id", String(40), primary_key=True), Column("owner", String(40))
    Table("notes", metadata, *columns)
    diffs_table(metadata)
    metadata.create_all(database.engine)


@pytest.fixture(scope="module", params=KINDS)
def servers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Servers]:
    with started(request.param, tmp_path_factory.mktemp("servers")) as both:
        yield both


@pytest.fixture(params=KINDS)
def mortal_servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Servers]:
    with started(request.param, tmp_path) as both:
        yield both


@pytest.fixture
def anna() -> str:
    return f"anna {uuid.uuid4().hex[:8]}"


def test_a_device_hears_of_a_sync_in_another_process(servers, anna):
    first, second = servers
    with HttpDevice(first.port, anna) as phone, HttpDevice(second.port, anna) as tablet:
        assert (phone.clock(), tablet.clock()) == (0, 0)
        assert first.push(anna) == 1
        assert (phone.clock(), tablet.clock()) == (1, 1)
        assert second.push(anna) == 2
        assert second.push(f"not {anna}") == 1
        assert (phone.clock(), tablet.clock()) == (2, 2)


def test_a_device_that_connects_again_is_told_what_it_missed_and_nothing_twice(servers, anna):
    first, second = servers
    with HttpDevice(first.port, anna) as device:
        assert device.clock() == 0
        assert first.push(anna) == 1
        assert device.clock() == 1
    second.push(anna)
    assert second.push(anna) == 3
    with HttpDevice(first.port, anna, last_event_id=1) as device:
        assert device.next() == 3
    with HttpDevice(second.port, anna, last_event_id=3) as device:
        assert device.next() is None
        assert first.push(anna) == 4
        assert device.clock() == 4


def test_a_device_whose_server_is_killed_goes_on_with_another(mortal_servers, anna):
    first, second = mortal_servers
    with HttpDevice(first.port, anna) as device:
        assert device.clock() == 0
        assert second.push(anna) == 1
        assert device.clock() == 1
        assert second.push(anna) == 2
        first.kill()
    with HttpDevice(second.port, anna, last_event_id=1) as device:
        assert device.next() == 2
        assert second.push(anna) == 3
        assert device.clock() == 3


def test_two_hundred_idle_listeners(servers, anna):
    first, second = servers
    with ExitStack() as stack:
        idle = [stack.enter_context(HttpDevice(first.port, anna)) for _ in range(IDLE_LISTENERS)]
        assert {device.clock() for device in idle} == {0}
        assert first.listeners() == IDLE_LISTENERS
        for clock in range(1, 11):
            assert first.push(f"not {anna}") == clock
        assert {device.next() for device in idle} == {None}
        assert second.push(anna) == 1
        assert {device.clock() for device in idle} == {1}
    eventually(lambda: first.listeners() == 0)


def test_devices_that_do_not_read_or_vanish_harm_nobody(servers, anna):
    first, second = servers
    with ExitStack() as stack:
        slow = [stack.enter_context(HttpDevice(first.port, anna)) for _ in range(10)]
        gone = [HttpDevice(first.port, anna) for _ in range(10)]
        device = stack.enter_context(HttpDevice(first.port, anna))
        assert device.clock() == 0
        for one in gone:
            one.vanish()
        for clock in range(1, 31):
            assert second.push(anna) == clock
        while device.clock() != 30:
            pass
        eventually(lambda: first.listeners() == 11)
        for one in slow:
            while one.clock() != 30:
                pass
    eventually(lambda: first.listeners() == 0)
    assert "Traceback" not in first.log()


def test_a_server_that_is_told_to_stop_ends_its_streams_and_stops(mortal_servers, anna):
    first, _ = mortal_servers
    with HttpDevice(first.port, anna) as device:
        assert device.clock() == 0
        first.stop()
        assert device.rest().replace(b":\n\n", b"") == b""
    assert "Traceback" not in first.log()
    assert "Application shutdown complete" in first.log()


@pytest.mark.parametrize("kind", KINDS)
def test_a_broker_under_gevent_leaves_no_event_loop_to_the_other_greenlets(kind, tmp_path, anna):
    log = tmp_path / "gunicorn.log"
    with (
        open_broker(kind) as broker,
        Server(broker, None, log, HEARTBEAT_S, DJANGO_ON_GEVENT) as server,
        HttpDevice(server.port, anna) as device,
    ):
        assert device.clock() == 0
        broker.await_subscribers(1)
        assert server.push(anna) == 1
        assert device.clock() == 1
        assert server.ask("GET", "/query") == 1
        assert server.ask("GET", "/async") == "waited"
        elsewhere = broker.live()
        elsewhere.announce(report(anna, 2))
        assert device.clock() == 2
        broker.end_connections()
        broker.await_subscribers(2)
        elsewhere.announce(report(anna, 3))
        while device.clock() != 3:
            pass
        assert server.ask("GET", "/query") == 1
        server.stop()
    assert "Traceback" not in server.log()
