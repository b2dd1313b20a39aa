"""Who holds a field and why: what the inspector derives is what happened, or it does not say it."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

from mobync import Mobync
from mobync.memory import MemorySynchronizer
from mobync.server._history import Life, Write, lives_of
from mobync.server._log_pages import Entry
from mobync.server._members import members_of


def entry(clock: int, time: int, kind: str, **fields: str) -> Entry:
    members = members_of(json.dumps({"id": "x", **fields}))[1]
    return Entry(clock, f"d{clock}", time, kind, "tasks", "x", 0, members)


def reasons(lives: list[Life], name: str = "name") -> list[str]:
    return [write.why for write in lives[-1].writes(name)]


def test_the_first_value_is_the_creates_or_an_edits() -> None:
    lives = lives_of(
        [entry(0, 10, "create", name="milk"), entry(4, 20, "update", done="yes", name="soy")]
    )
    assert reasons(lives) == ["created", "later"]
    assert reasons(lives, "done") == ["first"]


def test_a_later_time_stands_and_nothing_more_is_said() -> None:
    lives = lives_of([entry(0, 10, "create", name="milk"), entry(1, 17, "update", name="soy")])
    assert lives[0].writes("name")[-1] == Write(1, '"soy"', "later", replaced=0, later_ms=7)


def test_the_same_millisecond_went_to_the_one_that_synced_last() -> None:
    lives = lives_of([entry(0, 10, "create", name="milk"), entry(1, 10, "update", name="soy")])
    assert reasons(lives)[-1] == "tie"


def test_an_earlier_time_stands_only_if_its_device_had_synced() -> None:
    lives = lives_of([entry(0, 10, "create", name="milk"), entry(1, 3, "update", name="soy")])
    assert lives[0].writes("name")[-1] == Write(1, '"soy"', "seen", replaced=0, later_ms=-7)


def test_who_had_synced_past_an_edit_had_synced_past_all_below_it() -> None:
    lives = lives_of(
        [
            entry(0, 10, "create", name="milk", done="no"),
            entry(1, 90, "update", name="oat"),
            entry(2, 20, "update", name="soy", done="yes"),
        ]
    )
    assert reasons(lives) == ["created", "later", "seen"]
    assert reasons(lives, "done") == ["created", "seen"]


def test_it_is_not_said_of_what_came_after_the_edit_that_was_seen() -> None:
    lives = lives_of(
        [
            entry(0, 90, "create", name="milk"),
            entry(1, 20, "update", name="oat"),
            entry(2, 30, "update", name="soy"),
        ]
    )
    assert reasons(lives) == ["created", "seen", "later"]


def test_the_same_text_is_the_same_value() -> None:
    lives = lives_of([entry(0, 10, "create", name="milk"), entry(1, 30, "update", name="milk")])
    assert reasons(lives) == ["created", "same"]


def test_a_new_life_begins_with_nothing() -> None:
    lives = lives_of(
        [
            entry(0, 90, "create", name="milk"),
            entry(1, 20, "delete"),
            entry(2, 21, "update", name="late"),
            entry(3, 25, "delete"),
            entry(4, 30, "create", name="bread"),
            entry(5, 40, "create", name="rye"),
        ]
    )
    assert [(life.created, life.deleted) for life in lives] == [(0, 1), (4, None)]
    assert [write.why for write in lives[0].writes("name")] == ["created", "no row"]
    assert reasons(lives) == ["created", "later"]


def test_entries_may_begin_in_the_middle_of_a_life() -> None:
    lives = lives_of([entry(7, 10, "update", name="milk"), entry(8, 20, "delete")])
    assert [(life.created, life.deleted) for life in lives] == [(None, 8)]
    assert reasons(lives) == ["first"]
    assert lives_of([]) == []


class Device:
    """Edits one object from what it has last been told, at times of a clock that jumps."""

    def __init__(self, name: str, chance: random.Random) -> None:
        self.name = name
        self.chance = chance
        self.clock = 0
        self.alive = False
        self.pending: list[dict[str, Any]] = []
        self.edits = 0

    def edit(self) -> None:
        kind = "create"
        if self.alive:
            kind = self.chance.choices(["update", "delete"], [9, 1])[0]
        self.alive = kind != "delete"
        self.edits += 1
        row = {"id": "x"}
        if self.alive:
            for name in self.chance.sample("abc", self.chance.randint(1, 3)):
                row[name] = str(self.chance.randint(0, 5))
        self.pending.append(
            {
                "id": f"{self.name}-{self.edits}",
                "owner": "anna",
                "logical_clock": 0,
                "utc_timestamp": self.chance.randint(0, 60),
                "type": kind,
                "model": "tasks",
                "json_data": json.dumps(row),
            }
        )

    def sync(self, mobync: Mobync, sent_at: dict[str, int]) -> None:
        for diff in self.pending:
            sent_at[diff["id"]] = self.clock
        reply = mobync.apply(self.clock, self.pending, "anna")
        self.pending = []
        self.clock = reply["logical_clock"]
        for diff in reply["diffs"]:
            self.alive = diff["type"] != "delete" and (self.alive or diff["type"] == "create")


def test_what_it_says_of_random_syncs_is_what_happened() -> None:
    """A device is never said to have synced what it had not, and the holders are the true ones."""
    said: Counter[str] = Counter()
    for seed in range(300):
        chance = random.Random(seed)
        store = MemorySynchronizer()
        mobync = Mobync(store)
        devices = [Device(name, chance) for name in ("phone", "tablet", "desk")]
        sent_at: dict[str, int] = {}
        for _ in range(30):
            device = chance.choice(devices)
            if chance.random() < 0.6:
                device.edit()
            else:
                device.sync(mobync, sent_at)
        lives = lives_of(_log(store))
        clock_of = {one.logical_clock: sent_at[one.diff_id] for one in _log(store)}
        for life in lives:
            for name in life.names:
                for write in life.writes(name):
                    said[write.why] += 1
                    if write.why == "seen":
                        assert write.replaced is not None
                        assert clock_of[write.logical_clock] > write.replaced
        assert _held(lives) == _pulled(mobync), seed
    assert all(said[why] > 20 for why in ("created", "first", "same", "seen", "later", "tie")), said


def _log(store: MemorySynchronizer) -> list[Entry]:
    rows = sorted(store.read("diffs"), key=lambda row: row["logical_clock"])
    return [
        Entry(
            row["logical_clock"],
            row["id"],
            row["utc_timestamp"],
            row["type"],
            row["model"],
            "x",
            0,
            members_of(row["json_data"])[1],
        )
        for row in rows
    ]


def _held(lives: list[Life]) -> dict[str, str] | None:
    if not lives or lives[-1].deleted is not None:
        return None
    return {name: lives[-1].writes(name)[-1].text for name in lives[-1].names}


def _pulled(mobync: Mobync) -> dict[str, str] | None:
    """The object as a new device gets it."""
    row: dict[str, str] | None = None
    for diff in mobync.apply(0, [], "anna")["diffs"]:
        if diff["type"] == "delete":
            row = None
        elif diff["type"] == "create" or row is not None:
            row = {**(row or {}), **members_of(diff["json_data"])[1]}
    return row
