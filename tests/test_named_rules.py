"""Each rule of named devices, taken out: the simulation sees that it is missing."""

from __future__ import annotations

from collections import Counter

import pytest
from simulation import named
from simulation.named import failure, main
from simulation.named_rules import RULES

CAUGHT_BY = {  # a history that goes wrong without the rule, and what finds it
    "the mark must be one that the server gave": (6, "diverged"),
    "the request number must be the next one": (15, "diverged"),
    "the marks of all replies are stored": (1, "refused without need"),
    "a retry must have the same content": (18, "diverged"),
    "a retry is recognized as a whole": (17, "a retry wrote"),
    "a retry restores a deleted object that lives again": (30, "diverged"),
    "a device without a mark starts over": (6, "diverged"),
    "a device below the horizon starts over": (92, "diverged"),
    "a retry from clock 0 starts over": (854, "diverged"),
    "a page without a cursor of this server starts over": (555, "diverged"),
    "a page after which the log was folded starts over": (133, "diverged"),
    "edits of pulled objects count": (19, "lost"),
    "edits of objects born elsewhere do not count": (27, "ended another life"),
    "only a create brings back what the log lacks": (29, "came back"),
    "the times of fields are stored": (37, "lost"),
    "the horizon waits for holds": (4, "started over without need"),
    "a device that is silent too long holds nothing": (19, "not folded"),
    "diffs that all devices have seen are folded": (1, "not folded"),
    "a device holds the clock that it sent": (11, "started over without need"),
    "the horizon does not move back": (100, "diverged"),
    "the horizon waits for devices without a name": (217, "refused without need"),
    "a device without a name below the horizon is refused": (26, "diverged"),
    "parts of two cuts are not mixed": (4, "lost"),
    "parts of two requests are not mixed": (7, "missed without need"),
    "a part with other content removes the other parts": (7, "lost"),
    "a part that arrives twice counts once": (3, "missed without need"),
    "a request is not done while parts are missing": (73, "diverged"),
    "parts are joined in order": (4, "an error"),
    "parts of a retry are accepted": (4, "refused without need"),
    "parts of a request that would be refused are refused": (1, "taken in vain"),
    "a device that sent only parts is new": (21, "diverged"),
    "parts are stored until the next request": (3, "missed without need"),
    "parts are dropped with the next request": (8, "left"),
    "parts are dropped after a day": (1, "left"),
    "the parts of a request have a limit": (18, "too much was taken"),
    "the parts of an owner have a limit": (1047, "too much is kept"),
    "a device repeats a request until it is answered": (2, "refused without need"),
    "an unknown device takes a new name": (3, "diverged"),
    "an unknown device gives its unsent edits new ids": (270, "ended another life"),
    "a device that starts over drops its rows": (5, "diverged"),
    "a device that starts over pulls without diffs": (19, "lost"),
    "a device that cuts a request again takes a new upload": (4, "lost"),
    "waiting edits are applied on top of the reply": (1, "an error"),
}


def test_each_rule_has_a_history() -> None:
    assert list(CAUGHT_BY) == list(RULES)


@pytest.mark.parametrize("rule", CAUGHT_BY)
def test_a_rule_that_is_taken_out_is_missed(rule: str) -> None:
    seed, check = CAUGHT_BY[rule]
    assert failure(seed, Counter()) is None
    found = failure(seed, Counter(), rule)
    assert found is not None
    assert found.startswith(f"{check}: "), found


@pytest.mark.long
def test_without_holds_nothing_is_lost_but_devices_start_over_more_often() -> None:
    """The hold is a courtesy: it is what it saves that shows it."""
    with_holds: Counter[str] = Counter()
    without: Counter[str] = Counter()
    found = set()
    for seed in range(150):
        assert failure(seed, with_holds) is None, seed
        what = failure(seed, without, "the horizon waits for holds")
        found |= {what.partition(":")[0]} if what is not None else set()
    assert found == {"started over without need"}
    assert without["started over"] > 1.5 * with_holds["started over"]


# ---- the command --------------------------------------------------------------------------------


def test_the_command_says_what_finds_a_rule_that_is_taken_out(capsys: pytest.CaptureFixture[str]):
    seed, check = CAUGHT_BY["a retry is recognized as a whole"]
    asked = ["--runs", "1", "--seed", str(seed)]
    assert main(asked) == 0
    assert "WRONG" not in capsys.readouterr().out
    assert main([*asked, "--without", "a retry is recognized as a whole"]) == 1
    assert f"WRONG {check:<30} 1, the first with seed {seed}" in capsys.readouterr().out


def test_the_command_makes_a_table_of_all_rules(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    rules = ["a retry is recognized as a whole", "the horizon waits for holds"]
    monkeypatch.setattr(named, "RULES", {rule: RULES[rule] for rule in rules})
    seed, check = CAUGHT_BY[rules[0]]
    missed = ["--without-each", "--seed", "0", "--runs", "0"]
    assert main(missed) == 1
    assert "| the horizon waits for holds | nothing |" in capsys.readouterr().out
    assert main(["--without-each", "--seed", str(seed), "--runs", "20"]) == 0
    assert f"| {rules[0]} | {check} (1)" in capsys.readouterr().out
