"""docs/openapi.yaml is true: schemathesis makes requests from it and checks what comes back.

Right requests, nearly right ones and such as go against the document: each must get an answer that
the document names, in the form that it gives, and never a 500.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import http_servers
import pytest
import schemathesis
from http_app import make_endpoint
from hypothesis import HealthCheck, settings
from schemathesis.checks import positive_data_acceptance

from mobync.asgi import SyncApp
from mobync.live import InProcessLive

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


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    app = SyncApp(make_endpoint(ShortLive(heartbeat_s=0.01)))
    with http_servers.on_uvicorn(app) as (host, port):
        yield f"http://{host}:{port}"


@schema.parametrize()
@settings(
    max_examples=MAX_EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_one_that_the_document_names(url: str, case: schemathesis.Case) -> None:
    case.call_and_validate(
        base_url=url,
        headers={"Authorization": "Bearer token-of-x"},
        # No schema can say which JSON the text in json_data must be.
        excluded_checks=[positive_data_acceptance],
    )
