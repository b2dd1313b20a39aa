"""GET /sync/events by real HTTP, on every adapter."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse

import http_servers
import pytest
from http_app import MAX_LISTENERS
from http_cases import BEARER, JSON, TIMEOUT_S, Case, ask, new_owner
from http_servers import Address
from task_list import diff

address_of = http_servers.address_of
address = http_servers.address

HEARTBEAT = ":"


@contextmanager
def asked(address: Address, owner: str, query: str = "", **headers: str) -> Iterator[HTTPResponse]:
    """The response to who asks for events."""
    connection = HTTPConnection(*address, timeout=TIMEOUT_S)
    headers["Authorization"] = f"Bearer token-of-{owner}"
    connection.request("GET", f"/sync/events{query}", headers=headers)
    response = connection.getresponse()
    try:
        yield response
    finally:
        response.close()
        connection.close()


@contextmanager
def listening(
    address: Address, owner: str, query: str = "", **headers: str
) -> Iterator[HTTPResponse]:
    """A stream; waits for those of earlier tests to be noticed to have ended."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        with asked(address, owner, query, **headers) as response:
            if response.status != 503:
                yield response
                return
            time.sleep(0.05)
    pytest.fail("the places of listeners that hung up are not free again")


def next_event(stream: HTTPResponse) -> dict[str, str]:
    """The next message, without comments."""
    event: dict[str, str] = {}
    while True:
        line = stream.readline().decode()
        assert line, "the stream has ended"
        name, _, value = line.strip().partition(": ")
        if line == "\n" and event:
            return event
        if name and name not in (HEARTBEAT, "retry"):
            event[name] = value


def push(address: Address, owner: str, name: str) -> int:
    row = diff("create", id=f"{name} of {owner}") | {"id": f"{name} of {owner}"}
    body = json.dumps({"logical_clock": 0, "diffs": [row]}).encode()
    clock = ask(address, Case("push", 200, body), owner).json["logical_clock"]
    assert isinstance(clock, int)
    return clock


def test_a_device_is_told_the_clock_and_each_time_it_has_moved(address: Address) -> None:
    owner = new_owner()
    push(address, owner, "milk")

    with listening(address, owner) as stream:
        assert stream.status == 200
        assert stream.headers["Content-Type"] == "text/event-stream"
        assert stream.headers["Content-Encoding"] == "identity"
        assert stream.headers["Cache-Control"] == "no-store"
        assert stream.headers["X-Request-ID"]
        assert next_event(stream) == {"id": "1", "event": "clock", "data": "1"}
        push(address, new_owner(), "bread")
        push(address, owner, "bread")
        assert next_event(stream) == {"id": "2", "event": "clock", "data": "2"}


def test_a_device_that_comes_again_is_told_only_what_it_missed(address: Address) -> None:
    owner = new_owner()
    push(address, owner, "milk")

    with listening(address, owner, **{"Last-Event-ID": "0"}) as stream:
        assert next_event(stream)["id"] == "1"
    with listening(address, owner, **{"Last-Event-ID": "1"}) as stream:
        while not stream.readline().startswith(HEARTBEAT.encode()):
            pass
        push(address, owner, "bread")
        assert next_event(stream)["id"] == "2"


def sync_as(address: Address, owner: str, device: str) -> None:
    body = {"logical_clock": 0, "diffs": [], "device": device, "request": 1}
    ask(address, Case("sync", 200, json.dumps(body).encode()), owner)


def test_the_stream_of_a_device_that_is_revoked_ends_and_no_other_begins(address: Address) -> None:
    owner = new_owner()
    for device in ("phone", "tablet"):
        sync_as(address, owner, device)
    with (
        listening(address, owner, "?device=phone") as phone,
        listening(address, owner, "?device=tablet") as tablet,
    ):
        assert next_event(phone)["id"] == next_event(tablet)["id"] == "0"
        sync_as(address, owner, "remote")
        while line := phone.readline():  # to its end
            assert line in (b":\n", b"\n")
        push(address, owner, "milk")
        assert next_event(tablet)["id"] == "1"
        with asked(address, owner, "?device=phone") as refused:
            assert refused.status == 403
            assert json.loads(refused.read())["code"] == "device_revoked"
    with listening(address, new_owner(), "?device=phone") as stream:
        assert next_event(stream)["id"] == "0"


def test_what_is_no_name_of_a_device_is_refused(address: Address) -> None:
    for name in ("", "%00", "x" * 256):
        with asked(address, new_owner(), f"?device={name}") as refused:
            assert refused.status == 400
            assert "1 to 255 characters" in json.loads(refused.read())["message"]


def test_a_damaged_event_id_counts_as_none(address: Address) -> None:
    with listening(address, new_owner(), **{"Last-Event-ID": "9" * 5000}) as stream:
        assert next_event(stream)["id"] == "0"


def test_too_many_listeners_are_told_to_come_later(address: Address) -> None:
    owner = new_owner()
    with listening(address, owner), listening(address, owner):
        with asked(address, owner) as third, asked(address, owner) as one_too_many:
            refused = next(r for r in (third, one_too_many) if r.status == 503)
            assert int(refused.headers["Retry-After"]) > 0
            assert json.loads(refused.read())["code"] == "busy"
        push(address, owner, "milk")  # syncs go on
    for _ in range(2 * MAX_LISTENERS):  # and places that are left are free again
        with listening(address, owner) as stream:
            assert next_event(stream)["id"] == "1"


def test_head_gets_the_headers_and_ends(address: Address) -> None:
    head = Case("", 0, b"", (BEARER, JSON), method="HEAD", path="/sync/events")
    deadline = time.monotonic() + TIMEOUT_S
    while (answer := ask(address, head, "x")).status == 503:  # as listening() waits
        assert time.monotonic() < deadline
        time.sleep(0.05)

    if answer.status != 405:  # Django's answer
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/event-stream"
