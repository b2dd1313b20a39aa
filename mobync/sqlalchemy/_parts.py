"""The table of parts of requests, which wait for the last part.

A part can be as long as a request, which is too long for one statement on some databases. So a part
has several rows. A database of an earlier mobync does not have this table; then parts are not
stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy import Table, delete, insert, select
from sqlalchemy.engine import Connection

from ._tables import parts_of


class Parts:
    """The table of parts, and the statements on it.

    Args:
        log: the log that it belongs to.
    """

    def __init__(self, log: Table) -> None:
        self.table = parts_of(log)

    def write(
        self, connection: Connection, owner_id: str, device: str, part: int, pieces: Sequence[str]
    ) -> None:
        """Insert a part, with a statement for each piece, because a packet is limited."""
        statement = insert(self.table)
        for number, text in enumerate(pieces):
            row = {"owner": owner_id, "device": device, "part": part, "piece": number}
            connection.execute(statement, {**row, "diffs": text})

    def read(self, connection: Connection, owner_id: str, device: str) -> Iterator[tuple[int, str]]:
        """The pieces of all parts of a device, in order, each with the number of its part.

        Drivers fetch all rows of a statement at once, so there is one for each part.
        """
        columns = self.table.c
        of_device = (columns.owner == owner_id, columns.device == device)
        numbers = select(columns.part).where(*of_device).distinct().order_by(columns.part)
        for number in connection.scalars(numbers).all():
            pieces = select(columns.diffs).where(*of_device, columns.part == number)
            for text in connection.scalars(pieces.order_by(columns.piece)):
                yield number, text

    def drop(self, connection: Connection, owner_id: str, device: str | None) -> None:
        """Delete the parts of a device, or of all of an owner's."""
        statement = delete(self.table).where(self.table.c.owner == owner_id)
        if device is not None:
            statement = statement.where(self.table.c.device == device)
        connection.execute(statement)
