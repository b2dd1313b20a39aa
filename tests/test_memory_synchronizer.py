"""MemorySynchronizer: filters beside a plain scan, transactions, and no shared rows."""

from __future__ import annotations

import copyreg
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_apply import diff

from mobync import FilterType, InvalidDiffError, Mobync, ReadFilter
from mobync.memory import MemorySynchronizer

values = st.sampled_from([None, True, 0, 1, 1.5, 2, -3, "", "a", "b", [1], {"k": 1}])
operations = st.lists(
    st.tuples(
        st.sampled_from(["create", "update", "delete"]),
        st.sampled_from(["1", "2", "3", "4"]),
        st.dictionaries(st.sampled_from("pq"), values, max_size=2),
    ),
    max_size=25,
)
filters = st.lists(
    st.builds(ReadFilter, st.sampled_from(["p", "q", "id"]), st.sampled_from(FilterType), values),
    max_size=3,
)


def passes(row: dict[str, Any], f: ReadFilter) -> bool:
    value = row.get(f.field_name)
    if f.filter_by is FilterType.equal:
        return bool(value == f.data)
    numbers = isinstance(value, (int, float)) and isinstance(f.data, (int, float))
    if not numbers and not (isinstance(value, str) and isinstance(f.data, str)):
        return False
    return {
        FilterType.major: value > f.data,
        FilterType.minor: value < f.data,
        FilterType.majorOrEqual: value >= f.data,
        FilterType.minorOrEqual: value <= f.data,
    }[f.filter_by]


def write(store: MemorySynchronizer, rows: dict[str, Any], operation: Any) -> None:
    """Does the operation to the store and to the plain dict beside it."""
    kind, row_id, fields = operation
    if kind == "create" and row_id in rows:
        with pytest.raises(InvalidDiffError, match="id cannot be used"):
            store.create("t", json.dumps({"id": row_id}))
        return
    getattr(store, kind)("t", json.dumps({"id": row_id, **fields}))
    if kind == "delete":
        rows.pop(row_id, None)
    elif kind == "create" or row_id in rows:
        rows[row_id] = {**rows.get(row_id, {}), "id": row_id, **fields}


@settings(max_examples=400, deadline=None)
@given(before=operations, inside=operations, asked=st.lists(filters, min_size=1, max_size=4))
def test_every_filter_finds_what_a_scan_finds_in_and_out_of_transactions(
    before: list[Any], inside: list[Any], asked: list[list[ReadFilter]]
) -> None:
    store = MemorySynchronizer()
    rows: dict[str, Any] = {}

    def check(view: MemorySynchronizer, expected: dict[str, Any]) -> None:
        for question in asked:
            found = {row["id"]: row for row in view.read("t", question)}
            assert found == {
                i: row for i, row in expected.items() if all(passes(row, f) for f in question)
            }

    check(store, rows)
    for operation in before:
        write(store, rows, operation)
    check(store, rows)

    committed = {row_id: dict(row) for row_id, row in rows.items()}
    with store.transaction("ann") as view:
        for operation in inside:
            write(view, rows, operation)
        check(view, rows)
        check(store, committed)
    check(store, rows)


def test_a_transaction_that_raises_leaves_nothing() -> None:
    store = MemorySynchronizer()
    store.create("t", '{"id": "1", "n": 1}')
    with pytest.raises(ZeroDivisionError), store.transaction("ann") as view:
        view.update("t", '{"id": "1", "n": 2}')
        view.create("t", '{"id": "2"}')
        view.create("other", '{"id": "1"}')
        raise ZeroDivisionError
    assert store.read("t") == [{"id": "1", "n": 1}]
    assert store.read("other") == []


def test_two_transactions_that_create_the_same_row_do_not_both_commit() -> None:
    store = MemorySynchronizer()
    with (
        pytest.raises(InvalidDiffError, match="id cannot be used"),
        store.transaction("ann") as hers,
    ):
        hers.create("t", '{"id": "1", "by": "ann"}')
        with store.transaction("bob") as his:
            his.create("t", '{"id": "1", "by": "bob"}')
    assert store.read("t") == [{"id": "1", "by": "bob"}]


def test_a_transaction_in_a_transaction_is_an_error() -> None:
    with (
        MemorySynchronizer().transaction("ann") as inside,
        pytest.raises(RuntimeError, match="open already"),
        inside.transaction("ann"),
    ):
        pass


def test_rows_that_were_read_are_the_callers_own() -> None:
    store = MemorySynchronizer()
    store.create("t", '{"id": "1", "tags": ["a"]}')
    (row,) = store.read("t")
    row["tags"].append("b")
    row["n"] = 1
    assert store.read("t") == [{"id": "1", "tags": ["a"]}]


def test_an_override_of_a_subclass_rules_inside_a_transaction() -> None:
    class Strict(MemorySynchronizer):
        def validate_create(self, owner_id: str, **kwargs: Any) -> bool:
            return not self.read("t", [ReadFilter("id", FilterType.equal, "1")])

    store = Strict()
    with store.transaction("ann") as inside:
        assert inside.validate_create("ann")
        inside.create("t", '{"id": "1"}')
        assert not inside.validate_create("ann")
        assert store.validate_create("ann")


def test_an_id_that_is_taken_names_its_diff_and_the_others_arrive() -> None:
    store = MemorySynchronizer()
    store.create("tasks", '{"id": "b"}')  # by the app, so that no log has it
    sent = [diff(i, "create", {"id": i}) for i in "abc"]
    with pytest.raises(InvalidDiffError, match=r"diff 1 .*: json_data: id cannot be used"):
        Mobync(store).apply(0, sent, "ann")
    reply = Mobync(store, on_refusal="skip").apply(0, sent, "ann")
    assert [r["id"] for r in reply["refused"]] == ["b"]
    assert {row["id"] for row in store.read("tasks")} == {"a", "b", "c"}


def test_two_owners_may_use_the_same_diff_id() -> None:
    store = MemorySynchronizer()
    for owner in ("ann", "bob"):
        store.create("diffs", json.dumps({"id": "d", "owner": owner, "logical_clock": 0}))
    with pytest.raises(InvalidDiffError, match="id cannot be used"):
        store.create("diffs", '{"id": "d", "owner": "ann", "logical_clock": 1}')


def test_the_highest_clock_is_offered_once_there_is_a_log() -> None:
    store = MemorySynchronizer()
    assert store.highest_logical_clock("ann") is None
    for clock in (3, 9, 5):
        row = {"id": f"d{clock}", "owner": "ann", "logical_clock": clock}
        store.create("diffs", json.dumps(row))
    assert store.highest_logical_clock("ann") == 9
    assert store.highest_logical_clock("bob") == -1
    with store.transaction("ann") as inside:
        assert inside.highest_logical_clock("ann") == 9
        inside.create("diffs", '{"id": "d10", "owner": "ann", "logical_clock": 10}')
        assert inside.highest_logical_clock("ann") is None
    assert MemorySynchronizer("log").highest_logical_clock("ann") is None


UNREADABLE = "1" * 5000


@pytest.mark.parametrize("kind", ["create", "update", "delete"])
def test_a_row_that_python_cannot_read_is_an_invalid_diff(kind: str) -> None:
    store = MemorySynchronizer()
    sent = diff("d", kind, {"id": "x"})
    sent["json_data"] = f'{{"id": "x", "n": {UNREADABLE}}}'
    with pytest.raises(
        InvalidDiffError, match="a number is too long or nested too deep"
    ) as refusal:
        Mobync(store).apply(0, [diff("c", "create", {"id": "y"}), sent], "anna")
    assert (refusal.value.index, refusal.value.diff_id) == (1, "d")
    assert store.read("tasks") == store.read("diffs") == []


@pytest.mark.parametrize("levels", [*range(900, 1000, 7), *range(980, 1001)])
def test_a_deep_row_is_refused_or_can_be_read(levels: int) -> None:
    """How deep Python's own reader goes depends on its version, and on who calls it."""
    store = MemorySynchronizer()
    sent = diff("d", "create", {"id": "x"})
    sent["json_data"] = f'{{"id": "x", "n": {"[" * (levels - 1)}{"]" * (levels - 1)}}}'
    try:
        Mobync(store).apply(0, [sent], "anna")
    except InvalidDiffError:
        assert store.read("tasks") == store.read("diffs") == []
        return
    found = from_within(20, lambda: store.read("tasks"))
    assert [row["id"] for row in found] == ["x"]


def from_within(calls: int, work: Callable[[], Any]) -> Any:
    return work() if calls == 0 else from_within(calls - 1, work)


# ---- a store of a subclass, copied for a transaction ---------------------------------------------


class WithAttributes(MemorySynchronizer):
    def __init__(self) -> None:
        super().__init__()
        self.mine = ["mine"]


class WithSlots(MemorySynchronizer):
    __slots__ = ("mine",)

    def __init__(self) -> None:
        super().__init__()
        self.mine = ["mine"]


class WithCopy(WithAttributes):
    def __copy__(self) -> WithCopy:
        copied = WithCopy.__new__(WithCopy)
        vars(copied).update(vars(self), mine=["copied"])
        return copied


class WithState(WithAttributes):
    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, mine=["copied"])


class OfWithCopy(WithCopy):
    pass


class WithReducer(WithAttributes):
    pass


def rebuild(kind: type[MemorySynchronizer], attributes: dict[str, Any]) -> MemorySynchronizer:
    copied = kind.__new__(kind)
    vars(copied).update(attributes, mine=["copied"])
    return copied


copyreg.pickle(WithReducer, lambda store: (rebuild, (type(store), vars(store))))


@pytest.mark.parametrize(
    ("kind", "mine"),
    [
        (WithAttributes, "mine"),
        (WithSlots, "mine"),
        (WithCopy, "copied"),
        (WithState, "copied"),
        (OfWithCopy, "copied"),
        (WithReducer, "copied"),
    ],
)
def test_a_transaction_has_a_copy_as_the_class_says(kind: Any, mine: str) -> None:
    store = kind()
    for _ in range(2):  # how a class is copied is found out at the first time
        with store.transaction("anna") as inside:
            assert inside is not store
            assert inside.mine == [mine]
            assert (inside.mine is store.mine) == (mine == "mine")
    assert store.mine == ["mine"]


def test_a_copy_for_a_transaction_is_made_by_the_classs_own_new() -> None:
    class WithNew(MemorySynchronizer):
        made = 0

        def __new__(cls) -> WithNew:
            cls.made += 1
            return super().__new__(cls)

    with WithNew().transaction("anna"):
        assert WithNew.made == 2
