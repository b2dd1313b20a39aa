"""docs/openapi.yaml is true: schemathesis makes requests from it and checks what comes back.

Right requests, nearly right ones and such as go against the document: each must get an answer that
the document names, in the form that it gives, and never a 500.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import http_servers
import pytest
import schemathesis
from http_app import make_endpoint
from hypothesis import HealthCheck, settings
from schemathesis.checks import negative_data_rejection, positive_data_acceptance
from server_process import diff

from mobync.asgi import SyncApp
from mobync.http.fastapi import MobyncReply
from mobync.live import InProcessLive
from mobync.server.app import create_app
from mobync.server.database import database_url, make_tables, open_database
from mobync.server.settings import Settings
from mobync.server.tokens import load_tokens
from mobync.sqlalchemy import DocumentSynchronizer
from mobync.types import PlainReply, Reply

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "openapi.yaml"
MAX_EXAMPLES = 50

schema = schemathesis.openapi.from_path(DOCUMENT)


class ShortLive(InProcessLive):
    """Ends a stream after the first that it says."""

    async def events(self, *arguments: Any, **options: Any) -> AsyncGenerator[bytes, None]:
        async for piece in super().events(*arguments, **options):
            yield piece
            if not piece.startswith(b"retry"):
                return


class Served(NamedTuple):
    """An app that is served, a token that it takes, and whether it skips what it refuses."""

    url: str
    token: str
    skips: bool = True


def test_each_description_of_a_reply_has_the_members_that_a_reply_can_have() -> None:
    described = schema.raw_schema["components"]["schemas"]["Reply"]["properties"]
    assert described.keys() == Reply.__annotations__.keys() | PlainReply.__annotations__.keys()
    assert described.keys() == MobyncReply.model_fields.keys()


@contextmanager
def served_by_the_command(directory: Path) -> Iterator[Served]:
    """What `mobync serve` runs, on a SQLite file."""
    database = directory / "x.db"
    with open_database(database_url(f"sqlite:///{database}")) as engine:
        make_tables(DocumentSynchronizer(engine), engine)
    settings_ = Settings(f"sqlite:///{database}", str(directory / "secret"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mobync.server.app.live_of", lambda _: ShortLive(heartbeat_s=0.01))
        app = create_app(settings_)
    token = load_tokens(directory / "secret").for_owner("x", 3600)
    with http_servers.on_uvicorn(app) as (host, port):
        yield Served(f"http://{host}:{port}", token)


@pytest.fixture(scope="module", params=["raise", "skip", "mobync serve"])
def served(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Served]:
    if request.param == "mobync serve":
        with served_by_the_command(tmp_path_factory.mktemp("serve")) as served:
            yield served
        return
    app = SyncApp(make_endpoint(ShortLive(heartbeat_s=0.01), on_refusal=request.param))
    with http_servers.on_uvicorn(app) as (host, port):
        yield Served(f"http://{host}:{port}", "token-of-x", request.param == "skip")


@schema.parametrize()
@settings(
    max_examples=MAX_EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_one_that_the_document_names(
    served: Served, case: schemathesis.Case
) -> None:
    case.call_and_validate(
        base_url=served.url,
        headers={"Authorization": f"Bearer {served.token}"},
        # No schema can say which JSON the text in json_data must be.  A server that skips what it
        # refuses answers 200 to a diff that the schema does not allow.
        excluded_checks=[positive_data_acceptance, *([negative_data_rejection] * served.skips)],
    )


@pytest.mark.parametrize("served", ["skip"], indirect=True)
def test_every_reason_for_a_refused_diff_is_one_that_the_document_names(served: Served) -> None:
    models = ("secrets", "secrets", "nonsense", "tasks")
    kinds = ("create", "update", "create", "create")
    diffs = [
        {**diff(number, kind, model, id="a"), "id": uuid.uuid4().hex}
        for number, (kind, model) in enumerate(zip(kinds, models, strict=True))
    ]
    operation = schema["/sync"]["POST"]
    case = operation.Case(body={"logical_clock": 0, "diffs": diffs}, media_type="application/json")
    answer = case.call(base_url=served.url, headers={"Authorization": f"Bearer {served.token}"})
    case.validate_response(answer)
    said = [refused["code"] for refused in answer.json()["refused"]]
    assert said == ["unauthorized", "depends_on_refused", "invalid"]
    reply = schema.raw_schema["components"]["schemas"]["Reply"]
    assert set(said) == set(reply["properties"]["refused"]["items"]["properties"]["code"]["enum"])
