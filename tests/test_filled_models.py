"""A Synchronizer of an app's own that says which models are filled in."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
from simulation.claims import rows_by_replaying

from mobync import FilledModel, Mobync, ReadFilter, Synchronizer
from mobync.memory import MemorySynchronizer

NOW = 1_700_000_000_000


class Counting(MemorySynchronizer):
    """Counts the writes of each row in its field ``version``."""

    filled_models: ClassVar = {"tasks": FilledModel(frozenset(), True)}

    def create(self, where: str, data_json: str) -> None:
        if where == "tasks":
            data_json = json.dumps({**json.loads(data_json), "version": 1})
        super().create(where, data_json)

    def update(self, where: str, data_json: str) -> None:
        if where == "tasks":
            row = json.loads(data_json)
            for there in self.find_owned_rows("bob", where, [row["id"]]):
                data_json = json.dumps({**row, "version": there["version"] + 1})
        super().update(where, data_json)

    def find_owned_rows(
        self, owner_id: str, where: str, ids: Sequence[str]
    ) -> list[dict[str, Any]]:
        return [row for row in super().read(where) if row["id"] in ids]


class AsJSON(Counting):
    """Gives its log as JSON text, and takes it so."""

    read_log = Synchronizer.read_log
    append_log = Synchronizer.append_log

    def read(self, where: str, filters: Sequence[ReadFilter] = ()) -> Any:
        return json.dumps(super().read(where, filters))


def edit(kind: str, id_: str, **row: Any) -> dict[str, Any]:
    return {
        "id": str(uuid.uuid4()),
        "owner": "bob",
        "logical_clock": 0,
        "utc_timestamp": NOW,
        "type": kind,
        "model": "tasks",
        "json_data": json.dumps({"id": id_, **row}),
    }


def answer(mobync: Mobync, clock: int, edits: list[dict[str, Any]], as_json: bool) -> Any:
    if as_json:
        body = {"logical_clock": clock, "diffs": edits}
        return json.loads(mobync.apply_json(json.dumps(body), "bob"))
    return mobync.apply(clock, [dict(each) for each in edits], "bob")


def said(reply: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(each["type"], json.loads(each["json_data"])) for each in reply["diffs"]]


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("kind", [Counting, AsJSON])
@pytest.mark.parametrize("many", [1, 1200])
def test_what_it_fills_in_comes_behind_what_others_wrote(
    kind: type[Counting], as_json: bool, many: int
) -> None:
    mobync = Mobync(kind())
    answer(mobync, 0, [edit("create", f"a{i}", n=i) for i in range(many)], as_json)
    mine = [edit("create", "b", n=1), edit("create", "c", n=2)]
    reply = answer(mobync, 0, mine, as_json)
    assert said(reply)[: 2 * many : many] == [
        ("create", {"id": "a0", "n": 0}),
        ("update", {"id": "a0", "version": 1}),
    ]
    assert said(reply)[2 * many :] == [
        ("update", {"id": "b", "version": 1}),
        ("update", {"id": "c", "version": 1}),
    ]
    assert reply["logical_clock"] == 2 * many + 4
    again = answer(mobync, 0, mine, as_json)
    assert again["diffs"] == reply["diffs"]
    (part,) = answer(mobync, reply["logical_clock"], [edit("update", "b", n=3)], as_json)["diffs"]
    assert (part["type"], json.loads(part["json_data"])) == ("update", {"id": "b", "version": 2})
    log = answer(mobync, 0, [], as_json)["diffs"]
    rows = mobync.synchronizer.find_owned_rows("bob", "tasks", ["b", "c"])
    assert [rows_by_replaying(log)["tasks", row["id"]] | {"id": row["id"]} for row in rows] == rows


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("kind", [Counting, AsJSON])
def test_it_comes_behind_what_restores_a_refused_object(
    kind: type[Counting], as_json: bool
) -> None:
    class Refusing(kind):  # type: ignore[valid-type, misc]
        def validate_update(self, owner_id: str, **diff: Any) -> bool:
            return False

    mobync = Mobync(Refusing(), on_refusal="skip")
    clock = answer(mobync, 0, [edit("create", "a", n=1)], as_json)["logical_clock"]
    edits = [edit("update", "a", n=9), edit("create", "b", n=2)]
    reply = answer(mobync, clock, edits, as_json)
    assert said(reply)[-1] == ("update", {"id": "b", "version": 1})
    assert {"id": "a", "n": 1} in [
        {name: row[name] for name in ("id", "n") if name in row} for _, row in said(reply)
    ]
    assert len(reply["refused"]) == 1


@pytest.mark.parametrize("as_json", [False, True])
def test_a_commit_that_fails_after_it_is_tried_again_without_what_it_sent(as_json: bool) -> None:
    class Failing(Counting):
        failures = 0

        def validate_update(self, owner_id: str, **diff: Any) -> bool:
            return False

        @contextmanager
        def transaction(self, owner_id: str) -> Iterator[MemorySynchronizer]:
            with super().transaction(owner_id) as store:
                yield store
                if self.failures:
                    self.failures -= 1
                    raise ConnectionError

        def is_transient(self, error: Exception) -> bool:
            return isinstance(error, ConnectionError)

    replies = []
    for failures in (0, 2):
        mobync = Mobync(Failing(), on_refusal="skip")
        clock = answer(mobync, 0, [edit("create", "a", n=1)], as_json)["logical_clock"]
        mobync.synchronizer.failures = failures
        edits = [edit("update", "a", n=9), *(edit("create", f"b{i}", n=2) for i in range(50))]
        replies.append(answer(mobync, clock, edits, as_json))
        assert replies[-1]["logical_clock"] == clock + 100
    assert said(replies[0]) == said(replies[1])


def test_a_push_of_the_backend_gives_the_clock_behind_it() -> None:
    mobync = Mobync(Counting())
    assert mobync.push("bob", [("create", "tasks", {"id": "a"})]) == 2
    assert mobync.logical_clock("bob") == 2
    assert mobync.push("bob", []) == 2


def test_one_without_a_transaction_of_its_own_has_no_part() -> None:
    class Bare(Counting):
        transaction = Synchronizer.transaction

    mobync = Mobync(Bare())
    assert answer(mobync, 0, [edit("create", "a")], False)["diffs"] == []


def test_an_error_while_it_is_read_back_reaches_the_caller_and_writes_nothing() -> None:
    class Failing(Counting):
        def find_owned_rows(self, *_: Any) -> Any:
            raise ZeroDivisionError

    class Wrong(Counting):
        filled_models = property(lambda self: 1 // 0)  # type: ignore[assignment]

    for kind in (Failing, Wrong):
        mobync = Mobync(kind())
        with pytest.raises(ZeroDivisionError):
            answer(mobync, 0, [edit("create", "a")], False)
        assert mobync.logical_clock("bob") == 0
