"""examples/relational with two more routes to compare its /sync with; gunicorn serves it.

/empty    answers at once what an empty sync answers
/read     does all that /sync does but the sync, and answers the same
"""

from __future__ import annotations

import sys
from pathlib import Path

from flask import Flask, Response, request

from mobync import Mobync
from mobync.http import Endpoint
from mobync.memory import MemorySynchronizer

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path += [str(EXAMPLES), str(EXAMPLES / "relational")]

import app as relational  # noqa: E402

EMPTY = b'{"success":true,"message":"","logical_clock":0,"diffs":[]}'


class Reading(Mobync):
    """Answers a sync without doing it."""

    def apply_json(self, body: bytes | str, owner_id: str) -> bytes:
        return EMPTY


def create_app() -> Flask:
    served = relational.create_app()
    tokens = relational.Settings.of_environment().tokens()
    reading = Endpoint(Reading(MemorySynchronizer()), tokens.owner_of)

    @served.post("/empty")
    def empty() -> Response:
        return Response(EMPTY, content_type="application/json")

    @served.post("/read")
    def read() -> Response:
        answer = reading.refuse(request.headers)
        answer = answer or reading.sync(request.headers, request.get_data())
        return Response(answer.body, answer.status, answer.headers)

    return served


def token_of(owner: str) -> str:
    """A token for an owner's devices."""
    return str(relational.Settings.of_environment().tokens().issue(owner))
