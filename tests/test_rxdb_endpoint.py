"""What RxDB's handlers are answered: mobync.clients.rxdb on real stores."""

from __future__ import annotations

import json
import threading
from typing import Any

import databases
import pytest
from databases import Database
from invoices import SERVER_COLUMNS, create_invoice_triggers, invoice_table, made
from sqlalchemy import MetaData
from task_list import TaskList, diff, statements

from mobync import (
    InvalidDiffError,
    LogicalClockError,
    Mobync,
    PageError,
    RequestTooLargeError,
    SyncReport,
)
from mobync.clients._documents import Documents, OwnerDocuments
from mobync.clients.rxdb import RxDB
from mobync.memory import MemorySynchronizer
from mobync.sqlalchemy import SQLAlchemySynchronizer, create_tables, diffs_table

database = databases.database

OWNER = "bob"
MILK = {"id": "m", "name": "milk", "done": False, "_deleted": False}

Doc = dict[str, Any]


class Server:
    """A Mobync, and RxDB's requests to it."""

    def __init__(self, mobync: Mobync, model: str = "tasks") -> None:
        self.mobync = mobync
        self.client = RxDB()
        self.model = model

    def ask(self, route: str, body: bytes | str, owner: str = OWNER) -> Any:
        text = body.encode() if isinstance(body, str) else body
        return json.loads(self.client.answer(route, self.mobync, owner, text))

    def pull(self, checkpoint: Any = None, limit: int = 100) -> tuple[list[Doc], Any]:
        request = {"collection": self.model, "checkpoint": checkpoint, "limit": limit}
        answer = self.ask("pull", json.dumps(request))
        return answer["documents"], answer["checkpoint"]

    def pull_all(self, limit: int = 100) -> dict[str, Doc]:
        """Pull as RxDB does: until a page is not full."""
        found: dict[str, Doc] = {}
        checkpoint = None
        while True:
            page, checkpoint = self.pull(checkpoint, limit)
            found.update({each["id"]: each for each in page})
            if len(page) < limit:
                return found

    def push(self, *rows: dict[str, Any]) -> Any:
        return self.ask("push", json.dumps({"collection": self.model, "rows": rows}))

    def edit(self, new: Doc, assumed: Doc | None = None, **more: Any) -> list[Doc]:
        """Push one document; gives the conflicts."""
        known = {} if assumed is None else {"assumedMasterState": assumed}
        conflicts = self.push({"newDocumentState": new, **known, **more})["conflicts"]
        assert isinstance(conflicts, list)
        return conflicts

    def elsewhere(self, kind: str, **row: Any) -> None:
        """An edit of somebody else."""
        self.mobync.push(OWNER, [(kind, self.model, row)])

    def row(self, id_: str = "m") -> Doc | None:
        return self.pull_all().get(id_)


@pytest.fixture
def server() -> Server:
    return Server(Mobync(MemorySynchronizer()))


@pytest.fixture
def on_database(database: Database) -> Server:
    return Server(Mobync(TaskList(database).store))


def deleted(document: Doc) -> Doc:
    return {**document, "_deleted": True}


# ---- pull ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", ['"' + '\\"' * 300_000, '"x" ' * 300_000, '["' + '\\"' * 300_000, '"', "[", '{"']
)
def test_a_text_that_does_not_end_is_refused_in_one_walk(server: Server, value: str) -> None:
    """Tried again from each quote, the first of these would take hours."""
    for body in (f'{{"collection":"m","rows":[{value}', f'{{"rows":{value}}}'):
        with pytest.raises(InvalidDiffError):
            server.ask("push", body)


def test_devices_without_a_name_can_be_refused() -> None:
    server = Server(Mobync(MemorySynchronizer(), anonymous_devices=False))
    with pytest.raises(InvalidDiffError, match="that name themselves"):
        server.pull()
    with pytest.raises(InvalidDiffError, match="that name themselves"):
        server.edit(MILK)


def test_a_log_that_was_erased_is_not_what_was_pulled_before(on_database: Server) -> None:
    server = on_database
    server.edit(MILK)
    server.edit({**MILK, "_deleted": True}, MILK)
    _, checkpoint = server.pull()
    assert checkpoint["clock"] == 2
    server.mobync.erase(OWNER)
    with pytest.raises(LogicalClockError):
        server.pull(checkpoint)
    assert server.pull()[1]["clock"] == 0
    server.edit({**MILK, "id": "n"})
    assert list(server.pull_all()) == ["n"]


def test_first_pull_of_nothing_gives_a_checkpoint_that_holds(server: Server) -> None:
    documents, checkpoint = server.pull()
    assert documents == []
    server.elsewhere("create", id="m", name="milk")
    assert server.pull(checkpoint)[0] == [{"id": "m", "name": "milk", "_deleted": False}]


def test_pages_give_each_document_once_and_whole(on_database: Server) -> None:
    rows = [("create", "tasks", {"id": f"t{n}", "name": f"task {n}"}) for n in range(25)]
    on_database.mobync.push(OWNER, rows)
    on_database.elsewhere("update", id="t3", done=True)
    pages = []
    checkpoint = None
    while True:
        page, checkpoint = on_database.pull(checkpoint, limit=10)
        pages.append([each["id"] for each in page])
        if len(page) < 10:
            break
    assert [len(page) for page in pages] == [10, 10, 5]
    order = [id_ for page in pages for id_ in page]
    assert sorted(order) == sorted(f"t{n}" for n in range(25))
    assert order[-1] == "t3"  # what changed last comes last
    assert on_database.row("t3") == {"id": "t3", "name": "task 3", "done": True, "_deleted": False}
    assert on_database.pull(checkpoint)[0] == []


def test_what_changes_between_two_pages_comes_at_the_end(server: Server) -> None:
    for n in range(4):
        server.elsewhere("create", id=f"t{n}", name="old")
    first, checkpoint = server.pull(limit=2)
    server.elsewhere("update", id="t0", name="new")
    server.elsewhere("delete", id="t1")
    second, checkpoint = server.pull(checkpoint, limit=2)
    third, _ = server.pull(checkpoint, limit=3)
    assert [each["id"] for each in (*first, *second)] == ["t0", "t1", "t2", "t3"]
    assert third == [
        {"id": "t0", "name": "new", "_deleted": False},
        {"id": "t1", "_deleted": True},
    ]


def test_documents_of_one_clock_are_told_apart(database: Database) -> None:
    """Logs of mobync 0.2.0 have several diffs of one clock."""
    tasks = TaskList(database)
    diffs = [
        {
            "id": f"d{n}",
            "owner": OWNER,
            "logical_clock": n // 3,
            "utc_timestamp": 1000 - n,
            "type": "create",
            "model": "tasks",
            "json_data": json.dumps({"id": f"t{n}"}),
        }
        for n in range(6)
    ]
    server = Server(Mobync(WithLog(diffs)))
    found, checkpoint = [], None
    while True:
        page, checkpoint = server.pull(checkpoint, limit=1)
        if not page:
            break
        found += [each["id"] for each in page]
    assert found == ["t0", "t1", "t2", "t3", "t4", "t5"]
    assert tasks.rows() == {}


class WithLog(MemorySynchronizer):
    """A log that is there, as another server wrote it."""

    def __init__(self, log: list[dict[str, Any]]) -> None:
        super().__init__()
        self.log = log

    def read(self, where: str, filters: Any = ()) -> list[dict[str, Any]]:
        first = next(each.data for each in filters if each.field_name == "logical_clock")
        return [row for row in reversed(self.log) if row["logical_clock"] >= first]


def test_a_client_from_the_start_is_not_told_of_what_is_dead(server: Server) -> None:
    server.elsewhere("create", id="a")
    server.elsewhere("delete", id="a")
    server.elsewhere("create", id="b")
    first, checkpoint = server.pull(limit=1)
    rest, _ = server.pull(checkpoint, limit=10)
    assert [each["id"] for each in first] == ["b"]
    assert rest == []


def test_who_has_it_is_told_of_its_delete_though_another_began_later(server: Server) -> None:
    server.elsewhere("create", id="a")
    _, checkpoint = server.pull()
    server.elsewhere("delete", id="a")
    server.mobync.compact(OWNER)
    assert Server(server.mobync).pull(checkpoint)[0] == [{"id": "a", "_deleted": True}]


def test_numbers_and_texts_leave_as_they_came(server: Server) -> None:
    exact = '{"id": "x", "n": 9007199254740993, "e": 1e400, "f": 1.0, "s": "na\\u00efve"}'
    server.mobync.push(OWNER, [("create", "tasks", exact)])
    request = b'{"collection": "tasks", "limit": 5}'
    answer = server.client.answer("pull", server.mobync, OWNER, request).decode()
    for member in ('"n":9007199254740993', '"e":1e400', '"f":1.0', '"s":"na\\u00efve"'):
        assert member in answer


def test_a_checkpoint_ahead_of_the_server_says_so(on_database: Server) -> None:
    with pytest.raises(LogicalClockError) as caught:
        on_database.pull({"clock": 7, "id": "", "began": 0})
    assert caught.value.ahead


def test_each_owner_and_each_collection_is_alone(server: Server) -> None:
    server.elsewhere("create", id="m")
    body = json.dumps({"collection": "tasks", "limit": 5})
    assert server.ask("pull", body, "carol")["documents"] == []
    other = json.dumps({"collection": "lists", "limit": 5})
    assert server.ask("pull", other)["documents"] == []


def test_the_name_of_a_collection_does_not_fill_the_row_of_a_device(server: Server) -> None:
    def pull(name: str, checkpoint: Any = None) -> Any:
        asked = json.dumps({"collection": name, "checkpoint": checkpoint, "limit": 5})
        return json.loads(server.client.answer("pull", server.mobync, OWNER, asked.encode(), "a"))

    server.elsewhere("create", id="m")
    long = "é" * 100_000
    first = pull(long)
    server.elsewhere("update", id="m", name="milk")
    assert pull(long, first["checkpoint"])["documents"] == []
    stored = server.mobync.synchronizer.read_devices(OWNER, ["a"])
    assert stored is not None
    assert len(stored["a"]) < 1000
    assert len(pull("tasks")["documents"]) == 1


# ---- push ----------------------------------------------------------------------------------------


def test_a_new_document_reaches_the_tables_and_other_devices(database: Database) -> None:
    tasks = TaskList(database)
    server = Server(Mobync(tasks.store))
    assert server.edit(MILK) == []
    assert tasks.rows()["m"]["name"] == "milk"
    reply = server.mobync.apply(0, [], OWNER)
    assert [(each["type"], each["model"]) for each in reply["diffs"]] == [("create", "tasks")]
    assert json.loads(reply["diffs"][0]["json_data"]) == {"id": "m", "name": "milk", "done": False}


def test_fields_merge_and_the_whole_document_comes_back(on_database: Server) -> None:
    on_database.edit(MILK)
    on_database.elsewhere("update", id="m", name="oat milk")
    both = {**MILK, "name": "oat milk", "done": True}
    assert on_database.edit({**MILK, "done": True}, MILK) == [both]
    assert on_database.row() == both
    # RxDB pushes what it resolved once more.
    assert on_database.edit(both, both) == []
    assert on_database.mobync.logical_clock(OWNER) == 3


@pytest.mark.parametrize(("time_ms", "wins"), [(2_000_000, True), (500_000, False)])
def test_of_one_field_the_later_edit_wins(server: Server, time_ms: int, wins: bool) -> None:
    server.edit(MILK, time=100_000)
    server.edit({**MILK, "name": "oat"}, MILK, time=1_000_000)
    conflicts = server.edit({**MILK, "name": "rye"}, MILK, time=time_ms)
    assert conflicts == ([] if wins else [{**MILK, "name": "oat"}])
    assert server.row() == {**MILK, "name": "rye" if wins else "oat"}


def test_an_edit_after_seeing_another_wins_whatever_the_clocks_say(server: Server) -> None:
    server.edit(MILK, time=5_000_000)
    assert server.edit({**MILK, "name": "oat"}, MILK, time=1_000) == []
    assert server.row() == {**MILK, "name": "oat"}


def test_who_sends_no_time_edits_now(server: Server) -> None:
    server.edit(MILK)
    server.elsewhere("update", id="m", name="oat")
    assert server.edit({**MILK, "name": "rye"}, MILK) == []


def test_a_clock_that_is_years_ahead_counts_as_now(server: Server) -> None:
    server.edit(MILK)
    server.edit({**MILK, "name": "2100"}, MILK, time=4_102_444_800_000)
    server.elsewhere("update", id="m", name="oat")  # by somebody who had seen it
    server.edit({**MILK, "name": "rye"}, {**MILK, "name": "2100"})
    assert server.row() == {**MILK, "name": "rye"}


def test_a_delete_wins_over_an_edit(on_database: Server) -> None:
    on_database.edit(MILK)
    on_database.elsewhere("delete", id="m")
    edited = {**MILK, "done": True}
    assert on_database.edit(edited, MILK) == [deleted(edited)]
    assert on_database.row() is None


def test_an_edit_loses_against_a_delete_that_is_pushed(on_database: Server) -> None:
    on_database.edit(MILK)
    on_database.elsewhere("update", id="m", done=True)
    assert on_database.edit(deleted(MILK), MILK) == []
    assert on_database.row() is None


def test_what_came_and_went_on_the_client_leaves_no_trace(server: Server) -> None:
    assert server.edit(deleted(MILK)) == []
    assert server.mobync.logical_clock(OWNER) == 0


def test_an_id_is_used_again(on_database: Server) -> None:
    on_database.edit(MILK)
    on_database.edit(deleted(MILK), MILK)
    again = {**MILK, "name": "milk again"}
    assert on_database.edit(again, deleted(MILK)) == []
    assert on_database.row() == again


def test_a_delete_of_an_earlier_life_leaves_the_new_one(server: Server) -> None:
    server.edit(MILK)
    server.elsewhere("delete", id="m")
    server.elsewhere("create", id="m", name="milk again")
    there = {"id": "m", "name": "milk again", "_deleted": False}
    assert server.edit(deleted(MILK), MILK) == [there]
    assert server.edit({**MILK, "name": "oat"}, MILK) == [there]
    assert server.row() == there


def test_two_that_make_one_id_merge(server: Server) -> None:
    server.elsewhere("create", id="m", name="milk", shop="corner")
    merged = {**MILK, "shop": "corner"}
    assert server.edit(MILK) == [merged]
    assert server.row() == merged


def test_a_field_that_is_taken_away_becomes_null(server: Server) -> None:
    noted = {**MILK, "note": "soon"}
    server.edit(noted)
    assert server.edit(MILK, noted) == [{**MILK, "note": None}]
    assert server.edit({**MILK, "note": None}, {**MILK, "note": None}) == []


def test_what_javascript_cannot_hold_is_not_touched(server: Server) -> None:
    server.mobync.push(OWNER, [("create", "tasks", '{"id":"m","n":9007199254740993,"f":1.0}')])
    seen = {"id": "m", "n": 9007199254740992, "f": 1, "_deleted": False}
    assert server.edit({**seen, "name": "milk"}, seen) == []
    body = b'{"collection": "tasks", "limit": 5}'
    text = server.client.answer("pull", server.mobync, OWNER, body).decode()
    assert '"n":9007199254740993,"f":1.0,"name":"milk"' in text


@pytest.mark.parametrize(
    ("there", "seen"),
    [("1e400", None), ("-0", 0), ("1.50", 1.5), ('{"b":1.0,"a":2}', {"a": 2, "b": 1})],
)
def test_values_that_are_one_to_javascript_are_no_conflict(
    server: Server, there: str, seen: Any
) -> None:
    server.mobync.push(OWNER, [("create", "tasks", f'{{"id":"m","n":{there}}}')])
    pushed = {"id": "m", "n": seen, "name": "milk", "_deleted": False}
    assert server.edit(pushed, {"id": "m", "n": seen, "_deleted": False}) == []


@pytest.mark.parametrize(("there", "pushed"), [("1", True), ("0", False), ('"1"', 1), ("null", 0)])
def test_values_of_two_kinds_are_two(server: Server, there: str, pushed: Any) -> None:
    server.mobync.push(OWNER, [("create", "tasks", f'{{"id":"m","n":{there}}}')])
    seen = {"id": "m", "n": json.loads(there), "_deleted": False}
    assert server.edit({**seen, "n": pushed}, seen) == []
    assert server.mobync.logical_clock(OWNER) == 2


# ---- retries -------------------------------------------------------------------------------------


def test_a_retry_does_not_win_over_who_came_since(on_database: Server) -> None:
    on_database.edit(MILK, id="e1")
    done = {**MILK, "done": True}
    on_database.edit(done, MILK, id="e2")  # its answer is lost
    on_database.elsewhere("update", id="m", done=False)
    assert on_database.edit(done, MILK, id="e2") == [MILK]
    assert on_database.row() == MILK
    # An equal edit that the user makes after that is one.
    assert on_database.edit(done, MILK, id="e3") == []
    assert on_database.row() == done


def test_a_retried_create_does_not_bring_back_what_was_deleted(on_database: Server) -> None:
    on_database.edit(MILK, id="e1")
    on_database.elsewhere("delete", id="m")
    assert on_database.edit(MILK, id="e1") == [deleted(MILK)]
    assert on_database.row() is None


def test_of_an_unanswered_push_that_arrived_only_what_followed_is_new(server: Server) -> None:
    server.edit(MILK, id="e1")
    done = {**MILK, "done": True}
    server.edit(done, MILK, id="e2")  # its answer is lost, and the user goes on
    server.elsewhere("update", id="m", done=False)
    further = {**done, "name": "oat"}
    waiting = [{"id": "e2", "newDocumentState": done}]
    assert server.edit(further, MILK, id="e3", unanswered=waiting) == [{**MILK, "name": "oat"}]
    assert server.row() == {**MILK, "name": "oat"}


def test_of_an_unanswered_push_that_did_not_arrive_all_is_new(server: Server) -> None:
    server.edit(MILK, id="e1")
    done = {**MILK, "done": True}
    waiting = [{"id": "lost", "newDocumentState": done}]
    assert server.edit({**done, "name": "oat"}, MILK, id="e3", unanswered=waiting) == []
    assert server.row() == {**done, "name": "oat"}


def test_an_edit_that_comes_between_reading_and_merging_is_merged(database: Database) -> None:
    """The documents are read before the owner is locked."""
    tasks = TaskList(database)
    server = Server(Mobync(tasks.store))
    server.edit(MILK, time=1_000)
    apply = server.mobync.apply
    came: list[bool] = []

    class Slow(Mobync):
        def apply(self, *request: Any, **page: Any) -> Any:
            if not came:
                came.append(True)
                diff = {
                    "id": "of-another",
                    "owner": OWNER,
                    "logical_clock": 0,
                    "utc_timestamp": 5_000,
                    "type": "update",
                    "model": "tasks",
                    "json_data": '{"id": "m", "name": "oat", "done": true}',
                }
                apply(1, [diff], OWNER)
            return super().apply(*request, **page)

    slow = Server(Slow(tasks.another_store(), on_refusal="skip"))
    conflicts = slow.edit({**MILK, "name": "rye", "rank": 1}, MILK, time=3_000)
    merged = {**MILK, "name": "oat", "done": True, "rank": 1}
    assert came == [True]
    assert conflicts == [merged]
    assert slow.row() == merged


# ---- retries of a handler that sends no ids ------------------------------------------------------

DONE = {**MILK, "done": True}


def test_a_plain_retry_does_not_win_over_who_came_since(server: Server) -> None:
    server.edit(MILK)
    oat = {**MILK, "name": "oat"}
    server.edit(oat, MILK)  # its answer is lost
    server.elsewhere("update", id="m", name="rye")
    assert server.edit(oat, MILK) == [{**MILK, "name": "rye"}]
    assert server.row() == {**MILK, "name": "rye"}


def test_a_plain_retry_changes_nothing_in_a_later_life(on_database: Server) -> None:
    on_database.edit(MILK)
    on_database.edit(DONE, MILK)  # its answer is lost
    on_database.edit(deleted(DONE), DONE, id="another")
    on_database.elsewhere("create", id="m", name="oat")
    there = {"id": "m", "name": "oat", "_deleted": False}
    assert on_database.edit(DONE, MILK) == [there]
    assert on_database.row() == there


def test_a_plain_retry_without_news_writes_nothing(on_database: Server) -> None:
    for assumed, new in ((None, MILK), (MILK, DONE), (DONE, deleted(DONE))):
        on_database.edit(new, assumed)
        clock = on_database.mobync.logical_clock(OWNER)
        assert on_database.edit(new, assumed) == []
        assert on_database.mobync.logical_clock(OWNER) == clock


def test_a_plain_retried_create_does_not_bring_back_what_was_deleted(on_database: Server) -> None:
    on_database.edit(MILK)
    on_database.elsewhere("delete", id="m")
    assert on_database.edit(MILK) == [deleted(MILK)]
    assert on_database.row() is None


def test_plain_edits_that_are_equal_to_earlier_ones_are_edits(on_database: Server) -> None:
    on_database.edit(MILK)
    for _ in range(3):
        assert on_database.edit(DONE, MILK) == []
        assert on_database.edit(DONE, MILK) == []  # a retry of just that one
        assert on_database.row() == DONE
        on_database.elsewhere("update", id="m", done=False)
    for _ in range(2):
        assert on_database.edit(deleted(MILK), MILK) == []
        assert on_database.edit(MILK, deleted(MILK)) == []
        assert on_database.row() == MILK


def test_the_next_of_many_equal_plain_edits_is_found_by_few_looks(monkeypatch: Any) -> None:
    server = Server(Mobync(MemorySynchronizer()))
    server.edit(MILK)
    done = {**MILK, "done": True}
    looks: list[str] = []
    has_diff = OwnerDocuments.has_diff

    def noted(documents: OwnerDocuments, diff_id: str, document: Any) -> bool:
        looks.append(diff_id)
        return has_diff(documents, diff_id, document)

    monkeypatch.setattr(OwnerDocuments, "has_diff", noted)
    for turn in range(100):
        looks.clear()
        assert server.edit(done, MILK) == []
        assert server.edit(MILK, done) == []
        assert len(looks) < 40
        assert server.mobync.logical_clock(OWNER) == 3 + 2 * turn


def test_a_plain_edit_that_takes_a_field_away_can_be_made_twice(server: Server) -> None:
    noted = {**MILK, "note": "soon"}
    server.edit(noted)
    for _ in range(2):
        assert server.edit(MILK, noted) == [{**MILK, "note": None}]
        server.elsewhere("update", id="m", note="soon")
    server.edit(noted, MILK)
    assert server.row() == noted


def test_equal_documents_of_two_collections_are_two(server: Server) -> None:
    for model in ("tasks", "lists"):
        server.model = model
        assert server.edit(MILK) == []
        assert server.row() == MILK


def test_a_plain_retry_of_what_was_put_back_exactly_counts_as_an_edit(server: Server) -> None:
    """The anomaly that docs/rxdb.md tells of: content cannot say which it is."""
    server.edit(MILK)
    server.edit(DONE, MILK)  # its answer is lost
    server.elsewhere("update", id="m", done=False)
    assert server.edit(DONE, MILK) == []
    assert server.row() == DONE


# ---- refusals ------------------------------------------------------------------------------------


class Strict(MemorySynchronizer):
    def validate_create(self, owner_id: str, **diff: Any) -> bool:
        return "secret" not in diff["json_data"]

    def validate_update(self, owner_id: str, **diff: Any) -> bool:
        return "secret" not in diff["json_data"]


@pytest.mark.parametrize("on_refusal", ["raise", "skip"])
def test_what_a_rule_refuses_is_taken_back_and_the_rest_stands(on_refusal: Any) -> None:
    reports: list[SyncReport] = []
    mobync = Mobync(Strict(), on_refusal=on_refusal)
    mobync.listen(reports.append)
    server = Server(mobync)
    server.edit(MILK)
    secret = {**MILK, "name": "secret"}
    made = {"id": "s", "name": "secret", "_deleted": False}
    salt = {"id": "a", "name": "salt", "_deleted": False}
    answer = server.push(
        {"assumedMasterState": MILK, "newDocumentState": secret},
        {"newDocumentState": made},
        {"newDocumentState": salt},
    )
    assert answer["conflicts"] == [MILK, deleted(made)]
    assert [(each["id"], each["code"]) for each in answer["refused"]] == [
        ("m", "unauthorized"),
        ("s", "unauthorized"),
    ]
    assert set(server.pull_all()) == {"m", "a"}
    assert [report.refused for report in reports if report.pushed] == [0, 2]


def test_what_the_tables_do_not_take_is_taken_back(on_database: Server) -> None:
    long = {"id": "l", "name": "x" * 101, "_deleted": False}
    answer = on_database.push({"newDocumentState": long}, {"newDocumentState": MILK})
    assert answer["conflicts"] == [deleted(long)]
    assert set(on_database.pull_all()) == {"m"}


# ---- requests that are wrong ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("route", "body", "says"),
    [
        ("pull", "[]", "a pull must be a JSON object"),
        ("pull", '{"limit": 5}', "collection must be a string"),
        ("pull", '{"collection": "t"}', "limit must be an integer from 1 to 10000, not missing"),
        ("pull", '{"collection": "t", "limit": 0}', "limit must be"),
        ("pull", '{"collection": "t", "limit": 1.5}', "limit must be"),
        ("pull", '{"collection": "t", "limit": 5, "checkpoint": 7}', "checkpoint must be a JSON"),
        ("pull", '{"collection": "t", "limit": 5, "checkpoint": {"id": ""}}', "clock of the"),
        (
            "pull",
            '{"collection": "t", "limit": 5, "checkpoint": {"clock": 1, "began": 1}}',
            "id of the checkpoint must be a string",
        ),
        (
            "pull",
            '{"collection": "t", "limit": 5,'
            ' "checkpoint": {"clock": 1, "began": 1, "id": "", "dead": 1}}',
            "dead of the checkpoint must be true or false",
        ),
        ("push", "{", "a push must be a JSON object"),
        ("push", '{"collection": "t"}', "rows must be an array"),
        ("push", '{"collection": "t", "rows": [7]}', "a row must be a JSON object"),
        ("push", '{"collection": "t", "rows": [{}]}', "newDocumentState must be a JSON object"),
        (
            "push",
            '{"collection": "t", "rows": [{"newDocumentState": {"id": 7}}]}',
            "id must be a string that is not empty, not 7",
        ),
        (
            "push",
            '{"collection": "t", "rows": [{"newDocumentState": {"id": "a", "_deleted": 1}}]}',
            "newDocumentState: _deleted must be true or false",
        ),
        (
            "push",
            '{"collection": "t", "rows": [{"newDocumentState": {"id": "a"},'
            ' "assumedMasterState": {"id": "b"}}]}',
            "assumedMasterState has the id 'b', not 'a'",
        ),
        (
            "push",
            '{"collection": "t", "rows": [{"newDocumentState": {"id": "a"}},'
            ' {"newDocumentState": {"id": "a"}}]}',
            "diff 1: rows: the document 'a' is also in an earlier row",
        ),
        (
            "push",
            '{"collection": "t", "rows": [{"newDocumentState":'
            ' {"id": "a", "_attachments": {"x": {}}}}]}',
            "attachments are not synced",
        ),
        (
            "push",
            '{"collection": "t", "rows": [{"newDocumentState": {"id": "a"}, "time": "now"}]}',
            "time must be an integer",
        ),
    ],
)
def test_what_is_wrong_is_named(server: Server, route: str, body: str, says: str) -> None:
    with pytest.raises((InvalidDiffError, PageError)) as caught:
        server.ask(route, body)
    assert says in str(caught.value)
    assert server.mobync.logical_clock(OWNER) == 0


# ---- documents that the core does not take -------------------------------------------------------

DEEP = "[" * 1500 + "]" * 1500
UNREADABLE = {
    "U+0000": '"a\\u0000b"',
    "half an emoji": '"\\ud83e"',
    "deep": DEEP,
    "a name": '0,"a\\u0000":1',
}


def push_texts(server: Server, *rows: str) -> str:
    body = f'{{"collection": "tasks", "rows": [{", ".join(rows)}]}}'
    return server.client.answer("push", server.mobync, OWNER, body.encode()).decode()


@pytest.mark.parametrize("value", UNREADABLE.values(), ids=UNREADABLE.keys())
@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
def test_one_that_cannot_be_read_is_taken_back_and_the_others_stand(
    server: Server, value: str, known: bool
) -> None:
    if known:
        server.edit(MILK)
    assumed = f'"assumedMasterState": {json.dumps(MILK)}, ' if known else ""
    answer = push_texts(
        server,
        '{"newDocumentState": {"id": "b", "name": "before", "_deleted": false}}',
        f'{{{assumed}"newDocumentState": {{"id": "m", "name": {value}, "_deleted": false}}}}',
        '{"newDocumentState": {"id": "a", "name": "after", "_deleted": false}}',
    )
    if known:
        assert '"conflicts":[{"id":"m","name":"milk","done":false,"_deleted":false}]' in answer
    else:
        assert f'"conflicts":[{{"id":"m","name":{value},"_deleted":true}}]' in answer
    if value is not DEEP:
        refused = json.loads(answer)["refused"]
        assert [(each["id"], each["code"]) for each in refused] == [("m", "invalid")]
    assert set(server.pull_all()) == ({"a", "b", "m"} if known else {"a", "b"})


@pytest.mark.parametrize("id_", ["\\u0000", "\\ud83e"])
def test_an_id_that_cannot_be_read_is_taken_back_whatever_became_of_it(
    server: Server, id_: str
) -> None:
    for deleted_ in ("false", "true"):
        state = f'{{"id": "{id_}", "_deleted": {deleted_}}}'
        answer = json.loads(push_texts(server, f'{{"newDocumentState": {state}}}'))
        assert [each["id"] for each in answer["refused"]] == [json.loads(f'"{id_}"')]
    assert server.mobync.logical_clock(OWNER) == 0


def test_a_delete_of_one_that_cannot_be_read_is_one(server: Server) -> None:
    server.edit(MILK)
    state = '{"id": "m", "name": "\\u0000", "_deleted": true}'
    row = f'{{"assumedMasterState": {json.dumps(MILK)}, "newDocumentState": {state}}}'
    assert json.loads(push_texts(server, row)) == {"conflicts": [], "refused": []}
    assert server.pull_all() == {}


def test_what_could_not_be_read_before_it_was_put_right_does_no_harm(server: Server) -> None:
    before = '{"id": "e1", "newDocumentState": {"id": "m", "name": "\\u0000"}}'
    row = f'{{"id": "e2", "unanswered": [{before}], "newDocumentState": {json.dumps(MILK)}}}'
    assert json.loads(push_texts(server, row)) == {"conflicts": [], "refused": []}
    assert server.row() == MILK


@pytest.mark.parametrize(
    "wrong",
    [
        '{"id": "m", "name": "\\u0000", "n": NaN}',
        '{"id": "m", "name": "\\u0000", "n": nul}',
        '{"id": "m", "name": "\\u0000" "n": 1}',
        '{"id": "m", "name": "\\u0000", 1: 1}',
        '{"id": "m", "name": "\\u0000", "n": "\\x"}',
        '{"name": "\\u0000"}',
        '{"id": 7, "name": "\\u0000"}',
        '["\\u0000"]',
        '{"id": "m", "name": "\\u0000"',
    ],
)
def test_what_is_no_document_at_all_is_the_requests_fault(server: Server, wrong: str) -> None:
    with pytest.raises(InvalidDiffError):
        push_texts(server, f'{{"newDocumentState": {wrong}}}')


def test_a_request_with_too_much_to_look_through_is_refused_at_once(server: Server) -> None:
    much = "[" + "[]," * 1_000_000 + "0]"
    with pytest.raises(InvalidDiffError, match="U\\+0000"):
        push_texts(server, f'{{"newDocumentState": {{"id": "m", "a": "\\u0000", "b": {much}}}}}')


def test_a_value_deeper_than_python_reads_is_compared(server: Server) -> None:
    server.mobync.push(OWNER, [("create", "tasks", '{"id":"m","n":0}')])
    deep = "[" * 990 + "]" * 990
    row = f'{{"newDocumentState": {{"id": "m", "n": {deep}, "_deleted": false}}}}'
    assert '"conflicts":[{"id":"m","n":0,"_deleted":false}]' in push_texts(server, row)


# ---- the documents that a process keeps ----------------------------------------------------------


def test_later_requests_read_only_what_is_new() -> None:
    store = MemorySynchronizer()
    server = Server(Mobync(store))
    server.mobync.push(OWNER, [("create", "tasks", {"id": f"t{n}"}) for n in range(100)])
    _, checkpoint = server.pull()
    before = store.rows_read
    for _ in range(5):
        server.pull(checkpoint)
    assert store.rows_read - before <= 5


def test_one_statement_reads_what_is_new(database: Database) -> None:
    tasks = TaskList(database)
    server = Server(Mobync(tasks.store))
    server.edit(MILK)
    _, checkpoint = server.pull()
    with statements(database.engine) as seen:
        server.pull(checkpoint)
    assert sum("diffs" in each for each in seen) <= 2, seen


def test_another_process_is_followed(database: Database) -> None:
    tasks = TaskList(database)
    one, other = Server(Mobync(tasks.store)), Server(Mobync(tasks.another_store()))
    one.edit(MILK)
    assert other.row() == MILK
    other.edit({**MILK, "done": True}, MILK)
    assert one.row() == {**MILK, "done": True}


def test_a_log_that_was_put_back_is_read_again(server: Server) -> None:
    server.edit(MILK)
    server.elsewhere("create", id="lost")
    assert set(server.pull_all()) == {"m", "lost"}
    fresh = Mobync(MemorySynchronizer())
    server.mobync.synchronizer._database = fresh.synchronizer._database
    server.elsewhere("create", id="a")
    server.elsewhere("create", id="b")
    server.elsewhere("create", id="c")
    assert set(server.pull_all()) == {"a", "b", "c"}


def test_a_document_that_the_server_lost_comes_back_with_its_next_edit(server: Server) -> None:
    """As after a restored backup: the client knows it, the server does not."""
    assert server.edit({**MILK, "done": True}, MILK) == []
    assert server.row() == {**MILK, "done": True}


def test_compaction_changes_no_document(on_database: Server) -> None:
    server = on_database
    server.edit(MILK)
    for n in range(5):
        server.elsewhere("update", id="m", name=f"milk {n}")
    server.elsewhere("create", id="x")
    before = server.pull_all()
    server.mobync.compact(OWNER)
    assert server.pull_all() == before
    assert Server(server.mobync).pull_all() == before


def test_a_folded_log_is_told_in_pages_of_what_is_dead_too(server: Server) -> None:
    mobync = server.mobync
    asked: dict[str, Any] = {"device": "named", "request": 1, "mark": None}

    def sync(clock: int, *diffs: dict[str, Any]) -> int:
        reply = mobync.apply(clock, list(diffs), OWNER, **asked)
        asked.update(mark=reply["mark"], request=asked["request"] + bool(diffs))
        return int(reply["logical_clock"])

    ids = [f"t{n}" for n in range(4)]
    clock = sync(0, *(diff("create", id=id_) for id_ in ids))
    clock = sync(clock, *(diff("update", id=id_, name="oat") for id_ in ids))
    sync(clock)
    assert mobync.compact(OWNER).rows_after == 4
    server.elsewhere("create", id="dead")
    server.elsewhere("delete", id="dead")
    checkpoint: Any = {"clock": 0, "id": "", "began": 0}
    found: list[Doc] = []
    while True:
        page, checkpoint = server.pull(checkpoint, limit=2)
        found += page
        if len(page) < 2:
            break
    assert [each["id"] for each in found] == [*ids, "dead"]
    assert found[-1] == {"id": "dead", "_deleted": True}
    server.elsewhere("delete", id="t0")
    assert server.pull(checkpoint)[0] == [{"id": "t0", "_deleted": True}]


def test_no_more_is_kept_than_allowed() -> None:
    mobync = Mobync(MemorySynchronizer())
    kept = Documents(mobync, max_bytes=3_200)
    for owner in ("a", "b", "c"):
        mobync.push(owner, [("create", "tasks", {"id": owner, "text": "y" * 1_000})])
        with kept.of(owner):
            pass
    assert list(kept._kept) == ["b", "c"]
    assert 2_000 <= kept._size <= 3_200
    read = mobync.synchronizer.rows_read
    with kept.of("b"):
        pass
    assert list(kept._kept) == ["c", "b"]  # who was served last stays longest
    with kept.of("a") as documents:
        assert set(documents.collection("tasks").documents) == {"a"}
    assert list(kept._kept) == ["b", "a"]
    assert mobync.synchronizer.rows_read == read + 2


def test_what_fails_halfway_is_not_kept(server: Server) -> None:
    server.edit(MILK)
    documents = Documents(server.mobync)
    with pytest.raises(ZeroDivisionError), documents.of(OWNER):
        raise ZeroDivisionError
    assert documents._kept == {}
    assert documents._size == 0


def test_threads_of_one_owner_do_not_get_into_each_others_way(database: Database) -> None:
    tasks = TaskList(database)
    server = Server(Mobync(tasks.store))

    def work(name: str) -> None:
        for n in range(10):
            server.edit({"id": f"{name}{n}", "name": name, "_deleted": False})
            server.pull_all()

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.pull_all()) == 40
    assert len(tasks.rows()) == 40


def test_fields_of_the_server_in_a_document_are_no_edit(database: Database) -> None:
    """RxDB pushes whole documents, with the fields too that no device may write."""
    metadata = MetaData()
    diffs_table(metadata)
    table = invoice_table(metadata)
    create_tables(database.engine, metadata)
    with database.engine.begin() as connection:
        create_invoice_triggers(connection, database.kind)
    store = SQLAlchemySynchronizer(
        database.engine, {"invoices": table}, server_columns=SERVER_COLUMNS
    )
    server = Server(Mobync(store), "invoices")

    def pushed(new: Doc, assumed: Doc | None = None) -> Doc:
        known = {} if assumed is None else {"assumedMasterState": assumed}
        assert server.push({"newDocumentState": new, **known})["refused"] == []
        there = server.row()
        assert there is not None
        return there

    whole = {**made("m", 9, title="a", gross=9), "_deleted": False}
    first = pushed(whole)  # a server that was restored from a backup lost it
    assert first == {**made("m", title="a"), "_deleted": False}
    plain = {"id": "m", "title": "b", "net": 100, "priority": 3, "_deleted": False}
    assert pushed({**plain, "state": "draft"}, first)["title"] == "b"
    second = server.row()
    assert second is not None
    assert pushed({**second, "version": 7, "gross": 7}, second) == second
    server.elsewhere("delete", id="m")
    again = pushed({**second, "title": "c"}, {**second, "_deleted": True})
    assert (again["title"], again["version"], again["gross"]) == ("c", 1, 120)


def unanswered(count: int) -> list[Any]:
    return [{"id": f"e{number}", "newDocumentState": MILK} for number in range(count)]


@pytest.mark.parametrize(
    ("route", "asked"),
    [
        ("push", {"rows": [{"newDocumentState": {**MILK, "id": each}} for each in "abcd"]}),
        ("push", {"rows": [{"newDocumentState": MILK, "unanswered": unanswered(3)}]}),
        ("pull", {"have": ["a", "b", "c", "d"]}),
    ],
    ids=["rows", "unanswered", "have"],
)
def test_a_request_with_too_many_documents_is_refused(route: str, asked: Any) -> None:
    server = Server(Mobync(MemorySynchronizer(), max_diffs=3))
    with pytest.raises(RequestTooLargeError, match="more than 3 edits"):
        server.ask(route, json.dumps({"collection": "tasks", **asked}))
    assert server.pull_all() == {}
