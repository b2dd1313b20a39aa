"""People and devices: who syncs, and what can be done with a device; an owner who is erased."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import databases
import pytest
from databases import KINDS, open_database
from sqlalchemy import Column, ForeignKey, MetaData, String, Table, event, func, select
from sqlalchemy.exc import IntegrityError
from task_list import diff

from mobync import (
    DeviceRevokedError,
    KnownDevice,
    Mobync,
    Synchronizer,
    TooManyDevicesError,
    UnknownDeviceError,
)
from mobync.http import Endpoint
from mobync.memory import MemorySynchronizer
from mobync.sqlalchemy import (
    DocumentSynchronizer,
    SQLAlchemySynchronizer,
    create_tables,
    create_triggers,
)

database = databases.database


@pytest.fixture(params=["memory", *KINDS])
def mobync(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mobync]:
    if request.param == "memory":
        yield Mobync(MemorySynchronizer())
        return
    with open_database(request.param, tmp_path) as opened:
        store = DocumentSynchronizer(opened.engine)
        create_tables(opened.engine, store.metadata)
        yield Mobync(store)


class Phone:
    """A device that names itself and is always up to date."""

    def __init__(self, mobync: Mobync, name: str, owner: str = "anna") -> None:
        self.mobync, self.name, self.owner = mobync, name, owner
        self.request, self.mark, self.clock = 1, None, 0

    def sync(self, *diffs: Any) -> Any:
        said: dict[str, Any] = {"device": self.name, "request": self.request, "mark": self.mark}
        reply = self.mobync.apply(self.clock, list(diffs), self.owner, **said)
        self.request += bool(diffs)
        self.mark, self.clock = reply["mark"], reply["logical_clock"]
        return reply


def by_name(mobync: Mobync, owner: str = "anna") -> dict[str, KnownDevice]:
    return {device.name: device for device in mobync.devices(owner)}


def test_who_has_synced_when_and_how_far_behind_each_is(mobync):
    assert mobync.devices("anna") == []
    phone, tablet = Phone(mobync, "phone"), Phone(mobync, "tablet")
    phone.sync(diff("create", id="a"), diff("create", id="b"))
    tablet.sync()
    Phone(mobync, "phone", "bob").sync(diff("create", id="x"))
    known = by_name(mobync)
    assert known.keys() == {"phone", "tablet"}
    assert [(d.logical_clock, d.behind) for d in known.values()] == [(2, 0), (2, 0)]
    tablet.sync(diff("update", id="a", name="x"))
    known = by_name(mobync)
    assert (known["phone"].behind, known["tablet"].behind) == (1, 0)
    seen = [device.last_seen_ms for device in mobync.devices("anna")]
    assert seen == sorted(seen, reverse=True)
    for device in known.values():
        assert 1_600_000_000_000 < device.first_seen_ms <= device.last_seen_ms
        assert (device.label, device.revoked) == ("", False)
    assert mobync.devices("bob")[0].logical_clock == 1


def test_a_person_gives_a_device_a_name_that_stays(mobync):
    phone = Phone(mobync, "phone")
    phone.sync(diff("create", id="a"))
    mobync.name_device("anna", "phone", "Anna's 📱")
    phone.sync(diff("update", id="a", name="x"))
    assert by_name(mobync)["phone"].label == "Anna's 📱"
    mobync.name_device("anna", "phone", "")
    assert by_name(mobync)["phone"].label == ""
    for label, error in (("x" * 256, ValueError), ("a\0", ValueError), (7, TypeError)):
        with pytest.raises(error, match="label must be a"):
            mobync.name_device("anna", "phone", label)


def test_a_revoked_device_is_refused_whatever_it_sends(mobync):
    phone, tablet = Phone(mobync, "phone"), Phone(mobync, "tablet")
    sent = diff("create", id="a")
    phone.sync(sent)
    tablet.sync()
    mobync.name_device("anna", "phone", "lost")
    mobync.revoke_device("anna", "phone")
    known = by_name(mobync)
    assert (known["phone"].revoked, known["phone"].label, known["tablet"].revoked) == (
        True,
        "lost",
        False,
    )
    for request, mark, clock, diffs in (
        (2, phone.mark, 1, [diff("create", id="b")]),
        (2, phone.mark, 1, []),
        (1, None, 0, [sent]),
        (1, None, 0, []),
        (9, "x", 5, []),
    ):
        with pytest.raises(DeviceRevokedError, match="'phone' was revoked"):
            mobync.apply(clock, diffs, "anna", device="phone", request=request, mark=mark)
    assert mobync.logical_clock("anna") == 1
    tablet.sync(diff("create", id="b"))
    assert Phone(mobync, "phone", "bob").sync()["logical_clock"] == 0
    mobync.forget_device("anna", "phone")
    with pytest.raises(UnknownDeviceError):
        phone.sync(diff("create", id="c"))


def test_a_device_that_was_forgotten_takes_a_new_name(mobync):
    phone = Phone(mobync, "phone")
    phone.sync(diff("create", id="a"))
    mobync.forget_device("anna", "phone")
    assert mobync.devices("anna") == []
    with pytest.raises(UnknownDeviceError):
        phone.sync(diff("create", id="b"))
    phone.name, phone.request, phone.mark = "phone 2", 1, None
    assert phone.sync(diff("create", id="b"))["reset"]
    assert len(phone.sync()["diffs"]) == 2


def test_a_device_that_there_is_not_is_an_error(mobync):
    for change in (mobync.revoke_device, mobync.forget_device):
        for name in ("phone", "x" * 300):
            with pytest.raises(ValueError, match=f"'anna' has no device '{name[:9]}"):
                change("anna", name)
        with pytest.raises(ValueError, match="device must be text that is not empty"):
            change("anna", "")
    with pytest.raises(ValueError, match="'anna' has no device 'phone'"):
        mobync.name_device("anna", "phone", "x")


def test_a_store_that_keeps_no_devices_says_so():
    class None_(MemorySynchronizer):
        read_devices = Synchronizer.read_devices

    mobync = Mobync(None_())
    for ask in (
        lambda: mobync.devices("anna"),
        lambda: mobync.revoke_device("anna", "phone"),
        lambda: mobync.forget_device("anna", "phone"),
        lambda: mobync.name_device("anna", "phone", "x"),
    ):
        with pytest.raises(NotImplementedError, match="None_ does not store devices"):
            ask()


def test_over_http_a_revoked_device_is_403(mobync):
    Phone(mobync, "phone").sync(diff("create", id="a"))
    mobync.revoke_device("anna", "phone")
    endpoint = Endpoint(mobync, lambda token, headers: "anna")
    body = {"logical_clock": 1, "diffs": [], "device": "phone", "request": 2, "mark": "x"}
    answer = endpoint.sync({"Content-Type": "application/json"}, json.dumps(body).encode())
    assert (answer.status, json.loads(answer.body)["code"]) == (403, "device_revoked")


def test_a_state_of_a_later_version_is_read_as_far_as_it_is_known(mobync):
    phone = Phone(mobync, "phone")
    phone.sync(diff("create", id="a"))
    mobync.compact("anna")
    store = mobync.synchronizer
    with store.transaction("anna") as inside:
        kept = inside.read_devices("anna", None)
        more = {name: json.dumps({**json.loads(text), "later": 1}) for name, text in kept.items()}
        assert more.keys() == {"", "phone"}
        inside.write_devices("anna", more)
    assert phone.sync(diff("create", id="b"))["logical_clock"] == 2
    assert phone.sync()["diffs"] == []
    assert by_name(mobync)["phone"].behind == 0
    mobync.compact("anna")


@pytest.mark.parametrize("label", ["\ud800", "a\0"])
def test_a_label_that_no_database_keeps_is_an_error(mobync, label):
    Phone(mobync, "phone").sync()
    with pytest.raises(ValueError, match="label"):
        mobync.name_device("anna", "phone", label)
    mobync.name_device("anna", "phone", "mine")
    mobync.name_device("anna", "phone", "")
    assert by_name(mobync)["phone"].label == ""


# ---- how many ------------------------------------------------------------------------------------


class Limited(Mobync):
    """Two devices an owner, in a time that passes as it is told."""

    passed_ms = 0

    def _now_ms(self) -> int:
        return 1_700_000_000_000 + self.passed_ms


@pytest.fixture
def limited(mobync: Mobync) -> Limited:
    return Limited(mobync.synchronizer, max_devices=2)


DAY_MS = 24 * 3600 * 1000


def test_an_owner_may_have_so_many_devices_and_is_told_of_it(limited):
    phones = [Phone(limited, "phone"), Phone(limited, "tablet")]
    for phone in phones:
        phone.sync(diff("create", id=phone.name))
    limited.passed_ms = 80 * DAY_MS
    third = Phone(limited, "third")
    for sent in ([], [diff("create", id="c")]):
        with pytest.raises(TooManyDevicesError, match="has 2 devices, and max_devices=2 allows no"):
            third.sync(*sent)
    assert limited.logical_clock("anna") == 2
    for phone in phones:
        phone.sync(diff("create", id=f"more of {phone.name}"))
    Phone(limited, "third", "bob").sync()
    limited.revoke_device("anna", "phone")
    third.sync(diff("create", id="c"))
    with pytest.raises(DeviceRevokedError):
        phones[0].sync()
    assert by_name(limited).keys() == {"phone", "tablet", "third"}
    with pytest.raises(TooManyDevicesError):
        Phone(limited, "fourth").sync()


def test_who_was_silent_for_long_is_forgotten_first_and_loses_nothing(limited):
    old, older = Phone(limited, "old"), Phone(limited, "older")
    older.sync(diff("create", id="a"))
    limited.passed_ms = 1000
    old.sync(diff("create", id="b"))
    limited.passed_ms += 91 * DAY_MS
    new = Phone(limited, "new")
    new.sync(diff("create", id="c"))
    assert by_name(limited).keys() == {"old", "new"}
    old.sync(diff("create", id="d"))
    with pytest.raises(UnknownDeviceError):
        older.sync(diff("create", id="e"))
    older.name, older.request, older.mark = "older again", 1, None
    with pytest.raises(TooManyDevicesError):
        older.sync(diff("create", id="e"))
    limited.forget_device("anna", "new")
    assert older.sync(diff("create", id="e"))["reset"]
    assert {json.loads(each["json_data"])["id"] for each in older.sync()["diffs"]} == set("abcde")


def test_a_limit_that_was_lowered_holds_for_new_devices_only(limited):
    phones = [Phone(limited, name) for name in ("a", "b")]
    for phone in phones:
        phone.sync(diff("create", id=phone.name))
    fewer = Limited(limited.synchronizer, max_devices=1)
    for phone in phones:
        phone.mobync = fewer
        phone.sync(diff("update", id=phone.name, name="x"))
    fewer.passed_ms = 91 * DAY_MS
    Phone(fewer, "c").sync()
    assert by_name(fewer).keys() == {"c"}


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [(0, ValueError, "from 1 to"), (-1, ValueError, "from 1 to"), ("9", TypeError, "an int")],
)
def test_a_limit_that_cannot_be_is_an_error(given, error, said):
    with pytest.raises(error, match=f"max_devices must be {said}"):
        Mobync(MemorySynchronizer(), max_devices=given)
    assert Mobync(MemorySynchronizer()).max_devices == 1000


def test_over_http_one_device_too_many_is_403(limited):
    for name in ("a", "b"):
        Phone(limited, name).sync()
    endpoint = Endpoint(limited, lambda token, headers: "anna")
    body = {"logical_clock": 0, "diffs": [], "device": "c", "request": 1}
    answer = endpoint.sync({"Content-Type": "application/json"}, json.dumps(body).encode())
    assert (answer.status, json.loads(answer.body)["code"]) == (403, "too_many_devices")


# ---- erase --------------------------------------------------------------------------------------


def test_an_erased_owner_has_nothing_left_but_devices_that_are_refused(mobync, caplog):
    caplog.set_level(logging.INFO, "mobync")
    phones = [Phone(mobync, f"phone {n}") for n in range(3)]
    for phone in phones:
        phone.sync(diff("create", id=f"a {phone.name}"), diff("create", "notes", id=phone.name))
    phones[0].sync(diff("delete", id="a phone 0"))
    other = Phone(mobync, "phone 0", "bob")
    other.sync(diff("create", id="of bob"))
    mobync.name_device("anna", "phone 1", "Anna's")
    receipt = mobync.erase("anna")
    assert (receipt.owner_id, dict(receipt.rows)) == ("anna", {"tasks": 2, "notes": 3})
    assert (receipt.diffs, receipt.devices) == (7, 3)
    assert "erased owner=anna rows=5 diffs=7 devices=3" in caplog.messages
    for phone in phones:
        with pytest.raises(DeviceRevokedError):
            phone.sync(diff("create", id="back"))
        with pytest.raises(DeviceRevokedError):
            phone.sync()
    kept = mobync.synchronizer.read_devices("anna", None)
    assert "Anna" not in str(kept)
    assert mobync.logical_clock("anna") == 0
    assert kept.keys() == {"phone 0", "phone 1", "phone 2"}
    assert other.sync(diff("update", id="of bob", name="x"))["logical_clock"] == 2
    new = Phone(mobync, "new phone")
    assert new.sync(diff("create", id="new"))["diffs"] == []
    assert mobync.erase("nobody").rows == {}


def test_rows_of_tables_go_in_the_order_that_their_keys_allow(database):
    metadata = MetaData()

    def own(*more: Any) -> list[Any]:
        return [Column("id", String(40), primary_key=True), Column("owner", String(40)), *more]

    lists = Table("lists", metadata, *own())
    tasks = Table(
        "tasks",
        metadata,
        *own(
            Column("list", ForeignKey("lists.id")),
            Column("parent", ForeignKey("tasks.id"), nullable=True),
        ),
    )
    words = Table("words", metadata, Column("id", String(40), primary_key=True))
    engine = database.engine
    models = {"tasks": tasks, "lists": lists, "words": words}
    store = SQLAlchemySynchronizer(engine, models, shared=["words"], capture=True)
    create_tables(engine, metadata)
    create_triggers(engine, store)
    mobync = Mobync(store)
    for owner in ("anna", "bob"):
        rows = [("create", "lists", {"id": f"l {owner}"}), ("create", "words", {"id": owner})]
        rows += [("create", "tasks", {"id": f"t {owner}", "list": f"l {owner}"})]
        for n in range(3):
            row = {"id": f"t{n} {owner}", "list": f"l {owner}", "parent": f"t {owner}"}
            rows.append(("create", "tasks", row))
        mobync.push(owner, rows)
    with engine.begin() as connection:  # that the log does not know of
        connection.execute(tasks.insert(), {"id": "unknown", "owner": "anna", "list": "l anna"})
    receipt = mobync.erase("anna")
    assert (receipt.rows, receipt.devices) == ({"tasks": 5, "lists": 1}, 0)
    with engine.connect() as connection:
        for table, left in ((tasks, 4), (lists, 1), (words, 2)):
            assert connection.scalar(select(func.count()).select_from(table)) == left
        for name in ("diffs", "diffs_heads", "diffs_notes"):
            owners = connection.scalars(select(metadata.tables[name].c.owner)).all()
            assert "anna" not in owners
    assert mobync.logical_clock("anna") == 0
    assert mobync.logical_clock("bob") == 6


def test_what_somebody_else_refers_to_stops_it_and_nothing_is_erased(database):
    metadata = MetaData()
    key = Column("id", String(40), primary_key=True)
    lists = Table("lists", metadata, key, Column("owner", String(40)))
    Table("extern", metadata, Column("id", String(40), ForeignKey("lists.id"), primary_key=True))
    engine = database.engine
    if database.kind == "sqlite":
        event.listen(engine, "connect", lambda c, r: c.execute("PRAGMA foreign_keys = ON"))
    store = SQLAlchemySynchronizer(engine, {"lists": lists})
    create_tables(engine, metadata)
    mobync = Mobync(store)
    Phone(mobync, "phone").sync(diff("create", "lists", id="l"))
    with engine.begin() as connection:
        connection.execute(metadata.tables["extern"].insert(), {"id": "l"})
    with pytest.raises(IntegrityError):
        mobync.erase("anna")
    assert mobync.logical_clock("anna") == 1
    assert not mobync.devices("anna")[0].revoked
