"""Makes docs/inspector.png: the inspector's page of a task that a phone and a tablet have edited.

python tests/inspector_picture.py docs/inspector.png
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from urllib.parse import urlencode

import browser
from playwright.sync_api import expect, sync_playwright
from server_process import Server, mobync, serving

from mobync.client import Device

expect.set_options(timeout=browser.TIMEOUT_MS)

MADE_AT = 1_795_773_600_000  # 2026-11-27, 10:00 in UTC
SIZE = {"width": 1000, "height": 1225}


def play(directory: Path, server: Server, token: str) -> None:
    """Edits of two devices that are apart: one edit of a field wins, and one loses."""
    now = [0]

    def device(name: str) -> Device:
        url = f"{server.url}/sync"
        return Device(directory / f"{name}.db", url, token, now_ms=lambda: MADE_AT + now[0])

    with device("phone") as phone, device("tablet") as tablet:
        phone.create("tasks", {"id": "milk-1", "name": "milk", "done": False})
        phone.sync()
        tablet.sync()
        now[0] = 4_200
        phone.update("tasks", "milk-1", {"done": True, "name": "soy milk"})
        now[0] = 9_200
        tablet.update("tasks", "milk-1", {"name": "oat milk"})
        tablet.sync()
        now[0] = 21_200
        tablet.update("tasks", "milk-1", {"done": False, "shop": "market"})
        phone.sync()
        tablet.sync()
        for named, label in ((phone, "Anna's phone"), (tablet, "Anna's tablet")):
            mobync(directory, "devices", "name", "anna", named.name, label).check_returncode()


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as made,
        sync_playwright() as playwright,
        serving(Path(made)) as server,
    ):
        directory = Path(made)
        play(directory, server, mobync(directory, "token", "anna").stdout.strip())
        chromium = playwright.chromium.launch(
            executable_path=browser.PROGRAM, args=browser.ARGUMENTS
        )
        page = chromium.new_page(
            viewport=SIZE,  # type: ignore[arg-type]
            timezone_id="UTC",
            locale="en-GB",
        )
        page.goto(server.url)
        page.get_by_label("Token").fill(mobync(directory, "token", "--admin").stdout.strip())
        page.get_by_role("button", name="Open").click()
        shown = {"owner": "anna", "model": "tasks", "object": "milk-1"}
        page.goto(f"{server.url}/?{urlencode(shown)}")
        expect(page.locator(".picture .step")).to_have_count(4)
        expect(page.locator("#live")).to_have_text("live")
        page.screenshot(path=sys.argv[1])


if __name__ == "__main__":
    main()
