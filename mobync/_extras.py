"""The errors for extras that are not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


def install(extra: str) -> str:
    """How to install mobync with an extra, as in docs/install.md."""
    return (
        f"pip install -e '.[{extra}]' in a checkout of mobync, or with a wheel: "
        f"pip install 'WHEEL[{extra}]'"
    )


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """Import packages of an extra.

    Raises:
        ModuleNotFoundError: one is not installed; the message says how to install it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        raise ModuleNotFoundError(
            f"mobync needs {package} here: {install(extra)}", name=error.name
        ) from error
