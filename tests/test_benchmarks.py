"""The tools of the benchmarks, and a small run of each benchmark; no result is tested."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

import aggregation
import assignment
import certified
import evaluation
import inference
import kept_ap
import loading
import memory
import min_norm
import multi_task
import run
import runtimes
import scaling
import step
import tables
import timing
from multas.engine import load_config


class Clock:
    """A clock that tests set."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    return clock


def test_a_part_does_not_count_what_it_calls_by_another_name(clock):
    class Kitchen:
        def cook(self):
            clock.now += 2
            self.wash()
            clock.now += 1

        def wash(self):
            clock.now += 5

    parts = timing.Parts()
    with parts.watch(Kitchen, "cook", "cook"), parts.watch(Kitchen, "wash", "wash"):
        Kitchen().cook()
        Kitchen().wash()
    Kitchen().cook()
    assert parts.seconds == {"cook": 3, "wash": 10}


def test_alternatives_take_turns_and_the_first_round_does_not_count():
    calls = []
    seconds = timing.take_turns(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3
    )
    assert calls == ["a", "b"] * 4
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}


def test_what_does_not_work_is_told_and_not_measured():
    def broken():
        raise ImportError("no such library\nand more")

    calls, missing = timing.attempt({"good": lambda: lambda: None, "bad": broken})
    assert list(calls) == ["good"]
    assert missing == {"bad": "ImportError: no such library"}


def test_peak_memory_covers_what_is_held():
    block = b"1" * (1 << 28)
    assert timing.peak_memory() > len(block)


def cells(table: str) -> list[list[str]]:
    return [[c.strip() for c in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


def test_ratios_of_the_minima_and_within_a_round():
    seconds = {"base": [2.0, 4.0], "other": [3.0, 9.0]}
    table = tables.ratio_table(seconds, "network", missing={"third": "no compiler"})
    assert cells(table) == [
        ["base", "2.000 / 3.000 / 4.000", "1.00", "1.00 / 1.00 / 1.00"],
        ["other", "3.000 / 6.000 / 9.000", "1.50", "1.50 / 1.88 / 2.25"],
        ["third", "no compiler", "-", "-"],
    ]
    barred = tables.ratio_table(seconds, "network", bars={"other": "≤ 2"})
    assert [row[-1] for row in cells(barred)] == ["", "≤ 2"]


def test_peak_memory_needs_its_base_and_keeps_no_half_results(tmp_path):
    script = tmp_path / "peak.py"
    script.write_text(
        "import sys, pathlib\n"
        "seen = pathlib.Path(__file__ + sys.argv[1])\n"
        "if sys.argv[2] == 'once' and seen.exists():\n    raise MemoryError('no more')\n"
        "seen.touch()\nprint('hello', 2e9)\n"
    )
    arguments = {"base": ("a", "always"), "other": ("b", "once")}
    gigabytes, missing = memory.peak_gigabytes(str(script), arguments, rounds=2)
    assert gigabytes == {"base": [2.0, 2.0]} and missing == {"other": "MemoryError: no more"}
    with pytest.raises(RuntimeError, match="no peak memory of base: MemoryError"):
        memory.peak_gigabytes(str(script), {"base": ("c", "once")}, rounds=2)


def test_a_benchmark_leaves_the_results_of_others(tmp_path, monkeypatch, capsys):
    def fail(rounds):
        raise ValueError("no such thing")

    texts = {"a": lambda rounds: f"## A\n\n{rounds} rounds", "b": fail}
    monkeypatch.setattr(run, "BENCHMARKS", texts)
    file = tmp_path / "results.md"
    for name in ("b", "a"):
        write = run.read_sections(file) | {name: run.measure(name, 3)}
        run.write_sections(file, write)
    sections = run.read_sections(file)
    assert list(sections) == ["a", "b"]
    assert sections["a"].startswith("## A\n\n") and sections["a"].endswith("\n3 rounds")
    assert timing.machine() in sections["a"]
    assert sections["b"].endswith("Failed: ValueError: no such thing")
    assert set(timing.machine_name()) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_twice_as_fast_is_a_speed_of_two():
    table = tables.rate_table({"base": [2.0, 4.0], "other": [1.0, 2.0]}, "network", 8)
    assert cells(table)[1] == ["other", "4.0 / 6.0 / 8.0", "2.00", "2.00 / 2.00 / 2.00"]


def test_the_excess_of_a_point_is_exact():
    gradients = np.array([[1.0, 0.0], [0.0, 2.0]])
    best = np.array([0.8, 0.2])
    worse, worst = np.array([0.5, 0.5]), np.array([0.0, 1.0])
    # Squared lengths 0.8, 1.25 and 4.
    assert certified.excess(gradients, [best, worse, worst]) == pytest.approx([0, 0.5625, 4])
    # A single solver gets the same result, as long as no weight is zero.
    assert certified.excess(gradients, [worse]) == pytest.approx([0.5625])
    assert certified.angle_residual(gradients, best) < 1e-15
    assert certified.angle_residual(gradients, worse) > 0.1


@pytest.mark.parametrize("kind", min_norm.KINDS)
def test_solvers_agree_on_small_problems(kind):
    rows = min_norm.KINDS[kind](np.random.default_rng(0), 3)
    gram = torch.from_numpy(rows @ rows.T)
    points = [s(gram).numpy() for s in (min_norm.min_norm_weights, min_norm.frank_wolfe)]
    assert max(certified.excess(rows, points)) < 1e-6


@pytest.fixture
def small(monkeypatch, repository, forget_registered):
    """``small(module, NAME=value, ...)`` changes the constants of a benchmark for this test."""
    monkeypatch.chdir(repository)

    def set_constants(module, **constants):
        for name, value in constants.items():
            monkeypatch.setattr(module, name, value)
        return module

    return set_constants


def test_min_norm(small):
    text = small(min_norm, SIZES=(2, 3), PROBLEMS=2, DIMENSIONS=20).run(1)
    assert "| degenerate" in text
    assert "| ours" in text


def test_assignment_has_equal_losses_on_both_sides(small):
    text = small(assignment, CASES=((96, 3), (96, 30)), BATCH=2).run(1)
    assert "| mutual_guidance | 1,746     | 30" in text


def test_evaluation_has_the_figures_of_detectron2(small):
    text = small(evaluation, IMAGES=12, CLASSES=3).run(1)
    assert "are equal" in text
    assert evaluation.VOC not in DatasetCatalog.list()


def test_loading(small):
    text = small(loading, IMAGES=2, _memory=lambda: "").run(1)
    assert "MultasMapper, pseudo-labels" in text


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux tells it")
def test_loading_measures_memory_of_processes(small, capsys):
    small(loading, MANY=40).main("1", "False")
    assert int(capsys.readouterr().out) > 0


def test_aggregation(small):
    text = small(
        aggregation, SIZE=64, BATCH=1, TEACHER_DEPTH=18, PATH_COUNTS=(2,), _memory=lambda *_: "",
        OURS={k: aggregation.OURS[k] for k in ("Distiller without paths", "mgda, features")},
        TORCHJD={"torchjd mtl_backward, sequential": {"shared_only": True}, "bad": {"chunk": -1}},
    ).run(1)  # fmt: skip
    names = [row[0] for row in cells(text.split("\n\n")[2])]
    assert names[:3] == [aggregation.STOCK, "Distiller without paths", "mgda, features"]
    assert names[-1] == "bad"


def test_aggregation_measures_memory_of_a_process(capsys):
    aggregation.main(aggregation.STOCK, "2", "64", "1")
    assert int(capsys.readouterr().out) > 0


def test_a_step_is_measured_in_parts(small):
    rows = {row: step.ROWS[row] for row in ("supervised", step.HALF, step.KEPT)}
    text = small(step, SIZE=64, BATCH=1, ROWS=rows, _memory=lambda *_: "").run(1)
    assert [row[0] for row in cells(text.split("\n\n")[1])] == list(rows)


def test_a_step_measures_memory_of_a_process(capsys):
    step.main("supervised", "1", "64")
    assert int(capsys.readouterr().out) > 0


def test_scaling_measures_steps_in_one_process():
    job = scaling.Job(aggregation.STOCK, processes=1, threads=1, size=64, batch=1, steps=2)
    assert len(scaling.work(job, rank=0)) == 2


CHOSEN = ("channels last", "TorchScript", "bfloat16", "int8, dynamic (PyTorch)")
FEW_RUNTIMES = {name: runtimes.RUNTIMES[name] for name in CHOSEN}


def test_inference(small, monkeypatch):
    # kept_ap trains for a minute; its evaluation is tested below.
    monkeypatch.setattr(kept_ap, "run", lambda: "AP")
    text = small(inference, SIZE=64, BATCHES=(1,), RUNTIMES=FEW_RUNTIMES).run(1)
    assert "covers linear layers only" in text
    assert float(text.split("TorchScript ")[-1].split(",")[0]) < 1e-4


def test_every_runtime_of_a_student_is_scored(small, monkeypatch):
    small(kept_ap, SIDE=64, RUNTIMES=FEW_RUNTIMES)
    torch.manual_seed(0)
    cfg = load_config(kept_ap.FILE, ["MODEL.DENSE_HEAD.SCORE_THRESH_TEST", 0.0])
    student = build_model(cfg).eval()
    image = {"image": torch.randint(256, (3, 50, 64)).byte(), "height": 100, "width": 128}
    seen = []

    def test(cfg, model):
        [found] = model([image])
        seen.append(found["instances"].pred_boxes.tensor)
        return {"bbox": {"AP": 100 * float(found["instances"].scores.sum())}}

    monkeypatch.setattr(kept_ap.Trainer, "test", test)
    with torch.no_grad():
        found, missing = kept_ap.scores(cfg, student)
    assert list(found)[:4] == [
        "as trained", "folded", "folded, channels last", "folded, TorchScript"
    ]  # fmt: skip
    assert list(missing) == ["int8, dynamic (PyTorch)"]
    assert list(found)[4:] == ["folded, bfloat16"]
    for name, boxes in zip(list(found)[:4], seen, strict=False):
        assert found[name] == pytest.approx(found["as trained"], rel=1e-4)
        # Scores that are equal to rounding may come in another order.
        distances = torch.cdist(boxes, seen[0], p=torch.inf)
        assert len(boxes) == len(seen[0])
        assert max(distances.amin(0).max(), distances.amin(1).max()) < 1e-2


@pytest.mark.parametrize("name", list(multi_task.ALTERNATIVES))
def test_multi_task_steps(name):
    with EventStorage():
        multi_task.new_step(name, images=2, size=64)()
