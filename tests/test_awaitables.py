"""A method that an app writes as ``async def`` is refused by its name, and nothing is written."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from test_apply import Deadlock, PlainStore, diff

from mobync import InvalidDiffError, Mobync
from mobync.memory import MemorySynchronizer

DIFFS = [
    diff("c", "create", {"id": "x", "a": 1}),
    diff("u", "update", {"id": "old", "a": 2}),
    diff("d", "delete", {"id": "gone"}),
]


class Store(MemorySynchronizer):
    """A store in memory whose creates fail with an error where one is given."""

    failing: Exception | None = None

    def is_transient(self, error: Exception) -> bool:
        return isinstance(error, Deadlock)

    def owned_rows(self, owner_id: str, where: str, after: str | None = None) -> Any:
        return [] if after else [{"id": "old"}]

    def create_many(self, where: str, rows_json: Sequence[str]) -> None:
        if self.failing is not None:
            raise self.failing
        super().create_many(where, rows_json)


class OneByOne(PlainStore):
    """A store as the documentation shows one, whose writes stand at once."""


def by_apply(server: Mobync) -> object:
    return server.apply(6, [dict(d) for d in DIFFS], "ann")


def by_json(server: Mobync) -> object:
    return server.apply_json(json.dumps({"logical_clock": 6, "diffs": DIFFS}), "ann")


def by_push(server: Mobync) -> object:
    operations = [(d["type"], d["model"], d["json_data"]) for d in DIFFS]
    return server.push("ann", operations)


def by_adopt(server: Mobync) -> object:
    return server.adopt("ann", "tasks", [{"id": "new"}])


def by_adopt_owned(server: Mobync) -> object:
    return server.adopt("ann", "tasks")


def by_compact(server: Mobync) -> object:
    return server.compact("ann")


def by_validate(server: Mobync) -> object:
    return server.validate(dict(DIFFS[0]), "ann")


def by_clock(server: Mobync) -> object:
    return server.logical_clock("ann")


SYNCS = (by_apply, by_json)
WRITES = (*SYNCS, by_push)
ASKED: dict[str, tuple[Callable[[Mobync], object], ...]] = {
    "read": (*SYNCS, by_adopt, by_compact),
    "create": WRITES,
    "update": WRITES,
    "delete": WRITES,
    "validate_create": (*SYNCS, by_validate),
    "validate_update": SYNCS,
    "validate_delete": SYNCS,
    "write_order": WRITES,
    "highest_logical_clock": (by_push, by_clock, by_compact),
    "create_many": (*WRITES, by_adopt),
    "update_many": (*WRITES, by_compact),
    "delete_many": (*WRITES, by_compact),
    "check_written": WRITES,
    "read_log": SYNCS,
    "append_log": (*WRITES, by_adopt),
    "owned_rows": (by_adopt_owned,),
}


def filled(store: Any) -> Any:
    """The store, with a log from which compaction drops one diff and trims another."""
    server = Mobync(store)
    server.apply(0, [diff("s0", "create", {"id": "old", "a": 0, "b": 0})], "ann")
    server.apply(1, [diff("s1", "create", {"id": "gone"})], "ann")
    server.apply(2, [diff("s2", "update", {"id": "gone", "a": 1})], "ann")
    server.apply(3, [diff("s3", "update", {"id": "old", "a": 1, "b": 2}, 20)], "ann")
    server.apply(4, [diff("s4", "update", {"id": "old", "a": 1}, 21)], "ann")
    server.apply(5, [diff("s5", "delete", {"id": "gone"}, 22)], "ann")
    server.apply(6, [diff("s6", "create", {"id": "not seen"}, 23)], "ann")
    return store


def contents(store: Any) -> Any:
    if isinstance(store, PlainStore):
        return copy.deepcopy(store.tables)
    return {name: copy.deepcopy(table.rows) for name, table in store._database.tables.items()}


async def forgotten() -> bool:
    raise AssertionError("nobody awaits this")


async def awaited(self: Any, *args: Any, **kwargs: Any) -> bool:
    return await forgotten()


def hidden(self: Any, *args: Any, **kwargs: Any) -> Any:
    return forgotten()


def refused_by_name(
    store: Any, method: str, how: Callable[..., Any], call: Callable[[Mobync], object]
) -> None:
    """Give the store, whose class is made again, another method, and see what becomes of it."""
    store.__class__ = type("Async", (type(store),), {method: how})
    before = contents(store)
    with pytest.raises(TypeError, match=rf"\b{method}\b") as raised:
        call(Mobync(store, lock_timeout_s=0))
    assert "a plain function" in str(raised.value)
    del raised
    gc.collect(0)
    assert contents(store) == before
    store.__class__ = store.__class__.__base__
    Mobync(store, lock_timeout_s=0).apply(6, [], "ann")


CASES = [(method, call) for method, calls in ASKED.items() for call in calls]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("method", "call"), CASES)
def test_what_would_have_to_be_awaited_is_refused_by_name(
    method: str, call: Callable[[Mobync], object]
) -> None:
    refused_by_name(filled(Store()), method, hidden, call)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("method", [*ASKED, "transaction", "is_transient", "may_begin_again"])
def test_an_async_method_is_refused_at_once(method: str) -> None:
    refused_by_name(filled(Store()), method, awaited, lambda server: server)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("method", ["read", "create", "validate_create"])
@pytest.mark.parametrize("call", SYNCS)
def test_so_it_is_without_transactions(method: str, call: Callable[[Mobync], object]) -> None:
    refused_by_name(filled(OneByOne()), method, hidden, call)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("method", "error"),
    [("is_transient", ConnectionError()), ("may_begin_again", InvalidDiffError("full"))],
)
def test_an_answer_to_a_failure_that_would_have_to_be_awaited(
    method: str, error: Exception
) -> None:
    def failing(server: Mobync) -> None:
        store.failing = error
        try:
            server.push("ann", [("create", "tasks", {"id": id_}) for id_ in ("1", "2")])
        finally:
            store.failing = None

    store = filled(Store())
    refused_by_name(store, method, hidden, failing)


@pytest.mark.filterwarnings("error")
def test_a_transaction_of_asyncio_is_refused_by_name() -> None:
    @asynccontextmanager
    async def transaction(self: Any, owner_id: str) -> AsyncIterator[Any]:
        yield self

    refused_by_name(filled(Store()), "transaction", transaction, lambda server: server)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("method", ["read", "owned_rows"])
def test_an_async_iterator_of_rows_is_refused_by_name(method: str) -> None:
    async def rows(self: Any, *args: Any) -> AsyncIterator[Any]:
        yield {"id": "old"}

    refused_by_name(filled(Store()), method, rows, lambda server: server)


def a_future(*_: Any, **__: Any) -> Any:
    loop = asyncio.new_event_loop()
    try:
        return loop.create_future()
    finally:
        loop.close()


def a_function(*_: Any, **__: Any) -> Any:
    return lambda: True


def a_generator(*_: Any, **__: Any) -> Iterator[bool]:
    yield True


async def an_async_generator(*_: Any, **__: Any) -> AsyncIterator[bool]:
    yield True


async def a_coroutine(*_: Any, **__: Any) -> bool:
    return True


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "rule",
    [a_future, a_function, a_generator, an_async_generator, a_coroutine, lambda *_, **__: int],
)
@pytest.mark.parametrize("kind", ["create", "update", "delete"])
@pytest.mark.parametrize("call", [*SYNCS, by_validate])
def test_a_rule_answers_true_or_false(
    rule: Callable[..., Any], kind: str, call: Callable[[Mobync], object]
) -> None:
    if call is by_validate and kind != "create":
        return
    store = filled(Store())
    setattr(store, f"validate_{kind}", lambda *_, **__: rule())
    for on_refusal in ("raise", "skip"):
        before = contents(store)
        with pytest.raises(TypeError, match=rf"\bvalidate_{kind}\b"):
            call(Mobync(store, on_refusal=on_refusal))  # type: ignore[arg-type]
        gc.collect(0)
        assert contents(store) == before
