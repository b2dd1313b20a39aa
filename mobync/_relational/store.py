"""What all stores in relational databases share: the rules, and the arguments that they take."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from ..synchronizer import Synchronizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..types import DiffDict

MAX_LOCK_TIMEOUT_S = 86_400


_CHANGING_MODES = {
    "EMPTY_STRING_IS_NULL": "store NULL for an empty text",
    "PAD_CHAR_TO_FULL_LENGTH": "add spaces to texts",
}


def complaint_about_sql_mode(sql_mode: str) -> str | None:
    """What is wrong with the ``sql_mode`` of MariaDB or MySQL, which may change values; None:
    nothing.
    """
    modes = set(sql_mode.split(","))
    if not {"STRICT_TRANS_TABLES", "STRICT_ALL_TABLES"} & modes:
        return (
            "the database would cut or change values that do not fit: "
            "add STRICT_TRANS_TABLES to its sql_mode"
        )
    for mode, change in _CHANGING_MODES.items():
        if mode in modes:
            return f"the database would {change}: take {mode} out of its sql_mode"
    return None


class Described(Protocol):
    """A model as a store describes it, with names of fields that devices may not write."""

    @property
    def generated_fields(self) -> frozenset[str]:
        """The fields that only the database writes."""

    @property
    def server_fields(self) -> frozenset[str]:
        """The fields that only the server writes."""


Opened = TypeVar("Opened")
M = TypeVar("M", bound=Described)


class RelationalSynchronizer(Synchronizer, Generic[Opened, M]):
    """The base of the stores.

    ``Opened`` is what a store knows while a transaction is open, ``M`` its description of a model.

    The rules accept everything, because each statement of these stores touches only the owner's
    rows.
    """

    _passes_over_unreadable = True
    _models: Mapping[str, M]  # by the names that devices use
    _open: Opened | None

    def validate_create(self, owner_id: str, **diff: Unpack[DiffDict]) -> bool:
        return True

    def validate_update(self, owner_id: str, **diff: Unpack[DiffDict]) -> bool:
        return True

    def validate_delete(self, owner_id: str, **diff: Unpack[DiffDict]) -> bool:
        return True

    def _transaction(self) -> Opened:
        """What is known of the open transaction.

        Raises:
            RuntimeError: none is open.
        """
        if self._open is None:
            raise RuntimeError("only inside transaction(owner_id), which names the owner")
        return self._open

    def _generated_fields(self, where: str) -> frozenset[str]:
        """The fields of a model that only the database writes."""
        return self._model(where).generated_fields

    def _fields_of_server(self, where: str) -> frozenset[str]:
        """The fields of a model that devices may not write; none of an unknown model."""
        model = self._models.get(where)
        return frozenset() if model is None else model.server_fields | model.generated_fields

    def _model(self, where: str) -> M:
        """The model of this name; raises InvalidDiffError if there is none."""
        raise NotImplementedError


def check_arguments(
    models: object, lock_timeout_s: object, shared: Collection[str], kind: str
) -> None:
    """Check what every store takes.

    Args:
        models: by the names that devices use.
        lock_timeout_s: seconds.
        shared: names of models.
        kind: what the models must be, in the plural.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: ``lock_timeout_s`` is too small or too large, or ``shared`` names no model.
    """
    if not isinstance(lock_timeout_s, int | float) or isinstance(lock_timeout_s, bool):
        raise TypeError("lock_timeout_s must be a number (seconds)")
    if not (math.isfinite(lock_timeout_s) and 0 <= lock_timeout_s <= MAX_LOCK_TIMEOUT_S):
        raise ValueError(f"lock_timeout_s must be from 0 to {MAX_LOCK_TIMEOUT_S}")
    if isinstance(shared, str):
        raise TypeError("shared must be a list of names, not a str")
    if not isinstance(models, Mapping) or not all(isinstance(name, str) for name in models):
        raise TypeError(
            f"models must be a dict of {kind} by their names, such as {{'tasks': Task}}, "
            f"not {models!r:.100}"
        )
    strangers = set(shared) - set(models)
    if strangers:
        raise ValueError(f"shared names no model: {', '.join(map(repr, sorted(strangers)))}")
