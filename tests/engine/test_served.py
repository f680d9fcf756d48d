"""A checkpoint and the config.yaml of its run are enough to serve a model; the data may be gone."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultPredictor
from PIL import Image

import visualize
from multas.data.issues import DatasetError
from multas.engine import Trainer, load_config
from multas.engine.inference import load_model
from multas.engine.served import heed_served_facts
from multas.modeling.strict_loading import load_strictly
from multas.util.errors import UserError


@pytest.fixture
def run(tiny_cfg, card, tmp_path, monkeypatch, forget_registered):
    """The folder of a finished run, whose data card cannot be found any more."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "cells.yaml").write_text(yaml.safe_dump(card | {"name": "gone"}))
    monkeypatch.chdir(folder)
    names = ["DATASETS.TRAIN", ["gone_half"], "DATASETS.TEST", ["gone_test"]]
    cfg = tiny_cfg(
        "DATASETS.CARDS", ["cells.yaml"], *names, "SOLVER.MAX_ITER", 1, "DATALOADER.NUM_WORKERS", 0,
        "TEST.EVAL_PERIOD", 0, "INPUT.SQUARE_SIZE", 64,
    )  # fmt: skip
    Trainer(cfg).train()
    monkeypatch.chdir(tmp_path)
    forget()
    return Path(cfg.OUTPUT_DIR)


def forget() -> None:
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.data = {k: v for k, v in catalog.data.items() if not k.startswith("gone_")}


def test_a_run_is_served_without_its_card(run, card, monkeypatch, caplog):
    cfg = load_config(str(run / "config.yaml"), ["MODEL.WEIGHTS", str(run / "student.pth")])
    assert "cells.yaml is not there" in caplog.text
    assert list(cfg.MODEL.CLASSES.DET) == card["classes"] and list(cfg.MODEL.CLASSES.CLS) == []
    predictor = DefaultPredictor(cfg)
    assert predictor.metadata.thing_classes == card["classes"]
    image = np.zeros((50, 70, 3), np.uint8)
    assert predictor(image)["instances"].image_size == (50, 70)
    Image.fromarray(image).save("black.png")
    arguments = ["--config-file", "run/config.yaml", "--weights", "run/student.pth"]
    monkeypatch.setattr("sys.argv", ["visualize.py", *arguments, "--output", "drawn", "black.png"])
    visualize.main()
    assert os.path.isfile("drawn/black.png")
    with pytest.raises(UserError, match="'gone_half', which is not registered"):
        Trainer(cfg)

    # The weights themselves know their classes and input.
    forget()
    content = yaml.safe_load((run / "config.yaml").read_text())
    classes = content["MODEL"].pop("CLASSES")
    (run / "older.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(DatasetError, match=r"cells\.yaml cannot be read"):
        load_config(str(run / "older.yaml"))
    monkeypatch.setattr(logging.getLogger("multas"), "propagate", True)  # as before the tool ran
    opts = ["DATASETS.CARDS", [], "INPUT.SQUARE_SIZE", 96, "INPUT.FORMAT", "RGB"]
    cfg = load_config(str(run / "older.yaml"), opts)
    model = load_model(cfg, str(run / "student.pth"))
    assert MetadataCatalog.get("gone_test").thing_classes == classes["DET"] == card["classes"]
    assert (
        "trained with INPUT.FORMAT 'BGR' (now 'RGB'), INPUT.SQUARE_SIZE 64 (now 96)" in caplog.text
    )
    assert torch.load(run / "student.pth", weights_only=True).keys() == {"model", "served"}
    assert load_strictly(model, str(run / "student.pth")).keys() == {"served"}


@pytest.mark.parametrize("facts", [None, 3, {"CLASSES": 3, "INPUT": []}, {"CLASSES": {"DET": [3]}}])
def test_what_else_stands_in_a_file_is_no_matter(facts, forget_registered):
    cfg = load_config("", ["DATASETS.TEST", ["odd"]])
    heed_served_facts(cfg, facts, "weights.pth")
    assert not MetadataCatalog.get("odd").get("thing_classes")
