"""A task list that syncs: Flask, a route written by hand, everything in memory.

    python examples/in_memory/app.py          serves http://127.0.0.1:5000/sync

The parts of an app of your own: a Synchronizer with the app's rules (TaskStore), a way from a token
to an owner (owner_of), and the route (create_app), which shows what mobync.http.flask would do for
you.  What is in memory is gone when the process ends.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flask import Flask, Response, abort, request
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import HTTPException

from mobync import (
    BusyError,
    DeviceRevokedError,
    FilterType,
    InvalidDiffError,
    LogicalClockError,
    Mobync,
    MobyncError,
    OtherOwnerError,
    OwnerMovedError,
    PartsMissingError,
    ReadFilter,
    RequestTooLargeError,
    TooManyDevicesError,
    UnauthorizedError,
    UnknownDeviceError,
)
from mobync.memory import MemorySynchronizer

sys.path.append(str(Path(__file__).resolve().parents[1]))
from serving import serve

MODELS = {"projects", "tasks"}
MAX_NAME_LENGTH = 200  # characters
MAX_REQUEST_SIZE = 16 * 1024 * 1024  # bytes

# A stand-in.  A real app gives out signed tokens that expire, and verifies them here.
DEMO_TOKENS = {"anna-demo-token": "anna", "ben-demo-token": "ben"}

# ---- rules --------------------------------------------------------------------------------------


class TaskStore(MemorySynchronizer):
    """Projects and tasks; each belongs to the owner whose device made it.

    The devices do not send whose a row is.  The store knows it inside a transaction, and writes it
    into the rows that it creates.
    """

    owner_id: str | None = None

    @contextmanager
    def transaction(self, owner_id: str) -> Iterator[MemorySynchronizer]:
        with super().transaction(owner_id) as inside:
            assert isinstance(inside, TaskStore)
            inside.owner_id = owner_id
            yield inside

    def create(self, where: str, data_json: str) -> None:
        if where in MODELS:
            data_json = json.dumps({**json.loads(data_json), "owner": self.owner_id})
        super().create(where, data_json)

    def validate_create(self, owner_id: str, **diff: Any) -> bool:
        fields = _fields(diff["json_data"])
        return self._may_touch(owner_id, diff["model"], fields) and _is_name(fields.get("name"))

    def validate_update(self, owner_id: str, **diff: Any) -> bool:
        fields = _fields(diff["json_data"])
        return self._may_touch(owner_id, diff["model"], fields) and _is_name(
            fields.get("name", "same")
        )

    def validate_delete(self, owner_id: str, **diff: Any) -> bool:
        return self._may_touch(owner_id, diff["model"], _fields(diff["json_data"]))

    def _may_touch(self, owner_id: str, model: str, fields: dict[str, Any]) -> bool:
        """Whether a diff is about a row of this owner, or a new one, and leaves its owner alone."""
        if model not in MODELS or "id" not in fields or "owner" in fields:
            return False
        stored = self.read(model, [ReadFilter("id", FilterType.equal, fields["id"])])
        return all(found["owner"] == owner_id for found in stored)


def _fields(text: str) -> dict[str, Any]:
    """The fields of a JSON object; none where Python cannot read what mobync only carries."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):  # a number of thousands of digits, hundreds of brackets
        return {}
    return fields if isinstance(fields, dict) else {}


def _is_name(name: object) -> bool:
    return isinstance(name, str) and 0 < len(name.strip()) <= MAX_NAME_LENGTH


# ---- the route ----------------------------------------------------------------------------------


def owner_of(token: object) -> str:
    """The owner whom a token stands for; 401 for a token that nobody has."""
    if isinstance(token, str) and token in DEMO_TOKENS:
        return DEMO_TOKENS[token]
    bearer = WWWAuthenticate("bearer")
    abort(401, "there is no token, or nobody has it", www_authenticate=bearer)


def sent_token(body: bytes) -> object:
    """The token of ``Authorization: Bearer``, else the ``auth_token`` of the body.

    For the latter Python has to read the whole body, which apply_json then reads again; 400 where
    it cannot.
    """
    sent = request.authorization
    if sent is not None and sent.type == "bearer":
        return sent.token
    try:
        members = json.loads(body)
    except (ValueError, RecursionError) as error:
        abort(400, f"the body cannot be read as JSON: {error}")
    if not isinstance(members, dict):
        abort(400, "the body must be a JSON object")
    return members.get("auth_token")


STATUSES = {
    UnauthorizedError: 403,
    DeviceRevokedError: 403,
    OtherOwnerError: 403,
    OwnerMovedError: 403,
    TooManyDevicesError: 403,
    UnknownDeviceError: 409,
    PartsMissingError: 409,
    RequestTooLargeError: 413,
    BusyError: 503,
}


def status_of(error: MobyncError) -> int:
    if isinstance(error, LogicalClockError):
        return 409 if error.ahead else 400
    return STATUSES.get(type(error), 400)


def create_app(mobync: Mobync | None = None) -> Flask:
    """Make the app.

    Args:
        mobync: what answers the syncs; a new, empty TaskStore if None.
    """
    answers = mobync or Mobync(TaskStore())
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_REQUEST_SIZE

    @app.post("/sync")
    def sync() -> Response:
        if not request.is_json:
            abort(415, "Content-Type must be application/json")
        body = request.get_data()
        owner_id = owner_of(sent_token(body))
        return Response(answers.apply_json(body, owner_id), content_type="application/json")

    @app.errorhandler(MobyncError)
    def refuse_sync(error: MobyncError) -> ResponseReturnValue:
        app.logger.warning("refused %s", error)
        body = {"success": False, "message": str(error)}
        if isinstance(error, (InvalidDiffError, UnauthorizedError)):
            place = {"index": error.index, "id": error.diff_id, "reason": error.reason}
            body |= {key: value for key, value in place.items() if value is not None}
        headers = {"Retry-After": "1"} if isinstance(error, BusyError) else {}
        return body, status_of(error), headers

    @app.errorhandler(HTTPException)
    def refuse_request(error: HTTPException) -> ResponseReturnValue:
        response = error.get_response()
        response.data = json.dumps({"success": False, "message": error.description})
        response.content_type = "application/json"
        return response

    return app


if __name__ == "__main__":
    serve(create_app)
