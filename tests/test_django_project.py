"""The example of a Django project, by Django's own test runner; checks; the lines of the page."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import databases
import pytest

HOME = Path(__file__).parents[1]
EXAMPLE = HOME / "examples/django"
DOCS = (HOME / "docs/django.md").read_text()

# Django asks for mysqlclient; PyMySQL is the same to it.
MANAGE = """
import sys, pymysql
pymysql.version_info = (2, 2, 1, "final", 0)
pymysql.install_as_MySQLdb()
from django.core.management import execute_from_command_line
execute_from_command_line(["manage.py", *sys.argv[1:]])
"""


def manage(
    *arguments: str, project: Path = EXAMPLE, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", MANAGE, *arguments],
        cwd=project,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "project.settings", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def environment_of(kind: str, directory: Path) -> dict[str, str]:
    if kind == "sqlite":
        return {"DB_NAME": str(directory / "tasks.db")}
    url = databases.server_url(kind)
    engine = {"postgresql": "postgresql", "mariadb": "mysql"}[kind]
    return {
        "DB_ENGINE": f"django.db.backends.{engine}",
        "DB_NAME": f"mobync_{uuid.uuid4().hex[:16]}",
        "DB_USER": url.username or "",
        "DB_HOST": url.host or "",
    }


@pytest.mark.parametrize("kind", databases.KINDS)
def test_the_project_passes_its_tests(kind: str, tmp_path: Path) -> None:
    done = manage("test", "--noinput", **environment_of(kind, tmp_path))
    assert done.returncode == 0, done.stderr
    assert re.search(r"Ran [5-9] tests", done.stderr)


def test_no_migration_is_missing(tmp_path: Path) -> None:
    done = manage("makemigrations", "--check", "--dry-run", **environment_of("sqlite", tmp_path))
    assert done.returncode == 0, done.stdout


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)


def without_sync(directory: Path) -> Path:
    """The example as it was before it had a sync."""
    project = directory / "project"
    shutil.copytree(EXAMPLE, project, ignore=shutil.ignore_patterns("*.db", "__pycache__"))
    for name in ("settings", "urls"):
        path = project / f"project/{name}.py"
        path.write_text(path.read_text().split("# The sync:")[0])
    (project / "tasks/sync.py").unlink()
    return project


def test_a_project_gets_sync_by_at_most_fifteen_lines(tmp_path: Path) -> None:
    project = without_sync(tmp_path)
    settings, urls, sync = blocks()
    assert sum(bool(line.strip()) for line in (settings + urls + sync).splitlines()) <= 15
    with (project / "project/settings.py").open("a") as file:
        file.write(settings)
    with (project / "project/urls.py").open("a") as file:
        file.write(urls)
    (project / "tasks/sync.py").write_text(sync)

    done = manage("test", "--noinput", project=project, DB_NAME=str(tmp_path / "tasks.db"))
    assert done.returncode == 0, done.stderr


MISTAKES = [
    ("settings", '"mobync.django"', '"mobync.http"', "INSTALLED_APPS must have 'mobync.django'"),
    ("settings", "tasks.sync.mobync", "tasks.sync.nothing", "nothing"),
    ("settings", "tasks.sync.mobync", "tasks.models.Task", "mobync must be a Mobync"),
    (
        "settings",
        '"authenticate"',
        '"authentic"',
        "missing or unknown: 'authentic', 'authenticate'",
    ),
    ("sync", '"tasks": Task', '"tasks": Token', "authtoken.Token has no owner field 'owner'"),
    ("sync", '"tasks": Task', '"tasks": None', "model 'tasks' must be a model of Django"),
    ("sync", '"tasks": Task', '"tasks": "tasks.Tusk"', "'tasks.Tusk'"),
    ("sync", "Task}", 'Task}, shared=("x",)', "shared names no model: 'x'"),
    ("sync", "Task}", 'Task}, using="other"', "settings.DATABASES has no 'other'"),
    ("sync", "Task}", 'Task}, owner_column="due"', "has no owner field 'due'"),
    (
        "sync",
        '"projects": Project, "tasks": Task}',
        '"edits": "admin.LogEntry"}, owner_column="user"',
        "the primary key must be a UUIDField or a CharField",
    ),
    ("sync", '"tasks": Task', '"a": Task, "b": Task', "tasks.Task is named twice: 'a' and 'b'"),
    ("sync", "Task}", 'Task}, hidden_columns={"tasks": ["title"]}', "title cannot be synced"),
    ("sync", "track(mobync)", "track(Project)", "mobync must be a Mobync"),
]


@pytest.mark.parametrize(("where", "right", "wrong", "complaint"), MISTAKES)
def test_the_check_names_a_mistake(
    tmp_path: Path, where: str, right: str, wrong: str, complaint: str
) -> None:
    project = tmp_path / "project"
    shutil.copytree(EXAMPLE, project, ignore=shutil.ignore_patterns("*.db", "__pycache__"))
    path = project / ("tasks/sync.py" if where == "sync" else "project/settings.py")
    text = path.read_text()
    assert right in text
    path.write_text(text.replace(right, wrong))

    done = manage("check", project=project, DB_NAME=str(tmp_path / "tasks.db"))

    assert done.returncode == 1
    assert "(mobync.E001)" in done.stderr
    assert complaint in done.stderr
    assert done.stderr.count("mobync.E001") == 1


def test_the_check_warns_of_edits_that_nothing_tracks(tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(EXAMPLE, project, ignore=shutil.ignore_patterns("*.db", "__pycache__"))
    assert "W001" not in manage("check", project=project).stderr
    path = project / "tasks/sync.py"
    path.write_text(path.read_text().replace("track(mobync)", ""))
    done = manage("check", project=project)
    assert done.returncode == 0
    assert "(mobync.W001)" in done.stderr
    assert "devices do not get what the admin and the app's own code edit" in done.stderr


def test_the_check_finds_a_database_that_cuts_values() -> None:
    environment = environment_of("mariadb", Path())
    url = databases.server_url("mariadb")
    environment["DB_NAME"] = url.database or ""
    settings = "project.settings_that_cut"
    program = (
        "import types, sys, project.settings as s; m = types.ModuleType('x');"
        "m.__dict__.update({k: v for k, v in vars(s).items() if k.isupper()});"
        "m.DATABASES['default']['OPTIONS'] = {'init_command': \"SET sql_mode=''\"};"
        f"sys.modules[{settings!r}] = m\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program + MANAGE, "check", "--database", "default"],
        cwd=EXAMPLE,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": settings, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "(mobync.E002)" in done.stderr, done.stderr
    assert "add STRICT_TRANS_TABLES to its sql_mode" in done.stderr


def test_the_commands_say_what_they_did(tmp_path: Path) -> None:
    environment = environment_of("sqlite", tmp_path)
    assert manage("migrate", **environment).returncode == 0
    script = (
        "from django.contrib.auth.models import User; from tasks.models import Project;"
        "user = User.objects.create_user('anna');"
        "Project.objects.bulk_create([Project(owner=user, name='Home')])"
    )
    assert manage("shell", "-c", script, **environment).returncode == 0
    outputs = [
        manage("mobync", *arguments.split(), **environment).stdout.strip()
        for arguments in (
            "reconcile --dry-run",
            "adopt --model projects",
            "reconcile --owner 1",
            "compact",
            "devices",
        )
    ]
    assert outputs == [
        "1: 1 rows, 1 created, 0 updated, 0 deleted",
        "1: projects: 1 adopted",
        "1: 1 rows, 0 created, 0 updated, 0 deleted",
        "1: 1 diffs, now 1",
        "",
    ]


SAVES = (
    "from django.contrib.auth.models import User; from tasks.models import Project;"
    "Project.objects.create(owner=User.objects.create_user('anna'), name='Home')"
)


def test_what_a_process_saves_that_has_no_sync_yet_is_in_the_log(tmp_path: Path) -> None:
    environment = environment_of("sqlite", tmp_path)
    assert manage("migrate", **environment).returncode == 0
    saved = manage("shell", "-c", SAVES, **environment)
    assert saved.returncode == 0, saved.stderr
    done = manage("mobync", "reconcile", "--dry-run", **environment)
    assert done.stdout == "1: 1 rows, 0 created, 0 updated, 0 deleted\n"


def test_a_process_that_cannot_track_says_so(tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(EXAMPLE, project, ignore=shutil.ignore_patterns("*.db", "__pycache__"))
    path = project / "project/settings.py"
    path.write_text(path.read_text().replace("tasks.sync.mobync", "tasks.sync.nothing"))
    done = manage("shell", "-c", "print('runs')", project=project)
    assert done.stdout.endswith("runs\n")
    assert "settings.MOBYNC: " in done.stderr
    assert "edits by the app's own code are not logged" in done.stderr


DEVICES = """
import uuid
from django.contrib.auth.models import User
from tasks.sync import mobync
users = [User.objects.create_user(name) for name in ("anna", "guest")]
for user, name in zip((users[0], users[0], users[1]), ("phone-1", "phone-2", "tablet")):
    row = '{"id": "%s", "name": "Home"}' % uuid.UUID(int=ord(name[-1]))
    diff = dict(id=name, owner="x", logical_clock=0, utc_timestamp=1, type="create",
                model="projects", json_data=row)
    mobync.apply(0, [diff], str(user.pk), device=name, request=1)
"""


def test_the_commands_about_people(tmp_path: Path) -> None:
    environment = environment_of("sqlite", tmp_path)
    assert manage("migrate", **environment).returncode == 0
    made = manage("shell", "-c", DEVICES, **environment)
    assert made.returncode == 0, made.stderr

    def said(*arguments: str) -> str:
        done = manage("mobync", *arguments, **environment)
        return done.stderr.strip() or done.stdout.strip()

    assert said("devices", "revoke", "1", "phone") == (
        "CommandError: owner '1' has several devices 'phone'"
    )
    assert said("devices", "name", "1", "phone-1", "Anna's") == '1: phone-1 is called "Anna\'s"'
    assert said("devices", "revoke", "1", "Anna's") == "1: phone-1 is refused from now on"
    assert said("devices", "forget", "1", "phone-2") == "1: phone-2 is forgotten"
    assert said("devices", "forget", "1", "pho-2") == (
        "CommandError: owner '1' has no device 'pho-2'"
    )
    assert said("devices", "name", "1", "phone-1", "x" * 256).startswith(
        "CommandError: label must be a text of at most 255 characters"
    )
    assert said("devices", "--owner", "1") == "1: phone-1 (Anna's): 2 behind, revoked"
    assert said("move-owner", "2", "1") == (
        "2: 1 rows and 1 diffs are 1's now; 1 devices continue there"
    )
    assert "old and new are the same owner" in said("move-owner", "1", "1")
    assert "tablet" in said("devices", "--owner", "1")
    assert said("erase", "1") == "CommandError: nothing was deleted"
    assert said("erase", "1", "--yes") == (
        "1: 3 rows and 3 diffs are erased; 2 devices are refused from now on"
    )
