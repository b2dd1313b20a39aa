"""The server that the tests of clients/javascript speak to: documents in SQLite, rules, and live.

A token is the name of its owner.  It prints its port, and stops when its stdin is closed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import http_servers

from mobync import Mobync
from mobync.http import Endpoint
from mobync.http.asgi import SyncApp
from mobync.live import InProcessLive
from mobync.server.database import database_url, make_tables, open_database
from mobync.sqlalchemy import DocumentSynchronizer


class Ruled(DocumentSynchronizer):
    """Nothing may be called ``forbidden``."""

    def validate_create(self, owner_id: str, **diff: Any) -> bool:
        return bool(json.loads(diff["json_data"]).get("name") != "forbidden")

    validate_update = validate_create


def owner_of(token: str | None, headers: Mapping[str, str]) -> str | None:
    return token


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        url = database_url(f"sqlite:///{Path(directory, 'x.db')}")
        with open_database(url) as engine:
            store = Ruled(engine)
            make_tables(store, engine)
            mobync = Mobync(store)
            live = InProcessLive()
            mobync.listen(live.announce)
            endpoint = Endpoint(mobync, owner_of, live=live, max_body_bytes=4_000_000)
            with http_servers.on_uvicorn(SyncApp(endpoint)) as (_, port):
                print(port, flush=True)
                sys.stdin.read()
                live.close()


if __name__ == "__main__":
    main()
