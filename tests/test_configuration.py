"""A mistake in how mobync is put together is an error at once, and it says what to do."""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import databases
import pytest
from asgiref.sync import async_to_sync
from databases import Database
from http_app import django_wsgi_app, make_endpoint
from sqlalchemy import Column, MetaData, String, create_engine
from sqlalchemy.exc import NoSuchTableError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from task_list import diff, task_table

from mobync import FilterType, Mobync, ReadFilter, Synchronizer
from mobync._sync.settings import COUNTS, SECONDS
from mobync.http import Endpoint
from mobync.memory import MemorySynchronizer
from mobync.sqlalchemy import (
    DocumentSynchronizer,
    SQLAlchemySynchronizer,
    create_tables,
    diffs_table,
)

database = databases.database


def sqlalchemy_store(
    engine: Any = None, metadata: MetaData | None = None, kind: Any = SQLAlchemySynchronizer
) -> Any:
    """A store whose log has a name of its own."""
    metadata = MetaData() if metadata is None else metadata
    tasks = task_table(metadata)
    engine = create_engine("sqlite://") if engine is None else engine
    log = diffs_table(metadata, "changes")
    return kind(engine, {"tasks": tasks}, diffs=log)


# ---- the log's name -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("store", "kept"),
    [
        (MemorySynchronizer("changes"), "changes"),
        (sqlalchemy_store(), "changes"),
        (DocumentSynchronizer(create_engine("sqlite://")), "diffs"),
    ],
    ids=lambda given: type(given).__name__,
)
def test_a_log_of_another_name_than_the_stores_is_refused_at_construction(
    store: Synchronizer, kept: str
) -> None:
    with pytest.raises(ValueError, match=rf"Mobync\(store, diffs_model_name='{kept}'\)"):
        Mobync(store, "journal")

    assert Mobync(store, kept).diffs_model_name == kept


def test_a_synchronizer_of_the_apps_own_may_say_the_name_of_its_log() -> None:
    class Silent(MemorySynchronizer):
        diffs_model_name = None

        def __init__(self) -> None:
            super().__init__()
            self.diffs_model_name = None

    assert Synchronizer.diffs_model_name is None
    assert Mobync(Silent(), "journal").diffs_model_name == "journal"


# ---- the settings of a Mobync -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"max_diffs": "9"}, TypeError, "max_diffs must be an int, not str"),
        ({"max_fields": True}, TypeError, "max_fields must be an int, not bool"),
        ({"max_depth": 1001}, ValueError, "max_depth must be from 0 to 1000, not 1001"),
        (
            {"max_pull_diffs": 0},
            ValueError,
            f"max_pull_diffs must be from 1 to {sys.maxsize}, not 0",
        ),
        ({"lock_timeout_s": "1"}, TypeError, "lock_timeout_s must be a number (seconds), not str"),
        (
            {"device_retention_s": 1e12},
            ValueError,
            f"device_retention_s must be from 0 to {threading.TIMEOUT_MAX:.0f} seconds, "
            "not 1000000000000.0",
        ),
        ({"anonymous_devices": 0}, TypeError, "anonymous_devices must be True or False, not 0"),
        ({"on_refusal": "go"}, ValueError, "on_refusal must be 'raise' or 'skip', not 'go'"),
    ],
)
def test_a_setting_that_cannot_be_is_named_with_what_was_given(
    given: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error) as refused:
        Mobync(MemorySynchronizer(), **given)
    assert str(refused.value) == said


def test_each_setting_is_kept_as_what_it_is() -> None:
    """They go from Python to C by their order."""
    given: dict[str, Any] = {name: 100 + i for i, name in enumerate(COUNTS)}
    given |= {name: 0.5 + i for i, name in enumerate(SECONDS)}
    for of_their_own in (
        {"anonymous_devices": True, "on_refusal": "skip"},
        {"anonymous_devices": False, "on_refusal": "raise"},
    ):
        given |= of_their_own
        mobync = Mobync(MemorySynchronizer(), **given)
        assert {name: getattr(mobync, name) for name in given} == given


# ---- one thing where another is meant -----------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        (MemorySynchronizer, r"make one, MemorySynchronizer\(\.\.\.\)"),
        (make_endpoint(), "not Endpoint"),
        (create_engine("sqlite://"), "SQLAlchemySynchronizer"),
    ],
    ids=["class", "endpoint", "engine"],
)
def test_what_is_no_synchronizer_is_named(given: Any, advice: str) -> None:
    with pytest.raises(TypeError, match=advice):
        Mobync(given)


def test_an_endpoint_takes_a_mobync_and_a_live() -> None:
    endpoint = make_endpoint()
    with pytest.raises(TypeError, match=r"must be a Mobync.*Mobync\(synchronizer\)"):
        Endpoint(MemorySynchronizer(), endpoint.authenticate)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"must be a Mobync.*not Endpoint"):
        Endpoint(endpoint, endpoint.authenticate)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"live must be one of mobync\.live, not bool"):
        Endpoint(endpoint.mobync, endpoint.authenticate, live=True)  # type: ignore[arg-type]


def serve_by_flask(endpoint: Any) -> None:
    from flask import Flask

    from mobync.flask import MobyncSync

    MobyncSync(Flask(__name__), endpoint)


def serve_by_flask_later(endpoint: Any) -> None:
    from flask import Flask

    from mobync.flask import MobyncSync

    MobyncSync().init_app(Flask(__name__), endpoint)


def serve_by_asgi(endpoint: Any) -> None:
    from mobync.asgi import SyncApp

    SyncApp(endpoint)


def serve_by_starlette(endpoint: Any) -> None:
    from mobync.asgi import routes

    routes(endpoint)


def serve_by_fastapi(endpoint: Any) -> None:
    from mobync.asgi import router

    router(endpoint)


@pytest.mark.parametrize(
    "serve",
    [serve_by_flask, serve_by_flask_later, serve_by_asgi, serve_by_starlette, serve_by_fastapi],
)
@pytest.mark.parametrize(
    ("given", "advice"),
    [
        (Mobync(MemorySynchronizer()), r"not Mobync: give Endpoint\(mobync, authenticate\)"),
        (Endpoint, "not type"),
    ],
    ids=["Mobync", "class"],
)
def test_an_adapter_takes_an_endpoint(serve: Any, given: Any, advice: str) -> None:
    with pytest.raises(TypeError, match=rf"endpoint must be a mobync\.http\.Endpoint, {advice}"):
        serve(given)


def test_flasks_extension_takes_the_app_first() -> None:
    from mobync.flask import MobyncSync

    with pytest.raises(TypeError, match="app must be a Flask, not Endpoint"):
        MobyncSync(make_endpoint())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"not Mobync: give Endpoint\(mobync, authenticate\)"):
        MobyncSync(None, Mobync(MemorySynchronizer()))  # type: ignore[arg-type]


@pytest.mark.parametrize(("threads", "error"), [(0, ValueError), ("8", TypeError)])
def test_the_threads_of_asgi_are_a_count(threads: Any, error: type[Exception]) -> None:
    from mobync.asgi import routes

    with pytest.raises(error, match="threads must be"):
        routes(make_endpoint(), threads=threads)


# ---- async def where a plain function is called -------------------------------------------------

METHODS = [name for name, value in vars(Synchronizer).items() if inspect.isfunction(value)]


async def answer_later(*given: Any, **more: Any) -> Any:
    return True


async def answers_later(*given: Any, **more: Any) -> Any:
    yield True


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("base", [MemorySynchronizer, SQLAlchemySynchronizer])
def test_an_async_method_of_a_synchronizer_is_refused_at_construction(
    base: type[Synchronizer], name: str
) -> None:
    kind = type("Later", (base,), {name: answer_later})
    store = sqlalchemy_store(kind=kind) if base is SQLAlchemySynchronizer else kind("changes")
    with pytest.raises(TypeError, match=rf"^Later\.{name} must be a plain function.*make it a def"):
        Mobync(store, "changes")


@pytest.mark.parametrize(
    ("name", "method"),
    [("owned_rows", answers_later), ("transaction", asynccontextmanager(answers_later))],
)
def test_an_async_generator_of_a_synchronizer_is_refused_at_construction(
    name: str, method: Any
) -> None:
    store = type("Later", (MemorySynchronizer,), {name: method})()
    with pytest.raises(TypeError, match=rf"^Later\.{name} must be a plain function"):
        Mobync(store)


def knows_no_fields(store: Any, owner_id: str, diff: Any) -> bool:
    return True


def knows_too_few(store: Any, owner_id: str, *, model: str, json_data: str) -> bool:
    return True


@pytest.mark.parametrize("rule", [knows_no_fields, knows_too_few])
@pytest.mark.parametrize("name", ["validate_create", "validate_update", "validate_delete"])
def test_a_rule_that_does_not_take_a_diff_is_refused_at_construction(name: str, rule: Any) -> None:
    store = type("Own", (MemorySynchronizer,), {name: rule})()
    with pytest.raises(
        TypeError, match=rf"^Own\.{name} is called with \(owner_id, id, owner, .*but"
    ):
        Mobync(store)


def test_a_rule_may_name_the_fields_that_it_uses_or_all() -> None:
    class Own(MemorySynchronizer):
        def validate_create(self, who: str, *, model: str, **rest: Any) -> bool:
            return True

        def validate_update(
            self, owner_id, id, owner, logical_clock, utc_timestamp, type, model, json_data
        ) -> bool:
            return True

    Mobync(Own())


def yielding(*given: Any, **more: Any) -> Any:
    yield True


ITERATED = {"read", "owned_rows", "find_owned_rows", "owned_models", "read_parts"}


@pytest.mark.parametrize("name", sorted(set(METHODS) - ITERATED))
def test_a_generator_where_nobody_iterates_is_refused_at_construction(name: str) -> None:
    store = type("Yielding", (MemorySynchronizer,), {name: yielding})()
    with pytest.raises(TypeError, match=rf"^Yielding\.{name} must be .*a generator"):
        Mobync(store)


def test_rows_may_come_from_a_generator() -> None:
    class Yielding(MemorySynchronizer):
        def read(self, where: str, filters: Any = ()) -> Any:
            yield from super().read(where, filters)

    assert Mobync(Yielding()).apply(0, [], "anna")["diffs"] == []


def test_a_method_that_waits_by_itself_is_plain() -> None:
    class Waiting(MemorySynchronizer):
        validate_create = async_to_sync(answer_later)

    Mobync(Waiting())


@pytest.mark.parametrize("name", ["create", "update", "delete"])
def test_what_a_row_by_row_write_answers_is_not_dropped_if_somebody_must_wait_for_it(
    name: str,
) -> None:
    class Later(MemorySynchronizer):
        pass

    setattr(Later, name, lambda self, where, row: answer_later())
    with pytest.raises(TypeError, match=rf"^Later\.{name} must be a plain function.*a coroutine"):
        getattr(Later(), f"{name}_many")("tasks", ['{"id": "t"}'])


def test_the_check_of_documents_is_plain() -> None:
    class Later(DocumentSynchronizer):
        check_keys = answer_later  # type: ignore[assignment]

    with pytest.raises(TypeError, match=r"^Later\.check_keys must be a plain function"):
        Later(create_engine("sqlite://"))


def test_a_sessions_factory_makes_sessions_that_block() -> None:
    engine = create_async_engine("postgresql+psycopg://")
    for factory in (async_sessionmaker(engine), AsyncSession, answer_later):
        with pytest.raises(TypeError, match=r"asyncio|plain function"):
            sqlalchemy_store(scoped_session(factory))  # type: ignore[arg-type]
    for session in (AsyncSession(engine), Session(engine.sync_engine)):
        with pytest.raises(TypeError, match="asyncio"):
            sqlalchemy_store(session)


@pytest.mark.parametrize(
    ("made", "complaint"),
    [
        (
            lambda: AsyncSession(autoflush=False),
            "must make a Session, not AsyncSession",
        ),
        (lambda: answer_later("here"), "plain function.*a coroutine"),
        (lambda: None, "must make a Session, not NoneType"),
    ],
    ids=["AsyncSession", "coroutine", "None"],
)
def test_a_session_that_is_made_later_is_looked_at(made: Any, complaint: str) -> None:
    store = sqlalchemy_store(scoped_session(made))
    with pytest.raises(TypeError, match=complaint):
        Mobync(store, "changes").apply(0, [], "anna")


@pytest.mark.parametrize("argument", ["default", "onupdate"])
def test_the_default_of_a_column_is_plain(argument: str) -> None:
    metadata = MetaData()
    table = task_table(metadata)
    table.append_column(Column("made", String(9), **{argument: answer_later}))
    with pytest.raises(TypeError, match=rf"^the {argument} of tasks\.made must be a plain f"):
        SQLAlchemySynchronizer(create_engine("sqlite://"), {"tasks": table})


# ---- a package that is not installed ------------------------------------------------------------


@pytest.mark.parametrize(
    ("missing", "use", "extra"),
    [
        ("flask", "import mobync.flask", "flask"),
        ("starlette", "import mobync.asgi", "asgi"),
        ("anyio", "import mobync.asgi", "asgi"),
        (
            "fastapi",
            "import http_app, mobync.asgi; mobync.asgi.router(http_app.make_endpoint())",
            "fastapi",
        ),
        ("django", "import mobync.django", "django"),
        ("sqlalchemy", "import mobync.sqlalchemy", "sqlalchemy"),
        (
            "psycopg",
            "from mobync.live import PostgreSQLLive; PostgreSQLLive('postgresql://x')",
            "live-postgresql",
        ),
        ("redis", "from mobync.live import RedisLive; RedisLive('redis://x')", "live-redis"),
    ],
)
def test_an_adapter_without_its_packages_names_the_extra(
    missing: str, use: str, extra: str
) -> None:
    hidden = f"import sys; sys.modules[{missing!r}] = None; {use}"
    done = subprocess.run(
        [sys.executable, "-c", hidden],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stderr.splitlines()[-1]
    assert last == (
        f"ModuleNotFoundError: mobync needs {missing} here: "
        f"pip install -e '.[{extra}]' in a checkout of mobync, or with a wheel: "
        f"pip install 'WHEEL[{extra}]'"
    )


# ---- Django's settings --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        (None, "must be a dict"),
        ({"mobync": Mobync(MemorySynchronizer())}, "missing or unknown: 'authenticate'"),
        ({"mobync": make_endpoint(), "authenticate": print}, "must be a Mobync"),
        ({"mobync": "no.such.module.mobync", "authenticate": print}, "no"),
        (
            {"mobync": Mobync(MemorySynchronizer()), "authenticate": print, "live": True},
            "live must be",
        ),
    ],
    ids=["absent", "missing", "endpoint", "path", "live"],
)
def test_the_check_of_manage_py_finds_a_wrong_setting(setting: Any, complaint: str) -> None:
    django_wsgi_app()
    from django.core.management import call_command
    from django.core.management.base import SystemCheckError
    from django.test import override_settings

    with override_settings(MOBYNC=setting), pytest.raises(SystemCheckError) as refused:
        call_command("check")
    assert "(mobync.E001) settings.MOBYNC" in str(refused.value)
    assert complaint in str(refused.value)
    assert "HINT: docs/http.md" in str(refused.value)


def test_the_check_of_manage_py_says_nothing_of_a_right_setting() -> None:
    django_wsgi_app()
    from django.core.management import call_command

    call_command("check")


# ---- SQLAlchemy ---------------------------------------------------------------------------------


def test_models_go_by_name() -> None:
    tasks = task_table(MetaData())
    engine = create_engine("sqlite://")
    for models in ([tasks], (tasks,), tasks, "tasks", None):
        with pytest.raises(TypeError, match=r"models must be a dict.*\{'tasks': Task\}"):
            SQLAlchemySynchronizer(engine, models)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="models must be a dict"):
        SQLAlchemySynchronizer(engine, {tasks: "tasks"})  # type: ignore[dict-item]


def test_documents_have_a_metadata_and_no_models() -> None:
    with pytest.raises(TypeError, match=r"metadata must be a MetaData, not dict: .* no models"):
        DocumentSynchronizer(create_engine("sqlite://"), {"tasks": None})  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "error"), [(None, TypeError), ("", ValueError)])
def test_the_name_of_a_log_in_memory_is_text(name: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="diffs_model_name must be"):
        MemorySynchronizer(name)


def test_an_engine_of_asyncio_is_refused_by_name() -> None:
    engine = create_async_engine("postgresql+psycopg://")
    for given in (engine, engine.sync_engine):
        with pytest.raises(TypeError, match=r"asyncio.*create_engine"):
            sqlalchemy_store(given)
        with pytest.raises(TypeError, match=r"asyncio.*create_engine"):
            DocumentSynchronizer(given)
        with pytest.raises(TypeError, match=r"asyncio.*create_engine"):
            create_tables(given, MetaData())


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ("sqlite:///todo.db", r"not str: give create_engine\(url\)"),
        (sessionmaker(), r"not sessionmaker: give scoped_session\("),
    ],
)
def test_what_is_no_engine_is_told_what_to_give(given: Any, advice: str) -> None:
    with pytest.raises(TypeError, match=rf"engine must be.*{advice}"):
        sqlalchemy_store(given)


ANNAS = [ReadFilter("owner", FilterType.equal, "anna")]
FIRST_USES = {
    "apply": lambda mobync, store: mobync.apply(0, [], "anna"),
    "push": lambda mobync, store: mobync.push("anna", [("delete", "tasks", {"id": "t"})]),
    "compact": lambda mobync, store: mobync.compact("anna"),
    "highest": lambda mobync, store: store.highest_logical_clock("anna"),
    "owners": lambda mobync, store: list(store.owners()),
    "read": lambda mobync, store: store.read(store.diffs_model_name, ANNAS),
}


@pytest.mark.parametrize("use", FIRST_USES)
def test_missing_tables_are_named_with_what_makes_them(database: Database, use: str) -> None:
    store = sqlalchemy_store(database.engine)
    mobync = Mobync(store, "changes")

    with pytest.raises(NoSuchTableError, match=r"no table 'changes(_heads)?':.*create_tables"):
        FIRST_USES[use](mobync, store)


def test_tables_made_before_the_synchronizer_lack_those_of_mobync(database: Database) -> None:
    metadata = MetaData()
    tasks = task_table(metadata)
    create_tables(database.engine, metadata)
    mobync = Mobync(SQLAlchemySynchronizer(database.engine, {"tasks": tasks}))

    with pytest.raises(NoSuchTableError, match="or once the Synchronizer is made"):
        mobync.apply(0, [], "anna")
    create_tables(database.engine, metadata)
    mobync.apply(0, [], "anna")


def test_a_model_without_a_table_is_named(database: Database) -> None:
    metadata = MetaData()
    store = sqlalchemy_store(database.engine, metadata)
    create_tables(database.engine, metadata)
    metadata.tables["tasks"].drop(database.engine)

    with pytest.raises(NoSuchTableError, match=r"no table 'tasks': .*create_tables"):
        Mobync(store, "changes").apply(0, [diff("create", id="a")], "anna")


def test_a_missing_table_of_documents_is_named(database: Database) -> None:
    store = DocumentSynchronizer(database.engine)
    with pytest.raises(NoSuchTableError, match=r"no table 'documents':.*create_tables"):
        list(store.documents("anna"))
    store.metadata.create_all(database.engine)
    store.documents_table.drop(database.engine)
    with pytest.raises(NoSuchTableError, match=r"no table 'documents':.*create_tables"):
        Mobync(store).apply(0, [diff("create", id="a")], "anna")


def test_a_missing_table_is_told_when_the_session_is_the_apps(database: Database) -> None:
    with Session(database.engine) as session:
        store = sqlalchemy_store(session)
        with pytest.raises(NoSuchTableError, match=r"no table 'changes_heads':.*create_tables"):
            Mobync(store, "changes").apply(0, [], "anna")


def test_what_blocks_needs_no_greenlet() -> None:
    """SQLAlchemy brings it for some systems and versions only."""
    program = """
import sys
sys.modules["greenlet"] = None
from sqlalchemy import create_engine
from mobync import Mobync
from mobync.sqlalchemy import DocumentSynchronizer, create_tables
engine = create_engine("sqlite://")
store = DocumentSynchronizer(engine)
create_tables(engine, store.metadata)
print(Mobync(store).apply(0, [], "anna")["success"])
import mobync.sqlalchemy
try:
    mobync.sqlalchemy.AsyncSQLAlchemySynchronizer
except ModuleNotFoundError as error:
    print(error)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "True",
        "mobync needs greenlet here: pip install -e '.[asyncio]' in a checkout of mobync, or with "
        "a wheel: pip install 'WHEEL[asyncio]'",
    ]
