"""push and adopt: what the backend itself changes, and rows that were there before mobync."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mobync import InvalidDiffError, Mobync
from mobync.memory import MemorySynchronizer


def rows(mobync: Mobync, model: str = "tasks") -> list[dict[str, Any]]:
    found = mobync.synchronizer.read(model, [])
    assert isinstance(found, list)
    return found


def pulled(mobync: Mobync, clock: int = 0) -> list[tuple[str, dict[str, Any]]]:
    diffs = mobync.apply(clock, [], "ann")["diffs"]
    return [(d["type"], json.loads(d["json_data"])) for d in diffs]


def test_a_push_reaches_the_models_and_the_devices() -> None:
    mobync = Mobync(MemorySynchronizer())
    clock = mobync.push("ann", [("create", "tasks", {"id": "t", "name": "milk", "n": 1})])
    assert clock == 1
    clock = mobync.push(
        "ann", [("update", "tasks", '{"id": "t", "n": 1.50}'), ("delete", "tasks", {"id": "old"})]
    )
    assert clock == 3
    assert rows(mobync) == [{"id": "t", "name": "milk", "n": 1.5}]
    assert pulled(mobync, 1) == [("update", {"id": "t", "n": 1.5}), ("delete", {"id": "old"})]
    assert mobync.apply(1, [], "ann")["diffs"][0]["json_data"] == '{"id": "t", "n": 1.50}'


def test_the_rules_are_not_asked_about_a_push() -> None:
    class Closed(MemorySynchronizer):
        def validate_create(self, owner_id: str, **kwargs: Any) -> bool:
            return False

    mobync = Mobync(Closed())
    assert mobync.push("ann", [("create", "tasks", {"id": "t"})]) == 1


def test_a_push_of_nothing_moves_nothing() -> None:
    mobync = Mobync(MemorySynchronizer())
    assert mobync.push("ann", []) == 0
    mobync.push("ann", [("create", "tasks", {"id": "t"})])
    assert mobync.push("ann", []) == 1


def test_a_large_push_is_written_in_pieces_between_which_devices_sync() -> None:
    def edits(count: int) -> Any:
        return [("create", "tasks", {"id": f"t{n}"}) for n in range(count)]

    mobync = Mobync(MemorySynchronizer())
    clocks: list[int] = []
    mobync.listen(lambda report: clocks.append(report.logical_clock))
    assert mobync.push("ann", edits(12_000)) == 12_000
    other = Mobync(MemorySynchronizer())
    other.listen(lambda report: clocks.append(report.logical_clock))
    assert other.push("ann", edits(6_000), at_once=True) == 6_000
    assert clocks == [5_000, 10_000, 12_000, 6_000]


def test_what_is_wrong_in_a_later_piece_is_named_by_its_place_and_earlier_pieces_stay() -> None:
    edits: Any = [("create", "tasks", {"id": f"t{n}"}) for n in range(6_000)]
    edits[5_500] = ("nonsense", "tasks", {"id": "u"})
    for at_once, written in ((True, 0), (False, 5_000)):
        mobync = Mobync(MemorySynchronizer())
        with pytest.raises(InvalidDiffError, match="type") as refusal:
            mobync.push("ann", edits, at_once=at_once)
        assert (refusal.value.index, refusal.value.diff_id) == (5_500, "u")
        assert len(rows(mobync)) == written


def test_a_later_edit_of_the_backend_wins_over_an_earlier_one_of_a_device() -> None:
    mobync = Mobync(MemorySynchronizer())
    mobync.push("ann", [("create", "tasks", {"id": "t", "name": "milk"})])
    mobync.push("ann", [("update", "tasks", {"id": "t", "name": "bread"})])
    old = {
        "id": "d",
        "owner": "ann",
        "logical_clock": 0,
        "utc_timestamp": 1000,
        "type": "update",
        "model": "tasks",
        "json_data": '{"id": "t", "name": "tea"}',
    }
    reply = mobync.apply(1, [old], "ann")
    assert [json.loads(d["json_data"]) for d in reply["diffs"]] == [{"id": "t", "name": "bread"}]
    assert rows(mobync) == [{"id": "t", "name": "bread"}]


@pytest.mark.parametrize(
    "operation",
    [
        ("replace", "tasks", {"id": "t"}),
        ("create", "diffs", {"id": "t"}),
        ("create", "", {"id": "t"}),
        ("create", "tasks", {}),
        ("create", "tasks", {"id": 7}),
        ("create", "tasks", {"id": "t", "n": float("nan")}),
        ("create", "tasks", "nonsense"),
        ("create", "tasks", 5),
        ("create", "tasks", {"id": "t", "n": object()}),
        ("create", "tasks"),
        5,
    ],
)
def test_a_malformed_operation_is_named_and_nothing_is_written(operation: Any) -> None:
    mobync = Mobync(MemorySynchronizer())
    with pytest.raises(InvalidDiffError) as refusal:
        mobync.push("ann", [("create", "tasks", {"id": "good"}), operation])
    assert refusal.value.index == 1
    assert rows(mobync) == rows(mobync, "diffs") == []


def test_rows_that_were_there_are_adopted_once() -> None:
    mobync = Mobync(MemorySynchronizer())
    for i in range(2500):
        mobync.synchronizer.create("tasks", json.dumps({"id": f"t{i}", "n": i}))
    before = rows(mobync)
    seen: list[int] = []

    assert mobync.adopt("ann", "tasks", before, progress=seen.append) == 2500
    assert seen == [1000, 2000, 2500]
    assert rows(mobync) == before
    assert pulled(mobync) == [("create", row) for row in before]

    assert mobync.adopt("ann", "tasks", before) == 0
    assert mobync.adopt("ann", "tasks", [*before, {"id": "new"}, {"id": "new"}]) == 1
    assert mobync.apply(0, [], "ann")["logical_clock"] == 2501


def test_adopting_passes_over_what_devices_made_and_takes_what_came_back() -> None:
    mobync = Mobync(MemorySynchronizer())
    mobync.push("ann", [("create", "tasks", {"id": i}) for i in ("made", "gone")])
    mobync.push("ann", [("delete", "tasks", {"id": "gone"})])
    mobync.push("ann", [("create", "notes", {"id": "old"})])
    assert mobync.adopt("ann", "tasks", [{"id": i} for i in ("made", "gone", "old")]) == 2
    adopted = [json.loads(d["json_data"])["id"] for d in mobync.apply(4, [], "ann")["diffs"]]
    assert adopted == ["gone", "old"]


def test_a_row_that_was_pushed_before_it_was_adopted_reaches_the_devices_whole() -> None:
    mobync = Mobync(MemorySynchronizer())
    mobync.synchronizer.create("tasks", '{"id": "old", "name": "v1", "n": 1}')
    mobync.push("ann", [("update", "tasks", {"id": "old", "name": "v2"})])
    assert mobync.adopt("ann", "tasks", rows(mobync)) == 1
    assert pulled(mobync)[-1] == ("create", {"id": "old", "name": "v2", "n": 1})
    assert pulled(mobync, 1)[-1] == ("create", {"id": "old", "name": "v2", "n": 1})
    assert mobync.adopt("ann", "tasks", rows(mobync)) == 0
    assert mobync.apply(0, [], "ann")["logical_clock"] == 3

    mobync.push("ann", [("update", "tasks", {"id": "old", "n": 2})])
    assert mobync.adopt("ann", "tasks", rows(mobync)) == 0
    mobync.push("ann", [("delete", "tasks", {"id": "old"})])
    mobync.push("ann", [("update", "tasks", {"id": "other", "n": 2})])
    assert mobync.adopt("ann", "tasks", [{"id": "old"}, {"id": "other"}]) == 2
    assert [row for kind, row in pulled(mobync) if kind == "create"] == [
        {"id": "old"},
        {"id": "other"},
    ]


def test_what_is_wrong_with_a_row_is_said_with_its_place_and_id() -> None:
    mobync = Mobync(MemorySynchronizer())
    good = [{"id": f"t{i}"} for i in range(1000)]
    with pytest.raises(InvalidDiffError, match=r"diff 1001 \('odd'\)") as refusal:
        mobync.adopt("ann", "tasks", [*good, good[0], {"id": "odd", "n": float("nan")}])
    assert (refusal.value.index, refusal.value.diff_id) == (1001, "odd")
    with pytest.raises(InvalidDiffError) as refusal:
        mobync.push("ann", [("create", "tasks", {"id": "odd", "n": float("nan")})])
    assert (refusal.value.index, refusal.value.diff_id) == (0, "odd")


def test_a_row_that_cannot_be_adopted_is_named_and_earlier_pieces_stay() -> None:
    mobync = Mobync(MemorySynchronizer())
    with pytest.raises(InvalidDiffError, match="id that is a str"):
        mobync.adopt("ann", "tasks", [*({"id": f"t{i}"} for i in range(1000)), {"id": 7}])
    assert mobync.apply(0, [], "ann")["logical_clock"] == 1000


def test_a_synchronizer_that_does_not_know_its_rows_says_so() -> None:
    with pytest.raises(NotImplementedError, match="pass the rows to adopt"):
        Mobync(MemorySynchronizer()).adopt("ann", "tasks")
