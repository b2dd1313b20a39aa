"""Decides who may open the inspector of `mobync serve`, and makes the link that opens it.

The inspector shows every owner's data, and a server cannot tell a person on its own machine from a
proxy there that passes on requests of strangers. So it asks for an administrator's token. In a
terminal the server also prints a link. The link works once, and gives the browser a session, as a
cookie. The session is valid for the page only: to look, and to change an owner's devices.
"""

from __future__ import annotations

import hmac
import logging
import re
import secrets
from pathlib import Path

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from . import inspector
from .tokens import Tokens

OPEN_PATH = "/inspect/open"
SESSION_S = 24 * 3600.0
_CODE_BYTES = 32
_USED = (
    "This link does not open the inspector (any more): it works once. "
    "`mobync token --admin` prints a token, which the page takes.\n"
)


class OneTimeCode:
    """A code that opens the inspector once, at any worker.

    Args:
        file: holds the code until it is used; only the server's user can read it.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def make(self) -> str:
        """Make the code and return it."""
        code = secrets.token_urlsafe(_CODE_BYTES)
        self._file.write_text(code)
        return code

    def use_up(self, given: str) -> bool:
        """Whether this is the code; if so, it is used up."""
        try:
            if not hmac.compare_digest(self._file.read_bytes(), given.encode()):
                return False
            self._file.unlink()
        except FileNotFoundError:  # used, perhaps by another worker
            return False
        return True


class Admission:
    """Decides who may look.

    Args:
        mode: one of ``mobync.server.settings.INSPECTOR_MODES`` but ``off``.
        tokens: recognizes an administrator's token.
        code: the code that opens it once; None: there is no link.
    """

    def __init__(self, mode: str, tokens: Tokens, code: OneTimeCode | None) -> None:
        self._mode = mode
        self._tokens = tokens
        self._code = code

    def allow(self, request: Request) -> bool:
        """Whether whoever sent a request may see every owner's data."""
        if self._mode == "without-token" and inspector.from_loopback(request):
            return True
        token = inspector.bearer_token(request)
        if token is not None:
            return self._tokens.is_admin(token)
        return inspector.from_own_page(request) and self._has_session(request)

    def may_change(self, request: Request) -> bool:
        """Whether whoever sent a request may revoke, forget and name devices.

        A visitor without a token may not. A session counts only in a request of the page itself,
        because browsers also send its cookie with requests of pages on other ports of this machine.
        """
        token = inspector.bearer_token(request)
        if token is not None:
            return self._tokens.is_admin(token)
        return inspector.asked_by_own_page(request) and self._has_session(request)

    def _has_session(self, request: Request) -> bool:
        return self._tokens.is_session(request.cookies.get(_cookie(request)))

    def routes(self) -> list[Route]:
        """The route of the link."""
        return [Route(OPEN_PATH, self._open)]

    def _open(self, request: Request) -> Response:
        # A request that only tests the link, or fetches it in advance, does not use it up.
        ahead = any(name in request.headers for name in ("sec-purpose", "purpose", "x-moz"))
        looks = request.method == "GET" and not ahead
        code = request.query_params.get("code", "")
        if not looks or self._code is None or not self._code.use_up(code):
            return PlainTextResponse(_USED, 403, inspector.API_HEADERS)
        answer = RedirectResponse("../", 303, inspector.API_HEADERS)
        answer.set_cookie(
            _cookie(request),
            self._tokens.for_session(SESSION_S),
            path=None,  # the path of this route, below any prefix that a proxy adds
            secure="https" in (request.url.scheme, request.headers.get("x-forwarded-proto")),
            httponly=True,
            samesite="strict",
        )
        return answer


def _cookie(request: Request) -> str:
    """The name of the cookie. It has the port, because browsers share cookies between all ports of
    a machine.
    """
    port = re.search(r":([0-9]{1,5})$", request.headers.get("host", ""))
    return "mobync_inspector" if port is None else f"mobync_inspector_{port[1]}"


class LinkHandler(logging.Handler):
    """Logs the link when the web server, whose logger has this handler, says where it listens.

    Args:
        code: the code in the link.
        logger: where the link goes.
    """

    def __init__(self, code: str, logger: logging.Logger) -> None:
        super().__init__()
        self._code = code
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        listens = re.search(r"running on (https?://\S+)", record.getMessage())
        if listens is not None:
            url = listens[1].replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
            self._logger.info(
                "the inspector (the link opens once): %s%s?code=%s", url, OPEN_PATH, self._code
            )
