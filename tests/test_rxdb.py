"""replicateWithMobync with the real RxDB, on Node and in Chromium, against a real server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import browser
import http_servers
import pytest
import rxdb_devices
from databases import open_database
from playwright.sync_api import Browser
from rxdb_devices import Device, NodeDevice, PageDevice, Proxy
from server_process import eventually

from mobync import Mobync
from mobync.clients import RxDB
from mobync.http import Endpoint
from mobync.http.asgi import SyncApp
from mobync.live import InProcessLive
from mobync.sqlalchemy import DocumentSynchronizer

chromium = browser.chromium

OWNER = "anna"
Open = Callable[..., Any]


class Store(DocumentSynchronizer):
    def validate_create(self, owner_id: str, **diff: Any) -> bool:
        return "secret" not in diff["json_data"]

    def validate_update(self, owner_id: str, **diff: Any) -> bool:
        return "secret" not in diff["json_data"]


class Backend:
    """A server, and what its rows are."""

    def __init__(self, mobync: Mobync, endpoint: Endpoint, proxy: Proxy) -> None:
        self.mobync = mobync
        self.endpoint = endpoint
        self.proxy = proxy

    def push(self, *operations: tuple[str, dict[str, Any]]) -> None:
        """Edits of somebody else."""
        self.mobync.push(OWNER, [(kind, "tasks", row) for kind, row in operations])

    def devices(self) -> list[str]:
        return [device.name for device in self.mobync.devices(OWNER)]

    def fold(self) -> None:
        """Fold the whole log, as if all devices had been silent for very long."""
        time.sleep(0.01)  # no device is seen now
        given = {"device_retention_s": 0, "first_pull_retention_s": 0}
        folded = Mobync(self.mobync.synchronizer, **given).compact(OWNER)
        assert folded.horizon == self.mobync.logical_clock(OWNER), folded.held_by

    def rows(self) -> dict[str, dict[str, Any]]:
        with self.mobync.synchronizer.transaction(OWNER) as store:
            found = store.read("tasks", [])
        return {row["id"]: row for row in found}


@pytest.fixture
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    with open_database(getattr(request, "param", "sqlite"), tmp_path) as database:
        store = Store(database.engine)
        store.metadata.create_all(database.engine)
        live = InProcessLive(heartbeat_s=0.5)
        mobync = Mobync(store)
        mobync.listen(live.announce)
        tokens = {"old": None, "bob": "bob"}
        endpoint = Endpoint(mobync, lambda token, _: tokens.get(token or "", OWNER), live=live)
        with (
            http_servers.on_uvicorn(SyncApp(endpoint)) as address,
            rxdb_devices.proxied(address) as proxy,
        ):
            yield Backend(mobync, endpoint, proxy)
            live.hang_up()


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("bundles")
    node = rxdb_devices.bundle("node", directory, "--platform=node", "--format=esm")
    return {"node": node, "page": rxdb_devices.bundle("page", directory)}


@pytest.fixture(params=["node", "chromium"])
def opened(
    request: pytest.FixtureRequest, backend: Backend, programs: dict[str, Path]
) -> Iterator[Open]:
    """Open a device by its name; the same name in Chromium has the same data."""
    devices: list[Any] = []
    contexts: dict[str, Any] = {}

    def open_(name: str, **options: Any) -> Device:
        if request.param == "node":
            devices.append(NodeDevice(programs["node"]))
        else:
            chromium: Browser = request.getfixturevalue("chromium")
            context = contexts.get(name) or contexts.setdefault(name, chromium.new_context())
            devices.append(PageDevice(context, backend.proxy.url, programs["page"]))
        devices[-1].open(name, options)
        return devices[-1]

    yield open_
    for device in devices:
        device.close()
    for context in contexts.values():
        context.close()


@pytest.fixture
def options(backend: Backend) -> dict[str, Any]:
    return {"url": f"{backend.proxy.url}/sync", "token": "new", "identifier": "test"}


@pytest.fixture
def started(opened: Open, options: dict[str, Any]) -> Open:
    """Open a device and have it replicate."""

    def start(name: str, **more: Any) -> Device:
        device: Device = opened(name)
        device.replicate({**options, **more})
        device.sync()
        return device

    return start


def task(id_: str, **fields: Any) -> dict[str, Any]:
    return {"id": id_, "name": f"task {id_}", "done": False, **fields}


def agree(backend: Backend, *devices: Device) -> dict[str, Any]:
    """All that all have in the end."""

    def same() -> bool:
        return all(device.rows() == backend.rows() for device in devices)

    try:
        eventually(same)
    except AssertionError:
        pytest.fail(f"{backend.rows()} is not {[device.rows() for device in devices]}")
    return backend.rows()


def settle(backend: Backend, device: Device) -> None:
    """Until the device has stored every answer."""
    agree(backend, device)
    device.sync()
    eventually(lambda: device.unanswered("test") == [])


# ---- convergence ---------------------------------------------------------------------------------


def test_the_first_sync_brings_everything(backend: Backend, started: Open) -> None:
    backend.push(*(("create", task(f"t{n}")) for n in range(5000)))
    device = started("a")
    assert device.count() == 5000
    assert device.rows()["t4999"] == task("t4999")


def test_edits_of_two_devices_offline_meet_field_by_field(backend: Backend, started: Open) -> None:
    one, other = started("a"), started("b")
    one.insert(task("x"), task("y"), task("z"))
    agree(backend, one, other)
    for device in (one, other):
        device.pause()
    one.patch("x", {"name": "milk"})
    other.patch("x", {"done": True})
    one.patch("y", {"name": "first"})
    time.sleep(0.05)
    other.patch("y", {"name": "second"})
    other.patch("z", {"name": "edited"})
    one.remove("z")
    other.start()
    eventually(lambda: backend.rows()["y"]["name"] == "second")
    one.start()
    assert agree(backend, one, other) == {
        "x": task("x", name="milk", done=True),
        "y": task("y", name="second"),
    }
    assert one.told()["errors"] == other.told()["errors"] == []


def test_an_id_is_used_again(backend: Backend, started: Open) -> None:
    one, other = started("a"), started("b")
    one.insert(task("x", note="old"))
    agree(backend, one, other)
    one.remove("x")
    assert agree(backend, one, other) == {}
    other.insert(task("x", name="again"))
    assert agree(backend, one, other) == {"x": task("x", name="again")}


def test_an_edit_is_there_at_once(backend: Backend, started: Open) -> None:
    one, other = started("a"), started("b")
    one.insert(task("x"))
    eventually(lambda: other.rows() == {"x": task("x")})
    backend.push(("update", {"id": "x", "done": True}))
    eventually(lambda: one.rows()["x"]["done"] and other.rows()["x"]["done"])


def test_a_thousand_queued_writes_arrive(
    backend: Backend, opened: Open, options: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    device = opened("a")
    device.insert(*(task(f"t{n}") for n in range(1000)))
    spent_ms = device.timed(options, 1000)
    with capsys.disabled():
        print(f"\n1,000 queued writes: {spent_ms:.0f} ms")
    assert len(backend.rows()) == 1000
    agree(backend, device)


# ---- what the schema cannot hold -----------------------------------------------------------------


def test_what_the_schema_cannot_hold_stays_on_the_server(backend: Backend, started: Open) -> None:
    backend.push(("create", task("x", note=None, rank=None, added_later=[1])))
    device = started("a")
    assert device.rows() == {"x": task("x", rank=None)}
    device.patch("x", {"done": True})
    eventually(lambda: backend.rows()["x"]["done"])
    device.sync()
    assert backend.rows()["x"] == task("x", done=True, note=None, rank=None, added_later=[1])
    assert device.rows() == {"x": task("x", done=True, rank=None)}


def test_a_field_that_is_taken_away_is_null_elsewhere(backend: Backend, started: Open) -> None:
    device = started("a")
    device.insert(task("x", note="soon"))
    agree(backend, device)
    device.unset("x", "note")
    eventually(lambda: backend.rows()["x"]["note"] is None)
    device.sync()
    pushes = backend.proxy.pushes
    device.sync()
    assert device.rows() == {"x": task("x")}
    assert backend.proxy.pushes == pushes  # and that is the end of it


def test_what_a_rule_refuses_is_taken_back(backend: Backend, started: Open) -> None:
    device = started("a")
    device.insert(task("x"))
    agree(backend, device)
    device.patch("x", {"name": "secret"})
    device.insert(task("y", name="secret"), task("z"))
    eventually(lambda: backend.rows() == device.rows() == {"x": task("x"), "z": task("z")})
    refused = {each["id"]: each["code"] for each in device.told()["refused"]}
    assert refused == {"x": "unauthorized", "y": "unauthorized"}


# ---- what gets lost ------------------------------------------------------------------------------


def test_an_answer_that_is_lost_does_no_harm(backend: Backend, started: Open) -> None:
    device = started("a")
    device.insert(task("x"))
    settle(backend, device)
    backend.proxy.lose = 1
    backend.proxy.hold.clear()
    device.patch("x", {"done": True})
    eventually(lambda: backend.rows() == {"x": task("x", done=True)})
    backend.push(("update", {"id": "x", "done": False}))  # by who has seen it
    backend.proxy.hold.set()
    assert agree(backend, device) == {"x": task("x")}
    # The very same states once more, but this time it is an edit.
    device.patch("x", {"done": True})
    eventually(lambda: backend.rows()["x"]["done"])
    agree(backend, device)
    eventually(lambda: device.unanswered("test") == [])


def test_a_pull_that_overtakes_an_answer_loses_nothing(backend: Backend, started: Open) -> None:
    device = started("a")
    device.insert(task("x"))
    settle(backend, device)
    backend.proxy.hold.clear()
    device.patch("x", {"done": True})
    eventually(lambda: backend.rows()["x"]["done"])
    backend.push(("update", {"id": "x", "name": "milk"}))  # after the answer was made
    time.sleep(0.5)  # the device hears of it, and asks
    backend.proxy.hold.set()
    assert agree(backend, device) == {"x": task("x", name="milk", done=True)}


def test_an_edit_during_a_push_with_a_conflict_does_not_push_all_of_it_again(
    backend: Backend, started: Open
) -> None:
    device = started("a")
    device.insert(task("x"))
    settle(backend, device)
    backend.proxy.hold.clear()
    device.pause()
    backend.push(("update", {"id": "x", "rank": 5}))  # so that the push has a conflict
    device.patch("x", {"name": "milk"})
    device.start()
    eventually(lambda: backend.rows()["x"]["name"] == "milk")
    backend.push(("update", {"id": "x", "name": "oat milk"}))  # by who has seen it
    device.patch("x", {"note": "soon"})
    backend.proxy.hold.set()
    there = agree(backend, device)
    assert there == {"x": task("x", name="oat milk", rank=5, note="soon")}
    eventually(lambda: device.unanswered("test") == [])


def test_what_was_pushed_before_the_first_pull_and_deleted_since_goes(
    backend: Backend, opened: Open, options: dict[str, Any]
) -> None:
    backend.push(("create", task("other")))
    device = opened("a")
    device.insert(task("x"))
    backend.proxy.refuse = "/pull"
    device.replicate(options)
    eventually(lambda: "x" in backend.rows())
    backend.push(("delete", {"id": "x"}))
    backend.proxy.refuse = None
    assert agree(backend, device) == {"other": task("other")}


@pytest.mark.parametrize("opened", ["chromium"], indirect=True)
@pytest.mark.parametrize("goes_on", [False, True])
def test_a_page_that_is_killed_with_an_answer_outstanding(
    backend: Backend, started: Open, goes_on: bool, opened: Open, options: dict[str, Any]
) -> None:
    page = started("a")
    page.insert(task("x"))
    settle(backend, page)
    backend.proxy.hold.clear()
    page.patch("x", {"done": True})
    eventually(lambda: backend.rows()["x"]["done"])
    if goes_on:
        page.patch("x", {"name": "milk"})
    page.close()
    backend.push(("update", {"id": "x", "done": False}))  # by who has seen it
    backend.proxy.lose = 1
    backend.proxy.hold.set()
    again = opened("a")
    assert again.unanswered("test") != []
    again.insert(task("y"))  # offline still
    again.replicate(options)
    name = {"name": "milk"} if goes_on else {}
    assert agree(backend, again) == {"x": task("x", **name), "y": task("y")}
    eventually(lambda: again.unanswered("test") == [])


@pytest.mark.parametrize("opened", ["chromium"], indirect=True)
def test_a_page_that_is_killed_in_the_middle_goes_on(
    backend: Backend, opened: Open, options: dict[str, Any]
) -> None:
    backend.push(*(("create", task(f"t{n}")) for n in range(500)))
    page = opened("a")
    page.insert(*(task(f"own{n}") for n in range(300)))
    small = {**options, "batchSize": 20}
    page.replicate(small)
    eventually(lambda: backend.proxy.pushes >= 3)
    page.close()
    again = opened("a")
    again.patch("own299", {"done": True})
    again.replicate(small)
    rows = agree(backend, again)
    assert len(rows) == 800
    assert rows["own299"]["done"]


def test_a_server_that_went_back_to_a_backup_gets_everything_again(
    backend: Backend, started: Open, tmp_path: Path
) -> None:
    device = started("a")
    device.insert(task("x"), task("y"), task("z"))
    agree(backend, device)
    device.remove("z")
    settle(backend, device)
    with open_database("sqlite", tmp_path) as database:
        store = Store(database.engine)
        store.metadata.create_all(database.engine)
        Mobync(store).push(OWNER, [("create", "tasks", task("z"))])
        backend.mobync.synchronizer._source = store._source
        device.sync()
        assert agree(backend, device) == {"x": task("x"), "y": task("y")}


# ---- names ---------------------------------------------------------------------------------------

on_databases = pytest.mark.parametrize("backend", ["sqlite", "postgresql"], indirect=True)


def test_a_device_has_a_name_that_stays(backend: Backend, started: Open) -> None:
    one = started("a")
    one.insert(task("x"))
    settle(backend, one)
    name, *others = backend.devices()
    assert name.startswith("rxdb ")
    assert not others
    started("b", device="a phone of mine")
    assert set(backend.devices()) == {name, "a phone of mine"}
    started("c", device=None)
    assert len(backend.devices()) == 2


@pytest.mark.parametrize("opened", ["chromium"], indirect=True)
def test_a_page_that_is_loaded_again_has_the_name_of_before(
    backend: Backend, started: Open
) -> None:
    page = started("a")
    page.insert(task("x"))
    settle(backend, page)
    page.close()
    again = started("a")
    again.patch("x", {"done": True})
    settle(backend, again)
    assert len(backend.devices()) == 1
    assert again.told()["errors"] == []


@on_databases
def test_a_device_that_a_person_revokes_drops_its_rows_at_once(
    backend: Backend, started: Open, opened: Open, options: dict[str, Any]
) -> None:
    lost, kept = started("lost"), started("kept", device="kept")
    lost.insert(task("x"), task("y"))
    agree(backend, lost, kept)
    settle(backend, lost)
    (name,) = set(backend.devices()) - {"kept"}
    backend.mobync.revoke_device(OWNER, name)
    eventually(lambda: lost.told()["revoked"] == ["device_revoked"])  # by the end of its stream
    assert lost.told()["closed"]
    kept.insert(task("z"))
    assert agree(backend, kept).keys() == {"x", "y", "z"}
    if isinstance(lost, PageDevice):
        lost.close()
        again = opened("lost")
        assert again.count() == 0
        again.replicate(options)
        eventually(lambda: again.told()["revoked"] == ["device_revoked"])
    assert backend.rows().keys() == {"x", "y", "z"}


def test_whoever_deletes_the_account_signs_up_again_with_a_new_database(
    backend: Backend, started: Open, options: dict[str, Any]
) -> None:
    device = started("a")
    device.insert(task("x"))
    settle(backend, device)
    (before,) = backend.devices()
    assert backend.mobync.erase(OWNER).devices == 1
    eventually(lambda: device.told()["revoked"] == ["device_revoked"])
    device.removeDatabase()
    device.open("a", {})
    device.replicate(options)
    device.insert(task("y"))
    assert agree(backend, device).keys() == {"y"}
    assert before in backend.devices()
    assert len(backend.devices()) == 2
    assert device.told()["revoked"] == ["device_revoked"]


@on_databases
def test_a_device_that_was_away_for_very_long_starts_over_and_loses_nothing(
    backend: Backend, started: Open
) -> None:
    device = started("a")
    device.insert(task("x"), task("y"), task("z"))
    agree(backend, device)
    settle(backend, device)
    device.pause()
    backend.push(
        ("delete", {"id": "y"}),
        ("update", {"id": "x", "done": True}),
        ("create", task("p")),
        ("delete", {"id": "p"}),
    )
    device.insert(task("w"))
    device.patch("y", {"done": True})  # and others have deleted it
    device.patch("z", {"name": "mine"})
    backend.fold()
    device.start()
    expected = {"x": task("x", done=True), "z": task("z", name="mine"), "w": task("w")}
    eventually(lambda: backend.rows() == expected)
    assert agree(backend, device) == expected
    settle(backend, device)
    backend.push(("update", {"id": "w", "done": True}))
    assert agree(backend, device)["w"]["done"]


def test_a_token_of_another_owner_gets_and_sends_nothing(
    backend: Backend, started: Open, options: dict[str, Any]
) -> None:
    device = started("a")
    device.insert(task("x"))
    agree(backend, device)
    settle(backend, device)
    assert device.stop()
    device.insert(task("y"))
    device.replicate({**options, "token": "bob"})
    eventually(lambda: device.told()["otherOwner"] == ["other_owner"])
    assert device.rows() == {"x": task("x"), "y": task("y")}
    assert (backend.mobync.logical_clock("bob"), backend.mobync.devices("bob")) == (0, [])
    device.replicate(options)
    assert agree(backend, device).keys() == {"x", "y"}


def test_where_devices_must_have_a_name_a_device_has_one(backend: Backend, started: Open) -> None:
    strict = Mobync(backend.mobync.synchronizer, anonymous_devices=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend.endpoint, "mobync", strict)
        patch.setattr(backend.endpoint, "_works", backend.endpoint._works_of([RxDB()]))
        device = started("a")
        device.insert(task("x"))
        assert agree(backend, device) == {"x": task("x")}
        assert device.told()["errors"] == []


# ---- tokens, and the end -------------------------------------------------------------------------


def test_a_token_that_is_refused_is_asked_for_again(backend: Backend, started: Open) -> None:
    device = started("a", token="old", newToken="new")
    device.insert(task("x"))
    agree(backend, device)
    assert device.told()["asked"] >= 2


def test_what_is_aborted_asks_no_more(backend: Backend, started: Open) -> None:
    device = started("a")
    assert device.stop()
    pushes = backend.proxy.pushes
    device.insert(task("x"))
    time.sleep(0.3)
    assert backend.proxy.pushes == pushes
    assert backend.rows() == {}


@pytest.mark.parametrize("opened", ["node"], indirect=True)
@pytest.mark.parametrize(
    ("made", "says"),
    [
        ({"localDocuments": False}, "tasks needs local documents"),
        ({"primaryKey": "key"}, 'the primary key must be the field "id"'),
    ],
)
def test_a_collection_that_cannot_be_synced_is_named(
    opened: Open, options: dict[str, Any], made: dict[str, Any], says: str
) -> None:
    device = opened("a", **made)
    with pytest.raises(RuntimeError, match=says):
        device.replicate(options)
