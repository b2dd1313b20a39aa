"""Into a database and out of it, against the least that a hand-written endpoint could do.

Such an endpoint has no merge: it inserts each pushed row and a row of the log, in one transaction,
and for a pull it selects the log.  It is written on SQLAlchemy, like mobync.sqlalchemy, and on the
driver alone; these get their rows ready made.  A third one gets diffs, as mobync does, and reads
the row out of each.  Their log has the seven columns of a diff, and none for compaction.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from typing import Any

from measuring import Contender, race
from sqlalchemy import bindparam, insert, select, update
from tables import Table, percent
from task_database import TaskDatabase, answering, open_tasks, task_row
from workload import Diff, task_creates, task_updates

KINDS = ("sqlite", "postgresql")
PUSHED = 1000
PULLED = 10_000
MARK = {"sqlite": ":{}", "postgresql": "%({})s"}


def measure(quick: bool) -> list[Table]:
    table = Table(
        "end_to_end",
        "End to end, against the same rows written or read without a merge",
        ["database", "work", "how", "ms", "CPU ms", "spread", "mobync / this", "by CPU"],
        notes=[
            "Push: 1,000 diffs of a device that is up to date, in one transaction. Each diff is "
            "a row of the app and a row of the log. executemany gets finished rows; 'json.loads, "
            "executemany' (also with SQLAlchemy) reads their JSON first.",
            "Pull: 10,000 diffs as a list of dicts. SQLite: WAL, synchronous = NORMAL.",
            "CPU ms is processor time, of this process and of PostgreSQL's process for its "
            "connection; the spread is that of CPU ms. ms is elapsed time, including the disk and "
            "other programs.",
        ],
    )
    for kind in answering(KINDS, table.notes):
        with open_tasks(kind) as database:
            contests = {
                f"push {PUSHED:,} creates": _creates(database, kind),
                f"push {PUSHED:,} updates": _updates(database, kind),
                f"pull {PULLED:,}": _pulls(database, kind),
            }
            for work, contenders in contests.items():
                times = race(contenders, 1 if quick else 10, clock=database.processor_time)
                ours = times["mobync.apply"]
                for how, taken in times.items():
                    table.add(
                        kind,
                        work,
                        how,
                        statistics.median(taken.elapsed) * 1000,
                        taken.median * 1000,
                        percent(taken.spread),
                        statistics.median(ours.elapsed) / statistics.median(taken.elapsed),
                        ours.median / taken.median,
                    )
    return [table]


# ---- push ---------------------------------------------------------------------------------------

MakeDiffs = Callable[[], list[Diff]]


class _Device(Contender):
    """A device that is up to date, and pushes."""

    def __init__(self, database: TaskDatabase, owner: str, make: MakeDiffs) -> None:
        clock = database.mobync.apply(0, [], owner)["logical_clock"]
        pushed: list[Diff] = []

        def before() -> None:
            pushed[:] = make()

        def run() -> None:
            nonlocal clock
            reply = database.mobync.apply(clock, pushed, owner)
            clock = reply["logical_clock"]

        super().__init__(run, before)


class _HandWritten(Contender):
    """Writes app rows and log rows, by one of two ways to write."""

    def __init__(
        self,
        owner: str,
        make: MakeDiffs,
        write: Callable[[list[dict[str, Any]], list[Diff]], None],
        rows_ready: bool = True,
    ) -> None:
        diffs: list[Diff] = []
        rows: list[dict[str, Any]] = []
        log: list[Diff] = []
        clock = 0

        def read() -> None:
            nonlocal clock
            rows[:] = [task_row(diff, owner) for diff in diffs]
            log[:] = [
                {**diff, "owner": owner, "logical_clock": clock + i} for i, diff in enumerate(diffs)
            ]
            clock += len(diffs)

        def before() -> None:
            diffs[:] = make()
            if rows_ready:
                read()

        def run() -> None:
            if not rows_ready:
                read()
            write(rows, log)

        super().__init__(run, before)


def _creates(database: TaskDatabase, kind: str) -> dict[str, Contender]:
    rng = random.Random(3)

    def make() -> list[Diff]:
        return task_creates(rng, PUSHED)

    def by_sqlalchemy(rows: list[dict[str, Any]], log: list[Diff]) -> None:
        with database.engine.begin() as connection:
            connection.execute(insert(database.tasks), rows)
            connection.execute(insert(database.log), log)

    insert_task, insert_log = (
        _insert_text(kind, table) for table in (database.tasks, database.log)
    )

    def by_driver(rows: list[dict[str, Any]], log: list[Diff]) -> None:
        _execute_many(database, [(insert_task, rows), (insert_log, log)])

    return {
        "mobync.apply": _Device(database, "c-mobync", make),
        "SQLAlchemy executemany": _HandWritten("c-sqlalchemy", make, by_sqlalchemy),
        "driver executemany": _HandWritten("c-driver", make, by_driver),
        "json.loads, executemany": _HandWritten("c-loads", make, by_sqlalchemy, rows_ready=False),
    }


def _updates(database: TaskDatabase, kind: str) -> dict[str, Contender]:
    rng = random.Random(4)

    def maker(owner: str) -> MakeDiffs:
        """Updates of the names of an owner's tasks, which are made first."""
        creates = task_creates(rng, PUSHED)
        rows = [task_row(create, owner) for create in creates]
        with database.engine.begin() as connection:
            connection.execute(insert(database.tasks), rows)
        ids = [row["id"] for row in rows]

        def make() -> list[Diff]:
            return task_updates(rng, ids, PUSHED)

        return make

    statement = update(database.tasks).where(
        database.tasks.c.id == bindparam("of_id"), database.tasks.c.owner == bindparam("of_owner")
    )

    def by_sqlalchemy(rows: list[dict[str, Any]], log: list[Diff]) -> None:
        with database.engine.begin() as connection:
            for fields, run in _by_fields(rows).items():
                values = {name: bindparam(f"new_{name}") for name in fields}
                connection.execute(statement.values(values), [_renamed(row) for row in run])
            connection.execute(insert(database.log), log)

    insert_log = _insert_text(kind, database.log)
    mark = MARK[kind].format

    def by_driver(rows: list[dict[str, Any]], log: list[Diff]) -> None:
        runs = [
            (
                f"UPDATE tasks SET {', '.join(f'{name} = {mark(name)}' for name in fields)} "
                f"WHERE id = {mark('id')} AND owner = {mark('owner')}",
                run,
            )
            for fields, run in _by_fields(rows).items()
        ]
        _execute_many(database, [*runs, (insert_log, log)])

    return {
        "mobync.apply": _Device(database, "u-mobync", maker("u-mobync")),
        "SQLAlchemy executemany": _HandWritten(
            "u-sqlalchemy", maker("u-sqlalchemy"), by_sqlalchemy
        ),
        "driver executemany": _HandWritten("u-driver", maker("u-driver"), by_driver),
        "json.loads, executemany": _HandWritten(
            "u-loads", maker("u-loads"), by_sqlalchemy, rows_ready=False
        ),
    }


def _by_fields(rows: list[dict[str, Any]]) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    """Rows by the fields that they set, a statement each."""
    runs: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        runs.setdefault(tuple(name for name in row if name not in ("id", "owner")), []).append(row)
    return runs


def _renamed(row: dict[str, Any]) -> dict[str, Any]:
    named = {f"new_{name}": value for name, value in row.items() if name not in ("id", "owner")}
    return {**named, "of_id": row["id"], "of_owner": row["owner"]}


def _insert_text(kind: str, table: Any) -> str:
    names = [column.name for column in _plain(table)]
    marks = ", ".join(MARK[kind].format(name) for name in names)
    return f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({marks})"


def _plain(table: Any) -> list[Any]:
    """The columns of a table, without that of the log which only compaction writes."""
    return [column for column in table.columns if column.name != "field_times"]


def _execute_many(database: TaskDatabase, statements: list[tuple[str, list[Any]]]) -> None:
    connection = database.engine.raw_connection()
    try:
        cursor = connection.cursor()
        for text, rows in statements:
            cursor.executemany(text, rows)
        connection.commit()
    finally:
        connection.close()


# ---- pull ---------------------------------------------------------------------------------------


def _pulls(database: TaskDatabase, kind: str) -> dict[str, Contender]:
    owner = "reader"
    creates = task_creates(random.Random(5), PULLED, owner)
    database.fill_log([{**row, "logical_clock": i} for i, row in enumerate(creates)])
    columns = [column.name for column in _plain(database.log)]
    question = select(*_plain(database.log)).where(database.log.c.owner == owner)
    text = (
        f"SELECT {', '.join(columns)} FROM diffs WHERE owner = {MARK[kind].format('owner')}"
        " AND logical_clock >= 0"
    )

    def by_mobync() -> None:
        assert len(database.mobync.apply(0, [], owner)["diffs"]) == PULLED

    def by_sqlalchemy() -> None:
        with database.engine.connect() as connection:
            rows = connection.execute(question.where(database.log.c.logical_clock >= 0))
            assert len([dict(row) for row in rows.mappings()]) == PULLED

    def by_driver() -> None:
        connection = database.engine.raw_connection()
        try:
            cursor = connection.cursor()
            cursor.execute(text, {"owner": owner})
            assert len([dict(zip(columns, row, strict=True)) for row in cursor]) == PULLED
        finally:
            connection.close()

    return {
        "mobync.apply": Contender(by_mobync),
        "SQLAlchemy select": Contender(by_sqlalchemy),
        "driver select": Contender(by_driver),
    }
