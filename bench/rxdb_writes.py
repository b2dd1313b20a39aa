"""1,000 writes that wait in one RxDB client, until `mobync serve` has them all.

    python bench/run.py rxdb_writes

The client is the npm package with RxDB on Node, its storage in memory: what it and the server do,
and not what a browser's disk does.  Needs Node, and the packages that `make test-javascript`
installs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from measuring import Times
from tables import Table, percent
from task_database import answers, open_database

from mobync.server.tokens import Tokens

# isort: split
# Of tests/, which task_database has put on the path.
from rxdb_devices import MODULES, NodeDevice, bundle
from server_process import Server, serving

KINDS = ("sqlite", "postgresql")
SECRET = "a secret for benchmarks, long enough"
WRITES = 1_000
ROUNDS, ROUNDS_QUICK = 15, 3
BEST_ELSEWHERE_MS = 1_340  # published of other sync stacks by offline-sync-bench


def measure(quick: bool) -> list[Table]:
    table = Table(
        "rxdb_writes",
        f"{WRITES:,} writes that wait in one RxDB client",
        ["database", "writes", "ms", "slowest ms", "spread", "writes/s", "of 1,340 ms"],
        notes=[
            "The time from the start of the replication until RxDB has the answer to the last "
            "push. RxDB 17.6.0 with its storage in memory, mobync/rxdb on Node, and `mobync "
            "serve` with one worker on the same machine. Each round has a new client and a new "
            "owner. The best time that offline-sync-bench has published for another stack is "
            f"{BEST_ELSEWHERE_MS:,} ms, on another machine.",
        ],
    )
    if not (MODULES / "rxdb").exists():
        table.notes.append("Left out: `make test-javascript` installs RxDB.")
        return [table]
    with tempfile.TemporaryDirectory() as directory:
        program = bundle("node", Path(directory), "--platform=node", "--format=esm")
        for kind in KINDS:
            if not answers(kind):
                table.notes.append(f"Left out: no {kind} answers (tests/databases.py).")
                continue
            with _served(kind) as server:
                times = Times([_write(server, program, n) for n in range(_rounds(quick))])
            median_ms = times.median * 1_000
            table.add(
                kind,
                WRITES,
                median_ms,
                max(times.seconds) * 1_000,
                percent(times.spread),
                WRITES / times.median,
                median_ms / BEST_ELSEWHERE_MS,
            )
    return [table]


def _rounds(quick: bool) -> int:
    return ROUNDS_QUICK if quick else ROUNDS


@contextmanager
def _served(kind: str) -> Iterator[Server]:
    with (
        tempfile.TemporaryDirectory() as directory,
        open_database(kind, Path(directory)) as database,
    ):
        url = database.url.render_as_string(hide_password=False)
        with serving(Path(directory), "-d", url, MOBYNC_SECRET=SECRET) as server:
            yield server


def _write(server: Server, program: Path, number: int) -> float:
    """Seconds that a new client's writes take; an error if they are not all there then."""
    owner = f"owner-{number}"
    token = Tokens(SECRET).for_owner(owner, 3600)
    with closing(NodeDevice(program)) as device:
        device.open(owner)
        device.insert(*({"id": f"{owner}-{n}", "name": f"task {n}"} for n in range(WRITES)))
        options = {"url": f"{server.url}/sync", "token": token}
        spent_ms: float = device.timed(options, WRITES)
        clock = server.sync(token, 0).json()["logical_clock"]
        if clock != WRITES:
            raise RuntimeError(f"the server has {clock} of {WRITES} writes")
    return spent_ms / 1_000
