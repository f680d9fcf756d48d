"""The README and its first pages: a distillation of a Detectron2 model, and own data by hand."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import train_net
import yaml
from detectron2 import model_zoo
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
from detectron2.engine import default_argument_parser
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from PIL import Image

import split
from documents import REPOSITORY, block, command, text
from multas.data import register_card
from multas.distillation.aggregation.base import AGGREGATOR_REGISTRY
from multas.engine import Trainer, load_config
from multas.engine.path_weights import PathWeights
from multas.util.names import lookup

MODELS = "docs/detectron2_models.md"
OWN_DATA = "docs/own_data.md"


@pytest.fixture(autouse=True)
def no_data_sets_stay(forget_registered):
    """Every command registers its own."""


def test_aggregators_exist():
    sentence = re.search(r"AGGREGATION\.NAME`: (.*?)\(", text(MODELS), re.DOTALL)
    names = re.findall(r"`(\w+)`", sentence[1])
    assert "adaptive" in names and len(names) > 3
    for name in names:
        assert lookup(AGGREGATOR_REGISTRY, name, MODELS)


def retinanet(width: int = 16):
    """Detectron2's RetinaNet, as its own config builds it, without any key of multas."""
    cfg = get_cfg()
    cfg.merge_from_file(model_zoo.get_config_file("COCO-Detection/retinanet_R_50_FPN_1x.yaml"))
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.FPN.OUT_CHANNELS = width
    cfg.MODEL.RETINANET.NUM_CLASSES = 3
    cfg.MODEL.RETINANET.NUM_CONVS = 1
    cfg.INPUT.MIN_SIZE_TRAIN = (64,)
    return cfg


@pytest.mark.parametrize("file", ["README.md", MODELS])
def test_three_keys_distill_a_retinanet(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snippet = block("yaml", "Distiller", file)
    content = yaml.safe_load(snippet)
    teacher = content["MODEL"]["DISTILLATION"]["TEACHER"]
    Path(content["_BASE_"]).write_text(retinanet().dump())
    Path(teacher["CONFIG_FILE"]).write_text(retinanet(24).dump())
    torch.save({"model": build_model(retinanet(24)).state_dict()}, teacher["WEIGHTS"])
    arguments = command("train_net.py", "my_distillation.yaml", file)
    args = default_argument_parser().parse_args(arguments)
    Path(args.config_file).write_text(snippet)

    cfg = load_config(args.config_file, args.opts)
    model = Trainer.build_model(cfg).train()
    PathWeights(cfg, model)
    instances = Instances((64, 64), gt_boxes=Boxes(torch.tensor([[4.0, 4, 50, 60]])))
    instances.gt_classes = torch.tensor([1])
    with EventStorage():
        losses = model([{"image": torch.zeros(3, 64, 64), "instances": instances}])
    paths = [p["TYPE"] for p in content["MODEL"]["DISTILLATION"]["PATHS"]]
    assert len(model.distillation.names) == len(paths) >= 2
    assert {"loss_cls", "loss_box_reg", "loss_kd_at", "loss_kd_soft"} < losses.keys()

    # The student, evaluated by the plain config it had before.
    args = default_argument_parser().parse_args(command("train_net.py", "--eval-only", file))
    assert args.eval_only and args.config_file == content["_BASE_"]
    plain = build_model(load_config(args.config_file, args.opts))
    assert plain.load_state_dict(model.state_dict())


def make_devkit(root: Path, classes: list[str]) -> None:
    """Twenty training and two test images of one box each, in VOC's layout."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    ids = [f"{i:03d}" for i in range(22)]
    for i, name in enumerate(ids):
        Image.fromarray(np.full((32, 40, 3), i, np.uint8)).save(root / f"JPEGImages/{name}.jpg")
        (root / f"Annotations/{name}.xml").write_text(
            "<annotation><size><width>40</width><height>32</height></size>"
            f"<object><name>{classes[i % len(classes)]}</name><bndbox><xmin>2</xmin>"
            "<ymin>3</ymin><xmax>20</xmax><ymax>25</ymax></bndbox></object></annotation>"
        )
    (root / "ImageSets/Main/train.txt").write_text("\n".join(ids[:20]))
    (root / "ImageSets/Main/test.txt").write_text("\n".join(ids[20:]))


def test_own_data_by_hand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snippet = block("yaml", "format: voc", OWN_DATA)
    content = yaml.safe_load(snippet)
    root = tmp_path / "devkit"
    make_devkit(root, content["classes"])
    assert len(snippet.splitlines()) <= 10
    Path("cells.yaml").write_text(snippet.replace(content["root"], str(root)))
    arguments = command("tools/split.py", file=OWN_DATA)
    assert split.main([a.replace(content["root"], str(root)) for a in arguments]) == 0
    register_card("cells.yaml")
    for name in content["splits"]:
        assert DatasetCatalog.get(f"{content['name']}_{name}")

    own = yaml.safe_load(block("yaml", "_BASE_", OWN_DATA))
    # In place of the size that needs timm.
    base = REPOSITORY / "configs" / "sizes" / "from_scratch" / "nano.yaml"
    Path("student.yaml").write_text(yaml.safe_dump(own | {"_BASE_": str(base)}))
    args = train_net.parse_args(command("train_net.py", "DATASETS.PSEUDO_LABELS.FILES", OWN_DATA))
    opts = [*args.opts, "MODEL.DEVICE", "cpu", "DATASETS.PSEUDO_LABELS.FILES", "()"]
    cfg = load_config(args.config_file, opts)
    samples = Trainer(cfg)._trainer.data_loader.dataset.dicts
    assert len(samples) == 20
    assert sum("annotations" in d for d in samples) == 10
