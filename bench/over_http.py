"""Over HTTP: examples/relational on PostgreSQL under gunicorn, against an empty handler."""

from __future__ import annotations

import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from http_devices import EDITS_PER_SYNC, Device, Drive, drive, make_tasks
from measuring import Times, in_child
from tables import Table, percent
from task_database import answers, open_database

WORKERS, THREADS = 4, 4
OWNERS, DEVICES_EACH, TASKS_EACH = 10, 5, 100
ROUTES = ("/sync", "/read", "/empty")
START_TIMEOUT_S = 30


def measure(quick: bool) -> list[Table]:
    table = Table(
        "over_http",
        f"Over HTTP: {OWNERS * DEVICES_EACH} devices, gunicorn with {WORKERS} workers of "
        f"{THREADS} threads, PostgreSQL",
        [
            "route",
            "requests/s",
            "spread",
            "of /empty",
            "p50 ms",
            "p99 ms",
            "diffs got per sync",
            "busy",
        ],
        notes=[
            f"{OWNERS} owners of {DEVICES_EACH} devices; a sync pushes {EDITS_PER_SYNC} edits and "
            "gets those of the owner's other devices. The devices ask again as soon as they are "
            "answered, and share the machine's cores with gunicorn and PostgreSQL.",
            "The app is examples/relational. /read reads the request and its token and answers; "
            "/empty answers.",
            "Busy: answers of 503 for each sync, as three syncs of one owner were at work in that "
            "worker already; they are asked again and not counted.",
        ],
    )
    if not answers("postgresql"):
        table.notes.append("Left out: no PostgreSQL answers (tests/databases.py).")
        return [table]
    with (
        tempfile.TemporaryDirectory() as directory,
        open_database("postgresql", Path(directory)) as database,
    ):
        os.environ["DATABASE_URL"] = database.url.render_as_string(hide_password=False)
        os.environ["SECRET_KEY"] = secrets.token_hex(32)
        with _served() as port:
            devices = _devices()
            _make_tasks(devices, port)
            drives = _drive_in_turns(devices, port, 2 if quick else 4, 1 if quick else 6)
    _fill(table, drives)
    return [table]


@contextmanager
def _served() -> Iterator[int]:
    """gunicorn with the app, on a free port."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    command = [sys.executable, "-m", "gunicorn", "--chdir", str(Path(__file__).parent)]
    command += ["--workers", str(WORKERS), "--threads", str(THREADS)]
    command += ["--bind", f"127.0.0.1:{port}", "http_app:create_app()"]
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _wait_for(server, port, log)
            yield port
        finally:
            server.terminate()
            server.wait(START_TIMEOUT_S)


def _wait_for(server: subprocess.Popen[bytes], port: int, log: object) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    log.seek(0)  # type: ignore[attr-defined]
    raise RuntimeError(f"gunicorn does not serve: {log.read().decode()}")  # type: ignore[attr-defined]


def _devices() -> list[Device]:
    import http_app

    return [
        Device(
            number=owner * DEVICES_EACH + i,
            owner=f"owner-{owner}",
            token=http_app.token_of(f"owner-{owner}"),
            tasks=[f"task-{n}" for n in range(TASKS_EACH)],
        )
        for owner in range(OWNERS)
        for i in range(DEVICES_EACH)
    ]


def _make_tasks(devices: list[Device], port: int) -> None:
    """Each owner's first device makes the tasks; all devices have seen them."""
    for first in devices[::DEVICES_EACH]:
        clock = make_tasks(first, port)
        for device in devices[first.number : first.number + DEVICES_EACH]:
            device.clock = clock


def _drive_in_turns(
    devices: list[Device], port: int, rounds: int, seconds: float
) -> dict[str, list[Drive]]:
    drives: dict[str, list[Drive]] = {route: [] for route in ROUTES}
    for _ in range(rounds):
        for route in ROUTES:
            done: Drive = in_child(drive, devices, port, route, seconds)
            drives[route].append(done)
            for device, clock in zip(devices, done.clocks, strict=True):
                device.clock = clock
    return drives


def _fill(table: Table, drives: dict[str, list[Drive]]) -> None:
    rates = {
        route: Times([len(d.latencies_s) / d.seconds for d in done])
        for route, done in drives.items()
    }
    for route, done in drives.items():
        latencies_ms = [second * 1000 for d in done for second in d.latencies_s]
        table.add(
            route,
            rates[route].median,
            percent(rates[route].spread),
            rates[route].median / rates["/empty"].median,
            statistics.median(latencies_ms),
            statistics.quantiles(latencies_ms, n=100)[98],
            sum(d.received for d in done) / len(latencies_ms),
            f"{sum(d.busy for d in done) / len(latencies_ms):.1%}",
        )
