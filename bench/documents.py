"""Puts the results of a full run into documents.

    python bench/documents.py

A full run does it by itself.  Each table stands between its own two lines:

    <!-- bench: history -->
    <!-- end of bench -->

The names are those of the tables, "summary" for the few lines that a README has room for, and
"machine" for what they were measured on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tables import RESULTS, Table, markdown, shown

Results = dict[str, Any]
Row = dict[str, Any]

_ROOT = Path(__file__).resolve().parents[1]
WITH_TABLES = (_ROOT / "README.md", _ROOT / "docs" / "performance.md")

_PLACE = re.compile(r"<!-- bench: (\w+) -->.*?<!-- end of bench -->", re.DOTALL)


def fill(results: Results, documents: Iterable[Path]) -> None:
    """Write the tables of some results into documents, each in its place."""
    texts = {stored["name"]: markdown(Table(**stored)) for stored in results["tables"]}
    texts |= {"summary": markdown(summary(results)), "machine": _provenance(results)}
    for path in documents:
        path.write_text(_PLACE.sub(lambda place: _filled(place, texts), path.read_text()))


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
    ]
    return "\n".join(f"- {line}" for line in lines)


# ---- the short form -----------------------------------------------------------------------------


def summary(results: Results) -> Table:
    """What there is to know in a few lines for each goal."""
    table = Table("summary", "Measured", ["what", "mobync", "beside", "", "ratio"])
    for describe in (_history, _merge, _end_to_end, _over_http, _json_text, _memory, _compaction):
        describe(table, lambda name, **wanted: _rows(results, name, wanted))
    return table


Find = Callable[..., list[Row]]


def _rows(results: Results, name: str, wanted: Row) -> list[Row]:
    """The rows of a table in which the wanted columns hold the wanted cells."""
    stored = next(table for table in results["tables"] if table["name"] == name)
    rows = [dict(zip(stored["columns"], row, strict=True)) for row in stored["rows"]]
    return [row for row in rows if wanted.items() <= row.items()]


def _add(table: Table, what: str, ours: float, beside: str, theirs: float, unit: str) -> None:
    ratio = ours / theirs
    table.add(what, f"{shown(ours)} {unit}", beside, f"{shown(theirs)} {unit}", shown(ratio))


def _history(table: Table, find: Find) -> None:
    for store in ("SQLite", "memory"):
        at = {row["history"]: row for row in find("history", store=store, diffs=10)}
        longest = at[max(at)]
        where = f"apply of 10 diffs, {store} store, history of"
        beside = "the same without history"
        _add(table, f"{where} {max(at):,}", longest["1.0 ms"], beside, at[0]["1.0 ms"], "ms")
        old = at[max(size for size in at if at[size]["0.2.0 ms"] is not None)]
        what = f"{where} {old['history']:,}"
        _add(table, what, old["1.0 ms"], "0.2.0", old["0.2.0 ms"], "ms")


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
    _add(table, "large pull by apply_json, memory a diff", size, floor["what"], size_floor, "B")


def _compaction(table: Table, find: Find) -> None:
    (raw,), (compacted,) = (find("compaction", log=log) for log in ("raw", "compacted"))
    rows, rows_raw = compacted["rows per live row"], raw["rows per live row"]
    _add(table, "log rows for a live row, compacted", rows, "raw", rows_raw, "rows")


if __name__ == "__main__":
    fill(json.loads(RESULTS.read_text()), WITH_TABLES)
