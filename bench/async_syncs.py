"""How often a small sync waits for its database where the driver is awaited.

    python bench/async_syncs.py     prints it as JSON, for each driver whose database answers

A push is one update of a device that is up to date, a poll asks and gets nothing.  "named" is that
of a device that names itself.  A proxy counts round trips (bench/wire.py).  Of aiosqlite it is how
often the task waits for the driver's thread.
"""

from __future__ import annotations

import json
import tempfile
from asyncio import AbstractEventLoop as Loop
from asyncio import new_event_loop
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import aiosqlite
import wire
from measuring import Contender
from small_syncs import NamedPushes, Pushes, counted, make_tasks, request
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from task_database import TaskDatabase, answers, open_database

from mobync import Mobync
from mobync.sqlalchemy import AsyncSQLAlchemySynchronizer

DRIVERS = {
    "aiosqlite": "sqlite",
    "asyncpg": "postgresql",
    "psycopg": "postgresql",
    "asyncmy": "mariadb",
}
WARM_UPS = 10  # statements are prepared, and what is written once is written

Counts = dict[str, int]
Count = Callable[[Callable[[], object]], int]


def main() -> None:
    print(json.dumps({each: waits_of(each) for each in DRIVERS if answers(DRIVERS[each])}))


def waits_of(driver: str) -> Counts:
    """How often each small sync waits."""
    with (
        tempfile.TemporaryDirectory() as directory,
        open_database(DRIVERS[driver], Path(directory)) as opened,
    ):
        database = TaskDatabase(opened.url)
        ids = {owner: make_tasks(database, owner) for owner in ("nameless", "named")}
        database.engine.dispose()
        with _tapped(driver, database) as (engine, count), closing(new_event_loop()) as loop:
            mobync = Mobync(AsyncSQLAlchemySynchronizer(engine, {"tasks": database.tasks}))
            try:
                return {
                    **_waits_of_nameless(mobync, ids["nameless"], loop, count),
                    **_waits_of_named(mobync, ids["named"], loop, count),
                }
            finally:
                loop.run_until_complete(engine.dispose())


def _waits_of_nameless(mobync: Mobync, ids: list[str], loop: Loop, count: Count) -> Counts:
    def sync(body: bytes) -> bytes:
        return loop.run_until_complete(mobync.apply_json_async(body, "nameless"))

    def clock() -> int:
        return loop.run_until_complete(mobync.logical_clock_async("nameless"))

    push = counted(Pushes(sync, "nameless", ids, clock()), count, WARM_UPS)
    body = request("nameless", clock(), [])
    return {"push": push, "poll": counted(Contender(lambda: sync(body)), count, WARM_UPS)}


def _waits_of_named(mobync: Mobync, ids: list[str], loop: Loop, count: Count) -> Counts:
    def sync(body: bytes) -> bytes:
        return loop.run_until_complete(mobync.apply_json_async(body, "named"))

    clock = loop.run_until_complete(mobync.logical_clock_async("named"))
    pushes = NamedPushes(sync, "named", ids, clock)
    push = counted(pushes, count, WARM_UPS)
    poll = counted(Contender(lambda: sync(pushes.body([]))), count, WARM_UPS)
    return {"named push": push, "named poll": poll}


@contextmanager
def _tapped(driver: str, database: TaskDatabase) -> Iterator[tuple[AsyncEngine, Count]]:
    """An engine, and what counts how often it waits."""
    kind, url = DRIVERS[driver], database.engine.url
    if kind == "sqlite":
        yield create_async_engine(url.set(drivername="sqlite+aiosqlite")), _thread_waits
        return
    with closing(wire.Proxy(kind, url)) as proxy:
        tapped = proxy.url.set(drivername=f"{kind}+{driver}")
        options: dict[str, Any] = {}
        if driver == "asyncpg":
            path = str(url.query["options"]).removeprefix("-csearch_path=")
            options = {"ssl": False, "server_settings": {"search_path": path}}
        if driver != "psycopg":
            tapped = tapped.set(query={})
        engine = create_async_engine(tapped, connect_args=options)
        yield engine, lambda work: proxy.count(work).round_trips


def _thread_waits(work: Callable[[], object]) -> int:
    """How often a piece of work waits for aiosqlite's thread."""
    execute, waits = aiosqlite.Connection._execute, 0

    async def counted(connection: Any, *arguments: Any, **named: Any) -> Any:
        nonlocal waits
        waits += 1
        return await execute(connection, *arguments, **named)

    aiosqlite.Connection._execute = counted  # type: ignore[method-assign]
    try:
        work()
    finally:
        aiosqlite.Connection._execute = execute  # type: ignore[method-assign]
    return waits


if __name__ == "__main__":
    main()
