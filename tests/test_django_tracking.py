"""Edits that the app's own code makes by Django's ORM are in the log in the same transaction."""

from __future__ import annotations

import json
import pickle
import sqlite3
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import databases
import pytest
from django_databases import django_database

from mobync import BusyError, InvalidDiffError, Mobync, SyncReport
from mobync.memory import MemorySynchronizer

# Django must know its settings first.
from django.conf import settings  # isort: skip
from django.db import IntegrityError, OperationalError, connections, transaction  # isort: skip
from django.db.models import signals  # isort: skip
from django.db.transaction import TransactionManagementError  # isort: skip
from django.test.utils import CaptureQueriesContext  # isort: skip
from django_app.models import Atlas, Book, Folio, LentBook, Project, Reader, Shelf, Task  # isort: skip
from mobync.django import DjangoSynchronizer, track  # isort: skip
from mobync.django.models import Diff, Head  # isort: skip

HERE = Path(__file__).parent
PATIENCE_S = 120
SOURCES = [Project, Task, Shelf, Reader, Book, Atlas, Folio]
MODELS: dict[str, Any] = {"tasks": Task, "projects": Project, "books": Book}


class App:
    """An app whose models are tracked."""

    def __init__(self, alias: str, lock_timeout_s: float = 60) -> None:
        self.alias = alias
        self.store = DjangoSynchronizer(MODELS, using=alias, lock_timeout_s=lock_timeout_s)
        self.mobync = Mobync(self.store)
        track(self.mobync)
        self.clocks: dict[str, int] = {}

    def news(self, owner: str = "anna") -> list[tuple[str, str, dict[str, Any]]]:
        """What a device that is up to date gets now."""
        reply = self.mobync.apply(self.clocks.get(owner, 0), [], owner)
        self.clocks[owner] = reply["logical_clock"]
        return [(d["type"], d["model"], json.loads(d["json_data"])) for d in reply["diffs"]]

    def short(self, owner: str = "anna") -> list[tuple[str, str]]:
        """The same in short."""
        return [(kind, row["id"]) for kind, _, row in self.news(owner)]

    def is_in_order(self) -> None:
        for owner in ("anna", "otto"):
            assert self.mobync.reconcile(owner, dry_run=True).ok

    def sync(self, type_: str, model: str, owner: str = "anna", **row: Any) -> int:
        """What a device sends that is up to date."""
        sent = {
            "id": uuid.uuid4().hex,
            "owner": owner,
            "logical_clock": 0,
            "utc_timestamp": 1_700_000_000_000,
            "type": type_,
            "model": model,
            "json_data": json.dumps(row),
        }
        clock: int = self.mobync.apply(self.clocks.get(owner, 0), [sent], owner)["logical_clock"]
        self.clocks[owner] = clock
        return clock

    def atomic(self) -> Any:
        return transaction.atomic(using=self.alias)

    def statements(self) -> Any:
        return CaptureQueriesContext(connections[self.alias])

    def task(self, id_: str, owner: str = "anna", **row: Any) -> Task:
        made: Task = Task.objects.using(self.alias).create(
            id=id_, owner=owner, **{"title": id_, **row}
        )
        return made


@pytest.fixture(scope="module", params=databases.KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with django_database(request.param, tmp_path_factory.mktemp("db"), SOURCES) as alias:
        yield alias


@pytest.fixture
def app(made: str) -> App:
    for source in (Task, Project, Atlas, Folio, Book, Shelf, Reader, Diff, Head):
        source._base_manager.using(made).all().delete()
    app = App(made)
    Diff.objects.using(made).all().delete()
    Head.objects.using(made).all().delete()
    return app


@contextmanager
def receiving(signal: Any, source: Any, receiver: Callable[..., object]) -> Iterator[None]:
    """A receiver of the app, asked before mobync's."""
    mobyncs = signal.receivers
    signal.receivers = []
    signal.connect(receiver, sender=source)
    signal.receivers += mobyncs
    signal.sender_receivers_cache.clear()
    try:
        yield
    finally:
        signal.disconnect(receiver, sender=source)


def test_what_is_saved_and_deleted_is_on_the_devices(app: App) -> None:
    task = app.task("t", title="Milk", price="2.50")
    ((kind, model, row),) = app.news()
    assert (kind, model) == ("create", "tasks")
    assert (row["title"], row["rank"], row["price"]) == ("Milk", 7, 2.5)

    task.title = "Bread"
    task.save()
    ((kind, _, row),) = app.news()
    assert kind == "update"
    assert row.pop("changed")
    assert row == {"id": "t", "title": "Bread"}

    task.delete()
    assert app.news() == [("delete", "tasks", {"id": "t"})]
    app.is_in_order()


def test_a_save_that_changes_nothing_logs_nothing(app: App) -> None:
    project = Project.objects.using(app.alias).create(owner="anna", name="Home")
    assert app.short() == [("create", str(project.pk))]
    project.save()
    assert app.news() == []


def test_what_is_rolled_back_is_in_no_log(app: App) -> None:
    with pytest.raises(KeyError), app.atomic():
        app.task("t")
        raise KeyError
    assert app.news() == []
    assert not Task.objects.using(app.alias).exists()


def test_what_a_savepoint_takes_back_is_in_no_log(app: App) -> None:
    with app.atomic():
        task = app.task("kept")
        with pytest.raises(KeyError), app.atomic():
            app.task("undone")
            task.title = "undone, too"
            task.save()
            raise KeyError
        app.task("last")
    assert app.short() == [("create", "kept"), ("create", "last")]
    app.is_in_order()


def test_a_log_that_cannot_be_written_takes_the_row_back(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise LookupError

    task = app.task("t")
    app.news()
    monkeypatch.setattr(app.mobync, "_log_edits", fail)
    edits: list[Callable[[], object]] = [lambda: app.task("u"), task.delete]
    for edit in edits:
        with pytest.raises(LookupError):
            edit()
        with app.atomic():
            with pytest.raises(LookupError):
                edit()
            with pytest.raises(TransactionManagementError):  # so the app cannot commit half of it
                Task.objects.using(app.alias).exists()
            transaction.set_rollback(True, using=app.alias)
    monkeypatch.undo()
    assert [t.pk for t in Task.objects.using(app.alias).all()] == ["t"]
    assert app.news() == []


def test_a_receiver_that_fails_takes_the_row_and_the_diff_back(app: App) -> None:
    def fail(**_: Any) -> None:
        raise LookupError

    signals.post_save.connect(fail, sender=Task)
    try:
        with pytest.raises(LookupError):
            app.task("t")
    finally:
        signals.post_save.disconnect(fail, sender=Task)
    assert not Task.objects.using(app.alias).exists()
    assert app.news() == []


def test_a_receiver_that_fails_in_a_transaction_of_the_app(app: App) -> None:
    def fail(**_: Any) -> None:
        raise LookupError

    with receiving(signals.post_save, Task, fail), app.atomic(), pytest.raises(LookupError):
        app.task("t")  # which stands, because the app goes on
    assert app.short() == [("create", "t")]
    app.is_in_order()


def test_a_save_that_failed_leaves_nothing_for_the_next_one(app: App) -> None:
    task = app.task("t")
    app.task("u", title="taken")
    task.title = "taken"
    with pytest.raises(IntegrityError):
        task.save()
    other = Task.objects.using(app.alias).get(pk="t")
    other.rank = 9
    other.save()
    app.news()
    task.refresh_from_db()
    task.title = "free"
    task.save()
    ((_, _, row),) = app.news()
    assert set(row) == {"id", "title", "changed"}


def test_a_copy_that_a_receiver_has_stored(app: App) -> None:
    stored: list[bytes] = []

    def store(instance: Task, **_: Any) -> None:
        stored.append(pickle.dumps(instance))

    with receiving(signals.post_save, Task, store):
        app.task("t")
    app.news()
    task = pickle.loads(stored[0])
    task.title = "T"
    task.save(using=app.alias)
    ((kind, _, row),) = app.news()
    assert (kind, set(row)) == ("update", {"id", "title", "changed"})


def test_a_kill_does_not_separate_a_row_from_its_diff(app: App) -> None:
    given = {**settings.DATABASES[app.alias]}
    connections[app.alias].close()
    done = subprocess.run(
        [sys.executable, str(HERE / "django_kills.py"), json.dumps(given, default=str)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert set(told) == {"create", "update", "give", "delete"}
    assert min(told.values()) > 5, told


# ---- owners -------------------------------------------------------------------------------------


def test_a_row_that_is_given_to_another_owner(app: App) -> None:
    task = app.task("t")
    app.news()
    task.owner = "otto"
    task.save()
    assert app.short() == [("delete", "t")]
    assert app.short("otto") == [("create", "t")]
    app.is_in_order()


def test_an_owner_who_is_deleted_leaves_rows_of_nobody(app: App) -> None:
    readers = [Reader.objects.using(app.alias).create(name=name) for name in ("anna", "otto")]
    book = Book.objects.using(app.alias).create(owner=readers[0])
    assert app.short() == [("create", str(book.pk))]
    readers[0].delete()
    assert app.short() == [("delete", str(book.pk))]
    book.refresh_from_db()
    book.owner = readers[1]
    book.save()
    assert app.short("otto") == [("create", str(book.pk))]
    app.is_in_order()


def test_an_owner_whom_no_log_can_have_is_passed_over(app: App) -> None:
    Reader.objects.using(app.alias).create(name="")
    book = Book.objects.using(app.alias).create(owner_id="")
    book.delete()
    assert not Head.objects.using(app.alias).exists()


def in_threads(*works: Callable[[], object]) -> None:
    failed: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=[work]) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert failed == []


@pytest.fixture
def patient(app: App) -> Iterator[App]:
    """SQLite waits for other writers for as long as a slow machine takes."""
    options = settings.DATABASES[app.alias]["OPTIONS"]
    before = {**options}
    if connections[app.alias].vendor == "sqlite":
        options["timeout"] = PATIENCE_S
    yield app
    options.clear()
    options.update(before)


def test_saves_and_syncs_do_not_wait_for_each_other_crosswise(patient: App) -> None:
    """Each locks an owner before a row of that owner, and several owners in one order."""
    app = patient
    app.store.is_transient = lambda error: False  # type: ignore[method-assign]
    for name in ("t", "u"):
        app.task(name)

    def edit() -> None:
        for turn in range(20):
            task = Task(id="t", owner="anna", title=f"{turn}")
            task.save(using=app.alias, update_fields=["title"])

    def give(id_: str, first: str, second: str) -> None:
        for _ in range(10):
            for owner in (first, second):
                task = Task.objects.using(app.alias).get(pk=id_)
                task.owner = owner
                task.save()

    def sync() -> None:
        for turn in range(20):
            app.mobync.push("anna", [("update", "tasks", {"id": "t", "rank": 10 + turn})])

    app.task("v", "otto")
    in_threads(edit, sync, lambda: give("u", "otto", "anna"), lambda: give("v", "anna", "otto"))
    app.is_in_order()
    assert Task.objects.using(app.alias).get(pk="t").rank == 29
    assert Task.objects.using(app.alias).get(pk="t").title == "19"


def test_a_sync_waits_for_the_transaction_of_the_app(app: App) -> None:
    hasty = App(app.alias, lock_timeout_s=0.2)
    began, over = threading.Event(), threading.Event()

    def edit() -> None:
        with hasty.atomic():
            hasty.task("t")
            began.set()
            over.wait(PATIENCE_S)

    def sync() -> None:
        began.wait(PATIENCE_S)
        try:
            with pytest.raises(BusyError):
                hasty.sync("create", "tasks", id="u", title="u")
            assert hasty.news() == []
        finally:
            over.set()

    in_threads(edit, sync)
    assert hasty.short() == [("create", "t")]


def test_rows_that_refer_to_a_deleted_one_are_locked_after_their_owners(app: App) -> None:
    """Else this delete and a sync could wait for each other."""
    shelf = Shelf.objects.using(app.alias).create(id="s")
    for name in ("anna", "otto"):
        Reader.objects.using(app.alias).create(name=name)
        Book.objects.using(app.alias).create(owner_id=name, shelf=shelf)
    with app.statements() as statements:
        shelf.delete()
    locks = [each["sql"] for each in statements if "FOR UPDATE" in each["sql"]]
    assert bool(locks) == (connections[app.alias].vendor != "sqlite")  # which locks the file
    heads = ["mobync_heads" in sql for sql in locks]
    assert heads[:3] == [True, True, False][: len(locks)]


def test_rows_that_are_deleted_together_lock_their_owner_once(app: App) -> None:
    counts = []
    for ids in ("a", "bcdef"):
        for id_ in ids:
            app.task(id_)
        with app.statements() as statements:
            Task.objects.using(app.alias).all().delete()
        counts.append(sum("mobync_heads" in each["sql"] for each in statements))
    assert counts[0] == counts[1] > 0


# ---- receivers of the app -----------------------------------------------------------------------


def test_a_row_comes_before_those_that_its_receiver_makes(app: App) -> None:
    def begin(instance: Project, created: bool, **_: Any) -> None:
        if created:
            app.task("t", project=instance)
            instance.mark = "m"
            instance.save()

    with receiving(signals.post_save, Project, begin):
        project = Project.objects.using(app.alias).create(owner="anna", name="Home")
    id_ = str(project.pk)
    assert app.short() == [("create", id_), ("create", "t"), ("update", id_)]
    app.is_in_order()


def test_a_receiver_whose_edit_is_rolled_back(app: App) -> None:
    def fail(instance: Project, **_: Any) -> None:
        with pytest.raises(IntegrityError), app.atomic():
            app.task("t", project=instance, title="taken")

    app.task("taken")
    app.news()
    with receiving(signals.post_save, Project, fail):
        project = Project.objects.using(app.alias).create(owner="anna", name="Home")
    assert app.short() == [("create", str(project.pk))]
    app.is_in_order()


def test_a_receiver_that_pushes(app: App) -> None:
    def push(instance: Project, **_: Any) -> None:
        row = {"id": "t", "title": "T", "project_id": str(instance.pk)}
        app.mobync.push("anna", [("create", "tasks", row)])

    with receiving(signals.post_save, Project, push):
        project = Project.objects.using(app.alias).create(owner="anna", name="Home")
    edits = app.short()  # at the end, what was filled in for the task
    assert edits[:2] == [("create", str(project.pk)), ("create", "t")]
    app.is_in_order()


def test_a_receiver_that_saves_before_the_save(app: App) -> None:
    began: list[Task] = []

    def again(instance: Task, **_: Any) -> None:
        if not began:
            began.append(instance)
            instance.save()
            instance.rank = 9

    task = app.task("t")
    app.news()
    task.title = "T"
    with receiving(signals.pre_save, Task, again):
        task.save()
    first, second = app.news()
    assert (first[2]["title"], second[2]["rank"]) == ("T", 9)
    app.is_in_order()


@pytest.mark.parametrize("model", ["tasks", "books"])  # a task is read back
def test_a_row_of_a_sync_that_a_receiver_saves_again(app: App, model: str) -> None:
    def shout(instance: Any, created: bool, **_: Any) -> None:
        if created:
            instance.title += "!"
            instance.save()

    Reader.objects.using(app.alias).create(name="anna")
    id_ = str(uuid.uuid4())
    with receiving(signals.post_save, MODELS[model], shout):
        app.sync("create", model, id=id_, title="T")
    app.clocks.clear()
    assert [row["title"] for _, _, row in app.news()][-1] == "T!"
    app.is_in_order()


def test_a_row_of_a_sync_that_is_saved_after_it(app: App) -> None:
    def later(instance: Task, created: bool, **_: Any) -> None:
        if created:
            instance.title = "later"
            transaction.on_commit(instance.save, using=app.alias)

    with receiving(signals.post_save, Task, later):
        app.sync("create", "tasks", id="t", title="T")
    assert app.news()[-1][2]["title"] == "later"
    app.is_in_order()


@pytest.mark.parametrize("is_conflict", [False, True])
def test_an_error_after_the_commit_of_a_sync_is_no_refusal(app: App, is_conflict: bool) -> None:
    calls: list[str] = []

    def fail() -> None:
        calls.append("after the commit")
        if is_conflict:  # after which a sync that was not committed begins again
            raise OperationalError from sqlite3.OperationalError("database is locked")
        Task.objects.using(app.alias).bulk_create([Task(id="t", owner="otto", title="again")])

    def later(**_: Any) -> None:
        transaction.on_commit(fail, using=app.alias)

    expected = OperationalError if is_conflict else IntegrityError
    with receiving(signals.post_save, Task, later), pytest.raises(expected):
        app.sync("create", "tasks", id="t", title="T")
    assert len(calls) == 1
    assert next(kind for kind, _ in app.short()) == "create"
    assert Task.objects.using(app.alias).get().owner == "anna"
    app.is_in_order()


def test_a_listener_may_push_when_it_is_told_of_an_edit_in_a_sync(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[SyncReport] = []

    def answer(report: SyncReport) -> None:
        told.append(report)
        if len(told) == 1:
            row = {"id": "u", "title": "by the listener"}
            app.mobync.push("anna", [("create", "tasks", row)])

    def edit(instance: Task, created: bool, **_: Any) -> None:
        if instance.pk == "t":
            Project.objects.using(app.alias).create(owner="anna", name="Home")

    app.mobync.listen(answer)
    with receiving(signals.post_save, Task, edit):
        app.sync("create", "tasks", id="t", title="T")
    assert "listener" not in caplog.text
    assert Task.objects.using(app.alias).filter(pk="u").exists()
    edited, pushed, synced = told
    assert (edited.accepted, synced.pushed) == (1, 1)
    assert pushed.logical_clock > edited.logical_clock > synced.logical_clock
    assert app.mobync.logical_clock("anna") == pushed.logical_clock
    app.is_in_order()


def test_what_a_receiver_takes_back_in_a_sync_is_in_no_log(app: App) -> None:
    def edit(instance: Task, **_: Any) -> None:
        if instance.pk == "u":
            return
        with pytest.raises(KeyError), app.atomic():
            made = Task(id="u", owner="anna", title="U")
            Task.objects.using(app.alias).bulk_create([made])
            made.title = "V"
            made.save()
            raise KeyError

    with receiving(signals.post_save, Task, edit):
        app.sync("create", "tasks", id="t", title="T")
    assert app.news() == []
    app.is_in_order()


# ---- what is deleted with a row -----------------------------------------------------------------


def test_rows_that_are_deleted_with_another(app: App) -> None:
    project = Project.objects.using(app.alias).create(owner="anna", name="Home")
    app.task("t", project=project)
    app.news()
    id_ = str(project.pk)
    Project.objects.using(app.alias).all().delete()
    assert app.short() == [("delete", "t"), ("delete", id_)]
    app.is_in_order()


def test_rows_that_refer_to_a_deleted_one_no_more(app: App) -> None:
    shelf = Shelf.objects.using(app.alias).create(id="s")
    Reader.objects.using(app.alias).create(name="anna")
    books = Book.objects.using(app.alias)
    second = books.create(owner_id="anna", shelf=shelf)
    first = books.create(owner_id="anna", sequel=second)
    app.news()

    shelf.delete()
    assert app.news() == [("update", "books", {"id": str(second.pk), "shelf_id": None})]

    gone = str(second.pk)
    second.delete()
    assert app.news() == [
        ("update", "books", {"id": str(first.pk), "sequel_id": None}),
        ("delete", "books", {"id": gone}),
    ]
    app.is_in_order()


def test_the_same_where_a_device_deletes_it(app: App) -> None:
    Reader.objects.using(app.alias).create(name="anna")
    books = Book.objects.using(app.alias)
    second = books.create(owner_id="anna")
    first = books.create(owner_id="anna", sequel=second)
    app.news()
    app.sync("delete", "books", id=str(second.pk))
    assert app.news() == [("update", "books", {"id": str(first.pk), "sequel_id": None})]
    app.is_in_order()


def test_erased_rows_are_in_no_log(app: App) -> None:
    project = Project.objects.using(app.alias).create(owner="anna", name="Home")
    app.task("hers", project=project)
    app.task("his", "otto", project=project)
    app.news("otto")
    app.mobync.erase("anna")
    assert not Diff.objects.using(app.alias).filter(owner="anna").exists()
    assert app.short("otto") == [("delete", "his")]
    app.is_in_order()


# ---- classes and databases ----------------------------------------------------------------------


def test_a_proxy_and_a_row_that_extends_another(app: App) -> None:
    Reader.objects.using(app.alias).create(name="anna")
    lent = LentBook.objects.using(app.alias).create(owner_id="anna", title="Lent")
    atlas = Atlas.objects.using(app.alias).create(owner_id="anna", title="Atlas", maps=3)
    ids = [str(lent.pk), str(atlas.pk)]
    assert app.short() == [("create", ids[0]), ("create", ids[1])]
    atlas.title = "Maps"
    atlas.save()
    assert app.news() == [("update", "books", {"id": ids[1], "title": "Maps"})]
    lent.delete()
    atlas.delete()
    assert app.short() == [("delete", ids[0]), ("delete", ids[1])]
    app.is_in_order()


def test_a_row_that_extends_another_and_has_its_own_key(app: App) -> None:
    Reader.objects.using(app.alias).create(name="anna")
    folio = Folio.objects.using(app.alias).create(owner_id="anna", title="Folio")
    id_ = str(folio.extended_id)
    folio.title = "Leaf"
    folio.save()
    assert app.short() == [("create", id_), ("update", id_)]
    folio.delete()
    assert app.short() == [("delete", id_)]
    app.is_in_order()


def test_another_key_is_another_row(app: App) -> None:
    task = app.task("t")
    task.pk = "u"
    task.title = "U"
    task.save()
    assert app.short() == [("create", "t"), ("create", "u")]
    task.title = "t"
    task.pk = "t"  # of a row that is there
    Task(id="t", owner="anna", title="V").save(using=app.alias)
    assert app.short() == [("update", "t")]
    app.is_in_order()


def test_another_database_has_its_own_log(app: App, tmp_path: Path) -> None:
    with django_database("sqlite", tmp_path, SOURCES) as alias:
        Task.objects.using(alias).create(id="t", owner="anna", title="T")
        assert app.news() == []
        assert not Diff.objects.using(alias).exists()
        other = App(alias)
        other.task("u")
        app.task("v")
        assert other.short() == [("create", "u")]
        assert app.short() == [("create", "v")]


def test_what_sends_no_signals_is_left_to_reconcile(app: App) -> None:
    app.task("t")
    tasks = Task.objects.using(app.alias)
    app.news()
    tasks.update(title="by a statement")
    tasks.bulk_create([Task(id="u", owner="anna", title="U")])
    loaded = Project(owner="anna", name="loaded")
    loaded.save_base(raw=True, using=app.alias)  # as loaddata
    assert app.news() == []
    found = app.mobync.reconcile("anna")
    assert (found.created, found.updated) == (2, 1)
    assert sorted(app.short()) == sorted(
        [("update", "t"), ("create", "u"), ("create", str(loaded.pk))]
    )


def test_the_later_mobync_of_the_same_models_logs(app: App) -> None:
    told: list[SyncReport] = []
    later = Mobync(DjangoSynchronizer(MODELS, using=app.alias))
    later.listen(told.append)
    track(later)
    track(later)
    app.task("t")
    assert len(told) == 1
    assert app.short() == [("create", "t")]


def test_arguments_that_cannot_be() -> None:
    with pytest.raises(TypeError, match="mobync must be a Mobync, not str"):
        track("tasks")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be a DjangoSynchronizer"):
        track(Mobync(MemorySynchronizer()))


def test_an_edit_that_can_be_no_diff_is_refused(app: App) -> None:
    if connections[app.alias].vendor == "postgresql":
        return  # it does not take the character either
    with pytest.raises(InvalidDiffError, match="U\\+0000"):
        app.task("t", title="a\0b")
    assert not Task.objects.using(app.alias).exists()
