"""Each rule of named devices, taken out: the simulation sees that it is missing."""

from __future__ import annotations

from collections import Counter

import pytest
from simulation import named
from simulation.named import failure, main
from simulation.named_rules import RULES

CAUGHT_BY = {  # a history that goes wrong without the rule, and what finds it
    "the mark is one that was given": (6, "diverged"),
    "the number is the next": (51, "diverged"),
    "the marks of all replies are kept": (64, "lost"),
    "a retry says just the same": (258, "diverged"),
    "a retry is known as a whole": (1346, "came back"),
    "a retry brings back what it deleted": (57, "diverged"),
    "without a mark it starts over": (6, "diverged"),
    "below the horizon it starts over": (10, "diverged"),
    "a retry from 0 starts over": (116, "diverged"),
    "a page that a backup was not asked for": (381, "diverged"),
    "a page with folds behind it": (64, "diverged"),
    "edits of what it had pulled count": (34, "lost"),
    "what was born elsewhere is not its own": (174, "ended another life"),
    "only a create makes what the log lacks": (29, "came back"),
    "the times of fields are kept": (169, "lost"),
    "the horizon waits for holds": (5, "started over without need"),
    "who was silent for long holds no more": (10, "not folded"),
    "what all have seen is folded": (1, "not folded"),
    "a device holds where it asked from": (13, "started over without need"),
    "the horizon does not move back": (95, "diverged"),
    "the horizon waits for the nameless": (22, "refused without need"),
    "a nameless device below the horizon is refused": (37, "diverged"),
    "a device sends the same until it is answered": (53, "came back"),
    "who is unknown takes a new name": (3, "diverged"),
    "who starts over drops its rows": (5, "diverged"),
    "who starts over pulls without diffs": (46, "lost"),
    "what waits is laid over what came": (10, "diverged"),
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
    seed, check = CAUGHT_BY["a retry is known as a whole"]
    asked = ["--runs", "1", "--seed", str(seed)]
    assert main(asked) == 0
    assert "WRONG" not in capsys.readouterr().out
    assert main([*asked, "--without", "a retry is known as a whole"]) == 1
    assert f"WRONG {check:<30} 1, the first with seed {seed}" in capsys.readouterr().out


def test_the_command_makes_a_table_of_all_rules(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    rules = ["a retry is known as a whole", "the horizon waits for holds"]
    monkeypatch.setattr(named, "RULES", {rule: RULES[rule] for rule in rules})
    seed, check = CAUGHT_BY[rules[0]]
    missed = ["--without-each", "--seed", "0", "--runs", "0"]
    assert main(missed) == 1
    assert "| the horizon waits for holds | nothing |" in capsys.readouterr().out
    assert main(["--without-each", "--seed", str(seed), "--runs", "20"]) == 0
    assert f"| {rules[0]} | {check} (1)" in capsys.readouterr().out
