"""The READMEs say what is true: their snippets run, their paths, keys and names exist."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
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
from multas.config import add_multas_config
from multas.data import read_card, register_card
from multas.distillation.aggregation.base import AGGREGATOR_REGISTRY
from multas.engine import Trainer, load_config
from multas.engine.path_weights import PathWeights
from multas.util.names import lookup

REPOSITORY = Path(__file__).resolve().parent.parent
READMES = ["README.md", "datasets/README.md"]
FOLDERS = ("configs", "datasets", "projects", "tools", "tests")


def text(file: str = "README.md") -> str:
    return (REPOSITORY / file).read_text()


def blocks(language: str, file: str = "README.md") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text(file), re.MULTILINE | re.DOTALL)


def words(file: str = "README.md") -> list[str]:
    """What stands between backticks in the running text."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text(file), flags=re.M | re.S))


def commands() -> list[list[str]]:
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def command(script: str, word: str = "") -> list[str]:
    """Arguments of the first command that runs a script and has a word."""
    found = [c for c in commands() if c[:2] == ["python", script] and (not word or word in c)]
    return found[0][2:]


def block(word: str) -> str:
    return next(b for b in blocks("yaml") if word in b)


@pytest.fixture(autouse=True)
def no_data_sets_stay(forget_registered):
    """Every command registers its own."""


@pytest.mark.parametrize("file", READMES)
def test_paths_exist(file):
    named = [w.split()[1] if w.startswith("python ") else w for w in words(file)]
    named += [c[1] for c in commands() if c[0] == "python"]
    paths = [p for p in named if p.split("/")[0] in FOLDERS or re.fullmatch(r"\w+\.py", p)]
    assert len(paths) > 5 or file != "README.md"
    assert [p for p in paths if not (REPOSITORY / p).exists()] == []


def test_make_targets_exist():
    targets = [c[1] for c in commands() if c[0] == "make"]
    rules = re.findall(r"^(\w+):", text("Makefile"), re.MULTILINE)
    assert {"quickstart", "test"} <= set(targets) <= set(rules)


@pytest.mark.parametrize("file", READMES)
def test_config_keys_exist(file):
    cfg = get_cfg()
    add_multas_config(cfg)
    keys = [w for w in words(file) if re.fullmatch(r"[A-Z_]+(\.[A-Z_]+)+|IMPORT_MODULES", w)]
    assert keys
    for key in keys:
        node = cfg
        for part in key.split("."):
            assert part in node, key
            node = node[part]


def test_aggregators_exist():
    sentence = re.search(r"AGGREGATION\.NAME`: (.*?)\(", text(), re.DOTALL)
    names = re.findall(r"`(\w+)`", sentence[1])
    assert "adaptive" in names and len(names) > 3
    for name in names:
        assert lookup(AGGREGATOR_REGISTRY, name, "README.md")


@pytest.mark.parametrize("card", blocks("yaml", "datasets/README.md"))
def test_example_cards_are_right(card):
    assert read_card(yaml.safe_load(card)).splits


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


def test_three_keys_distill_a_retinanet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snippet = block("Distiller")
    content = yaml.safe_load(snippet)
    teacher = content["MODEL"]["DISTILLATION"]["TEACHER"]
    Path(content["_BASE_"]).write_text(retinanet().dump())
    Path(teacher["CONFIG_FILE"]).write_text(retinanet(24).dump())
    torch.save({"model": build_model(retinanet(24)).state_dict()}, teacher["WEIGHTS"])
    arguments = command("train_net.py", "my_distillation.yaml")
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
    assert len(model.distillation.names) == len(paths) == 3
    assert {"loss_cls", "loss_box_reg", "loss_kd_at", "loss_kd_mse", "loss_kd_soft"} < losses.keys()

    # The student, evaluated by the plain config it had before.
    args = default_argument_parser().parse_args(command("train_net.py", "--eval-only"))
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


def test_own_data_in_ten_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snippet = block("format: voc")
    content = yaml.safe_load(snippet)
    root = tmp_path / "devkit"
    make_devkit(root, content["classes"])
    assert len(snippet.splitlines()) <= 10
    Path("cells.yaml").write_text(snippet.replace(content["root"], str(root)))
    arguments = command("tools/split.py")
    assert split.main([a.replace(content["root"], str(root)) for a in arguments]) == 0
    register_card("cells.yaml")
    for name in content["splits"]:
        assert DatasetCatalog.get(f"{content['name']}_{name}")

    base = REPOSITORY / "configs" / "quickstart" / "base.yaml"
    Path("student.yaml").write_text(f"_BASE_: {base}\nMODEL: {{DENSE_HEAD: {{NUM_CLASSES: 3}}}}\n")
    args = default_argument_parser().parse_args(command("train_net.py", "student.yaml"))
    cfg = load_config(args.config_file, [*args.opts, "MODEL.DEVICE", "cpu"])
    samples = Trainer(cfg)._trainer.data_loader.dataset.dicts
    assert len(samples) == 20
    assert sum("annotations" in d for d in samples) == 10
