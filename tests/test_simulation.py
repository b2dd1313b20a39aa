"""A fixed sample of the simulation; `make simulate` plays as many histories as one likes."""

from __future__ import annotations

import pytest
from simulation.__main__ import failure_of, main, tell
from simulation.history import History, random_history, shrink
from simulation.stores import memory, open_stores
from simulation.world import Event

RUNS, PIECES = 10_000, 10


def check(history: History) -> None:
    world, error = failure_of(history, memory)
    assert error is None, tell(history, world, error)


@pytest.mark.parametrize("piece", range(PIECES))
def test_ten_thousand_histories_converge(piece: int) -> None:
    for seed in range(piece * RUNS // PIECES, (piece + 1) * RUNS // PIECES):
        check(random_history(seed))


@pytest.mark.parametrize("name", ["sqlite", "postgresql", "mariadb"])
def test_histories_converge_on_a_database(name: str) -> None:
    with open_stores(name) as make_store:
        for seed in range(RUNS, RUNS + 100):
            world, error = failure_of(random_history(seed), make_store)
            assert error is None, tell(random_history(seed), world, error)


def test_a_history_plays_the_same_way_each_time() -> None:
    stories = [failure_of(random_history(7), memory)[0].story for _ in range(2)]
    assert stories[0] == stories[1]
    assert len(stories[0]) > 10


def test_a_failing_history_is_shrunk_to_what_matters() -> None:
    def fails(history: History) -> bool:
        kinds = [event.what for event in history.events]
        return "delete" in kinds and "lose" in kinds[kinds.index("delete") :]

    seed = next(s for s in range(1000) if fails(random_history(s)))
    short = shrink(random_history(seed), fails)
    assert [event.what for event in short.events] == ["delete", "lose"]


def test_the_command_tells_what_it_played(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--runs", "20", "--seed", "5"]) == 0
    printed = capsys.readouterr().out
    assert "histories    20, seeds 5 to 24" in printed
    assert "failed       0" in printed


def test_a_story_names_each_step() -> None:
    history = History(
        ("careful", "careful"),
        (
            Event("create", "careful0", "tasks", "u0", (("a", 1),)),
            Event("send", "careful0"),
            Event("deliver", "careful0"),
            Event("lose", "careful0"),
        ),
        seed=0,
    )
    world, error = failure_of(history, memory)
    assert error is None
    assert world.story[:4] == [
        "careful0: create tasks/u0 a=1  [careful0.0 at 1]",
        "careful0 sends clock 0 [careful0.0]",
        "the server answers careful0: clock 1 []",
        "the reply of careful0 is lost",
    ]
