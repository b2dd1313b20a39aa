"""Hooks of MkDocs: what the site has beyond the files of docs/, made from its one source.

The home page is the README.  The reference is made from docstrings, openapi.yaml, the commands and
the C header.  A link that leaves docs/ leads to a page of the site where there is one, else to the
repository; a file that is not there fails the build.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

HOME = Path(__file__).resolve().parents[1]
BLOB = "https://github.com/mobync/python-server/blob/main/"

# Pages and pictures whose source is not in docs/, by its path in the repository.
TAKEN_IN = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "SECURITY.md": "security.md"}
TAKEN_IN |= {"CONTRIBUTING.md": "contributing.md", "CODE_OF_CONDUCT.md": "code-of-conduct.md"}
TAKEN_IN |= {"bench/results.svg": "results.svg"}

MODULES = {
    "mobync": "The names that an app begins with.",
    "mobync.memory": "A store in memory.",
    "mobync.sqlalchemy": "Stores on SQLite, PostgreSQL, MariaDB and MySQL.",
    "mobync.http": "The sync route, without a framework.",
    "mobync.http.flask": "The route in Flask.",
    "mobync.http.asgi": "The route in FastAPI, Starlette and plain ASGI.",
    "mobync.http.django": "The route in Django.",
    "mobync.live": "Telling devices at once.",
    "mobync.clients": "Protocols of WatermelonDB and RxDB.",
    "mobync.client": "A device in Python.",
    "mobync.server.tokens": "Tokens of `mobync serve`.",
}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made here."""
    made = {target: (HOME / source).read_text("utf-8") for source, target in TAKEN_IN.items()}
    made |= {
        "reference/python.md": python_reference(),
        "reference/http.md": http_reference(),
        "reference/cli.md": cli_reference(),
        "reference/core.md": core_reference((HOME / "csrc/core/mobync.h").read_text("utf-8")),
    }
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Have each link lead to a page of the site, or to the repository."""
    uri = page.file.src_uri
    by_target = {target: source for source, target in TAKEN_IN.items()}
    source = PurePosixPath(by_target.get(uri, f"docs/{uri}"))
    here = PurePosixPath(uri).parent

    def lead(match: re.Match[str]) -> str:
        path, sharp, anchor = match[2].partition("#")
        if not path or re.match(r"\w+:", path) or uri.startswith("reference/"):
            return match[0]
        target = PurePosixPath(os.path.normpath(source.parent / path))
        if not (HOME / target).exists():
            raise PluginError(f"{source} links to {path}, which is not there")
        link = site_link(target, here)
        if match[1].startswith("!") and link.startswith(BLOB):
            raise PluginError(f"{source} shows {path}, which the site does not have")
        return f"{match[1]}({link}{sharp}{anchor})"

    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.M | re.S)
    parts[::2] = [re.sub(r"(!?\[[^\]]*\])\(([^)\s]+)\)", lead, part) for part in parts[::2]]
    return "".join(parts)


def on_post_page(output: str, **_: Any) -> str:
    """Keep the theme's script from asking the repository's host for stars and releases."""
    return output.replace(' data-md-component="source"', "")


def site_link(target: PurePosixPath, here: PurePosixPath) -> str:
    """Where a file of the repository is, as a page in the folder ``here`` links to it."""
    if str(target) in TAKEN_IN:
        return os.path.relpath(TAKEN_IN[str(target)], here)
    if target.parts[0] == "docs" and target.suffix in (".md", ".png"):
        return os.path.relpath(PurePosixPath(*target.parts[1:]), here)
    return f"{BLOB}{target}"


# ---- the reference ------------------------------------------------------------------------------


def python_reference() -> str:
    sections = [f"## {name}\n\n{idea}\n\n::: {name}\n" for name, idea in MODULES.items()]
    options = "    options:\n      show_root_heading: false\n      show_root_toc_entry: false\n"
    return "# Python\n\n" + "\n".join(section + options for section in sections)


def cli_reference() -> str:
    return (
        "# Command line\n\nThe extra `server` brings the command `mobync`.\n\n"
        "::: mkdocs-click\n    :module: mobync.server.commands\n    :command: main\n"
        "    :prog_name: mobync\n    :depth: 1\n    :style: plain\n"
    )


def http_reference() -> str:
    """The routes, parameters, answers and forms of openapi.yaml."""
    api = yaml.safe_load((HOME / "docs/openapi.yaml").read_text("utf-8"))
    lines = ["# HTTP", "", api["info"]["description"], ""]
    lines += [f"The same for machines: [openapi.yaml]({BLOB}docs/openapi.yaml).", ""]
    for path, methods in api["paths"].items():
        for method, operation in methods.items():
            lines += [f"## {method.upper()} {path}", "", operation["summary"], ""]
            lines += [operation.get("description", ""), "", "| Status | Means |", "|---|---|"]
            for status, answer in operation["responses"].items():
                lines.append(f"| {status} | {one_line(resolved(api, answer)['description'])} |")
            lines.append("")
    lines += ["## Forms", ""]
    for name, schema in api["components"]["schemas"].items():
        lines += [f"### {name}", "", schema.get("description", ""), ""]
        lines += [*members(schema), ""]
    return "\n".join(lines)


def resolved(api: Any, answer: Any) -> Any:
    while "$ref" in answer:
        found = api
        for part in answer["$ref"].removeprefix("#/").split("/"):
            found = found[part.replace("~1", "/").replace("~0", "~")]
        answer = found
    return answer


def members(schema: Any) -> list[str]:
    """The members of an object, as a table."""
    if "properties" not in schema:
        return []
    lines = ["| Member | Type | | Means |", "|---|---|---|---|"]
    for name, member in schema["properties"].items():
        kind = member.get("type") or member.get("$ref", "").rpartition("/")[2] or "any"
        kind = " or ".join(kind) if isinstance(kind, list) else kind
        needed = "required" if name in schema.get("required", ()) else ""
        lines.append(
            f"| `{name}` | {kind} | {needed} | {one_line(member.get('description', ''))} |"
        )
    return lines


def one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def core_reference(header: str) -> str:
    """Each declaration of the header with the comment above it."""
    lines = ["# The C core", "", "`csrc/core/mobync.h`, made into a page.", ""]
    opening, _, rest = header.partition("#ifndef MOBYNC_H")
    lines += [comment_of(opening), ""]
    for block in re.split(r"\n\n+", rest):
        found = re.match(r"(?:/\* ?(.*?)\*/\n)?(.*)", block.strip(), re.S)
        assert found is not None
        comment, code = found[1] or "", found[2].strip()
        heading = re.fullmatch(r"/\* -+ (.+?) -+ \*/", block.strip())
        if heading:
            lines += [f"## {heading[1].capitalize()}", ""]
        elif code and not code.startswith("#"):
            name = re.search(r"\b(mb_\w+)\s*\(", code) or re.search(r"\b(mb_\w+);\s*$", code)
            lines += [f"### {name[1]}" if name else "", ""]
            lines += [comment_of(comment), "", "```c", code, "```", ""]
    return "\n".join(lines)


def comment_of(text: str) -> str:
    text = text.strip().removeprefix("/*").removesuffix("*/")
    return "\n".join(re.sub(r"^ ?\*? ?", "", line) for line in text.strip().splitlines())
