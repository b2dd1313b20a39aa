"""Does a sync stay as quick as the log grows, in a process that began with an empty one?

What a database plans for a statement while a table is empty, it may keep: so each log grows under
connections that have synced before.  And does a large request cost as much for each edit as a
smaller one, where the database was never told to look at its tables?
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from measuring import Contender, Times, in_child, race
from small_syncs import ROUNDS, WARM_UPS, Pushes, make_tasks, request, run_once
from sqlalchemy import event, text
from sqlalchemy.engine import Engine
from tables import Table, percent
from task_database import (
    KINDS,
    answering,
    no_flush_at_commit,
    open_database,
    open_tasks,
    processor_clock,
)
from workload import OWNER, START_MS, diff, new_id

from mobync import Mobync
from mobync.sqlalchemy import DocumentSynchronizer

HISTORIES, HISTORIES_QUICK = (100, 30_000, 1_000_000), (100, 30_000)
DOCUMENTS, DOCUMENTS_QUICK = (2000, 20_000), (500, 5000)
DOCUMENT_ROUNDS = 5
LARGE_CACHE = "sqlite, cache of 64 MB"
BUDGET_S, BUDGET_QUICK_S = 5, 0.5

_NEVER_ANALYZED = {
    "postgresql": "ALTER TABLE documents SET (autovacuum_enabled = off)",
    "mariadb": "ALTER TABLE documents STATS_AUTO_RECALC = 0",
}
_CLOCK = "Processor time of this process, and of the database for its connection."


def measure(quick: bool) -> list[Table]:
    edits = Table(
        "flatness",
        "One edit as the log grows, in a process that began with an empty log",
        ["database", "logged diffs", "edit µs", "spread", "of the shortest", "elapsed µs"],
        notes=[
            f"{_CLOCK} Each connection pushes {WARM_UPS} edits before its log is filled, so a "
            "database may keep plans that it made for a short log. The logs take turns, and the "
            "measured edits are added to them.",
        ],
    )
    documents = Table(
        "flatness_of_documents",
        "Updates of documents in one request, on tables that were never analyzed",
        ["database", "updates", "ms", "spread", "times the updates", "times the time"],
        notes=[
            f"{_CLOCK} DocumentSynchronizer, each update of another document.",
            "SQLite keeps 2 MB of pages in memory unless PRAGMA cache_size says otherwise, and "
            "20,000 updates change more pages than that.",
        ],
    )
    for kind in answering(KINDS, edits.notes):
        histories = HISTORIES_QUICK if quick else HISTORIES
        budget_s = BUDGET_QUICK_S if quick else BUDGET_S
        _fill_edits(edits, kind, in_child(grown_logs, kind, histories, budget_s))
        sizes = DOCUMENTS_QUICK if quick else DOCUMENTS
        for store in (kind, LARGE_CACHE) if kind == "sqlite" else (kind,):
            _fill_documents(documents, store, in_child(updated_documents, store, sizes))
    return [edits, documents]


def _fill_edits(table: Table, kind: str, grown: dict[int, Times]) -> None:
    shortest = grown[min(grown)].median
    for history, times in grown.items():
        micros = times.median * 1e6
        passed = Times(times.elapsed).median * 1e6
        table.add(kind, history, micros, percent(times.spread), times.median / shortest, passed)


def _fill_documents(table: Table, kind: str, taken: dict[int, Times]) -> None:
    fewest = min(taken)
    for size, times in taken.items():
        ratio = times.median / taken[fewest].median
        table.add(kind, size, times.median * 1e3, percent(times.spread), size / fewest, ratio)


def by_clock(contender: Contender, clock: Callable[[], float]) -> Contender:
    """The same, timed by a clock of its own."""

    def run() -> float:
        begin = clock()
        contender.run()
        return clock() - begin

    return Contender(run, contender.before, contender.after)


# ---- the log ------------------------------------------------------------------------------------


def grown_logs(kind: str, histories: tuple[int, ...], budget_s: float) -> dict[int, Times]:
    """How long an edit takes at each length of the log."""
    with ExitStack() as opened:
        contenders = {}
        for history in histories:
            database = opened.enter_context(open_tasks(kind))
            ids = make_tasks(database, OWNER)
            sync = partial(database.mobync.apply_json, owner_id=OWNER)
            early = Pushes(sync, OWNER, ids, 0)
            for _ in range(WARM_UPS):
                run_once(early)
            database.grow_log(OWNER, WARM_UPS, history)
            clock = database.mobync.apply(history, [], OWNER)["logical_clock"]
            pushes = Pushes(sync, OWNER, ids, clock)
            contenders[str(history)] = by_clock(pushes, database.processor_time)
        times = race(contenders, budget_s, least=ROUNDS)
        return {history: times[str(history)] for history in histories}


# ---- documents ----------------------------------------------------------------------------------


def updated_documents(kind: str, sizes: tuple[int, ...]) -> dict[int, Times]:
    """How long requests of so many updates take."""
    with _document_store(kind) as (mobync, engine):
        clock = processor_clock(engine)
        contenders = {str(size): by_clock(_updates(mobync, size), clock) for size in sizes}
        times = race(contenders, 0, least=DOCUMENT_ROUNDS)
        return {size: times[str(size)] for size in sizes}


@contextmanager
def _document_store(kind: str) -> Iterator[tuple[Mobync, Engine]]:
    with (
        tempfile.TemporaryDirectory() as directory,
        open_database(kind.partition(",")[0], Path(directory)) as database,
    ):
        if kind.startswith("sqlite"):
            event.listen(database.engine, "connect", no_flush_at_commit)
        if kind == LARGE_CACHE:
            event.listen(database.engine, "connect", _keep_many_pages)
        store = DocumentSynchronizer(database.engine)
        store.metadata.create_all(database.engine)
        if kind in _NEVER_ANALYZED:
            with database.engine.begin() as connection:
                connection.execute(text(_NEVER_ANALYZED[kind]))
        yield Mobync(store), database.engine


def _keep_many_pages(connection: Any, record: Any) -> None:
    connection.execute("PRAGMA cache_size = -64000")


def _updates(mobync: Mobync, size: int) -> Contender:
    """A device that updates all its documents in one request, again and again."""
    rng, owner = random.Random(size), f"owner of {size}"
    ids = [new_id(rng) for _ in range(size)]
    clock, body = 0, b""

    def send() -> None:
        nonlocal clock
        clock = json.loads(mobync.apply_json(body, owner))["logical_clock"]

    def prepare(kind: str) -> None:
        nonlocal body
        rows = ({"id": id_, "name": new_id(rng)} for id_ in ids)
        diffs = [diff(rng, kind, "notes", START_MS, row, owner) for row in rows]
        body = request(owner, clock, diffs)

    prepare("create")
    send()
    return Contender(send, lambda: prepare("update"))
