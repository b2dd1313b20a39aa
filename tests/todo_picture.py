"""Makes docs/todo.png, the picture of the to-do app: a phone that is offline beside a laptop.

python tests/todo_picture.py docs/todo.png
"""

from __future__ import annotations

import base64
import sys
import tempfile
from pathlib import Path

import browser
import rxdb_devices
from playwright.sync_api import Browser, Page, expect, sync_playwright
from server_process import mobync, serving

expect.set_options(timeout=browser.TIMEOUT_MS)

SIZE = {"width": 390, "height": 600}
FRAME = """
<body style="margin:0;background:#c9d1e6;display:flex;gap:28px;padding:28px">
{}
"""
WINDOW = (
    '<img style="width:390px;border-radius:18px;box-shadow:0 6px 24px #1b203340" '
    'src="data:image/png;base64,{}">'
)


def window(chromium: Browser, link: str, scheme: str) -> Page:
    context = chromium.new_context(
        viewport=SIZE,
        color_scheme=scheme,  # type: ignore[arg-type]
        device_scale_factor=2,
    )
    page = context.new_page()
    page.goto(link)
    return page


def add(page: Page, *names: str) -> None:
    for name in names:
        page.get_by_label("New task").fill(name)
        page.get_by_role("button", name="Add").click()


def play(one: Page, other: Page) -> None:
    """Edits on both sides, the other one offline in the end."""
    add(one, "Oat milk", "Call the dentist", "Water the plants")
    expect(other.locator("#tasks li")).to_have_count(3)
    other.get_by_role("switch", name="Online").uncheck()
    other.get_by_role("checkbox", name="Call the dentist").check()
    add(other, "Book the train")
    field = one.locator(".name").first
    field.fill("Two oat milks")
    field.press("Enter")
    expect(one.get_by_role("status")).to_have_text("Online, all synced")
    expect(other.get_by_role("status")).to_have_text("Offline, 2 waiting")
    for page in (one, other):
        page.evaluate("document.activeElement.blur()")


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as made,
        sync_playwright() as playwright,
    ):
        directory = Path(made)
        app = rxdb_devices.build_todo(directory / "app")
        database = ("-d", "sqlite:///x.db")
        with serving(directory, *database, "--static", f"/todo={app}") as server:
            token = mobync(directory, "token", "anna", *database).stdout.strip()
            chromium = playwright.chromium.launch(
                executable_path=browser.PROGRAM, args=browser.ARGUMENTS
            )
            link = f"{server.url}/todo/#{token}"
            windows = window(chromium, link, "light"), window(chromium, link, "dark")
            play(*windows)
            shots = [base64.b64encode(page.screenshot()).decode() for page in windows]
            frame = chromium.new_page(viewport={"width": 864, "height": 656})
            frame.set_content(FRAME.format("".join(WINDOW.format(shot) for shot in shots)))
            frame.screenshot(path=sys.argv[1])


if __name__ == "__main__":
    main()
