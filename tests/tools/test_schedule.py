"""The order in which runs are trained, and what a failure or an interruption leaves."""

from dataclasses import replace

import pytest

from reproduction.execution import State, duration, execute, states_of
from reproduction.rows import rows_of
from reproduction.runs import Planner, in_order
from reproduction.tables import read_tables


@pytest.fixture
def runs(tmp_path):
    """Those of Table A1, teacher and supervised student first."""
    plan = Planner(tmp_path / "runs")
    planned = in_order(plan.plan(row.address, 1) for row in rows_of(read_tables()["A1"], "tiny"))
    # The data, by which epochs would become iterations, need not be there.
    return [replace(run, iterations=run.iterations or 1000) for run in planned]


@pytest.fixture
def work(runs):
    """``work(runner, jobs=1)`` executes them and returns (states, lines that were printed)."""

    def run(runner, jobs=1):
        states, lines = states_of(runs), []
        execute(runs, runner, jobs, states, lines.append)
        return states, lines

    return run


def by_name(runs, states):
    return {run.title.split("/")[-1].removesuffix(", seed 1"): states[run.digest] for run in runs}


def test_teachers_come_first(runs, work, fake_runner):
    runner = fake_runner()
    states, lines = work(runner, jobs=2)
    place = {digest: i for i, digest in enumerate(runner.trained)}
    assert place.keys() == {run.digest for run in runs}
    assert all(place[need.digest] < place[run.digest] for run in runs for need in run.needs)
    assert set(states.values()) == {State.FINISHED}
    assert lines[0] == "9 trainings, 0 of them finished before."
    assert lines[-1].startswith("[9/9]")
    assert any("left." in line for line in lines)


@pytest.mark.parametrize("jobs", [1, 3])
def test_so_many_are_trained_at_a_time(work, fake_runner, jobs):
    runner = fake_runner()
    work(runner, jobs)
    assert runner.most_at_a_time == jobs


def test_a_failure_stops_only_what_needs_it(runs, work, fake_runner):
    states, lines = work(fake_runner("half/teacher"), jobs=2)
    found = by_name(runs, states)
    assert found.pop("teacher") is State.FAILED
    assert found.pop("supervised") is State.FINISHED
    assert set(found.values()) == {State.BLOCKED}
    (failed,) = [line for line in lines if "failed after" in line]
    assert str(runs[0].console) in failed


def test_another_row_is_not_stopped(runs, work, fake_runner):
    found = by_name(runs, work(fake_runner("supervised_mse"))[0])
    assert found.pop("supervised_mse") is State.FAILED
    assert set(found.values()) == {State.FINISHED}


def test_what_is_finished_is_not_trained_again(runs, work, fake_runner):
    work(fake_runner("self_trained_pdf"))
    runner = fake_runner()
    states, lines = work(runner)
    (again,) = runner.trained
    assert [run.digest for run in runs if "self_trained_pdf" in run.title] == [again]
    assert list(states.values()).count(State.KEPT) == 8
    assert lines[0] == "9 trainings, 8 of them finished before."


def test_a_run_that_leaves_no_product_has_failed(runs, work, fake_runner):
    runner = fake_runner()
    runner.train = lambda run: True
    states, lines = work(runner)
    assert by_name(runs, states)["teacher"] is State.FAILED
    assert any(f"{runs[0].folder} has no weights or results" in line for line in lines)


def test_a_training_that_cannot_start_stops_no_other(runs, work, fake_runner):
    class Refusing(fake_runner):
        def train(self, run):
            if "supervised_mse" in run.title:
                raise OSError("too many jobs")
            return super().train(run)

    runner = Refusing()
    states, lines = work(runner, jobs=3)
    found = by_name(runs, states)
    assert found.pop("supervised_mse") is State.FAILED
    assert set(found.values()) == {State.FINISHED} and not runner.stopped
    assert any("could not start: OSError: too many jobs" in line for line in lines)


def test_an_interruption_stops_the_trainings(runs, fake_runner):
    class Interrupted(fake_runner):
        def train(self, run):
            if "self_trained" in run.title:
                raise KeyboardInterrupt
            return super().train(run)

    runner, states = Interrupted(), states_of(runs)
    with pytest.raises(KeyboardInterrupt):
        execute(runs, runner, 1, states, lambda line: None)
    assert runner.stopped
    found = by_name(runs, states)
    assert found["teacher"] is State.FINISHED and found["self_trained"] is State.WAITING


@pytest.mark.parametrize(
    ("seconds", "words"), [(4.4, "4 s"), (89, "89 s"), (200, "3 min"), (9000, "2.5 h")]
)
def test_durations_are_said_in_words(seconds, words):
    assert duration(seconds) == words
