"""What an HTTP endpoint reads in headers, and gzip in both directions."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

GZIP_FROM_BYTES = 1024  # a shorter reply fits a packet without compression
GZIP_LEVEL = 4  # half the time of level 6, with 5 % more bytes
_GZIP_PIECE_BYTES = 64 * 1024
_PIECE_BYTES = 1024 * 1024

_BEARER = re.compile(r"bearer +(\S+)", re.IGNORECASE)
_CHARSET = re.compile(r';\s*charset\s*=\s*"?([^";\s]+)', re.IGNORECASE)


class SentHeaders(Protocol):
    """Headers of a framework: a mapping, or something like it."""

    def items(self) -> Iterable[tuple[str, str]]: ...


class Headers(Mapping[str, str]):
    """The headers of a request, found by names in any case. The values of a repeated header are
    joined by commas.

    Args:
        headers: names and values, from any framework.
    """

    def __init__(self, headers: SentHeaders) -> None:
        self._values: dict[str, str] = {}
        for given, value in headers.items():
            name = given.lower()
            comma = "; " if name == "cookie" else ", "
            before = self._values.get(name)
            self._values[name] = value if before is None else f"{before}{comma}{value}"

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def get(self, name: str, default: Any = None) -> Any:
        # Else Mapping raises and catches an error for each header that is missing.
        return self._values.get(name.lower(), default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def bearer_token(headers: Headers) -> str | None:
    """The token of ``Authorization: Bearer``; None if there is no such header."""
    given = headers.get("authorization")
    found = _BEARER.fullmatch(given.strip()) if given else None
    return None if found is None else found[1]


def is_json(content_type: str) -> bool:
    """Whether a Content-Type says JSON in UTF-8, which is also the default charset."""
    kind, _, parameters = content_type.partition(";")
    charset = _CHARSET.search(";" + parameters)
    return kind.strip().lower() == "application/json" and (
        charset is None or charset[1].lower() in ("utf-8", "utf8", "us-ascii")
    )


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding allows a reply in gzip."""
    wanted: dict[str, float] = {}
    for part in accept_encoding.lower().split(","):
        coding, *parameters = (piece.strip() for piece in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                quality = _quality(value.strip())
        wanted[coding] = quality
    return wanted.get("gzip", wanted.get("x-gzip", wanted.get("*", 0.0))) > 0


def _quality(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return 0.0


def deflated(body: bytes) -> bytes:
    """Gzip a reply."""
    return gzip.compress(body, GZIP_LEVEL, mtime=0)


def inflated(body: bytes) -> Iterator[bytes]:
    """Decompress gzip piece by piece, so that the caller can stop when there are too many pieces.

    Only one member is allowed: many empty members would cost time without adding size.

    Raises:
        ValueError: it is not gzip, is damaged or cut short, or more follows.
    """
    stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        for at in range(0, len(body), _GZIP_PIECE_BYTES):
            if stream.eof:
                raise ValueError("more data follows the gzip body")
            yield from _pieces(stream, body[at : at + _GZIP_PIECE_BYTES])
    except zlib.error as error:
        raise ValueError(f"the body is not gzip, or damaged: {error}") from error
    if not stream.eof:
        raise ValueError("the gzip body is cut short")
    if stream.unused_data:
        raise ValueError("more data follows the gzip body")


def _pieces(stream: Any, zipped: bytes) -> Iterator[bytes]:
    """The content of a piece of gzip; it can be a thousand times as long."""
    piece = stream.decompress(zipped, _PIECE_BYTES)
    while piece:
        yield piece
        piece = stream.decompress(stream.unconsumed_tail, _PIECE_BYTES)
