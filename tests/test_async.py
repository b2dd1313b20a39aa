"""mobync.sqlalchemy on engines that are awaited: the same suite, many tasks, and cancellation."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import anyio
import async_databases
import pytest
from async_databases import DRIVERS, Opened
from sqlalchemy import MetaData, create_engine, func, literal, select
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session
from task_list import diff, task_table

from mobync import BusyError, InvalidDiffError, Mobync, UnauthorizedError
from mobync._sync.owner_locks import OwnerLocks
from mobync.memory import MemorySynchronizer
from mobync.sqlalchemy import (
    AsyncDocumentSynchronizer,
    AsyncSQLAlchemySynchronizer,
    DocumentSynchronizer,
    SQLAlchemySynchronizer,
    compact_all,
    create_tables_async,
    create_triggers,
    create_triggers_async,
    diffs_table,
    log_noted,
)
from mobync.sqlalchemy._tasks import IN_A_TASK, awaited

opened = async_databases.opened

TESTS = Path(__file__).parent
PATIENCE_S = 600  # a loaded machine may let a task wait for very long

METADATA = MetaData()
TASKS = task_table(METADATA)
DIFFS = diffs_table(METADATA)


def run(story: Callable[..., Awaitable[None]], opened: Opened, **options: Any) -> None:
    """Tell a story in an event loop, with tables and an engine that it is given."""

    async def told() -> None:
        engine = opened.new_engine(**options)
        try:
            await create_tables_async(engine, METADATA)
            await story(engine)
        finally:
            await engine.dispose()

    asyncio.run(told())


def server_on(
    engine: Any, store: type[Any] = AsyncSQLAlchemySynchronizer, **options: Any
) -> Mobync:
    return Mobync(store(engine, {"tasks": TASKS}, **options))


async def contents(engine: AsyncEngine, owner: str = "bob") -> tuple[list[str], list[str]]:
    """The ids of an owner's rows, and the diffs of their log."""
    rows = select(literal("row"), TASKS.c.id).where(TASKS.c.owner == owner)
    log = select(literal("diff"), DIFFS.c.id).where(DIFFS.c.owner == owner)
    async with engine.connect() as connection:  # one statement sees one moment
        found = (await connection.execute(rows.union_all(log))).all()
    return sorted(id_ for kind, id_ in found if kind == "row"), [
        id_ for kind, id_ in found if kind == "diff"
    ]


# ---- the suite of the stores that block ----------------------------------------------------------

SAMPLE = ("server_edits",)
SHARED = (
    *SAMPLE,
    *("values", "models", "refusals", "foreign_keys", "deferred", "many", "linear", "making"),
    *("plain_log", "pulls", "reconcile", "tables", "owners"),
)


@pytest.mark.parametrize("driver", DRIVERS)
def test_the_suite_of_the_stores_that_block_passes(driver: str) -> None:
    """All of it with MOBYNC_TEST_ALL_ASYNC=1 (`make test-async`)."""
    names = SHARED if os.environ.get("MOBYNC_TEST_ALL_ASYNC") else SAMPLE
    files = [f"tests/test_sqlalchemy_{name}.py" for name in names]
    done = subprocess.run(
        [
            sys.executable,
            "tests/async_databases.py",
            driver,
            "-q",
            "-p",
            "no:cacheprovider",
            *files,
        ],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout.splitlines()[-1]


# ---- syncs ---------------------------------------------------------------------------------------


def test_what_one_device_sends_comes_to_another(opened: Opened) -> None:
    async def story(engine: AsyncEngine) -> None:
        server = server_on(engine)
        sent = await server.apply_async(0, [diff("create", id="a", name="milk")], "bob")
        assert sent["logical_clock"] == 1
        got = await server.apply_async(0, [], "bob")
        assert [each["json_data"] for each in got["diffs"]] == ['{"id": "a", "name": "milk"}']
        assert await server.apply_json_async('{"logical_clock": 1, "diffs": []}', "bob") == (
            b'{"success": true, "message": "", "logical_clock": 1, "diffs": []}'
        )
        with pytest.raises(InvalidDiffError, match="'rank' must be an integer"):
            await server.apply_async(1, [diff("update", id="a", rank="x")], "bob")

    run(story, opened)


def test_each_method_of_a_mobync_is_awaited_by_its_name(opened: Opened) -> None:
    async def story(engine: AsyncEngine) -> None:
        server = server_on(engine)
        assert await server.push_async("bob", [("create", "tasks", {"id": "a"})]) == 1
        assert await server.logical_clock_async("bob") == 1
        assert await server.validate_async(diff("create", id="b"), "bob") is True
        async with engine.begin() as connection:
            await connection.execute(TASKS.insert().values(id="c", owner="bob"))
        assert (await server.reconcile_async("bob")).created == 1
        assert await server.adopt_async("bob", "tasks") == 0
        assert await server.devices_async("bob") == []
        assert (await server.compact_async("bob")).rows_before == 2

    run(story, opened)


def test_documents_are_awaited_too(opened: Opened) -> None:
    async def story() -> None:
        engine = opened.new_engine()
        store = AsyncDocumentSynchronizer(engine)
        await create_tables_async(engine, store.metadata)
        server = Mobync(store)
        await server.apply_async(0, [diff("create", "notes", id="a", any=[1])], "bob")
        got = await server.apply_async(0, [], "bob")
        assert got["diffs"][0]["json_data"] == '{"id": "a", "any": [1]}'
        await engine.dispose()

    asyncio.run(story())


def test_two_hundred_tasks_of_twenty_owners(opened: Opened) -> None:
    owners = [f"owner{n}" for n in range(20)]

    async def story(engine: AsyncEngine) -> None:
        store = AsyncSQLAlchemySynchronizer(engine, {"tasks": TASKS}, lock_timeout_s=PATIENCE_S)
        server = Mobync(store, lock_timeout_s=PATIENCE_S)
        await asyncio.gather(
            *(
                server.apply_async(0, [diff("create", id=f"{owner}-{n}")], owner)
                for n in range(10)
                for owner in owners
            )
        )
        for owner in owners:
            reply = await server.apply_async(0, [], owner)
            assert reply["logical_clock"] == 10
            assert [each["logical_clock"] for each in reply["diffs"]] == [*range(10)]
            assert len((await contents(engine, owner))[0]) == 10
        assert len(server._locks) == 0

    run(story, opened, pool_timeout=PATIENCE_S)


def test_a_task_that_waits_for_its_owner_lets_others_go_on(opened: Opened) -> None:
    async def story(engine: AsyncEngine) -> None:
        holds, over = asyncio.Event(), asyncio.Event()

        class Slow(AsyncSQLAlchemySynchronizer):
            async def validate_create(self, owner_id: str, **sent: Any) -> bool:
                holds.set()
                await over.wait()
                return True

        server = Mobync(Slow(engine, {"tasks": TASKS}), lock_timeout_s=0.2)
        await server.apply_async(0, [], "bob")  # the first request of a device is noted
        slow = asyncio.create_task(server.apply_async(0, [diff("create", id="a")], "bob"))
        await holds.wait()
        with pytest.raises(BusyError, match="another sync of this owner took longer"):
            await server.apply_async(0, [diff("create", id="b")], "bob")
        assert (await server.apply_async(0, [], "bob"))["diffs"] == []  # a poll waits for nobody
        over.set()
        assert (await slow)["logical_clock"] == 1

    run(story, opened)


# ---- rules ---------------------------------------------------------------------------------------


class Ruled(AsyncSQLAlchemySynchronizer):
    """A bob has two tasks at the most, and never one called ``secret``."""

    async def validate_create(self, owner_id: str, **sent: Any) -> bool:
        counted = await self.async_connection.scalar(select(func.count()).select_from(TASKS))
        assert counted == len(await self.read_async("tasks"))
        return counted < 2

    def validate_update(self, owner_id: str, **sent: Any) -> Any:
        return len(self.read("tasks")) < 2

    async def validate_delete(self, owner_id: str, **sent: Any) -> bool:
        raise InvalidDiffError("tasks stay")


def test_rules_are_awaited_in_the_transaction(opened: Opened) -> None:
    async def story(engine: AsyncEngine) -> None:
        server = server_on(engine, Ruled)
        await server.apply_async(0, [diff("create", id="a")], "bob")
        await server.apply_async(1, [diff("update", id="a", rank=1)], "bob")
        await server.apply_async(2, [diff("create", id="b")], "bob")
        with pytest.raises(UnauthorizedError, match="validate_create refused it"):
            await server.apply_async(3, [diff("create", id="c")], "bob")
        with pytest.raises(UnauthorizedError, match="validate_update refused it"):
            await server.apply_async(3, [diff("update", id="a", rank=2)], "bob")
        with pytest.raises(InvalidDiffError, match="tasks stay"):
            await server.apply_async(3, [diff("delete", id="a")], "bob")
        assert (await contents(engine))[0] == ["a", "b"]

    run(story, opened)


def test_a_sync_of_the_same_owner_in_a_rule_is_refused_at_once(opened: Opened) -> None:
    async def story(engine: AsyncEngine) -> None:
        class Nested(AsyncSQLAlchemySynchronizer):
            async def validate_create(self, owner_id: str, **sent: Any) -> bool:
                await server.push_async(owner_id, [("create", "tasks", {"id": "b"})])
                return True

        server = server_on(engine, Nested)
        with pytest.raises(RuntimeError, match="further up this call stack"):
            await server.apply_async(0, [diff("create", id="a")], "bob")
        assert await contents(engine) == ([], [])

    run(story, opened)


def test_an_async_rule_that_reads_as_a_plain_one_does_is_told_how(opened: Opened) -> None:
    async def story(engine: AsyncEngine) -> None:
        class Blocking(AsyncSQLAlchemySynchronizer):
            async def validate_create(self, owner_id: str, **sent: Any) -> bool:
                return not self.read("tasks")

        with pytest.raises(TypeError, match=r"self\.read_async\(\)"):
            await server_on(engine, Blocking).apply_async(0, [diff("create", id="a")], "bob")
        assert await contents(engine) == ([], [])

    run(story, opened)


@pytest.mark.parametrize("call", ["apply", "push", "logical_clock", "poll"])
def test_what_is_not_awaited_is_told_how(tmp_path: Path, call: str) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    server = server_on(create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/a.db"))
    calls: dict[str, Callable[[], object]] = {
        "apply": lambda: server.apply(0, [diff("create", id="a")], "bob"),
        "push": lambda: server.push("bob", []),
        "logical_clock": lambda: server.logical_clock("bob"),
        "poll": lambda: server.apply(0, [], "bob"),
    }
    with pytest.raises(TypeError, match=r"await the method .* mobync\.apply_async\(\)"):
        calls[call]()


# ---- what blocks, and what does not --------------------------------------------------------------


def test_a_store_that_blocks_is_awaited_in_a_thread() -> None:
    server = Mobync(MemorySynchronizer())

    async def story() -> None:
        await server.apply_async(0, [diff("create", id="a")], "bob")
        assert (await server.apply_async(0, [], "bob"))["logical_clock"] == 1

    asyncio.run(story())


@pytest.mark.parametrize("store", [SQLAlchemySynchronizer, DocumentSynchronizer])
def test_a_store_that_blocks_names_the_one_for_an_engine_that_is_awaited(store: Any) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine("sqlite+aiosqlite://")
    models = [] if store is DocumentSynchronizer else [{"tasks": TASKS}]
    for given in (engine, AsyncSession(engine), engine.sync_engine):
        with pytest.raises(TypeError, match="AsyncSQLAlchemySynchronizer"):
            store(given, *models)


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        (create_engine("sqlite://"), "Engine: SQLAlchemySynchronizer takes it"),
        (Session(), "Session: SQLAlchemySynchronizer takes it"),
        (async_sessionmaker(), "give its AsyncEngine"),
        ("sqlite+aiosqlite://", "must be an AsyncEngine"),
    ],
)
def test_what_is_no_engine_that_is_awaited_is_refused(given: Any, advice: str) -> None:
    with pytest.raises(TypeError, match=advice):
        AsyncSQLAlchemySynchronizer(given, {"tasks": TASKS})


def test_a_plain_mobync_still_refuses_rules_that_are_async() -> None:
    class Store(MemorySynchronizer):
        async def validate_create(self, owner_id: str, **sent: Any) -> bool:  # type: ignore[override]
            return True

    with pytest.raises(TypeError, match="validate_create must be a plain function"):
        Mobync(Store())


# ---- the app's session ---------------------------------------------------------------------------


def test_what_the_app_has_pending_goes_with_the_sync_or_not_at_all(opened: Opened) -> None:
    async def story(engine: AsyncEngine) -> None:
        async with AsyncSession(engine) as session:
            server = server_on(session)
            await session.execute(TASKS.insert().values(id="own", owner="bob"))
            await server.apply_async(0, [diff("create", id="a")], "bob")
            assert (await contents(engine))[0] == ["a", "own"]

            await session.execute(TASKS.insert().values(id="own2", owner="bob"))
            with pytest.raises(InvalidDiffError):
                await server.apply_async(1, [diff("create", id="b", rank="x")], "bob")
            assert (await contents(engine))[0] == ["a", "own"]

    run(story, opened)


def test_a_scoped_session_gives_each_task_its_own(opened: Opened) -> None:
    async def story(engine: AsyncEngine) -> None:
        sessions = async_scoped_session(async_sessionmaker(engine), asyncio.current_task)
        server = server_on(sessions)

        async def request(n: int) -> None:
            await server.apply_async(0, [diff("create", id=f"a{n}")], f"owner{n}")
            await sessions.remove()

        await asyncio.gather(*(request(n) for n in range(4)))
        for n in range(4):
            assert (await contents(engine, f"owner{n}"))[0] == [f"a{n}"]

    run(story, opened)


def test_code_that_blocks_need_not_wait_until_a_task_is_free() -> None:
    """Such as a session that is tracked, and commits while a task syncs."""
    locks = OwnerLocks()
    done: list[str] = []

    async def story() -> None:
        held, over = asyncio.Event(), asyncio.Event()

        def sync() -> None:
            with locks.hold("anna", 0, IN_A_TASK):
                held.set()
                awaited(over.wait())
                locks.when_free(lambda: done.append("late"), IN_A_TASK)
                assert done == ["now"]

        task = asyncio.create_task(IN_A_TASK.run(sync))
        await held.wait()
        locks.when_free(lambda: done.append("now"), IN_A_TASK)
        over.set()
        await task

    asyncio.run(story())
    assert done == ["now", "late"]


# ---- edits by SQL --------------------------------------------------------------------------------


def test_edits_by_sql_are_captured(opened: Opened) -> None:
    async def story(engine: AsyncEngine) -> None:
        metadata = MetaData()
        tasks = task_table(metadata)
        store = Failing(engine, {"tasks": tasks}, capture=True)
        server = Mobync(store)
        await create_tables_async(engine, metadata)
        with pytest.raises(ValueError, match=r"make them with .*create_triggers"):
            await server.apply_async(0, [], "bob")
        await create_triggers_async(engine, store)
        await server.push_async("bob", [("create", "tasks", {"id": "a"})])
        with pytest.raises(KeyError):  # the connection forgets that mobync has written
            await server.apply_async(1, [diff("update", id="a", rank=3)], "bob")
        async with engine.begin() as connection:
            await connection.execute(tasks.update().values(name="by SQL"))
            await connection.execute(tasks.insert().values(id="e", owner="eve"))
        reply = await server.apply_async(1, [], "bob")
        (edit,) = [json.loads(each["json_data"]) for each in reply["diffs"]]
        assert edit == {"id": "a", "name": "by SQL"}
        assert await server.run_async(lambda: list(log_noted(server))) == [("eve", 1)]

    run(story, opened, pool_size=1, max_overflow=0)


class Failing(AsyncSQLAlchemySynchronizer):
    async def validate_update(self, owner_id: str, **sent: Any) -> bool:
        await asyncio.sleep(0)
        raise KeyError


def test_who_makes_triggers_for_whom(tmp_path: Path) -> None:
    async def story() -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'a.db'}")
        store = AsyncSQLAlchemySynchronizer(engine, {"tasks": task_table(MetaData())}, capture=True)
        with pytest.raises(TypeError, match=r"AsyncEngine.*create_triggers_async"):
            create_triggers(engine, store)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="must be an AsyncEngine, not Engine"):
            await create_triggers_async(engine.sync_engine, store)  # type: ignore[arg-type]
        await engine.dispose()

    asyncio.run(story())


# ---- cancellation --------------------------------------------------------------------------------


class CancelledAt:
    """Awaits something, and cancels the task when it waits for the n-th time; then ever again."""

    def __init__(self, work: Any, place: int, again: bool) -> None:
        self._work = work
        self._place = place
        self._again = again
        self.waits = 0

    def __await__(self) -> Generator[Any, None, Any]:
        steps = self._work.__await__()
        task = asyncio.current_task()
        assert task is not None
        error: BaseException | None = None
        while True:
            try:
                waits_for = steps.send(None) if error is None else steps.throw(error)
            except StopIteration as end:
                return end.value
            self.waits += 1
            if self.waits == self._place or (self._again and self.waits > self._place):
                asyncio.get_running_loop().call_soon(task.cancel)
            try:
                yield waits_for
                error = None
            except BaseException as raised:
                error = raised


@pytest.mark.parametrize("again", [False, True], ids=["once", "again_and_again"])
def test_cancellation_at_every_await_leaves_nothing_half_done_and_no_lock(
    opened: Opened, again: bool
) -> None:
    async def story(engine: AsyncEngine) -> None:
        server = server_on(engine, Ruled)
        other = opened.new_engine()
        onlooker = server_on(other, lock_timeout_s=PATIENCE_S)
        place, ended = 0, False
        while not ended:
            place += 1
            owner = f"bob{place}"
            sent = [diff("create", id=f"a{place}"), diff("create", id=f"c{place}")]
            await server.push_async(owner, [])  # the owner's first sync has more to do
            async with other.begin() as connection:
                await connection.execute(TASKS.delete())
            work = CancelledAt(server.apply_async(0, sent, owner), place, again)

            async def cancelled(work: CancelledAt = work) -> Any:
                return await work

            task = asyncio.create_task(cancelled())
            try:
                await task
                ended = work.waits < place
            except asyncio.CancelledError:
                pass
            assert len(server._locks) == 0
            rows, log = await contents(other, owner)
            assert (len(rows), len(log)) in ((0, 0), (2, 2))
            await onlooker.push_async(owner, [("create", "tasks", {"id": f"b{place}"})])
            again_sent = await server.apply_async(0, [dict(each) for each in sent], owner)
            assert again_sent["logical_clock"] == 3
            rows, log = await contents(other, owner)
            assert rows == [f"{letter}{place}" for letter in "abc"]
            assert len(log) == 3
        assert place > 8
        await other.dispose()

    run(story, opened, pool_size=1, max_overflow=0, pool_timeout=PATIENCE_S)


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_an_assertion_of_a_driver_that_is_cancelled_is_a_cancellation(is_cancelled: bool) -> None:
    async def executemany() -> None:
        """As psycopg does it, if it is cancelled as its pipeline begins."""
        try:
            began.set()
            await asyncio.sleep(0 if not is_cancelled else PATIENCE_S)
        finally:
            raise AssertionError("the level of a pipeline")

    def write() -> None:
        try:
            awaited(executemany())
        except BaseException as error:
            seen.append(type(error))
            raise

    async def story() -> None:
        task = asyncio.create_task(IN_A_TASK.run(write))
        await began.wait()
        if is_cancelled:
            task.cancel("the client is gone")
        await task

    seen: list[type[BaseException]] = []
    began = asyncio.Event()
    expected = asyncio.CancelledError if is_cancelled else AssertionError
    with pytest.raises(expected):
        asyncio.run(story())
    assert seen == [expected]


def test_a_timeout_of_anyio_rolls_back(opened: Opened) -> None:
    async def story(engine: AsyncEngine) -> None:
        class Slow(AsyncSQLAlchemySynchronizer):
            async def validate_update(self, owner_id: str, **sent: Any) -> bool:
                await asyncio.sleep(0.3)
                return True

        server = server_on(engine, Slow)
        await server.apply_async(0, [diff("create", id="a", rank=0)], "bob")
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0.1):
                await server.apply_async(1, [diff("update", id="a", rank=1)], "bob")
        assert len(server._locks) == 0
        assert (await server.push_async("bob", [("create", "tasks", {"id": "b"})])) == 2
        assert (await contents(engine))[0] == ["a", "b"]

    run(story, opened)


# ---- the documentation ---------------------------------------------------------------------------


def test_the_example_of_the_documentation_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    section = (TESTS.parent / "docs" / "databases.md").read_text().split("\n## asyncio\n")[1]
    code = section.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {"Task": TASKS, "metadata": METADATA}
    exec(compile(code, "docs/databases.md: asyncio", "exec"), names)
    asyncio.run(names["main"]())
    assert capsys.readouterr().out.splitlines()[1] == "1"


def test_any_function_that_uses_a_mobync_can_be_awaited(opened: Opened) -> None:
    async def story(engine: AsyncEngine) -> None:
        server = server_on(engine)
        await server.push_async("bob", [("create", "tasks", {"id": "a"})])
        compacted = await server.run_async(lambda: dict(compact_all(server)))
        assert compacted["bob"].rows_after == 1

    run(story, opened)
