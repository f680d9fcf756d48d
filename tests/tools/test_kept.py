"""Results that outlive the folders of their runs."""

import json
import shutil

import pytest

from multas.util.errors import UserError
from reproduction.execution import State, execute, states_of
from reproduction.kept import keep, restore
from reproduction.results import read_result
from reproduction.rows import rows_of
from reproduction.runs import Planner, in_order
from reproduction.tables import read_tables

ROWS = ("teacher", "supervised", "self_trained")


@pytest.fixture
def rows(tmp_path):
    """Three rows of Table A1 by name, and the run of each."""
    planner = Planner(tmp_path / "runs")
    found = {row.name: row for row in rows_of(read_tables()["A1"], "tiny")}
    return {name: (found[name], planner.plan(found[name].address, 1)) for name in ROWS}


@pytest.fixture
def kept(rows, tmp_path, fabricate):
    """The file of their results; the folders of their runs are gone."""
    for number, (_, run) in enumerate(rows.values()):
        fabricate(run, bbox__AP=10.0 + number, bbox__AP50=20.0)
    file = tmp_path / "results.json"
    keep(file, [run for _, run in rows.values()])
    shutil.rmtree(tmp_path / "runs")
    return file


def names(rows, states):
    return {name: states[run.digest] for name, (_, run) in rows.items()}


def test_what_is_kept_is_reported_as_if_it_were_there(rows, kept):
    runs = in_order(run for _, run in rows.values())
    assert set(states_of(runs).values()) == {State.WAITING}
    restore(kept, runs)
    states = states_of(runs)
    assert set(states.values()) == {State.KEPT}
    for number, (row, run) in enumerate(rows.values()):
        result = read_result(row, [run], states)
        assert result.mean("mAP") == 10.0 + number and result.mean("AP50") == 20.0
        assert run.seconds == 60 * 1.5 and not run.is_finished
    before = kept.read_text()
    keep(kept, runs)
    assert kept.read_text() == before, "what is not trained here stays as it is"


def test_weights_are_trained_again_where_they_are_needed(rows, kept, fake_runner):
    runs = in_order(run for _, run in rows.values())
    student = rows["self_trained"][1]
    entries = [x for x in json.loads(kept.read_text()) if x["run"] != student.digest]
    kept.write_text(json.dumps(entries))
    restore(kept, runs)
    assert student.needs and rows["teacher"][1] in student.needs
    states = states_of(runs)
    assert names(rows, states) == {
        "teacher": State.WAITING, "supervised": State.KEPT, "self_trained": State.WAITING
    }  # fmt: skip
    others = states_of(runs, todo=[rows["supervised"][1]])
    assert names(rows, others)["teacher"] is State.KEPT, "nothing that is to be done needs it"
    runner = fake_runner()
    execute(runs, runner, 1, states)
    assert rows["supervised"][1].digest not in runner.trained
    assert set(states.values()) == {State.KEPT, State.FINISHED}
    keep(kept, runs)
    again = {entry["run"]: entry["metrics"]["bbox/AP"] for entry in json.loads(kept.read_text())}
    assert again == {
        rows["teacher"][1].digest: 10.0, rows["supervised"][1].digest: 11.0, student.digest: 10.0
    }  # fmt: skip


def test_a_file_that_is_something_else_is_named(rows, tmp_path):
    file = tmp_path / "metrics.json"
    for text in ("", "[1]", '{"iteration": 3}'):
        file.write_text(text)
        for function in (keep, restore):
            with pytest.raises(UserError, match=r"--results .*metrics.json: this is no file"):
                function(file, [run for _, run in rows.values()])
        assert file.read_text() == text
