"""The command `mobync` as people run it: a process of its own, spoken to over HTTP."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

PATIENCE_S = 240  # where the tests run on a loaded machine, a start may take a minute

MOBYNC = [sys.executable, "-m", "mobync.server"]


def mobync(
    directory: Path, *arguments: str, input: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in a directory, without the settings of whoever runs the tests."""
    return subprocess.run(
        [*MOBYNC, *arguments],
        cwd=directory,
        env=_environment(environment),
        input=input,
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE_S,
        check=False,
    )


def _environment(more: dict[str, str]) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("MOBYNC_")}
    return {**own, "PYTHONUNBUFFERED": "1", **more}


def eventually(condition: Callable[[], Any]) -> Any:
    """Wait until a condition holds, and give what it gave."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)
    return found


def free_port() -> int:
    """A port of this machine that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Lines:
    """What a process writes to a pipe, read as it comes."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        with self._stream:
            for line in self._stream:
                self.lines.append(line)

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait for a line, but not longer than the process writes."""

        def found_or_ended() -> re.Match[str] | bool:
            ended = not self._thread.is_alive()  # asked before the lines, which are then all there
            return next(filter(None, self._search(pattern)), ended)

        found = eventually(found_or_ended)
        assert isinstance(found, re.Match), f"no {pattern} in:\n{''.join(self.lines)}"
        return found

    def _search(self, pattern: str) -> Iterator[re.Match[str] | None]:
        return (re.search(pattern, line) for line in list(self.lines))

    def join(self) -> None:
        self._thread.join(PATIENCE_S)


class Server:
    """`mobync serve` on a free port.

    Attributes:
        process: the server's.
        log: what it writes to stderr.
        url: where it answers.
    """

    def __init__(self, directory: Path, *arguments: str, **environment: str) -> None:
        self.directory = directory
        self.process = subprocess.Popen(
            [*MOBYNC, "serve", "--port", "0", *arguments],
            cwd=directory,
            env=_environment(environment),
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        self.log = Lines(self.process.stderr)
        self.http = requests.Session()
        self.http.trust_env = False

    def wait_until_up(self) -> None:
        eventually(lambda: self.process.poll() is not None or self._is_up())
        assert self.process.poll() is None, "".join(self.log.lines)

    def _is_up(self) -> bool:
        found = [re.search(r"running on (http://\S+)", line) for line in list(self.log.lines)]
        urls = [match[1] for match in found if match is not None]
        if not urls:
            return False
        self.url = urls[0]
        try:
            return self.http.get(f"{self.url}/health", timeout=PATIENCE_S).status_code == 200
        except requests.ConnectionError:  # it listens before it serves
            return False

    def events(self) -> list[dict[str, Any]]:
        """The lines of the log so far."""
        return [json.loads(line) for line in list(self.log.lines)]

    def wait_for_events(self, count: int, wanted: Callable[[dict[str, Any]], Any]) -> list[Any]:
        """The wanted lines of the log, once there are so many: an answer may come before them."""
        found: list[Any] = []

        def are_there() -> bool:
            found[:] = [event for event in self.events() if wanted(event)]
            return len(found) >= count

        eventually(are_there)
        assert len(found) == count, found
        return found

    def get(self, path: str, token: str | None = None, **options: Any) -> requests.Response:
        headers = options.pop("headers", {})
        if token is not None:
            headers = {**headers, "Authorization": f"Bearer {token}"}
        return self.http.get(self.url + path, headers=headers, timeout=PATIENCE_S, **options)

    def sync(
        self, token: str | None, logical_clock: int = 0, *diffs: dict[str, Any]
    ) -> requests.Response:
        body = {"auth_token": token, "logical_clock": logical_clock, "diffs": diffs}
        return requests.post(f"{self.url}/sync", json=body, timeout=PATIENCE_S)

    def metric(self, name: str) -> float:
        """A count, 0 if it has never been counted."""
        text = self.get("/metrics").text
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found is not None else 0.0

    def stop(self) -> int:
        """Tell it to stop; give its exit code once it has."""
        self.process.terminate()
        code = self.process.wait(PATIENCE_S)
        self.log.join()
        return code


@contextmanager
def serving(directory: Path, *arguments: str, **environment: str) -> Iterator[Server]:
    """Serve as long as the context lasts."""
    server = Server(directory, *arguments, **environment)
    try:
        server.wait_until_up()
        yield server
    finally:
        server.process.terminate()
        try:
            server.process.wait(PATIENCE_S)
        finally:
            server.process.kill()
            server.process.wait()
            server.log.join()
            server.http.close()


def diff(number: int, kind: str, model: str = "tasks", **row: Any) -> dict[str, Any]:
    """An edit as a device sends it, made at second ``number``."""
    return {
        "id": f"d{number}",
        "owner": "me",
        "logical_clock": 0,
        "utc_timestamp": number * 1000,
        "type": kind,
        "model": model,
        "json_data": json.dumps(row),
    }
