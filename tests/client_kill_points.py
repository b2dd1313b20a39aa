"""Kills a device before its first statement that writes, before its second, and so on to its last.

    python client_kill_points.py URL DIRECTORY

Each time another owner, whose other device has rows already: the device creates a row, pulls in
pages, edits and deletes, and is killed by SIGKILL.  Then the same program runs once more from its
begin to its end.  Exits with an error unless the rows are then the server's, and those meant.
All that is done once with a new device, once with one that a copy of it has overtaken, so that it
takes another name and starts over, and once with a device that sends each edit as a part of its
own, which is killed before and after each body, too.  Prints how many kills there were.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mobync.client import Answer, Device, HttpTransport

ROWS = 5


class Watched(HttpTransport):
    """A way that says when a body leaves, and when its answer has come."""

    def __init__(self, url: str, count: Callable[[str], None]) -> None:
        super().__init__(url)
        self._count = count

    def post(self, body: bytes, token: str | None) -> Answer:
        self._count("before the body")
        answer = super().post(body, token)
        self._count("after the answer")
        return answer


def story(path: Path, url: str, token: str, kill_at: int | None, in_parts: bool) -> None:
    """What the device does; it can be begun again at any moment."""
    left = itertools.count(1)

    def count(statement: str) -> None:
        if statement.startswith(("SELECT", "PRAGMA")):  # after it all is as it was before
            return
        if next(left) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    way = Watched(url, count) if in_parts else url
    with Device(path, way, token, page_size=2) as device:
        if in_parts:
            device._replica.part_diffs = 1
        device._replica.database.connection.set_trace_callback(count)
        mine, kept, gone = (row_id(token, name) for name in ("mine", "t0", "t1"))
        if device.get("tasks", mine) is None:
            device.create("tasks", {"id": mine, "name": "phone"})
        device.update("tasks", mine, {"count": 0})
        device.update("tasks", mine, {"count": 1})
        device.sync()
        device.update("tasks", kept, {"name": "by phone"})
        if device.get("tasks", gone) is not None:
            device.delete("tasks", gone)
        device.sync()


def row_id(token: str, name: str) -> str:
    """No two owners have the same: the server's store holds the rows of all."""
    return f"{token}-{name}"


def run(path: Path, url: str, token: str, kill_at: int | None, in_parts: bool) -> int:
    """Run the story in a process of its own; how that ended."""
    pid = os.fork()
    if pid == 0:
        try:
            story(path, url, token, kill_at, in_parts)
        except BaseException as error:
            print(f"at {kill_at}: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def check(path: Path, url: str, token: str) -> None:
    with Device(path, url, token) as device, Device(":memory:", url, token) as new:
        new.sync()
        rows = device.rows("tasks")
        assert rows == new.rows("tasks"), (rows, new.rows("tasks"))
        expected: list[dict[str, Any]] = [{"name": "phone", "count": 1}, {"name": "by phone"}]
        expected += [{"name": "by tablet"}] * (ROWS - 2)
        names = ["mine", "t0", *(f"t{i}" for i in range(2, ROWS))]
        for name, row in zip(names, expected, strict=True):
            assert device.get("tasks", row_id(token, name)) == {"id": row_id(token, name), **row}
        assert len(rows) == len(names), rows
        assert device.waiting == 0
    request = {"logical_clock": 1, "diffs": []}
    log = HttpTransport(url).post(json.dumps(request).encode(), token).json()["diffs"]
    created = [json.loads(d["json_data"])["id"] for d in log if d["type"] == "create"]
    assert len(created) == len(set(created)), created


def overtake(path: Path, url: str, token: str) -> None:
    """Make a device that has synced, and have a copy of it sync an edit."""
    with Device(path, url, token) as device:
        device.sync()
    shutil.copy(path, f"{path}.copy")
    with Device(f"{path}.copy", url, token) as copy:
        copy.update("tasks", row_id(token, "t2"), {"name": "by tablet"})
        copy.sync()


def nothing(path: Path, url: str, token: str) -> None:
    """The device is new."""


def kill_everywhere(
    url: str, directory: Path, begin: Callable[[Path, str, str], None], in_parts: bool
) -> int:
    """Kill a device at each of its statements; gives how many there were."""
    for kill_at in itertools.count(1):
        path, token = directory / f"{kill_at}.db", f"token-of-{directory.name}-{kill_at}"
        with Device(":memory:", url, token) as tablet:
            for i in range(ROWS):
                tablet.create("tasks", {"id": row_id(token, f"t{i}"), "name": "by tablet"})
            tablet.sync()
        begin(path, url, token)
        ended = run(path, url, token, kill_at, in_parts)
        if ended == 0:
            return kill_at - 1
        assert ended == -signal.SIGKILL, f"at {kill_at} it ended with {ended}"
        ended = run(path, url, token, None, in_parts)
        assert ended == 0, f"after the kill at {kill_at} it ended with {ended}"
        check(path, url, token)
    raise AssertionError("it never ends")


def main(url: str, directory: Path) -> None:
    kills = []
    for name, begin in (("new", nothing), ("overtaken", overtake), ("in parts", nothing)):
        own = directory / name.replace(" ", "-")
        own.mkdir()
        kills.append(kill_everywhere(url, own, begin, name == "in parts"))
    print(*kills)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
