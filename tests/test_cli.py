"""The commands beside `mobync serve`, as processes: what they print, and how they exit."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import databases
import pytest
from click.testing import CliRunner
from databases import Database, open_database
from server_process import MOBYNC, PATIENCE_S, Lines, diff, mobync
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from test_sqlalchemy_devices import TAKEN_AWAY

from mobync import DeviceRevokedError, Mobync, PartsMissingError, UnknownDeviceError, __version__
from mobync._extras import install
from mobync.http import ExpiredTokenError
from mobync.server._log_pages import Entry
from mobync.server.commands import main
from mobync.server.database import make_tables
from mobync.server.log_view import LogTable, last_entries
from mobync.server.lost import LostEdits
from mobync.server.owners import OwnerError
from mobync.server.replay import DamagedLogError, check
from mobync.server.tokens import Tokens
from mobync.server.transfer import TransferError, exported, import_lines
from mobync.sqlalchemy import DocumentSynchronizer, SQLAlchemySynchronizer

database = databases.database

COMMANDS = (
    "serve",
    "token",
    "log",
    "compact",
    "check",
    "reconcile",
    "devices",
    "move-owner",
    "erase",
    "export",
    "import",
)


def run_here(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    unset = {name: None for name in os.environ if name.startswith("MOBYNC_")}
    done = CliRunner().invoke(main, arguments, env={**unset, **environment}, catch_exceptions=False)
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Kept:
    """A database of `mobync serve`, its tables empty at first."""

    def __init__(self, database: Database, directory: Path) -> None:
        self.database = database
        self.directory = directory
        self.store = DocumentSynchronizer(database.engine)
        self.store.metadata.create_all(database.engine)
        self.mobync = Mobync(self.store)

    @property
    def url(self) -> str:
        return self.database.url.render_as_string(hide_password=False)

    def run(self, *arguments: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command as a process."""
        return mobync(self.directory, *arguments, input=input, MOBYNC_DATABASE=self.url)

    def run_here(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command in this process, which takes a tenth of the time."""
        return run_here(*arguments, MOBYNC_DATABASE=self.url)

    def texts(self, owner: str) -> dict[tuple[str, str], str]:
        return {(d.model, d.id): d.text for d in self.store.documents(owner)}

    def fill(self, owner: str) -> None:
        """A few edits of a few objects; the log has seven diffs, three objects are left."""
        self.mobync.apply(
            0,
            [
                diff(1, "create", id="t", name="milk", price=0.5),
                diff(2, "create", id="u", name="[red]salt[/red]\u001b[2J"),
                diff(3, "create", "notes", id="n"),
                diff(4, "create", id="v"),
            ],
            owner,
        )
        self.mobync.apply(4, [diff(5, "update", id="t", name="oat milk")], owner)
        self.mobync.apply(5, [diff(6, "update", id="t", name="soy milk")], owner)
        self.mobync.apply(6, [diff(7, "delete", id="v")], owner)


@pytest.fixture
def kept(database: Database, tmp_path: Path) -> Kept:
    return Kept(database, tmp_path)


@pytest.fixture
def on_sqlite(tmp_path: Path) -> Iterator[Kept]:
    with open_database("sqlite", tmp_path) as database:
        yield Kept(database, tmp_path)


# ---- the command line itself --------------------------------------------------------------------


def test_the_installed_command_is_this_one(tmp_path):
    script = Path(MOBYNC[0]).with_name("mobync")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"mobync, version {__version__}"


def test_help_tells_all_commands_and_each_tells_its_own(tmp_path):
    for arguments in (["--help"], ["-h"]):
        done = run_here(*arguments)
        assert done.returncode == 0
        for command in COMMANDS:
            assert f"  {command} " in done.stdout
    for command in COMMANDS:
        done = run_here(command, "--help")
        assert done.returncode == 0
        assert "--database" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["token"],
        ["token", "anna", "--admin"],
        ["token", ""],
        ["token", "x" * 256],
        ["token", "anna "],
        ["token", "an\udcffna"],
        ["token", "anna", "--days", "0"],
        ["token", "anna", "--days", "nan"],
        ["token", "anna", "--days", "inf"],
        ["token", "anna", "--days", "1e308"],
        ["token", "anna", "-d", "sqlite:///\udcff.db"],
        ["log"],
        ["log", "anna", "--since", "-1"],
        ["log", "anna", "--since", "9007199254740992"],
        ["log", "anna", "--since", "99999999999999999999"],
        ["log", "\udcff"],
        ["log", "anna", "--object", "\udcff"],
        ["log", "anna", "--model", "\udcff"],
        ["serve", "--host", "\udcff"],
        ["serve", "--events", "redis://\udcff"],
        ["compact"],
        ["compact", "anna", "--all"],
        ["check"],
        ["check", "anna", "bob"],
        ["check", "anna", "--app", "nothing.here:mobync"],
        ["check", "anna", "--app", "json"],
        ["reconcile"],
        ["reconcile", "--all", "--app", "json:loads"],
        ["reconcile", "--all", "--app", "json:decoder"],
        ["devices", "anna", "--app", "json"],
        ["devices", "revoke", "anna", "phone", "--app", "nothing.here:mobync"],
        ["devices", "forget", "anna", "phone", "--app", "json:loads"],
        ["devices", "name", "anna", "phone", "x", "--app", "json:decoder"],
        ["move-owner", "guest", "anna", "--app", "json:nothing"],
        ["erase", "anna", "--yes", "--app", "json:nothing"],
        ["log", "anna", "--app", "json:nothing"],
        ["log", "anna", "--app", ".app:mobync"],
        ["compact", "--all", "--app", "json:nothing"],
        ["export", "anna", "--app", "json:nothing"],
        ["export"],
        ["import", "anna", "no-such-file"],
    ],
)
def test_a_misuse_exits_with_2_and_makes_nothing(arguments, tmp_path):
    done = run_here(*arguments)
    assert done.returncode == 2
    assert "Usage: " in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["log", "compact", "check", "reconcile", "export"])
def test_a_database_or_owner_that_is_not_there_is_an_error_and_is_not_made(command, on_sqlite):
    done = on_sqlite.run_here(command, "anna", "-d", "sqlite:///other.db")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: there is no file other.db: `mobync serve` makes it\n"
    assert not (on_sqlite.directory / "other.db").exists()

    (on_sqlite.directory / "empty.db").touch()
    done = on_sqlite.run_here(command, "anna", "-d", "sqlite:///empty.db")
    assert (done.returncode, done.stdout) == (1, "")
    assert "has no table 'diffs" in done.stderr

    done = on_sqlite.run_here(command, "nobody")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: owner 'nobody' has no log")


def test_bytes_that_are_no_text_are_a_misuse_of_the_process_too(tmp_path):
    done = subprocess.run(
        [*MOBYNC, "log", b"an\xffna"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["log"], ["export"], ["check"], ["token"], ["log", "-h"]])
def test_a_stdout_that_is_full_is_an_error_in_one_line(arguments, on_sqlite):
    on_sqlite.fill("anna")
    command, *more = arguments
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*MOBYNC, command, "anna", *more],
            env={**os.environ, "MOBYNC_DATABASE": on_sqlite.url},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "Error: [Errno 28] No space left on device\n"


def test_an_error_of_the_database_is_one_line_that_a_terminal_does_not_obey(on_sqlite, monkeypatch):
    def refuse(*_: object) -> None:
        raise DBAPIError("SELECT", None, Exception("DETAIL: Key (id)=(\x1b[2J\x9b1m)\nexists"))

    monkeypatch.setattr("mobync.server._shared.check_tables", refuse)
    done = on_sqlite.run_here("log", "anna")
    assert done.returncode == 1
    said = "the database says: DETAIL: Key (id)=(\\x1b[2J\\x9b1m)\\nexists"
    assert done.stderr == f"Error: {said}\n"


def test_a_reader_who_has_seen_enough_is_no_error(on_sqlite):
    edits = [diff(number, "create", id=f"t{number}", text="x" * 1000) for number in range(200)]
    on_sqlite.mobync.apply(0, edits, "anna")
    for command in ("log", "export"):
        reading, writing = os.pipe()
        os.close(reading)
        with open(writing, "wb") as nobody_reads:
            done = subprocess.run(
                [*MOBYNC, command, "anna"],
                env={**os.environ, "MOBYNC_DATABASE": on_sqlite.url},
                stdout=nobody_reads,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert (done.returncode, done.stderr) == (1, "")


def test_without_the_extra_it_says_what_to_install(tmp_path):
    hidden = "import sys; sys.modules['click'] = None; from mobync.server.cli import main; main()"
    done = subprocess.run([MOBYNC[0], "-c", hidden], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"mobync: the server needs click: {install('server')}\n"


# ---- token --------------------------------------------------------------------------------------


def test_token_prints_one_that_the_secret_beside_the_database_vouches_for(tmp_path):
    token = run_here("token", "anna", "-d", "sqlite:///my.db").stdout.strip()
    admin = run_here("token", "--admin", "-d", "sqlite:///my.db").stdout.strip()
    tokens = Tokens((tmp_path / "my.db.secret").read_text())
    assert tokens.owner(token, {}) == "anna"
    assert tokens.is_admin(admin)
    elsewhere = run_here("token", "anna", "--secret-file", "s").stdout.strip()
    assert tokens.owner(elsewhere, {}) is None
    assert Tokens((tmp_path / "s").read_text()).owner(elsewhere, {}) == "anna"


def test_token_needs_a_secret_where_there_is_no_file_to_keep_one_beside(tmp_path):
    done = run_here("token", "anna", "-d", "postgresql://host/name")
    assert done.returncode == 1
    assert "set MOBYNC_SECRET, or name a file" in done.stderr


def test_a_token_is_good_for_as_many_days_as_asked(tmp_path, monkeypatch):
    token = run_here("token", "anna", "--days", "2").stdout.strip()
    tokens = Tokens((tmp_path / "mobync.db.secret").read_text())
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 47 * 3600)
    assert tokens.owner(token, {}) == "anna"
    monkeypatch.setattr(time, "time", lambda: now + 49 * 3600)
    with pytest.raises(ExpiredTokenError):
        tokens.owner(token, {})


# ---- log ----------------------------------------------------------------------------------------


def rows(done: subprocess.CompletedProcess[str]) -> list[list[str]]:
    """What stands in the table, without its head: clock, type and the rest in words."""
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    return [[line[0], *line[3:]] for line in lines if line and line[0].isdigit()]


def test_log_is_a_table_of_what_was_done_and_obeys_nothing_that_a_device_sent(kept):
    kept.fill("anna")
    done = kept.run_here("log", "anna")
    assert rows(done) == [
        ["0", "create", "tasks", "t", "name:", '"milk"', "price:", "0.5"],
        ["1", "create", "tasks", "u", "name:", '"[red]salt[/red]\\u001b[2J"'],
        ["2", "create", "notes", "n"],
        ["3", "create", "tasks", "v"],
        ["4", "update", "tasks", "t", "name:", '"oat', 'milk"'],
        ["5", "update", "tasks", "t", "name:", '"soy', 'milk"'],
        ["6", "delete", "tasks", "v"],
    ]
    head = done.stdout.splitlines()[0].split()
    assert head == ["clock", "made", "at", "(UTC)", "type", "model", "object", "fields"]
    assert "1970-01-01 00:00:05.000" in done.stdout
    assert "\u001b" not in done.stdout


def test_log_shows_an_id_that_a_terminal_would_obey_as_plain_text(on_sqlite):
    on_sqlite.mobync.apply(0, [diff(1, "create", "m\u009bx", id="\u001b[2J\n\u202e")], "anna")
    done = on_sqlite.run("log", "anna")
    assert rows(done) == [["0", "create", "m\\x9bx", "\\x1b[2J\\n\\u202e"]]


def test_log_can_be_narrowed_by_object_model_clock_and_number(on_sqlite):
    on_sqlite.fill("anna")

    def shown(*arguments: str) -> list[str]:
        return [row[0] for row in rows(on_sqlite.run_here("log", "anna", *arguments))]

    assert shown("--object", "t") == ["0", "4", "5"]
    assert shown("--model", "notes") == ["2"]
    assert shown("--object", "t", "--model", "notes") == []
    assert shown("--since", "5") == ["5", "6"]
    assert shown("-n", "2") == ["5", "6"]
    assert shown("--object", "t", "-n", "1", "--since", "1") == ["5"]


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 995 + "]" * 995])
def test_no_value_that_the_core_takes_hides_an_edit(value, on_sqlite):
    row = f'{{"id": "x", "value": {value}}}'
    sent = [diff(1, "create", id="x"), {**diff(2, "update"), "json_data": row}]
    on_sqlite.mobync.apply(0, sent, "anna")
    shown = on_sqlite.run_here("log", "anna", "--object", "x").stdout
    assert f"value: {value[:500]}" in shown
    assert on_sqlite.run_here("check", "anna").returncode == 0


def test_log_shows_the_newest_fifty_unless_told_otherwise(on_sqlite):
    edits = [diff(number, "create", id=f"t{number}") for number in range(2500)]
    on_sqlite.mobync.apply(0, edits, "anna")
    assert [row[0] for row in rows(on_sqlite.run_here("log", "anna"))] == [
        str(clock) for clock in range(2450, 2500)
    ]
    assert len(rows(on_sqlite.run_here("log", "anna", "-n", "0"))) == 2500


def test_what_comes_while_the_log_is_read_is_followed_once(on_sqlite, monkeypatch):
    on_sqlite.fill("anna")
    rounds = iter(range(3))

    def pass_time(_: float) -> None:
        if next(rounds, None) is None:
            raise KeyboardInterrupt

    def read_while_it_moves(*arguments: Any) -> list[Entry]:
        on_sqlite.mobync.push("anna", [("update", "tasks", '{"id":"t","n":1}')])
        return last_entries(*arguments)

    monkeypatch.setattr("mobync.server.commands.last_entries", read_while_it_moves)
    monkeypatch.setattr("mobync.server.log_view.time.sleep", pass_time)
    done = on_sqlite.run_here("log", "anna", "--follow")
    assert done.returncode == 130
    shown = [line.split()[0] for line in done.stdout.splitlines()[2:]]
    assert shown == [str(clock) for clock in range(8)]


@pytest.mark.parametrize("width", [1000, 90])
def test_what_follows_stands_under_the_names_of_the_columns(width, monkeypatch, capsys):
    monkeypatch.setattr("mobync.server.log_view.output_width", lambda: width)
    monkeypatch.setattr("mobync.server._terminal.output_width", lambda: width)
    table = LogTable()

    def show(*entries: tuple[str, str, str]) -> list[str]:
        table.show(
            [
                Entry(1, "d1", 1000, "create", model, object_id, 1, {"name": text})
                for model, object_id, text in entries
            ]
        )
        return capsys.readouterr().out.splitlines()

    def columns(line: str) -> list[int]:
        return [match.start() for match in re.finditer(r"(?<= {2})\S", line)][1:]  # of numbers

    head, _, first = show(("m" * 12, "o" * 36, '"x"'))
    for later in (("m", "o", '"x"'), ("m", "o", "y" * 200), ("mm", "oo", '"x"')):
        (line,) = show(later)
        assert columns(line) == columns(head) == columns(first)
        assert len(line) <= width
    (wider,) = show(("m" * 20, "o", '"x"'))
    (after,) = show(("m", "o", '"x"'))
    assert columns(after) == columns(wider)


def test_log_follows_until_it_is_interrupted(kept):
    kept.fill("anna")
    following = subprocess.Popen(
        [*MOBYNC, "log", "anna", "--follow", "-n", "1", "--model", "tasks"],
        env={**os.environ, "MOBYNC_DATABASE": kept.url, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    lines = Lines(following.stdout)
    try:
        lines.wait_for(r"^ +6 .* delete")
        kept.mobync.apply(7, [diff(8, "create", "notes", id="w")], "anna")
        kept.mobync.apply(8, [diff(9, "create", id="w"), diff(10, "update", id="t", a=1)], "anna")
        lines.wait_for(r"^ +9 .* update +tasks +t +a: 1")
        kept.mobync.apply(10, [diff(11, "delete", id="t")], "anna")
        lines.wait_for(r"^ +10 .* delete")
        following.send_signal(signal.SIGINT)
        assert following.wait(PATIENCE_S) == 130
    finally:
        following.kill()
        following.wait()
        lines.join()
    shown = [line.split()[0] for line in lines.lines if line.strip() and line.split()[0].isdigit()]
    assert shown == ["6", "8", "9", "10"]


# ---- compact ------------------------------------------------------------------------------------


def test_compact_drops_what_no_device_needs_of_one_owner_or_of_all(kept):
    for owner in ("anna", "bob", "carl"):
        kept.fill(owner)
    before = kept.texts("anna")
    done = kept.run_here("compact", "anna")
    assert done.returncode == 0
    assert done.stdout.startswith("anna: 7 diffs -> 5, ")
    assert kept.run_here("log", "bob").stdout.count("1970") == 7
    done = kept.run_here("compact", "--all")
    assert done.returncode == 0
    lines = sorted(done.stdout.splitlines())
    assert [line.split(",")[0] for line in lines] == [
        "anna: 5 diffs -> 5",
        "bob: 7 diffs -> 5",
        "carl: 7 diffs -> 5",
    ]
    assert kept.texts("anna") == before
    assert kept.run_here("check", "--all").returncode == 0


# ---- check --------------------------------------------------------------------------------------


def test_check_says_ok_where_the_log_makes_the_documents(kept):
    kept.fill("anna")
    kept.fill("bob")
    done = kept.run_here("check", "anna")
    assert (done.returncode, done.stdout) == (0, "anna: ok, 7 diffs make its 3 documents\n")
    done = kept.run_here("check", "--all")
    assert done.returncode == 0
    assert sorted(done.stdout.splitlines()) == [
        "anna: ok, 7 diffs make its 3 documents",
        "bob: ok, 7 diffs make its 3 documents",
    ]


def test_check_names_every_object_that_is_not_as_the_log_says(kept):
    kept.fill("anna")
    kept.fill("bob")
    table = kept.store.documents_table
    own = (table.c.owner == "anna", table.c.model == "tasks")
    changed = '{"price":0.50, "id":"t", "name":"soy milk", "extra":1}'
    with kept.database.engine.begin() as connection:
        connection.execute(update(table).where(*own, table.c.id == "t").values(document=changed))
        connection.execute(delete(table).where(*own, table.c.id == "u"))
        connection.execute(
            insert(table).values(owner="anna", model="x", id="y", document='{"id":"y"}')
        )
    found = {(m.model, m.id): (m.log, m.table) for m in check(kept.store, "anna").mismatches}
    assert found == {
        ("tasks", "t"): ('{"id":"t","price":0.5}', '{"price":0.50,"id":"t","extra":1}'),
        ("tasks", "u"): ('{"id": "u", "name": "[red]salt[/red]\\u001b[2J"}', None),
        ("x", "y"): (None, '{"id":"y"}'),
    }
    done = kept.run_here("check", "anna")
    assert done.returncode == 1
    assert "anna: 3 objects do not match the log" in done.stdout
    assert '{"price":0.50,"id":"t","extra":1}' in done.stdout
    assert kept.run_here("check", "bob").returncode == 0
    done = kept.run_here("check", "--all")
    assert done.returncode == 1
    assert "bob: ok" in done.stdout


def test_fields_in_another_order_and_other_white_space_around_them_are_no_difference(on_sqlite):
    on_sqlite.fill("anna")
    table = on_sqlite.store.documents_table
    with on_sqlite.database.engine.begin() as connection:
        connection.execute(
            update(table)
            .where(table.c.id == "t")
            .values(document='{ "price" : 0.5, "name":"soy milk" ,"id":"t"}')
        )
    assert check(on_sqlite.store, "anna").ok


def test_check_sees_a_head_that_is_not_at_the_end_of_the_log(on_sqlite):
    on_sqlite.fill("anna")
    heads = on_sqlite.store.metadata.tables["diffs_heads"]
    with on_sqlite.database.engine.begin() as connection:
        connection.execute(update(heads).values(logical_clock=8))
    done = on_sqlite.run("check", "anna")
    assert done.returncode == 1
    assert done.stdout == "anna: the log ends at clock 6, its head says 8\n"


def test_check_names_the_clock_of_a_damaged_diff(on_sqlite, monkeypatch):
    on_sqlite.fill("anna")
    log = on_sqlite.store.metadata.tables["diffs"]
    for damaged, complaint in (
        ('{"id":"t","name":}', "the diff of clock 5: json_data"),
        ("[]", "the diff of clock 5: json_data is not an object with an id"),
    ):
        with on_sqlite.database.engine.begin() as connection:
            connection.execute(
                update(log).where(log.c.logical_clock == 5).values(json_data=damaged)
            )
        for clocks in (10_000, 2):  # at once, and in pieces
            monkeypatch.setattr("mobync.server.replay.PIECE_CLOCKS", clocks)
            with pytest.raises(DamagedLogError) as caught:
                check(on_sqlite.store, "anna")
            assert complaint in str(caught.value)
    done = on_sqlite.run_here("check", "anna")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


@pytest.mark.parametrize("clocks", [1, 2, 3])
def test_a_log_is_replayed_alike_in_pieces_of_any_size(clocks, on_sqlite, monkeypatch):
    on_sqlite.fill("anna")
    on_sqlite.mobync.apply(
        7,
        [
            diff(8, "delete", id="t"),
            diff(9, "create", id="t", name="t again"),
            diff(10, "update", "notes", id="n", text="x"),
        ],
        "anna",
    )
    on_sqlite.mobync.compact("anna")
    monkeypatch.setattr("mobync.server.replay.PIECE_CLOCKS", clocks)
    monkeypatch.setattr("mobync.server.replay.PIECE_DOCUMENTS", 1)
    result = check(on_sqlite.store, "anna")
    assert result.ok
    assert result.documents == 3


# ---- reconcile ----------------------------------------------------------------------------------


def test_reconcile_brings_documents_that_sql_edited_into_the_log(kept):
    kept.fill("anna")
    kept.fill("bob")
    table = kept.store.documents_table
    with kept.database.engine.begin() as connection:
        changed = update(table).where(table.c.owner == "anna", table.c.id == "t")
        connection.execute(changed.values(document='{"id": "t", "name": "by SQL"}'))
        connection.execute(delete(table).where(table.c.owner == "anna", table.c.id == "u"))
        connection.execute(
            insert(table).values(owner="carl", model="x", id="y", document='{"id":"y"}')
        )
    done = kept.run_here("reconcile", "anna", "--dry-run")
    assert done.returncode == 0
    assert "anna: 0 creates, 1 updates and 1 deletes would go into the log" in done.stdout
    assert '"name": "by SQL"' in done.stdout
    assert kept.run_here("check", "anna").returncode == 1

    done = kept.run_here("reconcile", "--all")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == [
        "anna: 0 creates, 1 updates and 1 deletes went into the log",
        "bob: ok, 3 rows match the log",
        "carl: 1 creates, 0 updates and 0 deletes went into the log",
    ]
    assert kept.run_here("check", "--all").returncode == 0
    assert kept.run_here("reconcile", "carl", "--model", "x").stdout.startswith("carl: ok, 1 rows")


def test_reconcile_leaves_an_owner_who_is_busy(on_sqlite, monkeypatch):
    monkeypatch.syspath_prepend(str(on_sqlite.directory))
    place = write_app(on_sqlite.directory, on_sqlite.url, "busy_app")
    app = importlib.import_module("busy_app")
    app.metadata.create_all(app.engine)
    on_sqlite.fill("anna")
    with on_sqlite.store.transaction("anna"):
        done = run_here("reconcile", "--all", "--app", place)
    assert done.returncode == 1
    assert "anna: busy, skipped" in done.stderr


def write_app(directory: Path, url: str, name: str) -> str:
    """Write a module with a table of an app of one's own, in a database."""
    (directory / f"{name}.py").write_text(
        f"""
from sqlalchemy import Column, MetaData, String, Table, create_engine
from mobync import Mobync
from mobync.sqlalchemy import SQLAlchemySynchronizer

metadata = MetaData()
things = Table("things", metadata, Column("id", String(40), primary_key=True),
               Column("owner", String(40)), Column("name", String(40)), Column("note", String(40)))
engine = create_engine({url!r})

def make():
    return Mobync(
        SQLAlchemySynchronizer(engine, {{"things": things}}, lock_timeout_s=0.1), lock_timeout_s=0.1
    )

mobync = make()
"""
    )
    return f"{name}:mobync"


def test_check_and_reconcile_work_on_the_tables_of_an_app(kept, monkeypatch):
    monkeypatch.syspath_prepend(str(kept.directory))
    name = f"app_{kept.database.kind}"
    place = write_app(kept.directory, kept.url, name)
    app = importlib.import_module(name)
    app.metadata.create_all(kept.database.engine)
    app.mobync.push("anna", [("create", "things", {"id": i, "name": i}) for i in "abc"])
    assert run_here("check", "anna", "--app", place).stdout == "anna: ok, 3 rows match the log\n"
    things = app.things
    with kept.database.engine.begin() as connection:
        connection.execute(update(things).where(things.c.id == "a").values(name="by SQL"))
        connection.execute(delete(things).where(things.c.id == "b"))
    done = run_here("check", "--all", "--app", place)
    assert done.returncode == 1
    assert "anna: 2 objects do not match the log" in done.stdout
    assert "by SQL" in done.stdout
    assert run_here("reconcile", "anna", "--app", f"{name}:make").returncode == 0
    assert run_here("check", "anna", "--app", place).returncode == 0
    assert run_here("check", "nobody", "--app", place).returncode == 1
    app.engine.dispose()


# ---- export, import -----------------------------------------------------------------------------


def test_an_owner_moves_to_another_database_and_their_devices_go_on(kept, tmp_path):
    kept.fill("anna")
    done = kept.run("export", "anna", "anna.jsonl")
    assert (done.returncode, done.stdout) == (0, "")
    assert kept.run("export", "anna").stdout == (tmp_path / "anna.jsonl").read_text()

    done = mobync(tmp_path, "import", "anna", "anna.jsonl", "-d", "sqlite:///new.db")
    assert (done.returncode, done.stderr) == (0, "anna: 7 diffs imported\n")
    assert mobync(tmp_path, "check", "anna", "-d", "sqlite:///new.db").returncode == 0
    again = mobync(tmp_path, "export", "anna", "-d", "sqlite:///new.db")
    assert again.stdout == (tmp_path / "anna.jsonl").read_text()

    done = kept.run("import", "bob", input=again.stdout)  # and by another name
    assert done.returncode == 0
    assert kept.texts("bob") == kept.texts("anna")
    device_at_4 = kept.mobync.apply(4, [diff(8, "create", id="w")], "bob")
    assert device_at_4["logical_clock"] == 8
    assert [d["type"] for d in device_at_4["diffs"]] == ["update", "delete"]


def test_a_compacted_log_keeps_its_clock(on_sqlite):
    on_sqlite.fill("anna")
    on_sqlite.mobync.compact("anna")
    lines = list(exported(on_sqlite.store, "anna"))
    assert import_lines(on_sqlite.store, "bob", lines) == 5
    assert on_sqlite.mobync.apply(7, [], "bob")["logical_clock"] == 7
    assert on_sqlite.texts("bob") == on_sqlite.texts("anna")


def test_every_value_survives_the_file_to_the_letter(on_sqlite):
    text = '{"id":"\\ud83d\\ude00","n":0.1000,"big":12345678901234567890123,"s":"\\u2028\u2028"}'
    edit = diff(1, "create", "модель")
    edit["json_data"] = text
    on_sqlite.mobync.apply(0, [edit], "anna")
    lines = list(exported(on_sqlite.store, "anna"))
    assert all(line.endswith("\n") and line.count("\n") == 1 for line in lines)
    import_lines(on_sqlite.store, "bob", lines)
    assert on_sqlite.texts("bob") == {("модель", "😀"): text}


def test_a_log_longer_than_a_piece_is_imported_whole(on_sqlite, monkeypatch):
    on_sqlite.fill("anna")
    on_sqlite.mobync.apply(7, [diff(8, "delete", id="t"), diff(9, "create", id="t")], "anna")
    monkeypatch.setattr("mobync.server.transfer.PIECE_LINES", 3)
    seen: list[tuple[int, int]] = []
    lines = list(exported(on_sqlite.store, "anna"))
    assert import_lines(on_sqlite.store, "bob", lines, lambda *at: seen.append(at)) == 9
    assert on_sqlite.texts("bob") == on_sqlite.texts("anna")
    assert seen[-1] == (9, 9)
    assert check(on_sqlite.store, "bob").ok


@pytest.mark.parametrize("spool", [16 * 1024 * 1024, 10])
def test_owners_sync_while_an_import_waits_for_its_lines(spool, kept, monkeypatch):
    kept.fill("anna")
    monkeypatch.setattr("mobync.server.transfer.SPOOL_CHARACTERS", spool)
    lines = list(exported(kept.store, "anna"))
    impatient = Mobync(DocumentSynchronizer(kept.database.engine, lock_timeout_s=0))
    synced = []

    def slowly() -> Iterator[str]:
        for line in lines:
            for owner in ("anna", "carl"):
                synced.append(impatient.push(owner, [("update", "tasks", '{"id":"t"}')]))
            yield line

    assert import_lines(kept.store, "bob", slowly()) == 7
    assert len(synced) == 2 * len(lines)
    assert check(kept.store, "bob").ok


def test_an_owner_who_comes_while_an_import_waits_is_not_written_over(on_sqlite):
    on_sqlite.fill("anna")
    lines = list(exported(on_sqlite.store, "anna"))

    def meanwhile() -> Iterator[str]:
        yield from lines
        on_sqlite.mobync.push("bob", [("create", "tasks", '{"id":"t"}')])

    with pytest.raises(TransferError, match="'bob' has data already"):
        import_lines(on_sqlite.store, "bob", meanwhile())
    assert set(on_sqlite.texts("bob")) == {("tasks", "t")}


@pytest.mark.parametrize("owner", ["", "a" * 256, "bob "])
def test_an_owner_who_cannot_be_kept_is_not_imported(owner, on_sqlite):
    lines = list(exported(on_sqlite.store, "anna"))
    with pytest.raises(OwnerError, match="an owner is a text of 1 to 255 characters"):
        import_lines(on_sqlite.store, owner, lines)


def test_an_owner_who_has_data_is_not_imported_over(kept):
    kept.fill("anna")
    file = kept.run("export", "anna").stdout
    before = kept.texts("anna")
    done = kept.run("import", "anna", input=file)
    assert done.returncode == 1
    assert done.stderr == "Error: owner 'anna' has data already\n"
    assert kept.texts("anna") == before
    with kept.store.transaction("bob") as inside:
        inside.create("tasks", '{"id":"only in the table"}')
    with pytest.raises(TransferError, match="'bob' has data already"):
        import_lines(kept.store, "bob", file.splitlines(keepends=True))


def lines_of(kept: Kept) -> list[dict]:
    kept.fill("anna")
    return [json.loads(line) for line in exported(kept.store, "anna")]


def _without(lines: list[dict], index: int) -> list[dict]:
    return lines[:index] + lines[index + 1 :]


def _with(lines: list[dict], index: int, **members: object) -> list[dict]:
    return [*lines[:index], {**lines[index], **members}, *lines[index + 1 :]]


DAMAGES = {
    "empty": (lambda lines: [], "line 1 does not belong to a file"),
    "no header": (lambda lines: lines[1:], "line 1 does not belong to a file"),
    "a later format": (lambda lines: _with(lines, 0, format=2), "the file's format is 2, not 1"),
    "cut short": (lambda lines: lines[:-1], "ends before its last line"),
    "cut to its header": (lambda lines: lines[:1], "ends before its last line"),
    "a line lost": (lambda lines: _without(lines, 3), "line 8 does not say that there are 6 diffs"),
    "a line twice": (lambda lines: [*lines[:3], *lines[2:]], "line 4: logical_clock 1 comes after"),
    "two swapped": (
        lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
        "line 4: logical_clock 1 comes after",
    ),
    "more after the end": (lambda lines: [*lines, lines[1]], "line 10 comes after the last one"),
    "no end but more": (lambda lines: [*lines[:-1], {}], "line 9 has no 'id'"),
    "another clock": (lambda lines: _with(lines, 0, logical_clock=99), "ends at logical clock 7"),
    "no clock left": (
        lambda lines: _with(_with(lines, -2, logical_clock=2**53 - 1), 0, logical_clock=2**53),
        "too few clocks for further edits",
    ),
    "not a clock": (lambda lines: _with(lines, 0, logical_clock="7"), "line 1 does not belong"),
    "a field lost": (
        lambda lines: [*lines[:2], {"id": "x"}, *lines[3:]],
        "line 3 has no 'owner'",
    ),
    "a wrong type": (lambda lines: _with(lines, 5, type="upsert"), "line 6: "),
    "broken json_data": (lambda lines: _with(lines, 5, json_data="{"), "line 6: "),
    "an id again": (
        lambda lines: _with(lines, 5, id="d1"),
        "line 6: the id of the diff is also on",
    ),
    "an object again": (
        lambda lines: _with(lines, 4, json_data='{"id":"t"}'),
        "line 5: creates an object that exists already",
    ),
    "a model too long": (lambda lines: _with(lines, 5, model="m" * 101), "line 6: model is longer"),
    "an id too long": (lambda lines: _with(lines, 3, id="d" * 256), "line 4: id is longer"),
    "an object's id too long": (
        lambda lines: _with(lines, 2, json_data=json.dumps({"id": "o" * 256})),
        "line 3: json_data: 'id' is longer",
    ),
    "the log as a model": (
        lambda lines: _with(
            lines, 1, model="diffs", json_data=json.dumps({**lines[2], "owner": "victim"})
        ),
        "line 2: model 'diffs' is the log",
    ),
    "a lone surrogate": (lambda lines: _with(lines, 5, model="\ud800"), "line 6: "),
    "no objects": (lambda lines: [1, *lines], "line 1 is not a JSON object"),
}


def sync(store: DocumentSynchronizer, owner: str, clock: int, *said: Any) -> Any:
    name, request, mark, *diffs = said
    return Mobync(store).apply(clock, diffs, owner, device=name, request=request, mark=mark)


def test_devices_go_along_and_those_that_have_synced_since_start_over(kept, tmp_path):
    edits = [diff(n, "create", id=f"t{n}") for n in range(3)]
    early = sync(kept.store, "anna", 0, "early", 1, None, edits[0])
    late = sync(kept.store, "anna", 0, "late", 1, None, edits[1])
    lines = list(exported(kept.store, "anna"))
    late = sync(kept.store, "anna", 2, "late", 2, late["mark"], edits[2])
    with open_database("sqlite", tmp_path) as other:
        store = DocumentSynchronizer(other.engine)
        store.metadata.create_all(other.engine)
        assert import_lines(store, "anna", lines) == 2
        going_on = sync(store, "anna", 1, "early", 2, early["mark"], diff(8, "create", id="new"))
        assert (going_on["logical_clock"], len(going_on["diffs"])) == (3, 1)
        with pytest.raises(UnknownDeviceError):
            sync(store, "anna", 3, "late", 3, late["mark"])
        reset = sync(store, "anna", 3, "late 2", 1, None, diff(9, "create", id="unsent"))
        assert reset["reset"]
        whole = sync(store, "anna", 0, "late 2", 2, reset["mark"])
        assert {json.loads(d["json_data"])["id"] for d in whole["diffs"]} == {
            "t0", "t1", "new", "unsent",
        }  # fmt: skip


def test_who_was_revoked_stays_so_after_an_import(kept):
    sync(kept.store, "anna", 0, "phone", 1, None, diff(1, "create", id="a"))
    lines = list(exported(kept.store, "anna"))
    server = Mobync(kept.store)
    server.revoke_device("anna", "phone")
    server.erase("anna")
    assert import_lines(kept.store, "anna", lines) == 1
    assert [device.revoked for device in server.devices("anna")] == [True]


def test_parts_of_a_request_do_not_travel_with_the_devices(kept):
    sync(kept.store, "anna", 0, "phone", 1, None, diff(1, "create", id="a"))
    server = Mobync(kept.store)
    said = {"device": "tablet", "request": 1, "upload": "u"}
    server.apply(0, [diff(2, "create", id="b")], "anna", part=1, more_diffs=True, **said)
    *lines, end = exported(kept.store, "anna")
    told = json.loads(end)
    assert json.loads(told["devices"]["tablet"])["upload"] == ""
    for name, state in told["devices"].items():
        if name:
            told["devices"][name] = json.dumps({**json.loads(state), "upload": "of elsewhere"})
    assert import_lines(kept.store, "bob", [*lines, json.dumps(told)]) == 1
    with pytest.raises(PartsMissingError):
        server.apply(0, [], "bob", part=2, **said)
    server.apply(0, [diff(2, "create", id="b")], "anna", part=2, **said)


@pytest.mark.parametrize(
    "devices",
    [
        7,
        [],
        {"phone": 7},
        {"phone": "no JSON"},
        {"phone": "[]"},
        {"x" * 256: "{}"},
        {"a\0": "{}"},
        {"phone": '{"marks": [1]}'},
        {"phone": '{"marks": [[1, 2]]}'},
        {"phone": '{"number": "1"}'},
        {"phone": '{"pulled": ["a"]}'},
        {"phone": '{"hold": true}'},
        {"": '{"folds": "x"}'},
    ],
)
def test_devices_that_no_server_kept_are_not_imported(devices, on_sqlite):
    on_sqlite.fill("anna")
    *lines, end = exported(on_sqlite.store, "anna")
    end = json.dumps({**json.loads(end), "devices": devices})
    with pytest.raises(TransferError, match="line 9: devices are not as `mobync export`"):
        import_lines(on_sqlite.store, "bob", [*lines, end])
    assert on_sqlite.texts("bob") == {}


# ---- devices, erase -----------------------------------------------------------------------------


def test_devices_shows_names_revokes_and_forgets(kept):
    assert kept.run_here("devices", "anna").stderr.strip() == (
        "Error: owner 'anna' has no device with a name"
    )
    reply = sync(kept.store, "anna", 0, "phone-\u001b[2J", 1, None, diff(1, "create", id="t"))
    sync(kept.store, "anna", 0, "tablet", 1, None, diff(2, "create", id="u"))
    shown = kept.run_here("devices", "anna")
    assert shown.returncode == 0
    header, _, first, second = shown.stdout.splitlines()
    assert header.split("  ")[0].strip() == "device"
    assert header.split()[-2:] == ["clock", "behind"]
    assert re.match(r" *tablet +\d{4}-\d\d-\d\d .* 2 +0 ", first)
    assert re.match(r" *phone-\\x1b\[2J .* 1 +1 ", second)
    assert kept.run_here("devices", "name", "anna", "tab", "x").returncode == 1  # too short
    named = kept.run_here("devices", "name", "anna", "tabl", "Anna's")
    assert named.stdout == 'anna: tablet is called "Anna\'s"\n'
    revoked = kept.run_here("devices", "revoke", "anna", "Anna's")
    assert revoked.stdout == "anna: tablet is refused from now on\n"
    assert re.search(r"tablet +Anna's .* revoked", kept.run_here("devices", "anna").stdout)
    with pytest.raises(DeviceRevokedError):
        sync(kept.store, "anna", 2, "tablet", 2, None)
    assert kept.run_here("devices", "forget", "anna", "phone-").returncode == 0
    with pytest.raises(UnknownDeviceError):
        sync(kept.store, "anna", 1, "phone-\u001b[2J", 2, reply["mark"])
    unknown = kept.run_here("devices", "revoke", "anna", "nobody")
    assert unknown.returncode == 1
    assert "owner 'anna' has no device 'nobody'" in unknown.stderr
    sync(kept.store, "anna", 0, "tablet 2", 1, None)
    several = kept.run_here("devices", "revoke", "anna", "tabl")
    assert "has several devices 'tabl'" in several.stderr


def test_an_owner_who_is_called_as_a_command_is_listed(on_sqlite):
    sync(on_sqlite.store, "revoke", 0, "phone", 1, None, diff(1, "create", id="t"))
    assert "phone" in on_sqlite.run_here("devices", "list", "revoke").stdout


def test_a_guest_is_moved_and_the_devices_go_on(kept):
    reply = sync(kept.store, "guest", 0, "phone", 1, None, diff(1, "create", id="t"))
    kept.fill("anna")
    assert "OLD and NEW are the same" in kept.run_here("move-owner", "anna", "anna").stderr
    assert "'nobody' has no log" in kept.run_here("move-owner", "nobody", "anna").stderr
    done = kept.run_here("move-owner", "guest", "new")
    assert done.stdout == "guest: 1 rows and 1 diffs are new's now; 1 devices continue there\n"
    for owner in ("guest", "new"):
        assert kept.run_here("check", owner).returncode == 0
    assert sync(kept.store, "new", 1, "phone", 2, reply["mark"])["reset"]
    sync(kept.store, "bob", 0, "tablet", 1, None, diff(2, "create", id="t"))
    refused = kept.run_here("move-owner", "new", "bob")
    assert refused.returncode == 1
    assert "Error: both owners have 'tasks' 't': --same names the models" in refused.stderr
    assert kept.run_here("move-owner", "new", "bob", "--same", "tasks").returncode == 0
    assert kept.run_here("check", "bob").returncode == 0
    assert "phone" in kept.run_here("devices", "bob").stdout


def test_erase_asks_first_and_prints_a_receipt(kept):
    kept.fill("anna")
    kept.fill("bob")
    sync(kept.store, "anna", 0, "phone", 1, None, diff(9, "create", id="w"))
    assert kept.run("erase", "anna", input="n\n").returncode == 1
    assert len(kept.texts("anna")) == 4
    done = kept.run("erase", "anna", "--yes")
    assert done.returncode == 0
    assert re.fullmatch(
        r"anna: erased at \S+Z: 4 rows, 8 diffs; 1 devices are refused from now on\n"
        r"  notes: 1\n  tasks: 3\n",
        done.stdout,
    )
    assert kept.texts("anna") == {}
    assert len(kept.texts("bob")) == 3
    assert "has no log" in kept.run_here("log", "anna").stderr
    with pytest.raises(DeviceRevokedError):
        sync(kept.store, "anna", 0, "phone", 1, None, diff(9, "create", id="w"))


# ---- the same, of an app of one's own -----------------------------------------------------------


@pytest.fixture
def own_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module with the app's table and its Mobync; its database has no tables yet."""
    monkeypatch.syspath_prepend(str(tmp_path))
    write_app(tmp_path, f"sqlite:///{tmp_path / 'own.db'}", "own_app")
    app = importlib.import_module("own_app")
    yield app
    app.engine.dispose()
    del sys.modules["own_app"]


def of_app(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_here(*arguments, "--app", "own_app:mobync")


def things_of(app: Any) -> set[tuple[str, str]]:
    with app.engine.connect() as connection:
        found = connection.execute(select(app.things.c.owner, app.things.c.id))
        return {(row.owner, row.id) for row in found}


def test_devices_of_an_app_are_listed_named_revoked_and_forgotten(own_app):
    own_app.metadata.create_all(own_app.engine)
    store = own_app.mobync.synchronizer
    sync(store, "anna", 0, "phone-1", 1, None, diff(1, "create", "things", id="t"))
    reply = sync(store, "anna", 0, "tablet", 1, None)
    assert of_app("devices", "anna").stdout.count("phone-1") == 1
    assert of_app("devices", "name", "anna", "phone", "Anna's").returncode == 0
    revoked = of_app("devices", "revoke", "anna", "Anna's")
    assert revoked.stdout == "anna: phone-1 is refused from now on\n"
    assert re.search(r"phone-1 +Anna's .* revoked", of_app("devices", "list", "anna").stdout)
    with pytest.raises(DeviceRevokedError):
        sync(store, "anna", 1, "phone-1", 2, None)
    assert of_app("devices", "forget", "anna", "tablet").returncode == 0
    with pytest.raises(UnknownDeviceError):
        sync(store, "anna", 1, "tablet", 1, reply["mark"], diff(2, "create", "things", id="u"))
    unknown = of_app("devices", "revoke", "anna", "nobody")
    assert (unknown.returncode, unknown.stderr) == (
        1,
        "Error: owner 'anna' has no device 'nobody'\n",
    )


def test_what_listens_to_the_mobync_of_an_app_hears_of_a_revoked_device(own_app):
    own_app.metadata.create_all(own_app.engine)
    sync(own_app.mobync.synchronizer, "anna", 0, "phone", 1, None)
    heard: list[Any] = []
    own_app.mobync.listen(heard.append)
    assert of_app("devices", "revoke", "anna", "phone").returncode == 0
    assert of_app("erase", "anna", "--yes").returncode == 0
    assert [(report.owner_id, report.revoked) for report in heard] == [("anna", ("phone",))] * 2


def test_a_guest_of_an_app_is_moved_with_what_its_inspector_stores(own_app):
    own_app.metadata.create_all(own_app.engine)
    lost = LostEdits(own_app.engine, own_app.metadata.tables["diffs"])
    lost.make()
    store = own_app.mobync.synchronizer
    first = sync(store, "guest", 0, "phone", 1, None, diff(1, "create", "things", id="t"))
    own_app.mobync.push("anna", [("create", "things", {"id": "u"})])
    with own_app.engine.begin() as connection:
        row = {"owner": "guest", "id": "d", "model": "things", "object": "t", "lost_at": 1}
        connection.execute(insert(lost.table).values(**row, edit="{}"))
    nobody = of_app("move-owner", "nobody", "anna")
    assert nobody.stderr == "Error: owner 'nobody' has no log and no rows\n"
    done = of_app("move-owner", "guest", "anna")
    assert (done.stdout, done.stderr) == (
        "guest: 1 rows and 1 diffs are anna's now; 1 devices continue there\n",
        "",
    )
    assert things_of(own_app) == {("anna", "t"), ("anna", "u")}
    assert sync(store, "anna", 1, "phone", 2, first["mark"])["reset"]
    with own_app.engine.connect() as connection:
        assert connection.scalars(select(lost.table.c.owner)).all() == ["anna"]
    assert of_app("erase", "anna", "--yes").returncode == 0
    with own_app.engine.connect() as connection:
        assert connection.scalars(select(lost.table.c.owner)).all() == []


def test_an_owner_of_an_app_is_erased(own_app, tmp_path):
    own_app.metadata.create_all(own_app.engine)
    for owner in ("anna", "bob"):
        own_app.mobync.push(owner, [("create", "things", {"id": f"t of {owner}"})])
    with own_app.engine.begin() as connection:  # the log does not know of it
        connection.execute(insert(own_app.things).values(id="by SQL", owner="anna"))
    command = ["erase", "anna", "--app", "own_app:make"]
    assert mobync(tmp_path, *command, input="n\n").returncode == 1
    assert len(things_of(own_app)) == 3
    done = mobync(tmp_path, *command, input="y\n")
    assert done.returncode == 0
    receipt = r"anna: erased at \S+Z: 2 rows, 1 diffs; 0 devices .* from now on\n  things: 2\n"
    assert re.fullmatch(receipt, done.stdout)
    assert things_of(own_app) == {("bob", "t of bob")}
    assert own_app.mobync.logical_clock("anna") == 0


def test_an_app_for_asyncio_is_told_what_to_give_instead(tmp_path, monkeypatch):
    (tmp_path / "asyncio_app.py").write_text(
        """
from sqlalchemy import Column, MetaData, String, Table
from sqlalchemy.ext.asyncio import create_async_engine
from mobync import Mobync
from mobync.sqlalchemy import AsyncSQLAlchemySynchronizer

things = Table("things", MetaData(), Column("id", String(40), primary_key=True),
               Column("owner", String(40)))
engine = create_async_engine("sqlite+aiosqlite:///own.db")
mobync = Mobync(AsyncSQLAlchemySynchronizer(engine, {"things": things}))
"""
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    done = run_here("erase", "anna", "--yes", "--app", "asyncio_app:mobync")
    assert done.returncode == 2
    assert "'asyncio_app:mobync' is for asyncio: give a function that makes" in done.stderr
    assert not (tmp_path / "own.db").exists()


def test_the_log_of_an_app_under_a_name_of_its_own_is_shown_compacted_and_exported(
    tmp_path, monkeypatch
):
    (tmp_path / "edits_app.py").write_text(
        """
from sqlalchemy import Column, MetaData, String, Table, create_engine
from mobync import Mobync
from mobync.sqlalchemy import SQLAlchemySynchronizer, diffs_table

metadata = MetaData()
things = Table("things", metadata, Column("id", String(40), primary_key=True),
               Column("owner", String(40)), Column("name", String(40)))
engine = create_engine("sqlite:///own.db")
store = SQLAlchemySynchronizer(
    engine, {"things": things}, diffs=diffs_table(metadata, "edits"))
mobync = Mobync(store, diffs_model_name="edits")
"""
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    app = importlib.import_module("edits_app")
    app.metadata.create_all(app.engine)
    app.mobync.push("anna", [("create", "things", {"id": "t", "name": "milk"})])
    for name in ("bread", "salt"):
        app.mobync.push("anna", [("update", "things", {"id": "t", "name": name})])
    of_edits = ("--app", "edits_app:mobync")
    assert run_here("log", "anna", "-n", "1", *of_edits).stdout.count("salt") == 1
    for command in ("log", "compact", "export"):
        done = run_here(command, "nobody", *of_edits)
        assert (done.returncode, done.stderr) == (1, "Error: owner 'nobody' has no log\n")
    assert run_here("export", "anna", "anna.jsonl", *of_edits).returncode == 0
    header, *rows, end = (tmp_path / "anna.jsonl").read_text().splitlines()
    assert json.loads(header)["logical_clock"] == 3
    assert [json.loads(row)["logical_clock"] for row in rows] == [0, 1, 2]
    assert json.loads(end)["diffs"] == 3
    assert run_here("compact", "--all", *of_edits).stdout.startswith("anna: 3 diffs -> 1, ")
    app.engine.dispose()
    del sys.modules["edits_app"]


def test_an_exported_log_of_an_app_makes_documents(own_app, tmp_path):
    own_app.metadata.create_all(own_app.engine)
    own_app.mobync.push("anna", [("create", "things", {"id": "t", "name": "milk"})])
    assert of_app("export", "anna", "anna.jsonl").returncode == 0
    assert run_here("import", "anna", "anna.jsonl", "-d", "sqlite:///other.db").returncode == 0
    done = run_here("check", "anna", "-d", "sqlite:///other.db")
    assert done.stdout == "anna: ok, 1 diffs make its 1 documents\n"


def test_the_log_of_an_app_with_a_session_is_shown_and_its_export_says_what_it_needs(own_app):
    own_app.metadata.create_all(own_app.engine)
    own_app.mobync.push("anna", [("create", "things", {"id": "t", "name": "milk"})])
    with Session(own_app.engine) as session:
        own_app.mobync = Mobync(SQLAlchemySynchronizer(session, {"things": own_app.things}))
        assert "milk" in of_app("log", "anna").stdout
        assert of_app("compact", "anna").returncode == 0
        done = of_app("export", "anna")
    assert (done.returncode, done.stdout) == (2, "")
    assert "has a session: give a function that makes a Mobync over an engine" in done.stderr


def test_a_log_of_an_app_without_a_column_for_times_is_compacted_and_says_what_makes_it(own_app):
    own_app.metadata.create_all(own_app.engine)
    store = own_app.mobync.synchronizer
    with own_app.engine.begin() as connection:
        connection.execute(text("ALTER TABLE diffs DROP COLUMN field_times"))
    create = diff(1, "create", "things", id="t", name="milk")
    first = sync(store, "anna", 0, "phone", 1, None, create)
    update = diff(2, "update", "things", id="t", note="two litres")
    second = sync(store, "anna", 1, "phone", 2, first["mark"], update)
    sync(store, "anna", 2, "phone", 3, second["mark"])
    done = of_app("compact", "anna")
    assert done.returncode == 0
    assert "no column for the times of their fields: `create_tables` makes it" in done.stderr


PEOPLE = (["devices", "anna"], ["move-owner", "guest", "anna"], ["erase", "anna", "--yes"])


LOGS = (["log", "anna"], ["compact", "anna"], ["compact", "--all"], ["export", "anna"])


@pytest.mark.parametrize("command", [["check", "anna"], *LOGS, *PEOPLE])
def test_an_app_without_its_tables_is_an_error_in_one_line(command, own_app):
    done = of_app(*command)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"Error: the database has no table '\w+': make it .*\n", done.stderr)


@pytest.mark.parametrize("command", [["check", "anna"], ["reconcile", "--all"], *PEOPLE[1:]])
def test_a_database_with_an_apps_own_tables_needs_the_app(command, own_app):
    own_app.metadata.create_all(own_app.engine)
    done = run_here(*command, "-d", "sqlite:///own.db")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "Error: sqlite:///own.db has no table 'documents': `mobync serve` makes it; an app's own "
        "tables need --app MODULE:NAME\n"
    )


def test_commands_work_on_tables_of_1_0_and_serve_brings_them_up_to_date(kept):
    with kept.database.engine.begin() as connection:
        for statement in TAKEN_AWAY:
            connection.execute(text(statement))
    kept.fill("anna")
    for command in (
        ["check", "anna"],
        ["compact", "anna"],
        ["export", "anna", "x"],
        ["log", "anna"],
    ):
        assert kept.run_here(*command).returncode == 0
    assert "does not store devices yet" in kept.run_here("devices", "anna").stderr
    make_tables(DocumentSynchronizer(kept.database.engine), kept.database.engine)
    assert "no device with a name" in kept.run_here("devices", "anna").stderr
    assert kept.run_here("erase", "anna", "--yes").returncode == 0


def test_a_folded_log_is_checked_exported_and_imported(kept, tmp_path):
    first = sync(
        kept.store, "anna", 0, "phone", 1, None, diff(1, "create", id="t", a=1, b=1),
        diff(2, "create", id="u"),
    )  # fmt: skip
    edits = [diff(3, "update", id="t", a=2), diff(4, "delete", id="u")]
    second = sync(kept.store, "anna", 2, "phone", 2, first["mark"], *edits)
    assert "held there by phone" in kept.run_here("compact", "anna").stderr
    assert re.search("phone .* holds the horizon", kept.run_here("devices", "anna").stdout)
    polled = sync(kept.store, "anna", 4, "phone", 3, second["mark"])
    assert kept.run_here("compact", "anna").stderr == ""
    assert "holds" not in kept.run_here("devices", "anna").stdout
    assert kept.run_here("check", "anna").stdout == "anna: ok, 1 diffs make its 1 documents\n"
    header, row, end = exported(kept.store, "anna")
    assert json.loads(row)["field_times"] == '{"b":1000}'
    with open_database("sqlite", tmp_path) as other:
        store = DocumentSynchronizer(other.engine)
        store.metadata.create_all(other.engine)
        with pytest.raises(TransferError, match="ends at logical clock 1, not at 4"):
            import_lines(store, "anna", [header, row, json.dumps({"mobync": "end", "diffs": 1})])
        bad = json.dumps({**json.loads(end), "devices": {"": '{"horizon": "x"}'}})
        with pytest.raises(TransferError, match="line 3: devices are not as `mobync export`"):
            import_lines(store, "anna", [header, row, bad])
        assert import_lines(store, "anna", [header, row, end]) == 1
        assert check(store, "anna").ok
        assert list(exported(store, "anna")) == [header, row, end]
        going_on = sync(store, "anna", 4, "phone", 3, polled["mark"], diff(5, "create", id="n"))
        assert (going_on["logical_clock"], going_on["diffs"]) == (5, [])


def test_a_log_with_a_gap_of_any_length_is_imported_replayed_and_exported(on_sqlite):
    lines = lines_of(on_sqlite)
    lines = _with(_with(lines, -2, logical_clock=2**52 - 1), 0, logical_clock=2**52)
    import_lines(on_sqlite.store, "bob", [json.dumps(line) + "\n" for line in lines])
    assert check(on_sqlite.store, "bob").ok
    again = [json.loads(line) for line in exported(on_sqlite.store, "bob")]
    assert [line.get("logical_clock") for line in again] == [
        line.get("logical_clock") for line in lines
    ]
    reply = on_sqlite.mobync.apply(2**52, [diff(9, "create", id="new")], "bob")
    assert reply["logical_clock"] == 2**52 + 1


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_by_line_and_nothing_of_it_is_kept(
    damage, on_sqlite, monkeypatch
):
    spoil, complaint = DAMAGES[damage]
    lines = [json.dumps(line) + "\n" for line in spoil(lines_of(on_sqlite))]
    with pytest.raises(TransferError, match=complaint):
        import_lines(on_sqlite.store, "bob", lines)
    assert on_sqlite.texts("bob") == {}
    assert on_sqlite.store.highest_logical_clock("bob") == -1
    monkeypatch.setattr("mobync.server.transfer.PIECE_LINES", 2)
    monkeypatch.setattr("mobync.server.transfer.SPOOL_CHARACTERS", 10)
    with pytest.raises(TransferError, match=complaint):
        import_lines(on_sqlite.store, "bob", lines)
    assert on_sqlite.texts("bob") == {}
    assert on_sqlite.store.highest_logical_clock("bob") == -1


def test_what_is_no_text_or_no_json_is_refused_in_one_line(on_sqlite):
    for name, content in (("binary", b"\xff\xfe\x00"), ("html", b"<html>"), ("none", b"")):
        (on_sqlite.directory / name).write_bytes(content)
        done = on_sqlite.run_here("import", "anna", name)
        assert done.returncode == 1
        assert done.stderr.startswith("Error: line 1 ")
        assert done.stderr.count("\n") == 1


def test_an_export_that_fails_leaves_the_file_that_was_there(on_sqlite):
    on_sqlite.fill("anna")
    file = on_sqlite.directory / "anna.jsonl"
    file.write_text("last night's")
    log = on_sqlite.store.metadata.tables["diffs"]
    with on_sqlite.database.engine.begin() as connection:
        connection.execute(log.delete())
        connection.exec_driver_sql("DROP TABLE diffs")
        connection.exec_driver_sql(
            "CREATE VIEW diffs AS SELECT '1' AS id, 'anna' AS owner, abs(-9223372036854775808) AS "
            "logical_clock, 0 AS utc_timestamp, 'x' AS type, 'x' AS model, '{}' AS json_data"
        )
    done = on_sqlite.run("export", "anna", "anna.jsonl")
    assert done.returncode == 1
    assert "the database says: integer overflow" in done.stderr
    assert file.read_text() == "last night's"
    assert [path.name for path in on_sqlite.directory.iterdir() if "jsonl" in path.name] == [
        "anna.jsonl"
    ]


def test_an_export_goes_into_a_pipe_that_is_there(on_sqlite):
    on_sqlite.fill("anna")
    pipe = on_sqlite.directory / "pipe"
    os.mkfifo(pipe)
    with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)) as reader:
        done = on_sqlite.run("export", "anna", "pipe")
        assert (done.returncode, done.stderr) == (0, "")
        assert pipe.is_fifo()
        assert reader.read() == on_sqlite.run("export", "anna").stdout


def test_an_export_goes_to_where_a_symlink_leads_and_keeps_the_files_mode(on_sqlite):
    on_sqlite.fill("anna")
    directory = on_sqlite.directory
    (directory / "kept").mkdir()
    real, link, new = (directory / name for name in ("kept/anna.jsonl", "link", "new"))
    real.write_text("last night's")
    real.chmod(0o640)
    link.symlink_to(real)
    new.symlink_to("kept/new.jsonl")
    for name in ("link", "new"):
        assert on_sqlite.run("export", "anna", name).returncode == 0
    exported_text = on_sqlite.run("export", "anna").stdout
    assert link.is_symlink()
    assert new.is_symlink()
    assert real.read_text() == (directory / "kept/new.jsonl").read_text() == exported_text
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert {path.name for path in (directory / "kept").iterdir()} == {"anna.jsonl", "new.jsonl"}


def test_a_file_that_cannot_be_written_is_named(on_sqlite):
    on_sqlite.fill("anna")
    done = on_sqlite.run("export", "anna", "no/such/directory/anna.jsonl")
    assert done.returncode == 1
    assert "no/such/directory/anna.jsonl" in done.stderr
    assert "No such file" in done.stderr
