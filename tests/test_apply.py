"""apply: what is asked, written and answered, in which order, and what stops it."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from mobync import (
    BusyError,
    Diff,
    FilterType,
    InvalidDiffError,
    LogicalClockError,
    Mobync,
    MobyncError,
    OperationType,
    ReadFilter,
    Synchronizer,
    UnauthorizedError,
)
from mobync.memory import MemorySynchronizer
from mobync.types import LogRow

Row = dict[str, Any]


def diff(diff_id: str, kind: str, row: Row, at: int = 10, **more: Any) -> Row:
    return {
        "id": diff_id,
        "owner": "whoever",
        "logical_clock": 0,
        "utc_timestamp": at,
        "type": kind,
        "model": "tasks",
        "json_data": json.dumps(row),
        **more,
    }


class PlainStore(Synchronizer):
    """A store as the documentation shows one: no super().__init__, two filters, JSON out."""

    def __init__(self) -> None:
        self.tables: dict[str, list[Row]] = {}
        self.calls: list[tuple[str, str, str]] = []

    def read(self, where: str, filters: list[ReadFilter]) -> Any:
        rows = self.tables.get(where, [])
        for f in filters:
            if f.filter_by == FilterType.equal:
                rows = [row for row in rows if row[f.field_name] == f.data]
            if f.filter_by == FilterType.majorOrEqual:
                rows = [row for row in rows if row[f.field_name] >= f.data]
        return json.dumps(rows)

    def create(self, where: str, data_json: str) -> None:
        self.calls.append(("create", where, data_json))
        self.tables.setdefault(where, []).append(json.loads(data_json))

    def update(self, where: str, data_json: str) -> None:
        self.calls.append(("update", where, data_json))
        data = json.loads(data_json)
        for row in self.tables.get(where, []):
            if row["id"] == data["id"]:
                row.update(data)

    def delete(self, where: str, data_json: str) -> None:
        self.calls.append(("delete", where, data_json))
        gone = json.loads(data_json)["id"]
        self.tables[where] = [row for row in self.tables.get(where, []) if row["id"] != gone]

    def validate_create(self, owner_id: str, **kwargs: Any) -> bool:
        return True

    def validate_update(self, owner_id: str, **kwargs: Any) -> bool:
        return True

    def validate_delete(self, owner_id: str, **kwargs: Any) -> bool:
        return True

    def log(self) -> list[Row]:
        return self.tables.get("diffs", [])


# ---- what 0.2.0 did, and what is new ---------------------------------------------------------


def test_a_client_counts_up_with_the_replies_clocks() -> None:
    mobync = Mobync(PlainStore())
    clock = 0
    for i in range(5):
        reply = mobync.apply(clock, [diff(f"d{i}", "create", {"id": f"t{i}"})], "ann")
        assert reply == {"success": True, "message": "", "logical_clock": i + 1, "diffs": []}
        clock = reply["logical_clock"]


def test_two_clients_take_turns_and_see_each_others_edits() -> None:
    mobync = Mobync(PlainStore())
    mobync.apply(0, [diff("a1", "create", {"id": "t", "name": "milk"})], "ann")
    reply = mobync.apply(0, [], "ann")
    assert [d["id"] for d in reply["diffs"]] == ["a1"]
    mobync.apply(1, [diff("b1", "update", {"id": "t", "name": "bread"})], "ann")
    reply = mobync.apply(1, [], "ann")
    assert [(d["id"], d["logical_clock"]) for d in reply["diffs"]] == [("b1", 1)]
    assert reply["logical_clock"] == 2


def test_the_clock_may_be_a_string_of_digits() -> None:
    mobync = Mobync(PlainStore())
    assert mobync.apply("0", [diff("a", "create", {"id": "t"})], "ann")["logical_clock"] == 1
    assert mobync.apply("1", [], "ann")["logical_clock"] == 1


def test_the_log_is_read_back_through_read() -> None:
    store = PlainStore()
    mobync = Mobync(store)
    sent = diff("a", "create", {"id": "t", "name": "milk"}, at=77, note="not stored")
    mobync.apply(0, [sent], "ann")
    (row,) = json.loads(store.read("diffs", [ReadFilter(Diff.OWNER, FilterType.equal, "ann")]))
    assert row == {
        "id": "a",
        "owner": "ann",
        "logical_clock": 0,
        "utc_timestamp": 77,
        "type": "create",
        "model": "tasks",
        "json_data": sent["json_data"],
    }


def test_what_went_upstream_carries_its_new_clock_afterwards() -> None:
    mobync = Mobync(PlainStore())
    mobync.apply(0, [diff("a", "create", {"id": "t", "n": 1, "m": 1}, at=50)], "ann")
    sent = [
        diff("b", "update", {"id": "t", "n": 2}, at=10, logical_clock=99),  # loses
        diff("c", "update", {"id": "u", "n": 1}, at=60, logical_clock=99),
        diff("d", "update", {"id": "u", "n": 2, "m": 1}, at=70, logical_clock=99),
    ]
    mobync.apply(0, sent, "ann")
    assert [d["logical_clock"] for d in sent] == [99, 99, 1]


def test_each_accepted_diff_gets_the_owners_next_clock_in_upstream_order() -> None:
    store = PlainStore()
    mobync = Mobync(store)
    mobync.apply(0, [diff(i, "create", {"id": i}) for i in "cab"], "ann")
    mobync.apply(0, [diff("z", "create", {"id": "z"})], "bob")
    assert [(d["owner"], d["logical_clock"], d["id"]) for d in store.log()] == [
        ("ann", 0, "c"),
        ("ann", 1, "a"),
        ("ann", 2, "b"),
        ("bob", 0, "z"),
    ]


def test_an_apply_that_accepts_nothing_does_not_move_the_clock() -> None:
    mobync = Mobync(PlainStore())
    mobync.apply(0, [diff("a", "create", {"id": "t"})], "ann")
    gone = [diff("b", "create", {"id": "u"}), diff("c", "delete", {"id": "u"})]
    assert mobync.apply(1, gone, "ann")["logical_clock"] == 1


def test_without_transactions_each_diff_is_written_and_then_logged() -> None:
    store = PlainStore()
    Mobync(store).apply(0, [diff(i, "create", {"id": i}) for i in "ab"], "ann")
    assert [call[:2] for call in store.calls] == [
        ("create", "tasks"),
        ("create", "diffs"),
        ("create", "tasks"),
        ("create", "diffs"),
    ]


def test_a_store_without_transactions_has_at_most_one_diff_in_doubt_after_a_crash() -> None:
    class Crash(Exception):
        pass

    store = PlainStore()

    def crash(where: str, data_json: str) -> None:
        PlainStore.create(store, where, data_json)
        if len(store.calls) == 3:
            raise Crash

    store.create = crash  # type: ignore[method-assign]
    request = [diff(i, "create", {"id": i}) for i in "abc"]
    with pytest.raises(Crash):
        Mobync(store).apply(0, request, "ann")
    assert [d["id"] for d in store.log()] == ["a"]
    assert [row["id"] for row in store.tables["tasks"]] == ["a", "b"]
    assert [d["logical_clock"] for d in request] == [0, 0, 0]


def test_another_name_of_the_diffs_model() -> None:
    store = PlainStore()
    mobync = Mobync(store, diffs_model_name="new_name")
    mobync.apply(0, [diff("a", "create", {"id": "t"})], "ann")
    assert [d["id"] for d in store.tables["new_name"]] == ["a"]
    assert (mobync.synchronizer, mobync.diffs_model_name) == (store, "new_name")
    with pytest.raises(InvalidDiffError, match="log itself"):
        mobync.apply(0, [diff("b", "create", {"id": "t"}, model="new_name")], "ann")


def test_a_log_of_0_2_0_with_several_diffs_of_one_clock_is_understood() -> None:
    store = PlainStore()
    for i, (name, at) in enumerate([("late", 30), ("early", 20)]):
        old = diff(f"o{i}", "update", {"id": "t", "name": name}, at=at, owner="ann")
        store.tables.setdefault("diffs", []).append({**old, "logical_clock": 4})
    reply = Mobync(store).apply(4, [], "ann")
    assert [json.loads(d["json_data"])["name"] for d in reply["diffs"]] == ["late"]
    assert reply["logical_clock"] == 5


# ---- the window ------------------------------------------------------------------------------


class CountingStore(MemorySynchronizer):
    """Counts the rows that are read; does not offer to know the highest clock."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[tuple[int, int]] = []

    def highest_logical_clock(self, owner_id: str) -> int | None:
        return None

    def read(self, where: str, filters: Sequence[ReadFilter] = ()) -> list[Row]:
        rows = super().read(where, filters)
        self.reads.append((filters[1].data, len(rows)))
        return rows


def history(mobync: Mobync, count: int) -> int:
    """Log `count` diffs of one owner; returns the clock."""
    made = [diff(f"h{i}", "create", {"id": f"h{i}"}) for i in range(count)]
    return mobync.apply(0, made, "ann")["logical_clock"]


@pytest.mark.parametrize("logged", [0, 100_000])
def test_cost_does_not_grow_with_the_log(logged: int) -> None:
    store = CountingStore()
    mobync = Mobync(store)
    clock = history(mobync, logged) if logged else 0
    store.reads.clear()
    mobync.apply(clock, [diff(f"n{i}", "create", {"id": f"n{i}"}) for i in range(10)], "ann")
    assert sum(rows for _, rows in store.reads) == (1 if logged else 0)
    assert len(store.reads) <= 2


def test_an_empty_window_costs_one_row_to_find_the_highest_clock() -> None:
    store = CountingStore()
    mobync = Mobync(store)
    history(mobync, 50)
    store.reads.clear()
    assert mobync.apply(50, [], "ann")["logical_clock"] == 50
    assert store.reads == [(50, 0), (49, 1)]


def test_a_store_that_knows_its_highest_clock_is_asked_instead() -> None:
    class Knowing(CountingStore):
        highest = -1

        def highest_logical_clock(self, owner_id: str) -> int:
            return self.highest

    store = Knowing()
    mobync = Mobync(store)
    history(mobync, 50)
    store.highest = 49
    store.reads.clear()
    assert mobync.apply(50, [], "ann")["logical_clock"] == 50
    assert store.reads == []
    with pytest.raises(LogicalClockError, match="51"):
        mobync.apply(51, [], "ann")
    assert mobync.apply(49, [], "ann")["logical_clock"] == 50
    assert store.reads == [(49, 1)]


def test_a_clock_ahead_of_the_server_is_refused() -> None:
    mobync = Mobync(MemorySynchronizer())
    history(mobync, 3)
    assert mobync.apply(3, [], "ann")["logical_clock"] == 3
    for ahead in (4, 5, 2**53 - 1):
        with pytest.raises(LogicalClockError, match="ahead"):
            mobync.apply(ahead, [], "ann")
    with pytest.raises(LogicalClockError, match="ahead"):
        mobync.apply(1, [], "an owner with no log")


@pytest.mark.parametrize(
    "clock", [-1, 2**53, "-1", "1.0", " 1", "", "x", "٣", 1.0, True, None, [1], "9" * 5000]
)
def test_a_clock_that_is_no_clock_is_refused(clock: Any) -> None:
    with pytest.raises(LogicalClockError):
        Mobync(MemorySynchronizer()).apply(clock, [], "ann")


@pytest.mark.parametrize("as_rows", [json.dumps, lambda rows: json.dumps(rows).encode(), tuple])
def test_read_may_give_text_bytes_or_dicts_in_any_order_with_more_columns(as_rows: Any) -> None:
    class Store(PlainStore):
        def read(self, where: str, filters: list[ReadFilter]) -> Any:
            rows = json.loads(super().read(where, filters))
            return as_rows([{**row, "pk": 7, "extra": {"a": [None]}} for row in reversed(rows)])

    mobync = Mobync(Store())
    sent = [diff(i, "create", {"id": i, "text": 'é"\\\n😀'}) for i in "abc"]
    mobync.apply(0, sent, "ann")
    reply = mobync.apply(0, [], "ann")
    assert [(d["id"], d["json_data"]) for d in reply["diffs"]] == [
        (d["id"], d["json_data"]) for d in sent
    ]


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        (None, "JSON text or a sequence of dicts, not NoneType"),
        (7, "not int"),
        ("{}", "JSON array"),
        ("[1]", "JSON object"),
        ("nonsense", "JSON array"),
        (b"\xff", "JSON array"),
        ([7], "row 0 must be a dict, not int"),
        ([{}], "id is missing"),
        ([{**diff("a", "update", {"id": "x"}), "owner": "ann", "utc_timestamp": "1"}], "an int"),
        ([diff("a", "update", {"id": "x"})], "another owner"),
        ([{**diff("a", "update", {"id": "x"}), "owner": "ann"}], "3 and later"),
        ([{**diff("a", "update", {"id": "x"}), "owner": "ann", "json_data": "{"}], "too early"),
    ],
)
def test_a_store_that_returns_nonsense_is_named_and_nothing_is_written(
    rows: Any, error: str
) -> None:
    class Store(PlainStore):
        def read(self, where: str, filters: list[ReadFilter]) -> Any:
            return rows

    store = Store()
    with pytest.raises((TypeError, ValueError), match=error) as raised:
        Mobync(store).apply(3, [diff("z", "create", {"id": "z"})], "ann")
    assert not isinstance(raised.value, MobyncError)
    assert store.calls == []


def test_a_row_may_hold_the_type_as_a_member_of_the_enum() -> None:
    class Store(PlainStore):
        def read(self, where: str, filters: list[ReadFilter]) -> Any:
            rows = json.loads(super().read(where, filters))
            return [{**row, "type": OperationType[row["type"]]} for row in rows]

    mobync = Mobync(Store())
    mobync.apply(0, [diff("a", "create", {"id": "t"})], "ann")
    assert [d["type"] for d in mobync.apply(0, [], "ann")["diffs"]] == ["create"]


# ---- time ------------------------------------------------------------------------------------


def test_a_timestamp_far_ahead_of_the_server_counts_as_now() -> None:
    store = PlainStore()
    mobync = Mobync(store, max_clock_skew_ms=60_000)
    now = time.time_ns() // 1_000_000
    sent = [
        diff("near", "create", {"id": "a"}, at=now + 50_000),
        diff("far", "create", {"id": "b"}, at=now + 10_000_000),
        diff("absurd", "create", {"id": "c"}, at=2**53 - 1),
    ]
    mobync.apply(0, sent, "ann")
    near, far, absurd = (d["utc_timestamp"] for d in store.log())
    assert near == now + 50_000
    assert now <= far <= now + 60_000
    assert now <= absurd <= now + 60_000


def test_a_device_from_the_future_cannot_win_for_years() -> None:
    mobync = Mobync(PlainStore())
    mobync.apply(0, [diff("a", "create", {"id": "t", "n": 0}, at=1)], "ann")
    mobync.apply(1, [diff("future", "update", {"id": "t", "n": 1}, at=2**52)], "ann")
    later = time.time_ns() // 1_000_000 + 1000
    mobync.apply(1, [diff("now", "update", {"id": "t", "n": 2}, at=later)], "ann")
    assert json.loads(mobync.synchronizer.read("tasks", []))[0]["n"] == 2


# ---- rules -----------------------------------------------------------------------------------


class AskingStore(MemorySynchronizer):
    """Remembers what the rules were asked; refuses the diffs named in `refused`."""

    def __init__(self, *refused: str) -> None:
        super().__init__()
        self.refused = set(refused)
        self.asked: list[tuple[str, str, Row]] = []

    def ask(self, rule: str, owner_id: str, sent: Row) -> bool:
        self.asked.append((rule, owner_id, sent))
        return sent["id"] not in self.refused

    def validate_create(self, owner_id: str, **kwargs: Any) -> bool:
        return self.ask("create", owner_id, kwargs)

    def validate_update(self, owner_id: str, **kwargs: Any) -> bool:
        return self.ask("update", owner_id, kwargs)

    def validate_delete(self, owner_id: str, **kwargs: Any) -> bool:
        return self.ask("delete", owner_id, kwargs)


def test_each_rule_sees_the_diff_as_the_client_sent_it() -> None:
    store = AskingStore()
    sent = [
        diff("a", "create", {"id": "t"}, at=2**52, color="red"),
        diff("b", "update", {"id": "t"}),
        diff("c", "delete", {"id": "u"}),
    ]
    before = [dict(d) for d in sent]
    Mobync(store).apply(0, sent, "ann")
    assert store.asked == [
        ("create", "ann", before[0]),
        ("update", "ann", before[1]),
        ("delete", "ann", before[2]),
    ]


class Seconds(int):
    """A number of another type than int."""


class Name(str):
    """A text of another type than str."""

    __slots__ = ()


SENT = diff("a", "create", {"id": "t"}, at=7)


@pytest.mark.parametrize(
    "sent",
    [
        SENT,
        json.loads(json.dumps(SENT)),  # its keys are other objects
        dict(reversed(SENT.items())),
        {**SENT, "utc_timestamp": 2**53 - 1},
        {**SENT, "utc_timestamp": Seconds(7)},
        {**SENT, "logical_clock": Seconds(0)},
        {**SENT, "owner": Name("whoever")},
        {Name(key): value for key, value in SENT.items()},
        {**SENT, "type": OperationType.create},
        {**SENT, "z": [1]},
        OrderedDict(SENT),
    ],
)
def test_a_rule_sees_what_was_sent_whatever_dict_it_came_in(sent: Row) -> None:
    store = AskingStore()
    before = [(key, value, type(value)) for key, value in sent.items()]
    Mobync(store).apply(0, [sent], "ann")
    ((_, _, asked),) = store.asked
    assert [(key, value, type(value)) for key, value in asked.items()] == before


def test_a_rule_sees_the_time_that_was_sent_also_behind_a_retry() -> None:
    store = AskingStore()
    mobync = Mobync(store)
    mobync.apply(0, [diff("a", "create", {"id": "t"})], "ann")
    store.asked.clear()
    late = diff("b", "update", {"id": "t", "n": 1}, at=2**53 - 1)
    mobync.apply(0, [diff("a", "create", {"id": "t"}), dict(late)], "ann")
    assert store.asked == [("update", "ann", late)]


def test_what_a_rule_does_to_the_dicts_of_a_request_changes_nothing() -> None:
    sent = [diff(i, "create", {"id": i}) for i in "abc"]
    sent[1]["more"] = 1
    before = [dict(d) for d in sent]

    class Store(AskingStore):
        def ask(self, rule: str, owner_id: str, asked: Row) -> bool:
            answer = super().ask(rule, owner_id, dict(asked))
            for given in (*sent, asked):
                given.update(id="other", owner="", json_data="{}", more=2)
            return answer

    store = Store()
    Mobync(store).apply(0, sent, "ann")
    assert [asked for _, _, asked in store.asked] == before
    assert [row["id"] for row in store.read("tasks")] == ["a", "b", "c"]


def test_what_a_rule_refuses_refuses_the_whole_request() -> None:
    store = AskingStore("b")
    sent = [diff(i, "create", {"id": i}) for i in "abc"]
    with pytest.raises(UnauthorizedError, match="validate_create") as refusal:
        Mobync(store).apply(0, sent, "ann")
    assert (refusal.value.index, refusal.value.diff_id) == (1, "b")
    assert store.read("tasks") == store.read("diffs") == []
    assert [d["logical_clock"] for d in sent] == [0, 0, 0]


def test_a_retry_is_not_asked_again_and_writes_nothing() -> None:
    store = AskingStore()
    mobync = Mobync(store)
    request = [diff("a", "create", {"id": "t", "n": 1}), diff("b", "create", {"id": "u"})]
    first = mobync.apply(0, [dict(d) for d in request], "ann")
    store.asked.clear()
    store.refused = {"a", "b"}
    again = mobync.apply(0, request, "ann")
    assert again == first
    assert store.asked == []
    assert len(store.read("diffs")) == 2


def test_a_diff_id_that_stands_twice_is_asked_and_written_once() -> None:
    store = AskingStore()
    Mobync(store).apply(0, [diff("a", "create", {"id": "t"})] * 2, "ann")
    assert len(store.asked) == len(store.read("diffs")) == 1


def test_validate_checks_the_form_and_asks_the_rule() -> None:
    mobync = Mobync(AskingStore("no"))
    assert mobync.validate(diff("yes", "update", {"id": "t"}), "ann") is True
    with pytest.raises(UnauthorizedError) as refusal:
        mobync.validate(diff("no", "update", {"id": "t"}), "ann")
    assert refusal.value.diff_id == "no"
    with pytest.raises(InvalidDiffError, match="json_data"):
        mobync.validate(diff("x", "update", {}), "ann")


@pytest.mark.parametrize("method", ["read", "create", "update", "delete", "validate_update"])
def test_an_exception_of_the_app_reaches_the_caller_unchanged(method: str) -> None:
    class Broken(Exception):
        pass

    class Store(PlainStore):
        pass

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise broken

    broken = Broken("mine")
    store = Store()
    store.tables = {"tasks": [{"id": "t"}, {"id": "u"}], "diffs": []}
    setattr(store, method, fail)
    request = [diff("a", "update", {"id": "t"} | {"n": 1}), diff("b", "delete", {"id": "u"})]
    with pytest.raises(Broken) as raised:
        Mobync(store).apply(0, request, "ann")
    assert raised.value is broken


# ---- transactions ----------------------------------------------------------------------------


class RecordingStore(MemorySynchronizer):
    """Writes down which batch calls reached it."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[tuple[str, str, int]] = []

    def create_many(self, where: str, rows_json: Sequence[str]) -> None:
        self.batches.append(("create", where, len(rows_json)))
        super().create_many(where, rows_json)

    def update_many(self, where: str, rows_json: Sequence[str]) -> None:
        self.batches.append(("update", where, len(rows_json)))
        super().update_many(where, rows_json)

    def delete_many(self, where: str, rows_json: Sequence[str]) -> None:
        self.batches.append(("delete", where, len(rows_json)))
        super().delete_many(where, rows_json)

    def append_log(self, where: str, rows: Sequence[LogRow]) -> None:
        self.batches.append(("append", where, len(rows)))
        super().append_log(where, rows)


def test_a_store_with_transactions_gets_runs_and_the_log_in_one() -> None:
    store = RecordingStore()
    request = [
        diff("1", "create", {"id": "a"}),
        diff("2", "create", {"id": "b"}),
        diff("3", "create", {"id": "p"}, model="projects"),
        diff("4", "create", {"id": "c"}),
        diff("5", "update", {"id": "old", "n": 1}),
        diff("6", "delete", {"id": "older"}),
        diff("7", "delete", {"id": "oldest"}),
    ]
    Mobync(store).apply(0, request, "ann")
    assert store.batches == [
        ("create", "tasks", 2),
        ("create", "projects", 1),
        ("create", "tasks", 1),
        ("update", "tasks", 1),
        ("delete", "tasks", 2),
        ("append", "diffs", 7),
    ]


@pytest.mark.parametrize("failing", ["append_log", "update_many", "commit"])
def test_a_transaction_that_fails_leaves_nothing(failing: str) -> None:
    class Store(MemorySynchronizer):
        def update_many(self, where: str, rows_json: Sequence[str]) -> None:
            super().update_many(where, rows_json)
            if failing == "update_many":
                raise KeyboardInterrupt

        def append_log(self, where: str, rows: Sequence[LogRow]) -> None:
            super().append_log(where, rows)
            if failing == "append_log":
                raise KeyboardInterrupt

        @contextmanager
        def transaction(self, owner_id: str) -> Iterator[MemorySynchronizer]:
            with super().transaction(owner_id) as inside:
                yield inside
                if failing == "commit":
                    raise KeyboardInterrupt

    store = Store()
    store.create("tasks", '{"id": "t", "n": 0}')
    request = [diff("a", "create", {"id": "u"}), diff("b", "update", {"id": "t", "n": 1})]
    with pytest.raises(KeyboardInterrupt):
        Mobync(store).apply(0, request, "ann")
    assert store.read("tasks") == [{"id": "t", "n": 0}]
    assert store.read("diffs") == []
    assert [d["logical_clock"] for d in request] == [0, 0]


class Deadlock(Exception):
    pass


class UnluckyStore(MemorySynchronizer):
    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures
        self.attempts = 0

    def is_transient(self, error: Exception) -> bool:
        return isinstance(error, Deadlock)

    @contextmanager
    def transaction(self, owner_id: str) -> Iterator[MemorySynchronizer]:
        self.attempts += 1
        with super().transaction(owner_id) as inside:
            yield inside
            if self.attempts <= self.failures:
                raise Deadlock


def test_a_transient_error_is_tried_again_from_the_start() -> None:
    store = UnluckyStore(failures=2)
    reply = Mobync(store).apply(0, [diff("a", "create", {"id": "t"})], "ann")
    assert (store.attempts, reply["logical_clock"]) == (3, 1)
    assert len(store.read("diffs")) == 1


def test_an_error_that_does_not_pass_is_busy_and_says_why() -> None:
    store = UnluckyStore(failures=100)
    with pytest.raises(BusyError) as caught:
        Mobync(store).apply(0, [diff("a", "create", {"id": "t"})], "ann")
    assert isinstance(caught.value.__cause__, Deadlock)
    assert 1 < store.attempts < 10
    assert store.read("diffs") == []


def test_a_transaction_that_swallows_an_exception_is_found_out() -> None:
    class Store(PlainStore):
        @contextmanager
        def transaction(self, owner_id: str) -> Iterator[Synchronizer]:
            with suppress(ZeroDivisionError):
                yield self

        def validate_create(self, owner_id: str, **kwargs: Any) -> bool:
            return bool(1 / 0)

    with pytest.raises(RuntimeError, match="swallowed"):
        Mobync(Store()).apply(0, [diff("a", "create", {"id": "t"})], "ann")


def test_a_transaction_must_yield_a_synchronizer() -> None:
    class Store(PlainStore):
        @contextmanager
        def transaction(self, owner_id: str) -> Iterator[Any]:
            yield None

    with pytest.raises(TypeError, match="must yield a Synchronizer, not NoneType"):
        Mobync(Store()).apply(0, [], "ann")


# ---- construction ----------------------------------------------------------------------------


def test_a_subclass_that_lacks_a_method_cannot_be_made() -> None:
    class Half(Synchronizer):
        def read(self, where: str, filters: list[ReadFilter]) -> str:
            return "[]"

    with pytest.raises(TypeError, match="validate_delete"):
        Half()  # type: ignore[abstract]


@pytest.mark.parametrize("bad", [None, object(), PlainStore, "store"])
def test_something_that_is_no_synchronizer_is_a_type_error(bad: Any) -> None:
    with pytest.raises(TypeError, match="must be a Synchronizer"):
        Mobync(bad)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"diffs_model_name": ""}, ValueError),
        ({"diffs_model_name": 7}, TypeError),
        ({"max_clock_skew_ms": -1}, ValueError),
        ({"max_clock_skew_ms": 1.5}, TypeError),
        ({"lock_timeout_s": -1}, ValueError),
        ({"lock_timeout_s": float("nan")}, ValueError),
        ({"lock_timeout_s": "10"}, TypeError),
        ({"max_diffs": -1}, ValueError),
        ({"max_json_data_bytes": 2**40}, ValueError),
        ({"max_depth": 1001}, ValueError),
        ({"max_depth": True}, TypeError),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Mobync(PlainStore(), **options)


@pytest.mark.parametrize(
    ("owner_id", "error"),
    [("", ValueError), ("a\0b", ValueError), ("\ud800", ValueError), (None, TypeError)],
)
def test_an_owner_that_is_no_text(owner_id: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        Mobync(PlainStore()).apply(0, [], owner_id)
