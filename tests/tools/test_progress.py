"""How far the trainings of a table have come, on a terminal and in a file."""

import io
import json
from pathlib import Path

import pytest

from multas.util.screen import Screen
from reproduction.execution import execute, states_of
from reproduction.progress import Progress, Watch, progress_of
from reproduction.run import Run


@pytest.fixture
def run(tmp_path):
    return Run("configs/a.yaml#toy/row", 1, (), tmp_path / "0123", (), 500)


def train_until(run: Run, iteration: int, tail: str = "") -> None:
    """Leave the metrics of a training that is in this iteration."""
    run.folder.mkdir(exist_ok=True)
    records = [{"iteration": i, "eta_seconds": 500.0 - i} for i in range(19, iteration + 1, 20)]
    lines = "".join(f"{json.dumps(record)}\n" for record in records)
    (run.folder / "metrics.json").write_text(lines + tail)


@pytest.mark.parametrize("tail", ["", '{"iterat', '{"iteration": 39, "bbox/AP"'])
def test_the_last_whole_line_counts(run, tail):
    assert progress_of(run) is None
    train_until(run, 59, tail)
    assert progress_of(run) == Progress(60, 441.0)


def test_only_the_end_of_long_metrics_is_read(run):
    run.folder.mkdir()
    line = json.dumps({"iteration": 7, "more": "x" * 70_000})
    (run.folder / "metrics.json").write_text(f"{line}\n{json.dumps({'iteration': 8})}\n")
    assert progress_of(run) == Progress(9, None)


def test_a_file_gets_a_line_for_each_tenth(run):
    stream = io.StringIO()
    watch = Watch(Screen(stream))
    for iteration in range(0, 500, 20):
        train_until(run, iteration)
        watch([run])
        watch([run])
    lines = stream.getvalue().splitlines()
    assert len(lines) == 9
    assert lines[0].endswith("a/toy/row, seed 1: iteration 60/500, 0:07:21 left.")


def test_a_terminal_gets_a_bar_while_it_trains(run, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    watch = Watch(Screen(stream))
    watch([run])
    assert "0/500" in stream.getvalue()
    train_until(run, 59)
    watch([run])
    assert "60/500 0:07:21 left" in stream.getvalue() and "log: " in stream.getvalue()
    length = len(stream.getvalue())
    watch([])
    watch([])
    assert "60/500" not in stream.getvalue()[length:]


def test_whoever_watches_sees_what_runs_and_that_it_has_ended(run, fake_runner, tmp_path):
    seen = []
    execute([run], fake_runner(), 1, states_of([run]), lambda line: None,
            lambda running: seen.append([r.folder for r in running]))  # fmt: skip
    assert seen[0] == [Path(tmp_path / "0123")] and seen[-1] == []


def test_the_log_of_a_row_is_named_when_it_starts(run, fake_runner):
    lines = []
    execute([run], fake_runner(), 1, states_of([run]), lines.append)
    assert lines[1] == f"[0/1] a/toy/row, seed 1: starts. Its log is {run.console}"
