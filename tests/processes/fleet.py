"""Many devices that edit and sync over HTTP at the same time, each in a thread of its own."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from over_http import load_example
from simulation.devices import CarefulDevice, Device, DiffRow, FlutterDevice, Reply
from sqlalchemy.engine import Engine

from .audit import audit, logged_ids, table_rows
from .server import PATIENCE_S, POLL_S, SECRET

LIFETIME_S = 3600
SHARED_TASKS = 6  # that all devices of an owner quarrel about
SHARED_PROJECTS = 2

_tokens = load_example("relational/app.py").Tokens(SECRET, LIFETIME_S)


class Link:
    """A way to the server that tries again until there is a reply.

    Attributes:
        counts: what happened so far: replies, and by its name whatever was no reply.
    """

    def __init__(self, port: int, owner: str, seed: int) -> None:
        self.port = port
        self.token = _tokens.issue(owner)
        self.counts: Counter[str] = Counter()
        self._rng = random.Random(seed)

    def post(self, logical_clock: int, diffs: list[DiffRow]) -> Reply:
        deadline = time.monotonic() + PATIENCE_S
        body = {"auth_token": self.token, "logical_clock": logical_clock, "diffs": diffs}
        sent = json.dumps(body).encode()
        while True:
            status, answer = self.post_once(sent)
            self.counts[status] += 1
            if status == "200":
                reply: Reply = json.loads(answer)
                return reply
            assert not status.startswith("4"), f"refused with {status}: {answer!r}"
            assert time.monotonic() < deadline, f"no reply, only {dict(self.counts)}: {answer!r}"
            time.sleep(self._rng.uniform(0, 0.1))

    def post_once(self, body: bytes, **headers: str) -> tuple[str, bytes]:
        """One try: the status and the body, or what went wrong."""
        headers = {"Content-Type": "application/json", "Connection": "close", **headers}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.request("POST", "/sync", body, headers)
            response = connection.getresponse()
            return str(response.status), response.read()
        except (OSError, http.client.HTTPException) as error:
            return "interrupted", str(error).encode()
        finally:
            connection.close()


class Phone:
    """A device of the simulation, its user and its link.

    Some of its tasks no other device touches, and of those it edits each once a sync: what it did
    to them must be in the log, diff by diff, once the sync was answered.

    Attributes:
        acknowledged: the ids of those diffs.
    """

    def __init__(self, device: Device, link: Link, seed: int) -> None:
        self.device = device
        self.link = link
        self.acknowledged: set[str] = set()
        self._rng = random.Random(seed)
        self._tasks: list[str] = []
        self._edited: set[str] = set()
        self._unsent: set[str] = set()
        self._made = 0
        self._last_ms = 0

    def live(self, syncs: int) -> None:
        for _ in range(syncs):
            self.edit_and_sync()

    def edit_and_sync(self) -> None:
        self._edit_own_tasks()
        for _ in range(self._rng.randint(0, 2)):
            self._edit_shared()
        self.sync()

    def sync(self) -> None:
        request = self.device.send(self._rng)
        reply = self.link.post(request.logical_clock, request.diffs)
        self.device.in_flight = None
        self.device.receive(request, reply, self._rng)
        self.acknowledged |= self._unsent
        self._unsent, self._edited = set(), set()

    def _edit_own_tasks(self) -> None:
        new = f"{self.device.name}-{len(self._tasks)}"
        fields = {"name": "new", "done": False}
        if self._rng.random() < 0.5:
            project = f"of-{new}"
            self._unsent |= self._edit(
                "create", "projects", project, {"name": "x", "archived": False}
            )
            fields["project_id"] = project
        self._unsent |= self._edit("create", "tasks", new, fields)
        if self._tasks:
            old = self._rng.choice(self._tasks)
            kind = self._rng.choice(("update", "update", "update", "delete"))
            change = {"name": f"edit {self._made}"} if kind == "update" else {}
            self._unsent |= self._edit(kind, "tasks", old, change)
        self._tasks.append(new)

    def _edit_shared(self) -> None:
        if self._rng.random() < 0.25:
            project = f"shared-{self._rng.randrange(SHARED_PROJECTS)}"
            exists = ("projects", project) in self.device.rows
            fields = {"name": self._word(), "archived": self._rng.random() < 0.5}
            self._edit("update" if exists else "create", "projects", project, fields)
            return
        task = f"shared-{self._rng.randrange(SHARED_TASKS)}"
        if ("tasks", task) not in self.device.rows:
            self._edit("create", "tasks", task, {"name": self._word(), "done": False})
            return
        if self._rng.random() < 0.2:
            self._edit("delete", "tasks", task, {})
            return
        projects = [object_id for model, object_id in self.device.rows if model == "projects"]
        change = {"name": self._word(), "done": True, "project_id": None}
        change["project_id"] = self._rng.choice([*projects, None])
        field = self._rng.choice(list(change))
        self._edit("update", "tasks", task, {field: change[field]})

    def _word(self) -> str:
        return f"word {self._rng.randrange(1000)}"

    def _edit(self, kind: str, model: str, object_id: str, fields: dict[str, Any]) -> set[str]:
        """Edit a row; the id of the diff, none if the row does not allow it."""
        self._last_ms = max(self._last_ms + 1, time.time_ns() // 1_000_000)
        diff = {
            "id": f"{self.device.name}.{self._made}",
            "owner": "",
            "logical_clock": 0,
            "utc_timestamp": self._last_ms,
            "type": kind,
            "model": model,
            "json_data": json.dumps({"id": object_id, **fields}),
        }
        self._made += 1
        done = self.device.edit(kind, model, object_id, fields, diff)
        return {diff["id"]} if done else set()


class Fleet:
    """Devices of several owners.

    Args:
        port: where the server listens, on 127.0.0.1.
        owners: whose devices; each has as many, give or take one.
        size: how many devices in all.
        seed: of what they do.
    """

    def __init__(self, port: int, owners: list[str], size: int, seed: int = 1) -> None:
        self.phones: dict[str, list[Phone]] = {owner: [] for owner in owners}
        for number in range(size):
            owner = owners[number % len(owners)]
            kind = (CarefulDevice, FlutterDevice)[number // len(owners) % 2]
            device = kind(f"{owner}-{number}")
            link = Link(port, owner, seed + number)
            self.phones[owner].append(Phone(device, link, seed + number))
        self._lives: list[Future[None]] = []

    @property
    def counts(self) -> Counter[str]:
        """What happened to the requests of all devices."""
        total: Counter[str] = Counter()
        for phone in self._all():
            total.update(dict(phone.link.counts))
        return total

    def live(self, syncs: int) -> None:
        """All devices edit and sync at once, each so many times."""
        self._together(lambda phone: phone.live(syncs))

    @contextmanager
    def living(self) -> Iterator[None]:
        """All devices edit and sync at once, until this is left."""
        over = threading.Event()

        def live(phone: Phone) -> None:
            while not over.is_set():
                phone.edit_and_sync()

        with ThreadPoolExecutor(len(self._all())) as pool:
            self._lives = [pool.submit(live, phone) for phone in self._all()]
            try:
                yield
            finally:
                over.set()
            for life in self._lives:
                life.result(PATIENCE_S)

    def await_count(self, what: str, more: int) -> None:
        """While living, wait until so many more requests ended as "200", "503", "interrupted"."""
        goal = self.counts[what] + more
        deadline = time.monotonic() + PATIENCE_S
        while self.counts[what] < goal:
            for life in self._lives:
                if life.done():
                    life.result()  # raises: a device that lives ends by an error only
            assert time.monotonic() < deadline, f"{self.counts[what]} of {goal} times {what!r}"
            time.sleep(POLL_S)

    def settle(self) -> None:
        """Let every device send what it has, and then fetch what the others sent."""
        self._together(Phone.sync)
        self._together(Phone.sync)

    def check(self, engine: Engine) -> None:
        """Check what must hold of devices that have settled and of their server's database."""
        for owner, phones in self.phones.items():
            audit(engine, owner)
            logged = logged_ids(engine, owner)
            for phone in phones:
                lost = phone.acknowledged - logged
                assert not lost, f"acknowledged to {phone.device.name}, not in the log: {lost}"
            stored = table_rows(engine, owner)
            for phone in phones:
                held = {key: without_nulls(row) for key, row in phone.device.rows.items()}
                assert held == stored, f"{phone.device.name} and the server differ"

    def _all(self) -> list[Phone]:
        return [phone for phones in self.phones.values() for phone in phones]

    def _together(self, act: Callable[[Phone], None]) -> None:
        with ThreadPoolExecutor(len(self._all())) as pool:
            for done in [pool.submit(act, phone) for phone in self._all()]:
                done.result(PATIENCE_S)


def without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in row.items() if value is not None}
