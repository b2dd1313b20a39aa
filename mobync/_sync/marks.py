"""Marks: random texts, each of which a device carries from one reply to its next request.

A mark ends with a fingerprint of the owner. It tells a device that now syncs as somebody else from
one that this owner's data has lost: the first must not start over, because it would send its rows
to the wrong owner. The name of the device cannot tell: the other owner may have a device of this
name, or this device may have begun to sync another collection as that owner.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable

from ..errors import OtherOwnerError

_RANDOM_BYTES = 12
_FINGERPRINT_BYTES = 8
_SEPARATOR = "."


def new_mark(owner_id: str) -> str:
    """A new mark for a device of an owner."""
    return secrets.token_urlsafe(_RANDOM_BYTES) + _SEPARATOR + fingerprint(owner_id)


def fingerprint(owner_id: str) -> str:
    """A short text that differs for each owner, and does not show the id."""
    return hashlib.blake2b(
        owner_id.encode("utf-8", "surrogatepass"), digest_size=_FINGERPRINT_BYTES
    ).hexdigest()


def check_owner(
    name: str,
    mark: str | None,
    owner_id: str,
    predecessors: Iterable[str],
    given: Iterable[str | None],
) -> None:
    """Check that a device does not have the rows of another owner.

    Args:
        name: the name of the device.
        mark: what it carries; None: it has no mark.
        owner_id: the authenticated owner.
        predecessors: the fingerprints of owners whose data became this owner's.
        given: marks that this owner's device of this name may have; those of a device that came
            with another owner's data are of that owner.

    Raises:
        OtherOwnerError: it does.
    """
    whose = _whose(mark)
    if whose not in (None, fingerprint(owner_id), *predecessors, *map(_whose, given)):
        raise OtherOwnerError(
            f"device {name!r:.100} has the rows of another owner: sign in as that owner, or sync "
            "this owner's data in a database of its own"
        )


def _whose(mark: str | None) -> str | None:
    """The fingerprint in a mark; None: the mark has none."""
    _, separator, whose = (mark or "").rpartition(_SEPARATOR)
    return whose if separator else None
