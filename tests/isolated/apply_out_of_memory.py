"""Makes every allocation that the extension asks for during an apply fail once.

Each failure must be a MemoryError that leaves no lock held, the store as it was, or, where only the
reply was missing, with all of the request in it, and the caller's dicts alike.  The same request,
sent again, then brings about what it always does.

Only the extension runs out of memory, not the Python code around it: CPython does not survive that
itself (dictiter_new in Objects/dictobject.c, for one, frees what is not yet tracked).

Run alone, in a process of its own.
"""

from __future__ import annotations

import _testcapi
import copy
import json
import sys
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

from out_of_memory import CLIENT, SERVER, Fault, attempt, expect_memory_error, refuse_python

from mobync import Mobync, _core, _transactions, sync
from mobync.memory import MemorySynchronizer

FAULT = Fault(refuse_python, _testcapi.remove_mem_hooks)
THROUGH = 10  # calls in a row that do not fail


class Scarcity:
    """Which call into the extension is short of memory, and at which of its allocations."""

    def __init__(self, at_call: int, nth: int) -> None:
        self.calls_left = at_call
        self.nth = nth

    def call(self, function: Callable[[], Any]) -> Any:
        self.calls_left -= 1
        if self.calls_left != 0:
            return function()
        result, error = attempt(function, FAULT, self.nth)
        if error is not None:
            raise error
        return result


class ScarceExchange:
    """An Exchange whose every call goes through a Scarcity."""

    def __init__(self, scarcity: Scarcity, *args: Any, **kwargs: Any) -> None:
        self._scarcity = scarcity
        self._exchange = scarcity.call(partial(_core.Exchange, *args, **kwargs))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._exchange, name)
        if not callable(found):
            return found
        return lambda *args: self._scarcity.call(partial(found, *args))

    def __len__(self) -> int:
        return len(self._exchange)


def filled_store() -> MemorySynchronizer:
    store = MemorySynchronizer()
    for row in ('{"id": "x", "a": 1, "b": 2}', '{"id": "y", "a": 1, "b": 2}', '{"id": "k\u00e9"}'):
        store.create("tasks", row)
    for logged in SERVER:
        store.create("diffs", json.dumps(logged))
    return store


def contents(store: MemorySynchronizer) -> Any:
    return store.read("tasks"), store.read("diffs")


def fail_once(scarcity: Scarcity, before: Any, after: Any, expected: Any) -> bool:
    """Refuse one allocation; whether apply failed."""
    store = filled_store()
    server = Mobync(store, lock_timeout_s=0)
    diffs = [dict(d) for d in CLIENT]
    alone = _core.Exchange([])  # takes the memory that is kept between calls: that of apply is new
    sync._core = SimpleNamespace(Exchange=partial(ScarceExchange, scarcity))
    try:
        reply = server.apply(3, diffs, "o")
    except BaseException as error:
        expect_memory_error(error)
    else:
        assert (reply, contents(store)) == (expected, after)
        return False
    finally:
        sync._core = _core
        del alone

    assert len(_transactions._owner_locks) == 0, "a lock is left"
    assert contents(store) in (before, after), "half written"
    if contents(store) == before:
        assert diffs == CLIENT, "the caller's dicts were changed"
    again = server.apply(3, copy.deepcopy(diffs), "o")
    assert contents(store) == after
    assert again["logical_clock"] == expected["logical_clock"]
    return True


def main() -> int:
    store = filled_store()
    before = contents(store)
    expected = Mobync(store).apply(3, [dict(d) for d in CLIENT], "o")
    after = contents(store)
    assert before != after
    failures, at_call = 0, 1
    while True:
        through = nth = 0
        while through < THROUGH:
            scarcity = Scarcity(at_call, nth)
            try:
                failed = fail_once(scarcity, before, after, expected)
            except AssertionError as broken:
                raise AssertionError(f"call {at_call}, allocation {nth}: {broken}") from broken
            failures += failed
            through = 0 if failed else through + 1
            nth += 1
        if scarcity.calls_left > 0:
            break
        at_call += 1
    print(f"apply: {failures} failures in {at_call - 1} calls")
    return 0 if failures > at_call > 5 else 1


if __name__ == "__main__":
    sys.exit(main())
