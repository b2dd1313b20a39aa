"""Devices that are killed, many times and at any moment, against a real server."""

from __future__ import annotations

import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from http_app import starlette_app
from http_servers import on_uvicorn
from server_process import PATIENCE_S, mobync, serving

from mobync.client import Device

WORKER = Path(__file__).with_name("client_worker.py")
KILL_POINTS = Path(__file__).with_name("client_kill_points.py")
KILLS = 12


def test_a_device_that_is_killed_at_any_moment_loses_nothing_and_doubles_nothing(
    tmp_path: Path,
) -> None:
    """A worker is killed again and again, at random, while another device edits the same rows."""
    rng = random.Random(1)
    with serving(tmp_path) as server:
        token = token_of(tmp_path)
        url = f"{server.url}/sync"
        made = 0
        with Device(tmp_path / "tablet.db", url, token) as tablet:
            for _ in range(KILLS):
                made = run_until_killed(tmp_path / "phone.db", url, token, made + 1, rng)
                tablet.sync()
                tablet.create("tasks", {"name": "tablet", "count": made})
                for row in tablet.rows("tasks")[:3]:
                    tablet.update("tasks", row["id"], {"seen": made})
                tablet.sync()
            with Device(tmp_path / "phone.db", url, token) as phone:
                phone.sync()
                tablet.sync()
                phone.sync()
                rows = phone.rows("tasks")
                assert rows == tablet.rows("tasks")
            with Device(tmp_path / "new.db", url, token) as new:
                new.sync()
                assert new.rows("tasks") == rows
        own = {row["id"]: row["count"] for row in rows if row["name"] == "phone"}
        assert made > KILLS
        assert {f"phone-{n}": n for n in range(1, made + 1)}.items() <= own.items()
        creates = [diff["id"] for diff in log_of(tmp_path) if diff["type"] == "create"]
        assert len(creates) == len(set(creates)) == len(rows)


def token_of(directory: Path) -> str:
    done = mobync(directory, "token", "anna")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def log_of(directory: Path) -> list[dict[str, str]]:
    with sqlite3.connect(directory / "mobync.db") as connection:
        found = connection.execute("SELECT id, type FROM diffs").fetchall()
    connection.close()
    return [{"id": diff_id, "type": kind} for diff_id, kind in found]


def run_until_killed(path: Path, url: str, token: str, begin: int, rng: random.Random) -> int:
    """Run the worker and kill it at some moment; the last number that it said was made."""
    worker = subprocess.Popen(
        [sys.executable, str(WORKER), str(path), url, token, "phone", str(begin)],
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    assert worker.stdout is not None
    with worker.stdout:
        said = [worker.stdout.readline() for _ in range(rng.randint(1, 6))]
        time.sleep(rng.random() * 0.05)
        worker.send_signal(signal.SIGKILL)
        said += worker.stdout.readlines()
    worker.wait(PATIENCE_S)
    return max(int(number) for number in re.findall(r"made (\d+)", "".join(said)))


def test_a_device_that_is_killed_before_each_of_its_statements_ends_as_meant(
    tmp_path: Path,
) -> None:
    with on_uvicorn(starlette_app()) as (host, port):
        done = subprocess.run(
            [sys.executable, str(KILL_POINTS), f"http://{host}:{port}/sync", str(tmp_path)],
            capture_output=True,
            encoding="utf-8",
            timeout=5 * PATIENCE_S,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    new, overtaken, in_parts = map(int, done.stdout.split())
    assert new > 40
    assert overtaken > new + 5  # for it takes another name, and starts over
    assert in_parts > new + 10  # three parts and more, before and after each
