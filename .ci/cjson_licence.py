"""Writes the licence of the cJSON that a wheel will carry: the comment that cJSON.h opens with.

    python .ci/cjson_licence.py LICENSE.cJSON

Looked for where the build looks: in MOBYNC_CFLAGS, with pkg-config, in the usual places.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


def main() -> None:
    target = Path(sys.argv[1])
    header = next((found for found in headers() if found.is_file()), None)
    if header is None:
        sys.exit("cjson/cJSON.h is in no directory that the build looks in")
    comment = re.match(r"\s*/\*(.*?)\*/", header.read_text(encoding="utf-8"), re.S)
    if comment is None or "Permission is hereby granted" not in comment[1]:
        sys.exit(f"{header} does not open with the licence of cJSON")
    lines = [line.strip() for line in comment[1].strip().splitlines()]
    target.write_text("\n".join(["cJSON, which is linked into this wheel:", "", *lines, ""]))
    print(f"{target}: from {header}")


def headers() -> Iterator[Path]:
    """Where cJSON.h may be, in the order in which the compiler looks."""
    flags = shlex.split(os.environ.get("MOBYNC_CFLAGS", ""))
    command = [os.environ.get("PKG_CONFIG", "pkg-config"), "--cflags", "libcjson"]
    with contextlib.suppress(OSError):
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        flags += shlex.split(said.stdout)
    named = [re.sub(r"^[-/]I", "", flag) for flag in flags if re.match(r"[-/]I", flag)]
    for directory in [*named, "/usr/local/include", "/usr/include"]:
        yield Path(directory, "cjson", "cJSON.h")
        yield Path(directory, "cJSON.h")


if __name__ == "__main__":
    main()
