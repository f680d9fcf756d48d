"""Backbones from timm: feature maps, weights, and everything that is done with a network."""

import copy
import logging
import sys

import pytest
import torch
from detectron2.modeling import build_backbone, build_model
from detectron2.structures import Boxes, Instances
from safetensors.torch import save_file

from limited_network import CLASSES, sample
from multas.config.limits import check_limits
from multas.distillation.teacher.teacher import Teacher, check_teacher_files
from multas.engine.inference import load_model
from multas.modeling.fold import fold_batch_norm, fold_batch_norm_
from multas.modeling.layers import channels_last_
from multas.modeling.timm_backbone import TimmBackbone
from multas.modeling.timm_models import levels_of
from multas.util.errors import UserError
from plain_config import plain_config
from weighing import make_distiller, weighed

timm = pytest.importorskip("timm")
TINY = "test_efficientnet"
FPN, VIT = "build_timm_fpn_backbone", "build_timm_vit_pyramid_backbone"
CONTEXT = ["MODEL.NECK.IN_FEATURES", ["res3", "res4"], "MODEL.NECK.OUT_CHANNELS", 8]


def timm_cfg(name=TINY, builder=FPN, *opts):
    """A backbone of a tiny model with random weights."""
    return plain_config(
        "MODEL.DEVICE", "cpu", "MODEL.BACKBONE.NAME", builder, "MODEL.BACKBONE.FREEZE_AT", 0,
        "MODEL.TIMM.NAME", name, "MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"],
        "MODEL.FPN.OUT_CHANNELS", 8, "MODEL.FPN.NORM", "BN", *opts,
    )  # fmt: skip


def network_cfg(*opts, name=TINY, builder=FPN):
    """A network with a head of each kind on such a backbone."""
    return timm_cfg(
        name, builder, "MODEL.META_ARCHITECTURE", "MultiTaskNetwork",
        "MODEL.MULTITASK.TASKS", ["det", "seg", "cls"], "MODEL.MULTITASK.HEADS",
        ["DenseDetectionHead", "SemanticFPNHead", "LinearClassificationHead"],
        "MODEL.DENSE_HEAD.NUM_CLASSES", CLASSES, "MODEL.DENSE_HEAD.NUM_CONVS", 1,
        "MODEL.DENSE_HEAD.SHARED", True, "MODEL.ANCHOR_GENERATOR.SIZES", [[16], [32], [64]],
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[1.0]], "MODEL.LINEAR_HEAD.NUM_CLASSES", 5,
        "MODEL.SEMANTIC_FPN_HEAD.CONVS_DIM", 8, "MODEL.SEMANTIC_FPN_HEAD.NUM_FINAL_CONVS", 0,
        "INPUT.MIN_SIZE_TRAIN", [64], *opts,
    )  # fmt: skip


def is_norm(module):
    """Whether a module is a BatchNorm, frozen or not."""
    return hasattr(module, "running_var")


@torch.no_grad()
def with_random_norms(model):
    """Statistics and affine parameters as after a training."""
    for module in model.modules():
        if is_norm(module):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2.0)
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.1)
    return model.eval()


def pretrained(tmp_path, name=TINY, end=".pth", **options):
    """A model of timm with its classifier, and a file of its weights."""
    model = with_random_norms(timm.create_model(name, num_classes=7, **options))
    path = tmp_path / f"{name}{end}"
    if end == ".pth":
        torch.save({"state_dict": model.state_dict()}, path)
    else:
        save_file(model.state_dict(), path)
    return model, str(path)


@pytest.mark.parametrize(
    ("name", "builder", "levels"),
    [
        (TINY, FPN, [3, 4, 5]),
        ("test_resnet", FPN, [3, 4, 5]),
        ("test_convnext", FPN, [3, 4, 5]),
        ("test_vit", VIT, [3, 4, 5, 6]),
        (TINY, "build_timm_context_fpn_backbone", [3, 4, 5, 6]),
        ("test_byobnet", "build_timm_context_pafpn_backbone", [3, 4, 5, 6]),
    ],
)
def test_every_backbone_trains_and_is_folded(name, builder, levels):
    extra = ["MODEL.FPN.NUM_EXTRA_LEVELS", int(builder == VIT)]
    model = with_random_norms(build_backbone(timm_cfg(name, builder, *CONTEXT, *extra)))
    image = torch.randn(2, 3, 64, 128)
    with torch.no_grad():
        features, folded = model(image), fold_batch_norm(model)
        found = folded(image)
    assert list(features) == [f"p{level}" for level in levels]
    for key, shape in model.output_shape().items():
        level = int(key[1:])
        assert shape.stride == 2**level
        assert features[key].shape == (2, shape.channels, 64 >> level, 128 >> level)
        error = (features[key] - found[key]).abs().max()
        assert error <= 2e-5 * features[key].abs().max()
    assert any(map(is_norm, model.modules())) and not any(map(is_norm, folded.modules()))
    sum(x.square().mean() for x in model.train()(image).values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_what_is_tapped_is_not_folded():
    backbone = TimmBackbone(timm.create_model(TINY, num_classes=0), ["res5"]).eval()
    block = backbone.body.blocks[1][0]
    fold_batch_norm_(backbone, [block.conv_exp, block.bn2])
    assert is_norm(block.bn1) and is_norm(block.bn2)
    assert isinstance(backbone.body.bn1, torch.nn.Sequential)


def test_a_bare_backbone_has_timms_own_maps():
    model = build_backbone(
        timm_cfg("test_resnet", "build_timm_backbone", "MODEL.TIMM.OUT_FEATURES", ["res5", "res2"])
    ).eval()
    alone = timm.create_model("test_resnet", features_only=True, out_indices=(1, 4)).eval()
    weights = {n.removeprefix("body."): v for n, v in model.state_dict().items()}
    alone.load_state_dict(weights)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found, expected = model(image), alone(image)
    assert list(found) == ["res2", "res5"]
    assert all(torch.equal(a, b) for a, b in zip(found.values(), expected, strict=True))


@pytest.mark.parametrize(("patch", "side"), [(16, 64), (14, 64), (14, 160)])
def test_a_vit_has_the_stride_16_whatever_its_patches_are(patch, side):
    model = timm.create_model("test_vit", patch_size=patch, num_classes=0, dynamic_img_size=True)
    assert {name: level.stride for name, level in levels_of(model).items()} == {"res4": 16}
    backbone = TimmBackbone(model, ["res4"]).eval()
    assert backbone(torch.randn(1, 3, side, 48))["res4"].shape == (1, 64, side // 16, 3)


def test_all_heads_train_in_16_bits_and_predict():
    model = build_model(network_cfg("MODEL.TIMM.DROP_PATH", 0.1))
    channels_last_(model)
    image = sample() | {"sem_seg": torch.randint(0, 21, (64, 96)), "label": 1}
    with torch.autocast("cpu", torch.bfloat16):
        losses = model([image, image])
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    result = model.eval()([sample()])[0]
    assert {"instances", "sem_seg", "scores"} <= result.keys()


@pytest.mark.parametrize("architecture", ["RetinaNet", "GeneralizedRCNN"])
def test_detectron2s_own_models_train_and_predict(architecture, storage):
    boxes = architecture == "GeneralizedRCNN"
    levels = [f"p{i}" for i in range(3, 7)]
    cfg = timm_cfg(
        TINY, FPN, "MODEL.META_ARCHITECTURE", architecture, "MODEL.FPN.NUM_EXTRA_LEVELS", 1,
        "MODEL.RETINANET.NUM_CLASSES", 3, "MODEL.RETINANET.IN_FEATURES", levels,
        "MODEL.ANCHOR_GENERATOR.SIZES", [[16], [32], [64], [128]],
        "MODEL.PROPOSAL_GENERATOR.NAME", "RPN", "MODEL.RPN.IN_FEATURES", levels,
        "MODEL.ROI_HEADS.NAME", "StandardROIHeads" if boxes else "Res5ROIHeads",
        "MODEL.ROI_HEADS.IN_FEATURES", levels[:3], "MODEL.ROI_HEADS.NUM_CLASSES", 3,
        "MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead", "MODEL.ROI_BOX_HEAD.NUM_FC", 1,
        "MODEL.ROI_BOX_HEAD.FC_DIM", 8, "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 3,
    )  # fmt: skip
    model = build_model(cfg)
    objects = Instances((64, 64), gt_boxes=Boxes(torch.tensor([[8.0, 8, 40, 40]])))
    objects.gt_classes = torch.tensor([1])
    inputs = [{"image": torch.rand(3, 64, 64) * 255, "instances": objects}]
    losses = model(inputs)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert "instances" in model.eval()(inputs)[0]


def test_layers_up_to_a_map_are_frozen_with_their_norms(caplog):
    model = build_backbone(timm_cfg(TINY, FPN, "MODEL.BACKBONE.FREEZE_AT", 3)).train()
    assert "FREEZE_AT is 3, but there are no weights" in caplog.text
    names = [n for n, p in model.bottom_up.body.named_parameters() if p.requires_grad]
    assert {n.split(".")[1] for n in names} == {"3", "4"}
    before = copy.deepcopy(model.bottom_up.body.state_dict())
    model(torch.randn(2, 3, 64, 64))
    after = model.bottom_up.body.state_dict()
    changed = {n for n, v in after.items() if not torch.equal(v, before[n])}
    assert {n.split(".")[1] for n in changed} == {"3", "4"}
    vit = build_backbone(timm_cfg("test_vit", VIT, "MODEL.BACKBONE.FREEZE_AT", 4))
    assert not any(p.requires_grad for p in vit.bottom_up.parameters())
    assert all(p.requires_grad for p in vit.levels.parameters())


@pytest.mark.parametrize("norm", ["FrozenBN", "SyncBN"])
def test_norms_are_exchanged_and_folded(norm):
    model = build_backbone(timm_cfg(TINY, FPN, "MODEL.TIMM.NORM", norm, "MODEL.FPN.NORM", norm))
    model = with_random_norms(model)
    kinds = {type(m).__name__ for m in model.modules() if is_norm(m)}
    assert all(("Frozen" if norm == "FrozenBN" else "Sync") in kind for kind in kinds)
    image, folded = torch.randn(1, 3, 64, 64), fold_batch_norm(model)
    with torch.no_grad():
        expected, found = model(image)["p5"], folded(image)["p5"]
    assert (expected - found).abs().max() <= 2e-5 * expected.abs().max()
    assert not any(map(is_norm, folded.modules()))


@pytest.mark.parametrize("end", [".pth", ".safetensors"])
def test_a_file_of_weights_gives_every_parameter(end, tmp_path, caplog):
    original, path = pretrained(tmp_path, end=end)
    cfg = timm_cfg(TINY, FPN, "MODEL.TIMM.PRETRAINED", path)
    body = build_backbone(cfg).bottom_up.body
    weights = original.state_dict()
    assert all(torch.equal(v, weights[n]) for n, v in body.state_dict().items())
    assert "PIXEL_MEAN [123.675, 116.28, 103.53]" in caplog.text and "(now BGR)" in caplog.text
    caplog.clear()
    pixels = ["INPUT.FORMAT", "RGB", "MODEL.PIXEL_MEAN", [123.675, 116.28, 103.53]]
    cfg.merge_from_list([*pixels, "MODEL.PIXEL_STD", [58.395, 57.12, 57.375]])
    build_backbone(cfg)
    assert [x for x in caplog.records if x.levelno >= logging.WARNING] == []


def test_a_trained_model_is_served_without_the_file_that_it_started_from(tmp_path):
    _, path = pretrained(tmp_path)
    cfg = network_cfg("MODEL.TIMM.PRETRAINED", path)
    model = build_model(cfg).eval()
    torch.save(model.state_dict(), tmp_path / "student.pth")
    for missing in (str(tmp_path / "gone.pth"), "hub"):
        cfg.MODEL.TIMM.PRETRAINED = missing
        served = load_model(cfg, str(tmp_path / "student.pth"))
        with torch.no_grad():
            found, expected = (m([sample()])[0]["sem_seg"] for m in (served, model))
        assert torch.equal(found, expected)


NO_MODEL = [
    ("mobilenetv2_10", FPN, [], "no model of timm .* Nearest: .*mobilenetv2_100"),
    ("", FPN, [], r"MODEL\.TIMM\.NAME is '', which is no model"),
    ("hf-hub:timm/x", FPN, [], "goes into MODEL.TIMM.PRETRAINED"),
    ("mobilenetv2_100.x", FPN, [], "no weights called 'x'; it has ra_in1k"),
    ("mixer_s32_224", FPN, [], "takes images of one size alone"),
    ("vgg11", FPN, ["MODEL.TIMM.DROP_PATH", 0.1], "cannot leave out paths"),
    (TINY, FPN, ["MODEL.FPN.IN_FEATURES", ["res3", "res6"]], r"no map res6. .*res3 \(8\)"),
    (TINY, FPN, ["MODEL.FPN.IN_FEATURES", []], "no map that is asked for"),
    ("test_vit", FPN, [], r"no map res3, res5. .*res4 \(16\).*build_timm_vit_pyramid_backbone"),
    (TINY, VIT, [], r"strides \[2, 4, 8, 16, 32\]; .* build_timm_fpn_backbone"),
    ("test_vit", VIT, ["MODEL.FPN.IN_FEATURES", ["res4", "res3"]], "finest first"),
    ("test_vit4", VIT, ["MODEL.TIMM.PRETRAINED", "hub"], "No pretrained weights exist"),
    (TINY, FPN, ["MODEL.TIMM.PRETRAINED", "x.pth"], "PRETRAINED is 'x.pth': no such file"),
]


@pytest.mark.parametrize(("name", "builder", "opts", "message"), NO_MODEL)
def test_what_cannot_be_built_is_named(name, builder, opts, message):
    with pytest.raises((UserError, FileNotFoundError), match=message):
        build_backbone(timm_cfg(name, builder, *opts))


@pytest.mark.parametrize(
    ("key", "value"), [("NORM", "GN"), ("DROP_PATH", 1.0), ("OUT_FEATURES", ["p3"])]
)
def test_limits(key, value):
    with pytest.raises(UserError, match=f"MODEL.TIMM.{key} is"):
        check_limits(timm_cfg(TINY, FPN, f"MODEL.TIMM.{key}", value))


def test_weights_of_another_model_are_refused(tmp_path):
    _, path = pretrained(tmp_path, "test_resnet")
    with pytest.raises(UserError, match=f"not of {TINY}: it lacks .* conv_stem.weight"):
        build_backbone(timm_cfg(TINY, FPN, "MODEL.TIMM.PRETRAINED", path))
    original, path = pretrained(tmp_path)
    deeper = original.state_dict() | {"blocks.4.7.conv.weight": torch.zeros(1)}
    torch.save(deeper, path)
    with pytest.raises(UserError, match=r"of layers that it lacks: blocks\.4\.7"):
        build_backbone(timm_cfg(TINY, FPN, "MODEL.TIMM.PRETRAINED", path))


def test_names_that_timm_converts_are_read(tmp_path):
    """Of ConvNeXt's authors."""
    original, path = pretrained(tmp_path, "test_convnext")
    weights = {f"model.{n}": v for n, v in original.state_dict().items()}
    torch.save({"visual.trunk." + n.removeprefix("model."): v for n, v in weights.items()}, path)
    body = build_backbone(timm_cfg("test_convnext", FPN, "MODEL.TIMM.PRETRAINED", path))
    found = body.bottom_up.body.state_dict()
    assert all(torch.equal(v, original.state_dict()[n]) for n, v in found.items())


def test_a_hub_that_cannot_be_reached(monkeypatch):
    plain = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise OSError("Name or service not known. Retry")
        return plain(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=r"not known\). .* \(timm/test_efficientnet.*\) and name a"):
        build_backbone(timm_cfg(TINY, FPN, "MODEL.TIMM.PRETRAINED", "hub"))


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"pip install 'multas\[timm\]'"):
        build_backbone(timm_cfg())


def test_a_pretrained_vit_teaches_layers_of_timm_by_name(tmp_path):
    _, path = pretrained(tmp_path, "test_vit")
    config = tmp_path / "teacher.yaml"
    vit = network_cfg("MODEL.TIMM.PRETRAINED", path, name="test_vit", builder=VIT)
    config.write_text(vit.dump())
    student = network_cfg()
    node = student.MODEL.DISTILLATION.TEACHER
    node.CONFIG_FILE = str(config)
    check_teacher_files(node, "TEACHER")
    path_of = {"TYPE": "FeatureMSE", "STUDENT": "backbone.bottom_up.body.blocks.3"}
    student.MODEL.DISTILLATION.PATHS = [path_of | {"TEACHER": "backbone.bottom_up.body.norm"}]
    student.MODEL.DISTILLATION.PATHS = [path_of | {"TEACHER": "backbone.bottom_up"}]
    distiller = weighed(make_distiller(student, Teacher.from_config(node, student)))
    losses = distiller.train()([sample(), sample(1)])
    assert any("kd" in name for name in losses)
    vit.MODEL.TIMM.PRETRAINED = ""
    config.write_text(vit.dump())
    with pytest.raises(FileNotFoundError, match=r"TEACHER\.WEIGHTS"):
        check_teacher_files(node, "TEACHER")
