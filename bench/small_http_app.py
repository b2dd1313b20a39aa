"""The task app of bench/ over Flask and PostgreSQL, with three routes that answer a sync.

/sync       mobync
/by_hand    the same statements and commit by the driver; takes the owner's lock for polls, too
/empty      answers at once
"""

from __future__ import annotations

import os
import threading

from by_hand import ByHand, open_driver
from flask import Flask, Response, request
from http_app import EMPTY
from sqlalchemy.engine import make_url
from task_database import TaskDatabase

from mobync.http import Endpoint
from mobync.http.flask import MobyncSync


def create_app() -> Flask:
    database = TaskDatabase(make_url(os.environ["DATABASE_URL"]))
    served = Flask(__name__)
    MobyncSync(served, Endpoint(database.mobync, lambda token, headers: token))

    class OfThread(threading.local):
        def __init__(self) -> None:
            self.by_hand = ByHand("postgresql", open_driver(database.engine))

    of_thread = OfThread()

    @served.post("/by_hand")
    def by_hand() -> Response:
        reply = of_thread.by_hand.sync(request.get_data())
        return Response(reply, content_type="application/json")

    @served.post("/empty")
    def empty() -> Response:
        return Response(EMPTY, content_type="application/json")

    return served
