"""A guest signs in: one owner's rows, log and devices become another's."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import async_databases
import pytest
from client_transports import Direct, Meddling, lost
from databases import KINDS, Database, open_database
from django_databases import django_database
from invoices import SERVER_COLUMNS, create_invoice_triggers, invoice_table, made
from sqlalchemy import (
    Column,
    Computed,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Session
from task_list import diff, task_table

from mobync import (
    InvalidDiffError,
    LogicalClockError,
    Mobync,
    OwnerMovedError,
    SameIdError,
    Synchronizer,
)
from mobync._sync import moving
from mobync.client import Answer, Device, OfflineError, ServerError
from mobync.client import _replica as replica_module
from mobync.http import Endpoint
from mobync.memory import MemorySynchronizer
from mobync.sqlalchemy import (
    AsyncDocumentSynchronizer,
    DocumentSynchronizer,
    SQLAlchemySynchronizer,
    create_tables,
    create_tables_async,
    create_triggers,
    diffs_table,
)

# Django must know its settings first.
from django_app.models import Project, Task  # isort: skip
from mobync.django import DjangoSynchronizer  # isort: skip

opened = async_databases.opened

STORES = [
    "memory",
    *(f"{store}-{kind}" for store in ("documents", "tables", "django") for kind in KINDS),
]


class Server:
    """A server, and devices of its owners; a token is the owner's id.

    Attributes:
        names: the field of a task that has its name.
    """

    def __init__(self, store: Synchronizer, names: str = "name") -> None:
        self.mobync = Mobync(store)
        self.names = names
        self.way = Direct(Endpoint(self.mobync, lambda token, headers: token))
        self.now_ms = 1_700_000_000_000
        self.devices: list[Phone] = []

    def tick(self) -> int:
        self.now_ms += 1_000
        return self.now_ms

    def log(self, owner: str) -> list[dict[str, Any]]:
        with self.mobync.synchronizer.transaction(owner) as inside:
            rows = inside.read("diffs", [])
        mine = [row for row in rows if row["owner"] == owner]
        return sorted(mine, key=lambda row: row["logical_clock"])


class Phone:
    """A device that signs in as one owner, and later as another."""

    def __init__(self, server: Server, owner: str, way: Any = None) -> None:
        self.server, self.owner = server, owner
        self.device = Device(
            ":memory:", way or server.way, lambda: self.owner, now_ms=server.tick, patience_s=0
        )
        server.devices.append(self)

    def sign_in(self, owner: str) -> None:
        self.owner = owner
        self.device._server._known_token = None

    def create(self, id_: str, name: str) -> None:
        self.device.create("tasks", {"id": id_, self.server.names: name})

    def update(self, id_: str, **fields: Any) -> None:
        named = {self.server.names if f == "name" else f: value for f, value in fields.items()}
        self.device.update("tasks", id_, named)

    def delete(self, id_: str) -> None:
        self.device.delete("tasks", id_)

    def sync(self) -> Phone:
        self.device.sync()
        return self

    def tasks(self) -> dict[str, Any]:
        return {row["id"]: row.get(self.server.names) for row in self.device.rows("tasks")}


@contextmanager
def opened_server(store: str, directory: Path) -> Iterator[Server]:
    kind = store.partition("-")[2]
    if store == "memory":
        yield Server(MemorySynchronizer())
    elif store.startswith("django"):
        with django_database(kind, directory, [Project, Task]) as alias:
            models = {"tasks": Task, "projects": Project}
            filled = ["state", "rank", "is_hidden", "changed", "secret"]  # no part of these stories
            hidden = {"tasks": filled}
            yield Server(DjangoSynchronizer(models, using=alias, hidden_columns=hidden), "title")
    else:
        with open_database(kind, directory) as database:
            made: Any
            if store.startswith("documents"):
                made = DocumentSynchronizer(database.engine)
                create_tables(database.engine, made.metadata)
            else:
                metadata = MetaData()
                made = SQLAlchemySynchronizer(database.engine, {"tasks": task_table(metadata)})
                create_tables(database.engine, metadata)
            yield Server(made)


@pytest.fixture(params=STORES)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    with opened_server(request.param, tmp_path) as made:
        yield made
        for phone in made.devices:
            phone.device.close()


@pytest.fixture
def memory() -> Server:
    return Server(MemorySynchronizer())


def rows_of(server: Server, owner: str) -> dict[str, Any]:
    """The tasks by the server's tables; a store in memory has them by the log only."""
    store = server.mobync.synchronizer
    with store.transaction(owner) as inside:
        rows = inside.read("tasks", [])
    return {row["id"]: row.get(server.names) for row in rows}


def test_a_guest_signs_in_and_goes_on(server: Server) -> None:
    tablet = Phone(server, "anna")
    tablet.create("t", "of the tablet")
    tablet.sync()
    phone = Phone(server, "guest")
    for id_ in "abd":
        phone.create(id_, f"{id_} of the guest")
    phone.sync()
    phone.delete("d")
    phone.update("a", name="a, sent")
    phone.sync()
    phone.update("a", name="a, offline")
    phone.create("c", "c, offline")
    phone.delete("b")

    moved = server.mobync.move_owner("guest", "anna")

    assert (moved.old, moved.new, moved.rows) == ("guest", "anna", {"tasks": 2})
    assert (moved.diffs, moved.same, moved.devices) == (3, 0, 1)
    assert server.log("guest") == []
    with pytest.raises(ServerError) as refused:
        phone.sync()
    assert (refused.value.status, refused.value.code) == (403, "owner_moved")
    assert phone.tasks() == {"a": "a, offline", "c": "c, offline"}
    tablet.sync()
    assert tablet.tasks() == {
        "t": "of the tablet",
        "a": "a, sent",
        "b": "b of the guest",
    }
    phone.sign_in("anna")
    phone.sync()
    everything = {"t": "of the tablet", "a": "a, offline", "c": "c, offline"}
    assert phone.tasks() == tablet.sync().tasks() == everything
    assert rows_of(server, "anna") == everything
    assert phone.device.waiting == 0
    assert Phone(server, "anna").sync().tasks() == everything
    tablet.update("c", name="c, of both")
    tablet.sync()
    assert phone.sync().tasks()["c"] == "c, of both"
    assert [device.name for device in server.mobync.devices("guest")] == []
    assert len(server.mobync.devices("anna")) == 3


def test_a_device_of_the_account_need_not_start_over(server: Server) -> None:
    mobync = server.mobync
    named: dict[str, Any] = {"device": "tablet", "request": 1}
    reply = mobync.apply(0, [create("t", server)], "anna", **named)
    mobync.apply(0, [create("a", server)], "guest", device="phone", request=1)
    mobync.move_owner("guest", "anna")
    named |= {"request": 2, "mark": reply["mark"]}
    after = mobync.apply(reply["logical_clock"], [], "anna", **named)
    assert "reset" not in after
    (came,) = after["diffs"]
    assert (came["type"], json.loads(came["json_data"])["id"]) == ("create", "a")
    assert came["owner"] == "anna"
    again = mobync.apply(after["logical_clock"], [], "anna", **{**named, "mark": after["mark"]})
    assert again["diffs"] == []


def create(id_: str, server: Server, name: str = "") -> dict[str, Any]:
    return diff("create", id=id_, **{server.names: name or f"{id_}'s name"})


def test_an_answer_that_was_lost_is_no_second_edit(server: Server) -> None:
    way = Meddling(server.way)
    phone, tablet = Phone(server, "guest", way), Phone(server, "anna")
    phone.create("a", "A")
    phone.sync()
    phone.update("a", name="A, sent")
    phone.create("x", "X")
    way.after = lost
    with pytest.raises(OfflineError):
        phone.sync()
    server.mobync.move_owner("guest", "anna")
    tablet.sync()
    tablet.delete("x")
    tablet.update("a", name="A of the tablet")
    tablet.sync()
    way.after = lambda answer: answer
    phone.sign_in("anna")
    phone.sync()
    assert phone.tasks() == tablet.sync().tasks() == {"a": "A of the tablet"}
    assert rows_of(server, "anna") == {"a": "A of the tablet"}


def test_what_had_died_before_the_move_is_dead_for_a_retry_too(memory: Server) -> None:
    way = Meddling(memory.way)
    phone, other = Phone(memory, "guest", way), Phone(memory, "guest")
    for id_ in "xy":
        phone.create(id_, id_)
    way.after = lost
    with pytest.raises(OfflineError):
        phone.sync()
    other.sync()
    other.delete("x")
    other.sync()
    memory.mobync.move_owner("guest", "anna")
    way.after = lambda answer: answer
    phone.sign_in("anna")
    assert phone.sync().tasks() == {"y": "y"}


def test_a_request_in_parts_that_breaks_off_before_the_move(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_module, "MAX_DIFFS", 2)
    way = Meddling(server.way)
    phone = Phone(server, "guest", way)
    phone.create("a", "A")
    phone.sync()
    for id_ in "bcdef":
        phone.create(id_, id_)
    phone.update("a", name="A, offline")
    way.before = lambda body: lost() if body.get("part") == 2 else None
    with pytest.raises(OfflineError):
        phone.sync()
    way.before = lambda body: None
    server.mobync.move_owner("guest", "anna")
    phone.sign_in("anna")
    everything = {"a": "A, offline", **{id_: id_ for id_ in "bcdef"}}
    assert phone.sync().tasks() == everything
    assert rows_of(server, "anna") == everything


def test_what_is_edited_while_it_starts_over_stays(memory: Server) -> None:
    way = Meddling(memory.way)
    phone, tablet = Phone(memory, "guest", way), Phone(memory, "anna")
    for id_ in "ab":
        phone.create(id_, id_)
    phone.sync()
    tablet.create("t", "t")
    tablet.sync()
    memory.mobync.move_owner("guest", "anna")
    phone.sign_in("anna")

    def edit_after_a_reset(answer: Answer) -> Answer:
        if answer.json().get("reset"):
            assert answer.json()["seen_clock"] > answer.json()["logical_clock"] == 0
            phone.update("a", name="a, meanwhile")
            phone.delete("b")
        return answer

    way.after = edit_after_a_reset
    phone.sync()
    assert phone.sync().tasks() == {"a": "a, meanwhile", "t": "t"}
    assert tablet.sync().tasks() == {"a": "a, meanwhile", "t": "t"}


def test_the_later_edit_of_a_field_counts_whoever_made_it(server: Server) -> None:
    first, second = Phone(server, "guest"), Phone(server, "guest")
    first.create("a", "A")
    first.create("b", "B")
    first.sync()
    second.sync()
    tablet = Phone(server, "anna")
    tablet.sync()
    first.update("a", name="early, of the guest")
    server.mobync.move_owner("guest", "anna")
    tablet.sync()
    tablet.update("a", name="late, of the tablet")
    tablet.update("b", name="early, of the tablet")
    tablet.sync()
    second.update("b", name="late, of the guest")
    for phone in (first, second):
        phone.sign_in("anna")
        phone.sync()
    everything = {"a": "late, of the tablet", "b": "late, of the guest"}
    for phone in (first, second, tablet):
        assert phone.sync().tasks() == everything
    assert rows_of(server, "anna") == everything


def test_two_guests_one_after_the_other(server: Server) -> None:
    """The second one goes on to a third owner before its devices have come back."""
    a, b, c = Phone(server, "a"), Phone(server, "b"), Phone(server, "c")
    for phone in (a, b, c):
        phone.create(phone.owner, f"of {phone.owner}")
        phone.sync()
        phone.update(phone.owner, name=f"{phone.owner}, offline")
    server.mobync.move_owner("a", "b")
    server.mobync.move_owner("b", "c")
    for phone in (a, b, c):
        phone.sign_in("c")
        phone.sync()
    everything = {id_: f"{id_}, offline" for id_ in "abc"}
    for phone in (a, b, c):
        assert phone.sync().tasks() == everything
    assert rows_of(server, "c") == everything


def test_there_and_back_again(server: Server) -> None:
    phone = Phone(server, "a")
    phone.create("t", "T")
    phone.sync()
    for old, new in (("a", "b"), ("b", "a"), ("a", "b"), ("b", "a")):
        server.mobync.move_owner(old, new)
    phone.update("t", name="T, offline")
    assert phone.sync().tasks() == {"t": "T, offline"}
    assert rows_of(server, "a") == {"t": "T, offline"}
    if not isinstance(server.mobync.synchronizer, MemorySynchronizer):
        assert rows_of(server, "b") == {}
    assert server.mobync.logical_clock("a") < 20


def test_a_move_that_was_done_moves_nothing(server: Server) -> None:
    phone = Phone(server, "guest")
    phone.create("a", "A")
    phone.sync()
    server.mobync.move_owner("guest", "anna")
    clocks = [server.mobync.logical_clock(owner) for owner in ("guest", "anna")]
    again = server.mobync.move_owner("guest", "anna")
    assert (again.rows, again.diffs, again.devices) == ({}, 0, 0)
    assert [server.mobync.logical_clock(owner) for owner in ("guest", "anna")] == clocks
    nobody = server.mobync.move_owner("nobody", "anna")
    assert (nobody.rows, nobody.diffs, nobody.devices) == ({}, 0, 0)


def test_the_guest_may_begin_again(server: Server) -> None:
    phone = Phone(server, "guest")
    phone.create("a", "A")
    phone.sync()
    server.mobync.move_owner("guest", "anna")
    other = Phone(server, "guest")
    assert other.sync().tasks() == {}
    other.create("n", "New")
    other.sync()
    assert Phone(server, "guest").sync().tasks() == {"n": "New"}
    server.mobync.move_owner("guest", "anna")
    assert Phone(server, "anna").sync().tasks() == {"a": "A", "n": "New"}


# ---- devices without a name ---------------------------------------------------------------------


def test_a_device_without_a_name_pulls_anew(server: Server) -> None:
    mobync = server.mobync
    mobync.apply(0, [create(id_, server) for id_ in "tuvw"], "anna", device="tablet", request=1)
    clock = mobync.apply(0, [create(id_, server) for id_ in "ab"], "guest")["logical_clock"]
    assert clock == 2
    mobync.move_owner("guest", "anna")
    for owner in ("anna", "guest"):
        for limit in (None, 1):
            with pytest.raises(LogicalClockError) as refused:
                mobync.apply(clock, [], owner, limit=limit)
            assert refused.value.ahead
    pulled = mobync.apply(0, [], "anna")
    assert len(pulled["diffs"]) == 6
    assert mobync.apply(pulled["logical_clock"], [], "anna")["diffs"] == []
    empty = mobync.apply(0, [], "guest")
    assert empty["diffs"] == []
    assert mobync.apply(empty["logical_clock"], [], "guest")["diffs"] == []


def test_a_pull_in_pages_begins_again(server: Server) -> None:
    mobync = server.mobync
    mobync.apply(0, [create(id_, server) for id_ in "abcd"], "guest")
    mobync.apply(0, [create(id_, server) for id_ in "tuvwxy"], "anna", device="tablet", request=1)
    page = mobync.apply(0, [], "guest", limit=2)
    mobync.move_owner("guest", "anna")
    with pytest.raises(LogicalClockError):
        mobync.apply(0, [], "anna", limit=2, cursor=page["cursor"])
    assert len(mobync.apply(0, [], "anna")["diffs"]) == 10


def test_pages_of_a_named_device_begin_again(server: Server) -> None:
    mobync = server.mobync
    mobync.push("guest", [("create", "tasks", {"id": id_, server.names: id_}) for id_ in "abcd"])
    mobync.apply(0, [create(id_, server) for id_ in "tuvwxy"], "anna", device="tablet", request=1)
    named: dict[str, Any] = {"device": "phone", "request": 1, "limit": 2}
    page = mobync.apply(0, [], "guest", **named)
    mobync.move_owner("guest", "anna")
    reply = mobync.apply(0, [], "anna", cursor=page["cursor"], **named)
    assert reply["reset"]
    named |= {"mark": reply["mark"], "limit": 100}
    assert len(mobync.apply(0, [], "anna", **named)["diffs"]) == 10


def test_a_device_without_a_name_of_the_account_goes_on_if_the_guest_had_none(
    server: Server,
) -> None:
    mobync = server.mobync
    clock = mobync.apply(0, [create("t", server)], "anna")["logical_clock"]
    phone = Phone(server, "guest")
    phone.create("a", "A")
    phone.sync()
    mobync.move_owner("guest", "anna")
    assert len(mobync.apply(clock, [], "anna")["diffs"]) == 1


# ---- people and devices -------------------------------------------------------------------------


def test_a_revoked_device_stays_so(memory: Server) -> None:
    mobync = memory.mobync
    phone, tablet = Phone(memory, "guest").sync(), Phone(memory, "guest").sync()
    mobync.revoke_device("guest", phone.device.name)
    mobync.name_device("guest", tablet.device.name, "Anna's tablet")
    assert mobync.move_owner("guest", "anna").devices == 1
    for owner in ("guest", "anna"):
        with pytest.raises(ServerError, match="was revoked"):
            phone.sign_in(owner)
            phone.sync()
    known = {device.name: device for device in mobync.devices("anna")}
    assert known[phone.device.name].revoked
    assert known[tablet.device.name].label == "Anna's tablet"
    with pytest.raises(OwnerMovedError, match="another owner's now"):
        mobync.apply(0, [], "guest", device=tablet.device.name, request=1)
    tablet.sign_in("anna")
    tablet.sync()


def test_a_copy_of_the_device_loses_nothing_either(memory: Server) -> None:
    """Nobody knows it: it takes a new name, and its clock is one of the guest's log."""
    mobync = memory.mobync
    phone, tablet = Phone(memory, "guest"), Phone(memory, "anna")
    for id_ in "ab":
        phone.create(id_, id_)
    phone.sync()
    for id_ in "tuvw":
        tablet.create(id_, id_)
    tablet.sync()
    mobync.forget_device("guest", phone.device.name)
    mobync.move_owner("guest", "anna")
    phone.update("b", name="offline")
    phone.sign_in("anna")
    phone.sync()
    assert phone.tasks()["b"] == tablet.sync().tasks()["b"] == "offline"


def test_a_device_that_both_owners_know(memory: Server) -> None:
    """The last one that it was seen with knows it better."""
    mobync = memory.mobync
    phone = Phone(memory, "anna")
    phone.create("t", "T")
    phone.sync()
    name = phone.device.name
    mobync.apply(0, [create("a", memory)], "guest", device=name, request=1)
    mobync.move_owner("guest", "anna")
    assert phone.sync().sync().tasks() == {"t": "T", "a": "a's name"}


# ---- objects that both have ---------------------------------------------------------------------


@pytest.fixture(params=KINDS)
def documents(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    with opened_server(f"documents-{request.param}", tmp_path) as made:
        yield made
        for phone in made.devices:
            phone.device.close()


def settings_of(phone: Phone) -> dict[str, Any] | None:
    return phone.device.get("settings", "one")


def test_the_same_id_is_not_the_same_object_unless_the_app_says_so(documents: Server) -> None:
    phone, tablet = Phone(documents, "guest"), Phone(documents, "anna")
    for device in (phone, tablet):
        device.device.create("settings", {"id": "one", "theme": device.owner, "of": device.owner})
        device.create(f"{device.owner}'s", "a task")
        device.sync()
    phone.device.update("settings", "one", {"size": 12})
    phone.sync()
    logs = [documents.log(owner) for owner in ("guest", "anna")]
    with pytest.raises(SameIdError, match="both owners have 'settings' 'one': same=") as refused:
        documents.mobync.move_owner("guest", "anna", same=["tasks"])
    assert refused.value.objects == [("settings", "one")]
    assert [documents.log(owner) for owner in ("guest", "anna")] == logs
    phone.device.update("settings", "one", {"theme": "dark"})

    moved = documents.mobync.move_owner("guest", "anna", same=["settings"])

    assert moved.same == 1
    assert moved.rows == {"tasks": 1}
    merged = {"id": "one", "theme": "anna", "of": "anna", "size": 12}
    tablet.sync()
    assert settings_of(tablet) == merged
    phone.sign_in("anna")
    phone.sync()
    tablet.sync()
    assert settings_of(phone) == settings_of(tablet) == {**merged, "theme": "dark"}
    kept = documents.mobync.synchronizer
    assert [d.id for d in kept.documents("anna", "settings")] == ["one"]
    assert list(kept.documents("guest")) == []


def test_fields_of_the_same_object_are_compared_by_their_own_times(documents: Server) -> None:
    """Also where compaction has folded them into one create."""
    phone, tablet = Phone(documents, "guest"), Phone(documents, "anna")
    phone.device.create("settings", {"id": "one", "early": "guest", "late": "?"})
    phone.sync()
    tablet.device.create("settings", {"id": "one", "early": "anna", "late": "anna"})
    tablet.sync()
    phone.device.update("settings", "one", {"late": "guest"})
    phone.sync()
    phone.sync()
    documents.mobync.compact("guest")
    assert len(documents.log("guest")) == 1
    documents.mobync.move_owner("guest", "anna", same=["settings"])
    tablet.sync()
    assert settings_of(tablet) == {"id": "one", "early": "anna", "late": "guest"}


def test_times_of_fields_go_along(documents: Server) -> None:
    phone, other = Phone(documents, "guest"), Phone(documents, "guest")
    phone.device.create("notes", {"id": "n", "a": 1, "b": 1})
    phone.sync()
    other.sync()
    early = documents.tick()
    documents.now_ms += 100_000
    phone.device.update("notes", "n", {"b": 2})
    phone.sync()
    for device in (phone, other):
        device.sync().sync()
    documents.mobync.compact("guest")
    (folded,) = documents.log("guest")
    documents.mobync.move_owner("guest", "anna")
    (row,) = documents.log("anna")
    assert {**row, "owner": "guest", "logical_clock": 0} == {**folded, "logical_clock": 0}
    documents.now_ms = early
    other.device.update("notes", "n", {"a": 3, "b": 3})
    other.sign_in("anna")
    other.sync()
    assert other.device.get("notes", "n") == {"id": "n", "a": 3, "b": 2}


def test_an_object_that_one_owner_had_and_the_other_has(documents: Server) -> None:
    phone, tablet = Phone(documents, "guest"), Phone(documents, "anna")
    for device, gone, there in ((phone, "x", "y"), (tablet, "y", "x")):
        for id_ in "xy":
            device.create(id_, f"{id_} of {device.owner}")
        device.sync()
        device.delete(gone)
        device.sync()
        assert device.tasks() == {there: f"{there} of {device.owner}"}
    documents.mobync.move_owner("guest", "anna")
    everything = {"x": "x of anna", "y": "y of guest"}
    assert tablet.sync().tasks() == everything
    phone.sign_in("anna")
    assert phone.sync().tasks() == everything
    assert rows_of(documents, "anna") == everything


def test_a_diff_that_a_device_sent_to_both_owners_is_one(documents: Server) -> None:
    mobync = documents.mobync
    sent = diff("create", id="a", name="A")
    change = diff("update", id="a", name="B")
    mobync.apply(0, [sent], "guest")
    mobync.apply(0, [sent], "anna")
    mobync.apply(1, [change], "guest")
    moved = mobync.move_owner("guest", "anna")
    assert (moved.same, moved.diffs) == (1, 1)
    assert rows_of(documents, "anna") == {"a": "B"}
    assert [row["id"] for row in documents.log("anna")] == [sent["id"], change["id"]]


def test_an_id_of_a_diff_that_both_logs_have_becomes_another(documents: Server) -> None:
    mobync = documents.mobync
    mobync.apply(0, [{**diff("create", id="a", name="A"), "id": "one"}], "guest")
    mobync.apply(0, [{**diff("create", id="b", name="B"), "id": "one"}], "anna")
    mobync.move_owner("guest", "anna")
    ids = [row["id"] for row in documents.log("anna")]
    assert len(set(ids)) == 2
    assert rows_of(documents, "anna") == {"a": "A", "b": "B"}


# ---- tables -------------------------------------------------------------------------------------


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with open_database(request.param, tmp_path) as made:
        yield made


def lists_and_tasks(metadata: MetaData, **options: Any) -> dict[str, Table]:
    """Tables whose keys have the owner in them."""
    lists = Table(
        "lists",
        metadata,
        Column("id", String(40), primary_key=True),
        Column("owner", String(40), primary_key=True),
        Column("name", String(40)),
        UniqueConstraint("owner", "name", name="one_name"),
    )
    tasks = Table(
        "tasks",
        metadata,
        Column("id", String(40), primary_key=True),
        Column("owner", String(40), primary_key=True),
        Column("list_id", String(40)),
        ForeignKeyConstraint(["list_id", "owner"], ["lists.id", "lists.owner"], **options),
    )
    return {"lists": lists, "tasks": tasks}


def server_of_lists(database: Database) -> Mobync:
    metadata = MetaData()
    deferred = {"deferrable": True} if database.kind == "postgresql" else {}
    cascade = {"onupdate": "CASCADE"} if database.kind == "mariadb" else {}
    models = lists_and_tasks(metadata, **deferred, **cascade)
    store = SQLAlchemySynchronizer(database.engine, models)
    create_tables(database.engine, metadata)
    return Mobync(store)


def rows(mobync: Mobync, owner: str, model: str) -> list[dict[str, Any]]:
    return sorted(mobync.synchronizer.owned_rows(owner, model), key=lambda row: str(row["id"]))


def test_rows_that_refer_to_each_other_by_their_owner(database: Database) -> None:
    mobync = server_of_lists(database)
    for owner in ("guest", "anna"):
        inbox = {"id": "inbox", "name": f"of {owner}"}
        edits = [("create", "lists", inbox), ("create", "tasks", {"id": owner, "list_id": "inbox"})]
        mobync.push(owner, edits)
    mobync.push("guest", [("create", "lists", {"id": "other", "name": "other"})])
    moved = mobync.move_owner("guest", "anna", same=["lists"])
    assert moved.same == 1
    assert moved.rows["lists"] == 1
    assert [row["id"] for row in rows(mobync, "anna", "lists")] == ["inbox", "other"]
    assert [row["id"] for row in rows(mobync, "anna", "tasks")] == ["anna", "guest"]
    assert rows(mobync, "guest", "lists") == rows(mobync, "guest", "tasks") == []
    assert mobync.reconcile("anna", dry_run=True).ok
    assert mobync.reconcile("guest", dry_run=True).ok


def test_what_the_database_does_not_allow_moves_nothing(database: Database) -> None:
    mobync = server_of_lists(database)
    for owner in ("guest", "anna"):
        mobync.push(owner, [("create", "lists", {"id": f"{owner}'s", "name": "Inbox"})])
    with pytest.raises(InvalidDiffError, match="a row of 'lists' cannot be the new owner's: "):
        mobync.move_owner("guest", "anna")
    assert [row["id"] for row in rows(mobync, "guest", "lists")] == ["guest's"]
    for owner in ("guest", "anna"):
        assert mobync.reconcile(owner, dry_run=True).ok


def test_a_row_that_was_made_by_sql_goes_along(database: Database) -> None:
    metadata = MetaData()
    store = SQLAlchemySynchronizer(database.engine, {"tasks": task_table(metadata)}, capture=True)
    create_tables(database.engine, metadata)
    create_triggers(database.engine, store)
    mobync = Mobync(store)
    mobync.push("guest", [("create", "tasks", {"id": "a", "name": "A"})])
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE tasks SET name = 'by SQL' WHERE id = 'a'"))
        insert = "INSERT INTO tasks (id, owner, name) VALUES ('b', 'guest', 'B')"
        connection.execute(text(insert))
    mobync.move_owner("guest", "anna")
    found = {d["type"] + json.loads(d["json_data"])["id"] for d in pulled(mobync, "anna")}
    assert found == {"createa", "updatea", "createb"}
    assert mobync.reconcile("anna", dry_run=True).ok
    with database.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM diffs_notes")) == 0


def pulled(mobync: Mobync, owner: str) -> list[Any]:
    found: list[Any] = mobync.apply(0, [], owner)["diffs"]
    return found


def peak_of_a_move(mobync: Mobync, length: int) -> int:
    """The most memory that a move takes, of an object with a history of some length."""
    guest, anna = f"guest{length}", f"anna{length}"
    for owner in (guest, anna):
        clock = mobync.push(owner, [("create", "tasks", {"id": owner})])
        with mobync.synchronizer.transaction(owner) as inside:
            for n in range(clock, clock + length):
                said = json.dumps({"id": owner, "name": f"{n:200}"})
                row = f"{owner}{n}", owner, n, 1_000 + n, "update", "tasks", said
                inside.append_log("diffs", [row])
    gc.collect()
    tracemalloc.start()
    try:
        assert mobync.move_owner(guest, anna).diffs == length + 1
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_logs(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DocumentSynchronizer(database.engine)
    create_tables(database.engine, store.metadata)
    mobync = Mobync(store)
    monkeypatch.setattr(moving, "PIECE_CLOCKS", 200)
    monkeypatch.setattr(moving, "PIECE_ROWS", 100)
    peak_of_a_move(mobync, 100)  # what is cached is cached then
    few, many = peak_of_a_move(mobync, 400), peak_of_a_move(mobync, 4_000)
    assert many < few + 500_000


def test_many_objects_that_both_have_are_merged_in_pieces(
    documents: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "MERGED_OBJECTS", 2)
    monkeypatch.setattr(moving, "PIECE_CLOCKS", 3)
    monkeypatch.setattr(moving, "PIECE_ROWS", 2)
    mobync = documents.mobync
    ids = [f"t{n}" for n in range(7)]
    for owner, fields in (("guest", {"a": 1}), ("anna", {"b": 2})):
        mobync.push(owner, [("create", "tasks", {"id": id_, **fields}) for id_ in ids])
        mobync.push(owner, [("create", "tasks", {"id": owner})])
    moved = mobync.move_owner("guest", "anna", same=["tasks"])
    assert (moved.same, moved.rows) == (7, {"tasks": 1})
    together = {id_: {"id": id_, "a": 1, "b": 2} for id_ in ids}
    device = Phone(documents, "anna").sync().device
    assert {row["id"]: row for row in device.rows("tasks")} == {
        **together,
        "guest": {"id": "guest"},
        "anna": {"id": "anna"},
    }
    assert mobync.reconcile("anna", dry_run=True).ok
    assert documents.log("guest") == []


def test_in_the_session_of_the_app(database: Database) -> None:
    metadata = MetaData()
    tasks = task_table(metadata)
    with Session(database.engine) as session:
        mobync = Mobync(SQLAlchemySynchronizer(session, {"tasks": tasks}))
        create_tables(database.engine, metadata)
        mobync.push("guest", [("create", "tasks", {"id": "a", "name": "A"})])
        assert mobync.move_owner("guest", "anna").rows == {"tasks": 1}
        assert [row["id"] for row in rows(mobync, "anna", "tasks")] == ["a"]


MOVER = """
import sys
from sqlalchemy import create_engine
from mobync import Mobync
from mobync.sqlalchemy import DocumentSynchronizer

class Strict(DocumentSynchronizer):
    def is_transient(self, error):
        return False

url, old, new = sys.argv[1:]
mobync = Mobync(Strict(create_engine(url), lock_timeout_s=60), lock_timeout_s=60)
for turn in range(15):
    mobync.move_owner(old, new)
"""


def test_two_processes_that_move_against_each_other(database: Database) -> None:
    store = DocumentSynchronizer(database.engine)
    create_tables(database.engine, store.metadata)
    mobync = Mobync(store)
    for owner in "ab":
        edits = [("create", "tasks", {"id": f"{owner}{n}", "name": owner}) for n in range(20)]
        mobync.push(owner, edits)
    url = database.url.render_as_string(hide_password=False)
    movers = [
        subprocess.Popen([sys.executable, "-c", MOVER, url, *way], stderr=subprocess.PIPE)
        for way in ("ab", "ba")
    ]
    with ExitStack() as ended:
        for mover in movers:
            ended.callback(mover.kill)
        said = [mover.communicate(timeout=300)[1].decode() for mover in movers]
    assert [mover.returncode for mover in movers] == [0, 0], said
    found = {owner: {d.id for d in store.documents(owner)} for owner in "ab"}
    assert sorted(map(len, found.values())) == [0, 40]
    for owner in "ab":
        assert mobync.reconcile(owner, dry_run=True).ok
        assert len(pulled(mobync, owner)) == len(found[owner])


# ---- asyncio ------------------------------------------------------------------------------------


def test_it_is_awaited(opened: async_databases.Opened) -> None:
    async def story() -> None:
        engine = opened.new_engine()
        try:
            store = AsyncDocumentSynchronizer(engine)
            await create_tables_async(engine, store.metadata)
            mobync = Mobync(store)
            for owner in ("guest", "anna"):
                await mobync.push_async(owner, [("create", "tasks", {"id": owner})])
            moved = await mobync.move_owner_async("guest", "anna")
            assert (moved.rows, moved.diffs) == ({"tasks": 1}, 1)
            reply = await mobync.apply_async(0, [], "anna")
            ids = [json.loads(d["json_data"])["id"] for d in reply["diffs"]]
            assert ids == ["anna", "guest"]
        finally:
            await engine.dispose()

    asyncio.run(story())


# ---- what is wrong ------------------------------------------------------------------------------


class KeepsNone(MemorySynchronizer):
    read_devices = Synchronizer.read_devices  # type: ignore[assignment]


class HoldsOne(MemorySynchronizer):
    moving = Synchronizer.moving  # type: ignore[assignment]


class OwnTransaction(DocumentSynchronizer):
    @contextmanager
    def transaction(self, owner_id: str) -> Iterator[Any]:
        with super().transaction(owner_id) as inside:
            yield inside


@pytest.mark.parametrize(
    ("store", "complaint"),
    [(KeepsNone, "KeepsNone does not store devices"), (HoldsOne, "HoldsOne does not offer moving")],
)
def test_a_store_that_cannot_says_so(
    store: Callable[[], MemorySynchronizer], complaint: str
) -> None:
    with pytest.raises(NotImplementedError, match=complaint):
        Mobync(store()).move_owner("a", "b")


def test_a_store_with_a_transaction_of_its_own_says_so(tmp_path: Path) -> None:
    complaint = "OwnTransaction does not offer moving.*overrides moving, too"
    with (
        open_database("sqlite", tmp_path) as database,
        pytest.raises(NotImplementedError, match=complaint),
    ):
        Mobync(OwnTransaction(database.engine)).move_owner("a", "b")


def test_arguments_that_cannot_be(memory: Server) -> None:
    move: Any = memory.mobync.move_owner
    with pytest.raises(ValueError, match="old and new are the same owner, 'a'"):
        move("a", "a")
    with pytest.raises(ValueError, match="new must be text that is not empty"):
        move("a", "")
    with pytest.raises(TypeError, match="same must be a list of names"):
        move("a", "b", same="settings")


def test_those_who_listen_are_told(memory: Server) -> None:
    told: list[Any] = []
    memory.mobync.push("guest", [("create", "tasks", {"id": "a"})])
    memory.mobync.listen(told.append)
    memory.mobync.move_owner("guest", "anna")
    (report,) = told
    assert (report.owner_id, report.accepted) == ("anna", 1)
    assert report.logical_clock == memory.mobync.logical_clock("anna")


def invoices_of(database: Database, **options: Any) -> Mobync:
    metadata = MetaData()
    diffs_table(metadata)
    models = {"invoices": invoice_table(metadata)}
    create_tables(database.engine, metadata)
    with database.engine.begin() as connection:
        create_invoice_triggers(connection, database.kind)
    return Mobync(SQLAlchemySynchronizer(database.engine, models, **options))


def test_what_a_trigger_changes_of_a_row_that_is_given(database: Database) -> None:
    mobync = invoices_of(database, server_columns=SERVER_COLUMNS, read_back=["invoices"])
    mobync.push("guest", [("create", "invoices", {"id": "i", "net": 100})])
    mobync.move_owner("guest", "anna")
    (row,) = rows(mobync, "anna", "invoices")
    assert row == made("i", version=2)
    assert mobync.reconcile("anna", dry_run=True).ok
    assert mobync.reconcile("guest", dry_run=True).ok


def computed_table(metadata: MetaData) -> Table:
    """Settings, of which each owner has one with the same id."""
    return Table(
        "settings",
        metadata,
        Column("owner", String(40), primary_key=True),
        Column("id", String(40), primary_key=True),
        Column("net", Integer),
        Column("version", Integer, server_default="1"),
        Column("gross", Integer, Computed("net + 20", persisted=True)),
    )


def test_what_the_database_computes_of_objects_that_are_one(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = MetaData()
    diffs_table(metadata)
    models = {"settings": computed_table(metadata)}
    create_tables(database.engine, metadata)
    server_columns = {"settings": ["version"]}
    mobync = Mobync(SQLAlchemySynchronizer(database.engine, models, server_columns=server_columns))
    times_ms = iter((1_000, 2_000))
    monkeypatch.setattr(mobync, "_now_ms", lambda: next(times_ms, 3_000))
    mobync.push("anna", [("create", "settings", {"id": "one", "net": 1})])
    mobync.push("guest", [("create", "settings", {"id": "one", "net": 5, "version": 3})])
    moved = mobync.move_owner("guest", "anna", same=["settings"])
    assert moved.same == 1
    row = {"id": "one", "net": 5, "version": 3, "gross": 25}
    assert rows(mobync, "anna", "settings") == [row]
    assert mobync.reconcile("anna", dry_run=True).ok
    assert mobync.reconcile("guest", dry_run=True).ok
