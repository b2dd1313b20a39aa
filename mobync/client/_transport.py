"""The way to the server: HTTP with urllib3; tests have other transports."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, Protocol
from urllib.parse import quote

from .._extras import needing
from ._errors import OfflineError

with needing("client"):
    import urllib3
    from urllib3.exceptions import HTTPError

CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 90  # the server may wait for the owner's lock, and a reply may be large
SILENCE_S = 45  # three heartbeats of the server


@dataclass(frozen=True)
class Answer:
    """An answer of the server.

    Attributes:
        status: the HTTP status.
        body: the body, decompressed.
        headers: the headers, by their names in lower case.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        """The JSON object in the body; empty if it is not one, for example a proxy's page."""
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):  # the second one is for deep nesting
            return {}
        return found if isinstance(found, dict) else {}

    def retry_after_s(self) -> float | None:
        """The seconds to wait by ``Retry-After``; None if it is missing or cannot be read."""
        text = self.headers.get("retry-after", "").strip()
        if text.isascii() and text.isdecimal():
            return float(text)
        try:
            at = parsedate_to_datetime(text)
        except (ValueError, OverflowError):
            return None
        at = at if at.tzinfo else at.replace(tzinfo=timezone.utc)
        return max(0.0, (at - datetime.now(timezone.utc)).total_seconds())


class Events(Protocol):
    """An open stream of events, or the answer that refuses one.

    Attributes:
        answer: the status and the headers; also the body if the status is not 200.
    """

    answer: Answer

    def lines(self) -> Iterator[str]:
        """The lines of the stream as they come, until it ends.

        Raises:
            OfflineError: the connection broke, or nothing came for too long.
        """

    def close(self) -> None:
        """End the stream. Any thread may call it, also while another one waits in `lines`."""


class Transport(Protocol):
    """What a device needs from a network. Tests can have one without HTTP."""

    def post(self, body: bytes, token: str | None) -> Answer:
        """Send a sync.

        Raises:
            OfflineError: no answer came; the server may still have got the request.
        """

    def events(self, token: str | None, last_event_id: str, device: str) -> Events:
        """Begin to listen, as the device with this name.

        Raises:
            OfflineError: no answer came.
        """


class HttpTransport:
    """HTTP to a mobync server.

    Args:
        url: the URL of the sync route, such as ``https://example.org/sync``.

    Raises:
        ValueError: it is not a URL of HTTP.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = urllib3.util.parse_url(url)
        except HTTPError as error:
            raise ValueError(f"not a URL: {url!r}") from error
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValueError(f"url must be the sync route, https://host/sync, not {url!r}")
        self.url = url
        self._pool = urllib3.PoolManager(retries=False)

    def post(self, body: bytes, token: str | None) -> Answer:
        headers = {**_headers_with(token), "Content-Type": "application/json"}
        headers["Accept-Encoding"] = "gzip"
        timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S)
        try:
            response = self._pool.request(
                "POST", self.url, body=body, headers=headers, timeout=timeout, redirect=False
            )
        except (HTTPError, OSError) as error:
            raise OfflineError(f"no answer from {self.url}: {error}") from error
        return Answer(response.status, response.data, _lower(response.headers))

    def events(self, token: str | None, last_event_id: str, device: str) -> Events:
        headers = {**_headers_with(token), "Accept": "text/event-stream"}
        headers["Last-Event-ID"] = last_event_id
        url = f"{self.url.rstrip('/')}/events?device={quote(device, safe='')}"
        timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=SILENCE_S)
        try:
            response = self._pool.request(
                "GET", url, headers=headers, timeout=timeout, redirect=False, preload_content=False
            )
            return HttpEvents(url, response)
        except (HTTPError, OSError) as error:
            raise OfflineError(f"no answer from {url}: {error}") from error


class HttpEvents:
    """A response of ``GET /sync/events``."""

    def __init__(self, url: str, response: urllib3.BaseHTTPResponse) -> None:
        self._url = url
        self._response = response
        body = b"" if response.status == 200 else response.read()
        self.answer = Answer(response.status, body, _lower(response.headers))

    def lines(self) -> Iterator[str]:
        rest = b""
        try:
            while piece := self._response.read1(4096):  # what has arrived, without waiting for more
                *whole, rest = (rest + piece).replace(b"\r\n", b"\n").split(b"\n")
                for line in whole:
                    yield line.decode("utf-8", "replace")
        except (HTTPError, OSError, ValueError) as error:
            raise OfflineError(f"the stream of {self._url} broke: {error}") from error
        finally:
            self._response.close()

    def close(self) -> None:
        with suppress(ValueError, OSError):  # it has ended already
            self._response.shutdown()


def _headers_with(token: str | None) -> dict[str, str]:
    return {} if token is None or not token.isascii() else {"Authorization": f"Bearer {token}"}


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
