"""The stored states of an owner's devices: a row for each device in a table.

The state of the owner itself is in the row of its head, which every sync reads to lock it. So a
device without a name costs no additional statement. Databases of mobync 1.0 have neither this table
nor that column. mobync looks for them once for each engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Table, and_, bindparam, delete, insert, inspect, select, update
from sqlalchemy.engine import Connection, Dialect

from ..errors import InvalidDiffError
from ..types import FIELD_TIMES
from ._direct import Statement
from ._locking import Heads
from ._model import Model
from ._parts import Parts
from ._prepared import Prepared
from ._settings import schema_of
from ._statements import window_select
from ._tables import devices_of, heads_of
from ._values import is_mysql

OWNER_ITSELF = ""  # the name that no device has

_OWNER, _DEVICE, _STATE = "mobync_owner", "mobync_device", "mobync_state"
_NAMES_A_STATEMENT = 500


class Found(NamedTuple):
    """Which of the tables and columns since mobync 1.0 a database has.

    Attributes:
        devices: whether it stores devices.
        field_times: whether the log has the column ``field_times``.
        parts: whether it stores parts of requests.
    """

    devices: bool
    field_times: bool
    parts: bool


class Devices:
    """The table of devices, and the statements on it.

    Args:
        log: the log that it belongs to.

    Attributes:
        heads: the table of heads, which has the states of the owners.
        parts: the table of parts.
        found: what the database has; None: this is not known yet.
    """

    def __init__(self, log: Table) -> None:
        self._log = log
        self.heads = Heads(heads_of(log))
        self.table = table = devices_of(log)
        self.parts = Parts(log)
        self.found: Found | None = None
        owner = bindparam(_OWNER, type_=table.c.owner.type)
        device = bindparam(_DEVICE, type_=table.c.device.type)
        of_owner = table.c.owner == owner
        own = of_owner, table.c.device == device
        self._all = select(table.c.device, table.c.state).where(of_owner)
        self._one = Prepared(self._all.where(table.c.device == device))
        state = bindparam(_STATE, type_=table.c.state.type)
        values = {"owner": owner, "device": device, "state": state}
        self._insert = Prepared(insert(table).values(values))
        self._update = Prepared(update(table).where(*own).values(state=state))
        self._delete = Prepared(delete(table).where(*own))
        heads = self.heads.table
        if "state" in heads.columns:
            of_head = heads.c.owner == owner
            self._update_owner = Prepared(update(heads).where(of_head).values(state=state))
            both = heads.outerjoin(table, and_(*own))
            columns = heads.c.logical_clock, heads.c.state, table.c.state
            self._with_head = select(*columns).select_from(both).where(of_head)
            self._poll = Prepared(self._with_head)

    @property
    def are_kept(self) -> bool:
        """Whether the database can store devices."""
        return self.found is not None and self.found.devices

    @property
    def keep_parts(self) -> bool:
        """Whether the database also has a table for parts."""
        return self.found is not None and self.found.parts

    def find_out(self, connection: Connection) -> None:
        """Look for the tables, unless they were found before; missing ones are looked for again
        later.
        """
        if self.found is not None:
            return
        try:
            self._look(connection)
        finally:
            # Of MySQL's inspector: it leaves it set, and the app would hear of no error then.
            connection.execution_options(skip_user_error_events=False)

    def _look(self, connection: Connection) -> None:
        found = inspect(connection)
        if not found.has_table(self.heads.table.name, schema_of(self.heads.table, connection)):
            return  # the statement that comes next fails, and says so

        def has(table: Table, name: str) -> bool:
            if name not in table.columns:
                return False
            columns = found.get_columns(table.name, schema_of(table, connection))
            return any(column["name"] == name for column in columns)

        def has_table(table: Table) -> bool:
            return found.has_table(table.name, schema_of(table, connection))

        keeps = has_table(self.table) and has(self.heads.table, "state")
        if keeps:
            self.heads = Heads(self.heads.table, with_state=True)
        keeps_parts = keeps and has_table(self.parts.table)
        self.found = Found(keeps, has(self._log, FIELD_TIMES), keeps_parts)

    def poll(self, owner_id: str, device: str) -> Statement:
        """The statement that reads a head and the state of one device (or null) in one row."""
        return self._poll, {_OWNER: owner_id, _DEVICE: device}

    def window(
        self, log: Model, owner_id: str, owner: Any, clocks: range, device: str, dialect: Dialect
    ) -> Statement:
        """The statement that reads what :meth:`poll` does, and below it the diffs between two
        clocks.  If the database stores no devices, it reads the head and the diffs.
        """
        head = self._with_head if self.are_kept else self.heads.of_owner
        statement, values = window_select(head, log, owner, clocks, dialect)
        return statement, {_OWNER: owner_id, _DEVICE: device, **values}

    def select(self, owner_id: str, device: str) -> Statement:
        """The statement that reads the name and the state of one device, and its values."""
        return self._one, {_OWNER: owner_id, _DEVICE: device}

    def read(
        self, connection: Connection, owner_id: str, names: Sequence[str] | None
    ) -> dict[str, str]:
        """Read devices, but not the owner itself; None reads all."""
        if names is not None and len(names) == 1:
            statement, values = self.select(owner_id, names[0])
            return dict(map(tuple, statement.execute(connection, values)))
        found: dict[str, str] = {}
        for condition in self._conditions(names):
            rows = connection.execute(self._all.where(*condition), {_OWNER: owner_id})
            found.update(map(tuple, rows))
        return found

    def _conditions(self, names: Sequence[str] | None) -> Iterator[tuple[Any, ...]]:
        if names is None:
            yield ()
            return
        for begin in range(0, len(names), _NAMES_A_STATEMENT):
            yield (self.table.c.device.in_(names[begin : begin + _NAMES_A_STATEMENT]),)

    def writes(
        self, owner_id: str, states: Mapping[str, str | None], known: Mapping[str, str | None]
    ) -> list[Statement]:
        """The statements that change devices from their known states to new ones."""
        return [
            self._write(owner_id, name, text, known[name] is not None)
            for name, text in states.items()
            if text != known[name]
        ]

    def _write(self, owner_id: str, name: str, text: str | None, is_there: bool) -> Statement:
        values = {_OWNER: owner_id, _STATE: text}
        if name == OWNER_ITSELF:
            return self._update_owner, values
        values[_DEVICE] = name
        if text is None:
            del values[_STATE]
            return self._delete, values
        return (self._update if is_there else self._insert), values


def check_names(names: Iterable[str], dialect: Dialect) -> None:
    """Check that a database can distinguish these devices.

    Raises:
        InvalidDiffError: the name of one ends in a space, on MySQL and MariaDB.
    """
    if is_mysql(dialect) and any(name.endswith(" ") for name in names):
        raise InvalidDiffError("device ends in a space, which MySQL and MariaDB do not compare")
