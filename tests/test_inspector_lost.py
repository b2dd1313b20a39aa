"""Edits that lost: the server keeps them, and nothing that was written is among them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import databases
import pytest
from databases import Database
from server_process import diff, mobync, serving

from mobync.server import objects
from mobync.server.lost import KEPT, LostEdit, LostEdits
from mobync.server.metrics import MeasuredMobync, Metrics
from mobync.server.objects import COUNTED, PAGE, Objects
from mobync.sqlalchemy import DocumentSynchronizer

database = databases.database

T0 = 1_790_000_000_000


class Server:
    """What `mobync serve` makes of a database."""

    def __init__(self, database: Database) -> None:
        self.store = DocumentSynchronizer(database.engine)
        self.store.metadata.create_all(database.engine)
        self.lost = LostEdits(database.engine, self.store.metadata.tables["diffs"])
        self.lost.make()
        self.mobync = MeasuredMobync(self.store, Metrics(), self.lost)
        self.objects = Objects(database.engine, self.store.documents_table)
        self.edits = 0

    def edit(self, kind: str, ms: int, **row: Any) -> dict[str, Any]:
        self.edits += 1
        return {**diff(self.edits, kind, **row), "utc_timestamp": T0 + ms}

    def sync(self, clock: int, *edits: dict[str, Any], **named: Any) -> dict[str, Any]:
        body = json.dumps({"logical_clock": clock, "diffs": edits, **named})
        reply: dict[str, Any] = json.loads(self.mobync.apply_json(body, "anna"))
        return reply

    def lost_by(self) -> list[tuple[str, str, list[list[Any]]]]:
        return [(e["type"], e["why"], e["fields"]) for e in self.lost.newest("anna")]


@pytest.fixture
def server(database: Database) -> Server:
    made = Server(database)
    made.sync(0, made.edit("create", 0, id="t", name="milk", done=False))
    return made


def test_the_fields_that_lost_are_kept_with_what_won(server: Server) -> None:
    tablet = server.sync(0, device="tablet", request=1, mark=None)
    server.sync(1, server.edit("update", 9000, id="t", name="oat milk"))
    late = server.edit("update", 5000, id="t", name="soy milk", done=True)
    server.sync(1, late, device="tablet", request=1, mark=tablet["mark"])
    (kept,) = server.lost.newest("anna", "tasks", "t")
    assert kept["fields"] == [["name", '"soy milk"', '"oat milk"']]
    assert (kept["why"], kept["device"], kept["id"]) == ("later", "tablet", late["id"])
    assert (kept["utc_timestamp"], kept["winner"]) == (T0 + 5000, T0 + 9000)
    assert (kept["seen"], kept["clock"]) == (1, 3)
    assert server.lost.newest("anna", "tasks", "u") == server.lost.newest("bob") == []


def test_an_edit_that_won_is_not_kept_however_often_it_is_sent(server: Server) -> None:
    """A retry meets what another device has written since; its own edit had been written."""
    mine = server.edit("update", 1000, id="t", name="oat milk")
    new = [server.edit("create", 0, id="u", name="a"), server.edit("update", 1, id="u", name="b")]
    server.sync(1, mine, *new)
    server.sync(3, server.edit("update", 2000, id="t", name="rice milk"))
    server.sync(3, server.edit("update", 2000, id="u", name="c"))
    server.sync(1, mine, *new)
    assert server.lost_by() == []


def test_an_edit_of_what_was_deleted_and_one_that_a_rule_refuses_are_kept(server: Server) -> None:
    server.sync(1, server.edit("delete", 1000, id="t"))
    server.sync(1, server.edit("update", 9000, id="t", name="oat milk"))
    assert server.lost_by() == [("update", "deleted", [["name", '"oat milk"', None]])]
    server.sync(2, server.edit("create", 9500, id="t" * 300, name="too long"))
    assert len(server.lost_by()) == 1  # nor is what no table could keep
    server.sync(2, server.edit("create", 9500, id="v", name="a"))
    server.sync(3, server.edit("create", 9600, id="v", name="b"))
    assert server.lost_by()[0][1] in ("invalid", "unauthorized")


HOSTILE = [
    {"id": ["x"]},
    {"id": None},
    {"id": "i\0"},
    {"model": 7},
    {"model": "m\0"},
    {"model": "\ud800"},
    {"model": "m" * 9000},
    {"json_data": {"id": "t"}},
    {"json_data": '{"id": "\\u0000"}'},
    {"json_data": "[" * 3000},
    {"type": {}},
    {"utc_timestamp": "now"},
    {"utc_timestamp": -1},
    {"utc_timestamp": 10**4000},
    {"owner": [[[[]]]]},
]


@pytest.mark.parametrize("wrong", HOSTILE, ids=lambda wrong: str(wrong)[:30])
def test_no_refused_diff_spoils_a_sync_or_what_else_is_kept(
    server: Server, wrong: dict[str, Any]
) -> None:
    server.sync(1, server.edit("update", 9000, id="t", name="oat milk"))
    good = server.edit("update", 5000, id="t", name="soy milk")
    reply = server.sync(1, {**server.edit("update", 1, id="z", done=True), **wrong}, good)
    assert reply["logical_clock"] == 2
    assert len(reply["refused"]) <= 1
    assert [["name", '"soy milk"', '"oat milk"']] in [fields for _, _, fields in server.lost_by()]


def test_a_table_that_is_gone_fails_no_sync(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.lost.table.drop(server.lost._engine)
    server.sync(1, server.edit("update", 9000, id="t", name="oat milk"))
    late = server.edit("update", 5000, id="t", name="soy milk")
    assert server.sync(1, late)["logical_clock"] == 2
    assert "lost edits are not stored" in caplog.text


def test_nothing_is_kept_of_an_owner_who_was_erased_meanwhile(server: Server) -> None:
    server.sync(0, server.edit("create", 1, id="t", name="milk"))
    lost = [LostEdit("d", "tasks", "t", "update", 1, 1, None, "later", 1, [("name", "1", "2")])]
    server.mobync.push("bob", [("create", "tasks", {"id": "of bob"})])
    server.mobync.erase("anna")
    server.lost.erase("anna")
    server.lost.keep("anna", lost)  # of a sync that was before the erasing
    assert server.lost.newest("anna") == []


def test_nothing_is_kept_of_an_owner_who_is_erased_while_it_is_written(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.sync(0, server.edit("create", 1, id="t", name="milk"))
    drop_oldest = server.lost._drop_oldest
    head = server.store.metadata.tables["diffs_heads"]

    def erased_before_the_commit(connection: Any, owner_id: str) -> None:
        drop_oldest(connection, owner_id)
        connection.execute(head.delete().where(head.c.owner == owner_id))

    monkeypatch.setattr(server.lost, "_drop_oldest", erased_before_the_commit)
    lost = [LostEdit("d", "tasks", "t", "update", 1, 1, None, "later", 1, [("name", "1", "2")])]
    server.lost.keep("anna", lost)
    assert server.lost.newest("anna") == []


def test_only_the_newest_are_kept(server: Server) -> None:
    edits = [
        LostEdit(f"d{n}", "tasks", "t", "update", n, n, None, "later", n, [("a", "1", "2")])
        for n in range(KEPT + 150)
    ]
    for first in range(0, len(edits), 150):
        server.lost.keep("anna", edits[first : first + 150])
    newest = server.lost.newest("anna")
    assert newest[0]["id"] == f"d{KEPT + 149}"
    with server.lost._engine.connect() as connection:
        kept = connection.execute(server.lost.table.select()).all()
    assert len(kept) == KEPT
    server.lost.erase("anna")
    assert server.lost.newest("anna") == []


def test_the_objects_of_an_owner_come_model_by_model_and_page_by_page(server: Server) -> None:
    many = [server.edit("create", 1, id=f"u{n:04}", name="x") for n in range(COUNTED + 5)]
    server.sync(1, *many)
    server.sync(0, {**server.edit("create", 1, id="n1", text="hello"), "model": "notes"})
    assert server.objects.models("anna") == [
        {"model": "notes", "objects": 1, "more": False},
        {"model": "tasks", "objects": COUNTED, "more": True},
    ]
    first = server.objects.page("anna", "tasks", None)
    assert first["objects"][0] == {
        "object": "t",
        "fields": [["name", '"milk"'], ["done", "false"]],
        "more_fields": 0,
    }
    after, seen = None, 0
    while True:
        page = server.objects.page("anna", "tasks", after)
        seen += len(page["objects"])
        assert len(page["objects"]) <= PAGE
        if (after := page["next"]) is None:
            break
    assert seen == COUNTED + 6
    assert server.objects.models("bob") == []


def found(server: Server, text: str) -> list[str]:
    """The ids of all tasks with a text in them, of as many pages as that takes."""
    ids: list[str] = []
    after, last = None, False
    while not last:
        page = server.objects.page("anna", "tasks", after, text)
        ids += [each["object"] for each in page["objects"]]
        after, last = page["next"], page["next"] is None
    return ids


def test_objects_are_found_by_id_field_and_value_however_they_are_written(server: Server) -> None:
    server.sync(
        1,
        server.edit("create", 1, id="UPPER", name="Straße"),
        server.edit("create", 1, id="k", **{"Fänger": 12.5}),
        server.edit("create", 1, id="l", name='a "quoted" text', tags=["deep"]),
        server.edit("create", 1, id="%", name="100_"),
    )
    cases = {
        "upper": ["UPPER"],
        "STRASSE": ["UPPER"],
        "fÄNG": ["k"],
        "12.5": ["k"],
        'a "quoted"': ["l"],
        "deep": ["l"],
        "%": ["%"],
        "0_": ["%"],
        '":': [],
        "milk": ["t"],
        "none of them": [],
    }
    for text, ids in cases.items():
        assert found(server, text) == ids, text
    assert sorted(found(server, "")) == sorted(["t", "UPPER", "k", "l", "%"])


def test_a_search_looks_through_as_much_as_a_page_may_and_goes_on(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.sync(1, *[server.edit("create", 1, id=f"u{n:03}", name=f"x{n}") for n in range(40)])
    monkeypatch.setattr(objects, "STEP_ROWS", 10)
    monkeypatch.setattr(objects, "SECONDS", 0.0)
    first = server.objects.page("anna", "tasks", None, "x35")
    assert (first["objects"], first["next"] is None) == ([], False)
    assert found(server, "x35") == ["u035"]
    monkeypatch.setattr(objects, "STEP_BYTES", 1)  # one at a time, however large
    assert found(server, "x3") == ["u003", *(f"u{n:03}" for n in range(30, 40))]


def test_the_command_erase_takes_them_too(tmp_path: Path) -> None:
    with serving(tmp_path, "--inspector", "token") as served:
        token = mobync(tmp_path, "token", "anna").stdout.strip()
        admin = mobync(tmp_path, "token", "--admin").stdout.strip()
        served.sync(token, 0, diff(0, "create", id="t", name="milk"))
        served.sync(token, 1, diff(9, "update", id="t", name="oat milk"))
        served.sync(token, 1, diff(5, "update", id="t", name="soy milk"))

        def lost() -> list[dict[str, Any]]:
            answer = served.get("/inspect/api/lost?owner=anna", admin)
            found: list[dict[str, Any]] = answer.json()["lost"]
            return found

        assert [edit["fields"][0][1] for edit in lost()] == ['"soy milk"']
        assert lost()[0]["clock"] == 2
        assert mobync(tmp_path, "move-owner", "anna", "bob").returncode == 0
        assert lost() == []
        assert mobync(tmp_path, "move-owner", "bob", "anna").returncode == 0
        assert [(edit["seen"], edit["clock"]) for edit in lost()] == [(None, None)]
        assert [edit["fields"][0][1] for edit in lost()] == ['"soy milk"']
        assert mobync(tmp_path, "erase", "anna", "--yes").returncode == 0
        assert lost() == []
