"""A Synchronizer over the models of Django, on SQLite, PostgreSQL and MariaDB."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import databases
import pytest
from asgiref.sync import async_to_sync
from django_databases import django_database, django_on
from sqlalchemy import Column, MetaData, String, Table

from mobync import BusyError, InvalidDiffError, LogicalClockError, Mobync
from mobync.live import InProcessLive
from mobync.sqlalchemy import SQLAlchemySynchronizer, create_tables

# Django must know its settings first.
from django.db import connections, models, transaction  # isort: skip
from django.db.backends.signals import connection_created  # isort: skip
from django.test import AsyncRequestFactory, RequestFactory, override_settings  # isort: skip
from django.test.utils import CaptureQueriesContext  # isort: skip
from django_app.models import Project, Seat, Task  # isort: skip
from mobync.django import DjangoSynchronizer, track  # isort: skip
from mobync.http.django import events  # isort: skip
from mobync.django.models import Diff, Head  # isort: skip

database = databases.database
NOW = 1_700_000_000_000


@pytest.fixture(scope="module", params=databases.KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with django_database(request.param, tmp_path_factory.mktemp("db"), [Project, Task]) as alias:
        yield alias


@pytest.fixture
def alias(made: str) -> str:
    for source in (Task, Project, Diff, Head):
        source._base_manager.using(made).all().delete()
    return made


@pytest.fixture
def store(alias: str) -> DjangoSynchronizer:
    return DjangoSynchronizer({"tasks": Task, "projects": Project}, using=alias)


@pytest.fixture
def mobync(store: DjangoSynchronizer) -> Mobync:
    mobync = Mobync(store)
    track(mobync)
    return mobync


def diff(type_: str, model: str, **data: Any) -> dict[str, Any]:
    return {
        "id": uuid.uuid4().hex,
        "owner": "anna",
        "logical_clock": 0,
        "utc_timestamp": NOW,
        "type": type_,
        "model": model,
        "json_data": json.dumps(data),
    }


def sync(mobync: Mobync, owner: str, clock: int, diffs: list[dict[str, Any]]) -> Any:
    return mobync.apply(clock, diffs, owner)


def pull(mobync: Mobync, clock: int = 0, owner: str = "anna") -> list[tuple[str, dict[str, Any]]]:
    reply = sync(mobync, owner, clock, [])
    return [(d["type"], json.loads(d["json_data"])) for d in reply["diffs"]]


def plain(sent: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    """What was sent, without what Django fills in of tasks, and what says nothing else."""
    filled = {"state": "open", "rank": 7, "is_hidden": False, "secret": "x"}

    def is_said(name: str, value: Any) -> bool:
        return name != "changed" and filled.get(name) != value

    said = [(kind, {f: v for f, v in row.items() if is_said(f, v)}) for kind, row in sent]
    return [(kind, row) for kind, row in said if kind != "update" or len(row) > 1]


VALUES = {
    "id": "t1",
    "title": "Milk",
    "state": "done",
    "price": "12.50",
    "due": "2026-05-04T10:00:00.25+02:00",
    "extra": {"a": [1, 2.5, None]},
    "picture": base64.b64encode(b"\0\xff").decode(),
    "rank": 3,
    "day": "2026-05-04",
    "is_hidden": True,
}


def test_a_row_has_the_values_that_the_device_sent(mobync: Mobync, alias: str) -> None:
    sync(mobync, "anna", 0, [diff("create", "tasks", **VALUES)])

    task = Task.objects.using(alias).get()
    assert (task.pk, task.owner, task.title, task.state) == ("t1", "anna", "Milk", "done")
    assert task.price == Decimal("12.50")
    assert task.due == dt.datetime(2026, 5, 4, 8, 0, 0, 250_000, dt.timezone.utc)
    assert task.extra == {"a": [1, 2.5, None]}
    assert bytes(task.picture) == b"\0\xff"
    assert (task.rank, task.day, task.is_hidden) == (3, dt.date(2026, 5, 4), True)
    assert mobync.reconcile("anna", dry_run=True).ok


def test_updates_and_deletes_reach_the_row_and_the_other_device(mobync: Mobync, alias: str) -> None:
    sync(mobync, "anna", 0, [diff("create", "tasks", id="t1", title="Milk")])
    clock = sync(mobync, "anna", 0, [])["logical_clock"]
    sync(mobync, "anna", clock, [diff("update", "tasks", id="t1", title="Bread", rank=9)])
    task = Task.objects.using(alias).get()
    assert (task.title, task.rank, task.state) == ("Bread", 9, "open")
    assert plain(pull(mobync)) == [
        ("create", {"id": "t1", "title": "Milk"}),
        ("update", {"id": "t1", "title": "Bread", "rank": 9}),
    ]

    clock = sync(mobync, "anna", 0, [])["logical_clock"]
    sync(mobync, "anna", clock, [diff("delete", "tasks", id="t1")])
    assert not Task.objects.using(alias).exists()


def test_the_log_is_read_only_for_a_device_that_lacks_something(mobync: Mobync, alias: str) -> None:
    def reads_of_log(clock: int, sent: dict[str, Any]) -> int:
        with CaptureQueriesContext(connections[alias]) as executed:
            sync(mobync, "anna", clock, [sent])
        return sum("FROM" in q["sql"] and "utc_timestamp" in q["sql"] for q in executed)

    sync(mobync, "anna", 0, [diff("create", "projects", id=P1, name="Home")])
    clock = mobync.logical_clock("anna")
    assert reads_of_log(clock, diff("update", "projects", id=P1, name="House")) == 0
    assert reads_of_log(clock, diff("update", "projects", id=P1, name="Flat")) == 1


P1 = "11111111-1111-4111-8111-111111111111"
P2 = "22222222-2222-4222-8222-222222222222"

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"title": None}, "'title' must not be null"),
    ({}, "'title' is missing"),
    ({"title": "x" * 21}, "'title' is longer than 20 characters"),
    ({"title": "x", "state": "lost"}, "'state': Value 'lost' is not a valid choice."),
    ({"title": "x", "rank": 1}, "'rank': Ensure this value is greater than or equal to 2."),
    ({"title": "x", "rank": -1}, "'rank' must be from 0 to 32767"),
    ({"title": "x", "rank": 1000}, "it breaks the check 'rank_check'"),
    ({"title": "x", "price": "1.234"}, "'price' has more than 2 digits after the point"),
    ({"title": "x", "due": "soon"}, "'due' must be a date and time"),
    ({"title": "x", "picture": "?"}, "'picture' must be a base64 string"),
    ({"title": "x", "project_id": P2}, "'project_id' refers to a row that is not there"),
    ({"title": "x", "owner": "otto"}, "'owner' is set by the server"),
    ({"title": "x", "secret": "y"}, "'secret' is set by the server"),
    ({"title": "x", "nothing": 1}, "model 'tasks' has no field 'nothing'"),
    ({"title": "Taken"}, "another row has the same"),
    ({"title": "x", "id": "taken"}, "id cannot be used"),
]


@pytest.mark.parametrize(("data", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
@pytest.mark.parametrize("skips", [False, True], ids=["raise", "skip"])
def test_what_does_not_fit_is_refused_by_name(
    store: DjangoSynchronizer, alias: str, data: dict[str, Any], reason: str, skips: bool
) -> None:
    mobync = Mobync(store, on_refusal="skip" if skips else "raise")
    sync(mobync, "anna", 0, [diff("create", "tasks", id="taken", title="Taken")])
    clock = sync(mobync, "anna", 0, [])["logical_clock"]
    bad = diff("create", "tasks", **{"id": "bad", **data})
    sent = [
        diff("create", "tasks", id="a", title="A"),
        bad,
        diff("create", "tasks", id="b", title="B"),
    ]

    if not skips:
        with pytest.raises(InvalidDiffError, match="invalid diff 1") as refused:
            sync(mobync, "anna", clock, sent)
        assert reason in refused.value.reason
        assert refused.value.diff_id == bad["id"]
        assert Task.objects.using(alias).count() == 1
        return
    reply = sync(mobync, "anna", clock, sent)
    assert [(r["id"], reason in r["message"]) for r in reply["refused"]] == [(bad["id"], True)]
    assert set(Task.objects.using(alias).values_list("pk", flat=True)) == {"a", "b", "taken"}


def test_rows_that_must_be_unique_together(mobync: Mobync, alias: str) -> None:
    row = {"id": P1, "name": "A", "mark": "m"}
    sync(mobync, "anna", 0, [diff("create", "projects", **row)])
    other = {"id": P2, "name": "B", "mark": "m"}
    with pytest.raises(InvalidDiffError, match="another row has the same 'mark'"):
        sync(mobync, "anna", 1, [diff("create", "projects", **other)])
    sync(mobync, "otto", 0, [{**diff("create", "projects", **other), "owner": "otto"}])
    assert Project.objects.using(alias).count() == 2


@pytest.mark.parametrize("kind", databases.KINDS)
@pytest.mark.parametrize("field", ["row", "row_seat", "colour"])
def test_the_fields_of_the_key_that_is_broken_are_named(
    kind: str, field: str, tmp_path: Path
) -> None:
    with django_database(kind, tmp_path, [Seat]) as alias:
        mobync = Mobync(DjangoSynchronizer({"seats": Seat}, using=alias))
        sync(mobync, "anna", 0, [diff("create", "seats", id="a", **{field: "x"})])
        with pytest.raises(InvalidDiffError, match=f"another row has the same '{field}'$"):
            sync(mobync, "anna", 1, [diff("create", "seats", id="b", **{field: "x"})])


def test_what_a_task_awaits_uses_the_connection_of_django(mobync: Mobync, alias: str) -> None:
    async def push() -> None:
        await mobync.push_async("anna", [("create", "tasks", {"id": "a", "title": "A"})])
        assert await Task.objects.using(alias).acount() == 1

    with pytest.raises(KeyError), transaction.atomic(using=alias):
        async_to_sync(push)()
        assert Task.objects.using(alias).get().title == "A"
        raise KeyError
    assert not Task.objects.using(alias).exists()


@pytest.mark.parametrize("is_asgi", [False, True], ids=["WSGI", "ASGI"])
def test_a_stream_of_events_holds_no_connection_while_it_waits(
    mobync: Mobync, alias: str, is_asgi: bool
) -> None:
    made: list[Any] = []
    live = InProcessLive()

    def note(connection: Any, **_: Any) -> None:
        made.append(connection)

    def push(id_: str) -> None:
        mobync.push("anna", [("create", "tasks", {"id": id_, "title": id_})])
        connections.close_all()
        live._hub.doubt()  # so that the clock is read again

    async def serve() -> list[bytes]:
        request = AsyncRequestFactory().get("/sync/events")
        chunks = aiter(await asyncio.to_thread(events, request))
        first = await anext(chunk async for chunk in chunks if b"id: " in chunk)
        await asyncio.to_thread(push, "b")
        return [first, await anext(chunk async for chunk in chunks if b"id: " in chunk)]

    def serve_in_a_thread() -> list[bytes]:
        chunks = iter(events(RequestFactory().get("/sync/events")))
        first = next(chunk for chunk in chunks if b"id: " in chunk)
        push("b")
        return [first, next(chunk for chunk in chunks if b"id: " in chunk)]

    push("a")
    setting = {"mobync": mobync, "authenticate": lambda token, headers: "anna", "live": live}
    connection_created.connect(note)
    try:
        with override_settings(MOBYNC=setting):
            said = asyncio.run(serve()) if is_asgi else serve_in_a_thread()
    finally:
        connection_created.disconnect(note)
    assert [chunk.split(b"\n")[0] for chunk in said] == [
        b"id: 2",
        b"id: 4",
    ]  # with what is filled in
    assert len(made) > 1
    assert all(connection.connection is None for connection in made)


def test_a_project_without_time_zones(alias: str) -> None:
    with override_settings(USE_TZ=False):
        mobync = Mobync(DjangoSynchronizer({"tasks": Task}, using=alias))
        sent = {"id": "t", "title": "T", "due": "2026-05-04T10:00:00.25"}
        sync(mobync, "anna", 0, [diff("create", "tasks", **sent)])
        assert Task.objects.using(alias).get().due == dt.datetime(2026, 5, 4, 10, 0, 0, 250_000)
        assert mobync.reconcile("anna", dry_run=True).ok


def test_many_refusals_leave_the_rest(store: DjangoSynchronizer, alias: str) -> None:
    mobync = Mobync(store, on_refusal="skip")
    sent = [
        diff("create", "tasks", id=str(n), title="x", rank=1000 if n % 2 else 5) for n in range(40)
    ]
    for n, each in enumerate(sent):
        each["json_data"] = json.dumps({**json.loads(each["json_data"]), "title": f"T{n}"})

    reply = sync(mobync, "anna", 0, sent)

    assert len(reply["refused"]) == 20
    assert Task.objects.using(alias).count() == 20


def test_rows_are_written_in_the_order_that_they_need(mobync: Mobync, alias: str) -> None:
    sync(
        mobync,
        "anna",
        0,
        [
            diff("create", "tasks", id="t", title="T", project_id=P1),
            diff("create", "projects", id=P1, name="P"),
        ],
    )
    assert str(Task.objects.using(alias).get().project_id) == P1


def test_a_row_of_another_owner_cannot_be_referred_to(mobync: Mobync) -> None:
    sync(mobync, "otto", 0, [{**diff("create", "projects", id=P1, name="P"), "owner": "otto"}])

    with pytest.raises(InvalidDiffError, match="'project_id' refers to a row that is not there"):
        sync(mobync, "anna", 0, [diff("create", "tasks", id="t", title="T", project_id=P1)])


@pytest.mark.parametrize("other", ["otto", "ANNA"])
def test_an_owner_does_not_reach_the_rows_of_another(
    mobync: Mobync, alias: str, other: str
) -> None:
    sync(mobync, "anna", 0, [diff("create", "tasks", id="t", title="Hers")])

    sync(mobync, other, 0, [{**diff("update", "tasks", id="t", title="His"), "owner": other}])
    sync(mobync, other, 1, [{**diff("delete", "tasks", id="t"), "owner": other}])

    assert Task.objects.using(alias).get().title == "Hers"


def test_signals_and_overrides_run(mobync: Mobync, alias: str) -> None:
    seen: list[tuple[str, bool]] = []

    def note(sender: Any, instance: Task, created: bool, **_: Any) -> None:
        seen.append((instance.pk, created))

    models.signals.post_save.connect(note, sender=Task)
    try:
        sync(mobync, "anna", 0, [diff("create", "tasks", id="t", title="T")])
        sync(mobync, "anna", 1, [diff("update", "tasks", id="t", title="U")])
    finally:
        models.signals.post_save.disconnect(note, sender=Task)
    assert seen == [("t", True), ("t", False)]


# ---- edits of the app's own code ----------------------------------------------------------------


def test_what_the_app_saves_and_deletes_is_on_the_devices(mobync: Mobync, alias: str) -> None:
    sync(mobync, "anna", 0, [diff("create", "tasks", id="t", title="T")])
    task = Task.objects.using(alias).get()
    clock = sync(mobync, "anna", 0, [])["logical_clock"]

    task.title = "By the admin"
    task.save()
    assert plain(pull(mobync, clock)) == [("update", {"id": "t", "title": "By the admin"})]
    Task.objects.using(alias).create(id="new", owner="anna", title="New")
    clock = sync(mobync, "anna", clock, [])["logical_clock"]
    task.delete()
    assert ("delete", {"id": "t"}) in pull(mobync, clock)
    assert mobync.reconcile("anna", dry_run=True).ok


def test_an_edit_that_is_rolled_back_is_in_no_log(mobync: Mobync, alias: str) -> None:
    with pytest.raises(KeyError), transaction.atomic(using=alias):
        Task.objects.using(alias).create(id="t", owner="anna", title="T")
        raise KeyError
    assert pull(mobync) == []


def test_a_row_that_is_given_away_is_deleted_for_one_and_made_for_the_other(
    mobync: Mobync, alias: str
) -> None:
    sync(mobync, "anna", 0, [diff("create", "tasks", id="t", title="T")])
    task = Task.objects.using(alias).get()
    task.owner = "otto"
    task.save()

    assert [kind for kind, _ in pull(mobync)] == []  # a new device of hers knows nothing of it
    assert [(kind, data["id"]) for kind, data in pull(mobync, 0, "otto")] == [("create", "t")]


def test_what_django_deletes_with_a_row_is_deleted_on_the_devices(
    mobync: Mobync, alias: str
) -> None:
    sync(mobync, "anna", 0, [diff("create", "projects", id=P1, name="P")])
    sync(mobync, "anna", 1, [diff("create", "tasks", id="t", title="T", project_id=P1)])
    clock = sync(mobync, "anna", 0, [])["logical_clock"]

    clock = sync(mobync, "anna", clock, [diff("delete", "projects", id=P1)])["logical_clock"]

    assert not Task.objects.using(alias).exists()
    assert pull(mobync, clock) == [("delete", {"id": "t"})]


# ---- transactions -------------------------------------------------------------------------------


def test_a_sync_in_a_transaction_of_the_app_is_part_of_it(mobync: Mobync, alias: str) -> None:
    with pytest.raises(KeyError), transaction.atomic(using=alias):
        sync(mobync, "anna", 0, [diff("create", "tasks", id="t", title="T")])
        assert pull(mobync) != []
        raise KeyError
    assert pull(mobync) == []
    assert not Task.objects.using(alias).exists()


def test_a_refused_sync_leaves_the_transaction_of_the_app_usable(
    mobync: Mobync, alias: str
) -> None:
    with transaction.atomic(using=alias):
        Project.objects.using(alias).create(id=P1, owner="anna", name="P")
        with pytest.raises(InvalidDiffError):
            sync(mobync, "anna", 0, [diff("create", "tasks", id="t", title="T", rank=1000)])
        assert Project.objects.using(alias).exists()
    assert Project.objects.using(alias).exists()


def in_thread(work: Callable[[], object]) -> threading.Thread:
    def run() -> None:
        try:
            work()
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_syncs_of_one_owner_wait_for_each_other(store: DjangoSynchronizer, alias: str) -> None:
    def sync_one(n: int) -> None:
        sync(
            Mobync(store, lock_timeout_s=30),  # a lock of its own: only the database's counts
            "anna",
            0,
            [diff("create", "tasks", id=f"t{n}", title=f"T{n}")],
        )

    threads = [in_thread(lambda n=n: sync_one(n)) for n in range(8)]
    for thread in threads:
        thread.join()

    clocks = list(
        Diff.objects.using(alias).order_by("logical_clock").values_list("logical_clock", flat=True)
    )
    assert clocks == list(range(16))  # of each the create, and what Django fills in


def test_who_waits_too_long_is_told(alias: str) -> None:
    store = DjangoSynchronizer({"tasks": Task}, using=alias, lock_timeout_s=0.2)
    mobync = Mobync(store)
    sync(mobync, "anna", 0, [diff("create", "tasks", id="t", title="T")])
    assert len(pull(mobync)) == 2  # from now on it knows that there is a device without a name
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with store.transaction("anna"):
            held.set()
            release.wait(30)

    thread = in_thread(hold)
    held.wait(30)
    try:
        with pytest.raises(BusyError, match=r"another sync of this owner took longer than 0\.2 s"):
            sync(mobync, "anna", 0, [diff("create", "tasks", id="u", title="U")])
        assert len(pull(mobync)) == 2  # who only asks does not wait
    finally:
        release.set()
        thread.join()


def test_named_devices_are_kept(mobync: Mobync, store: DjangoSynchronizer) -> None:
    body = {
        "logical_clock": 0,
        "device": "phone",
        "request": 1,
        "diffs": [diff("create", "tasks", id="t", title="T")],
    }
    first = mobync.apply_json(json.dumps(body), "anna")
    again = mobync.apply_json(json.dumps(body), "anna")

    assert json.loads(first)["success"]
    assert json.loads(again)["success"]
    assert set(store.read_devices("anna", None)) >= {"phone"}


def test_adopt_compact_and_erase(store: DjangoSynchronizer, alias: str) -> None:
    for n in range(5):
        Task.objects.using(alias).bulk_create([Task(id=f"t{n}", owner="anna", title=f"T{n}")])
    quiet = Mobync(store)
    assert quiet.adopt("anna", "tasks") == 5
    assert quiet.reconcile("anna", dry_run=True).ok
    quiet.push("anna", [("update", "tasks", {"id": "t1", "title": "U"})])
    assert quiet.compact("anna").rows_before == 7  # with what `changed` has become
    assert quiet.erase("anna") is not None
    assert not Task.objects.using(alias).exists()
    assert not Diff.objects.using(alias).exists()


def sqlalchemy_store(database: databases.Database) -> SQLAlchemySynchronizer:
    """A store whose log mobync.django will take over."""
    metadata = MetaData()
    columns = [Column(name, String(40)) for name in ("owner", "title")]
    table = Table("old_tasks", metadata, Column("id", String(40), primary_key=True), *columns)
    store = SQLAlchemySynchronizer(database.engine, {"tasks": table})
    create_tables(database.engine, metadata)
    return store


def take_over(database: databases.Database, alias: str) -> None:
    """Execute the statements of docs/django.md that copy the log."""
    page = Path(__file__).parents[1] / "docs/django.md"
    (statements,) = re.findall(r"```sql\n(.*?)```", page.read_text(), re.DOTALL)
    if database.kind == "mariadb":  # as the page says
        statements = statements.replace("utc_timestamp", "`utc_timestamp`")
    with connections[alias].cursor() as cursor:
        for statement in filter(str.strip, statements.split(";")):
            cursor.execute(statement)


def test_a_log_of_the_sqlalchemy_store_is_taken_over(database: databases.Database) -> None:
    before = Mobync(sqlalchemy_store(database))
    rows = [{"id": "t1", "title": "A"}, {"id": "t2", "title": "B"}]
    before.push("anna", [("create", "tasks", row) for row in rows])
    clock = before.push("anna", [("update", "tasks", {"id": "t2", "title": "C"})])
    seen = pull(before)

    with django_on(database, [Project, Task]) as alias:
        take_over(database, alias)
        mobync = Mobync(DjangoSynchronizer({"tasks": Task}, using=alias))
        assert pull(mobync) == seen
        assert mobync.apply(clock, [], "anna")["diffs"] == []
        sync(mobync, "anna", clock, [diff("create", "tasks", id="t3", title="D")])
        assert plain(pull(mobync, clock)) == [("create", {"id": "t3", "title": "D"})]


def test_a_log_that_is_taken_over_still_knows_how_far_it_is_folded(
    database: databases.Database,
) -> None:
    before = Mobync(sqlalchemy_store(database))
    made = [diff("create", "tasks", id=f"t{n}", title="A") for n in range(3)]
    gone = diff("delete", "tasks", id="t0")
    reply = before.apply(0, made, "anna", device="phone", request=1)
    reply = before.apply(3, [gone], "anna", device="phone", request=2, mark=reply["mark"])
    before.apply(4, [], "anna", device="phone", request=3, mark=reply["mark"])
    assert before.compact("anna").horizon == 4

    with django_on(database, [Project, Task]) as alias:
        take_over(database, alias)
        mobync = Mobync(DjangoSynchronizer({"tasks": Task}, using=alias))
        with pytest.raises(LogicalClockError) as refused:
            mobync.apply(3, [], "anna")  # it would not hear of the delete
        assert refused.value.behind


# ---- configuration ------------------------------------------------------------------------------


def test_a_model_that_cannot_be_synced_is_named() -> None:
    from django.contrib.auth.models import Group, User

    for source, options, complaint in (
        (Group, {}, "auth.Group has no owner field 'owner'"),
        (Group, {"shared": ("x",)}, "the primary key must be a UUIDField or a CharField"),
        (User, {"owner_column": "username"}, "the primary key must be"),
        (Task, {"owner_column": "due"}, "the owner must be a text"),
        (Task, {"shared": ("x",)}, "it is not shared"),
        ("django_app.Nothing", {}, "Nothing"),
        (Diff, {}, "the primary key must be"),
    ):
        with pytest.raises(ValueError, match=r".") as refused:
            DjangoSynchronizer({"x": source}, **options)  # type: ignore[dict-item, arg-type]
        assert complaint in str(refused.value)


def test_a_wrong_argument_is_named(tmp_path: Path) -> None:
    from django.core.exceptions import ImproperlyConfigured

    for arguments, kind in (
        ({"models": [Task]}, TypeError),
        ({"models": {"x": int}}, TypeError),
        ({"models": {"x": Task}, "shared": ("y",)}, ValueError),
        ({"models": {"x": Task, "y": Task}}, ValueError),
        ({"models": {"x": Task}, "lock_timeout_s": -1}, ValueError),
        ({"models": {"x": Task}, "using": "nowhere"}, ImproperlyConfigured),
        ({"models": {"diffs": Task}}, ValueError),
    ):
        with pytest.raises(kind):
            DjangoSynchronizer(**arguments)  # type: ignore[arg-type]
