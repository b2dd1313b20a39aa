"""The errors that a WSGI server raises while it reads a body that breaks off or is not HTTP."""

from __future__ import annotations

UNREADABLE: tuple[type[Exception], ...] = (OSError, ValueError)

try:
    from gunicorn.http.errors import ParseException
except ImportError:
    pass
else:
    UNREADABLE += (ParseException,)  # the only server with other errors than these two
