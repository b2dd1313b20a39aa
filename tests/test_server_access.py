"""Who else may use `mobync serve`: scripts of other sites, and devices with the app's own JWTs."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import browser
import jwt
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from http_servers import on_uvicorn
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from server_process import PATIENCE_S, Server, diff, eventually, mobync, serving

from mobync import UnavailableError
from mobync.server import _keys
from mobync.server._cors import check_origin
from mobync.server._jwt import JWTs
from mobync.server._keys import KeysError, KeySet
from mobync.server.app import MeasuredMobync, create_app
from mobync.server.database import database_url, make_tables, open_database
from mobync.server.settings import Settings
from mobync.server.tokens import SecretError, Tokens
from mobync.sqlalchemy import DocumentSynchronizer

chromium, page = browser.chromium, browser.page

SECRET = "a secret for tests, long enough"
JWT_SECRET = "the app signs its own tokens with this one, which has 64 bytes.."
APP = "https://app.example"
PHONE = "capacitor://localhost"
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


def owner_token(owner: str = "anna") -> str:
    return Tokens(SECRET).for_owner(owner, 3600)


# ---- other origins ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that two other origins may use."""
    directory = tmp_path_factory.mktemp("open")
    options = ("--allow-origin", APP, "--allow-origin", PHONE, "--inspector", "without-token")
    with serving(directory, *options, MOBYNC_SECRET=SECRET) as running:
        yield running


def asked(server: Server, method: str, path: str, origin: str | None, **more: Any) -> Any:
    headers = dict(more.pop("headers", {}))
    if origin is not None:
        headers["Origin"] = origin
    return requests.request(method, server.url + path, headers=headers, timeout=PATIENCE_S, **more)


def names(value: str) -> set[str]:
    return {name.strip().lower() for name in value.split(",")}


@pytest.mark.parametrize("origin", [APP, PHONE])
@pytest.mark.parametrize(("path", "method"), [("/sync", "POST"), ("/sync/events", "GET")])
def test_a_preflight_allows_the_origin_the_method_and_the_headers(
    path, method, origin, open_server
):
    wanted = PREFLIGHT | {"Access-Control-Request-Method": method}
    answer = asked(open_server, "OPTIONS", path, origin, headers=wanted)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == origin
    assert method in answer.headers["Access-Control-Allow-Methods"].split(", ")
    assert names(answer.headers["Access-Control-Allow-Headers"]) >= {
        "authorization",
        "content-type",
        "content-encoding",
        "last-event-id",
    }
    assert int(answer.headers["Access-Control-Max-Age"]) > 0
    assert "origin" in names(answer.headers["Vary"])
    assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://app.example", "https://app.example:8443", "null", ""]
)
def test_another_origin_gets_no_header_that_lets_it_read(origin, open_server):
    preflight = asked(open_server, "OPTIONS", "/sync", origin, headers=PREFLIGHT)
    assert preflight.status_code == 400
    pull = {"auth_token": owner_token(), "logical_clock": 0, "diffs": []}
    for answer in (preflight, asked(open_server, "POST", "/sync", origin, json=pull)):
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert "origin" in names(answer.headers["Vary"])


def test_what_is_answered_can_be_read_be_it_a_refusal(open_server):
    token = owner_token()
    answers = {
        "done": {"json": {"auth_token": token, "logical_clock": 0, "diffs": []}},
        "unauthenticated": {"json": {"auth_token": "x", "logical_clock": 0, "diffs": []}},
        "clock_ahead": {"json": {"auth_token": token, "logical_clock": 99, "diffs": []}},
        "invalid_clock": {"json": {"auth_token": token, "logical_clock": -1, "diffs": []}},
        "unsupported_media_type": {"data": b"x"},
    }
    for code, request in answers.items():
        answer = asked(open_server, "POST", "/sync", APP, **request)
        assert answer.json().get("code", "done") == code
        assert answer.headers["Access-Control-Allow-Origin"] == APP
        assert {"retry-after", "x-request-id"} <= names(
            answer.headers["Access-Control-Expose-Headers"]
        )
        assert "origin" in names(answer.headers["Vary"])
    done = asked(open_server, "POST", "/sync", APP, **answers["done"])
    assert names(done.headers["Vary"]) == {"accept-encoding", "origin"}
    other_method = asked(open_server, "PUT", "/sync", APP)
    assert other_method.status_code == 405
    assert other_method.headers["Access-Control-Allow-Origin"] == APP


def test_the_stream_of_events_can_be_read_and_its_refusals(open_server):
    bearer = {"Authorization": f"Bearer {owner_token('events')}"}
    with asked(open_server, "GET", "/sync/events", APP, headers=bearer, stream=True) as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        assert stream.headers["Access-Control-Allow-Origin"] == APP
        assert next(line for line in stream.iter_lines() if line.startswith(b"data: "))
    refused = asked(open_server, "GET", "/sync/events", APP)
    assert refused.status_code == 401
    assert refused.headers["Access-Control-Allow-Origin"] == APP


def test_nothing_but_the_endpoint_is_open_to_other_origins(open_server):
    for path in ("/metrics", "/health", "/", "/inspect/owners"):
        answer = asked(open_server, "GET", path, APP)
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_without_the_option_no_other_origin_may_do_anything(tmp_path):
    with serving(tmp_path, MOBYNC_SECRET=SECRET) as server:
        preflight = asked(server, "OPTIONS", "/sync", APP, headers=PREFLIGHT)
        pull = {"auth_token": owner_token(), "logical_clock": 0, "diffs": []}
        answer = asked(server, "POST", "/sync", APP, json=pull)
    assert (preflight.status_code, answer.status_code) == (405, 200)
    for headers in (preflight.headers, answer.headers):
        assert "Access-Control-Allow-Origin" not in headers


def test_a_bug_and_an_outage_can_be_read_too(tmp_path, monkeypatch):
    monkeypatch.setenv("MOBYNC_SECRET", SECRET)
    app = create_app(Settings(f"sqlite:///{tmp_path}/x.db", None, allow_origin=[APP]))
    statuses = {ZeroDivisionError("a bug"): 500, UnavailableError("it is away"): 503}
    pull = {"auth_token": owner_token(), "logical_clock": 0, "diffs": []}
    with on_uvicorn(app) as (host, port):
        for error, status in statuses.items():

            def fail(self: Any, body: Any, owner_id: str, error: Exception = error) -> bytes:
                raise error

            monkeypatch.setattr(MeasuredMobync, "apply_json", fail)
            answer = requests.post(
                f"http://{host}:{port}/sync", json=pull, headers={"Origin": APP}, timeout=PATIENCE_S
            )
            assert answer.status_code == status
            assert answer.headers["Access-Control-Allow-Origin"] == APP
    assert answer.headers["Retry-After"] == "1"


@pytest.mark.parametrize(
    ("origin", "advice"),
    [
        ("*", "name each site"),
        ("null", "names no site"),
        ("app.example", "is not an origin"),
        ("https://", "is not an origin"),
        ("file://", "is not an origin"),
        ("", "is not an origin"),
        ("https://*.example", "is not an origin"),
        ("https://a.example https://b.example", "is not an origin"),
        ("https://app.example\n", "write https://app.example"),
        ("https://app.example/", "write https://app.example"),
        ("https://app.example/login?x=1", "write https://app.example"),
        ("https://app.example:443", "write https://app.example"),
        ("http://app.example:80", "write http://app.example"),
        ("https://App.Example", "write https://app.example"),
        ("https://bücher.example", "write https://xn--bcher-kva.example"),
        ("https://user@app.example", "write https://app.example"),
        ("https://app.example:99999", "is not an origin"),
        ("https://[::1", "is not an origin"),
    ],
)
def test_an_origin_that_no_browser_sends_is_an_error_at_the_start(origin, advice, tmp_path):
    with pytest.raises(ValueError, match=r".") as refused:
        check_origin(origin)
    assert advice in str(refused.value)
    if origin in ("*", "https://app.example/"):
        done = mobync(tmp_path, "serve", "--allow-origin", origin)
        assert done.returncode == 2
        assert "--allow-origin" in done.stderr
        assert advice in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    "origin",
    [
        APP,
        PHONE,
        "http://localhost:5173",
        "http://127.0.0.1:8080",
        "http://[::1]:3000",
        "tauri://localhost",
        "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
        "https://app.example:8443",
        "http://app.example:443",
    ],
)
def test_what_browsers_send_as_an_origin_is_one(origin):
    check_origin(origin)


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def http_server(handler: type[BaseHTTPRequestHandler]) -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


_SYNC_IN_PAGE = """
async ([url, token, request]) => {
    const headers = {
        "Authorization": "Bearer " + token, "Content-Type": "application/json", "X-Request-ID": "r",
    };
    const body = JSON.stringify(request);
    const answer = await fetch(url + "/sync", {method: "POST", headers, body});
    const stream = await fetch(url + "/sync/events", {headers: {...headers, "Last-Event-ID": "0"}});
    const reader = stream.body.getReader();
    let told = "";
    while (stream.ok && !told.includes("data:"))
        told += new TextDecoder().decode((await reader.read()).value);
    return [
        answer.status, answer.headers.get("X-Request-ID"), await answer.json(), told,
    ];
}
"""


def test_a_page_of_an_allowed_origin_syncs_in_a_real_browser_and_another_cannot(page, tmp_path):
    request = {"logical_clock": 0, "diffs": [diff(1, "create", id="t", name="milk")]}
    with http_server(_Page) as mine, http_server(_Page) as theirs:
        origin, other = (f"http://127.0.0.1:{site.server_port}" for site in (mine, theirs))
        with serving(tmp_path, "--allow-origin", origin, MOBYNC_SECRET=SECRET) as server:
            page.goto(origin)
            arguments = [server.url, owner_token(), request]
            status, request_id, reply, event = page.evaluate(_SYNC_IN_PAGE, arguments)
            assert (status, request_id, reply["logical_clock"]) == (200, "r", 1)
            assert "data: 1" in event
            refused = page.evaluate(_SYNC_IN_PAGE, [server.url, "nonsense", request])
            assert (refused[0], refused[2]["code"]) == (401, "unauthenticated")
            page.goto(other)
            with pytest.raises(Exception, match="Failed to fetch"):
                page.evaluate(_SYNC_IN_PAGE, arguments)
            assert server.metric("mobync_syncs_total") == 1


# ---- JWTs ---------------------------------------------------------------------------------------

KEYS: dict[str, Any] = {
    "rsa": rsa.generate_private_key(65537, 2048),
    "rsa 2": rsa.generate_private_key(65537, 2048),
    "ec": ec.generate_private_key(ec.SECP256R1()),
    "ec 384": ec.generate_private_key(ec.SECP384R1()),
    "ed": ed25519.Ed25519PrivateKey.generate(),
}


def public(name: str, **more: Any) -> dict[str, Any]:
    """A key as a member of a set."""
    key = KEYS[name].public_key()
    kinds = {"rsa": RSAAlgorithm, "ec": ECAlgorithm, "ed": OKPAlgorithm}
    made = json.loads(kinds[name.split(maxsplit=1)[0]].to_jwk(key))
    made.pop("key_ops", None)
    return made | {"kid": name} | more


def key_set(*names: str) -> bytes:
    return json.dumps({"keys": [public(name) for name in names]}).encode()


def claims(owner: str = "anna", lifetime_s: float = 3600, **more: Any) -> dict[str, Any]:
    return {"sub": owner, "exp": int(time.time() + lifetime_s)} | more


def signed(name: str, algorithm: str, content: Mapping[str, Any], **header: Any) -> str:
    return jwt.encode(dict(content), KEYS[name], algorithm, headers={"kid": name} | header)


def by_hand(header: Mapping[str, Any], content: Mapping[str, Any], key: bytes | None) -> str:
    """A token as an attacker makes it, whatever a library says."""
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in (header, content)
    ]
    text = b".".join(parts)
    digest = b"" if key is None else hmac.digest(key, text, hashlib.sha256)
    return (text + b"." + base64.urlsafe_b64encode(digest).rstrip(b"=")).decode()


class Issuer(BaseHTTPRequestHandler):
    """Serves a set of keys.  What it answers is that of its server."""

    def do_GET(self) -> None:
        self.server.asked += 1
        self.server.answer(self)

    def log_message(self, *_: Any) -> None:
        pass


def answering(body: bytes, status: int = 200, **headers: str) -> Callable[[Any], None]:
    def answer(request: Issuer) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


@pytest.fixture
def issuer() -> Iterator[Any]:
    with http_server(Issuer) as server:
        server.asked = 0
        server.answer = answering(key_set("rsa"))
        server.url = f"http://127.0.0.1:{server.server_port}/keys"
        yield server


def status_of(server: Server, token: str) -> tuple[int, str | None]:
    answer = server.get("/sync/events", token, stream=True)
    with answer:
        code = None if answer.status_code == 200 else answer.json()["code"]
        return answer.status_code, code


ACCEPTED = (200, None)
FORGED = (401, "unauthenticated")
EXPIRED = (401, "token_expired")


def owners_of_syncs(server):
    return {event["owner"] for event in server.events() if event["message"] == "sync"}


def test_jwts_of_a_key_set_are_taken_beside_mobyncs_own_tokens(issuer, tmp_path):
    issuer.answer = answering(key_set("rsa", "ec", "ec 384", "ed"))
    with serving(tmp_path, "--jwks", issuer.url, MOBYNC_SECRET=SECRET) as server:
        milk = diff(1, "create", id="t", name="milk")
        first = signed("rsa", "RS256", claims("anna"))
        assert server.sync(first, 0, milk).json()["logical_clock"] == 1
        for token in (
            signed("rsa", "PS384", claims("anna")),
            signed("ec", "ES256", claims("anna")),
            signed("ec 384", "ES384", claims("anna")),
            signed("ed", "EdDSA", claims("anna")),
            owner_token("anna"),
        ):
            assert len(server.sync(token).json()["diffs"]) == 1
            assert status_of(server, token) == ACCEPTED
        assert server.sync(signed("rsa", "RS256", claims("bob"))).json()["diffs"] == []
        eventually(lambda: owners_of_syncs(server) == {"anna", "bob"})


def test_an_expired_jwt_is_told_from_a_forged_one_in_the_code_and_in_the_log(issuer, tmp_path):
    with serving(
        tmp_path,
        "--jwks",
        issuer.url,
        "--jwt-audience",
        "todo",
        "--jwt-issuer",
        "https://id.example",
        MOBYNC_SECRET=SECRET,
    ) as server:
        good = claims(aud="todo", iss="https://id.example")
        late = {"exp": int(time.time() - 60)}
        assert status_of(server, signed("rsa", "RS256", good)) == ACCEPTED
        assert status_of(server, signed("rsa", "RS256", good | {"aud": ["x", "todo"]})) == ACCEPTED
        assert status_of(server, signed("rsa", "RS256", good | late)) == EXPIRED
        for content in (
            good | {"aud": "another"},
            good | {"aud": "another"} | late,
            good | {"iss": "https://evil.example"},
            {name: value for name, value in good.items() if name != "aud"},
            {name: value for name, value in good.items() if name != "iss"},
            {name: value for name, value in good.items() if name != "exp"},
            {name: value for name, value in good.items() if name != "sub"},
            good | {"sub": ""} | late,
            good | {"nbf": int(time.time() + 3600)},
        ):
            assert status_of(server, signed("rsa", "RS256", content)) == FORGED, content
        forged = signed("rsa 2", "RS256", good | late, kid="rsa")
        assert status_of(server, forged) == FORGED
        refusals = server.wait_for_events(11, lambda event: "code" in event)
        codes = [event["code"] for event in refusals]
        assert codes.count("token_expired") == 1
        assert codes.count("unauthenticated") == 10
        said = [event["message"] for event in server.events() if "JWT" in event["message"]]
        assert any("udience" in message for message in said)
        assert any("ssuer" in message for message in said)
        assert any("ignature" in message for message in said)
        assert server.metric('mobync_refusals_total{code="token_expired"}') == 1


def test_a_token_that_is_for_others_is_not_for_a_server_that_names_no_audience(issuer, tmp_path):
    with serving(tmp_path, "--jwks", issuer.url, MOBYNC_SECRET=SECRET) as server:
        assert status_of(server, signed("rsa", "RS256", claims(aud="another app"))) == FORGED
        assert status_of(server, signed("rsa", "RS256", claims())) == ACCEPTED


def test_no_token_chooses_how_it_is_verified(issuer, tmp_path):
    issuer.answer = answering(key_set("rsa", "ec"))
    own = rsa.generate_private_key(65537, 2048)
    own_jwk = json.loads(RSAAlgorithm.to_jwk(own.public_key()))
    pem, der = (
        KEYS["rsa"].public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
        for encoding in (Encoding.PEM, Encoding.DER)
    )
    forged = [
        by_hand({"alg": "HS256", "kid": "rsa"}, claims(), secret)
        for secret in (pem, pem.strip(), der, public("rsa")["n"].encode(), b"")
    ]
    forged += [
        by_hand({"alg": none, **kid}, claims(), None)
        for none in ("none", "None", "nOnE", "", None, ["RS256"])
        for kid in ({}, {"kid": "rsa"})
    ]
    forged += [
        by_hand({"kid": "rsa"}, claims(), pem),
        signed("ec", "ES256", claims(), kid="rsa"),
        signed("rsa", "RS256", claims(), kid="ec"),
        jwt.encode(claims(), own, "RS256", headers={"kid": "rsa", "jwk": own_jwk}),
        jwt.encode(claims(), own, "RS256", headers={"kid": "rsa", "jku": issuer.url}),
        jwt.encode(claims(), own, "RS256", headers={"kid": "rsa", "x5u": issuer.url}),
        by_hand({"alg": "RS256", "kid": "rsa", "crit": ["x"], "x": 1}, claims(), pem),
        signed("rsa", "RS256", claims())[:-2] + "AA",
        "a.b.c",
        "..",
        "e30.e30.",
    ]
    options = ("--jwks", issuer.url)
    # With a secret as well, the names of its algorithms are known, and the keys must not be it.
    with serving(tmp_path, *options, MOBYNC_SECRET=SECRET, MOBYNC_JWT_SECRET=JWT_SECRET) as server:
        for token in forged:
            assert status_of(server, token) == FORGED, token
        for algorithm in ("HS256", "HS384", "HS512"):
            assert status_of(server, jwt.encode(claims(), JWT_SECRET, algorithm)) == ACCEPTED
        assert status_of(server, signed("rsa", "RS256", claims())) == ACCEPTED
        assert issuer.asked == 2  # when it started, and when its worker did


def test_a_new_key_is_taken_and_an_old_one_is_not_any_more(issuer, tmp_path):
    with serving(tmp_path, "--jwks", issuer.url, MOBYNC_SECRET=SECRET) as server:
        before, after = (signed(name, "RS256", claims()) for name in ("rsa", "rsa 2"))
        assert status_of(server, before) == ACCEPTED
        issuer.answer = answering(key_set("rsa 2"))
        eventually(lambda: status_of(server, after) == ACCEPTED)
        assert status_of(server, before) == FORGED


def test_whatever_keys_tokens_name_the_issuer_is_asked_seldom(issuer, tmp_path):
    with serving(tmp_path, "--jwks", issuer.url, MOBYNC_SECRET=SECRET) as server:
        asked_at_start, began = issuer.asked, time.monotonic()
        for number in range(100):
            token = signed("rsa", "RS256", claims(), kid=f"no such key {number}")
            assert status_of(server, token) in (FORGED, (503, "unavailable"))
        most = 1 + (time.monotonic() - began) / _keys.SELDOM_S
        assert issuer.asked - asked_at_start <= most


def test_an_issuer_that_hangs_holds_up_no_request(issuer, tmp_path):
    hangs, go_on = threading.Event(), threading.Event()

    def hang(request: Issuer) -> None:
        hangs.set()
        go_on.wait(PATIENCE_S)

    known, unknown = (signed("rsa", "RS256", claims(), kid=kid) for kid in ("rsa", "new"))
    with serving(tmp_path, "--jwks", issuer.url, "--threads", "1", MOBYNC_SECRET=SECRET) as server:
        issuer.answer = hang
        try:
            eventually(lambda: status_of(server, unknown)[0] == 503)
            assert hangs.wait(PATIENCE_S)
            for _ in range(5):
                assert status_of(server, known) == ACCEPTED
                assert server.sync(owner_token()).status_code == 200
            answer = server.get("/sync/events", unknown)
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert answer.headers["Retry-After"] == "1"
        finally:
            go_on.set()
        server.log.wait_for("cannot be read")
        assert status_of(server, known) == ACCEPTED


def test_a_worker_starts_though_the_issuer_is_away_and_learns_the_keys_later(
    issuer, tmp_path, monkeypatch
):
    monkeypatch.setenv("MOBYNC_SECRET", SECRET)
    monkeypatch.setattr(_keys, "SELDOM_S", 0.01)
    issuer.answer = answering(b"", 500)
    url = f"sqlite:///{tmp_path}/x.db"
    with open_database(database_url(url)) as engine:
        make_tables(DocumentSynchronizer(engine), engine)
    app = create_app(Settings(url, None, jwks=issuer.url))
    bearer = {"Authorization": f"Bearer {signed('rsa', 'RS256', claims())}"}
    pull = {"logical_clock": 0, "diffs": []}
    with on_uvicorn(app) as (host, port):

        def status() -> int:
            url = f"http://{host}:{port}/sync"
            return requests.post(url, json=pull, headers=bearer, timeout=PATIENCE_S).status_code

        assert status() == 503
        issuer.answer = answering(key_set("rsa"))
        eventually(lambda: status() == 200)


def test_keys_are_used_for_a_day_while_their_issuer_is_away_and_read_again_meanwhile(
    issuer, monkeypatch
):
    keys = KeySet(issuer.url)
    keys.load()
    issuer.answer = answering(b"", 503)
    monkeypatch.setattr(_keys, "FRESH_S", 0.0)
    monkeypatch.setattr(_keys, "SELDOM_S", 0.0)
    asked = issuer.asked
    assert keys.find("rsa", "RS256") is not None
    eventually(lambda: issuer.asked > asked)
    assert keys.find("rsa", "RS256") is not None
    monkeypatch.setattr(_keys, "KEPT_S", 0.0)
    with pytest.raises(UnavailableError):
        keys.find("rsa", "RS256")
    issuer.answer = answering(key_set("rsa"))
    monkeypatch.setattr(_keys, "KEPT_S", 3600.0)
    monkeypatch.setattr(_keys, "FRESH_S", 3600.0)
    keys.find("rsa", "RS256")


def test_a_key_without_a_name_is_for_tokens_without_one_if_it_is_the_only_one(tmp_path):
    nameless = [public("rsa"), public("ec")]
    for key in nameless:
        del key["kid"]
    for keys, accepted in {1: True, 2: True, 3: False}.items():
        file = tmp_path / f"{keys}.json"
        members = [*nameless, public("rsa 2")][:keys]
        file.write_text(json.dumps({"keys": members}))
        file.chmod(0o644)
        loaded = KeySet(str(file))
        loaded.load()
        token = jwt.encode(claims(), KEYS["rsa"], "RS256")
        assert JWTs(None, loaded).owner(token) == ("anna" if accepted else None)


def test_a_key_verifies_what_its_set_says_only(tmp_path, caplog):
    caplog.set_level(logging.CRITICAL, "mobync.server")
    file = tmp_path / "keys.json"
    members = [public("rsa", alg="RS512"), public("ec", use="enc"), public("ed", alg="ES256")]
    file.write_text(json.dumps({"keys": [*members, {"kty": "XYZ"}, {"kty": ["RSA"]}, 7]}))
    file.chmod(0o644)
    keys = KeySet(str(file))
    keys.load()
    jwts = JWTs(None, keys)
    assert jwts.owner(signed("rsa", "RS512", claims())) == "anna"
    assert jwts.owner(signed("rsa", "RS256", claims())) is None
    for name, algorithm in (("ec", "ES256"), ("ed", "EdDSA")):
        assert jwts.owner(signed(name, algorithm, claims())) is None


@pytest.mark.parametrize(
    ("claim", "value", "owner"),
    [
        ("sub", "anna", "anna"),
        ("user_id", 7, "7"),
        ("https://app.example/owner", "team 1", "team 1"),
        ("user_id", True, None),
        ("user_id", 1.5, None),
        ("user_id", None, None),
        ("user_id", ["anna"], None),
        ("user_id", "anna ", None),
        ("user_id", "a" * 256, None),
        ("user_id", "a\0b", None),
    ],
)
def test_the_owner_is_what_the_named_claim_says(claim, value, owner):
    jwts = JWTs(JWT_SECRET, None, owner_claim=claim)
    content = {"sub": "somebody"} | claims("somebody") | {claim: value}
    assert jwts.owner(jwt.encode(content, JWT_SECRET, "HS256")) == owner


@pytest.mark.parametrize("expires", ["soon", None, [], {}, "1e999"])
def test_a_signed_claim_of_an_odd_form_is_refused_and_not_a_bug(expires):
    text = json.dumps(claims() | {"exp": expires}).replace('"1e999"', "1e999")
    body = base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()
    head = base64.urlsafe_b64encode(b'{"alg": "HS256"}').rstrip(b"=").decode()
    digest = hmac.digest(JWT_SECRET.encode(), f"{head}.{body}".encode(), hashlib.sha256)
    token = f"{head}.{body}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"
    assert JWTs(JWT_SECRET, None).owner(token) is None


# ---- starting -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (answering(b"", 404), "answers 404"),
        (answering(b"", 302, Location="/elsewhere"), "use the URL that it redirects to"),
        (answering(b"<html>"), "not JSON"),
        (answering(b"[" * 100_000), "not JSON"),
        (answering(b"{}"), "an object with a list 'keys'"),
        (answering(b'{"keys": []}'), "no key in it can verify a token"),
        (answering(b'{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}'), "it is not public"),
        (answering(b" " * (_keys.MAX_BYTES + 1)), "longer than"),
    ],
)
def test_keys_that_cannot_be_used_end_the_start(answer, complaint, issuer, tmp_path):
    issuer.answer = answer
    with pytest.raises(KeysError) as refused:
        KeySet(issuer.url).load()
    assert complaint in str(refused.value)
    if complaint == "answers 404":
        done = mobync(tmp_path, "serve", "--jwks", issuer.url, MOBYNC_SECRET=SECRET)
        assert done.returncode == 1
        assert done.stderr == (
            f"Error: --jwks: the keys at {issuer.url} cannot be used: its server answers 404\n"
        )


def test_keys_that_trickle_are_given_up(issuer, monkeypatch):
    monkeypatch.setattr(_keys, "READ_S", 0.05)
    stop = threading.Event()

    def trickle(request: Issuer) -> None:
        request.send_response(200)
        request.end_headers()
        while not stop.wait(0.01):
            try:
                request.wfile.write(b" ")
            except OSError:
                return

    issuer.answer = trickle
    try:
        with pytest.raises(KeysError, match="did not arrive within"):
            KeySet(issuer.url).load()
    finally:
        stop.set()


@pytest.mark.parametrize(
    ("options", "variables", "complaint"),
    [
        (["--jwks", "http://127.0.0.1:1/keys"], {}, "Connection refused"),
        (["--jwks", "none.json"], {}, "No such file"),
        (["--jwks", "ftp://id.example/keys"], {}, "must be a URL https://host/"),
        (["--jwks", "https://user:hidden@id.example/"], {}, "without a user"),
        (["--jwks", "https://id.example:port/"], {}, "is not a URL"),
        (["--jwt-secret-file", "none"], {}, "none cannot be used"),
        ([], {"MOBYNC_JWT_SECRET": "short"}, "must have at least 32 bytes"),
        ([], {"MOBYNC_JWT_SECRET": ""}, "must have at least 32 bytes"),
    ],
)
def test_what_cannot_verify_jwts_is_said_at_the_start(options, variables, complaint, tmp_path):
    done = mobync(tmp_path, "serve", *options, MOBYNC_SECRET=SECRET, **variables)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "options", [["--jwt-audience", "x"], ["--jwt-issuer", "x"], ["--jwt-owner-claim", "x"]]
)
def test_options_for_jwts_with_nothing_that_verifies_them_are_a_misuse(options, tmp_path):
    done = mobync(tmp_path, "serve", *options, MOBYNC_SECRET=SECRET)
    assert done.returncode == 2
    assert "nothing that verifies them" in " ".join(done.stderr.split())


def test_a_secret_of_jwts_is_kept_as_mobyncs_own_is(tmp_path):
    file = tmp_path / "jwt secret"
    file.write_text(JWT_SECRET + "\n")
    file.chmod(0o644)
    options = ("--jwt-secret-file", str(file))
    done = mobync(tmp_path, "serve", *options, MOBYNC_SECRET=SECRET)
    assert done.returncode == 1
    assert "its mode is 644" in done.stderr
    file.chmod(0o600)
    with serving(tmp_path, *options, MOBYNC_SECRET=SECRET) as server:
        assert status_of(server, jwt.encode(claims(), JWT_SECRET, "HS256")) == ACCEPTED
        assert status_of(server, jwt.encode(claims(), JWT_SECRET + "x", "HS256")) == FORGED
        expired = jwt.encode(claims(lifetime_s=-60), JWT_SECRET, "HS256")
        assert status_of(server, expired) == EXPIRED


def test_a_short_secret_verifies_no_longer_hash_and_a_public_key_is_no_secret():
    jwts = JWTs("x" * 40, None)
    for algorithm, owner in {"HS256": "anna", "HS384": None, "HS512": None}.items():
        text = {"alg": algorithm}, claims()
        token = by_hand(*text, b"x" * 40)
        assert jwts.owner(token) == owner
    pem = KEYS["rsa"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(SecretError, match="public keys go into a key set"):
        JWTs(pem.decode(), None)


def test_a_key_set_that_others_may_write_is_refused(tmp_path):
    file = tmp_path / "keys.json"
    file.write_bytes(key_set("rsa"))
    file.chmod(0o666)
    with pytest.raises(KeysError, match="its mode is 666"):
        KeySet(str(file)).load()
    file.chmod(0o644)
    KeySet(str(file)).load()


def test_short_and_private_keys_are_refused(tmp_path):
    file = tmp_path / "keys.json"
    short = rsa.generate_private_key(65537, 1024)
    private = json.loads(RSAAlgorithm.to_jwk(KEYS["rsa"]))
    private.pop("key_ops")
    for member, complaint in (
        (json.loads(RSAAlgorithm.to_jwk(short.public_key())), "it has 1024 bits"),
        (private, "it is not public"),
    ):
        file.write_text(json.dumps({"keys": [member]}))
        file.chmod(0o644)
        with pytest.raises(KeysError, match=complaint):
            KeySet(str(file)).load()


def test_a_url_that_is_not_https_is_warned_of(caplog):
    KeySet("http://id.example/keys")
    assert "is not https" in caplog.text
    caplog.clear()
    KeySet("https://id.example/keys")
    KeySet("http://127.0.0.1/keys")
    assert caplog.text == ""
