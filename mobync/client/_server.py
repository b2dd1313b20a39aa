"""The server as a device sees it: repeats a request until there is a final answer."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any, TypeAlias

from ._errors import ClientError, OfflineError, ServerError, TokenError
from ._replica import Request
from ._transport import Answer, Events, Transport

Token: TypeAlias = str | Callable[[], str] | None

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
LONGEST_ECHO = 200  # characters of an answer that an error repeats
EXAMPLE_URL = "https://example.org/sync"
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # statuses that may change after a pause


class Server:
    """A transport with a token and a limit for pauses.

    Args:
        transport: the way to the server.
        token: the owner's token, or a function that returns one.
        patience_s: how many seconds all pauses of one `ask` may take together.
    """

    wait: Callable[[float], object] = staticmethod(time.sleep)

    def __init__(self, transport: Transport, token: Token, patience_s: float) -> None:
        self._transport = transport
        self._token = token
        self._known_token: str | None = None
        self._patience_s = patience_s

    def ask(self, body: dict[str, Any]) -> Answer:
        """Post the same body until there is an answer.

        Returns:
            A reply of mobync, or the answer that refuses.

        Raises:
            OfflineError: there was no final answer in that time.
            TokenError: a 401, and also with a new token.
        """
        return self._insist(lambda token: self._post(body, token))

    def _post(self, body: dict[str, Any], token: str | None) -> Answer:
        if (
            token is not None and not token.isascii()
        ):  # servers treat such headers in different ways
            body = {**body, "auth_token": token}
        answer = self._transport.post(json.dumps(body).encode(), token)
        if answer.status == 200 and not is_reply(answer.json()):
            # A network that wants a sign-in answers every request with its own page.
            raise OfflineError(f"the answer is not from mobync: {shown(answer)}")
        return answer

    def listen(self, last_event_id: str, device: str) -> Events:
        """Begin to listen, with one try; get a new token if needed.

        Raises:
            OfflineError: no answer came.
            TokenError: a 401, and also with a new token.
        """
        events: list[Events] = []

        def begin(token: str | None) -> Answer:
            events.append(self._transport.events(token, last_event_id, device))
            return events[-1].answer

        self._with_token(begin)
        return events[-1]

    def _insist(self, send: Callable[[str | None], Answer]) -> Answer:
        patience_s, pause_s = self._patience_s, FIRST_PAUSE_S
        while True:
            try:
                answer = self._with_token(send)
                if answer.status not in PASSING:
                    return answer
                failed = OfflineError(f"{answer.status}: {shown(answer)}")
                asked_s = answer.retry_after_s() or 0.0
            except OfflineError as error:
                failed, asked_s = error, 0.0
            # Random, so that devices that failed together do not come again together. Longer each
            # time, and never shorter than the server asks for.
            wait_s = asked_s + random.uniform(0, pause_s)
            if wait_s > patience_s:
                raise failed
            self.wait(wait_s)
            patience_s -= wait_s
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _with_token(self, send: Callable[[str | None], Answer]) -> Answer:
        if self._known_token is None:
            self._known_token = self._token() if callable(self._token) else self._token
        answer = send(self._known_token)
        if answer.status == 401 and callable(self._token):
            self._known_token = self._token()
            answer = send(self._known_token)
        if answer.status == 401:
            self._known_token = None
            raise TokenError(f"401: {shown(answer)}")
        return answer


def is_reply(found: dict[str, Any]) -> bool:
    """Whether an answer's JSON is a reply that can be applied."""
    diffs, clock, more = found.get("diffs"), found.get("logical_clock"), found.get("more", False)
    return (
        isinstance(diffs, list)
        and isinstance(clock, int)
        and (not more or isinstance(found.get("cursor"), str))
    )


def missing_parts(answer: Answer, last: int) -> list[int]:
    """The missing parts before the last one, by the server's answer; all if it does not say."""
    said = answer.json().get("missing")
    known = [part for part in range(1, last) if isinstance(said, list) and part in said]
    return known or list(range(1, last))


def refused_index(request: Request, answer: Answer) -> int | None:
    """The place of the diff for which a whole request was refused; None if there is none."""
    found = answer.json()
    index = found.get("index")
    if answer.status not in (400, 403) or not isinstance(index, int):
        return None
    return index if 0 <= index < len(request.diffs) else None


def error_of(answer: Answer) -> ClientError:
    """The error for an answer that the device cannot handle."""
    code = answer.json().get("code")
    message = f"{answer.status}: {shown(answer)}"
    if code is None and answer.status in (404, 405):
        message += f" - the URL must be that of the sync route, as {EXAMPLE_URL}"
    return ServerError(message, answer.status, code if isinstance(code, str) else "")


def shown(answer: Answer) -> str:
    """The message of an answer, for people."""
    message = answer.json().get("message")
    if isinstance(message, str) and message:
        return message
    return answer.body[:LONGEST_ECHO].decode("utf-8", "replace")
