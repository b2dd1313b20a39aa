"""One Mobync, many threads: one owner at a time, other owners at once, nothing left behind."""

from __future__ import annotations

import json
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from simulation.devices import CarefulDevice

from mobync import BusyError, Mobync
from mobync.memory import MemorySynchronizer


def diff(diff_id: str, kind: str, **row: Any) -> dict[str, Any]:
    return {
        "id": diff_id,
        "owner": "o",
        "logical_clock": 0,
        "utc_timestamp": 1,
        "type": kind,
        "model": "tasks",
        "json_data": json.dumps(row),
    }


class SlowStore(MemorySynchronizer):
    """Stops inside a sync of `slow_owner` until it is let go."""

    def __init__(self, slow_owner: str) -> None:
        super().__init__()
        self.slow_owner = slow_owner
        self.inside = threading.Event()
        self.go_on = threading.Event()

    def validate_create(self, owner_id: str, **kwargs: Any) -> bool:
        if owner_id == self.slow_owner:
            self.inside.set()
            assert self.go_on.wait(30)
        return True


@pytest.fixture
def slow() -> Any:
    store = SlowStore("slow")
    with ThreadPoolExecutor() as pool:
        mobync = Mobync(store, lock_timeout_s=0.05)
        running = pool.submit(mobync.apply, 0, [diff("s", "create", id="s")], "slow")
        assert store.inside.wait(30)
        yield store, mobync
        store.go_on.set()
        assert running.result(30)["logical_clock"] == 1
    assert len(mobync._locks) == 0


def test_a_second_sync_of_one_owner_waits_and_gives_up(slow: Any) -> None:
    _, mobync = slow
    with pytest.raises(BusyError, match=r"0\.05 s"):
        mobync.apply(0, [], "slow")


def test_two_mobyncs_over_one_store_exclude_each_other_too(slow: Any) -> None:
    store, _ = slow
    with pytest.raises(BusyError):
        Mobync(store, lock_timeout_s=0).apply(0, [], "slow")


def test_other_owners_do_not_wait(slow: Any) -> None:
    _, mobync = slow
    assert mobync.apply(0, [diff("f", "create", id="f")], "fast")["logical_clock"] == 1


def test_locks_of_idle_owners_do_not_pile_up() -> None:
    mobync = Mobync(MemorySynchronizer())
    for i in range(50):
        mobync.apply(0, [], f"owner{i}")
    assert len(mobync._locks) == 0


def test_an_apply_inside_the_same_owners_apply_is_an_error_at_once() -> None:
    class Nested(MemorySynchronizer):
        def validate_create(self, owner_id: str, **kwargs: Any) -> bool:
            mobync.apply(0, [], owner_id)
            return True

    mobync = Mobync(Nested())
    with pytest.raises(RuntimeError, match="further up this call stack"):
        mobync.apply(0, [diff("a", "create", id="a")], "ann")
    assert mobync.apply(0, [], "ann")["logical_clock"] == 0


def test_an_apply_inside_another_owners_apply_works() -> None:
    class Nested(MemorySynchronizer):
        def validate_create(self, owner_id: str, **kwargs: Any) -> bool:
            return owner_id == "bob" or bool(mobync.apply(0, [diff("b", "create", id="b")], "bob"))

    mobync = Mobync(Nested())
    assert mobync.apply(0, [diff("a", "create", id="a")], "ann")["logical_clock"] == 1
    assert len(mobync.synchronizer.read("tasks", [])) == 2


def test_the_lock_is_free_after_an_interrupt() -> None:
    class Interrupted(MemorySynchronizer):
        def validate_create(self, owner_id: str, **kwargs: Any) -> bool:
            raise KeyboardInterrupt

    mobync = Mobync(Interrupted(), lock_timeout_s=0)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            mobync.apply(0, [diff("a", "create", id="a")], "ann")
    assert len(mobync._locks) == 0


def test_a_forked_child_does_not_inherit_a_held_lock(slow: Any) -> None:
    _, mobync = slow
    child = os.fork()
    if child == 0:
        try:
            mobync.apply(0, [], "slow")
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_many_threads_lose_and_double_nothing() -> None:
    mobync = Mobync(MemorySynchronizer(), lock_timeout_s=60)
    owners, threads, pushes = 4, 12, 25

    def device(number: int) -> None:
        clock = 0
        for i in range(pushes):
            name = f"{number}-{i}"
            reply = mobync.apply(clock, [diff(name, "create", id=name)], f"owner{number % owners}")
            assert reply["logical_clock"] > clock
            clock = reply["logical_clock"]

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(device, range(threads)))
    log = mobync.synchronizer.read("diffs", [])
    for owner in range(owners):
        clocks = sorted(d["logical_clock"] for d in log if d["owner"] == f"owner{owner}")
        assert clocks == list(range(pushes * threads // owners))
    assert len({d["id"] for d in log}) == len(log) == pushes * threads


def test_devices_in_parallel_threads_end_with_the_same_rows() -> None:
    """Many devices of one owner edit the same few objects, each in a thread of its own."""
    mobync = Mobync(MemorySynchronizer(), lock_timeout_s=60)
    devices = [CarefulDevice(f"device{i}") for i in range(8)]

    def sync_once(device: CarefulDevice, rng: random.Random) -> None:
        request = device.send(rng)
        reply = mobync.apply(request.logical_clock, json.loads(json.dumps(request.diffs)), "ann")
        device.in_flight = None
        device.receive(request, json.loads(json.dumps(reply)), rng)

    def live(device: CarefulDevice) -> None:
        rng = random.Random(device.name)
        for i in range(60):
            kind = rng.choice(("create", "create", "update", "update", "update", "delete"))
            object_id, fields = rng.choice("xyz"), {rng.choice("abc"): rng.randint(0, 99)}
            row = {"id": object_id, **(fields if kind != "delete" else {})}
            made = {**diff(f"{device.name}.{i}", kind, **row), "utc_timestamp": 1000 + i}
            device.edit(kind, "tasks", object_id, fields, made)
            if rng.random() < 0.5:
                sync_once(device, rng)

    with ThreadPoolExecutor(len(devices)) as pool:
        list(pool.map(live, devices))
    for device in devices * 2:
        sync_once(device, random.Random(0))

    with mobync.synchronizer.transaction("ann") as inside:
        stored = {("tasks", row.pop("id")): row for row in map(dict, inside.read("tasks", []))}
    assert stored
    assert [device.rows for device in devices] == [stored] * len(devices)
