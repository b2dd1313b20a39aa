"""Many rows handed to SQLite's driver: as if SQLAlchemy had looked at each of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Date,
    Enum,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    TypeDecorator,
    bindparam,
    create_engine,
    event,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError
from sqlalchemy.pool import StaticPool

from mobync.sqlalchemy._many import execute_many

ROWS = 150


class Shouted(TypeDecorator[str]):
    """A type of the app's own, which changes what it binds, here and in the statement."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else f"{value}!"

    def bind_expression(self, bindvalue: Any) -> Any:
        return func.upper(bindvalue)


def things(*more: Column[Any]) -> Table:
    return Table(
        "things",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("due", Date),
        Column("price", Numeric(10, 2)),
        Column("done", Boolean),
        Column("tags", JSON),
        Column("colour", Enum("red", "green")),
        Column("loud", Shouted),
        *more,
    )


def thing(number: int) -> dict[str, Any]:
    return {
        "id": number,
        "due": None if number % 7 == 0 else dt.date(2026, 1, 1 + number % 28),
        "price": Decimal(number) / 4,
        "done": number % 2 == 0,
        "tags": {"n": [number]},
        "colour": "green" if number % 3 else "red",
        "loud": f"a{number}",
    }


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    yield engine
    engine.dispose()


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    with engine.connect() as connection:
        yield connection


def stored(connection: Connection, table: Table, write: Callable[[], object]) -> list[Any]:
    table.metadata.create_all(connection)
    write()
    rows = connection.execute(select(table).order_by(table.c.id)).all()
    table.metadata.drop_all(connection)
    return list(rows)


def check_alike(connection: Connection, table: Table, rows: list[Any]) -> list[Any]:
    """Insert and update rows by SQLAlchemy's own way and by ours; what is stored then."""
    changed = (
        update(table)
        .where(table.c.id == bindparam("of"))
        .values(tags=bindparam("new", type_=JSON()), loud=bindparam("say", type_=Shouted()))
    )
    changes = [{"of": row["id"], "new": [row["id"]], "say": "b"} for row in rows]

    def by_sqlalchemy() -> None:
        connection.execute(insert(table), rows)
        connection.execute(changed, changes)

    def by_us() -> None:
        execute_many(connection, insert(table), rows)
        execute_many(connection, changed, changes)

    found = stored(connection, table, by_us)
    assert found == stored(connection, table, by_sqlalchemy)
    assert len(found) == len(rows)
    return found


@pytest.mark.parametrize("count", [1, 99, 100, ROWS])
def test_rows_are_stored_as_their_types_say(connection: Connection, count: int) -> None:
    found = check_alike(connection, things(), [thing(number) for number in range(count)])
    assert found[0].loud == "B!"
    assert found[0].tags == [0]


def test_many_rows_go_to_the_driver_as_tuples(connection: Connection) -> None:
    table, sent = things(), []

    @event.listens_for(connection, "before_cursor_execute")
    def note(_c: Any, _cursor: Any, sql: str, rows: Any, context: Any, _many: bool) -> None:
        if sql.startswith("INSERT"):
            sent.append((len(rows), context.compiled is None))

    for count in (99, ROWS):
        rows = [thing(number) for number in range(count)]
        stored(connection, table, lambda rows=rows: execute_many(connection, insert(table), rows))
    assert sent == [(99, False), (ROWS, True)]


def test_defaults_that_python_makes_are_made(connection: Connection) -> None:
    numbers = iter(range(10_000))
    table = things(
        Column("made", Integer, default=lambda: next(numbers)),
        Column("touched", String, onupdate="touched"),
        Column("listed", String, server_default="by the server"),
    )
    rows = [thing(number) for number in range(ROWS)]
    found = stored(connection, table, lambda: execute_many(connection, insert(table), rows))
    assert [row.made for row in found] == list(range(ROWS))
    assert {row.listed for row in found} == {"by the server"}

    def create_and_change() -> None:
        execute_many(connection, insert(table), rows)
        change = update(table).where(table.c.id == bindparam("of")).values(done=bindparam("new"))
        execute_many(connection, change, [{"of": row["id"], "new": True} for row in rows])

    assert {row.touched for row in stored(connection, table, create_and_change)} == {"touched"}


def test_a_column_may_have_any_name(connection: Connection) -> None:
    table = things(Column("odd (name) %s: [x].y", String))
    rows = [{**thing(number), "odd (name) %s: [x].y": f"o{number}"} for number in range(ROWS)]
    assert check_alike(connection, table, rows)[3][-1] == "o3"


def test_an_app_that_listens_hears_of_the_statement(connection: Connection) -> None:
    table, heard = things(), []
    event.listen(connection, "before_execute", lambda _c, element, *_: heard.append(element))
    rows = [thing(number) for number in range(ROWS)]
    statement = insert(table)
    stored(connection, table, lambda: execute_many(connection, statement, rows))
    assert statement in heard


def test_a_schema_is_translated(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.exec_driver_sql("ATTACH ':memory:' AS elsewhere")
        connection.exec_driver_sql("CREATE TABLE main.things (another INTEGER)")
        translated = connection.execution_options(schema_translate_map={None: "elsewhere"})
        check_alike(translated, things(), [thing(number) for number in range(ROWS)])


def test_an_error_is_the_one_of_sqlalchemy(connection: Connection) -> None:
    rows = [thing(number % 120) for number in range(ROWS)]
    with pytest.raises(IntegrityError):
        stored(connection, things(), lambda: execute_many(connection, insert(things()), rows))
