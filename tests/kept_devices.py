"""What every store that keeps devices must do, for tests of the stores."""

from __future__ import annotations

import pytest

from mobync import Synchronizer

MANY = {f"device {n}": f'{{"n": {n}, "é": "\\u0000"}}' for n in range(1200)}


def check_devices_are_kept(store: Synchronizer) -> None:
    """An owner's devices are kept by their names, and written only in the owner's transaction."""
    for owner in ("bob", "Bob", "böb"):
        with store.transaction(owner) as inside:
            inside.write_devices(owner, {"": f"of {owner}", "p": f"p of {owner}", "P": "{}"})
            assert inside.read_devices(owner, [""]) == {"": f"of {owner}"}
            assert inside.read_devices(owner, ["p", "x"]) == {"p": f"p of {owner}"}
    with store.transaction("bob") as inside:
        inside.write_devices("bob", {"p": None, "x": None, "P": "[]", "": None})
        assert inside.read_devices("bob", None) == {"P": "[]"}
        inside.write_devices("bob", MANY)
    assert store.read_devices("bob", None) == {"P": "[]", **MANY}
    assert store.read_devices("bob", [*MANY, ""]) == MANY
    assert store.read_devices("nobody", None) == store.read_devices("nobody", ["", "p"]) == {}
    with pytest.raises(ZeroDivisionError), store.transaction("Bob") as inside:
        inside.write_devices("Bob", {"": "other", "p": None, "new": "1"})
        raise ZeroDivisionError
    assert store.read_devices("Bob", None) == {"": "of Bob", "p": "p of Bob", "P": "{}"}
    with pytest.raises(RuntimeError, match="only inside transaction"):
        store.write_devices("bob", {"p": "{}"})
    with store.transaction("bob") as inside, pytest.raises(ValueError, match="not for owner 'ann'"):
        inside.write_devices("ann", {"p": "{}"})
