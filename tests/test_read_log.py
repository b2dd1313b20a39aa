"""A store that gives the rows of the log as values, one by one."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import merge_model
import pytest
from test_merge import diff

from mobync import Mobync, _core
from mobync.memory import MemorySynchronizer
from mobync.types import LOG_FIELDS, LogRow, ReadFilter

OWNER = "o"


Store = TypeVar("Store", bound=MemorySynchronizer)


class ValueStore(MemorySynchronizer):
    """Gives rows of the log as values; ``change`` may put others in their place."""

    def __init__(self) -> None:
        super().__init__()
        self.change: Callable[[list[Any]], Iterable[Any]] = iter

    def read_log(self, where: str, filters: Sequence[ReadFilter]) -> Iterable[LogRow]:
        rows = [tuple(row[field] for field in LOG_FIELDS) for row in self.read(where, filters)]
        return self.change(rows)


EDITS = [
    diff("a", "create", {"id": "x", "n": 1, "é": "ü"}, 1),
    diff("b", "update", {"id": "x", "n": 2}, 2),
    diff("c", "create", {"id": "y", "n": 1}, 3),
    diff("d", "update", {"id": "z", "n": 3}, 4),
    diff("e", "create", {"id": "gone"}, 5),
    diff("f", "delete", {"id": "gone"}, 6),
]


def filled(kind: type[Store]) -> tuple[Store, Mobync]:
    """A store with a log of one clock for each edit."""
    store = kind()
    server = Mobync(store)
    for clock, edit in enumerate(EDITS):
        server.apply(clock, [edit], OWNER)
    assert server.logical_clock(OWNER) == len(EDITS)
    return store, server


@pytest.mark.parametrize("clock", range(6))
@pytest.mark.parametrize("as_row", [tuple, list])
def test_it_says_the_same_as_read(clock: int, as_row: Callable[[Any], Any]) -> None:
    store, server = filled(ValueStore)
    store.change = lambda rows: map(as_row, rows)
    said = server.apply(clock, [], OWNER)
    assert said["diffs"] or clock == 4, "what came and went is not told"
    assert said == filled(MemorySynchronizer)[1].apply(clock, [], OWNER)
    body = json.dumps({"logical_clock": clock, "diffs": []})
    assert json.loads(server.apply_json(body, OWNER)) == said


def test_a_row_is_let_go_before_the_next_is_asked_for() -> None:
    store, server = filled(ValueStore)
    alive: list[int] = []
    most = 0

    class Counted(tuple):  # type: ignore[type-arg]
        def __del__(self) -> None:
            alive.pop()

    def one_by_one(rows: list[Any]) -> Iterator[Any]:
        nonlocal most
        for row in rows:
            made = Counted(row)
            alive.append(1)
            most = max(most, len(alive))
            yield made
            del made

    store.change = one_by_one
    assert server.apply(0, [], OWNER)["diffs"]
    assert most == 1
    assert not alive


def everything(store: MemorySynchronizer) -> list[Any]:
    return [store.read("tasks"), store.read("diffs")]


class Stop(BaseException):
    pass


@pytest.mark.parametrize("error", [ValueError("down"), KeyboardInterrupt(), Stop(), MemoryError()])
@pytest.mark.parametrize("after", range(4))
def test_what_is_raised_between_two_rows_reaches_the_caller(
    error: BaseException, after: int
) -> None:
    store, server = filled(ValueStore)
    before = everything(store)

    def failing(rows: list[Any]) -> Iterator[Any]:
        yield from rows[:after]
        raise error

    store.change = failing
    with pytest.raises(type(error)) as raised:
        server.apply(1, [diff("new", "create", {"id": "w"}, 9)], OWNER)
    assert raised.value is error
    assert everything(store) == before
    store.change = iter
    assert server.apply(1, [diff("new", "create", {"id": "w"}, 9)], OWNER)["success"]


def test_a_sync_between_two_rows_is_a_sync_of_its_own() -> None:
    store, server = filled(ValueStore)
    said: list[Any] = []

    def meanwhile(rows: list[Any]) -> Iterator[Any]:
        for row in rows:
            store.change = iter
            said.append(server.apply(0, [], "another"))
            yield row

    store.change = meanwhile
    expected = filled(MemorySynchronizer)[1].apply(0, [], OWNER)
    assert server.apply(0, [], OWNER) == expected
    assert said


TIMES = "times that are no text"
WRONG = {
    "a number": (lambda row: 7, TypeError, r"read_log\('diffs'\) gave row 0, which is int"),
    "six values": (lambda row: row[:6], TypeError, r"gave row 0, which has 6 values, not 7"),
    "nine values": (lambda row: (*row, None, 1), TypeError, r"row 0, which has 9 values, not 7"),
    TIMES: (lambda row: (*row, 1), ValueError, r"field_times must be a string"),
    "another owner": (
        lambda row: (row[0], "p", *row[2:]),
        ValueError,
        r"read_log\('diffs'\) gave row 0, which belongs to another owner",
    ),
    "an old clock": (
        lambda row: (*row[:2], 0, *row[3:]),
        ValueError,
        r"read_log\('diffs'\) gave row 0, which has logical_clock 0, but 1 and later",
    ),
    "no JSON": (
        lambda row: (*row[:6], "{"),
        ValueError,
        r"read_log\('diffs'\) gave an .*json_data",
    ),
    "no type": (lambda row: (*row[:4], None, *row[5:]), ValueError, r"gave an .*type"),
    "no id": (lambda row: ("", *row[1:]), ValueError, r"gave an .*id"),
}


def server_of_wrong_rows(name: str) -> Mobync:
    change = WRONG[name][0]
    store, server = filled(ValueStore)
    store.change = lambda rows: (change(row) for row in rows)
    return server


@pytest.mark.parametrize("name", WRONG)
def test_a_row_that_is_no_diff_of_the_owner_is_named(name: str) -> None:
    _, kind, message = WRONG[name]
    server = server_of_wrong_rows(name)
    with pytest.raises(kind, match=message):
        server.apply(1, [diff("g", "update", {"id": "x", "n": 4}, 7)], OWNER)


@pytest.mark.parametrize("name", sorted(WRONG.keys() - {TIMES}))
def test_a_pull_names_it_too(name: str) -> None:
    _, kind, message = WRONG[name]
    server = server_of_wrong_rows(name)
    with pytest.raises(kind, match=message):
        server.apply(1, [], OWNER)


@pytest.mark.parametrize("pages", [{}, {"limit": 2}])
def test_a_pull_does_not_read_the_times(pages: dict[str, Any]) -> None:
    server = server_of_wrong_rows(TIMES)
    said = server.apply(1, [], OWNER, **pages)
    assert said["diffs"]
    assert said == filled(ValueStore)[1].apply(1, [], OWNER, **pages)


def test_what_is_no_iterable_is_an_error() -> None:
    store, server = filled(ValueStore)
    store.change = lambda rows: None  # type: ignore[assignment, return-value]
    with pytest.raises(TypeError):
        server.apply(0, [], OWNER)


@pytest.mark.parametrize("requested", [0, 40])
def test_a_long_window_is_merged_as_a_short_one_is(requested: int) -> None:
    """Beyond 1,000 rows, what is alone of its object passes by the merge."""
    rng = random.Random(requested)
    window = [
        diff(
            f"w{i}",
            rng.choice(["create", "update", "update", "delete"]),
            {
                "id": f"x{rng.randrange(1100)}",
                **dict.fromkeys(rng.sample("abc", rng.randrange(4)), i),
            },
            rng.randrange(5000),
            i,
        )
        for i in range(1100)
    ]
    request = [
        diff(f"r{i}", rng.choice(["create", "update", "delete"]), {"id": f"x{i}", "a": -i}, i)
        for i in range(requested)
    ]
    objects = Counter(row["json_data"].split(",")[0].rstrip("}") for row in window)
    assert Counter(objects.values())[1] > 200 < sum(n for n in objects.values() if n > 1)
    upstream, downstream = _core.merge(window, request)
    expected_up, expected_down = merge_model.merge(window, request)
    assert by_value(upstream) == by_value(expected_up)
    assert by_value(downstream) == by_value(expected_down)


def by_value(diffs: list[Any]) -> list[Any]:
    return [{**d, "json_data": json.loads(d["json_data"])} for d in diffs]
