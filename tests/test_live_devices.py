"""Streams of named devices: ended by whoever revokes one, in whichever process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import async_databases
import http_servers
import pytest
from async_databases import Opened
from click.testing import CliRunner
from databases import KINDS, Database, open_database
from live_updates.brokers import KINDS as BROKERS
from live_updates.brokers import live_on, open_broker
from live_updates.devices import PATIENCE_S, eventually
from sqlalchemy import MetaData
from task_list import TaskList, diff, task_table

from mobync import DeviceRevokedError, Mobync
from mobync.client import Device
from mobync.http import Endpoint
from mobync.http.asgi import SyncApp
from mobync.live import InProcessLive, Live
from mobync.memory import MemorySynchronizer
from mobync.server.commands import main
from mobync.server.database import make_tables
from mobync.sqlalchemy import (
    AsyncSQLAlchemySynchronizer,
    DocumentSynchronizer,
    create_tables,
    create_triggers,
)

opened = async_databases.opened
OWNER = "anna"
NEVER_S = 3600.0  # an announcement comes before


@dataclass
class Server:
    """A process of the app, as far as its devices can tell."""

    mobync: Mobync
    address: tuple[str, int]

    @property
    def url(self) -> str:
        return f"http://{self.address[0]}:{self.address[1]}/sync"

    def sync(self, device: str, *diffs: Any) -> None:
        self.mobync.apply(0, list(diffs), OWNER, device=device, request=1)

    @contextmanager
    def asked(self, query: str) -> Iterator[HTTPResponse]:
        connection = HTTPConnection(*self.address, timeout=PATIENCE_S)
        connection.request("GET", f"/sync/events{query}", headers={"Authorization": "Bearer x"})
        response = connection.getresponse()
        try:
            yield response
        finally:
            response.close()
            connection.close()


@contextmanager
def served(store: Any, live: Live, **options: Any) -> Iterator[Server]:
    mobync = Mobync(store, **options)
    mobync.listen(live.announce)
    endpoint = Endpoint(mobync, lambda token, headers: OWNER, live=live)
    with http_servers.on_uvicorn(SyncApp(endpoint)) as address:
        try:
            yield Server(mobync, address)
        finally:
            live.close()


def next_clock(stream: HTTPResponse) -> int:
    while True:
        line = stream.readline()
        assert line, "the stream has ended"
        if line.startswith(b"data: "):
            return int(line[6:])


def ends(stream: HTTPResponse) -> bool:
    """Read a stream to its end."""
    while stream.readline():
        pass
    return True


def code_of(response: HTTPResponse) -> tuple[int, str]:
    return response.status, json.loads(response.read())["code"]


@pytest.fixture(params=["one process", *BROKERS])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Server, Server]]:
    """Two processes that share a broker and a database; or one, twice."""
    kind = "postgresql" if request.param == "postgresql" else "sqlite"
    with ExitStack() as stack:
        database = stack.enter_context(open_database(kind, tmp_path))
        store = DocumentSynchronizer(database.engine)
        create_tables(database.engine, store.metadata)
        if request.param == "one process":
            one = stack.enter_context(served(store, InProcessLive(recheck_s=NEVER_S)))
            yield one, one
            return
        broker = stack.enter_context(open_broker(request.param))
        yield (
            stack.enter_context(served(store, broker.live())),
            stack.enter_context(served(DocumentSynchronizer(database.engine), broker.live())),
        )


def test_a_revoked_device_loses_its_stream_at_once_and_no_other_does(both):
    here, there = both
    for name in ("phone", "tablet"):
        here.sync(name)
    with there.asked("?device=phone") as phone, there.asked("?device=tablet") as tablet:
        assert next_clock(phone) == next_clock(tablet) == 0
        here.mobync.revoke_device(OWNER, "phone")
        assert ends(phone)
        here.mobync.push(OWNER, [("create", "tasks", {"id": "a"})])
        assert next_clock(tablet) == 1
        for server in both:
            with server.asked("?device=phone") as refused:
                assert code_of(refused) == (403, "device_revoked")


def test_who_is_erased_loses_all_streams_of_devices(both):
    here, there = both
    here.sync("phone", diff("create", id="a"))
    here.sync("tablet")
    with there.asked("?device=phone") as phone, there.asked("?device=tablet") as tablet:
        assert next_clock(phone) == next_clock(tablet) == 1
        here.mobync.erase(OWNER)
        assert ends(phone)
        assert ends(tablet)


def test_a_client_that_listens_drops_its_rows(both, tmp_path):
    here, there = both
    here.mobync.push(OWNER, [("create", "tasks", {"id": "a"})])
    with Device(tmp_path / "phone.db", there.url, "token") as phone:
        live = phone.live()
        eventually(lambda: phone.rows("tasks"))
        here.mobync.revoke_device(OWNER, phone.name)
        eventually(lambda: live.error is not None)
        assert type(live.error).__name__ == "DeviceRevokedError"
        assert phone.rows("tasks") == []
        with pytest.raises(type(live.error)):
            live.close()


@pytest.fixture(params=["memory", *KINDS])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "memory":
        yield MemorySynchronizer()
        return
    with open_database(request.param, tmp_path) as opened:
        made = DocumentSynchronizer(opened.engine)
        create_tables(opened.engine, made.metadata)
        yield made


def test_a_stream_knows_what_is_kept_of_its_device(store):
    with served(store, InProcessLive(recheck_s=NEVER_S)) as server:
        with server.asked("?device=phone") as unknown:  # it has not synced yet
            assert next_clock(unknown) == 0
            server.sync("phone", diff("create", id="a"))
            assert next_clock(unknown) == 1
            server.mobync.revoke_device(OWNER, "phone")
            assert ends(unknown)
        with server.asked("?device=phone") as refused:
            assert code_of(refused) == (403, "device_revoked")
        server.mobync.forget_device(OWNER, "phone")
        with server.asked("?device=phone") as forgotten:
            assert next_clock(forgotten) == 1


def test_a_revocation_that_nobody_tells_of_is_seen_when_the_clock_is_read_again(store):
    with served(store, InProcessLive(recheck_s=0.05)) as server:
        server.sync("phone")
        with server.asked("?device=phone") as phone:
            assert next_clock(phone) == 0
            Mobync(store).revoke_device(OWNER, "phone")
            assert ends(phone)


def test_where_devices_must_name_themselves_streams_must_too():
    live = InProcessLive()
    with served(MemorySynchronizer(), live, anonymous_devices=False) as server:
        with server.asked("") as nameless:
            assert code_of(nameless) == (400, "invalid_request")
        with server.asked("?device=phone") as phone:
            assert next_clock(phone) == 0


@pytest.mark.parametrize("kind", BROKERS)
def test_who_revokes_at_the_command_line_ends_streams_too(kind, tmp_path):
    on = "postgresql" if kind == "postgresql" else "sqlite"
    with open_broker(kind) as broker, open_database(on, tmp_path) as database:
        store = DocumentSynchronizer(database.engine)
        make_tables(store, database.engine)
        of_database = database.url.render_as_string(hide_password=False)
        url = of_database if kind == "postgresql" else broker.url
        live = live_on(kind, url, "mobync", recheck_s=NEVER_S)
        with served(store, live) as server:
            server.sync("phone")
            with server.asked("?device=phone") as phone:
                assert next_clock(phone) == 0
                events = ["--events", "auto" if kind == "postgresql" else url]
                said = ["devices", "revoke", "--database", of_database, *events, OWNER, "phone"]
                done = CliRunner().invoke(main, said)
                assert done.exit_code == 0, done.output
                assert ends(phone)
            with pytest.raises(DeviceRevokedError):
                server.sync("phone")


def capturing(database: Database) -> tuple[Any, Callable[[str], None]]:
    """A store with triggers, and what makes a row by SQL."""
    tasks = TaskList(database)
    store = tasks.another_store(database.engine, capture=True)
    create_tables(database.engine, tasks.metadata)
    create_triggers(database.engine, store)

    def insert(id_: str) -> None:
        with database.engine.begin() as connection:
            connection.execute(tasks.tasks.insert().values(owner=OWNER, id=id_))

    return store, insert


@pytest.mark.parametrize("query", ["", "?device=phone"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_hears_of_edits_by_sql_though_nobody_syncs(
    kind: str, query: str, tmp_path: Path
) -> None:
    with open_database(kind, tmp_path) as database:
        store, insert = capturing(database)
        live = InProcessLive(recheck_s=0.1)
        with served(store, live) as server, server.asked(query) as stream:
            assert next_clock(stream) == 0
            for clock, id_ in enumerate("ab", 1):
                insert(id_)
                assert next_clock(stream) == clock


def test_a_stream_does_not_wait_for_a_sync_to_add_edits_by_sql(tmp_path: Path) -> None:
    """Many streams of an owner would take all threads of the server."""
    with ExitStack() as stack:
        database = stack.enter_context(open_database("sqlite", tmp_path))
        store, insert = capturing(database)
        insert("a")
        live = InProcessLive(recheck_s=0.1)
        server = stack.enter_context(served(store, live, lock_timeout_s=NEVER_S))
        with server.mobync._locks.hold(OWNER, 0):  # as a sync does
            stream = stack.enter_context(server.asked(""))
            assert next_clock(stream) == 0
        assert next_clock(stream) == 1


def test_a_stream_of_an_async_store_hears_of_edits_by_sql(opened: Opened) -> None:
    _, insert = capturing(opened.database)

    async def story() -> None:
        engine = opened.new_engine()
        models = {"tasks": task_table(MetaData())}
        mobync = Mobync(AsyncSQLAlchemySynchronizer(engine, models, capture=True))
        live = InProcessLive(recheck_s=0.1)
        endpoint = Endpoint(mobync, lambda token, headers: OWNER, live=live)
        stream: Any = await endpoint.waiting.run(endpoint.events, {})
        clocks = (int(chunk.split()[-1]) async for chunk in stream.body if b"data: " in chunk)
        assert await anext(clocks) == 0
        await asyncio.to_thread(insert, "a")
        assert await anext(clocks) == 1
        await stream.body.aclose()
        live.close()
        await engine.dispose()

    asyncio.run(story())
