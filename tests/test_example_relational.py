"""examples/relational over real HTTP: tokens, tables with a foreign key, and rows that stay."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import databases
import pytest
import requests
from databases import Database, open_database
from itsdangerous import TimestampSigner, URLSafeTimedSerializer
from over_http import EXAMPLES, load_example, served
from processes.example_process import started
from small_device import HttpLink, SmallDevice
from sqlalchemy import text
from task_list import diff

from mobync.http import MAX_BODY_BYTES

database = databases.database

APP = EXAMPLES / "relational" / "app.py"
TIMEOUT_S = 30
SECRET = "a key of these tests"

example = load_example("relational/app.py")


class Server:
    """The app on a free port, with the tokens that it takes and the rows that it keeps."""

    def __init__(self, url: str, settings: Any, database: Database) -> None:
        self.url = url
        self.settings = settings
        self.database = database

    def token(self, owner: str) -> str:
        token: str = self.settings.tokens().issue(owner)
        return token

    def post(self, body: object, **headers: str) -> requests.Response:
        return requests.post(self.url, json=body, headers=headers, timeout=TIMEOUT_S)

    def sync(
        self, *diffs: object, clock: object = 0, owner: str = "anna", token: object = None
    ) -> requests.Response:
        token = self.token(owner) if token is None else token
        return self.post({"auth_token": token, "logical_clock": clock, "diffs": list(diffs)})

    def rows(self, table: str) -> list[dict[str, Any]]:
        with self.database.engine.connect() as connection:
            found = connection.execute(text(f"SELECT * FROM {table} ORDER BY owner, id"))
            return [dict(row) for row in found.mappings()]


@contextmanager
def serving(
    database: Database, lifetime_s: int = 3600, module: Any = example, **options: Any
) -> Iterator[Server]:
    settings = module.Settings(database.url, SECRET, lifetime_s)
    app = module.create_app(settings, **options)
    try:
        with served(app) as url:
            yield Server(url, settings, database)
    finally:
        with app.app_context():
            module.db.engine.dispose()


@pytest.fixture
def server(database: Database) -> Iterator[Server]:
    with serving(database) as server:
        yield server


@pytest.fixture
def on_sqlite(tmp_path: Path) -> Iterator[Server]:
    with open_database("sqlite", tmp_path) as database, serving(database) as server:
        yield server


def refusal(response: requests.Response, status: int) -> dict[str, Any]:
    """The body of a refusal, after checking what all of them have."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/json"
    body: dict[str, Any] = response.json()
    assert body["success"] is False
    assert body["message"]
    assert body["code"]
    return body


def refused_by_database(response: requests.Response, status: int) -> None:
    """Check a refusal by the database, and that its words stay on the server."""
    refusal(response, status)
    assert "sql" not in response.text.lower()


def project(**fields: Any) -> dict[str, Any]:
    return diff("create", "projects", **{"id": "p", "name": "home", "archived": False, **fields})


def task(**fields: Any) -> dict[str, Any]:
    return diff("create", "tasks", **{"id": "t", "name": "milk", "done": False, **fields})


# ---- devices that are right ---------------------------------------------------------------------


def test_a_project_and_its_task_come_in_one_sync_and_reach_the_other_device(
    server: Server,
) -> None:
    sent = [project(), task(project_id="p")]
    reply = server.sync(*sent)
    assert reply.json() == {"success": True, "message": "", "logical_clock": 2, "diffs": []}

    other = server.sync().json()
    assert [d["json_data"] for d in other["diffs"]] == [d["json_data"] for d in sent]
    [stored] = server.rows("tasks")
    assert (stored["owner"], stored["project_id"], bool(stored["done"])) == ("anna", "p", False)


def test_a_task_may_be_made_before_its_project_and_filed_under_it_in_one_sync(
    server: Server,
) -> None:
    sent = [task(), project(), diff("update", id="t", project_id="p")]
    assert server.sync(*sent).json()["logical_clock"] == 2
    assert [row["project_id"] for row in server.rows("tasks")] == ["p"]
    pulled = [json.loads(d["json_data"]) for d in server.sync().json()["diffs"]]
    assert pulled == [
        {"id": "t", "name": "milk", "done": False, "project_id": "p"},
        {"id": "p", "name": "home", "archived": False},
    ]


def test_two_devices_and_the_tables_end_up_with_the_same_rows(server: Server) -> None:
    link = HttpLink(server.url, server.token("anna"))
    phone, tablet = SmallDevice(link), SmallDevice(link)
    phone.edit("create", {"id": "t", "name": "milk", "done": False}, now_ms=1_000)
    phone.sync()
    tablet.sync()
    phone.edit("update", {"id": "t", "name": "soy milk"}, now_ms=2_000)
    tablet.edit("update", {"id": "t", "name": "oat milk", "done": True}, now_ms=4_000)
    for device in (phone, tablet, phone):
        device.sync()

    assert phone.rows == tablet.rows == {"t": {"id": "t", "name": "oat milk", "done": True}}
    [stored] = server.rows("tasks")
    assert (stored["name"], bool(stored["done"])) == ("oat milk", True)


def test_a_retry_after_a_lost_reply_does_nothing_twice(server: Server) -> None:
    sent = [project(), task(project_id="p")]
    assert server.sync(*sent).json() == server.sync(*sent).json()
    assert [len(server.rows(table)) for table in ("projects", "tasks", "diffs")] == [1, 1, 2]


def test_two_owners_may_use_the_same_ids_and_never_meet(server: Server) -> None:
    server.sync(project(), task(project_id="p"))
    assert server.sync(owner="ben").json()["diffs"] == []
    server.sync(task(name="bread"), owner="ben")
    server.sync(diff("delete", id="t"), clock=1, owner="ben")
    assert [(row["owner"], row["name"]) for row in server.rows("tasks")] == [("anna", "milk")]


def test_the_owner_is_whom_the_token_stands_for_not_whom_the_diff_names(server: Server) -> None:
    server.sync({**task(), "owner": "ben"})
    assert [row["owner"] for row in server.rows("tasks")] == ["anna"]


def test_the_commands_of_its_readme_get_the_replies_that_it_shows(on_sqlite: Server) -> None:
    readme = (APP.parent / "README.md").read_text(encoding="utf-8")
    requests_sent = re.findall(r"^curl .*? -d '(\{.*?\})'$", readme, re.M | re.S)
    replies = re.findall(r"^```json\n(.*?)^```$", readme, re.M | re.S)
    assert len(requests_sent) == len(replies) == 2
    for sent, reply in zip(requests_sent, replies, strict=True):
        body = json.loads(sent.replace("'$TOKEN'", on_sqlite.token("anna")))
        assert on_sqlite.post(body).text.split() == reply.split()


# ---- 401: tokens --------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["", "anna", "anna-demo-token", 5, ["x"], {"token": "x"}, "\0"])
def test_what_is_no_token_is_unauthorized(on_sqlite: Server, token: object) -> None:
    assert refusal(on_sqlite.sync(task(), token=token), 401)["code"] == "unauthenticated"
    assert on_sqlite.rows("diffs") == []


def test_a_token_that_was_signed_with_another_key_is_unauthorized(on_sqlite: Server) -> None:
    forged = example.Tokens("another key", 3600).issue("anna")
    refusal(on_sqlite.sync(token=forged), 401)


def test_a_token_whose_owner_was_changed_is_unauthorized(on_sqlite: Server) -> None:
    anna, ben = (on_sqlite.token(owner).split(".", 1) for owner in ("anna", "ben"))
    refusal(on_sqlite.sync(token=f"{ben[0]}.{anna[1]}"), 401)


def test_a_token_is_good_for_its_lifetime_and_no_longer(on_sqlite: Server) -> None:
    def issued(seconds_ago: int) -> str:
        class Past(TimestampSigner):
            def get_timestamp(self) -> int:
                return int(time.time()) - seconds_ago

        salt = "mobync example token"
        return str(URLSafeTimedSerializer(SECRET, salt=salt, signer=Past).dumps("anna"))

    assert on_sqlite.sync(token=issued(3000)).status_code == 200
    refusal(on_sqlite.sync(token=issued(4000)), 401)


def test_the_token_may_be_in_the_header(on_sqlite: Server) -> None:
    on_sqlite.sync(task())
    header = f"Bearer {on_sqlite.token('anna')}"
    pulled = on_sqlite.post({"logical_clock": 0, "diffs": []}, Authorization=header)
    assert len(pulled.json()["diffs"]) == 1


# ---- 400, 403: what a device must not do --------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (task(project_id="nowhere"), "no project 'nowhere'"),
        (task(project_id="x" * 65), "no project"),
        (task(project_id=["p"]), "'project_id' must be a string"),
        (task(name="n" * 201), "'name' is longer than 200 characters"),
        (task(name=5), "'name' must be a string"),
        (diff("create", "tasks", id="t"), "'name' is missing"),
        (task(done="yes"), "'done' must be true or false"),
        (task(color="red"), "no field 'color'"),
        (task(owner="ben"), "'owner' is set by the server"),
        (diff("create", "users", id="u"), "'users' is unknown"),
        (task() | {"json_data": '{"id": "t", "name": "a", "n": ' + "1" * 5000 + "}"}, "too long"),
        (task() | {"utc_timestamp": "noon"}, "utc_timestamp"),
    ],
)
def test_a_diff_that_does_not_fit_the_tables_is_a_bad_request_and_nothing_is_written(
    on_sqlite: Server, sent: dict[str, Any], reason: str
) -> None:
    body = refusal(on_sqlite.sync(project(), sent), 400)
    assert reason in body["reason"]
    assert body["index"] == 1
    assert on_sqlite.rows("projects") == on_sqlite.rows("tasks") == on_sqlite.rows("diffs") == []


def test_a_task_cannot_be_filed_under_the_project_of_another_owner(server: Server) -> None:
    server.sync(project())
    body = refusal(server.sync(task(project_id="p"), owner="ben"), 400)
    assert "no project 'p'" in body["reason"]
    server.sync(task(), owner="ben")
    moved = diff("update", id="t", project_id="p")
    refusal(server.sync(moved, clock=1, owner="ben"), 400)
    assert [row["project_id"] for row in server.rows("tasks")] == [None]


def test_the_database_itself_keeps_the_foreign_key(server: Server) -> None:
    module = load_example("relational/app.py")
    module.TaskStore._check_projects = lambda *_: None
    with serving(server.database, module=module) as unchecked:
        rows = project(id="other"), task(project_id="nowhere")
        refused_by_database(unchecked.sync(*rows), 400)
    assert server.rows("projects") == server.rows("tasks") == server.rows("diffs") == []


@pytest.mark.parametrize("name", ["", "  ", "\t\n"])
@pytest.mark.parametrize("kind", ["create", "update"])
def test_a_blank_name_is_forbidden(on_sqlite: Server, kind: str, name: str) -> None:
    body = refusal(on_sqlite.sync(project(), diff(kind, id="t", name=name)), 403)
    assert (body["index"], body["reason"]) == (1, f"validate_{kind} refused it")
    assert on_sqlite.rows("projects") == []


def test_a_project_is_archived_never_deleted_so_late_tasks_still_find_it(server: Server) -> None:
    server.sync(project())
    refusal(server.sync(diff("delete", "projects", id="p"), clock=1), 403)
    server.sync(diff("update", "projects", id="p", archived=True), clock=1)

    late = server.sync(task(project_id="p"), clock=1)  # was offline since before
    assert json.loads(late.json()["diffs"][0]["json_data"])["archived"] is True
    assert [row["project_id"] for row in server.rows("tasks")] == ["p"]
    assert server.sync(diff("delete", id="t"), clock=3).status_code == 200
    assert server.rows("tasks") == []


# ---- 404 to 503 ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clock", "status"), [(-1, 400), (0.5, 400), (None, 400), ("one", 400), (1, 409)]
)
def test_a_clock_that_cannot_be_right_is_refused(
    on_sqlite: Server, clock: object, status: int
) -> None:
    refusal(on_sqlite.sync(clock=clock), status)


def test_what_is_not_a_sync_is_refused(on_sqlite: Server) -> None:
    url, token = on_sqlite.url, on_sqlite.token("anna")
    assert requests.get(url, timeout=TIMEOUT_S).status_code == 405
    assert requests.post(url + "/more", json={}, timeout=TIMEOUT_S).status_code == 404
    refusal(requests.get(url + "/events", timeout=TIMEOUT_S), 404)
    refusal(requests.post(url, "{}", timeout=TIMEOUT_S), 415)
    refusal(on_sqlite.post([], Authorization=f"Bearer {token}"), 400)
    refusal(on_sqlite.post({"auth_token": token, "logical_clock": 0}), 400)
    refusal(on_sqlite.post({"logical_clock": 0, "diffs": []}), 401)


def test_a_body_that_is_too_large_is_refused(tmp_path: Path) -> None:
    # Flask's own client: over a socket, the server may hang up before the body is through.
    with open_database("sqlite", tmp_path) as database:
        app = example.create_app(example.Settings(database.url, SECRET))
        body = b" " * (MAX_BODY_BYTES + 1)
        response = app.test_client().post("/sync", data=body, content_type="application/json")
    assert response.status_code == 413
    assert response.get_json()["success"] is False


def test_a_sync_that_waits_too_long_is_told_to_come_again_and_then_succeeds(
    database: Database,
) -> None:
    other_process = example.SQLAlchemySynchronizer(
        database.engine, {"projects": example.Project, "tasks": example.Task}
    )
    with serving(database, lock_timeout_s=0.1) as server:
        with other_process.transaction("anna"):
            busy = server.sync(task())
        refusal(busy, 503)
        assert int(busy.headers["Retry-After"]) > 0
        assert server.rows("tasks") == []
        assert server.sync(task()).json()["logical_clock"] == 1


def test_workers_that_start_at_once_on_an_empty_database_all_come_up(database: Database) -> None:
    starting = threading.Barrier(4)

    def start() -> None:
        module = load_example("relational/app.py")
        starting.wait(TIMEOUT_S)
        with serving(database, module=module) as server:
            assert server.sync().status_code == 200

    with ThreadPoolExecutor(4) as pool:
        for worker in [pool.submit(start) for _ in range(4)]:
            worker.result(TIMEOUT_S)


# ---- 500: a database that says no ---------------------------------------------------------------


def test_a_unique_violation_in_a_table_of_the_app_leaves_nothing_behind(server: Server) -> None:
    with server.database.engine.begin() as connection:
        connection.execute(text("CREATE UNIQUE INDEX one_name ON tasks (owner, name)"))
    server.sync(task())
    sent = [project(), task(id="u", name="bread"), task(id="v")]
    refused_by_database(server.sync(*sent, clock=1), 400)
    assert server.rows("projects") == []
    assert [row["id"] for row in server.rows("tasks")] == ["t"]
    assert len(server.rows("diffs")) == 1
    assert server.sync(*sent[:2], clock=1).json()["logical_clock"] == 3


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
def test_a_connection_that_is_cut_in_the_middle_leaves_nothing_and_a_retry_succeeds(
    database: Database,
) -> None:
    who, cut = {
        "postgresql": ("SELECT pg_backend_pid()", "SELECT pg_terminate_backend(%d)"),
        "mariadb": ("SELECT connection_id()", "KILL %d"),
    }[database.kind]
    cuts = []

    def cut_own_connection(store: Any, where: str, rows_json: Any) -> None:
        if where == "tasks" and not cuts:  # the project is written, its task not yet
            cuts.append(store.connection.scalar(text(who)))
            with database.engine.connect() as other:
                other.execute(text(cut % cuts[0]))

    module = load_example("relational/app.py")
    module.TaskStore._check_projects = cut_own_connection
    sent = [project(), task(project_id="p")]
    with serving(database, module=module) as server:
        refused_by_database(server.sync(*sent), 503)
        assert cuts
        assert server.rows("projects") == server.rows("tasks") == server.rows("diffs") == []
        assert server.sync(*sent).json()["logical_clock"] == 2


def test_a_full_disk_leaves_nothing_behind_and_with_room_a_retry_succeeds(tmp_path: Path) -> None:
    sent = [task(id=f"t{number}", name="n" * 200) for number in range(1000)]
    room = {"pages": 40}  # above what the empty tables take, below what is sent

    module = load_example("relational/app.py")
    enforce_foreign_keys = module._enforce_foreign_keys

    def limit(connection: Any, record: Any) -> None:
        enforce_foreign_keys(connection, record)
        connection.execute(f"PRAGMA max_page_count = {room['pages']}")

    module._enforce_foreign_keys = limit
    with open_database("sqlite", tmp_path) as database:
        with serving(database, module=module) as server:
            refused_by_database(server.sync(project(), *sent), 503)
            assert server.rows("projects") == server.rows("tasks") == server.rows("diffs") == []
            assert server.sync(project()).json()["logical_clock"] == 1
        room["pages"] = 100_000
        with serving(database, module=module) as server:
            assert server.sync(*sent, clock=1).json()["logical_clock"] == 1001
            assert len(server.rows("tasks")) == len(sent)


# ---- the process that its users start -----------------------------------------------------------


def test_rows_and_tokens_survive_a_restart(tmp_path: Path) -> None:
    place = {"DATABASE_URL": f"sqlite:///{tmp_path / 'tasks.db'}", "SECRET_KEY": ""}
    token = issued_token("anna", place)
    sent = {"auth_token": token, "logical_clock": 0, "diffs": [project(), task(project_id="p")]}
    log = tmp_path / "log"
    with started(APP, log, **place) as url:
        assert requests.post(url, json=sent, timeout=TIMEOUT_S).status_code == 200
    with started(APP, log, **place) as url:
        pulled = requests.post(url, json={**sent, "diffs": []}, timeout=TIMEOUT_S).json()

    assert [d["id"] for d in pulled["diffs"]] == [d["id"] for d in sent["diffs"]]
    assert [line.partition(" sync ")[2] for line in log.read_text().splitlines()] == [
        "owner=anna pushed=2 accepted=2 sent=0 clock=2",
        "owner=anna pushed=0 accepted=0 sent=2 clock=2",
    ]


def test_the_kept_key_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    issued_token("anna", {"DATABASE_URL": f"sqlite:///{tmp_path / 'tasks.db'}", "SECRET_KEY": ""})
    key = tmp_path / "tasks.db.secret"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(key.read_text()) == 64
    assert [file.name for file in tmp_path.iterdir()] == [key.name]


def issued_token(owner: str, environment: dict[str, str]) -> str:
    return command("token", owner, **environment).stdout.strip()


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(APP), *arguments],
        env={**os.environ, **environment},
        check=False,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"DATABASE_URL": "postgresql://127.0.0.1/x", "SECRET_KEY": ""}, "SECRET_KEY must be set"),
        ({"DATABASE_URL": "tasks.db"}, "DATABASE_URL must look like"),
        ({"DATABASE_URL": "sqlite://"}, "DATABASE_URL must name a file"),
        ({"TOKEN_LIFETIME_S": "long", "SECRET_KEY": "x"}, "TOKEN_LIFETIME_S must be a number"),
        ({"PORT": "http", "SECRET_KEY": "x"}, "PORT must be a number"),
    ],
)
def test_a_setting_that_is_none_is_named(environment: dict[str, str], said: str) -> None:
    ended = command(**environment)
    assert ended.returncode == 1
    assert ended.stderr.startswith(said)


@pytest.mark.parametrize("owner", ["", " anna", "a\nb", "n" * 256])
def test_a_token_for_an_owner_that_cannot_be_kept_is_not_issued(owner: str) -> None:
    ended = command("token", owner, SECRET_KEY="x")
    assert ended.returncode == 2
    assert "an owner" in ended.stderr


def test_the_driver_may_be_left_out_of_the_database_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "x")
    for given, meant in [
        ("postgres://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
        ("mariadb://u:p@h/d", "mariadb+pymysql://u:p@h/d"),
        ("mysql+mysqldb://h/d", "mysql+mysqldb://h/d"),
    ]:
        monkeypatch.setenv("DATABASE_URL", given)
        url = example.Settings.of_environment().database_url
        assert url.render_as_string(hide_password=False) == meant
