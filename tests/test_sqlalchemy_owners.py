"""mobync.sqlalchemy: owners' rows never touch, and nothing that a device sends is code."""

from __future__ import annotations

import json
from typing import Any

import databases
import pytest
from databases import Database
from sqlalchemy import DDL, Column, ForeignKey, MetaData, String, Table, inspect
from sqlalchemy.exc import IntegrityError
from task_list import TaskList, diff

from mobync import FilterType, InvalidDiffError, Mobync, ReadFilter
from mobync.sqlalchemy import SQLAlchemySynchronizer

database = databases.database


@pytest.fixture
def tasks(database: Database) -> TaskList:
    return TaskList(database)


def of(owner: str) -> list[ReadFilter]:
    return [ReadFilter("owner", FilterType.equal, owner)]


# ---- owners -------------------------------------------------------------------------------------


def test_rows_belong_to_whoever_was_authenticated_whatever_the_diff_claims(tasks):
    sent = diff("create", id="a", name="milk")
    sent["owner"] = "eve"
    Mobync(tasks.store).apply(0, [sent], "bob")
    assert set(tasks.rows("bob")) == {"a"}
    assert tasks.rows("eve") == {}
    assert tasks.log("eve") == []


def test_nobody_can_name_an_owner_in_a_row(tasks):
    mobync = Mobync(tasks.store)
    mobync.apply(0, [diff("create", id="a")], "bob")
    for kind in ("create", "update"):
        for owner in ("eve", "bob", None):
            with pytest.raises(InvalidDiffError, match="json_data: 'owner' is set by the server"):
                mobync.apply(1, [diff(kind, id="a", owner=owner)], "bob")
    assert set(tasks.rows("bob")) == {"a"}


def test_updates_and_deletes_do_not_reach_rows_of_others(tasks):
    mobync = Mobync(tasks.store)
    mobync.apply(0, [diff("create", id="a", name="bob's")], "bob")
    mobync.apply(0, [diff("update", id="a", name="mine")], "eve")
    mobync.apply(1, [diff("delete", id="a")], "eve")
    assert tasks.rows("bob")["a"]["name"] == "bob's"
    assert tasks.rows("eve") == {}


def test_an_id_that_anyone_has_already_cannot_be_created_and_the_error_tells_nothing(tasks):
    mobync = Mobync(tasks.store)
    mobync.apply(0, [diff("create", id="a", name="secret")], "bob")
    with tasks.store.transaction("eve") as inside:
        inside.create("tasks", '{"id": "mine"}')  # and is not in the log

    complaints = []
    for taken in ("a", "mine"):
        with pytest.raises(InvalidDiffError) as caught:
            mobync.apply(0, [diff("create", id="b"), diff("create", id=taken)], "eve")
        complaints.append((caught.value.index, caught.value.reason))
    assert complaints == [(1, "json_data: id cannot be used")] * 2
    assert set(tasks.rows("eve")) == {"mine"}
    assert tasks.log("eve") == []


def test_with_the_owner_in_the_key_owners_may_use_the_same_ids(database):
    metadata = MetaData()
    words = Table(
        "words",
        metadata,
        Column("id", String(40), primary_key=True),
        Column("owner", String(40), primary_key=True),
        Column("text", String(40)),
    )
    store = SQLAlchemySynchronizer(database.engine, {"words": words})
    metadata.create_all(database.engine)
    mobync = Mobync(store)
    for owner in ("bob", "eve"):
        mobync.apply(0, [diff("create", "words", id="a", text=owner)], owner)
    mobync.apply(1, [diff("delete", "words", id="a")], "bob")
    assert store.read("words", of("bob")) == []
    assert store.read("words", of("eve")) == [{"id": "a", "text": "eve"}]
    with store.transaction("eve") as inside:
        inside.create("words", '{"id": "b"}')
    with pytest.raises(InvalidDiffError, match="id cannot be used"):
        mobync.apply(1, [diff("create", "words", id="b")], "eve")


def test_owners_that_differ_in_case_or_accent_are_different(tasks):
    mobync = Mobync(tasks.store)
    owners = ["bob", "Bob", "böb", "bob'; --", "b%b", "b_b", "\\", "bób\u0301", "😀"]
    for number, owner in enumerate(owners):
        mobync.apply(0, [diff("create", id=str(number))], owner)
    for number, owner in enumerate(owners):
        assert set(tasks.rows(owner)) == {str(number)}
        assert len(tasks.log(owner)) == 1
        everything = [diff("delete", id=str(other)) for other in range(len(owners))]
        mobync.apply(1, everything, owner)
        assert tasks.rows(owner) == {}


def test_an_owner_whom_the_database_cannot_tell_apart_is_refused(tasks):
    mobync = Mobync(tasks.store)
    with pytest.raises(ValueError, match="longer than 255"):
        mobync.apply(0, [], "x" * 256)
    if tasks.database.kind == "mariadb":
        with pytest.raises(ValueError, match="ends in a space"):
            mobync.apply(0, [], "bob ")
        return
    mobync.apply(0, [diff("create", id="a")], "bob ")
    assert tasks.rows("bob") == {}


WITHOUT_CASE = {"sqlite": "NOCASE", "postgresql": "without_case", "mariadb": "utf8mb4_general_ci"}


@pytest.mark.parametrize("key", [("id",), ("owner", "id")], ids="-".join)
def test_owners_and_ids_are_told_apart_by_case_whatever_the_columns_collation(database, key):
    collation = WITHOUT_CASE[database.kind]
    if database.kind == "postgresql":
        with database.engine.begin() as connection:
            connection.execute(
                DDL(
                    "CREATE COLLATION without_case "
                    "(provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
                )
            )
    metadata = MetaData()
    names = Table(
        "names",
        metadata,
        *(
            Column(name, String(40, collation=collation), nullable=False, primary_key=name in key)
            for name in ("owner", "id")
        ),
        Column("name", String(40)),
    )
    mobync = Mobync(SQLAlchemySynchronizer(database.engine, {"names": names}))
    metadata.create_all(database.engine)

    def rows(owner: str) -> dict[str, str]:
        with mobync.synchronizer.transaction(owner) as inside:
            return {row["id"]: row["name"] for row in inside.read("names")}

    mobync.apply(0, [diff("create", "names", id="t", name="his")], "bob")
    taken_over = [diff("update", "names", id="t", name="taken over")]
    mobync.apply(0, taken_over, "BOB")
    mobync.apply(1, [diff("delete", "names", id="t")], "BOB")
    mobync.apply(1, [diff("update", "names", id="T", name="x")], "bob")
    mobync.apply(2, [diff("delete", "names", id="T")], "bob")
    assert rows("bob") == {"t": "his"}
    assert rows("BOB") == {}
    assert mobync.adopt("BOB", "names") == 0

    with pytest.raises(InvalidDiffError, match="id cannot be used") as refusal:
        mobync.apply(3, [diff("create", "names", id=i) for i in ("a", "T")], "bob")
    assert refusal.value.index == 1
    with pytest.raises(InvalidDiffError, match="id cannot be used") as refusal:
        mobync.apply(3, [diff("create", "names", id=i) for i in ("case", "x", "CASE")], "bob")
    assert refusal.value.index == 2


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
@pytest.mark.parametrize("length", [1, 501])
def test_many_rows_are_deleted_children_before_their_parents(database, length):
    metadata = MetaData()
    plain = Table(
        "plain", metadata, Column("id", String(40), primary_key=True), Column("owner", String(40))
    )
    tree = Table(
        "tree",
        metadata,
        Column("id", String(40), primary_key=True),
        Column("owner", String(40)),
        Column("parent", ForeignKey("tree.id")),
    )
    mobync = Mobync(SQLAlchemySynchronizer(database.engine, {"plain": plain, "tree": tree}))
    metadata.create_all(database.engine)
    ids = [f"{i:03}" for i in range(length)]
    creates = [diff("create", "plain", id=i) for i in ids]
    creates += [
        diff("create", "tree", id=i, parent=j) for i, j in zip(ids, [None, *ids], strict=False)
    ]
    clock = mobync.apply(0, creates, "bob")["logical_clock"]
    deletes = [diff("delete", "plain", id=i) for i in ids]
    deletes += [diff("delete", "tree", id=i) for i in reversed(ids)]  # children first
    mobync.apply(clock, deletes, "bob")
    with mobync.synchronizer.transaction("bob") as inside:
        assert inside.read("plain") == inside.read("tree") == []


# ---- shared tables ------------------------------------------------------------------------------


def test_a_table_that_is_shared_on_purpose_is_everybodys(database):
    metadata = MetaData()
    words = Table(
        "words", metadata, Column("id", String(40), primary_key=True), Column("text", String(40))
    )
    store = SQLAlchemySynchronizer(database.engine, {"words": words}, shared=("words",))
    metadata.create_all(database.engine)
    mobync = Mobync(store)
    mobync.apply(0, [diff("create", "words", id="a", text="bob's")], "bob")
    mobync.apply(0, [diff("update", "words", id="a", text="eve's")], "eve")
    assert store.read("words") == [{"id": "a", "text": "eve's"}]
    assert list(store.owned_rows("bob", "words")) == [{"id": "a", "text": "eve's"}]
    with pytest.raises(InvalidDiffError, match="json_data: id cannot be used"):
        mobync.apply(1, [diff("create", "words", id="a")], "eve")
    with pytest.raises(InvalidDiffError, match="has no field 'owner'"):
        mobync.apply(1, [diff("update", "words", id="a", owner="eve")], "eve")


# ---- reading ------------------------------------------------------------------------------------


def test_inside_a_transaction_only_its_owners_rows_are_read_whatever_the_filters(tasks):
    mobync = Mobync(tasks.store)
    for owner in ("bob", "eve"):
        mobync.apply(0, [diff("create", id=owner, name="x")], owner)
    with tasks.store.transaction("bob") as inside:
        assert [row["id"] for row in inside.read("tasks")] == ["bob"]
        assert [row["owner"] for row in inside.read("diffs")] == ["bob"]
        for model in ("tasks", "diffs"):
            assert inside.read(model, of("eve")) == []
            assert len(inside.read(model, of("bob"))) == 1
            either = [ReadFilter("owner", FilterType.majorOrEqual, "a")]
            assert len(inside.read(model, either)) == 1


def test_outside_of_a_transaction_the_filters_must_say_whose_rows(tasks):
    Mobync(tasks.store).apply(0, [diff("create", id="a")], "bob")
    for model in ("tasks", "diffs"):
        for filters in (
            [],
            [ReadFilter("id", FilterType.equal, "a")],
            [ReadFilter("owner", FilterType.majorOrEqual, "a")],
            [ReadFilter("owner", FilterType.equal, None)],
        ):
            with pytest.raises(
                ValueError, match=f"reading '{model}' needs a filter equal on 'owner'"
            ):
                tasks.store.read(model, filters)
        assert len(tasks.store.read(model, of("bob"))) == 1
        assert tasks.store.read(model, of("eve")) == []


def test_rows_of_a_model_do_not_name_their_owner_as_devices_may_not(tasks):
    Mobync(tasks.store).apply(0, [diff("create", id="a")], "bob")
    assert list(tasks.store.read("tasks", of("bob"))[0]) == ["id", "name", "rank", "done"]


def test_a_rule_reads_what_the_sync_sees(database):
    class AtMostTwo(SQLAlchemySynchronizer):
        def validate_create(self, owner_id: str, **diff: Any) -> bool:
            assert self.connection.in_transaction()
            return len(self.read("tasks")) < 2

    tasks = TaskList(database, AtMostTwo)
    mobync = Mobync(tasks.store)
    for clock in range(2):
        mobync.apply(clock, [diff("create", id=str(clock))], "bob")
    mobync.apply(0, [diff("create", id="e")], "eve")
    with pytest.raises(Exception, match="validate_create refused it"):
        mobync.apply(2, [diff("create", id="2")], "bob")


# ---- the log ------------------------------------------------------------------------------------


def test_a_log_row_of_another_owner_is_refused(tasks):
    row = diff("create", id="a")
    with tasks.store.transaction("bob") as inside, pytest.raises(ValueError, match="another owner"):
        inside.create_many("diffs", [json.dumps({**row, "owner": "eve"})])
    assert tasks.log("eve") == []


@pytest.mark.parametrize("on_refusal", ["raise", "skip"])
def test_a_diff_whose_id_the_log_has_outside_of_the_window_gets_another(tasks, on_refusal):
    """A device that went back to a backup sends it under a clock that no longer covers it."""
    mobync = Mobync(tasks.store, on_refusal=on_refusal)
    first = diff("create", id="a")
    mobync.apply(0, [first], "bob")
    sent = [{**diff("update", id="a", name="x"), "id": first["id"]}, diff("create", id="b")]
    reply = mobync.apply(1, sent, "bob")
    assert reply["logical_clock"] == 3
    assert reply.get("refused", []) == []
    assert tasks.rows()["a"]["name"] == "x"
    ids = [row["id"] for row in tasks.log("bob")]
    assert (ids[0], ids[2]) == (first["id"], sent[1]["id"])
    assert len(set(ids)) == 3


def test_a_diff_id_that_the_log_cannot_hold_is_refused(tasks):
    long = {**diff("create", id="a"), "id": "x" * 256}
    with pytest.raises(InvalidDiffError, match="'id' is longer than 255 characters"):
        Mobync(tasks.store).apply(0, [long], "bob")
    assert tasks.rows() == {}


def test_two_owners_may_have_diffs_of_the_same_id(tasks):
    sent = diff("create", id="a")
    Mobync(tasks.store).apply(0, [sent], "bob")
    Mobync(tasks.store).apply(0, [{**diff("create", id="b"), "id": sent["id"]}], "eve")
    assert tasks.log("bob")[0]["id"] == tasks.log("eve")[0]["id"]


def test_a_clock_that_the_log_has_already_is_refused_by_the_database(tasks):
    rows = [{**diff("create", id=i), "owner": "bob"} for i in "ab"]
    with pytest.raises(IntegrityError), tasks.store.transaction("bob") as inside:
        inside.create_many("diffs", [json.dumps(row) for row in rows])
    assert tasks.log() == []


def test_the_log_can_be_edited_for_its_owner_only(tasks):
    mobync = Mobync(tasks.store)
    sent = {owner: diff("create", id=owner) for owner in ("bob", "eve")}
    for owner, first in sent.items():
        mobync.apply(0, [{**first, "id": "same"}], owner)
    with tasks.store.transaction("bob") as inside:
        inside.update("diffs", '{"id": "same", "json_data": "{}"}')
    assert tasks.log("bob")[0]["json_data"] == "{}"
    with tasks.store.transaction("bob") as inside:
        inside.delete("diffs", '{"id": "same"}')
    assert tasks.log("bob") == []
    assert tasks.log("eve")[0]["json_data"] == sent["eve"]["json_data"]
    with (
        pytest.raises(InvalidDiffError, match="'owner' never changes"),
        tasks.store.transaction("eve") as inside,
    ):
        inside.update("diffs", '{"id": "same", "owner": "bob"}')


# ---- hostile input ------------------------------------------------------------------------------

HOSTILE = [
    "'; DROP TABLE tasks; --",
    '"; DROP TABLE tasks; --',
    "x' OR '1'='1",
    "a%sb%(id)sc:id?$1{}",
    "\\",
    "\\'; DELETE FROM tasks; --",
    "/*", "`", "\u2028\u202e", "a\nb", "NULL", "\uff54asks", "😀'",
]  # fmt: skip


def test_hostile_names_are_refused(tasks):
    mobync = Mobync(tasks.store)
    mobync.apply(0, [diff("create", id="innocent", name="x")], "bob")
    for text in HOSTILE:
        for kind in ("create", "update", "delete"):
            with pytest.raises(InvalidDiffError, match="is unknown"):
                mobync.apply(1, [diff(kind, text, id="innocent", name="y")], "bob")
        for kind in ("create", "update"):
            with pytest.raises(InvalidDiffError, match="model 'tasks' has no field"):
                mobync.apply(1, [diff(kind, id="innocent", **{text: "y"})], "bob")
        with pytest.raises(ValueError, match="has no field"):
            tasks.store.read("tasks", [*of("bob"), ReadFilter(text, FilterType.equal, 1)])
    assert tasks.rows()["innocent"]["name"] == "x"
    assert len(tasks.log()) == 1


def test_hostile_values_are_data(tasks):
    mobync = Mobync(tasks.store)
    clock = mobync.apply(0, [diff("create", id="innocent", name="x")], "bob")["logical_clock"]
    for text in HOSTILE:
        mobync.apply(clock, [diff("create", id=text, name=text)], "bob")
        mobync.apply(clock + 1, [diff("update", id=text, name=text * 2)], "bob")
        named = ReadFilter("name", FilterType.equal, text * 2)
        with tasks.store.transaction("bob") as inside:
            assert [row["id"] for row in inside.read("tasks", [named])] == [text]
        clock = mobync.apply(clock + 2, [diff("delete", id=text)], "bob")["logical_clock"]
        assert set(tasks.rows()) == {"innocent"}
    assert len(tasks.log()) == 1 + 3 * len(HOSTILE)


def test_no_table_but_the_models_can_be_named(tasks):
    for model in ("diffs_heads", "Tasks", "sqlite_master", "tasks ", "task"):
        with pytest.raises(InvalidDiffError, match=f"model '{model}' is unknown"):
            Mobync(tasks.store).apply(0, [diff("create", model, id="a")], "bob")
        with pytest.raises(InvalidDiffError, match="is unknown"):
            tasks.store.read(model, of("bob"))


def test_the_log_is_no_model(tasks):
    with pytest.raises(InvalidDiffError, match="model must not be the log itself"):
        Mobync(tasks.store).apply(0, [diff("create", "diffs", id="a")], "bob")


def test_fields_are_told_apart_by_case(tasks):
    for field in ("Name", "NAME", "name ", "ID", "owner ", "Owner"):
        with pytest.raises(InvalidDiffError, match=f"has no field '{field}'"):
            Mobync(tasks.store).apply(0, [diff("create", id="a", **{field: "x"})], "bob")


def test_what_devices_send_makes_no_table(tasks):
    before = set(inspect(tasks.database.engine).get_table_names())
    assert before == {"tasks", "diffs", "diffs_heads", "diffs_devices", "diffs_parts"}
    with pytest.raises(InvalidDiffError):
        Mobync(tasks.store).apply(0, [diff("create", "new", id="a")], "bob")
    assert set(inspect(tasks.database.engine).get_table_names()) == before
