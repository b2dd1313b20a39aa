"""Named devices of RxDB and WatermelonDB: what the endpoints keep of them, on real stores."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from databases import KINDS, open_database
from task_list import diff

from mobync import (
    DeviceRevokedError,
    InvalidDiffError,
    LogicalClockError,
    Mobync,
    Synchronizer,
    SyncReport,
    TooManyDevicesError,
    UnknownDeviceError,
)
from mobync.clients import RxDB, Watermelon
from mobync.clients._devices import Visit
from mobync.memory import MemorySynchronizer
from mobync.sqlalchemy import DocumentSynchronizer, create_tables

OWNER = "anna"
DAY_MS = 24 * 3600 * 1000
START_MS = 1_700_000_000_000
FROM_THE_DEAD = {"clock": 0, "id": "", "began": 0}

Doc = dict[str, Any]


class Timed(Mobync):
    """In a time that passes as it is told."""

    passed_ms = 0

    def _now_ms(self) -> int:
        return START_MS + self.passed_ms


class Store(DocumentSynchronizer):
    def validate_update(self, owner_id: str, **said: Any) -> bool:
        return "forbidden" not in said["json_data"]


class MemoryStore(MemorySynchronizer):
    def validate_update(self, owner_id: str, **said: Any) -> bool:
        return "forbidden" not in said["json_data"]


@pytest.fixture(params=["memory", *KINDS])
def mobync(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Timed]:
    if request.param == "memory":
        yield Timed(MemoryStore())
        return
    with open_database(request.param, tmp_path) as opened:
        store = Store(opened.engine)
        create_tables(opened.engine, store.metadata)
        yield Timed(store)


class Rx:
    """An RxDB client by its handlers: what it has pulled, and where it is."""

    def __init__(self, mobync: Mobync, name: str | None, model: str = "tasks") -> None:
        self.mobync, self.name, self.model = mobync, name, model
        self.protocol = RxDB()
        self.checkpoint: Any = None
        self.rows: dict[str, Doc] = {}

    def ask(self, route: str, **body: Any) -> Any:
        text = json.dumps({"collection": self.model, **body}).encode()
        return json.loads(self.protocol.answer(route, self.mobync, OWNER, text, self.name))

    def page(self, limit: int = 100) -> list[Doc]:
        answer = self.ask("pull", checkpoint=self.checkpoint, limit=limit)
        self.checkpoint = answer["checkpoint"]
        for each in answer["documents"]:
            self.rows[each["id"]] = each
        documents: list[Doc] = answer["documents"]
        return documents

    def pull(self, limit: int = 100) -> dict[str, Doc]:
        while len(self.page(limit)) == limit:
            pass
        return self.alive()

    def alive(self) -> dict[str, Doc]:
        return {i: row for i, row in self.rows.items() if not row["_deleted"]}

    def push(self, new: Doc, assumed: Doc | None = None, **more: Any) -> list[Doc]:
        known = {} if assumed is None else {"assumedMasterState": assumed}
        conflicts = self.ask("push", rows=[{"newDocumentState": new, **known, **more}])["conflicts"]
        assert isinstance(conflicts, list)
        return conflicts


class Melon:
    """A WatermelonDB phone by its two functions."""

    def __init__(self, mobync: Mobync, name: str | None) -> None:
        self.mobync, self.name = mobync, name
        self.protocol = Watermelon()
        self.last: int | None = None

    def ask(self, route: str, **body: Any) -> Any:
        text = json.dumps({"lastPulledAt": self.last, **body}).encode()
        return json.loads(self.protocol.answer(route, self.mobync, OWNER, text, self.name))

    def pull(self) -> Any:
        answer = self.ask("pull")
        self.last = answer["timestamp"]
        return answer["changes"]

    def send(self, *edits: dict[str, Any]) -> Any:
        return self.ask("push", edits=edits)["experimentalRejectedIds"]


def task(id_: str, **fields: Any) -> Doc:
    return {"id": id_, "name": f"task {id_}", **fields, "_deleted": False}


def edit(id_: str, record: str, kind: str = "update", **more: Any) -> dict[str, Any]:
    columns = more.pop("columns", {"name": f"by {id_}"})
    return {"id": id_, "type": kind, "table": "tasks", "record": record, "columns": columns, **more}


def elsewhere(mobync: Mobync, kind: str, **row: Any) -> None:
    mobync.push(OWNER, [(kind, "tasks", row)])


def log(mobync: Mobync) -> list[tuple[str, Any]]:
    with mobync.synchronizer.transaction(OWNER) as store:
        rows = [dict(row) for row in store.read("diffs", [])]
    rows.sort(key=lambda row: row["logical_clock"])
    return [(row["type"], json.loads(row["json_data"])) for row in rows]


def known(mobync: Mobync) -> dict[str, Any]:
    return {device.name: device for device in mobync.devices(OWNER)}


CLIENTS = [Rx, Melon]


# ---- people and devices --------------------------------------------------------------------------


@pytest.mark.parametrize("client", CLIENTS)
def test_a_device_is_listed_with_what_it_has_seen(mobync: Timed, client: Any) -> None:
    elsewhere(mobync, "create", id="a")
    phone = client(mobync, "phone")
    phone.pull()
    listed = known(mobync)["phone"]
    assert (listed.logical_clock, listed.behind, listed.revoked) == (1, 0, False)
    assert listed.first_seen_ms == listed.last_seen_ms == START_MS
    mobync.passed_ms = 5000
    elsewhere(mobync, "update", id="a", name="x")
    assert known(mobync)["phone"].behind == 1
    phone.pull()
    listed = known(mobync)["phone"]
    assert (listed.logical_clock, listed.behind) == (2, 0)
    assert (listed.first_seen_ms, listed.last_seen_ms) == (START_MS, START_MS + 5000)
    mobync.name_device(OWNER, "phone", "Anna's phone")
    phone.pull()
    assert known(mobync)["phone"].label == "Anna's phone"


@pytest.mark.parametrize("client", CLIENTS)
def test_a_revoked_device_is_refused_whatever_it_asks(mobync: Timed, client: Any) -> None:
    elsewhere(mobync, "create", id="a", name="x")
    phone, tablet = client(mobync, "phone"), client(mobync, "tablet")
    for each in (phone, tablet):
        each.pull()
    mobync.revoke_device(OWNER, "phone")
    assert known(mobync)["phone"].revoked
    asks = [phone.pull, phone.pull]
    if client is Rx:
        asks += [lambda: phone.push(task("b")), lambda: phone.ask("pull", have=["a"])]
    else:
        asks += [lambda: phone.send(edit("1", "b", "create"))]
    for ask in asks:
        with pytest.raises(DeviceRevokedError, match="'phone' was revoked"):
            ask()
    phone.checkpoint = phone.last = None
    with pytest.raises(DeviceRevokedError):
        phone.pull()
    tablet.pull()
    assert len(log(mobync)) == 1


@pytest.mark.parametrize("client", CLIENTS)
def test_an_erased_owners_devices_are_refused(mobync: Timed, client: Any) -> None:
    phone = client(mobync, "phone")
    phone.pull()
    mobync.erase(OWNER)
    with pytest.raises(DeviceRevokedError):
        phone.pull()


def test_a_listener_may_sync_for_another_device_while_a_push_is_answered(mobync: Timed) -> None:
    """Who is let in by a push is its own device, and no other."""
    mobync.apply(0, [], "bob", device="revoked", request=1)
    mobync.revoke_device("bob", "revoked")
    refused: list[str] = []

    def relay(report: SyncReport) -> None:
        if report.owner_id == OWNER:
            with pytest.raises(DeviceRevokedError) as caught:
                mobync.apply(0, [diff("create", id="b1")], "bob", device="revoked", request=1)
            refused.append(str(caught.value))

    mobync.listen(relay)
    Rx(mobync, "phone").push(task("t1"))
    assert len(refused) == 1
    assert mobync.logical_clock("bob") == 0
    assert set(known(mobync)) == {"phone"}


def test_a_name_is_of_one_protocol(mobync: Timed) -> None:
    Rx(mobync, "phone").pull()
    with pytest.raises(UnknownDeviceError):
        Melon(mobync, "phone").pull()
    with pytest.raises(UnknownDeviceError):
        mobync.apply(0, [], OWNER, device="phone", request=1)
    with pytest.raises(UnknownDeviceError):
        mobync.apply(0, [diff("create", id="x")], OWNER, device="phone", request=1)
    mobync.apply(0, [], OWNER, device="program", request=1)
    with pytest.raises(UnknownDeviceError):
        Rx(mobync, "program").pull()


@pytest.mark.parametrize("client", CLIENTS)
def test_there_are_as_many_devices_as_may_be(mobync: Timed, client: Any) -> None:
    few = Timed(mobync.synchronizer, max_devices=1)
    client(few, "phone").pull()
    with pytest.raises(TooManyDevicesError):
        client(few, "tablet").pull()
    if client is Rx:
        with pytest.raises(TooManyDevicesError):
            Rx(few, "tablet").push(task("a"))
        assert log(few) == []
    few.passed_ms = 91 * DAY_MS
    client(few, "tablet").pull()
    assert known(few).keys() == {"tablet"}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name", ["", "a\0", "x" * 256])
def test_what_is_no_name_is_an_error(client: Any, name: str) -> None:
    with pytest.raises(InvalidDiffError, match="device must be a text of 1 to 255"):
        client(Mobync(MemorySynchronizer()), name).pull()


@pytest.mark.parametrize("client", CLIENTS)
def test_where_devices_must_have_a_name_they_need_one(mobync: Timed, client: Any) -> None:
    strict = Timed(mobync.synchronizer, anonymous_devices=False)
    with pytest.raises(InvalidDiffError, match="name themselves"):
        client(strict, None).pull()
    phone = client(strict, "phone")
    phone.pull()
    if client is Rx:
        assert phone.push(task("a")) == []
    else:
        assert phone.send(edit("1", "a", "create")) == {}
    phone.pull()
    assert len(log(strict)) == 1


@pytest.mark.parametrize("client", CLIENTS)
def test_where_no_devices_are_kept_names_do_not_count(client: Any) -> None:
    class None_(MemorySynchronizer):
        read_devices = Synchronizer.read_devices

    class NoTable(MemorySynchronizer):
        def read_devices(self, owner_id: str, names: Any) -> Any:
            return None

    for store in (None_(), NoTable()):
        mobync = Mobync(store)
        elsewhere(mobync, "create", id="a")
        phone = client(mobync, "phone")
        phone.pull()
        if client is Rx:
            assert "mark" not in phone.checkpoint
            phone.push(task("b"))
        else:
            phone.send(edit("1", "b", "create"))
        phone.pull()
        assert len(log(mobync)) == 2


@pytest.mark.parametrize("client", CLIENTS)
def test_a_report_names_the_device_of_a_push(mobync: Timed, client: Any) -> None:
    reports: list[SyncReport] = []
    mobync.listen(reports.append)
    phone = client(mobync, "phone")
    phone.pull()
    if client is Rx:
        phone.push(task("a"))
    else:
        phone.send(edit("1", "a", "create"))
    assert [(each.device, each.accepted) for each in reports if each.accepted] == [("phone", 1)]


# ---- the horizon ---------------------------------------------------------------------------------


@pytest.mark.parametrize("client", CLIENTS)
def test_the_log_is_folded_up_to_what_a_device_has_and_no_further(
    mobync: Timed, client: Any
) -> None:
    elsewhere(mobync, "create", id="a", name="x")
    phone = client(mobync, "phone")
    phone.pull()
    phone.pull()  # which says that it has it
    mobync.passed_ms = 91 * DAY_MS  # for the nameless, if there were any
    phone.pull()
    elsewhere(mobync, "create", id="b")
    elsewhere(mobync, "update", id="a", name="y")
    elsewhere(mobync, "delete", id="b")
    result = mobync.compact(OWNER)
    assert (result.horizon, result.held_by) == (1, ("phone",))
    pulled = phone.pull()
    if client is Rx:
        assert phone.alive() == {"a": {"id": "a", "name": "y", "_deleted": False}}
        assert phone.rows["b"]["_deleted"]
    else:
        assert [row["id"] for row in pulled["tasks"]["updated"]] == ["a"]
        assert pulled["tasks"]["deleted"] == ["b"]
    phone.pull()
    assert mobync.compact(OWNER).horizon == 4
    assert log(mobync) == [("create", {"id": "a", "name": "y"})]


def test_a_collection_that_lags_holds_the_log_and_one_that_is_gone_does_not(mobync: Timed) -> None:
    tasks, notes = Rx(mobync, "phone"), Rx(mobync, "phone", "notes")
    for each in (tasks, notes):
        each.pull()
    mobync.push(OWNER, [("create", "tasks", {"id": "a"}), ("create", "notes", {"id": "n"})])
    tasks.pull()
    tasks.pull()
    assert known(mobync)["phone"].logical_clock == 0
    assert mobync.compact(OWNER).horizon == 0
    for _ in range(10):
        mobync.passed_ms += 10 * DAY_MS
        tasks.pull()
    assert mobync.compact(OWNER).horizon == 2
    with pytest.raises(LogicalClockError):  # an app that was not opened for so long
        notes.pull()


@pytest.mark.parametrize("client", CLIENTS)
def test_a_poll_writes_nothing(mobync: Timed, client: Any) -> None:
    elsewhere(mobync, "create", id="a")
    phone = client(mobync, "phone")
    for _ in range(3):
        phone.pull()
    before = mobync.synchronizer.read_devices(OWNER, None)
    mobync.passed_ms = 3_600_000
    phone.pull()
    assert mobync.synchronizer.read_devices(OWNER, None) == before
    mobync.passed_ms = 20 * DAY_MS
    phone.pull()
    assert known(mobync)["phone"].last_seen_ms == START_MS + 20 * DAY_MS


def silent_for_long(mobync: Timed, *phones: Any) -> None:
    """Have all that is known be folded while phones are away."""
    mobync.passed_ms += 91 * DAY_MS
    result = mobync.compact(OWNER)
    assert result.horizon == mobync.logical_clock(OWNER), result.held_by


@pytest.mark.parametrize("client", CLIENTS)
def test_who_was_silent_for_too_long_starts_over(mobync: Timed, client: Any) -> None:
    for name in "abc":
        elsewhere(mobync, "create", id=name, name="x")
    phone = client(mobync, "phone")
    phone.pull()
    elsewhere(mobync, "update", id="a", name="y")
    elsewhere(mobync, "delete", id="b")
    silent_for_long(mobync)
    with pytest.raises(LogicalClockError) as raised:
        phone.pull()
    assert (raised.value.ahead, raised.value.behind) == (True, True)
    push = (lambda: phone.push(task("d"))) if client is Rx else (lambda: phone.send(edit("1", "a")))
    with pytest.raises(LogicalClockError) as raised:
        push()
    assert raised.value.behind
    if client is Rx:
        assert phone.ask("pull", have=["a", "b", "c", "z"]) == {"gone": ["b", "z"]}
        phone.checkpoint, phone.rows = FROM_THE_DEAD, {}
    else:
        phone.last = None
    pulled = phone.pull()
    ids = pulled.keys() if client is Rx else {row["id"] for row in pulled["tasks"]["updated"]}
    assert set(ids) == {"a", "c"}
    push()
    phone.pull()


def test_a_fold_in_the_midst_of_a_pull_has_the_device_start_over(
    mobync: Timed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the log had at the look at the device, it does not have any more when it is read."""
    elsewhere(mobync, "create", id="a")
    elsewhere(mobync, "create", id="b")
    phone = Melon(mobync, "phone")
    phone.pull()
    elsewhere(mobync, "delete", id="a")
    mobync.passed_ms += 200 * DAY_MS
    polls = Visit.polls

    def and_then_fold(visit: Visit) -> bool:
        polled = polls(visit)
        assert mobync.compact(OWNER).horizon == 3
        return polled

    monkeypatch.setattr(Visit, "polls", and_then_fold)
    with pytest.raises(LogicalClockError) as raised:
        phone.pull()
    assert raised.value.behind


@pytest.mark.parametrize("client", CLIENTS)
def test_who_was_forgotten_starts_over_under_its_name(mobync: Timed, client: Any) -> None:
    elsewhere(mobync, "create", id="a")
    phone = client(mobync, "phone")
    phone.pull()
    mobync.forget_device(OWNER, "phone")
    with pytest.raises(LogicalClockError) as raised:
        phone.pull()
    assert raised.value.behind
    phone.checkpoint, phone.last = FROM_THE_DEAD, None
    phone.pull()
    phone.pull()
    assert known(mobync).keys() == {"phone"}


@pytest.mark.parametrize("client", CLIENTS)
def test_who_had_no_name_before_starts_over_once(mobync: Timed, client: Any) -> None:
    elsewhere(mobync, "create", id="a")
    phone = client(mobync, None)
    phone.pull()
    phone.name = "phone"
    with pytest.raises(LogicalClockError):
        phone.pull()
    phone.checkpoint, phone.last = FROM_THE_DEAD, None
    phone.pull()
    phone.pull()


def restored(mobync: Timed) -> Timed:
    """A server of another log that is longer, with what the other kept of its devices."""
    kept = mobync.synchronizer.read_devices(OWNER, None)
    other = Timed(MemorySynchronizer())
    for n in range(9):
        elsewhere(other, "create", id=f"other {n}")
    with other.synchronizer.transaction(OWNER) as store:
        store.write_devices(OWNER, kept)
    return other


@pytest.mark.parametrize("client", CLIENTS)
def test_a_server_that_is_a_backup_is_noticed_though_its_log_has_grown(
    mobync: Timed, client: Any
) -> None:
    elsewhere(mobync, "create", id="a")
    phone = client(mobync, "phone")
    phone.pull()
    backup = restored(mobync)
    elsewhere(mobync, "create", id="b")
    phone.pull()
    phone.mobync = backup
    with pytest.raises(LogicalClockError) as raised:
        phone.pull()
    assert raised.value.behind


@pytest.mark.parametrize("client", CLIENTS)
def test_a_server_that_is_behind_its_device_says_that_it_lost_something(
    mobync: Timed, client: Any
) -> None:
    for n in range(20):
        elsewhere(mobync, "create", id=f"{n}")
    phone = client(mobync, "phone")
    phone.pull()
    phone.mobync = restored(mobync)
    with pytest.raises(LogicalClockError) as raised:
        phone.pull()
    assert (raised.value.ahead, raised.value.behind) == (True, False)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_process_that_did_not_see_what_was_folded_reads_the_log_again(
    mobync: Timed, client: Any
) -> None:
    for name in "abc":
        elsewhere(mobync, "create", id=name, name="x")
    phone = client(mobync, "phone")
    phone.pull()
    here, phone.protocol = phone.protocol, type(phone.protocol)()  # in another process
    elsewhere(mobync, "update", id="a", name="y")
    elsewhere(mobync, "delete", id="b")
    for _ in range(2):
        phone.pull()
    assert mobync.compact(OWNER).horizon == 5
    new = client(mobync, "new")
    new.protocol = here
    pulled = new.pull()
    rows = pulled.values() if client is Rx else pulled["tasks"]["updated"]
    assert {row["id"]: row["name"] for row in rows} == {"a": "y", "c": "x"}


# ---- RxDB ----------------------------------------------------------------------------------------


def test_pages_of_a_first_pull_go_on_below_the_horizon(mobync: Timed) -> None:
    for n in range(9):
        elsewhere(mobync, "create", id=f"{n}", name="x")
    Rx(mobync, "other").pull()
    silent_for_long(mobync)
    phone = Rx(mobync, "phone")
    assert len(phone.pull(2)) == 9
    phone.pull()
    elsewhere(mobync, "update", id="3", name="y")
    assert phone.pull()["3"]["name"] == "y"


def test_a_fold_between_two_pages_has_the_device_start_over(mobync: Timed) -> None:
    for n in range(9):
        elsewhere(mobync, "create", id=f"{n}", name="x")
    phone = Rx(mobync, "phone")
    phone.page(2)
    elsewhere(mobync, "update", id="0", name="y")
    silent_for_long(mobync)
    with pytest.raises(LogicalClockError) as raised:
        phone.page(2)
    assert raised.value.behind


def test_the_log_is_not_folded_while_a_device_pulls_in_pages(mobync: Timed) -> None:
    for n in range(9):
        elsewhere(mobync, "create", id=f"{n}", name="x")
    phone = Rx(mobync, "phone")
    phone.page(2)
    elsewhere(mobync, "update", id="0", name="y")
    assert mobync.compact(OWNER).horizon <= 2
    assert phone.pull(2)["0"]["name"] == "y"


def test_a_page_that_was_not_stored_may_be_asked_for_again(mobync: Timed) -> None:
    for n in range(9):
        elsewhere(mobync, "create", id=f"{n}", name="x")
    phone = Rx(mobync, "phone")
    phone.page(2)
    stored = phone.checkpoint
    phone.pull(2)
    phone.checkpoint = stored
    assert len(phone.page(100)) == 7


def test_a_checkpoint_that_is_stored_is_good_however_often_it_was_answered(mobync: Timed) -> None:
    elsewhere(mobync, "create", id="a")
    phone = Rx(mobync, "phone", "notes")
    phone.pull()
    stored = phone.checkpoint
    for n in range(40):  # of which nothing is stored, as they bring no documents
        elsewhere(mobync, "create", id=f"{n}")
        phone.checkpoint = stored
        phone.pull()


def test_a_push_may_name_a_pull_that_a_later_one_from_the_beginning_has_overtaken(
    mobync: Timed,
) -> None:
    elsewhere(mobync, "create", id="a")
    phone = Rx(mobync, "phone")
    phone.pull()
    first = phone.checkpoint
    elsewhere(mobync, "create", id="b")
    phone.checkpoint = None
    phone.pull()
    row = {"newDocumentState": task("c"), "id": "1"}
    assert phone.ask("push", rows=[row], checkpoint=first)["conflicts"] == []


def test_who_pushes_before_it_pulls_learns_that_this_was_deleted(mobync: Timed) -> None:
    elsewhere(mobync, "create", id="other")
    phone = Rx(mobync, "phone")
    assert phone.push(task("a"), id="1") == []
    elsewhere(mobync, "delete", id="a")
    assert mobync.compact(OWNER).horizon == 1
    phone.checkpoint = FROM_THE_DEAD
    phone.pull()
    assert phone.rows["a"]["_deleted"]
    assert phone.alive().keys() == {"other"}


def test_an_edit_of_what_was_deleted_and_folded_away_brings_nothing_back(mobync: Timed) -> None:
    elsewhere(mobync, "create", id="a", name="x")
    phone = Rx(mobync, "phone")
    phone.pull()
    elsewhere(mobync, "delete", id="a")
    silent_for_long(mobync)
    mobync.forget_device(OWNER, "phone")
    before = {"id": "a", "name": "x", "_deleted": False}
    conflicts = phone.push({**before, "name": "y"}, before, id="1")
    assert conflicts == [{"id": "a", "name": "y", "_deleted": True}]
    assert log(mobync) == []


def test_an_rxdb_retry_is_known_whatever_the_log_has_kept(mobync: Timed) -> None:
    elsewhere(mobync, "create", id="a", name="x")
    phone = Rx(mobync, "phone")
    phone.pull()
    before = phone.rows["a"]
    late_ms = START_MS + 60_000
    sent = {"id": "1", "time": late_ms}
    phone.push({**before, "name": "mine"}, before, **sent)
    elsewhere(mobync, "update", id="a", name="theirs")  # by who has seen it, an earlier clock
    mobync.compact(OWNER)
    assert ("update", {"id": "a", "name": "mine"}) not in log(mobync)
    conflicts = phone.push({**before, "name": "mine"}, before, **sent)
    assert [each["name"] for each in conflicts] == ["theirs"]
    assert log(mobync)[-1] == ("update", {"id": "a", "name": "theirs"})
    # And what came after it is an edit over it.
    unanswered = [{"id": "1", "newDocumentState": {**before, "name": "mine"}}]
    sent = {"id": "2", "time": late_ms + 1, "unanswered": unanswered}
    phone.push({**before, "name": "mine", "done": True}, before, **sent)
    assert phone.pull()["a"] == {"id": "a", "name": "theirs", "done": True, "_deleted": False}


def test_a_create_whose_retry_comes_after_a_delete_does_not_come_back(mobync: Timed) -> None:
    phone = Rx(mobync, "phone")
    phone.pull()
    sent = {"id": "1", "time": START_MS + 60_000}
    phone.push(task("a"), **sent)
    elsewhere(mobync, "delete", id="a")
    phone.pull()
    phone.pull()
    assert mobync.compact(OWNER).horizon == 2
    assert log(mobync) == []
    assert phone.push(task("a"), **sent) == [{**task("a"), "_deleted": True}]
    assert log(mobync) == []


def test_what_a_rule_refused_is_not_done(mobync: Timed) -> None:
    elsewhere(mobync, "create", id="a", name="x")
    phone = Rx(mobync, "phone")
    phone.pull()
    before = phone.rows["a"]
    new = {**before, "name": "forbidden"}
    for _ in range(2):
        row = {"newDocumentState": new, "assumedMasterState": before, "id": "1"}
        answer = phone.ask("push", rows=[row])
        assert [each["id"] for each in answer["refused"]] == ["a"]


def test_the_times_of_fields_count_that_were_folded(mobync: Timed) -> None:
    other = Rx(mobync, "other")
    other.push(task("a"), id="1", time=START_MS - 9000)
    made = task("a")
    other.push({**made, "done": True}, made, id="2", time=START_MS)
    silent_for_long(mobync)
    phone = Rx(mobync, "phone")
    new = {**made, "name": "later than the name, earlier than done", "done": False}
    phone.push(new, None, id="3", time=START_MS - 5000)
    row = phone.pull()["a"]
    assert (row["name"], row["done"]) == (new["name"], True)


# ---- WatermelonDB --------------------------------------------------------------------------------


def test_a_watermelon_retry_is_known_whatever_the_log_has_kept(mobync: Timed) -> None:
    elsewhere(mobync, "create", id="a", name="x")
    phone = Melon(mobync, "phone")
    phone.pull()
    first = phone.last
    sent = edit("1", "a", columns={"name": "mine"})
    phone.send(sent)
    elsewhere(mobync, "update", id="a", name="theirs")
    mobync.passed_ms = 1000
    phone.pull()
    phone.pull()
    assert mobync.compact(OWNER).horizon == 3
    assert log(mobync) == [("create", {"id": "a", "name": "theirs"})]
    phone.send({**sent, "lastPulledAt": first, "age": 0})
    names = [row["name"] for _, row in log(mobync)]
    assert set(names) == {"theirs"}
    pulled = Melon(mobync, "new").pull()
    assert [row["name"] for row in pulled["tasks"]["updated"]] == ["theirs"]


def test_an_edit_from_below_the_horizon_counts_field_by_field(mobync: Timed) -> None:
    elsewhere(mobync, "create", id="a", name="x", rank=1)
    phone = Melon(mobync, "phone")
    phone.pull()
    first = phone.last
    elsewhere(mobync, "update", id="a", rank=2)
    silent_for_long(mobync)
    phone.last = None
    phone.pull()
    unsent = edit("1", "a", columns={"name": "mine"}, lastPulledAt=first)
    phone.send(unsent)
    assert log(mobync)[-1] == ("update", {"id": "a", "name": "mine"})
    pulled = Melon(mobync, "new").pull()["tasks"]["updated"]
    assert pulled == [{"id": "a", "name": "mine", "rank": 2}]


def test_a_push_from_where_no_pull_of_this_server_ended_is_refused(mobync: Timed) -> None:
    for name in "abc":
        elsewhere(mobync, "create", id=name)
    phone = Melon(mobync, "phone")
    phone.pull()
    phone.last = 3
    with pytest.raises(LogicalClockError) as raised:
        phone.send(edit("1", "a"))
    assert raised.value.behind


# ---- what is kept --------------------------------------------------------------------------------


def test_what_is_kept_of_a_device_does_not_grow(mobync: Timed) -> None:
    phone = Rx(mobync, "phone")
    phone.pull()
    for n in range(12):
        rows = [{"newDocumentState": task(f"{n} {k}"), "id": f"edit {n} {k}"} for k in range(100)]
        phone.ask("push", rows=rows)
        phone.pull(1000)
    text = mobync.synchronizer.read_devices(OWNER, ["phone"])["phone"]
    assert len(text) < 12_000


def test_collections_without_end_do_not_grow_what_is_kept() -> None:
    mobync = Timed(MemorySynchronizer())
    for n in range(250):
        mobync.passed_ms += 1
        Rx(mobync, "phone", f"collection {n}").pull()
    text = mobync.synchronizer.read_devices(OWNER, ["phone"])["phone"]
    assert len(json.loads(text)["client"]["pulls"]) == 200
    with pytest.raises(LogicalClockError):
        first = Rx(mobync, "phone", "collection 0")
        first.checkpoint = {"clock": 0, "id": "", "began": 0, "mark": "x"}
        first.pull()
