"""Which device made which edits: the server notes it, no sync waits for it, and it is exact."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import databases
import pytest
from databases import Database
from server_process import diff, eventually, mobync, serving
from sqlalchemy import Connection, event, insert, select, update
from test_inspector_history import entry, reasons

import mobync as mobync_package
from mobync import SyncReport
from mobync.server import pushes as module
from mobync.server._history import lives_of
from mobync.server.metrics import MeasuredMobync, Metrics
from mobync.server.pushes import Push, Pushes
from mobync.sqlalchemy import DocumentSynchronizer, create_tables

database = databases.database
PATIENCE_S = 240
DEVICES = ("phone", "tablet", "laptop", "new")


@pytest.fixture
def pushes(database: Database) -> Pushes:
    store = DocumentSynchronizer(database.engine)
    create_tables(database.engine, store.metadata)
    devices = store.metadata.tables["diffs_devices"]
    names = [(owner, name) for owner in ("anna", "bob") for name in DEVICES]
    rows = [{"owner": owner, "device": name, "state": "{}"} for owner, name in names]
    with database.engine.begin() as connection:
        connection.execute(devices.insert(), rows)
    made = Pushes(database.engine, devices)
    made.make()
    return made


def report(end: int, accepted: int = 1, device: str | None = "phone", **more: Any) -> SyncReport:
    return SyncReport("anna", end, pushed=accepted, accepted=accepted, device=device, **more)


def test_each_edit_of_a_push_is_known_by_its_clock(pushes: Pushes) -> None:
    pushes.note(report(3, 3))
    pushes.note(report(4, 1, "tablet", seen_clock=3))
    pushes.note(report(9, 1, "tablet", seen_clock=4))
    assert pushes.of("anna", [2, 0, 3, 5]) == {
        0: Push(0, 3, "phone", 0),
        2: Push(0, 3, "phone", 0),
        3: Push(3, 4, "tablet", 3),
    }
    assert pushes.of("anna", []) == pushes.of("bob", [0, 3]) == {}


def test_what_no_named_device_pushed_is_not_noted(pushes: Pushes) -> None:
    pushes.note(report(3, 3, None))
    pushes.note(report(5, 0))
    pushes.note(report(7, 2, reset=True))
    assert pushes.of("anna", range(8)) == {}


def test_a_log_that_was_restored_takes_the_clocks_again(pushes: Pushes) -> None:
    pushes.note(report(2, 2))
    pushes.note(report(3))
    pushes.write()
    pushes.note(report(4, 3, "tablet", seen_clock=1))
    pushes.note(report(4, 3, "laptop", seen_clock=1))
    assert [push.device for push in pushes.of("anna", range(4)).values()] == ["phone"] + [
        "laptop"
    ] * 3


def test_nothing_is_noted_of_an_owner_who_was_erased_or_moved_meanwhile(database: Database) -> None:
    """The note is written up to half a second after the push."""
    store = DocumentSynchronizer(database.engine)
    create_tables(database.engine, store.metadata)
    pushes = Pushes(database.engine, store.metadata.tables["diffs_devices"])
    pushes.make()
    server = MeasuredMobync(store, Metrics())
    pushes._closed.set()  # its thread writes nothing
    server.listen(pushes.note)
    for owner in ("anna", "bob", "cleo"):
        edit = diff(1, "create", id=f"of {owner}")
        server.apply(0, [edit], owner, device=f"{owner}'s", request=1)
    server.erase("anna")
    pushes.erase("anna")
    server.move_owner("bob", "dora")
    pushes.write()
    with database.engine.connect() as connection:
        noted = connection.execute(select(pushes.table.c.owner, pushes.table.c.device)).all()
    assert noted == [("cleo", "cleo's")]


def test_nothing_stays_of_an_owner_who_is_erased_while_it_is_written(
    pushes: Pushes, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def erased_before_the_commit(connection: Connection, owners: list[str]) -> None:
        devices = pushes._devices
        revoked = update(devices.owner.table).where(devices.owner == "anna")
        connection.execute(revoked.values(state='{"revoked": true}'))

    monkeypatch.setattr(pushes, "_trim", erased_before_the_commit)
    pushes._write_some([(who, Push(0, 1, "phone", 0)) for who in ("anna", "bob")])
    with database.engine.connect() as connection:
        assert connection.scalars(select(pushes.table.c.owner)).all() == ["bob"]


def test_only_the_newest_are_kept(pushes: Pushes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 10)
    monkeypatch.setattr(module, "TRIM_AFTER", 25)
    for end in range(1, 26):
        pushes.note(report(end))
    assert sorted(pushes.of("anna", range(25))) == list(range(15, 25))
    pushes.erase("anna")
    assert pushes.of("anna", range(25)) == {}


def test_a_thread_writes_what_was_noted_and_closing_writes_the_rest(pushes: Pushes) -> None:
    def kept() -> list[int]:
        with pushes._engine.connect() as connection:
            return list(connection.scalars(select(pushes.table.c.first_clock)))

    pushes.note(report(1))
    assert eventually(kept) == [0]
    pushes.note(report(2))
    pushes.close()
    assert sorted(kept()) == [0, 1]


def test_several_processes_write_at_the_same_time_and_nothing_is_lost(
    database: Database, pushes: Pushes
) -> None:
    processes, count = 3, 60
    url = database.url.render_as_string(hide_password=False)
    program = Path(__file__).parent / "processes" / "pushers.py"
    paths = [str(Path(mobync_package.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    begun = [
        subprocess.Popen(
            [sys.executable, str(program), url, str(number), str(processes), str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        for number in range(processes)
    ]
    for each in begun:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    said = [each.communicate("\n", timeout=PATIENCE_S)[0] for each in _all_let_go(begun)]
    assert said == [""] * processes
    with database.engine.connect() as connection:
        kept = connection.execute(select(pushes.table.c.owner, pushes.table.c.first_clock)).all()
    clocks = range(processes * count)
    assert sorted(map(tuple, kept)) == [(who, at) for who in ("anna", "bob") for at in clocks]


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_clocks_that_another_process_has_just_written_are_replaced(
    database: Database, pushes: Pushes
) -> None:
    """Elsewhere the delete waits for the other one, and finds its row."""
    inserts = threading.Event()

    def note(connection: Any, cursor: Any, statement: str, *others: Any) -> None:
        if statement.startswith("INSERT"):
            inserts.set()

    with database.engine.connect() as other, ThreadPoolExecutor(1) as pool:
        row = {"owner": "anna", "first_clock": 0, "end_clock": 1, "device": "old", "seen_clock": 0}
        other.execute(insert(pushes.table), row)
        event.listen(pushes._writer, "before_cursor_execute", note)
        pushes._waiting.append(("anna", Push(0, 1, "new", 0)))
        writing = pool.submit(pushes.write)
        assert inserts.wait(PATIENCE_S)
        other.commit()
        writing.result(PATIENCE_S)
    assert pushes.of("anna", [0]) == {0: Push(0, 1, "new", 0)}


def _all_let_go(begun: list[subprocess.Popen[str]]) -> list[subprocess.Popen[str]]:
    for each in begun:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    return begun


def test_a_table_that_is_gone_fails_no_sync(
    database: Database, pushes: Pushes, caplog: pytest.LogCaptureFixture
) -> None:
    store = DocumentSynchronizer(database.engine)
    create_tables(database.engine, store.metadata)
    server = MeasuredMobync(store, Metrics())
    server.listen(pushes.note)
    pushes.table.drop(database.engine)
    said = {"logical_clock": 0, "diffs": [diff(1, "create", id="t")], "device": "watch"}
    reply = json.loads(server.apply_json(json.dumps({**said, "request": 1, "mark": None}), "anna"))
    assert reply["logical_clock"] == 1
    pushes.write()
    assert "pushes are not stored" in caplog.text
    pushes.erase("anna")
    pushes.make()
    assert pushes.of("anna", [0]) == {}


def test_what_a_device_had_seen_decides_why_its_edit_stands() -> None:
    phone, tablet = Push(0, 1, "phone", 0), Push(1, 2, "tablet", 0)
    entries = [
        entry(0, 10, "create", name="milk"),
        entry(1, 40, "update", name="oat"),
        entry(2, 50, "update", name="soy"),
    ]
    apart = {0: phone, 1: tablet, 2: Push(2, 3, "laptop", 1)}
    assert reasons(lives_of(entries, apart)) == ["created", "apart", "apart"]
    seen = {0: phone, 1: Push(1, 2, "tablet", 1), 2: Push(2, 3, "tablet", 1)}
    assert reasons(lives_of(entries, seen)) == ["created", "seen", "own"]
    tie = [*entries[:2], entry(2, 40, "update", name="soy")]
    assert reasons(lives_of(tie, apart)) == ["created", "apart", "apart tie"]
    assert reasons(lives_of(entries, {2: apart[2]})) == ["created", "later", "apart"]


def test_the_commands_erase_and_move_owner_take_them(tmp_path: Any) -> None:
    with serving(tmp_path) as served:
        token = mobync(tmp_path, "token", "anna").stdout.strip()
        admin = mobync(tmp_path, "token", "--admin").stdout.strip()
        said = {"auth_token": token, "device": "phone", "request": 1, "mark": None}
        edits = {"logical_clock": 0, "diffs": [diff(0, "create", id="t")]}
        served.http.post(f"{served.url}/sync", json={**said, **edits}).raise_for_status()

        def whose() -> list[Any]:
            path = "/inspect/api/log?owner=anna"
            return [edit["device"] for edit in served.get(path, admin).json()["entries"]]

        assert whose() == ["phone"]
        assert mobync(tmp_path, "move-owner", "anna", "bob").returncode == 0
        assert mobync(tmp_path, "move-owner", "bob", "anna").returncode == 0
        assert whose() == [None]
        more = {
            **said,
            "device": "tablet",
            "logical_clock": 0,
            "diffs": [diff(2, "create", id="v")],
        }
        served.http.post(f"{served.url}/sync", json=more).raise_for_status()
        assert whose() == ["tablet", None]
        assert mobync(tmp_path, "erase", "anna", "--yes").returncode == 0
        served.sync(token, 0, diff(1, "create", id="u"))
        assert whose() == [None]
