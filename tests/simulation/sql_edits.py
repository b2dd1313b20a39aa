"""A world in which a part of the edits is made by SQL, behind mobync's back.

Triggers note some of them, which the next transaction of the owner brings into the log.  Others no
trigger sees, and a reconciliation that follows at once finds them; it also comes at random moments.
Rows are given to somebody else, and taken back.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from mobync import Synchronizer
from mobync.sqlalchemy._capture import OwnWrites

from .claims import OWNER
from .devices import DiffRow, Request, Row
from .rules import values_of
from .world import Event, SimulatedServer, World

SOMEBODY_ELSE = "somebody else"


class NotingServer(SimulatedServer):
    """Knows how many diffs came of notes in the last transaction that was committed."""

    noted = 0

    def _log_noted(self, store: Synchronizer, owner_id: str) -> Any:
        report = super()._log_noted(store, owner_id)
        self.noted = 0 if report is None else report[3]
        return report


class WorldOfSQL(World):
    """A world whose store captures what SQL edits."""

    def server_class(self) -> type[SimulatedServer]:
        return NotingServer

    def on_sql(self, event: Event) -> None:
        """Edit a row by SQL; one in four such edits is seen by no trigger."""
        rng, capture = self.rng, self.store.capture
        table = self.store.tables[event.model]
        unseen = rng.random() < 0.25
        fields = dict(event.fields)
        own = (table.c.id == event.object_id, table.c.owner == OWNER)
        other = (table.c.id == event.object_id, table.c.owner == SOMEBODY_ELSE)
        with self.store.engine.begin() as connection, ExitStack() as marked:
            if unseen:
                everybodys = OwnWrites(OWNER, owners={OWNER, SOMEBODY_ELSE})
                marked.enter_context(capture.writing(connection, None, everybodys))
            is_there = connection.execute(table.select().where(*own)).first() is not None
            is_away = connection.execute(table.select().where(*other)).first() is not None
            what = rng.choice(("update", "update", "delete", "give") if is_there else ("insert",))
            if not is_there and is_away:
                what = "take"
            if what == "insert":
                connection.execute(table.insert().values(id=event.object_id, owner=OWNER, **fields))
            elif what == "update":
                changed = dict(rng.sample(sorted(fields.items()), rng.randint(1, len(fields))))
                connection.execute(table.update().where(*own).values(changed))
                fields = changed
            elif what == "delete":
                connection.execute(table.delete().where(*own))
            elif what == "give":
                connection.execute(table.delete().where(*other))
                connection.execute(table.update().where(*own).values(owner=SOMEBODY_ELSE))
            else:
                connection.execute(table.update().where(*other).values(owner=OWNER))
        self.counts[f"SQL {what}"] += 1
        self.tell(f"SQL: {what} {event.model}/{event.object_id} {fields}{' unseen' * unseen}")
        if unseen:
            self.on_reconcile(event)

    def on_reconcile(self, event: Event) -> None:
        found = self.server.reconcile(OWNER)
        self.counts["reconciled"] += found.created + found.updated + found.deleted
        self.allow(self.follow_log())
        self.tell(f"reconciled: {found}")
        self.check_tables_follow_log()

    def on_compact(self, event: Event) -> None:
        self.server.push(OWNER, [])
        self.allow(self.follow_log())
        super().on_compact(event)

    def on_push(self, event: Event) -> None:
        self.server.push(OWNER, [])
        self.allow(self.follow_log())
        super().on_push(event)

    def apply(self, request: Request) -> tuple[Any, list[DiffRow]]:
        self.server.noted = 0
        return super().apply(request)

    def take_noted(self, written: list[DiffRow]) -> tuple[list[DiffRow], list[DiffRow]]:
        noted, rest = written[: self.server.noted], written[self.server.noted :]
        self.allow(noted)
        self.counts["noted"] += len(noted)
        return noted, rest

    def allow(self, diffs: list[DiffRow]) -> None:
        for diff in diffs:
            self.allowed |= values_of(diff["model"], diff["json_data"])

    def known(self, fields: Row) -> Row:
        """What a row says; a create of a row that SQL made says null, too."""
        return {name: value for name, value in fields.items() if value is not None}
