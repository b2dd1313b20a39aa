"""Routes of clients beside /sync: the same door, limits, refusals, counts and adapters."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Mapping
from typing import Any, ClassVar

import http_servers
import pytest
import requests
from fastapi import FastAPI
from flask import Flask

from mobync import BusyError, InvalidDiffError, Mobync, UnauthorizedError
from mobync import http as mobync_http
from mobync.clients import Client
from mobync.http import ROUTES, Endpoint
from mobync.http.asgi import SyncApp, router
from mobync.http.flask import MobyncSync
from mobync.memory import MemorySynchronizer

TIMEOUT_S = 60
ECHO = "/sync/echo/say"
HEADERS = {"Content-Type": "application/json", "Authorization": "Bearer anna"}


class Echo(Client):
    """Says what it was asked, by whom and where; ``raises`` in the body names what it raises."""

    name: ClassVar[str] = "echo"
    routes: ClassVar[tuple[str, ...]] = ("say", "shout")

    def answer(
        self, route: str, mobync: Mobync, owner_id: str, body: bytes, device: str | None = None
    ) -> bytes:
        asked = json.loads(body)
        error = {
            "busy": BusyError("later"),
            "invalid": InvalidDiffError("no such thing"),
            "unauthorized": UnauthorizedError("not yours", 3, "x"),
            "bug": ZeroDivisionError("a bug of the app"),
        }.get(asked.get("raises"))
        if error is not None:
            raise error
        pushed = mobync.push(owner_id, [("create", "tasks", {"id": asked["id"]})])
        said = {"route": route, "owner": owner_id, "clock": pushed, "device": device}
        return json.dumps({**said, **asked}).encode()


def owner_of(token: str | None, headers: Mapping[str, str]) -> str | None:
    return token


def new_endpoint(**options: Any) -> Endpoint:
    return Endpoint(Mobync(MemorySynchronizer()), owner_of, clients=[Echo()], **options)


def test_a_client_answers_for_the_owner_of_the_token() -> None:
    answer = new_endpoint().sync(HEADERS, b'{"id": "a"}', ECHO)

    assert answer.status == 200
    said = {"route": "say", "owner": "anna", "clock": 1, "device": None, "id": "a"}
    assert json.loads(answer.body) == said
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Server-Timing"].startswith("apply;dur=")


def test_a_client_may_have_its_token_in_the_body() -> None:
    body = b'{"auth_token": "eve", "id": "a"}'
    answer = new_endpoint().sync({"Content-Type": "application/json"}, body, "/sync/echo/shout")

    said = json.loads(answer.body)
    assert (said["owner"], said["route"]) == ("eve", "shout")


def test_a_client_is_told_what_its_device_calls_itself() -> None:
    answer = new_endpoint().sync(HEADERS, b'{"id": "a"}', ECHO, "phone 1")

    assert json.loads(answer.body)["device"] == "phone 1"
    for wrong in ("", "a\0", "x" * 256):
        assert new_endpoint().sync(HEADERS, b"{}", ECHO, wrong).status == 400


def test_gzip_is_undone_and_made_for_a_client() -> None:
    headers = {**HEADERS, "Content-Encoding": "gzip", "Accept-Encoding": "gzip"}
    asked = gzip.compress(json.dumps({"id": "a", "text": "x" * 5000}).encode())

    answer = new_endpoint().sync(headers, asked, ECHO)

    assert answer.headers["Content-Encoding"] == "gzip"
    assert json.loads(gzip.decompress(answer.body))["text"] == "x" * 5000


@pytest.mark.parametrize(
    ("raises", "status", "code"),
    [("busy", 503, "busy"), ("invalid", 400, "invalid_request"), ("unauthorized", 403, None)],
)
def test_what_a_client_refuses_gets_the_status_that_a_sync_gets(
    raises: str, status: int, code: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "mobync.http"):
        answer = new_endpoint().sync(HEADERS, json.dumps({"raises": raises}).encode(), ECHO)

    assert (answer.status, answer.code) == (status, code or raises)
    assert [record.fields["owner"] for record in caplog.records] == ["anna"]


def test_a_bug_behind_a_client_reaches_the_framework() -> None:
    with pytest.raises(ZeroDivisionError):
        new_endpoint().sync(HEADERS, b'{"raises": "bug"}', ECHO)


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Content-Type": "application/json"}, b"{}", 401),
        ({"Authorization": "Bearer anna"}, b"{}", 415),
        (HEADERS, b" " * 101, 413),
        ({**HEADERS, "Content-Length": "101"}, b"", 413),
    ],
)
def test_a_client_has_the_door_and_the_limits_of_a_sync(
    headers: dict[str, str], body: bytes, status: int
) -> None:
    assert new_endpoint(max_body_bytes=100).sync(headers, body, ECHO).status == status


def test_a_client_that_is_not_served_is_not_found() -> None:
    endpoint = Endpoint(Mobync(MemorySynchronizer()), owner_of, clients=[])

    answer = endpoint.sync(HEADERS, b"{}", ECHO)

    assert (answer.status, answer.code) == (404, "no_client")


@pytest.mark.parametrize(
    ("clients", "error", "message"),
    [
        ([Echo], TypeError, "must be from mobync.clients, not .*Echo.*: make one"),
        (["echo"], TypeError, "must be from mobync.clients, not 'echo'"),
        ([Echo(), Echo()], ValueError, "two of Echo"),
    ],
)
def test_a_mistake_in_the_clients_is_found_at_construction(
    clients: list[Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Endpoint(Mobync(MemorySynchronizer()), owner_of, clients=clients)


@pytest.fixture
def echo_has_a_route(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mobync_http, "ROUTES", (*ROUTES, ECHO))


@pytest.mark.usefixtures("echo_has_a_route")
def test_flask_serves_a_client() -> None:
    app = Flask("x")
    MobyncSync(app, new_endpoint())

    named = f"{ECHO}?device=phone+1"
    answer = app.test_client().post(named, data=b'{"id": "a"}', headers=HEADERS)

    assert (answer.status_code, answer.get_json()["route"]) == (200, "say")
    assert answer.get_json()["device"] == "phone 1"
    assert app.test_client().get(ECHO, headers=HEADERS).status_code == 405


@pytest.mark.usefixtures("echo_has_a_route")
@pytest.mark.parametrize("framework", ["starlette", "fastapi"])
def test_asgi_serves_a_client(framework: str) -> None:
    app: Any = SyncApp(new_endpoint())
    if framework == "fastapi":
        app = FastAPI()
        app.include_router(router(new_endpoint()))
    with http_servers.on_uvicorn(app) as (host, port):
        url = f"http://{host}:{port}{ECHO}"
        named = f"{url}?device=phone%201"
        answer = requests.post(named, b'{"id": "a"}', headers=HEADERS, timeout=TIMEOUT_S)

        assert (answer.status_code, answer.json()["route"]) == (200, "say")
        assert answer.json()["device"] == "phone 1"
        assert requests.get(url, headers=HEADERS, timeout=TIMEOUT_S).status_code == 405
