"""Which ids of owners the server's tables can store."""

from __future__ import annotations

from ..sqlalchemy._tables import KEY_LENGTH


class OwnerError(ValueError):
    """An owner's id cannot be stored; the message says which ids can."""


def check_owner_id(owner_id: str) -> None:
    """Check an owner's id by a rule that is the same for every database.

    Raises:
        OwnerError: it is empty, longer than a key, ends in a space, or is not text that UTF-8
            and the databases can hold.
    """
    fits = 0 < len(owner_id) <= KEY_LENGTH and not owner_id.endswith(" ")
    if not (fits and is_storable(owner_id)):
        raise OwnerError(
            f"an owner is a text of 1 to {KEY_LENGTH} characters that does not end in a space"
        )


def is_storable(text: str) -> bool:
    """Whether a text is UTF-8, unlike an argument of other bytes, and has no U+0000."""
    return "\0" not in text and not any("\ud800" <= sign <= "\udfff" for sign in text)
