"""`mobync serve`: a process, real HTTP, every database."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import socket
import socketserver
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import databases
import pytest
import requests
import uvicorn
from click.testing import CliRunner
from databases import Database, open_database
from itsdangerous import URLSafeSerializer
from live_updates.devices import Device, Log, report
from server_process import PATIENCE_S, Server, diff, eventually, mobync, serving
from sqlalchemy import text
from sqlalchemy.engine import URL, Engine
from starlette.applications import Starlette

from mobync.server import commands, logs
from mobync.server import database as database_module
from mobync.server._live import live_of
from mobync.server.app import create_app
from mobync.server.database import DatabaseError, database_url
from mobync.server.metrics import Metrics
from mobync.server.settings import Settings
from mobync.server.tokens import SecretError, Tokens, load_tokens
from mobync.sqlalchemy import DocumentSynchronizer

database = databases.database

SERVER_MD = (Path(__file__).parents[1] / "docs" / "server.md").read_text(encoding="utf-8")
PORTS = {"postgresql": 5432, "mariadb": 3306, "mysql": 3306}
SECRET = "a secret for tests, long enough"
_SALTS = ("device", "admin")


def url_of(database: Database, **query: str) -> str:
    return database.url.update_query_dict(query).render_as_string(hide_password=False)


def token_for(owner: str) -> str:
    return Tokens(SECRET).for_owner(owner, 3600)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """One process on a SQLite file."""
    with serving(tmp_path, MOBYNC_SECRET=SECRET) as running:
        yield running


# ---- a backend in one minute --------------------------------------------------------------------


def test_it_serves_with_nothing_declared_and_keeps_all_over_a_restart(tmp_path):
    with serving(tmp_path) as server:
        token = mobync(tmp_path, "token", "anna").stdout.strip()
        sent = [diff(1, "create", id="t", name="milk"), diff(2, "create", "notes", id="n")]
        assert server.sync(token, 0, *sent).json()["logical_clock"] == 2
        assert server.stop() == 0
    assert {path.name for path in tmp_path.iterdir()} >= {"mobync.db", "mobync.db.secret"}
    assert (tmp_path / "mobync.db.secret").stat().st_mode & 0o077 == 0
    with serving(tmp_path) as server:
        reply = server.sync(token).json()
        assert reply["logical_clock"] == 2
        assert [d["json_data"] for d in reply["diffs"]] == [d["json_data"] for d in sent]


def test_requests_in_parts_have_a_greatest_length(tmp_path):
    limits = ("--max-body-mib", "1", "--max-request-mib", "2")
    with serving(tmp_path, *limits, MOBYNC_SECRET=SECRET) as server:

        def send(device, part, more):
            edit = diff(part, "create", id=f"{device}-{part}", text="x" * 900_000)
            said = {"device": device, "request": 1, "upload": "u", "part": part, "more_diffs": more}
            body = {"logical_clock": 0, "diffs": [{**edit, "id": f"{device}-{part}"}], **said}
            headers = {"Authorization": f"Bearer {token_for('anna')}"}
            return server.http.post(f"{server.url}/sync", json=body, headers=headers)

        assert [send("phone", part, part < 2).status_code for part in (1, 2)] == [200, 200]
        assert [send("tablet", part, True).status_code for part in (1, 2)] == [200, 200]
        refused = send("tablet", 3, False)
        assert (refused.status_code, refused.json()["code"]) == (413, "request_too_large")
        assert "2097152 bytes" in refused.json()["message"]


def test_two_devices_meet_on_every_database(database, tmp_path):
    with serving(tmp_path, "-d", url_of(database), MOBYNC_SECRET=SECRET) as server:
        token = token_for("anna")
        server.sync(token, 0, diff(1, "create", id="t", name="milk", done=False))
        server.sync(token, 1, diff(2, "update", id="t", name="oat milk"))
        reply = server.sync(token, 1, diff(3, "update", id="t", done=True)).json()
        assert reply["logical_clock"] == 3
        assert json.loads(reply["diffs"][0]["json_data"]) == {"id": "t", "name": "oat milk"}
        assert server.sync(token_for("bob")).json()["diffs"] == []
    (document,) = DocumentSynchronizer(database.engine).documents("anna")
    assert json.loads(document.text) == {"id": "t", "name": "oat milk", "done": True}


def test_a_device_with_no_token_or_a_wrong_or_an_admins_or_an_expired_one_is_refused(server):
    other = Tokens("another secret, as long as this").for_owner("anna", 3600)
    for token in (
        None,
        "",
        "nonsense",
        other,
        Tokens(SECRET).for_admin(3600),
        Tokens(SECRET).for_owner("anna", -1),
        token_for("anna")[:-1],
    ):
        assert server.sync(token).status_code == 401
    assert server.metric('mobync_refusals_total{code="unauthenticated"}') == 6
    assert server.metric('mobync_refusals_total{code="token_expired"}') == 1
    (expired,) = server.wait_for_events(1, lambda event: event.get("code") == "token_expired")
    assert (expired["status"], expired["level"]) == (401, "warning")
    assert server.sync(token_for("anna")).status_code == 200


def test_a_signed_token_of_another_form_is_refused_like_a_forged_one():
    tokens = Tokens(SECRET)
    devices, admins = (URLSafeSerializer(SECRET, salt=f"mobync {who}") for who in _SALTS)
    good = {"owner": "anna", "expires": time.time() + 3600}
    assert tokens.owner(devices.dumps(good), {}) == "anna"
    for form in (
        "anna",
        ["anna"],
        1,
        None,
        {},
        {"owner": "anna"},
        {"expires": good["expires"]},
        good | {"owner": 7},
        good | {"owner": None},
        good | {"expires": "never"},
        good | {"expires": None},
        good | {"expires": True},
    ):
        assert tokens.owner(devices.dumps(form), {}) is None, form
        if not isinstance(form, dict) or form.get("expires") != good["expires"]:
            assert not tokens.is_admin(admins.dumps(form)), form


# ---- what one looks at --------------------------------------------------------------------------


def test_metrics_count_syncs_diffs_conflicts_refusals_and_seconds(server):
    token = token_for("anna")
    server.sync(token, 0, diff(1, "create", id="t", name="milk", done=False))
    server.sync(token, 1, diff(2, "update", id="t", name="oat milk"))
    server.sync(token, 1, diff(3, "update", id="t", name="soy milk"), diff(4, "create", id="u"))
    server.sync(token)
    assert server.sync(token, 99).status_code == 409
    assert server.sync(token, -1).status_code == 400
    assert server.get("/sync/events", "nonsense").status_code == 401
    refused_at_once = requests.post(f"{server.url}/sync", data=b"x", timeout=PATIENCE_S)
    assert refused_at_once.status_code == 415

    assert server.metric("mobync_syncs_total") == 4
    assert server.metric("mobync_diffs_received_total") == 4
    assert server.metric("mobync_diffs_accepted_total") == 4
    assert server.metric("mobync_diffs_sent_total") >= 2
    assert server.metric("mobync_conflicts_total") == 1
    assert server.metric("mobync_named_syncs_total") == 0
    for code in ("clock_ahead", "invalid_clock", "unauthenticated", "unsupported_media_type"):
        assert server.metric(f'mobync_refusals_total{{code="{code}"}}') == 1
    assert server.metric("mobync_apply_seconds_count") == 6
    assert server.metric("mobync_apply_seconds_sum") > 0


def test_counts_are_the_servers_own_whatever_environment_it_is_started_in(tmp_path):
    theirs = tmp_path / "of another program"
    theirs.mkdir()
    with serving(tmp_path, MOBYNC_SECRET=SECRET, PROMETHEUS_MULTIPROC_DIR=str(theirs)) as server:
        server.sync(token_for("anna"))
        assert server.metric("mobync_syncs_total") == 1
    assert os.listdir(theirs) == []


def test_a_sync_is_a_line_of_json_with_the_requests_id(server):
    body = {"auth_token": token_for("anna\n"), "logical_clock": 0, "diffs": []}
    answer = requests.post(
        f"{server.url}/sync", json=body, headers={"X-Request-ID": "req-1"}, timeout=PATIENCE_S
    )
    assert answer.headers["X-Request-ID"] == "req-1"
    server.sync(None)
    (sync,) = server.wait_for_events(1, lambda event: event["message"] == "sync")
    assert sync["level"] == "info"
    assert sync["request_id"] == "req-1"
    assert {name: sync[name] for name in ("owner", "clock", "pushed", "accepted", "sent")} == {
        "owner": "anna\n",
        "clock": 0,
        "pushed": 0,
        "accepted": 0,
        "sent": 0,
    }
    (refused,) = server.wait_for_events(1, lambda event: event["level"] == "warning")
    assert (refused["status"], refused["code"]) == (401, "unauthenticated")
    assert refused["request_id"] != "req-1"


def test_a_refused_diff_does_not_stop_the_others(server):
    token = token_for("anna")
    bad = {**diff(2, "create", id="u"), "json_data": "{}"}
    answer = server.sync(token, 0, diff(1, "create", id="t"), bad)
    assert (answer.status_code, answer.json()["logical_clock"]) == (200, 1)
    assert [(refused["id"], refused["code"]) for refused in answer.json()["refused"]] == [
        ("d2", "invalid")
    ]


def test_a_refusal_is_a_line_of_json_whose_fields_say_why_and_whose(server):
    token = token_for("anna")
    assert server.sync(token, -1).status_code == 400
    assert server.sync(token, 99).status_code == 409
    answer = requests.post(
        f"{server.url}/sync",
        data=b"{",
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {token}"},
        timeout=PATIENCE_S,
    )
    assert answer.status_code == 400
    refusals = server.wait_for_events(3, lambda event: event["level"] == "warning")
    fields = [
        {name: event[name] for name in ("status", "code", "owner") if name in event}
        for event in refusals
    ]
    assert fields == [
        {"status": 400, "code": "invalid_clock", "owner": "anna"},
        {"status": 409, "code": "clock_ahead", "owner": "anna"},
        {"status": 400, "code": "invalid_request", "owner": "anna"},
    ]
    assert all("request_id" in event for event in refusals)


def test_the_log_can_be_text(tmp_path):
    with serving(tmp_path, "--log-format", "text", MOBYNC_SECRET=SECRET) as server:
        server.sync(token_for("a\u001bb"))
        line = server.log.wait_for(r"sync owner=.*").group()
    assert line.startswith("sync owner='a\\x1bb' clock=0 pushed=0 accepted=0 sent=0 conflicts=0 ")


def test_metrics_count_parts_and_the_requests_that_they_become(server):
    said = {"auth_token": token_for("anna"), "device": "phone", "request": 1, "logical_clock": 0}

    def send(part: int, *, more: bool) -> int:
        edit = diff(part, "create", id=f"t{part}")
        body = {**said, "diffs": [edit], "part": part, "more_diffs": more}
        return requests.post(f"{server.url}/sync", json=body, timeout=PATIENCE_S).status_code

    def counted() -> tuple[float, float]:
        names = "mobync_parts_received_total", "mobync_requests_joined_total"
        received, joined = map(server.metric, names)
        return received, joined

    assert (send(1, more=True), counted()) == (200, (1, 0))
    assert (send(3, more=False), counted()) == (409, (1, 0))  # the second is missing
    assert (send(2, more=True), counted()) == (200, (2, 0))
    assert (send(3, more=False), counted()) == (200, (3, 1))
    assert server.metric("mobync_diffs_received_total") == 3


def test_metrics_and_log_know_devices_that_name_themselves(server):
    body = {"auth_token": token_for("anna"), "device": "pho\u001bne", "request": 1, "diffs": []}
    for clock, request, status in ((0, 1, 200), (5, 7, 409)):
        said = {**body, "logical_clock": clock, "request": request, "mark": None}
        answer = requests.post(f"{server.url}/sync", json=said, timeout=PATIENCE_S)
        assert answer.status_code == status
    reset = requests.post(
        f"{server.url}/sync",
        json={**body, "device": "phone 2", "logical_clock": 3},
        timeout=PATIENCE_S,
    )
    assert reset.json()["reset"] is True
    assert server.metric("mobync_named_syncs_total") == 2
    assert server.metric("mobync_resets_total") == 1
    assert server.metric('mobync_refusals_total{code="unknown_device"}') == 1
    lines = server.wait_for_events(2, lambda event: event["message"] == "sync")
    assert [(line["device"], line.get("reset")) for line in lines] == [
        ("pho\u001bne", None),
        ("phone 2", True),
    ]


def test_no_line_of_a_text_log_obeys_what_a_device_or_a_database_said():
    record = logging.LogRecord("x", logging.ERROR, "", 0, "it says: %s", ("\x1b[2J\ngone",), None)
    line = logs.TextFormatter().format(record)
    assert line.endswith("error: 'it says: \\x1b[2J\\ngone'")


def test_health_says_so_when_the_database_is_gone_and_devices_are_told_to_wait():
    # Nobody listens on a port that is bound and does not listen.
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"postgresql://127.0.0.1:{nobody.getsockname()[1]}/x?connect_timeout=5"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MOBYNC_SECRET", SECRET)
            app = create_app(Settings(url, None, events="off"))
        with in_thread(app) as address:
            health = requests.get(f"{address}/health", timeout=PATIENCE_S)
            assert health.status_code == 503
            assert health.json()["status"] == "unavailable"
            body = {"auth_token": token_for("anna"), "logical_clock": 0, "diffs": []}
            sync = requests.post(f"{address}/sync", json=body, timeout=PATIENCE_S)
    assert sync.status_code == 503
    assert sync.headers["Retry-After"] == "1"
    assert sync.json()["code"] == "unavailable"


def test_devices_are_told_to_wait_when_all_connections_wait_for_a_database_that_hangs(
    tmp_path, monkeypatch
):
    engines = []

    def noted_engine(url: URL, connections: int) -> Engine:
        engines.append(database_module.new_engine(url, connections))
        return engines[0]

    monkeypatch.setattr("mobync.server.app.new_engine", noted_engine)
    monkeypatch.setattr(database_module, "CONNECTION_TIMEOUT_S", 0.1)
    monkeypatch.setenv("MOBYNC_SECRET", SECRET)
    app = create_app(Settings(f"sqlite:///{tmp_path}/x.db", None, threads=1))
    body = {"auth_token": token_for("anna"), "logical_clock": 0, "diffs": []}
    bearer = {"Authorization": f"Bearer {token_for('anna')}"}
    with in_thread(app) as address, ExitStack() as held:
        for _ in range(2):  # one for its thread, and as many more
            held.enter_context(engines[0].connect())
        health = requests.get(f"{address}/health", timeout=PATIENCE_S)
        sync = requests.post(f"{address}/sync", json=body, timeout=PATIENCE_S)
        events = requests.get(f"{address}/sync/events", headers=bearer, timeout=PATIENCE_S)
    assert (health.status_code, health.json()["status"]) == (503, "unavailable")
    for refused in (sync, events):
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        assert refused.headers["Retry-After"] == "1"


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_database_that_goes_away_ends_no_stream_and_begins_none(kind, tmp_path):
    with (
        open_database(kind, tmp_path) as database,
        cable_to(database.url) as cable,
        serving(tmp_path, "-d", cable.url, MOBYNC_SECRET=SECRET) as server,
    ):
        token = token_for("anna")
        with server.get("/sync/events", token, stream=True) as stream:
            told = clocks(stream)
            assert next(told) == 0
            cable.cut()
            for _ in range(3):
                refused = requests.get(
                    f"{server.url}/sync/events",
                    headers={"Authorization": f"Bearer {token}"},
                    timeout=PATIENCE_S,
                )
                assert refused.status_code == 503
                assert refused.headers["Retry-After"] == "1"
                assert refused.json()["code"] == "unavailable"
            cable.mend()
            eventually(lambda: server.sync(token).status_code == 200)
            server.sync(token, 0, diff(1, "create", id="t"))
            assert is_told(told, 1)
        lines = server.log.lines
        eventually(lambda: sum("does not answer" in line for line in list(lines)) >= 3)
        assert not [event for event in server.events() if "exception" in event]


class Cable:
    """A way to a database server that can be cut, and mended."""

    def __init__(self, url: URL) -> None:
        self._far = url.host or "127.0.0.1", url.port or PORTS[url.get_backend_name()]
        self._begin(0)
        port = self._relay.server_address[1]
        self.url = url.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)

    def _begin(self, port: int) -> None:
        self._relay = _Relay(("127.0.0.1", port), self._far)
        self._thread = threading.Thread(target=self._relay.serve_forever, args=(0.01,))
        self._thread.start()

    def cut(self) -> None:
        if self._relay.is_cut:
            return
        self._relay.shutdown()
        self._thread.join()
        self._relay.hang_up()
        self._relay.server_close()

    def mend(self) -> None:
        self._begin(self._relay.server_address[1])


class _Relay(socketserver.ThreadingTCPServer):
    allow_reuse_address = True

    def __init__(self, near: tuple[str, int], far: tuple[str, int]) -> None:
        super().__init__(near, _Pipe)
        self.far = far
        self.ends: set[socket.socket] = set()
        self.is_cut = False

    def hang_up(self) -> None:
        self.is_cut = True
        for end in list(self.ends):
            hang_up(end)


class _Pipe(socketserver.BaseRequestHandler):
    server: _Relay

    def handle(self) -> None:
        with socket.create_connection(self.server.far) as far:
            self.server.ends |= {self.request, far}
            if self.server.is_cut:
                return
            back = threading.Thread(target=pump, args=(far, self.request))
            back.start()
            pump(self.request, far)
            back.join()


def pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        hang_up(end)


def hang_up(end: socket.socket) -> None:
    with suppress(OSError):  # it has hung up already
        end.shutdown(socket.SHUT_RDWR)


@contextmanager
def cable_to(url: URL) -> Iterator[Cable]:
    cable = Cable(url)
    try:
        yield cable
    finally:
        cable.cut()


@contextmanager
def in_thread(app: Starlette) -> Iterator[str]:
    """Serve an app from this process."""
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def test_the_documentation_names_every_metric_and_no_other():
    exposed = set(re.findall(r"^# HELP (\w+) ", Metrics().text().decode(), re.MULTILINE))
    documented = set(re.findall(r"^\| `(mobync_\w+)[`{]", SERVER_MD, re.MULTILINE))
    assert {name for name in exposed if not name.endswith("_created")} == documented


def test_the_documented_example_prints_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(
        r"```python\n(from sqlalchemy .*?)```\n\n```text\n(.*?)```", SERVER_MD, re.S
    )
    code, printed = example
    for _ in range(2):  # it starts again
        names: dict[str, Any] = {}
        exec(compile(code, "docs/server.md", "exec"), names)
        names["engine"].dispose()
        assert capsys.readouterr().out == printed


# ---- events -------------------------------------------------------------------------------------


def clocks(stream: requests.Response) -> Iterator[int]:
    for line in stream.iter_lines():
        if line.startswith(b"data: "):
            yield int(line.removeprefix(b"data: "))


def test_a_listening_device_learns_of_a_sync_and_no_other_owner_does(server):
    anna, bob = token_for("anna"), token_for("bob")
    with (
        server.get("/sync/events", anna, stream=True) as for_anna,
        requests.get(
            f"{server.url}/sync/events",
            headers={"Authorization": f"Bearer {bob}"},
            stream=True,
            timeout=PATIENCE_S,
        ) as for_bob,
    ):
        told_anna, told_bob = clocks(for_anna), clocks(for_bob)
        assert (next(told_anna), next(told_bob)) == (0, 0)
        server.sync(anna, 0, diff(1, "create", id="t"))
        assert next(told_anna) == 1
        server.sync(bob, 0, diff(1, "create", id="t"), diff(2, "create", id="u"))
        assert next(told_bob) == 2


def test_events_can_be_switched_off(tmp_path):
    with serving(tmp_path, "--events", "off", MOBYNC_SECRET=SECRET) as server:
        assert server.get("/sync/events", token_for("anna")).status_code == 404
        assert server.sync(token_for("anna")).status_code == 200


@pytest.mark.parametrize("odd", ["a password with a space", "several hosts"])
def test_a_database_url_of_sqlalchemys_own_kind_is_listened_at(odd, tmp_path):
    with open_database("postgresql", tmp_path) as database:
        url, there = database.url, f"{database.url.host}:{database.url.port or 5432}"
        if odd == "several hosts":
            url = url.set(host=None, port=None)
            url = url.update_query_dict({"host": ["127.0.0.1:1", there]})  # nobody is at the first
        elif not url.password:  # the server asks for none
            url = url.set(password="one two")
        text = url.render_as_string(hide_password=False).replace("one two", "one%20two")
        settings = Settings(text, None)
        log = Log()
        with (
            closing(live_of(settings)) as here,
            closing(live_of(settings)) as other,
            Device(here, log) as phone,
        ):
            assert phone.clock() == 0
            log.clock = 1
            other.announce(report("anna", 1))  # before the other listens, maybe: then it looks
            assert phone.clock() == 1
            other.announce(report("anna", 2))
            assert phone.clock() == 2


# ---- several processes --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_workers_share_counts_and_tell_each_others_devices(kind, tmp_path):
    with (
        open_database(kind, tmp_path) as database,
        serving(tmp_path, "-d", url_of(database), "--workers", "2", MOBYNC_SECRET=SECRET) as server,
    ):
        token = token_for("anna")
        started = r"Application startup complete"
        eventually(lambda: sum(started in line for line in server.log.lines) == 2)
        with server.get("/sync/events", token, stream=True) as stream:
            told = clocks(stream)
            assert next(told) == 0
            for clock in range(8):  # connections go to one process or the other
                server.sync(token, clock, diff(clock, "create", id=f"t{clock}"))
            assert is_told(told, 8)
        assert server.metric("mobync_diffs_accepted_total") == 8
        assert server.stop() == 0
    assert not [name for name in os.listdir(tmp_path) if name.startswith("mobync-metrics-")]


def is_told(told: Iterator[int], clock: int) -> bool:
    """Whether a device is told a clock in the end; those before it may be left out."""
    return any(heard == clock for heard in told)


# ---- stopping -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_it_stops_once_running_syncs_are_done_and_hangs_up_on_listeners(workers, stop, tmp_path):
    name = f"mobync test {uuid.uuid4()}"
    with (
        open_database("postgresql", tmp_path) as database,
        serving(
            tmp_path,
            "-d",
            url_of(database, application_name=name),
            "--workers",
            workers,
            MOBYNC_SECRET=SECRET,
        ) as server,
        ThreadPoolExecutor() as threads,
    ):
        token = token_for("anna")
        stream = server.get("/sync/events", token, stream=True)
        told = clocks(stream)
        assert next(told) == 0
        with DocumentSynchronizer(database.engine).transaction("anna"):
            running = threads.submit(server.sync, token, 0, diff(1, "create", id="t"))
            eventually(lambda: waits_for_a_lock(database, name))
            server.process.send_signal(stop)
            server.log.wait_for("Shutting down|Terminated child process")
            assert not running.done()
        answer = running.result(PATIENCE_S)
        assert (answer.status_code, answer.json()["logical_clock"]) == (200, 1)
        assert server.process.wait(PATIENCE_S) == 0
        stream.close()
    assert not any(event["level"] == "error" for event in server.events())


@pytest.mark.parametrize("workers", ["1", "2"])
def test_it_does_not_wait_longer_than_it_may_for_a_sync_that_does_not_end(workers, tmp_path):
    name = f"mobync test {uuid.uuid4()}"
    with (
        open_database("postgresql", tmp_path) as database,
        serving(
            tmp_path,
            "-d",
            url_of(database, application_name=name),
            "--workers",
            workers,
            "--stop-timeout",
            "0",
            MOBYNC_SECRET=SECRET,
        ) as server,
        ThreadPoolExecutor() as threads,
    ):
        with DocumentSynchronizer(database.engine).transaction("anna"):
            running = threads.submit(server.sync, token_for("anna"), 0, diff(1, "create", id="t"))
            eventually(lambda: waits_for_a_lock(database, name))
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(PATIENCE_S) == 0
            assert waits_for_a_lock(database, name)  # it was not the sync that ended first
        with pytest.raises(requests.ConnectionError):
            running.result(PATIENCE_S)
        server.log.wait_for("stopping while syncs still run")


def waits_for_a_lock(database: Database, application_name: str) -> bool:
    """Whether a connection of a program waits for somebody else's lock."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE wait_event_type = 'Lock' AND application_name = :name"
    )
    with database.engine.connect() as connection:
        return connection.execute(waiting, {"name": application_name}).scalar_one() > 0


# ---- starting -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["-d", "sqlite://"], "needs a file"),
        (["-d", "sqlite:///no/such/place/x.db"], "no directory no/such/place for the database"),
        (["-d", "oracle://localhost/x"], "mobync does not support 'oracle'"),
        (["-d", "mobync.db"], "is not a database URL"),
        (["-d", "postgresql://127.0.0.1:1/x"], "cannot use postgresql+psycopg://127.0.0.1:1/x"),
        (["-d", "mariadb://u:hidden@127.0.0.1:1/x"], "u:***@127.0.0.1:1/x"),
        (["-d", "sqlite:///file:x?mode=memory&uri=true"], "needs a file"),
        (["-d", "sqlite:///x.db?foo=bar"], "has no option 'foo'"),
        (["-d", "sqlite:///x.db?timeout=soon"], "cannot use sqlite:///x.db?timeout=soon: "),
        (["-d", "sqlite://host/x.db"], "Invalid SQLite URL"),
        (["-d", "sqlite:///x%00.db"], "is not a database URL"),
        (["-d", "mysql://root@127.0.0.1/test?foo=1"], "'foo'"),
        (["-d", "postgresql+nodriver://x/y"], "'postgresql+nodriver' is not a driver"),
        (
            ["-d", "postgresql+psycopg_async://x/y"],
            "is an asyncio driver",
        ),
    ],
)
def test_a_database_that_cannot_be_used_is_named_in_one_line(arguments, complaint, tmp_path):
    done = mobync(tmp_path, "serve", *arguments, MOBYNC_SECRET=SECRET)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert "hidden" not in done.stderr


def test_percent_signs_in_a_database_url_are_decoded_once():
    for url, name in {
        "sqlite:///my%20file.db": "my file.db",
        "sqlite:///50%2541.db": "50%41.db",
        "sqlite:///100%.db": "100%.db",
        "postgresql://h/a%2Fb": "a/b",
    }.items():
        assert database_url(url).database == name
    with pytest.raises(DatabaseError, match="is not a database URL"):
        database_url("sqlite:///x%00.db")


def test_every_command_means_the_same_file_by_a_url_with_percent_signs(tmp_path):
    url = "sqlite:///my%20file.db"
    with serving(tmp_path, "-d", url) as server:
        token = mobync(tmp_path, "token", "anna", "-d", url).stdout.strip()
        assert server.sync(token, 0, diff(1, "create", id="t")).status_code == 200
        assert mobync(tmp_path, "check", "--all", "-d", url).returncode == 0
    assert {"my file.db", "my file.db.secret"} == set(os.listdir(tmp_path))


def test_a_table_of_another_program_is_not_touched(tmp_path):
    with open_database("sqlite", tmp_path) as database:
        with database.engine.begin() as connection:
            connection.execute(text("CREATE TABLE documents (id TEXT, title TEXT)"))
        done = mobync(tmp_path, "serve", "-d", url_of(database))
    assert done.returncode == 1
    assert "the table 'documents'" in done.stderr
    assert "no column 'document', 'model', 'owner'" in done.stderr


def test_a_port_that_is_taken_ends_it(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = mobync(tmp_path, "serve", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert "address already in use" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--workers", "0"],
        ["--port", "70000"],
        ["--inspector", "everybody"],
        ["--events", "http://localhost"],
        ["--events", "redis://localhost:port"],
        ["--log-format", "xml"],
        ["--no-such-option"],
        ["too many"],
    ],
)
def test_a_wrong_option_is_a_misuse(arguments, tmp_path):
    done = mobync(tmp_path, "serve", *arguments)
    assert done.returncode == 2
    assert "Usage: " in done.stderr


@pytest.mark.parametrize(
    ("module", "extra"), [("psycopg", "live-postgresql"), ("redis", "live-redis")]
)
def test_a_brokers_client_that_is_missing_is_named_with_its_extra(
    module, extra, tmp_path, monkeypatch
):
    def live_without_it(settings: Settings) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr("mobync.server._serve.live_of", live_without_it)
    monkeypatch.setenv("MOBYNC_SECRET", SECRET)
    done = CliRunner().invoke(commands.main, ["serve", "-d", f"sqlite:///{tmp_path}/x.db"])
    assert done.exit_code == 1
    assert f"needs {module}: pip install -e '.[{extra}]'" in done.output


# ---- the secret ---------------------------------------------------------------------------------


def test_a_secret_is_made_once_and_used_by_all_who_come_at_the_same_time(tmp_path):
    file = tmp_path / "secret"
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: load_tokens(file), range(8)))
    token = made[0].for_owner("anna", 60)
    assert [tokens.owner(token, {}) for tokens in made] == ["anna"] * 8
    assert os.listdir(tmp_path) == ["secret"]


def test_a_secret_that_cannot_be_used_is_refused(tmp_path, monkeypatch):
    with pytest.raises(SecretError, match="set MOBYNC_SECRET, or name a file"):
        load_tokens(None)
    for content in (b"short", b"", b"\xff" * 20, b"\0" * 20):
        (tmp_path / "secret").write_bytes(content)
        (tmp_path / "secret").chmod(0o600)
        with pytest.raises(SecretError, match=r"the secret in .*secret cannot be used"):
            load_tokens(tmp_path / "secret")
    monkeypatch.setenv("MOBYNC_SECRET", "short")
    with pytest.raises(SecretError, match="MOBYNC_SECRET: the secret must have at least 16"):
        load_tokens(tmp_path / "secret")


@pytest.mark.parametrize("mode", [0o666, 0o644, 0o660, 0o602, 0o601])
def test_a_secret_that_others_may_use_is_refused_with_what_to_do(mode, tmp_path):
    file = tmp_path / "my secret"
    file.write_text(SECRET)
    file.chmod(mode)
    for command in (["serve"], ["token", "anna"]):
        done = mobync(tmp_path, *command, "--secret-file", str(file))
        assert done.returncode == 1
        assert f"its mode is {mode:03o}" in done.stderr
        assert f"chmod 600 '{file}'" in done.stderr
    for private in (0o600, 0o400, 0o640):
        file.chmod(private)
        assert load_tokens(file).owner(token_for("anna"), {}) == "anna"


def test_a_secret_that_another_user_put_there_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "secret"
    load_tokens(file)
    theirs = os.stat_result((0o100600, 0, 0, 1, 54321, 0, 0, 0, 0, 0))
    monkeypatch.setattr(os, "fstat", lambda _: theirs)
    assert load_tokens(file)
    tmp_path.chmod(0o1777)
    with pytest.raises(SecretError, match=r"belongs to another user \(number 54321\)"):
        load_tokens(file)


@pytest.mark.parametrize("command", [["serve"], ["token", "anna"], ["import", "anna", "/dev/null"]])
def test_a_directory_that_is_missing_is_named_as_the_databases_or_the_secrets(command, tmp_path):
    done = mobync(tmp_path, *command, "-d", "sqlite:///none/x.db")
    assert done.returncode == 1
    assert done.stderr == "Error: there is no directory none for the database x.db\n"
    if command[0] != "import":
        done = mobync(tmp_path, *command, "--secret-file", "none/secret")
        assert done.returncode == 1
        assert done.stderr.endswith("none/secret cannot be used: there is no directory none\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("owner", ["", "a" * 256, "a\0b", "anna ", "\ud800"])
def test_no_token_is_made_or_taken_for_an_owner_who_cannot_be_kept(owner):
    tokens = Tokens(SECRET)
    with pytest.raises(ValueError, match="an owner is a text of 1 to 255 characters"):
        tokens.for_owner(owner, 60)
    signed = URLSafeSerializer(SECRET, salt="mobync device")
    if owner.isascii():  # else it cannot be signed at all
        forged = signed.dumps({"owner": owner, "expires": time.time() + 60})
        assert tokens.owner(forged, {}) is None
    assert tokens.owner(signed.dumps({"owner": "anna", "expires": time.time() + 60}), {}) == "anna"


def test_an_owner_cannot_be_named_into_an_administrator():
    tokens = Tokens(SECRET)
    for owner in ("admin", '{"admin": true}'):
        assert not tokens.is_admin(tokens.for_owner(owner, 60))
    assert tokens.is_admin(tokens.for_admin(60))
    assert not tokens.is_admin(tokens.for_admin(-1))
    assert tokens.owner(tokens.for_admin(60), {}) is None
