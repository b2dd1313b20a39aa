"""`make docs`: the site of the documentation, served. `.ci/lint` builds it strictly."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin

import pytest
import requests
from server_process import PATIENCE_S, Lines, free_port

HOME = Path(__file__).resolve().parents[1]
GIVEN = ("PORT", "MAKEFLAGS")  # may say another port


class Page(HTMLParser):
    """What a page links to, what it loads, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = {"", "__skip"}
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        self.anchors.add(named.get("id") or "")
        if tag == "a" and named.get("href"):
            self.links.append(named["href"] or "")
        elif tag in ("img", "script", "link") and (named.get("src") or named.get("href")):
            self.loaded.append(named.get("src") or named["href"] or "")


def last_line_of_make(*arguments: str) -> str:
    """The command that make would run at the end; `make test`, which runs this, prints more."""
    others = {name: value for name, value in os.environ.items() if name not in GIVEN}
    shown = subprocess.run(
        ("make", "--no-print-directory", "-n", *arguments),
        cwd=HOME,
        env=others,
        capture_output=True,
        text=True,
        check=True,
    )
    return shown.stdout.splitlines()[-1]


def test_the_site_has_another_port_than_the_demo() -> None:
    """So `make docs` works beside `make run`, and beside `mobync serve`, which takes 8000."""
    assert "--port 5000" in last_line_of_make("run")
    assert last_line_of_make("docs").endswith(":8080")
    assert last_line_of_make("docs", "PORT=7777").endswith(":7777")


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The address where the last line of `make docs` serves it."""
    command = last_line_of_make("docs", f"PORT={free_port()}", f"BIN={Path(sys.executable).parent}")
    server = subprocess.Popen(
        ["/bin/sh", "-c", f"exec env {command}"], cwd=HOME, stderr=subprocess.PIPE, text=True
    )
    log = Lines(server.stderr)
    try:
        yield log.wait_for(r"Serving on (http://\S+)")[1]
    finally:
        server.terminate()
        server.wait(PATIENCE_S)
        log.join()


def fetched(site: str) -> dict[str, Page | None]:
    """Everything that can be reached from the home page on this host, by its address."""
    found: dict[str, Page | None] = {}
    waiting = [site]
    while waiting:
        url = waiting.pop()
        if url in found:
            continue
        answer = requests.get(url, timeout=PATIENCE_S)
        assert answer.status_code == 200, url
        found[url] = None
        if "html" in answer.headers["Content-Type"]:
            page = found[url] = Page(answer.text)
            targets = [urljoin(url, link).partition("#")[0] for link in page.links + page.loaded]
            waiting += [target for target in targets if target.startswith(site)]
    return found


def test_each_page_is_served_and_no_link_or_picture_of_it_leads_nowhere(site: str) -> None:
    found = fetched(site)
    pages = {url: page for url, page in found.items() if page is not None}
    for source in (HOME / "docs").rglob("*.md"):
        assert urljoin(site, f"{source.relative_to(HOME / 'docs').with_suffix('.html')}") in pages
    for url, page in pages.items():
        for link in page.links:
            target, _, anchor = urljoin(url, link).partition("#")
            if target in pages:
                assert unquote(anchor) in pages[target].anchors, f"{url}: {link}"
        for loaded in page.loaded:
            assert urljoin(url, loaded).startswith((site, "data:")), f"{url} loads {loaded}"


def test_the_search_knows_the_text_of_the_pages_and_of_the_reference(site: str) -> None:
    index = requests.get(urljoin(site, "search/search_index.json"), timeout=PATIENCE_S).text
    places = {entry["location"] for entry in json.loads(index)["docs"]}
    assert {"install.html", "reference/python.html#mobync.Mobync"} <= places


def test_no_page_asks_the_host_of_the_repository_for_its_stars(site: str) -> None:
    """The theme's script does so for an element that says so."""
    text = requests.get(site, timeout=PATIENCE_S).text
    assert "mobync/python-server" in text
    assert not re.search(r'data-md-component="?source\b', text)
