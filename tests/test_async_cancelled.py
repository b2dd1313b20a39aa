"""What is cancelled at any await while more is done than a plain sync: notes, parts, a move."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import async_databases
import pytest
from async_databases import Opened
from sqlalchemy import MetaData, delete, update
from sqlalchemy.ext.asyncio import AsyncEngine
from task_list import diff, task_table
from test_async import CancelledAt

from mobync import Mobync
from mobync.sqlalchemy import (
    AsyncSQLAlchemySynchronizer,
    create_tables_async,
    create_triggers_async,
)

opened = async_databases.opened
PATIENCE_S = 600  # a loaded machine may let a task wait for very long
PHONE: dict[str, Any] = {"device": "phone", "request": 1}


class Place:
    """A server with one connection, on which work is cancelled, and one that looks on."""

    def __init__(self, engine: AsyncEngine, other: AsyncEngine) -> None:
        self.other = other
        self.metadata = MetaData()
        self.tasks = task_table(self.metadata)
        self.server, self.onlooker = self._server_on(engine), self._server_on(other)

    @classmethod
    async def made(cls, engine: AsyncEngine, other: AsyncEngine) -> Place:
        """One whose tables and triggers are made."""
        place = cls(engine, other)
        await create_tables_async(other, place.metadata)
        store: Any = place.onlooker.synchronizer
        await create_triggers_async(other, store)
        return place

    def _server_on(self, engine: AsyncEngine) -> Mobync:
        patient: dict[str, Any] = {"lock_timeout_s": PATIENCE_S}
        models = {"tasks": self.tasks}
        return Mobync(
            AsyncSQLAlchemySynchronizer(engine, models, capture=True, **patient), **patient
        )

    async def by_sql(self, statement: Any) -> None:
        async with self.other.begin() as connection:
            await connection.execute(statement)

    async def begin(self, owner: str) -> None:
        """An owner with a task that SQL has edited."""
        await self.onlooker.push_async(owner, [("create", "tasks", {"id": f"{owner}x"})])
        row = self.tasks.c.id == f"{owner}x"
        await self.by_sql(update(self.tasks).where(row).values(name="by SQL"))

    async def check(self, owner: str, *ids: str) -> None:
        """The rows, the log and what a new device gets are the same, and SQL is noted again."""
        got = await self.onlooker.apply_async(0, [], owner)
        rows = [json.loads(each["json_data"]) for each in got["diffs"]]
        assert {row["id"] for row in rows} == set(ids)
        assert "by SQL" in {row.get("name") for row in rows}
        assert (await self.onlooker.reconcile_async(owner, dry_run=True)).ok
        await self.by_sql(delete(self.tasks).where(self.tasks.c.owner == owner))
        news = await self.server.apply_async(got["logical_clock"], [], owner)
        assert {json.loads(each["json_data"])["id"] for each in news["diffs"]} == set(ids)


def creates(owner: str) -> list[dict[str, Any]]:
    return [diff("create", id=owner + name) | {"id": owner + name} for name in "ac"]


async def sync(server: Mobync, owner: str) -> None:
    await server.apply_async(0, creates(owner), owner, **PHONE)


async def sync_in_parts(server: Mobync, owner: str) -> None:
    first, last = creates(owner)
    await server.apply_async(0, [first], owner, **PHONE, part=1, more_diffs=True)
    await server.apply_async(0, [last], owner, **PHONE, part=2)


async def move(server: Mobync, owner: str) -> None:
    await server.move_owner_async(owner, f"new {owner}")


Work = Callable[[Mobync, str], Awaitable[None]]


@pytest.mark.parametrize(("work", "again"), [(sync, True), (sync_in_parts, False), (move, False)])
def test_what_is_cancelled_at_an_await_can_be_done_again(
    opened: Opened, work: Work, again: bool
) -> None:
    async def cancelled_at(number: int, place: Place) -> bool:
        """Whether it was cancelled at this await; False: there are not so many."""
        owner = f"o{number}"
        await place.begin(owner)
        waiting = CancelledAt(work(place.server, owner), number, again)

        async def wait() -> None:
            await waiting

        with suppress(asyncio.CancelledError):
            await asyncio.create_task(wait())
        assert len(place.server._locks) == 0
        await work(place.server, owner)
        if work is move:
            await place.check(f"new {owner}", f"{owner}x")
        else:
            await place.check(owner, *(owner + name for name in "xac"))
        return waiting.waits >= number

    async def story() -> None:
        other = opened.new_engine()
        engine = opened.new_engine(pool_size=1, max_overflow=0, pool_timeout=PATIENCE_S)
        place = await Place.made(engine, other)
        number = 1
        while await cancelled_at(number, place):
            number += 1
        assert number > 8
        await engine.dispose()
        await other.dispose()

    asyncio.run(story())
