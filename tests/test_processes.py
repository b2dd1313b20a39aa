"""Several server processes over one database: under load, killed, and with the database killed.

Devices talk real HTTP to gunicorn, which serves examples/relational.  Whatever happens meanwhile,
in the end all devices and the tables hold the same rows, every acknowledged edit is in the log,
the log says what the tables hold, and its clocks have no gap.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import databases
import pytest
from databases import Database
from over_http import load_example
from processes.audit import audit, logged_ids, table_rows
from processes.fleet import Fleet, Link
from processes.instances import open_instance
from processes.kills import kill_again_and_again
from processes.server import Server
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from task_list import diff

database = databases.database

DEVICES = 50
SYNCS_EACH = 6
KILLS = int(os.environ.get("MOBYNC_TEST_KILLS", "100"))

MANY_OWNERS = [f"owner{number}" for number in range(10)]


@pytest.fixture
def serve(database: Database, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    def serve(**options: Any) -> Server:
        return Server(database.url, tmp_path / "server.log", **options)

    return serve


# ---- under load ---------------------------------------------------------------------------------


@pytest.mark.parametrize("owners", [["anna"], MANY_OWNERS], ids=["one owner", "many owners"])
def test_fifty_devices_on_four_processes_converge(database, serve, owners) -> None:
    with serve() as server:
        fleet = Fleet(server.port, owners, DEVICES)
        fleet.live(SYNCS_EACH)
        fleet.settle()
    assert set(fleet.counts) <= {"200", "503"}
    fleet.check(database.engine)


def test_devices_that_are_told_busy_come_again_and_lose_nothing(database, serve) -> None:
    example = load_example("relational/app.py")
    with serve(app="app:create_app(lock_timeout_s=0.1)") as server:
        other_process = example.TaskStore(
            database.engine, {"projects": example.Project, "tasks": example.Task}
        )
        fleet = Fleet(server.port, ["anna"], 6)
        with fleet.living():
            with other_process.transaction("anna"):
                fleet.await_count("503", more=6)
            fleet.await_count("200", more=6)
        fleet.settle()
    assert set(fleet.counts) == {"200", "503"}
    fleet.check(database.engine)


# ---- killed processes ---------------------------------------------------------------------------


def test_processes_that_are_killed_in_the_middle_of_syncs_lose_and_double_nothing(
    database, serve
) -> None:
    with serve() as server:
        fleet = kill_again_and_again(server, KILLS)
    assert fleet.counts["interrupted"] >= KILLS / 4  # else they were not in the middle of syncs
    fleet.check(database.engine)


def test_a_process_that_dies_at_any_point_of_a_sync_leaves_all_of_it_or_nothing(
    database, serve
) -> None:
    mortal = {"app": "processes.mortal:create_app()", "directory": Path(__file__).parent}
    kept = []
    with serve(**mortal, workers=1, threads=1) as server:
        link = Link(server.port, "anna", seed=1)
        clock = link.post(0, [diff("create", id="t", name="milk", done=False)])["logical_clock"]
        for point in itertools.count():
            sent = [
                diff("create", "projects", id=f"p{point}", name="home", archived=False),
                diff("create", id=f"t{point}", name="soap", done=False, project_id=f"p{point}"),
                diff("update", "tasks", id="t", name=f"milk {point}"),
            ]
            before = table_rows(database.engine, "anna")
            body = {"auth_token": link.token, "logical_clock": clock, "diffs": sent}
            status, _ = link.post_once(json.dumps(body).encode(), **{"X-Die-At": str(point)})
            ids = {d["id"] for d in sent}

            audit(database.engine, "anna")
            logged = ids & logged_ids(database.engine, "anna")
            assert logged in (set(), ids)
            assert (table_rows(database.engine, "anna") == before) == (logged == set())
            if status == "200":
                break
            kept.append(logged == ids)

            clock = link.post(clock, sent)["logical_clock"]
            # A new process looks at the tables once, when it writes: the points are to be the same.
            known = diff("update", "tasks", id="t", name=f"milk again {point}")
            clock = link.post(clock, [known])["logical_clock"]
            audit(database.engine, "anna")
            assert ids <= logged_ids(database.engine, "anna")
    # Up to the commit nothing is kept, from then on everything.
    assert kept == [False] * (len(kept) - 1) + [True]
    assert len(kept) > 10


# ---- a killed database --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_database_that_is_killed_under_load_comes_back_with_all_that_was_acknowledged(
    kind, tmp_path
) -> None:
    with open_instance(kind) as instance, Server(instance.url, tmp_path / "server.log") as server:
        fleet = Fleet(server.port, ["anna", "ben"], 8)
        with fleet.living():
            fleet.await_count("200", more=20)
            instance.kill()
            fleet.await_count("503", more=1)
            instance.start()
            fleet.await_count("200", more=20)
        fleet.settle()
        engine = create_engine(instance.url)
        try:
            fleet.check(engine)
        finally:
            engine.dispose()


# ---- dropped connections ------------------------------------------------------------------------


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
def test_connections_that_are_cut_in_the_middle_of_syncs_lose_and_double_nothing(
    database, serve
) -> None:
    with serve() as server:
        fleet = Fleet(server.port, ["anna", "ben"], 8)
        with fleet.living():
            for _ in range(10):
                fleet.await_count("200", more=4)
                cut_connections(database)
        fleet.settle()
    assert fleet.counts["503"] > 0
    fleet.check(database.engine)


def cut_connections(database: Database) -> None:
    """Make the database server drop all connections to this test's database but our own."""
    with database.engine.connect() as connection:
        if database.kind == "postgresql":
            # Backends that hold a lock on a table of ours are in the middle of a sync.
            ids = connection.scalars(
                text(
                    "SELECT DISTINCT pid FROM pg_locks WHERE pid <> pg_backend_pid() AND relation "
                    "IN (SELECT oid FROM pg_class WHERE relnamespace = "
                    "CAST(current_schema() AS regnamespace))"
                )
            ).all()
            for pid in ids:
                connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
            return
        ids = connection.scalars(
            text(
                "SELECT id FROM information_schema.processlist "
                "WHERE db = DATABASE() AND id <> CONNECTION_ID()"
            )
        ).all()
        for number in ids:
            with contextlib.suppress(OperationalError):  # it has gone meanwhile
                connection.exec_driver_sql(f"KILL {number}")
