"""A training that is killed again and again, wherever it is, ends with the bits of a whole one."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping

import pytest
import torch
import yaml

from bad_inputs.world import build

KILLS = 50
CONFIG = {
    "_BASE_": "distilled.yaml",
    "MODEL": {
        "DISTILLATION": {
            "PATHS": [
                {"TYPE": "FeatureMSE", "STUDENT": "backbone"},
                {"TYPE": "AttentionTransfer", "STUDENT": ["backbone.bottom_up.res3"]},
            ]
        }
    },
    "SOLVER": {
        "MAX_ITER": 144,
        "CHECKPOINT_PERIOD": 1,
        "EMA": {"ENABLED": True},
        "EARLY_STOPPING": {
            "ENABLED": True, "DATASET": "tiny_val", "PERIOD": 16, "START": 0.0, "RULE": "never",
        },
    },
}  # fmt: skip


def same(a, b) -> bool:
    """Whether two contents of checkpoints are equal to the bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kills_at_any_moment_lose_nothing(tmp_path, repository, forget_registered):
    world = build(tmp_path)
    (world / "killed.yaml").write_text(yaml.safe_dump(CONFIG))
    command = [sys.executable, str(repository / "tests" / "killing.py"), str(tmp_path)]
    done = subprocess.run([*command, str(KILLS), "1"], capture_output=True, text=True,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (lines[-1:], done.stderr[-2000:])
    first, *attempts, last = lines
    assert first["end"] == last["end"] == "ended 0"
    assert [seen for seen in attempts if seen["faults"]] == []
    kills = [seen for seen in attempts if seen["end"] != "ended 0"]
    assert len(kills) == KILLS
    assert {seen["signal"] for seen in kills} == {"SIGKILL", "SIGTERM"}
    # They have met files that were being written, and the training at its very end.
    assert sum(bool(seen["partial"]) for seen in kills) >= 3
    assert any(seen["done"] == CONFIG["SOLVER"]["MAX_ITER"] for seen in kills)
    for name in ("student.pth", "student_raw.pth", "model_best.pth", "model_final.pth"):
        files = [tmp_path / run / name for run in ("whole", "killed")]
        assert same(*(torch.load(file, weights_only=True) for file in files)), name
