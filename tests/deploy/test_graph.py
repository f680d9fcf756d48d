"""Exported networks give what the networks of PyTorch give."""

from collections import defaultdict
from functools import partial

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from limited_network import network_cfg
from multas.data.mapper import PREPARED
from multas.deploy import Detector
from multas.deploy.describe import describe_network
from multas.deploy.detector import OnnxRuntime, prepare
from multas.deploy.graph import ExportGraph
from multas.deploy.onnx_file import write_onnx
from multas.modeling import TaskHead
from multas.util.annotation import BOXES, LABELS, MASKS
from multas.util.errors import UserError
from plain_config import plain_config
from tiny_classifier import model_cfg

pytest.importorskip("onnxruntime")
SIZES = [(50, 70), (64, 96), (130, 41)]  # heights and widths of images
NAMES = {BOXES: ["ant", "bee", "cat"], MASKS: ["ground", "sky"], LABELS: list("abcde")}


def limited(*opts, tasks=("det",)):
    cfg = network_cfg(tasks=tasks)
    cfg.MODEL.SEMANTIC_FPN_HEAD.NUM_CLASSES = 2
    return changed(cfg, "MODEL.DENSE_HEAD.SCORE_THRESH_TEST", 0.2, *opts)


def gfl():
    return limited(
        "MODEL.MULTITASK.HEADS", ["GFLHead"], "MODEL.GFL_HEAD.NUM_CLASSES", 3,
        "MODEL.GFL_HEAD.NUM_CONVS", 1, "MODEL.ANCHOR_GENERATOR.NAME", "DefaultAnchorGenerator",
        "MODEL.ANCHOR_GENERATOR.SIZES", [[64.0], [128.0]],
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[1.0]],
        "MODEL.GFL_HEAD.SCORE_THRESH_TEST", 0.2,
    )  # fmt: skip


def retinanet():
    return changed(plain_config(
        "MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.DEVICE", "cpu",
        "MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone", "MODEL.BACKBONE.FREEZE_AT", 0,
        "MODEL.RESNETS.RES2_OUT_CHANNELS", 8, "MODEL.RESNETS.NORM", "BN",
        "MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.WIDTH_PER_GROUP", 4,
        "MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"],
        "MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"], "MODEL.FPN.OUT_CHANNELS", 8,
        "MODEL.RETINANET.NUM_CLASSES", 3, "MODEL.RETINANET.SCORE_THRESH_TEST", 0.2,
        "MODEL.RETINANET.NUM_CONVS", 1,
    ))  # fmt: skip


def of_timm():
    pytest.importorskip("timm")
    return limited(
        "MODEL.BACKBONE.NAME", "build_timm_context_fpn_backbone", "MODEL.TIMM.NAME",
        "test_efficientnet", tasks=("det", "seg"),
    )  # fmt: skip


def changed(cfg, *opts):
    cfg.merge_from_list(["INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 96, *opts])
    return cfg


CONFIGS = {
    "NMS for each class": limited,
    "one NMS": lambda: limited(
        "MODEL.DENSE_HEAD.CLASS_AGNOSTIC_NMS", True, "MODEL.DENSE_HEAD.SCORE_THRESH_TEST", 0.8
    ),
    "one NMS of all": lambda: limited(
        "MODEL.DENSE_HEAD.CLASS_AGNOSTIC_NMS", True, "MODEL.DENSE_HEAD.TOPK_CANDIDATES_TEST", 0
    ),
    "all candidates": lambda: limited("MODEL.DENSE_HEAD.TOPK_CANDIDATES_TEST", 0),
    "300 objects": lambda: limited(
        "MODEL.DENSE_HEAD.NMS_THRESH_TEST", 0.95, "TEST.DETECTIONS_PER_IMAGE", 300
    ),
    "nothing found": lambda: limited("MODEL.DENSE_HEAD.SCORE_THRESH_TEST", 0.999),
    "GFL": gfl,
    "RetinaNet": retinanet,
    "timm": of_timm,
    "masks": lambda: limited(tasks=("seg",)),
    "two tasks": lambda: limited(tasks=("det", "seg")),
    "stretched": lambda: limited("INPUT.SQUARE_SIZE", 72, "INPUT.MIN_SIZE_TEST", 0),
    "classes": lambda: changed(model_cfg(4), "INPUT.MIN_SIZE_TEST", 0, "INPUT.SQUARE_SIZE", 32),
    "resized and cropped": lambda: changed(
        model_cfg(4), "INPUT.MIN_SIZE_TEST", 40, "INPUT.CENTER_CROP_TEST", 32
    ),
}


def build(cfg):
    """A network with random weights whose logits are spread around zero."""
    torch.manual_seed(1)
    model = build_model(cfg).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    logits = defaultdict(list)
    layers = {
        name: module
        for name, module in model.named_modules()
        if "cls_" in name and isinstance(module, torch.nn.Conv2d) and module.out_channels % 3 == 0
    }
    for name, layer in layers.items():
        layer.weight.data.normal_(0, 0.1)
        layer.bias.data.zero_()
        layer.register_forward_hook(lambda *call, name=name: logits[name].append(call[-1]))
    with torch.no_grad():
        model([{"image": torch.randint(255, (3, 64, 96)), PREPARED: True}])
    for name, layer in layers.items():
        of_all_levels = torch.cat([x.flatten() for x in logits[name]])
        layer.weight.data /= of_all_levels.std()
        layer.bias.data.fill_(-of_all_levels.mean() / of_all_levels.std())
        layer.bias.data += torch.linspace(-1, 1, layer.out_channels)
        layer._forward_hooks.clear()
    return model


def images():
    generator = np.random.default_rng(0)
    return [generator.integers(0, 255, (*size, 3), dtype=np.uint8) for size in SIZES]


def expected(model, description, image):
    """The results of PyTorch, for the same pixels padded to the same size."""
    seen = prepare(image, description)
    height, width = seen.size
    whole = torch.from_numpy(seen.pixels)
    inputs = [{"image": whole[:, :height, :width], "height": image.shape[0],
               "width": image.shape[1], PREPARED: True},
              {"image": torch.zeros_like(whole), PREPARED: True}]  # fmt: skip
    with torch.no_grad():
        return model(inputs)[0]


def check_equal(found, reference, image):
    if "instances" in reference:
        truth = reference["instances"]
        assert len(found.scores) == len(truth)
        largest = max(image.shape)
        # Equal scores may change places.
        apart = np.abs(found.boxes[:, None] - truth.pred_boxes.tensor.numpy()).max(2) / largest
        apart = np.maximum(apart, np.abs(found.scores[:, None] - truth.scores.numpy()))
        apart += found.classes[:, None] != truth.pred_classes.numpy()
        assert (apart.min(1, initial=1) < 1e-4).all() and (apart.min(0, initial=1) < 1e-4).all()
    if "sem_seg" in reference:
        assert found.masks.shape == image.shape[:2]
        same = torch.from_numpy(found.masks) == reference["sem_seg"].argmax(0)
        assert same.float().mean() > 0.999
    if "scores" in reference:
        assert np.abs(found.probabilities - reference["scores"].numpy()).max() < 1e-4


@pytest.mark.parametrize("name", CONFIGS)
def test_the_file_gives_what_the_network_gives(name, tmp_path):
    cfg = CONFIGS[name]()
    model = build(cfg)
    names = {kind: own for kind, own in NAMES.items() if kind is not LABELS}
    description = describe_network(cfg, model, names, image_sizes=SIZES)
    file = str(tmp_path / "network.onnx")
    described = write_onnx(ExportGraph(model).eval(), description, file)
    detector = Detector(file)
    assert detector.description.to_json() == described.to_json()
    count = 0
    for image in images():
        found = detector(image)
        reference = expected(model, description, image)
        check_equal(found, reference, image)
        count += len(found.scores)
    if "instances" in reference:
        assert (count == 0) == (name == "nothing found")
        assert (count > 600) == (name == "300 objects")


def test_what_cannot_be_exported_is_named():
    with pytest.raises(UserError, match="Linear cannot be exported; MultiTaskNetwork"):
        ExportGraph(torch.nn.Linear(1, 1))
    model = build(limited())
    model.heads["det"].export = partial(TaskHead.export, model.heads["det"])
    with pytest.raises(UserError, match="DenseDetectionHead cannot be exported: it has no method"):
        ExportGraph(model)(torch.zeros(1, 3, 64, 64))


def test_without_nms_all_boxes_are_given(tmp_path):
    cfg = limited()
    model = build(cfg)
    graph = ExportGraph(model, nms=False).eval()
    file = str(tmp_path / "network.onnx")
    write_onnx(graph, describe_network(cfg, model, {}, (64, 96)), file)
    image = images()[1]
    with torch.no_grad():
        outputs = model.raw_outputs([{"image": torch.from_numpy(image.transpose(2, 0, 1).copy())}])
        logits, deltas = model.heads["det"].flatten(outputs.predictions["det"])
    runtime = OnnxRuntime(file)
    found = runtime(
        {"image": image.transpose(2, 0, 1)[None], "image_sizes": np.float32([[64, 96]])}
    )
    assert np.abs(found["scores"] - logits.sigmoid().numpy()).max() < 1e-5
    assert found["boxes"].shape == deltas.shape


@pytest.mark.parametrize("batch", [1, 3])
def test_other_sizes_and_several_images(batch, tmp_path):
    cfg = limited()
    model = build(cfg)
    graph = ExportGraph(model).eval()
    file = str(tmp_path / "network.onnx")
    write_onnx(graph, describe_network(cfg, model, {}, (64, 64)), file, True, True)
    pixels = np.stack([images()[1].transpose(2, 0, 1)] * batch)
    sizes = np.array([[64, 96], [40, 50], [64, 80]][:batch], np.float32)
    found = OnnxRuntime(file)({"image": pixels, "image_sizes": sizes})
    with torch.no_grad():
        expected = graph.results(torch.from_numpy(pixels), torch.from_numpy(sizes))
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in expected.items()}
    assert np.abs(found["scores"] - expected["scores"].numpy()).max() < 1e-5
