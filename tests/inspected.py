"""A database with logs to look at, and the inspector in front of it on a real socket."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn
from sqlalchemy import Column, MetaData, String, Table, Text, insert
from sqlalchemy.engine import Engine
from starlette.applications import Starlette
from starlette.requests import Request

from mobync import Mobync
from mobync.server import inspector
from mobync.sqlalchemy import SQLAlchemySynchronizer, diffs_table

T0 = 1_790_000_000_000  # a moment in 2026, milliseconds

Edit = tuple[str, int, dict[str, str]]


class Logs:
    """The logs of one database, kept by a SQLAlchemySynchronizer.

    Args:
        engine: an empty database.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        metadata = MetaData()
        self.diffs = diffs_table(metadata)
        self.heads = metadata.tables["diffs_heads"]
        tasks = Table(
            "tasks",
            metadata,
            Column("id", String(200), primary_key=True),
            Column("owner", String(200)),
            *(Column(name, Text) for name in ("name", "done", "shop")),
        )
        metadata.create_all(engine)
        self.mobync = Mobync(SQLAlchemySynchronizer(engine, {"tasks": tasks}, diffs=self.diffs))
        self._edits = 0

    def sync(self, owner: str, clock: int, *edits: Edit) -> int:
        """Sync as a device of an owner: edits are (type, milliseconds after T0, row)."""
        diffs = []
        for kind, ms, row in edits:
            self._edits += 1
            diffs.append(
                {
                    "id": f"edit-{self._edits}",
                    "owner": owner,
                    "logical_clock": 0,
                    "utc_timestamp": T0 + ms,
                    "type": kind,
                    "model": "tasks",
                    "json_data": json.dumps(row),
                }
            )
        return self.mobync.apply(clock, diffs, owner)["logical_clock"]

    def write(self, owner: str, rows: Sequence[tuple[str, str, str]], first_clock: int = 0) -> None:
        """Put (type, model, json_data) into an empty log as they are, in one go."""
        with self.engine.begin() as connection:
            connection.execute(
                insert(self.diffs),
                [
                    {
                        "id": f"written-{clock}",
                        "owner": owner,
                        "logical_clock": clock,
                        "utc_timestamp": T0 + clock,
                        "type": kind,
                        "model": model,
                        "json_data": json_data,
                    }
                    for clock, (kind, model, json_data) in enumerate(rows, first_clock)
                ],
            )
            highest = first_clock + len(rows) - 1
            connection.execute(insert(self.heads), {"owner": owner, "logical_clock": highest})

    @contextmanager
    def inspected(
        self,
        allow: Callable[[Request], bool] = inspector.from_loopback,
        live: Any = None,
    ) -> Iterator[str]:
        """Serve the inspector of these logs; gives its URL, with the last slash."""
        routes = inspector.routes(self.engine, self.diffs, self.heads, allow, live)
        with serving(Starlette(routes=routes)) as url:
            yield url


@contextmanager
def serving(app: Starlette) -> Iterator[str]:
    config = uvicorn.Config(
        app, log_level="critical", lifespan="off", ws="none", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()
