"""How the examples are served: on 127.0.0.1, with a line in the log for each sync."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

from flask import Flask
from werkzeug.serving import make_server


def log_syncs() -> None:
    """Log one line a sync to stderr, and what was refused."""
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("mobync").setLevel(logging.INFO)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # not one line a request as well


def serve(create_app: Callable[[], Flask]) -> None:
    """Serve on 127.0.0.1, on the port that PORT says (5000; 0 takes any free one)."""
    port = os.environ.get("PORT", "5000")
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        sys.exit(f"PORT must be a number from 0 to 65535, not {port!r}")
    log_syncs()
    server = make_server("127.0.0.1", int(port), create_app(), threaded=True)
    print(f"serving http://127.0.0.1:{server.port}/sync (Ctrl-C ends it)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
