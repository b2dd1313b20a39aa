"""Makes every allocation that the extension asks for during a sync fail once.

    python apply_out_of_memory.py          all kinds of sync
    python apply_out_of_memory.py NAME     one of them
    python apply_out_of_memory.py --names  what there is

Each failure must be a MemoryError that leaves no lock held, no block or reference behind, the store
as it was, or, where only the reply was missing, with all of the request in it, and the caller's
dicts alike.  The same request, sent again, then brings about what it always does.

Only the extension runs out of memory, not the Python code that it calls up to: CPython does not
survive that itself (dictiter_new in Objects/dictobject.c, for one, frees what is not yet tracked).
So a sync is a row of stretches, from one such call to the next, and memory is scarce in one of
them at a time.

Run alone, in a process of its own.
"""

from __future__ import annotations

import copy
import json
import sys
import uuid
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, ClassVar

# CPython 3.11 forgets an exception that leaves a frame while memory is scarce; see
# expect_memory_error().  A debug build ends the process for that.
FRAGILE = sys.version_info[:2] == (3, 11) and hasattr(sys, "gettotalrefcount")


class Scarcity:
    """In which stretch of a sync memory is scarce, and at which allocation of it there is none."""

    def __init__(self) -> None:
        self.fault: Any = None
        self.stretch = -1
        self.nth = 0
        self.passed = 0
        self.depth = 1

    def watch(self, fault: Any, stretch: int, nth: int) -> None:
        self.fault, self.stretch, self.nth = fault, stretch, nth
        self.passed, self.depth = -1, 1

    def leave(self, raising: bool = False) -> None:
        """The extension goes on, after an exception perhaps."""
        self.depth -= 1
        if self.depth == 0:
            self.passed += 1
            if self.passed == self.stretch and not (raising and FRAGILE):
                self.fault.begin(self.nth)

    def enter(self) -> None:
        """The extension calls Python code, or is done."""
        if self.depth == 0 and self.passed == self.stretch:
            self.fault.end()
        self.depth += 1


SCARCITY = Scarcity()


def called_up(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that has memory enough."""

    def called(*args: Any, **kwargs: Any) -> Any:
        SCARCITY.enter()
        try:
            result = function(*args, **kwargs)
        except BaseException:
            SCARCITY.leave(raising=True)
            raise
        SCARCITY.leave()
        return result

    return called


NEW_ID = uuid.UUID(int=7)

# The extension looks these up when it is imported.
json.loads = called_up(json.loads)
json.dumps = called_up(json.dumps)
uuid.uuid4 = called_up(lambda: NEW_ID)

from out_of_memory import (  # noqa: E402
    FAULTS,
    WARM_UP,
    Fault,
    PythonMemory,
    expect_memory_error,
    leaks,
)

from mobync import (  # noqa: E402
    FilledModel,
    IdTakenError,
    InvalidDiffError,
    LogicalClockError,
    Mobync,
    PageError,
    Synchronizer,
    UnauthorizedError,
    _core,
)
from mobync._sync import attempts, devices, filling, parts  # noqa: E402
from mobync.memory import MemorySynchronizer  # noqa: E402

THROUGH = 8  # calls in a row that do not fail
ROUNDS = 2  # of all failures of a stretch, to see what stays of them


def attempts_called_up(
    server: Mobync, owner_id: str, *args: Any, **kwargs: Any
) -> Generator[Synchronizer, None, None]:
    """The attempts of a sync; whenever they go on there is memory enough."""
    SCARCITY.enter()
    try:
        tries = real_attempts(server, owner_id, *args, **kwargs)
        store = next(tries)
        while True:
            SCARCITY.leave()
            try:
                yield store
            except BaseException as error:
                SCARCITY.enter()
                store = tries.throw(error)
            else:
                SCARCITY.enter()
                store = next(tries)
    except StopIteration:
        SCARCITY.leave()
    except BaseException:
        SCARCITY.leave(raising=True)
        raise


real_attempts = attempts.attempts
attempts.attempts = attempts_called_up
attempts.RETRY_PAUSES_S = (0.0, 0.0)
for name in ("admit", "admit_nameless", "begin_log", "is_noted", "poll"):
    setattr(devices, name, called_up(getattr(devices, name)))
parts.take_part = called_up(parts.take_part)
filling.begin_filling = called_up(filling.begin_filling)
filling.Filling.finish = called_up(filling.Filling.finish)  # type: ignore[method-assign]


class Server(Mobync):
    """A Mobync whose own Python code has memory enough."""

    _tell = called_up(Mobync._tell)
    _now_ms = called_up(lambda self: 1_700_000_000_000)

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        return scarcely(partial(super().apply, *args, **kwargs))

    def apply_json(self, *args: Any) -> Any:
        return json.loads(scarcely(partial(super().apply_json, *args)))

    def validate(self, *args: Any) -> Any:
        return scarcely(partial(super().validate, *args))

    def logical_clock(self, *args: Any) -> Any:
        return scarcely(partial(super().logical_clock, *args))

    def push_diffs(self, *args: Any) -> Any:
        return scarcely(partial(super()._push_diffs, *args))


def scarcely(call: Callable[[], Any]) -> Any:
    """Do the call itself, which is C code."""
    alone = _core.Compaction()  # takes the arena that is kept between calls: the call's is new
    SCARCITY.leave()
    try:
        return call()
    finally:
        SCARCITY.enter()
        del alone


# ---- stores --------------------------------------------------------------------------------------


class Store(MemorySynchronizer):
    """A memory store whose methods have memory enough, and that refuses where it is told to."""

    @called_up
    def read(self, where: str, filters: Any = ()) -> Any:
        return super().read(where, filters)

    @called_up
    def validate_create(self, owner_id: str, **sent: Any) -> bool:
        return "refused" not in sent["json_data"]

    validate_update = validate_delete = validate_create

    @called_up
    def create_many(self, where: str, rows_json: Sequence[str]) -> None:
        super().create_many(where, rows_json)

    @called_up
    def update_many(self, where: str, rows_json: Sequence[str]) -> None:
        super().update_many(where, rows_json)

    @called_up
    def delete_many(self, where: str, rows_json: Sequence[str]) -> None:
        super().delete_many(where, rows_json)

    @called_up
    def write_order(self, operations: Sequence[Any]) -> Any:
        return list(reversed(range(len(operations))))

    @called_up
    def highest_logical_clock(self, owner_id: str) -> int | None:
        return super().highest_logical_clock(owner_id)

    def contents(self) -> Any:
        """All but when a device without a name was seen."""
        tables = self._database.tables.items()
        own = [(name, table) for name, table in tables if not name.startswith("\0")]
        return {name: copy.deepcopy(table.rows) for name, table in own if table.rows}


class JsonStore(Store):
    """Reads as JSON, does not offer its highest clock, and takes the log as values."""

    @called_up
    def read(self, where: str, filters: Any = ()) -> Any:
        return json.dumps(MemorySynchronizer.read(self, where, filters))

    @called_up
    def highest_logical_clock(self, owner_id: str) -> int | None:
        return None

    @called_up
    def append_log(self, where: str, rows: Sequence[Any]) -> None:
        MemorySynchronizer.append_log(self, where, rows)


class Fills(Store):
    """Has a field ``n`` in each new row."""

    filled_models: ClassVar = {"tasks": FilledModel(frozenset("n"), False)}

    @called_up
    def create_many(self, where: str, rows_json: Sequence[str]) -> None:
        if where != "diffs":
            rows_json = [json.dumps({**json.loads(row), "n": 1}) for row in rows_json]
        MemorySynchronizer.create_many(self, where, rows_json)

    def find_owned_rows(self, owner_id: str, where: str, ids: Sequence[str]) -> Any:
        return [row for row in MemorySynchronizer.read(self, where) if row["id"] in ids]


class JsonFills(Fills, JsonStore):
    """The same, and its log is JSON."""


class Misfits(Store):
    """Does not take rows that say ``misfit``, and says which they are."""

    @called_up
    def create_many(self, where: str, rows_json: Sequence[str]) -> None:
        bad = [place for place, row in enumerate(rows_json) if "misfit" in row]
        if bad and where != "diffs":
            error = InvalidDiffError("no room", bad[0])
            error.others = [InvalidDiffError("none either", place) for place in bad[1:]]
            raise error
        MemorySynchronizer.create_many(self, where, rows_json)


class UnnamedMisfits(Store):
    """The same, and does not say which."""

    @called_up
    def create_many(self, where: str, rows_json: Sequence[str]) -> None:
        if where != "diffs" and any("misfit" in row for row in rows_json):
            raise InvalidDiffError("no room")
        MemorySynchronizer.create_many(self, where, rows_json)


class FullLog(JsonStore):
    """Has another diff of the id "p0", which this owner's log does not show."""

    @called_up
    def append_log(self, where: str, rows: Sequence[Any]) -> None:
        for place, row in enumerate(rows):
            if row[0] == "p0":
                raise IdTakenError("id: is there", place)
        MemorySynchronizer.append_log(self, where, rows)


class Unlucky(Store):
    """Meets a deadlock at the first try."""

    unlucky = True

    @called_up
    def update_many(self, where: str, rows_json: Sequence[str]) -> None:
        MemorySynchronizer.update_many(self, where, rows_json)
        if Unlucky.unlucky:
            Unlucky.unlucky = False
            raise ConnectionError("deadlock")

    def is_transient(self, error: Exception) -> bool:
        return isinstance(error, ConnectionError)


class Plain(Store):
    """Has no transactions: each write stands at once, and a create replaces a row."""

    transaction = Synchronizer.transaction  # type: ignore[assignment]

    @called_up
    def create(self, where: str, data_json: str) -> None:
        if where != "diffs":
            MemorySynchronizer.delete(self, where, data_json)
        MemorySynchronizer.create(self, where, data_json)

    @called_up
    def update(self, where: str, data_json: str) -> None:
        MemorySynchronizer.update(self, where, data_json)

    @called_up
    def delete(self, where: str, data_json: str) -> None:
        MemorySynchronizer.delete(self, where, data_json)


LONG_WINDOW = 1100  # rows: such a merge is made without the GIL


class LongWindow(Store):
    """Has a window of many edits of one object, as JSON."""

    rows = json.dumps(
        [
            {
                "id": f"w{i}",
                "owner": "ann",
                "logical_clock": i,
                "utc_timestamp": i,
                "type": "update",
                "model": "tasks",
                "json_data": json.dumps({"id": "x", "a": i}),
            }
            for i in range(LONG_WINDOW)
        ]
    )

    @called_up
    def read(self, where: str, filters: Any = ()) -> Any:
        return self.rows if where == "diffs" else []


# ---- syncs ---------------------------------------------------------------------------------------


def diff(diff_id: str, kind: str, at: int = 10, clock: int = 0, **row: Any) -> dict[str, Any]:
    return {
        "id": diff_id,
        "owner": "whoever",
        "logical_clock": clock,
        "utc_timestamp": at,
        "type": kind,
        "model": "tasks",
        "json_data": json.dumps(row),
    }


LOG = [
    diff("s0", "create", id="x", a=1, b=2),
    diff("s1", "create", id="y", a=1),
    diff("s2", "update", id="x", a=2, c="\u00e9"),
    diff("s3", "create", id="v"),
    diff("s4", "delete", id="y"),
    diff("s5", "create", id="u", a=1),
]
PUSHED = [
    diff("p0", "create", id="z", a="\u00e9"),
    diff("p1", "update", at=20, id="x", a=3, d=4),
    diff("p2", "update", at=20, id="x", b=5),
    diff("p3", "delete", at=20, id="v"),
    diff("p4", "update", at=5, id="u", a=0),
]
FOREIGN_KEYS = [{**PUSHED[0], "more": [1, {"a": "\u00e9"}]}, {**PUSHED[1], "more": None}]
REFUSED = [
    PUSHED[0],
    diff("r0", "create", id="q", refused=1),
    diff("r1", "update", id="q", a=1),
    diff("r2", "update", at=30, id="x", refused=1),
    diff("r3", "delete", at=30, id="u", refused=1),
]
MALFORMED = [
    PUSHED[0],
    diff("m0", "upsert", id="q"),
    {**PUSHED[1], "json_data": '{"id": "x", "a": tru}'},
    {**diff("m2", "update", at=30, id="x"), "owner_id": "bob"},
    {"id": "m3"},
]
MISFITS = [PUSHED[0], *(diff(f"f{i}", "create", id=f"f{i}", misfit=1) for i in range(3)), PUSHED[1]]
BIG = [diff("b0", "create", id="b", text="\u00e9" * 3000), diff("b1", "update", at=20, id="x", a=9)]

Call = Callable[[Server, list[dict[str, Any]]], Any]


def applied(clock: int, **page: Any) -> Call:
    return lambda server, diffs: server.apply(clock, diffs, "ann", **page)


def applied_json(clock: int, **page: Any) -> Call:
    def call(server: Server, diffs: list[dict[str, Any]]) -> Any:
        return server.apply_json(
            json.dumps({"logical_clock": clock, "diffs": diffs, **page}), "ann"
        )

    return call


def second_page(server: Server, diffs: list[dict[str, Any]]) -> Any:
    cursor = Mobync(server.synchronizer).apply(0, copy.deepcopy(diffs), "ann", limit=1)["cursor"]
    return server.apply(0, diffs, "ann", limit=9, cursor=cursor)


FIRST_PART = {"device": "phone", "request": 1, "part": 1, "more_diffs": True}
LAST_PART = {**FIRST_PART, "more_diffs": False}


@dataclass
class Case:
    """A sync that is to fail.

    Attributes:
        call: what to do with the Mobync of a store that has the log, and the request's diffs.
        diffs: the request.
        store: of which kind.
        settings: of the Mobync.
        twice: the request was sent before.
        raises: what it raises with enough memory.
        in_python: some Python code runs within the extension's stretches.
        half: what is half written stays, until the request is sent again.
        new_ids: a request that is sent again is new: the log does not show its diffs' ids.
    """

    call: Call
    diffs: list[dict[str, Any]] = field(default_factory=list)
    store: type[Store] = Store
    settings: dict[str, Any] = field(default_factory=dict)
    twice: bool = False
    raises: type[BaseException] | None = None
    in_python: bool = False
    half: bool = False
    new_ids: bool = False

    def filled(self) -> Server:
        store = self.store()
        for where, row in self.rows:
            MemorySynchronizer.create(store, where, row)
        Unlucky.unlucky = True
        return Server(store, lock_timeout_s=0, **self.settings)

    @cached_property
    def rows(self) -> list[tuple[str, str]]:
        """What the log and its models have when the sync begins."""
        store = MemorySynchronizer()
        for clock, sent in enumerate(LOG):
            Mobync(store).apply(clock, [dict(sent)], "ann")
        if self.twice:
            Mobync(store).apply(0, copy.deepcopy(self.diffs), "ann")
        tables = store._database.tables.items()
        own = [(name, table) for name, table in tables if not name.startswith("\0")]
        return [(name, json.dumps(row)) for name, table in own for row in table.rows.values()]

    def outcome(self, server: Server, diffs: list[dict[str, Any]]) -> Any:
        try:
            return self.call(server, diffs)
        except BaseException as error:
            if self.raises is None or type(error) is not self.raises:
                raise
            return str(error)


SKIP = {"on_refusal": "skip"}


def both(name: str, clock: int, diffs: list[dict[str, Any]], **more: Any) -> dict[str, Case]:
    """A sync of dicts and of JSON."""
    return {
        name: Case(applied(clock), diffs, **more),
        f"{name} as JSON": Case(applied_json(clock), diffs, **more),
    }


CASES: dict[str, Case] = {
    **both("a pull", 2, []),
    **both("a pull of all", 0, [], store=JsonStore),
    **both("a push", 3, PUSHED),
    **both("a push to a JSON store", 3, PUSHED, store=JsonStore),
    **both("a push with keys of its own", 3, FOREIGN_KEYS),
    **both("a push without transactions", 3, PUSHED, store=Plain, half=True),
    **both("a retry", 3, PUSHED, twice=True),
    **both("a retry where refusals are skipped", 3, PUSHED, twice=True, settings=SKIP),
    **both("a refused diff", 3, REFUSED, raises=UnauthorizedError, in_python=True),
    **both("a refused diff that is skipped", 3, REFUSED, settings=SKIP, in_python=True),
    **both("a malformed diff", 3, MALFORMED, raises=InvalidDiffError, in_python=True),
    **both("malformed diffs that are skipped", 3, MALFORMED, settings=SKIP, in_python=True),
    **both("a misfit", 3, MISFITS, store=Misfits, raises=InvalidDiffError, in_python=True),
    **both("misfits that are skipped", 3, MISFITS, store=Misfits, settings=SKIP, in_python=True),
    **both(
        "misfits that are not named",
        3,
        MISFITS[:2],
        store=UnnamedMisfits,
        settings=SKIP,
        in_python=True,
    ),
    **both(
        "a diff whose id the log has", 3, PUSHED[:2], store=FullLog, in_python=True, new_ids=True
    ),
    **both("a deadlock", 3, PUSHED[:3], store=Unlucky, in_python=True),
    **both("a push that is filled in", 3, PUSHED, store=Fills),
    **both("a push to a JSON store that is filled in", 3, PUSHED, store=JsonFills),
    **both(
        "what is filled in beside a refusal", 3, REFUSED, store=Fills, settings=SKIP, in_python=True
    ),
    **both("a body without the GIL", 6, BIG),
    **both("a merge without the GIL", 0, PUSHED[1:3], store=LongWindow, new_ids=True),
    "a first page": Case(applied(0, limit=1)),
    "a first page of a JSON store": Case(applied(0, limit=1), store=JsonStore),
    "a first page as JSON": Case(applied_json(0, limit=1)),
    "a last page": Case(second_page, PUSHED),
    "a part": Case(applied_json(0, **FIRST_PART), PUSHED),
    "a part with malformed diffs": Case(applied_json(0, **FIRST_PART), MALFORMED),
    "a last part with a malformed diff": Case(
        applied_json(0, **LAST_PART), MALFORMED, raises=InvalidDiffError, in_python=True
    ),
    "a part of no number": Case(
        applied_json(0, device="phone", request=1, part=0), raises=InvalidDiffError, in_python=True
    ),
    "a cursor of nobody": Case(applied(0, cursor="1.2.3.4"), raises=PageError, in_python=True),
    "a clock that is ahead": Case(applied(99), raises=LogicalClockError, in_python=True),
    "a clock that is none": Case(applied_json("x"), raises=LogicalClockError, in_python=True),
    "a reply that is too large": Case(
        applied(0), settings={"max_reply_bytes": 5}, raises=PageError, in_python=True
    ),
    "too many diffs": Case(
        applied(0), PUSHED, settings={"max_diffs": 1}, raises=InvalidDiffError, in_python=True
    ),
    "backend's edits": Case(
        lambda server, diffs: server.push_diffs(diffs, "ann"), PUSHED, new_ids=True
    ),
    "validate": Case(lambda server, diffs: server.validate(diffs[0], "ann"), PUSHED),
    "validate, refused": Case(
        lambda server, diffs: server.validate(diffs[1], "ann"),
        REFUSED,
        raises=UnauthorizedError,
        in_python=True,
    ),
    "logical_clock": Case(lambda server, _: server.logical_clock("ann")),
    "logical_clock of a JSON store": Case(
        lambda server, _: server.logical_clock("ann"), store=JsonStore
    ),
}


# ---- failures ------------------------------------------------------------------------------------


@dataclass
class Expected:
    """What a sync comes to with enough memory."""

    outcome: Any
    before: Any
    after: Any
    clock: Any
    stretches: int


def expectation(case: Case) -> Expected:
    server = case.filled()
    before = server.synchronizer.contents()
    SCARCITY.watch(None, -1, 0)
    result = case.outcome(server, copy.deepcopy(case.diffs))
    after = server.synchronizer.contents()
    clock = Mobync(server.synchronizer).logical_clock("ann")
    return Expected(result, before, after, clock, SCARCITY.passed + 1)


def same_clock(given: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        return bool(given["logical_clock"] == expected["logical_clock"])
    return bool(given == expected)


def fail_once(case: Case, fault: Fault, stretch: int, nth: int, expected: Expected) -> bool:
    """Refuse one allocation; whether the sync failed of it."""
    server, diffs = case.filled(), copy.deepcopy(case.diffs)
    store: Any = server.synchronizer
    SCARCITY.watch(fault, stretch, nth)
    raised: BaseException | None = None
    try:
        result = case.outcome(server, diffs)
    except BaseException as error:
        raised = error.with_traceback(None)
    SCARCITY.watch(fault, -1, 0)
    if raised is None:
        assert (result, store.contents()) == (expected.outcome, expected.after), "another result"
        return False
    expect_memory_error(raised, case.in_python)
    assert len(server._locks) == 0, "a lock is left"
    if not case.half:
        assert store.contents() in (expected.before, expected.after), "half written"
    if store.contents() == expected.before != expected.after:
        assert diffs == case.diffs, "the caller's dicts were changed"
    if case.new_ids and store.contents() == expected.after:
        return True
    again = case.outcome(server, copy.deepcopy(diffs))
    assert store.contents() == expected.after, "the next call is wrong"
    assert same_clock(again, expected.outcome)
    return True


def failures_of(case: Case, fault: Fault, stretch: int, expected: Expected) -> list[int]:
    """The allocations of a stretch, each of which fails once."""
    found: list[int] = []
    through = nth = 0
    while through < (THROUGH if isinstance(fault, PythonMemory) else 1):
        try:
            failed = fail_once(case, fault, stretch, nth, expected)
        except AssertionError as broken:
            raise AssertionError(f"allocation {nth}: {broken}") from broken
        if failed:
            found.append(nth)
        through = 0 if failed else through + 1
        nth += 1
    return found


def fail_at_each(case: Case, fault: Fault, expected: Expected) -> int:
    count = 0
    for stretch in range(expected.stretches):
        try:
            found = failures_of(case, fault, stretch, expected)
            failing = partial(fail_once, case, fault, stretch, expected=expected)
            if found:
                left = leaks(lambda fail=failing, all_=found: list(map(fail, all_)), ROUNDS)
                assert left == 0, f"{left} blocks or references stay"
        except AssertionError as broken:
            place = f"stretch {stretch} of {expected.stretches}"
            raise AssertionError(f"{place}: {broken}") from broken
        count += len(found)
    return count


def main() -> int:
    names = sys.argv[1:]
    if names == ["--names"]:
        print("\n".join(CASES))
        return 0
    for name in names or CASES:
        case = CASES[name]
        for _ in range(WARM_UP):
            expected = expectation(case)
        told = {}
        for allocator, fault in FAULTS.items():
            if allocator == "arena" and "without the GIL" in name:
                continue
            try:
                told[allocator] = fail_at_each(case, fault(), expected)
            except AssertionError as broken:
                raise AssertionError(f"{name}, {allocator}: {broken}") from broken
        print(f"{name}: {expected.stretches} stretches, failures {told}", flush=True)
        assert told["Python"] > 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
