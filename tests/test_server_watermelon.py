"""`mobync serve --watermelon-time-column`: of two edits of a field the later one wins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests
from server_process import PATIENCE_S, Server, mobync, serving

from mobync.server.tokens import Tokens

SECRET = "a secret for tests, long enough"
EARLY, LATE = 1_700_000_000_000, 1_700_000_060_000
OPTION = "--watermelon-time-column"


def push(server: Server, last: int, kind: str, **raw: Any) -> None:
    changed = {"created": [], "updated": [], "deleted": [], kind: [{"id": "m", **raw}]}
    body = {"lastPulledAt": last, "changes": {"tasks": changed}}
    assert ask(server, "push", body) == {"experimentalRejectedIds": {}}


def ask(server: Server, route: str, body: Any) -> Any:
    token = Tokens(SECRET).for_owner("anna", 3600)
    answer = requests.post(
        f"{server.url}/sync/watermelon/{route}",
        json=body,
        headers={"Authorization": f"Bearer {token}"},
        timeout=PATIENCE_S,
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize(("said", "winner"), [(True, "oat"), (False, "rye")])
def test_the_column_says_which_edit_was_later(tmp_path: Path, said: bool, winner: str) -> None:
    options = [OPTION, "tasks=at", OPTION, "notes=at"] if said else []
    with serving(tmp_path, *options, MOBYNC_SECRET=SECRET) as server:
        push(server, 1, "created", name="milk", at=EARLY)
        push(server, 2, "updated", name="oat", at=LATE, _changed="name,at")
        push(server, 2, "updated", name="rye", at=EARLY + 1, _changed="name,at")
        changes = ask(server, "pull", {"lastPulledAt": None})["changes"]
    assert changes["tasks"]["updated"][0]["name"] == winner


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["tasks"], "TABLE=COLUMN"),
        (["=at"], "TABLE=COLUMN"),
        (["tasks="], "TABLE=COLUMN"),
        (["tasks=a", "tasks=b"], "'tasks' is named twice"),
    ],
)
def test_what_names_no_column_is_an_error_at_the_start(
    tmp_path: Path, given: list[str], says: str
) -> None:
    options = [each for one in given for each in (OPTION, one)]
    ended = mobync(tmp_path, "serve", *options)
    assert ended.returncode == 2
    assert OPTION in ended.stderr
    assert says in " ".join(ended.stderr.split())
