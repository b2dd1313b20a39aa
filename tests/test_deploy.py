"""What deploy/ has is used: proxies before real servers, units, the image's command, dashboards."""

from __future__ import annotations

import getpass
import json
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import requests
import yaml
from databases import open_database
from server_process import PATIENCE_S, Server, diff, eventually, free_port, mobync, serving

from mobync.server.commands import main as commands
from mobync.server.tokens import Tokens

HOME = Path(__file__).resolve().parents[1]
DEPLOY = HOME / "deploy"
SECRET = "a secret for tests, long enough"
MIB = 1 << 20


# ---- two servers behind one proxy ---------------------------------------------------------------


class Proxy:
    """A proxy that runs, and an owner whom nobody else has.

    Attributes:
        url: where it answers.
        owner: the headers of the owner's devices.
        session: trusts the proxy's certificate.
    """

    def __init__(self, url: str, certificate: Path | None) -> None:
        self.url = url
        self.owner = {"Authorization": f"Bearer {Tokens(SECRET).for_owner(url, 3600)}"}
        self.session = requests.Session()
        self.session.trust_env = False
        if certificate is not None:
            self.session.verify = str(certificate)

    def sync(self, number: int, **row: Any) -> requests.Response:
        kind = "create" if number == 0 else "update"
        body = {"logical_clock": number, "diffs": [diff(number, kind, id="t", **row)]}
        url = f"{self.url}/sync"
        return self.session.post(url, json=body, headers=self.owner, timeout=PATIENCE_S)

    def get(self, path: str) -> requests.Response:
        return self.session.get(self.url + path, headers=self.owner, timeout=PATIENCE_S)


@contextmanager
def running(command: list[str], proxy: Proxy, **options: Any) -> Iterator[Proxy]:
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, **options)

    def answers() -> bool:
        assert process.poll() is None, f"{command[0]} ended"
        try:
            return proxy.get("/health").status_code == 404
        except requests.ConnectionError:
            return False

    try:
        eventually(answers)
        yield proxy
    finally:
        proxy.session.close()
        process.terminate()
        process.wait(PATIENCE_S)


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert old in text, f"the sample has no {old!r} any more"
        text = text.replace(old, new)
    return text


NGINX = """
user {user}; daemon off; pid {place}/pid; error_log {place}/error.log;
events {{}}
http {{
    access_log off; client_body_temp_path {place}/body; proxy_temp_path {place}/proxy;
    fastcgi_temp_path {place}/f; uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;
    include {place}/site.conf;
}}
"""


def nginx(place: Path, ports: list[int]) -> Any:
    certificate, port = place / "certificate.pem", free_port()
    made = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -keyout key.pem"
    made += " -addext subjectAltName=IP:127.0.0.1 -out certificate.pem"
    subprocess.run(made.split(), cwd=place, check=True, capture_output=True)
    server = "server 127.0.0.1:{} max_fails=2 fail_timeout=5s;"
    site = replaced(
        (DEPLOY / "nginx.conf").read_text(),
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("/etc/ssl/mobync/fullchain.pem", str(certificate)),
        ("/etc/ssl/mobync/privkey.pem", str(place / "key.pem")),
        (server.format(8000), "\n".join(server.format(port) for port in ports)),
    )
    (place / "site.conf").write_text(site)
    (place / "nginx.conf").write_text(NGINX.format(place=place, user=getpass.getuser()))
    command = [shutil.which("nginx", path="/usr/sbin:/usr/bin") or "nginx"]
    command += ["-c", str(place / "nginx.conf"), "-p", str(place), "-e", str(place / "error.log")]
    tested = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stderr
    assert "warn" not in tested.stderr
    return running(command, Proxy(f"https://127.0.0.1:{port}", certificate))


def caddy(place: Path, ports: list[int]) -> Any:
    url = f"http://127.0.0.1:{free_port()}"
    text = (DEPLOY / "Caddyfile").read_text()
    (place / "Caddyfile").write_text("{\n\tadmin off\n}\n" + text)
    program = str(Path(sys.executable).with_name("caddy"))
    environment = {
        "HOME": str(place),
        "MOBYNC_SITE": url,
        "MOBYNC_SERVERS": " ".join(f"127.0.0.1:{port}" for port in ports),
    }
    command = [program, "run", "--adapter", "caddyfile", "--config", str(place / "Caddyfile")]
    return running(command, Proxy(url, None), env=environment)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Two machines, as far as their processes know, with one PostgreSQL."""
    with ExitStack() as stack:
        place = tmp_path_factory.mktemp("servers")
        database = stack.enter_context(open_database("postgresql", place))
        url = database.url.render_as_string(hide_password=False)
        yield [
            stack.enter_context(serving(place, "-d", url, MOBYNC_SECRET=SECRET)) for _ in range(2)
        ]


@pytest.fixture(params=[nginx, caddy], ids=["nginx", "caddy"])
def proxy(request: pytest.FixtureRequest, tmp_path: Path, servers: list[Server]) -> Iterator[Proxy]:
    ports = [int(server.url.rpartition(":")[2]) for server in servers]
    with request.param(tmp_path, ports) as found:
        yield found


def test_devices_sync_and_listen_through_the_proxy(proxy: Proxy) -> None:
    events = f"{proxy.url}/sync/events"
    with proxy.session.get(events, headers=proxy.owner, stream=True, timeout=PATIENCE_S) as stream:
        assert stream.status_code == 200
        lines = stream.iter_lines(chunk_size=1)
        # Each is heard before the next: what a proxy keeps back would come with the next one.
        for number in range(4):
            assert proxy.sync(number, name=f"milk {number}").status_code == 200
            assert f"data: {number + 1}".encode() in lines  # reads on until it comes
    # More than nginx takes by default, less than --max-body-mib.
    assert proxy.sync(4, name="x" * 5 * MIB).status_code == 200
    assert proxy.sync(5, name="x" * 33 * MIB).status_code == 413
    for inside in ("/", "/metrics", "/health", "/api/owners"):
        assert proxy.get(inside).status_code == 404


@pytest.mark.parametrize("start", [nginx, caddy])
def test_a_server_that_is_gone_is_passed_over(
    start: Any, tmp_path: Path, servers: list[Server]
) -> None:
    there = int(servers[0].url.rpartition(":")[2])
    with start(tmp_path, [free_port(), there]) as proxy:
        assert {proxy.sync(number, name="milk").status_code for number in range(6)} == {200}


def test_nginx_limits_the_rate_of_a_token(tmp_path: Path) -> None:
    """All requests in one piece, and nobody behind nginx: so they are many in a second on a busy
    machine, too.
    """
    with nginx(tmp_path, [free_port()]) as proxy:
        port = int(proxy.url.rpartition(":")[2])
        request = (
            f"GET /sync HTTP/1.1\r\nHost: x\r\nAuthorization: {proxy.owner['Authorization']}\r\n"
        )
        trust = ssl.create_default_context(cafile=str(tmp_path / "certificate.pem"))
        with (
            socket.create_connection(("127.0.0.1", port), PATIENCE_S) as plain,
            trust.wrap_socket(plain, server_hostname="127.0.0.1") as link,
        ):
            link.sendall(
                f"{request}\r\n".encode() * 99 + f"{request}Connection: close\r\n\r\n".encode()
            )
            answers = b"".join(iter(lambda: link.recv(1 << 16), b""))
    statuses = re.findall(rb"HTTP/1.1 (\d+)", answers)
    assert len(statuses) == 100
    assert statuses[:41] == [b"502"] * 41  # the first, and a burst of 40
    assert b"429" in statuses[41:]


# ---- the image, compose, systemd ----------------------------------------------------------------


def test_the_command_of_the_image_serves_with_the_environment_of_compose(tmp_path: Path) -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    (command,) = re.findall(r"^CMD (\[.*\])$", dockerfile, re.M)
    options = json.loads(command)
    assert options.pop(0) == "serve"
    here = ["127.0.0.1" if word == "0.0.0.0" else word for word in options]
    del here[here.index("--port") : here.index("--port") + 2]  # a free one

    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert set(compose["services"]["mobync"]["environment"]) == {"MOBYNC_DATABASE", "MOBYNC_SECRET"}
    with open_database("postgresql", tmp_path) as database:
        environment = {
            "MOBYNC_DATABASE": database.url.render_as_string(hide_password=False),
            "MOBYNC_SECRET": SECRET,
        }
        with serving(tmp_path, *here, **environment) as server:
            token = mobync(tmp_path, "token", "anna", **environment).stdout.strip()
            assert server.sync(token, 0, diff(0, "create", id="t")).status_code == 200
            check = re.search(r"HEALTHCHECK.*?CMD (\[.*?\])$", dockerfile, re.S | re.M)
            assert check
            healthy = json.loads(check[1].replace("http://127.0.0.1:8000", server.url))
            assert subprocess.run([sys.executable, *healthy[1:]], check=False).returncode == 0
            assert server.stop() == 0
        assert subprocess.run(
            [sys.executable, *healthy[1:]], check=False, stderr=subprocess.DEVNULL
        ).returncode


def test_what_the_image_is_built_from_is_there() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    let_in = re.findall(r"^!(\S+)$", (HOME / ".dockerignore").read_text(), re.M)
    copied = [
        name
        for line in re.findall(r"^COPY ([^-].*) \S+$", dockerfile, re.M)
        for name in line.split()
    ]
    assert sorted(copied) == sorted(let_in)
    assert all((HOME / name).exists() for name in copied)
    (extras,) = re.findall(r"'\.\[([\w,-]+)\]'", dockerfile)
    pyproject = (HOME / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = \[", pyproject, re.M) for extra in extras.split(","))


UNITS = sorted(
    path.name for path in DEPLOY.glob("mobync*.*") if path.suffix in (".service", ".timer")
)


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for name in UNITS:
        text = (DEPLOY / name).read_text().replace("/opt/mobync/bin/mobync", sys.executable)
        (tmp_path / name).write_text(text)
    paths = [str(tmp_path / name) for name in UNITS]
    done = subprocess.run(
        ["systemd-analyze", "verify", *paths], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    exposed = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", paths[-1]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert paths[-1].endswith("mobync.service")
    assert exposed.returncode == 0, exposed.stdout


@pytest.mark.parametrize("name", [name for name in UNITS if name.endswith(".service")])
def test_the_commands_of_the_units_are_commands(name: str) -> None:
    (started,) = re.findall(r"^ExecStart=(.+)$", (DEPLOY / name).read_text(), re.M)
    program, command, *arguments = shlex.split(started)
    assert program == "/opt/mobync/bin/mobync"
    commands.commands[command].make_context(command, arguments)  # type: ignore[attr-defined]


# ---- metrics ------------------------------------------------------------------------------------


def expressions() -> list[str]:
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]
    return shown + [rule["expr"] for rule in rules]


def test_dashboard_and_alerts_ask_for_what_the_server_counts(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        text = server.get("/metrics").text
    counted = set(re.findall(r"^# TYPE (\w+)", text, re.M))
    counted |= {f"{name}_bucket" for name in counted}
    assert len(expressions()) > 10
    asked = set()
    for expression in expressions():
        promql_parser.parse(expression)  # raises what is wrong with it
        asked |= set(re.findall(r"\bmobync_\w+", expression))
    assert asked <= counted
    assert {name for name in counted if name.endswith("_total")} <= asked


def test_the_labels_that_alerts_name_are_those_of_the_server() -> None:
    said = "".join((HOME / "docs" / f"{page}.md").read_text() for page in ("server", "http"))
    for expression in expressions():
        for value in re.findall(r'(?:kind|code)!?=~?"([^"]+)"', expression):
            for word in value.split("|"):
                assert f"`{word}`" in said, word
