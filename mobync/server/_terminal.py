"""Tables and texts of devices on a terminal or in a pipe."""

from __future__ import annotations

import shutil
import sys

from rich.console import Console
from rich.table import Table

PIPE_WIDTH = 1000  # characters: output into a pipe is not cut to the width of a terminal


def printable(text: str) -> str:
    """A text of a device without control characters that a terminal would obey."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def print_table(table: Table) -> None:
    """Print a table to stdout, as wide as the terminal, or as the table needs."""
    Console(width=output_width()).print(table)


def output_width() -> int:
    """How many characters a line on stdout may have."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPE_WIDTH
