"""Small syncs over HTTP: one edit, or none, beside an endpoint that was written by hand."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from http_devices import Drive
from over_http import (
    THREADS,
    WORKERS,
    busy_part,
    drive_in_turns,
    latencies_ms,
    make_devices,
    p99_ms,
    push_tasks,
    rate_of,
    served,
)
from tables import Table, percent
from task_database import answering, open_tasks

DEVICES = 50
ROUNDS, SECONDS = 10, 2
ROUNDS_QUICK, SECONDS_QUICK = 2, 1
OURS, BY_HAND, EMPTY = "/sync", "/by_hand", "/empty"


class Case(NamedTuple):
    """What devices do."""

    work: str
    edits: int
    of_one_owner: bool = False
    routes: Sequence[str] = (OURS, BY_HAND)


CASES = (
    Case("one edit", 1),
    Case("poll, nothing new", 0, routes=(OURS, BY_HAND, EMPTY)),
    Case("one edit, 50 devices of one owner", 1, of_one_owner=True),
)


def measure(quick: bool) -> list[Table]:
    table = Table(
        "small_http",
        f"Small syncs over HTTP: {DEVICES} devices of as many owners, Flask, gunicorn with "
        f"{WORKERS} workers of {THREADS} threads, PostgreSQL",
        [
            "work",
            "route",
            "requests/s",
            "spread",
            "/ by hand",
            "p50 ms",
            "p99 ms",
            "p99 / by hand",
            "least served",
            "busy",
        ],
        notes=[
            "/by_hand: the same statements and commit with psycopg, without a merge or a check, "
            "in the same app (bench/small_http_app.py). It also takes the owner's lock for "
            "polls. /empty only answers. A device asks again as soon as it has an answer. The "
            "devices share the machine's cores with gunicorn and PostgreSQL. The routes take "
            "turns, in each round over the same connections.",
            "Least served: the answers of the device that got the fewest, divided by those of "
            "the median device. Busy: answers of 503 for each sync. The device asks again, and "
            "its time includes all its tries. p50, p99 and p99 / by hand are measured in each "
            "round, and the table has the median over the rounds. So p99 / by hand is not the "
            "quotient of two cells.",
        ],
    )
    rounds, seconds = (ROUNDS_QUICK, SECONDS_QUICK) if quick else (ROUNDS, SECONDS)
    for kind in answering(["postgresql"], table.notes):
        with open_tasks(kind) as database:
            os.environ["DATABASE_URL"] = database.engine.url.render_as_string(hide_password=False)
            with served("small_http_app") as port:
                for case in CASES:
                    _fill(table, case, _drives(case, port, rounds, seconds))
    return [table]


def _drives(case: Case, port: int, rounds: int, seconds: float) -> dict[str, list[Drive]]:
    owners, each = (1, DEVICES) if case.of_one_owner else (DEVICES, 1)
    name = f"{case.edits}-of-{owners}"
    devices = make_devices(name, owners, each, token_of=str, edits=case.edits)
    push_tasks(devices, port)
    return drive_in_turns(devices, port, case.routes, rounds, seconds)


def _fill(table: Table, case: Case, drives: dict[str, list[Drive]]) -> None:
    rate_by_hand = rate_of(drives[BY_HAND])
    for route, done in drives.items():
        rate, (p50, p99) = rate_of(done), latencies_ms(done)
        of_device = [sum(answered) for answered in zip(*(d.answered for d in done), strict=True)]
        table.add(
            case.work,
            route,
            rate.median,
            percent(rate.spread),
            rate.median / rate_by_hand.median,
            p50,
            p99,
            _median_ratio(map(p99_ms, done), map(p99_ms, drives[BY_HAND])),
            min(of_device) / statistics.median(of_device),
            busy_part(done),
        )


def _median_ratio(ours: Iterable[float], theirs: Iterable[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
