"""mobync.client sends an outbox that is too long for one request in parts of one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import http_servers
import pytest
from client_transports import Meddling, answer, lost
from test_client import Store, World, in_a_world

from mobync import Mobync, SyncReport
from mobync._sync.uploads import KEPT_MS
from mobync.client import Answer, DeviceRevokedError, OfflineError, ServerError
from mobync.client import _replica as replica_module
from mobync.client._server import Server
from mobync.http import Endpoint
from mobync.http.asgi import SyncApp
from mobync.memory import MemorySynchronizer

Body = dict[str, Any]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_module, "MAX_DIFFS", 3)
    monkeypatch.setattr(Server, "wait", staticmethod(lambda seconds: None))


@pytest.fixture
def world() -> Iterator[World]:
    yield from in_a_world(store=Store())


class Scene:
    """A device with ten edits, so four parts, and what it sends.

    Args:
        edits: or fewer.
        before: called with each body, as by Meddling.
        after: likewise with each answer to one.
    """

    def __init__(
        self,
        world: World,
        before: Callable[[Body], Answer | None] = lambda body: None,
        after: Callable[[Body, Answer], Answer] = lambda body, answered: answered,
        edits: int = 10,
        **options: Any,
    ) -> None:
        self.world = world
        self.bodies: list[Body] = []

        def note(body: Body) -> Answer | None:
            self.bodies.append(body)
            return before(body)

        self.way = Meddling(world.direct, note, lambda answered: after(self.bodies[-1], answered))
        self.phone = world.device(way=self.way, **options)
        for n in range(edits):
            self.phone.create("tasks", {"id": f"t{n}"})

    @property
    def parts(self) -> list[int | None]:
        return [body.get("part") for body in self.bodies]

    def check(self) -> None:
        """All edits are in the log once, in their order, and nothing waits."""
        assert self.world.rows() == self.phone.rows("tasks")
        ids = [json.loads(each["json_data"])["id"] for each in self.world.log()]
        assert ids == [row["id"] for row in self.world.rows()]
        assert self.phone.waiting == 0
        assert self.phone._replica.database.state().upload is None


def test_a_long_outbox_is_one_request_in_parts(world: World) -> None:
    reports: list[SyncReport] = []
    world.mobync.listen(reports.append)
    scene = Scene(world)
    done = scene.phone.sync()
    assert (done.sent, scene.parts) == (10, [1, 2, 3, 4])
    assert [len(body["diffs"]) for body in scene.bodies] == [3, 3, 3, 1]
    assert [body["more_diffs"] for body in scene.bodies] == [True, True, True, False]
    assert len({(body["request"], body["upload"]) for body in scene.bodies}) == 1
    assert [(report.pushed, report.accepted) for report in reports] == [(10, 10)]
    scene.check()
    scene.phone.update("tasks", "t1", {"done": True})
    scene.phone.sync()
    assert [(body["request"], body["mark"] is None) for body in scene.bodies[4:]] == [(2, False)]


@pytest.mark.parametrize("part", [1, 2, 3, 4])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_part_that_is_lost_is_sent_again(world: World, part: int, when: str) -> None:
    losses = [part]

    def lose(body: Body, *answered: Any) -> Any:
        if body.get("part") in losses:
            losses.clear()
            lost()
        return answered[0] if answered else None

    scene = Scene(world, **{when: lose})
    scene.phone.sync()
    assert scene.parts == sorted([1, 2, 3, 4, part])
    scene.check()


@pytest.mark.parametrize("part", [1, 2, 3, 4])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_device_that_ends_between_two_parts_goes_on(
    world: World, tmp_path: Path, part: int, when: str
) -> None:
    def lose(body: Body, *answered: Any) -> Any:
        return lost() if body.get("part") == part else answered[0] if answered else None

    scene = Scene(world, path=tmp_path / "phone.db", patience_s=0, **{when: lose})
    with pytest.raises(OfflineError):
        scene.phone.sync()
    scene.phone.update("tasks", "t0", {"late": True})
    scene.phone.close()
    there = part - 1 if when == "before" else part
    again = Scene(world, path=tmp_path / "phone.db", edits=0)
    again.phone.sync()
    missing = list(range(max(there, 1) + 1, 4))
    expected = [1, 4, *missing, 4] if missing else [1, 4]
    assert again.parts == [*expected, None]  # and then the edit that waited
    assert len(world.log()) == 11
    assert world.rows() == again.phone.rows("tasks")
    assert world.rows()[0] == {"id": "t0", "late": True}


def test_a_device_that_ends_does_not_mix_parts_that_it_cuts_in_another_way(
    world: World, tmp_path: Path
) -> None:
    """What the server said of the length of a body is forgotten: the parts are longer again."""

    def limit(body: Body) -> Answer | None:
        if body["part"] == 7:
            lost()
        return answer(413, code="too_large") if len(body["diffs"]) > 1 else None

    scene = Scene(world, limit, path=tmp_path / "phone.db", patience_s=0)
    with pytest.raises(OfflineError):
        scene.phone.sync()
    scene.phone.close()
    again = Scene(world, path=tmp_path / "phone.db", edits=0)
    assert again.phone.sync().sent == 10
    assert again.parts == [1, 4, 2, 3, 4]
    again.check()


def test_parts_that_the_server_has_dropped_are_sent_again(world: World) -> None:
    def drop(body: Body) -> None:
        if body.get("part") == 4 and not dropped:
            dropped.append(True)
            with world.store.transaction("anna") as inside:
                (name,) = (n for n in inside.read_devices("anna", None) if n)
                state = json.loads(inside.read_devices("anna", [name])[name])
                inside.write_devices("anna", {name: json.dumps({**state, "upload": ""})})

    dropped: list[bool] = []
    scene = Scene(world, drop)
    scene.phone.sync()
    assert scene.parts == [1, 2, 3, 4, 1, 2, 3, 4]
    scene.check()


def test_a_server_that_goes_on_missing_parts_is_an_error_and_loses_nothing(world: World) -> None:
    missing = answer(409, code="parts_missing", missing=[2], message="parts are missing")

    def refuse(body: Body) -> Answer | None:
        return missing if body.get("part") == 4 and is_ill else None

    is_ill = True
    scene = Scene(world, refuse)
    with pytest.raises(ServerError, match="parts are missing"):
        scene.phone.sync()
    assert scene.phone.waiting == 10
    is_ill = False
    scene.phone.sync()
    scene.check()


def test_a_server_that_does_not_keep_parts_gets_requests(world: World) -> None:
    world.store.keeps_parts = lambda: False  # type: ignore[method-assign]
    scene = Scene(world)
    scene.phone.sync()
    assert scene.parts == [1, None, None, None, None]
    assert [body["request"] for body in scene.bodies] == [1, 1, 2, 3, 4]
    scene.check()


@pytest.mark.parametrize("first", [1, 4])
def test_a_server_that_does_not_look_at_parts_gets_requests(
    world: World, tmp_path: Path, first: int
) -> None:
    """It takes a part for a whole request, and answers that.  It may have come in the place of one
    that does look, after some parts."""

    def strip(body: Body) -> Answer | None:
        if body.get("part", 0) < first and first > 1:
            return None
        plain = {n: v for n, v in body.items() if n not in ("part", "more_diffs", "upload")}
        return world.direct.post(json.dumps(plain).encode(), "token")

    scene = Scene(world, strip)
    assert scene.phone.sync().sent == 10
    assert scene.parts == ([1] if first == 1 else [1, 2, 3, 4]) + [None] * 3
    assert world.rows() == scene.phone.rows("tasks")
    assert len(world.log()) == 10
    assert scene.phone.waiting == 0


def test_a_server_that_does_not_look_at_parts_gets_edits_in_their_order_after_a_break(
    world: World,
) -> None:
    def strip(body: Body) -> Answer | None:
        if is_offline:
            lost()
        plain = {n: v for n, v in body.items() if n not in ("part", "more_diffs", "upload")}
        return world.direct.post(json.dumps(plain).encode(), "token")

    is_offline = True
    scene = Scene(world, strip, edits=9, patience_s=0)
    scene.phone.update("tasks", "t0", {"late": True})
    with pytest.raises(OfflineError):
        scene.phone.sync()
    is_offline = False
    assert scene.phone.sync().sent == 10
    assert world.rows()[0] == {"id": "t0", "late": True}
    assert world.rows() == scene.phone.rows("tasks")


def test_a_request_that_is_too_large_in_all_becomes_smaller_ones(world: World) -> None:
    mobync = Mobync(world.store, max_request_bytes=1_000)
    world.direct.endpoint = Endpoint(mobync, lambda token, headers: "anna")
    scene = Scene(world)
    scene.phone.sync()
    refused = max(body["request"] for body in scene.bodies)
    assert refused > 1
    scene.check()


def test_parts_whose_bodies_are_too_long_become_shorter(world: World) -> None:
    def limit(body: Body) -> Answer | None:
        return answer(413, code="too_large") if len(body["diffs"]) > 1 else None

    scene = Scene(world, limit)
    scene.phone.sync()
    assert scene.parts == [1, *range(1, 11)]
    assert len({body["upload"] for body in scene.bodies}) == 2
    scene.check()


def test_an_edit_that_is_too_long_for_a_part_is_refused(world: World) -> None:
    def limit(body: Body) -> Answer | None:
        is_long = any(len(each["json_data"]) > 100 for each in body["diffs"])
        return answer(413, code="too_large", message="too long") if is_long else None

    scene = Scene(world, limit)
    scene.phone.update("tasks", "t4", {"name": "x" * 100})
    (refused,) = scene.phone.sync().refused
    assert (refused.code, refused.row["id"], refused.type) == ("too_large", "t4", "update")
    scene.check()


def test_an_edit_that_a_rule_refuses_is_taken_out_of_the_parts(world: World) -> None:
    scene = Scene(world)
    scene.phone.update("tasks", "t5", {"name": "forbidden"})
    (refused,) = scene.phone.sync().refused
    assert (refused.code, refused.row["name"]) == ("unauthorized", "forbidden")
    assert scene.parts == [1, 2, 3, 4, 1, 2, 3, 4]
    assert len({body["upload"] for body in scene.bodies}) == 2
    scene.check()


@pytest.mark.parametrize("part", [2, 4])
def test_a_device_that_is_forgotten_between_two_parts_takes_another_name(
    world: World, part: int
) -> None:
    def forget(body: Body) -> None:
        if body.get("part") == part and not forgotten:
            forgotten.append(body["device"])
            world.mobync.forget_device("anna", body["device"])

    forgotten: list[str] = []
    scene = Scene(world, forget)
    other = world.device()
    other.create("tasks", {"id": "s"})
    other.sync()
    world.direct.sent.clear()
    scene.phone.sync()
    assert world.rows() == scene.phone.rows("tasks")
    assert len(world.log()) == 11
    assert scene.phone.waiting == 0


def test_a_device_that_is_revoked_between_two_parts_drops_its_rows(world: World) -> None:
    def revoke(body: Body) -> None:
        if body.get("part") == 3:
            world.mobync.revoke_device("anna", body["device"])

    scene = Scene(world, revoke)
    with pytest.raises(DeviceRevokedError):
        scene.phone.sync()
    assert (scene.phone.rows("tasks"), scene.phone.waiting, world.log()) == ([], 0, [])


def test_pages_come_with_the_last_part(world: World) -> None:
    other = world.device()
    for n in range(5):
        other.create("tasks", {"id": f"s{n}"})
    other.sync()
    scene = Scene(world, page_size=2)
    done = scene.phone.sync()
    assert (done.sent, done.received) == (10, 5)
    assert scene.parts == [1, 2, 3, 4, 4, 4]
    assert [body.get("cursor") is None for body in scene.bodies] == [True] * 4 + [False] * 2
    assert world.rows() == scene.phone.rows("tasks")


def test_parts_that_went_after_a_day_are_sent_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [True]

    def lose(body: Body) -> None:
        if body.get("part") == 4 and broken:
            lost()

    scene = Scene(world, lose, patience_s=0)
    with pytest.raises(OfflineError):
        scene.phone.sync()
    broken.clear()
    late_ms = time.time_ns() // 1_000_000 + 2 * KEPT_MS
    monkeypatch.setattr(Mobync, "_now_ms", lambda self: late_ms)
    world.mobync.compact("anna")
    scene.phone.sync()
    assert scene.parts == [1, 2, 3, 4, 1, 4, 2, 3, 4]
    scene.check()


# ---- over HTTP ----------------------------------------------------------------------------------

COUNT = 300_000
PARTS = 10
ANSWER_TIMEOUT_S = 600


def test_three_hundred_thousand_edits_are_one_request_with_one_merge() -> None:
    """More than `max_diffs`, and more bytes than a body may have, over a real socket."""
    store = MemorySynchronizer()
    mobync = Mobync(store)
    reports: list[SyncReport] = []
    mobync.listen(reports.append)
    endpoint = Endpoint(mobync, lambda token, headers: token)
    with http_servers.on_uvicorn(SyncApp(endpoint)) as (host, port):
        connection = HTTPConnection(host, port, timeout=ANSWER_TIMEOUT_S)
        sizes = [send_part(connection, number) for number in range(1, PARTS + 1)]
        connection.close()
    assert mobync.max_diffs < COUNT
    assert sum(sizes) > endpoint.max_body_bytes > max(sizes)
    assert [(r.pushed, r.accepted, r.sent) for r in reports] == [(COUNT, COUNT, 0)]
    assert mobync.logical_clock("anna") == len(store.read("tasks")) == COUNT


def send_part(connection: HTTPConnection, number: int) -> int:
    """Send a part, and check its answer; gives how long the body was."""
    each = COUNT // PARTS
    diffs = ",".join(create(n) for n in range((number - 1) * each, number * each))
    head = {"logical_clock": 0, "device": "phone", "request": 1, "upload": "one", "part": number}
    told = json.dumps({**head, "more_diffs": number < PARTS})
    body = f'{told[:-1]}, "diffs": [{diffs}]}}'.encode()
    headers = {"Content-Type": "application/json", "Authorization": "Bearer anna"}
    connection.request("POST", "/sync", body, headers)
    response = connection.getresponse()
    reply = json.loads(response.read())
    assert (response.status, reply["part"]) == (200, number), reply
    assert reply["logical_clock"] == (COUNT if number == PARTS else 0)
    return len(body)


def create(number: int) -> str:
    """The JSON of a create."""
    return (
        f'{{"id": "e{number:039}", "owner": "me", "logical_clock": 0, "utc_timestamp": 1700000000,'
        f' "type": "create", "model": "tasks", "json_data": "{{\\"id\\": \\"t{number:039}\\"}}"}}'
    )
