"""Objects of any model as JSON documents, in one table with a row for each object."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    Select,
    Table,
    Text,
    and_,
    bindparam,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import Dialect, Engine
from sqlalchemy.orm import Session, scoped_session
from sqlalchemy.schema import MetaData
from sqlalchemy.sql import Delete, Insert, Update

from .. import _core
from .._plain import check_plain
from .._relational.rows import located
from .._relational.write_order import document_order
from ..errors import InvalidDiffError
from ..types import Diff, FilterType, ReadFilter
from ._folding import Operation, fold, lacking
from ._many import execute_many
from ._model import Model, Row
from ._moving import refusing
from ._prepared import Prepared
from ._refusals import reason_of, write_run
from ._synchronizer import PAGE_ROWS, SQLAlchemySynchronizer
from ._tables import KEY_LENGTH, MODEL_LENGTH, diffs_table, documents_table
from ._transactions import Transaction
from ._values import is_mysql

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..types import DiffDict

_IDS_A_STATEMENT = 500
_ROWS_A_STATEMENT = 1000


class Document(NamedTuple):
    """A stored object.

    Attributes:
        model: the name of its model.
        id: its id, decoded.
        text: the JSON object, including its ``id``; each value is the text that a device sent.
    """

    model: str
    id: str
    text: str


class DocumentSynchronizer(SQLAlchemySynchronizer):
    """Stores every object of any model that devices send, as a JSON document of its owner.

    No model is declared, so no field is checked; the rules accept everything that the tables can
    store. If you override ``validate_*``, call ``super()`` first. An update replaces the top-level
    fields that it has and changes nothing else. The JSON text of a value is stored exactly: no
    number is ever turned into a float.

    Transactions, locks and the log work as in :class:`SQLAlchemySynchronizer`.

    Args:
        engine: an Engine, or a session, as for :class:`SQLAlchemySynchronizer`.
        metadata: the tables ``diffs``, ``diffs_heads``, ``diffs_devices``, ``diffs_parts`` and
            ``documents`` are declared here if needed; None makes a new MetaData. ``create_all``
            makes the tables.
        lock_timeout_s: seconds to wait for another sync of the same owner.

    Attributes:
        metadata: the MetaData of the tables.
        documents_table: the table of the documents.

    Raises:
        TypeError, ValueError: as in SQLAlchemySynchronizer.
    """

    def __init__(
        self,
        engine: Engine | Session | scoped_session[Any] | Any,
        metadata: MetaData | None = None,
        *,
        lock_timeout_s: float = 10.0,
    ) -> None:
        if metadata is not None and not isinstance(metadata, MetaData):
            raise TypeError(
                f"metadata must be a MetaData, not {type(metadata).__name__}: "
                "documents need no models"
            )
        self.metadata = MetaData() if metadata is None else metadata
        log = _declared(self.metadata, "diffs")
        super().__init__(
            engine,
            {},
            diffs=diffs_table(self.metadata) if log is None else log,
            lock_timeout_s=lock_timeout_s,
        )
        documents = _declared(self.metadata, "documents")
        self.documents_table = documents_table(self.metadata) if documents is None else documents
        self._tables.append(self.documents_table)
        self._own_tables[self.documents_table.fullname] = self.documents_table
        check_plain(f"{type(self).__name__}.check_keys", self.check_keys)
        columns, own = self.documents_table.c, self._own_document()
        changed = update(self.documents_table).where(*own)
        self._writes: dict[str, Insert | Update | Delete] = {
            "create": insert(self.documents_table),
            "update": changed.values(document=bindparam("new_document")),
            "delete": delete(self.documents_table).where(*own),
        }
        keys = {"create": ["owner", "model", "id", "document"]}
        self._single_writes = {
            kind: Prepared(statement, keys.get(kind)) for kind, statement in self._writes.items()
        }
        self._single_read = Prepared(select(columns.id, columns.document).where(*own))
        self._kept = Model(
            "documents",
            self.documents_table,
            dict(columns),
            columns.owner,
            Diff.OWNER,
            "json_data: ",
        )

    # ---- rules -----------------------------------------------------------------------------------

    def validate_create(self, owner_id: str, **diff: Unpack[DiffDict]) -> bool:
        """Accept a create that the tables can store.

        Raises:
            InvalidDiffError: they cannot; see :meth:`check_keys`.
        """
        self.check_keys(diff["id"], diff["model"], diff["json_data"])
        return True

    def validate_update(self, owner_id: str, **diff: Unpack[DiffDict]) -> bool:
        """Accept an update that the tables can store; like :meth:`validate_create`."""
        self.check_keys(diff["id"], diff["model"], diff["json_data"])
        return True

    def validate_delete(self, owner_id: str, **diff: Unpack[DiffDict]) -> bool:
        """Accept a delete that the tables can store; like :meth:`validate_create`."""
        self.check_keys(diff["id"], diff["model"], diff["json_data"])
        return True

    def check_keys(self, id: str, model: str, json_data: str) -> None:
        """Check that the tables can store a diff and its object, distinct from all others.

        Args:
            id: the id of the diff.
            model: the model of the object.
            json_data: a JSON object with the object's ``id``.

        Raises:
            InvalidDiffError: one is longer than its column or, on MySQL and MariaDB, ends in a
                space; or json_data has no string ``id``.
        """
        self._check_key("id", id, KEY_LENGTH)
        self._key(model, json_data)

    def _check_key(self, name: str, text: str, length: int) -> None:
        if len(text) > length:
            raise InvalidDiffError(f"{name} is longer than {length} characters")
        if text.endswith(" ") and is_mysql(self._dialect()):
            raise InvalidDiffError(
                f"{name} ends in a space, which MySQL and MariaDB do not compare"
            )

    def _dialect(self) -> Dialect:
        return self._source.dialect() if self._open is None else self._open.connection.dialect

    # ---- writing ---------------------------------------------------------------------------------

    def write_order(self, operations: Sequence[tuple[str, str, str]]) -> Sequence[int]:
        return document_order(operations)

    def create_many(self, where: str, rows_json: Sequence[str]) -> None:
        if where == self._log.name:
            super().create_many(where, rows_json)
            return
        keys = self._keys(where, rows_json)
        rows = [
            {**key, "document": row_json, "owner": self._owner()}
            for key, row_json in zip(keys, rows_json, strict=True)
        ]
        self._write("create", rows)

    def update_many(self, where: str, rows_json: Sequence[str]) -> None:
        if where == self._log.name:
            super().update_many(where, rows_json)
            return
        keys = self._keys(where, rows_json)
        sent = [(key["id"], row_json) for key, row_json in zip(keys, rows_json, strict=True)]
        owner = self._owner()
        rows = [
            {"own_owner": owner, "own_model": where, "own_id": id_, "new_document": text}
            for piece in _pieces_by_id(sent)
            for id_, text in self._updated(where, piece)
        ]
        if not rows:
            return
        try:
            self._write("update", rows)
        except InvalidDiffError as misfit:
            for each in (misfit, *misfit.others):
                if each.index is not None:
                    each.index = _largest(sent, rows[each.index]["own_id"])
            raise

    def _updated(self, where: str, sent: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        """The ids and the new texts of those documents that exist."""
        found = self._find(where, list(dict.fromkeys(id_ for id_, _ in sent)))
        operations = [Operation("create", where, id_, text) for id_, text in found.items()]
        operations += [
            Operation("update", where, id_, row_json) for id_, row_json in sent if id_ in found
        ]
        for (_, id_), text in fold(operations).items():
            yield id_, text

    def delete_many(self, where: str, rows_json: Sequence[str]) -> None:
        if where == self._log.name:
            super().delete_many(where, rows_json)
            return
        rows = [
            {
                "own_owner": self._owner(),
                "own_model": where,
                "own_id": key["id"],
            }
            for key in self._keys(where, rows_json)
        ]
        if rows:
            self._write("delete", rows)

    def _owner(self) -> str:
        return self._transaction().owner_id

    def _keys(self, where: str, rows_json: Sequence[str]) -> list[dict[str, str]]:
        return located(lambda rows: [self._key(where, row) for row in rows], rows_json)

    def _key(self, where: str, data_json: str) -> dict[str, str]:
        """The model and id of an object, as its row has them.

        Raises:
            InvalidDiffError: the table cannot keep them.
        """
        id_ = _core.text_member(data_json, Diff.ID)
        if not id_:
            raise InvalidDiffError("json_data: must be an object with a string 'id'")
        self._check_key("model", where, MODEL_LENGTH)
        self._check_key("json_data: 'id'", id_, KEY_LENGTH)
        return {"model": where, "id": id_}

    def _own_document(self) -> list[Any]:
        columns = self.documents_table.c
        return [
            columns.owner == bindparam("own_owner"),
            columns.model == bindparam("own_model"),
            columns.id == bindparam("own_id"),
        ]

    def _find(self, where: str, ids: Sequence[str]) -> dict[str, str]:
        """The documents of those ids that exist."""
        opened = self._transaction()
        self._source.before_statement()
        if len(ids) == 1:
            own = {"own_owner": opened.owner_id, "own_model": where, "own_id": ids[0]}
            return dict(map(tuple, opened.select(self._single_read, own)))
        found: dict[str, str] = {}
        for begin in range(0, len(ids), _IDS_A_STATEMENT):
            piece = ids[begin : begin + _IDS_A_STATEMENT]
            with self._reading() as connection:
                rows = connection.execute(self._select_documents(where, piece))
                found.update((id_, text) for id_, text in rows if text is not None)
        return found

    def _select_documents(self, where: str, ids: Sequence[str]) -> Select[Any]:
        """A select of ids and documents; a missing document may be null."""
        columns = self.documents_table.c
        own = columns.owner == self._owner(), columns.model == where
        if self._dialect().name != "postgresql":
            return select(columns.id, columns.document).where(*own, columns.id.in_(ids))
        # Each is looked up alone. If a table was never analyzed, PostgreSQL assumes that an owner
        # has few rows, and for a list it would read all of them.
        asked = func.unnest(literal([*ids], ARRAY(Text()))).column_valued("mobync_id")
        document = select(columns.document).where(*own, columns.id == asked).scalar_subquery()
        return select(asked, document)

    def _write(self, kind: str, rows: list[Row]) -> None:
        self._source.before_statement()
        opened, single = self._transaction(), self._single_writes[kind]
        if not opened.note(rows, lambda row: (single, row)):
            write_run(
                opened.connection,
                len(rows),
                lambda i, j: self._execute(self._writes[kind], rows[i:j]),
                partial(reason_of, model=self._kept, kind=kind),
            )
        self._source.after_write(self.documents_table)

    def _execute(self, statement: Insert | Update | Delete, rows: Sequence[Row]) -> None:
        for begin in range(0, len(rows), _ROWS_A_STATEMENT):
            execute_many(self.connection, statement, rows[begin : begin + _ROWS_A_STATEMENT])

    # ---- reading ---------------------------------------------------------------------------------

    def read(self, where: str, filters: Sequence[ReadFilter] = ()) -> list[Row]:
        """Read rows as dicts; numbers of documents that are not integers are Decimals.

        Inside a transaction, the rows are those of its owner. Outside, a filter must name the
        owner, by ``equal`` on ``owner``. Documents can also be filtered by ``equal`` on ``id``.
        :meth:`documents` returns all of them, as exact texts.

        Raises:
            ValueError: a filter on something else, or none on the owner.
        """
        if where == self._log.name:
            return super().read(where, filters)
        columns = self.documents_table.c
        conditions = [columns.model == where]
        if self._open is not None:
            conditions.append(columns.owner == self._owner())
        elif not any(f.field_name == Diff.OWNER and _is_equal(f) for f in filters):
            raise ValueError(f"reading {where!r} needs a filter equal on 'owner'")
        for f in filters:
            if f.field_name not in (Diff.OWNER, Diff.ID) or not _is_equal(f):
                raise ValueError(f"documents are read by their 'id', not by {f.field_name!r:.100}")
            conditions.append(columns[f.field_name] == f.data)
        with self._reading() as connection:
            texts = connection.scalars(select(columns.document).where(*conditions)).all()
        return [json.loads(text, parse_float=Decimal) for text in texts]

    def documents(self, owner_id: str, model: str | None = None) -> Iterator[Document]:
        """Read an owner's documents, a page at a time, ordered by model and id.

        Each page is a separate statement; with :meth:`snapshot`, all pages see the same moment.

        Args:
            owner_id: the owner.
            model: the model; None for all.
        """
        columns = self.documents_table.c
        conditions = [columns.owner == owner_id]
        if model is not None:
            conditions.append(columns.model == model)
        page: list[Document] = []
        while True:
            statement = select(columns.model, columns.id, columns.document).where(*conditions)
            if page:
                after = page[-1]  # spelled out, as MySQL and MariaDB compare no tuples by index
                same_model = and_(columns.model == after.model, columns.id > after.id)
                statement = statement.where(or_(columns.model > after.model, same_model))
            statement = statement.order_by(columns.model, columns.id).limit(PAGE_ROWS)
            with self._reading() as connection:
                page = [Document(*row) for row in connection.execute(statement)]
            yield from page
            if len(page) < PAGE_ROWS:
                return

    def owned_rows(self, owner_id: str, where: str, after: str | None = None) -> Iterator[str]:  # type: ignore[override]
        """Read the texts of a model's documents, a page at a time, in the order of ids."""
        columns = self.documents_table.c
        statement = select(columns.id, columns.document).order_by(columns.id).limit(PAGE_ROWS)
        own = columns.owner == owner_id, columns.model == where
        while True:
            behind = () if after is None else (columns.id > after,)
            with self._reading() as connection:
                page = connection.execute(statement.where(*own, *behind)).all()
            for id_, text in page:
                yield _checked_document(where, id_, text)
            if len(page) < PAGE_ROWS:
                return
            after = page[-1][0]

    def find_owned_rows(self, owner_id: str, where: str, ids: Sequence[str]) -> list[str]:  # type: ignore[override]
        """Read the texts of those documents of a model that have one of these ids."""
        found = self._find(where, ids)
        return [_checked_document(where, id_, text) for id_, text in found.items()]

    def owned_models(self, owner_id: str) -> list[str]:
        """The models in which the owner has documents or diffs."""
        models: set[str] = set()
        with self._reading() as connection:
            for columns in (self.documents_table.c, self._log.table.c):
                named = select(columns.model).where(columns.owner == owner_id).distinct()
                models.update(connection.scalars(named))
        return sorted(models)

    def _erase_models(self, opened: Transaction) -> dict[str, int]:
        columns = self.documents_table.c
        own = columns.owner == opened.owner_id
        counted = select(columns.model, func.count()).where(own).group_by(columns.model)
        counts: dict[str, int] = dict(map(tuple, opened.connection.execute(counted)))
        opened.connection.execute(delete(self.documents_table).where(own))
        return counts

    def _move_models(
        self, opened: Transaction, new_owner_id: str, same: Mapping[str, Sequence[str]]
    ) -> dict[str, int]:
        columns = self.documents_table.c
        own = columns.owner == opened.owner_id
        for model, ids in same.items():
            for begin in range(0, len(ids), _IDS_A_STATEMENT):
                some = columns.model == model, columns.id.in_(ids[begin : begin + _IDS_A_STATEMENT])
                found = select(columns.id).where(columns.owner == new_owner_id, *some)
                there = opened.connection.scalars(found).all()
                doubled = own, columns.model == model, columns.id.in_(there)
                opened.connection.execute(delete(self.documents_table).where(*doubled))
        counted = select(columns.model, func.count()).where(own).group_by(columns.model)
        counts: dict[str, int] = dict(map(tuple, opened.connection.execute(counted)))
        given = update(self.documents_table).where(own).values(owner=new_owner_id)
        with refusing(self._kept):
            opened.connection.execute(given)
        return counts

    def _kept_models(self) -> list[Model]:
        return [self._kept]

    def edits_between(
        self, where: str, logged: str, row: Mapping[str, Any] | str
    ) -> list[tuple[str, Mapping[str, Any] | str]]:
        """The edits that change the log's state of a document into its text.

        Values are compared as exact texts. An update cannot remove a field, so a document that lost
        a field is deleted and created again.
        """
        text = row if isinstance(row, str) else json.dumps(dict(row), ensure_ascii=False)
        key = where, _core.text_member(text, Diff.ID) or ""
        if dict(_core.members(logged)).keys() - dict(_core.members(text)):
            return [("delete", {Diff.ID: key[1]}), ("create", text)]
        return [("update", changed) for changed in lacking({key: text}, {key: logged}).values()]


def _checked_document(model: str, id_: str, text: str) -> str:
    """A document's text, if it is the JSON object that the row's key says.

    Raises:
        InvalidDiffError: somebody else has written it.
    """
    try:
        said = _core.text_member(text, Diff.ID)
        _core.members(text)
    except InvalidDiffError as damage:
        raise InvalidDiffError(
            f"the document of model {model!r:.100}: {damage.reason}", diff_id=id_
        ) from damage
    if said != id_:
        raise InvalidDiffError(
            f"the document of model {model!r:.100} has another 'id' than its row", diff_id=id_
        )
    return text


def _pieces_by_id(sent: Sequence[tuple[str, str]]) -> Iterator[Sequence[tuple[str, str]]]:
    """Updates with their ids, in pieces; all updates of an id are in one piece, in their order.

    The objects of one piece are released before the next piece. If there were objects for all
    updates at the same time, Python's garbage collector would look through them again and again.
    """
    first: dict[str, int] = {}
    for id_, _ in sent:
        first.setdefault(id_, len(first))
    together = sorted(sent, key=lambda each: first[each[0]])
    begin = 0
    while begin < len(together):
        end = min(begin + _IDS_A_STATEMENT, len(together))
        while end < len(together) and together[end][0] == together[end - 1][0]:
            end += 1
        yield together[begin:end]
        begin = end


def _largest(sent: Sequence[tuple[str, str]], id_: str) -> int:
    """The place of the largest change of one document."""
    places = [place for place, (changed, _) in enumerate(sent) if changed == id_]
    return max(places, key=lambda place: len(sent[place][1]))


def _declared(metadata: MetaData, name: str) -> Table | None:
    return metadata.tables.get(name if metadata.schema is None else f"{metadata.schema}.{name}")


def _is_equal(f: ReadFilter) -> bool:
    return f.filter_by is FilterType.equal and f.data is not None
