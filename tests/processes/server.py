"""gunicorn with several workers, whose processes can be killed."""

from __future__ import annotations

import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from over_http import EXAMPLES
from sqlalchemy.engine import URL

RELATIONAL = EXAMPLES / "relational"
SECRET = "a key of these tests"
PATIENCE_S = 60  # for what is sure to come
POLL_S = 0.01


class Server:
    """An app behind gunicorn, on a socket of ours that outlives it.

    Who connects while no process listens waits until one does again, as behind a load balancer.
    The app is loaded once, before the workers are forked, so that a new worker is there at once.

    Args:
        database_url: what the app gets as DATABASE_URL.
        log: where gunicorn and the app write.
        app: the factory, as gunicorn wants it.
        directory: where the factory is imported from.
        workers: how many processes.
        threads: how many requests each serves at once.
    """

    def __init__(
        self,
        database_url: URL,
        log: Path,
        app: str = "app:create_app()",
        directory: Path = RELATIONAL,
        workers: int = 4,
        threads: int = 4,
    ) -> None:
        self._log = log
        self._directory = directory
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._socket.getsockname()[1]
        self._command = [sys.executable, "-m", "gunicorn", "--preload"]
        self._command += ["--workers", str(workers), "--threads", str(threads)]
        self._command += ["--bind", f"fd://{self._socket.fileno()}"]
        self._command += ["--graceful-timeout", "5", app]
        self._environment = {
            **os.environ,
            "DATABASE_URL": database_url.render_as_string(hide_password=False),
            "SECRET_KEY": SECRET,
        }
        self._workers = workers
        self._master: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        try:
            self.start()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            print(f"the end of the server's log:\n{self._log.read_text()[-5000:]}")
        self._close()

    def start(self) -> None:
        with self._log.open("a") as log:
            self._master = subprocess.Popen(
                self._command,
                cwd=self._directory,
                env=self._environment,
                stdout=log,
                stderr=log,
                pass_fds=[self._socket.fileno()],
                start_new_session=True,
            )
        self._await_answer()

    def kill_a_worker(self, rng: random.Random) -> None:
        """SIGKILL to one of the workers; gunicorn starts another in its place."""
        deadline = time.monotonic() + PATIENCE_S
        while not self._killed_one(self._worker_pids(), rng):
            assert time.monotonic() < deadline, "no worker came back"
            time.sleep(POLL_S)

    def _killed_one(self, pids: list[int], rng: random.Random) -> bool:
        """Whether there was one to kill; the last one killed may only now be gone."""
        try:
            os.kill(rng.choice(pids), signal.SIGKILL)
        except (IndexError, ProcessLookupError):
            return False
        return True

    def kill(self) -> None:
        """SIGKILL to all its processes at once."""
        assert self._master is not None
        os.killpg(self._master.pid, signal.SIGKILL)
        self._master.wait(PATIENCE_S)

    def _worker_pids(self) -> list[int]:
        assert self._master is not None
        assert self._master.poll() is None, f"gunicorn ended: {self._log.read_text()[-5000:]}"
        children = Path(f"/proc/{self._master.pid}/task/{self._master.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def _await_answer(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while len(self._worker_pids()) < self._workers:
            assert time.monotonic() < deadline, "the workers do not come"
            time.sleep(POLL_S)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        connection.request("GET", "/sync")
        assert connection.getresponse().status == http.HTTPStatus.METHOD_NOT_ALLOWED
        connection.close()

    def _close(self) -> None:
        self._socket.close()
        if self._master is None or self._master.poll() is not None:
            return
        self._master.terminate()
        try:
            self._master.wait(PATIENCE_S / 4)
        except subprocess.TimeoutExpired:
            self.kill()
