"""A device of `tasks` for tests that tell short stories: mobync.client, with what they look at."""

from __future__ import annotations

import json
from typing import Any, Literal, Protocol

from client_transports import NoEvents

from mobync.client import Answer, Device, Events, HttpTransport
from mobync.client._replica import as_diff

MODEL = "tasks"


class Link(Protocol):
    """The way to a server."""

    def post(self, body: dict[str, Any]) -> dict[str, Any]:
        """Send a request; gives the reply."""


class HttpLink:
    """To a server that answers at a URL."""

    def __init__(self, url: str, token: str) -> None:
        self._transport = HttpTransport(url)
        self._token = token

    def post(self, body: dict[str, Any]) -> dict[str, Any]:
        answer = self._transport.post(json.dumps(body).encode(), self._token)
        assert answer.status == 200, answer
        return answer.json()


class _Transport:
    def __init__(self, link: Link) -> None:
        self.link = link
        self.received: list[dict[str, Any]] = []

    def post(self, body: bytes, token: str | None) -> Answer:
        reply = self.link.post(json.loads(body))
        self.received += reply["diffs"]
        return Answer(200, json.dumps(reply).encode())

    def events(self, token: str | None, last_event_id: str, device: str) -> Events:
        return NoEvents()


class SmallDevice:
    """A device in memory.

    Attributes:
        name: for values that say whose they are.
        link: its way to the server.
        device: what it is.
    """

    def __init__(self, link: Link, name: str = "phone") -> None:
        self.name = name
        self.link = link
        self.now_ms = 0
        self._transport = _Transport(link)
        self.device = Device(":memory:", self._transport, now_ms=lambda: self.now_ms)

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["id"]: row for row in self.device.rows(MODEL)}

    @property
    def logical_clock(self) -> int:
        return self.device.logical_clock

    def edit(
        self, kind: Literal["create", "update", "delete"], row: dict[str, Any], now_ms: int
    ) -> None:
        self.now_ms = now_ms
        self.device._edit(kind, MODEL, row)

    def outbox(self) -> list[dict[str, Any]]:
        """The diffs that it would send."""
        edits = self.device._replica.outbox.edits()
        return [dict(as_diff(edit, self.logical_clock)) for edit in edits]

    def sync(self) -> list[dict[str, Any]]:
        """Sync; gives the diffs that came."""
        self._transport.received.clear()
        self.device.sync()
        return list(self._transport.received)
