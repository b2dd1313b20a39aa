"""A server that is killed and restored from a backup of the day before, and its ten devices."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import databases
import pytest
from databases import Database
from server_process import PATIENCE_S, Server, serving
from simulation.named_phones import Phone
from sqlalchemy import text
from test_merge import diff

from mobync.server.tokens import Tokens

SECRET = "a secret that is long enough for the tests"
PHONES = 10


class Device(Phone):
    """A device that syncs over HTTP."""

    def sync(self, server: Server, arrives: bool = True) -> None:
        request = {name: said for name, said in self.request().items() if said is not None}
        token = Tokens(SECRET).for_owner("anna", 3600)
        answer = server.http.post(
            f"{server.url}/sync",
            json={**request, "auth_token": token},
            timeout=PATIENCE_S,
        )
        if not arrives:
            return
        said = answer.json()
        if answer.status_code == 409:
            assert said["code"] == "unknown_device"
            self.begin_again()
            return
        assert answer.status_code == 200, said
        assert said.pop("refused") == []
        self.receive(request, said)

    def write(self, kind: str, **row: Any) -> None:
        self.waiting.append(diff(self.new_id(), kind, row, 1_700_000_000_000))


def settle(devices: list[Device], server: Server) -> None:
    for _ in range(4):
        for device in devices:
            device.sync(server)


class Backups:
    """Backups of a database by the means that it has for them."""

    def __init__(self, database: Database, directory: Path) -> None:
        self._database = database
        self._file = directory / "backup"

    def make(self) -> None:
        if self._database.kind == "sqlite":
            with (
                closing(sqlite3.connect(self._database.url.database or "")) as live,
                closing(sqlite3.connect(self._file)) as backup,
            ):
                live.backup(backup)
        else:
            name = self._schema()
            self._run("pg_dump", f"--schema={name}", f"--file={self._file}")

    def restore(self) -> None:
        if self._database.kind == "sqlite":
            file = Path(self._database.url.database or "")
            for leftover in file.parent.glob(f"{file.name}-*"):  # what the killed server wrote last
                leftover.unlink()
            shutil.copy(self._file, file)
        else:
            with self._database.engine.begin() as connection:
                connection.execute(text(f"DROP SCHEMA {self._schema()} CASCADE"))
            self._run("psql", "--quiet", "--set=ON_ERROR_STOP=1", f"--file={self._file}")

    def _schema(self) -> str:
        return str(self._database.url.query["options"]).split("search_path=")[1]

    def _run(self, program: str, *arguments: str) -> None:
        url = self._database.url.set(drivername="postgresql", query={})
        where = f"--dbname={url.render_as_string(hide_password=False)}"
        subprocess.run([program, where, *arguments], check=True, capture_output=True)


@pytest.mark.parametrize(("kind", "first_back"), [("sqlite", 0), ("postgresql", PHONES - 1)])
def test_ten_devices_end_equal_and_every_unsent_edit_is_there(
    kind: str, first_back: int, tmp_path: Path
) -> None:
    with databases.open_database(kind, tmp_path) as database:
        url = database.url.render_as_string(hide_password=False)
        settings = {"MOBYNC_DATABASE": url, "MOBYNC_SECRET": SECRET}
        devices = [Device() for _ in range(PHONES)]
        backups = Backups(database, tmp_path)
        with serving(tmp_path, **settings) as server:
            for n, device in enumerate(devices):
                device.write("create", id=f"of {n}", **{f"of {n}": 0 for n in range(PHONES)})
            settle(devices, server)
            assert len(devices[0].rows) == PHONES
            backups.make()
            a_day_that_will_be_lost(devices, server)
            unsent_edits(devices)
            for device in devices[:2]:  # they reach the server, and its answers nobody
                device.sync(server, arrives=False)
            server.process.kill()
            server.process.wait()
        database.engine.dispose()
        backups.restore()
        with serving(tmp_path, **settings) as server:
            # Whoever comes first pushes the clock past what the others have seen.
            for _ in range(3):
                devices[first_back].sync(server)
            for n in range(40):
                devices[first_back].write("create", id=f"after {n}")
            settle(devices, server)
            assert server.metric("mobync_resets_total") >= PHONES - 1
            assert server.metric('mobync_refusals_total{code="unknown_device"}') >= PHONES - 1
        check(devices)


def a_day_that_will_be_lost(devices: list[Device], server: Server) -> None:
    for n, device in enumerate(devices):
        device.write("update", id="of 0", **{f"of {n}": "lost"})
        device.write("create", id=f"lost {n}")
        device.sync(server)
    settle(devices, server)
    assert len(devices[0].rows) == 2 * PHONES


def unsent_edits(devices: list[Device]) -> None:
    for n, device in enumerate(devices):
        device.write("update", id="of 1", **{f"of {n}": "unsent"})
        device.write("create", id=f"unsent {n}", text=f"by {n}")
    devices[2].write("delete", id="of 9")


def check(devices: list[Device]) -> None:
    """All hold the same, with what was not sent when the server died."""
    rows = devices[0].rows
    for device in devices:
        assert device.rows == rows
        assert (device.sending, device.waiting) == ([], [])
    for n in range(PHONES):
        assert rows["of 1"][f"of {n}"] == "unsent"
        assert rows[f"unsent {n}"]["text"] == f"by {n}"
    assert "of 9" not in rows
    assert sum(object_id.startswith("after ") for object_id in rows) == 40
