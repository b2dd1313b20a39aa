"""Parts of requests that wait for the last one: rows in a table beside the log.

A part is as long as a request may be, which one statement could not take on every database; so it
is several rows.  Tables of an earlier mobync do not have this one; then no parts are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy import Table, delete, insert, select
from sqlalchemy.engine import Connection

from ._tables import parts_of


class Parts:
    """The table of parts, and the statements on it.

    Args:
        log: beside which it is.
    """

    def __init__(self, log: Table) -> None:
        self.table = parts_of(log)

    def write(
        self, connection: Connection, owner_id: str, device: str, part: int, pieces: Sequence[str]
    ) -> None:
        """Insert a part; a statement for each piece, since a packet may be no longer."""
        statement = insert(self.table)
        for number, text in enumerate(pieces):
            row = {"owner": owner_id, "device": device, "part": part, "piece": number}
            connection.execute(statement, {**row, "diffs": text})

    def read(self, connection: Connection, owner_id: str, device: str) -> Iterator[tuple[int, str]]:
        """The pieces of all parts of a device, in order, each with the number of its part."""
        columns = self.table.c
        statement = select(columns.part, columns.diffs)
        statement = statement.where(columns.owner == owner_id, columns.device == device)
        rows = connection.execute(statement.order_by(columns.part, columns.piece))
        return map(tuple, rows)

    def drop(self, connection: Connection, owner_id: str, device: str | None) -> None:
        """Delete the parts of a device, or of all of an owner's."""
        statement = delete(self.table).where(self.table.c.owner == owner_id)
        if device is not None:
            statement = statement.where(self.table.c.device == device)
        connection.execute(statement)
