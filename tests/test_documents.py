"""DocumentSynchronizer: any model's objects, kept to the letter, on every database."""

from __future__ import annotations

import json
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import databases
import pytest
from databases import Database
from small_device import SmallDevice
from sqlalchemy import MetaData, inspect
from sqlalchemy.orm import Session

from mobync import BusyError, FilterType, InvalidDiffError, Mobync, ReadFilter
from mobync.memory import MemorySynchronizer
from mobync.server.replay import check
from mobync.sqlalchemy import (
    Document,
    DocumentSynchronizer,
    SQLAlchemySynchronizer,
    compact_all,
    diffs_table,
    documents_table,
)

database = databases.database


class Documents:
    """An empty database with a DocumentSynchronizer, and a device of each owner."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.store = DocumentSynchronizer(database.engine)
        self.store.metadata.create_all(database.engine)
        self.mobync = Mobync(self.store)
        self._clocks: dict[str, int] = {}
        self._sent = 0

    def sync(self, owner: str, *edits: tuple[str, str, str]) -> None:
        """Sync edits (type, model, text), made in this order, as a device that is up to date."""
        diffs = [self.diff(*edit) for edit in edits]
        reply = self.mobync.apply(self._clocks.get(owner, 0), diffs, owner)
        self._clocks[owner] = reply["logical_clock"]

    def diff(self, kind: str, model: str, text: str) -> dict[str, Any]:
        self._sent += 1
        return {
            "id": f"d{self._sent}",
            "owner": "me",
            "logical_clock": 0,
            "utc_timestamp": self._sent,
            "type": kind,
            "model": model,
            "json_data": text,
        }

    def texts(self, owner: str) -> dict[tuple[str, str], str]:
        return {(d.model, d.id): d.text for d in self.store.documents(owner)}


@pytest.fixture
def documents(database: Database) -> Documents:
    return Documents(database)


@pytest.fixture
def on_sqlite(tmp_path: Path):
    with databases.open_database("sqlite", tmp_path) as database:
        yield Documents(database)


def of(owner: str, *more: ReadFilter) -> list[ReadFilter]:
    return [ReadFilter("owner", FilterType.equal, owner), *more]


# ---- what is kept -------------------------------------------------------------------------------


def test_an_update_merges_top_level_fields_and_keeps_every_text_to_the_letter(documents):
    documents.sync(
        "anna",
        (
            "create",
            "tasks",
            '{"id": "t", "price": 0.1000, "big": 12345678901234567890, "tags": [1.0, {"a":1e400}]}',
        ),
    )
    documents.sync("anna", ("update", "tasks", '{"id": "t", "name": "\\u006dilk"}'))
    documents.sync("anna", ("update", "tasks", '{"id": "t", "price": 1.50, "tags": null}'))
    assert documents.texts("anna") == {
        ("tasks", "t"): '{"id":"t","price":1.50,"big":12345678901234567890,"tags":null,'
        '"name":"\\u006dilk"}'
    }


def test_a_number_too_long_for_python_and_a_value_nested_to_the_limit_are_kept(documents):
    digits, nested = "9" * 5000, "[" * 999 + "]" * 999
    documents.sync("anna", ("create", "tasks", f'{{"id":"t","n":{digits},"deep":{nested}}}'))
    documents.sync("anna", ("update", "tasks", '{"id":"t","done":true}'))
    assert documents.texts("anna")["tasks", "t"] == (
        f'{{"id":"t","n":{digits},"deep":{nested},"done":true}}'
    )


def test_several_updates_of_one_object_in_one_sync_all_count(documents):
    documents.sync("anna", ("create", "tasks", '{"id":"t","a":1,"b":1}'))
    with documents.store.transaction("anna") as inside:
        inside.update_many(
            "tasks", ['{"id":"t","a":2}', '{"id":"x","a":9}', '{"id":"t","a":3,"c":4}']
        )
    assert documents.texts("anna") == {("tasks", "t"): '{"id":"t","a":3,"b":1,"c":4}'}


def test_an_update_and_a_delete_of_what_is_not_there_do_nothing(documents):
    documents.sync("anna", ("update", "tasks", '{"id":"t","a":2}'))
    documents.sync("anna", ("delete", "tasks", '{"id":"u"}'))
    assert documents.texts("anna") == {}


def test_a_batch_larger_than_a_statement_reaches_every_document(documents):
    ids = [f"t{number:04}" for number in range(1203)]
    documents.sync("anna", *(("create", "tasks", f'{{"id":"{id_}"}}') for id_ in ids))
    documents.sync("anna", *(("update", "tasks", f'{{"id":"{id_}","n":1}}') for id_ in ids))
    assert documents.texts("anna") == {("tasks", id_): f'{{"id":"{id_}","n":1}}' for id_ in ids}
    documents.sync("anna", *(("delete", "tasks", f'{{"id":"{id_}"}}') for id_ in ids[1:]))
    assert list(documents.texts("anna")) == [("tasks", "t0000")]


def test_updates_of_an_object_all_count_in_their_order_however_far_apart(documents):
    ids = [f"n{i}" for i in range(1200)]
    documents.sync("bob", *[("create", "notes", json.dumps({"id": id_, "a": 0})) for id_ in ids])
    rounds = [{"a": 1, "b": 1}, {"b": 2}, {"a": 3}]
    updates = [json.dumps({"id": id_, **edit}) for edit in rounds for id_ in [*ids, "nobody"]]
    with documents.store.transaction("bob") as inside:
        inside.update_many("notes", updates)

    kept = {id_: json.loads(text) for (_, id_), text in documents.texts("bob").items()}
    assert kept == {id_: {"id": id_, "a": 3, "b": 2} for id_ in ids}


def test_owners_models_and_ids_that_look_alike_are_kept_apart(documents):
    same = '{"id":"a","from":"%s"}'
    for owner in ("bob", "Bob", "böb"):
        for model in ("tasks", "Tasks", "tasks%"):
            documents.sync(owner, ("create", model, same % (owner + model)))
    documents.sync("bob", ("create", "tasks", '{"id":"A"}'))
    documents.sync("bob", ("delete", "Tasks", '{"id":"a"}'))
    documents.sync("Bob", ("update", "tasks", '{"id":"a","from":"x"}'))
    assert documents.texts("bob") == {
        ("tasks", "a"): same % "bobtasks",
        ("tasks", "A"): '{"id":"A"}',
        ("tasks%", "a"): same % "bobtasks%",
    }
    assert documents.texts("Bob")["tasks", "a"] == '{"id":"a","from":"x"}'
    assert documents.texts("böb")["tasks", "a"] == same % "böbtasks"


def test_an_id_counts_by_what_it_says_not_by_how_it_is_spelled(documents):
    documents.sync("anna", ("create", "tasks", '{"id":"caf\\u00e9 \\ud83d\\ude00"}'))
    documents.sync("anna", ("update", "tasks", '{"id":"café 😀","n":1}'))
    ((key, text),) = documents.texts("anna").items()
    assert key == ("tasks", "café 😀")
    assert json.loads(text) == {"id": "café 😀", "n": 1}


def test_a_document_of_several_megabytes_is_kept(documents):
    long = "x" * 3_000_000
    documents.sync("anna", ("create", "notes", f'{{"id":"n","text":"{long}"}}'))
    documents.sync("anna", ("update", "notes", '{"id":"n","read":true}'))
    assert documents.texts("anna") == {("notes", "n"): f'{{"id":"n","text":"{long}","read":true}}'}


@pytest.mark.parametrize("seed", range(20))
def test_whatever_devices_do_log_table_and_devices_agree(seed, on_sqlite):
    chance = random.Random(seed)
    link = Direct(on_sqlite.mobync)
    devices = [SmallDevice(link, f"device {number}") for number in range(3)]
    for step in range(80):
        device = chance.choice(devices)
        kind = chance.choice(["create", "update", "update", "update", "delete"])
        ids = [id_ for id_ in ("a", "b", "c", "d") if (id_ in device.rows) == (kind != "create")]
        if ids:
            fields = (
                chance.sample(["p", "q", "r"], chance.randint(0, 3)) if kind != "delete" else []
            )
            values = {name: chance.choice([1, 1.0, None, "x", [1, 2]]) for name in fields}
            device.edit(kind, {"id": chance.choice(ids), **values}, step + chance.randint(0, 3))
        if chance.random() < 0.4:
            device.sync()
        if chance.random() < 0.05:
            on_sqlite.mobync.compact("anna")
            assert check(on_sqlite.store, "anna").ok
    newcomer = SmallDevice(link, "newcomer")
    for device in (*devices, newcomer, *devices):
        device.sync()
    kept = {id_: json.loads(text) for (_, id_), text in on_sqlite.texts("anna").items()}
    assert [device.rows for device in (*devices, newcomer)] == [kept] * 4
    assert check(on_sqlite.store, "anna").ok


class Direct:
    """A link of devices to a Mobync in this process."""

    def __init__(self, mobync: Mobync) -> None:
        self.mobync = mobync

    def post(self, body: dict[str, Any]) -> Any:
        return self.mobync.apply(body["logical_clock"], body["diffs"], "anna")


# ---- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "id_", "complaint"),
    [
        ("m" * 101, "a", "model is longer than 100 characters"),
        ("tasks", "i" * 256, "json_data: 'id' is longer than 255 characters"),
    ],
)
def test_a_key_that_is_too_long_is_refused_by_name(documents, model, id_, complaint):
    with pytest.raises(InvalidDiffError, match=complaint):
        documents.sync("anna", ("create", model, f'{{"id":"{id_}"}}'))
    assert documents.texts("anna") == {}
    assert documents.store.read("diffs", of("anna")) == []


KEYS_TOO_LONG = [
    ({"model": "m" * 101}, "model is longer than 100 characters"),
    ({"json_data": json.dumps({"id": "i" * 256})}, "json_data: 'id' is longer than 255 characters"),
    ({"id": "d" * 300}, "id is longer than 255 characters"),
]


@pytest.mark.parametrize("kind", ["create", "update", "delete"])
@pytest.mark.parametrize(("members", "complaint"), KEYS_TOO_LONG)
def test_a_rule_refuses_a_key_that_is_too_long_outside_of_a_sync_too(
    members, complaint, kind, on_sqlite
):
    sent = {**on_sqlite.diff(kind, "tasks", '{"id":"a"}'), **members}
    rule = getattr(on_sqlite.store, f"validate_{kind}")
    with pytest.raises(InvalidDiffError) as caught:
        rule("anna", **sent)
    assert caught.value.reason == complaint
    with pytest.raises(InvalidDiffError, match=complaint):
        on_sqlite.mobync.validate(sent, "anna")


@pytest.mark.parametrize(("members", "complaint"), KEYS_TOO_LONG)
def test_a_key_that_is_too_long_is_refused_with_the_diffs_place(members, complaint, on_sqlite):
    good = on_sqlite.diff("create", "tasks", '{"id":"good"}')
    bad = {**on_sqlite.diff("create", "tasks", '{"id":"a"}'), **members}
    with pytest.raises(InvalidDiffError) as caught:
        on_sqlite.mobync.apply(0, [good, bad], "anna")
    assert (caught.value.reason, caught.value.index) == (complaint, 1)
    assert caught.value.diff_id == bad["id"]
    assert on_sqlite.texts("anna") == {}

    reply = Mobync(on_sqlite.store, on_refusal="skip").apply(0, [good, bad], "anna")
    (refused,) = reply["refused"]
    assert (refused["id"], refused["code"]) == (bad["id"], "invalid")
    assert complaint in refused["message"]
    assert set(on_sqlite.texts("anna")) == {("tasks", "good")}


def test_the_longest_keys_of_the_longest_characters_are_kept(documents):
    owner, model = "".join(map(chr, range(0x1F300, 0x1F300 + 255))), "😀" * 100
    id_ = "".join(map(chr, range(0x20000, 0x20000 + 255)))
    documents.sync(owner, ("create", model, json.dumps({"id": id_})))
    assert list(documents.texts(owner)) == [(model, id_)]


def test_a_trailing_space_is_refused_where_the_database_would_not_see_it(documents):
    edits = [("create", "tasks ", '{"id":"a"}'), ("create", "tasks", '{"id":"a "}')]
    for edit in edits:
        if documents.database.kind == "mariadb":
            with pytest.raises(InvalidDiffError, match="ends in a space"):
                documents.sync("anna", edit)
            spaced = {**documents.diff("create", "tasks", '{"id":"b"}'), "id": "d "}
            with pytest.raises(InvalidDiffError, match="id ends in a space"):
                documents.mobync.apply(0, [spaced], "anna")
        else:
            documents.sync("anna", edit, ("create", "tasks", '{"id":"a"}'))
            documents.sync("anna", ("delete", "tasks", '{"id":"a"}'))
    if documents.database.kind != "mariadb":
        assert set(documents.texts("anna")) == {("tasks ", "a"), ("tasks", "a ")}


def test_a_create_of_a_document_that_is_there_is_refused_and_nothing_is_written(documents):
    documents.sync("anna", ("create", "tasks", '{"id":"a","n":1}'))
    with pytest.raises(InvalidDiffError, match="json_data: id cannot be used") as refusal:
        documents.sync(
            "anna", ("create", "tasks", '{"id":"b"}'), ("create", "tasks", '{"id":"a","n":2}')
        )
    assert refusal.value.index == 1
    assert documents.texts("anna") == {("tasks", "a"): '{"id":"a","n":1}'}
    assert len(documents.store.read("diffs", of("anna"))) == 1


def test_an_object_without_an_id_is_refused(on_sqlite):
    with (
        on_sqlite.store.transaction("anna") as inside,
        pytest.raises(InvalidDiffError, match="string 'id'"),
    ):
        inside.create("tasks", '{"id": 7}')


def test_a_rule_of_a_subclass_reads_what_the_sync_sees(on_sqlite):
    class OnlyOpenTasks(DocumentSynchronizer):
        def validate_update(self, owner_id, **diff):
            found = self.read("tasks", [ReadFilter("id", FilterType.equal, "t")])
            return found == [] or not found[0].get("done")

    store = OnlyOpenTasks(on_sqlite.database.engine)
    on_sqlite.mobync = Mobync(store)
    on_sqlite.sync("anna", ("create", "tasks", '{"id":"t"}'))
    on_sqlite.sync("anna", ("update", "tasks", '{"id":"t","done":true}'))
    with pytest.raises(Exception, match="validate_update refused it"):
        on_sqlite.sync("anna", ("update", "tasks", '{"id":"t","done":false}'))


# ---- transactions -------------------------------------------------------------------------------


def test_a_sync_that_fails_late_leaves_no_document(documents):
    class FailingLog(DocumentSynchronizer):
        def append_log(self, where, rows):
            super().append_log(where, rows)
            raise OSError("the disk is full")

    documents.mobync = Mobync(FailingLog(documents.database.engine))
    with pytest.raises(OSError, match="full"):
        documents.sync("anna", ("create", "tasks", '{"id":"t"}'))
    assert documents.texts("anna") == {}
    assert documents.store.highest_logical_clock("anna") == -1


def test_owners_are_locked_as_by_any_sqlalchemy_synchronizer(documents):
    waiting = DocumentSynchronizer(documents.database.new_engine(), lock_timeout_s=0.1)
    with documents.store.transaction("anna"):
        with pytest.raises(BusyError), waiting.transaction("anna"):
            pytest.fail("two at once")
        if documents.database.kind != "sqlite":
            with waiting.transaction("bob"):
                pass


def test_it_shares_an_apps_session(documents):
    with Session(documents.database.engine) as session:
        store = DocumentSynchronizer(session, documents.store.metadata)
        Mobync(store).push("anna", [("create", "tasks", {"id": "t"})])
        Mobync(store).push("anna", [("update", "tasks", {"id": "t", "n": 1})])
        assert [d.id for d in store.documents("anna")] == ["t"]
        with pytest.raises(TypeError, match="needs a synchronizer that was given an Engine"):
            store.snapshot().__enter__()
    assert documents.texts("anna") == {("tasks", "t"): '{"id":"t","n":1}'}


def test_a_snapshot_sees_one_moment_and_keeps_nobody_waiting(documents):
    documents.sync("anna", ("create", "tasks", '{"id":"a"}'))
    with documents.store.snapshot() as then:
        assert then.highest_logical_clock("anna") == 0
        documents.sync("anna", ("delete", "tasks", '{"id":"a"}'), ("create", "x", '{"id":"b"}'))
        assert [d.id for d in then.documents("anna")] == ["a"]
        assert len(then.read("diffs", of("anna"))) == 1
        assert then.highest_logical_clock("anna") == 0
        with pytest.raises(RuntimeError, match="cannot be written"), then.transaction("anna"):
            pytest.fail("written")
    assert [d.id for d in documents.store.documents("anna")] == ["b"]


# ---- reading ------------------------------------------------------------------------------------


def test_read_gives_rows_by_owner_and_id_with_exact_numbers(documents):
    documents.sync("anna", ("create", "tasks", '{"id":"a","n":0.1000}'))
    documents.sync("anna", ("create", "tasks", '{"id":"b"}'))
    documents.sync("bob", ("create", "tasks", '{"id":"a"}'))
    read = documents.store.read
    assert sorted(row["id"] for row in read("tasks", of("anna"))) == ["a", "b"]
    (row,) = read("tasks", of("anna", ReadFilter("id", FilterType.equal, "a")))
    assert row == {"id": "a", "n": Decimal("0.1000")}
    with documents.store.transaction("bob") as inside:
        assert inside.read("tasks") == [{"id": "a"}]
    with pytest.raises(ValueError, match="needs a filter equal on 'owner'"):
        read("tasks", [])
    with pytest.raises(ValueError, match="not by 'n'"):
        read("tasks", of("anna", ReadFilter("n", FilterType.equal, 1)))
    with pytest.raises(ValueError, match="not by 'id'"):
        read("tasks", of("anna", ReadFilter("id", FilterType.major, "a")))


def test_documents_are_read_in_pages_of_one_model_or_all(documents, monkeypatch):
    monkeypatch.setattr("mobync.sqlalchemy._documents.PAGE_ROWS", 2)
    keys = [(model, id_) for model in ("a", "b", "c") for id_ in ("1", "2", "3")]
    documents.sync("anna", *(("create", model, f'{{"id":"{id_}"}}') for model, id_ in keys))
    found = list(documents.store.documents("anna"))
    assert [(d.model, d.id) for d in found] == keys
    assert list(documents.store.documents("anna", "b")) == [
        Document("b", id_, f'{{"id":"{id_}"}}') for id_ in ("1", "2", "3")
    ]


def test_documents_are_adopted_by_their_texts(on_sqlite):
    on_sqlite.sync("anna", ("create", "tasks", '{"id":"a","n":0.1000}'))
    copies = DocumentSynchronizer(on_sqlite.database.engine)
    assert Mobync(copies).adopt("anna", "tasks") == 0
    texts = [document.text for document in copies.documents("anna", "tasks")]
    with on_sqlite.store.transaction("bob") as inside:
        inside.create_many("tasks", [*texts, '{"id":"b"}'])
    assert Mobync(copies).adopt("bob", "tasks", texts) == 1
    assert Mobync(copies).adopt("bob", "tasks") == 1
    assert Mobync(copies).apply(0, [], "bob")["diffs"][0]["json_data"] == '{"id":"a","n":0.1000}'


# ---- tables and owners --------------------------------------------------------------------------


def test_the_tables_are_declared_once_in_the_apps_metadata(database):
    metadata = MetaData()
    diffs, kept = diffs_table(metadata), documents_table(metadata)
    store = DocumentSynchronizer(database.engine, metadata)
    assert store.documents_table is kept
    assert DocumentSynchronizer(database.engine, metadata).metadata.tables["diffs"] is diffs
    metadata.create_all(database.engine)
    made = set(inspect(database.engine).get_table_names())
    assert made == {"diffs", "diffs_heads", "diffs_devices", "diffs_parts", "documents"}


def test_owners_lists_everyone_once_also_who_has_a_log_and_no_head(documents, monkeypatch):
    monkeypatch.setattr("mobync.sqlalchemy._synchronizer.PAGE_ROWS", 2)
    assert list(documents.store.owners()) == []
    for owner in ("c", "a", "B", "e", "d"):
        documents.sync(owner, ("create", "tasks", '{"id":"a"}'))
    heads = documents.store.metadata.tables["diffs_heads"]
    with documents.database.engine.begin() as connection:
        connection.execute(heads.delete().where(heads.c.owner == "e"))
    found = list(documents.store.owners())
    assert len(found) == 5
    assert set(found) == {"a", "B", "c", "d", "e"}


def test_compact_all_does_every_owner_and_passes_over_who_is_busy(database):
    documents = Documents(database)
    for owner in ("anna", "bob"):
        documents.sync(owner, ("create", "tasks", '{"id":"a"}'))
        for number in range(3):
            documents.sync(owner, ("update", "tasks", f'{{"id":"a","n":{number}}}'))
    impatient = SQLAlchemySynchronizer(
        database.new_engine(),
        {},
        diffs=documents.store.metadata.tables["diffs"],
        lock_timeout_s=0.1,
    )
    with documents.store.transaction("bob"):
        results = dict(compact_all(Mobync(impatient)))
    assert results["bob"] is None
    if database.kind != "sqlite":  # which has one lock for all
        assert (results["anna"].rows_before, results["anna"].rows_after) == (4, 2)
    results = dict(compact_all(Mobync(impatient)))
    assert results["bob"] is not None
    assert results["bob"].rows_after == 2
    for owner in ("anna", "bob"):
        assert documents.texts(owner) == {("tasks", "a"): '{"id":"a","n":2}'}
        assert len(documents.store.read("diffs", of(owner))) == 2


def test_compact_all_needs_a_synchronizer_that_can_list_owners():
    with pytest.raises(TypeError, match="not a MemorySynchronizer"):
        compact_all(Mobync(MemorySynchronizer()))
