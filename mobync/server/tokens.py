"""Tokens that name the owner of a device, or an administrator.

They are signed, not stored. Anyone who has the secret can make them. They are valid until they
expire or the secret is changed.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import shlex
import stat
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from itsdangerous import BadData, URLSafeSerializer

from ..http import ExpiredTokenError
from .owners import OwnerError, check_owner_id, is_storable

SECRET_VARIABLE = "MOBYNC_SECRET"
ADMIN_TOKEN_VARIABLE = "MOBYNC_ADMIN_TOKEN"
JWT_SECRET_VARIABLE = "MOBYNC_JWT_SECRET"
SHORTEST_SECRET = 16  # characters
_SECRET_BYTES = 32


class SecretError(Exception):
    """There is no secret to sign with; the message says what to do."""


class Tokens:
    """Makes and reads tokens.

    Args:
        secret: the text that signs them; at least SHORTEST_SECRET characters.
        admin_token: another administrator's token, which is not signed; ASCII, and as long.

    Raises:
        SecretError: one of them is shorter, or is not UTF-8 (the token: ASCII).
    """

    def __init__(self, secret: str, admin_token: str | None = None) -> None:
        _check_secret("secret", secret)
        if admin_token is not None:
            _check_admin_token(admin_token)
        self._admin_token = admin_token
        # Different salts, so that a device's token is never an administrator's, whatever the
        # owner's name.
        self._devices = URLSafeSerializer(secret, salt="mobync device")
        self._admins = URLSafeSerializer(secret, salt="mobync admin")
        self._sessions = URLSafeSerializer(secret, salt="mobync session")

    def for_owner(self, owner_id: str, lifetime_s: float) -> str:
        """A token for the devices of an owner.

        Args:
            owner_id: the owner whose data they may read and write.
            lifetime_s: how many seconds from now the token is valid.

        Raises:
            OwnerError: the server cannot store data of this owner; a ValueError.
        """
        check_owner_id(owner_id)
        return _sign(self._devices, {"owner": owner_id}, lifetime_s)

    def for_admin(self, lifetime_s: float) -> str:
        """A token that opens the inspector, for ``lifetime_s`` seconds from now."""
        return _sign(self._admins, {}, lifetime_s)

    def for_session(self, lifetime_s: float) -> str:
        """The session of a browser that may use the inspector; valid for nothing else."""
        return _sign(self._sessions, {}, lifetime_s)

    def owner(self, token: str | None, headers: Mapping[str, str]) -> str | None:
        """The owner of a token; None if the token is not valid.

        Args:
            token: the token as the device sent it.
            headers: the headers of its request; they are ignored.

        Raises:
            ExpiredTokenError: the token was valid and has expired.
        """
        content = _content(self._devices, token)
        if content is None or not isinstance(content.get("owner"), str):
            return None
        if _has_expired(content):
            raise ExpiredTokenError
        owner_id = str(content["owner"])
        try:
            check_owner_id(owner_id)
        except OwnerError:  # anyone who has the secret can sign anything
            return None
        return owner_id

    def is_admin(self, token: str | None) -> bool:
        """Whether a token is an administrator's and has not expired."""
        if token is None:
            return False
        own = self._admin_token
        if own is not None and hmac.compare_digest(own.encode(), token.encode()):
            return True
        return _read(self._admins, token) is not None

    def is_session(self, text: str | None) -> bool:
        """Whether a text is what ``for_session`` gave, and has not expired."""
        return _read(self._sessions, text) is not None


def _check_secret(what: str, text: str) -> None:
    if len(text) < SHORTEST_SECRET:
        raise SecretError(f"the {what} must have at least {SHORTEST_SECRET} characters")
    if not is_storable(text):
        raise SecretError(f"the {what} must be UTF-8 text")


def _check_admin_token(text: str) -> None:
    _check_secret("administrator's token", text)
    if not text.isascii():  # it is sent in a header
        raise SecretError("the administrator's token must be ASCII text")


def _sign(serializer: URLSafeSerializer, content: dict[str, Any], lifetime_s: float) -> str:
    return str(serializer.dumps({**content, "expires": int(time.time() + lifetime_s)}))


def _read(serializer: URLSafeSerializer, token: str | None) -> dict[str, Any] | None:
    content = _content(serializer, token)
    return None if content is None or _has_expired(content) else content


def _content(serializer: URLSafeSerializer, token: str | None) -> dict[str, Any] | None:
    """The signed content, if it has our form; another program may use the same secret."""
    if not token:
        return None
    try:
        content = serializer.loads(token)
    except BadData:
        return None
    if isinstance(content, dict) and type(content.get("expires")) in (int, float):
        return content
    return None


def _has_expired(content: dict[str, Any]) -> bool:
    return not time.time() < content["expires"]


def load_tokens(secret_file: Path | None) -> Tokens:
    """Make Tokens with the secret from the environment, or else from a file, which is made if
    needed.

    An administrator's token in the environment (ADMIN_TOKEN_VARIABLE) counts as well.

    Args:
        secret_file: the file of the secret. A new file is readable only by its user; an existing
            file may also be readable by its group.

    Raises:
        SecretError: the environment has no secret and no file is named, the secret cannot be used,
            or others may use the file.
    """
    admin_token = os.environ.get(ADMIN_TOKEN_VARIABLE)
    if admin_token is not None:
        try:
            _check_admin_token(admin_token)
        except SecretError as error:
            raise SecretError(f"{ADMIN_TOKEN_VARIABLE}: {error}") from None
    secret = os.environ.get(SECRET_VARIABLE)
    if secret is not None:
        try:
            return Tokens(secret, admin_token)
        except SecretError as error:
            raise SecretError(f"{SECRET_VARIABLE}: {error}") from None
    if secret_file is None:
        raise SecretError(
            f"there is no secret to sign tokens with: set {SECRET_VARIABLE}, or name a file to "
            "keep one in with --secret-file"
        )
    try:
        return Tokens(_read_or_make(secret_file), admin_token)
    except (OSError, UnicodeDecodeError, SecretError) as error:
        raise SecretError(f"the secret in {secret_file} cannot be used: {error}") from error


def _read_or_make(path: Path) -> str:
    if not path.exists():
        if not path.parent.is_dir():
            raise SecretError(f"there is no directory {path.parent}")
        # Completely or not at all, and never over a file that another process has just made.
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.") as made:
            made.write(secrets.token_urlsafe(_SECRET_BYTES))
            made.flush()
            with contextlib.suppress(FileExistsError):
                os.link(made.name, path)
    return _read_secret(path)


def load_jwt_secret(file: Path | None) -> str | None:
    """The secret that signs the app's JWTs, from the environment, or else from a file that must
    exist.

    Args:
        file: the file of the secret; None: there is none.

    Returns:
        None if there is none.

    Raises:
        SecretError: the file cannot be read, or others may use it.
    """
    secret = os.environ.get(JWT_SECRET_VARIABLE)
    if secret is not None or file is None:
        return secret
    try:
        return _read_secret(file)
    except (OSError, UnicodeDecodeError, SecretError) as error:
        raise SecretError(f"the secret in {file} cannot be used: {error}") from error


def _read_secret(path: Path) -> str:
    with path.open() as file:
        _check_private(path, os.fstat(file.fileno()))
        return file.read().strip()


def _check_private(path: Path, found: os.stat_result) -> None:
    """Refuse a secret that other users of this machine could have read or written."""
    if sys.platform == "win32":  # has neither these modes nor these owners
        return
    if found.st_mode & (stat.S_IWGRP | stat.S_IRWXO):
        raise SecretError(
            f"others may read or write it (its mode is {stat.S_IMODE(found.st_mode):03o}), so they "
            f"may have made tokens: make a new one, or chmod 600 {shlex.quote(str(path))}"
        )
    directory = Path(os.path.realpath(path)).parent
    if found.st_uid not in (0, os.geteuid()) and directory.stat().st_mode & stat.S_IWOTH:
        raise SecretError(
            f"it belongs to another user (number {found.st_uid}), and anybody may put a file into "
            f"{directory}: keep the secret elsewhere"
        )
