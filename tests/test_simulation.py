"""A fixed sample of the simulation; `make simulate` plays as many histories as one likes."""

from __future__ import annotations

from functools import partial
from typing import Any

import django
import pytest
from simulation import __main__ as command
from simulation import rules
from simulation import world as simulated
from simulation.__main__ import fails_alike, failure_of, main, tell
from simulation.claims import (
    OWNER,
    Diverged,
    EditLost,
    NotAsked,
    NotByTheRules,
    OwnDiffsCameBack,
    RetryCounted,
)
from simulation.devices import Request
from simulation.history import History, random_history, shrink
from simulation.stores import memory, open_stores
from simulation.world import Event, SimulatedServer

from mobync import Synchronizer

RUNS, PIECES = 2_000, 10
RUNS_ON_A_DATABASE = 40
RUNS_ON_DJANGO = 5
RUNS_BY_SQL = 20


def check(history: History) -> None:
    world, error = failure_of(history, memory)
    assert error is None, tell(history, world, error)


@pytest.mark.parametrize("piece", range(PIECES))
def test_histories_converge(piece: int) -> None:
    for seed in range(piece * RUNS // PIECES, (piece + 1) * RUNS // PIECES):
        check(random_history(seed))


@pytest.mark.parametrize("name", ["sqlite", "postgresql", "mariadb"])
def test_histories_converge_on_a_database(name: str) -> None:
    with open_stores(name) as make_store:
        for seed in range(RUNS, RUNS + RUNS_ON_A_DATABASE):
            world, error = failure_of(random_history(seed), make_store)
            assert error is None, tell(random_history(seed), world, error)


@pytest.mark.parametrize("name", ["django sqlite", "django postgresql", "django mariadb"])
def test_histories_converge_on_models_of_django(name: str) -> None:
    with open_stores(name) as make_store:
        for seed in range(RUNS_ON_DJANGO):
            world, error = failure_of(random_history(seed), make_store)
            assert error is None, tell(random_history(seed), world, error)


@pytest.mark.parametrize("name", ["sqlite", "postgresql", "mariadb"])
def test_histories_with_edits_by_sql_converge(name: str) -> None:
    with open_stores(name, by_sql=True) as make_store:
        for seed in range(RUNS_BY_SQL):
            history = random_history(seed, by_sql=True)
            world, error = failure_of(history, make_store)
            assert error is None, tell(history, world, error)


@pytest.mark.parametrize("name", ["sqlite", "postgresql", "mariadb"])
@pytest.mark.parametrize("by_sql", [False, True])
def test_histories_converge_where_the_database_fills_in(name: str, by_sql: bool) -> None:
    filled = 0
    with open_stores(name, by_sql, fills=True) as make_store:
        for seed in range(RUNS_BY_SQL):
            history = random_history(seed, by_sql, fills=True)
            world, error = failure_of(history, make_store)
            assert error is None, tell(history, world, error)
            filled += world.counts["filled"]
    assert filled > RUNS_BY_SQL


@pytest.mark.skipif(django.VERSION < (5, 0), reason="Django fills in by db_default since 5.0")
@pytest.mark.parametrize("name", ["django sqlite", "django postgresql", "django mariadb"])
def test_histories_converge_where_models_of_django_are_filled_in(name: str) -> None:
    with open_stores(name, fills=True) as make_store:
        for seed in range(RUNS_ON_DJANGO):
            history = random_history(seed, fills=True)
            world, error = failure_of(history, make_store)
            assert error is None, tell(history, world, error)


def whole_sync(name: str) -> list[Event]:
    return [Event(step, name) for step in ("send", "deliver", "receive")]


def test_an_edit_made_after_seeing_one_that_went_up_in_a_create_outlives_its_retry() -> None:
    check(
        History(
            ("careful", "careful"),
            (
                Event("skew", "careful1", number=-3_600_000),
                Event("create", "careful0", "tasks", "u0", (("a", 100),)),
                Event("update", "careful0", "tasks", "u0", (("a", 200),)),
                Event("send", "careful0"),
                Event("deliver", "careful0"),
                Event("lose", "careful0"),
                *whole_sync("careful1"),
                Event("update", "careful1", "tasks", "u0", (("a", 300),)),
                *whole_sync("careful1"),
            ),
            seed=0,
            distinct_values=True,
        )
    )


def test_an_edit_of_a_new_row_does_not_lose_to_one_of_the_row_that_it_replaced() -> None:
    """The device deletes a row and creates it again while another one's edit is on its way."""
    check(
        History(
            ("careful", "careful", "careful", "flutter"),
            (
                Event("create", "careful1", "tasks", "u0", (("b", 1400), ("c", 1500), ("a", 1600))),
                Event("send", "careful1"),
                Event("create", "careful2", "tasks", "u0", (("a", 3100), ("b", 3200), ("c", 3300))),
                Event("delete", "careful1", "tasks", "u0"),
                Event("send", "careful2"),
                Event("deliver", "careful2"),
                Event("create", "flutter3", "tasks", "u0", (("a", 5000), ("b", 5100), ("c", 5200))),
                Event("create", "careful1", "tasks", "u0", (("c", 5300), ("a", 5400), ("b", 5500))),
                Event("update", "careful1", "tasks", "u0", (("c", 5600), ("a", 5700), ("b", 5800))),
                Event("update", "flutter3", "tasks", "u0", (("b", 5900),)),
                Event("send", "flutter3"),
                Event("deliver", "flutter3"),
            ),
            seed=2028133,
            whole_rows=True,
            distinct_values=True,
        )
    )


# ---- the claims are checked ----------------------------------------------------------------------


class TakesTheFuture(SimulatedServer):
    def __init__(self, store: Synchronizer, **options: Any) -> None:
        super().__init__(store, **{**options, "max_clock_skew_ms": 10**15})


class WritesEachTime(SimulatedServer):
    def answer(self, request: Request, **more: Any) -> Any:
        clock = self.push(OWNER, [("delete", "tasks", {"id": "none"})])
        return {**super().answer(request, **more), "logical_clock": clock}


class AnswersWithWhatWasSent(SimulatedServer):
    def answer(self, request: Request, **more: Any) -> Any:
        reply = super().answer(request, **more)
        return {**reply, "diffs": [*request.diffs, *reply["diffs"]]}


class AnswersNothing(SimulatedServer):
    def answer(self, request: Request, **more: Any) -> Any:
        return {**super().answer(request, **more), "diffs": []}


class ForgetsToAsk(SimulatedServer):
    def answer(self, request: Request, **more: Any) -> Any:
        reply = super().answer(request, **more)
        rules.take_asked()
        return reply


EDITED_AND_SEEN = (
    Event("create", "careful0", "tasks", "u0", (("a", 100),)),
    *whole_sync("careful0"),
    *whole_sync("careful1"),
    Event("update", "careful1", "tasks", "u0", (("a", 200),)),
    *whole_sync("careful1"),
)


def failure(*events: Event) -> Exception | None:
    return failure_of(History(("careful", "careful"), events, 0, distinct_values=True), memory)[1]


def test_a_sync_that_breaks_a_rule_of_the_merge_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    future = (Event("skew", "careful0", number=10**12), *EDITED_AND_SEEN)
    assert failure(*future) is None
    monkeypatch.setattr(simulated, "SimulatedServer", TakesTheFuture)
    assert isinstance(failure(*future), NotByTheRules)


@pytest.mark.parametrize("claim", ["check_asked", "check_values"])
def test_a_rule_that_is_not_asked_is_missed(monkeypatch: pytest.MonkeyPatch, claim: str) -> None:
    monkeypatch.setattr(simulated, "SimulatedServer", ForgetsToAsk)
    monkeypatch.setattr(simulated, claim, lambda *_: None)
    assert isinstance(failure(*EDITED_AND_SEEN), NotAsked)


@pytest.mark.parametrize(
    ("server", "error"),
    [
        (WritesEachTime, RetryCounted),
        (AnswersWithWhatWasSent, OwnDiffsCameBack),
        (AnswersNothing, Diverged),
    ],
)
def test_the_other_claims_do_not_lean_on_the_model(
    monkeypatch: pytest.MonkeyPatch, server: type[SimulatedServer], error: type[Exception]
) -> None:
    monkeypatch.setattr(simulated, "check_by_the_rules", lambda *_: None)
    assert failure(*EDITED_AND_SEEN) is None
    monkeypatch.setattr(simulated, "SimulatedServer", server)
    assert isinstance(failure(*EDITED_AND_SEEN), error)


def test_an_acknowledged_edit_that_gives_way_to_what_its_device_had_seen_is_lost() -> None:
    backend_writes_100_again = Event("push", "", "tasks", "", (("a", 99),), 1)
    assert failure(*EDITED_AND_SEEN) is None
    assert isinstance(failure(*EDITED_AND_SEEN, backend_writes_100_again), EditLost)


# ---- the tool ------------------------------------------------------------------------------------


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


def test_shrinking_keeps_the_kind_of_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated, "SimulatedServer", AnswersNothing)
    monkeypatch.setattr(simulated, "check_by_the_rules", lambda *_: None)
    lost = Event("push", "", "tasks", "", (("a", 99),), 1)
    history = History(("careful", "careful"), (*EDITED_AND_SEEN, lost), 0, distinct_values=True)
    short = shrink(history, partial(fails_alike, Diverged, memory))
    assert isinstance(failure_of(short, memory)[1], Diverged)
    assert len(short.events) == 1


def test_the_command_counts_what_failed_and_what_diverged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    errors = iter([Diverged("rows"), RetryCounted("again"), *[None] * 18])
    world = failure_of(random_history(5), memory)[0]
    monkeypatch.setattr(command, "failure_of", lambda *_: (world, next(errors)))
    monkeypatch.setattr(command, "tell_shrunk", lambda *_: "the story")
    assert main(["--runs", "20", "--seed", "5"]) == 2
    printed = capsys.readouterr().out
    assert "the story" in printed
    assert "diverged     1" in printed
    assert "failed       2 [5, 6]" in printed


def test_the_command_tells_what_it_played(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--runs", "20", "--seed", "5"]) == 0
    printed = capsys.readouterr().out
    assert "histories    20, seeds 5 to 24" in printed
    assert "diverged     0" in printed
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
