"""A model as mobync sees it: which fields a device may send, and what a row must hold.

Devices call a field by its ``attname``: the field's name, and ``<name>_id`` for a ForeignKey. They
call the primary key ``id``, whatever its name is. They do not know the owner field, which says who
owns a row: only the server fills it in.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

from django.core.exceptions import ValidationError
from django.db import connections, models
from django.db.models.functions import Collate

from .._relational.filled import checked_fields
from .._relational.rows import read_object
from .._relational.values import Codec, DoesNotFit
from ..errors import InvalidDiffError
from ..types import Diff
from ._values import codec_of

ID = Diff.ID
Row = dict[str, Any]

WHERE = "json_data: "  # a complaint about a row begins so
IDS_A_STATEMENT = 500


class Reference(NamedTuple):
    """What a foreign key refers to.

    Attributes:
        target: Django's class of the rows.
        attname: the field of these rows that the key holds.
        model: the model of the class; None if it is not synced.
    """

    target: type[models.Model]
    attname: str
    model: Model | None


@dataclass
class Model:
    """A model with the fields that devices know.

    Attributes:
        name: what diffs call it.
        source: Django's class.
        using: the alias of its database.
        fields: Django's field of each field, ``id`` among them.
        owner: the field that says who owns a row; None for a shared model.
        server_fields: names of fields that devices may not write.
        references: by field, what a foreign key refers to.
    """

    name: str
    source: type[models.Model]
    using: str
    fields: Mapping[str, Any]
    owner: Any
    server_fields: frozenset[str] = frozenset()
    references: Mapping[str, Reference] = field(default_factory=dict)

    def __post_init__(self) -> None:
        connection = connections[self.using]
        self.codecs = {f: codec_of(each, connection) for f, each in self.fields.items()}
        self.owner_codec = None if self.owner is None else codec_of(self.owner, connection)
        own = {f: each for f, each in self.fields.items() if f not in {ID, *self.server_fields}}
        self.required = [f for f, each in own.items() if is_required(each)]
        self._is_text_of_mysql = connection.vendor == "mysql" and isinstance(
            _plain(self.owner), models.CharField | models.TextField
        )

    @property
    def generated_fields(self) -> frozenset[str]:
        """The fields that only the database writes."""
        found = self.fields.items()
        return frozenset(f for f, known in found if getattr(known, "generated", False))

    # ---- rows that devices send ----------------------------------------------------------------

    def read_row(self, data_json: str) -> Row:
        """Read a row of a device, as values of Django.

        Raises:
            InvalidDiffError: a field is unknown, or its value does not fit.
        """
        members = read_object(data_json, WHERE)
        return {f: self._decode(f, value) for f, value in members.items()}

    def read_id(self, data_json: str) -> Any:
        """Read only the primary key of a row."""
        return self._decode(ID, read_object(data_json, WHERE)[ID])

    def _decode(self, name: str, value: Any) -> Any:
        codec = self._writable(name)
        if value is None:
            if not self.fields[name].null:
                self.refuse(f"{name!r} must not be null")
            return None
        try:
            return codec.decode(value)
        except DoesNotFit as misfit:
            self.refuse(f"{name!r} {misfit}")

    def _writable(self, name: str) -> Codec:
        known = self.fields.get(name)
        if known is None:
            if self.owner is not None and name in (self.owner.name, self.owner.attname):
                self.refuse(f"{name!r} is set by the server")
            self.refuse(f"model {self.name!r} has no field {name!r:.100}")
        if getattr(known, "generated", False):
            self.refuse(f"{name!r} is made by the database")
        codec = self.codecs[name]
        assert codec is not None
        return codec

    def refuse(self, reason: str) -> NoReturn:
        raise InvalidDiffError(f"{WHERE}{reason}") from None

    def new_instance(self, row: Row, owner: Any) -> models.Model:
        """Make the instance for a create; fields that it leaves out have Django's defaults.

        Raises:
            InvalidDiffError: a field is missing.
        """
        for name in self.required:
            if name not in row:
                self.refuse(f"{name!r} is missing")
        attributes = {self.fields[f].attname: value for f, value in row.items()}
        if self.owner is not None:
            attributes[self.owner.attname] = owner
        return self.source(**attributes)

    def validate(self, instance: models.Model, sent: Iterable[str]) -> None:
        """Have Django check what a device sent, as a form does.  The database does the rest.

        Args:
            instance: with the new values.
            sent: the fields that the device sent; others are not checked.

        Raises:
            InvalidDiffError: a validator, the choices or ``clean`` of the model refuse it.
        """
        # What a row refers to is checked when everything is written.
        looked_at = {self.fields[f].name for f in sent if f != ID and f not in self.references}
        exclude = {each.name for each in self.source._meta.concrete_fields} - looked_at
        try:
            instance.clean_fields(exclude=exclude)
            instance.clean()
        except ValidationError as error:
            self.refuse(self._in_words(error))

    def _in_words(self, error: ValidationError) -> str:
        if not hasattr(error, "error_dict"):
            return " ".join(error.messages)
        names = {each.name: name for name, each in self.fields.items()}
        said = error.message_dict
        return "; ".join(
            f"{names[f]!r}: {' '.join(said[f])}" if f in names else " ".join(said[f]) for f in said
        )

    # ---- rows that the database gives ----------------------------------------------------------

    def encode(self, name: str, value: Any) -> Any:
        """A value of a field as a JSON value."""
        codec = self.codecs[name]
        assert codec is not None
        return None if value is None else codec.encode(value)

    def kept(self, name: str, value: Any) -> Any:
        """What a field gives back after a JSON value was written to it.

        Raises:
            DoesNotFit: the field cannot store the value.
        """
        codec = self.codecs[name]
        assert codec is not None
        return None if value is None else codec.encode(codec.decode(value))

    def id_of(self, instance: models.Model) -> str:
        """The id of a row as devices have it."""
        return str(self.encode(ID, instance.pk))

    def rows_of(self, owner: Any) -> models.QuerySet[Any]:
        """The owner's rows; all rows of a shared model."""
        rows: models.QuerySet[Any] = self.source._base_manager.using(self.using).order_by()
        if self.owner is None:
            return rows
        rows = rows.filter(**{self.owner.attname: owner})
        if self._is_text_of_mysql:  # its collation may take 'a' and 'A' for the same
            exactly = Collate(models.F(self.owner.attname), "utf8mb4_bin")
            rows = rows.alias(mobync_owner=exactly).filter(mobync_owner=owner)
        return rows

    def read(self, rows: models.QuerySet[Any], names: Sequence[str]) -> list[Row]:
        """Some fields of rows, as JSON values."""
        attnames = [self.fields[name].attname for name in names]
        return [self._row(names, values) for values in rows.values_list(*attnames)]

    def _row(self, names: Iterable[str], values: Iterable[Any]) -> Row:
        return {name: self.encode(name, value) for name, value in zip(names, values, strict=True)}

    def read_keys(self, keys: Sequence[Any], *, locks: bool) -> dict[Any, tuple[str | None, Row]]:
        """Read rows of any owner.

        Args:
            keys: their primary keys.
            locks: whether to lock them until the transaction ends.

        Returns:
            By primary key: the owner of the row, and its fields as JSON values.
        """
        rows = self.source._base_manager.using(self.using).order_by()
        if locks:
            rows = rows.select_for_update()
        attnames = [self.owner.attname, *(each.attname for each in self.fields.values())]
        found: dict[Any, tuple[str | None, Row]] = {}
        for begin in range(0, len(keys), IDS_A_STATEMENT):
            some = rows.filter(pk__in=keys[begin : begin + IDS_A_STATEMENT])
            for key, owner, *values in some.values_list("pk", *attnames):
                found[key] = self.owner_id(owner), self._row(self.fields, values)
        return found

    def owner_value(self, owner_id: str) -> Any:
        """The authenticated owner as a value of the owner field.

        Raises:
            ValueError: the field cannot store it.
        """
        if self.owner_codec is None:
            return None
        value: Any = owner_id
        if isinstance(_plain(self.owner), models.IntegerField) and _is_plain_integer(owner_id):
            value = int(owner_id)
        try:
            return self.owner_codec.decode(value)
        except DoesNotFit as misfit:
            raise ValueError(f"owner_id {owner_id!r:.100}: {self.owner} {misfit}") from None

    def owner_of(self, instance: models.Model) -> str | None:
        """The ``owner_id`` of a row; None: it is nobody's."""
        value = None if self.owner is None else getattr(instance, self.owner.attname)
        return self.owner_id(value)

    def owner_id(self, value: Any) -> str | None:
        """A value of the owner field as an ``owner_id``; None: nobody."""
        if value is None or self.owner_codec is None:
            return None
        return str(self.owner_codec.encode(value)) or None


def _is_plain_integer(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20 and str(int(text)) == text


def _plain(known: Any) -> Any:
    """The field whose values a ForeignKey holds; any other field itself."""
    return _plain(known.target_field) if isinstance(known, models.ForeignKey) else known


def is_required(known: Any) -> bool:
    """Whether a device must send the field for a new row."""
    return not (
        known.null
        or known.blank
        or known.has_default()
        or getattr(known, "db_default", models.NOT_PROVIDED) is not models.NOT_PROVIDED
        or getattr(known, "generated", False)
        or _fills_itself(known)
    )


def _fills_itself(known: Any) -> bool:
    return getattr(known, "auto_now", False) or getattr(known, "auto_now_add", False)


# ---- what an app hands in ----------------------------------------------------------------------


def describe(
    name: str,
    source: Any,
    using: str,
    owner_field: str,
    shared: bool,
    *,
    hidden: Collection[str] = (),
    server: Collection[str] = (),
) -> Model:
    """Describe a model that an app wants to sync.

    Args:
        name: what diffs call it.
        source: Django's class.
        using: the alias of its database.
        owner_field: what the owner's field is called.
        shared: whether the model has no owner, on purpose.
        hidden: names of fields that devices neither get nor write.
        server: names of fields that devices may not write, besides those that are not editable.

    Raises:
        TypeError: ``source`` is no model.
        ValueError: it cannot be synced, with the reason.
    """
    if not (isinstance(source, type) and issubclass(source, models.Model)):
        raise TypeError(f"model {name!r} must be a model of Django, not {source!r:.100}")
    meta = source._meta
    label = meta.label
    if meta.abstract or meta.proxy or meta.parents:
        raise ValueError(f"{label} is abstract, a proxy or inherits from another model")
    known = {each.name: each for each in meta.concrete_fields}
    owner = known.pop(owner_field, None)
    if shared and owner is not None:
        raise ValueError(f"{label} has a field {owner_field!r}: it is not shared")
    if not shared and owner is None:
        raise ValueError(
            f"{label} has no owner field {owner_field!r}, so devices could write each other's "
            f"rows; if it is shared on purpose, pass shared=({name!r},)"
        )
    _check_key(label, meta.pk)
    _check_owner(owner)
    connection = connections[using]
    fields = {ID: meta.pk}
    own = {each.attname: each for each in known.values() if each is not meta.pk}
    hidden = checked_fields("hidden_columns", name, hidden, own)
    for each in own.values():
        if each.attname not in hidden and codec_of(each, connection) is not None:
            fields[each.attname] = each
        elif is_required(each):
            raise ValueError(
                f"{each} cannot be synced ({type(each).__name__}): "
                "let it be null or blank, or give it a default"
            )
    server_fields = checked_fields("server_columns", name, server, own.keys() - hidden)
    server_fields |= {f for f, each in fields.items() if f != ID and not each.editable}
    return Model(name, source, using, fields, owner, server_fields & fields.keys())


def _check_key(label: str, key: Any) -> None:
    if not isinstance(key, models.CharField | models.TextField | models.UUIDField):
        raise ValueError(
            f"{label}: the primary key must be a UUIDField or a CharField, "
            "because devices make ids while they are offline"
        )


def _check_owner(owner: Any) -> None:
    kinds = models.CharField, models.TextField, models.IntegerField, models.UUIDField
    if owner is not None and not isinstance(_plain(owner), kinds):
        raise ValueError(
            f"{owner}: the owner must be a text, an integer, a UUID, or a ForeignKey to a model "
            "with such a key"
        )


def connect_references(described: Mapping[str, Model]) -> None:
    """Find out what the rows of each model refer to."""
    by_source = {model.source: model for model in described.values()}
    for model in described.values():
        model.references = {
            name: Reference(
                each.related_model, each.target_field.attname, by_source.get(each.related_model)
            )
            for name, each in model.fields.items()
            if isinstance(each, models.ForeignKey)
        }
