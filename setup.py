"""Builds the C extension; everything else about the package is in pyproject.toml."""

import os
import shlex
import subprocess
import sys
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

MISSING = """
mobync needs the C library cJSON, and {reason}.  Install it with one of

    Debian, Ubuntu   apt-get install libcjson-dev pkg-config
    Fedora           dnf install cjson-devel pkgconf
    macOS            brew install cjson pkg-config

or name its place in MOBYNC_CFLAGS and MOBYNC_LDFLAGS, say
MOBYNC_CFLAGS=-I/opt/cjson/include MOBYNC_LDFLAGS="-L/opt/cjson/lib -lcjson".
"""


def cjson_flags() -> tuple[list[str], list[str]]:
    """The flags that compile against libcjson and link it."""
    if os.environ.get("MOBYNC_LDFLAGS"):
        return (
            shlex.split(os.environ.get("MOBYNC_CFLAGS", "")),
            shlex.split(os.environ["MOBYNC_LDFLAGS"]),
        )
    command = os.environ.get("PKG_CONFIG", "pkg-config")
    flags = []
    for kind in ("--cflags", "--libs"):
        try:
            found = subprocess.run(
                [command, kind, "libcjson"], capture_output=True, text=True, check=True
            )
        except OSError:
            sys.exit(MISSING.format(reason=f"there is no {command} to find it"))
        except subprocess.CalledProcessError:
            sys.exit(MISSING.format(reason=f"{command} does not find it (libcjson)"))
        flags.append(shlex.split(found.stdout))
    compile_flags, link_flags = flags
    return compile_flags + shlex.split(os.environ.get("MOBYNC_CFLAGS", "")), link_flags


class BuildWithCJSON(build_ext):
    """Asks for libcjson only where something is compiled: an sdist needs none."""

    def build_extensions(self) -> None:
        compile_flags, link_flags = cjson_flags()
        if self.compiler.compiler_type == "msvc":
            own_flags = ["/std:c11"]
        else:
            own_flags = ["-std=c11", "-fvisibility=hidden"]
        for extension in self.extensions:
            extension.extra_compile_args += own_flags + compile_flags
            extension.extra_link_args += link_flags
        super().build_extensions()


setup(
    cmdclass={"build_ext": BuildWithCJSON},
    ext_modules=[
        Extension(
            "mobync._core",
            sources=sorted(glob("csrc/core/*.c") + glob("csrc/python/*.c")),
            depends=sorted(glob("csrc/core/*.h") + glob("csrc/python/*.h")),
        )
    ],
)
