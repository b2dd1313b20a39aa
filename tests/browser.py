"""Pages in headless Chromium, Debian's, for tests.

A module says

    import browser
    chromium, page = browser.chromium, browser.page

The program is that of the environment variable MOBYNC_TEST_CHROMIUM, /usr/bin/chromium by default
(``apt-get install chromium``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

PROGRAM = os.environ.get("MOBYNC_TEST_CHROMIUM", "/usr/bin/chromium")

# Without a sandbox: CI runs as root.  The rest keeps the browser from calling its makers.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

TIMEOUT_MS = 60_000


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if not Path(PROGRAM).exists():
        pytest.fail(
            f"{PROGRAM} is not there: apt-get install chromium, or set MOBYNC_TEST_CHROMIUM"
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A page of a new profile, in UTC; the test fails if a script of the page does."""
    context = chromium.new_context(timezone_id="UTC", locale="en-GB")
    context.set_default_timeout(TIMEOUT_MS)
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    yield opened
    context.close()
    assert errors == []
