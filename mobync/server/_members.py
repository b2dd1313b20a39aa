"""The members of a JSON object with each value as its text, as mobync itself sees them.

The merge compares texts: ``1.0`` and ``1`` are different values, and 20 digits stay 20 digits. So
the inspector shows and compares texts too. The core splits the text with the merge's own reader, so
nothing that a device can send is too long or too deep to be shown.
"""

from __future__ import annotations

import json

from .. import _core
from ..errors import InvalidDiffError
from ..types import Diff


def members_of(json_data: str) -> tuple[str | None, dict[str, str]]:
    """Split a row of the log into its members.

    Args:
        json_data: the text of a JSON object. If it has a name twice, the last value counts.

    Returns:
        The object's ``id``, None if it has none, and the texts of the other members by their
        decoded names, in their order. If the merge would refuse the text, both are empty.
    """
    try:
        texts = dict(_core.members(json_data))
    except InvalidDiffError:
        return None, {}
    id_ = texts.pop(Diff.ID, "")
    return json.loads(id_) if id_.startswith('"') else None, texts


def object_id_of(json_data: str) -> str | None:
    """Only the ``id`` of a row of the log, which is much faster."""
    try:
        return _core.text_member(json_data, Diff.ID)
    except InvalidDiffError:
        return None
