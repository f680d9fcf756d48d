"""Results that outlive the folders of their runs."""

import json
import shutil

import pytest

from multas.util.errors import UserError
from reproduction.execution import State, execute, states_of
from reproduction.kept import keep, read_kept
from reproduction.results import read_result
from reproduction.rows import rows_of
from reproduction.runs import Planner, in_order
from reproduction.tables import read_tables

ROWS = ("teacher", "supervised", "self_trained")


@pytest.fixture
def rows(tmp_path):
    """``rows(file)``: three rows of Table A1 by name, and the run of each, with what a file has."""

    def plan(file=tmp_path / "nothing.json"):
        planner = Planner(tmp_path / "runs", results=read_kept(file))
        found = {row.name: row for row in rows_of(read_tables()["A1"], "tiny")}
        return {name: (found[name], planner.plan(found[name].address, 1)) for name in ROWS}

    return plan


@pytest.fixture
def kept(rows, tmp_path, fabricate):
    """The file of their results; the folders of their runs are gone."""
    runs = [run for _, run in rows().values()]
    for number, run in enumerate(runs):
        fabricate(run, bbox__AP=10.0 + number, bbox__AP50=20.0)
    keep(tmp_path / "results.json", runs)
    shutil.rmtree(tmp_path / "runs")
    return tmp_path / "results.json"


def names(rows, states):
    return {name: states[run.digest] for name, (_, run) in rows.items()}


def test_what_is_kept_is_reported_as_if_it_were_there(rows, kept, tmp_path):
    assert set(states_of([run for _, run in rows().values()]).values()) == {State.WAITING}
    own = rows(kept)
    runs = in_order(run for _, run in own.values())
    states = states_of(runs)
    assert set(states.values()) == {State.KEPT}
    for number, (row, run) in enumerate(own.values()):
        result = read_result(row, [run], states)
        assert result.mean("mAP") == 10.0 + number and result.mean("AP50") == 20.0
        assert run.seconds == 60 * 1.5 and not run.is_finished
    before = kept.read_text()
    keep(kept, runs)
    assert kept.read_text() == before, "what is not trained here stays as it is"
    assert not (tmp_path / "runs").exists(), "nothing is written to look at it"


def test_weights_are_trained_again_where_they_are_needed(rows, kept, fake_runner):
    entries = json.loads(kept.read_text())
    student = rows()["self_trained"][1]
    kept.write_text(json.dumps([entry for entry in entries if entry["run"] != student.digest]))
    own = rows(kept)
    runs = in_order(run for _, run in own.values())
    states = states_of(runs)
    assert names(own, states) == {
        "teacher": State.WAITING, "supervised": State.KEPT, "self_trained": State.WAITING
    }  # fmt: skip
    others = states_of(runs, todo=[own["supervised"][1]])
    assert names(own, others)["teacher"] is State.KEPT, "nothing that is to be done needs it"
    runner = fake_runner()
    execute(runs, runner, 1, states)
    assert own["supervised"][1].digest not in runner.trained
    assert set(states.values()) == {State.KEPT, State.FINISHED}
    keep(kept, runs)
    again = {entry["run"]: entry["metrics"]["bbox/AP"] for entry in json.loads(kept.read_text())}
    assert again == {
        own["teacher"][1].digest: 10.0, own["supervised"][1].digest: 11.0, student.digest: 10.0
    }  # fmt: skip


def test_a_file_that_is_something_else_is_named(tmp_path):
    file = tmp_path / "metrics.json"
    for text in ("", "[1]", '{"iteration": 3}'):
        file.write_text(text)
        for function in (read_kept, lambda file: keep(file, [])):
            with pytest.raises(UserError, match=r"--results .*metrics.json: this is no file"):
                function(file)
        assert file.read_text() == text
