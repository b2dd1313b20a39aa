"""The public keys of the issuer of the app's tokens: a JSON Web Key Set at a URL or in a file.

A separate thread reads them, and no request waits for it: tokens are checked with the keys that
were read last. If a token names an unknown key while the set is being read, or while its server
does not answer, the device is told to try again. A set is read every few minutes. It is also read
when a token names an unknown key, but not more often than every few seconds.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK, PyJWTError

from .. import UnavailableError, __version__

logger = logging.getLogger("mobync.server")

FRESH_S = 300.0  # after which a set is read again
KEPT_S = 24 * 3600.0  # that a set is used while its server does not answer
SELDOM_S = 5.0  # between two readings, even if tokens name unknown keys
ANSWER_S = 5.0  # in which its server must answer
READ_S = 10.0  # in which the whole set must arrive
GIVEN_UP_S = 20.0  # in which a reading must end, including the look-up of the name
MAX_BYTES = 1024 * 1024
SHORTEST_RSA = 2048  # bits

_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_ALGORITHMS = {
    ("RSA", None): _RSA,
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
"""What a key of a type, and of a curve, may verify, whatever a token says."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class KeysError(Exception):
    """A set of keys cannot be used; the message says which and why."""


@dataclass(frozen=True)
class Key:
    """A public key.

    Attributes:
        kid: its name in the set; None if it has none.
        public: the key, for PyJWT.
        algorithms: the algorithms that it verifies.
    """

    kid: str | None
    public: Any
    algorithms: tuple[str, ...]


class KeySet:
    """The keys at a URL or in a file.  One object serves any number of threads.

    Args:
        source: a URL https://… or http://…, or the path of a file.

    Raises:
        KeysError: it is neither.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._read = _reader_of(source)
        self._keys: tuple[Key, ...] = ()
        self._lock = threading.Lock()
        self._good_at = float("-inf")
        self._tried_at = float("-inf")
        self._given_up_at: float | None = None  # the reading that runs now
        self._problem: str | None = "they were not read yet"

    def load(self) -> None:
        """Read the keys and wait for them.

        Raises:
            KeysError: they cannot be read now.
        """
        reading = self._begin_reading(waited_for=True)
        if reading is not None:
            reading.join(GIVEN_UP_S)
        if self._problem is not None:
            raise KeysError(f"the keys at {self._source} cannot be used: {self._problem}")

    def find(self, kid: str | None, algorithm: str) -> Key | None:
        """The key that may have signed a token; None if there is none. Does not block.

        Args:
            kid: the key that the token names; None if it names none: then the set must have only
                one.
            algorithm: the algorithm that the token names.

        Raises:
            UnavailableError: it is not known which keys the set has now.
        """
        age_s = time.monotonic() - self._good_at
        if age_s > FRESH_S:
            self._begin_reading()
        if age_s > KEPT_S:
            raise UnavailableError("the keys of the token issuer cannot be read")
        keys = self._keys
        named = [key for key in keys if kid is None or key.kid == kid]
        if kid is not None and not named:
            self._begin_reading()
            if self._problem is not None or self._given_up_at is not None:
                raise UnavailableError("the keys of the token issuer are being read")
        fitting = [key for key in named if algorithm in key.algorithms]
        return fitting[0] if len(fitting) == 1 else None

    def _begin_reading(self, *, waited_for: bool = False) -> threading.Thread | None:
        """Read the set in a thread, unless a reading runs or has just ended; return the thread."""
        with self._lock:
            now = time.monotonic()
            runs = self._given_up_at is not None and now < self._given_up_at
            if runs or now < self._tried_at + SELDOM_S:
                return None
            self._tried_at = now
            self._given_up_at = now + GIVEN_UP_S
        reading = threading.Thread(target=self._read_all, args=(now, waited_for), daemon=True)
        reading.start()
        return reading

    def _read_all(self, began: float, waited_for: bool) -> None:
        problem = None
        try:
            keys = _keys_of(self._read())
        except KeysError as error:
            problem = str(error)
        except (OSError, HTTPException, ValueError) as error:
            problem = _said(error)
        with self._lock:
            if began != self._tried_at:
                return  # it took so long that another reading began
            self._problem, self._given_up_at = problem, None
            self._tried_at = time.monotonic()
            if problem is None:
                self._keys, self._good_at = keys, began
        if problem is not None and not waited_for:
            logger.warning("the keys at %s cannot be read: %s", self._source, problem)


def _said(error: Exception) -> str:
    if isinstance(error, HTTPError):
        moved = error.code in (301, 302, 303, 307, 308)
        advice = ": use the URL that it redirects to" if moved else ""
        return f"its server answers {error.code}{advice}"
    reason = error.reason if isinstance(error, URLError) else error
    return str(reason) or type(reason).__name__


# ---- where they are ------------------------------------------------------------------------------


def _reader_of(source: str) -> Callable[[], bytes]:
    scheme, slashes, _ = source.partition("://")
    if not slashes:
        return lambda: _of_file(Path(source))
    try:
        url = urlsplit(source)
        host, _ = url.hostname, url.port
    except ValueError as error:
        raise KeysError(f"{source!r:.200} is not a URL: {error}") from error
    if scheme not in ("https", "http") or not host or "@" in url.netloc:
        raise KeysError(f"{source!r:.200} must be a URL https://host/… without a user, or a file")
    if scheme == "http" and host not in _LOOPBACK:
        danger = "%s is not https: anyone on the network path can make tokens for every owner"
        logger.warning(danger, source)
    return lambda: _of_url(source)


def _of_file(path: Path) -> bytes:
    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if os.name == "posix" and mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise KeysError(f"others may write it (its mode is {stat.S_IMODE(mode):03o})")
        return _limited(file.read(MAX_BYTES + 1))


class _NoRedirects(HTTPRedirectHandler):
    """The keys come from the URL that the operator gave, and from nowhere else."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        return None


_opener = build_opener(_NoRedirects)


def _of_url(url: str) -> bytes:
    until = time.monotonic() + READ_S
    agent = {"Accept": "application/json", "User-Agent": f"mobync/{__version__}"}
    body = b""
    with _opener.open(Request(url, headers=agent), timeout=ANSWER_S) as response:
        while piece := response.read1(MAX_BYTES):
            body = _limited(body + piece)
            if time.monotonic() > until:
                raise KeysError(f"they did not arrive within {READ_S:g} s")
    return body


def _limited(body: bytes) -> bytes:
    if len(body) > MAX_BYTES:
        raise KeysError(f"they are longer than {MAX_BYTES} bytes")
    return body


# ---- what they are -------------------------------------------------------------------------------


def _keys_of(body: bytes) -> tuple[Key, ...]:
    """The keys of a set that can verify tokens.

    Raises:
        KeysError: it is not a key set, or has no such key.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise KeysError("it is not a JSON Web Key Set, because it is not JSON") from error
    members = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(members, list):
        raise KeysError("it is not a JSON Web Key Set, which is an object with a list 'keys'")
    keys, problems = [], []
    for index, member in enumerate(members):
        try:
            keys.append(_key_of(member))
        except (KeysError, PyJWTError, ValueError, TypeError) as error:
            problems.append(f"key {index}: {error!s:.200}")
    if not keys:
        raise KeysError("; ".join(["no key in it can verify a token", *problems[:5]]))
    return tuple(keys)


def _key_of(member: Any) -> Key:
    if not isinstance(member, dict):
        raise KeysError("it is not a JSON object")
    if "d" in member or member.get("kty") == "oct":
        raise KeysError("it is not public")
    if member.get("use", "sig") != "sig" or "verify" not in member.get("key_ops", ["verify"]):
        raise KeysError("it is not for signatures")
    kid = member.get("kid")
    if not isinstance(kid, str | None):
        raise KeysError("its kid is not a string")
    kind, curve, said = (member.get(name) for name in ("kty", "crv", "alg"))
    algorithms = _ALGORITHMS.get((str(kind), curve), ())
    if said is not None:
        algorithms = tuple(name for name in algorithms if name == said)
    if not algorithms:
        raise KeysError(f"no algorithm is known for kty {kind!r}, crv {curve!r}, alg {said!r}")
    public = PyJWK(member, algorithms[0]).key
    if isinstance(public, RSAPublicKey) and public.key_size < SHORTEST_RSA:
        raise KeysError(f"it has {public.key_size} bits, not {SHORTEST_RSA} or more")
    return Key(kid, public, algorithms)
