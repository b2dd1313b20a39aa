"""Devices with the real RxDB: on Node with its storage in memory, in Chromium with IndexedDB.

Between a device and the server is a proxy that can cut: it hands a request on, and the answer gets
lost or waits.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, Page

TESTS = Path(__file__).resolve().parent
MODULES = TESTS.parent / "clients" / "javascript" / "node_modules"
TIMEOUT_S = 60
PAGE = "<!doctype html><meta charset=utf-8><title>device</title><script src=/device.js></script>"


def bundle(entry: str, directory: Path, *options: str) -> Path:
    """Make one file of a program in tests/rxdb and what it imports."""
    made = directory / f"{entry}.mjs"
    esbuild(TESTS / "rxdb" / f"{entry}.js", "--bundle", f"--outfile={made}", *options)
    return made


def build_todo(directory: Path) -> Path:
    """Build the to-do app as its package.json does, but with the packages of these tests."""
    app = TESTS.parent / "examples" / "todo"
    source = directory / "source"
    # Elsewhere, since RxDB must not be there twice: the app may have packages of its own.
    shutil.copytree(app, source, ignore=shutil.ignore_patterns("node_modules", "dist"))
    script = json.loads((app / "package.json").read_text())["scripts"]["build"].split()
    assert script[:1] == ["esbuild"]
    assert script[-1] == "--outdir=dist"
    esbuild(
        *(source / each if not each.startswith("-") else each for each in script[1:-1]),
        f"--outdir={directory / 'dist'}",
        f"--alias:mobync/rxdb={TESTS.parent / 'clients' / 'javascript' / 'rxdb.js'}",
    )
    return directory / "dist"


def esbuild(*arguments: str | Path) -> None:
    program = MODULES / ".bin" / "esbuild"
    assert program.exists(), f"{program} is missing: `make test-javascript` installs it"
    subprocess.run(
        [program, *arguments],
        env={**os.environ, "NODE_PATH": str(MODULES)},
        check=True,
        capture_output=True,
        timeout=TIMEOUT_S,
    )


class Device:
    """What both kinds have: each method of tests/rxdb/device.js is one here."""

    def call(self, name: str, *args: Any) -> Any:
        raise NotImplementedError

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args: self.call(name, *args)


class NodeDevice(Device):
    def __init__(self, program: Path) -> None:
        self.process = subprocess.Popen(
            ["node", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def call(self, name: str, *args: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"call": name, "args": args}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


class PageDevice(Device):
    """A page of the proxy's origin; another page of the same context has the same IndexedDB."""

    def __init__(self, context: BrowserContext, url: str, program: Path) -> None:
        self.page: Page = context.new_page()
        self.page.route(
            "**/device.html", lambda route: route.fulfill(body=PAGE, content_type="text/html")
        )
        self.page.route("**/device.js", lambda route: route.fulfill(path=program))
        self.page.goto(f"{url}/device.html")

    def call(self, name: str, *args: Any) -> Any:
        return self.page.evaluate("([name, args]) => device[name](...args)", [name, list(args)])

    def close(self) -> None:
        """As a tab that is killed: nothing of it runs any further."""
        self.page.close()


class Proxy:
    """Hands requests on to a server.

    Attributes:
        url: where it listens.
        lose: how many answers to pushes get lost from now on.
        hold: while it is clear, answers to pushes wait.
        refuse: requests to paths that end like this are cut off before they arrive; None: none.
        pushes: pushes that the server has answered.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self.lose = 0
        self.refuse: str | None = None
        self.pushes = 0
        self.hold = threading.Event()
        self.hold.set()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(address))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def _handler(proxy, address: tuple[str, int]) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.hand_on(self.rfile.read(int(self.headers["Content-Length"])))

            def do_GET(self) -> None:
                self.hand_on(None)

            def hand_on(self, body: bytes | None) -> None:
                self.close_connection = True
                path = self.path.partition("?")[0]
                if proxy.refuse is not None and path.endswith(proxy.refuse):
                    return
                passed = {n: v for n, v in self.headers.items() if n.lower() != "accept-encoding"}
                with closing(HTTPConnection(*address, timeout=TIMEOUT_S)) as upstream:
                    upstream.request(self.command, self.path, body, passed)
                    with upstream.getresponse() as answer, suppress(ConnectionError):
                        if not (path.endswith("/push") and proxy.pushed()):
                            self.pass_on(answer)

            def pass_on(self, answer: HTTPResponse) -> None:
                self.send_response_only(answer.status)
                self.send_header("Connection", "close")
                self.send_header("Content-Type", answer.headers["Content-Type"])
                self.end_headers()
                while piece := answer.read1(65536):
                    self.wfile.write(piece)
                    self.wfile.flush()

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def pushed(self) -> bool:
        """Note an answer to a push; says whether it gets lost."""
        self.pushes += 1
        lost = self.lose > 0
        self.lose -= lost
        self.hold.wait(TIMEOUT_S)
        return lost


@contextmanager
def proxied(address: tuple[str, int]) -> Iterator[Proxy]:
    proxy = Proxy(address)
    thread = threading.Thread(target=proxy.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield proxy
    finally:
        proxy.hold.set()
        proxy.server.shutdown()
        thread.join()
        proxy.server.server_close()
