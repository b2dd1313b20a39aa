"""For tests that talk HTTP: the examples as modules, and an app behind a real socket."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from flask import Flask
from werkzeug.serving import make_server

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
POLL_INTERVAL_S = 0.01  # how soon a server that is told to stop looks up


def load_example(path: str) -> ModuleType:
    """Import a file of examples/ again."""
    file = EXAMPLES / path
    spec = importlib.util.spec_from_file_location(f"example_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def served(app: Flask) -> Iterator[str]:
    """Serve an app in threads on a free port; gives the URL of its sync route."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(POLL_INTERVAL_S,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}/sync"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
