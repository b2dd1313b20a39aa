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
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from http_devices import EDITS_PER_SYNC, Device, Drive, drive, make_tasks
from measuring import Times, in_child
from tables import Table, percent
from task_database import answers, open_database

WORKERS, THREADS = 4, 4
OWNERS, DEVICES_EACH, TASKS_EACH = 10, 5, 100
ROUTES = ("/sync", "/read", "/empty")
SECONDS, SECONDS_QUICK = 6, 1  # for each route in a round
START_TIMEOUT_S = 120


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
            f"{OWNERS} owners with {DEVICES_EACH} devices each. A sync pushes {EDITS_PER_SYNC} "
            "edits and gets those of the owner's other devices. A device asks again as soon as "
            "it has an answer. The devices share the machine's cores with gunicorn and "
            "PostgreSQL.",
            "The app is examples/relational. /read only reads the request and its token. /empty "
            "only answers.",
            "Busy: answers of 503 for each sync, because three syncs of the owner already ran in "
            "that worker. The device asks again, and its time includes all its tries.",
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
        with served("http_app") as port:
            import http_app

            devices = make_devices("owner", OWNERS, DEVICES_EACH, token_of=http_app.token_of)
            push_tasks(devices, port)
            seconds = SECONDS_QUICK if quick else SECONDS
            drives = drive_in_turns(devices, port, ROUTES, 2 if quick else 4, seconds)
    _fill(table, drives)
    return [table]


@contextmanager
def served(module: str) -> Iterator[int]:
    """gunicorn with a module's app, on a free port."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    command = [sys.executable, "-m", "gunicorn", "--chdir", str(Path(__file__).parent)]
    command += ["--workers", str(WORKERS), "--threads", str(THREADS)]
    command += ["--bind", f"127.0.0.1:{port}", f"{module}:create_app()"]
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


def make_devices(
    name: str,
    owners: int,
    each: int,
    *,
    token_of: Callable[[str], str],
    edits: int = EDITS_PER_SYNC,
) -> list[Device]:
    """The devices of so many owners, whose names begin with this one."""
    return [
        Device(
            number=owner * each + i,
            owner=f"{name}-{owner}",
            token=token_of(f"{name}-{owner}"),
            tasks=[f"{name}-{owner}-task-{n}" for n in range(TASKS_EACH)],
            edits=edits,
        )
        for owner in range(owners)
        for i in range(each)
    ]


def push_tasks(devices: list[Device], port: int) -> None:
    """Each owner's first device makes the tasks; all devices have seen them."""
    clocks: dict[str, int] = {}
    for device in devices:
        if device.owner not in clocks:
            clocks[device.owner] = make_tasks(device, port)
        device.clock = clocks[device.owner]


def drive_in_turns(
    devices: list[Device], port: int, routes: Sequence[str], rounds: int, seconds: float
) -> dict[str, list[Drive]]:
    """Let the devices sync by each route, some seconds at a time, in each order as often."""
    drives: dict[str, list[Drive]] = {route: [] for route in routes}
    for number in range(rounds):
        in_order = routes if number % 2 == 0 else routes[::-1]
        done: dict[str, Drive] = in_child(drive, devices, port, in_order, seconds)
        for route in routes:
            drives[route].append(done[route])
        for device, clock in zip(devices, done[in_order[-1]].clocks, strict=True):
            device.clock = clock
    return drives


def rate_of(done: list[Drive]) -> Times:
    """Requests a second, in each round."""
    return Times([len(d.latencies_s) / d.seconds for d in done])


def latencies_ms(done: list[Drive]) -> tuple[float, float]:
    """The median and the 99th percentile: of each round, and then the median of the rounds."""
    p50 = statistics.median(statistics.median(each.latencies_s) for each in done)
    return p50 * 1000, statistics.median(map(p99_ms, done))


def p99_ms(done: Drive) -> float:
    return statistics.quantiles(done.latencies_s, n=100)[98] * 1000


def busy_part(done: list[Drive]) -> str:
    """Answers of 503 for each sync."""
    return f"{sum(d.busy for d in done) / sum(len(d.latencies_s) for d in done):.1%}"


def _fill(table: Table, drives: dict[str, list[Drive]]) -> None:
    rates = {route: rate_of(done) for route, done in drives.items()}
    for route, done in drives.items():
        table.add(
            route,
            rates[route].median,
            percent(rates[route].spread),
            rates[route].median / rates["/empty"].median,
            *latencies_ms(done),
            sum(d.received for d in done) / sum(len(d.latencies_s) for d in done),
            busy_part(done),
        )
