"""The server's log: one line for each event, JSON for machines or text for people."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, TextIO

from .. import SyncReport
from ..http import request_id

logger = logging.getLogger("mobync.server")

FORMATS = ("auto", "json", "text")


def configure(form: str, stream: TextIO | None = None) -> None:
    """Make this process log to a stream.

    Args:
        form: one of FORMATS; ``auto`` is text on a terminal and JSON elsewhere.
        stream: where to; stderr if None.
    """
    stream = sys.stderr if stream is None else stream
    if form == "auto":
        form = "text" if stream.isatty() else "json"
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JSONFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    # log_sync writes the line of each sync, with its fields.
    logging.getLogger("mobync").setLevel(logging.WARNING)
    logger.setLevel(logging.INFO)


def log_sync(report: SyncReport) -> None:
    """Log a sync, or revoked devices; a listener for ``Mobync.listen``."""
    if report.revoked:
        fields = {"owner": report.owner_id, "devices": len(report.revoked)}
        logger.info("revoked", extra={"fields": fields})
        return
    logger.info(
        "sync",
        extra={
            "fields": {
                "owner": report.owner_id,
                "clock": report.logical_clock,
                "pushed": report.pushed,
                "accepted": report.accepted,
                "sent": report.sent,
                "conflicts": report.conflicts,
                **({} if report.device is None else {"device": report.device}),
                **({"reset": True} if report.reset else {}),
                **({"retry": True} if report.retry else {}),
            }
        },
    )


class JSONFormatter(logging.Formatter):
    """One JSON object in a line: time, level, logger, message, request_id, and more fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """A line for a person: the time, the message, and the fields as name=value."""

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        fields = "".join(f" {name}={_plain(value)}" for name, value in _fields(record).items())
        line = f"{_time(record)} {level}{_plain(record.getMessage())}{fields}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _time(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = dict(getattr(record, "fields", {}))
    number = request_id.get()
    if number is not None:
        fields["request_id"] = number
    return fields


def _plain(value: object) -> str:
    text = str(value)
    return text if text.isprintable() else ascii(text)
