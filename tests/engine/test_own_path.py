"""A path and an aggregator from a user's own files train, with nothing but config keys."""

import os

import pytest
import torch

from multas.engine.report import last_values
from training import start

KEY = "MODEL.DISTILLATION.AGGREGATION."


@pytest.fixture
def own_cfg(distilled_cfg):
    """``own_cfg(KEY, VALUE, ...)``: a user's own path beside one of ours, weighed by a user's own
    aggregator; keys below AGGREGATION."""

    def build(*opts):
        return distilled_cfg(
            "IMPORT_MODULES", ["own_path", "own_aggregator"],
            "MODEL.DISTILLATION.PATHS", [
                {"TYPE": "CosinePath", "STUDENT": "backbone", "POWER": 2.0},
                {"TYPE": "FeatureMSE", "STUDENT": "backbone.p4"},
            ],
            "DATASETS.TEST", [],
            f"{KEY}NAME", "relative",
            *(f"{KEY}{x}" if i % 2 == 0 else x for i, x in enumerate(opts)),
        )  # fmt: skip

    return build


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_a_users_own_path_and_aggregator_train(own_cfg, train_net, power):
    cfg = own_cfg()
    train_net(cfg, f"{KEY}POWER", power)
    with open(os.path.join(cfg.OUTPUT_DIR, "log.txt")) as file:
        log = file.read()
    assert "CosinePath" in log and "aggregation Relative" in log
    saved = torch.load(os.path.join(cfg.OUTPUT_DIR, "model_final.pth"), weights_only=True)
    first = saved["trainer"]["hooks"]["PathWeights"]["aggregator"]["first"]
    logged = last_values(cfg.OUTPUT_DIR)
    for name, loss in first.items():
        assert logged[f"path_weight/{name}"] == pytest.approx(float(loss) ** -power, rel=1e-4)
        assert logged[f"path_loss/{name}"] != loss, "its path has trained"


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("POWR", 0.5), r"AGGREGATION \(relative\): unknown key 'POWR'. Did you mean 'POWER'"),
        (("NORMALISATION", "l2"), r"\(relative\): unknown key 'NORMALISATION'"),
        (("NAME", "mgda", "POWER", 0.5), r"\(mgda\): unknown key 'POWER'"),
        (("NAME", "adaptive", "NORMALISATION", "l2"), r"\(adaptive\): unknown key 'NORMALISATION'"),
        (("NAME", "relatve"), r"registered as 'relatve'. Did you mean 'Relative'"),
    ],
)
def test_its_options_are_checked(own_cfg, opts, message):
    with pytest.raises(ValueError, match=message):
        start(own_cfg(*opts))
