"""examples/live.py, which `make run` starts: a server, and two devices that keep editing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from server_process import PATIENCE_S, Lines, eventually, mobync

LIVE = Path(__file__).resolve().parents[1] / "examples" / "live.py"


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_two_devices_edit_until_it_is_stopped_and_the_server_ends_with_it(stop, tmp_path):
    live = subprocess.Popen(
        [sys.executable, LIVE, "--port", "0", "--pause", "0.02"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    printed, log = Lines(live.stdout), Lines(live.stderr)
    try:
        url = printed.wait_for(r"^inspector +(http://\S+)/ ")[1]
        database = printed.wait_for(r"^log .* -d (\S+)")[1]

        def count(name: str) -> float:
            text = requests.get(f"{url}/metrics", timeout=PATIENCE_S).text
            return float(re.search(rf"^{name} (\S+)$", text, re.MULTILINE)[1])

        eventually(lambda: count("mobync_conflicts_total") > 0)
        eventually(lambda: count("mobync_diffs_accepted_total") > 50)
        owners = requests.get(f"{url}/inspect/api/owners", timeout=PATIENCE_S).json()["owners"]
        assert [owner["owner"] for owner in owners] == ["anna"]
        assert mobync(tmp_path, "check", "--all", "-d", database).returncode == 0
        live.send_signal(stop)
        assert live.wait(PATIENCE_S) == 0
    finally:
        live.terminate()
        live.wait(PATIENCE_S)
        log.join()
        printed.join()
    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=PATIENCE_S)
    assert not Path(database.removeprefix("sqlite:///")).parent.exists()
    assert not [line for line in log.lines if re.search("error|refused|Traceback", line)]


def test_it_ends_with_1_when_its_server_dies():
    live = subprocess.Popen(
        [sys.executable, LIVE, "--port", "0", "--pause", "0.02"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    printed, log = Lines(live.stdout), Lines(live.stderr)
    try:
        printed.wait_for(r"^inspector ")
        (server,) = children_of(live.pid)
        os.kill(server, signal.SIGKILL)
        assert live.wait(PATIENCE_S) == 1
    finally:
        live.terminate()
        live.wait(PATIENCE_S)
        log.join()
        printed.join()
    assert "mobync serve has ended\n" in log.lines


def children_of(process_id: int) -> list[int]:
    tasks = Path(f"/proc/{process_id}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]
