"""Makes a random history, and shrinks one that failed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from .world import FIELDS, MODELS, Event

KINDS = ("flutter", "careful", "paging")
OBJECTS = ("u0", "u1", "u2", "u3")
SKEWS_MS = (0, 0, -3_600_000, -40, -15, 15, 40, 3_600_000, 10**12)


FREQUENCIES = {
    "edit": 60,
    "sync": 30,
    "arrive_again": 4,
    "wait": 6,
    "skew": 4,
    "backup": 3,
    "restore": 2,
    "restart": 1,
    "push": 2,
    "compact": 2,
}


@dataclass(frozen=True)
class History:
    kinds: tuple[str, ...]
    events: tuple[Event, ...]
    seed: int
    whole_rows: bool = False
    distinct_values: bool = False
    refuses: bool = False


def random_history(seed: int) -> History:
    rng = random.Random(seed)
    # The published client takes no reply that does not move its clock, so it misses refusals.
    refuses = rng.random() < 0.2
    can_be = KINDS[1:] if refuses else KINDS
    kinds = tuple(rng.choice(can_be) for _ in range(rng.randint(2, 4)))
    names = [f"{kind}{i}" for i, kind in enumerate(kinds)]
    objects = OBJECTS[: rng.randint(1, len(OBJECTS))]
    models = MODELS[: rng.choice((1, 1, 2))]
    whole_rows = rng.random() < 0.3
    distinct_values = rng.random() < 0.5
    distinct = itertools.count(100, 100)  # push makes others of the numbers between

    def fields(least: int) -> tuple[tuple[str, int], ...]:
        least = len(FIELDS) if whole_rows and least == 0 else least
        chosen = rng.sample(FIELDS, rng.randint(least, len(FIELDS)))
        return tuple(
            (name, next(distinct) if distinct_values else rng.randint(0, 9)) for name in chosen
        )

    def edit(name: str) -> Event:
        what = rng.choices(("create", "update", "delete"), (5, 7, 3))[0]
        values = fields(0 if what == "create" else 1)
        return Event(what, name, rng.choice(models), rng.choice(objects), values)

    def sync(name: str) -> list[Event]:
        """A sync, mostly whole, with anything happening in the middle of it."""
        steps = [Event("send", name)]
        steps += something() if rng.random() < 0.25 else []
        if rng.random() < 0.85:
            steps.append(Event("deliver", name))
        steps += something() if rng.random() < 0.25 else []
        steps.append(Event("receive" if rng.random() < 0.75 else "lose", name))
        return steps

    def something() -> list[Event]:
        name = rng.choice(names)
        kind = rng.choices(tuple(FREQUENCIES), tuple(FREQUENCIES.values()))[0]
        if kind == "edit":
            return [edit(name) for _ in range(rng.choice((1, 1, 2, 3)))]
        if kind == "sync":
            return sync(name)
        number = {
            "arrive_again": rng.randint(0, 50),
            "wait": rng.choice((1, 10, 40)),
            "skew": rng.choice(SKEWS_MS),
            "push": rng.randint(1, len(objects)),
        }.get(kind, 0)
        values = fields(0 if whole_rows else 1)
        return [Event(kind, name, rng.choice(models), "", values, number)]

    events: list[Event] = []
    for _ in range(rng.randint(5, 40)):
        events += something()
    return History(kinds, tuple(events), seed, whole_rows, distinct_values, refuses)


def shrink(history: History, fails: Callable[[History], bool]) -> History:
    """Leave out events, in ever smaller pieces, as long as the rest still fails."""
    size = max(1, len(history.events) // 2)
    while True:
        shorter = _without_a_piece(history, size, fails)
        if shorter is not None:
            history = shorter
        elif size == 1:
            return history
        else:
            size //= 2


def _without_a_piece(
    history: History, size: int, fails: Callable[[History], bool]
) -> History | None:
    for begin in range(0, len(history.events), size):
        rest = history.events[:begin] + history.events[begin + size :]
        shorter = replace(history, events=rest)
        if fails(shorter):
            return shorter
    return None
