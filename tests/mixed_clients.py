"""Clients of several kinds on one server over real HTTP: do all end with the same rows?

    python mixed_clients.py --runs 1000 [--seed 1] [--store sqlite]

A history has an owner of its own, and two to four clients of random kinds (tests/mixed_kinds.py).
They edit objects that all share, and each one object that nobody else edits, also while they sync;
requests and answers get lost.  In the end all hold the rows that a new device gets, and the app's
table if there is one, and of its own object each client holds what it wrote last to each field:
nothing is lost and nothing was done twice.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import databases
import mixed_kinds
from http_servers import on_uvicorn
from mixed_kinds import FIELDS, MODEL, Network, PythonClient, Row, Rows
from sqlalchemy import Column, Integer, MetaData, String, Table

from mobync import FilterType, Mobync, ReadFilter, Synchronizer
from mobync.client import OfflineError
from mobync.http import Endpoint
from mobync.http.asgi import SyncApp
from mobync.memory import MemorySynchronizer
from mobync.sqlalchemy import SQLAlchemySynchronizer

STORES = ("memory", *databases.KINDS)
SHARED = ("x", "y", "z")


class Server:
    """A server in this process; a token is the owner's name.

    Attributes:
        url: of its sync route.
        table: reads the rows of an owner from the app's own table; None if it has none.
    """

    def __init__(self, url: str, table: Callable[[str], Rows] | None) -> None:
        self.url = url
        self.table = table


class History:
    """One owner's clients, and what each made of its own object."""

    def __init__(self, server: Server, seed: int, run: str) -> None:
        self.server = server
        self.rng = random.Random(seed)
        self.owner = f"{run}-{seed}"
        self.network = Network(server.url, self.owner, self.rng)
        clock = itertools.count(1_700_000_000_000, 1_000)
        self._values = itertools.count(1)
        kinds = [self.rng.choice(mixed_kinds.KINDS) for _ in range(self.rng.randint(2, 4))]
        self.clients = [
            kind(f"{self.owner}.{i}", self.network, lambda: next(clock))
            for i, kind in enumerate(kinds)
        ]
        self.own: list[Row | None] = [None] * len(kinds)
        self.edits = 0

    def play(self) -> None:
        for _ in range(self.rng.randint(10, 40)):
            number = self.rng.randrange(len(self.clients))
            if self.rng.random() < 0.4:
                self.sync(number)
            else:
                self.edit(number)
        self.settle()
        self.check()

    def sync(self, number: int) -> None:
        client = self.clients[number]
        if client.edits_meanwhile:
            self.network.meanwhile = lambda: self.edit(number)
        with suppress(OfflineError):
            client.sync()
        self.network.meanwhile = lambda: None

    def edit(self, number: int) -> None:
        client, rng = self.clients[number], self.rng
        fields = {f: next(self._values) for f in rng.sample(FIELDS, rng.randint(1, 3))}
        if rng.random() < 0.3:
            kind = "update" if self.own[number] else "create"
            client.edit(kind, f"{self.owner}-own{number}", fields)
            self.own[number] = {**(self.own[number] or {}), **fields}
        else:
            row_id = f"{self.owner}-{rng.choice(SHARED)}"
            if row_id in client.rows():
                kind = rng.choice(("update", "update", "delete"))
            elif client.can_create(row_id):
                kind = "create"
            else:
                return
            client.edit(kind, row_id, {} if kind == "delete" else fields)
        self.edits += 1

    def settle(self) -> None:
        self.network.bad = False
        for _ in range(3):
            for client in self.clients:
                client.sync()

    def check(self) -> None:
        new = PythonClient("new", self.network, lambda: 0)
        new.sync()
        rows = shown(new.rows())
        new.close()
        for number, client in enumerate(self.clients):
            told = (
                f"{type(client).__name__} {number} of {self.owner} has {shown(client.rows())}, "
                f"and a new one {rows}"
            )
            assert shown(client.rows()) == rows, told
            own = self.own[number]
            assert rows.get(f"{self.owner}-own{number}") == own, f"own {own}: {told}"
        if self.server.table is not None:
            there = shown(self.server.table(self.owner))
            assert there == rows, f"the table of {self.owner} has {there}, and a new one {rows}"


def shown(rows: Rows) -> Rows:
    """Rows without what is null: a table and WatermelonDB have that for what is missing."""
    return {i: {n: v for n, v in row.items() if v is not None} for i, row in rows.items()}


def play(server: Server, seed: int, run: str) -> int:
    """Play a history; gives how many edits it had.

    Raises:
        AssertionError: clients differ, or an own object is not what its client made of it.
    """
    history = History(server, seed, run)
    try:
        history.play()
    finally:
        for client in history.clients:
            client.close()
    return history.edits


@contextmanager
def served(kind: str = "memory") -> Iterator[Server]:
    """Serve on one of STORES."""
    if kind == "memory":
        with _listening(MemorySynchronizer()) as url:
            yield Server(url, None)
        return
    with (
        tempfile.TemporaryDirectory() as directory,
        databases.open_database(kind, Path(directory)) as database,
    ):
        metadata = MetaData()
        tasks = Table(
            MODEL,
            metadata,
            Column("id", String(60), primary_key=True),
            Column("owner", String(40), nullable=False),
            *(Column(name, Integer) for name in FIELDS),
        )
        store = SQLAlchemySynchronizer(database.engine, {MODEL: tasks})
        metadata.create_all(database.engine)
        with _listening(store) as url:
            yield Server(url, lambda owner: _table(store, owner))


@contextmanager
def _listening(store: Synchronizer) -> Iterator[str]:
    endpoint = Endpoint(Mobync(store), lambda token, headers: token)
    with on_uvicorn(SyncApp(endpoint)) as (host, port):
        yield f"http://{host}:{port}/sync"


def _table(store: SQLAlchemySynchronizer, owner: str) -> Rows:
    with store.transaction(owner) as inside:
        of_owner = ReadFilter("owner", FilterType.equal, owner)
        found: list[Any] = list(inside.read(MODEL, [of_owner]))
    return {row["id"]: {name: row[name] for name in FIELDS} for row in found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--store", choices=STORES, default="memory")
    options = parser.parse_args()
    failed, edits, begin = [], 0, time.monotonic()
    with served(options.store) as server:
        for seed in range(options.seed, options.seed + options.runs):
            try:
                edits += play(server, seed, "run")
            except AssertionError as error:
                failed.append(seed)
                print(f"seed {seed}: {error}", file=sys.stderr)
    print(
        f"{options.store}: histories {options.runs}, edits {edits}, "
        f"failed {len(failed)} {failed[:10]}, {time.monotonic() - begin:.0f} s"
    )
    return min(len(failed), 1)


if __name__ == "__main__":
    sys.exit(main())
