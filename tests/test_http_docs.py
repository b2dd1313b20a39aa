"""The examples of docs/http.md run, and answer."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import http_servers
import pytest
import requests
import schemathesis

import mobync

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "http.md"
OPENAPI = DOCUMENT.with_name("openapi.yaml")
TIMEOUT_S = 60
PULL = b'{"logical_clock": 0, "diffs": []}'
HEADERS = {"Content-Type": "application/json", "Authorization": "Bearer anna-demo-token"}


def example(title: str) -> str:
    """The Python of the section of this title."""
    section = DOCUMENT.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]
    return "\n".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL))


def run(title: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example(title), f"{DOCUMENT.name}: {title}", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def sync_module() -> Iterator[ModuleType]:
    """The first example, which the others import."""
    module = ModuleType("sync")
    module.__dict__.update(run("The endpoint"))
    sys.modules["sync"] = module
    yield module
    del sys.modules["sync"]
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


def test_the_example_of_another_framework_answers() -> None:
    sync_view = run("Another framework")["sync_view"]

    assert sync_view(HEADERS, BytesIO(PULL).read)[0] == 200
    assert sync_view({}, BytesIO(PULL).read)[0] == 415


def test_the_table_has_every_code() -> None:
    package = Path(mobync.__file__).parent
    source = (package / "http.py").read_text()
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
