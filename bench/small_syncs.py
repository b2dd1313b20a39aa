"""What nearly every sync in the field is: one edit, or none.  Beside the statements by hand."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import Any, TypeVar

import wire
from by_hand import ByHand, open_driver
from measuring import Contender, race
from sqlalchemy import insert, text
from sqlalchemy.engine import URL
from tables import Table, percent
from task_database import KINDS, TaskDatabase, answering, open_tasks, task_row
from workload import Diff, task_creates, task_updates

from mobync import Mobync
from mobync.memory import MemorySynchronizer
from mobync.sqlalchemy import DocumentSynchronizer, create_tables

ROUNDS = 5
BUDGET_S, BUDGET_QUICK_S = 5, 0.2  # for a contest
WARM_UPS = 60  # a statement is prepared when it comes often
TASKS = 100
PUSHERS = ("mobync", "by hand", "by hand, pooled")
HEAD = text("SELECT logical_clock FROM diffs_heads WHERE owner = :owner")

Sync = Callable[[bytes], bytes]
T = TypeVar("T")


def measure(quick: bool) -> list[Table]:
    table = Table(
        "small_syncs",
        "Small syncs: one edit, or none, beside the same statements by hand",
        ["database", "work", "how", "µs", "spread", "mobync / this", "statements", "round trips"],
        notes=[
            "The median processor time of this process. The time of the database is not included.",
            "Push: a device that is up to date sends an update of one field of a task. "
            "Request and reply are JSON. By hand: the same statements as text, with the driver "
            "alone and one commit, without a merge or a check (bench/by_hand.py). Pooled: the "
            "same, but it takes a connection from SQLAlchemy's pool and gives it back, as mobync "
            "does. In memory: mobync on a MemorySynchronizer, without SQL and without converting "
            "values.",
            "Pull: the device sends nothing, and lacks one diff of another device.",
            "Poll: the device sends nothing, and there is nothing new. SELECT of the clock: one "
            "SELECT of the owner's highest clock, as text, with a connection from SQLAlchemy's "
            "pool.",
            "A proxy between client and server counts statements and round trips, including "
            "begin and commit (bench/wire.py). On SQLite, sqlite3 reports the statements.",
        ],
    )
    for kind in answering(KINDS, table.notes):
        with open_tasks(kind) as database:
            _fill(table, kind, database, BUDGET_QUICK_S if quick else BUDGET_S)
    return [table]


def _fill(table: Table, kind: str, database: TaskDatabase, budget_s: float) -> None:
    ids = make_all_tasks(database)
    traffic = traffic_of(kind, database, ids)
    with _contests(kind, database, ids) as contests:
        if kind == "sqlite":
            contests["push one update"]["mobync, in memory"] = _pushes_to(
                Mobync(MemorySynchronizer()), "memory"
            )
        for work, contenders in contests.items():
            times = race(contenders, budget_s, least=ROUNDS)
            for how, taken in times.items():
                sent = traffic.get((work, how))
                table.add(
                    kind,
                    work,
                    how,
                    taken.median * 1e6,
                    percent(taken.spread),
                    times["mobync"].median / taken.median,
                    sent and sent.statements,
                    sent and (None if kind == "sqlite" else sent.round_trips),
                )


def make_all_tasks(database: TaskDatabase) -> dict[str, list[str]]:
    """Make the tasks of each who syncs; returns their ids."""
    return {how: make_tasks(database, how) for how in (*PUSHERS, "poller")}


def traffic_of(
    kind: str, database: TaskDatabase, ids: dict[str, list[str]]
) -> dict[tuple[str, str], wire.Traffic]:
    """What each sends, over connections that have prepared whatever they will."""
    with (
        _tapped(kind, database.engine.url) as (tapped, count),
        _contests(kind, tapped, ids) as contests,
    ):
        return {
            (work, how): counted(contender, count)
            for work, contenders in contests.items()
            for how, contender in contenders.items()
        }


def traffic_of_named(kind: str, database: TaskDatabase) -> dict[str, wire.Traffic]:
    """What a device sends that names itself: of a push, and of a poll after it."""
    ids = make_tasks(database, "named")
    with _tapped(kind, database.engine.url) as (tapped, count):
        sync = partial(tapped.mobync.apply_json, owner_id="named")
        pushes = NamedPushes(sync, "named", ids, tapped.mobync.logical_clock("named"))
        push = counted(pushes, count)
        poll = counted(Contender(lambda: sync(pushes.body([]))), count)
    return {"push": push, "poll": poll}


def traffic_of_documents(kind: str, database: TaskDatabase) -> wire.Traffic:
    """What a device sends that pushes an update of a document."""
    with _tapped(kind, database.engine.url) as (tapped, count):
        store = DocumentSynchronizer(tapped.engine)
        create_tables(tapped.engine, store.metadata)
        return counted(_pushes_to(Mobync(store), "documents"), count)


def counted(contender: Contender, count: Callable[..., T], warm_ups: int = WARM_UPS) -> T:
    """What a count says of one run, after some that do not count."""
    for _ in range(warm_ups):
        run_once(contender)
    contender.before()
    found = count(contender.run)
    contender.after()
    return found


@contextmanager
def _tapped(kind: str, url: URL) -> Iterator[tuple[TaskDatabase, Callable[..., wire.Traffic]]]:
    """The database over connections of its own, and what counts what they send."""
    with ExitStack() as opened:
        proxy = None if kind == "sqlite" else opened.enter_context(closing(wire.Proxy(kind, url)))
        tapped = TaskDatabase(proxy.url if proxy else url)
        opened.callback(tapped.engine.dispose)
        yield tapped, (proxy or wire.SQLiteTrace(tapped.engine)).count


def make_tasks(database: TaskDatabase, owner: str, count: int = TASKS) -> list[str]:
    """Make an owner's head and tasks, none of them in the log; returns their ids."""
    rows = [task_row(create, owner) for create in task_creates(random.Random(owner), count)]
    with database.engine.begin() as connection:
        connection.execute(insert(database.tasks), rows)
        connection.execute(insert(database.heads), {"owner": owner, "logical_clock": -1})
    return [row["id"] for row in rows]


class Pushes(Contender):
    """A device that is up to date pushes one update after the other, or some at once, as JSON."""

    def __init__(self, sync: Sync, owner: str, ids: list[str], clock: int, batch: int = 1) -> None:
        rng = random.Random(f"{owner} {clock}")
        body = reply = b""

        def before() -> None:
            nonlocal body
            body = request(owner, clock, task_updates(rng, ids, batch, owner))

        def run() -> None:
            nonlocal reply
            reply = sync(body)

        def after() -> None:
            nonlocal clock
            clock = json.loads(reply)["logical_clock"]

        super().__init__(run, before, after)


class NamedPushes(Contender):
    """What Pushes does, by a device that names itself."""

    def __init__(self, sync: Sync, owner: str, ids: list[str], clock: int) -> None:
        rng = random.Random(f"{owner} {clock}")
        self._said: dict[str, Any] = {"device": "phone", "request": 1, "logical_clock": clock}
        body = reply = b""

        def before() -> None:
            nonlocal body
            body = self.body(task_updates(rng, ids, 1, owner))

        def run() -> None:
            nonlocal reply
            reply = sync(body)

        def after() -> None:
            said = json.loads(reply)
            self._said |= {"mark": said["mark"], "logical_clock": said["logical_clock"]}
            self._said["request"] += 1

        super().__init__(run, before, after)

    def body(self, diffs: list[Diff]) -> bytes:
        """The body of its next request, with some diffs."""
        return json.dumps({**self._said, "diffs": diffs}).encode()


def _pushes_to(mobync: Mobync, owner: str) -> Pushes:
    """The pushes of an owner whose tasks are made by a first one."""
    creates = task_creates(random.Random(owner), TASKS)
    clock = mobync.apply(0, creates, owner)["logical_clock"]
    ids = [json.loads(create["json_data"])["id"] for create in creates]
    return Pushes(partial(mobync.apply_json, owner_id=owner), owner, ids, clock)


def run_once(contender: Contender) -> None:
    contender.before()
    contender.run()
    contender.after()


def request(owner: str, clock: int, diffs: list[Diff]) -> bytes:
    """The body of a sync, whose token is the owner's name."""
    return json.dumps({"auth_token": owner, "logical_clock": clock, "diffs": diffs}).encode()


def _polls(database: TaskDatabase, owner: str) -> dict[str, Contender]:
    sync = partial(database.mobync.apply_json, owner_id=owner)
    body = request(owner, database.mobync.logical_clock(owner), [])

    def select_head() -> None:
        with database.engine.connect() as connection:
            assert connection.execute(HEAD, {"owner": owner}).scalar() is not None

    return {
        "mobync": Contender(lambda: sync(body)),
        "SELECT of the clock": Contender(select_head),
    }


def _pulls(database: TaskDatabase, owner: str, syncs: dict[str, Sync]) -> dict[str, Contender]:
    """A device that lacks the log's last diff."""
    body = request(owner, database.mobync.logical_clock(owner) - 1, [])
    return {how: Contender(partial(sync, body)) for how, sync in syncs.items()}


@contextmanager
def _contests(
    kind: str, database: TaskDatabase, ids: dict[str, list[str]]
) -> Iterator[dict[str, dict[str, Contender]]]:
    """Who does what, over the database's engine and a connection of its driver."""
    with closing(open_driver(database.engine)) as driver:
        by_hand: dict[str, Sync] = {
            "by hand": ByHand(kind, driver).sync,
            "by hand, pooled": partial(ByHand(kind, driver).sync_pooled, database.engine),
        }
        mobync = database.mobync
        syncs = {"mobync": partial(mobync.apply_json, owner_id="mobync"), **by_hand}
        poll = partial(mobync.apply_json, owner_id="poller")
        run_once(Pushes(poll, "poller", ids["poller"], mobync.logical_clock("poller")))
        yield {
            "push one update": {
                how: Pushes(sync, how, ids[how], mobync.logical_clock(how))
                for how, sync in syncs.items()
            },
            "pull one diff": _pulls(database, "poller", {"mobync": poll, **by_hand}),
            "poll, nothing new": _polls(database, "poller"),
        }
