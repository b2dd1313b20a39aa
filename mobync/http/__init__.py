"""The sync routes without a framework, and the adapters to frameworks.

:class:`Endpoint` does the work and knows no framework. ``mobync.http.flask``, ``mobync.http.asgi``
(also for FastAPI) and ``mobync.http.django`` adapt it to their frameworks. docs/http.md has the
statuses. docs/openapi.yaml describes the routes for machines.
"""

from ._coding import SentHeaders
from ._endpoint import (
    EVENT_HEADERS,
    MAX_BODY_BYTES,
    MAX_UNAUTHENTICATED_BODY_BYTES,
    RETRY_AFTER_S,
    ROUTES,
    SYNC,
    SYNCS_PER_OWNER,
    Authenticate,
    Endpoint,
    ExpiredTokenError,
    Read,
    ReadingContext,
    Response,
    Stream,
    Upload,
    check_endpoint,
    request_id,
)

__all__ = [
    "EVENT_HEADERS",
    "MAX_BODY_BYTES",
    "MAX_UNAUTHENTICATED_BODY_BYTES",
    "RETRY_AFTER_S",
    "ROUTES",
    "SYNC",
    "SYNCS_PER_OWNER",
    "Authenticate",
    "Endpoint",
    "ExpiredTokenError",
    "Read",
    "ReadingContext",
    "Response",
    "SentHeaders",
    "Stream",
    "Upload",
    "check_endpoint",
    "request_id",
]
