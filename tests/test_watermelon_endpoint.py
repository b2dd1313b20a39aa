"""What WatermelonDB's pulls and pushes are answered: mobync.clients.watermelon on real stores."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import databases
import pytest
from databases import Database
from invoices import SERVER_COLUMNS, create_invoice_triggers, invoice_table, made
from sqlalchemy import MetaData
from task_list import TaskList, diff

from mobync import (
    BusyError,
    FilterType,
    InvalidDiffError,
    LogicalClockError,
    Mobync,
    ReadFilter,
    RequestTooLargeError,
    SyncReport,
    UnauthorizedError,
)
from mobync.clients import Watermelon
from mobync.clients._documents import Documents, OwnerDocuments
from mobync.clients.watermelon import MOST_BASES
from mobync.memory import MemorySynchronizer
from mobync.sqlalchemy import SQLAlchemySynchronizer, create_tables, diffs_table

database = databases.database

OWNER = "bob"
EARLY, LATE = 1_700_000_000_000, 1_700_000_060_000

Raw = dict[str, Any]


class Server:
    """A Mobync, and a phone's requests to it."""

    def __init__(self, mobync: Mobync, **settings: Any) -> None:
        self.mobync = mobync
        self.client = Watermelon(**settings)

    def ask(self, route: str, body: Any) -> Any:
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        return json.loads(self.client.answer(route, self.mobync, OWNER, text))

    def pull(self, last: int | None = None, **more: Any) -> tuple[dict[str, Any], int]:
        answer = self.ask("pull", {"lastPulledAt": last, **more})
        return answer["changes"], answer["timestamp"]

    def rows(self, table: str = "tasks") -> dict[str, Raw]:
        """What a new phone has."""
        changes, _ = self.pull()
        pulled = changes.get(table, {"updated": [], "created": [], "deleted": []})
        assert not pulled["deleted"]
        assert not pulled["created"]
        return {raw["id"]: raw for raw in pulled["updated"]}

    def push(self, last: int, table: str = "tasks", **changes: Any) -> dict[str, list[str]]:
        """Push as WatermelonDB does; gives the rejected ids."""
        whole = {"created": [], "updated": [], "deleted": [], **changes}
        answer = self.ask("push", {"lastPulledAt": last, "changes": {table: whole}})
        rejected: dict[str, list[str]] = answer["experimentalRejectedIds"]
        return rejected

    def send(self, last: int, *edits: dict[str, Any]) -> dict[str, list[str]]:
        """Push as the npm package does; gives the rejected ids."""
        answer = self.ask("push", {"lastPulledAt": last, "edits": edits})
        rejected: dict[str, list[str]] = answer["experimentalRejectedIds"]
        return rejected

    def elsewhere(self, kind: str, **row: Any) -> None:
        self.mobync.push(OWNER, [(kind, "tasks", row)])

    @property
    def log(self) -> list[tuple[str, Any]]:
        """The types of all diffs, and what each wrote."""
        of_owner = ReadFilter("owner", FilterType.equal, OWNER)
        read = self.mobync.synchronizer.read("diffs", [of_owner])
        rows = json.loads(read) if isinstance(read, str | bytes) else list(read)
        rows.sort(key=lambda row: row["logical_clock"])
        return [(row["type"], json.loads(row["json_data"])) for row in rows]


@pytest.fixture
def server() -> Server:
    return Server(Mobync(MemorySynchronizer()))


@pytest.fixture
def on_database(database: Database) -> Server:
    return Server(Mobync(TaskList(database).store))


def created(id_: str = "m", **columns: Any) -> Raw:
    return {"id": id_, "_status": "created", "_changed": "", "name": "milk", **columns}


def updated(changed: str | None, **raw: Any) -> Raw:
    return {"id": "m", "_status": "updated", "name": "milk", "done": False, "rank": 1, **raw} | (
        {} if changed is None else {"_changed": changed}
    )


def edit(id_: str, kind: str, record: str = "m", **more: Any) -> dict[str, Any]:
    return {"id": id_, "type": kind, "table": "tasks", "record": record, **more}


# ---- pull ----------------------------------------------------------------------------------------


def test_the_first_pull_has_what_lives_and_a_timestamp_above_0(server: Server) -> None:
    assert server.pull() == ({}, 1)
    server.elsewhere("create", id="m", name="milk")
    server.elsewhere("create", id="b", name="bread")
    server.elsewhere("delete", id="b")
    changes, timestamp = server.pull()
    assert changes == {
        "tasks": {"created": [], "updated": [{"id": "m", "name": "milk"}], "deleted": []}
    }
    assert timestamp == 4


def test_a_pull_has_what_changed_whole_and_what_was_deleted(on_database: Server) -> None:
    for name in ("m", "b", "c"):
        on_database.elsewhere("create", id=name, name=name, rank=1)
    _, last = on_database.pull()
    on_database.elsewhere("update", id="m", rank=2)
    on_database.elsewhere("delete", id="b")
    changes, timestamp = on_database.pull(last)
    assert changes == {
        "tasks": {
            "created": [],
            "updated": [{"id": "m", "name": "m", "rank": 2}],
            "deleted": ["b"],
        }
    }
    assert on_database.pull(timestamp) == ({}, timestamp)


def test_a_record_that_a_phone_made_and_another_deleted_is_told_deleted(server: Server) -> None:
    _, last = server.pull()
    server.push(last, created=[created()])
    server.elsewhere("delete", id="m")
    assert server.pull(last)[0]["tasks"]["deleted"] == ["m"]


def test_numbers_and_what_watermelondb_has_for_itself(server: Server) -> None:
    text = '{"id": "m", "n": 9007199254740993, "x": 1.0, "_status": "x", "_changed": "y"}'
    server.mobync.push(OWNER, [("create", "tasks", text)])
    body = server.client.answer("pull", server.mobync, OWNER, b"{}")
    assert b'"updated":[{"id":"m","n":9007199254740993,"x":1.0}]' in body


def test_a_record_made_again_has_null_for_what_it_lacks() -> None:
    for settings, more in (
        ({}, {"columns": {"tasks": ["name", "rank"]}}),
        ({"tables": {"tasks": ["name", "rank"]}}, {}),
    ):
        server = Server(Mobync(MemorySynchronizer()), **settings)
        server.elsewhere("create", id="m", name="milk", rank=1)
        _, last = server.pull()
        server.elsewhere("delete", id="m")
        server.elsewhere("create", id="m", name="bread")
        changes, _ = server.pull(last, **more)
        assert changes["tasks"]["updated"] == [{"id": "m", "name": "bread", "rank": None}]
        assert changes["tasks"]["deleted"] == []


def test_a_migration_brings_the_tables_that_are_new_or_wider_whole(server: Server) -> None:
    operations = [
        ("create", model, {"id": f"{model}{n}", "name": "x", "rank": n})
        for model in ("tasks", "notes", "lists")
        for n in range(2)
    ]
    server.mobync.push(OWNER, operations)
    _, last = server.pull()
    server.mobync.push(OWNER, [("delete", "notes", {"id": "notes0"})])
    columns = [{"table": "notes", "columns": ["rank"]}]
    migration = {"from": 1, "tables": ["lists"], "columns": columns}
    changes, timestamp = server.pull(last, migration=migration, schemaVersion=2)
    assert timestamp == last + 1
    assert "tasks" not in changes
    assert [raw["id"] for raw in changes["lists"]["updated"]] == ["lists0", "lists1"]
    assert changes["notes"]["updated"] == [{"id": "notes1", "name": "x", "rank": 1}]
    assert changes["notes"]["deleted"] == ["notes0"]


def test_a_migration_without_news_brings_its_tables_too(server: Server) -> None:
    server.elsewhere("create", id="m", name="milk")
    _, last = server.pull()
    migration = {"from": 1, "tables": ["tasks"], "columns": []}
    assert server.pull(last, migration=migration)[0]["tasks"]["updated"]


def test_tables_that_are_not_synced_are_neither_pulled_nor_pushed() -> None:
    server = Server(Mobync(MemorySynchronizer()), tables=["tasks"])
    server.mobync.push(OWNER, [("create", "notes", {"id": "n"}), ("create", "tasks", {"id": "m"})])
    assert set(server.pull()[0]) == {"tasks"}
    with pytest.raises(InvalidDiffError, match="the table 'notes' is not synced"):
        server.push(1, table="notes", created=[created()])


def test_a_clock_that_is_ahead_is_told(server: Server) -> None:
    for ask in (lambda: server.pull(9), lambda: server.push(9, created=[created()])):
        with pytest.raises(LogicalClockError) as refused:
            ask()
        assert refused.value.ahead


def test_a_pull_is_told_to_listeners(server: Server) -> None:
    told: list[SyncReport] = []
    server.mobync.listen(told.append)
    server.pull()
    assert [report.owner_id for report in told] == [OWNER]


# ---- push ----------------------------------------------------------------------------------------


def test_a_push_writes_rows_and_is_pulled_by_others(on_database: Server) -> None:
    _, last = on_database.pull()
    on_database.push(last, created=[created(done=True, rank=3), created("b", name="bread")])
    assert on_database.rows() == {
        "m": {"id": "m", "name": "milk", "done": True, "rank": 3},
        "b": {"id": "b", "name": "bread"},
    }
    _, last = on_database.pull()
    on_database.push(last, updated=[updated("rank", rank=7)], deleted=["b"])
    assert on_database.rows() == {"m": {"id": "m", "name": "milk", "done": True, "rank": 7}}


def test_edits_of_several_fields_by_two_sides_both_stand(on_database: Server) -> None:
    on_database.elsewhere("create", id="m", name="milk", done=False, rank=1)
    _, last = on_database.pull()
    on_database.elsewhere("update", id="m", done=True)
    on_database.push(last, updated=[updated("name", name="oat milk")])
    assert on_database.rows()["m"] == {"id": "m", "name": "oat milk", "done": True, "rank": 1}


def test_without_a_time_the_edit_that_arrives_later_wins(server: Server) -> None:
    server.elsewhere("create", id="m", name="milk")
    _, last = server.pull()
    server.elsewhere("update", id="m", name="bread")
    server.push(last, updated=[updated("name", name="oat milk")])
    assert server.rows()["m"]["name"] == "oat milk"


@pytest.mark.parametrize(("at", "winner"), [(EARLY, "bread"), (LATE, "oat milk")])
def test_with_a_time_column_the_later_edit_wins(at: int, winner: str) -> None:
    server = Server(Mobync(MemorySynchronizer()), times={"tasks": "updated_at"})
    server.mobync.push(OWNER, [])
    first = diff("create", id="m", name="milk") | {"utc_timestamp": EARLY - 1}
    server.mobync.apply(0, [first], OWNER)
    _, last = server.pull()
    other = diff("update", id="m", name="bread") | {"utc_timestamp": EARLY + 1000}
    server.mobync.apply(last - 1, [other], OWNER)
    server.push(last, updated=[updated("name,updated_at", name="oat milk", updated_at=at)])
    assert server.rows()["m"]["name"] == winner


def test_a_delete_beats_an_edit_of_the_other_side(server: Server) -> None:
    server.elsewhere("create", id="m", name="milk")
    server.elsewhere("create", id="b", name="bread")
    _, last = server.pull()
    server.elsewhere("delete", id="m")
    server.elsewhere("update", id="b", name="rye")
    assert server.push(last, updated=[updated("name", name="x")], deleted=["b"]) == {}
    assert server.rows() == {}


def test_what_is_there_already_is_no_edit(server: Server) -> None:
    _, last = server.pull()
    server.push(last, created=[created(x=1)])
    server.mobync.push(OWNER, [("update", "tasks", '{"id": "m", "x": 1.0}')])
    _, last = server.pull()
    before = server.log
    server.push(last, created=[created(x=1)], deleted=["unknown"])
    server.push(last, updated=[updated("name")])
    assert server.log == before


def test_a_record_that_exists_is_not_created_twice(on_database: Server) -> None:
    on_database.elsewhere("create", id="m", name="milk", rank=1)
    _, last = on_database.pull()
    on_database.push(last, created=[created(name="oat milk", rank=1)])
    assert on_database.log[1:] == [("update", {"id": "m", "name": "oat milk"})]
    assert on_database.rows()["m"] == {"id": "m", "name": "oat milk", "rank": 1}


def test_without_changed_what_differs_from_what_the_phone_saw_is_the_edit(
    on_database: Server,
) -> None:
    on_database.elsewhere("create", id="m", name="milk", done=False, rank=1)
    _, last = on_database.pull()
    on_database.elsewhere("update", id="m", rank=5)
    on_database.push(last, updated=[updated(None, name="oat milk")])
    assert on_database.rows()["m"] == {"id": "m", "name": "oat milk", "done": False, "rank": 5}


def test_an_update_of_what_the_server_never_had_creates_it_whole(server: Server) -> None:
    _, last = server.pull()
    server.push(last, updated=[updated("name")])
    assert server.rows()["m"] == {"id": "m", "name": "milk", "done": False, "rank": 1}


def test_a_record_made_again_after_its_delete_is_a_new_one(on_database: Server) -> None:
    on_database.elsewhere("create", id="m", name="milk", rank=1)
    _, last = on_database.pull()
    on_database.push(last, deleted=["m"])
    _, last = on_database.pull(last)
    on_database.push(last, created=[created(name="bread")])
    assert on_database.rows()["m"] == {"id": "m", "name": "bread"}


def test_the_same_request_again_changes_nothing(on_database: Server) -> None:
    on_database.elsewhere("create", id="b", name="bread")
    _, last = on_database.pull()
    changes = {"created": [created(rank=1)], "updated": [updated("name", id="b", name="rye")]}
    on_database.push(last, **changes)
    on_database.elsewhere("update", id="b", name="oat")
    before = on_database.log
    on_database.push(last, **changes)
    assert on_database.log == before


# ---- the npm package's edits ---------------------------------------------------------------------


def test_a_retry_after_another_pull_is_recognized(on_database: Server) -> None:
    _, first = on_database.pull()
    edits = [edit("d1", "create", columns={"name": "milk", "done": False})]
    on_database.send(first, *edits)  # and the answer is lost
    _, last = on_database.pull(first)
    before = on_database.log
    on_database.send(last, *({**each, "lastPulledAt": first, "age": 5} for each in edits))
    assert on_database.log == before


def test_a_retry_that_was_beaten_does_not_win_and_what_won_is_told_again(
    on_database: Server,
) -> None:
    on_database.elsewhere("create", id="m", name="milk", done=False, rank=1)
    _, first = on_database.pull()
    sent = edit("d1", "update", columns={"done": True, "rank": 2})
    on_database.send(first, sent)  # and the answer is lost
    on_database.elsewhere("update", id="m", done=False)
    _, last = on_database.pull(first)  # where the phone keeps done, which it has changed itself
    on_database.send(last, {**sent, "lastPulledAt": first, "age": 5})
    assert on_database.rows()["m"] == {"id": "m", "name": "milk", "done": False, "rank": 2}
    assert on_database.log[-1] == ("update", {"id": "m", "done": False})
    assert on_database.pull(last)[0]["tasks"]["updated"][0]["done"] is False


def test_a_second_equal_edit_is_one(on_database: Server) -> None:
    on_database.elsewhere("create", id="m", name="milk", done=False)
    _, last = on_database.pull()
    on_database.send(last, edit("d1", "update", columns={"done": True}))
    on_database.elsewhere("update", id="m", done=False)
    _, last = on_database.pull(last)
    on_database.send(last, edit("d2", "update", columns={"done": True}))
    assert on_database.rows()["m"]["done"] is True


def test_an_edit_after_a_lost_answer_is_one_and_the_lost_one_is_none(server: Server) -> None:
    server.elsewhere("create", id="m", name="milk", done=False)
    _, first = server.pull()
    sent = edit("d1", "update", columns={"name": "oat milk", "done": True})
    server.send(first, sent)  # and the answer is lost
    server.elsewhere("update", id="m", done=False)
    _, last = server.pull(first)
    again = {**sent, "lastPulledAt": first, "age": 5}
    server.send(last, again, edit("d2", "update", columns={"name": "soy milk"}))
    assert server.rows()["m"] == {"id": "m", "name": "soy milk", "done": False}


@pytest.mark.parametrize("arrived", [True, False])
def test_a_lost_create_and_what_followed_it(server: Server, arrived: bool) -> None:
    _, first = server.pull()
    sent = edit("d1", "create", columns={"name": "milk", "done": False})
    if arrived:
        server.send(first, sent)
    server.elsewhere("create", id="b", name="bread")
    _, last = server.pull(first)
    again = {**sent, "lastPulledAt": first, "age": 5}
    server.send(last, again, edit("d2", "update", columns={"name": "oat milk"}))
    assert server.rows()["m"] == {"id": "m", "name": "oat milk", "done": False}


@pytest.mark.parametrize("arrived", [True, False])
def test_a_lost_create_and_its_delete(server: Server, arrived: bool) -> None:
    _, first = server.pull()
    sent = edit("d1", "create", columns={"name": "milk"})
    if arrived:
        server.send(first, sent)
    server.elsewhere("create", id="b", name="bread")
    _, last = server.pull(first)
    server.send(last, {**sent, "lastPulledAt": first}, edit("d2", "delete"))
    assert set(server.rows()) == {"b"}


def test_a_lost_create_that_another_deleted_stays_deleted(server: Server) -> None:
    _, first = server.pull()
    sent = edit("d1", "create", columns={"name": "milk"})
    server.send(first, sent)
    server.elsewhere("delete", id="m")
    _, last = server.pull(first)
    server.send(last, {**sent, "lastPulledAt": first})
    assert server.rows() == {}
    # For a phone that did not take the delete, with what followed, off its records.
    assert server.pull(last)[0]["tasks"]["deleted"] == ["m"]


def test_a_lost_delete_of_what_was_made_again_brings_the_new_record_back(server: Server) -> None:
    server.elsewhere("create", id="m", name="milk")
    _, first = server.pull()
    server.send(first, edit("d1", "delete"))  # and the answer is lost
    server.elsewhere("create", id="m", name="bread")
    _, last = server.pull(first)  # which the phone ignores: it has deleted the record
    server.send(last, edit("d1", "delete", lastPulledAt=first))
    assert server.rows()["m"]["name"] == "bread"
    assert server.pull(last)[0]["tasks"]["updated"] == [{"id": "m", "name": "bread"}]


# ---- rules ---------------------------------------------------------------------------------------


class Ruled(SQLAlchemySynchronizer):
    """Devices may neither make a task of rank 13 nor say that one is approved."""

    def validate_create(self, owner_id: str, **diff: Any) -> bool:
        return bool(json.loads(diff["json_data"]).get("rank") != 13)

    def validate_update(self, owner_id: str, **diff: Any) -> bool:
        if json.loads(diff["json_data"]).get("name") == "approved":
            raise UnauthorizedError("that is not for devices")
        return self.validate_create(owner_id, **diff)


@pytest.fixture(params=["raise", "skip"])
def ruled(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    with databases.open_database("sqlite", tmp_path) as opened:
        mobync = Mobync(TaskList(opened, Ruled).store, on_refusal=request.param)
        yield Server(mobync)


def test_a_refused_record_is_rejected_and_the_others_are_written(ruled: Server) -> None:
    ruled.elsewhere("create", id="a", name="a", rank=1)
    _, last = ruled.pull()
    rejected = ruled.push(
        last,
        created=[created("m", rank=13), created("b", rank=1)],
        updated=[updated("rank", id="a", rank=13)],
    )
    assert rejected == {"tasks": ["m", "a"]}
    assert {id_: row["rank"] for id_, row in ruled.rows().items()} == {"a": 1, "b": 1}


def test_what_follows_a_refused_create_is_rejected_with_it(ruled: Server) -> None:
    _, first = ruled.pull()
    ruled.elsewhere("create", id="b", name="bread")
    _, last = ruled.pull(first)
    rejected = ruled.send(
        last,
        edit("d1", "create", columns={"rank": 13}, lastPulledAt=first),
        edit("d2", "update", columns={"rank": 2}),
    )
    assert rejected == {"tasks": ["m"]}
    assert set(ruled.rows()) == {"b"}


def test_what_only_the_backend_may_write_is_told_again_all_the_same(ruled: Server) -> None:
    ruled.elsewhere("create", id="m", name="milk")
    _, first = ruled.pull()
    sent = edit("d1", "update", columns={"name": "oat milk"})
    ruled.send(first, sent)
    ruled.elsewhere("update", id="m", name="approved")
    _, last = ruled.pull(first)
    assert ruled.send(last, {**sent, "lastPulledAt": first}) == {}
    assert ruled.pull(last)[0]["tasks"]["updated"][0]["name"] == "approved"


def test_a_push_waits_for_a_sync_of_its_owner() -> None:
    for on_refusal in ("raise", "skip"):
        mobync = Mobync(MemorySynchronizer(), lock_timeout_s=0.01, on_refusal=on_refusal)
        server = Server(mobync)
        server.push(1, created=[created("before")])
        held = mobync._locks.hold(OWNER, 1)
        with ThreadPoolExecutor(1) as another, held, pytest.raises(BusyError):
            another.submit(server.push, 1, created=[created()]).result()
        server.push(1, created=[created()])
        assert set(server.rows()) == {"before", "m"}


# ---- requests and settings -----------------------------------------------------------------------


UNREADABLE = {"U+0000": "a\0b", "half an emoji": "\ud83e", "deep": None}


def sent(body: Any, value: str | None) -> bytes:
    """A request with a value that the core does not take for each "BAD"."""
    text = json.dumps(body)
    deep = "[" * 1500 + "]" * 1500
    return text.replace('"BAD"', deep if value is None else json.dumps(value)).encode()


@pytest.mark.parametrize("value", UNREADABLE.values(), ids=UNREADABLE.keys())
@pytest.mark.parametrize("as_edits", [False, True], ids=["changes", "edits"])
def test_a_record_that_cannot_be_read_is_rejected_and_the_others_are_written(
    server: Server, value: str | None, as_edits: bool
) -> None:
    server.elsewhere("create", id="m", name="milk")
    if as_edits:
        edits = [
            edit("e1", "create", "a", columns={"name": "after"}),
            edit("e2", "create", "x", columns={"name": "BAD"}),
            edit("e3", "update", "x", columns={"done": True}),
            edit("e4", "update", "m", columns={"name": "BAD"}),
            edit("e5", "create", "b", columns={"name": "before"}),
        ]
        pushed: Raw = {"edits": edits}
    else:
        made = [created("a", name="after"), created("x", name="BAD"), created("b", name="before")]
        changed = {"created": made, "updated": [updated("name", name="BAD")], "deleted": []}
        pushed = {"changes": {"tasks": changed}}
    answer = server.ask("push", sent({"lastPulledAt": 2, **pushed}, value))
    assert answer == {"experimentalRejectedIds": {"tasks": ["x", "m"]}}
    assert {raw["name"] for raw in server.rows().values()} == {"milk", "before", "after"}


def test_an_id_that_cannot_be_read_is_rejected(server: Server) -> None:
    edits = [edit("e1", "create", "a"), edit("e2", "delete", "\0"), edit("e3", "create", "\ud83e")]
    assert server.send(1, *edits) == {"tasks": ["\0", "\ud83e"]}
    changes = {"created": [created("b")], "deleted": ["\0", "\ud83e"]}
    assert server.push(1, **changes) == {"tasks": ["\0", "\ud83e"]}
    assert set(server.rows()) == {"a", "b"}


def test_a_delete_needs_no_columns_that_can_be_read(server: Server) -> None:
    server.elsewhere("create", id="m")
    assert server.send(2, edit("e1", "delete", "m", columns={"name": "\0"})) == {}
    assert server.rows() == {}


def test_what_came_before_one_that_cannot_be_read_is_written(server: Server) -> None:
    edits = [
        edit("e1", "create", columns={"name": "milk"}),
        edit("e2", "update", columns={"name": "\0"}),
        edit("e3", "delete"),
    ]
    assert server.send(1, *edits) == {"tasks": ["m"]}
    assert server.rows() == {"m": {"id": "m", "name": "milk"}}


@pytest.mark.parametrize(
    ("route", "body", "message"),
    [
        ("pull", b"[]", "a pull must be a JSON object"),
        ("pull", b'{"lastPulledAt": 1', "a pull must be a JSON object"),
        ("pull", {"lastPulledAt": 0}, "lastPulledAt must be an integer from 1 on, not 0"),
        ("pull", {"lastPulledAt": True}, "lastPulledAt must be an integer from 1 on, not true"),
        ("pull", {"lastPulledAt": 1.5}, "lastPulledAt must be"),
        ("pull", {"columns": []}, "columns must be a JSON object"),
        ("pull", {"columns": {"tasks": [1]}}, "a name in columns of 'tasks' must be a string"),
        ("pull", {"migration": {"tables": "x"}}, "tables of the migration must be an array"),
        ("pull", {"migration": {"columns": [{}]}}, "table must be a string"),
        ("push", b"{}", "changes must be a JSON object"),
        ("push", {"changes": {"tasks": []}}, "changes of 'tasks' must be a JSON object"),
        ("push", {"changes": {"tasks": {"created": {}}}}, "created of 'tasks' must be an array"),
        ("push", {"changes": {"tasks": {"created": [1]}}}, "a record in created of 'tasks' must"),
        ("push", {"changes": {"tasks": {"updated": [{}]}}}, "id must be a string"),
        ("push", {"changes": {"tasks": {"deleted": [1]}}}, "an id in deleted of 'tasks' must be"),
        ("push", {"edits": [], "changes": {}}, "changes or edits, not both"),
        ("push", {"edits": {}}, "edits must be an array"),
        ("push", {"edits": [edit("d", "destroy")]}, "edits: type must be create, update or delete"),
        ("push", {"edits": [edit("", "create")]}, "edits: id must be a string"),
        ("push", {"edits": [edit("d", "create", age=-1)]}, "edits: age must be an integer"),
        ("push", {"edits": [edit("d", "create", columns=[])]}, "edits: columns must be a JSON"),
    ],
)
def test_a_malformed_request_is_refused_by_what_is_wrong(
    server: Server, route: str, body: Any, message: str
) -> None:
    with pytest.raises(InvalidDiffError, match=message):
        server.ask(route, body)
    assert server.log == []


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"tables": "tasks"}, TypeError, "tables must be names, or columns by name, not 'tasks'"),
        ({"tables": 3}, TypeError, "tables must be names"),
        ({"tables": [3]}, TypeError, "a table must be a str, not 3"),
        ({"tables": [""]}, ValueError, "a table must have a name"),
        ({"tables": {"tasks": "name"}}, TypeError, "columns of 'tasks' must be names, not 'name'"),
        ({"tables": {"tasks": [3]}}, TypeError, "a column of 'tasks' must be a str, not 3"),
        ({"times": ["at"]}, TypeError, "times must be a column by table"),
        ({"times": {"tasks": 3}}, TypeError, "column of times of 'tasks' must be a str"),
        ({"tables": ["a"], "times": {"b": "at"}}, ValueError, "times has 'b', which is not in"),
        ({"tables": {"a": ["x"]}, "times": {"a": "at"}}, ValueError, "times has 'at' of 'a'"),
    ],
)
def test_a_mistake_in_the_settings_is_found_at_construction(
    settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Watermelon(**settings)


def test_columns_of_the_server_in_a_record_do_not_reject_it(database: Database) -> None:
    """WatermelonDB sends all columns of a new record, those too that no device may write."""
    metadata = MetaData()
    diffs_table(metadata)
    table = invoice_table(metadata)
    create_tables(database.engine, metadata)
    with database.engine.begin() as connection:
        create_invoice_triggers(connection, database.kind)
    store = SQLAlchemySynchronizer(
        database.engine, {"invoices": table}, server_columns=SERVER_COLUMNS
    )
    server = Server(Mobync(store))
    whole = {"title": "a", "net": 100, "priority": 3, "state": "draft", "version": 0, "gross": 0}
    assert server.push(1, "invoices", created=[{"id": "m", "_status": "created", **whole}]) == {}
    sent = edit("e1", "create", "n", table="invoices", columns=whole)
    assert server.send(1, sent) == {}
    assert server.rows("invoices") == {"m": made("m", title="a"), "n": made("n", title="a")}
    _, now = server.pull()
    changed = {"id": "m", "_status": "updated", **whole, "net": 7}
    assert server.push(now, "invoices", updated=[changed]) == {}
    after = made("m", 2, title="a", net=7, state="changed", gross=27)
    assert server.rows("invoices")["m"] == after
    _, now = server.pull()
    changed["_changed"] = "version"
    assert server.push(now, "invoices", updated=[changed]) == {"invoices": ["m"]}
    assert server.rows("invoices")["m"] == after


# ---- what a push may cost ------------------------------------------------------------------------


def test_records_that_others_edited_are_compared_with_one_reading_of_the_log(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"m{number}" for number in range(9)]
    for id_ in ids:
        server.elsewhere("create", id=id_, name="milk", done=False, rank=1)
    _, last = server.pull()
    for id_ in ids:
        server.elsewhere("update", id=id_, rank=2)
    readings: list[int] = []
    as_of = Documents.as_of

    def counting(documents: Documents, owner_id: str, clock: int) -> OwnerDocuments:
        readings.append(clock)
        return as_of(documents, owner_id, clock)

    monkeypatch.setattr(Documents, "as_of", counting)
    assert server.push(last, updated=[updated(None, id=id_, done=True) for id_ in ids]) == {}

    assert len(readings) == 1
    raw = {"name": "milk", "done": True, "rank": 2}
    assert server.rows() == {id_: {"id": id_, **raw} for id_ in ids}


def after_pulls(count: int, *, same_record: bool) -> list[dict[str, Any]]:
    """Edits each of which was first sent after another pull."""
    ids = ["m0" if same_record else f"m{number}" for number in range(count)]
    return [
        edit(f"d{at}", "update", id_, columns={"rank": at}, lastPulledAt=at + 1, age=count - at)
        for at, id_ in enumerate(ids)
    ]


def test_a_push_follows_few_pulls(server: Server) -> None:
    for number in range(MOST_BASES + 1):
        server.elsewhere("create", id=f"m{number}", rank=-1)
    _, last = server.pull()
    edits = after_pulls(MOST_BASES + 1, same_record=False)

    with pytest.raises(RequestTooLargeError, match="20 different pulls"):
        server.send(last, *edits)
    assert {row["rank"] for row in server.rows().values()} == {-1}

    for half in (edits[:10], edits[10:]):  # as the package does
        assert server.send(last, *half) == {}


def test_a_record_may_have_been_sent_after_any_number_of_pulls(server: Server) -> None:
    for number in range(2 * MOST_BASES):
        server.elsewhere("create", id=f"m{number}", rank=-1)
    _, last = server.pull()

    assert server.send(last, *after_pulls(2 * MOST_BASES, same_record=True)) == {}

    assert server.rows()["m0"]["rank"] == 2 * MOST_BASES - 1


@pytest.mark.parametrize(
    "pushed",
    [
        {"changes": {"tasks": {"deleted": ["a", "b", "c"]}}},
        {"changes": {"a": {}, "b": {}, "c": {}, "d": {}}},
        {"edits": [edit(f"d{number}", "delete") for number in range(4)]},
    ],
    ids=["deleted", "tables", "edits"],
)
def test_a_push_with_too_many_edits_is_refused_before_they_are_read(pushed: Any) -> None:
    server = Server(Mobync(MemorySynchronizer(), max_diffs=3))
    with pytest.raises(RequestTooLargeError, match="more than 3 edits"):
        server.ask("push", {"lastPulledAt": None, **pushed})


def test_a_pull_with_too_many_names_is_refused() -> None:
    server = Server(Mobync(MemorySynchronizer(), max_diffs=3))
    with pytest.raises(RequestTooLargeError, match="more than 3 edits"):
        server.pull(columns={"tasks": ["a", "b"], "lists": ["a", "b"]})
