"""The to-do app of examples/todo, by a person's steps in Chromium, on `mobync serve`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import browser
import pytest
import requests
import rxdb_devices
from playwright.sync_api import Browser, BrowserContext, Page, expect
from server_process import mobync, serving

chromium = browser.chromium

expect.set_options(timeout=browser.TIMEOUT_MS)

Window = Callable[..., Page]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rxdb_devices.build_todo(tmp_path_factory.mktemp("todo"))


@pytest.fixture
def url(app: Path, tmp_path: Path) -> Iterator[str]:
    with serving(tmp_path, "-d", "sqlite:///x.db", "--static", f"/todo={app}") as server:
        yield f"{server.url}/todo/"


@pytest.fixture
def token(url: str, tmp_path: Path) -> str:
    return mobync(tmp_path, "token", "anna", "-d", "sqlite:///x.db").stdout.strip()


@pytest.fixture
def window(chromium: Browser, url: str, token: str) -> Iterator[Window]:
    """Open the app in a browser of its own; a test fails if a script of it does."""
    contexts: list[BrowserContext] = []
    errors: list[str] = []

    def open_(link: str | None = None, **options: Any) -> Page:
        contexts.append(chromium.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(browser.TIMEOUT_MS)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{url}#{token}" if link is None else link)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert errors == []


def names(page: Page) -> list[str]:
    found: list[str] = page.locator(".name").evaluate_all("all => all.map(each => each.value)")
    return found


def shows(page: Page, *expected: str) -> None:
    items = page.locator("#tasks li")
    expect(items).to_have_count(len(expected))
    for place, name in enumerate(expected):
        expect(items.nth(place).locator(".name")).to_have_value(name)


def add(page: Page, name: str) -> None:
    page.get_by_label("New task").fill(name)
    page.get_by_role("button", name="Add").click()


def rename(page: Page, old: str, new: str) -> None:
    field = page.locator(".name").nth(names(page).index(old))
    field.fill(new)
    field.press("Enter")


def test_two_windows_side_by_side_converge_live(window: Window) -> None:
    one, other = window(), window()
    expect(one.get_by_text("Nothing to do.")).to_be_visible()
    add(one, "milk")
    add(one, "bread")
    shows(other, "milk", "bread")
    other.get_by_role("checkbox", name="milk").check()
    expect(one.get_by_role("checkbox", name="milk")).to_be_checked()
    rename(one, "bread", "rye bread")
    shows(other, "milk", "rye bread")
    other.get_by_role("button", name="Remove").first.click()
    shows(one, "rye bread")
    for page in (one, other):
        expect(page.get_by_role("status")).to_have_text("Online, all synced")


def test_what_is_edited_offline_waits_and_is_merged(window: Window) -> None:
    one, other = window(), window()
    add(one, "milk")
    shows(other, "milk")
    switch = other.get_by_role("switch", name="Online")
    switch.uncheck()
    expect(other.get_by_role("status")).to_have_text("Offline, nothing waits")
    other.get_by_role("checkbox", name="milk").check()
    add(other, "salt")
    expect(other.get_by_role("status")).to_have_text("Offline, 2 waiting")
    expect(other.locator(".waits:visible")).to_have_count(2)
    rename(one, "milk", "oat milk")
    expect(one.get_by_role("status")).to_have_text("Online, all synced")
    shows(one, "oat milk")
    shows(other, "milk", "salt")
    switch.check()
    for page in (one, other):
        shows(page, "oat milk", "salt")
        expect(page.get_by_role("checkbox", name="oat milk")).to_be_checked()
        expect(page.get_by_role("status")).to_have_text("Online, all synced")
    expect(other.locator("#events")).to_contain_text("sent “salt”")
    expect(other.locator("#events")).to_contain_text("oat milk")


def test_it_opens_and_works_without_a_network(window: Window) -> None:
    page, other = window(), window()
    add(page, "milk")
    shows(other, "milk")
    page.evaluate("navigator.serviceWorker.ready")
    page.reload()
    shows(page, "milk")
    page.context.set_offline(True)
    page.reload()
    shows(page, "milk")
    expect(page.get_by_role("status")).to_have_text("Offline, nothing waits")
    add(page, "bread")
    expect(page.get_by_role("status")).to_have_text("Offline, 1 waiting")
    page.reload()
    shows(page, "milk", "bread")
    expect(page.get_by_role("status")).to_have_text("Offline, 1 waiting")
    page.context.set_offline(False)
    shows(other, "milk", "bread")
    expect(page.get_by_role("status")).to_have_text("Online, all synced")


def test_a_task_is_kept_that_is_added_before_the_database_is_open(window: Window) -> None:
    page = window()
    page.add_init_script(
        """if (!location.href.endsWith('?')) addEventListener('DOMContentLoaded', () => {
            document.getElementById('name').value = 'early';
            document.getElementById('add').requestSubmit();
        });"""
    )
    page.reload()
    shows(page, "early")


def test_a_second_device_is_a_link_away(window: Window) -> None:
    page = window()
    add(page, "milk")
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Open a second device").click()
    shows(opened.value, "milk")
    add(opened.value, "bread")
    shows(page, "milk", "bread")


def test_who_has_no_token_is_asked_for_it(window: Window, url: str, token: str) -> None:
    page = window(url)
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    add(page, "milk")
    expect(page.get_by_role("status")).to_have_text("Online, all synced")
    page.reload()
    shows(page, "milk")
    assert token not in page.url


def test_who_has_a_wrong_token_is_told_and_asked_for_another(
    window: Window, url: str, token: str
) -> None:
    page = window(f"{url}#wrong")
    expect(page.get_by_role("dialog")).to_contain_text("does not accept the token")
    expect(page.locator("#state")).to_have_text("Not signed in, nothing waits")
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    add(page, "milk")
    expect(page.get_by_role("status")).to_have_text("Online, all synced")


def test_it_does_not_say_that_it_is_synced_while_the_server_is_gone(
    app: Path, window: Window, tmp_path: Path
) -> None:
    arguments = ["-d", "sqlite:///y.db", "--static", f"/todo={app}"]
    with serving(tmp_path, *arguments) as server:
        signed = mobync(tmp_path, "token", "anna", "-d", "sqlite:///y.db").stdout.strip()
        page = window(f"{server.url}/todo/#{signed}")
        expect(page.get_by_role("status")).to_have_text("Online, all synced")
    expect(page.get_by_role("status")).to_have_text("Server not reached, nothing waits")
    add(page, "milk")
    expect(page.get_by_role("status")).to_have_text("Server not reached, 1 waiting")


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_screen_and_can_be_read(window: Window, width: int, scheme: Any) -> None:
    page = window(viewport={"width": width, "height": 800}, color_scheme=scheme)
    add(page, "a task with a name that is much too long for the narrow screen of a phone")
    expect(page.get_by_role("status")).to_have_text("Online, all synced")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for hit in page.locator("#tasks .remove, #add button").all():
        box = hit.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) >= 40
    paper, ink = page.evaluate(
        "[document.body, document.querySelector('#tasks .name')]"
        ".map((each, n) => getComputedStyle(each)[n ? 'color' : 'backgroundColor']"
        ".match(/\\d+/g).map(Number))"
    )
    assert abs(sum(paper) - sum(ink)) > 450


def test_only_what_is_there_is_served(url: str) -> None:
    assert requests.get(url, timeout=20).headers["Content-Type"].startswith("text/html")
    assert requests.get(f"{url}todo.js", timeout=20).status_code == 200
    assert requests.get(f"{url}../x.db", timeout=20).status_code == 404
    assert requests.get(f"{url}%2e%2e/x.db", timeout=20).status_code == 404


@pytest.mark.parametrize("given", ["/todo", "todo=.", "/=.", "/sync=.", "/todo=nowhere"])
def test_a_directory_that_cannot_be_served_is_named(tmp_path: Path, given: str) -> None:
    ended = mobync(tmp_path, "serve", "-d", "sqlite:///x.db", "--static", given)
    assert ended.returncode == 2
    assert "--static" in ended.stderr
