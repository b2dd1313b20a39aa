"""`mobync demo`: a server, and two devices that keep editing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from server_process import PATIENCE_S, Lines, eventually, mobync

from mobync.client import Device
from mobync.server._demo import TODO_OF_THE_WHEEL
from mobync.server.commands import main


class Live:
    """The program, in a directory of its own.

    Attributes:
        url: of the server that it started.
        database: as it says to name it to `mobync`.
    """

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.directory = directory
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "mobync.server",
                "demo",
                "--port",
                "0",
                "--pause",
                "0.02",
                *arguments,
            ],
            cwd=directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        self.printed, self.log = Lines(self.process.stdout), Lines(self.process.stderr)

    def wait_until_up(self) -> None:
        self.link = self.printed.wait_for(r"^inspector +(http://\S+) ")[1]
        self.url = self.link.partition("/inspect/")[0]
        self.log_command = self.printed.wait_for(r"^log +(.*)$")[1]
        self.database = self.log_command.split(" -d ")[1].strip("'")
        self.browser = requests.Session()
        self.browser.get(self.link, timeout=PATIENCE_S).raise_for_status()

    def count(self, name: str) -> float:
        text = requests.get(f"{self.url}/metrics", timeout=PATIENCE_S).text
        return float(re.search(rf"^{name} (\S+)$", text, re.MULTILINE)[1])

    def devices(self) -> list[dict[str, Any]]:
        """Anna's, as the inspector has them."""
        answer = self.browser.get(f"{self.url}/inspect/api/devices?owner=anna", timeout=PATIENCE_S)
        return answer.json()["devices"]

    def change(self, **asked: str) -> None:
        """Do something about a device, as the inspector's page does."""
        self.browser.post(
            f"{self.url}/inspect/api/change",
            json=asked,
            headers={"Sec-Fetch-Site": "same-origin"},
            timeout=PATIENCE_S,
        ).raise_for_status()

    def clocks(self) -> dict[str, int]:
        """Each owner's."""
        answer = self.browser.get(f"{self.url}/inspect/api/owners", timeout=PATIENCE_S).json()
        return {owner["owner"]: owner["logical_clock"] for owner in answer["owners"]}

    def assert_whole(self) -> None:
        checked = mobync(self.directory, "check", "--all", "-d", self.database)
        assert checked.returncode == 0, checked.stdout

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        assert self.process.wait(PATIENCE_S) == 0


@contextmanager
def living(directory: Path, *arguments: str) -> Iterator[Live]:
    live = Live(directory, *arguments)
    try:
        live.wait_until_up()
        yield live
    finally:
        live.process.terminate()
        live.process.wait(PATIENCE_S)
        live.log.join()
        live.printed.join()


def complaints(live: Live) -> list[str]:
    return [line for line in live.log.lines if re.search("error|refused|Traceback", line)]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_two_devices_edit_until_it_is_stopped_and_the_server_ends_with_it(stop, tmp_path):
    with living(tmp_path) as live:
        eventually(lambda: live.count("mobync_conflicts_total") > 0)
        eventually(lambda: live.count("mobync_diffs_accepted_total") > 50)
        assert set(live.clocks()) == {"anna"}
        live.assert_whole()
        live.stop(stop)
    assert not [line for line in live.log.lines if " sync " in line]  # the links stay in sight
    with pytest.raises(requests.ConnectionError):
        requests.get(live.url, timeout=PATIENCE_S)
    assert not complaints(live)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_started_again_it_has_its_data_and_the_devices_go_on(end, tmp_path):
    with living(tmp_path, "--database", "my 100% list.db") as live:
        eventually(lambda: live.clocks().get("anna", 0) > 20)
        if end == signal.SIGKILL:
            (server,) = children_of(live.process.pid)
            live.process.kill()
            os.kill(server, signal.SIGKILL)
        else:
            live.stop()
        before = int(mobync_log(live)[-1][0])
    assert (tmp_path / "my 100% list.db").exists()
    with living(tmp_path, "--database", "my 100% list.db") as live:
        assert live.clocks()["anna"] > before
        eventually(lambda: live.count("mobync_diffs_accepted_total") > 20)
        assert live.count("mobync_diffs_sent_total") > 0  # what was there
        live.assert_whole()
        live.stop()
    assert [int(row[0]) for row in mobync_log(live)][: before + 1] == list(range(before + 1))
    assert not complaints(live)


def test_the_inspector_knows_the_devices_and_those_of_the_last_time_are_forgotten(tmp_path):
    labels = {"Anna's phone", "Anna's tablet"}
    with living(tmp_path) as live:
        first = {device["name"]: device["label"] for device in live.devices()}
        assert set(first.values()) == labels
        (server,) = children_of(live.process.pid)
        live.process.kill()
        os.kill(server, signal.SIGKILL)
    with living(tmp_path) as live:
        now = {device["name"]: device["label"] for device in live.devices()}
        assert sorted(now.values()) == sorted(labels)
        assert not first.keys() & now.keys()
        phone = next(name for name, label in now.items() if label == "Anna's phone")
        live.change(change="revoke", owner="anna", device=phone)
        live.log.wait_for("phone: this device was revoked")
        accepted = live.count("mobync_diffs_accepted_total")
        eventually(lambda: live.count("mobync_diffs_accepted_total") > accepted)
        live.stop()


def test_what_it_prints_works_when_it_is_pasted_anywhere(tmp_path):
    with living(tmp_path, "--database", "my list.db") as live:
        eventually(lambda: live.clocks().get("anna", 0) > 2)
        done = subprocess.run(
            ["/bin/sh", "-c", live.log_command.replace(" --follow", " -n 1")],
            check=False,
            cwd="/",
            env={"PATH": "/bin", "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert " todos " in done.stdout, done.stderr
        live.stop()


def mobync_log(live: Live) -> list[list[str]]:
    """The rows of Anna's log, the oldest first, by their columns."""
    shown = mobync(live.directory, "log", "anna", "-n", "0", "-d", live.database).stdout
    rows = [line.split() for line in shown.splitlines()]
    return [row for row in rows if row and row[0].isdigit()]


def test_its_items_have_what_the_todo_app_needs_and_those_of_people_stay_as_they_are(tmp_path):
    with living(tmp_path) as live:
        token = mobync(live.directory, "token", "anna", "-d", live.database).stdout.strip()
        with Device(":memory:", f"{live.url}/sync", token) as mine:
            mine.create("todos", {"id": "mine", "name": "my own milk", "done": False, "created": 1})
            mine.sync()
            accepted = live.count("mobync_diffs_accepted_total")
            eventually(lambda: live.count("mobync_diffs_accepted_total") > accepted + 100)
            mine.sync()
            items = {item["id"]: item for item in mine.rows("todos")}
        assert items["mine"]["name"] == "my own milk"
        assert {type(item["created"]) for item in items.values()} == {int}
        live.stop()


def test_it_takes_another_port_than_a_server_that_runs_already():
    ports = {
        name: next(option for option in main.commands[name].params if option.name == "port").default
        for name in ("serve", "demo")
    }
    assert ports["serve"] != ports["demo"]


def test_it_says_in_one_line_that_the_extra_of_the_devices_is_missing(tmp_path):
    code = "import sys; sys.modules['urllib3'] = None; from mobync.server.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "demo", "--port", "0"],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: mobync needs urllib3 here: pip install -e '.[client]'")
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_it_ends_with_1_when_its_server_dies(tmp_path):
    with living(tmp_path) as live:
        (server,) = children_of(live.process.pid)
        os.kill(server, signal.SIGKILL)
        assert live.process.wait(PATIENCE_S) == 1
    assert "Error: mobync serve has ended\n" in live.log.lines


def test_it_serves_the_todo_app_and_prints_a_link_with_the_token_of_anna(tmp_path):
    (tmp_path / "built").mkdir()
    (tmp_path / "built" / "index.html").write_text("<p>the app</p>")
    with living(tmp_path, "--todo", "built") as live:
        app, token = live.printed.wait_for(r"^to-do app +(http://\S+/todo/)#(\S+)$").groups()
        assert requests.get(app, timeout=PATIENCE_S).text == "<p>the app</p>"
        synced = requests.post(
            f"{live.url}/sync",
            json={"logical_clock": 0, "diffs": []},
            headers={"Authorization": f"Bearer {token}"},
            timeout=PATIENCE_S,
        )
        assert synced.json()["success"]
        live.stop()


def test_without_the_todo_app_it_says_how_to_build_it(tmp_path):
    assert not TODO_OF_THE_WHEEL.is_dir()  # the tests run in a checkout
    with living(tmp_path) as live:
        live.printed.wait_for(
            r"^to-do app +is not built here: `make run` in the checkout builds it$"
        )
        live.stop()


def test_it_ends_when_its_terminal_is_closed(tmp_path):
    terminal = "import pty, sys; pty.spawn(sys.argv[1:])"
    demo = [sys.executable, "-m", "mobync.server", "demo", "--port", "0", "--pause", "0.02"]
    with subprocess.Popen(
        [sys.executable, "-c", terminal, *demo], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as process:
        while not process.stdout.readline().startswith("inspector "):
            pass
        (running,) = children_of(process.pid)
        (server,) = children_of(running)
        process.kill()
    eventually(lambda: not Path(f"/proc/{running}").exists())
    assert not Path(f"/proc/{server}").exists()


def children_of(process_id: int) -> list[int]:
    tasks = Path(f"/proc/{process_id}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]
