"""Small syncs by drivers that are awaited: few statements at once, and the same in the end."""

from __future__ import annotations

import asyncio
from typing import Any

import async_databases
import pytest
import test_sqlalchemy_direct
from async_databases import Opened
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from task_list import diff
from test_async import TASKS, run, server_on
from test_sqlalchemy_direct import EXPECTED, NASTY, SHOWN, SHOWN_TRIES

from mobync import InvalidDiffError, Mobync
from mobync.sqlalchemy import AsyncSQLAlchemySynchronizer

opened = async_databases.opened
talks = test_sqlalchemy_direct.talks


async def column(engine: AsyncEngine, statement: str) -> list[Any]:
    async with engine.connect() as connection:
        return list((await connection.execute(text(statement))).scalars())


def test_texts_that_look_like_sql_arrive_to_the_letter(opened: Opened, talks: list[bool]) -> None:
    async def story(engine: AsyncEngine) -> None:
        server, owner = server_on(engine), "it's \\ % %s $1"
        clock = (await server.apply_async(0, [diff("create", id="a")], owner))["logical_clock"]
        talks.clear()
        for name in [*NASTY, "$1", "%", None]:
            edit = diff("update", id="a", name=name, rank=-5, done=True)
            clock = (await server.apply_async(clock, [edit], owner))["logical_clock"]
            assert await column(engine, "SELECT name FROM tasks") == [name]
            got = await server.apply_async(clock - 1, [], owner)
            assert [each["json_data"] for each in got["diffs"]] == [edit["json_data"]]
        assert talks.count(True) == len(NASTY) + 3
        assert await column(engine, "SELECT rank FROM tasks") == [-5]

    run(story, opened)
    if opened.driver == "asyncpg":
        path = str(opened.database.url.query["options"]).removeprefix("-csearch_path=")
        settings = {"search_path": path, "standard_conforming_strings": "off"}
        with opened.database.engine.begin() as connection:
            connection.execute(text("TRUNCATE tasks, diffs, diffs_heads, diffs_devices"))
        run(story, opened, connect_args={"server_settings": settings})


class Rule(AsyncSQLAlchemySynchronizer):
    """Has its rule write by a connection that is awaited, and fail where it is told to."""

    shown: Any = None
    fails = False

    async def validate_update(self, owner_id: str, **diff: Any) -> bool:  # type: ignore[override]
        connection = self.async_connection
        await connection.execute(text("UPDATE counts SET n = n + 1"))
        shown = text(SHOWN[connection.dialect.name])
        for _ in range(SHOWN_TRIES):
            type(self).shown = await connection.scalar(shown)
            if self.shown is not None:
                break
            await asyncio.sleep(0.2)
        if self.fails:
            raise OSError("no")
        return True


@pytest.mark.parametrize("fails", [False, True])
def test_what_an_async_rule_writes_is_kept_with_the_sync_or_not_at_all(
    opened: Opened, talks: list[bool], monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    async def story(engine: AsyncEngine) -> None:
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE counts (n INTEGER)"))
            await connection.execute(text("INSERT INTO counts VALUES (0)"))
        server = Mobync(Rule(engine, {"tasks": TASKS}, lock_timeout_s=3))
        await server.apply_async(0, [diff("create", id="a", name="milk")], "bob")
        monkeypatch.setattr(Rule, "fails", fails)
        try:
            await server.apply_async(1, [diff("update", id="a", name="rye")], "bob")
        except OSError:
            assert fails
        assert talks[-1:] == [True]
        assert Rule.shown == EXPECTED[opened.kind]
        assert await column(engine, "SELECT n FROM counts") == [not fails]
        assert await column(engine, "SELECT name FROM tasks") == ["milk" if fails else "rye"]

    run(story, opened, pool_size=1, max_overflow=0)


def test_what_the_database_refuses_is_told_of_its_diff(opened: Opened, talks: list[bool]) -> None:
    async def story(engine: AsyncEngine) -> None:
        server = server_on(engine)
        await server.apply_async(0, [diff("create", id="a")], "bob")
        await server.apply_async(0, [diff("create", id="b")], "tom")
        talks.clear()
        sent = [diff("create", id=id_) for id_ in "cbd"]
        with pytest.raises(InvalidDiffError) as refusal:
            await server.apply_async(1, sent, "bob")
        assert refusal.value.index == 1
        assert talks == [True]
        assert sorted(await column(engine, "SELECT id FROM tasks")) == ["a", "b"]

    run(story, opened)


def test_a_sync_that_waited_for_the_lock_reads_what_the_other_wrote(opened: Opened) -> None:
    """Two servers, as in two processes: they share no lock but that of the database."""

    async def story(engine: AsyncEngine) -> None:
        count = 12
        await server_on(engine).apply_async(0, [diff("create", id="a")], "bob")

        async def push(number: int) -> None:
            server = server_on(engine, lock_timeout_s=60)
            clock = 1
            for turn in range(3):
                edit = diff("update", id="a", name=f"{number} {turn}")
                clock = (await server.apply_async(clock, [edit], "bob"))["logical_clock"]

        await asyncio.gather(*(push(number) for number in range(count)))
        clocks = await column(engine, "SELECT logical_clock FROM diffs ORDER BY 1")
        assert clocks == [*range(1 + 3 * count)]

    run(story, opened, pool_timeout=60)
