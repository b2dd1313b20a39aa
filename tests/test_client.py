"""mobync.client against the real merge: what a device must not lose, and must not do twice."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from client_transports import Direct, Meddling, Scripted, answer, lost, reply

from mobync import InvalidDiffError, Mobync, Synchronizer
from mobync.client import Answer, Device, OfflineError, ServerError, TokenError, Transport
from mobync.client import _replica as replica_module
from mobync.client._server import Server
from mobync.http import Endpoint
from mobync.memory import MemorySynchronizer


class Store(MemorySynchronizer):
    """No one may create or update a ``secret``; nor call anything ``forbidden``."""

    def validate_create(self, owner_id: str, **diff: Any) -> bool:
        return diff["model"] != "secrets" and "forbidden" not in diff["json_data"]

    validate_update = validate_create

    def validate_delete(self, owner_id: str, **diff: Any) -> bool:
        return "undeletable" not in diff["json_data"]


class Nameless(Store):
    """It keeps no devices, as a server of 1.0."""

    read_devices = Synchronizer.read_devices
    write_devices = Synchronizer.write_devices


class Clock:
    """The devices' time in milliseconds since 1970; a second passes between two edits."""

    def __init__(self) -> None:
        self.now_ms = 1_700_000_000_000

    def tick(self) -> int:
        self.now_ms += 1_000
        return self.now_ms


class World:
    """A server in this process, and devices of one owner."""

    def __init__(self, store: Store | None = None, **options: Any) -> None:
        self.store = store or Store()
        self.mobync = Mobync(self.store, **options)
        self.direct = Direct(Endpoint(self.mobync, lambda token, headers: "anna"))
        self.clock = Clock()
        self.made: list[Device] = []

    def device(
        self, path: Path | str = ":memory:", way: Transport | None = None, **options: Any
    ) -> Device:
        device = Device(path, way or self.direct, "token", now_ms=self.clock.tick, **options)
        self.made.append(device)
        return device

    def rows(self, model: str = "tasks") -> list[dict[str, Any]]:
        return sorted(self.store.read(model), key=lambda row: str(row["id"]))

    def log(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.store.read("diffs")
        return found


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long devices wait between tries; none of it is waited."""
    waited: list[float] = []
    monkeypatch.setattr(Server, "wait", staticmethod(waited.append))
    return waited


@pytest.fixture(params=[Store, Nameless])
def store(request: pytest.FixtureRequest) -> Store:
    made: Store = request.param()
    return made


@pytest.fixture
def world(store: Store, pauses: list[float]) -> Iterator[World]:
    yield from in_a_world(store=store)


@pytest.fixture
def skipping(store: Store, pauses: list[float]) -> Iterator[World]:
    """A server that goes on without what it refuses."""
    yield from in_a_world(store=store, on_refusal="skip")


def in_a_world(**options: Any) -> Iterator[World]:
    world = World(**options)
    yield world
    for device in world.made:
        device.close()


def settle(*devices: Device) -> None:
    for _ in range(2):
        for device in devices:
            device.sync()


# ---- rows ----------------------------------------------------------------------------------------


def test_an_edit_is_in_the_rows_at_once_and_on_the_server_after_a_sync(world: World) -> None:
    phone = world.device()
    milk = phone.create("tasks", {"name": "milk", "done": False})
    phone.create("notes", {"id": "n"})
    phone.update("tasks", milk, {"done": True})
    assert phone.rows("tasks") == [{"id": milk, "name": "milk", "done": True}]
    assert phone.get("tasks", milk) == phone.rows("tasks")[0]
    assert phone.models() == ["notes", "tasks"]
    assert world.log() == []

    done = phone.sync()
    assert (done.sent, done.received, done.refused) == (3, 0, ())
    assert world.rows() == phone.rows("tasks")
    assert (phone.waiting, phone.logical_clock) == (0, 2)
    phone.delete("tasks", milk)
    assert phone.get("tasks", milk) is None
    phone.sync()
    assert world.rows() == []


def test_two_devices_end_with_the_same_rows(world: World) -> None:
    phone, tablet = world.device(), world.device()
    for name in ("milk", "bread", "salt"):
        phone.create("tasks", {"id": name, "name": name, "done": False})
    settle(phone, tablet)
    tablet.update("tasks", "milk", {"name": "oat milk"})
    phone.update("tasks", "milk", {"done": True})
    phone.delete("tasks", "salt")
    tablet.update("tasks", "salt", {"done": True})
    tablet.create("tasks", {"id": "eggs"})
    settle(phone, tablet)
    expected = [
        {"id": "bread", "name": "bread", "done": False},
        {"id": "eggs"},
        {"id": "milk", "name": "oat milk", "done": True},
    ]
    assert phone.rows("tasks") == tablet.rows("tasks") == world.rows() == expected


def test_values_are_kept_as_they_were_written(world: World) -> None:
    values = '"a": 1.0, "b": 9007199254740993, "c": 1e400, "d": 0.1000, "f": "\\ud83d\\ude00"'
    diff = {
        "id": "d",
        "owner": "anna",
        "logical_clock": 0,
        "utc_timestamp": 1,
        "type": "create",
        "model": "tasks",
        "json_data": f'{{"id": "x", {values}}}',
    }
    phone = world.device(way=Scripted([reply(1, diff)]))
    phone.sync()
    phone.update("tasks", "x", {"e": 1})
    ((kept,),) = phone._replica.database.execute("SELECT data FROM mobync_rows")
    assert kept == f'{{"id": "x", {values}, "e": 1}}'


def test_an_update_cannot_change_the_id(world: World) -> None:
    with world.device() as phone:
        phone.create("tasks", {"id": "t"})
        with pytest.raises(ValueError, match=r"^the id of tasks 't' cannot become 'u'$"):
            phone.update("tasks", "t", {"id": "u", "name": "milk"})
        phone.update("tasks", "t", {"id": "t", "name": "milk"})
        assert phone.rows("tasks") == [{"id": "t", "name": "milk"}]


def test_a_file_that_cannot_be_opened_is_named(world: World, tmp_path: Path) -> None:
    other = tmp_path / "a.txt"
    other.write_text("no database " * 100)
    for path, said in ((other, "not a database"), (tmp_path / "no" / "a.db", "unable to open")):
        with pytest.raises(sqlite3.Error, match=f"^{path}: .*{said}"):
            world.device(path)


def test_a_device_is_there_again_after_it_was_closed(world: World, tmp_path: Path) -> None:
    with world.device(tmp_path / "a.db") as phone:
        phone.create("tasks", {"id": "t"})
        phone.sync()
        phone.update("tasks", "t", {"done": True})
    phone = world.device(tmp_path / "a.db")
    assert phone.rows("tasks") == [{"id": "t", "done": True}]
    assert (phone.logical_clock, phone.waiting) == (1, 1)
    phone.sync()
    assert world.rows() == phone.rows("tasks")


@pytest.mark.parametrize(
    ("edit", "error", "said"),
    [
        (lambda d: d.create("tasks", {"id": "t"}), KeyError, "tasks 't' exists already"),
        (lambda d: d.update("tasks", "u", {"a": 1}), KeyError, "tasks 'u' does not exist"),
        (lambda d: d.delete("tasks", "u"), KeyError, "tasks 'u' does not exist"),
        (lambda d: d.create("tasks", {"id": 5}), InvalidDiffError, "id"),
        (lambda d: d.create("", {"id": "u"}), InvalidDiffError, "model"),
        (lambda d: d.create("tasks", {"id": "u", "a": "\ud83d"}), InvalidDiffError, "surrogate"),
        (lambda d: d.create("tasks", {"a": float("nan")}), ValueError, "JSON compliant"),
        (lambda d: d.create("tasks", {"a": object()}), TypeError, "serializable"),
    ],
)
def test_an_edit_that_cannot_be_is_refused_and_leaves_nothing(
    world: World, edit: Callable[[Device], None], error: type[Exception], said: str
) -> None:
    phone = world.device()
    phone.create("tasks", {"id": "t"})
    with pytest.raises(error, match=said):
        edit(phone)
    assert phone.rows("tasks") == [{"id": "t"}]
    assert phone.waiting == 1


# ---- edits while a sync is under way -------------------------------------------------------------


def test_an_edit_during_a_sync_is_kept_and_laid_over_what_comes(world: World) -> None:
    phone, tablet = world.device(), world.device()
    phone.create("tasks", {"id": "t", "name": "milk", "shop": "market"})
    settle(phone, tablet)
    tablet.update("tasks", "t", {"name": "oat milk", "shop": "corner"})
    tablet.sync()

    def edit(found: Answer) -> Answer:
        if len(phone.rows("tasks")) == 1:
            phone.update("tasks", "t", {"name": "soy milk"})
            phone.create("tasks", {"id": "u", "name": "salt"})
            assert phone.get("tasks", "t") == {"id": "t", "name": "soy milk", "shop": "market"}
        return found

    phone._server._transport = Meddling(world.direct, after=edit)
    phone.sync()
    assert phone.get("tasks", "t") == {"id": "t", "name": "soy milk", "shop": "corner"}
    assert phone.waiting == 2
    settle(phone, tablet)
    assert tablet.rows("tasks") == phone.rows("tasks") == world.rows()
    assert tablet.get("tasks", "t") == {"id": "t", "name": "soy milk", "shop": "corner"}


def edited_during_a_sync(
    world: World, edit: Callable[[Device], None], elsewhere: Callable[[Device], None]
) -> list[dict[str, Any]]:
    """The rows of all, where a phone edits while a request is out and finds what a tablet did."""
    phone, tablet = world.device(), world.device()
    phone.create("tasks", {"id": "t", "name": "milk"})
    settle(phone, tablet)
    begun: list[bool] = []

    def meanwhile(body: dict[str, Any]) -> None:
        if not begun:
            begun.append(True)
            edit(phone)
            elsewhere(tablet)
            tablet.sync()

    phone._server._transport = Meddling(world.direct, before=meanwhile)
    phone.sync()
    settle(phone, tablet)
    assert phone.rows("tasks") == tablet.rows("tasks") == world.rows()
    return phone.rows("tasks")


def test_of_an_edit_during_a_sync_and_a_later_one_elsewhere_the_later_stands(world: World) -> None:
    rows = edited_during_a_sync(
        world,
        lambda phone: phone.update("tasks", "t", {"name": "soy milk", "shop": "corner"}),
        lambda tablet: tablet.update("tasks", "t", {"name": "oat milk"}),
    )
    assert rows == [{"id": "t", "name": "oat milk", "shop": "corner"}]


def test_an_edit_during_a_sync_does_not_bring_back_what_was_deleted(world: World) -> None:
    rows = edited_during_a_sync(
        world,
        lambda phone: phone.update("tasks", "t", {"name": "soy milk"}),
        lambda tablet: tablet.delete("tasks", "t"),
    )
    assert rows == []


def test_a_delete_during_a_sync_takes_what_was_edited_elsewhere(world: World) -> None:
    rows = edited_during_a_sync(
        world,
        lambda phone: phone.delete("tasks", "t"),
        lambda tablet: tablet.update("tasks", "t", {"name": "oat milk"}),
    )
    assert rows == []


def test_an_edit_during_a_sync_is_none_of_a_row_that_was_made_anew(world: World) -> None:
    def again(tablet: Device) -> None:
        tablet.delete("tasks", "t")
        tablet.create("tasks", {"id": "t", "name": "another milk"})

    for edit in (
        lambda phone: phone.update("tasks", "t", {"name": "soy milk"}),
        lambda phone: phone.delete("tasks", "t"),
    ):
        world = World()
        assert edited_during_a_sync(world, edit, again) == [{"id": "t", "name": "another milk"}]
        for device in world.made:
            device.close()


def test_rows_that_both_made_during_a_sync_merge_field_by_field(world: World) -> None:
    rows = edited_during_a_sync(
        world,
        lambda phone: phone.create("tasks", {"id": "u", "name": "salt", "shop": "corner"}),
        lambda tablet: tablet.create("tasks", {"id": "u", "name": "sea salt", "done": True}),
    )
    assert rows[1] == {"id": "u", "name": "sea salt", "shop": "corner", "done": True}


def test_two_threads_may_sync_and_edit_one_device(world: World) -> None:
    phone = world.device()

    def work(name: str) -> None:
        for i in range(20):
            phone.create("tasks", {"id": f"{name}-{i}"})
            phone.sync()

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert world.rows() == phone.rows("tasks")
    assert len(world.log()) == 60


def test_two_processes_with_one_file_do_not_apply_an_answer_twice(
    world: World, tmp_path: Path
) -> None:
    first, second = world.device(tmp_path / "a.db"), world.device(tmp_path / "a.db")
    tablet = world.device()
    tablet.create("tasks", {"id": "u"})
    tablet.sync()
    first.create("tasks", {"id": "t"})
    begun: list[bool] = []

    def the_other(found: Answer) -> Answer:
        if not begun:
            begun.append(True)
            second.sync()
            tablet.delete("tasks", "u")
            tablet.sync()
            second.sync()
        return found

    first._server._transport = Meddling(world.direct, after=the_other)
    first.sync()
    assert first.rows("tasks") == second.rows("tasks") == world.rows() == [{"id": "t"}]


# ---- the same request until it is answered -------------------------------------------------------


def test_the_same_request_is_sent_until_it_is_answered(world: World, tmp_path: Path) -> None:
    phone = world.device(tmp_path / "a.db", Meddling(world.direct, after=lost), patience_s=0)
    phone.create("tasks", {"id": "t", "name": "milk"})
    with pytest.raises(OfflineError, match="lost"):
        phone.sync()
    phone.update("tasks", "t", {"name": "oat milk"})
    phone.create("tasks", {"id": "u"})
    with pytest.raises(OfflineError):
        phone.sync()
    phone.close()

    again = world.device(tmp_path / "a.db")
    again.sync()
    first, second, third, rest = world.direct.sent
    assert first == second == third
    assert [json.loads(diff["json_data"])["id"] for diff in rest["diffs"]] == ["t", "u"]
    assert again.rows("tasks") == world.rows() == [{"id": "t", "name": "oat milk"}, {"id": "u"}]
    assert len(world.log()) == 3


def test_what_is_sent_was_written_down_before(world: World, tmp_path: Path) -> None:
    seen: list[Any] = []

    def look(body: dict[str, Any]) -> None:
        with sqlite3.connect(tmp_path / "a.db") as other:
            seen.append(other.execute("SELECT id FROM mobync_outbox WHERE sent").fetchall())
        other.close()
        assert [(diff["id"],) for diff in body["diffs"]] == seen[-1]

    phone = world.device(tmp_path / "a.db", Meddling(world.direct, before=look))
    phone.create("tasks", {"id": "t"})
    phone.sync()
    phone.sync()
    assert [len(ids) for ids in seen] == [1, 0]


# ---- pages ---------------------------------------------------------------------------------------


def filled(world: World, count: int = 10) -> Device:
    tablet = world.device()
    for i in range(count):
        tablet.create("tasks", {"id": f"t{i}", "name": "milk"})
    tablet.sync()
    return tablet


def test_a_pull_comes_in_pages_and_goes_on_after_a_break(world: World, tmp_path: Path) -> None:
    tablet = filled(world)
    phone = world.device(tmp_path / "a.db", page_size=3, patience_s=0)
    phone.create("tasks", {"id": "mine"})
    pages: list[int] = []

    def break_off(body: dict[str, Any]) -> None:
        pages.append(len(phone.rows("tasks")))
        if len(pages) == 3:
            lost()

    phone._server._transport = Meddling(world.direct, before=break_off)
    with pytest.raises(OfflineError):
        phone.sync()
    assert pages == [1, 4, 7]
    phone.update("tasks", "t0", {"name": "oat milk"})
    tablet.update("tasks", "t1", {"name": "soy milk"})
    tablet.sync()
    phone.close()

    phone = world.device(tmp_path / "a.db", page_size=3)
    phone.sync()
    settle(phone, tablet)
    assert phone.rows("tasks") == tablet.rows("tasks") == world.rows()
    assert len(phone.rows("tasks")) == 11
    sent = [body["diffs"] for body in world.direct.sent if body["limit"] == 3][:4]
    assert sent[0] == sent[1] == sent[2] == sent[3]
    assert len(sent[0]) == 1


def test_after_a_refused_page_the_rows_are_pulled_anew_and_the_outbox_stays(world: World) -> None:
    tablet = filled(world)
    phone = world.device(page_size=3)
    phone.create("tasks", {"id": "mine"})

    def spoil(body: dict[str, Any]) -> Answer | None:
        if "cursor" in body and body["diffs"]:
            return answer(400, code="invalid_page", message="what is this")
        return None

    phone._server._transport = Meddling(world.direct, before=spoil)
    phone.sync()
    settle(phone, tablet)
    assert phone.rows("tasks") == tablet.rows("tasks") == world.rows()
    assert len(phone.rows("tasks")) == 11


def test_what_came_and_went_while_pages_were_refused_is_gone(world: World) -> None:
    """The server does not tell of it again: so pages that were applied are no base for others."""
    tablet = filled(world, 2)
    phone = world.device(page_size=1, patience_s=0)
    phone.sync()
    tablet.create("tasks", {"id": "short-lived"})
    tablet.create("tasks", {"id": "u"})
    tablet.sync()
    asked: list[bool] = []

    def spoil(body: dict[str, Any]) -> Answer | None:
        asked.append(True)
        if len(asked) == 2:
            tablet.delete("tasks", "short-lived")
            tablet.sync()
            phone._replica.page_size = 1000  # so that one page would have both, create and delete
            return answer(400, code="invalid_page", message="what is this")
        return None

    phone._server._transport = Meddling(world.direct, before=spoil)
    phone.sync()
    assert phone.rows("tasks") == tablet.rows("tasks")


# ---- refused edits -------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"on_refusal": "skip"}])
def test_a_refused_edit_is_told_and_the_row_is_the_servers(
    pauses: list[float], options: dict[str, Any], tmp_path: Path
) -> None:
    world = World(**options)
    phone = world.device(tmp_path / "a.db")
    phone.create("tasks", {"id": "t", "name": "milk"})
    phone.create("tasks", {"id": "undeletable"})
    phone.sync()
    phone.update("tasks", "t", {"name": "forbidden", "done": True})
    phone.update("tasks", "t", {"shop": "corner"})
    phone.create("secrets", {"id": "s", "name": "x"})
    phone.update("secrets", "s", {"name": "y"})
    phone.delete("tasks", "undeletable")
    phone.create("tasks", {"id": "u"})
    done = phone.sync()

    assert phone.rows("tasks") == world.rows()
    assert phone.get("tasks", "t") == {"id": "t", "name": "milk", "shop": "corner"}
    assert phone.rows("secrets") == []
    assert [row["id"] for row in world.rows()] == ["t", "u", "undeletable"]
    assert phone.waiting == 0
    told = sorted((r.model, r.type, r.row["id"]) for r in done.refused)
    assert told == [
        ("secrets", "create", "s"),
        ("secrets", "update", "s"),
        ("tasks", "delete", "undeletable"),
        ("tasks", "update", "t"),
    ]
    assert {r.code for r in done.refused} == {"unauthorized", "depends_on_refused"}
    phone.close()

    phone = world.device(tmp_path / "a.db")
    assert phone.refused() == list(done.refused)  # who was killed before it told the user still can
    phone.dismiss(*(r.id for r in phone.refused()))
    assert phone.refused() == []
    assert phone.sync().refused == ()
    phone.close()


def test_a_malformed_diff_leaves_the_outbox_too(world: World) -> None:
    phone = world.device()
    phone.create("tasks", {"id": "t"})
    phone._replica.database.execute("UPDATE mobync_outbox SET utc_timestamp = -1")
    phone.create("tasks", {"id": "u"})
    done = phone.sync()
    assert [(r.code, r.row) for r in done.refused] == [("invalid_diff", {"id": "t"})]
    assert phone.rows("tasks") == world.rows() == [{"id": "u"}]


def test_what_is_edited_while_an_edit_is_refused_stays(world: World) -> None:
    phone, tablet = world.device(), world.device()
    phone.create("tasks", {"id": "t", "name": "milk"})
    settle(phone, tablet)
    phone.update("tasks", "t", {"name": "forbidden"})

    def edit(found: Answer) -> Answer:
        if found.status == 403:
            phone.update("tasks", "t", {"done": True})
        return found

    phone._server._transport = Meddling(world.direct, after=edit)
    phone.sync()
    settle(phone, tablet)
    assert phone.rows("tasks") == tablet.rows("tasks") == world.rows()
    assert phone.get("tasks", "t") == {"id": "t", "name": "milk", "done": True}


def test_an_edit_that_is_refused_with_the_last_page_costs_nothing_else(world: World) -> None:
    tablet = filled(world)
    phone = world.device(page_size=3)
    phone.create("tasks", {"id": "mine", "name": "forbidden"})
    phone.create("tasks", {"id": "other"})
    assert len(phone.sync().refused) == 1
    settle(phone, tablet)
    assert phone.rows("tasks") == tablet.rows("tasks") == world.rows()
    assert phone.get("tasks", "mine") is None
    assert len(phone.rows("tasks")) == 11


# ---- starting over -------------------------------------------------------------------------------


nameless = pytest.mark.parametrize("store", [Nameless], indirect=True)


def test_a_server_that_lost_data_costs_no_edit_that_was_not_sent(world: World) -> None:
    phone = world.device(page_size=2)
    filled(world, 3)
    phone.sync()
    phone.create("tasks", {"id": "lost"})
    phone.sync()

    restored = World(type(world.store)())
    restored.clock = world.clock
    backend = restored.device()
    for name in ("t0", "t1"):
        backend.create("tasks", {"id": name, "name": "old"})
    backend.sync()
    backend.close()
    phone._server._transport = restored.direct
    phone.update("tasks", "t0", {"name": "new"})
    phone.update("tasks", "lost", {"name": "gone with its row"})
    phone.create("tasks", {"id": "u"})
    phone.delete("tasks", "t1")
    phone.sync()
    assert phone.rows("tasks") == restored.rows() == [{"id": "t0", "name": "new"}, {"id": "u"}]
    assert phone.waiting == 0


@nameless
def test_a_nameless_device_pulls_with_no_diffs_and_sends_then(world: World) -> None:
    phone = world.device()
    filled(world, 3)
    phone.sync()
    phone.update("tasks", "t0", {"name": "new"})
    restored = World(Nameless())
    restored.mobync.push("anna", [("create", "tasks", {"id": "t0", "name": "old"})])
    phone._server._transport = restored.direct
    phone.sync()
    first, pulled, last = restored.direct.sent
    assert [len(each["diffs"]) for each in (first, pulled, last)] == [1, 0, 1]
    assert pulled["logical_clock"] == 0


@nameless
def test_an_edit_that_had_arrived_is_not_sent_again_after_starting_over(world: World) -> None:
    phone = world.device(patience_s=0, way=Meddling(world.direct, after=lost))
    phone.create("tasks", {"id": "t", "name": "milk"})
    with pytest.raises(OfflineError):
        phone.sync()
    phone._server._transport = Meddling(
        world.direct,
        before=lambda body: answer(409, code="clock_ahead") if body["diffs"] else None,
    )
    phone.sync()
    assert phone.waiting == 0
    assert phone.rows("tasks") == [{"id": "t", "name": "milk"}]
    assert len(world.log()) == 1


def test_starting_over_that_breaks_off_leaves_the_rows_and_begins_again(
    world: World, tmp_path: Path
) -> None:
    phone = world.device(tmp_path / "a.db", page_size=2, patience_s=0)
    filled(world, 5)
    phone.sync()
    phone.update("tasks", "t0", {"name": "mine"})
    before = phone.rows("tasks")
    broken: list[bool] = []

    def break_off(body: dict[str, Any]) -> Answer | None:
        if body["diffs"] and body["logical_clock"] == 5 and not broken:
            return answer(409, code="clock_ahead")
        if "cursor" in body and not broken:
            broken.append(True)
            lost()
        return None

    phone._server._transport = Meddling(world.direct, before=break_off)
    with pytest.raises(OfflineError):
        phone.sync()
    assert phone.rows("tasks") == before
    phone.close()
    phone = world.device(tmp_path / "a.db")
    phone.sync()
    assert phone.rows("tasks") == world.rows() == before
    assert world.rows()[0]["name"] == "mine"


# ---- what each status asks -----------------------------------------------------------------------


def scripted(*answers: Answer | Exception, token: Any = "t", **options: Any) -> Device:
    return Device(":memory:", Scripted(list(answers)), token, **options)


def way_of(device: Device) -> Scripted:
    way = device._server._transport
    assert isinstance(way, Scripted)
    return way


def test_a_token_is_asked_for_again_when_it_was_not_taken(pauses: list[float]) -> None:
    tokens = iter(["old", "new", "newer"])
    with scripted(
        answer(401, code="token_expired"),
        reply(0),
        reply(0),
        token=lambda: next(tokens),
    ) as phone:
        phone.sync()
        phone.sync()
        assert way_of(phone).tokens == ["old", "new", "new"]
    assert pauses == []


@pytest.mark.parametrize("token", ["fixed", lambda: "bad"])
def test_a_token_that_is_not_taken_ends_the_sync(pauses: list[float], token: Any) -> None:
    unauthenticated = answer(401, code="unauthenticated", message="who are you")
    with scripted(unauthenticated, unauthenticated, token=token) as phone:
        phone.create("tasks", {"id": "t"})
        with pytest.raises(TokenError, match="who are you"):
            phone.sync()
        assert phone.waiting == 1


def test_a_token_that_no_header_can_have_travels_in_the_body(pauses: list[float]) -> None:
    with scripted(reply(0), token="schlüssel") as phone:
        phone.sync()
        assert way_of(phone).bodies[0]["auth_token"] == "schlüssel"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_status_that_passes_is_waited_out(pauses: list[float], status: int) -> None:
    busy = answer(status, {"retry-after": "7"}, code="busy", message="later")
    with scripted(busy, OfflineError("no network"), reply(1)) as phone:
        phone.create("tasks", {"id": "t"})
        phone.sync()
        assert way_of(phone).bodies[0] == way_of(phone).bodies[1] == way_of(phone).bodies[2]
    assert 7 <= pauses[0] <= 7.5
    assert 0 <= pauses[1] <= 1


def test_pauses_grow_and_are_not_the_same_for_all(pauses: list[float]) -> None:
    firsts = set()
    for _ in range(5):
        pauses.clear()
        with (
            scripted(*[answer(503)] * 100, patience_s=1_000) as phone,
            pytest.raises(OfflineError, match="503"),
        ):
            phone.sync()
        firsts.add(pauses[0])
        assert sum(pauses) <= 1_000
        assert max(pauses[:3]) < 2.1
        assert max(pauses) > 8
    assert len(firsts) == 5


def test_a_retry_after_that_is_a_date_is_understood(pauses: list[float]) -> None:
    past = {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}
    far = {"retry-after": "Wed, 21 Oct 2995 07:28:00 GMT"}
    for no_date in (f"Mon, 01 Jan {'9' * 20} 00:00:00 GMT", f"Mon, 01 Jan 2024 0:0:0 -{'9' * 20}"):
        assert Answer(503, headers={"retry-after": no_date}, body=b"").retry_after_s() is None
    with scripted(answer(503, past), answer(503, {"retry-after": "soon"}), answer(503, far)) as p:
        with pytest.raises(OfflineError):
            p.sync()
        assert len(way_of(p).bodies) == 3


def test_a_request_that_is_too_large_is_halved(world: World) -> None:
    def limit(body: dict[str, Any]) -> Answer | None:
        sizes.append(len(body["diffs"]))
        return answer(413, code="too_large") if len(body["diffs"]) > 3 else None

    sizes: list[int] = []
    phone = world.device(way=Meddling(world.direct, before=limit))
    for i in range(10):
        phone.create("tasks", {"id": f"t{i}"})
    phone.sync()
    # In parts; a server that knows none says so of the first, and gets requests.
    assert sizes == [10, 5, *[2] * (6 if isinstance(world.store, Nameless) else 5)]
    assert world.rows() == phone.rows("tasks")
    assert [json.loads(diff["json_data"])["id"] for diff in world.log()] == [
        f"t{i}" for i in range(10)
    ]


def test_an_edit_that_is_too_large_alone_is_refused(world: World) -> None:
    def limit(body: dict[str, Any]) -> Answer | None:
        too_large = any(len(diff["json_data"]) > 100 for diff in body["diffs"])
        return answer(413, code="too_large", message="too long") if too_large else None

    phone = world.device(way=Meddling(world.direct, before=limit))
    phone.create("tasks", {"id": "t"})
    phone.create("tasks", {"id": "u", "name": "x" * 100})
    phone.create("tasks", {"id": "v"})
    (refused,) = phone.sync().refused
    assert (refused.code, refused.message, refused.row["id"]) == ("too_large", "too long", "u")
    assert world.rows() == phone.rows("tasks") == [{"id": "t"}, {"id": "v"}]


def test_a_long_outbox_goes_in_requests_of_a_bounded_size(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_module, "MAX_DIFFS", 4)
    monkeypatch.setattr(replica_module, "MAX_BYTES", 100)
    phone = world.device()
    for i in range(9):
        phone.create("tasks", {"id": f"t{i}", "name": "x" * (10 if i < 6 else 200)})
    phone.sync()
    sent = [(len(body["diffs"]), body.get("part"), body["request"]) for body in world.direct.sent]
    if not isinstance(world.store, Nameless):  # then they are parts of one request
        assert sent == [(2, 1, 1), (2, 2, 1), (2, 3, 1), (1, 4, 1), (1, 5, 1), (1, 6, 1)]
        assert [body["more_diffs"] for body in world.direct.sent] == [True] * 5 + [False]
        assert phone._replica.database.state().upload is None
    else:
        assert sent == [(2, 1, 1), *[(n, None, 1) for n in (2, 2, 2, 1, 1, 1)]]
    assert world.rows() == phone.rows("tasks")


@pytest.mark.parametrize(
    "wrong",
    [
        answer(400, code="invalid_request", message="fix the client"),
        answer(400, code="invalid_page", message="fix the client"),
        answer(403, message="fix the client"),
        answer(404, message="fix the client"),
        answer(409, code="another conflict", message="fix the client"),
        answer(415, code="unsupported_media_type", message="fix the client"),
        Answer(301, b"fix the client"),
        answer(400, code="invalid_diff", index=7, message="fix the client"),
    ],
)
def test_what_no_waiting_helps_against_is_an_error_and_loses_nothing(
    pauses: list[float], wrong: Answer
) -> None:
    with scripted(wrong, reply(1)) as phone:
        phone.create("tasks", {"id": "t"})
        with pytest.raises(ServerError, match="fix the client") as error:
            phone.sync()
        assert error.value.status == wrong.status
        assert (phone.waiting, phone.rows("tasks")) == (1, [{"id": "t"}])
        phone.sync()
        assert phone.waiting == 0
    assert pauses == []


def test_a_url_without_the_sync_route_is_told_what_it_must_be() -> None:
    wrong = scripted(answer(404, detail="Not Found"))
    with (
        wrong as phone,
        pytest.raises(ServerError, match=r"^404: .*Not Found.* the sync route, as"),
    ):
        phone.sync()


@pytest.mark.parametrize(
    "page",
    [
        Answer(200, b"<html>Please accept our terms</html>"),
        answer(200, hello="world"),
        answer(200, diffs=[], logical_clock="1"),
        answer(200, diffs=[], logical_clock=1, more=True),
        Answer(200, b"[]"),
        Answer(200, b"[" * 200_000),
    ],
)
def test_a_page_of_somebody_else_is_no_reply(pauses: list[float], page: Answer) -> None:
    with scripted(page, reply(1)) as phone:
        phone.create("tasks", {"id": "t"})
        phone.sync()
        assert (phone.waiting, phone.logical_clock) == (0, 1)
    assert len(pauses) == 1


# ---- tables of the app ---------------------------------------------------------------------------

TABLES = """
CREATE TABLE IF NOT EXISTS projects (id TEXT PRIMARY KEY, data TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS tasks (
    id TEXT PRIMARY KEY,
    data TEXT NOT NULL,
    name TEXT AS (json_extract(data, '$.name')),
    project_id TEXT AS (json_extract(data, '$.project_id')) STORED REFERENCES projects (id)
);
CREATE INDEX IF NOT EXISTS tasks_by_name ON tasks (name);
"""


def test_a_model_can_have_a_table_of_its_own(world: World, tmp_path: Path) -> None:
    phone = world.device(tmp_path / "a.db", tables=TABLES)
    phone.create("projects", {"id": "p"})
    phone.create("tasks", {"id": "t", "name": "milk", "project_id": "p"})
    phone.create("Tasks", {"id": "another model"})
    phone.sync()
    with sqlite3.connect(tmp_path / "a.db") as other:
        found = other.execute("SELECT id, name, project_id FROM tasks").fetchall()
    other.close()
    assert found == [("t", "milk", "p")]
    assert phone.models() == ["Tasks", "projects", "tasks"]
    assert world.rows("tasks") == phone.rows("tasks")
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        phone.create("tasks", {"id": "u", "project_id": "none"})
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        phone.delete("projects", "p")
    assert phone.waiting == 0


@pytest.mark.parametrize("page_size", [1, 1000])
def test_a_reply_may_name_a_row_before_it_creates_it(world: World, page_size: int) -> None:
    tablet = world.device()
    tablet.create("tasks", {"id": "t", "name": "milk"})
    tablet.create("projects", {"id": "p"})
    tablet.update("tasks", "t", {"project_id": "p"})
    tablet.sync()
    assert [diff["model"] for diff in world.log()] == ["tasks", "projects"]
    phone = world.device(tables=TABLES, page_size=page_size)
    phone.sync()
    assert phone.rows("tasks") == [{"id": "t", "name": "milk", "project_id": "p"}]
    phone.update("tasks", "t", {"name": "oat milk"})
    settle(phone, tablet)
    assert tablet.rows("tasks") == phone.rows("tasks")


@pytest.mark.parametrize("page_size", [1, 1000])
def test_a_reply_that_breaks_a_foreign_key_changes_nothing(world: World, page_size: int) -> None:
    tablet = world.device()
    tablet.create("projects", {"id": "p"})
    tablet.create("tasks", {"id": "t", "project_id": "none"})
    tablet.sync()
    phone = world.device(tables=TABLES, page_size=page_size)
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        phone.sync()
    assert phone.logical_clock == 0
    assert phone.rows("tasks") == []


def test_a_foreign_key_that_acts_by_itself_is_refused(world: World) -> None:
    with pytest.raises(ValueError, match=r"tasks.project_id REFERENCES projects must have no ON"):
        world.device(tables=TABLES.replace("projects (id)", "projects (id) ON DELETE CASCADE"))


# ---- making a device -----------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["example.org/sync", "ftp://example.org/sync", "", "http:///sync"])
def test_what_is_no_url_is_refused_when_the_device_is_made(url: str) -> None:
    with pytest.raises(ValueError, match=r"url|URL"):
        Device(":memory:", url)


def test_a_wrong_page_size_is_refused() -> None:
    with pytest.raises(ValueError, match="page_size must be 1 or more"):
        Device(":memory:", Scripted([]), page_size=0)


def test_a_file_of_a_later_mobync_is_refused(world: World, tmp_path: Path) -> None:
    phone = world.device(tmp_path / "a.db")
    phone._replica.database.execute("UPDATE mobync_state SET format = 99")
    phone.close()
    with pytest.raises(ValueError, match="format 99"):
        world.device(tmp_path / "a.db")
