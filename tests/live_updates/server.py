"""live_updates.app, or another app, in a process of its own."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from sqlalchemy.engine import URL

from .brokers import Broker
from .devices import PATIENCE_S

TESTS = Path(__file__).resolve().parents[1]
APP = ("-m", "live_updates.app")
DJANGO_ON_GEVENT = (
    *("-m", "gunicorn", "--worker-class", "gevent", "--bind", "fd://{fd}"),
    *("--graceful-timeout", "1", "live_updates.django_app"),
)


class Server:
    """A process that serves live_updates.app, or another one.

    Args:
        broker: what it announces to.
        database_url: what it shares with the other processes; the tables are made.
        log: where it writes.
        heartbeat_s: of its Live.
        command: what serves, with ``{fd}`` for the socket.
    """

    def __init__(
        self,
        broker: Broker,
        database_url: URL | None,
        log: Path,
        heartbeat_s: float,
        command: Sequence[str] = APP,
    ) -> None:
        self._log = log
        # Ours, so that who connects before the process listens waits.
        listening = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = listening.getsockname()[1]
        with log.open("a") as output:
            self._process = subprocess.Popen(
                [part.format(fd=listening.fileno()) for part in (sys.executable, *command)],
                cwd=TESTS,
                env={
                    **os.environ,
                    "DATABASE_URL": (
                        "" if database_url is None else database_url.render_as_string(False)
                    ),
                    "LIVE_KIND": broker.kind,
                    "LIVE_URL": broker.url,
                    "LIVE_CHANNEL": broker.channel,
                    "LISTEN_FD": str(listening.fileno()),
                    "HEARTBEAT_S": str(heartbeat_s),
                },
                stdout=output,
                stderr=output,
                pass_fds=[listening.fileno()],
            )
        listening.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            print(f"the end of the server's log:\n{self._log.read_text()[-5000:]}")
        if self._process.poll() is None:
            self.kill()

    def push(self, owner_id: str) -> int:
        """Make an edit of the owner there; its new clock."""
        clock = self.ask("POST", f"/push?owner={quote(owner_id)}")
        assert isinstance(clock, int)
        return clock

    def listeners(self) -> int:
        count = self.ask("GET", "/listeners")
        assert isinstance(count, int)
        return count

    def stop(self) -> None:
        """End it gracefully."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(PATIENCE_S)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE_S)

    def log(self) -> str:
        return self._log.read_text()

    def ask(self, method: str, target: str) -> Any:
        """What it answers, from JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.request(method, target)
            response = connection.getresponse()
            assert response.status == 200, self.log()
            return json.loads(response.read())
        finally:
            connection.close()
