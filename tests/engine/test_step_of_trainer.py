"""The step that the trainer chooses: resumed, in mixed precision, by aggregation."""

import os

import pytest
import torch
from detectron2.engine import SimpleTrainer
from detectron2.modeling import build_model

from multas.engine import Trainer
from training import start, train


@pytest.fixture
def detector_cfg(tiny_cfg, card, tmp_path):
    """The tiny detector, distilled over two paths; keys below AGGREGATION, then any others."""

    def build(aggregation, *opts, folder="run"):
        teacher = tiny_cfg("MODEL.FPN.OUT_CHANNELS", 16)
        config, weights = tmp_path / "teacher.yaml", tmp_path / "teacher.pth"
        config.write_text(teacher.dump())
        if not weights.exists():
            torch.manual_seed(5)
            torch.save({"model": build_model(teacher).state_dict()}, weights)
        pairs = zip(aggregation[::2], aggregation[1::2], strict=True)
        return tiny_cfg(
            "MODEL.META_ARCHITECTURE", "Distiller",
            "MODEL.DISTILLATION.TEACHER.CONFIG_FILE", str(config),
            "MODEL.DISTILLATION.TEACHER.WEIGHTS", str(weights),
            "MODEL.DISTILLATION.PATHS", [
                {"TYPE": "FeatureMSE", "STUDENT": "backbone"}, {"TYPE": "SoftDetection"}
            ],
            "DATASETS.TRAIN", [f"{card['name']}_half", f"{card['name']}_half2_unlabeled"],
            *(x for k, v in pairs for x in (f"MODEL.DISTILLATION.AGGREGATION.{k}", v)),
            *opts, folder=folder,
        )  # fmt: skip

    return build


@pytest.mark.parametrize(
    "aggregation",
    [
        ("NAME", "mgda"),
        ("NAME", "grad_norm", "SCOPE_LAYERS", ["backbone.bottom_up.res3"]),
        ("NAME", "mgda", "SCOPE", "features", "SCOPE_LAYERS", ["backbone.bottom_up.stem"]),
        ("NAME", "dwa", "DWA_PERIOD", 2),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(detector_cfg, aggregation):
    schedule = ("SOLVER.CHECKPOINT_PERIOD", 3, "SOLVER.MAX_ITER", 6)
    whole = train(detector_cfg(aggregation, *schedule, folder="whole"))
    cfg = detector_cfg(aggregation, *schedule, folder="parts")
    first = start(cfg)
    first.max_iter = 3
    first.train()
    second = train(cfg, resume=True)
    assert second.start_iter == 3
    for a, b in (
        (whole.model, second.model),
        (whole.model.distillation, second.model.distillation),
    ):
        for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
            assert torch.equal(x, y), name


def test_the_trainer_trains_in_bfloat16_where_there_is_no_gpu(detector_cfg):
    trainer = train(detector_cfg(("NAME", "mgda"), "SOLVER.AMP.ENABLED", True))
    precision = trainer._trainer.precision
    assert precision.autocast is torch.bfloat16 and precision.scaler is None
    logged = trainer.storage.latest()
    total = sum(value for key, (value, _) in logged.items() if key.startswith("loss_"))
    assert logged["total_loss"][0] == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("aggregation", [("NAME", "adaptive"), ("NAME", "dwa")])
def test_aggregations_of_losses_keep_detectron2s_own_step(detector_cfg, aggregation):
    cfg = detector_cfg(aggregation)
    os.makedirs(cfg.OUTPUT_DIR)
    assert type(Trainer(cfg)._trainer) is SimpleTrainer
