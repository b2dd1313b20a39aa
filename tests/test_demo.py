"""examples/demo.py as a program: the story that it prints, and what it says when it goes wrong."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from flask import Flask, request
from over_http import EXAMPLES, load_example, served

TIMEOUT_S = 60


def play(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / "demo.py"), *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def scenes(transcript: str) -> dict[str, list[str]]:
    """Title to what is said under it, a line each, with one space for many."""
    _, *parts = re.split(r"^\d  (.+)$", transcript, flags=re.MULTILINE)
    return {
        title: [" ".join(line.split()) for line in text.splitlines() if line.strip()]
        for title, text in zip(parts[::2], parts[1::2], strict=True)
    }


def rows_of(ending: list[str]) -> dict[str, list[str]]:
    """Device to the rows that the ending shows for it."""
    rows: dict[str, list[str]] = {}
    for line in ending:
        words = line.split()
        if words[0] in ("phone", "tablet", "server"):
            name = words.pop(0)
        elif "name:" not in words:
            continue
        rows.setdefault(name, []).append(" ".join(words))
    return rows


def test_the_demo_starts_its_own_server_and_ends_with_three_equal_states() -> None:
    ended = play()
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert ended.stdout.rstrip().endswith("EQUAL: phone, tablet and server hold the same 3 rows.")

    rows = rows_of(scenes(ended.stdout)["The end"])
    assert rows["phone"] == [
        'bread name: "rye bread" done: true',
        'eggs name: "ten eggs" done: false',
        'milk name: "oat milk" done: false',
    ]
    assert rows["tablet"] == rows["server"] == rows["phone"]


def test_each_scene_shows_what_was_sent_and_what_came_back() -> None:
    told = scenes(play().stdout)
    assert list(told) == [
        "Offline edits",
        "A conflict on one field",
        "A merge of two fields",
        "A delete against an update",
        "A lost reply and a retry",
        "The end",
    ]
    # The phone's earlier edit goes up last and loses.
    assert told["A conflict on one field"][-5:] == [
        "sync phone",
        "clock 3, sends 1",
        '-> update milk name: "soy milk"',
        "gets 1, clock 4",
        '<- update milk name: "oat milk"',
    ]
    merge = told["A merge of two fields"]
    assert "<- update bread done: true" in merge
    assert '<- update bread name: "rye bread"' in merge
    assert told["A delete against an update"][-1] == "<- delete salt"
    # The retry sends the create again and gets nothing of its own back.
    lost = told["A lost reply and a retry"]
    assert lost.count('-> create eggs name: "eggs" done: false') == 2
    assert "(reply lost: clock stays 7)" in lost
    assert "gets 0, clock 9" in lost


def test_the_transcript_fits_a_narrow_terminal() -> None:
    assert max(map(len, play().stdout.splitlines())) <= 80


def test_the_demo_plays_again_on_a_server_that_has_rows_of_an_earlier_run() -> None:
    app = load_example("in_memory/app.py").create_app()
    with served(app) as url:
        first, second = play("--url", url), play("--url", url)
    for ended in (first, second):
        assert ended.returncode == 0, ended.stderr
        assert "EQUAL: phone, tablet and server hold the same 3 rows." in ended.stdout


def test_states_that_differ_are_shown_and_fail_the_demo() -> None:
    app = load_example("in_memory/app.py").create_app()

    @app.after_request
    def forget_deletes(response):  # type: ignore[no-untyped-def]
        reply = response.get_json()
        reply["diffs"] = [diff for diff in reply["diffs"] if diff["type"] != "delete"]
        response.data = app.json.dumps(reply)
        return response

    with served(app) as url:
        ended = play("--url", url)
    assert ended.returncode == 1
    assert ended.stdout.rstrip().endswith(
        "DIFFERENT: phone, tablet and server do not hold the same rows."
    )
    rows = rows_of(scenes(ended.stdout)["The end"])
    assert len(rows["phone"]) == len(rows["tablet"]) + 1


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:1/sync", "no answer from http://127.0.0.1:1/sync"),
        ("nowhere", "url must be the sync route, https://host/sync, not 'nowhere'"),
    ],
)
def test_a_server_that_is_not_there_is_named(url: str, said: str) -> None:
    ended = play("--url", url)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"demo: {said}")


def test_a_refusal_is_shown_as_the_server_words_it() -> None:
    app = Flask(__name__)
    met: list[object] = []

    @app.post("/sync")
    def sync() -> tuple[dict[str, str], int]:
        met.append(request.headers["Authorization"])
        return {"message": "closed on Mondays"}, 503

    with served(app) as url:
        ended = play("--url", url)
    assert met == ["Bearer anna-demo-token"]
    assert ended.returncode == 1
    assert ended.stderr == "demo: 503: closed on Mondays\n"
