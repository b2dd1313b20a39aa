"""Makes a random history, and shrinks one that failed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from .world import FIELDS, MODELS, Event

KINDS = ("flutter", "careful", "paging")
OBJECTS = tuple(f"u{i}" for i in range(40))
FEW_OBJECTS = 4
SKEWS_MS = (0, 0, -3_600_000, -40, -15, 15, 40, 3_600_000, 10**12)
BURST_EDITS = 100

FREQUENCIES = {
    "edit": 60,
    "sync": 30,
    "arrive_again": 4,
    "retry": 4,
    "story": 3,
    "wait": 6,
    "skew": 4,
    "backup": 3,
    "restore": 2,
    "restart": 1,
    "push": 2,
    "compact": 2,
}
BY_SQL = {"sql": 25, "reconcile": 3}
CROWDED = {**FREQUENCIES, "burst": 3, "push": 6}


@dataclass(frozen=True)
class History:
    kinds: tuple[str, ...]
    events: tuple[Event, ...]
    seed: int
    whole_rows: bool = False
    distinct_values: bool = False
    refuses: bool = False
    by_sql: bool = False
    fills: bool = False


def random_history(seed: int, by_sql: bool = False, fills: bool = False) -> History:
    """A history.

    Args:
        seed: of all chance.
        by_sql: a part of its edits is made behind mobync's back.
        fills: the database fills in what no diff says, and changes what some say; so a value does
            not tell who wrote it.
    """
    history = _Author(random.Random(seed), by_sql).write(seed)
    return replace(history, distinct_values=False, fills=True) if fills else history


class _Author:
    """Invents a history: first who takes part and with what habits, then one event after another.

    Few objects meet many edits; in a crowded history many objects of many models come in bulk.
    """

    def __init__(self, rng: random.Random, by_sql: bool) -> None:
        self.rng = rng
        self.by_sql = by_sql
        # The published client takes no reply that does not move its clock, so it misses refusals.
        self.refuses = rng.random() < 0.2
        can_be = KINDS[1:] if self.refuses else KINDS
        self.kinds = tuple(rng.choice(can_be) for _ in range(rng.randint(2, 4)))
        self.names = [f"{kind}{i}" for i, kind in enumerate(self.kinds)]
        self.hostile = rng.random() < 0.15
        if self.hostile:
            self.kinds += ("hostile",)
        self.crowded = rng.random() < 0.02
        self.objects = OBJECTS if self.crowded else OBJECTS[: rng.randint(1, FEW_OBJECTS)]
        self.models = MODELS if self.crowded else MODELS[: rng.choice((1, 1, 2, 3))]
        self.frequencies = CROWDED if self.crowded else FREQUENCIES
        if self.hostile:  # who reuses an id that was compacted away takes it from its device
            self.frequencies = {**self.frequencies, "compact": 0, "hostile": 25}
        if by_sql:
            self.frequencies = {**self.frequencies, **BY_SQL}
        self.whole_rows = rng.random() < 0.3
        self.distinct_values = rng.random() < 0.5
        self.distinct = itertools.count(100, 100)  # push makes others of the numbers between
        self.story_objects = (f"s{i}" for i in itertools.count())

    def write(self, seed: int) -> History:
        events: list[Event] = []
        for _ in range(self.rng.randint(5, 40)):
            events += self.something()
        return History(
            self.kinds,
            tuple(events),
            seed,
            self.whole_rows,
            self.distinct_values,
            self.refuses,
            self.by_sql,
        )

    def something(self) -> list[Event]:
        rng, name = self.rng, self.rng.choice(self.names)
        kind = rng.choices(tuple(self.frequencies), tuple(self.frequencies.values()))[0]
        if kind == "edit":
            return [step for _ in range(rng.choice((1, 1, 2, 3))) for step in self.edit(name)]
        if kind == "burst":
            return [step for _ in range(BURST_EDITS) for step in self.edit(name)]
        if kind == "sync":
            return self.sync(name)
        if kind == "hostile":
            return self.hostile_sync(self.kinds[-1] + str(len(self.kinds) - 1))
        if kind == "story":
            story = rng.choice((self.folded_retry, self.restored_create, self.reborn_twice))
            return story(*rng.sample(self.names, 2))
        number = {
            "arrive_again": rng.randint(0, 50),
            "wait": rng.choice((1, 10, 40)),
            "skew": rng.choice(SKEWS_MS),
            "push": rng.randint(1, len(self.objects)),
        }.get(kind, 0)
        values = self.fields(0 if self.whole_rows else 1)
        object_id = ""
        if kind == "sql":
            values = tuple((field, self.value()) for field in FIELDS)
            object_id = rng.choice(self.objects)
        return [Event(kind, name, rng.choice(self.models), object_id, values, number)]

    def fields(self, least: int) -> tuple[tuple[str, int], ...]:
        least = len(FIELDS) if self.whole_rows and least == 0 else least
        chosen = self.rng.sample(FIELDS, self.rng.randint(least, len(FIELDS)))
        return tuple((name, self.value()) for name in chosen)

    def value(self) -> int:
        return next(self.distinct) if self.distinct_values else self.rng.randint(0, 9)

    def edit(self, name: str) -> list[Event]:
        """An edit; a create now and then by a form that saves twice in the same millisecond."""
        what = self.rng.choices(("create", "update", "delete"), (5, 7, 3))[0]
        values = self.fields(0 if what == "create" else 1)
        model, object_id = self.rng.choice(self.models), self.rng.choice(self.objects)
        refuse = self.refuses and self.rng.random() < 0.2
        malformed = self.refuses and self.rng.random() < 0.1
        edit = Event(what, name, model, object_id, values, refuse=refuse, malformed=malformed)
        if what != "create" or self.rng.random() < 0.8:
            return [edit]
        return [edit, replace(edit, what="update", fields=self.fields(1), at_once=True)]

    def sync(self, name: str) -> list[Event]:
        """A sync, mostly whole, with anything happening in the middle of it."""
        rng = self.rng
        steps = [Event("send", name)]
        steps += self.something() if rng.random() < 0.25 else []
        if rng.random() < 0.85:
            steps.append(Event("deliver", name))
        steps += self.something() if rng.random() < 0.25 else []
        steps.append(Event("receive" if rng.random() < 0.75 else "lose", name))
        return steps

    def hostile_sync(self, name: str) -> list[Event]:
        if self.rng.random() < 0.2:
            return [Event("arrive_again", name, number=self.rng.randint(0, 50))]
        return _whole_sync(name) if self.rng.random() < 0.8 else _sync_without_reply(name)

    def a_story(self) -> tuple[Callable[..., Event], Callable[[str], Event]]:
        """What makes events of one object, of which nothing has been told, and updates of it."""
        model, object_id = self.rng.choice(self.models), next(self.story_objects)
        field = self.rng.choice(FIELDS)

        def event(what: str, name: str) -> Event:
            return Event(what, name, model, object_id, self.fields(0) if what == "create" else ())

        def update(name: str) -> Event:
            return replace(event("update", name), fields=((field, self.value()),))

        return event, update

    def folded_retry(self, first: str, second: str) -> list[Event]:
        """An edit goes up inside of the create that it followed, and the reply is lost.  Another
        device, with its clock behind, sees it and edits it once more; then the first tries again.
        """
        event, update = self.a_story()
        return [
            *_whole_sync(second),
            Event("skew", second, number=self.rng.choice((-3_600_000, -40))),
            Event("lose", first),
            event("create", first),
            *(update(first) for _ in range(self.rng.choice((1, 1, 2)))),
            *_sync_without_reply(first),
            *_whole_sync(second),
            update(second),
            *_whole_sync(second),
            *([Event("retry", first)] if self.rng.random() < 0.5 else _whole_sync(first)),
        ]

    def restored_create(self, first: str, second: str) -> list[Event]:
        """A device goes back to a backup from between a create and the edits that went up in it."""
        event, update = self.a_story()
        return [
            Event("lose", first),
            event("create", first),
            Event("backup", first),
            *(update(first) for _ in range(self.rng.choice((1, 2)))),
            *(_whole_sync(first) if self.rng.random() < 0.5 else _sync_without_reply(first)),
            *([*_whole_sync(second), update(second)] if self.rng.random() < 0.5 else []),
            Event("restore", first),
            *_whole_sync(first),
        ]

    def reborn_twice(self, first: str, second: str) -> list[Event]:
        """A device deletes an object, and the reply is lost; both make it again and the first edits
        its own, so that of its create nothing may be left to log."""
        event, update = self.a_story()
        return [
            Event("lose", first),
            event("create", first),
            *_whole_sync(first),
            event("delete", first),
            *_sync_without_reply(first),
            event("create", first),
            *_whole_sync(second),
            event("create", second),
            *_whole_sync(second),
            update(first),
            *(_whole_sync(first) if self.rng.random() < 0.5 else _sync_without_reply(first)),
            *([event("delete", second)] if self.rng.random() < 0.3 else [update(second)]),
            *_whole_sync(second),
            *([Event("retry", first)] if self.rng.random() < 0.5 else _whole_sync(first)),
        ]


def _whole_sync(name: str) -> list[Event]:
    return [Event(step, name) for step in ("send", "deliver", "receive")]


def _sync_without_reply(name: str) -> list[Event]:
    return [Event(step, name) for step in ("send", "deliver", "lose")]


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
