"""The example of a Django project on servers of WSGI and ASGI, with devices and the real admin."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import databases
import pytest
import requests
from test_django_project import EXAMPLE, manage

from mobync.client import Device

SERVERS = {
    "wsgi": ["gunicorn", "project.wsgi", "--threads", "4", "--timeout", "0", "--bind", "fd://{fd}"],
    "asgi": ["uvicorn", "project.asgi:application", "--lifespan", "off", "--fd", "{fd}"],
}
PATIENCE_S = 120
SETUP = """
from django.contrib.auth.models import User
from django.core.management import call_command
from rest_framework.authtoken.models import Token
call_command("migrate", verbosity=0)
user = User.objects.create_superuser("anna", password="secret")
print("token:", Token.objects.create(user=user).key, user.pk)
"""


class Site:
    """A server with the project, on an empty database."""

    def __init__(self, url: str, token: str, owner: str) -> None:
        self.url = url
        self.token = token
        self.owner = owner
        self.browser = requests.Session()
        self.browser.headers["Connection"] = "close"  # so that none is closed just when it is used

    def submit(self, page: str, **fields: str) -> None:
        """Send the form of a page of the admin, as a browser does."""
        shown = self.browser.get(f"{self.url}/admin/{page}", timeout=PATIENCE_S)
        shown.raise_for_status()
        (token,) = set(re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', shown.text))
        sent = {**fields, "csrfmiddlewaretoken": token}
        done = self.browser.post(shown.url, sent, timeout=PATIENCE_S, allow_redirects=False)
        assert done.status_code == 302, done.text  # the form is shown again if it is wrong

    def titles(self) -> set[str]:
        """Of the tasks, by the project's own API."""
        headers = {"Authorization": f"Token {self.token}"}
        answer = requests.get(f"{self.url}/api/tasks/", headers=headers, timeout=PATIENCE_S)
        return {task["title"] for task in answer.json()}

    def device(self, path: Path) -> Device:
        return Device(path, f"{self.url}/sync", self.token)


@pytest.fixture(params=["sqlite", "postgresql"])
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    with databases.open_database(request.param, tmp_path) as database:
        url = database.url
        given = {"DB_NAME": url.database or ""}
        if request.param == "postgresql":
            given |= {
                "DB_ENGINE": "django.db.backends.postgresql",
                "DB_USER": url.username or "",
                "DB_HOST": url.host or "",
                "PGOPTIONS": str(url.query["options"]),
            }
        yield given


@pytest.fixture(params=SERVERS)
def site(request: pytest.FixtureRequest, environment: dict[str, str]) -> Iterator[Site]:
    made = manage("shell", "-c", SETUP, **environment)
    said = re.search(r"token: (\w+) (\w+)", made.stdout)
    assert said is not None, made.stderr
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()  # connections wait until the server accepts them
        number = listening.fileno()
        command = [part.format(fd=number) for part in SERVERS[request.param]]
        server = subprocess.Popen(
            [sys.executable, "-m", *command, "--log-level", "critical"],
            cwd=EXAMPLE,
            env={**os.environ, "DJANGO_SETTINGS_MODULE": "project.settings", **environment},
            pass_fds=[number],
        )
        try:
            yield Site(f"http://127.0.0.1:{listening.getsockname()[1]}", *said.groups())
        finally:
            server.terminate()
            server.wait(PATIENCE_S)


def test_devices_and_the_admin_have_the_same_tasks(site: Site, tmp_path: Path) -> None:
    site.submit("login/", username="anna", password="secret", next="/admin/")
    # The first edit that the server sees, before it has answered any sync.
    site.submit("tasks/task/add/", owner=site.owner, title="By the admin", project="")
    with site.device(tmp_path / "phone.db") as phone, site.device(tmp_path / "tablet.db") as tablet:
        phone.sync()
        (task,) = phone.rows("tasks")
        by_admin = task["id"]
        assert (task["title"], task["is_done"]) == ("By the admin", False)

        project = phone.create("projects", {"name": "Home"})
        by_phone = phone.create("tasks", {"title": "By the phone", "project_id": project})
        phone.sync()
        tablet.sync()
        assert {row["id"] for row in tablet.rows("tasks")} == {by_admin, by_phone}

        phone.update("tasks", by_admin, {"is_done": True})  # while the admin edits it, too
        site.submit(
            f"tasks/task/{by_admin}/change/", owner=site.owner, title="Edited", project=project
        )
        for device in (phone, tablet, phone):
            device.sync()
        assert phone.rows("tasks") == tablet.rows("tasks")
        task = tablet.get("tasks", by_admin)
        assert (task["title"], task["is_done"], task["project_id"]) == ("Edited", True, project)
        assert site.titles() == {"Edited", "By the phone"}

        site.submit(f"tasks/project/{project}/delete/", post="yes")  # and the tasks of it
        for device in (phone, tablet):
            device.sync()
            assert device.rows("tasks") == device.rows("projects") == []
