"""A sample of the histories of tests/mixed_clients.py, and that it sees what goes wrong.

    MOBYNC_TEST_MIXED=1000 python -m pytest tests/test_mixed_clients.py

plays so many of them on each store.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import mixed_clients
import mixed_kinds
import pytest
from mixed_clients import Server
from mixed_kinds import Client, FlutterClient, PythonClient, RxDBClient, WatermelonClient

from mobync.client import OfflineError

RUNS = 40
SAMPLES = {"memory": RUNS, "sqlite": 10, "postgresql": 5, "mariadb": 5}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with mixed_clients.served() as server:
        yield server


@pytest.mark.parametrize("store", SAMPLES)
def test_clients_of_all_kinds_end_with_the_same_rows(store: str) -> None:
    runs = int(os.environ.get("MOBYNC_TEST_MIXED", SAMPLES[store]))
    with mixed_clients.served(store) as server:
        edits = sum(mixed_clients.play(server, seed, "all") for seed in range(runs))
    assert edits > 10 * runs


class Forgetful(PythonClient):
    """It takes what was sent for what has arrived."""

    def sync(self) -> None:
        try:
            super().sync()
        except OfflineError:
            self.device._replica.database.execute("DELETE FROM mobync_outbox")
            raise


class Deaf(FlutterClient):
    """It takes no reply."""

    def sync(self) -> None:
        self.device.send(self.network.rng)


class Hasty(RxDBClient):
    """It takes what comes even where its own edit waits."""

    def is_dirty(self, row_id: str) -> bool:
        return False


class Sure(RxDBClient):
    """It takes what it has by now for what it pushed."""

    def settle(self, row_id: str, state: mixed_kinds.State) -> None:
        super().settle(row_id, self.fork[row_id])


class Blind(WatermelonClient):
    """It marks as synced what was edited during the push."""

    def push(self) -> None:
        super().push()
        for row_id, raw in self.records.items():
            self.records[row_id] = self.synced(raw)


@pytest.mark.parametrize("kind", [Forgetful, Deaf, Hasty, Sure, Blind])
def test_a_client_that_loses_something_is_seen(
    server: Server, monkeypatch: pytest.MonkeyPatch, kind: type[Client]
) -> None:
    monkeypatch.setattr(mixed_kinds, "KINDS", (kind, PythonClient))
    with pytest.raises(AssertionError, match=kind.__name__):
        for seed in range(10 * RUNS):
            mixed_clients.play(server, seed, kind.__name__)
