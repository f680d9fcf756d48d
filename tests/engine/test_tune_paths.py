"""The search for path weights: all kinds run, resume, and write down what they found."""

import sys

import pytest
import yaml

import tune_paths
from multas.util.errors import UserError
from training import PATHS

optuna = pytest.importorskip("optuna")


@pytest.fixture
def command(distilled_cfg, tmp_path, monkeypatch, card):
    """``command(search, *options)``: runs the tool on the tiny detector, gives its folder."""
    name = card["name"]
    cfg = distilled_cfg(
        "MODEL.DISTILLATION.PATHS", PATHS[1:],
        "DATASETS.TRAIN", [f"{name}_half"], "DATASETS.TEST", [f"{name}_val"],
        "SOLVER.MAX_ITER", 1, folder="tuned",
    )  # fmt: skip
    config = tmp_path / "student.yaml"
    config.write_text(cfg.dump())

    def run(search, *options):
        arguments = ["tune_paths.py", "--config-file", str(config), "--search", search, *options]
        monkeypatch.setattr(sys, "argv", arguments)
        tune_paths.main()
        return tmp_path / "tuned"

    return run


def rows_of(folder) -> list[list[str]]:
    lines = (folder / "trials.md").read_text().splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_grid_tries_every_combination_once_and_a_second_call_none(command, monkeypatch):
    values = {}

    def measure(cfg, weights, metric):
        values[weights["mse"], weights["soft"]] = weights["mse"] - weights["soft"]
        return values[weights["mse"], weights["soft"]]

    monkeypatch.setattr(tune_paths, "measure", measure)
    folder = command("grid", "--grid", "0.5", "2")
    assert values.keys() == {(0.5, 0.5), (0.5, 2), (2, 0.5), (2, 2)}
    assert rows_of(folder)[0][1:] == ["2", "0.5", "1.5"], "the best one first"
    best = yaml.safe_load((folder / "best.yaml").read_text())["MODEL"]["DISTILLATION"]
    assert [path["WEIGHT"] for path in best["PATHS"]] == [2.0, 0.5]
    assert best["AGGREGATION"]["NAME"] == "hand_tuned"
    values.clear()
    command("grid", "--grid", "0.5", "2")
    assert not values


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_an_interrupted_search_repeats_the_running_trial_and_goes_on(command, monkeypatch, search):
    seen: list[dict] = []

    def measure(cfg, weights, metric):
        seen.append(dict(weights))
        if len(seen) == 2:
            raise KeyboardInterrupt
        if len(seen) == 4:
            raise FloatingPointError("diverged")
        return weights["mse"]

    monkeypatch.setattr(tune_paths, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        command(search, "--trials", "4")
    folder = command(search, "--trials", "4")
    assert len(seen) == 5 and seen[2] == seen[1]
    draws = {tuple(weights.values()) for weights in seen}
    assert len(draws) == 4, "a sampler that starts anew must not draw the same again"
    assert all(1e-2 <= w <= 1e3 for weights in seen for w in weights.values())
    assert len(rows_of(folder)) == 3, "a training that diverged is no result, and no end"


def test_a_trial_that_was_running_when_the_process_died_is_run_again(
    command, monkeypatch, tmp_path
):
    (tmp_path / "tuned").mkdir()
    study = optuna.create_study(
        study_name="random", storage=f"sqlite:///{tmp_path}/tuned/trials.db", direction="maximize"
    )
    lost = study.ask()
    drawn = {name: lost.suggest_float(name, 1e-2, 1e3, log=True) for name in ("mse", "soft")}
    seen = []
    monkeypatch.setattr(tune_paths, "measure", lambda c, w, m: seen.append(dict(w)) or 1.0)
    command("random", "--trials", "2")
    assert seen[0] == drawn and len(seen) == 2


def test_a_real_trial_trains_and_is_measured_on_validation(command):
    folder = command("random", "--trials", "1", "--metric", "bbox/AP50")
    assert (folder / "trials.png").stat().st_size > 1000
    assert len(rows_of(folder)) == 1
    (trial,) = folder.glob("trial_*")
    assert (trial / "student.pth").exists()


def test_bilevel_gives_the_weights_it_learned(command):
    folder = command("bilevel", "--metric", "bbox/AP50")
    weights = [float(x) for x in rows_of(folder)[0][1:3]]
    assert all(w > 0 for w in weights)
    best = yaml.safe_load((folder / "best.yaml").read_text())["MODEL"]["DISTILLATION"]["PATHS"]
    assert [path["WEIGHT"] for path in best] == pytest.approx(weights, rel=1e-3)


def test_an_unknown_metric_and_several_test_sets_are_explained(command, card):
    with pytest.raises(
        UserError, match=r"--metric 'top1' is not measured on .* Choose from: .*bbox/AP50"
    ):
        command("random", "--trials", "1", "--metric", "top1")
    with pytest.raises(UserError, match="name the one validation set"):
        command("random", "DATASETS.TEST", f"('{card['name']}_val','{card['name']}_test')")
