"""Compaction: what goes, what stays, and that no device can tell."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobync import CompactResult, FilterType, Mobync, ReadFilter, _core
from mobync._sync import compacting as _compacting
from mobync.memory import MemorySynchronizer


def diff(diff_id: str, kind: str, data: str | dict[str, Any], clock: int) -> dict[str, Any]:
    return {
        "id": diff_id,
        "owner": "ann",
        "logical_clock": clock,
        "utc_timestamp": 10,
        "type": kind,
        "model": "tasks",
        "json_data": data if isinstance(data, str) else json.dumps(data),
    }


def compacted(*log: tuple[str, str | dict[str, Any]]) -> dict[str, Any]:
    """What is left of a log: json_data by clock."""
    store = MemorySynchronizer()
    for clock, (kind, data) in enumerate(log):
        store.create("diffs", json.dumps(diff(f"d{clock}", kind, data, clock)))
    Mobync(store).compact("ann")
    return {d["logical_clock"]: d["json_data"] for d in store.read("diffs")}


def test_a_field_goes_from_an_update_that_a_later_diff_writes_again() -> None:
    left = compacted(
        ("update", '{"id": "x", "a": 1.0, "b":2}'),
        ("update", '{"id": "y", "a": 3}'),
        ("update", '{"id": "x", "a": 4}'),
    )
    assert left == {0: '{"id":"x","b":2}', 1: '{"id": "y", "a": 3}', 2: '{"id": "x", "a": 4}'}


def test_an_update_with_nothing_left_goes() -> None:
    left = compacted(
        ("update", {"id": "x", "a": 1}),
        ("update", {"id": "x"}),
        ("update", {"id": "x", "a": 2}),
    )
    assert list(left) == [2]


def test_a_create_keeps_all_its_fields_and_takes_in_nothing() -> None:
    created = '{"id": "x", "a": 1, "b": 2}'
    left = compacted(("create", created), ("update", {"id": "x", "a": 2}))
    assert left[0] == created
    assert len(left) == 2


def test_everything_before_the_last_delete_goes_and_the_delete_stays() -> None:
    left = compacted(
        ("create", {"id": "x", "a": 1}),
        ("update", {"id": "x", "a": 2}),
        ("delete", {"id": "x"}),
        ("create", {"id": "x", "a": 3}),
        ("delete", {"id": "x"}),
        ("create", {"id": "x", "a": 4}),
        ("update", {"id": "x", "a": 5}),
    )
    assert list(left) == [4, 5, 6]


def test_of_duplicate_members_the_last_stays() -> None:
    left = compacted(
        ("update", '{"id":"y","a":1,"id":"x","b":1,"a":2}'), ("update", '{"id":"x","b":2}')
    )
    assert left[0] == '{"id":"x","a":2}'


def test_keys_are_compared_decoded() -> None:
    assert list(
        compacted(("update", '{"id":"x","a":1}'), ("update", '{"id":"x","\\u0061":2}'))
    ) == [1]


def test_the_last_diff_stays_whatever_it_is() -> None:
    """It holds the owner's clock: without it, clocks would be given twice."""
    mobync = Mobync(MemorySynchronizer())
    mobync.synchronizer.create("diffs", json.dumps(diff("d", "update", {"id": "x"}, 7)))
    mobync.compact("ann")
    assert mobync.apply(8, [], "ann")["logical_clock"] == 8


def test_the_result_counts_rows_and_bytes() -> None:
    store = MemorySynchronizer()
    mobync = Mobync(store)
    assert mobync.compact("ann") == CompactResult(0, 0, 0, 0)
    meet_a_device_without_a_name(mobync)
    mobync.push("ann", [("create", "tasks", {"id": "x", "a": 0})])
    for i in range(10):
        mobync.push("ann", [("update", "tasks", {"id": "x", "a": i, "b": i})])
    mobync.push("bob", [("create", "tasks", {"id": "z"})])
    result = mobync.compact("ann")
    assert (result.rows_before, result.rows_after) == (11, 2)
    fields = ("id", "owner", "type", "model", "json_data")
    left = [d for d in store.read("diffs") if d["owner"] == "ann"]
    assert result.bytes_after == sum(len(d[f].encode()) for d in left for f in fields) + 16 * 2
    assert result.bytes_before > 4 * result.bytes_after
    assert mobync.compact("ann") == (2, 2, result.bytes_after, result.bytes_after)
    assert len(store.read("diffs")) == 3


def meet_a_device_without_a_name(mobync: Mobync) -> None:
    """Have one that may come back, so that nothing is folded."""
    mobync.apply(0, [], "ann")


class Recording(MemorySynchronizer):
    def __init__(self) -> None:
        super().__init__()
        self.reads: list[int] = []

    def read(self, where: str, filters: Sequence[ReadFilter] = ()) -> list[dict[str, Any]]:
        rows = super().read(where, filters)
        self.reads.append(len(rows))
        return rows


def test_a_long_log_is_compacted_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compacting, "COMPACT_PIECE_CLOCKS", 10)
    store = Recording()
    mobync = Mobync(store)
    meet_a_device_without_a_name(mobync)
    for i in range(35):
        mobync.push("ann", [("update", "tasks", {"id": f"x{i % 3}", "a": i})])
    store.reads.clear()
    assert mobync.compact("ann")[:2] == (35, 3)
    assert store.reads == [10, 10, 10, 5]


def test_between_two_pieces_the_log_is_let_go_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compacting, "COMPACT_PIECE_CLOCKS", 10)
    mobync = Mobync(MemorySynchronizer())
    for i in range(35):
        mobync.push("ann", [("update", "tasks", {"id": f"x{i % 3}", "a": i})])
    synced = []

    def sync_meanwhile(pause_s: float) -> None:
        assert pause_s > 0.1  # SQLite's busy handler sleeps that long
        synced.append(mobync.apply(35, [], "ann"))

    monkeypatch.setattr(time, "sleep", sync_meanwhile)
    mobync.compact("ann")
    assert len(synced) == 3


def test_a_gap_of_the_log_is_crossed_in_growing_steps() -> None:
    store = Recording()
    for clock in (0, 10**7):
        store.create("diffs", json.dumps(diff(f"d{clock}", "create", {"id": f"x{clock}"}, clock)))
    assert Mobync(store).compact("ann")[:2] == (2, 2)
    assert len(store.reads) < 100
    assert sum(store.reads) == 2


def test_a_store_that_knows_only_the_two_filters_is_read_whole() -> None:
    class TwoFilters(Recording):
        def highest_logical_clock(self, owner_id: str) -> int | None:
            return None

        def read(self, where: str, filters: Sequence[ReadFilter] = ()) -> list[dict[str, Any]]:
            known = FilterType.equal, FilterType.majorOrEqual
            assert all(f.filter_by in known for f in filters)
            return super().read(where, filters)

    store = TwoFilters()
    mobync = Mobync(store)
    meet_a_device_without_a_name(mobync)
    for i in range(35):
        mobync.push("ann", [("update", "tasks", {"id": f"x{i % 3}", "a": i})])
    store.reads.clear()
    assert mobync.compact("ann")[:2] == (35, 3)
    assert store.reads == [35]


def test_another_owners_diff_of_the_same_id_stays_as_it_is() -> None:
    mobync = Mobync(MemorySynchronizer())
    for owner in ("ann", "bob"):
        row = {**diff("same", "create", {"id": owner, "a": 1}, 0), "owner": owner}
        mobync.apply(0, [row], owner)
    mobync.push("ann", [("delete", "tasks", {"id": "ann"})])
    mobync.compact("ann")
    left = [(d["owner"], d["type"]) for d in mobync.synchronizer.read("diffs", [])]
    assert left == [("bob", "create"), ("ann", "delete")]


def test_a_damaged_log_is_named() -> None:
    store = MemorySynchronizer()
    store.create("diffs", json.dumps(diff("d", "update", "{}", 7)))
    with pytest.raises(ValueError, match="json_data"):
        Mobync(store).compact("ann")


def test_an_error_in_the_middle_leaves_a_log_that_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(MemorySynchronizer):
        pieces = 0

        def is_transient(self, error: Exception) -> bool:
            return True

        def delete_many(self, where: str, rows_json: Sequence[str]) -> None:
            super().delete_many(where, rows_json)
            Failing.pieces += 1
            if Failing.pieces == 2:
                raise ConnectionError

    monkeypatch.setattr(_compacting, "COMPACT_PIECE_CLOCKS", 10)
    mobync = Mobync(Failing())
    for i in range(35):
        mobync.push("ann", [("update", "tasks", {"id": "x", f"f{i % 3}": i})])
    whole = sent_rows(mobync, 0)
    with pytest.raises(ConnectionError):
        mobync.compact("ann")
    assert sent_rows(mobync, 0) == whole
    mobync.compact("ann")
    assert sent_rows(mobync, 0) == whole
    assert len(mobync.synchronizer.read("diffs", [])) == 3


def test_a_piece_of_another_owner_is_refused() -> None:
    rows = [diff("a", "update", {"id": "x"}, 3)]
    with pytest.raises(ValueError, match="another owner"):
        _core.Compaction().piece(rows, "bob", 0, 9)
    with pytest.raises(ValueError, match="4 and later"):
        _core.Compaction().piece(rows, "ann", 4, 9)


def sent_rows(mobync: Mobync, clock: int) -> dict[str, dict[str, Any]]:
    """The rows of a device that had nothing and pulls from a clock on."""
    rows: dict[str, dict[str, Any]] = {}
    for d in mobync.apply(clock, [], "ann")["diffs"]:
        fields = json.loads(d["json_data"])
        if d["type"] == "delete":
            rows.pop(fields["id"], None)
        else:
            rows.setdefault(fields["id"], {}).update(fields)
    return rows


edits = st.lists(
    st.tuples(
        st.sampled_from("xy"),
        st.sampled_from(["create", "update", "update", "update", "delete"]),
        st.dictionaries(st.sampled_from("abc"), st.integers(0, 3), max_size=3),
    ),
    max_size=25,
)


@settings(max_examples=300, deadline=None)
@given(edits=edits, pieces=st.integers(1, 30))
def test_from_every_clock_a_device_gets_the_same_rows_before_and_after(
    edits: list[Any], pieces: int
) -> None:
    mobync = Mobync(MemorySynchronizer())
    alive: set[str] = set()
    for object_id, kind, fields in edits:
        if (object_id in alive) == (kind == "create"):
            continue
        alive ^= {object_id} if kind != "update" else set()
        mobync.push("ann", [(kind, "tasks", {"id": object_id, **fields})])
    end = mobync.push("ann", [])
    before = [sent_rows(mobync, clock) for clock in range(end + 1)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_compacting, "COMPACT_PIECE_CLOCKS", pieces)
        mobync.compact("ann")
    assert [sent_rows(mobync, clock) for clock in range(end + 1)] == before

    log = mobync.synchronizer.read("diffs", [])
    for object_id in alive:
        kinds = [d["type"] for d in log if json.loads(d["json_data"])["id"] == object_id]
        assert kinds.count("create") == 1
        assert kinds.count("update") <= 3


def test_a_new_device_gets_what_lives_and_nothing_of_the_dead() -> None:
    mobync = Mobync(MemorySynchronizer())
    mobync.apply(0, [], "anna")
    for i in range(50):
        mobync.push("anna", [("create", "tasks", {"id": f"t{i}"})])
        if i != 7:
            mobync.push("anna", [("delete", "tasks", {"id": f"t{i}"})])
    mobync.push("anna", [("create", "tasks", {"id": "t3", "name": "again"})])
    clock = mobync.push("anna", [])
    mobync.compact("anna")
    reply = mobync.apply(0, [], "anna")
    assert [(d["type"], d["json_data"]) for d in reply["diffs"]] == [
        ("create", '{"id": "t7"}'),
        ("create", '{"id": "t3", "name": "again"}'),
    ]
    assert reply["logical_clock"] == clock

    told = mobync.apply(1, [], "anna")["diffs"]
    assert sum(d["type"] == "delete" for d in told) == 49
