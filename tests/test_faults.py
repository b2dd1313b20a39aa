"""Everything that can fail does so once: memory, and each method of the app.

Whatever fails, nothing is half written, no lock is held, the caller's dicts are as they were, and
the same request, sent again, does what it would have done.
"""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import pytest

from mobync import InvalidDiffError, Mobync, memory, sync
from mobync._sync import attempts, owner_locks
from mobync.memory import _DEVICES, MemorySynchronizer
from mobync.types import LogRow

Row = dict[str, Any]

ISOLATED = Path(__file__).parent / "isolated"


# ---- memory --------------------------------------------------------------------------------------


def run_isolated(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ISOLATED, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def cases_of(script: str) -> list[str]:
    return run_isolated(script, "--names").splitlines()


@pytest.mark.parametrize("case", cases_of("out_of_memory.py"))
def test_any_allocation_of_the_extension_may_fail(case: str) -> None:
    run_isolated("out_of_memory.py", case)


@pytest.mark.parametrize("case", cases_of("apply_out_of_memory.py"))
def test_any_allocation_of_a_sync_may_fail(case: str) -> None:
    run_isolated("apply_out_of_memory.py", case)


# ---- the app's methods ---------------------------------------------------------------------------


def diff(diff_id: str, kind: str, model: str, at: int = 10, **row: Any) -> Row:
    return {
        "id": diff_id,
        "owner": "ann",
        "logical_clock": 0,
        "utc_timestamp": at,
        "type": kind,
        "model": model,
        "json_data": json.dumps(row),
    }


class Abort(BaseException):
    """Passes every ``except Exception``."""


class Transient(Exception):
    """What the store below calls transient."""


METHODS = (
    "read",
    "highest_logical_clock",
    "validate_create",
    "validate_update",
    "validate_delete",
    "create",
    "update",
    "delete",
    "create_many",
    "update_many",
    "delete_many",
    "check_written",
    "append_log",
    "write_order",
    "enter",
    "exit",
    "is_transient",
)

ERRORS = (Exception, KeyboardInterrupt, GeneratorExit, SystemExit, StopIteration, Abort)


class Plan:
    """What is to fail: the ``left``-th call of a method from now."""

    def __init__(self) -> None:
        self.method = ""
        self.left = 0
        self.error: BaseException | None = None
        self.called: Counter[str] = Counter()

    def call(self, method: str) -> None:
        self.called[method] += 1
        if method != self.method or self.error is None:
            return
        self.left -= 1
        if self.left == 0:
            raise self.error


class FaultyStore(MemorySynchronizer):
    """A memory store that fails according to plan; a copy shares it."""

    def __init__(self) -> None:
        super().__init__()
        self.plan = Plan()

    def read(self, where: str, filters: Any = ()) -> list[Row]:
        self.plan.call("read")
        return super().read(where, filters)

    def highest_logical_clock(self, owner_id: str) -> int | None:
        self.plan.call("highest_logical_clock")
        return super().highest_logical_clock(owner_id)

    def validate_create(self, owner_id: str, **kwargs: Any) -> bool:
        self.plan.call("validate_create")
        return True

    def validate_update(self, owner_id: str, **kwargs: Any) -> bool:
        self.plan.call("validate_update")
        return True

    def validate_delete(self, owner_id: str, **kwargs: Any) -> bool:
        self.plan.call("validate_delete")
        return True

    def create(self, where: str, data_json: str) -> None:
        self.plan.call("create")
        super().create(where, data_json)

    def update(self, where: str, data_json: str) -> None:
        self.plan.call("update")
        super().update(where, data_json)

    def delete(self, where: str, data_json: str) -> None:
        self.plan.call("delete")
        super().delete(where, data_json)

    def create_many(self, where: str, rows_json: Sequence[str]) -> None:
        self.plan.call("create_many")
        super().create_many(where, rows_json)

    def check_written(self, count: int) -> None:
        self.plan.call("check_written")

    def append_log(self, where: str, rows: Sequence[LogRow]) -> None:
        self.plan.call("append_log")
        super().append_log(where, rows)

    def update_many(self, where: str, rows_json: Sequence[str]) -> None:
        self.plan.call("update_many")
        super().update_many(where, rows_json)

    def delete_many(self, where: str, rows_json: Sequence[str]) -> None:
        self.plan.call("delete_many")
        super().delete_many(where, rows_json)

    def write_order(self, operations: Sequence[tuple[str, str, str]]) -> Sequence[int]:
        self.plan.call("write_order")
        return super().write_order(operations)

    @contextmanager
    def transaction(self, owner_id: str) -> Iterator[MemorySynchronizer]:
        self.plan.call("enter")
        with super().transaction(owner_id) as inside:
            yield inside
            self.plan.call("exit")

    def is_transient(self, error: Exception) -> bool:
        self.plan.call("is_transient")
        return isinstance(error, Transient)


SEEN_BY_BOTH = [
    diff("s1", "create", "tasks", id="x", a=1),
    diff("s2", "create", "tasks", id="y", a=1),
    diff("s3", "create", "notes", id="n", a=1),
]
BY_ANOTHER = [diff("s4", "update", "tasks", at=11, id="x", a=2, b=2)]
REQUEST = [
    diff("l1", "create", "tasks", at=20, id="z", a=1),
    diff("l2", "create", "tasks", at=20, id="w", a=1),
    diff("l3", "update", "tasks", at=21, id="x", c=3),
    diff("l4", "update", "notes", at=22, id="n", a=4),
    diff("l5", "update", "tasks", at=23, id="x", a=5),
    diff("l6", "delete", "tasks", at=24, id="y"),
]


def behind() -> tuple[FaultyStore, int]:
    """A store, and the clock of a device that has not seen all of it."""
    store = FaultyStore()
    Mobync(store).apply(0, copy.deepcopy(SEEN_BY_BOTH), "ann")
    Mobync(store).apply(3, copy.deepcopy(BY_ANOTHER), "ann")
    return store, 3


def up_to_date() -> tuple[FaultyStore, int]:
    store, _ = behind()
    return store, 4


def contents(store: MemorySynchronizer) -> Any:
    tables = store._database.tables
    found = copy.deepcopy({name: list(table.rows.values()) for name, table in tables.items()})
    for state in found.get(_DEVICES, []):
        state["text"] = re.sub(r'"nameless_ms": \d+', '"nameless_ms": 1', state["text"])
    return found


def calls_of(method: str, prepare: Callable[[], tuple[FaultyStore, int]]) -> int:
    """How often an apply calls a method when nothing fails."""
    store, clock = prepare()
    store.plan.called.clear()
    Mobync(store).apply(clock, copy.deepcopy(REQUEST), "ann")
    return store.plan.called[method]


def fail_then_retry(
    prepare: Callable[[], tuple[FaultyStore, int]], method: str, nth: int, error: BaseException
) -> None:
    twin, clock = prepare()
    expected = Mobync(twin).apply(clock, copy.deepcopy(REQUEST), "ann")

    store, clock = prepare()
    server = Mobync(store, lock_timeout_s=0)
    before, diffs = contents(store), copy.deepcopy(REQUEST)
    store.plan.method, store.plan.left, store.plan.error = method, nth, error
    with pytest.raises(type(error)) as raised:
        server.apply(clock, diffs, "ann")
    assert raised.value is error
    assert contents(store) == before
    assert diffs == REQUEST
    assert len(server._locks) == 0

    store.plan.error = None
    assert server.apply(clock, diffs, "ann") == expected
    assert contents(store) == contents(twin)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
@pytest.mark.parametrize("prepare", [behind, up_to_date])
def test_a_method_that_raises_at_any_of_its_calls_leaves_everything_as_it_was(
    prepare: Callable[[], tuple[FaultyStore, int]], error: type[BaseException]
) -> None:
    failed = 0
    for method in METHODS:
        if error is StopIteration and method in ("enter", "exit"):
            continue  # they are of a generator, which cannot raise it (PEP 479)
        for nth in range(1, calls_of(method, prepare) + 1):
            fail_then_retry(prepare, method, nth, error("from the app"))
            failed += 1
    assert failed >= 20


class Interrupts:
    """Raises at the nth line of the package that runs; as Ctrl-C and lack of memory can."""

    MODULES = (sync, attempts, owner_locks, memory)
    FILES = tuple(module.__file__ for module in MODULES)

    def __init__(self, nth: int) -> None:
        self.left = nth

    def __enter__(self) -> None:
        self.before = sys.gettrace()
        sys.settrace(self.trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(self.before)

    def trace(self, frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename not in self.FILES:
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self.trace


def test_an_interrupt_at_any_line_leaves_nothing_half_done() -> None:
    twin, clock = behind()
    before = contents(twin)
    expected = Mobync(twin).apply(clock, copy.deepcopy(REQUEST), "ann")
    after = contents(twin)
    nth = 0
    while True:
        nth += 1
        store, clock = behind()
        store._database.tables["diffs"]._indexes.clear()  # so that making one is interrupted too
        server, diffs = Mobync(store, lock_timeout_s=0), copy.deepcopy(REQUEST)
        try:
            with Interrupts(nth):
                server.apply(clock, diffs, "ann")
        except KeyboardInterrupt:
            pass
        else:
            break
        assert len(server._locks) == 0
        assert contents(store) in (before, after), f"half written after line {nth}"
        assert diffs == REQUEST or contents(store) == after
        again = server.apply(clock, diffs, "ann")
        assert again["logical_clock"] == expected["logical_clock"]
        assert contents(store) == after
    assert nth > 200


def test_every_method_is_among_those_that_fail() -> None:
    called = {method for method in METHODS for p in (behind, up_to_date) if calls_of(method, p)}
    assert called == set(METHODS) - {"is_transient"}  # asked only after an error: below


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_is_transient_may_itself_raise(error: type[BaseException]) -> None:
    store, clock = behind()
    before = contents(store)
    raised_by_it = error("from is_transient")

    class Asked(Plan):
        def call(self, method: str) -> None:
            if method == "update":
                raise Transient
            if method == "is_transient":
                raise raised_by_it

    store.plan = Asked()
    server = Mobync(store)
    with pytest.raises(error) as raised:
        server.apply(clock, copy.deepcopy(REQUEST), "ann")
    assert raised.value is raised_by_it
    assert contents(store) == before
    assert len(server._locks) == 0


def test_an_error_that_passes_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "RETRY_PAUSES_S", (0.0, 0.0))
    twin, clock = behind()
    expected = Mobync(twin).apply(clock, copy.deepcopy(REQUEST), "ann")
    for method in set(METHODS) - {"is_transient"}:
        for nth in range(1, calls_of(method, behind) + 1):
            store, clock = behind()
            plan = store.plan
            plan.method, plan.left, plan.error = method, nth, Transient()
            assert Mobync(store).apply(clock, copy.deepcopy(REQUEST), "ann") == expected
            assert plan.left <= 0
            assert contents(store) == contents(twin)


def test_a_rule_that_refuses_at_the_second_try_names_its_own_diff(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attempts, "RETRY_PAUSES_S", (0.0, 0.0))

    class Turning(FaultyStore):
        def validate_update(self, owner_id: str, **kwargs: Any) -> bool:
            if self.plan.left <= 0:
                raise InvalidDiffError("by now it is too late")
            return True

    store = Turning()
    store.plan.method, store.plan.left, store.plan.error = "create_many", 1, Transient()
    diffs = [diff("first", "create", "tasks", id="x"), diff("second", "update", "tasks", id="y")]
    with pytest.raises(InvalidDiffError, match="too late") as raised:
        Mobync(store).apply(0, diffs, "ann")
    assert (raised.value.index, raised.value.diff_id) == (1, "second")


@pytest.mark.parametrize("on_refusal", ["raise", "skip"])
def test_what_refuses_the_second_transaction_means_no_diff(
    monkeypatch: pytest.MonkeyPatch, on_refusal: Literal["raise", "skip"]
) -> None:
    monkeypatch.setattr(attempts, "RETRY_PAUSES_S", (0.0, 0.0))

    class Closing(FaultyStore):
        @contextmanager
        def transaction(self, owner_id: str) -> Iterator[MemorySynchronizer]:
            if self.plan.left <= 0:
                raise InvalidDiffError("the account is closed")
            with super().transaction(owner_id) as store:
                yield store

    store = Closing()
    store.plan.method, store.plan.left, store.plan.error = "create_many", 1, Transient()
    with pytest.raises(InvalidDiffError, match="account") as raised:
        Mobync(store, on_refusal=on_refusal).apply(
            0, [diff("first", "create", "tasks", id="x")], "ann"
        )
    assert (raised.value.index, raised.value.diff_id) == (None, None)


@pytest.mark.parametrize("on_refusal", ["raise", "skip"])
def test_what_refuses_the_commit_means_no_diff(on_refusal: Literal["raise", "skip"]) -> None:
    class Closing(FaultyStore):
        commits = 0

        @contextmanager
        def transaction(self, owner_id: str) -> Iterator[MemorySynchronizer]:
            with super().transaction(owner_id) as store:
                yield store
                Closing.commits += 1
                raise InvalidDiffError("the account is closed")

    store = Closing()
    diffs = [diff(id_, "create", "tasks", id=id_) for id_ in ("first", "second")]
    with pytest.raises(InvalidDiffError, match="account") as raised:
        Mobync(store, on_refusal=on_refusal).apply(0, diffs, "ann")
    assert (raised.value.index, raised.value.diff_id) == (None, None)
    assert (Closing.commits, contents(store)) == (1, contents(FaultyStore()))


def test_a_commit_whose_success_is_not_heard_is_made_good_by_a_retry() -> None:
    class Deaf(FaultyStore):
        @contextmanager
        def transaction(self, owner_id: str) -> Iterator[MemorySynchronizer]:
            with super().transaction(owner_id) as inside:
                yield inside
            self.plan.call("committed")

    twin, clock = behind()
    expected = Mobync(twin).apply(clock, copy.deepcopy(REQUEST), "ann")
    store = Deaf()
    Mobync(store).apply(0, copy.deepcopy(SEEN_BY_BOTH), "ann")
    Mobync(store).apply(3, copy.deepcopy(BY_ANOTHER), "ann")

    diffs = copy.deepcopy(REQUEST)
    store.plan.method, store.plan.left = "committed", 1
    store.plan.error = ConnectionError()
    with pytest.raises(ConnectionError):
        Mobync(store).apply(clock, diffs, "ann")
    assert diffs == REQUEST
    assert contents(store) == contents(twin)

    reply = Mobync(store).apply(clock, diffs, "ann")
    assert reply["logical_clock"] == expected["logical_clock"]
    assert reply["diffs"] == expected["diffs"]
    assert contents(store) == contents(twin)


class WithoutTransactions(FaultyStore):
    """As the documentation shows a store: each write stands at once, a create replaces a row."""

    transaction = MemorySynchronizer.__mro__[1].transaction  # type: ignore[assignment]

    def create(self, where: str, data_json: str) -> None:
        self.plan.call("create")
        row = json.loads(data_json)
        if where != "diffs" and self._database.tables.get(where):
            MemorySynchronizer.delete(self, where, json.dumps({"id": row["id"]}))
        MemorySynchronizer.create(self, where, data_json)


@pytest.mark.parametrize("method", ["create", "update", "delete"])
def test_without_transactions_a_retry_makes_good_what_was_half_written(method: str) -> None:
    def prepare() -> WithoutTransactions:
        store = WithoutTransactions()
        Mobync(store).apply(0, copy.deepcopy(SEEN_BY_BOTH), "ann")
        Mobync(store).apply(3, copy.deepcopy(BY_ANOTHER), "ann")
        store.plan.called.clear()
        return store

    def rows(store: MemorySynchronizer, model: str) -> list[Row]:
        return sorted(store.read(model), key=lambda row: row["id"])

    twin = prepare()
    expected = Mobync(twin).apply(3, copy.deepcopy(REQUEST), "ann")
    calls = twin.plan.called[method]
    assert calls > 0
    for nth in range(1, calls + 1):
        store = prepare()
        store.plan.method, store.plan.left = method, nth
        store.plan.error = ConnectionError()
        with pytest.raises(ConnectionError):
            Mobync(store).apply(3, copy.deepcopy(REQUEST), "ann")
        reply = Mobync(store).apply(3, copy.deepcopy(REQUEST), "ann")
        assert reply["logical_clock"] == expected["logical_clock"]
        for model in ("tasks", "notes"):
            assert rows(store, model) == rows(twin, model)
