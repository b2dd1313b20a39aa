"""examples/relational, in a process that dies at a chosen point of a sync.

A request whose header ``X-Die-At`` says N is served up to the N-th point, counted from 0, and
there the process kills itself with SIGKILL.  The points are before and after each statement,
before the commit, and after it, before the reply is sent.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from flask import Flask, Response, request
from over_http import load_example
from sqlalchemy import event

POINTS = ("before_cursor_execute", "after_cursor_execute", "commit")


class Fate:
    """How many points are left to the request that is being served; None: it will not die."""

    left: int | None = None

    def pass_point(self, *_: Any) -> None:
        if self.left is None:
            return
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1


def create_app() -> Flask:
    example = load_example("relational/app.py")
    app: Flask = example.create_app()
    fate = Fate()

    @app.before_request
    def choose_fate() -> None:
        fate.left = request.headers.get("X-Die-At", type=int)

    @app.after_request
    def pass_last_point(response: Response) -> Response:
        fate.pass_point()
        return response

    with app.app_context():
        for point in POINTS:
            event.listen(example.db.engine, point, lambda *_: fate.pass_point())
    return app
