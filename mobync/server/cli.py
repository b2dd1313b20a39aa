"""The entry point of the command `mobync`."""

from __future__ import annotations

import os
import sys

from .._extras import install


def main() -> None:
    """Run the command line; exits with 1 when something failed, 2 when it was misused."""
    try:
        from .commands import main as commands
    except ModuleNotFoundError as error:
        sys.exit(f"mobync: the server needs {error.name}: {install('server')}")
    try:
        commands()
    except OSError as error:  # but for a pipe that nobody reads, of which commands() knows
        _give_up_stdout()
        sys.exit(f"Error: {error}")


def _give_up_stdout() -> None:
    """Drop what could not be written, or Python tries once more at its exit and says so."""
    try:
        sys.stdout.flush()
    except OSError:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
