"""The examples of docs/http.md run, and answer."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import http_servers
import pytest
import requests
import schemathesis
from task_list import diff

import mobync
from mobync import Mobync
from mobync.http import Endpoint
from mobync.memory import MemorySynchronizer

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "http.md"
OPENAPI = DOCUMENT.with_name("openapi.yaml")
TIMEOUT_S = 60
PULL = b'{"logical_clock": 0, "diffs": []}'
HEADERS = {"Content-Type": "application/json", "Authorization": "Bearer anna-demo-token"}


def example(title: str) -> str:
    """The Python of the section of this title."""
    _, section = re.split(rf"\n##+ {title}\n", DOCUMENT.read_text())
    section = re.split(r"\n##+ ", section)[0]
    return "\n".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL))


def run(title: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example(title), f"{DOCUMENT.name}: {title}", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def sync_module() -> Iterator[ModuleType]:
    """The examples that the others import; gives the first."""
    module = ModuleType("sync")
    module.__dict__.update(run("The endpoint"))
    sys.modules["sync"] = module
    sys.modules["cors"] = cors = ModuleType("cors")
    cors.__dict__.update(run("Other origins"))
    yield module
    del sys.modules["sync"], sys.modules["cors"]
    module.live.close()


def test_the_example_of_flask_serves() -> None:
    app = run("Flask")["create_app"]()

    assert app.test_client().post("/sync", data=PULL, headers=HEADERS).status_code == 200


@pytest.mark.parametrize("title", ["ASGI", "FastAPI"])
def test_the_examples_of_asgi_serve(title: str) -> None:
    with http_servers.on_uvicorn(run(title)["app"]) as (host, port):
        answer = requests.post(
            f"http://{host}:{port}/sync", PULL, headers=HEADERS, timeout=TIMEOUT_S
        )

    assert answer.status_code == 200


def test_the_example_of_django_serves() -> None:
    from http_app import django_wsgi_app

    django_wsgi_app()
    from django.test import Client, override_settings

    names = run("Django")
    urls = ModuleType("example_urls")
    urls.__dict__.update(names)
    with override_settings(MOBYNC=names["MOBYNC"], ROOT_URLCONF=urls):
        answer = Client(SERVER_NAME="127.0.0.1").post(
            "/sync", PULL, "application/json", headers=HEADERS
        )

    assert answer.status_code == 200


ORIGIN = "https://app.example"


def check_origins(ask: Callable[..., Any]) -> None:
    """Check what origins may do; ``ask(method, path, headers)`` gives status and headers."""
    wanted = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    status, headers = ask("OPTIONS", "/sync", wanted | {"Origin": ORIGIN})
    assert status in (200, 204)
    assert headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "POST" in headers["Access-Control-Allow-Methods"]
    allowed = headers["Access-Control-Allow-Headers"].lower()
    assert "authorization" in allowed
    assert "content-type" in allowed
    for token, path, expected in (
        ("anna-demo-token", "/sync", 200),
        ("nobody's", "/sync", 401),
        ("anna-demo-token", "/sync/events", 200),
        ("nobody's", "/sync/events", 401),
    ):
        method = "POST" if path == "/sync" else "GET"
        sent = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        status, headers = ask(method, path, sent | {"Origin": ORIGIN})
        assert (status, headers["Access-Control-Allow-Origin"]) == (expected, ORIGIN)
        assert "Retry-After" in headers["Access-Control-Expose-Headers"]
        assert "origin" in headers["Vary"].lower()
        status, headers = ask(method, path, sent | {"Origin": "https://evil.example"})
        assert (status, headers.get("Access-Control-Allow-Origin")) == (expected, None)


def over_sockets(address: tuple[str, int]) -> Callable[..., Any]:
    def ask(method: str, path: str, headers: dict[str, str]) -> Any:
        url = f"http://{address[0]}:{address[1]}{path}"
        body = PULL if method == "POST" else None
        with requests.request(
            method, url, data=body, headers=headers, timeout=TIMEOUT_S, stream=True
        ) as answer:
            return answer.status_code, answer.headers

    return ask


def test_the_example_of_cors_on_flask_lets_an_origin_in_and_no_other() -> None:
    client = run("CORS on Flask")["app"].test_client()

    def ask(method: str, path: str, headers: dict[str, str]) -> Any:
        body = PULL if method == "POST" else None
        answer = client.open(path, method=method, data=body, headers=headers)
        answer.close()
        joined = {name: ", ".join(answer.headers.getlist(name)) for name, _ in answer.headers}
        return answer.status_code, joined

    check_origins(ask)


@pytest.mark.parametrize("title", ["CORS on FastAPI and Starlette", "CORS on plain ASGI"])
def test_the_examples_of_cors_on_asgi_let_an_origin_in_and_no_other(title: str) -> None:
    with http_servers.on_uvicorn(run(title)["app"]) as address:
        check_origins(over_sockets(address))


def test_the_example_of_cors_on_django_lets_an_origin_in_and_no_other() -> None:
    from http_app import django_wsgi_app

    django_wsgi_app()
    from django.test import Client, override_settings

    names = run("CORS on Django")
    settings = {name: value for name, value in names.items() if name.isupper()}
    of_django = ModuleType("example_urls")
    of_django.__dict__.update(run("Django"))

    def ask(method: str, path: str, headers: dict[str, str]) -> Any:
        client = Client(SERVER_NAME="127.0.0.1")
        body = PULL if method == "POST" else b""
        answer = client.generic(method, path, body, "application/json", headers=headers)
        answer.close()
        return answer.status_code, answer.headers

    with override_settings(**settings, MOBYNC=of_django.MOBYNC, ROOT_URLCONF=of_django):
        check_origins(ask)


def test_the_example_of_another_framework_answers() -> None:
    sync_view = run("Another framework")["sync_view"]

    assert sync_view(HEADERS, BytesIO(PULL).read)[0] == 200
    assert sync_view({}, BytesIO(PULL).read)[0] == 415


class Phone:
    """A device as small as can be: rows of one model, and edits that no reply has confirmed."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.outbox: list[dict[str, Any]] = []
        self.clock = 0
        self._endpoint = endpoint

    def transaction(self) -> AbstractContextManager[None]:
        return nullcontext()

    def edit(self, kind: str, made_at: int, **row: Any) -> None:
        self.outbox.append(diff(kind, **row) | {"utc_timestamp": made_at})
        self.apply(self.outbox[-1])

    def apply(self, edit: dict[str, Any]) -> None:
        row = json.loads(edit["json_data"])
        if edit["type"] == "create":
            self.rows[row["id"]] = row
        elif edit["type"] == "update":
            if row["id"] in self.rows:
                self.rows[row["id"]].update(row)
        else:
            self.rows.pop(row["id"], None)

    def send(self, request: dict[str, Any]) -> dict[str, Any]:
        answer = self._endpoint.sync(HEADERS, json.dumps(request).encode())
        reply = json.loads(answer.body)
        if answer.status != 200:
            raise Refused(reply["code"])
        return cast(dict[str, Any], reply)

    def sync(self) -> None:
        reply = self.send({"logical_clock": self.clock, "diffs": self.outbox})
        for edit in reply["diffs"]:
            self.apply(edit)
        self.outbox, self.clock = [], reply["logical_clock"]


class Refused(Exception):
    pass


@pytest.fixture
def server() -> Endpoint:
    return Endpoint(Mobync(MemorySynchronizer()), lambda token, headers: "anna")


def rows_of_a_new_device(server: Endpoint) -> dict[str, dict[str, Any]]:
    device = Phone(server)
    device.sync()
    return device.rows


LATE, EARLY = 1_700_000_060_000, 1_700_000_000_000


def test_a_device_whose_clock_is_ahead_starts_over_and_loses_no_edit(server: Endpoint) -> None:
    start_over = run("Starting over")["start_over"]
    server.mobync.push("anna", [("create", "tasks", {"id": f"old{n}"}) for n in range(3)])
    phone = Phone(server)
    phone.sync()
    backup = Endpoint(Mobync(MemorySynchronizer()), lambda token, headers: "anna")
    other = Phone(backup)
    other.edit("create", EARLY, id="old0", name="milk")
    other.edit("update", LATE, id="old0", name="oat milk")
    other.sync()
    phone._endpoint = backup
    phone.edit("update", EARLY, id="old0", name="soy milk")  # its clock is behind the other's
    phone.edit("create", EARLY, id="new", name="bread")
    phone.edit("update", EARLY, id="old1", name="what nobody has any more")
    with pytest.raises(Refused, match="clock_ahead"):
        phone.sync()

    start_over(phone, phone.send)
    assert phone.rows["old0"]["name"] == "soy milk"  # what it shows meanwhile
    assert len(phone.outbox) == 3
    phone.sync()

    assert phone.rows == rows_of_a_new_device(backup)
    assert {id_: row.get("name") for id_, row in phone.rows.items()} == {
        "old0": "soy milk",
        "new": "bread",
    }


def test_a_device_whose_page_is_refused_starts_over_and_loses_no_edit(server: Endpoint) -> None:
    start_over = run("Starting over")["start_over"]
    rows = [{"id": f"t{n}", "name": "milk"} for n in range(2500)]
    server.mobync.push("anna", [("create", "tasks", row) for row in rows])
    phone = Phone(server)
    phone.edit("create", EARLY, id="sent", name="bread")
    request = {"logical_clock": 0, "diffs": list(phone.outbox)}
    phone.send(request)  # and the reply is lost
    phone.edit("update", EARLY, id="t7", name="butter")
    page = phone.send({**request, "limit": 1000})
    for edit in page["diffs"]:
        phone.apply(edit)
    with pytest.raises(Refused, match="invalid_page"):
        phone.send({"logical_clock": 0, "diffs": phone.outbox, "cursor": page["cursor"]})

    start_over(phone, phone.send)
    assert [json.loads(edit["json_data"])["id"] for edit in phone.outbox] == ["t7"]
    phone.sync()

    assert phone.rows == rows_of_a_new_device(server)
    assert len(phone.rows) == 2501
    assert (phone.rows["t7"]["name"], phone.rows["sent"]["name"]) == ("butter", "bread")


def test_the_table_has_every_code() -> None:
    package = Path(mobync.__file__).parent
    source = (package / "http" / "_endpoint.py").read_text()
    codes = set(re.findall(r'"(\w+)"', " ".join(re.findall(r'\d{3},\s*"\w+"', source))))
    codes |= set(re.findall(r'"(invalid_\w+)"', source))
    codes |= set(re.findall(r'"code": "(\w+)"', (package / "server" / "app.py").read_text()))

    assert codes == set(re.findall(r"^\| \d{3} \| `(\w+)`", DOCUMENT.read_text(), re.MULTILINE))
    assert codes == codes_in(schemathesis.openapi.from_path(OPENAPI).raw_schema)


def codes_in(part: Any) -> set[str]:
    """What an OpenAPI document says that the property ``code`` of a refusal may be."""
    if isinstance(part, list):
        return set().union(*map(codes_in, part))
    if not isinstance(part, dict):
        return set()
    code = part.get("code", {})
    own = {*code.get("enum", ()), *([code["const"]] if "const" in code else ())}
    return own.union(*(codes_in(inner) for name, inner in part.items() if name != "refused"))
