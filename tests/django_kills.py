"""Saves and deletes in processes that are killed before each of their statements, one by one.

Run with the settings of a database as JSON; tests/test_django_tracking.py does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import django_databases  # noqa: F401

from mobync import Mobync

# Django must know its settings first.
from django.conf import settings  # isort: skip
from django.db import connections  # isort: skip
from django_app.models import Project, Task  # isort: skip
from mobync.django import DjangoSynchronizer, track  # isort: skip
from mobync.django.models import Diff  # isort: skip

ALIAS = "killed"


def killed_at(statement: int, edit: Callable[[], object]) -> bool:
    """Run an edit in a process that is killed before a statement; whether it was."""
    connections.close_all()
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
        return os.WIFSIGNALED(status)
    seen = 0

    def count(execute: Any, *arguments: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == statement:
            os.kill(os.getpid(), signal.SIGKILL)
        return execute(*arguments)

    try:
        connections[ALIAS].ensure_connection()
        with connections[ALIAS].execute_wrapper(count):
            edit()
        connections.close_all()
        os._exit(0)
    finally:
        os._exit(1)


def state() -> tuple[list[Any], list[Any]]:
    """The rows and the log."""
    tasks, diffs = Task.objects.using(ALIAS), Diff.objects.using(ALIAS)
    return list(tasks.values_list("owner", "title")), list(diffs.values_list("owner", "type"))


def main() -> None:
    settings.DATABASES[ALIAS] = json.loads(sys.argv[1])
    connections.settings = connections.configure_settings(settings.DATABASES)
    mobync = Mobync(DjangoSynchronizer({"tasks": Task, "projects": Project}, using=ALIAS))
    track(mobync)
    tasks = Task.objects.using(ALIAS)
    edits: dict[str, Callable[[], object]] = {
        "create": lambda: tasks.create(id="t", owner="anna", title="Milk"),
        "update": lambda: Task(id="t", owner="anna", title="Bread").save(using=ALIAS),
        "give": lambda: Task(id="t", owner="otto", title="Bread").save(using=ALIAS),
        "delete": lambda: tasks.filter(owner="otto").delete(),
    }
    told = {}
    for name, edit in edits.items():
        before = state()
        statement = 1
        while killed_at(statement, edit):
            assert state() == before, (name, statement)
            statement += 1
        after = state()
        assert after[0] != before[0], name
        assert after[1] != before[1], name
        for owner in ("anna", "otto"):
            assert mobync.reconcile(owner, dry_run=True).ok, (name, owner)
        told[name] = statement - 1
    print(json.dumps(told))


if __name__ == "__main__":
    main()
