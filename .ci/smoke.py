"""Syncs two devices with the installed mobync, to see that a wheel works by itself.

    python .ci/smoke.py            the merge, with nothing beside mobync
    python .ci/smoke.py --server   `mobync serve` over HTTP, and `mobync demo`, of both extras

On Linux it also looks where the process has libcjson from: only the wheel's own copy is right.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import mobync
from mobync import Mobync
from mobync.memory import MemorySynchronizer


def main() -> None:
    sync_by_hand()
    check_cjson()
    if "--server" in sys.argv:
        sync_with_a_server()
        open_the_demo()
    print(
        f"mobync {mobync.__version__} of {mobync.__file__} synced, Python {sys.version.split()[0]}"
    )


def sync_by_hand() -> None:
    """A phone creates and renames, a tablet marks as done; both see all of it."""
    server = Mobync(MemorySynchronizer())
    task = {"id": "t1", "name": "milk", "done": False}
    server.apply(0, [diff("a", 0, "create", task)], "anna")
    server.apply(1, [diff("b", 1, "update", {"id": "t1", "name": "oat milk"})], "anna")
    reply = server.apply(1, [diff("c", 1, "update", {"id": "t1", "done": True})], "anna")
    assert [json.loads(sent["json_data"]) for sent in reply["diffs"]] == [
        {"id": "t1", "name": "oat milk"}
    ]
    (row,) = server.synchronizer.read("tasks")
    assert row == {"id": "t1", "name": "oat milk", "done": True}, row


def diff(diff_id: str, clock: int, kind: str, row: dict[str, object]) -> dict[str, object]:
    return {
        "id": diff_id,
        "owner": "anna",
        "logical_clock": clock,
        "utc_timestamp": 1_700_000_000_000 + clock,
        "type": kind,
        "model": "tasks",
        "json_data": json.dumps(row),
    }


def check_cjson() -> None:
    """That what is mapped into this process is the wheel's own cJSON."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return
    mapped = set(re.findall(r"/\S*cjson\S*", maps.read_text()))
    wrong = {path for path in mapped if "mobync.libs/" not in path}
    assert not wrong, f"cJSON is not the wheel's own: {wrong}"


def sync_with_a_server() -> None:
    from mobync.client import Device

    command = str(Path(sys.executable).with_name("mobync"))
    with tempfile.TemporaryDirectory() as place:
        token = subprocess.run(
            [command, "token", "anna"], cwd=place, capture_output=True, text=True, check=True
        ).stdout.strip()
        server = subprocess.Popen(
            [command, "serve", "--port", "0"], cwd=place, stderr=subprocess.PIPE, text=True
        )
        try:
            url = f"{address(server)}/sync"
            with (
                Device(f"{place}/phone.db", url, token) as phone,
                Device(f"{place}/tablet.db", url, token) as tablet,
            ):
                phone.create("tasks", {"name": "bread"})
                phone.sync()
                tablet.sync()
                assert [row["name"] for row in tablet.rows("tasks")] == ["bread"]
        finally:
            server.terminate()
            server.communicate()
    assert server.returncode == 0, server.returncode


def open_the_demo() -> None:
    """The to-do app of the wheel is served."""
    with tempfile.TemporaryDirectory() as place:
        demo = subprocess.Popen(
            [Path(sys.executable).with_name("mobync"), "demo", "--port", "0"],
            cwd=place,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            printed = iter(demo.stdout or ())
            app = next(found for line in printed if (found := re.search(r"to-do app +(\S+)", line)))
            with urllib.request.urlopen(app[1].replace("#", "todo.js#")) as answer:
                assert b"mobync" in answer.read()
        finally:
            demo.terminate()
            demo.communicate()
    assert demo.returncode == 0, demo.returncode


def address(server: subprocess.Popen[str]) -> str:
    """What the server prints when it is there."""
    said = []
    for line in server.stderr or ():
        said.append(line)
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            return found[0]
    raise AssertionError("the server did not start:\n" + "".join(said))


if __name__ == "__main__":
    main()
