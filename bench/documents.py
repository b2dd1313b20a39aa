"""Puts the results of a full run into documents.

    python bench/documents.py

A full run does it by itself.  Each table stands between its own two lines:

    <!-- bench: history -->
    <!-- end of bench -->

The names are those of the tables, "small" for the few lines on small syncs that a README has room
for, "summary" for those on all else, "sizing" for what one plans a server with, and "machine" for
what they were measured on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tables import RESULTS, Table, markdown, shown

Results = dict[str, Any]
Row = dict[str, Any]

_ROOT = Path(__file__).resolve().parents[1]
WITH_TABLES = [_ROOT / name for name in ("README.md", "docs/performance.md", "docs/operating.md")]

_PLACE = re.compile(r"<!-- bench: (\w+) -->.*?<!-- end of bench -->", re.DOTALL)


def fill(results: Results, documents: Iterable[Path]) -> None:
    """Write the tables of some results into documents, each in its place."""
    texts = {stored["name"]: markdown(Table(**stored)) for stored in results["tables"]}
    texts["machine"] = _provenance(results)
    for name, title, columns, parts in SHORT_FORMS:
        texts[name] = markdown(_short(results, Table(name, title, columns), parts))
    for path in documents:
        path.write_text(_PLACE.sub(lambda place: _filled(place, texts), path.read_text()))


def kept_beside(kept: Results, results: Results) -> Results:
    """A full run's results, in which those of a run of some sections take the place of its own."""
    tables = {table["name"]: table for table in (*kept["tables"], *results["tables"])}
    apart = {
        section: {"command": results["command"], "load": load}
        for section, load in zip(results["seconds"], results["load"], strict=True)
    }
    return {
        **kept,
        "versions": kept["versions"] | results["versions"],
        "apart": kept.get("apart", {}) | apart,
        "tables": list(tables.values()),
    }


def _filled(place: re.Match[str], texts: dict[str, str]) -> str:
    if place[1] not in texts:
        raise ValueError(f"{RESULTS.name} has no table {place[1]!r}")
    return f"<!-- bench: {place[1]} -->\n{texts[place[1]]}\n<!-- end of bench -->"


def _provenance(results: Results) -> str:
    """The machine, how busy it was when sections began, the versions, the command."""
    loads = results["load"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines = [
        f"Machine: {results['machine']}; load average {min(loads):.1f} to {max(loads):.1f} when a "
        "section began.",
        f"{results['compiler']}; {results['postgresql']}; {versions}.",
        f"Command: `{results['command']}`.",
        *_apart(results),
    ]
    return "\n".join(f"- {line}" for line in lines)


def _apart(results: Results) -> Iterator[str]:
    """A line for each run of some sections whose tables took the place of the full run's."""
    runs: dict[str, dict[str, float]] = {}
    for section, run in results.get("apart", {}).items():
        runs.setdefault(run["command"], {})[section] = run["load"]
    for command, loads in runs.items():
        low, high = min(loads.values()), max(loads.values())
        sections = ", ".join(loads)
        what = f"`{command}` ({sections}); load average {low:.1f} to {high:.1f}"
        yield f"A later run replaced some sections: {what}."


# ---- the short form -----------------------------------------------------------------------------


Find = Callable[..., list[Row]]
Parts = tuple[Callable[[Table, Find], None], ...]


COMPARED = ["what", "mobync", "compared with", "", "ratio"]
PLANNED = ["Question", "Figure", "What it means"]


def _short(results: Results, table: Table, parts: Parts) -> Table:
    """Fill a table that has a few lines for each part."""
    for describe in parts:
        describe(table, lambda source, **wanted: _rows(results, source, wanted))
    return table


def _rows(results: Results, name: str, wanted: Row) -> list[Row]:
    """The rows of a table in which the wanted columns hold the wanted cells."""
    stored = next(table for table in results["tables"] if table["name"] == name)
    rows = [dict(zip(stored["columns"], row, strict=True)) for row in stored["rows"]]
    return [row for row in rows if wanted.items() <= row.items()]


def _add(table: Table, what: str, ours: float, beside: str, theirs: float, unit: str) -> None:
    ratio = ours / theirs
    table.add(what, f"{shown(ours)} {unit}", beside, f"{shown(theirs)} {unit}", shown(ratio))


def _flatness(table: Table, find: Find) -> None:
    for short in find("flatness", **{"of the shortest": 1.0}):
        long = find("flatness", database=short["database"])[-1]
        what = f"one edit, {long['logged diffs']:,} in the log, {long['database']}"
        beside = f"{short['logged diffs']:,} in the log"
        _add(table, what, long["edit µs"], beside, short["edit µs"], "µs")


def _history(table: Table, find: Find) -> None:
    for store in ("SQLite", "memory"):
        at = {row["history"]: row for row in find("history", store=store, diffs=10)}
        longest = at[max(at)]
        where = f"apply of 10 diffs, {store} store, history of"
        beside = "the same without history"
        _add(table, f"{where} {max(at):,}", longest["mobync ms"], beside, at[0]["mobync ms"], "ms")
        old = at[max(size for size in at if at[size]["0.2.0 ms"] is not None)]
        what = f"{where} {old['history']:,}"
        _add(table, what, old["mobync ms"], "0.2.0", old["0.2.0 ms"], "ms")


def _merge(table: Table, find: Find) -> None:
    for name, what in (
        ("crdts_records", "merge of offline devices"),
        ("crdts_one_key", "merge of one key set by all"),
    ):
        peers = [row for row in find(name) if not row["who"].startswith("mobync")]
        (core,), (ours,) = find(name, who="mobync core"), find(name, who="mobync.merge")
        for entrant, column, how in (
            (core, "one takes all µs", "in the core"),
            (ours, "one takes all µs", "all at once"),
            (ours, "each in turn µs", "one after the other"),
        ):
            fastest = min(peers, key=lambda row: row[column])
            beside = f"{fastest['who']}, the fastest"
            _add(table, f"{what}, {how}", entrant[column], beside, fastest[column], "µs/edit")


def _end_to_end(table: Table, find: Find) -> None:
    for ours in find("end_to_end", how="mobync.apply"):
        same_work = {"database": ours["database"], "work": ours["work"]}
        for row in find("end_to_end", **same_work):
            if row["how"].startswith("SQLAlchemy "):
                what = f"{ours['work']}, {ours['database']}, processor time"
                _add(table, what, ours["CPU ms"], row["how"], row["CPU ms"], "ms")


def _over_http(table: Table, find: Find) -> None:
    for ours in find("over_http", route="/sync"):
        (empty,) = find("over_http", route="/empty")
        rate, rate_empty = ours["requests/s"], empty["requests/s"]
        _add(table, "syncs over HTTP, PostgreSQL", rate, "an empty handler", rate_empty, "/s")


def _json_text(table: Table, find: Find) -> None:
    for ours in find("json_text", how="apply_json, rows as text"):
        if ours["pushed"] + ours["sent back"] < 100:
            continue
        same_work = {"pushed": ours["pushed"], "sent back": ours["sent back"]}
        (orjson,) = find("json_text", how="orjson", **same_work)
        what = f"apply_json, {ours['pushed']:,} diffs in, {ours['sent back']:,} out"
        _add(table, what, ours["ms"], "orjson loads and dumps", orjson["ms"], "ms")


def _memory(table: Table, find: Find) -> None:
    (ours,) = find("pull_memory", what="apply_json")
    (floor,) = find("pull_memory", what="SELECT to dicts")
    size, size_floor = ours["bytes a diff"], floor["bytes a diff"]
    what = "large pull by apply_json, memory for each diff"
    _add(table, what, size, floor["what"], size_floor, "B")


def _compaction(table: Table, find: Find) -> None:
    (raw,), (compacted,) = (find("compaction", log=log) for log in ("raw", "compacted"))
    rows, rows_raw = compacted["rows per live row"], raw["rows per live row"]
    _add(table, "log rows for a live row, compacted", rows, "raw", rows_raw, "rows")


# ---- the short form for small syncs -------------------------------------------------------------


def _small_syncs(table: Table, find: Find) -> None:
    for ours in find("small_syncs", how="mobync"):
        same_work = {"database": ours["database"], "work": ours["work"]}
        theirs = find("small_syncs", **same_work)[1]  # without a pool
        what = f"{ours['work']}, {ours['database']}"
        _add(table, what, ours["µs"], theirs["how"], theirs["µs"], "µs")


def _small_http(table: Table, find: Find) -> None:
    for ours in find("small_http", route="/sync"):
        (theirs,) = find("small_http", work=ours["work"], route="/by_hand")
        rate, theirs_rate = ours["requests/s"], theirs["requests/s"]
        _add(table, f"over HTTP: {ours['work']}", rate, "by hand", theirs_rate, "/s")


def _accord(table: Table, find: Find) -> None:
    ours, theirs = (
        find("accord", who=who, **{"edits at once": 1})[0] for who in ("mobync", "Accord")
    )
    _add(table, "one edit, postgresql, elapsed time", ours["ms"], "Accord", theirs["ms"], "ms")


# ---- what an operator plans with ----------------------------------------------------------------

_NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mariadb": "MariaDB"}


def _planned_syncs(table: Table, find: Find) -> None:
    (ours,) = find("over_http", route="/sync")
    rate = ours["requests/s"]
    table.add(
        "Syncs in a second",
        f"[{shown(rate)} a second](performance.md#over-http) with two edits each, on PostgreSQL",
        "1,000 devices that sync twice a minute make 33 syncs a second: "
        f"{2000 / 60 / rate:.0%} of what the machine can do",
    )


def _planned_pushes(table: Table, find: Find) -> None:
    rows = find("small_syncs", work="push one update", how="mobync")
    times = ", ".join(f"{shown(row['µs'] / 1000)} ms on {_NAMES[row['database']]}" for row in rows)
    a_second = 1_000_000 / max(row["µs"] for row in rows)
    table.add(
        "Processor time of a push",
        f"[{times}](performance.md#small-syncs)",
        f"{shown(a_second)} pushes a second keep one core busy, without the work of the database",
    )


def _planned_memory(table: Table, find: Find) -> None:
    (ours,) = find("pull_memory", what="apply_json")
    size = ours["bytes a diff"]
    table.add(
        "Memory of a large pull",
        f"[{shown(size)} bytes for each diff](performance.md#memory), on SQLite",
        "For a new device that pulls 100,000 diffs at once, a process needs "
        f"{shown(size * 0.1)} MB for a moment. On PostgreSQL and MariaDB it needs more, because "
        "the driver holds the whole answer. Pages need less",
    )


def _planned_disk(table: Table, find: Find) -> None:
    (compacted,) = find("compaction", log="compacted")
    size = compacted["bytes per live row"]
    table.add(
        "Disk for the log",
        f"[{shown(size)} bytes for each live row](performance.md#the-log-and-its-compaction) of a "
        "task app, in a compacted log. All devices are [named](protocol.md#named-devices)",
        f"A million tasks need {shown(size)} MB, and about twice that with the indexes",
    )


def _planned_history(table: Table, find: Find) -> None:
    rows = find("flatness")
    longest = max(row["logged diffs"] for row in rows)
    ratios = [row["of the shortest"] for row in rows if row["logged diffs"] == longest]
    table.add(
        "A long history",
        f"With {longest:,} diffs in the log, an edit takes [{shown(min(ratios))} to "
        f"{shown(max(ratios))} times](performance.md#small-syncs) as long as in a short log",
        "Compact to save disk and to help new devices, not for speed",
    )


SHORT_FORMS: tuple[tuple[str, str, list[str], Parts], ...] = (
    (
        "small",
        "What a small sync costs",
        COMPARED,
        (_small_syncs, _small_http, _accord),
    ),
    (
        "summary",
        "The results in short",
        COMPARED,
        (
            _flatness,
            _history,
            _merge,
            _end_to_end,
            _over_http,
            _json_text,
            _memory,
            _compaction,
        ),
    ),
    (
        "sizing",
        "What to plan a server with",
        PLANNED,
        (_planned_syncs, _planned_pushes, _planned_memory, _planned_disk, _planned_history),
    ),
)


if __name__ == "__main__":
    fill(json.loads(RESULTS.read_text()), WITH_TABLES)
