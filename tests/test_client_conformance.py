"""tests/client_conformance.jsonl, as a client in any language runs it: here it is mobync.client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import client_stories
import pytest
from client_transports import NoEvents

from mobync.client import Answer, Device, Events, OfflineError, ServerError, TokenError
from mobync.client._server import Server

CASES = [json.loads(line) for line in client_stories.FILE.read_text(encoding="utf-8").splitlines()]


class Player:
    """Plays a case to a device: what it sends must be what the case says."""

    def __init__(self, path: Path, page_size: int) -> None:
        self.path = path
        self.page_size = page_size
        self.next_edit: dict[str, Any] = {}
        self.exchanges: Iterator[dict[str, Any]] = iter(())
        self.new_ids: Iterator[str] = iter(())
        self.names: dict[str, str] = {}
        self.device = self.open()

    def open(self) -> Device:
        device = Device(
            self.path,
            self,
            "token",
            page_size=self.page_size,
            patience_s=0,
            now_ms=lambda: int(self.next_edit["utc_timestamp"]),
        )
        device._new_diff_id = lambda: next(self.new_ids)  # type: ignore[method-assign]
        return device

    def play(self, steps: list[dict[str, Any]]) -> None:
        for step in steps:
            if "edit" in step:
                self.edit(step["edit"])
            elif "sync" in step:
                self.exchanges = iter(step["sync"])
                assert self.sync() == step["ends"]
                assert next(self.exchanges, None) is None, "a request is missing"
            elif "restart" in step:
                self.device.close()
                self.device = self.open()
            else:
                assert self.found() == step["expect"]

    def edit(self, edit: dict[str, Any]) -> None:
        self.next_edit, model, row = edit, edit["model"], edit["row"]
        self.new_ids = iter([edit["id"]])
        if edit["type"] == "create":
            self.device.create(model, row)
        elif edit["type"] == "update":
            self.device.update(model, row["id"], {k: v for k, v in row.items() if k != "id"})
        else:
            self.device.delete(model, row["id"])

    def sync(self) -> str:
        try:
            self.device.sync()
        except OfflineError:
            return "offline"
        except (ServerError, TokenError):
            return "error"
        return "done"

    def found(self) -> dict[str, Any]:
        return {
            "logical_clock": self.device.logical_clock,
            "rows": self.device.rows("tasks"),
            "outbox": [edit.id for edit in self.device._replica.outbox.edits()],
            "refused": [edit.id for edit in self.device.refused()],
        }

    def post(self, body: bytes, token: str | None) -> Answer:
        exchange = next(self.exchanges)
        request = json.loads(body)
        request["device"] = self.names.setdefault(request["device"], f"n{len(self.names) + 1}")
        assert comparable(request) == comparable(exchange["request"])
        for edit in exchange.get("during", []):
            self.edit(edit)
        self.new_ids = iter(exchange.get("renamed", []))
        answer = exchange["answer"]
        if answer is None:
            raise OfflineError("no answer")
        return Answer(answer["status"], json.dumps(answer["body"]).encode())

    def events(self, token: str | None, last_event_id: str, device: str) -> Events:
        return NoEvents()


def comparable(request: dict[str, Any]) -> dict[str, Any]:
    """What of a request must be as the case has it."""
    diffs = [
        {
            **{name: diff[name] for name in ("id", "utc_timestamp", "type", "model")},
            "row": json.loads(diff["json_data"]),
        }
        for diff in request["diffs"]
    ]
    return {
        "logical_clock": request["logical_clock"],
        "device": request["device"],
        "request": request["request"],
        "mark": request.get("mark"),
        "cursor": request.get("cursor"),
        "diffs": diffs,
    }


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Server, "wait", staticmethod(lambda seconds: None))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_client_does_what_the_case_says(case: dict[str, Any], tmp_path: Path) -> None:
    player = Player(tmp_path / "device.db", case["page_size"])
    try:
        player.play(case["steps"])
    finally:
        player.device.close()


def test_the_cases_are_what_the_stories_make() -> None:
    recorded = [json.dumps(case) for case in client_stories.record()]
    assert recorded == [json.dumps(case) for case in CASES]


def test_the_cases_reach_what_a_client_must_do() -> None:
    steps = [step for case in CASES for step in case["steps"]]
    exchanges = [exchange for step in steps for exchange in step.get("sync", [])]
    statuses = {e["answer"]["status"] for e in exchanges if e["answer"] is not None}
    assert statuses == {200, 400, 401, 403, 409, 413, 429, 503}
    assert sum("during" in exchange for exchange in exchanges) > 10
    assert sum("cursor" in exchange["request"] for exchange in exchanges) > 10
    assert sum(bool(step.get("restart")) for step in steps) > 10
