"""JSON Web Tokens of the app as tokens of its devices, beside mobync's own tokens.

A token does not decide how it is verified: the kind of the secret or key fixes the algorithms, and
a key in the header of a token is ignored.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jwt
from jwt.algorithms import HMACAlgorithm

from ..http import Authenticate, ExpiredTokenError
from ._keys import Key, KeySet
from .owners import OwnerError, check_owner_id
from .settings import Settings
from .tokens import SecretError, Tokens, load_jwt_secret

logger = logging.getLogger("mobync.server")

LEEWAY_S = 10.0  # that the issuer's clock may differ from ours
_HMAC = {"HS256": 32, "HS384": 48, "HS512": 64}  # bytes of a secret: those of the hash


class JWTs:
    """Reads the app's tokens.

    Args:
        secret: the secret that signs tokens; None if there is none.
        keys: the public keys that verify tokens; None if there are none.
        owner_claim: the claim that is the owner's id: a text, or an integer.
        audiences: the audiences that are accepted, one of which a token must name. If there are
            none, a token that names an audience is refused.
        issuer: the issuer that a token must name; None: any.

    Raises:
        SecretError: the secret is too short.
    """

    def __init__(
        self,
        secret: str | None,
        keys: KeySet | None,
        *,
        owner_claim: str = "sub",
        audiences: Sequence[str] = (),
        issuer: str | None = None,
    ) -> None:
        self._secret = None if secret is None else _key_of_secret(secret)
        self._keys = keys
        self._owner_claim = owner_claim
        self._audiences = list(audiences) or None
        self._issuer = issuer

    def load_keys(self) -> None:
        """Read the keys, if a key set is used, and wait for them.

        Raises:
            KeysError: they cannot be read now.
        """
        if self._keys is not None:
            self._keys.load()

    def owner(self, token: str) -> str | None:
        """The owner of a token; None, and a line in the log, if the token is not valid.

        Raises:
            ExpiredTokenError: it was to be trusted, and has expired.
            UnavailableError: the keys are being read, or cannot be.
        """
        try:
            return self._owner(token)
        except (jwt.PyJWTError, OwnerError, OverflowError) as error:
            reason = str(error) or type(error).__name__
            logger.warning("a JWT is not accepted: %s", reason, extra={"fields": _told(token)})
            return None

    def _owner(self, token: str) -> str:
        key = self._key_of(jwt.get_unverified_header(token))
        try:
            claims = self._claims(token, key)
        except jwt.ExpiredSignatureError:
            self._owner_of(self._claims(token, key, verify_exp=False))
            raise ExpiredTokenError from None
        return self._owner_of(claims)

    def _key_of(self, header: dict[str, Any]) -> Key:
        """The key or secret that must have signed a token with this header."""
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str):
            raise jwt.InvalidAlgorithmError("it does not name an algorithm")
        if self._secret is not None and algorithm in self._secret.algorithms:
            return self._secret
        found = None if self._keys is None else self._keys.find(kid, algorithm)
        if found is None:
            raise jwt.InvalidKeyError("no key of that name is for that algorithm")
        return found

    def _claims(self, token: str, key: Key, *, verify_exp: bool = True) -> dict[str, Any]:
        claims: dict[str, Any] = jwt.decode(
            token,
            key.public,
            algorithms=list(key.algorithms),
            audience=self._audiences,
            issuer=self._issuer,
            leeway=LEEWAY_S,
            options={"require": ["exp"], "verify_exp": verify_exp},
        )
        return claims

    def _owner_of(self, claims: dict[str, Any]) -> str:
        owner = claims.get(self._owner_claim)
        if isinstance(owner, int) and not isinstance(owner, bool):
            owner = str(owner)
        if not isinstance(owner, str):
            raise OwnerError(f"its claim {self._owner_claim!r} is neither text nor integer")
        check_owner_id(owner)
        return owner

    def beside(self, tokens: Tokens) -> Authenticate:
        """An ``authenticate`` that accepts both mobync's own tokens and JWTs."""

        def owner(token: str | None, headers: Mapping[str, str]) -> str | None:
            own = tokens.owner(token, headers)
            if own is not None or token is None:
                return own
            return self.owner(token) if _looks_like_one(token) else None

        return owner


def _looks_like_one(token: str) -> bool:
    """Whether a token has the three parts of a JWT; only the signature may be empty."""
    return token.isascii() and token.count(".") == 2 and not token.startswith(".")


def _told(token: str) -> dict[str, Any]:
    """The members of a token's header that go into the log; anybody may have written them."""
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError:
        return {}
    return {name: f"{header[name]!s:.100}" for name in ("alg", "kid") if name in header}


def _key_of_secret(secret: str) -> Key:
    size = len(secret.encode())
    algorithms = tuple(name for name, needed in _HMAC.items() if size >= needed)
    if not algorithms:
        raise SecretError(f"the secret of the JWTs must have at least {_HMAC['HS256']} bytes")
    try:
        HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
    except jwt.InvalidKeyError:
        raise SecretError(
            "the secret of the JWTs is an asymmetric key: public keys go into a key set (--jwks)"
        ) from None
    return Key(None, secret, algorithms)


def load_jwts(settings: Settings) -> JWTs | None:
    """Make the reader of the app's tokens; its keys are not read yet.

    Returns:
        None if neither a secret nor keys are named.

    Raises:
        SecretError: the secret cannot be used, or others may use its file.
        KeysError: the place of the keys is not valid.
    """
    file = settings.jwt_secret_file
    secret = load_jwt_secret(None if file is None else Path(file))
    keys = None if settings.jwks is None else KeySet(settings.jwks)
    if secret is None and keys is None:
        return None
    return JWTs(
        secret,
        keys,
        owner_claim=settings.jwt_owner_claim,
        audiences=settings.jwt_audience,
        issuer=settings.jwt_issuer,
    )
