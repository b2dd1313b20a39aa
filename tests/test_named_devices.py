"""Named devices: exact retries, and starting over where the server cannot know a device's rows."""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import merge_model
import named_model
import pytest
from simulation.named import KINDS, World, failure
from simulation.named_parts import InParts
from simulation.named_phones import play
from test_merge import diff

from mobync import (
    FilterType,
    InvalidDiffError,
    Mobync,
    ReadFilter,
    Synchronizer,
    UnknownDeviceError,
)
from mobync._sync import devices
from mobync.http import Endpoint
from mobync.memory import MemorySynchronizer

STORIES = [
    json.loads(line) for line in (Path(__file__).parent / "named.jsonl").read_text().splitlines()
]
ANY_SKEW_MS = 2**52
OWNER = "o"


def seven_fields(diffs: list[Any]) -> list[Any]:
    """Diffs by value."""
    return [
        {name: d[name] for name in ("id", "logical_clock", "utc_timestamp", "type", "model")}
        | {"json_data": json.loads(d["json_data"])}
        for d in diffs
    ]


def rows_of_log(diffs: list[Any]) -> list[Any]:
    """The same of the log, with the times of single fields."""
    times = [d.get("field_times") or {} for d in diffs]
    read = [json.loads(each) if isinstance(each, str) else each for each in times]
    return [
        {**row, "field_times": other} for row, other in zip(seven_fields(diffs), read, strict=True)
    ]


class Apply:
    """A server that is asked by apply_json, as the model is."""

    def __init__(self, store: Any = None) -> None:
        self.store = MemorySynchronizer() if store is None else store
        self.mobync = Mobync(self.store, max_clock_skew_ms=ANY_SKEW_MS)

    def compact(self) -> list[Any]:
        self.mobync.compact(OWNER)
        mine = [ReadFilter("owner", FilterType.equal, OWNER)]
        with self.store.transaction(OWNER) as inside:
            rows: list[Any] = inside.read("diffs", mine)
        return sorted(rows, key=lambda row: int(row["logical_clock"]))

    def rows_of_log(self) -> int:
        return len(list(self.store.read("diffs")))

    def forget(self, name: str) -> None:
        """Have a device have been silent for very long."""
        with self.store.transaction(OWNER) as inside:
            for known, text in inside.read_devices(OWNER, [name]).items():
                silent = json.dumps({**json.loads(text), "seen_ms": 0})
                inside.write_devices(OWNER, {known: silent})

    def sync(
        self, name: str, number: int, mark: str | None, clock: int, diffs: Any
    ) -> tuple[dict[str, Any], str | None]:
        body = {"device": name, "request": number, "mark": mark}
        body |= {"logical_clock": clock, "diffs": diffs}
        try:
            reply = json.loads(self.mobync.apply_json(json.dumps(body), OWNER))
        except UnknownDeviceError:
            raise named_model.Unknown from None
        mark = reply.pop("mark")
        del reply["success"], reply["message"]
        return reply, mark

    def __deepcopy__(self, memo: Any) -> Apply:
        copied = Apply()
        copied.store._database.tables = copy.deepcopy(self.store._database.tables)
        return copied


@pytest.mark.parametrize("server", [named_model.Server, Apply])
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story["name"])
def test_a_story_goes_as_it_is_told(story: dict[str, Any], server: Callable[[], Any]) -> None:
    tell(story, server())


def tell(story: dict[str, Any], asked: Any) -> None:
    """Have a server that can be copied live through a story."""
    Teller(story, asked).tell()


class Teller:
    """Plays a story on a server, and compares what comes of it."""

    def __init__(self, story: dict[str, Any], asked: Any) -> None:
        self.steps = story["steps"]
        self.asked = asked
        self.marks: dict[int, Any] = {}
        self.given_up: dict[str, None] = {}  # names that were refused, and not taken since

    def tell(self) -> None:
        backup = copy.deepcopy(self.asked)
        for number, step in enumerate(self.steps):
            if "backup" in step:
                backup = copy.deepcopy(self.asked)
            elif "restore" in step:
                self.asked = forgetting(backup, self.asked)
            elif "forget" in step:
                self.asked.forget(step["forget"])
            elif "compact" in step:
                self.compact(number, step)
            else:
                self.sync(number, step)

    def compact(self, number: int, step: dict[str, Any]) -> None:
        after = self.steps[number + 1 :]
        if len(after) == 1 and after[0]["sync"]["device"].startswith("new"):
            for name in self.given_up:  # in the end a story has forgotten them
                self.asked.forget(name)
        assert rows_of_log(self.asked.compact()) == rows_of_log(step["log"]), number

    def sync(self, number: int, step: dict[str, Any]) -> None:
        said, expected = step["sync"], step["reply"]
        name, clock, diffs = said["device"], said["logical_clock"], said["diffs"]
        mark = None if said["mark"] is None else self.marks[said["mark"]]
        try:
            reply, self.marks[number] = self.asked.sync(name, said["request"], mark, clock, diffs)
        except named_model.Unknown:
            assert expected == "refused", number
            self.given_up[name] = None
            return
        self.given_up.pop(name, None)
        down = expected["diffs"]
        if clock == 0:  # the stories tell a new device of what is dead, too
            down = merge_model.without_dead(down, diffs, down, 2**53)
        assert seven_fields(reply.pop("diffs")) == seven_fields(down), number
        assert reply == {n: v for n, v in expected.items() if n != "diffs"}, number


def forgetting(backup: Any, after: Any) -> Any:
    """A server as it was.  No mark that it gives is one that it gave before and has forgotten."""
    restored = copy.deepcopy(backup)
    if isinstance(restored, named_model.Server):
        restored.marks = after.marks
    return restored


# ---- a small world ------------------------------------------------------------------------------


def with_made_ids(expected: list[Any], got: list[Any]) -> list[Any]:
    """Diffs of the model, with the ids that the server made where the log had the device's."""
    return [
        {**wanted, "id": found["id"]} if wanted["id"].endswith(named_model.AGAIN) else wanted
        for wanted, found in zip(expected, got, strict=True)
    ]


class Both:
    """The C and the model, asked the same: they must answer the same."""

    def __init__(self) -> None:
        self.c = Apply()
        self.model = named_model.Server()
        self.marks: dict[str | None, int | None] = {None: None}

    def sync(self, request: Any) -> Any:
        name, number, mark = (request[n] for n in ("device", "request", "mark"))
        clock, diffs = request["logical_clock"], request["diffs"]
        try:
            expected, model_mark = self.model.sync(name, number, self.marks[mark], clock, diffs)
        except named_model.Unknown:
            with pytest.raises(named_model.Unknown):
                self.c.sync(name, number, mark, clock, diffs)
            raise UnknownDeviceError("") from None
        reply, new_mark = self.c.sync(name, number, mark, clock, diffs)
        expected_diffs = with_made_ids(expected["diffs"], reply["diffs"])
        assert seven_fields(reply["diffs"]) == seven_fields(expected_diffs)
        assert {**reply, "diffs": []} == {**expected, "diffs": []}
        self.marks[new_mark] = model_mark
        return {**reply, "mark": new_mark}

    def compact(self) -> None:
        log, expected = self.c.compact(), self.model.compact()
        assert rows_of_log(log) == rows_of_log(with_made_ids(expected, log))

    def forget(self, name: str) -> None:
        self.model.forget(name)
        self.c.forget(name)

    def rows(self) -> dict[str, Any]:
        return {row["id"]: row for row in self.c.store.read("tasks")}

    def clock(self) -> int:
        return self.c.mobync.logical_clock(OWNER)

    def rows_of_log(self) -> int:
        return self.c.rows_of_log()

    def check_what_is_kept(self) -> None:
        pass  # neither keeps parts

    def gone_back_to(self, backup: Both) -> Both:
        restored = copy.deepcopy(backup)
        restored.model = forgetting(backup.model, self.model)
        restored.marks = dict(self.marks)
        return restored


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", range(2))
def test_the_model_and_the_server_answer_the_same(batch: int, kind: str) -> None:
    for seed in range(100 * batch, 100 * batch + 100):
        World(seed, kind, Both(), richly=False).play()  # the model knows no pages


@pytest.mark.long
@pytest.mark.parametrize("batch", range(2))
def test_histories_of_named_devices_end_as_is_promised(batch: int) -> None:
    for seed in range(600 * batch, 600 * batch + 600):
        assert failure(seed, Counter()) is None, seed


# ---- retries ------------------------------------------------------------------------------------


def synced(mobync: Mobync, clock: int, diffs: list[Any], **device: Any) -> Any:
    return mobync.apply(clock, copy.deepcopy(diffs), OWNER, **device)


PHONE: dict[str, Any] = {"device": "phone", "request": 1, "mark": None}


def test_a_late_request_does_not_bring_back_what_was_created_and_deleted_since():
    mobync = Mobync(MemorySynchronizer())
    first = [diff("c", "create", {"id": "t"})]
    second = [*first, diff("d", "delete", {"id": "t"})]
    for device in ({}, PHONE):
        assert synced(mobync, 0, second, **device)["logical_clock"] == 0
        if device:
            with pytest.raises(UnknownDeviceError, match="take a new name"):
                synced(mobync, 0, first, **device)
        else:  # the known limit of a device without a name
            reply = synced(mobync, 0, first)
            assert reply["logical_clock"] == 1
            assert "mark" not in reply
            mobync = Mobync(MemorySynchronizer())


class Choosy(MemorySynchronizer):
    """Refuses secrets, and counts what it is asked."""

    allows = True

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def validate_create(self, owner_id: str, **each: Any) -> bool:
        self.asked.append(each["id"])
        return self.allows and "secret" not in each["json_data"]


def test_a_retry_is_not_asked_of_again_and_writes_nothing():
    store = Choosy()
    mobync = Mobync(store)
    sent = [diff("c", "create", {"id": "t", "a": 1})]
    first = synced(mobync, 0, sent, **PHONE)
    store.allows = False
    again = synced(mobync, 0, sent, **PHONE)
    assert store.asked == ["c"]
    assert {**again, "mark": ""} == {**first, "mark": ""}
    assert again["mark"] != first["mark"]
    for mark in (first["mark"], again["mark"]):  # either reply may have arrived
        mine = Mobync(copy_of(store))
        update = [diff("u", "update", {"id": "t", "a": 2})]
        later = {"device": "phone", "request": 2, "mark": mark}
        assert synced(mine, 1, update, **later)["logical_clock"] == 2


def copy_of(store: MemorySynchronizer) -> MemorySynchronizer:
    copied = MemorySynchronizer()
    copied._database.tables = copy.deepcopy(store._database.tables)
    return copied


def test_of_very_many_refusals_a_retry_hears_the_places():
    store = MemorySynchronizer()
    server = Mobync(store, on_refusal="skip", max_clock_skew_ms=ANY_SKEW_MS)
    ids = [f"{random.Random(n).randrange(2**64):x}" for n in range(20_000)]
    wrong = [{**diff(n, "create", {"id": n}), "model": 7} for n in ids]
    body = json.dumps(
        {"device": "phone", "request": 1, "mark": None, "logical_clock": 0}
        | {"diffs": [*wrong, diff("good", "create", {"id": "x"})]}
    )
    first = json.loads(server.apply_json(body, OWNER))
    assert [each["id"] for each in first["refused"]] == ids
    (state,) = store.read_devices(OWNER, ["phone"]).values()
    assert len(state) < 200_000
    again = json.loads(server.apply_json(body, OWNER))
    assert [each["index"] for each in again["refused"]] == list(range(len(ids)))
    assert again["logical_clock"] == first["logical_clock"] == 1


def test_a_retry_says_once_more_what_was_refused_and_restores_it():
    store = Choosy()
    mobync = Mobync(store, on_refusal="skip")
    sent = [
        diff("s", "create", {"id": "s", "a": "secret"}),
        diff("x", "update", {"id": "s", "a": 1}),
        diff("c", "create", {"id": "t"}),
        {**diff("m", "create", "{"), "model": "tasks"},
    ]
    first = synced(mobync, 0, sent, **PHONE)
    assert [r["id"] for r in first["refused"]] == ["s", "x", "m"]
    assert [d["type"] for d in first["diffs"]] == ["delete"]
    asked = list(store.asked)
    again = synced(mobync, 0, sent, **PHONE)
    assert store.asked == asked
    assert again["refused"] == first["refused"]
    assert [d["json_data"] for d in again["diffs"]] == [d["json_data"] for d in first["diffs"]]
    assert again["logical_clock"] == 1


def test_a_retry_that_differs_in_anything_is_none():
    sent = diff("c", "create", {"id": "t", "a": 1}, 10)
    for other in (
        {**sent, "utc_timestamp": 11},
        {**sent, "json_data": '{"id": "t", "a": 2}'},
        {**sent, "type": "update"},
        {**sent, "model": "notes"},
        {**sent, "id": "d"},
    ):
        mobync = Mobync(MemorySynchronizer())
        synced(mobync, 0, [sent], **PHONE)
        with pytest.raises(UnknownDeviceError):
            synced(mobync, 0, [other], **PHONE)
        assert synced(mobync, 0, [sent], **PHONE)["logical_clock"] == 1


def test_what_fails_leaves_the_device_as_it_was():
    class Failing(MemorySynchronizer):
        fails = True

        def append_log(self, where: str, rows: Any) -> None:
            if self.fails:
                raise ZeroDivisionError
            super().append_log(where, rows)

    store = Failing()
    mobync = Mobync(store)
    sent = [diff("c", "create", {"id": "t"})]
    with pytest.raises(ZeroDivisionError):
        synced(mobync, 0, sent, **PHONE)
    assert store.read_devices(OWNER, None) == {}
    store.fails = False
    assert synced(mobync, 0, sent, **PHONE)["logical_clock"] == 1


def test_a_device_that_asks_for_ever_without_hearing_is_still_known():
    store = MemorySynchronizer()
    mobync = Mobync(store)
    mobync.push(OWNER, [("create", "tasks", {"id": "t"})])
    marks = [synced(mobync, 0, [], **PHONE)["mark"] for _ in range(3 * devices.MOST_MARKS)]
    kept = json.loads(store.read_devices(OWNER, ["phone"])["phone"])
    assert len(kept["marks"]) == devices.MOST_MARKS
    assert synced(mobync, 0, [], **PHONE)["logical_clock"] == 1
    later = {"device": "phone", "request": 1, "mark": marks[-1]}
    assert synced(mobync, 1, [], **later)["mark"] == marks[-1]  # a poll


# ---- starting over ------------------------------------------------------------------------------


def test_a_phone_of_a_restored_server_starts_over_and_loses_nothing_that_it_had_not_sent():
    store = MemorySynchronizer()
    mobync = Mobync(store)
    phone = synced(mobync, 0, [diff("c", "create", {"id": "t", "a": 1, "b": 1})], **PHONE)
    backup = copy.deepcopy(store._database.tables)
    mine = {"device": "phone", "request": 2, "mark": phone["mark"]}
    phone = synced(mobync, 1, [diff("u", "update", {"id": "t", "a": 2})], **mine)
    store._database.tables = backup
    mobync.push(OWNER, [("update", "tasks", {"id": "t", "b": 2})])
    mobync.push(OWNER, [("create", "tasks", {"id": "other"})])

    unsent = [diff("v", "update", {"id": "t", "a": 3}), diff("w", "update", {"id": "gone"})]
    mine = {"device": "phone", "request": 3, "mark": phone["mark"]}
    with pytest.raises(UnknownDeviceError):
        synced(mobync, 2, unsent, **mine)
    again = [{**each, "id": f"new {each['id']}"} for each in unsent]
    heard: list[Any] = []
    mobync.listen(heard.append)
    reset = synced(mobync, 2, again, device="phone 2", request=1)
    assert (reset["logical_clock"], reset["diffs"], reset["reset"]) == (0, [], True)
    assert [(r.logical_clock, r.accepted, r.device, r.reset) for r in heard] == [
        (4, 1, "phone 2", True)
    ]
    retried = synced(mobync, 2, again, device="phone 2", request=1)
    assert retried["reset"]
    assert mobync.logical_clock(OWNER) == 4
    whole = synced(mobync, 0, [], device="phone 2", request=2, mark=retried["mark"])
    assert "reset" not in whole
    assert play({}, whole["diffs"]) == {
        "t": {"id": "t", "a": 3, "b": 2},
        "other": {"id": "other"},
    }


def test_rules_are_asked_of_what_a_device_sends_that_starts_over():
    store = Choosy()
    mobync = Mobync(store, on_refusal="skip")
    sent = [diff("s", "create", {"id": "s", "a": "secret"}), diff("c", "create", {"id": "t"})]
    for _ in range(2):
        reply = synced(mobync, 7, sent, device="phone", request=1)
        assert (reply["reset"], [r["id"] for r in reply["refused"]]) == (True, ["s"])
    assert [row["id"] for row in store.read("tasks")] == ["t"]
    assert store.asked == ["s", "c"]


# ---- pages --------------------------------------------------------------------------------------


def test_a_page_before_the_last_changes_only_the_hold_and_all_pages_carry_the_same():
    store = MemorySynchronizer()
    mobync = Mobync(store)
    mobync.push(OWNER, [("create", "tasks", {"id": f"t{n}"}) for n in range(5)])
    sent = [diff("c", "create", {"id": "mine"})]
    page = synced(mobync, 0, sent, limit=2, **PHONE)
    pulled = page["diffs"]
    assert (page["more"], page["mark"]) == (True, None)
    while page["more"]:
        kept = devices.Device.of_text(store.read_devices(OWNER, ["phone"])["phone"])
        assert (kept.number, kept.content, kept.marks) == (0, "", [(None, 0)])
        assert (kept.hold, kept.has_pulled) == (0, False)
        assert mobync.logical_clock(OWNER) == 5
        cursor = page["cursor"]
        page = synced(mobync, 0, sent, limit=2, cursor=cursor, **PHONE)
        pulled += page["diffs"]
    assert {json.loads(d["json_data"])["id"] for d in pulled} == {f"t{n}" for n in range(5)}
    again = synced(mobync, 0, sent, limit=2, cursor=cursor, **PHONE)
    assert (again["logical_clock"], again["more"]) == (6, False)
    assert again["diffs"] == page["diffs"]
    polled = synced(mobync, 6, [], limit=2, device="phone", request=2, mark=again["mark"])
    assert (polled["mark"], polled["more"]) == (again["mark"], False)


# ---- what a device may say ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"device": ""}, "device must be a text of 1 to 255 characters"),
        ({"device": "x" * 256}, "device must be a text"),
        ({"device": "a\0b"}, "(device must be a text|U.0000)"),
        ({"device": 7}, "device must be a text"),
        ({"device": {"a": 1}}, "device must be a text"),
        ({"device": "phone"}, "request must be an int from 1"),
        ({"device": "phone", "request": 0}, "request must be an int from 1"),
        ({"device": "phone", "request": -1}, "request must be an int from 1"),
        ({"device": "phone", "request": 1.5}, "request must be an int from 1"),
        ({"device": "phone", "request": True}, "request must be an int from 1"),
        ({"device": "phone", "request": 2**53}, "request must be an int from 1"),
        ({"device": "phone", "request": 1, "mark": ""}, "mark does not come from a reply"),
        ({"device": "phone", "request": 1, "mark": 7}, "mark does not come from a reply"),
        ({"device": "phone", "request": 1, "mark": "x" * 256}, "mark does not come from a reply"),
    ],
)
def test_what_a_device_says_wrongly_of_itself_is_refused(said, complaint):
    mobync = Mobync(MemorySynchronizer())
    with pytest.raises(InvalidDiffError, match=f"^invalid request: {complaint}"):
        mobync.apply(0, [], OWNER, **said)
    body = json.dumps({"logical_clock": 0, "diffs": [], **said})
    with pytest.raises(InvalidDiffError, match=f"^invalid request: {complaint}"):
        mobync.apply_json(body, OWNER)


def test_a_request_may_be_a_text_of_digits_and_null_is_nothing():
    mobync = Mobync(MemorySynchronizer())
    body = b'{"logical_clock": 0, "diffs": [], "device": "p\\u00e9", "request": "1", "mark": null}'
    assert json.loads(mobync.apply_json(body, OWNER))["mark"]
    anonymous = b'{"logical_clock": 0, "diffs": [], "device": null, "request": {}, "mark": []}'
    assert "mark" not in json.loads(mobync.apply_json(anonymous, OWNER))


def test_devices_of_two_owners_that_have_one_name_are_two():
    mobync = Mobync(MemorySynchronizer())
    for owner in ("anna", "bob"):
        sent = [diff(f"c {owner}", "create", {"id": f"t {owner}"})]
        assert mobync.apply(0, sent, owner, **PHONE)["logical_clock"] == 1


class KeepsNone(MemorySynchronizer):
    read_devices = Synchronizer.read_devices
    write_devices = Synchronizer.write_devices


def test_a_store_that_keeps_no_devices_does_not_look_at_their_names():
    mobync = Mobync(KeepsNone())
    sent = [diff("c", "create", {"id": "t"})]
    for said in (PHONE, {"device": 7, "request": "x"}):
        reply = synced(mobync, 0, sent, **said)
        assert reply["logical_clock"] == 1
        assert "mark" not in reply


def test_a_database_whose_devices_have_no_table_yet_is_one_that_keeps_none():
    class WithoutTable(MemorySynchronizer):
        def read_devices(self, owner_id: str, names: Any) -> Any:
            return None

    mobync = Mobync(WithoutTable())
    sent = [diff("c", "create", {"id": "t"})]
    for _ in range(2):  # the second one is a retry without a name
        reply = synced(mobync, 0, sent, device="phone", request=5, mark="x")
        assert (reply["logical_clock"], reply["diffs"]) == (1, [])
        assert "mark" not in reply
    assert synced(mobync, 1, [], device="phone", request=7)["logical_clock"] == 1


def test_the_memory_store_keeps_the_devices_of_each_owner_by_their_names():
    store = MemorySynchronizer()
    store.write_devices("anna", {"": "1", "phone": "2", "tablet": "3"})
    store.write_devices("bob", {"phone": "4"})
    assert store.read_devices("anna", None) == {"": "1", "phone": "2", "tablet": "3"}
    assert store.read_devices("anna", ["", "phone", "watch"]) == {"": "1", "phone": "2"}
    store.write_devices("anna", {"phone": None, "tablet": "5"})
    assert store.read_devices("anna", None) == {"": "1", "tablet": "5"}
    with pytest.raises(ZeroDivisionError), store.transaction("bob") as inside:
        inside.write_devices("bob", {"phone": None})
        assert inside.read_devices("bob", None) == inside.read_devices("bob", ["phone"]) == {}
        raise ZeroDivisionError
    assert store.read_devices("bob", None) == {"phone": "4"}


def test_over_http_an_unknown_device_is_409():
    endpoint = Endpoint(Mobync(MemorySynchronizer()), lambda token, headers: OWNER)
    headers = {"Content-Type": "application/json"}
    body = {"logical_clock": 0, "diffs": [], "device": "phone", "request": 5, "mark": "x"}
    answer = endpoint.sync(headers, json.dumps(body).encode())
    assert (answer.status, json.loads(answer.body)["code"]) == (409, "unknown_device")
    wrong = endpoint.sync(headers, json.dumps({**body, "request": 0}).encode())
    assert (wrong.status, json.loads(wrong.body)["code"]) == (400, "invalid_request")


# ---- requests in parts --------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_histories_with_requests_in_parts_end_as_is_promised(kind: str) -> None:
    counts: Counter[str] = Counter()
    for seed in range(100):
        server = InParts(seed, is_quiet=kind != "anything")
        World(seed, kind, server).play()
        counts += server.counts
    assert counts["parts"] > 1000
    assert min(counts["parts missing"], counts["late parts"]) > 100, counts
