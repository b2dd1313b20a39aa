"""Does a sync cost more as the history grows?  Against mobync 0.2.0, which reads it whole."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import version_0_2_0
from measuring import Contender, race
from stores import Memory, SQLiteFile, mobync_on
from tables import Table, percent
from workload import OWNER, Diff, task_creates, task_updates

import mobync

SHORT = 100
HISTORIES = (0, SHORT, 10_000, 100_000, 1_000_000)
HISTORIES_QUICK = (0, SHORT, 10_000, 50_000)
BATCHES = (1, 10, 1000)
TASKS = 1000
OLD_LIMIT, OLD_LIMIT_QUICK = 100_000, 10_000  # diffs of history up to which 0.2.0 takes part

Store = SQLiteFile | Memory


def measure(quick: bool) -> list[Table]:
    old = version_0_2_0.load()
    histories = HISTORIES_QUICK if quick else HISTORIES
    old_limit = OLD_LIMIT_QUICK if quick else OLD_LIMIT
    table = Table(
        "history",
        "Apply as the history grows: a device that is up to date pushes diffs",
        [
            "store",
            "diffs",
            "history",
            "mobync ms",
            "spread",
            "of history 0",
            f"of history {SHORT}",
            "0.2.0 ms",
            "0.2.0 / mobync",
        ],
        notes=[
            "Both versions have the same Synchronizer (bench/stores.py), with the seven methods "
            "only. SQLite: WAL, an index on (owner, logical_clock), one commit for each apply.",
            "Each diff updates one field of one of 1,000 tasks. Before the next diff, the row gets "
            "its old value again, which is not measured. The histories take turns. For the last "
            "two columns, both versions run once more at each history.",
            f"0.2.0 is left out beyond {old_limit:,} diffs. It reads the whole log as JSON, twice "
            "for each apply, which takes about a second at 100,000 diffs.",
            "Processor time. With a history of 0 the log is empty, and one read is enough. With a "
            "longer history, a second, small read finds the highest clock, because this "
            "Synchronizer does not have highest_logical_clock. So compare a long history with a "
            f"short one, of {SHORT}.",
        ],
    )
    with tempfile.TemporaryDirectory() as directory:
        makers: dict[str, Callable[[int], Store]] = {
            "SQLite": lambda size: SQLiteFile(Path(directory) / f"{size}.db"),
            "memory": lambda size: Memory(),
        }
        for name, make in makers.items():
            stores = {history: make(history) for history in histories}
            ids = {history: _fill(store, history) for history, store in stores.items()}

            def device(
                module: ModuleType,
                history: int,
                batch: int,
                stores: dict[int, Store] = stores,
                ids: dict[int, list[str]] = ids,
            ) -> Contender:
                return _device(stores[history], module, ids[history], history, batch)

            for batch in BATCHES:
                beside_each_other = {str(h): device(mobync, h, batch) for h in histories}
                new = race(beside_each_other, 0.5 if quick else 8)
                short, none = new[str(SHORT)], new["0"]
                for history in histories:
                    taken = new[str(history)]
                    before = faster = None
                    if history <= old_limit:
                        versions = {"mobync": mobync, "0.2.0": old}
                        both = race(
                            {which: device(v, history, batch) for which, v in versions.items()},
                            0.3 if quick else 2,
                        )
                        before = both["0.2.0"].median * 1000
                        faster = both["0.2.0"].median / both["mobync"].median
                    table.add(
                        name,
                        batch,
                        history,
                        taken.median * 1000,
                        percent(taken.spread),
                        taken.median / none.median,
                        taken.median / short.median,
                        before,
                        faster,
                    )
    return [table]


def _fill(store: Store, history: int) -> list[str]:
    """Put tasks into the tables and a history into the log; returns the ids of the tasks."""
    rng = random.Random(history)
    creates = task_creates(rng, TASKS)
    for create in creates:
        store.create("tasks", create["json_data"])
    store.commit()
    ids = sorted(_task_ids(creates))
    store.fill_log(_log(rng, ids, history))
    return ids


def _task_ids(creates: list[Diff]) -> Iterator[str]:
    for create in creates:
        yield create["json_data"].split('"')[3]


def _log(rng: random.Random, ids: list[str], size: int) -> Iterator[Diff]:
    for begin in range(0, size, 10_000):
        for clock, row in enumerate(task_updates(rng, ids, min(10_000, size - begin)), begin):
            yield {**row, "logical_clock": clock}


def _device(
    store: Store, version: ModuleType, ids: list[str], history: int, batch: int
) -> Contender:
    """A device that has seen the whole history, and sends a batch of updates."""
    synced = mobync_on(store, version)
    rng = random.Random(batch)
    pushed: list[Diff] = []

    def before() -> None:
        pushed[:] = task_updates(rng, ids, batch)

    def run() -> None:
        reply = synced.apply(history, pushed, OWNER)
        store.commit()
        assert reply["logical_clock"] > history
        assert not reply["diffs"]

    return Contender(run, before, lambda: store.forget_from(history))
