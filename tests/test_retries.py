"""The rules and a retry: the first try stands in no retry's way, and opens no way around them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_apply import Row, diff

from mobync import FilterType, Mobync, ReadFilter, Reply, Synchronizer, UnauthorizedError
from mobync.memory import MemorySynchronizer

Sync = Callable[[Mobync, int, list[Row]], Any]


def by_dicts(mobync: Mobync, clock: int, diffs: list[Row]) -> Reply:
    return mobync.apply(clock, [dict(d) for d in diffs], "anna")


def by_json(mobync: Mobync, clock: int, diffs: list[Row]) -> Any:
    body = json.dumps({"logical_clock": clock, "diffs": diffs})
    return json.loads(mobync.apply_json(body, "anna"))


@pytest.fixture(params=[by_dicts, by_json])
def sync(request: pytest.FixtureRequest) -> Sync:
    found: Sync = request.param
    return found


class Locking(MemorySynchronizer):
    """A locked row may not be edited, and no diff that says ``refuse`` is allowed."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def validate_create(self, owner_id: str, **sent: Any) -> bool:
        self.asked.append(sent["id"])
        row_id = json.loads(sent["json_data"])["id"]
        rows = self.read(sent["model"], [ReadFilter("id", FilterType.equal, row_id)])
        return "refuse" not in sent and not any(row.get("locked") for row in rows)

    validate_update = validate_delete = validate_create


def filled(on_refusal: Any = "raise") -> tuple[Mobync, Locking]:
    """A store with the task t0, made by the known diff c0."""
    store = Locking()
    mobync = Mobync(store, on_refusal=on_refusal)
    mobync.apply(0, [C0], "anna")
    store.asked.clear()
    return mobync, store


C0 = diff("c0", "create", {"id": "t0", "name": "milk"})


def test_an_edit_that_was_folded_into_a_create_is_not_asked_again(sync: Sync) -> None:
    store = Locking()
    mobync = Mobync(store)
    request = [
        diff("c1", "create", {"id": "t", "name": "milk"}),
        diff("u1", "update", {"id": "t", "locked": True}, at=20),
    ]
    assert sync(mobync, 0, request) == sync(mobync, 0, request)
    assert store.asked == ["c1", "u1"]


def test_an_edit_that_a_later_one_replaced_is_not_asked_again(sync: Sync) -> None:
    mobync, store = filled()
    request = [
        diff("u1", "update", {"id": "t0", "name": "oat milk"}),
        diff("u2", "update", {"id": "t0", "name": "soy milk", "locked": True}, at=20),
    ]
    assert sync(mobync, 1, request) == sync(mobync, 1, request)
    assert store.asked == ["u1", "u2"]


def test_a_request_that_is_all_new_is_asked_whole(sync: Sync) -> None:
    mobync, store = filled()
    request = [diff(f"u{i}", "update", {"id": "t0", "name": f"{i}"}, at=i + 10) for i in range(3)]
    sync(mobync, 1, request)
    assert store.asked == ["u0", "u1", "u2"]


def test_what_is_new_in_a_retry_is_asked(sync: Sync) -> None:
    mobync, store = filled()
    request = [C0, diff("u1", "update", {"id": "t0", "name": "wine"}, at=20, refuse=1)]
    with pytest.raises(UnauthorizedError) as refusal:
        sync(mobync, 0, request)
    assert (refusal.value.index, refusal.value.diff_id) == (1, "u1")
    assert store.asked == ["u1"]


@pytest.mark.parametrize(
    "new",
    [
        [
            diff("c1", "create", {"id": "t1", "name": "tea"}, at=20),
            diff("u1", "update", {"id": "t1", "name": "wine"}, at=30, refuse=1),
        ],
        [
            diff("u1", "update", {"id": "t1", "name": "wine"}, at=30, refuse=1),
            diff("c1", "create", {"id": "t1", "name": "tea"}, at=20),
        ],
        [
            diff("d0", "delete", {"id": "t0"}, at=15),
            diff("c1", "create", {"id": "t0", "name": "tea"}, at=20),
            diff("u1", "update", {"id": "t0", "rank": 3}, at=30, refuse=1),
        ],
    ],
    ids=["after it", "before it by a client's sort", "after a delete"],
)
def test_what_is_folded_into_a_new_create_is_asked(sync: Sync, new: list[Row]) -> None:
    """Else a known diff in the request would open a way around the rules."""
    mobync, store = filled()
    with pytest.raises(UnauthorizedError) as refusal:
        sync(mobync, 0, [C0, *new])
    assert refusal.value.diff_id == "u1"
    assert store.read("tasks") == [{"id": "t0", "name": "milk"}]


def test_without_a_refused_edit_the_one_before_it_is_asked_and_written(sync: Sync) -> None:
    mobync, store = filled("skip")
    request = [
        C0,
        diff("u1", "update", {"id": "t0", "name": "tea"}, at=20),
        diff("u2", "update", {"id": "t0", "name": "wine"}, at=30, refuse=1),
    ]
    reply = sync(mobync, 0, request)
    assert sorted(store.asked) == ["u1", "u2"]
    assert [refusal["id"] for refusal in reply["refused"]] == ["u2"]
    assert store.read("tasks") == [{"id": "t0", "name": "tea"}]


def test_of_many_refused_edits_none_is_written(sync: Sync) -> None:
    mobync, store = filled("skip")
    edits = [
        diff(f"u{i}", "update", {"id": "t0", "name": f"{i}"}, at=i + 20, refuse=1)
        for i in range(50)
    ]
    reply = sync(mobync, 0, [C0, *edits])
    assert [refusal["id"] for refusal in reply["refused"]] == [edit["id"] for edit in edits]
    assert sorted(store.asked) == sorted(edit["id"] for edit in edits)
    assert store.read("tasks") == [{"id": "t0", "name": "milk"}]


def test_all_that_follows_a_refused_create_goes_with_it(sync: Sync) -> None:
    mobync, _ = filled("skip")
    request = [
        C0,
        diff("c1", "create", {"id": "t1"}, at=20, refuse=1),
        diff("u1", "update", {"id": "t1", "name": "tea"}, at=30),
        diff("u2", "update", {"id": "t1", "name": "wine"}, at=40),
    ]
    reply = sync(mobync, 0, request)
    assert [(r["id"], r["code"]) for r in reply["refused"]] == [
        ("c1", "unauthorized"),
        ("u1", "depends_on_refused"),
        ("u2", "depends_on_refused"),
    ]
    assert reply["logical_clock"] == 1


def test_what_comes_before_a_refused_delete_stands_by_itself(sync: Sync) -> None:
    mobync, store = filled("skip")
    request = [
        C0,
        diff("u1", "update", {"id": "t0", "name": "tea"}, at=20),
        diff("d1", "delete", {"id": "t0"}, at=30, refuse=1),
    ]
    reply = sync(mobync, 0, request)
    assert [refusal["id"] for refusal in reply["refused"]] == ["d1"]
    assert store.read("tasks") == [{"id": "t0", "name": "tea"}]


def test_a_retry_of_what_was_partly_refused_is_answered_alike(sync: Sync) -> None:
    mobync, _ = filled("skip")
    request = [
        diff("c1", "create", {"id": "t1", "name": "tea"}, at=20),
        diff("u1", "update", {"id": "t1", "locked": True}, at=30),
        diff("c2", "create", {"id": "t2"}, at=40, refuse=1),
    ]
    first, again = sync(mobync, 1, request), sync(mobync, 1, request)
    assert again["refused"] == first["refused"]
    assert [refusal["id"] for refusal in first["refused"]] == ["c2"]
    assert again["logical_clock"] == first["logical_clock"] == 2


def test_what_a_refused_create_would_carry_is_not_written_by_a_retry(sync: Sync) -> None:
    """The create meets the row of another device and nothing is left of it to write."""
    mobync, store = filled("skip")
    mobync.apply(1, [diff("s1", "create", {"id": "t1", "name": "tea"}, at=90)], "anna")
    request = [
        diff("c2", "create", {"id": "t2"}, at=20),
        diff("c1", "create", {"id": "t1", "name": "wine"}, at=20, refuse=1),
        diff("u1", "update", {"id": "t1", "rank": 3}, at=30),
    ]
    first, again = sync(mobync, 1, request), sync(mobync, 1, request)
    assert again["refused"] == first["refused"]
    assert [refusal["id"] for refusal in first["refused"]] == ["c1", "u1"]
    assert store.read("tasks", [ReadFilter("id", FilterType.equal, "t1")]) == [
        {"id": "t1", "name": "tea"}
    ]


def test_what_a_malformed_create_took_along_is_refused_again_in_a_retry(sync: Sync) -> None:
    """Another device has made the object meanwhile, so nothing of these edits would be written."""
    mobync, store = filled("skip")
    request = [
        diff("c2", "create", {"id": "t2"}, at=20),
        diff("c1", "create", {"id": "t1", "name": "wine"}, at=-1),
        diff("u1", "update", {"id": "t1", "rank": 3}, at=30),
    ]
    first = sync(mobync, 1, request)
    mobync.apply(1, [diff("s1", "create", {"id": "t1", "name": "tea"}, at=90)], "anna")
    again = sync(mobync, 1, request)
    assert [(r["id"], r["code"]) for r in first["refused"]] == [
        ("c1", "invalid"),
        ("u1", "depends_on_refused"),
    ]
    assert again["refused"] == first["refused"]
    assert store.read("tasks", [ReadFilter("id", FilterType.equal, "t1")]) == [
        {"id": "t1", "name": "tea"}
    ]


def test_a_delete_that_a_malformed_diff_took_along_leaves_a_create_that_is_asked(
    sync: Sync,
) -> None:
    mobync, store = filled("skip")
    request = [
        C0,
        diff("c1", "create", {"id": "t1", "name": "tea"}, at=20),
        diff("u1", "update", {"id": "t1", "name": "wine"}, at=-1),
        diff("d1", "delete", {"id": "t1"}, at=30),
    ]
    reply = sync(mobync, 0, request)
    assert [refusal["id"] for refusal in reply["refused"]] == ["u1", "d1"]
    assert store.asked == ["c1"]
    assert store.read("tasks", [ReadFilter("id", FilterType.equal, "t1")]) == [
        {"id": "t1", "name": "tea"}
    ]


def test_a_refused_edit_lends_no_time_to_a_later_one_in_a_retry(sync: Sync) -> None:
    """Within a device's edits time does not run back, so one from the future lifts the next."""
    mobync, store = filled("skip")
    mobync.apply(1, [diff("s1", "update", {"id": "t0", "name": "tea"}, at=50)], "anna")
    request = [
        diff("c2", "create", {"id": "t2"}, at=20),
        diff("u1", "update", {"id": "t0", "name": "wine"}, at=90, refuse=1),
        diff("u2", "update", {"id": "t0", "name": "beer"}, at=30),
    ]
    first, again = sync(mobync, 1, request), sync(mobync, 1, request)
    assert again["logical_clock"] == first["logical_clock"]
    assert store.read("tasks", [ReadFilter("id", FilterType.equal, "t0")]) == [
        {"id": "t0", "name": "tea"}
    ]


KINDS = st.sampled_from(["create", "update", "update", "delete"])
EDITS = st.lists(
    st.tuples(KINDS, st.sampled_from("xy"), st.integers(1, 6), st.sets(st.sampled_from("abc"))),
    max_size=7,
)


def told_apart(prefix: str, edits: list[Any]) -> list[Row]:
    """Diffs of which each writes its own id into its fields."""
    return [
        diff(
            f"{prefix}{i}",
            kind,
            {"id": row_id, **dict.fromkeys(fields if kind != "delete" else (), f"{prefix}{i}")},
            at,
        )
        for i, (kind, row_id, at, fields) in enumerate(edits)
    ]


class Recording(Synchronizer):
    """Has a log to read, and notes what it is asked and what is written."""

    def __init__(self, log: list[Row]) -> None:
        self.log = log
        self.asked: set[str] = set()
        self.written: list[Row] = []

    def read(self, where: str, filters: list[ReadFilter]) -> list[Row]:
        return [row for row in self.log if row["logical_clock"] >= filters[1].data]

    def create(self, where: str, data_json: str) -> None:
        if where == "diffs":
            self.written.append(json.loads(data_json))

    def update(self, where: str, data_json: str) -> None: ...
    def delete(self, where: str, data_json: str) -> None: ...

    def validate_create(self, owner_id: str, **sent: Any) -> bool:
        self.asked.add(sent["id"])
        return True

    validate_update = validate_delete = validate_create


@pytest.mark.long
@settings(max_examples=2000, deadline=None)
@given(others=EDITS, edits=EDITS, known=st.sets(st.integers(0, 6)))
def test_just_those_are_asked_that_have_a_part_in_what_goes_upstream(
    others: list[Any], edits: list[Any], known: set[int]
) -> None:
    request = told_apart("r", edits)
    window = told_apart("w", others) + [d for i, d in enumerate(request) if i in known]
    log = [{**d, "owner": "anna", "logical_clock": clock} for clock, d in enumerate(window)]
    store = Recording(log)
    Mobync(store).apply(0, request, "anna")
    writers = set()
    for sent in store.written:
        fields = json.loads(sent["json_data"])
        del fields["id"]
        writers |= {sent["id"], *fields.values()}
    in_window = {d["id"] for d in window}
    is_retry = any(d["id"] in in_window for d in request)
    assert store.asked == (writers - in_window if is_retry else {d["id"] for d in request})
