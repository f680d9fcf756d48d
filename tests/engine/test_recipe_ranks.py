"""The recipe on two ranks in mixed precision: they stop together, with the same weights."""

import os
import sys

import pytest
import torch

from training import train_on_two_ranks
from two_ranks import process_group, run_on_two_ranks

KEY = "SOLVER.EARLY_STOPPING."


def main(folder: str, rank: int) -> None:
    with process_group(folder, rank):
        trainer = train_on_two_ranks(os.path.join(folder, "job.yaml"), rank)
        state = {
            "iterations": trainer.iter,
            "progress": vars(trainer._final.early_stopping.progress),
            "average": trainer._final.average.weights,
            "parameters": [name for name, _ in trainer.model.module.named_parameters()],
            "evaluated": sorted(trainer._last_eval_results),
        }
        torch.save(state, os.path.join(folder, f"rank{rank}.pth"))


@pytest.fixture
def ranks(tiny_cfg, card, tmp_path) -> list[dict]:
    """What each of two processes has after a run that ends with its second validation."""
    cfg = tiny_cfg(
        "SOLVER.EMA.ENABLED", True, "SOLVER.EMA.RAMP", 2.0, "SOLVER.MAX_ITER", 20,
        "SOLVER.AMP.ENABLED", True,
        f"{KEY}ENABLED", True, f"{KEY}DATASET", f"{card['name']}_val", f"{KEY}PERIOD", 2,
        f"{KEY}START", 0.0, f"{KEY}EARLIEST", 0.0, f"{KEY}RULE", "fixed", f"{KEY}PATIENCE", 1,
        f"{KEY}MIN_DELTA", 1e9, "INPUT.SQUARE_SIZE", 64, "INPUT.MULTI_SCALE.SIZES", [64, 96],
    )  # fmt: skip
    os.makedirs(cfg.OUTPUT_DIR)
    (tmp_path / "job.yaml").write_text(cfg.dump())
    return run_on_two_ranks(__file__, tmp_path)


def test_processes_stop_together_with_the_same_weights(ranks, tmp_path):
    first, second = ranks
    assert first["iterations"] == second["iterations"] == 4
    assert first["progress"] == second["progress"]
    # Running statistics are each process's own, as in Detectron2.
    for name in first["parameters"]:
        assert torch.equal(first["average"][name], second["average"][name]), name
    assert {"student", "ema", "bbox"} == set(first["evaluated"])
    files = [
        torch.load(tmp_path / "run" / name, weights_only=True)["model"]
        for name in ("student.pth", "model_best.pth", "student_raw.pth")
    ]
    assert all(torch.equal(files[0][k], files[1][k]) for k in files[0])
    assert any(not torch.equal(files[0][k], files[2][k]) for k in files[0])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
