"""An owner's log as a table, for a terminal or a pipe."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from itertools import islice

from rich import box
from rich.table import Table
from rich.text import Text

from ._log_pages import Entry, LogPages, Only
from ._terminal import PIPE_WIDTH, output_width, print_table, printable

POLL_S = 0.5

_COLUMNS = ("clock", "made at (UTC)", "type", "model", "object", "fields")
_WIDTHS = (6, 23, 6, 8, 12)  # at least, of all columns but the last
_FIELDS = 6  # at least, of the last
_LEGIBLE = 20  # what other columns leave for the last one, if they can
_BETWEEN = 3  # two columns
_EDGES = 2

_COLORS = {"create": "green", "update": "yellow", "delete": "red"}


def last_entries(pages: LogPages, owner_id: str, only: Only, most: int | None) -> list[Entry]:
    """The newest entries of a log that pass the filters, the oldest of them first.

    Args:
        pages: reads the log.
        owner_id: the owner of the log.
        only: which entries to look for.
        most: how many; None for all.
    """
    found: list[Entry] = []
    before: int | None = None
    while most is None or len(found) < most:
        piece = pages.piece(owner_id, before, only)
        found += piece.entries
        before = piece.next_before
        if before is None:
            break
    return found[:most][::-1]


def following(pages: LogPages, owner_id: str, only: Only) -> Iterator[list[Entry]]:
    """The entries above a clock, and then new entries as they come; this never ends.

    Args:
        pages: reads the log.
        owner_id: the owner of the log.
        only: which entries to look for; above ``after``.
    """
    after = only.after
    while True:
        clock = pages.logical_clock(owner_id)
        if clock > after + 1:
            entries = last_entries(
                pages, owner_id, Only(only.model, only.object_id, after=after), None
            )
            after = seen_up_to(clock, entries)
            if entries:
                yield entries
        time.sleep(POLL_S)


def seen_up_to(clock: int, entries: list[Entry]) -> int:
    """The clock up to which a log has been looked through.

    Args:
        clock: the owner's logical clock, read before the entries.
        entries: the newest ones; some may have come after ``clock`` was read.
    """
    return max([clock - 1, *(entry.logical_clock for entry in entries)])


class LogTable:
    """Prints entries to stdout as they come, as one table."""

    def __init__(self) -> None:
        self._widths = list(_WIDTHS)
        self._begun = False

    def show(self, entries: list[Entry]) -> None:
        """Print entries; the first call also prints the names of the columns.

        Columns keep their earlier width, or become wider if they need more room.
        """
        rows = [_cells(entry) for entry in entries]
        self._widths = [
            max(width, *(cell.cell_len for cell in cells), 0)
            for width, *cells in zip(self._widths, *(row[:-1] for row in rows), strict=True)
        ]
        fields = max([_FIELDS, *(row[-1].cell_len for row in rows)])
        table = Table(box=box.SIMPLE_HEAD, show_header=not self._begun, show_edge=False)
        for name, width in zip(_COLUMNS, self._fitted(fields), strict=True):
            table.add_column(
                name, justify="right" if name == "clock" else "left", width=width, no_wrap=True
            )
        for row in rows:
            table.add_row(*row)
        print_table(table)
        self._begun = True

    def _fitted(self, fields: int) -> list[int]:
        """The widths of all columns; on a narrow terminal, texts of devices are cut.

        The fields of this piece do not move other columns.
        """
        widths = list(self._widths)
        room = output_width() - sum(widths) - _BETWEEN * len(widths) - _EDGES
        for column in (_COLUMNS.index("object"), _COLUMNS.index("model")):
            cut = max(0, min(_LEGIBLE - room, widths[column] - _WIDTHS[column]))
            widths[column] -= cut
            room += cut
        return [*widths, max(_FIELDS, min(fields, room))]


def _cells(entry: Entry) -> list[Text]:
    return [
        Text(str(entry.logical_clock)),
        Text(_time(entry.utc_timestamp)),
        Text(entry.kind, style=_COLORS.get(entry.kind, "")),
        Text(printable(entry.model)),
        Text(printable(entry.object_id or "")),
        _fields(entry),
    ]


def _fields(entry: Entry) -> Text:
    return Text("  ").join(
        Text.assemble(printable(name[:PIPE_WIDTH]), ": ", (printable(value[:PIPE_WIDTH]), "bold"))
        for name, value in islice(entry.members.items(), PIPE_WIDTH)
    )


def _time(utc_timestamp: int) -> str:
    try:
        moment = dt.datetime.fromtimestamp(utc_timestamp / 1000, dt.timezone.utc)
    except (OverflowError, ValueError, OSError):  # beyond the year 9999
        return str(utc_timestamp)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{utc_timestamp % 1000:03d}"
