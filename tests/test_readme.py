"""What README.md and the first pages of docs/ say is run: code, tables and worked examples."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import server_process
import yaml
from over_http import load_example
from server_process import free_port, serving
from small_device import SmallDevice

import mobync.errors
from mobync import (
    DeviceRevokedError,
    Diff,
    InvalidDiffError,
    LogicalClockError,
    Mobync,
    MobyncError,
    Synchronizer,
    merge,
)
from mobync.http import Endpoint
from mobync.memory import MemorySynchronizer

HOME = Path(__file__).resolve().parents[1]
README = (HOME / "README.md").read_text(encoding="utf-8")
PROTOCOL = (HOME / "docs" / "protocol.md").read_text(encoding="utf-8")
PYPROJECT = (HOME / "pyproject.toml").read_text(encoding="utf-8")


SECTIONS = {
    title: text
    for name in ("README.md", "docs/install.md", "docs/your-app.md")
    for title, text in re.findall(
        r"^## (.+?)\n(.*?)(?=^## |\Z)", (HOME / name).read_text(encoding="utf-8"), re.M | re.S
    )
}


def code(title: str, language: str = "python") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", SECTIONS[title], re.M | re.S)


def table(title: str, number: int = 0) -> list[list[str]]:
    """The rows of a section's table, without its head."""
    tables = re.findall(r"(?:^\|.*\n)+", SECTIONS[title], re.M)
    head, rule, *rows = tables[number].splitlines()
    assert set(rule) <= set("|-"), f"{head} has no rule under it"
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def run(*blocks: str) -> tuple[dict[str, Any], str]:
    """Run blocks as one program; returns its names and what it printed."""
    names: dict[str, Any] = {"__name__": "readme"}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for block in blocks:
            exec(compile(block, "README.md", "exec"), names)
    return names, printed.getvalue()


class Direct:
    """A link to a Mobync in this process; what passes is JSON, as on the wire."""

    def __init__(self, mobync: Mobync, owner_id: str) -> None:
        self.mobync = mobync
        self.owner_id = owner_id

    def post(self, body: dict[str, Any]) -> dict[str, Any]:
        sent = json.loads(json.dumps(body))
        reply = self.mobync.apply(sent["logical_clock"], sent["diffs"], self.owner_id)
        answered: dict[str, Any] = json.loads(json.dumps(reply))
        return answered


class World:
    """A phone and a tablet of one owner that have synced: both hold task t, called milk."""

    def __init__(self, store: Any = None) -> None:
        self.store = store if store is not None else MemorySynchronizer()
        link = Direct(Mobync(self.store), "anna")
        self.phone = SmallDevice(link)
        self.tablet = SmallDevice(link, "tablet")
        self.now_ms = int(time.time() * 1000) - 3_600_000
        self.edit(self.phone, "create", "t", name="milk", done=False)
        self.sync(self.phone, self.tablet)

    def edit(self, device: Any, kind: str, row_id: str, /, **fields: Any) -> None:
        """An edit, one second after the last."""
        self.now_ms += 1_000
        self.edit_at(self.now_ms, device, kind, row_id, **fields)

    def edit_at(self, now_ms: int, device: Any, kind: str, row_id: str, /, **fields: Any) -> None:
        device.edit(kind, {"id": row_id, **fields}, now_ms)

    def sync(self, *devices: Any) -> None:
        for device in devices:
            device.sync()

    def settle(self, *first: Any) -> dict[str, dict[str, Any]]:
        """Sync, these devices first, until nothing is left; returns the rows that all hold."""
        self.sync(*first, self.phone, self.tablet, self.phone, self.tablet)
        stored = {row["id"]: row for row in self.store.read("tasks")}
        assert self.phone.rows == self.tablet.rows == stored
        return stored

    def log(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.store.read("diffs")
        return rows


# ---- install, quick start, route ----------------------------------------------------------------


def test_the_install_lines_are_those_that_a_failing_build_prints() -> None:
    build = (HOME / "setup.py").read_text(encoding="utf-8")
    (lines, _) = code("From a checkout", "sh")
    for tool, packages in re.findall(r"^(apt-get|dnf|brew) install (.+?)\s+#", lines, re.M):
        named = re.search(rf"{tool} install (.+)", build)
        assert named, f"setup.py says nothing of {tool}"
        assert set(named[1].split()) <= set(packages.split())
    assert len(re.findall(r"^(?:apt-get|dnf|brew) install", lines, re.M)) == 3


ROOT_PAGES = ("README", "CONTRIBUTING", "SECURITY", "CODE_OF_CONDUCT")
PAGES = [
    *(HOME / f"{name}.md" for name in ROOT_PAGES),
    *HOME.glob("docs/**/*.md"),
    *HOME.glob("examples/*/README.md"),
]
NOT_ON_THE_INDEX_YET = r"pip install (?:-\S+ )*['\"]?mobync\b"


@pytest.mark.parametrize(
    "path",
    [*PAGES, *(HOME / "mobync").rglob("*.py")],
    ids=lambda path: str(path.relative_to(HOME)),
)
def test_what_is_told_to_install_is_this_mobync_and_not_that_of_the_index(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(NOT_ON_THE_INDEX_YET, text)

    extras = re.search(r"optional-dependencies\]\n(.*?)\n\[", PYPROJECT, re.S)
    assert extras
    for named in re.findall(r"pip install [^`\n]*?\.\[([\w,-]+)\]", text):
        for extra in named.split(","):
            assert re.search(rf"^{extra} = ", extras[1], re.M), extra


def imported_where_it_is_not_built(tmp_path: Path) -> str:
    """The last line of an import, as Python finds mobync when it is started in a checkout."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", "import mobync"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert str(tmp_path) in last
    assert "Run `pip install -e .`" in last
    return last


def test_a_checkout_without_the_extension_says_how_to_build_it(tmp_path: Path) -> None:
    without = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(HOME / "mobync", tmp_path / "mobync", ignore=without)
    last = imported_where_it_is_not_built(tmp_path)
    assert last.startswith("ImportError: mobync's C extension is not built in")

    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    (tmp_path / "mobync" / f"_core{suffix}").write_text("not a library")
    last = imported_where_it_is_not_built(tmp_path)
    assert last.startswith("ImportError: mobync's C extension does not load (")


def test_a_backend_is_there_in_one_minute(tmp_path: Path) -> None:
    """Its commands as they stand, on another port."""
    (commands,) = code("A backend in one minute", "sh")
    (shown,) = code("A backend in one minute", "text")
    port = str(free_port())
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", commands.replace("8000", port) + "\nkill %1; wait %1"],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == shown.strip(), done.stderr
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mobync.db").exists()


def test_a_device_in_python_prints_what_the_readme_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a server that has what the commands before sent."""
    (program,) = code("A device in Python")
    (shown,) = code("A device in Python", "text")
    monkeypatch.chdir(tmp_path)
    with serving(tmp_path) as server:
        monkeypatch.setenv("TOKEN", server_process.mobync(tmp_path, "token", "anna").stdout.strip())
        for _ in range(2):  # with new files, and with those of the first time
            _, printed = run(program.replace("http://127.0.0.1:8000", server.url))
            assert printed == shown


def blocks(page: str, language: str = "python") -> list[str]:
    """The blocks of code of a page."""
    text = (HOME / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def test_the_first_backend_does_what_its_page_shows(tmp_path: Path) -> None:
    """Its commands and its program, in their order, in one shell."""
    start, look, stop = blocks("tutorials/first-backend.md", "sh")
    (program,) = blocks("tutorials/first-backend.md")
    (shown,) = blocks("tutorials/first-backend.md", "text")
    port = str(free_port())
    (tmp_path / "devices.py").write_text(program.replace("8000", port))
    wait = f"until curl -s http://127.0.0.1:{port}/health; do sleep 0.1; done >/dev/null"
    run_devices = "TOKEN=$TOKEN python devices.py"
    script = [start.replace("8000", port), wait, run_devices, "exec >looked", look, stop, "wait %1"]
    done = subprocess.run(
        ["bash", "-euc", "\n".join(script)],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == shown, done.stderr
    assert done.returncode == 0, done.stderr  # that of the server, which was stopped
    looked = (tmp_path / "looked").read_text()
    assert "oat milk" in looked
    assert "ok" in looked


def test_the_tutorial_of_fastapi_prints_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    app, device = blocks("tutorials/fastapi.md")
    (start,) = blocks("tutorials/fastapi.md", "sh")
    (shown,) = blocks("tutorials/fastapi.md", "text")
    (tmp_path / "app.py").write_text(app)
    port = str(free_port())
    command = [sys.executable, "-m", *start.replace("8000", port).split()]
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        server_process.eventually(lambda: is_up(f"{url}/tasks"))
        assert run(device.replace("http://127.0.0.1:8000", url))[1] == shown
        anna = {"Authorization": "Bearer anna-demo-token"}
        (milk,) = requests.get(f"{url}/tasks", headers=anna, timeout=60).json()
        assert (milk["owner"], milk["name"], milk["done"]) == ("anna", "milk", True)
    finally:
        server.terminate()
        server.wait(60)


def is_up(url: str) -> bool:
    try:
        return requests.get(url, timeout=60).status_code == 401
    except requests.ConnectionError:
        return False


def test_what_contributing_tells_to_run_is_there() -> None:
    page = (HOME / "CONTRIBUTING.md").read_text(encoding="utf-8")
    makefile = (HOME / "Makefile").read_text() + (HOME / "tests/core/Makefile").read_text()
    for command in re.findall(r"^(?:\| `)?(make (?:-C \S+ )?[\w-]+|\S*pytest .*)", page, re.M):
        for path in re.findall(r"tests/\w+(?:\.py)?|(?<=-C )\S+", command):
            assert (HOME / path).exists(), command
        if command.startswith("make"):
            assert re.search(rf"^{command.split()[-1]}:", makefile, re.M), command


def test_the_tests_of_rules_pass_as_they_stand_and_fail_without_the_rules(tmp_path: Path) -> None:
    program = "\n".join(blocks("testing-your-rules.md"))
    without = re.sub(r"(def validate_\w+\(.*?\):)", r"\1\n        return True", program)
    for text, outcome in ((program, "5 passed"), (without, "3 failed, 2 passed")):
        (tmp_path / "test_rules.py").write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert outcome in done.stdout, done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(HOME)))
def test_every_program_of_a_page_is_python(page: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S):
        compile(block, str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_the_client_of_the_page_edits_and_syncs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (HOME / "docs" / "writing-a-client.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    monkeypatch.chdir(tmp_path)
    with serving(tmp_path) as server:
        token = server_process.mobync(tmp_path, "token", "anna").stdout.strip()
        program = program.replace("https://example.org", server.url)
        names, _ = run(f"token = {token!r}", program)
        assert names["result"].sent == 2
        names["device"].close()


def test_the_quick_start_prints_what_the_readme_shows() -> None:
    (program,) = code("Two devices in one program")
    (shown,) = code("Two devices in one program", "text")
    assert run(program)[1] == shown


def test_the_quick_start_answers_a_device_that_is_wrong(caplog: pytest.LogCaptureFixture) -> None:
    device = run(*code("Two devices in one program"))[0]["app"].test_client()
    ahead = device.post("/sync", json={"logical_clock": 99, "diffs": []})
    assert (ahead.status_code, ahead.json["code"]) == (409, "clock_ahead")
    assert device.post("/sync", json={"logical_clock": 0}).status_code == 400
    assert device.post("/sync", json=[]).status_code == 400
    assert device.post("/sync", data="{").status_code == 415


def test_the_quick_start_is_about_twenty_lines() -> None:
    (program,) = code("Two devices in one program")
    assert len([line for line in program.splitlines() if line]) <= 20


def test_the_route_answers_as_the_error_table_says(caplog: pytest.LogCaptureFixture) -> None:
    names, _ = run(*code("The sync route"))
    device = names["app"].test_client()
    sent = [
        {
            "id": f"d{number}",
            "owner": "anna",
            "logical_clock": 0,
            "utc_timestamp": number,
            "type": kind,
            "model": "tasks",
            "json_data": '{"id": "t"}',
        }
        for number, kind in enumerate(("create", "update"))
    ]
    body = {"auth_token": "anna-demo-token", "logical_clock": 0, "diffs": sent}
    with caplog.at_level("INFO", "mobync"):
        assert device.post("/sync", json=body).json["success"] is True
    assert [record.getMessage() for record in caplog.records] == [
        line for block in code("The sync route", "text") for line in block.splitlines()
    ]
    assert device.post("/sync", json={**body, "auth_token": "x"}).status_code == 401
    assert device.post("/sync", json={**body, "logical_clock": 9}).status_code == 409
    assert device.post("/sync", json={**body, "diffs": [{}]}).status_code == 400
    assert device.post("/sync", json={**body, "diffs": None}).status_code == 400
    bearer = {"Authorization": "Bearer anna-demo-token"}
    assert device.post("/sync", json=[], headers=bearer).status_code == 400


class Refusing(Mobync):
    """Refuses every sync with one error."""

    def __init__(self, error: MobyncError) -> None:
        super().__init__(MemorySynchronizer())
        self.error = error

    def apply_json(self, body: bytes | str, owner_id: str) -> bytes:
        raise self.error


def test_the_error_table_names_every_error() -> None:
    named = {getattr(mobync.errors, name.strip("`")) for name, *_ in table("Errors")}
    assert named == set(MobyncError.__subclasses__())


@pytest.mark.parametrize(("name", "cell"), [(name, cell) for name, _, cell, _ in table("Errors")])
def test_the_error_table_has_the_statuses_of_mobync_http_and_of_the_route_by_hand(
    name: str, cell: str
) -> None:
    kind = getattr(mobync.errors, name.strip("`"))
    refusals = [kind("no")]
    if kind is LogicalClockError:
        refusals.insert(0, LogicalClockError("no", ahead=True))
    by_hand = load_example("in_memory/app.py")
    headers = {"Authorization": "Bearer anna-demo-token", "Content-Type": "application/json"}
    for error, status in zip(refusals, re.findall(r"\d{3}", cell), strict=True):
        refusing = Refusing(error)
        endpoint = Endpoint(refusing, lambda token, headers: "anna")
        for answer in (
            endpoint.sync(headers, b"{}"),
            by_hand.create_app(refusing).test_client().post("/sync", data="{}", headers=headers),
        ):
            assert str(answer.status)[:3] == status
            assert ("Retry-After" in answer.headers) == ("Retry-After" in cell)


# ---- how conflicts resolve ----------------------------------------------------------------------

Proof = Callable[[World], None]
PROOFS: dict[str, Proof] = {}


def proof(row: str) -> Callable[[Proof], Proof]:
    """What shows that a row of the conflict table is true; named by its first cell."""

    def keep(story: Proof) -> Proof:
        PROOFS[row] = story
        return story

    return keep


@pytest.mark.parametrize("row", [first for first, _ in table("How conflicts resolve")])
def test_a_row_of_the_conflict_table_is_true(row: str) -> None:
    PROOFS[row](World())


def test_no_proof_is_left_without_its_row() -> None:
    assert list(PROOFS) == [first for first, _ in table("How conflicts resolve")]


@proof("They create different objects")
def _(w: World) -> None:
    w.edit(w.phone, "create", "a", name="salt")
    w.edit(w.tablet, "create", "b", name="eggs")
    assert w.settle().keys() == {"t", "a", "b"}


@proof("They edit different fields of an object")
def _(w: World) -> None:
    w.edit(w.phone, "update", "t", name="oat milk")
    w.edit(w.tablet, "update", "t", done=True)
    assert w.settle() == {"t": {"id": "t", "name": "oat milk", "done": True}}


@proof("They edit the same field")
def _(w: World) -> None:
    for first in (w.phone, w.tablet):
        w.edit(w.phone, "update", "t", name=f"earlier, {first.name} first")
        w.edit(w.tablet, "update", "t", name=f"later, {first.name} first")
        assert w.settle(first)["t"]["name"] == f"later, {first.name} first"


@proof("They edit the same field in the same millisecond")
def _(w: World) -> None:
    for first, last in ((w.phone, w.tablet), (w.tablet, w.phone)):
        w.now_ms += 1_000
        for device in (w.phone, w.tablet):
            w.edit_at(w.now_ms, device, "update", "t", name=f"{device.name}'s, {last.name} last")
        assert w.settle(first, last)["t"]["name"] == f"{last.name}'s, {last.name} last"


@proof("They set the same field to the same value")
def _(w: World) -> None:
    w.edit(w.phone, "update", "t", name="oat milk")
    w.edit(w.tablet, "update", "t", name="oat milk")
    w.sync(w.phone)
    before = w.log()
    assert w.tablet.sync() == []
    assert w.log() == before
    assert w.settle()["t"]["name"] == "oat milk"


@proof("One gets the other's edit in a sync, then edits the same field")
def _(w: World) -> None:
    w.edit(w.phone, "update", "t", name="oat milk")
    w.sync(w.phone, w.tablet)
    w.edit_at(w.now_ms - 600_000, w.tablet, "update", "t", name="soy milk")
    assert w.settle()["t"]["name"] == "soy milk"


@proof("One deletes an object, the other edits it")
def _(w: World) -> None:
    w.edit(w.phone, "create", "u", name="salt")
    w.sync(w.phone, w.tablet)
    for row_id, first in (("t", w.phone), ("u", w.tablet)):
        w.edit(w.phone, "delete", row_id)
        w.edit(w.tablet, "update", row_id, name="a later edit")
        assert row_id not in w.settle(first)


@proof("Both delete an object")
def _(w: World) -> None:
    w.edit(w.phone, "delete", "t")
    w.edit(w.tablet, "delete", "t")
    assert w.settle() == {}


@proof("Both create an object with the same id")
def _(w: World) -> None:
    w.edit(w.phone, "create", "u", name="salt", shop="corner")
    w.edit(w.tablet, "create", "u", name="sea salt", done=True)
    assert w.settle()["u"] == {"id": "u", "name": "sea salt", "shop": "corner", "done": True}


@proof("One deletes an object and creates it again with the same id, the other edits the old one")
def _(w: World) -> None:
    new = {"id": "t", "name": "new milk"}
    for first in (w.phone, w.tablet):
        w.edit(w.phone, "delete", "t")
        w.edit(w.phone, "create", "t", name="new milk")
        w.edit(w.tablet, "update", "t", done=True)
        assert w.settle(first) == {"t": new}


@proof("One deletes an object, the other deletes it and creates it again with the same id")
def _(w: World) -> None:
    w.edit(w.phone, "delete", "t")
    w.edit(w.tablet, "delete", "t")
    w.edit(w.tablet, "create", "t", name="new milk")
    assert w.settle() == {"t": {"id": "t", "name": "new milk"}}

    w.edit(w.tablet, "delete", "t")
    w.edit(w.tablet, "create", "t", name="newer milk")
    w.edit(w.phone, "delete", "t")
    assert w.settle(w.tablet) == {"t": {"id": "t", "name": "newer milk"}}

    w.edit(w.tablet, "delete", "t")
    w.edit(w.tablet, "create", "t", name="newest milk")
    w.edit(w.phone, "delete", "t")
    assert w.settle(w.phone) == {}


@proof("One creates an object and deletes it before the next sync")
def _(w: World) -> None:
    before = w.log()
    w.edit(w.phone, "create", "u", name="salt")
    w.edit(w.phone, "delete", "u")
    w.settle()
    assert w.log() == before


@proof("One has a clock more than five minutes ahead of the server's")
def _(w: World) -> None:
    a_year_ms = 365 * 24 * 3_600_000
    before_ms = int(time.time() * 1000)
    w.edit_at(before_ms + a_year_ms, w.phone, "update", "t", name="oat milk")
    w.sync(w.phone)
    assert before_ms <= w.log()[-1]["utc_timestamp"] <= int(time.time() * 1000)
    w.edit_at(before_ms + 200_000, w.tablet, "update", "t", name="soy milk")
    assert w.settle()["t"]["name"] == "soy milk"


@proof("One does not get the reply, and sends everything again")
def _(w: World) -> None:
    asked: list[str] = []

    def remember(owner_id: str, **diff: Any) -> bool:
        asked.append(diff["id"])
        return True

    w.store.validate_create = remember
    w.edit(w.phone, "create", "u", name="salt")
    w.phone.link.post({"logical_clock": w.phone.logical_clock, "diffs": w.phone.outbox()})
    before = w.log()
    assert w.phone.sync() == []
    assert w.log() == before
    assert len(asked) == 1
    assert w.settle()["u"] == {"id": "u", "name": "salt"}


# ---- writing a Synchronizer ---------------------------------------------------------------------


def test_a_guest_signs_in() -> None:
    """The section's code, with a store in memory."""
    store = Mobync(MemorySynchronizer())
    store.push("guest", [("create", "tasks", {"id": "t", "name": "milk"})])
    (program,) = code("A guest signs in")
    exec(program, {"mobync": store, "print": lambda *said: None})
    assert len(store.apply(0, [], "anna")["diffs"]) == 1


def test_an_account_is_deleted() -> None:
    """The section's code; then the device's name is refused, but not an old token."""
    store = Mobync(MemorySynchronizer())
    milk = {"id": "d", "owner": "anna", "logical_clock": 0, "utc_timestamp": 1, "type": "create"}
    milk |= {"model": "tasks", "json_data": '{"id": "t", "name": "milk"}'}
    store.apply(0, [milk], "anna", device="phone", request=1)
    (program,) = code("Delete an account")
    said: list[Any] = []
    exec(program, {"mobync": store, "print": lambda *what: said.extend(what)})
    assert said == [{"tasks": 1}, 1, 1]
    assert store.synchronizer.read("tasks") == store.synchronizer.read("diffs") == []
    with pytest.raises(DeviceRevokedError):
        store.apply(0, [milk], "anna", device="phone", request=1)
    assert store.apply(0, [milk], "anna")["logical_clock"] == 1


@pytest.fixture
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The README's two Synchronizers over one database file."""
    monkeypatch.chdir(tmp_path)
    names, _ = run(*code("Writing a Synchronizer"))
    made = [names["store"], names["mobync"].synchronizer]
    yield {type(store).__name__: store for store in made}
    for store in made:
        store.db.close()


@pytest.mark.parametrize("title", ["In your app", "Writing a Synchronizer", "The sync route"])
def test_a_program_of_the_readme_starts_again(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        names, _ = run(*code(title))
        names["mobync"].apply(0, [], "anna")


def tasks(store: Any) -> dict[str, tuple[Any, ...]]:
    rows = store.db.execute("SELECT id, owner, name, done FROM tasks")
    return {row[0]: row for row in rows}


def test_the_synchronizer_of_the_readme_is_written_as_for_the_first_release() -> None:
    documented, _ = code("Writing a Synchronizer")
    assert "super()" not in documented
    assert set(re.findall(r"FilterType\.(\w+)", documented)) == {"equal", "majorOrEqual"}
    assert set(re.findall(r"    def ([a-z]\w+)", documented)) == Synchronizer.__abstractmethods__


@pytest.mark.parametrize("name", ["TaskStore", "SafeTaskStore"])
def test_devices_and_table_agree_with_the_synchronizer_of_the_readme(
    stores: dict[str, Any], name: str
) -> None:
    store = stores[name]
    link = Direct(Mobync(store), "anna")
    phone, tablet = SmallDevice(link), SmallDevice(link)
    for row_id in ("t", "u", "v"):
        phone.edit("create", {"id": row_id, "owner": "anna", "name": row_id, "done": 0}, 1_000)
    phone.sync()
    tablet.sync()

    phone.edit("update", {"id": "t", "name": "oat milk"}, 2_000)
    phone.edit("update", {"id": "u", "name": "earlier"}, 3_000)
    tablet.edit("update", {"id": "t", "done": 1}, 4_000)
    tablet.edit("update", {"id": "u", "name": "later"}, 5_000)
    phone.edit("delete", {"id": "v"}, 6_000)
    tablet.edit("update", {"id": "v", "name": "too late"}, 7_000)
    for device in (tablet, phone, tablet):
        device.sync()

    assert phone.rows == tablet.rows
    assert tasks(store) == {"t": ("t", "anna", "oat milk", 1), "u": ("u", "anna", "later", 0)}
    columns = ("id", "owner", "name", "done")
    assert phone.rows == {
        row_id: dict(zip(columns, row, strict=True)) for row_id, row in tasks(store).items()
    }


@pytest.mark.parametrize(
    ("kind", "model", "row"),
    [
        ("create", "tasks", {"id": "t", "owner": "ben"}),
        ("create", "tasks", {"id": "new"}),
        ("create", "tasks", {"id": "new", "owner": "anna"}),
        ("update", "tasks", {"id": "t", "name": "mine now"}),
        ("update", "tasks", {"id": "own", "owner": "anna"}),
        ("update", "tasks", {"id": "own", "name": 5}),
        ("update", "tasks", {"id": "own", "done": []}),
        ("update", "tasks", {"id": "own", "name = 'x' --": 1}),
        ("delete", "tasks", {"id": "t"}),
        ("create", "tasks; DROP TABLE diffs", {"id": "new", "owner": "ben"}),
    ],
)
@pytest.mark.parametrize("name", ["TaskStore", "SafeTaskStore"])
def test_the_rules_of_the_readme_refuse_what_is_not_the_owners(
    stores: dict[str, Any], name: str, kind: str, model: str, row: dict[str, Any]
) -> None:
    store = stores[name]
    link = Direct(Mobync(store), "anna")
    anna = SmallDevice(link)
    anna.edit("create", {"id": "t", "owner": "anna", "name": "milk"}, 1_000)
    (diff,) = anna.outbox()
    anna.sync()
    ben = SmallDevice(Direct(Mobync(store), "ben"))
    ben.edit("create", {"id": "own", "owner": "ben"}, 1_000)
    ben.sync()
    before = tasks(store)

    diff |= {"id": "d", "type": kind, "model": model, "json_data": json.dumps(row)}
    with pytest.raises(mobync.errors.UnauthorizedError):
        link.mobync.apply(0, [diff], "ben")
    assert tasks(store) == before


@pytest.mark.parametrize("number", ["1" + "0" * 5000, "[" * 995 + "]" * 995])
def test_the_rules_of_the_readme_refuse_what_python_cannot_read(
    stores: dict[str, Any], number: str
) -> None:
    link = Mobync(stores["TaskStore"])
    for kind in ("create", "update", "delete"):
        sent = task(f'{{"id": "t", "owner": "o", "done": {number}}}', type=kind)
        with pytest.raises(mobync.errors.UnauthorizedError):
            link.apply(0, [sent], "o")


def test_with_a_transaction_a_sync_is_written_whole_or_not_at_all(stores: dict[str, Any]) -> None:
    left = {}
    for name, store in stores.items():
        phone = SmallDevice(Direct(Mobync(store), name))
        phone.edit("create", {"id": f"{name}-1", "owner": name}, 1_000)
        phone.edit("create", {"id": f"{name}-2", "owner": name, "done": False}, 1_000)
        store.db.execute(
            f"CREATE TRIGGER {name} BEFORE INSERT ON tasks WHEN new.id = '{name}-2'"
            " BEGIN SELECT RAISE(ABORT, 'disk full'); END"
        )
        with pytest.raises(sqlite3.IntegrityError, match="disk full"):
            phone.sync()
        left[name] = [row_id for row_id in tasks(store) if row_id.startswith(name)]
        store.db.execute(f"DROP TRIGGER {name}")
    assert left == {"TaskStore": ["TaskStore-1"], "SafeTaskStore": []}


def test_the_optional_methods_are_those_in_the_table() -> None:
    named = {
        name
        for first, _ in table("Writing a Synchronizer")
        for name in re.findall(r"`(\w+)(?:\([^)]*\))?`", first)
    }
    defaults = {name for name in vars(Synchronizer) if not name.startswith("_")}
    assert named == defaults - Synchronizer.__abstractmethods__


# ---- limitations and switching over -------------------------------------------------------------


def task(json_data: str, **changed: Any) -> dict[str, Any]:
    return {
        "id": "d",
        "owner": "o",
        "logical_clock": 0,
        "utc_timestamp": 1,
        "type": "update",
        "model": "tasks",
        "json_data": json_data,
        **changed,
    }


@pytest.mark.parametrize("number", ["9007199254740993", "1.0", "1e400", "0.1000", "-0"])
def test_numbers_leave_as_they_came(number: str) -> None:
    window = [task(f'{{"id": "x", "a": 1, "n": {number}}}')]
    merged = merge(window, [task('{"id": "x", "a": 2}', id="e", utc_timestamp=2)])
    assert merged.downstream[0]["json_data"] == f'{{"id":"x","n":{number}}}'


def test_numbers_that_are_written_differently_are_different_values() -> None:
    merged = merge([task('{"id": "x", "n": 1}')], [task('{"id": "x", "n": 1.0}', id="e")])
    assert len(merged.upstream) == 1


@pytest.mark.parametrize(
    ("fits", "does_not"),
    [
        (
            task('{"id": "x", "a": 1}', utc_timestamp=2**53 - 1),
            task('{"id": "x"}', utc_timestamp=2**53),
        ),
        (task('{"id": "x", "a": "\\u0001"}'), task('{"id": "x", "a": "\\u0000"}')),
        (task('{"id": "x", "a": "\\ud83d\\ude00"}'), task('{"id": "x", "a": "\\ud83d"}')),
        (
            task('{"id": "x", "a": ' + "[" * 999 + "]" * 999 + "}"),
            task('{"id": "x", "a": ' + "[" * 1000 + "]" * 1000 + "}"),
        ),
    ],
    ids=["2^53 - 1", "U+0000", "surrogates", "1000 levels"],
)
def test_a_limit_is_where_the_readme_says(fits: dict[str, Any], does_not: dict[str, Any]) -> None:
    assert merge([], [fits]).upstream == [fits]
    with pytest.raises(InvalidDiffError):
        merge([], [does_not])


def test_the_clock_of_a_request_has_the_limit_of_the_readme() -> None:
    with pytest.raises(LogicalClockError, match="ahead"):
        Mobync(MemorySynchronizer()).apply(2**53 - 1, [], "anna")
    with pytest.raises(LogicalClockError, match="2\\*\\*53 - 1"):
        Mobync(MemorySynchronizer()).apply(2**53, [], "anna")


def test_a_late_request_can_bring_back_what_its_device_had_created_and_deleted() -> None:
    w = World()
    w.edit(w.phone, "create", "u", name="salt")
    overtaken = {"logical_clock": w.phone.logical_clock, "diffs": w.phone.outbox()}
    w.edit(w.phone, "delete", "u")
    w.sync(w.phone)
    w.phone.link.post(overtaken)
    w.sync(w.tablet)
    assert "u" in w.tablet.rows


def test_an_update_of_what_the_device_saw_deleted_reaches_the_store_without_a_row() -> None:
    w = World()
    w.edit(w.tablet, "delete", "t")
    w.sync(w.tablet, w.phone)
    updated: list[str] = []
    w.store.update_many = lambda where, rows: updated.extend(rows)
    late = task('{"id": "t", "done": true}', logical_clock=w.phone.logical_clock)
    w.phone.link.post({"logical_clock": w.phone.logical_clock, "diffs": [late]})
    assert updated == ['{"id": "t", "done": true}']


def test_an_old_log_row_that_cannot_be_read_is_told_by_diff_validate_and_named_by_apply() -> None:
    old = task("{}", id="old", type="delete", owner="anna")
    assert not Diff.validate(old)
    store = MemorySynchronizer()
    store.create("diffs", json.dumps(old))
    with pytest.raises(ValueError, match=r"read\('diffs'\).*old"):
        Mobync(store).apply(0, [], "anna")


# ---- docs/protocol.md and the rest --------------------------------------------------------------

WORKED = re.findall(r"^```merge\n(.*?)^```$", PROTOCOL, re.M | re.S)
Shown = tuple[str, int, str, str]


def read_example(example: str) -> dict[str, list[Shown]]:
    sides: dict[str, list[Shown]] = {"window": [], "request": [], "up": [], "down": []}
    for line in example.splitlines():
        side, diff_id, at, kind, json_data = line.split(None, 4)
        sides[side].append((diff_id, int(at.removeprefix("t=")), kind, json_data))
    return sides


def as_diffs(shown: list[Shown]) -> list[dict[str, Any]]:
    return [
        task(json_data, id=diff_id, logical_clock=place, utc_timestamp=at, type=kind)
        for place, (diff_id, at, kind, json_data) in enumerate(shown)
    ]


def as_shown(diffs: list[Any]) -> list[Shown]:
    return [(d["id"], d["utc_timestamp"], d["type"], d["json_data"]) for d in diffs]


@pytest.mark.parametrize("example", WORKED)
def test_a_worked_example_of_the_protocol_comes_out_as_shown(example: str) -> None:
    sides = read_example(example)
    merged = merge(as_diffs(sides["window"]), as_diffs(sides["request"]))
    assert as_shown(merged.upstream) == sides["up"]
    assert as_shown(merged.downstream) == sides["down"]


def test_the_protocol_has_worked_examples() -> None:
    assert len(WORKED) > 10


def prose_of(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def anchors_of(page: Path) -> set[str]:
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", prose_of(page), re.M)
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(HOME)))
def test_every_link_inside_the_project_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        path, _, anchor = link.partition("#")
        if link.startswith("https://"):
            continue
        target = page.parent.joinpath(path) if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


def test_the_readme_links_every_page_of_the_documentation() -> None:
    for page in HOME.glob("docs/**/*.md"):
        assert f"]({page.relative_to(HOME)})" in README, page.name


def test_the_readme_lists_the_pages_of_the_site_in_their_order() -> None:
    site = yaml.safe_load((HOME / "mkdocs.yml").read_text(encoding="utf-8"))
    parts = [part for named in site["nav"][1:] for part in named.values()]
    pages = [page for part in parts for named in part for page in named.values()]
    listed = README.split("## Documentation\n")[1].split("\n## ")[0]
    assert re.findall(r"\]\(docs/(.+?)\)", listed) == [
        page for page in pages if (HOME / "docs" / page).exists()
    ]


def test_the_readme_is_short() -> None:
    words = re.sub(
        r"<!-- bench.*?<!-- end of bench -->", "", prose_of(HOME / "README.md"), flags=re.S
    )
    assert len(words.split()) <= 1200
