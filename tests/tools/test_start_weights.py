"""ImageNet weights of torchvision and Detectron2 fit every recipe that starts from ImageNet."""

import pickle
from functools import cache
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

import convert_weights
from multas.distillation import unwrap
from multas.engine import Trainer
from multas.modeling.strict_loading import SafeCheckpointer
from reproduction.miniatures import weights as files
from shipped import TABLES, rows
from tiny_recipe import TinyRecipes, as_shipped, narrow
from training import copies

CONVERTED = Path("output/weights")
FULL = ("voc", "vedai", "coco", "cityscapes", "ade20k")


def network(cfg: CfgNode) -> CfgNode:
    """The network that a recipe trains, without its teacher."""
    cfg = cfg.clone()
    cfg.defrost()
    if cfg.MODEL.META_ARCHITECTURE == "Distiller":
        cfg.MODEL.META_ARCHITECTURE = cfg.MODEL.DISTILLATION.STUDENT
    cfg.MODEL.DISTILLATION = CfgNode()
    cfg.MODEL.DEVICE = "cpu"
    return cfg


# One row of each network that starts from ImageNet, whose heads do not matter here.
RECIPES = (
    "configs/limited-data/table1.yaml#voc/half/teacher",
    "configs/limited-data/table1.yaml#voc/half/supervised",
    "configs/adaptive/table4.yaml#cityscapes/teacher",
    "configs/adaptive/table4.yaml#cityscapes/student",
    "configs/adaptive/table5.yaml#coco/teacher",
    "configs/adaptive/table5.yaml#coco/student",
)


def kind_of(cfg: CfgNode) -> tuple:
    """What a file of weights has to fit."""
    model = cfg.MODEL
    name = model.DISTILLATION.STUDENT if model.META_ARCHITECTURE == "Distiller" else ""
    resnet = (model.RESNETS.DEPTH, model.RESNETS.NORM, model.RESNETS.STRIDE_IN_1X1)
    backbone = (name or model.META_ARCHITECTURE, model.BACKBONE.NAME, model.BACKBONE.FREEZE_AT)
    return *backbone, *resnet, model.WEIGHTS


def load(cfg: CfgNode, file: Path) -> dict[str, torch.Tensor]:
    """The ResNet of a recipe that has loaded a file, without what it counts."""
    model = build_model(cfg)
    SafeCheckpointer(model).load(str(file))
    weights = model.backbone.state_dict()
    names = {name: name[name.rindex(part) :] for name in weights for part in ("stem.", "res")
             if f".{part}" in f".{name}" and "num_batches_tracked" not in name}  # fmt: skip
    return {short: weights[name] for name, short in names.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """``made(depth)``: a file of torchvision, and the same one converted."""
    folder = tmp_path_factory.mktemp("weights")

    @cache
    def make(depth: int) -> tuple[Path, Path]:
        pair = folder / f"resnet{depth}.pth", folder / f"converted{depth}.pth"
        files.write_torchvision(pair[0], depth)
        convert_weights.main(list(map(str, pair)))
        return pair

    return make


def test_every_row_that_starts_from_imagenet_has_one_of_these_networks():
    known = {kind_of(as_shipped(address)) for address in RECIPES}
    found = [as_shipped(address) for table in TABLES for address in rows(table, *FULL)]
    kinds = {kind_of(cfg) for cfg in found if Path(cfg.MODEL.WEIGHTS).parent == CONVERTED}
    assert kinds == known


@pytest.mark.parametrize("row", ["student", "adaptive_feats_p"])
def test_networks_on_cityscapes_start_from_weights_on_coco(row, tmp_path):
    """The layer of the classes does not fit, and starts anew; all others are loaded."""
    recipes = TinyRecipes(tmp_path, narrow)
    weights = recipes.teacher("configs/adaptive/table5.yaml#coco/student")
    address = f"configs/adaptive/table5.yaml#cityscapes/{row}"
    model = Trainer.build_model(recipes(address, output=tmp_path / "run"))
    own, given = copies(model.state_dict()), torch.load(weights, weights_only=True)["model"]
    SafeCheckpointer(unwrap(model)[0]).load(weights)  # as the trainer does
    anew = [name for name, tensor in own.items() if tensor.shape != given[name].shape]
    assert anew and all("cls" in name for name in anew)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, own[name] if name in anew else given[name]), name


SLOW = ("configs/adaptive/table4.yaml#cityscapes/teacher",
        "configs/adaptive/table5.yaml#coco/teacher")  # fmt: skip
EACH = [
    pytest.param(address, marks=[pytest.mark.slow] if address in SLOW else [])
    for address in RECIPES
]


@pytest.mark.parametrize("address", EACH)
def test_every_recipe_loads_a_converted_file_of_torchvision(address, made):
    cfg = network(as_shipped(address))
    depth = cfg.MODEL.RESNETS.DEPTH
    assert Path(cfg.MODEL.WEIGHTS).name == f"resnet{depth}.pth"
    check_loaded(cfg, *made(depth))


def test_a_student_may_be_a_resnet_34(made):
    cfg = network(as_shipped(RECIPES[1]))
    cfg.MODEL.RESNETS.DEPTH = 34
    check_loaded(cfg, *made(34))


def check_loaded(cfg: CfgNode, original: Path, converted: Path) -> None:
    """A recipe has all of the values of a file of torchvision, once it is converted."""
    found = load(cfg, converted)
    expected = convert_weights.convert(torch.load(original, weights_only=True))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("address", EACH[::2])
def test_every_recipe_of_a_deep_network_loads_the_file_of_detectron2(address, made, tmp_path):
    """Statistics are folded into it, so that those of the network stay as they were."""
    cfg = network(as_shipped(address))
    depth = cfg.MODEL.RESNETS.DEPTH
    weights = torch.load(made(depth)[0], weights_only=True)
    arrays = files.msra_arrays(weights)
    assert {"conv1_w", "res_conv1_bn_s", "res2_0_branch1_bn_b", "res5_2_branch2c_w"} <= set(arrays)
    (tmp_path / "R.pkl").write_bytes(pickle.dumps(arrays, protocol=2))
    found, expected = load(cfg, tmp_path / "R.pkl"), convert_weights.convert(weights)
    assert found.keys() == expected.keys()
    given = [name for name in expected if "running" not in name]
    assert all(torch.equal(found[name], expected[name]) for name in given)
