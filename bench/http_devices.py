"""Devices that sync over HTTP as fast as they are answered, each on a connection that stays."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from workload import START_MS, Diff, diff, task_edit

EDITS_PER_SYNC = 2
BUSY_WAIT_S = 0.02


@dataclass
class Device:
    """Who syncs, and how far it is."""

    number: int
    owner: str
    token: str
    tasks: list[str]
    edits: int = EDITS_PER_SYNC
    clock: int = 0
    answered: int = 0  # how many of its requests


@dataclass
class Drive:
    """What came of driving all devices for a while."""

    seconds: float
    latencies_s: list[float] = field(default_factory=list)
    busy: int = 0  # requests that were to be sent again
    received: int = 0  # diffs
    clocks: list[int] = field(default_factory=list)
    answered: list[int] = field(default_factory=list)  # requests, of each device


def drive(
    devices: list[Device], port: int, routes: Sequence[str], seconds: float
) -> dict[str, Drive]:
    """Let all devices sync by each route until the time is up, over the same connections.

    A worker serves a connection as long as it is open. So each route has the workers that the
    others have, however unevenly the connections are spread over them.
    """
    return asyncio.run(_drive(devices, port, routes, seconds))


async def _drive(
    devices: list[Device], port: int, routes: Sequence[str], seconds: float
) -> dict[str, Drive]:
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in devices]
    drives = {}
    for route in routes:
        result = drives[route] = Drive(seconds)
        before = [device.answered for device in devices]
        end = time.perf_counter() + seconds
        await asyncio.gather(
            *(
                _sync_until(end, device, route, reader, writer, result)
                for device, (reader, writer) in zip(devices, connections, strict=True)
            )
        )
        pairs = zip(devices, before, strict=True)
        result.answered = [device.answered - earlier for device, earlier in pairs]
        result.clocks = [device.clock for device in devices]
    for _, writer in connections:
        writer.close()
    return drives


async def _sync_until(
    end: float,
    device: Device,
    route: str,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    result: Drive,
) -> None:
    """Sync until the time is up, and once in any case."""
    rng = random.Random(f"{device.number} {device.clock} {route}")
    is_first = True
    while is_first or time.perf_counter() < end:
        is_first = False
        request = _request(device, route, _edits(device, rng))
        begin = time.perf_counter()
        writer.write(request)
        status, body = await _response(reader)
        while status == 503 and time.perf_counter() < end:  # others of its owner are at work
            result.busy += 1
            await asyncio.sleep(BUSY_WAIT_S)
            writer.write(request)
            status, body = await _response(reader)
        if status == 503:
            return
        if status != 200:
            raise RuntimeError(f"{route} answered {status}: {body[:300]!r}")
        result.latencies_s.append(time.perf_counter() - begin)
        reply = json.loads(body)
        result.received += len(reply["diffs"])
        device.clock = max(device.clock, reply["logical_clock"])
        device.answered += 1


def make_tasks(device: Device, port: int) -> int:
    """Push the device's tasks; returns its clock afterwards."""
    return asyncio.run(_make_tasks(device, port))


async def _make_tasks(device: Device, port: int) -> int:
    rng = random.Random(device.number)
    creates = [
        diff(rng, "create", "tasks", START_MS, {"id": task, "name": "new"}) for task in device.tasks
    ]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_request(device, "/sync", creates))
    status, body = await _response(reader)
    writer.close()
    if status != 200:
        raise RuntimeError(f"/sync answered {status}: {body[:300]!r}")
    clock: int = json.loads(body)["logical_clock"]
    return clock


def _edits(device: Device, rng: random.Random) -> list[Diff]:
    return [
        diff(rng, "update", "tasks", START_MS, {"id": rng.choice(device.tasks), **_edit(rng)})
        for _ in range(device.edits)
    ]


def _request(device: Device, route: str, diffs: list[Diff]) -> bytes:
    sent = {"auth_token": device.token, "logical_clock": device.clock, "diffs": diffs}
    body = json.dumps(sent).encode()
    head = (
        f"POST {route} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _edit(rng: random.Random) -> dict[str, object]:
    """An edit of a field that the example's tasks have."""
    while not (edit := task_edit(rng)).keys() <= {"name", "done"}:
        pass
    return edit


async def _response(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), await reader.readexactly(int(headers["content-length"]))
