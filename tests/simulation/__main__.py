"""Plays many histories, with a progress bar, and tells the story of one that fails.

python -m simulation --runs 10000 --seed 1 [--store memory] [--sql] [--fill]
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from functools import partial
from itertools import islice

from tqdm import tqdm

from . import stores
from .claims import Diverged
from .history import History, random_history, shrink
from .sql_edits import WorldOfSQL
from .world import MakeStore, World


def failure_of(history: History, make_store: MakeStore) -> tuple[World, Exception | None]:
    """Play a history; any exception is a failure."""
    with make_store() as store:
        world = (WorldOfSQL if history.by_sql else World)(
            store,
            history.kinds,
            history.seed,
            whole_rows=history.whole_rows,
            distinct_values=history.distinct_values,
            refuses=history.refuses,
            fills=history.fills,
        )
        try:
            world.play(list(history.events))
        except Exception as error:
            return world, error
        finally:
            world.close()
        return world, None


def fails_alike(kind: type[Exception], make_store: MakeStore, history: History) -> bool:
    """Whether it fails with that very kind of failure, not another that a shorter one shows."""
    return type(failure_of(history, make_store)[1]) is kind


def tell(history: History, world: World, error: Exception) -> str:
    """The story of a failed history, and a test to paste."""
    events = "\n".join(f"            {event!r}," for event in history.events)
    return f"""
{chr(10).join(world.story)}
=> {type(error).__name__}: {error}

As a test (tests/test_simulation.py):

def test_history_{history.seed}():
    check(History(
        {history.kinds!r},
        (
{events}
        ),
        seed={history.seed},
        whole_rows={history.whole_rows},
        distinct_values={history.distinct_values},
        refuses={history.refuses},
        by_sql={history.by_sql},
        fills={history.fills},
    ))
"""


def tell_shrunk(
    seed: int,
    kind: type[Exception],
    make_store: MakeStore,
    by_sql: bool = False,
    fills: bool = False,
) -> str:
    """The story of the shortest history that fails as that of the seed does."""
    short = shrink(random_history(seed, by_sql, fills), partial(fails_alike, kind, make_store))
    world, error = failure_of(short, make_store)
    assert error is not None
    return tell(short, world, error)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000, help="how many histories")
    parser.add_argument("--seed", type=int, default=1, help="the first history's seed")
    parser.add_argument("--store", choices=stores.NAMES, default="memory")
    parser.add_argument("--sql", action="store_true", help="a part of the edits by SQL")
    parser.add_argument("--fill", action="store_true", help="the database fills in values")
    options = parser.parse_args(arguments)
    if (options.sql or options.fill) and options.store == "memory":
        parser.error("--sql and --fill need a database: --store sqlite")
    seeds = range(options.seed, options.seed + options.runs)
    with stores.open_stores(options.store, options.sql, options.fill) as make_store:
        return simulate(options.store, seeds, make_store, options.sql, options.fill)


def simulate(
    name: str, seeds: range, make_store: MakeStore, by_sql: bool = False, fills: bool = False
) -> int:
    """Play a history for each seed and print what came of it; the number that failed."""
    totals: Counter[str] = Counter()
    failed: dict[int, Exception] = {}
    for seed in tqdm(seeds, desc="histories", unit="", disable=None):
        world, error = failure_of(random_history(seed, by_sql, fills), make_store)
        totals.update(world.counts)
        if error is not None:
            failed[seed] = error

    for seed, error in islice(failed.items(), 1):
        print(tell_shrunk(seed, type(error), make_store, by_sql, fills))
    print(f"store        {name}")
    print(f"histories    {len(seeds)}, seeds {seeds.start} to {seeds.stop - 1}")
    for what, count in sorted(totals.items()):
        print(f"{what:<12} {count}")
    diverged = sum(isinstance(error, Diverged) for error in failed.values())
    print(f"diverged     {diverged}")
    print(f"failed       {len(failed)} {list(failed)[:10] if failed else ''}".rstrip())
    return len(failed)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
