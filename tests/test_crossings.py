"""A sync enters C once: between there and the app's methods nothing goes back and forth."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, Literal

import pytest
from test_apply import PlainStore, Row, diff

from mobync import Mobync, Synchronizer, UnauthorizedError, _core
from mobync.memory import MemorySynchronizer

Sync = Callable[[Mobync, int, list[Row]], Any]


def by_dicts(server: Mobync, clock: int, diffs: list[Row]) -> Any:
    return server.apply(clock, diffs, "anna")


def by_json(server: Mobync, clock: int, diffs: list[Row]) -> Any:
    body = json.dumps({"logical_clock": clock, "diffs": diffs})
    return json.loads(server.apply_json(body, "anna"))


def is_of_the_extension(function: Any) -> bool:
    """Whether a C function is one of mobync._core's, or a method of one of its types."""
    if function.__self__ is _core:
        return True
    kind = function.__self__ if isinstance(function.__self__, type) else type(function.__self__)
    return any(
        base.__module__ == _core.__name__ and function.__name__ in vars(base)
        for base in kind.__mro__
    )


def crossings(work: Callable[[], object]) -> list[str]:
    """The functions of the extension that Python calls meanwhile."""
    entered: list[str] = []

    def note(frame: Any, event: str, function: Any) -> None:
        if event == "c_call" and is_of_the_extension(function):
            entered.append(function.__name__)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return entered


class Memory(MemorySynchronizer):
    def validate_update(self, owner_id: str, **sent: Any) -> bool:
        return sent["id"] != "refused"


class Plain(PlainStore):
    validate_update = Memory.validate_update


ON_REFUSAL = ("raise", "skip")


@pytest.fixture(params=[Memory, Plain])
def store(request: pytest.FixtureRequest) -> Synchronizer:
    """One whose log has two diffs."""
    made: Synchronizer = request.param()
    before = [diff("b0", "create", {"id": "x", "a": 1}), diff("b1", "create", {"id": "y"})]
    Mobync(made).apply(0, before, "anna")
    return made


@pytest.fixture(params=[(by_dicts, "apply"), (by_json, "apply_json")], ids=["dicts", "JSON"])
def sync(request: pytest.FixtureRequest) -> tuple[Sync, str]:
    found: tuple[Sync, str] = request.param
    return found


REQUESTS: dict[str, tuple[int, list[Row]]] = {
    "a pull": (0, []),
    "a push": (2, [diff("p0", "update", {"id": "x", "a": 2}), diff("p1", "create", {"id": "z"})]),
    "both": (0, [diff("p0", "update", {"id": "x", "a": 2}), diff("p1", "delete", {"id": "y"})]),
    "a retry": (0, [diff("b0", "create", {"id": "x", "a": 1})]),
}


@pytest.mark.parametrize("on_refusal", ON_REFUSAL)
@pytest.mark.parametrize("what", REQUESTS)
def test_a_sync_enters_the_extension_once(
    store: Synchronizer, sync: tuple[Sync, str], what: str, on_refusal: Literal["raise", "skip"]
) -> None:
    apply, name = sync
    server = Mobync(store, on_refusal=on_refusal)
    clock, diffs = REQUESTS[what]
    assert crossings(lambda: apply(server, clock, [dict(d) for d in diffs])) == [name]


@pytest.mark.parametrize("on_refusal", ON_REFUSAL)
def test_so_does_one_with_a_diff_that_is_refused(
    store: Synchronizer, sync: tuple[Sync, str], on_refusal: Literal["raise", "skip"]
) -> None:
    apply, name = sync
    server = Mobync(store, on_refusal=on_refusal)
    diffs = [
        diff("p0", "create", {"id": "z"}),
        diff("refused", "update", {"id": "x", "a": 2}),
        diff("p1", "update", {"id": "y", "a": 2}),
    ]
    told: list[Any] = []

    def refused() -> None:
        if on_refusal == "raise":
            with pytest.raises(UnauthorizedError):
                apply(server, 1, diffs)
        else:
            told.extend(apply(server, 1, diffs)["refused"])

    assert crossings(refused) == [name]
    assert [refusal["id"] for refusal in told] == (["refused"] if on_refusal == "skip" else [])


def test_so_does_a_page(store: Synchronizer) -> None:
    server = Mobync(store)
    reply = {}
    assert crossings(lambda: reply.update(server.apply(0, [], "anna", limit=1))) == ["apply"]
    assert reply["more"]


def test_so_does_a_push_of_the_backends_edits(store: Synchronizer) -> None:
    server = Mobync(store)
    pushed = crossings(lambda: server.push("anna", [("update", "tasks", {"id": "x", "a": 3})]))
    assert pushed == ["_push_diffs"]


def test_what_is_counted_is_seen_at_all() -> None:
    assert crossings(lambda: _core.check_text("name", "text")) == ["check_text"]
    assert crossings(lambda: _core.Compaction().piece([], "anna", 0, 1)) == ["piece"]
