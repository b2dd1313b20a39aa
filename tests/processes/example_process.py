"""An example as its users start it: ``python app.py``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def started(app: Path, log: Path, **environment: str) -> Iterator[str]:
    """Start an app; gives the URL of its sync route, and ends the app when left.

    Args:
        app: the file to run.
        log: where its stderr is appended.
        **environment: variables that it gets beside our own; PORT is "0", any free one.
    """
    with log.open("a") as stderr:
        process = subprocess.Popen(
            [sys.executable, str(app)],
            env={**os.environ, "PORT": "0", **environment},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    with process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+/sync", line)
            assert found, f"said {line!r}; its log: {log.read_text()}"
            yield found[0]
        finally:
            process.terminate()
