"""The server that the tests of clients/javascript speak to: documents, rules, and live.

A token is the name of its owner.  It prints its port, and stops when its stdin is closed.  Each
line of stdin is a call, as a list in JSON; the answer is a line of stdout.

    python javascript_server.py [memory|sqlite|postgresql|mariadb]
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import http_servers
from databases import open_database

from mobync import Mobync, Synchronizer
from mobync.http import Endpoint
from mobync.http.asgi import SyncApp
from mobync.live import InProcessLive
from mobync.memory import MemorySynchronizer
from mobync.server.database import make_tables
from mobync.sqlalchemy import DocumentSynchronizer


class Ruled:
    """Nothing may be called ``forbidden``."""

    def validate_create(self, owner_id: str, **diff: Any) -> bool:
        return bool(json.loads(diff["json_data"]).get("name") != "forbidden")

    validate_update = validate_create


class RuledDocuments(Ruled, DocumentSynchronizer):
    pass


class RuledMemory(Ruled, MemorySynchronizer):
    pass


def owner_of(token: str | None, headers: Mapping[str, str]) -> str | None:
    return token


@contextmanager
def opened(kind: str) -> Iterator[Synchronizer]:
    if kind == "memory":
        yield RuledMemory()
        return
    with (
        tempfile.TemporaryDirectory() as directory,
        open_database(kind, Path(directory)) as database,
    ):
        store = RuledDocuments(database.engine)
        make_tables(store, database.engine)
        yield store


class Calls:
    """What a test can do that no client can."""

    def __init__(self, mobync: Mobync) -> None:
        self.mobync = mobync

    def devices(self, owner: str) -> list[list[Any]]:
        """Their names, and whether each was revoked."""
        return [[each.name, each.revoked] for each in self.mobync.devices(owner)]

    def revoke(self, owner: str, name: str) -> None:
        self.mobync.revoke_device(owner, name)

    def fold(self, owner: str) -> int:
        """Fold the whole log, as if all devices had been silent for very long."""
        time.sleep(0.01)  # no device is seen now
        store = self.mobync.synchronizer
        server = Mobync(store, device_retention_s=0, first_pull_retention_s=0)
        return server.compact(owner).horizon


def main() -> None:
    with opened(sys.argv[1] if len(sys.argv) > 1 else "sqlite") as store:
        mobync = Mobync(store)
        live = InProcessLive()
        mobync.listen(live.announce)
        endpoint = Endpoint(mobync, owner_of, live=live, max_body_bytes=4_000_000)
        calls = Calls(mobync)
        with http_servers.on_uvicorn(SyncApp(endpoint)) as (_, port):
            print(port, flush=True)
            for line in sys.stdin:
                name, *arguments = json.loads(line)
                print(json.dumps(getattr(calls, name)(*arguments)), flush=True)
            live.close()


if __name__ == "__main__":
    main()
