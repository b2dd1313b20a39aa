"""Every adapter answers alike, by real HTTP: the table of http_cases.py on each of them."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection

import http_servers
import pytest
from http_cases import BEARER, CASES, GZIP, JSON, MANY, PULL, TIMEOUT_S, Case, ask, new_owner
from http_servers import SERVERS, TAKES_ALL_FIRST, WITHOUT_CHUNKS, Address

address_of = http_servers.address_of
address = http_servers.address


@pytest.mark.parametrize(
    ("address", "case"),
    [
        pytest.param(server, case, id=f"{server}-{case}")
        for server in SERVERS
        for case in CASES
        if not (case.chunked and server in WITHOUT_CHUNKS)
    ],
    indirect=["address"],
)
def test_every_adapter_answers_by_the_table(address: Address, case: Case) -> None:
    case.check(ask(address, case, case.owner or new_owner()))


@pytest.mark.parametrize(
    ("accepts", "zipped"),
    [
        ("gzip", True),
        ("br;q=1.0, gzip;q=0.8, *;q=0.1", True),
        ("*", True),
        ("gzip;q=0", False),
        ("deflate", False),
        ("gzip;q=x", False),
        ("", False),
    ],
)
def test_a_long_reply_is_zipped_for_who_takes_it(
    address: Address, accepts: str, zipped: bool
) -> None:
    owner = new_owner()
    ask(address, Case("push", 200, MANY), owner)

    headers = (BEARER, JSON, ("Accept-Encoding", accepts))
    answer = ask(address, Case("pull", 200, PULL, headers), owner)

    assert (answer.headers["Content-Encoding"] == "gzip") is zipped
    assert len(answer.json["diffs"]) == 100


def test_what_was_sent_in_gzip_comes_to_another_device(address: Address) -> None:
    owner = new_owner()
    pushed = Case("push", 200, MANY, (BEARER, JSON, GZIP), zipped=True)
    assert ask(address, pushed, owner).json["logical_clock"] == 100

    got = ask(address, Case("pull", 200), owner).json["diffs"]

    sent = json.loads(MANY.replace(b"{owner}", owner.encode()))["diffs"]
    assert [diff["json_data"] for diff in got] == [diff["json_data"] for diff in sent]


def test_a_client_that_hangs_up_harms_nobody(address: Address) -> None:
    owner = new_owner()
    heads = [b"Content-Length: 1000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n3e8\r\n"]
    for head in heads:
        with closing(socket.create_connection(address, TIMEOUT_S)) as client:
            client.sendall(
                b"POST /sync HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                b"Authorization: Bearer token-of-" + owner.encode() + b"\r\n" + head + PULL
            )

    answer = ask(address, Case("pull", 200), owner)

    assert answer.json["logical_clock"] == 0


@pytest.mark.parametrize(
    "head",
    [
        "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        "Transfer-Encoding: chunked\r\n\r\n3\r\n{} and no end of the chunk",
        "Transfer-Encoding: chunked\r\n\r\n-5\r\n{}\r\n0\r\n\r\n",
        "Content-Length: -5\r\n\r\n{}",
        "Content-Length: many\r\n\r\n{}",
        "Content-Length: 2\r\nContent-Length: 1\r\n\r\n{}",
    ],
)
def test_a_body_without_a_clear_end_is_a_bad_request(address: Address, head: str) -> None:
    with closing(socket.create_connection(address, TIMEOUT_S)) as client:
        client.sendall(
            b"POST /sync HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Authorization: Bearer token-of-x\r\nConnection: close\r\n" + head.encode()
        )
        client.shutdown(socket.SHUT_WR)
        status_line = client.makefile("rb").readline()

    assert status_line.split()[1:2] in ([b"400"], [b"413"]), status_line


@pytest.mark.parametrize("server", [name for name in SERVERS if name not in TAKES_ALL_FIRST])
def test_a_wrong_token_of_the_header_is_refused_while_the_body_is_still_to_come(
    address_of: Callable[[str], Address], server: str
) -> None:
    with closing(socket.create_connection(address_of(server), TIMEOUT_S)) as client:
        client.sendall(
            b"POST /sync HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Authorization: Bearer wrong\r\nContent-Length: 1000\r\n\r\n{"
        )
        status_line = client.makefile("rb").readline()

    assert status_line.split()[1:2] == [b"401"]


def test_a_client_that_stalls_keeps_nobody_waiting(address: Address) -> None:
    with closing(socket.create_connection(address, TIMEOUT_S)) as client:
        client.sendall(
            b"POST /sync HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000\r\n\r\n{"
        )
        assert ask(address, Case("pull", 200), new_owner()).status == 200


def test_a_connection_goes_on_after_a_refusal(address: Address) -> None:
    answers = {415: {}, 401: dict([JSON]), 200: dict([JSON, BEARER])}
    with closing(HTTPConnection(*address, timeout=TIMEOUT_S)) as connection:
        for status in [*answers] * 2:
            connection.request("POST", "/sync", PULL, answers[status])
            response = connection.getresponse()
            response.read()
            assert response.status == status
