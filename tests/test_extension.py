"""A path and an aggregator from a user's own file train, with nothing but config keys."""

import os
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.modeling import build_model

from multas.data import make_toy
from multas.engine import Trainer, load_config


@pytest.fixture(scope="module")
def cards(tmp_path_factory, repository) -> tuple[str, str]:
    """Name and card of a tiny copy of the embedded data set."""
    folder = tmp_path_factory.mktemp("extension")
    root = make_toy(folder / "data", train=8, val=4, test=4)
    card = yaml.safe_load((repository / "datasets" / "cards" / "toy.yaml").read_text())
    card |= {"name": "extension_toy", "root": str(root)}
    (folder / "card.yaml").write_text(yaml.safe_dump(card))
    return card["name"], str(folder / "card.yaml")


def test_a_users_own_path_and_aggregator_train(cards, tmp_path, repository, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    name, card = cards
    base = str(repository / "configs" / "quickstart" / "base.yaml")
    student = [
        "DATASETS.CARDS", [card],
        "DATASETS.TRAIN", [f"{name}_train"],
        "DATASETS.TEST", [],
        "MODEL.DEVICE", "cpu",
        "MODEL.RESNETS.STEM_OUT_CHANNELS", 4,
        "MODEL.RESNETS.RES2_OUT_CHANNELS", 4,
        "MODEL.FPN.OUT_CHANNELS", 8,
        "SOLVER.IMS_PER_BATCH", 2,
        "SOLVER.MAX_ITER", 3,
        "OUTPUT_DIR", str(tmp_path / "output"),
    ]  # fmt: skip
    teacher = load_config(base, [*student, "MODEL.FPN.OUT_CHANNELS", 16])
    (tmp_path / "teacher.yaml").write_text(teacher.dump())
    torch.save({"model": build_model(teacher).state_dict()}, tmp_path / "teacher.pth")
    cfg = load_config(
        base,
        [
            *student,
            "IMPORT_MODULES", ["extension_example"],
            "MODEL.META_ARCHITECTURE", "Distiller",
            "MODEL.DISTILLATION.TEACHER.CONFIG_FILE", str(tmp_path / "teacher.yaml"),
            "MODEL.DISTILLATION.TEACHER.WEIGHTS", str(tmp_path / "teacher.pth"),
            "MODEL.DISTILLATION.PATHS", [
                {"TYPE": "CosinePath", "STUDENT": "backbone", "POWER": 2.0},
                {"TYPE": "FeatureMSE", "STUDENT": "backbone.p4"},
            ],
            "MODEL.DISTILLATION.AGGREGATION.NAME", "relative",
        ],
    )  # fmt: skip
    torch.manual_seed(0)
    os.makedirs(cfg.OUTPUT_DIR)
    trainer = Trainer(cfg)
    table = trainer.model.distillation.table
    assert "CosinePath" in table and "aggregation Relative" in table
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    trainer.resume_or_load(False)
    trainer.train()
    history = trainer.storage.history("path_loss/cosine").values()
    weight = trainer.storage.history("path_weight/cosine").latest()
    assert len(history) == 3
    assert weight == pytest.approx(1 / history[0][0], rel=1e-4)
    after = trainer.model.state_dict()
    assert any(not torch.equal(before[k], after[k]) for k in before)
    saved = torch.load(os.path.join(cfg.OUTPUT_DIR, "model_final.pth"), weights_only=True)
    assert "aggregator.first" in saved["distillation"], "its state is in the checkpoint"
