"""Early stopping: when it stops, what it keeps, and that it does not look at the test set."""

import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from multas.engine import Trainer
from multas.engine.report import last_values
from multas.engine.weights.early_stopping import Progress
from multas.engine.weights.evaluated_models import live_weights
from training import copies, different, interrupt, start, weights_in

KEY = "SOLVER.EARLY_STOPPING."


def stop_after(values, rule="streak", patience=5, min_delta=0.07):
    """Number of evaluations after which a course of values ends, None = it does not."""
    progress = Progress(longest=patience)
    for i, value in enumerate(values):
        progress.update(value, i, min_delta)
        if progress.exhausted(rule, patience):
            return i + 1
    return None


def test_streak_rule_allows_one_and_a_half_times_the_longest_streak():
    # 1.5 x 5 = 7.5: the best, then eight without improvement.
    assert stop_after([10.0] * 30) == 9
    # A streak of 6 before an improvement stretches the patience to 1.5 x 7 = 10.5.
    values = [10.0, *[9.0] * 7, 11.0, *[10.0] * 30]
    assert stop_after(values) == 9 + 11
    assert stop_after(values, patience=2) == 5


def test_fixed_rule_counts_evaluations_and_never_never_stops():
    assert stop_after([1.0, 2.0, 1.9, 1.9, 1.9], rule="fixed", patience=3) == 5
    assert stop_after([1.0] * 100, rule="never", patience=3) is None


def test_a_gain_within_the_margin_is_none():
    progress = Progress(longest=5)
    assert progress.update(10.0, 0, 0.07)
    assert not progress.update(10.07, 1, 0.07)
    assert progress.update(10.08, 2, 0.07)
    assert not progress.update(float("nan"), 3, 0.07)
    assert (progress.best, progress.best_iteration, progress.since) == (10.08, 2, 1)


@given(
    st.lists(st.floats(0, 100) | st.just(float("nan")), max_size=60),
    st.sampled_from(["streak", "fixed"]),
    st.integers(1, 6),
)
def test_every_course_agrees_with_a_plain_count(values, rule, patience):
    best, since, longest, expected = -np.inf, 0, patience, None
    for i, value in enumerate(values):
        if value > best + 0.5:
            best, longest, since = value, max(longest, since), 0
        else:
            since += 1
        if since > 1.5 * longest if rule == "streak" else since >= patience:
            expected = i + 1
            break
    assert stop_after(values, rule, patience, min_delta=0.5) == expected


class Scripted(Trainer):
    """Its validation figures are given; its test figure counts the evaluations."""

    figures: list[float]
    log: list[tuple]

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        weights = copies(live_weights(model))
        (name,) = cfg.DATASETS.TEST
        cls.log.append((name, weights))
        count = sum(entry[0] == name for entry in cls.log)
        value = cls.figures[count - 1] if name.endswith("_val") else float(count)
        return {"bbox": {"AP": value, "AP50": value + 1}}


@pytest.fixture
def scripted(tiny_cfg, card):
    """``scripted(figures, KEY, VALUE, ...)``: a trainer that has trained, and its evaluations."""

    def build(figures, *opts, folder="run", resume=False, interrupt_at=None):
        cfg = tiny_cfg(
            f"{KEY}ENABLED", True, f"{KEY}DATASET", f"{card['name']}_val", f"{KEY}PERIOD", 2,
            f"{KEY}START", 0.0, f"{KEY}EARLIEST", 0.0, f"{KEY}RULE", "fixed", f"{KEY}PATIENCE", 2,
            "SOLVER.MAX_ITER", 20, "SOLVER.CHECKPOINT_PERIOD", 3, *opts, folder=folder,
        )  # fmt: skip
        Scripted.figures, Scripted.log = figures, []
        trainer = start(cfg, resume, kind=Scripted)
        if interrupt_at is None:
            trainer.train()
        else:
            interrupt(trainer, interrupt_at)
        return trainer, Scripted.log

    return build


def test_a_run_ends_early_and_the_best_is_the_product(scripted):
    trainer, log = scripted([10.0, 20.0, 15.0, 16.0])
    assert trainer.iter == trainer.max_iter == 8
    best = log[1][1]
    assert different(weights_in(trainer.cfg, "model_best.pth"), best) == []
    assert different(weights_in(trainer.cfg, "student.pth"), best) == []
    assert different(weights_in(trainer.cfg, "student_raw.pth"), live_weights(trainer.model)) == []
    # The final evaluation, on the test set: first the student, then the best.
    names = [name.rsplit("_", 1)[1] for name, _ in log]
    assert names == ["val"] * 4 + ["test"] * 2
    assert different(log[-1][1], best) == []
    metrics = last_values(trainer.cfg.OUTPUT_DIR)
    assert metrics["bbox/AP"] == 2.0 and "best/bbox/AP" not in metrics
    assert metrics["student/bbox/AP"] == 1.0
    assert metrics["validation/bbox/AP"] == 16.0
    final = torch.load(os.path.join(trainer.cfg.OUTPUT_DIR, "model_final.pth"), weights_only=True)
    assert final["iteration"] == 7


def test_a_run_that_keeps_improving_runs_to_its_end(scripted):
    trainer, log = scripted([float(i) for i in range(10)])
    assert trainer.iter == trainer.max_iter == 20
    assert different(weights_in(trainer.cfg, "student.pth"), live_weights(trainer.model)) == []
    assert len(log) == 12


def test_the_last_iteration_is_evaluated_whatever_the_period(scripted):
    trainer, log = scripted([1.0, 2.0], f"{KEY}PERIOD", 5, "SOLVER.MAX_ITER", 7)
    assert [name.endswith("_val") for name, _ in log] == [True, True, False, False]
    assert different(log[1][1], live_weights(trainer.model)) == []


def test_start_and_earliest_are_shares_of_the_run(scripted):
    trainer, log = scripted([5.0] * 9, f"{KEY}START", 0.3, f"{KEY}EARLIEST", 0.75)
    # Evaluated from iteration 6 on; exhausted at 10, but it goes on until 15 are done (at 16).
    assert trainer.max_iter == 16
    assert sum(name.endswith("_val") for name, _ in log) == 6
    assert different(weights_in(trainer.cfg, "model_best.pth"), log[0][1]) == []


def test_the_average_is_what_is_judged_and_kept(scripted):
    trainer, log = scripted(
        [10.0, 9.0, 9.0], "SOLVER.EMA.ENABLED", True, "SOLVER.EMA.DECAY", 1.0,
        "SOLVER.EMA.RAMP", 0.0,
    )  # fmt: skip
    # With decay 1 the average stays at the start: all three evaluations saw the same weights.
    assert different(log[0][1], log[2][1]) == []
    assert different(weights_in(trainer.cfg, "student.pth"), log[0][1]) == []
    assert {"student", "ema", "bbox"} == trainer._last_eval_results.keys()


def test_an_interrupted_run_stops_where_an_uninterrupted_one_does(scripted):
    figures = [10.0, 20.0, 15.0, 16.0]
    whole, _ = scripted(figures, folder="whole")
    scripted(figures, folder="parts", interrupt_at=6)
    # The last checkpoint is behind iteration 6: three evaluations are done, the fourth is to come.
    resumed, _ = scripted(figures[3:], folder="parts", resume=True)
    assert resumed.start_iter == 6
    assert resumed.iter == whole.iter == 8
    assert different(live_weights(resumed.model), live_weights(whole.model)) == []
    assert (
        different(weights_in(resumed.cfg, "student.pth"), weights_in(whole.cfg, "student.pth"))
        == []
    )
    assert resumed._final.early_stopping.progress == whole._final.early_stopping.progress
    # Resuming what has ended trains no further.
    again, _ = scripted([99.0], folder="parts", resume=True)
    assert again.iter == again.start_iter == 8
    assert (
        different(weights_in(again.cfg, "student.pth"), weights_in(whole.cfg, "student.pth")) == []
    )


def test_several_metrics_are_summed_and_unknown_ones_named(scripted):
    trainer, _ = scripted([1.0], f"{KEY}METRICS", ["bbox/AP", "bbox/AP50"], "SOLVER.MAX_ITER", 2)
    assert trainer._final.early_stopping.progress.best == 3.0
    with pytest.raises(ValueError, match=r"sem_seg/mIoU.*Choose from bbox/AP"):
        scripted([1.0], f"{KEY}METRICS", ["sem_seg/mIoU"], folder="other")


def test_nothing_measurable_leaves_the_student_as_product(scripted):
    trainer, _ = scripted([float("nan")] * 9, "SOLVER.MAX_ITER", 4)
    assert different(weights_in(trainer.cfg, "student.pth"), live_weights(trainer.model)) == []
    assert not os.path.exists(os.path.join(trainer.cfg.OUTPUT_DIR, "model_best.pth"))


def test_selecting_on_the_test_set_is_an_error_unless_it_is_asked_for(scripted, card):
    opts = [f"{KEY}DATASET", f"{card['name']}_test"]
    with pytest.raises(ValueError, match="SELECT_ON_TEST"):
        scripted([1.0], *opts)
    trainer, _ = scripted([1.0] * 9, *opts, f"{KEY}SELECT_ON_TEST", True, folder="asked")
    assert trainer.iter == trainer.max_iter


@pytest.mark.parametrize(
    ("opts", "named"),
    [
        (["DATASET", ""], "DATASET"),
        (["PERIOD", 0], "PERIOD"),
        (["RULE", "sometimes"], "RULE is 'sometimes'"),
        (["METRICS", []], "METRICS"),
    ],
)
def test_incomplete_options_are_named(scripted, opts, named):
    with pytest.raises(ValueError, match=named):
        scripted([1.0], KEY + opts[0], opts[1])
