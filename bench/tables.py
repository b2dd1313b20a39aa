"""Results as tables: for the terminal, and as Markdown."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

Cell = str | float | int | None

RESULTS = Path(__file__).with_name("results.json")


@dataclass
class Table:
    """What one comparison found.

    Attributes:
        name: by which the chart finds it.
        title: what is compared.
        columns: their names, with the unit.
        rows: numbers and names; None where something was left out.
        notes: what one must know to read it.
    """

    name: str
    title: str
    columns: list[str]
    rows: list[list[Cell]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, *cells: Cell) -> None:
        if len(cells) != len(self.columns):
            raise ValueError(f"{len(cells)} cells in a table of {len(self.columns)} columns")
        self.rows.append([None if isinstance(c, float) and math.isnan(c) else c for c in cells])

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def show(table: Table, console: Console) -> None:
    drawn = RichTable(title=table.title, title_justify="left", title_style="bold")
    for number, column in enumerate(table.columns):
        drawn.add_column(column, justify="right" if _is_numeric(table, number) else "left")
    for row in table.rows:
        drawn.add_row(*map(shown, row))
    console.print(drawn)
    for note in table.notes:
        console.print(f"  {note}", highlight=False)
    console.print()


def markdown(table: Table) -> str:
    lines = [f"**{table.title}**", "", "| " + " | ".join(table.columns) + " |"]
    rules = ["---:" if _is_numeric(table, n) else "---" for n in range(len(table.columns))]
    lines.append("|" + "|".join(rules) + "|")
    lines += ["| " + " | ".join(map(shown, row)) + " |" for row in table.rows]
    lines += ["", *(f"- {note}" for note in table.notes)]
    return "\n".join(lines)


def _is_numeric(table: Table, number: int) -> bool:
    return not any(isinstance(row[number], str) for row in table.rows)


def shown(cell: Cell) -> str:
    """A number with three digits that count."""
    if cell is None:
        return "-"
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int) or abs(cell) >= 100:
        return f"{round(cell):,}"
    if cell == 0:
        return "0"
    return f"{cell:.{max(0, 2 - math.floor(math.log10(abs(cell))))}f}"


def percent(part: float) -> str:
    return "-" if math.isnan(part) else f"±{part * 100:.0f} %"
