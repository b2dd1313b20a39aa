"""Pages: what each brings, what waits for the last, and which cursors are refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from databases import open_database
from task_list import TaskList
from test_apply import PlainStore, Row, diff

from mobync import (
    FilterType,
    InvalidDiffError,
    LogicalClockError,
    Mobync,
    PageError,
    ReadFilter,
    SyncReport,
)
from mobync.memory import MemorySynchronizer


def creates(count: int) -> list[Row]:
    return [diff(f"c{i}", "create", {"id": f"t{i}", "name": f"n{i}"}) for i in range(count)]


@pytest.fixture(params=["plain", "memory", "sqlite", "postgresql", "mariadb"])
def mobync(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mobync]:
    """With ten tasks of ten clocks in the log."""
    if request.param == "plain":
        filled = Mobync(PlainStore())
        filled.apply(0, creates(10), "anna")
        yield filled
    elif request.param == "memory":
        filled = Mobync(MemorySynchronizer())
        filled.apply(0, creates(10), "anna")
        yield filled
    else:
        with open_database(request.param, tmp_path) as database:
            filled = Mobync(TaskList(database).store)
            filled.apply(0, creates(10), "anna")
            yield filled


def pages(
    mobync: Mobync, limit: int, diffs: list[Row] | None = None, clock: int = 0
) -> list[dict[str, Any]]:
    """The replies of a whole pull; each page asked for twice, as a retry, and once as JSON."""
    replies: list[dict[str, Any]] = []
    cursor = None
    while not replies or replies[-1]["more"]:
        request = {"logical_clock": clock, "diffs": diffs or [], "limit": limit, "cursor": cursor}
        reply = mobync.apply(clock, diffs or [], "anna", limit=limit, cursor=cursor)
        if reply["more"]:
            assert json.loads(mobync.apply_json(json.dumps(request), "anna")) == reply
        replies.append(dict(reply))
        cursor = reply.get("cursor")
    return replies


def ids(reply: dict[str, Any]) -> list[str]:
    return [json.loads(d["json_data"])["id"] for d in reply["diffs"]]


def test_pages_bring_together_what_one_reply_brings(mobync: Mobync) -> None:
    whole = mobync.apply(0, [], "anna")
    replies = pages(mobync, 4)
    assert [len(reply["diffs"]) for reply in replies] == [4, 4, 2]
    assert [d for reply in replies for d in reply["diffs"]] == whole["diffs"]
    assert [reply["logical_clock"] for reply in replies] == [0, 0, 10]
    assert [reply["more"] for reply in replies] == [True, True, False]
    assert "cursor" not in replies[-1]


def test_a_reply_says_nothing_of_pages_to_who_did_not_ask(mobync: Mobync) -> None:
    expected = ["success", "message", "logical_clock", "diffs"]
    assert list(mobync.apply(0, [], "anna")) == expected
    assert list(json.loads(mobync.apply_json('{"logical_clock": 0, "diffs": []}', "anna"))) == (
        expected
    )


@pytest.mark.parametrize("limit", [10, 11, 2**53, 2**70, str(2**70)])
def test_what_fits_is_one_page(mobync: Mobync, limit: int) -> None:
    (reply,) = pages(mobync, limit)
    assert reply["logical_clock"] == 10
    assert len(reply["diffs"]) == 10


def test_a_pull_that_is_one_page_reads_the_log_once() -> None:
    store = MemorySynchronizer()
    mobync = Mobync(store)
    mobync.apply(0, creates(10), "anna")
    before = store.rows_read
    reply = mobync.apply(0, [], "anna", limit=100)
    assert (len(reply["diffs"]), reply["more"]) == (10, False)
    assert store.rows_read - before == 10


def test_edits_are_pushed_with_the_last_page_and_not_before(mobync: Mobync) -> None:
    edit = [diff("e", "update", {"id": "t1", "name": "new"}, at=20)]
    first = mobync.apply(4, edit, "anna", limit=3)
    assert (first["logical_clock"], first["more"]) == (4, True)
    assert len(mobync.apply(0, [], "anna")["diffs"]) == 10
    assert edit[0]["logical_clock"] == 0

    last = pages(mobync, 3, edit, clock=4)[-1]
    assert last["logical_clock"] == 11
    assert edit[0]["logical_clock"] == 10


def test_what_the_request_touches_comes_with_the_last_page(mobync: Mobync) -> None:
    edits = [
        diff("mine", "create", {"id": "t1", "rank": 7}, at=5),
        diff("late", "create", {"id": "mine"}),
    ]
    replies = pages(mobync, 4, edits)
    assert [ids(reply) for reply in replies] == [
        ["t0", "t2", "t3"],
        ["t4", "t5", "t6", "t7"],
        ["t1", "t8", "t9"],
    ]
    assert [d["type"] for d in replies[-1]["diffs"]] == ["update", "create", "create"]


def test_what_died_after_its_page_is_deleted(mobync: Mobync) -> None:
    first = mobync.apply(0, [], "anna", limit=2)
    mobync.apply(10, [diff("d", "delete", {"id": "t0"}, at=30)], "anna")
    replies = [mobync.apply(0, [], "anna", limit=100, cursor=first["cursor"])]
    assert ids(dict(first)) == ["t0", "t1"]
    assert [d["type"] for d in replies[0]["diffs"]] == ["create"] * 8 + ["delete"]


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_new_device_is_not_told_of_the_dead_and_of_no_less_than_the_living(limit: int) -> None:
    """Lives that end behind their page, ids that live again, tombstones after compaction."""
    mobync = Mobync(MemorySynchronizer())
    for name in ("a", "b", "a", "c", "a"):
        mobync.push("anna", [("create", "tasks", {"id": name, "n": 1})])
        mobync.push("anna", [("update", "tasks", {"id": name, "n": 2})])
        if name != "c":
            mobync.push("anna", [("delete", "tasks", {"id": name})])
    mobync.push("anna", [("create", "tasks", {"id": "b", "n": 3})])
    for _ in range(2):
        told = [d for reply in pages(mobync, limit) for d in reply["diffs"]]
        assert {d["type"] for d in told} <= {"create", "update"}
        rows: dict[str, Any] = {}
        for row in (json.loads(d["json_data"]) for d in told):
            rows.setdefault(row["id"], {}).update(row)
        assert rows == {"b": {"id": "b", "n": 3}, "c": {"id": "c", "n": 2}}
        mobync.compact("anna")


def test_a_pull_over_many_dead_is_one_request_and_reads_the_log_once() -> None:
    store = MemorySynchronizer()
    mobync = Mobync(store)
    for begin in range(0, 1000, 100):
        names = [f"t{i}" for i in range(begin, begin + 100)]
        mobync.push("anna", [("create", "tasks", {"id": name}) for name in names])
        mobync.push("anna", [("delete", "tasks", {"id": name}) for name in names])
    mobync.push("anna", [("create", "tasks", {"id": "alive"})])
    before = store.rows_read
    reply = mobync.apply(0, [], "anna", limit=10)
    assert [json.loads(d["json_data"])["id"] for d in reply["diffs"]] == ["alive"]
    assert not reply["more"]
    assert store.rows_read - before < 3 * 2001  # the log, its deletes, and the last piece again


def test_a_pull_that_is_overtaken_goes_on_to_the_new_end(mobync: Mobync) -> None:
    first = mobync.apply(0, [], "anna", limit=9)
    more = [diff(f"m{i}", "create", {"id": f"m{i}"}) for i in range(9)]
    mobync.apply(10, more, "anna")
    second = mobync.apply(0, [], "anna", limit=9, cursor=first["cursor"])
    third = mobync.apply(0, [], "anna", limit=9, cursor=second["cursor"])
    assert [len(reply["diffs"]) for reply in (first, second, third)] == [9, 9, 1]
    assert third["logical_clock"] == 19


def test_a_cursor_without_a_limit_brings_the_rest(mobync: Mobync) -> None:
    first = mobync.apply(0, [], "anna", limit=2)
    rest = mobync.apply(0, [], "anna", cursor=first["cursor"])
    assert len(rest["diffs"]) == 8
    assert not rest["more"]


def test_gaps_of_a_compacted_log_end_no_pull(mobync: Mobync) -> None:
    for i in range(40):
        rename = diff(f"r{i}", "update", {"id": "t0", "name": str(i)}, at=20 + i)
        mobync.apply(10 + i, [rename], "anna")
    assert mobync.compact("anna").rows_after == 11
    replies = pages(mobync, 3)
    assert [d for reply in replies for d in reply["diffs"]] == mobync.apply(0, [], "anna")["diffs"]
    assert replies[-1]["logical_clock"] == 50
    assert len(replies) < 10


def test_diffs_of_one_clock_are_on_one_page() -> None:
    """As in a log that mobync 0.2.0 wrote."""
    store = PlainStore()
    old = [{**d, "owner": "anna", "logical_clock": i // 3} for i, d in enumerate(creates(7))]
    store.tables["diffs"] = old
    replies = pages(Mobync(store), 2)
    assert [len(reply["diffs"]) for reply in replies] == [3, 3, 1]
    assert replies[-1]["logical_clock"] == 3


def test_a_page_reads_no_more_than_itself(tmp_path: Path) -> None:
    class Counting(MemorySynchronizer):
        read_rows = 0

        def read(self, where: str, filters: Any = ()) -> Any:
            rows = super().read(where, filters)
            Counting.read_rows += len(rows)
            return rows

    store = Counting()
    mobync = Mobync(store)
    mobync.apply(0, [diff(f"c{i}", "create", {"id": f"t{i}"}) for i in range(1000)], "anna")
    Counting.read_rows = 0
    cursor = mobync.apply(0, [], "anna", limit=10)["cursor"]
    mobync.apply(0, [], "anna", limit=10, cursor=cursor)
    assert Counting.read_rows == 20


def test_rules_are_asked_with_the_last_page() -> None:
    asked = []

    class Asking(MemorySynchronizer):
        def validate_update(self, owner_id: str, **kwargs: Any) -> bool:
            asked.append(kwargs["id"])
            return True

    mobync = Mobync(Asking())
    mobync.apply(0, creates(4), "anna")
    edit = [diff("e", "update", {"id": "t3", "name": "x"}, at=20)]
    first = mobync.apply(0, edit, "anna", limit=2)
    assert asked == []
    mobync.apply(0, edit, "anna", limit=2, cursor=first["cursor"])
    assert asked == ["e"]


def test_a_page_is_reported_without_what_it_did_not_push() -> None:
    reports: list[SyncReport] = []
    mobync = Mobync(MemorySynchronizer())
    mobync.apply(0, creates(4), "anna")
    mobync.listen(reports.append)
    pages(mobync, 3, [diff("e", "create", {"id": "mine"})])
    assert [(r.pushed, r.accepted, r.sent) for r in reports] == [(0, 0, 3), (0, 0, 3), (1, 1, 1)]


@pytest.mark.parametrize(
    "limit",
    [
        0,
        -1,
        True,
        1.5,
        "",
        "-1",
        "1.5",
        "ten",
        "null",
        [],
        "9" * 200,
        pytest.param(-(10**5000), id="huge"),
    ],
)
def test_a_limit_that_is_none_is_refused(limit: Any) -> None:
    mobync = Mobync(MemorySynchronizer())
    with pytest.raises(PageError, match="limit must be an int of 1 or more"):
        mobync.apply(0, [], "anna", limit=limit)


@pytest.mark.parametrize(
    "cursor",
    ["", "x", "null", "3", "3.", "-1.0.0", "3.0.zz", "\N{ARABIC-INDIC DIGIT THREE}.0.0", 3, []],
)
def test_a_cursor_that_no_reply_gave_is_refused(cursor: Any) -> None:
    mobync = Mobync(MemorySynchronizer())
    mobync.apply(0, creates(4), "anna")
    with pytest.raises(PageError, match="cursor"):
        mobync.apply(0, [], "anna", cursor=cursor)


@pytest.mark.parametrize(
    "members",
    [
        '"limit": 0',
        '"limit": {}',
        '"limit": "null"',
        '"cursor": "3"',
        '"cursor": 3',
        '"cursor": "null"',
    ],
)
def test_json_says_no_more_than_dicts(members: str) -> None:
    mobync = Mobync(MemorySynchronizer())
    with pytest.raises(PageError):
        mobync.apply_json('{"logical_clock": 0, "diffs": [], ' + members + "}", "anna")


def test_null_in_json_says_nothing() -> None:
    mobync = Mobync(MemorySynchronizer())
    body = '{"logical_clock": 0, "diffs": [], "limit": null, "cursor": null}'
    assert "more" not in json.loads(mobync.apply_json(body, "anna"))


def test_a_cursor_belongs_to_one_request() -> None:
    mobync = Mobync(MemorySynchronizer())
    mobync.apply(0, creates(9), "anna")
    first = mobync.apply(0, [], "anna", limit=3)
    for clock, diffs in ((1, []), (0, [diff("new", "create", {"id": "t3"})])):
        with pytest.raises(PageError, match="another logical_clock or other diffs"):
            mobync.apply(clock, diffs, "anna", cursor=first["cursor"])


@pytest.mark.parametrize("edits", [[], [diff("mine", "create", {"id": "mine"})]])
def test_a_page_of_a_log_that_has_lost_its_end_is_refused(edits: list[Row]) -> None:
    full, restored = Mobync(MemorySynchronizer()), Mobync(MemorySynchronizer())
    full.apply(0, creates(9), "anna")
    restored.apply(0, creates(2), "anna")
    cursor = full.apply(0, edits, "anna", limit=6)["cursor"]
    with pytest.raises(LogicalClockError) as refusal:
        restored.apply(0, edits, "anna", limit=6, cursor=cursor)
    assert refusal.value.ahead
    assert len(restored.apply(0, [], "anna")["diffs"]) == 2


def test_a_page_after_a_gap_keeps_to_the_limit() -> None:
    mobync = Mobync(MemorySynchronizer())
    mobync.apply(0, creates(1), "anna")
    for i in range(100):
        rename = diff(f"r{i}", "update", {"id": "t0", "name": str(i)}, at=20 + i)
        mobync.apply(1 + i, [rename], "anna")
    mobync.apply(101, [diff(f"m{i}", "create", {"id": f"m{i}"}) for i in range(200)], "anna")
    mobync.compact("anna")
    replies = pages(mobync, 10)
    assert max(len(reply["diffs"]) for reply in replies) == 10
    assert sum(len(reply["diffs"]) for reply in replies) == 202


def test_a_malformed_edit_is_refused_with_the_first_page() -> None:
    mobync = Mobync(MemorySynchronizer())
    mobync.apply(0, creates(4), "anna")
    with pytest.raises(InvalidDiffError):
        mobync.apply(0, [diff("e", "update", {"no": "id"})], "anna", limit=1)


def test_a_documented_store_is_asked_for_no_filter_that_it_need_not_know() -> None:
    class Strict(PlainStore):
        def read(self, where: str, filters: list[ReadFilter]) -> Any:
            assert [f.filter_by for f in filters] == [FilterType.equal, FilterType.majorOrEqual]
            return super().read(where, filters)

    mobync = Mobync(Strict())
    mobync.apply(0, creates(5), "anna")
    assert len(pages(mobync, 2)) == 3


def test_the_server_has_the_last_word_on_the_size_of_a_page(mobync: Mobync) -> None:
    capped = Mobync(mobync.synchronizer, max_pull_diffs=4)
    replies = pages(capped, 1000)
    assert [len(reply["diffs"]) for reply in replies] == [4, 4, 2]
    rest = capped.apply(0, [], "anna", cursor=replies[0]["cursor"])  # all that is left, that is
    assert (len(rest["diffs"]), rest["more"]) == (4, True)
    assert len(capped.apply(0, [], "anna")["diffs"]) == 10  # who does not page gets all at once
    with pytest.raises(ValueError, match="max_pull_diffs must be from 1 to"):
        Mobync(mobync.synchronizer, max_pull_diffs=0)
