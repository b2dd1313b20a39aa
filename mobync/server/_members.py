"""The members of a JSON object with each value as its text, as mobync itself sees them.

``1.0`` and ``1`` are different values to the merge, and 20 digits are 20 digits, so what the
inspector shows and compares is text as well.  The core takes the text apart, by the reader of the
merge: so nothing that a device can send is too long or too deep to be shown.
"""

from __future__ import annotations

import json

from .. import _core
from ..errors import InvalidDiffError
from ..types import Diff


def members_of(json_data: str) -> tuple[str | None, dict[str, str]]:
    """Take a row of the log apart.

    Args:
        json_data: the text of a JSON object.  Of a name that stands twice the last value counts.

    Returns:
        The object's ``id``, None where it has none; and the texts of the other members by their
        decoded names, in the order in which they stand.  Of text that the merge would refuse both
        are empty.
    """
    try:
        texts = dict(_core.members(json_data))
    except InvalidDiffError:
        return None, {}
    id_ = texts.pop(Diff.ID, "")
    return json.loads(id_) if id_.startswith('"') else None, texts


def object_id_of(json_data: str) -> str | None:
    """The ``id`` of a row of the log alone, which takes a small part of the time."""
    try:
        return _core.text_member(json_data, Diff.ID)
    except InvalidDiffError:
        return None
