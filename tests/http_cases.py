"""What the endpoint answers to what, for every adapter: one table, and a client to ask with."""

from __future__ import annotations

import gzip
import http.client
import itertools
import json
import re
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any

from http_app import AWAY_TOKEN, MAX_BODY_BYTES, MAX_UNAUTHENTICATED_BODY_BYTES
from task_list import diff

TIMEOUT_S = 60
BEARER = ("Authorization", "Bearer token-of-{owner}")
JSON = ("Content-Type", "application/json")
GZIP = ("Content-Encoding", "gzip")
PULL = b'{"logical_clock": 0, "diffs": []}'
PIECE_BYTES = 1000  # of a body that is sent in chunks

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> bytes:
        zipped = self.headers["Content-Encoding"] == "gzip"
        return gzip.decompress(self.body) if zipped else self.body

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.text)


@dataclass(frozen=True)
class Case:
    """A request and what must come back.

    Attributes:
        body: ``{owner}`` in it, and in a header, stands for the owner of the test.
        json: members that the reply must have, among others.
        answer: headers that it must have, as patterns; one that is None must be absent.
        zipped: whether the body is sent in gzip.
        length: whether a Content-Length is sent.
        owner: who it must be; empty for anybody.
    """

    name: str
    status: int
    body: bytes = PULL
    headers: Headers = (BEARER, JSON)
    json: dict[str, Any] = field(default_factory=dict)
    answer: dict[str, str | None] = field(default_factory=dict)
    method: str = "POST"
    path: str = "/sync"
    chunked: bool = False
    zipped: bool = False
    length: bool = True
    owner: str = ""

    def __str__(self) -> str:
        return self.name

    def check(self, answer: Answer) -> None:
        assert answer.status == self.status, answer.body[:500]
        if self.method != "HEAD":
            assert int(answer.headers["Content-Length"]) == len(answer.body)
        for name, pattern in self.answer.items():
            found = answer.headers[name]
            if pattern is None:
                assert found is None, name
            else:
                assert re.fullmatch(pattern, found or ""), f"{name}: {found}"
        if self.json:
            got = {key: answer.json.get(key) for key in self.json}
            assert got == self.json, got
            assert answer.headers["Content-Type"] == "application/json"


_numbers = itertools.count()


def new_owner() -> str:
    """An owner whom no other test has."""
    return f"owner{next(_numbers)}"


def ask(address: tuple[str, int], case: Case, owner: str) -> Answer:
    """Send a case's request on a connection of its own."""
    body = case.body.replace(b"{owner}", owner.encode()) if case.method != "GET" else b""
    body = gzip.compress(body) if case.zipped else body
    with closing(http.client.HTTPConnection(*address, timeout=TIMEOUT_S)) as connection:
        connection.putrequest(case.method, case.path, skip_accept_encoding=True)
        for name, value in case.headers:
            connection.putheader(name, value.format(owner=owner))
        if case.chunked:
            connection.putheader("Transfer-Encoding", "chunked")
        elif case.length and case.method != "GET":
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        with suppress(BrokenPipeError, ConnectionResetError):  # refused before all was sent
            for piece in _pieces(body) if case.chunked else [body]:
                connection.send(piece)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())


def _pieces(body: bytes) -> Iterator[bytes]:
    for at in range(0, len(body), PIECE_BYTES):
        piece = body[at : at + PIECE_BYTES]
        yield b"%x\r\n%b\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


def _request(*diffs: dict[str, Any], clock: object = 0, **more: object) -> bytes:
    return json.dumps({"logical_clock": clock, "diffs": diffs, **more}).encode()


def _padded(size: int) -> bytes:
    return PULL + b" " * (size - len(PULL))


def _refused(status: int, code: str, **more: Any) -> dict[str, Any]:
    return {"status": status, "json": {"success": False, "code": code, **more}}


def _with(*headers: tuple[str, str]) -> Headers:
    return (BEARER, *headers)


MILK = diff("create", id="milk of {owner}", name="milk") | {"id": "a create of {owner}"}
SECRET = diff("create", "secrets", id="s")
MALFORMED = diff("create", id="x") | {"type": "destroy"}
MANY = _request(*(
    diff("create", id=f"{n} of {{owner}}", name="x" * 20) | {"id": f"create {n} of {{owner}}"}
    for n in range(100)
))  # fmt: skip
TOKEN_INSIDE = b'{"auth_token": "token-of-anna", "logical_clock": 0, "diffs": []}'
EMPTY_REPLY = {"success": True, "message": "", "logical_clock": 0, "diffs": []}

ACCEPTED = [
    Case("a pull", 200, json=EMPTY_REPLY),
    Case("a push", 200, _request(MILK), json={"logical_clock": 1, "diffs": []}),
    Case("header names and the scheme in lower case", 200, headers=(
        ("authorization", "bearer token-of-{owner}"), ("content-type", "application/json"),
    ), json=EMPTY_REPLY),
    Case("header names and the scheme in upper case", 200, headers=(
        ("AUTHORIZATION", "BEARER token-of-{owner}"), ("CONTENT-TYPE", "APPLICATION/JSON"),
    ), json=EMPTY_REPLY),
    Case("the token in the body", 200, headers=(JSON,), json=EMPTY_REPLY,
         body=b'{"auth_token": "token-of-{owner}", "logical_clock": 0, "diffs": []}'),
    Case("a token that is not ASCII", 200, headers=(JSON,), json=EMPTY_REPLY,
         body='{"auth_token": "tök-{owner}", "logical_clock": 0, "diffs": []}'.encode()),
    Case("the token of the header goes before that of the body", 200, json=EMPTY_REPLY,
         body=b'{"auth_token": "nobody", "logical_clock": 0, "diffs": []}'),
    Case("a session of the app's own", 200, json=EMPTY_REPLY,
         headers=(("Cookie", "session={owner}"), JSON)),
    Case("a charset", 200, json=EMPTY_REPLY,
         headers=_with(("Content-Type", 'application/json; Charset="UTF-8"'))),
    Case("a body in chunks", 200, _request(MILK), chunked=True, json={"logical_clock": 1}),
    Case("a long body in chunks", 200, MANY, chunked=True, json={"logical_clock": 100}),
    Case("a body in gzip", 200, _request(MILK), _with(JSON, GZIP), zipped=True,
         json={"logical_clock": 1}),
    Case("a body in gzip and in chunks", 200, MANY, _with(JSON, GZIP), zipped=True,
         chunked=True, json={"logical_clock": 100}),
    Case("Content-Encoding: identity", 200, json=EMPTY_REPLY,
         headers=_with(JSON, ("Content-Encoding", "identity"))),
    Case("a body as long as it may be", 200, _padded(MAX_BODY_BYTES), json=EMPTY_REPLY),
    Case("chunks as long as they may be", 200, _padded(MAX_BODY_BYTES), chunked=True,
         json=EMPTY_REPLY),
    Case("gzip as long as it may be", 200, _padded(MAX_BODY_BYTES), _with(JSON, GZIP), zipped=True,
         json=EMPTY_REPLY),
    Case("what else a body has is the app's", 200, _request(MILK, more={"n": 1.5}, x=None),
         json={"logical_clock": 1}),
    Case("a page", 200, _request(limit=1), json={"more": False}),
    Case("the request id comes back", 200, headers=_with(JSON, ("X-Request-ID", "a.B-9_z")),
         answer={"X-Request-ID": r"a\.B-9_z"}),
    Case("a request id that no log would like", 200,
         headers=_with(JSON, ("X-Request-ID", "a b\tc=d")),
         answer={"X-Request-ID": "[0-9a-f]{32}"}),
    Case("a request id is made", 200, answer={
        "X-Request-ID": "[0-9a-f]{32}",
        "Server-Timing": r"apply;dur=\d+\.\d",
        "Cache-Control": "no-store",
        "Vary": ".*Accept-Encoding.*",
    }),
    Case("a short reply stays as it is", 200, headers=_with(JSON, ("Accept-Encoding", "gzip")),
         json=EMPTY_REPLY, answer={"Content-Encoding": None}),
]  # fmt: skip

DAMAGED = {
    "nothing": b"",
    "no JSON": b"logical_clock=0",
    "an array": b"[]",
    "a cut object": PULL[:-1],
    "two objects": PULL + PULL,
    "a byte order mark": b"\xef\xbb\xbf" + PULL,
    "UTF-16": PULL.decode().encode("utf-16"),
    "invalid UTF-8": b'{"logical_clock": 0, "diffs": [], "x": "\xff"}',
    "half a surrogate pair": b'{"logical_clock": 0, "diffs": [], "x": "\\ud800"}',
    "U+0000": b'{"logical_clock": 0, "diffs": [], "x": "\\u0000"}',
    "NaN": b'{"logical_clock": 0, "diffs": [], "x": NaN}',
    "deep arrays": b"[" * 100_000,
    "deep objects": b'{"logical_clock": 0, "diffs": [], "x": ' + b'{"a":' * 10_000,
    "no diffs": b'{"logical_clock": 0}',
    "no clock": b'{"diffs": []}',
    "diffs that are no array": b'{"logical_clock": 0, "diffs": {}}',
}

CLOCKS = {
    "a negative clock": -1,
    "a clock that is no integer": 0.5,
    "a clock that is true": True,
    "a clock that is null": None,
    "a clock that no device can have": 2**53,
    "a clock of 100 000 digits": "9" * 100_000,
    "a clock of words": "noon",
}

REFUSED = [
    *(Case(f"400: {name}", body=body, **_refused(400, "invalid_request"))
      for name, body in DAMAGED.items()),
    *(Case(f"400: {name}", body=_request(clock=clock), **_refused(400, "invalid_clock"))
      for name, clock in CLOCKS.items()),
    Case("400: a clock of 100 000 digits without quotes", **_refused(400, "invalid_clock"),
         body=b'{"logical_clock": ' + b"9" * 100_000 + b', "diffs": []}'),
    Case("400: deep diffs", **_refused(400, "invalid_diff", index=0),
         body=b'{"logical_clock": 0, "diffs": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    Case("400: a limit of nothing", body=_request(limit=0), **_refused(400, "invalid_page")),
    Case("400: a cursor of nobody", body=_request(cursor="x"), **_refused(400, "invalid_page")),
    Case("400: no Content-Length", body=b"", length=False, **_refused(400, "invalid_request")),
    Case("400: chunks of nothing", body=b"", chunked=True, **_refused(400, "invalid_request")),
    Case("400: a malformed diff", body=_request(MILK, MALFORMED),
         **_refused(400, "invalid_diff", index=1, id=MALFORMED["id"],
                    reason='type must be "create", "update" or "delete"')),
    Case("400: a timestamp of 1000 digits", body=_request(MILK | {"utc_timestamp": 10**1000}),
         **_refused(400, "invalid_diff", index=0)),
    Case("400: an id of many kilobytes is not sent back", body=_request(
            MALFORMED | {"id": "x" * 50_000}),
         answer={"Content-Length": r"\d{1,4}"}, **_refused(400, "invalid_diff", index=0)),
    Case("400: no gzip", headers=_with(JSON, GZIP), **_refused(400, "invalid_request")),
    Case("400: nothing in gzip", body=b"", headers=_with(JSON, GZIP),
         **_refused(400, "invalid_request")),
    Case("400: gzip cut short", body=gzip.compress(PULL)[:-9], headers=_with(JSON, GZIP),
         **_refused(400, "invalid_request", message="the gzip body is cut short")),
    Case("400: gzip with a wrong sum", body=gzip.compress(PULL)[:-8] + bytes(8),
         headers=_with(JSON, GZIP), **_refused(400, "invalid_request")),
    Case("400: more after the gzip", body=gzip.compress(PULL) + gzip.compress(b""),
         headers=_with(JSON, GZIP),
         **_refused(400, "invalid_request", message="more data follows the gzip body")),
    Case("401: no token", headers=(JSON,), answer={"WWW-Authenticate": "Bearer"},
         **_refused(401, "unauthenticated")),
    Case("401: a wrong token", headers=(("Authorization", "Bearer x"), JSON),
         answer={"WWW-Authenticate": "Bearer"}, **_refused(401, "unauthenticated")),
    Case("401: a token of nobody", headers=(("Authorization", "Bearer token-of-"), JSON),
         **_refused(401, "unauthenticated")),
    Case("401: a wrong token in the body", headers=(JSON,), body=_request(auth_token="x"),
         **_refused(401, "unauthenticated")),
    Case("401: a token that is no text", headers=(JSON,), body=_request(auth_token=["token-of-x"]),
         **_refused(401, "unauthenticated")),
    Case("401: another scheme", headers=(("Authorization", "Basic token-of-x"), JSON),
         **_refused(401, "unauthenticated")),
    Case("401: two tokens", headers=(BEARER, ("Authorization", "Bearer token-of-eve"), JSON),
         **_refused(401, "unauthenticated")),
    Case("401: neither token nor JSON", headers=(JSON,), body=b"\xff",
         **_refused(401, "unauthenticated")),
    Case("401: neither token nor end", headers=(JSON,), body=b'{"a": ' * 30_000,
         **_refused(401, "unauthenticated")),
    Case("403: a rule said no", body=_request(MILK, SECRET),
         **_refused(403, "unauthorized", index=1, id=SECRET["id"],
                    reason="validate_create refused it")),
    Case("409: the clock is ahead", body=_request(clock=7),
         **_refused(409, "clock_ahead", pull_anew=True)),
    Case("413: a byte too long", body=_padded(MAX_BODY_BYTES + 1), **_refused(413, "too_large")),
    Case("413: much too long", body=_padded(50 * MAX_BODY_BYTES), **_refused(413, "too_large")),
    Case("413: chunks a byte too long", body=_padded(MAX_BODY_BYTES + 1), chunked=True,
         **_refused(413, "too_large")),
    Case("413: chunks much too long", body=_padded(50 * MAX_BODY_BYTES), chunked=True,
         **_refused(413, "too_large")),
    Case("413: gzip a byte too long", body=gzip.compress(_padded(MAX_BODY_BYTES + 1)),
         headers=_with(JSON, GZIP), **_refused(413, "too_large")),
    *(Case(f"413: a byte too long for a body with the token inside, {how}", headers=(JSON, *more),
           body=make(TOKEN_INSIDE + b" " * (MAX_UNAUTHENTICATED_BODY_BYTES + 1
                                            - len(TOKEN_INSIDE))),
           chunked=how == "in chunks", **_refused(413, "too_large"))
      for how, make, more in (("at once", bytes, ()), ("in chunks", bytes, ()),
                              ("in gzip", gzip.compress, (GZIP,)))),
    Case("413: a gzip bomb", body=gzip.compress(bytes(100_000_000)),
         headers=_with(JSON, GZIP), **_refused(413, "too_large")),
    *(Case(f"415: {name}", headers=_with(*headers), **_refused(415, "unsupported_media_type"))
      for name, headers in {
          "no type": (),
          "text": (("Content-Type", "text/plain"),),
          "a form": (("Content-Type", "application/x-www-form-urlencoded"),),
          "a form with a file": (("Content-Type", "multipart/form-data; boundary=x"),),
          "a type that begins like JSON": (("Content-Type", "application/jsonp"),),
          "another charset": (("Content-Type", "application/json; charset=latin-1"),),
          "brotli": (JSON, ("Content-Encoding", "br")),
          "gzip twice": (JSON, ("Content-Encoding", "gzip, gzip")),
      }.items()),
    Case("503: a token that cannot be verified now", answer={"Retry-After": r"\d+"},
         headers=(("Authorization", f"Bearer {AWAY_TOKEN}"), JSON), **_refused(503, "unavailable")),
    Case("503: a token in the body that cannot be verified now", answer={"Retry-After": r"\d+"},
         headers=(JSON,), body=json.dumps({"auth_token": AWAY_TOKEN}).encode(),
         **_refused(503, "unavailable")),
    Case("503: events for a token that cannot be verified now", answer={"Retry-After": r"\d+"},
         method="GET", path="/sync/events", headers=(("Authorization", f"Bearer {AWAY_TOKEN}"),),
         **_refused(503, "unavailable")),
    Case("409: a device that is not as the server knows it",
         body=_request(device="phone", request=5, mark="x"), **_refused(409, "unknown_device")),
    Case("403: a device that was ended", owner="revoked",
         body=_request(MILK, device="phone", request=1), **_refused(403, "device_revoked")),
    *(Case(f"403: a device of a client that was ended: {path}", owner="revoked", body=body,
           path=f"/sync/{path}?device=phone", **_refused(403, "device_revoked"))
      for path, body in {
          "rxdb/pull": b'{"collection": "tasks", "limit": 9}',
          "rxdb/push": b'{"collection": "tasks", "rows": []}',
          "watermelon/pull": b'{"lastPulledAt": null}',
          "watermelon/push": b'{"lastPulledAt": null, "edits": []}',
      }.items()),
    Case("403: events of a device that was ended", owner="revoked", method="GET",
         path="/sync/events?device=phone", **_refused(403, "device_revoked")),
    Case("400: a client's device with no name", path="/sync/rxdb/pull?device=",
         **_refused(400, "invalid_request")),
    Case("503: busy", owner="busy", answer={"Retry-After": r"\d+"}, **_refused(503, "busy")),
    Case("500: a bug of the app is the framework's", 500, owner="faulty"),
    Case("404: another path", 404, method="GET", path="/sink"),
    *(Case(f"405: {method}", 405, method=method, body=b"", answer={"Allow": ".*POST.*"})
      for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE")),
    Case("405: POST of the events", 405, path="/sync/events", body=b"",
         answer={"Allow": ".*GET.*"}),
    Case("401: events for nobody", method="GET", path="/sync/events", headers=(),
         **_refused(401, "unauthenticated")),
]  # fmt: skip

WATERMELON_PUSH = json.dumps({
    "lastPulledAt": 1,
    "changes": {"tasks": {"created": [{"id": "w of {owner}", "name": "milk"}]}},
}).encode()  # fmt: skip

CLIENTS = [
    Case("a pull of WatermelonDB", 200, b"{}", path="/sync/watermelon/pull",
         json={"changes": {}, "timestamp": 1}),
    Case("a push of WatermelonDB", 200, WATERMELON_PUSH, path="/sync/watermelon/push",
         json={"experimentalRejectedIds": {}}),
    Case("a push of WatermelonDB in gzip and in chunks", 200, WATERMELON_PUSH, _with(JSON, GZIP),
         path="/sync/watermelon/push", zipped=True, chunked=True,
         json={"experimentalRejectedIds": {}}),
    Case("400: a push of WatermelonDB that is none", body=b"{}", path="/sync/watermelon/push",
         **_refused(400, "invalid_request")),
    Case("401: a pull of WatermelonDB for nobody", body=b"{}", path="/sync/watermelon/pull",
         headers=(JSON,), **_refused(401, "unauthenticated")),
    Case("409: WatermelonDB is ahead", body=b'{"lastPulledAt": 9}', path="/sync/watermelon/pull",
         **_refused(409, "clock_ahead", pull_anew=True)),
    Case("413: a push of WatermelonDB that is too long", body=_padded(MAX_BODY_BYTES + 1),
         path="/sync/watermelon/push", **_refused(413, "too_large")),
    Case("405: GET of a client's route", 405, method="GET", path="/sync/watermelon/pull",
         answer={"Allow": ".*POST.*"}),
]  # fmt: skip

CASES = [*ACCEPTED, *REFUSED, *CLIENTS]
