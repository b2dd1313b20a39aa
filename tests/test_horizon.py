"""The horizon: what holds it, what compaction folds below it, and who starts over."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from test_merge import diff

from mobync import CompactResult, InvalidDiffError, LogicalClockError, Mobync, Synchronizer
from mobync._sync import compacting
from mobync.memory import MemorySynchronizer

OWNER = "o"
DAY_MS = 24 * 60 * 60 * 1000


class Timed(Mobync):
    """Whose clock a test turns."""

    now_ms = 1_000 * DAY_MS

    def _now_ms(self) -> int:
        return self.now_ms


class Phone:
    """A device that names itself and gets every answer."""

    def __init__(self, mobync: Mobync, name: str) -> None:
        self.mobync, self.name = mobync, name
        self.clock, self.number = 0, 1
        self.mark: str | None = None

    def sync(self, *diffs: Any, **pages: Any) -> Any:
        said = {"device": self.name, "request": self.number, "mark": self.mark}
        reply = self.mobync.apply(self.clock, list(diffs), OWNER, **said, **pages)
        if not reply.get("more"):
            self.clock, self.mark = reply["logical_clock"], reply["mark"]
            self.number += bool(diffs)
        return reply


def log_of(mobync: Mobync) -> list[tuple[int, str, Any]]:
    rows = sorted(mobync.synchronizer.read("diffs"), key=lambda row: int(row["logical_clock"]))
    return [(row["logical_clock"], row["type"], json.loads(row["json_data"])) for row in rows]


def edited(mobync: Mobync) -> Phone:
    """A phone that has made an object, edited it, and made and deleted another."""
    phone = Phone(mobync, "phone")
    phone.sync(diff("c", "create", {"id": "x", "a": 1}), diff("d", "create", {"id": "y"}))
    phone.sync(diff("u", "update", {"id": "x", "a": 2}), diff("e", "delete", {"id": "y"}))
    return phone


def test_what_all_devices_have_seen_is_one_row_for_each_living_object():
    mobync = Timed(MemorySynchronizer())
    phone = edited(mobync)
    result = mobync.compact(OWNER)
    assert (result.horizon, result.held_by) == (2, ("phone",))  # an answer may be lost
    assert len(log_of(mobync)) == 3
    phone.sync()
    result = mobync.compact(OWNER)
    assert (result.horizon, result.held_by, result.unfolded_objects) == (4, (), 0)
    assert log_of(mobync) == [(0, "create", {"id": "x", "a": 2})]
    assert mobync.logical_clock(OWNER) == 4
    assert phone.sync()["logical_clock"] == 4
    new = Phone(mobync, "new").sync()
    assert (new["logical_clock"], len(new["diffs"])) == (4, 1)
    assert mobync.push(OWNER, [("create", "tasks", {"id": "z"})]) == 5


def test_bytes_are_those_that_are_left():
    store = MemorySynchronizer()
    mobync = Timed(store)
    edited(mobync).sync()
    result = mobync.compact(OWNER)
    names = ("id", "owner", "type", "model", "json_data", "field_times")
    left = sum(len(row.get(name) or "") for row in store.read("diffs") for name in names)
    assert result == (4, 1, result.bytes_before, left + 16)
    assert isinstance(result, CompactResult)
    assert mobync.compact(OWNER) == (1, 1, left + 16, left + 16)


def test_a_device_that_is_silent_for_too_long_holds_no_more_and_starts_over():
    mobync = Timed(MemorySynchronizer(), device_retention_s=10 * 24 * 3600)
    phone, other = edited(mobync), Phone(mobync, "other")
    other.sync()
    for day in range(11):
        mobync.now_ms += DAY_MS
        other.sync(diff(f"o{day}", "update", {"id": "x", "b": day}, 10))
        other.sync()
        assert mobync.compact(OWNER).horizon == (2 if day < 10 else 15)
    reply = phone.sync(diff("late", "update", {"id": "x", "a": 3}, 50))
    assert (reply["reset"], reply["logical_clock"]) == (True, 0)
    assert phone.sync()["logical_clock"] == 16
    assert mobync.synchronizer.read("tasks") == [{"id": "x", "a": 3, "b": 10}]


def test_polls_keep_a_device_from_being_silent():
    mobync = Timed(MemorySynchronizer(), device_retention_s=10 * 24 * 3600)
    phone = edited(mobync)
    for _ in range(30):
        mobync.now_ms += DAY_MS
        phone.sync()
    mobync.push(OWNER, [("update", "tasks", {"id": "x", "a": 9})])
    assert mobync.compact(OWNER).held_by == ("phone",)


def test_a_first_pull_that_was_given_up_holds_for_a_day():
    mobync = Timed(MemorySynchronizer())
    edited(mobync).sync()
    mobync.push(OWNER, [("create", "tasks", {"id": f"z{n}"}) for n in range(5)])
    assert Phone(mobync, "new").sync(limit=2)["more"]
    assert mobync.compact(OWNER).horizon == 0
    mobync.now_ms += DAY_MS + 1
    assert mobync.compact(OWNER).horizon == 4


def test_a_page_behind_which_the_log_was_folded_starts_over():
    mobync = Timed(MemorySynchronizer(), first_pull_retention_s=0)
    old = edited(mobync)
    mobync.push(OWNER, [("create", "tasks", {"id": f"z{n}"}) for n in range(5)])
    old.sync()
    new = Phone(mobync, "new")
    page = new.sync(limit=1)
    mobync.push(OWNER, [("update", "tasks", {"id": "x", "a": 9})])
    old.sync()
    mobync.now_ms += 1
    old.sync()
    assert mobync.compact(OWNER).horizon == 10
    page = new.sync(limit=1, cursor=page["cursor"])
    assert page["reset"]
    assert len(new.sync()["diffs"]) == 6


def test_a_pull_in_pages_goes_on_below_a_horizon_that_stands():
    mobync = Timed(MemorySynchronizer())
    mobync.push(OWNER, [("create", "tasks", {"id": f"z{n}"}) for n in range(5)])
    assert mobync.compact(OWNER).horizon == 5
    new = Phone(mobync, "new")
    page = new.sync(limit=2)
    pulled = page["diffs"]
    while page["more"]:
        page = new.sync(limit=2, cursor=page["cursor"])
        pulled += page["diffs"]
    assert len(pulled) == 5


# ---- devices without a name ---------------------------------------------------------------------


def test_a_device_without_a_name_holds_the_horizon_and_compact_says_so():
    mobync = Timed(MemorySynchronizer())
    nameless = mobync.apply(0, [diff("n", "create", {"id": "n"})], OWNER)["logical_clock"]
    edited(mobync).sync()
    result = mobync.compact(OWNER)
    assert (result.horizon, result.held_by) == (0, ("devices without a name",))
    mobync.now_ms += 89 * DAY_MS
    assert mobync.compact(OWNER).horizon == 0
    assert len(mobync.apply(nameless, [], OWNER)["diffs"]) > 0
    mobync.now_ms += 89 * DAY_MS
    assert mobync.compact(OWNER).horizon == 0
    mobync.now_ms += 2 * DAY_MS
    assert mobync.compact(OWNER).horizon == 5
    with pytest.raises(LogicalClockError, match="pull from 0 without diffs") as refused:
        mobync.apply(nameless, [diff("m", "update", {"id": "n", "a": 1})], OWNER)
    assert refused.value.ahead
    assert mobync.apply(0, [], OWNER)["logical_clock"] == 5
    assert mobync.apply(5, [diff("m", "update", {"id": "n", "a": 1})], OWNER)["logical_clock"] == 6
    assert mobync.compact(OWNER).held_by == ("devices without a name",)


def test_a_log_that_is_older_than_the_devices_may_be_known_to_some_without_a_name():
    store = MemorySynchronizer()
    store.create("diffs", json.dumps(diff("c", "create", {"id": "x"}) | {"owner": OWNER}))
    mobync = Timed(store)
    assert mobync.compact(OWNER).held_by == ("devices without a name",)
    mobync.now_ms += 91 * DAY_MS
    assert mobync.compact(OWNER).horizon == 1


def test_devices_without_a_name_can_be_refused():
    mobync = Timed(MemorySynchronizer(), anonymous_devices=False)
    assert not mobync.anonymous_devices
    with pytest.raises(InvalidDiffError, match="device is missing"):
        mobync.apply(0, [], OWNER)
    with pytest.raises(InvalidDiffError, match="device is missing"):
        mobync.apply_json('{"logical_clock": 0, "diffs": []}', OWNER)
    edited(mobync).sync()
    assert mobync.compact(OWNER).horizon == 4


class KeepsNoDevices(MemorySynchronizer):
    read_devices = Synchronizer.read_devices
    write_devices = Synchronizer.write_devices


@pytest.mark.parametrize(
    ("settings", "error", "complaint"),
    [
        ({"device_retention_s": -1}, ValueError, "device_retention_s must be from 0"),
        ({"device_retention_s": "1"}, TypeError, "device_retention_s must be a number"),
        ({"first_pull_retention_s": float("nan")}, ValueError, "first_pull_retention_s"),
        ({"anonymous_devices": 0}, TypeError, "anonymous_devices must be True or False"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, error, complaint):
    with pytest.raises(error, match=complaint):
        Mobync(MemorySynchronizer(), **settings)


def test_devices_that_must_name_themselves_need_a_store_that_keeps_them():
    with pytest.raises(ValueError, match="needs a synchronizer that keeps devices"):
        Mobync(KeepsNoDevices(), anonymous_devices=False)


# ---- what a store can keep ----------------------------------------------------------------------


class KeepsNoTimes(MemorySynchronizer):
    def keeps_field_times(self) -> bool:
        return False


def test_without_a_column_for_times_compact_says_what_it_could_not_fold():
    store = KeepsNoTimes()
    mobync = Timed(store)
    phone = Phone(mobync, "phone")
    phone.sync(diff("c", "create", {"id": "x", "a": 1}, 10), diff("d", "create", {"id": "y"}, 10))
    phone.sync(diff("u", "update", {"id": "x", "b": 2}, 20), diff("v", "update", {"id": "y"}, 20))
    phone.sync()
    result = mobync.compact(OWNER)
    assert result.unfolded_objects == 1
    assert [kind for _, kind, _ in log_of(mobync)] == ["create", "create", "update"]
    store.keeps_field_times = lambda: True  # type: ignore[method-assign]
    assert mobync.compact(OWNER).unfolded_objects == 0
    assert len(log_of(mobync)) == 2


class KeepsNoClock(MemorySynchronizer):
    def keeps_clock(self) -> bool:
        return False


def test_where_only_the_log_keeps_the_clock_its_last_row_stays():
    mobync = Timed(KeepsNoClock())
    edited(mobync).sync()
    mobync.compact(OWNER)
    assert [(clock, kind) for clock, kind, _ in log_of(mobync)] == [(0, "create"), (3, "delete")]


# ---- in pieces ----------------------------------------------------------------------------------


def test_a_long_log_is_folded_in_pieces_and_a_sync_in_between_is_seen(monkeypatch):
    monkeypatch.setattr(compacting, "COMPACT_PIECE_CLOCKS", 3)
    mobync = Timed(MemorySynchronizer())
    phone = Phone(mobync, "phone")
    for n in range(20):
        kind = "create" if n < 4 else "update"
        phone.sync(diff(f"e{n}", kind, {"id": f"x{n % 4}", f"f{n % 3}": n}, n))
    phone.sync()
    synced = []
    monkeypatch.setattr(time, "sleep", lambda _: synced.append(phone.sync()))
    assert mobync.compact(OWNER).horizon == 20
    assert len(synced) > 5
    assert [kind for _, kind, _ in log_of(mobync)] == ["create"] * 4
    assert {row["id"]: row for row in mobync.synchronizer.read("tasks")} == {
        row["id"]: row for _, _, row in log_of(mobync)
    }


def test_a_second_compaction_that_comes_in_between_takes_over(monkeypatch):
    monkeypatch.setattr(compacting, "COMPACT_PIECE_CLOCKS", 3)
    mobync = Timed(MemorySynchronizer())
    phone = Phone(mobync, "phone")
    for n in range(12):
        phone.sync(diff(f"e{n}", "create" if n < 4 else "update", {"id": f"x{n % 4}", "a": n}, n))
    phone.sync()
    calls = []

    def compact_once(_: float) -> None:
        calls.append(1)
        if len(calls) == 5:  # in the middle of folding
            phone.sync(diff("late", "update", {"id": "x0", "a": 99}, 99))
            phone.sync()
            monkeypatch.setattr(time, "sleep", lambda _: None)
            mobync.compact(OWNER)

    monkeypatch.setattr(time, "sleep", compact_once)
    mobync.compact(OWNER)
    assert len(calls) == 5
    assert log_of(mobync)[0] == (0, "create", {"id": "x0", "a": 99})
    assert len(log_of(mobync)) == 4
