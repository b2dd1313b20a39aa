"""A request in parts, on every store: docs/protocol.md, "A request in parts"."""

from __future__ import annotations

import asyncio
import json
import random
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import async_databases
import databases
import pytest
import sqlalchemy as sa
from databases import open_database
from django_databases import django_database
from task_list import TaskList, diff

from mobync import (
    DeviceRevokedError,
    InvalidDiffError,
    Mobync,
    NoPartsError,
    OwnerMovedError,
    PartsMissingError,
    RequestTooLargeError,
    SyncReport,
    UnauthorizedError,
    UnknownDeviceError,
)
from mobync._sync import parts as parts_module
from mobync._sync.uploads import KEPT_MS
from mobync.memory import MemorySynchronizer
from mobync.sqlalchemy import (
    AsyncDocumentSynchronizer,
    DocumentSynchronizer,
    SQLAlchemySynchronizer,
    create_tables,
    create_tables_async,
)

# Django must know its settings first.
from django.db import connections  # isort: skip
from django_app.models import Project, Task  # isort: skip
from mobync.django import DjangoSynchronizer  # isort: skip

opened = async_databases.opened
BOB = "bob"
STORES = ["memory", *databases.KINDS, *(f"django on {kind}" for kind in databases.KINDS)]


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    kind = request.param.removeprefix("django on ")
    if kind == "memory":
        yield MemorySynchronizer()
    elif kind == request.param:
        with open_database(kind, tmp_path) as database:
            yield TaskList(database).store
    else:
        with django_database(kind, tmp_path, [Project, Task]) as alias:
            made = DjangoSynchronizer({"tasks": Task, "projects": Project}, using=alias)
            made.filled_models = None  # the log has what devices push, and nothing of the defaults
            yield made


class Phone:
    """What a device says of itself in each part of a request."""

    def __init__(self, mobync: Mobync, name: str = "phone", upload: str | None = "first") -> None:
        self.mobync = mobync
        self.said: dict[str, Any] = {"device": name, "request": 1}
        self.clock = 0
        self.upload = upload

    def send(self, number: int, diffs: list[Any], *, more: bool = True, **said: Any) -> Any:
        cut = {"part": number, "more_diffs": more, "upload": self.upload}
        body = {"logical_clock": self.clock, "diffs": diffs, **self.said, **cut, **said}
        return json.loads(self.mobync.apply_json(json.dumps(body), BOB))

    def send_all(self, cut: list[list[Any]], **said: Any) -> Any:
        for number, some in enumerate(cut[:-1], 1):
            self.send(number, some, **said)
        return self.send(len(cut), cut[-1], more=False, **said)

    def whole(self, diffs: list[Any], **said: Any) -> Any:
        body = {"logical_clock": self.clock, "diffs": diffs, **self.said, **said}
        return json.loads(self.mobync.apply_json(json.dumps(body), BOB))

    def take(self, reply: Any) -> None:
        number = self.said["request"] + 1
        self.said = {**self.said, "request": number, "mark": reply["mark"]}
        self.clock = reply["logical_clock"]


def creates(count: int, first: int = 0) -> list[dict[str, Any]]:
    # Django's tasks have a title, no two the same; the others have a name.
    return [diff("create", id=f"t{n:03}", title=f"é {n}") for n in range(first, first + count)]


def without_titles(store: Any, diffs: list[Any]) -> list[Any]:
    """The diffs as the store's own table of tasks takes them."""
    if not isinstance(store, SQLAlchemySynchronizer):
        return diffs
    return [{**d, "json_data": d["json_data"].replace('"title"', '"name"')} for d in diffs]


def edits_of(store: Any, count: int) -> list[Any]:
    return without_titles(store, creates(count))


def pushes(store: Any, count: int = 1) -> list[Any]:
    """Rows that the backend makes."""
    field = "name" if isinstance(store, SQLAlchemySynchronizer) else "title"
    return [("create", "tasks", {"id": f"s{n}", field: f"s {n}"}) for n in range(count)]


def log_of(store: Any) -> list[dict[str, Any]]:
    with store.transaction(BOB) as inside:
        rows = inside.read("diffs") if not isinstance(store, MemorySynchronizer) else None
        found = store.read("diffs") if rows is None else rows
    return sorted(found, key=lambda row: int(row["logical_clock"]))


def parts_of(store: Any, device: str = "phone") -> list[tuple[int, str]]:
    with store.transaction(BOB) as inside:
        return list(inside.read_parts(BOB, device))


def upload_of(store: Any, device: str = "phone") -> str:
    with store.transaction(BOB) as inside:
        kept = inside.read_devices(BOB, [device])
    return str(json.loads(kept[device])["upload"]) if device in kept else ""


# ---- parts become one request -------------------------------------------------------------------


def test_parts_in_any_order_and_twice_are_one_request(store: Any) -> None:
    mobync = Mobync(store)
    reports: list[SyncReport] = []
    mobync.listen(reports.append)
    phone, edits = Phone(mobync), edits_of(store, 9)
    cut = [edits[:2], edits[2:3], [], edits[3:]]
    for number in (3, 1, 2, 1, 3):
        kept = phone.send(number, cut[number - 1])
        assert kept == {
            "success": True,
            "message": "",
            "logical_clock": 0,
            "diffs": [],
            "part": number,
        }
    assert (log_of(store), reports) == ([], [])
    reply = phone.send(4, cut[3], more=False)
    assert (reply["logical_clock"], reply["diffs"], reply["part"]) == (9, [], 4)
    assert [row["id"] for row in log_of(store)] == [d["id"] for d in edits]
    assert [(r.pushed, r.accepted, r.device) for r in reports] == [(9, 9, "phone")]
    phone.take(reply)
    assert phone.whole([])["logical_clock"] == 9


def test_the_last_part_says_which_are_missing(store: Any) -> None:
    phone, edits = Phone(Mobync(store)), edits_of(store, 5)
    phone.send(2, edits[1:2])
    with pytest.raises(PartsMissingError, match="are missing: 1, 3, 4") as error:
        phone.send(5, edits[4:], more=False)
    assert error.value.missing == [1, 3, 4]
    assert log_of(store) == []
    for number in error.value.missing:
        phone.send(number, [edits[number - 1]])
    assert phone.send(5, edits[4:], more=False)["logical_clock"] == 5
    assert [row["id"] for row in log_of(store)] == [d["id"] for d in edits]


@pytest.mark.parametrize("again", ["the last", "all", "whole", "cut in another way"])
def test_a_retry_gets_the_same_answer(store: Any, again: str) -> None:
    mobync = Mobync(store)
    phone, edits = Phone(mobync), edits_of(store, 6)
    first = phone.send_all([edits[:3], edits[3:]])
    mobync.push(BOB, [("delete", "tasks", {"id": "t000"})])
    if again == "the last":
        reply = phone.send(2, edits[3:], more=False)
    elif again == "all":
        reply = phone.send_all([edits[:3], edits[3:]])
    elif again == "whole":
        reply = phone.whole(edits)
    else:
        reply = phone.send_all([[each] for each in edits], upload="second")
    assert (first["logical_clock"], reply["logical_clock"]) == (6, 7)
    assert [d["type"] for d in reply["diffs"]] == ["delete"]
    assert len(log_of(store)) == 7
    phone.take(reply)
    assert phone.whole(without_titles(store, creates(1, 50)))["logical_clock"] == 8


def test_parts_of_two_cuts_are_never_mixed(store: Any) -> None:
    """A late copy of a part of an earlier cut comes between the parts of a later one."""
    phone, edits = Phone(Mobync(store)), edits_of(store, 6)
    phone.send(1, edits[:4])
    phone.send(1, edits[:2], upload="second")
    phone.send(1, edits[:4])  # the late copy
    with pytest.raises(PartsMissingError):
        phone.send(2, edits[2:], more=False, upload="second")
    assert phone.send_all([edits[:2], edits[2:]], upload="second")["logical_clock"] == 6
    assert [row["id"] for row in log_of(store)] == [d["id"] for d in edits]


def test_without_a_name_a_part_that_differs_begins_the_parts_again(store: Any) -> None:
    phone, edits = Phone(Mobync(store), upload=None), edits_of(store, 6)
    for number in (1, 2, 3):
        phone.send(number, [edits[number - 1]])
    phone.send(1, edits[:3])
    assert {number for number, _ in parts_of(store)} == {1}
    phone.send(2, edits[3:5])
    assert phone.send(3, edits[5:], more=False)["logical_clock"] == 6
    assert [row["id"] for row in log_of(store)] == [d["id"] for d in edits]


def test_a_long_part_is_kept_to_the_letter(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In several rows, and whatever stands in it: escapes, characters of four bytes, no spaces."""
    monkeypatch.setattr(parts_module, "PIECE_CHARACTERS", 50)
    phone = Phone(Mobync(store))
    edits = edits_of(store, 4)
    for n, each in enumerate(edits):
        each["extra"] = ["\\\"'%s", "\U0001d11e" * 60, {"n": n}]
    head = {**phone.said, "logical_clock": 0, "part": 1, "more_diffs": True, "upload": "first"}
    spaced = json.dumps(edits[:3], ensure_ascii=False, indent=1)
    body = json.dumps(head)[:-1] + f', "diffs":\n {spaced} }}'
    phone.mobync.apply_json(body, BOB)
    kept = parts_of(store)
    assert len(kept) > 10 or isinstance(store, MemorySynchronizer)
    assert "".join(text for _, text in kept) == spaced
    assert phone.send(2, edits[3:], more=False)["logical_clock"] == 4
    assert [row["json_data"] for row in log_of(store)] == [d["json_data"] for d in edits]


def test_apply_takes_parts_too(store: Any) -> None:
    mobync, edits = Mobync(store), edits_of(store, 3)
    said: Any = {"device": "phone", "request": 1, "upload": "u"}
    kept = mobync.apply(0, edits[:2], BOB, part=1, more_diffs=True, **said)
    assert (kept["part"], kept["diffs"], "mark" in kept) == (1, [], False)
    reply = mobync.apply(0, tuple(edits[2:]), BOB, part=2, **said)
    assert (reply["part"], reply["logical_clock"]) == (2, 3)
    again = mobync.apply(0, edits, BOB, device="phone", request=1)
    assert again["logical_clock"] == 3


def test_a_device_that_nobody_knows_may_begin_with_parts_from_any_clock(store: Any) -> None:
    """As one does that has taken a new name; the answer has it start over."""
    mobync = Mobync(store)
    clock = mobync.push(BOB, pushes(store))
    phone, edits = Phone(mobync), edits_of(store, 4)
    phone.clock = clock
    phone.send(1, edits[:1])
    assert not [d for d in mobync.devices(BOB) if d.holds_horizon]
    reply = phone.send_all([edits[:1], edits[1:]])
    assert (reply["reset"], reply["logical_clock"], reply["diffs"]) == (True, 0, [])
    assert len(log_of(store)) == 5


def test_a_device_that_has_sent_a_part_may_begin_otherwise(store: Any) -> None:
    mobync, edits = Mobync(store), edits_of(store, 2)
    phone = Phone(mobync)
    phone.clock = mobync.push(BOB, pushes(store))
    phone.send(1, edits[:1])
    phone.clock = 0
    assert [d["type"] for d in phone.whole([])["diffs"]] == ["create"]


def test_pages_of_a_request_in_parts_come_with_the_last_part(store: Any) -> None:
    mobync = Mobync(store)
    mobync.push(BOB, pushes(store, 5))
    phone, edits = Phone(mobync), edits_of(store, 4)
    reply = phone.send_all([edits[:3], edits[3:]], limit=2)
    seen = list(reply["diffs"])
    while reply["more"]:
        assert "mark" not in reply or reply["mark"] is None
        said = {"limit": 2, "cursor": reply["cursor"]}
        reply = phone.send(2, edits[3:], more=False, **said)
        seen += reply["diffs"]
    assert [json.loads(d["json_data"])["id"] for d in seen] == [f"s{n}" for n in range(5)]
    assert reply["logical_clock"] == 9


def test_parts_are_put_together_without_having_all_of_them_twice(store: Any) -> None:
    """What is in memory at once is the whole, and a few times one of its parts."""
    mobync, count, size = Mobync(store), 17, 512 * 1024
    said = {"device": "phone", "number": 1, "mark": None, "clock": 0, "limit": None}
    cut = {"cursor": None, "upload": "u"}
    texts = [json.dumps([f"{n} " + "x" * size]) for n in range(count)]
    for n, text in enumerate(texts[:-1], 1):
        part = parts_module.Part(**said, **cut, part=n, has_more=True, diffs=text)
        parts_module.take_part(mobync, BOB, *part)
    last = parts_module.Part(**said, **cut, part=count, has_more=False, diffs=texts[-1])
    tracemalloc.start()
    try:
        _, body = parts_module.take_part(mobync, BOB, *last)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert body is not None
    assert json.loads(body)["diffs"] == [json.loads(text)[0] for text in texts]
    assert most < 1.7 * count * size


# ---- what is refused ----------------------------------------------------------------------------


def test_a_part_is_refused_as_the_whole_would_be(store: Any) -> None:
    mobync = Mobync(store)
    phone, edits = Phone(mobync), edits_of(store, 4)
    for wrong in ({"request": 2}, {"mark": "another"}):
        with pytest.raises(UnknownDeviceError):
            phone.send(1, edits[:1], **wrong)
    phone.take(phone.send_all([edits[:1], edits[1:2]]))
    for wrong in ({"request": 3}, {"mark": "another"}, {"logical_clock": 1}, {"request": 1}):
        for more in (True, False):
            with pytest.raises(UnknownDeviceError):
                phone.send(2, edits[2:], more=more, **wrong)
    phone.send(1, edits[2:3])
    mobync.revoke_device(BOB, "phone")
    for more in (True, False):
        with pytest.raises(DeviceRevokedError):
            phone.send(2, edits[3:], more=more)
    assert (parts_of(store), len(log_of(store))) == ([], 2)


def test_the_place_of_a_bad_diff_is_its_place_in_the_whole(store: Any) -> None:
    phone, edits = Phone(Mobync(store)), edits_of(store, 6)
    bad = [*edits[:3], {**edits[3], "type": "mend"}, *edits[4:]]
    phone.send(1, bad[:2])
    phone.send(2, bad[2:4])
    with pytest.raises(InvalidDiffError) as error:
        phone.send(3, bad[4:], more=False)
    assert (error.value.index, error.value.diff_id) == (3, edits[3]["id"])
    skipping = Phone(Mobync(store, on_refusal="skip"), upload="skipping")
    reply = skipping.send_all([bad[:2], bad[2:4], bad[4:]])
    assert [refusal["id"] for refusal in reply["refused"]] == [edits[3]["id"]]
    assert len(log_of(store)) == 5


def test_the_parts_are_bounded_in_all(store: Any) -> None:
    edits = edits_of(store, 10)
    size = len(json.dumps(edits[:5]))
    phone = Phone(Mobync(store, max_request_bytes=2 * size + 10, max_diffs=5))
    phone.send(1, edits[:5])
    with pytest.raises(InvalidDiffError, match="too many for one request"):
        phone.send(2, edits[4:])
    assert phone.send(2, edits[5:], more=False)["logical_clock"] == 10
    phone = Phone(Mobync(store, max_request_bytes=2 * size - 10), "tablet")
    phone.send(1, edits[:5])
    for more in (True, False):
        with pytest.raises(RequestTooLargeError, match=f"{2 * size - 10} bytes .*max_request"):
            phone.send(2, edits[5:], more=more)
    with pytest.raises(RequestTooLargeError):
        phone.send(1, edits * 2, more=False)


def test_an_owner_has_only_so_many_parts(store: Any) -> None:
    """The oldest go first; the device that has sent them is told that they are missing."""
    edits = edits_of(store, 2)
    size = len(json.dumps(edits[:1]))
    mobync = Mobync(store, max_request_bytes=2 * size)
    phones = [Phone(mobync, f"phone {n}") for n in range(9)]
    for phone in phones:
        phone.send(1, edits[:1])
    names = [phone.said["device"] for phone in phones]
    assert [name for name in names if parts_of(store, name)] == names[1:]
    assert [name for name in names if upload_of(store, name)] == names[1:]
    with pytest.raises(PartsMissingError):
        phones[0].send(2, edits[1:], more=False)
    assert phones[1].send(2, edits[1:], more=False)["logical_clock"] == 2


# ---- how long parts are kept --------------------------------------------------------------------


class Clocked(Mobync):
    """A server whose time is set."""

    later_ms = 0

    def _now_ms(self) -> int:
        return super()._now_ms() + self.later_ms


def test_parts_go_with_the_next_number(store: Any) -> None:
    phone, edits = Phone(Mobync(store)), edits_of(store, 8)
    phone.send(1, edits[:2])
    assert parts_of(store)
    phone.take(phone.whole(edits[:4]))  # the device does the request otherwise
    phone.whole([])
    phone.take(phone.whole(edits[4:5]))
    assert (parts_of(store), upload_of(store)) == ([], "")
    phone.take(phone.send_all([edits[5:6], edits[6:7]]))
    phone.send(1, edits[7:])  # of the next request
    assert {number for number, _ in parts_of(store)} == {1}
    assert len(parts_of(store)) == 1


@pytest.mark.parametrize("by", ["the device", "another device", "compaction"])
def test_parts_go_after_a_day(store: Any, by: str) -> None:
    mobync = Clocked(store, anonymous_devices=False)
    phone, edits = Phone(mobync), edits_of(store, 8)
    other = Phone(mobync, "other")
    phone.take(phone.whole(edits[:1]))
    phone.send(1, edits[1:2])

    def something() -> None:
        if by == "the device":
            phone.whole([])
        elif by == "another device":
            other.send(1, edits[2:3])
        else:
            mobync.compact(BOB)

    mobync.later_ms = KEPT_MS // 2
    something()
    assert parts_of(store)
    other.upload = "second"
    mobync.later_ms = 10 * KEPT_MS  # so that a poll is noted
    something()
    assert (parts_of(store), upload_of(store)) == ([], "")
    with pytest.raises(PartsMissingError):
        phone.send(2, edits[2:], more=False)


def test_parts_go_when_the_owner_becomes_another(store: Any) -> None:
    """The device sends them again, as one of the new owner."""
    mobync = Mobync(store)
    phone, edits = Phone(mobync), edits_of(store, 4)
    first = phone.whole(edits[:1])
    phone.take(first)
    phone.send(1, edits[1:2])
    mobync.move_owner(BOB, "anna")
    assert (parts_of(store), upload_of(store)) == ([], "")
    for more in (True, False):
        with pytest.raises(OwnerMovedError):
            phone.send(2, edits[2:], more=more)
    said: Any = {"mark": first["mark"], "device": "phone", "request": 2, "upload": "first"}
    with pytest.raises(PartsMissingError):
        mobync.apply(1, edits[2:], "anna", part=2, **said)
    mobync.apply(1, edits[1:2], "anna", part=1, more_diffs=True, **said)
    assert mobync.apply(1, edits[2:], "anna", part=2, **said)["reset"]
    rows = mobync.apply(0, [], "anna")["diffs"]
    assert [json.loads(row["json_data"])["id"] for row in rows] == ["t000", "t001", "t002", "t003"]


@pytest.mark.parametrize("how", ["forget", "revoke", "erase"])
def test_parts_go_with_what_is_kept_of_the_device(store: Any, how: str) -> None:
    mobync = Mobync(store)
    phone, edits = Phone(mobync), edits_of(store, 3)
    phone.take(phone.whole(edits[:1]))
    phone.send(1, edits[1:2])
    mobync.name_device(BOB, "phone", "Bob's")
    assert parts_of(store)
    if how == "forget":
        mobync.forget_device(BOB, "phone")
    elif how == "revoke":
        mobync.revoke_device(BOB, "phone")
    else:
        mobync.erase(BOB)
    assert (parts_of(store), upload_of(store)) == ([], "")


# ---- where parts cannot be kept -----------------------------------------------------------------


class WithoutDevices(MemorySynchronizer):
    """A store that keeps devices like a store of mobync 1.0: not at all."""

    read_devices = MemorySynchronizer.__mro__[1].read_devices  # type: ignore[assignment]


class WithoutParts(MemorySynchronizer):
    def keeps_parts(self) -> bool:
        return False


@pytest.mark.parametrize("kind", [WithoutDevices, WithoutParts])
def test_a_store_that_keeps_no_parts_says_so(kind: type[MemorySynchronizer]) -> None:
    phone, edits = Phone(Mobync(kind())), creates(3)
    for more in (True, False):
        with pytest.raises(NoPartsError, match="takes no request in parts"):
            phone.send(2, edits[:1], more=more)
    assert phone.whole(edits)["logical_clock"] == 3
    assert phone.mobync.erase(BOB).diffs == 3


@pytest.mark.parametrize("kind", databases.KINDS)
def test_a_database_without_the_table_goes_on_as_before(kind: str, tmp_path: Path) -> None:
    with open_database(kind, tmp_path) as database:
        tasks = TaskList(database)
        with database.engine.begin() as connection:
            connection.execute(sa.text("DROP TABLE diffs_parts"))
        mobync = Mobync(tasks.store)
        phone, edits = Phone(mobync), edits_of(tasks.store, 3)
        with pytest.raises(NoPartsError, match="has no table for parts"):
            phone.send(1, edits[:1])
        phone.take(phone.whole(edits[:2]))
        phone.take(phone.whole(edits[2:]))
        mobync.compact(BOB)
        mobync.forget_device(BOB, "phone")
        assert mobync.erase(BOB).rows["tasks"] == 3
        create_tables(database.engine, tasks.metadata)
        phone = Phone(Mobync(tasks.another_store()), "another")
        assert phone.send_all([edits[:1], edits[1:]])["part"] == 2


@pytest.mark.parametrize("kind", databases.KINDS)
def test_django_without_the_migration_goes_on_as_before(kind: str, tmp_path: Path) -> None:
    with django_database(kind, tmp_path, [Project, Task]) as alias:
        with connections[alias].cursor() as cursor:
            cursor.execute("DROP TABLE mobync_parts")
        mobync = Mobync(DjangoSynchronizer({"tasks": Task, "projects": Project}, using=alias))
        phone, edits = Phone(mobync), creates(2)
        with pytest.raises(NoPartsError, match="has no table for parts"):
            phone.send(1, edits[:1])
        phone.take(phone.whole(edits))
        assert mobync.erase(BOB).rows["tasks"] == 2


# ---- what a part may say ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"part": 0}, "part must be an int of 1 to 1000"),
        ({"part": 1001}, "part must be an int of 1 to 1000"),
        ({"part": True}, "part must be an int"),
        ({"part": "one"}, "part must be an int"),
        ({"part": [1]}, "part must be an int"),
        ({"more_diffs": "true"}, "more_diffs must be true or false"),
        ({"more_diffs": 1}, "more_diffs must be true or false"),
        ({"upload": 1}, "upload must be a text"),
        ({"upload": ""}, "upload must be a text"),
        ({"upload": "x" * 256}, "upload must be a text"),
        ({"request": 0}, "request must be an int"),
        ({"device": 1}, "device must be a text"),
    ],
)
def test_a_part_that_is_malformed_is_named(said: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidDiffError, match=message):
        Phone(Mobync(MemorySynchronizer())).send(1, [], **said)


def test_of_a_device_without_a_name_the_members_are_the_apps_own() -> None:
    mobync = Mobync(MemorySynchronizer())
    body = {"logical_clock": 0, "diffs": creates(1), "part": "of the app", "more_diffs": 7}
    reply = json.loads(mobync.apply_json(json.dumps(body), BOB))
    assert (reply["logical_clock"], "part" in reply) == (1, False)
    with pytest.raises(InvalidDiffError, match="part is for a device that names itself"):
        mobync.apply(0, [], BOB, part=1)


def test_apply_says_what_of_a_part_is_no_json() -> None:
    mobync = Mobync(MemorySynchronizer())
    for diffs, message in (([{"id": object()}], "must be JSON"), ("text", "must be a list")):
        with pytest.raises(InvalidDiffError, match=message):
            mobync.apply(0, diffs, BOB, device="phone", request=1, part=1)  # type: ignore[arg-type]


def test_a_part_that_is_no_json_is_refused_at_once() -> None:
    mobync = Mobync(MemorySynchronizer())
    body = '{"device": "p", "request": 1, "part": 1, "more_diffs": true, "logical_clock": 0'
    for rest in (', "diffs": [{"id": ]}', ', "diffs": 1}', "}"):
        with pytest.raises(InvalidDiffError):
            mobync.apply_json(body + rest, BOB)


def test_a_rule_refuses_the_whole() -> None:
    class Choosy(MemorySynchronizer):
        def validate_create(self, owner_id: str, **each: Any) -> bool:
            return "t002" not in each["json_data"]

    store = Choosy()
    phone, edits = Phone(Mobync(store)), creates(4)
    with pytest.raises(UnauthorizedError) as error:
        phone.send_all([edits[:1], edits[1:]])
    assert (error.value.index, log_of(store)) == (2, [])


# ---- many histories -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(30))
def test_however_it_is_cut_it_is_the_same_request(seed: int) -> None:
    """Parts come in any order, twice, and not all: the log is that of the whole request."""
    chance = random.Random(seed)
    edits = creates(chance.randint(2, 30))
    store = MemorySynchronizer()
    phone = Phone(Mobync(store))
    places = sorted(chance.sample(range(len(edits) + 1), k=chance.randint(1, 2)))
    cut = [edits[i:j] for i, j in zip([0, *places], [*places, len(edits)], strict=True)]
    reply = None
    while reply is None:
        for number in chance.sample(range(1, len(cut)), k=chance.randint(0, len(cut) - 1)):
            phone.send(number, cut[number - 1])
        with suppress(PartsMissingError):
            reply = phone.send(len(cut), cut[-1], more=False)
    assert [row["id"] for row in log_of(store)] == [d["id"] for d in edits]


def test_documents_keep_parts(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/documents.db")
    store = DocumentSynchronizer(engine)
    create_tables(engine, store.metadata)
    assert Phone(Mobync(store)).send_all([creates(2), creates(2, 2)])["logical_clock"] == 4
    engine.dispose()


def test_a_store_of_asyncio_keeps_parts(opened: Any) -> None:
    async def story() -> Any:
        engine = opened.new_engine()
        store = AsyncDocumentSynchronizer(engine)
        await create_tables_async(engine, store.metadata)
        mobync, edits = Mobync(store), creates(4)
        said: Any = {"device": "phone", "request": 1, "upload": "first"}
        kept = await mobync.apply_async(0, edits[:2], BOB, part=1, more_diffs=True, **said)
        with pytest.raises(PartsMissingError):
            await mobync.apply_async(0, edits[3:], BOB, part=3, **said)
        await mobync.apply_async(0, edits[2:3], BOB, part=2, more_diffs=True, **said)
        reply = await mobync.apply_async(0, edits[3:], BOB, part=3, **said)
        await mobync.erase_async(BOB)
        await engine.dispose()
        return kept["part"], reply["logical_clock"]

    assert asyncio.run(story()) == (1, 4)
