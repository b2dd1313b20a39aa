"""Code of the app that runs in the middle of a sync, at places where nobody expects it.

A finalizer, a key that is compared, the text of a reason, an iterator of rows, a rule: each may
call the same Mobync again, or change what the caller gave.
"""

from __future__ import annotations

import gc
import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from test_apply import Row, diff

from mobync import InvalidDiffError, Mobync, MobyncError, UnauthorizedError
from mobync.memory import MemorySynchronizer

LONG = "x" * 2000  # more than what stays in the memory that is kept for small objects


class Finalized:
    """Does something when it dies."""

    def __init__(self, last_wish: Callable[[], object]) -> None:
        self.last_wish = last_wish
        self.itself = self  # only the collector finds it

    def __del__(self) -> None:
        self.last_wish()


class Store(MemorySynchronizer):
    """Does something in the middle of each of its methods: ``act``, at most so many times."""

    def __init__(self) -> None:
        super().__init__()
        self.actions: list[Callable[[], object]] = []

    def act(self) -> None:
        if self.actions:
            self.actions.pop()()

    def read(self, where: str, filters: Any = ()) -> Any:
        rows = super().read(where, filters)

        def one_by_one() -> Iterator[Row]:
            for row in rows:
                self.act()
                yield row

        return one_by_one()

    def validate_create(self, owner_id: str, **sent: Any) -> bool:
        self.act()
        if "refused" in sent["json_data"]:
            raise UnauthorizedError(Reason(self))  # type: ignore[arg-type]
        return True

    validate_update = validate_delete = validate_create

    def write_order(self, operations: Sequence[Any]) -> Any:
        self.act()
        return (place for place in self.acting(range(len(operations))))

    def acting(self, places: Sequence[int]) -> Iterator[int]:
        for place in places:
            self.act()
            yield place

    def create(self, where: str, data_json: str) -> None:
        self.act()
        super().create(where, data_json)

    def update(self, where: str, data_json: str) -> None:
        self.act()
        super().update(where, data_json)


class Reason:
    """The reason of a refusal, which acts when it is shown."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __str__(self) -> str:
        self.store.act()
        return "no"


class Acting(str):
    """A key that acts when it is compared."""

    __slots__ = ("act",)
    act: Callable[[], object]

    def __eq__(self, other: object) -> bool:
        self.act()
        return str.__eq__(self, other)

    def __hash__(self) -> int:
        return str.__hash__(self)


def request() -> list[Row]:
    return [
        diff("p0", "create", {"id": "z", "a": LONG}),
        diff("p1", "update", {"id": "x", "a": 2, "b": LONG}, 20),
        diff("p2", "create", {"id": "w", "refused": 1}),
        diff("p3", "update", {"id": "x", "a": 3}, 21),
        diff("p4", "create", {"id": "\u00e9", "a": 1}),
    ]


def filled() -> tuple[Mobync, Store]:
    store = Store()
    server = Mobync(store, on_refusal="skip", lock_timeout_s=0)
    server.apply(0, [diff(f"s{i}", "create", {"id": f"s{i}", "a": LONG}) for i in range(9)], "ann")
    server.apply(9, [diff("s9", "create", {"id": "x", "a": LONG})], "ann")
    return server, store


def by_dicts(server: Mobync, diffs: list[Row]) -> Any:
    return without_new_ids(server.apply(0, diffs, "ann"))


def by_json(server: Mobync, diffs: list[Row]) -> Any:
    body = json.dumps({"logical_clock": 0, "diffs": diffs})
    return without_new_ids(json.loads(server.apply_json(body, "ann")))


def without_new_ids(reply: Any) -> Any:
    """The reply without the ids that were made up for it, of the diffs that restore a row."""
    for sent in reply["diffs"]:
        if len(sent["id"]) == len(str(uuid.UUID(int=0))):
            sent["id"] = "new"
    return reply


SYNCS = (by_dicts, by_json)


def rows_of(store: Store, owner: str) -> Any:
    tables = store._database.tables
    log = [row for row in tables["diffs"].rows.values() if row["owner"] == owner]
    models = {name: dict(table.rows) for name, table in tables.items() if name == "tasks"}
    return log, models


def expected(sync: Callable[[Mobync, list[Row]], Any]) -> tuple[Any, Any]:
    server, store = filled()
    reply = sync(server, request())
    assert [r["id"] for r in reply["refused"]] == ["p2"]
    return reply, rows_of(store, "ann")


def sync_another_owner(server: Mobync) -> None:
    others = [diff("b", "create", {"id": "b", "refused": LONG}) | {"model": "bobs"}]
    server.apply(0, others, "bob")
    server.apply_json(json.dumps({"logical_clock": 0, "diffs": others}), "bob")


def sync_the_same_owner(server: Mobync) -> None:
    with pytest.raises(RuntimeError, match="further up this call stack"):
        server.apply(0, [], "ann")


ACTIONS: tuple[Callable[[Mobync], object], ...] = (
    sync_another_owner,
    sync_the_same_owner,
    lambda server: server.validate(diff("v", "create", {"id": "v", "a": LONG}), "ann"),
    lambda server: server.logical_clock("bob"),
    lambda server: server.push("bob", [("create", "bobs", {"id": "p"})]),
    lambda server: gc.collect(0),
)


def counted_actions(sync: Callable[[Mobync, list[Row]], Any]) -> int:
    server, store = filled()
    actions: list[Callable[[], object]] = [lambda: None] * 1000
    store.actions = actions
    sync(server, request())
    return 1000 - len(actions)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("sync", SYNCS)
def test_a_call_from_any_method_of_the_store(
    sync: Callable[[Mobync, list[Row]], Any], action: Callable[[Mobync], object]
) -> None:
    reply, rows = expected(sync)
    times = counted_actions(sync)
    assert times > 20
    for nth in range(times):
        server, store = filled()
        store.actions = [lambda server=server: action(server)] + [lambda: None] * nth
        assert sync(server, request()) == reply
        assert store.actions == []
        assert rows_of(store, "ann") == rows


CHANGES: tuple[Callable[[list[Row]], object], ...] = (
    lambda diffs: diffs.clear(),
    lambda diffs: diffs.append({"id": 7}),
    lambda diffs: diffs.reverse(),
    lambda diffs: [sent.clear() for sent in diffs],
    lambda diffs: [sent.update(id=str(i), json_data=f"{i}") for i, sent in enumerate(diffs)],
    lambda diffs: [sent.update({f"key{i}": i for i in range(99)}) for sent in diffs],
)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_request_meanwhile(change: Callable[[list[Row]], object]) -> None:
    reply, rows = expected(by_dicts)
    for nth in range(counted_actions(by_dicts)):
        server, store = filled()
        diffs = request()
        store.actions = [lambda diffs=diffs: change(diffs)] + [lambda: None] * nth
        assert by_dicts(server, diffs) == reply
        assert rows_of(store, "ann") == rows


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_rows_that_were_read(change: Callable[[list[Row]], object]) -> None:
    class Changing(Store):
        given: list[Row]

        def read(self, where: str, filters: Any = ()) -> Any:
            self.given = [dict(row) for row in super().read(where, filters)]
            return self.given

        def validate_create(self, owner_id: str, **sent: Any) -> bool:
            change(self.given)
            gc.collect(0)
            return super().validate_create(owner_id, **sent)

    reply, rows = expected(by_dicts)
    _, store = filled()
    changing = Changing()
    changing._database = store._database
    assert by_dicts(Mobync(changing, on_refusal="skip"), request()) == reply
    assert rows_of(store, "ann") == rows


@pytest.mark.parametrize("where", range(len(request())))
@pytest.mark.parametrize("name", diff("", "create", {}))
def test_a_key_that_acts_when_it_is_compared(where: int, name: str) -> None:
    reply, rows = expected(by_dicts)
    server, store = filled()
    diffs = request()
    actions: list[Callable[[], object]] = []
    acting = Acting(name)
    acting.act = lambda: actions and actions.pop()()
    diffs[where][acting] = diffs[where].pop(name)
    actions += [diffs.clear, lambda: sync_another_owner(server)]
    assert by_dicts(server, diffs) == reply
    assert actions == []
    assert rows_of(store, "ann") == rows


@pytest.fixture
def eager_collector() -> Iterator[None]:
    """Have the collector run at almost every new object."""
    before = gc.get_threshold()
    gc.collect()
    gc.set_threshold(1, 1000, 1000)
    yield
    gc.set_threshold(*before)


@pytest.mark.usefixtures("eager_collector")
@pytest.mark.parametrize("sync", SYNCS)
def test_a_finalizer_while_lists_are_built(sync: Callable[[Mobync, list[Row]], Any]) -> None:
    reply, rows = expected(sync)
    server, store = filled()
    died: list[int] = []

    def last_wish() -> None:
        died.append(1)
        if len(died) < 30:
            Finalized(last_wish)
        try:
            server.apply(0, [diff("b", "create", {"id": "b"}) | {"model": "bobs"}], "bob")
            server.validate(diff("v", "create", {"id": "v"}), "ann")
        except (MobyncError, RuntimeError):  # the collector ran in the middle of bob's sync
            pass

    Finalized(last_wish)
    store.actions = [lambda: Finalized(last_wish)] * 5
    diffs = request()
    assert sync(server, diffs) == reply
    assert rows_of(store, "ann") == rows
    assert len(died) > 5


def test_the_index_of_an_error_that_acts() -> None:
    """What a store says of a row that does not fit may be anything."""

    class Odd(Store):
        def create_many(self, where: str, rows_json: Sequence[str]) -> None:
            error = InvalidDiffError("full", 0)
            error.others = (self.more() for _ in range(1))  # type: ignore[assignment]
            raise error

        def more(self) -> InvalidDiffError:
            sync_another_owner(Mobync(Store(), on_refusal="skip"))
            return InvalidDiffError("full too", 1)

    diffs = [diff(str(i), "create", {"id": str(i)}) for i in range(2)]
    reply = Mobync(Odd(), on_refusal="skip").apply(0, diffs, "ann")
    assert [refusal["id"] for refusal in reply["refused"]] == ["0", "1"]
