"""What a WSGI server raises while a body is read that breaks off, or is not HTTP."""

from __future__ import annotations

UNREADABLE: tuple[type[Exception], ...] = (OSError, ValueError)

try:
    from gunicorn.http.errors import ParseException
except ImportError:
    pass
else:
    UNREADABLE += (ParseException,)  # the one server whose errors are neither of the two
