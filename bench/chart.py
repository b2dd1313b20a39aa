"""Draws results.json as results.svg: the picture for README and documentation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt
from tables import RESULTS

Results = dict[str, Any]

OURS, THEIRS = "#1b6ca8", "#b8b8b8"


def draw(results: Results, path: Path) -> None:
    """Draw what there is of the four pictures."""
    mpl.rcParams.update({"svg.hashsalt": "mobync", "svg.fonttype": "none", "font.size": 8})
    figure, axes = plt.subplots(2, 2, figsize=(10, 7.5), layout="constrained")
    pictures = {
        "history": _history,
        "crdts_records": _crdts,
        "end_to_end": _end_to_end,
        "json_text": _json_text,
    }
    for axis, (name, picture) in zip(axes.flat, pictures.items(), strict=True):
        rows = _table(results, name)
        if rows:
            picture(axis, rows)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _table(results: Results, name: str) -> list[dict[str, Any]]:
    """The rows of a table as dicts; none where its section has not run."""
    for table in results["tables"]:
        if table["name"] == name:
            return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    return []


def _history(axis: Any, rows: list[dict[str, Any]]) -> None:
    axis.set(title="Apply of 10 diffs as the history grows (SQLite)", ylabel="ms")
    rows = [row for row in rows if row["store"] == "SQLite" and row["diffs"] == 10]
    places = range(len(rows))
    for column, label, color in (("0.2.0 ms", "0.2.0", THEIRS), ("mobync ms", "mobync", OURS)):
        known = [(x, row[column]) for x, row in zip(places, rows, strict=True) if row[column]]
        if known:
            axis.plot(*zip(*known, strict=True), marker="o", color=color, label=label)
    axis.set_yscale("log")
    axis.set_xticks(places, [f"{row['history']:,}" for row in rows])
    axis.legend(frameon=False)


def _crdts(axis: Any, rows: list[dict[str, Any]]) -> None:
    axis.set(title="Merge of offline devices: µs per edit", xscale="log")
    for place, (column, label, opacity) in enumerate(
        (
            ("each in turn µs", "device by device, server in memory", 0.4),
            ("stored, each in turn µs", "device by device, from storage", 1),
            ("one takes all µs", "one replica takes all in", 0.7),
        )
    ):
        bars = axis.barh(
            [y + 0.27 * (place - 1) for y in range(len(rows))],
            [row[column] for row in rows],
            height=0.25,
            color=[OURS if row["who"].startswith("mobync") else THEIRS for row in rows],
            alpha=opacity,
            label=label,
        )
        axis.bar_label(bars, fmt="%.2g", padding=2, fontsize=7)
    axis.set_yticks(range(len(rows)), [row["who"] for row in rows])
    axis.margins(x=0.15)
    axis.legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.4, -0.08))
    axis.invert_yaxis()


def _end_to_end(axis: Any, rows: list[dict[str, Any]]) -> None:
    axis.set(title="End to end: mobync / executemany, SELECT")
    rows = [row for row in rows if row["how"].startswith("SQLAlchemy ")]
    _ratio_bars(axis, [f"{row['database']} {row['work']}" for row in rows], rows, "by CPU")


def _json_text(axis: Any, rows: list[dict[str, Any]]) -> None:
    axis.set(title="JSON to JSON: mobync / orjson alone")
    rows = [row for row in rows if row["how"].endswith("rows as text") and row["pushed"] != 1]
    labels = [
        f"{row['how'].split(',')[0]}, {row['pushed']:,} in, {row['sent back']:,} out"
        for row in rows
    ]
    _ratio_bars(axis, labels, rows, "/ orjson")


def _ratio_bars(axis: Any, labels: list[str], rows: list[dict[str, Any]], column: str) -> None:
    bars = axis.barh(labels, [row[column] for row in rows], color=OURS)
    axis.bar_label(bars, fmt="%.2f", padding=2)
    axis.axvline(1, color=THEIRS)
    axis.margins(x=0.12)
    axis.invert_yaxis()


if __name__ == "__main__":
    draw(json.loads(RESULTS.read_text()), RESULTS.with_suffix(".svg"))
