"""The sync routes without a framework, and the adapters to frameworks.

:class:`Endpoint` knows HTTP and no framework; ``mobync.http.flask``, ``mobync.http.asgi`` (FastAPI
too) and ``mobync.http.django`` know their framework and leave everything else to it.  docs/http.md
has the statuses, docs/openapi.yaml the whole of it for machines.
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
