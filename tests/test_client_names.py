"""mobync.client names itself: what that changes, and that it survives what a server may say."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from client_transports import Meddling, lost
from test_client import Nameless, Store, World, in_a_world

from mobync.client import Answer, Device, DeviceRevokedError, OfflineError, ServerError
from mobync.client._server import Server

FORMAT_1 = """
CREATE TABLE mobync_state (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    format INTEGER NOT NULL,
    logical_clock INTEGER NOT NULL,
    request INTEGER NOT NULL,
    cursor TEXT,
    starts_over INTEGER NOT NULL
);
INSERT INTO mobync_state SELECT one, 1, logical_clock, turn, cursor, starts_over FROM named;
DROP TABLE named;
"""


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(Server, "wait", staticmethod(lambda seconds: None))
    yield from in_a_world()


def names(world: World) -> set[str]:
    """Of the devices that the server keeps."""
    return {each.name for each in world.mobync.devices("anna")}


def replaced(world: World, device: Device, **options: Any) -> World:
    """Another server for a device, that knows what it knows of the first one's log and no more."""
    other = World(**options)
    device._server._transport = other.direct
    other.clock = world.clock
    return other


# ---- what is sent --------------------------------------------------------------------------------


def test_a_device_keeps_its_name_counts_its_requests_and_carries_the_mark(
    world: World, tmp_path: Path
) -> None:
    phone = world.device(tmp_path / "a.db")
    name = phone.name
    phone.sync()
    for number in range(2):
        phone.create("tasks", {"id": f"t{number}"})
        phone.sync()
    phone.close()
    phone = world.device(tmp_path / "a.db")
    phone.sync()
    phone.create("tasks", {"id": "last"})
    phone.sync()
    sent = world.direct.sent
    assert {each["device"] for each in sent} == {name} == names(world)
    assert [each["request"] for each in sent] == [1, 1, 2, 3, 3]
    assert "mark" not in sent[0]
    assert all(isinstance(each["mark"], str) for each in sent[1:])
    assert (
        len({each["mark"] for each in sent[2:]}) == len(sent[2:]) - 1
    )  # a poll gives its own back
    assert phone.rows("tasks") == world.rows()


def test_two_devices_have_two_names(world: World) -> None:
    assert world.device().name != world.device().name


def test_a_retry_is_the_same_request_to_the_letter(world: World) -> None:
    phone = world.device(patience_s=0)
    phone.create("tasks", {"id": "t"})
    phone._server._transport = Meddling(world.direct, after=lost)
    for _ in range(2):
        with pytest.raises(OfflineError):
            phone.sync()
        phone.update("tasks", "t", {"name": "meanwhile"})
    phone._server._transport = world.direct
    phone.sync()
    first, *retries, rest = world.direct.sent
    assert retries == [first, first]
    assert (first["request"], rest["request"]) == (1, 2)
    assert world.rows() == [{"id": "t", "name": "meanwhile"}]


def test_a_server_that_keeps_no_devices_is_spoken_to_without(world: World) -> None:
    phone = world.device()
    other = replaced(world, phone, store=Nameless())
    for number in range(3):
        phone.create("tasks", {"id": f"t{number}"})
        phone.sync()
    assert [(each["request"], each.get("mark")) for each in other.direct.sent] == [(1, None)] * 3


def test_a_server_that_begins_to_keep_devices_costs_nothing(world: World) -> None:
    phone, tablet = world.device(), world.device()
    world.store.__class__ = Nameless
    world.mobync = type(world.mobync)(world.store)
    world.direct.endpoint = type(world.direct.endpoint)(world.mobync, lambda t, h: "anna")
    for number, device in enumerate((phone, tablet, phone)):
        device.create("tasks", {"id": f"t{number}"})
        device.sync()
    world.store.__class__ = Store
    world.mobync = type(world.mobync)(world.store)
    world.direct.endpoint = type(world.direct.endpoint)(world.mobync, lambda t, h: "anna")
    phone.create("tasks", {"id": "new"})
    for device in (phone, tablet, phone):
        device.sync()
    assert phone.rows("tasks") == tablet.rows("tasks") == world.rows()
    assert len(world.rows()) == 4
    assert names(world) == {phone.name, tablet.name}


# ---- a name that is not taken --------------------------------------------------------------------


def test_two_copies_of_a_device_become_two_devices(world: World, tmp_path: Path) -> None:
    phone = world.device(tmp_path / "phone.db")
    phone.create("tasks", {"id": "t", "name": "milk"})
    phone.sync()
    phone.create("tasks", {"id": "before"})
    phone.close()
    shutil.copy(tmp_path / "phone.db", tmp_path / "copy.db")
    phone, copy = world.device(tmp_path / "phone.db"), world.device(tmp_path / "copy.db")
    assert phone.name == copy.name
    phone.update("tasks", "t", {"name": "oat milk"})
    copy.update("tasks", "t", {"shop": "corner"})
    for device in (phone, copy, phone):
        device.sync()
    assert phone.name != copy.name
    assert phone.rows("tasks") == copy.rows("tasks") == world.rows()
    assert world.rows() == [
        {"id": "before"},
        {"id": "t", "name": "oat milk", "shop": "corner"},
    ]


def test_a_device_that_was_restored_from_a_backup_loses_nothing_that_it_had_not_sent(
    world: World, tmp_path: Path
) -> None:
    phone, tablet = world.device(tmp_path / "phone.db"), world.device()
    for number in range(4):
        phone.create("tasks", {"id": f"t{number}"})
    phone.sync()
    phone.update("tasks", "t0", {"name": "unsent"})
    phone.close()
    shutil.copy(tmp_path / "phone.db", tmp_path / "backup.db")
    phone = world.device(tmp_path / "phone.db")
    phone.sync()
    phone.delete("tasks", "t1")
    phone.sync()
    phone.close()
    tablet.sync()
    tablet.update("tasks", "t2", {"name": "by tablet"})
    tablet.sync()
    phone = world.device(tmp_path / "backup.db")
    phone.create("tasks", {"id": "u"})
    phone.sync()
    tablet.sync()
    assert phone.rows("tasks") == tablet.rows("tasks") == world.rows()
    assert [row["id"] for row in world.rows()] == ["t0", "t2", "t3", "u"]
    assert world.rows()[0]["name"] == "unsent"


def test_an_edit_during_starting_over_stands_whatever_the_clock_says(world: World) -> None:
    phone = world.device()
    phone.create("tasks", {"id": "t", "name": "old"})
    phone.sync()
    phone.update("tasks", "t", {"name": "sent"})
    world.mobync.forget_device("anna", phone.name)

    def edit(found: Answer) -> Answer:
        if found.json().get("reset"):
            world.clock.now_ms -= 1_000_000  # the clock of the phone jumps
            phone.update("tasks", "t", {"name": "later"})
        return found

    phone._server._transport = Meddling(world.direct, after=edit)
    phone.sync()
    phone.sync()
    assert phone.rows("tasks") == world.rows() == [{"id": "t", "name": "later"}]


def test_what_is_refused_while_starting_over_is_told(world: World) -> None:
    world.mobync = type(world.mobync)(world.store, on_refusal="skip")
    world.direct.endpoint = type(world.direct.endpoint)(world.mobync, lambda t, h: "anna")
    phone = world.device()
    phone.create("tasks", {"id": "t", "name": "milk"})
    phone.sync()
    phone.update("tasks", "t", {"name": "forbidden"})
    phone.create("tasks", {"id": "u"})
    world.mobync.forget_device("anna", phone.name)
    refused = phone.sync().refused
    assert [each.row["name"] for each in refused] == ["forbidden"]
    assert phone.rows("tasks") == world.rows() == [{"id": "t", "name": "milk"}, {"id": "u"}]


def test_a_server_that_takes_no_name_is_not_asked_for_ever(world: World) -> None:
    asked: list[Any] = []

    def refuse(body: dict[str, Any]) -> Answer:
        asked.append(body["device"])
        return Answer(409, b'{"code": "unknown_device", "message": "no"}')

    phone = world.device(way=Meddling(world.direct, before=refuse))
    phone.create("tasks", {"id": "t"})
    with pytest.raises(ServerError, match="409: no"):
        phone.sync()
    assert len(set(asked)) == len(asked) == 4
    assert phone.waiting == 1


# ---- pages ---------------------------------------------------------------------------------------


def test_a_device_that_is_forgotten_between_pages_starts_over(world: World, tmp_path: Path) -> None:
    tablet = world.device()
    for number in range(6):
        tablet.create("tasks", {"id": f"t{number}"})
    tablet.sync()
    phone = world.device(tmp_path / "phone.db", page_size=2, patience_s=0)
    phone.sync()
    for number in range(6):
        tablet.update("tasks", f"t{number}", {"name": "new"})
    tablet.sync()
    phone.create("tasks", {"id": "mine"})
    pages: list[Answer] = []

    def cut(found: Answer) -> Answer:
        pages.append(found)
        return found if len(pages) < 2 else lost()

    phone._server._transport = Meddling(world.direct, after=cut)
    with pytest.raises(OfflineError):
        phone.sync()
    world.mobync.forget_device("anna", phone.name)
    phone._server._transport = world.direct
    phone.sync()
    tablet.sync()
    assert phone.rows("tasks") == tablet.rows("tasks") == world.rows()
    assert len(world.rows()) == 7


# ---- the end of a device -------------------------------------------------------------------------


def test_a_device_that_was_revoked_has_nothing_left_and_says_so(
    world: World, tmp_path: Path
) -> None:
    phone, tablet = world.device(tmp_path / "phone.db"), world.device()
    phone.create("tasks", {"id": "t"})
    phone.sync()
    phone.create("tasks", {"id": "unsent"})
    world.mobync.revoke_device("anna", phone.name)
    for _ in range(2):
        with pytest.raises(DeviceRevokedError, match="was revoked"):
            phone.sync()
        assert phone.rows("tasks") == []
        assert (phone.waiting, phone.logical_clock) == (0, 0)
    phone.close()
    phone = world.device(tmp_path / "phone.db")
    with pytest.raises(DeviceRevokedError):
        phone.sync()
    tablet.sync()
    assert tablet.rows("tasks") == [{"id": "t"}]


# ---- files of before -----------------------------------------------------------------------------


def test_a_file_of_a_device_without_a_name_goes_on(world: World, tmp_path: Path) -> None:
    phone, tablet = world.device(tmp_path / "phone.db"), world.device()
    phone.create("tasks", {"id": "t", "name": "milk"})
    phone.sync()
    phone.update("tasks", "t", {"name": "unsent"})
    phone.close()
    with sqlite3.connect(tmp_path / "phone.db") as file:
        file.execute("ALTER TABLE mobync_state RENAME TO named")
        file.executescript(FORMAT_1)
    file.close()
    tablet.sync()
    tablet.create("tasks", {"id": "u"})
    tablet.sync()
    phone = world.device(tmp_path / "phone.db")
    assert phone.name
    phone.sync()
    tablet.sync()
    assert phone.rows("tasks") == tablet.rows("tasks") == world.rows()
    assert [row.get("name") for row in world.rows()] == ["unsent", None]
