"""examples/in_memory over real HTTP: what it answers to devices that are right, and to others."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from over_http import EXAMPLES, load_example, served
from processes.example_process import started
from server_process import free_port
from small_device import HttpLink, SmallDevice

from mobync import Mobync

APP = EXAMPLES / "in_memory" / "app.py"
TIMEOUT_S = 30

ANNA, BEN = "anna-demo-token", "ben-demo-token"

example = load_example("in_memory/app.py")


class Server:
    """The app on a free port, and its store."""

    def __init__(self, url: str, store: Any) -> None:
        self.url = url
        self.store = store

    def post(self, body: object, **headers: str) -> requests.Response:
        return requests.post(self.url, json=body, headers=headers, timeout=TIMEOUT_S)

    def post_text(self, body: bytes, **headers: str) -> requests.Response:
        headers = {"Content-Type": "application/json", **headers}
        return requests.post(self.url, body, headers=headers, timeout=TIMEOUT_S)

    def sync(self, *diffs: object, clock: object = 0, token: object = ANNA) -> requests.Response:
        return self.post({"auth_token": token, "logical_clock": clock, "diffs": list(diffs)})

    def rows(self, model: str = "tasks") -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.store.read(model)
        return rows


@pytest.fixture
def server() -> Iterator[Server]:
    store = example.TaskStore()
    with served(example.create_app(Mobync(store))) as url:
        yield Server(url, store)


def diff(diff_id: str, kind: str, row: dict[str, Any] | str, **changed: Any) -> dict[str, Any]:
    return {
        "id": diff_id,
        "owner": "me",
        "logical_clock": 0,
        "utc_timestamp": 1_700_000_000_000,
        "type": kind,
        "model": "tasks",
        "json_data": row if isinstance(row, str) else json.dumps(row),
        **changed,
    }


def refusal(response: requests.Response) -> dict[str, Any]:
    """The body of a refusal, after checking what all of them have."""
    assert response.headers["Content-Type"] == "application/json"
    body: dict[str, Any] = response.json()
    assert body["success"] is False
    assert body["message"]
    return body


# ---- devices that are right ---------------------------------------------------------------------


def test_a_sync_is_answered_with_the_documented_reply(server: Server) -> None:
    created = diff("d1", "create", {"id": "t", "name": "milk"})

    reply = server.sync(created)
    assert reply.status_code == 200
    assert reply.json() == {"success": True, "message": "", "logical_clock": 1, "diffs": []}

    reply = server.sync()
    assert reply.json()["diffs"] == [{**created, "owner": "anna"}]
    assert server.rows() == [{"id": "t", "name": "milk", "owner": "anna"}]


def test_the_clock_may_come_as_text_as_in_the_first_release(server: Server) -> None:
    assert server.sync(clock="0").status_code == 200


def test_two_devices_and_the_store_end_up_with_the_same_rows(server: Server) -> None:
    phone = SmallDevice(HttpLink(server.url, "anna-demo-token"))
    tablet = SmallDevice(HttpLink(server.url, "anna-demo-token"))
    phone.edit("create", {"id": "t", "name": "milk", "done": False}, now_ms=1_000)
    phone.sync()
    tablet.sync()

    phone.edit("update", {"id": "t", "name": "soy milk"}, now_ms=2_000)
    phone.edit("create", {"id": "u", "name": "salt"}, now_ms=3_000)
    tablet.edit("update", {"id": "t", "name": "oat milk", "done": True}, now_ms=4_000)
    for device in (phone, tablet, phone):
        device.sync()

    expected = {
        "t": {"id": "t", "name": "oat milk", "done": True},
        "u": {"id": "u", "name": "salt"},
    }
    assert phone.rows == expected
    assert tablet.rows == expected
    assert {row["id"]: row for row in server.rows()} == {
        row_id: {**row, "owner": "anna"} for row_id, row in expected.items()
    }


def test_a_retry_after_a_lost_reply_does_nothing_twice(server: Server) -> None:
    request = diff("d1", "create", {"id": "t", "name": "milk"})
    first = server.sync(request)
    again = server.sync(request)
    assert again.json() == first.json()
    assert len(server.rows()) == 1
    assert len(server.rows("diffs")) == 1


def test_the_owner_is_whom_the_token_stands_for_not_whom_the_diff_names(server: Server) -> None:
    server.sync(diff("d1", "create", {"id": "t", "name": "milk"}, owner="ben"))
    assert server.sync(token=BEN).json()["diffs"] == []
    assert [row["owner"] for row in server.rows()] == ["anna"]


def test_the_commands_of_its_readme_get_the_replies_that_it_shows(server: Server) -> None:
    text = (APP.parent / "README.md").read_text(encoding="utf-8")
    requests_sent = re.findall(r"^curl .*? -d '(.*?)'$", text, re.M | re.S)
    replies = re.findall(r"^```json\n(.*?)^```$", text, re.M | re.S)
    assert len(requests_sent) == len(replies) == 2
    for sent, reply in zip(requests_sent, replies, strict=True):
        assert server.post(json.loads(sent)).text.split() == reply.split()


# ---- 400: the request is malformed --------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'"text"', b"null", b"\xff{}", b"[" * 100_000, b"1" * 5_000],
    ids=["empty", "cut", "list", "text", "null", "not UTF-8", "deep", "long number"],
)
def test_a_body_that_is_no_json_object_is_a_bad_request(server: Server, body: bytes) -> None:
    for headers in ({"Authorization": f"Bearer {ANNA}"}, {}):
        response = server.post_text(body, **headers)
        assert response.status_code == 400
        assert "JSON" in refusal(response)["message"]


@pytest.mark.parametrize("missing", ["logical_clock", "diffs"])
def test_a_missing_key_is_named(server: Server, missing: str) -> None:
    body = {"auth_token": ANNA, "logical_clock": 0, "diffs": []}
    del body[missing]
    response = server.post(body)
    assert response.status_code == 400
    assert refusal(response)["reason"] == f"{missing} is missing"


def test_a_malformed_diff_is_named_with_index_id_and_reason(server: Server) -> None:
    response = server.sync(
        diff("d1", "create", {"id": "t", "name": "milk"}),
        diff("d2", "update", {"id": "t"}, utc_timestamp="noon"),
    )
    assert response.status_code == 400
    body = refusal(response)
    assert body["index"] == 1
    assert body["id"] == "d2"
    assert "utc_timestamp" in body["reason"]
    assert body["reason"] in body["message"]
    assert server.rows() == []


@pytest.mark.parametrize("diffs", [None, {}, "[]", 3])
def test_diffs_that_are_no_list_have_a_reason_but_no_place(server: Server, diffs: object) -> None:
    response = server.post({"auth_token": ANNA, "logical_clock": 0, "diffs": diffs})
    assert response.status_code == 400
    body = refusal(response)
    assert "expected a JSON array" in body["reason"]
    assert body.keys() == {"success", "message", "reason"}


def test_a_lone_surrogate_in_an_id_is_refused_and_the_answer_can_still_be_printed(
    server: Server,
) -> None:
    response = server.sync(diff("\ud800", "create", {"id": "t", "name": "milk"}))
    assert response.status_code == 400
    assert "surrogate" in refusal(response)["reason"]


# ---- 401 and 403: who may do what ---------------------------------------------------------------


@pytest.mark.parametrize("token", ["", "anna", None, 5, [ANNA], {"token": ANNA}])
def test_a_token_that_nobody_has_is_unauthorized(server: Server, token: object) -> None:
    response = server.sync(token=token)
    assert response.status_code == 401
    assert "token" in refusal(response)["message"]
    assert response.headers["WWW-Authenticate"] == "Bearer"


def test_a_request_without_a_token_is_unauthorized(server: Server) -> None:
    response = server.post({"logical_clock": 0, "diffs": []})
    assert response.status_code == 401
    refusal(response)


def test_the_token_may_be_in_the_header_which_then_decides(server: Server) -> None:
    server.sync(diff("d1", "create", {"id": "t", "name": "milk"}))
    pull = {"logical_clock": 0, "diffs": []}
    for scheme in ("Bearer", "bearer"):
        reply = server.post(pull, Authorization=f"{scheme} {ANNA}")
        assert [d["id"] for d in reply.json()["diffs"]] == ["d1"]
    both = {**pull, "auth_token": ANNA}
    assert server.post(both, Authorization=f"Bearer {BEN}").json()["diffs"] == []
    assert server.post(both, Authorization="Bearer anna").status_code == 401
    assert len(server.post(both, Authorization="Basic YTpi").json()["diffs"]) == 1


@pytest.mark.parametrize(
    ("kind", "row", "model"),
    [
        ("create", {"id": "t"}, "tasks"),
        ("create", {"id": "t", "name": ""}, "tasks"),
        ("create", {"id": "t", "name": "  "}, "tasks"),
        ("create", {"id": "t", "name": "n" * 201}, "projects"),
        ("create", {"id": "t", "name": 5}, "tasks"),
        ("update", {"id": "t", "name": None}, "tasks"),
        ("create", {"id": "t", "name": "milk"}, "users"),
        ("delete", {"id": "t"}, "users"),
        ("create", {"id": "t", "name": "milk", "owner": "ben"}, "tasks"),
        ("create", '{"id": "t", "name": "milk", "n": ' + "1" * 5_000 + "}", "tasks"),
    ],
)
def test_what_a_rule_refuses_is_forbidden_and_nothing_of_the_request_is_written(
    server: Server, kind: str, row: dict[str, Any] | str, model: str
) -> None:
    response = server.sync(
        diff("d1", "create", {"id": "fine", "name": "bread"}), diff("d2", kind, row, model=model)
    )
    assert response.status_code == 403
    body = refusal(response)
    assert body["index"] == 1
    assert body["id"] == "d2"
    assert body["reason"] == f"validate_{kind} refused it"
    assert server.rows() == server.rows(model) == server.rows("diffs") == []


def test_a_name_of_the_longest_length_is_allowed_and_an_update_needs_none(server: Server) -> None:
    response = server.sync(
        diff("d1", "create", {"id": "t", "name": "n" * 200}),
        diff("d2", "update", {"id": "t", "done": True}),
    )
    assert response.status_code == 200


@pytest.mark.parametrize("kind", ["create", "update", "delete"])
def test_nobody_touches_the_row_of_another_owner(server: Server, kind: str) -> None:
    server.sync(diff("d1", "create", {"id": "t", "name": "milk"}))
    response = server.sync(diff("d2", kind, {"id": "t", "name": "mine now"}), token=BEN)
    assert response.status_code == 403
    assert refusal(response)["id"] == "d2"
    assert server.rows() == [{"id": "t", "name": "milk", "owner": "anna"}]


def test_nobody_gives_a_row_away(server: Server) -> None:
    server.sync(diff("d1", "create", {"id": "t", "name": "milk"}))
    response = server.sync(diff("d2", "update", {"id": "t", "owner": "ben"}), clock=1)
    assert response.status_code == 403


# ---- 409 and 503 --------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", [-1, 2**53, 0.5, True, None, "one", "-1", [0]])
def test_a_clock_that_is_no_clock_is_a_bad_request(server: Server, clock: object) -> None:
    response = server.sync(clock=clock)
    assert response.status_code == 400
    assert "logical_clock" in response.json()["message"]


def test_a_clock_ahead_of_the_server_is_a_conflict(server: Server) -> None:
    response = server.sync(clock=1)
    assert response.status_code == 409
    assert "ahead" in response.json()["message"]


def test_a_device_that_is_ahead_is_told_to_pull_anew(server: Server) -> None:
    server.sync(diff("d1", "create", {"id": "t", "name": "milk"}))
    assert server.sync(clock=1).status_code == 200
    assert "pull from 0 without diffs" in refusal(server.sync(clock=2))["message"]


def test_a_sync_that_waits_too_long_is_told_to_come_again_and_then_succeeds() -> None:
    asked, answer = threading.Event(), threading.Event()

    class SlowStore(example.TaskStore):  # type: ignore[name-defined, misc]
        def validate_create(self, owner_id: str, **sent: Any) -> bool:
            asked.set()
            assert answer.wait(TIMEOUT_S)
            return bool(super().validate_create(owner_id, **sent))

    store = SlowStore()
    statuses: list[int] = []
    with served(example.create_app(Mobync(store, lock_timeout_s=0.01))) as url:
        server = Server(url, store)
        slow = threading.Thread(
            target=lambda: statuses.append(
                server.sync(diff("d1", "create", {"id": "t", "name": "milk"})).status_code
            )
        )
        slow.start()
        try:
            assert asked.wait(TIMEOUT_S)
            busy = server.sync()
            other_owner = server.sync(token=BEN)
        finally:
            answer.set()
            slow.join()
        assert busy.status_code == 503
        assert int(busy.headers["Retry-After"]) > 0
        refusal(busy)
        assert other_owner.status_code == 200
        assert statuses == [200]
        assert server.sync().json()["logical_clock"] == 1


# ---- what is not a sync at all ------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/xml", ""]
)
def test_another_content_type_is_refused(server: Server, content_type: str) -> None:
    body = json.dumps({"auth_token": ANNA, "logical_clock": 0, "diffs": []})
    response = server.post_text(body.encode(), **{"Content-Type": content_type})
    assert response.status_code == 415
    assert "application/json" in refusal(response)["message"]


def test_another_method_or_path_is_refused_in_json_too(server: Server) -> None:
    response = requests.get(server.url, timeout=TIMEOUT_S)
    assert response.status_code == 405
    assert "POST" in response.headers["Allow"]
    refusal(response)
    response = requests.post(server.url + "/more", json={}, timeout=TIMEOUT_S)
    assert response.status_code == 404
    refusal(response)


def test_a_body_that_is_too_large_is_refused() -> None:
    # Flask's own client: over a socket, the server may hang up before the body is through.
    app = example.create_app()
    body = b" " * (example.MAX_REQUEST_SIZE + 1)
    response = app.test_client().post("/sync", data=body, content_type="application/json")
    assert response.status_code == 413
    assert response.get_json()["success"] is False


def test_a_failing_store_is_our_fault_and_its_words_stay_here() -> None:
    class BrokenStore(example.TaskStore):  # type: ignore[name-defined, misc]
        def create(self, where: str, data_json: str) -> None:
            raise OSError("disk /dev/secret is full")

    store = BrokenStore()
    with served(example.create_app(Mobync(store))) as url:
        response = Server(url, store).sync(diff("d1", "create", {"id": "t", "name": "milk"}))
    assert response.status_code == 500
    assert "secret" not in refusal(response)["message"]


# ---- the process that `make run` starts ---------------------------------------------------------


def test_the_process_writes_one_log_line_a_sync(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with started(APP, log) as url:
        server = Server(url, store=None)
        server.sync(
            diff("d1", "create", {"id": "t", "name": "milk"}),
            diff("d2", "update", {"id": "t", "name": "oat milk"}),
        )
        server.sync()
        server.sync(clock=9)
        lines = log.read_text().splitlines()
    assert [line.partition(" sync ")[2] for line in lines[:2]] == [
        "owner=anna pushed=2 accepted=1 sent=0 clock=1",
        "owner=anna pushed=0 accepted=0 sent=1 clock=1",
    ]
    assert "refused logical_clock 9" in lines[2]
    assert len(lines) == 3


def test_the_process_listens_where_port_says(tmp_path: Path) -> None:
    port = free_port()
    with started(APP, tmp_path / "log", PORT=str(port)) as url:
        assert url == f"http://127.0.0.1:{port}/sync"
        assert Server(url, store=None).sync().status_code == 200


@pytest.mark.parametrize("port", ["", "http", "-1", "65536", "\u0661"])
def test_a_port_that_is_none_is_named(port: str) -> None:
    ended = subprocess.run(
        [sys.executable, str(APP)],
        env={**os.environ, "PORT": port},
        check=False,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("PORT must be a number from 0 to 65535")
