"""Database servers of a test's own, which it may kill.

They listen on a Unix socket in a directory of their own, run as a user who is not root (PostgreSQL
refuses root), and are gone afterwards.
"""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from .server import PATIENCE_S

POLL_S = 0.1
PROGRAM_PATHS = ["/usr/sbin", "/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin"]


class Instance:
    """A database server that can be killed and started.

    Args:
        command: starts it, in the foreground.
        log: where it writes.
        listening: the path of its socket.
        url: of the database that a test uses.
        server_url: of one that is always there.
    """

    def __init__(
        self, command: list[str], log: Path, listening: Path, url: URL, server_url: URL
    ) -> None:
        self.url = url
        self._command = command
        self._log = log
        self._listening = listening
        self._server_url = server_url
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        deadline = time.monotonic() + PATIENCE_S
        while not self._answers():
            assert time.monotonic() < deadline, self._log.read_text()[-5000:]
            if self._process is None or self._process.poll() is not None:
                # After a kill, processes of the last run may be in the way for a moment.
                with self._log.open("a") as log:
                    self._process = subprocess.Popen(
                        self._command, stdout=log, stderr=log, **_other_than_root()
                    )
            time.sleep(POLL_S)

    def kill(self) -> None:
        """SIGKILL to the server."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait(PATIENCE_S)

    def stop(self, how: signal.Signals) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def execute(self, statement: str) -> None:
        engine = create_engine(self._server_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as probe:  # PyMySQL does not close one that fails
                probe.connect(str(self._listening))
            self.execute("SELECT 1")
        except (OSError, DBAPIError):
            return False
        return self._process is not None and self._process.poll() is None


@contextmanager
def open_instance(kind: str) -> Iterator[Instance]:
    """Make and start a server of a kind, "postgresql" or "mariadb"; remove it in the end."""
    directory = Path(tempfile.mkdtemp(prefix=f"mobync-{kind}-"))  # Unix sockets need short paths
    try:
        user = _other_than_root().get("user")
        if user is not None:
            shutil.chown(directory, user)
        make, how_to_stop = {
            "postgresql": (_postgresql, signal.SIGINT),
            "mariadb": (_mariadb, signal.SIGTERM),
        }[kind]
        instance = make(directory)
        try:
            instance.start()
            instance.execute("CREATE DATABASE test")
            yield instance
        finally:
            instance.stop(how_to_stop)
    finally:
        shutil.rmtree(directory)


def _postgresql(directory: Path) -> Instance:
    files = directory / "files"
    superuser = "postgres"
    initdb = [_program("initdb", "postgresql"), "-D", str(files), "-U", superuser]
    _run([*initdb, "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"])
    command = [_program("postgres", "postgresql"), "-D", str(files), "-k", str(directory)]
    command += ["-p", "5432"]
    url = URL.create("postgresql+psycopg", superuser, query={"host": str(directory)})
    return Instance(
        [*command, "-c", "listen_addresses="],  # the socket alone
        directory / "log",
        directory / ".s.PGSQL.5432",
        url.set(database="test"),
        url.set(database="postgres"),
    )


def _mariadb(directory: Path) -> Instance:
    files, listening = directory / "files", directory / "socket"
    install = [_program("mariadb-install-db", "mariadb-server"), "--no-defaults"]
    _run(
        [
            *install,
            f"--datadir={files}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        ]
    )
    command = [_program("mariadbd", "mariadb-server"), "--no-defaults", f"--datadir={files}"]
    command += [f"--socket={listening}", f"--pid-file={directory / 'pid'}", "--skip-networking"]
    url = URL.create(
        "mariadb+pymysql", "root", host="localhost", query={"unix_socket": str(listening)}
    )
    return Instance(command, directory / "log", listening, url.set(database="test"), url)


def _program(name: str, package: str) -> str:
    found = [folder for pattern in PROGRAM_PATHS for folder in glob.glob(pattern)]
    path = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *found]))
    if path is None:
        pytest.fail(
            f"the program {name} is not here: install it with `apt-get install {package}`",
            pytrace=False,
        )
    return path


def _run(command: list[str]) -> None:
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd="/", **_other_than_root()
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


def _other_than_root() -> dict[str, Any]:
    """Arguments for subprocess: root becomes a user who owns nothing but the instance."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_name, "group": nobody.pw_gid, "extra_groups": []}
