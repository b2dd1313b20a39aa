"""A device whose token is another owner's than its rows: nothing of the one reaches the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from client_transports import Direct
from sqlalchemy import create_engine
from task_list import diff
from test_known_devices import Phone

from mobync import Mobync, OtherOwnerError, UnknownDeviceError
from mobync.client import Device
from mobync.client import OtherOwnerError as OtherOwnersRows
from mobync.clients import RxDB
from mobync.http import Endpoint
from mobync.memory import MemorySynchronizer
from mobync.server.transfer import exported, import_lines
from mobync.sqlalchemy import DocumentSynchronizer, create_tables


@pytest.fixture
def mobync() -> Mobync:
    return Mobync(MemorySynchronizer())


def both(mobync: Mobync) -> dict[str, int]:
    return {owner: mobync.logical_clock(owner) for owner in ("anna", "bob")}


@pytest.fixture
def phone(mobync: Mobync) -> Phone:
    """Anna's, with bob's token by now."""
    made = Phone(mobync, "phone")
    made.sync(diff("create", id="a"))
    made.owner = "bob"
    return made


@pytest.mark.parametrize("diffs", [[], [diff("create", id="b")]])
def test_another_owners_device_is_refused_and_goes_on_with_its_owner(mobync, phone, diffs):
    mobync.push("bob", [("create", "tasks", {"id": "of bob"})])
    before = both(mobync)
    with pytest.raises(OtherOwnerError, match="'phone' has the rows of another owner: sign in"):
        phone.sync(*diffs)
    assert both(mobync) == before
    assert mobync.devices("bob") == []
    phone.owner = "anna"
    assert phone.sync(*diffs)["success"]


def test_a_part_of_a_request_is_refused_too(mobync, phone):
    said = {"device": "phone", "request": 2, "mark": phone.mark, "part": 1, "more_diffs": True}
    with pytest.raises(OtherOwnerError):
        mobync.apply(phone.clock, [diff("create", id="b")], "bob", **said)
    assert mobync.devices("bob") == []


def test_a_device_that_its_own_owner_lost_takes_a_new_name(mobync, phone):
    phone.owner = "anna"
    mobync.forget_device("anna", "phone")
    with pytest.raises(UnknownDeviceError):
        phone.sync()


def test_another_owner_may_have_a_device_of_this_name(mobync, phone):
    Phone(mobync, "phone", "bob").sync()
    with pytest.raises(OtherOwnerError):
        phone.sync()


def test_a_device_that_came_with_a_guests_data_is_not_refused_for_an_old_mark(mobync):
    phone = Phone(mobync, "phone", "guest")
    phone.sync(diff("create", id="a"))
    mobync.move_owner("guest", "anna")
    for guest in range(200):  # the oldest predecessors are forgotten
        mobync.move_owner(f"guest {guest}", "anna")
    phone.owner, phone.request = "anna", 5
    with pytest.raises(UnknownDeviceError):
        phone.sync(diff("create", id="b"))


def test_a_guest_of_whom_the_server_has_nothing_left_becomes_a_user(mobync):
    """It was restored from a backup that is older than the guest."""
    phone = Phone(mobync, "phone", "guest")
    phone.sync(diff("create", id="a"))
    restored = Mobync(MemorySynchronizer())
    restored.move_owner("guest", "anna")
    phone.mobync, phone.owner = restored, "anna"
    with pytest.raises(UnknownDeviceError):
        phone.sync()


@pytest.mark.parametrize("mark", ["an old mark", "of.", ".", "a.b.c"])
def test_whatever_a_device_carries_there_is_an_answer(mobync, phone, mark):
    phone.mark = mark
    expected = OtherOwnerError if "." in mark else UnknownDeviceError
    with pytest.raises(expected):
        phone.sync()


def test_a_guests_device_that_was_forgotten_since_the_move_takes_a_new_name(mobync):
    phone = Phone(mobync, "phone", "guest")
    phone.sync(diff("create", id="a"))
    mobync.move_owner("guest", "anna")
    mobync.move_owner("anna", "anna's new account")
    mobync.forget_device("anna's new account", "phone")
    phone.owner = "anna's new account"
    with pytest.raises(UnknownDeviceError):
        phone.sync()
    phone.owner = "bob"
    with pytest.raises(OtherOwnerError):
        phone.sync()


def test_the_file_of_mobyncs_own_client_keeps_everything_for_its_owner(mobync, tmp_path: Path):
    endpoint = Endpoint(mobync, lambda token, _: token)

    def device(owner: str) -> Device:
        return Device(tmp_path / "phone.db", Direct(endpoint), owner)

    with device("anna") as annas:
        annas.create("tasks", {"id": "a", "name": "sent"})
        annas.sync()
        annas.create("tasks", {"id": "b", "name": "not sent yet"})
    annas_rows = {"a": "sent", "b": "not sent yet"}
    with device("bob") as bobs:
        with pytest.raises(OtherOwnersRows, match="has the rows of another owner") as refused:
            bobs.sync()
        assert (refused.value.status, refused.value.code) == (403, "other_owner")
        rows = {row["id"]: row["name"] for row in bobs.rows("tasks")}
    assert rows == annas_rows
    assert mobync.logical_clock("bob") == 0
    with device("anna") as annas:
        assert annas.sync().sent == 1


class Laptop:
    """An RxDB client."""

    def __init__(self, mobync: Mobync, owner: str) -> None:
        self._endpoint = Endpoint(mobync, lambda token, _: token, clients=[RxDB()])
        self.owner = owner
        self.checkpoint: Any = None

    def ask(self, route: str, collection: str = "tasks", **said: Any) -> tuple[int, dict[str, Any]]:
        body = json.dumps({"collection": collection, **said}).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.owner}"}
        answer = self._endpoint.sync(headers, body, f"/sync/rxdb/{route}", "laptop")
        return answer.status, json.loads(answer.body)

    def pull(self) -> tuple[int, str]:
        status, answer = self.ask("pull", checkpoint=self.checkpoint, limit=10)
        self.checkpoint = answer.get("checkpoint", self.checkpoint)
        return status, answer.get("code", "")

    def push(self, id_: str) -> tuple[int, str]:
        document = {"id": id_, "name": "anna's", "_deleted": False}
        row = {"id": f"edit of {id_}", "newDocumentState": document}
        more = {} if self.checkpoint is None else {"checkpoint": self.checkpoint}
        status, answer = self.ask("push", rows=[row], **more)
        return status, answer.get("code", "")


def test_the_checkpoint_of_rxdb_is_one_of_an_owner(mobync):
    laptop = Laptop(mobync, "anna")
    assert laptop.push("a")[0] == laptop.pull()[0] == 200
    laptop.owner = "bob"
    assert laptop.pull() == laptop.push("b") == (403, "other_owner")
    # A collection that anna never pulled is bob's now; that says nothing of the other one.
    assert laptop.ask("pull", "notes", checkpoint=None, limit=10)[0] == 200
    assert laptop.pull() == laptop.push("b") == (403, "other_owner")
    assert mobync.logical_clock("bob") == 0
    laptop.owner = "anna"
    assert laptop.pull()[0] == 200


def test_a_guests_rxdb_client_that_has_pulled_nothing_yet_goes_on_as_the_user(mobync):
    laptop = Laptop(mobync, "guest")
    assert laptop.pull()[0] == 200
    mobync.move_owner("guest", "anna")
    assert laptop.pull() == (403, "owner_moved")
    laptop.owner = "anna"
    assert laptop.pull() == (409, "clock_ahead")  # it starts over
    laptop.checkpoint = None
    assert laptop.pull()[0] == laptop.push("a")[0] == 200


@pytest.mark.parametrize("is_known", [True, False])
def test_a_device_that_the_imported_file_of_another_owner_lacks_is_not_refused(tmp_path, is_known):
    with create_engine(f"sqlite:///{tmp_path / 'a.db'}").connect() as connection:
        store = DocumentSynchronizer(connection.engine)
        create_tables(connection.engine, store.metadata)
        mobync = Mobync(store)
        mobync.push("anna", [("create", "tasks", {"id": "a"})])
        if is_known:
            Phone(mobync, "tablet").sync()
        lines = list(exported(store, "anna"))
        phone = Phone(mobync, "phone")
        phone.sync()
        import_lines(store, "anna@example.org", lines)
        phone.owner = "anna@example.org"
        with pytest.raises(UnknownDeviceError):
            phone.sync()
        phone.owner = "bob"
        with pytest.raises(OtherOwnerError):
            phone.sync()
    connection.engine.dispose()
