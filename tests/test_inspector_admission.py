"""Who may open the inspector of `mobync serve`: who has a token or a link that works once."""

from __future__ import annotations

import os
import pty
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from server_process import MOBYNC, PATIENCE_S, Server, mobync, serving
from starlette.requests import Request

from mobync.server._admission import Admission, OneTimeCode
from mobync.server.tokens import SecretError, Tokens

SECRET = "a secret for tests, long enough"
OWNERS = "/inspect/api/owners"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path, "--print-link", MOBYNC_SECRET=SECRET) as running:
        yield running


def link_of(server: Server) -> str:
    return server.log.wait_for(r"the inspector \(the link opens once\): (http://[^\s\"]+)")[1]


def status(server: Server, **headers: str) -> int:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.get(OWNERS, headers=given).status_code


def test_a_browser_on_the_servers_machine_needs_a_token_like_any_other(server, tmp_path):
    assert "<html" in server.get("/").text
    assert status(server) == 401
    assert status(server, Host="localhost") == 401
    assert server.get(OWNERS, Tokens(SECRET).for_owner("anna", 60)).status_code == 401
    admin = mobync(tmp_path, "token", "--admin", MOBYNC_SECRET=SECRET).stdout.strip()
    assert server.get(OWNERS, admin).json()["owners"] == []


@pytest.mark.parametrize("mode", ["without-token", "loopback"])  # the latter is of mobync 1.0
def test_only_an_option_that_says_so_lets_in_this_machine_and_no_proxy_on_it(tmp_path, mode):
    with serving(tmp_path, "--inspector", mode, MOBYNC_SECRET=SECRET) as server:
        assert status(server) == 200
        assert status(server, Host="evil.example") == 401
        for header in ("Via", "X-Forwarded-Host", "CF-Connecting-IP", "Forwarded", "X-Real-IP"):
            assert status(server, **{header: "192.0.2.1"}) == 401
    with serving(tmp_path, "--inspector", "off", MOBYNC_SECRET=SECRET) as closed:
        assert closed.get("/").status_code == 404
        assert closed.get("/inspect/open?code=x").status_code == 404


def test_the_link_opens_it_once_for_the_browser_that_follows_it(server):
    link = link_of(server)
    browser, late = requests.Session(), requests.Session()
    for early in (requests.head(link, timeout=PATIENCE_S), requests.get(f"{link}x", timeout=60)):
        assert early.status_code == 403
    prefetched = requests.get(link, headers={"Sec-Purpose": "prefetch"}, timeout=PATIENCE_S)
    assert prefetched.status_code == 403

    opened = browser.get(link, allow_redirects=False, timeout=PATIENCE_S)
    assert (opened.status_code, opened.headers["Location"]) == (303, "../")
    assert opened.headers["Cache-Control"] == "no-store"
    assert opened.headers["Referrer-Policy"] == "no-referrer"
    cookie = opened.headers["Set-Cookie"]
    assert "; HttpOnly" in cookie
    assert "; SameSite=strict" in cookie
    assert browser.get(server.url + OWNERS, timeout=PATIENCE_S).status_code == 200
    elsewhere = browser.get(
        server.url + OWNERS, headers={"Sec-Fetch-Site": "same-site"}, timeout=PATIENCE_S
    )
    assert elsewhere.status_code == 401

    used = late.get(link, timeout=PATIENCE_S)
    assert used.status_code == 403
    assert "works once" in used.text
    assert late.get(server.url + OWNERS, timeout=PATIENCE_S).status_code == 401


def test_all_workers_know_that_the_link_is_used(tmp_path):
    with serving(tmp_path, "--print-link", "--workers", "2", MOBYNC_SECRET=SECRET) as server:
        link = link_of(server)
        answers = [requests.get(link, allow_redirects=False, timeout=60) for _ in range(10)]
        assert [answer.status_code for answer in answers] == [303] + [403] * 9
        cookie = {"Cookie": answers[0].headers["Set-Cookie"].partition(";")[0]}
        assert {status(server, **cookie) for _ in range(10)} == {200}


def test_the_link_is_printed_on_a_terminal_and_is_in_no_log(tmp_path):
    with serving(tmp_path, MOBYNC_SECRET=SECRET) as quiet:
        assert not any("/inspect/open" in line for line in quiet.log.lines)
        assert quiet.get("/inspect/open?code=").status_code == 403
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(tmp_path)
        os.execve(MOBYNC[0], [*MOBYNC, "serve", "--port", "0"], os.environ)
    try:
        shown = b""
        while b"running on" not in shown:
            shown += os.read(terminal, 1000)
        assert re.search(rb"once\): http://127\.0\.0\.1:\d+/inspect/open\?code=\S{40}", shown)
    finally:
        os.kill(process, 15)
        os.waitpid(process, 0)
        os.close(terminal)


def test_a_session_is_no_token_and_a_token_is_no_session(tmp_path):
    tokens = Tokens(SECRET)
    session, admin = tokens.for_session(60), tokens.for_admin(60)
    assert tokens.is_session(session)
    assert not tokens.is_session(admin)
    assert not tokens.is_session(tokens.for_session(-1))
    assert not tokens.is_admin(session)
    assert tokens.owner(session, {}) is None

    admission = Admission("token", tokens, OneTimeCode(tmp_path / "code"))
    for given, allowed in ((session, True), (admin, False), ("", False)):
        cookie = (b"cookie", f"mobync_inspector_8000={given}".encode())
        headers = [(b"host", b"localhost:8000"), cookie]
        assert admission.allow(Request({"type": "http", "headers": headers})) is allowed
        headers.append((b"authorization", b"Bearer wrong"))
        assert not admission.allow(Request({"type": "http", "headers": headers}))


def test_a_token_of_the_environment_is_an_administrators(tmp_path):
    token = "an administrator's own token"
    with serving(tmp_path, MOBYNC_SECRET=SECRET, MOBYNC_ADMIN_TOKEN=token) as server:
        assert server.get(OWNERS, token).status_code == 200
        assert server.get(OWNERS, token[:-1]).status_code == 401
        assert server.sync(token).status_code == 401
    for wrong, complaint in (("short", "at least 16 characters"), ("é" * 16, "ASCII text")):
        done = mobync(tmp_path, "serve", MOBYNC_SECRET=SECRET, MOBYNC_ADMIN_TOKEN=wrong)
        assert done.returncode == 1
        assert "MOBYNC_ADMIN_TOKEN: the administrator's token must" in done.stderr
        assert complaint in done.stderr
    with pytest.raises(SecretError, match="administrator's token"):
        Tokens(SECRET, "short")
