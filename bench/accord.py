"""Beside Accord, the nearest sync server for Python, on its own tables in PostgreSQL."""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

from measuring import Contender, race
from small_syncs import ROUNDS, Pushes, make_tasks
from sqlalchemy.engine import URL
from tables import Table, percent
from task_database import TaskDatabase, answering, open_tasks
from workload import record_ids, task_edit, task_fields

from mobync.http import Endpoint

BATCHES = (1, 500)
RECORDS = 500
CREATED_AT_ONCE = 50  # Accord takes 500 edits, and a create is one of each field
BUDGET_S, BUDGET_QUICK_S = 8, 1
SECRET = "a secret of 32 bytes, for a bench"


def measure(quick: bool) -> list[Table]:
    table = Table(
        "accord",
        "Beside Accord (accordsync-server), PostgreSQL, in process",
        ["edits at once", "who", "ms", "CPU ms", "spread", "edits/s", "mobync / this"],
        notes=[
            "The table measures the function that a web framework calls: mobync.http.Endpoint.sync "
            "or AccordServer.handle. The function gets the headers and the body of a push, and "
            "returns the bytes of the answer. Each edit sets one field of a task. mobync's answer "
            "also has the new edits of other devices; Accord's devices send a second request for "
            "them. Accord checks a JWT.",
            "ms, edits/s and the last column are elapsed time. CPU ms is processor time of this "
            "process, and the spread is that of CPU ms.",
        ],
    )
    try:
        import accordsync_server  # noqa: F401
    except ImportError:
        table.notes.append("Accord is left out: accordsync-server is not installed.")
        return [table]
    budget_s = BUDGET_QUICK_S if quick else BUDGET_S
    for kind in answering(["postgresql"], table.notes):
        with open_tasks(kind) as database, _accord(database.engine.url) as push:
            for batch in BATCHES:
                _fill(table, batch, _contenders(database, push, batch), budget_s)
    return [table]


def _contenders(
    database: TaskDatabase, push: Callable[[str, bytes], bytes], batch: int
) -> dict[str, Contender]:
    owner = f"pushes {batch} edits"
    ids = make_tasks(database, owner, RECORDS)
    endpoint = Endpoint(database.mobync, lambda token, headers: token)
    headers = {"Content-Type": "application/json"}
    ours = Pushes(lambda body: _body_of(endpoint.sync(headers, body)), owner, ids, 0, batch)
    return {"mobync": ours, "Accord": _AccordPushes(push, f"device-{batch}", batch)}


def _fill(table: Table, batch: int, contenders: dict[str, Contender], budget_s: float) -> None:
    times = race(contenders, budget_s, clock=time.process_time, least=ROUNDS)
    passed = {who: statistics.median(taken.elapsed) for who, taken in times.items()}
    for who, taken in times.items():
        table.add(
            batch,
            who,
            passed[who] * 1e3,
            taken.median * 1e3,
            percent(taken.spread),
            batch / passed[who],
            passed["mobync"] / passed[who],
        )


# ---- Accord -------------------------------------------------------------------------------------


class _AccordPushes(Contender):
    """A device of Accord that has made its records, and pushes edits of them."""

    def __init__(self, push: Callable[[str, bytes], bytes], device: str, batch: int) -> None:
        from accordsync_core import LocalWriter, encode_op

        writer = LocalWriter(_schema(), device, lambda: time.time_ns() // 1_000_000)
        rng = random.Random(device)
        records = [f"task:{device}-{record}" for record in record_ids(RECORDS)]
        body = b""

        def send() -> None:
            push(device, body)

        def prepare(edits: list[tuple[str, dict[str, Any]]]) -> None:
            nonlocal body
            written = [writer.assign(at, name, row[name]) for at, row in edits for name in row]
            body = json.dumps({"ops": [encode_op(op) for op in written]}).encode()

        for begin in range(0, RECORDS, CREATED_AT_ONCE):
            made = records[begin : begin + CREATED_AT_ONCE]
            prepare([(record, {"owner": device, **task_fields(rng)}) for record in made])
            send()
        super().__init__(
            send, lambda: prepare([(rng.choice(records), task_edit(rng)) for _ in range(batch)])
        )


def _schema() -> Any:
    from accordsync_core import define_schema, lww

    return define_schema(
        {"task": {name: lww() for name in ("owner", *task_fields(random.Random()))}}
    )


@contextmanager
def _accord(url: URL) -> Iterator[Callable[[str, bytes], bytes]]:
    """Accord's server in the database: pushes a body for a device, which is its own user."""
    import jwt
    from accordsync_server import Access, AccordServer, Auth, create_pool, define_server, migrate

    conninfo = url.set(drivername="postgresql").render_as_string(hide_password=False)
    migrate(conninfo)
    server = define_server(
        schema=_schema(),
        scopes={"task": lambda record: [f"owner:{record.fields['owner']}"]},
        access=lambda claims: Access([f"owner:{claims['sub']}"], [f"owner:{claims['sub']}"]),
        auth=Auth.hs256(SECRET),
        rate_limit=False,
    )
    with closing(create_pool(conninfo)) as pool:
        accord = AccordServer(server, pool)

        def push(device: str, body: bytes) -> bytes:
            token = jwt.encode({"sub": device}, SECRET, algorithm="HS256")
            headers = {"Authorization": f"Bearer {token}", "Accord-Device": device}
            reply = _body_of(accord.handle("POST", "/v1/push", "", headers, body))
            if b'"refused":[]' not in reply:
                raise RuntimeError(f"Accord refuses edits: {reply[:300]!r}")
            return reply

        yield push


def _body_of(answer: Any) -> bytes:
    if answer.status != 200:
        raise RuntimeError(f"answered {answer.status}: {answer.body[:300]!r}")
    body: bytes = answer.body
    return body
