"""mobync.http without a server, and what each adapter does besides answering."""

from __future__ import annotations

import asyncio
import gc
import gzip
import importlib
import json
import logging
import os
import threading
import tracemalloc
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import http_app
import http_cases
import http_servers
import pytest
import requests
from django.core.exceptions import ImproperlyConfigured
from fastapi import Depends, FastAPI, HTTPException
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_wtf import CSRFProtect
from hypothesis import example, given, settings
from hypothesis import strategies as st
from live_updates.devices import eventually
from starlette.responses import JSONResponse
from starlette.routing import Mount, Router
from task_list import diff, task_table

from mobync import InvalidDiffError, Mobync
from mobync.http import Endpoint, ExpiredTokenError, Response, Upload, _endpoint, asgi, request_id
from mobync.http.asgi import SyncApp, router
from mobync.http.flask import MobyncSync
from mobync.live import InProcessLive
from mobync.memory import MemorySynchronizer
from mobync.sqlalchemy import SQLAlchemySynchronizer, diffs_table

TIMEOUT_S = 60
JSON = {"Content-Type": "application/json"}
PULL = b'{"logical_clock": 0, "diffs": []}'
MIB = 1024 * 1024


HEADERS = [
    "Accept-Encoding",
    "Authorization",
    "Content-Encoding",
    "Content-Length",
    "Content-Type",
    "Last-Event-ID",
    "X-Request-ID",
]


def anna(token: str | None, headers: Mapping[str, str]) -> str | None:
    return "anna"


def new_endpoint(authenticate: Any = anna, **options: Any) -> Endpoint:
    return Endpoint(Mobync(MemorySynchronizer()), authenticate, **options)


def code_of(response: Response) -> str:
    code = json.loads(response.body)["code"]
    assert response.code == code
    return str(code)


# ---- the endpoint --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "name"),
    [
        ({"mobync": MemorySynchronizer()}, TypeError, "mobync"),
        ({"authenticate": "anna"}, TypeError, "authenticate"),
        ({"max_body_bytes": True}, TypeError, "max_body_bytes"),
        ({"max_body_bytes": 1.0}, TypeError, "max_body_bytes"),
        ({"max_body_bytes": 0}, ValueError, "max_body_bytes"),
        ({"max_unauthenticated_body_bytes": 1.0}, TypeError, "max_unauthenticated_body_bytes"),
        ({"max_unauthenticated_body_bytes": 0}, ValueError, "max_unauthenticated_body_bytes"),
        ({"max_unauthenticated_body_bytes": 33 * MIB}, ValueError, "max_unauthenticated_body_byt"),
        ({"max_bytes_in_flight": True}, TypeError, "max_bytes_in_flight"),
        ({"max_bytes_in_flight": 63 * MIB}, ValueError, "max_bytes_in_flight"),
    ],
)
def test_a_wrong_argument_is_named(
    change: dict[str, Any], error: type[Exception], name: str
) -> None:
    right: dict[str, Any] = {"mobync": Mobync(MemorySynchronizer()), "authenticate": anna}
    with pytest.raises(error, match=name):
        Endpoint(**{**right, **change})


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["gzip", "identity", "x-gzip"]))
@example(gzip.compress(b""), "gzip")
@example(gzip.compress(PULL)[:10], "gzip")
def test_no_body_is_more_than_a_bad_request(body: bytes, coding: str) -> None:
    response = new_endpoint().sync({**JSON, "Content-Encoding": coding}, body)

    assert response.status == 400
    assert code_of(response).startswith("invalid_")


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(HEADERS),
        st.text() | st.from_regex(r"(?i)(application/json|gzip|bearer \S+)[;,q=0-9.]*"),
    )
)
def test_no_header_is_more_than_a_bad_request(headers: dict[str, str]) -> None:
    endpoint = new_endpoint(http_app.owner_of, live=InProcessLive())

    assert endpoint.sync(headers, PULL).status in (200, 400, 401, 413, 415)
    assert getattr(endpoint.blocking_events(headers), "status", 200) in (200, 401)


def test_what_the_headers_make_impossible_is_refused_without_the_body() -> None:
    endpoint = new_endpoint(max_body_bytes=100)

    def refused(**headers: str) -> Response | None:
        return endpoint.refuse({name.replace("_", "-"): value for name, value in headers.items()})

    assert refused(content_type="application/json", content_length="100") is None
    too_long = [
        refused(content_type="application/json", content_length=n) for n in ("101", "9" * 5000)
    ]
    assert [response and response.status for response in too_long] == [413, 413]
    text = refused(content_type="text/plain")
    assert text is not None
    assert text.status == 415


@pytest.mark.parametrize(
    "headers",
    [{}, {"Content-Type": "text/plain"}, {**JSON, "Content-Encoding": "br"}],
)
def test_a_sync_is_refused_by_its_headers_also_by_who_did_not_ask_before(
    headers: dict[str, str],
) -> None:
    assert new_endpoint().sync(headers, PULL).status == 415


def test_a_gzip_bomb_does_not_take_memory() -> None:
    endpoint = new_endpoint(max_body_bytes=1_000_000)
    bomb = gzip.compress(bytes(100_000_000))
    tracemalloc.start()
    try:
        response = endpoint.sync({**JSON, "Content-Encoding": "gzip"}, bomb)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert response.status == 413
    assert most < 10_000_000


@pytest.mark.parametrize("where", ["authenticate", "synchronizer"])
def test_an_exception_of_the_app_reaches_the_framework(where: str) -> None:
    class Bug(Exception):
        pass

    class Store(MemorySynchronizer):
        def validate_create(self, owner_id: str, **diff: Any) -> bool:
            raise Bug

    def authenticate(token: str | None, headers: Mapping[str, str]) -> str:
        if where == "authenticate":
            raise Bug
        return "anna"

    body = json.dumps({"logical_clock": 0, "diffs": [diff("create", id="milk")]}).encode()
    with pytest.raises(Bug):
        Endpoint(Mobync(Store()), authenticate).sync(JSON, body)
    assert request_id.get() is None


@pytest.mark.parametrize("wrong", [5, True, b"anna", ["anna"]])
def test_an_owner_who_is_no_text_is_a_bug_of_authenticate_and_named(wrong: object) -> None:
    endpoint = new_endpoint(lambda token, headers: wrong, live=InProcessLive())

    for ask in (lambda: endpoint.sync(JSON, PULL), lambda: endpoint.blocking_events({})):
        with pytest.raises(TypeError, match=rf"^authenticate .* not {type(wrong).__name__}$"):
            ask()


async def later(*_: object) -> str:
    return "anna"


def bound_later(token: str | None, headers: Mapping[str, str]) -> Any:
    return later()


def test_an_authenticate_that_is_async_is_told_at_once_what_to_do() -> None:
    with pytest.raises(TypeError, match=r"^authenticate .* plain function.*async def.* make it a"):
        new_endpoint(later)


def test_an_authenticate_with_other_arguments_is_refused_at_construction() -> None:
    with pytest.raises(
        TypeError, match=r"^authenticate is called with \(token, headers\), but takes"
    ):
        new_endpoint(lambda token: "anna")


def test_an_authenticate_that_answers_a_coroutine_is_told_what_to_do() -> None:
    endpoint = new_endpoint(bound_later, live=InProcessLive())

    for ask in (
        lambda: endpoint.sync(JSON, PULL),
        lambda: endpoint.admit(as_owner("anna")),
        lambda: endpoint.blocking_events({}),
    ):
        with pytest.raises(TypeError, match=r"^authenticate .* plain function.*a coroutine\)"):
            ask()
    gc.collect()  # a coroutine that was not closed warns, which is an error here


def test_a_context_or_a_clock_that_is_a_coroutine_is_told_what_to_do() -> None:
    live = InProcessLive()
    with pytest.raises(TypeError, match=r"^context must be a plain function"):
        new_endpoint(live=live).blocking_events({}, later)  # type: ignore[arg-type]

    class Store(MemorySynchronizer):
        def highest_logical_clock(self, owner_id: str) -> Any:
            return later()

    with pytest.raises(TypeError, match=r"^highest_logical_clock must be a plain function"):
        Endpoint(Mobync(Store()), anna, live=live).blocking_events({})
    gc.collect()
    assert live.listeners == 0


def test_a_token_that_has_expired_is_told_from_one_that_is_wrong(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def authenticate(token: str | None, headers: Mapping[str, str]) -> str | None:
        if token == "old":
            raise ExpiredTokenError
        return None

    endpoint = new_endpoint(authenticate, live=InProcessLive())
    for token, code in (("old", "token_expired"), ("wrong", "unauthenticated")):
        headers = {**JSON, "Authorization": f"Bearer {token}"}
        for response in (endpoint.sync(headers, PULL), endpoint.blocking_events(headers)):
            assert isinstance(response, Response)
            assert (response.status, code_of(response)) == (401, code)
            assert response.headers["WWW-Authenticate"] == "Bearer"
    lines = [record.getMessage().partition("status=")[2] for record in caplog.records]
    assert lines == ["401 the token has expired"] * 2 + ["401 the token is not accepted"] * 2
    fields = [record.fields for record in caplog.records]  # type: ignore[attr-defined]
    assert fields[0] == {"status": 401, "code": "token_expired"}


def test_authenticate_sees_headers_by_names_of_any_case() -> None:
    seen: list[tuple[str | None, list[str | None]]] = []

    def authenticate(token: str | None, headers: Mapping[str, str]) -> str:
        seen.append((token, [headers.get(name) for name in ("X-Key", "x-key", "X-KEY")]))
        return "anna"

    endpoint = new_endpoint(authenticate)
    endpoint.sync({**JSON, "x-kEy": "7"}, b'{"auth_token": "t", "logical_clock": 0, "diffs": []}')

    assert seen == [("t", ["7", "7", "7"])]


def test_a_wrong_token_of_the_header_is_refused_before_the_body_is_inflated() -> None:
    response = new_endpoint(http_app.owner_of).sync(
        {**JSON, "Authorization": "Bearer wrong", "Content-Encoding": "gzip"}, b"no gzip"
    )

    assert response.status == 401


def test_the_app_and_its_log_know_the_request_by_its_id(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str | None] = []

    class Store(MemorySynchronizer):
        def validate_create(self, owner_id: str, **diff: Any) -> bool:
            seen.append(request_id.get())
            return False

    def authenticate(token: str | None, headers: Mapping[str, str]) -> str:
        seen.append(request_id.get())
        return "anna"

    body = json.dumps({"logical_clock": 0, "diffs": [diff("create", id="milk")]}).encode()
    with caplog.at_level(logging.WARNING, "mobync.http"):
        response = Endpoint(Mobync(Store()), authenticate).sync(
            {**JSON, "X-Request-ID": "r-7"}, body
        )

    assert response.headers["X-Request-ID"] == "r-7"
    assert seen == ["r-7", "r-7"]
    assert request_id.get() is None
    assert "refused request=r-7 status=403 unauthorized diff 0" in caplog.text


def test_what_is_logged_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    class Store(MemorySynchronizer):
        def create(self, where: str, data_json: str) -> None:
            raise InvalidDiffError("two\nlines")

    body = json.dumps({"logical_clock": 0, "diffs": [diff("create", id="milk")]}).encode()
    with caplog.at_level(logging.WARNING, "mobync.http"):
        response = Endpoint(Mobync(Store()), anna).sync(JSON, body)

    assert json.loads(response.body)["reason"] == "two\nlines"
    assert [record.getMessage().count("\n") for record in caplog.records] == [0]


def test_a_reply_in_gzip_is_what_it_would_be_without() -> None:
    endpoint = new_endpoint()
    rows = [diff("create", id=f"t{n}", name="milk") for n in range(100)]
    endpoint.mobync.apply(0, rows, "anna")

    plain = endpoint.sync(JSON, PULL)
    zipped = endpoint.sync({**JSON, "accept-encoding": "GZIP"}, PULL)

    assert "Content-Encoding" not in plain.headers
    assert zipped.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(zipped.body) == plain.body
    assert len(zipped.body) * 3 < len(plain.body)


@pytest.mark.parametrize(
    ("adapter", "name"), [("asgi", "SyncApp"), ("django", "urlpatterns"), ("flask", "MobyncSync")]
)
def test_an_adapter_is_also_what_its_first_name_says(adapter: str, name: str) -> None:
    http_app.django_wsgi_app()
    first = importlib.import_module(f"mobync.{adapter}")
    found = importlib.import_module(f"mobync.http.{adapter}")

    shared = [public for public in first.__all__ if hasattr(found, public)]
    assert name in shared
    assert all(getattr(first, public) is getattr(found, public) for public in shared)


def test_urls_of_django_may_include_the_first_name() -> None:
    http_app.django_wsgi_app()
    from django.test import Client, override_settings

    with override_settings(ROOT_URLCONF="mobync.django"):
        answer = Client(SERVER_NAME="127.0.0.1").post(
            "/sync", PULL, "application/json", headers=as_owner("anna")
        )

    assert answer.status_code == 200


# ---- bodies in flight ----------------------------------------------------------------------------


class Unread(BytesIO):
    """A body that nobody must read."""

    def read(self, size: int | None = -1) -> bytes:
        raise AssertionError("the body was read")


def admitted(endpoint: Endpoint, **headers: str) -> Upload:
    upload = endpoint.admit({**JSON, **headers})
    assert isinstance(upload, Upload)
    return upload


def test_a_wrong_token_of_the_header_is_refused_before_the_body_is_read() -> None:
    response = new_endpoint(http_app.owner_of).receive(
        {**JSON, "Authorization": "Bearer wrong"}, Unread().read
    )

    assert (response.status, code_of(response)) == (401, "unauthenticated")


def test_authenticate_is_asked_once() -> None:
    asked: list[str | None] = []

    def authenticate(token: str | None, headers: Mapping[str, str]) -> str:
        asked.append(token)
        return "anna"

    endpoint = new_endpoint(authenticate)
    assert endpoint.receive(as_owner("anna"), BytesIO(PULL).read).status == 200
    assert endpoint.receive(JSON, BytesIO(PULL).read).status == 200

    assert asked == ["token-of-anna", None]


def test_a_body_with_its_token_inside_may_have_a_mebibyte_and_another_32() -> None:
    endpoint = new_endpoint(http_app.owner_of)

    def status(headers: dict[str, str], size: int) -> int:
        body = http_cases.TOKEN_INSIDE
        return endpoint.receive(headers, BytesIO(body + b" " * (size - len(body))).read).status

    gzipped = gzip.compress(http_cases.TOKEN_INSIDE + b" " * MIB)
    assert [status(JSON, size) for size in (MIB, MIB + 1)] == [200, 413]
    assert endpoint.sync({**JSON, "Content-Encoding": "gzip"}, gzipped).status == 413
    assert [status(as_owner("anna"), size) for size in (32 * MIB, 32 * MIB + 1)] == [200, 413]


def test_a_process_holds_so_many_bytes_of_bodies_and_an_owner_a_quarter_of_them() -> None:
    endpoint = new_endpoint(http_app.owner_of, max_body_bytes=MIB, max_bytes_in_flight=8 * MIB)
    senders = [as_owner("anna"), as_owner("ben"), as_owner("eve"), JSON, as_owner("dan")]
    taken: list[int] = []
    refused: list[Response] = []
    tracemalloc.start()
    try:
        with ExitStack() as pausing:
            for headers in senders:
                for _ in range(5):
                    upload = pausing.enter_context(admitted(endpoint, **headers))
                    answer = upload.add(bytes(MIB))
                    refused += [answer] if answer is not None else []
                taken.append(len(_endpoint._in_flight) // MIB)
            _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert taken == [2, 4, 6, 8, 8]  # a quarter each, those without a token in a header together
    assert {(response.status, code_of(response)) for response in refused} == {(503, "busy")}
    assert all(int(response.headers["Retry-After"]) > 0 for response in refused)
    assert most < 10 * MIB
    assert len(_endpoint._in_flight) == 0
    assert endpoint.sync(as_owner("anna"), PULL).status == 200


def part_of(number: int, size: int, *, more: bool = True) -> bytes:
    """A part of a request, with one edit of about so many bytes."""
    edit = diff("create", id=f"t{number}", name="x" * size)
    said = {"device": "phone", "request": 1, "part": number, "more_diffs": more, "upload": "u"}
    return json.dumps({"logical_clock": 0, "diffs": [edit], **said}).encode()


def test_who_sends_an_empty_body_leaves_nothing_behind() -> None:
    endpoint = new_endpoint(http_app.owner_of)
    with admitted(endpoint, **as_owner("anna")) as upload:
        assert upload.add(b"") is None
        assert upload.answer().status == 400
    assert upload._holder not in _endpoint._in_flight._of


def test_a_request_that_is_put_together_from_parts_is_in_flight() -> None:
    mobync = Mobync(MemorySynchronizer())
    seen: list[int] = []
    mobync.listen(lambda report: seen.append(len(_endpoint._in_flight)))
    endpoint = Endpoint(mobync, anna)
    bodies = [part_of(1, MIB), part_of(2, MIB), part_of(3, 10, more=False)]
    assert {endpoint.sync(as_owner("anna"), body).status for body in bodies} == {200}
    edits = sum(len(json.dumps(json.loads(body)["diffs"])) for body in bodies)
    assert seen == [edits + len(bodies[-1])]
    assert len(_endpoint._in_flight) == 0


def test_what_a_given_up_request_holds_is_given_back_when_its_thread_ends() -> None:
    """A server that cancels the task of a client that went away cannot end its thread."""
    reached, may_go_on = threading.Event(), threading.Event()

    class Slow(MemorySynchronizer):
        def read_parts(self, owner_id: str, device: str) -> Any:
            reached.set()
            assert may_go_on.wait(60)
            return super().read_parts(owner_id, device)

    endpoint = Endpoint(Mobync(Slow()), anna)
    assert endpoint.sync(as_owner("anna"), part_of(1, MIB)).status == 200

    async def give_up() -> None:
        body = part_of(2, 10, more=False)
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> Any:
            return next(messages)

        async def send(message: Any) -> None:
            raise AssertionError(message)

        sent = as_owner("anna").items()
        headers = [(name.lower().encode(), text.encode()) for name, text in sent]
        scope = {"type": "http", "method": "POST", "path": "/sync", "headers": headers}
        scope |= {"query_string": b"", "http_version": "1.1", "asgi": {"version": "3.0"}}
        task = asyncio.create_task(SyncApp(endpoint)(scope, receive, send))
        assert await asyncio.to_thread(reached.wait, 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(_endpoint._in_flight) > MIB  # the thread has it
        may_go_on.set()

    asyncio.run(give_up())
    eventually(lambda: len(_endpoint._in_flight) == 0)


def test_what_is_too_long_to_be_put_together_here_is_sent_in_smaller_requests() -> None:
    endpoint = new_endpoint(max_body_bytes=MIB, max_bytes_in_flight=3 * MIB)
    parts = [part_of(1, MIB // 2), part_of(2, MIB // 2)]
    assert {endpoint.sync(as_owner("anna"), body).status for body in parts} == {200}
    answer = endpoint.sync(as_owner("anna"), part_of(3, 10, more=False))
    assert (answer.status, code_of(answer)) == (413, "request_too_large")
    assert "max_bytes_in_flight" in json.loads(answer.body)["message"]
    assert len(_endpoint._in_flight) == 0
    device_sends_less = part_of(1, MIB // 2).replace(b'"u"', b'"v"')
    assert endpoint.sync(as_owner("anna"), device_sends_less).status == 200
    last = part_of(2, 10, more=False).replace(b'"u"', b'"v"')
    assert endpoint.sync(as_owner("anna"), last).status == 200


def test_requests_in_parts_wait_for_one_another_and_leave_room_for_bodies() -> None:
    endpoint = new_endpoint(max_body_bytes=MIB, max_bytes_in_flight=4 * MIB)
    assert endpoint.sync(as_owner("anna"), part_of(1, MIB // 2)).status == 200
    last = part_of(2, 10, more=False)
    bounds = {"most": 4 * MIB, "most_of_holder": 2 * MIB}
    other = MIB * 7 // 4  # what is put together for somebody else
    assert _endpoint._in_flight.take(_endpoint._PARTS, other, **bounds)
    try:
        answer = endpoint.sync(as_owner("anna"), last)
        assert (answer.status, code_of(answer)) == (503, "busy")
        assert int(answer.headers["Retry-After"]) > 0
        assert endpoint.sync(as_owner("anna"), PULL + b" " * (MIB // 2)).status == 200
    finally:
        _endpoint._in_flight.give_back(_endpoint._PARTS, other)
    assert endpoint.sync(as_owner("anna"), last).status == 200
    assert len(_endpoint._in_flight) == 0


def test_what_gzip_makes_is_in_flight_and_what_it_was_made_of_no_more() -> None:
    seen: list[int] = []

    class Measured(Mobync):
        def apply_json(self, body: bytes | str, owner_id: str) -> bytes:
            seen.append(len(_endpoint._in_flight))
            assert len(body) == len(_endpoint._in_flight)
            return super().apply_json(body, owner_id)

    endpoint = Endpoint(Measured(MemorySynchronizer()), anna)
    text = PULL + b" " * MIB
    headers = {**as_owner("anna"), "Content-Encoding": "gzip"}
    assert endpoint.sync(headers, gzip.compress(text)).status == 200
    assert seen == [len(text)]
    assert len(_endpoint._in_flight) == 0

    small = new_endpoint(max_body_bytes=2 * MIB)
    with admitted(small, **as_owner("anna")) as one, admitted(small, **headers) as other:
        assert one.add(bytes(2 * MIB)) is None
        assert other.add(gzip.compress(bytes(2 * MIB))) is None
        assert other.answer().status == 503  # there is no room for what it makes


@pytest.mark.long
def test_a_body_is_held_once_however_it_comes() -> None:
    held: list[int] = []

    class Measured(Mobync):
        def apply_json(self, body: bytes | str, owner_id: str) -> bytes:
            held.append(tracemalloc.get_traced_memory()[0])
            return super().apply_json(PULL, owner_id)

    endpoint = Endpoint(Measured(MemorySynchronizer()), anna)
    text = PULL + os.urandom(2 * MIB).hex().encode()  # of which gzip leaves the half
    zipped = gzip.compress(text)
    bodies = {
        "in one piece": ({}, [text]),
        "byte by byte": ({}, [b"%c" % byte for byte in text[: MIB // 2]]),
        "in gzip": ({"Content-Encoding": "gzip"}, [zipped[:-5], zipped[-5:]]),
    }
    tracemalloc.start()
    try:
        for how, (headers, pieces) in bodies.items():
            before = tracemalloc.get_traced_memory()[0]
            with admitted(endpoint, **as_owner("anna"), **headers) as upload:
                for piece in pieces:
                    assert upload.add(piece) is None
                assert upload.answer().status == 200
            size = len(text) if how == "in gzip" else sum(map(len, pieces))
            assert held.pop() - before < size * 1.2, how
    finally:
        tracemalloc.stop()


def test_a_sync_that_fails_gives_its_bytes_back() -> None:
    endpoint = Endpoint(Mobync(http_app.Store()), http_app.owner_of)

    with pytest.raises(ZeroDivisionError):
        endpoint.receive(as_owner("faulty"), BytesIO(PULL).read)

    assert len(_endpoint._in_flight) == 0


# ---- many syncs of one owner ---------------------------------------------------------------------


class Gate(MemorySynchronizer):
    """Keeps the syncs of ``anna`` waiting until it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = threading.Event()

    @contextmanager
    def transaction(self, owner_id: str) -> Iterator[MemorySynchronizer]:
        assert owner_id != "anna" or self.opened.wait(TIMEOUT_S)
        with super().transaction(owner_id) as inside:
            yield inside


MANY = 10


def as_owner(owner_id: str) -> dict[str, str]:
    return {**JSON, "Authorization": f"Bearer token-of-{owner_id}"}


@contextmanager
def all_places_taken(endpoint: Endpoint) -> Iterator[None]:
    key = id(endpoint), "anna"
    with ExitStack() as running:
        for _ in range(_endpoint.SYNCS_PER_OWNER):
            running.enter_context(_endpoint._places.hold(key, 0))
        yield


def test_an_owner_has_few_syncs_at_once_and_the_others_are_told_busy() -> None:
    gate = Gate()
    endpoint = Endpoint(Mobync(gate, lock_timeout_s=TIMEOUT_S), http_app.owner_of)

    with ThreadPoolExecutor(MANY) as devices:
        syncs = [devices.submit(endpoint.sync, as_owner("anna"), PULL) for _ in range(MANY)]
        try:
            refused = [done.result() for done in islice(as_completed(syncs), MANY - 3)]
            assert endpoint.sync(as_owner("ben"), PULL).status == 200
        finally:
            gate.opened.set()
        statuses = sorted(sync.result().status for sync in syncs)

    assert {(response.status, code_of(response)) for response in refused} == {(503, "busy")}
    assert all(int(response.headers["Retry-After"]) > 0 for response in refused)
    assert statuses == [200] * 3 + [503] * (MANY - 3)
    assert [endpoint.sync(as_owner("anna"), PULL).status for _ in range(4)] == [200] * 4


def test_a_sync_waits_a_little_for_those_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_endpoint, "PATIENCE_S", TIMEOUT_S)
    endpoint = new_endpoint()
    with ThreadPoolExecutor(MANY) as devices, all_places_taken(endpoint):
        syncs = [devices.submit(endpoint.sync, JSON, PULL) for _ in range(MANY)]
        eventually(lambda: len(_endpoint._places) == _endpoint.SYNCS_PER_OWNER + MANY)
    assert [sync.result().status for sync in syncs] == [200] * MANY


def test_a_sync_gives_its_place_back_also_if_it_fails() -> None:
    owners = iter(["faulty", "busy", "well"] * MANY)
    endpoint = Endpoint(Mobync(http_app.Store()), lambda token, headers: next(owners))
    keys = [(id(endpoint), owner_id) for owner_id in ("faulty", "busy", "well")]

    with ExitStack() as running:
        for key in keys:
            running.enter_context(_endpoint._places.hold(key, 0))
        for _ in range(MANY):
            with pytest.raises(ZeroDivisionError):
                endpoint.sync(JSON, PULL)
            assert b"longer than 10 s" in endpoint.sync(JSON, PULL).body
            assert endpoint.sync(JSON, PULL).status == 200
    assert len(_endpoint._places) == 0  # an owner of whom nothing runs costs nothing


def test_a_forked_child_has_no_places_that_are_held_for_ever() -> None:
    endpoint = new_endpoint()
    with all_places_taken(endpoint):
        assert endpoint.sync(JSON, PULL).status == 503
        child = os.fork()
        if child == 0:
            os._exit(0 if endpoint.sync(JSON, PULL).status == 200 else 1)
    assert os.waitpid(child, 0)[1] == 0


# ---- events --------------------------------------------------------------------------------------


def first_event(stream: Any) -> bytes:
    return next(piece for piece in stream.body if piece.startswith(b"id"))


def test_without_live_there_are_no_events() -> None:
    response = new_endpoint().blocking_events({})

    assert isinstance(response, Response)
    assert response.status == 404
    assert code_of(response) == "no_events"


def test_a_synchronizer_that_offers_no_highest_clock_has_its_log_read() -> None:
    class Plain(MemorySynchronizer):
        def highest_logical_clock(self, owner_id: str) -> None:
            return None

    endpoint = Endpoint(Mobync(Plain()), anna, live=InProcessLive())
    before = endpoint.blocking_events({})
    assert first_event(before).startswith(b"id: 0\n")
    endpoint.mobync.push("anna", [("create", "tasks", {"id": "milk"})])
    after = endpoint.blocking_events({})

    assert first_event(after).startswith(b"id: 1\n")
    for stream in (before, after):
        stream.body.close()


@pytest.mark.parametrize("ask", ["events", "blocking_events"])
def test_what_reading_the_clock_raises_is_raised_before_the_response_begins(ask: str) -> None:
    class Down(Exception):
        pass

    class Store(MemorySynchronizer):
        def highest_logical_clock(self, owner_id: str) -> int:
            raise Down

    live = InProcessLive()
    endpoint = Endpoint(Mobync(Store()), anna, live=live)

    with pytest.raises(Down) as raised:
        getattr(endpoint, ask)({})
    assert live.listeners == 0, raised  # not only once the exception is forgotten


def test_the_clock_is_read_once_for_a_device_that_begins_to_listen() -> None:
    reads: list[str] = []

    class Store(MemorySynchronizer):
        def highest_logical_clock(self, owner_id: str) -> int | None:
            reads.append(owner_id)
            return super().highest_logical_clock(owner_id)

    stream = Endpoint(Mobync(Store()), anna, live=InProcessLive()).blocking_events({})

    assert first_event(stream).startswith(b"id: 0\n")
    assert reads == ["anna"]
    stream.body.close()


def test_each_read_of_the_clock_is_in_the_context_of_the_adapter() -> None:
    inside = threading.local()

    class Store(MemorySynchronizer):
        def highest_logical_clock(self, owner_id: str) -> int | None:
            assert inside.app == "ours"
            return super().highest_logical_clock(owner_id)

    @contextmanager
    def context() -> Iterator[None]:
        inside.app = "ours"
        yield
        del inside.app

    endpoint = Endpoint(Mobync(Store()), anna, live=InProcessLive())
    stream = endpoint.blocking_events({}, context)

    assert first_event(stream).startswith(b"id: 0\n")
    stream.body.close()


# ---- Flask ---------------------------------------------------------------------------------------


def new_flask(**config: Any) -> Flask:
    app = Flask(__name__)
    app.secret_key = "of a test"
    app.config.update(config)

    @app.post("/form")
    def form() -> str:
        return "taken"

    return app


def status_of(app: Flask, path: str = "/sync") -> int:
    return app.test_client().post(path, data=PULL, headers=JSON).status_code


@pytest.mark.parametrize("first", ["csrf", "sync"])
def test_flask_wtf_leaves_the_sync_alone_and_nothing_else(first: str) -> None:
    app = new_flask()
    extensions = {"csrf": CSRFProtect(), "sync": MobyncSync(endpoint=new_endpoint())}
    for name in sorted(extensions, reverse=first == "sync"):
        extensions[name].init_app(app)

    assert status_of(app) == 200
    assert status_of(app, "/form") == 400


def test_one_flask_extension_serves_the_apps_of_a_factory() -> None:
    sync = MobyncSync()
    endpoints = [new_endpoint(), new_endpoint()]
    apps = [new_flask(), new_flask()]
    for app, endpoint in zip(apps, endpoints, strict=True):
        sync.init_app(app, endpoint, url_prefix="/api")
    endpoints[1].mobync.push("anna", [("create", "tasks", {"id": "milk"})])

    clocks = [
        app.test_client().post("/api/sync", data=PULL, headers=JSON).get_json()["logical_clock"]
        for app in apps
    ]

    assert clocks == [0, 1]
    assert status_of(apps[0]) == 404


def test_the_flask_extension_takes_the_app_at_once() -> None:
    app = new_flask()
    MobyncSync(app, new_endpoint())

    assert status_of(app) == 200


def test_a_flask_extension_without_an_endpoint_says_so() -> None:
    with pytest.raises(ValueError, match="Endpoint"):
        MobyncSync(new_flask())


def test_what_flask_has_read_already_is_not_lost() -> None:
    app = new_flask(MAX_CONTENT_LENGTH=10_000)
    MobyncSync(app, new_endpoint())
    read: list[bytes] = []

    @app.before_request
    def log_body() -> None:
        from flask import request

        read.append(request.get_data())

    assert status_of(app) == 200
    assert read == [PULL]


def test_events_of_flask_read_the_clock_from_the_session_of_the_app(tmp_path: Path) -> None:
    app = new_flask(SQLALCHEMY_DATABASE_URI=f"sqlite:///{tmp_path}/tasks.db")
    db = SQLAlchemy(app)
    tasks = task_table(db.metadata)
    diffs_table(db.metadata)
    with app.app_context():
        db.create_all()
        mobync = Mobync(SQLAlchemySynchronizer(db, {"tasks": tasks}))
        mobync.push("anna", [("create", "tasks", {"id": "milk"})])
        db.session.remove()
    MobyncSync(app, Endpoint(mobync, anna, live=InProcessLive()))

    with app.test_client().get("/sync/events") as response:
        pieces = iter(response.response)
        next(pieces)
        assert next(pieces).startswith(b"id: 1\n")

    with app.app_context():
        db.engine.dispose()


# ---- ASGI ----------------------------------------------------------------------------------------


@contextmanager
def served(app: Any) -> Iterator[str]:
    with http_servers.on_uvicorn(app) as (host, port):
        yield f"http://{host}:{port}"


def post(url: str) -> int:
    return requests.post(url, PULL, headers=JSON, timeout=TIMEOUT_S).status_code


def test_the_asgi_app_can_be_mounted() -> None:
    with served(Router([Mount("/api", SyncApp(new_endpoint()))])) as url:
        assert post(f"{url}/api/sync") == 200


def test_asgi_pieces_that_break_at_the_limit_are_not_taken_for_the_whole() -> None:
    pieces = iter([PULL, b"and more", b"and more"])
    answered: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": next(pieces), "more_body": True}

    async def send(message: dict[str, Any]) -> None:
        answered.append(message)

    headers = [(name.lower().encode(), value.encode()) for name, value in JSON.items()]
    scope = {"type": "http", "method": "POST", "path": "/sync", "query_string": b""}
    app = SyncApp(new_endpoint(max_body_bytes=len(PULL)))
    asyncio.run(app({**scope, "headers": headers}, receive, send))

    assert answered[0]["status"] == 413
    assert next(pieces) == b"and more"  # it is not read to its end


@pytest.mark.parametrize(
    ("patience", "seconds"), [("PAUSE_S", 0.05), ("BODY_S", 0.05), ("BODY_S", -1.0)]
)
def test_asgi_waits_so_long_for_a_body_and_no_longer(
    patience: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asgi, patience, seconds)
    answered: list[Any] = []
    pieces = iter([PULL[:5]])

    async def receive() -> dict[str, Any]:
        for piece in pieces:
            return {"type": "http.request", "body": piece, "more_body": True}
        await asyncio.sleep(TIMEOUT_S)
        raise AssertionError("it was waited for")

    async def send(message: dict[str, Any]) -> None:
        answered.append(message)

    headers = [(name.lower().encode(), value.encode()) for name, value in JSON.items()]
    scope = {"type": "http", "http_version": "1.1", "method": "POST", "path": "/sync"}
    app = SyncApp(new_endpoint())
    asyncio.run(app({**scope, "query_string": b"", "headers": headers}, receive, send))

    assert answered[0]["status"] == 408
    assert (b"connection", b"close") in answered[0]["headers"]
    assert json.loads(answered[1]["body"])["code"] == "too_slow"
    assert len(_endpoint._in_flight) == 0


def test_asgi_gives_a_body_20_seconds_for_a_piece_and_a_second_more_for_each_16_kib() -> None:
    assert (asgi.PAUSE_S, asgi.BODY_S, asgi.BYTES_PER_S) == (20, 60, 16 * 1024)


def test_the_router_of_fastapi_takes_the_options_of_one() -> None:
    def keep_out() -> None:
        raise HTTPException(418)

    app = FastAPI()
    app.include_router(router(new_endpoint(), prefix="/api", tags=["sync"]))
    app.include_router(router(new_endpoint(), prefix="/kept", dependencies=[Depends(keep_out)]))

    with served(app) as url:
        assert post(f"{url}/api/sync") == 200
        assert post(f"{url}/kept/sync") == 418
        paths = requests.get(f"{url}/openapi.json", timeout=TIMEOUT_S).json()["paths"]
    described = paths["/api/sync"]["post"]
    assert described["tags"] == ["sync"]
    assert described["requestBody"]["content"]["application/json"]["schema"]["required"] == [
        "logical_clock",
        "diffs",
    ]


def test_syncs_that_wait_leave_the_event_loop_and_its_threads_alone() -> None:
    waiting = threading.Event()
    go_on = threading.Event()

    def authenticate(token: str | None, headers: Mapping[str, str]) -> str:
        waiting.set()
        assert go_on.wait(TIMEOUT_S)
        return "anna"

    app = FastAPI()
    app.include_router(router(new_endpoint(authenticate), threads=1))

    @app.get("/other")
    def other() -> str:  # a plain function: FastAPI runs it in a thread
        return "here"

    with served(app) as url, ThreadPoolExecutor(50) as devices:
        syncs = [devices.submit(post, f"{url}/sync") for _ in range(50)]
        try:
            assert waiting.wait(TIMEOUT_S)
            assert requests.get(f"{url}/other", timeout=TIMEOUT_S).json() == "here"
        finally:
            go_on.set()
        assert [sync.result() for sync in syncs] == [200] * 50


def test_an_owner_whose_syncs_wait_keeps_no_thread_from_the_others() -> None:
    gate = Gate()
    mobync = Mobync(gate, lock_timeout_s=TIMEOUT_S)
    endpoint = Endpoint(mobync, http_app.owner_of, live=InProcessLive())

    def sync(url: str, owner_id: str) -> int:
        headers = as_owner(owner_id)
        return requests.post(f"{url}/sync", PULL, headers=headers, timeout=TIMEOUT_S).status_code

    with served(SyncApp(endpoint, threads=4)) as url, ThreadPoolExecutor(MANY) as devices:
        syncs = [devices.submit(sync, url, "anna") for _ in range(MANY)]
        try:
            refused = [done.result() for done in islice(as_completed(syncs), MANY - 3)]
            assert refused == [503] * (MANY - 3)
            assert sync(url, "ben") == 200
        finally:
            gate.opened.set()
        assert sorted(sync.result() for sync in syncs) == [200] * 3 + [503] * (MANY - 3)


@pytest.mark.parametrize("in_body", [False, True], ids=["token in a header", "token in the body"])
def test_syncs_that_wait_for_others_of_their_owner_wait_without_a_thread(
    monkeypatch: pytest.MonkeyPatch, in_body: bool
) -> None:
    """Else each of them would hold one, and the other owners would wait behind all of them."""
    monkeypatch.setattr(_endpoint, "PATIENCE_S", TIMEOUT_S)
    monkeypatch.setattr(asgi, "TURN_S", TIMEOUT_S)
    gate = Gate()
    endpoint = Endpoint(Mobync(gate, lock_timeout_s=TIMEOUT_S), http_app.owner_of)

    def sync(url: str, owner_id: str) -> int:
        body, headers = json.loads(PULL), as_owner(owner_id)
        if in_body:
            body["auth_token"] = headers.pop("Authorization").removeprefix("Bearer ")
        text = json.dumps(body)
        return requests.post(f"{url}/sync", text, headers=headers, timeout=TIMEOUT_S).status_code

    came = threading.Semaphore(0)
    admit = endpoint.admit

    def counting(*args: Any) -> Any:
        came.release()
        return admit(*args)

    endpoint.admit = counting  # type: ignore[method-assign]
    with served(SyncApp(endpoint, threads=4)) as url, ThreadPoolExecutor(MANY + 1) as devices:
        syncs = [devices.submit(sync, url, "anna") for _ in range(MANY)]
        try:
            assert all(came.acquire(timeout=TIMEOUT_S) for _ in syncs)
            ben = devices.submit(sync, url, "ben")
            done = {ben, *syncs}
            assert next(as_completed(done)) is ben
            assert ben.result() == 200
        finally:
            gate.opened.set()
        assert [each.result() for each in syncs] == [200] * MANY


def test_of_an_owner_only_so_many_syncs_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "WAITING_PER_OWNER", 2)
    monkeypatch.setattr(asgi, "TURN_S", TIMEOUT_S)
    gate = Gate()
    endpoint = Endpoint(Mobync(gate, lock_timeout_s=TIMEOUT_S), http_app.owner_of)

    def sync(url: str) -> int:
        answer = requests.post(f"{url}/sync", PULL, headers=as_owner("anna"), timeout=TIMEOUT_S)
        return answer.status_code

    with served(SyncApp(endpoint)) as url, ThreadPoolExecutor(MANY) as devices:
        syncs = [devices.submit(sync, url) for _ in range(MANY)]
        try:
            refused = [done.result() for done in islice(as_completed(syncs), MANY - 5)]
        finally:
            gate.opened.set()
        assert refused == [503] * (MANY - 5)
        assert sorted(each.result() for each in syncs) == [200] * 5 + [503] * (MANY - 5)


def test_syncs_that_wait_keep_nobody_from_listening() -> None:
    gate = Gate()
    endpoint = Endpoint(Mobync(gate), http_app.owner_of, live=InProcessLive())
    waiting = threading.Event()
    gate_transaction = gate.transaction

    def transaction(owner_id: str) -> Any:
        waiting.set()
        return gate_transaction(owner_id)

    gate.transaction = transaction  # type: ignore[method-assign]
    with served(SyncApp(endpoint, threads=1)) as url, ThreadPoolExecutor(1) as device:
        arguments = {"headers": as_owner("anna"), "timeout": TIMEOUT_S}
        sync = device.submit(requests.post, f"{url}/sync", PULL, **arguments)
        try:
            assert waiting.wait(TIMEOUT_S)
            with requests.get(f"{url}/sync/events", stream=True, **arguments) as listening:
                assert listening.status_code == 200
        finally:
            gate.opened.set()
        assert sync.result().status_code == 200


def test_a_database_that_is_down_is_for_the_handlers_of_the_app() -> None:
    class Store(MemorySynchronizer):
        def highest_logical_clock(self, owner_id: str) -> int:
            raise ConnectionError

    app = FastAPI()
    endpoint = Endpoint(Mobync(Store()), anna, live=InProcessLive())
    app.include_router(router(endpoint))

    @app.exception_handler(ConnectionError)
    def unavailable(request: Any, error: Exception) -> JSONResponse:
        return JSONResponse({}, 503)

    with served(app) as url:
        assert requests.get(f"{url}/sync/events", timeout=TIMEOUT_S).status_code == 503


# ---- Django --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "must be a dict"),
        ({"authenticate": ...}, "authenticate"),
        ({"max_bodybytes": 5}, "max_bodybytes"),
        ({"mobync": "nowhere.mobync"}, "nowhere"),
        ({"max_body_bytes": -1}, "max_body_bytes"),
    ],
)
def test_a_wrong_setting_of_django_is_named(change: dict[str, Any] | None, message: str) -> None:
    http_app.django_wsgi_app()
    from django.test import override_settings

    from mobync.http.django import endpoint_of_settings

    right = {"mobync": new_endpoint().mobync, "authenticate": anna}
    endpoint_of_settings()  # that of the settings before must not stay
    given = None if change is None else {**right, **change}
    if given is not None:
        given = {name: value for name, value in given.items() if value is not ...}
    with (
        override_settings(MOBYNC=given),
        pytest.raises(ImproperlyConfigured, match=f"settings.MOBYNC.*{message}"),
    ):
        endpoint_of_settings()


def test_django_commits_nothing_for_us() -> None:
    """With ATOMIC_REQUESTS a sync would be committed after its owner's lock is free again."""
    http_app.django_wsgi_app()
    from mobync.http.django import events, sync

    for view in (sync, events):
        assert "default" in view._non_atomic_requests


def test_events_pass_through_the_middleware_of_django_that_compresses() -> None:
    http_app.django_wsgi_app()
    from django.test import Client, override_settings

    endpoint = new_endpoint(live=InProcessLive(heartbeat_s=0.1))
    endpoint.mobync.listen(endpoint.live.announce)  # type: ignore[union-attr]
    given = {"mobync": endpoint.mobync, "authenticate": anna, "live": endpoint.live}
    middleware = ["django.middleware.gzip.GZipMiddleware"]
    with override_settings(MOBYNC=given, MIDDLEWARE=middleware):
        response: Any = Client(SERVER_NAME="127.0.0.1").get(
            "/sync/events", headers={"Accept-Encoding": "gzip"}
        )
    pieces = iter(response.streaming_content)
    try:
        assert next(pieces).startswith(b"retry: ")
        assert next(pieces).startswith(b"id: 0\n")
        endpoint.mobync.push("anna", [("create", "tasks", {"id": "milk"})])
        assert next(piece for piece in pieces if piece != b":\n\n").startswith(b"id: 1\n")
    finally:
        response.close()
