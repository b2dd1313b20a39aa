"""Libraries that merge offline edits, each taught the same four things.

A replica holds records of fields.  It takes in the edits of others as bytes, gives out what
somebody else lacks as bytes, and edits.  Each is used the way its documentation shows, the faster
way where there are two.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from workload import Edit, field_names


class Replica(Protocol):
    """One copy of the records."""

    def __init__(self, number: int) -> None: ...

    def fill(self, records: Iterable[str]) -> None:
        """Make records, each with all its fields."""

    def edit(self, edits: Iterable[Edit]) -> None:
        """Set fields."""

    def take(self, update: bytes) -> None:
        """Take in what another replica gave."""

    def take_all(self, updates: list[bytes]) -> None:
        """The same for several at once, where that is faster."""

    def seen(self) -> Any:
        """What this replica has, so that another knows what it lacks."""

    def lacking(self, seen: Any) -> bytes:
        """What somebody who has seen that much lacks."""

    def stored(self) -> bytes:
        """All of it, as one would store it."""

    def value(self) -> Any:
        """The records, to compare."""


class PycrdtReplica:
    """pycrdt: Yjs, in Rust (yrs)."""

    def __init__(self, number: int) -> None:
        from pycrdt import Doc, Map

        self._map = Map
        self._doc: Any = Doc(client_id=number + 1)
        self._records: Any = self._doc.get("records", type=Map)

    def fill(self, records: Iterable[str]) -> None:
        with self._doc.transaction():
            for record in records:
                self._records[record] = self._map(dict.fromkeys(field_names(), ""))

    def edit(self, edits: Iterable[Edit]) -> None:
        for record, field, value, _ in edits:
            self._records[record][field] = value

    def take(self, update: bytes) -> None:
        self._doc.apply_update(update)

    def take_all(self, updates: list[bytes]) -> None:
        with self._doc.transaction():
            for update in updates:
                self._doc.apply_update(update)

    def seen(self) -> bytes:
        return bytes(self._doc.get_state())

    def lacking(self, seen: bytes) -> bytes:
        return bytes(self._doc.get_update(seen))

    def stored(self) -> bytes:
        return bytes(self._doc.get_update())

    def value(self) -> Any:
        return self._records.to_py()


class YPyReplica:
    """y-py: Yjs, in an older version of the same Rust library."""

    def __init__(self, number: int) -> None:
        import y_py

        self._library = y_py
        self._doc = y_py.YDoc(number + 1)
        self._records = self._doc.get_map("records")

    def fill(self, records: Iterable[str]) -> None:
        with self._doc.begin_transaction() as transaction:
            for record in records:
                fields = self._library.YMap(dict.fromkeys(field_names(), ""))
                self._records.set(transaction, record, fields)

    def edit(self, edits: Iterable[Edit]) -> None:
        for record, field, value, _ in edits:
            with self._doc.begin_transaction() as transaction:
                self._records[record].set(transaction, field, value)

    def take(self, update: bytes) -> None:
        self._library.apply_update(self._doc, update)

    def take_all(self, updates: list[bytes]) -> None:
        with self._doc.begin_transaction() as transaction:
            for update in updates:
                transaction.apply_v1(update)

    def seen(self) -> bytes:
        return bytes(self._library.encode_state_vector(self._doc))

    def lacking(self, seen: bytes) -> bytes:
        return bytes(self._library.encode_state_as_update(self._doc, seen))

    def stored(self) -> bytes:
        return bytes(self._library.encode_state_as_update(self._doc))

    def value(self) -> Any:
        import json

        return json.loads(self._records.to_json())


class LoroReplica:
    """loro: in Rust; keeps the whole history."""

    def __init__(self, number: int) -> None:
        import loro

        self._library = loro
        self._doc = loro.LoroDoc()
        self._doc.peer_id = number + 1
        self._records = self._doc.get_map("records")

    def fill(self, records: Iterable[str]) -> None:
        for record in records:
            fields = self._records.insert_container(record, self._library.LoroMap())
            for name in field_names():
                fields.insert(name, "")
        self._doc.commit()

    def edit(self, edits: Iterable[Edit]) -> None:
        for record, field, value, _ in edits:
            self._records.get(record).container.insert(field, value)
            self._doc.commit()

    def take(self, update: bytes) -> None:
        self._doc.import_(update)

    def take_all(self, updates: list[bytes]) -> None:
        self._doc.import_batch(updates)

    def seen(self) -> bytes:
        return bytes(self._doc.oplog_vv.encode())

    def lacking(self, seen: bytes) -> bytes:
        vector = self._library.VersionVector.decode(seen)
        return bytes(self._doc.export(self._library.ExportMode.Updates(vector)))

    def stored(self) -> bytes:
        return bytes(self._doc.export(self._library.ExportMode.Snapshot()))

    def value(self) -> Any:
        return self._records.get_deep_value()


PEERS: dict[str, type[Replica]] = {
    "pycrdt": PycrdtReplica,
    "y_py": YPyReplica,
    "loro": LoroReplica,
}
