"""The sync routes as a router of FastAPI, with the app's own dependencies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal
from uuid import UUID

from .. import http
from .._extras import needing
from ..sync import Mobync
from .asgi import THREADS, Answers

with needing("fastapi"):
    from fastapi import APIRouter, Depends, HTTPException, Request, Security
    from fastapi.security import HTTPBearer
    from pydantic import BaseModel, ConfigDict, Field
    from starlette.responses import Response, StreamingResponse

MAX_CLOCK = 2**53 - 1


class MobyncDiff(BaseModel):
    """One edit of one object."""

    id: str = Field(min_length=1, description="Made by the device and never used again.")
    owner: str = Field(description="Ignored in a request.")
    logical_clock: int = Field(ge=0, le=MAX_CLOCK, description="Ignored in a request.")
    utc_timestamp: int = Field(ge=0, le=MAX_CLOCK, description="Milliseconds since 1970.")
    type: Literal["create", "update", "delete"]
    model: str = Field(min_length=1)
    json_data: str = Field(description="The text of a JSON object with the object's id.")


class MobyncRequest(BaseModel):
    """The edits of a device since its last sync."""

    model_config = ConfigDict(extra="allow")

    logical_clock: int = Field(
        ge=0, le=MAX_CLOCK, description="The clock of the last reply, 0 before the first."
    )
    diffs: list[MobyncDiff] = Field(description="In the order in which the device made them.")
    limit: int | None = Field(default=None, ge=1, description="How many diffs a page should have.")
    cursor: str | None = Field(default=None, description="The cursor of the last page.")
    device: str | None = Field(default=None, description="The name that a device gave itself.")
    request: int | None = Field(
        default=None, description="For a named device: the number of the request."
    )
    mark: str | None = Field(
        default=None, description="For a named device: the mark of the last reply."
    )
    part: int | None = Field(default=None, ge=1, description="Of a request in parts: which.")
    more_diffs: bool | None = Field(default=None, description="Whether another part follows.")
    upload: str | None = Field(default=None, description="A name that all parts have.")


class MobyncRefused(BaseModel):
    """A diff that was left out of a sync."""

    id: str | None = None
    index: int | None = None
    code: Literal["unauthorized", "invalid", "depends_on_refused"]
    message: str


class MobyncReply(BaseModel):
    """The edits of the owner's other devices."""

    success: Literal[True]
    message: str
    logical_clock: int = Field(ge=0, le=MAX_CLOCK)
    diffs: list[MobyncDiff] = Field(description="What the device must apply, in this order.")
    more: bool | None = Field(default=None, description="Whether another page follows.")
    cursor: str | None = Field(default=None, description="For the request of the next page.")
    mark: str | None = None
    part: int | None = Field(
        default=None, description="Of a request in parts: it is kept, or done."
    )
    reset: Literal[True] | None = None
    seen_clock: int | None = Field(
        default=None,
        ge=0,
        description="Of a moved guest: how much of this log the device has seen.",
    )
    refused: list[MobyncRefused] | None = None


class MobyncError(BaseModel):
    """Why a request was refused."""

    model_config = ConfigDict(extra="allow")

    success: Literal[False]
    message: str
    code: str


_STATUSES = {
    400: "The body is malformed, or a diff in it.",
    401: "Nobody is signed in.",
    403: "A rule of the app refused a diff, or the device may not sync.",
    409: "The device cannot continue from its clock.",
    413: "The body is too long, or all parts of a request.",
    415: "The body is not JSON.",
    503: "Busy: send the same request again.",
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": MobyncError, "description": said} for status, said in _STATUSES.items()
}


def router(
    serves: Mobync | http.Endpoint,
    owner: Callable[..., Any] | None = None,
    *,
    threads: int = THREADS,
    endpoint: dict[str, Any] | None = None,
    **options: Any,
) -> APIRouter:
    """The routes, for ``include_router``.

    Args:
        serves: the Mobync, or an Endpoint, whose ``authenticate`` finds the owner.
        owner: a dependency that returns the owner's id: a str, an int or a UUID. FastAPI resolves
            it before the body is read. It may depend on a session, a security scheme or the app's
            current user. None or "" is a 401.
        threads: how many syncs run at the same time; further syncs wait.
        endpoint: options of the :class:`mobync.http.Endpoint` that is made, such as ``live``.
        **options: options of the APIRouter: prefix, tags, dependencies and so on.

    Raises:
        TypeError: an argument has the wrong type; or an Endpoint is given with an ``owner``, or a
            Mobync without one.
        ValueError: ``threads`` is less than 1.
    """
    if isinstance(serves, Mobync) and owner is not None:
        if not callable(owner):
            raise TypeError("owner must be a dependency: a function that gives the owner's id")
        made = http.Endpoint(serves, _nobody, **(endpoint or {}))
        return _routes(Answers(made, threads), Depends(owner), options)
    if isinstance(serves, Mobync) or owner is not None or endpoint is not None:
        raise TypeError("give router(mobync, owner), or router(endpoint)")
    return _routes(Answers(serves, threads), Security(_from_endpoint), options)


def _routes(answers: Answers, depends: Any, options: dict[str, Any]) -> APIRouter:
    made = APIRouter(**options)
    for path in http.ROUTES:
        is_sync = path == "/sync"
        made.post(
            path,
            response_class=Response,
            responses={200: {"model": MobyncReply if is_sync else dict}, **_ERRORS},
            openapi_extra=_body(MobyncRequest if is_sync else None),
        )(_answering(answers, path, depends))

    @made.get("/sync/events", response_class=StreamingResponse)
    async def events(request: Request, owner_id: Any = depends) -> Response:
        """Hear at once when the log has grown, by Server-Sent Events."""
        return await answers.stream(request, _owner_id(owner_id))

    return made


def _answering(answers: Answers, path: str, depends: Any) -> Callable[..., Any]:
    async def sync(request: Request, owner_id: Any = depends) -> Response:
        """Send a device's edits, and get the edits of the owner's other devices."""
        return await answers.sync(request, path, _owner_id(owner_id))

    return sync


def _body(model: type[BaseModel] | None) -> dict[str, Any]:
    """The OpenAPI of a body that the route reads itself."""
    schema: dict[str, Any] = {"type": "object"}
    if model is not None:
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        del schema["$defs"]  # the model of the reply has added them
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


_bearer: Any = Security(
    HTTPBearer(auto_error=False, description="The token that is passed to `authenticate`.")
)
_ASK: Any = object()


def _from_endpoint(bearer: Any = _bearer) -> Any:
    """Add the token to the OpenAPI; the endpoint checks it."""
    return _ASK


def _nobody(token: str | None, headers: Any) -> str | None:
    return None


def _owner_id(given: Any) -> str | None:
    """The owner's id from a dependency, for the endpoint; None: the endpoint authenticates."""
    if given is _ASK:
        return None
    if given is None or given == "":
        raise HTTPException(401, "nobody is signed in", {"WWW-Authenticate": "Bearer"})
    if not isinstance(given, str | int | UUID) or isinstance(given, bool):
        raise TypeError(
            "owner must return the id of the signed-in user, a str, an int or a UUID, "
            f"not {type(given).__name__}"
        )
    return str(given)
