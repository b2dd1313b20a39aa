"""The edits that no reply has confirmed, in the order in which they were made.

Some of them are *sent*: they belong to the open request. They do not change, and are sent again and
again until the server answers. New edits of the user wait behind them. An edit leaves the outbox by
its id, and never by its clock: when a reply or a refusal says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ._database import Database
from ._rows import Name, Row, row_of, text_of

OWNER = "me"  # the server puts the authenticated owner here


@dataclass(frozen=True)
class Edit:
    """An edit of the user.

    Attributes:
        place: the number of the edit on this device; each edit has its own.
        id: the id of the diff, which is never used again.
        utc_timestamp: its time, in milliseconds since 1970 by the device's clock; at least that of
            the edits of the same object that waited when it was made.
        type: ``create``, ``update`` or ``delete``.
        name: the object.
        json_data: the object's id, and the fields that were set, as the text of a JSON object.
        sent: whether it belongs to the open request.
    """

    place: int
    id: str
    utc_timestamp: int
    type: str
    name: Name
    json_data: str
    sent: bool

    def row(self) -> Row:
        return row_of(self.json_data)

    def as_update(self, row: Row) -> Edit:
        """This edit as an update of these fields."""
        if self.type == "update" and row == self.row():
            return self
        return replace(self, type="update", json_data=text_of(row))


class Outbox:
    """The waiting edits."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, diff_id: str, now_ms: int, kind: str, name: Name, json_data: str) -> None:
        """Add an edit.

        If the clock was set back, it gets the time of an earlier edit of its object. Otherwise an
        edit of another device could win over this one and lose to the earlier one.
        """
        self._database.execute(
            "INSERT INTO mobync_outbox (id, utc_timestamp, type, model, object_id, json_data, sent)"
            " SELECT ?, max(?, ifnull(max(utc_timestamp), 0)), ?, ?, ?, ?, 0"
            " FROM mobync_outbox WHERE model = ? AND object_id = ?",
            (diff_id, now_ms, kind, *name, json_data, *name),
        )

    def edits(self) -> list[Edit]:
        found = self._database.execute(
            "SELECT place, id, utc_timestamp, type, model, object_id, json_data, sent"
            " FROM mobync_outbox WHERE sent < 2 ORDER BY place"
        )
        return [
            Edit(place, diff_id, at, kind, Name(model, object_id), json_data, bool(sent))
            for place, diff_id, at, kind, model, object_id, json_data, sent in found
        ]

    def last_place(self) -> int:
        """The place of the last edit, 0 if none waits."""
        ((place,),) = self._database.execute("SELECT max(place) FROM mobync_outbox")
        return int(place or 0)

    def __len__(self) -> int:
        ((count,),) = self._database.execute("SELECT count(*) FROM mobync_outbox WHERE sent < 2")
        return int(count)

    def first_place(self) -> int | None:
        """The place of the first edit, None if none waits."""
        found = self._database.execute(
            "SELECT place FROM mobync_outbox WHERE sent < 2 ORDER BY place LIMIT 1"
        )
        return int(found[0][0]) if found else None

    def mark_sent(self, edits: Iterable[Edit]) -> None:
        """Make these edits, and no others, the open request."""
        self._database.execute("UPDATE mobync_outbox SET sent = 0 WHERE sent = 1")
        for edit in edits:
            self._database.execute(
                "UPDATE mobync_outbox SET sent = 1 WHERE place = ?", (edit.place,)
            )

    def mark_answered(self, edits: Iterable[Edit]) -> None:
        """Mark edits that the server has; they stay until the rows with them were pulled."""
        for edit in edits:
            self._database.execute(
                "UPDATE mobync_outbox SET sent = 2 WHERE place = ?", (edit.place,)
            )

    def take_answered(self) -> set[str]:
        """Remove the edits that the server has, and return their ids."""
        found = self._database.execute("SELECT id FROM mobync_outbox WHERE sent = 2")
        self._database.execute("DELETE FROM mobync_outbox WHERE sent = 2")
        return {diff_id for (diff_id,) in found}

    def remove(self, edit: Edit) -> None:
        self._database.execute("DELETE FROM mobync_outbox WHERE place = ?", (edit.place,))

    def change(self, edit: Edit) -> None:
        self._database.execute(
            "UPDATE mobync_outbox SET type = ?, json_data = ? WHERE place = ?",
            (edit.type, edit.json_data, edit.place),
        )

    def rename(self, edit: Edit, diff_id: str) -> None:
        """Give an edit a new id, as if it had never been sent."""
        self._database.execute(
            "UPDATE mobync_outbox SET id = ? WHERE place = ?", (diff_id, edit.place)
        )

    def clear(self) -> None:
        self._database.execute("DELETE FROM mobync_outbox")
