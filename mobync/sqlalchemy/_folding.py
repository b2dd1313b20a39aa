"""Applies edits to documents and compares documents, by using the merge itself.

The merge keeps the text of every value, and its first step folds the edits of one side: a create
takes the updates that follow it, and a delete removes it. So a document becomes a create before its
edits, and the result of the fold is the new document. Two documents are compared as concurrent
updates of one object: if the merge sends nothing, they are equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from .. import _core
from ..types import DiffDict

Key = tuple[str, str]
"""The model and id of an object."""


class Operation(NamedTuple):
    """An edit of one object."""

    type: str
    model: str
    id: str  # the one in json_data
    json_data: str


def fold(operations: Iterable[Operation]) -> dict[Key, str]:
    """The documents after the operations, applied in order.

    Args:
        operations: the operations; an existing document comes first, as a create.

    Returns:
        The text of each object that was created and not deleted after that. Updates of missing
        objects have no effect.
    """
    numbered = list(operations)
    diffs = [
        _diff(str(number), number, operation.type, operation.model, operation.json_data)
        for number, operation in enumerate(numbered)
    ]
    upstream, _ = _core.merge([], diffs)
    left: dict[Key, str] = {}
    for diff in upstream:
        if diff["type"] == "create":
            operation = numbered[int(diff["id"])]
            left[operation.model, operation.id] = diff["json_data"]
    return left


def lacking(documents: Mapping[Key, str], others: Mapping[Key, str]) -> dict[Key, str]:
    """The fields of documents that other documents with the same keys lack, or have with another
    value.

    Args:
        documents: texts by key.
        others: texts of the same keys.

    Returns:
        For each document of which something is left, the text of an object with its id and the
        fields whose value the other does not have, letter for letter.
    """
    keys = list(documents)
    _, downstream = _core.merge(
        [_diff(str(n), 1, "update", key[0], documents[key]) for n, key in enumerate(keys)],
        [_diff(f"other {n}", 0, "update", key[0], others[key]) for n, key in enumerate(keys)],
    )
    return {keys[int(diff["id"])]: diff["json_data"] for diff in downstream}


def _diff(id_: str, utc_timestamp: int, type_: str, model: str, json_data: str) -> DiffDict:
    return {
        "id": id_,
        "owner": "owner",
        "logical_clock": 0,
        "utc_timestamp": utc_timestamp,
        "type": type_,
        "model": model,
        "json_data": json_data,
    }
