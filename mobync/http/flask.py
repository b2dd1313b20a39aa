"""The sync route as an extension of Flask."""

from __future__ import annotations

from typing import cast

from .. import http
from .._extras import needing
from ._wsgi import UNREADABLE

with needing("flask"):
    from flask import Blueprint, Flask, Response, current_app, request

NAME = "mobync"  # the name of the blueprint, and in app.extensions


class MobyncSync:
    """Serves ``POST /sync``, ``GET /sync/events`` and the routes of clients.

    Its routes are exempt from the CSRFProtect of Flask-WTF, whichever is initialized first. They
    accept only ``application/json``, which a form of another site cannot send.

    Args:
        app: the app, if it exists already; otherwise call :meth:`init_app`.
        endpoint: the endpoint; or pass it to :meth:`init_app`.

    Raises:
        TypeError, ValueError: as in :meth:`init_app`.

    Attributes:
        blueprint: the blueprint with the routes, for example to add a rate limit.
    """

    def __init__(self, app: Flask | None = None, endpoint: http.Endpoint | None = None) -> None:
        if endpoint is not None:
            http.check_endpoint(endpoint)
        self._endpoint = endpoint
        self.blueprint = Blueprint(NAME, __name__)
        for path in http.ROUTES:
            name = "_sync" + path.removeprefix("/sync").replace("/", "_")
            self.blueprint.post(path, endpoint=name, defaults={"path": path})(_sync)
        self.blueprint.get("/sync/events")(_events)
        self.blueprint.before_app_request(self._exempt)
        if app is not None:
            self.init_app(app)

    def init_app(
        self, app: Flask, endpoint: http.Endpoint | None = None, *, url_prefix: str = ""
    ) -> None:
        """Add the routes to an app.

        Args:
            app: the app; several apps may share this extension.
            endpoint: the endpoint for this app; None for that of the constructor.
            url_prefix: the path before ``/sync``.

        Raises:
            TypeError: ``app`` is not a Flask, or ``endpoint`` is not an Endpoint.
            ValueError: no endpoint was given.
        """
        if not isinstance(app, Flask):
            raise TypeError(f"app must be a Flask, not {type(app).__name__}")
        answers = self._endpoint if endpoint is None else endpoint
        if answers is None:
            raise ValueError("MobyncSync needs an Endpoint: give one to it or to init_app")
        http.check_endpoint(answers)
        app.extensions[NAME] = answers
        self._exempt(app)
        app.register_blueprint(self.blueprint, url_prefix=url_prefix or None)

    def _exempt(self, app: Flask | None = None) -> None:
        """Exempt the routes in Flask-WTF; also at each request, because it may be initialized
        later.
        """
        protection = (app or current_app).extensions.get("csrf")
        if protection is not None:
            protection.exempt(self.blueprint)


def _sync(path: str) -> Response:
    endpoint = _endpoint()
    request.max_content_length = endpoint.max_body_bytes + 1  # werkzeug reads no more than this
    device = request.args.get("device") if request.query_string else None
    upload = endpoint.admit(request.headers, path, device=device)
    if isinstance(upload, http.Response):
        return _response(upload)
    with upload:
        try:
            refused = upload.read(request.stream.read)
            if upload.size == 0:  # or the app has already read it, and Flask has stored it
                refused = upload.add(request.get_data())
        except UNREADABLE:
            return Response(status=400)
        return _response(refused or upload.answer())


def _events() -> Response:
    device = request.args.get("device")
    stream = _endpoint().blocking_events(request.headers, current_app.app_context, device)
    if isinstance(stream, http.Response):
        return _response(stream)
    return Response(stream.body, 200, stream.headers)


def _endpoint() -> http.Endpoint:
    return cast(http.Endpoint, current_app.extensions[NAME])


def _response(answer: http.Response) -> Response:
    return Response(answer.body, answer.status, answer.headers)
