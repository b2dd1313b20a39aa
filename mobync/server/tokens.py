"""Tokens that say who a device's owner is, or that somebody is an administrator.

They are signed, not stored: whoever has the secret can make them, and they are good until they
expire or the secret is changed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from itsdangerous import BadData, URLSafeSerializer

from .owners import OwnerError, check_owner_id, is_storable

SECRET_VARIABLE = "MOBYNC_SECRET"
SHORTEST_SECRET = 16  # characters
_SECRET_BYTES = 32


class SecretError(Exception):
    """There is no secret to sign with; the message says what to do."""


class Tokens:
    """Makes and reads tokens.

    Args:
        secret: what signs them; at least SHORTEST_SECRET characters.

    Raises:
        SecretError: it is shorter, or no text of UTF-8.
    """

    def __init__(self, secret: str) -> None:
        if len(secret) < SHORTEST_SECRET:
            raise SecretError(f"the secret must have at least {SHORTEST_SECRET} characters")
        if not is_storable(secret):
            raise SecretError("the secret must be text of UTF-8")
        # A salt each, so that no owner's name makes a device's token an administrator's.
        self._devices = URLSafeSerializer(secret, salt="mobync device")
        self._admins = URLSafeSerializer(secret, salt="mobync admin")

    def for_owner(self, owner_id: str, lifetime_s: float) -> str:
        """A token for the devices of an owner.

        Args:
            owner_id: whose data they may read and write.
            lifetime_s: seconds from now that it is good for.

        Raises:
            OwnerError: the server cannot keep data of this owner; a ValueError.
        """
        check_owner_id(owner_id)
        return _sign(self._devices, {"owner": owner_id}, lifetime_s)

    def for_admin(self, lifetime_s: float) -> str:
        """A token that opens the inspector, for ``lifetime_s`` seconds from now."""
        return _sign(self._admins, {}, lifetime_s)

    def owner(self, token: str | None, headers: Mapping[str, str]) -> str | None:
        """Whose devices a token is for; None if it is none of ours or has expired.

        Args:
            token: as the device sent it.
            headers: of its request; not looked at.
        """
        content = _read(self._devices, token)
        if content is None:
            return None
        owner_id = str(content["owner"])
        try:
            check_owner_id(owner_id)
        except OwnerError:  # whoever has the secret can sign whatever they like
            return None
        return owner_id

    def is_admin(self, token: str | None) -> bool:
        """Whether a token is an administrator's and has not expired."""
        return _read(self._admins, token) is not None


def _sign(serializer: URLSafeSerializer, content: dict[str, Any], lifetime_s: float) -> str:
    return str(serializer.dumps({**content, "expires": int(time.time() + lifetime_s)}))


def _read(serializer: URLSafeSerializer, token: str | None) -> dict[str, Any] | None:
    if not token:
        return None
    try:
        content: dict[str, Any] = serializer.loads(token)
    except BadData:
        return None
    return content if time.time() < content["expires"] else None


def load_tokens(secret_file: Path | None) -> Tokens:
    """The tokens of the secret in the environment, or else in a file, which is made if need be.

    Args:
        secret_file: where a secret is kept; readable to its owner only.

    Raises:
        SecretError: the environment has none and there is no file to keep one in.
    """
    secret = os.environ.get(SECRET_VARIABLE)
    if secret is not None:
        try:
            return Tokens(secret)
        except SecretError as error:
            raise SecretError(f"{SECRET_VARIABLE}: {error}") from None
    if secret_file is None:
        raise SecretError(
            f"there is no secret to sign tokens with: set {SECRET_VARIABLE}, or name a file to "
            "keep one in with --secret-file"
        )
    try:
        return Tokens(_read_or_make(secret_file))
    except (OSError, UnicodeDecodeError, SecretError) as error:
        raise SecretError(f"the secret in {secret_file} cannot be used: {error}") from error


def _read_or_make(path: Path) -> str:
    if not path.exists():
        # Whole or not at all, and never over one that another process has just made.
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.") as made:
            made.write(secrets.token_urlsafe(_SECRET_BYTES))
            made.flush()
            with contextlib.suppress(FileExistsError):
                os.link(made.name, path)
    return path.read_text().strip()
