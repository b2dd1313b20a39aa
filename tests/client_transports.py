"""What stands between mobync.client and a server in tests: the way to one, and what breaks it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mobync.client import Answer, Events, OfflineError, Transport
from mobync.http import Endpoint, Response


class Direct:
    """To an endpoint in this process, without a socket.

    Attributes:
        sent: the bodies that were posted, apart from the token.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.sent: list[dict[str, Any]] = []

    def post(self, body: bytes, token: str | None) -> Answer:
        self.sent.append(json.loads(body))
        headers = {"Content-Type": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return _answer(self.endpoint.sync(headers, body))

    def events(self, token: str | None, last_event_id: str, device: str) -> Events:
        return NoEvents()


class NoEvents:
    answer = Answer(404, b'{"code": "no_events"}')

    def lines(self) -> Iterator[str]:
        return iter(())

    def close(self) -> None:
        pass


def _answer(response: Response) -> Answer:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Answer(response.status, response.body, headers)


@dataclass
class Meddling:
    """A way with something in the middle.

    Attributes:
        before: called with each body before it is sent; may raise, or answer in the server's place.
        after: called with each answer before it arrives; may raise, or give another.
    """

    way: Transport
    before: Callable[[dict[str, Any]], Answer | None] = lambda body: None
    after: Callable[[Answer], Answer] = lambda answer: answer

    def post(self, body: bytes, token: str | None) -> Answer:
        answer = self.before(json.loads(body))
        return answer or self.after(self.way.post(body, token))

    def events(self, token: str | None, last_event_id: str, device: str) -> Events:
        return self.way.events(token, last_event_id, device)


@dataclass
class Scripted:
    """Answers what it is told to, one after the other.

    Attributes:
        answers: an exception is raised.
        bodies, tokens: of what was posted.
    """

    answers: list[Answer | Exception]
    bodies: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)

    def post(self, body: bytes, token: str | None) -> Answer:
        self.bodies.append(json.loads(body))
        self.tokens.append(token)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def events(self, token: str | None, last_event_id: str, device: str) -> Events:
        return NoEvents()


def answer(status: int, headers: dict[str, str] | None = None, **body: Any) -> Answer:
    return Answer(status, json.dumps(body).encode(), headers or {})


def reply(logical_clock: int, *diffs: dict[str, Any], **more: Any) -> Answer:
    found = {"success": True, "message": "", "logical_clock": logical_clock, "diffs": diffs}
    return answer(200, **found, **more)


def lost(*_: Any) -> Any:
    raise OfflineError("it is lost")
