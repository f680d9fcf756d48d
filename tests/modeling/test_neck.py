"""The networks of Lê and Pham against parameter counts and shapes of the authors' code."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from torch import nn

from multas.config.modeling import add_modeling_config
from multas.modeling import MultiTaskNetwork
from multas.modeling.fold import fold_batch_norm
from multas.modeling.neck import ContextEnhancement, ContextPyramid
from small_resnet import build_resnet

GOLDEN = Path(__file__).parents[1] / "golden" / "multas" / "architecture.json"
MODELS = json.loads(GOLDEN.read_text())["models"]
# The class that trains the reference's teachers has projections that get no gradient.
WITHOUT_UNUSED = [name for name in MODELS if "training_class" not in name]
HEADS = {"det": "DenseDetectionHead", "seg": "SemanticFPNHead"}
PARTS = {
    "backbone": "backbone.bottom_up.",
    "neck_context_module": "backbone.context.",
    "neck_pyramid_extractor": "backbone.extractor.",
    "neck_lateral_1x1": "backbone.top_down.lateral.",
    "neck_output_3x3": "backbone.top_down.output.",
    "neck_bottom_up_stride2": "backbone.up.down.",
    "neck_bottom_up_output_3x3": "backbone.up.output.",
    "head_loc": "heads.det.predictor.box_subnets.",
    "head_conf": "heads.det.predictor.cls_subnets.",
    "head_loc_per_level": "heads.det.predictor.box_subnets.0.",
    "head_conf_per_level": "heads.det.predictor.cls_subnets.0.",
    "head_seg": "heads.seg.",
    "head_seg_pyramid_branches": "heads.seg.branches.",
}


def paper_network(golden: dict) -> MultiTaskNetwork:
    """The network of an entry of architecture.json, on the meta device."""
    cfg = get_cfg()
    add_modeling_config(cfg)
    model = cfg.MODEL
    model.BACKBONE.NAME = f"build_context_{golden['neck']}_backbone"
    model.BACKBONE.FREEZE_AT = 0
    model.RESNETS.DEPTH = int(golden["backbone"].removeprefix("resnet"))
    model.RESNETS.RES2_OUT_CHANNELS = 64 if model.RESNETS.DEPTH < 50 else 256
    model.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    model.RESNETS.NORM = "BN"
    model.RESNETS.STEM_MAX_POOL = False
    model.NECK.NUM_LEVELS = levels = golden["pyramid_levels"]
    root2 = 2**0.5
    model.ANCHOR_GENERATOR.SIZES = [[24.0 * 2**i, 24.0 * root2 * 2**i] for i in range(levels)]
    model.ANCHOR_GENERATOR.ASPECT_RATIOS = [[1.0, 0.5, 2.0]]
    model.MULTITASK.TASKS = golden["task"].split("+")
    model.MULTITASK.HEADS = [HEADS[task] for task in model.MULTITASK.TASKS]
    with torch.device("meta"):
        return MultiTaskNetwork(cfg)


def adapters(golden: dict) -> nn.Module:
    """The reference student's 1x1 projections: here adapters of the distillation paths."""
    levels = golden["pyramid_levels"] if "distillation_projection" in golden["parameters"] else 0
    with torch.device("meta"):
        return nn.ModuleList(nn.Conv2d(256, 256, 1) for _ in range(levels))


def count(module: nn.Module, prefix: str = "") -> int:
    return sum(p.numel() for name, p in module.named_parameters() if name.startswith(prefix))


@pytest.fixture(params=sorted(MODELS))
def case(request):
    golden = MODELS[request.param]
    return golden, paper_network(golden)


def test_parameter_counts_are_those_of_the_reference(case):
    golden, network = case
    expected = dict(golden["parameters"])
    unused = expected.pop("unused_projection_heads", 0)
    projection = expected.pop("distillation_projection", 0)
    assert count(network) + projection + unused == expected["total"]
    assert count(adapters(golden)) == projection
    assert count(network, "backbone.") == expected["backbone"] + expected["neck_total"]
    ours = {part: count(network, PARTS[part]) for part in expected if part in PARTS}
    assert ours == {part: expected[part] for part in ours}
    assert len(ours) >= 6


def test_parameter_shapes_are_those_of_the_reference(case):
    golden, network = case
    prefixes = {
        "backbone": "backbone.bottom_up.",
        "head_loc_level0": PARTS["head_loc_per_level"],
        "head_conf_level0": PARTS["head_conf_per_level"],
        "head_seg": "heads.seg.",
    }
    for part, expected in golden["parameter_shape_counts"].items():
        ours = Counter(
            "x".join(map(str, p.shape))
            for name, p in network.named_parameters()
            if (
                name.startswith(prefixes[part])
                if part in prefixes
                else name.startswith("backbone.") and ".bottom_up." not in name
            )
        )
        assert ours == expected, part


@pytest.mark.parametrize("case", WITHOUT_UNUSED, indirect=True)
def test_weight_decay_groups_and_statistics(case):
    golden, network = case
    both = [*network.named_parameters(), *adapters(golden).named_parameters()]
    plain = [p for name, p in both if p.dim() == 1 or name.endswith("bias")]
    groups = golden["weight_decay_groups"]
    assert len(plain) == groups["no_decay_tensors"]
    assert sum(p.numel() for p in plain) == groups["no_decay_numbers"]
    assert len(both) - len(plain) == groups["decay_tensors"]
    stored = network.state_dict()
    buffers = [b for name, b in network.named_buffers() if name in stored and b.is_floating_point()]
    assert sum(b.numel() for b in buffers) == golden["float_buffers_total"]


def test_shapes_of_all_maps_are_those_of_the_reference(case):
    golden, network = case
    network.eval()
    for size, expected in golden["shapes"].items():
        image = torch.zeros(1, 3, int(size), int(size), device="meta")
        stages = network.backbone.bottom_up(image)
        assert list(stages["res2"].shape) == expected["stage1_out"]
        assert list(stages["res3"].shape) == expected["stage2_out"]
        assert [list(stages[k].shape) for k in ("res4", "res5")] == expected["backbone_outs"]
        context = network.backbone.context(stages["res4"], stages["res5"])
        assert list(context.shape) == expected["context_module_out"]
        extracted = network.backbone.extractor(context)
        assert [list(x.shape) for x in extracted] == expected["pyramid_extractor_outs"]
        features = network.backbone(image)
        assert [list(x.shape) for x in features.values()] == expected["neck_outs"]
        strides = [shape.stride for shape in network.backbone.output_shape().values()]
        assert strides == expected["strides"]
        # The reference's teacher class leaves its detections out as soon as it segments.
        if "conf" in expected["outputs"]:
            head = network.heads["det"]
            logits, deltas = head.flatten(head(features))
            assert list(logits.shape) == expected["outputs"]["conf"]
            assert list(deltas.shape) == expected["outputs"]["loc"]
        if "seg" in network.heads:
            assert list(network.heads["seg"](features).shape) == expected["outputs"]["seg"]


@pytest.mark.parametrize("case", WITHOUT_UNUSED, indirect=True)
def test_folding_the_blocks_removes_what_the_reference_removes(case):
    golden, network = case
    blocks = [
        (name, module)
        for name, module in network.named_modules()
        if getattr(module, "norm", None) is not None and "bottom_up" not in name
    ]
    assert len(blocks) == golden["conv_block_batchnorms"]["count"]
    folded = fold_batch_norm(network)
    removed = sum(count(module) - count(folded.get_submodule(name)) for name, module in blocks)
    assert removed == golden["conv_block_batchnorms"]["parameters_folded_away"]


def test_paper_ratio_of_teacher_and_student():
    totals = {
        name: count(paper_network(golden)) + count(adapters(golden))
        for name, golden in MODELS.items()
        if name.endswith(("t_det_320", "r_det_320", "t_det_512", "r_det_512"))
    }
    assert totals["teacher_det_320"] / totals["student_det_320"] == pytest.approx(1.652, abs=5e-4)
    assert totals["teacher_det_512"] / totals["student_det_512"] == pytest.approx(1.609, abs=5e-4)


def small_pyramid(bottom_up_path: bool, norm: str = "BN") -> ContextPyramid:
    resnet = build_resnet(18, ["res4", "res5"], STEM_OUT_CHANNELS=4, NORM=norm, STEM_MAX_POOL=False,
                          RES2_OUT_CHANNELS=4)  # fmt: skip
    return ContextPyramid(
        resnet, ["res4", "res5"], channels=8, norm=norm, bottom_up_path=bottom_up_path
    )


@pytest.mark.parametrize("bottom_up_path", [False, True])
def test_gradient_reaches_every_parameter_of_the_neck(bottom_up_path):
    torch.manual_seed(0)
    pyramid = small_pyramid(bottom_up_path)
    features = pyramid(torch.randn(2, 3, 128, 64))
    sum((x * torch.randn_like(x)).sum() for x in features.values()).backward()
    assert all(p.grad.abs().sum() > 0 for name, p in pyramid.named_parameters()
               # A bias before a norm has no effect on the output.
               if not name.endswith("bias") or "norm" in name)  # fmt: skip


def test_context_module_is_the_sum_of_its_three_branches():
    torch.manual_seed(0)
    module = ContextEnhancement(3, 5, 2, norm="", slope=0.1).double()
    fine, coarse = torch.randn(1, 3, 4, 6).double(), torch.randn(1, 5, 2, 3).double()
    out = module(fine, coarse)
    for y in range(4):
        for x in range(6):
            value = sum(
                conv.weight[:, :, 0, 0] @ vector + conv.bias
                for conv, vector in (
                    (module.fine, fine[0, :, y, x]),
                    (module.coarse, coarse[0, :, y // 2, x // 2]),
                    (module.pooled, coarse[0].mean(dim=(1, 2))),
                )
            )
            torch.testing.assert_close(out[0, :, y, x], torch.maximum(value, 0.1 * value))


def test_pyramid_paths_add_neighbouring_levels():
    """With identities as 1x1 convolutions the output is a simple sum."""
    pyramid = small_pyramid(True, norm="").double().eval()
    for conv in [*pyramid.top_down.lateral, *pyramid.top_down.output, *pyramid.up.down,
                 *pyramid.up.output]:  # fmt: skip
        nn.init.dirac_(conv.weight)
        nn.init.zeros_(conv.bias)
    maps = [torch.rand(1, 8, 8 >> i, 8 >> i).double() for i in range(4)]
    out = pyramid.up(pyramid.top_down(maps))
    top = [maps[3]]
    for i in (2, 1, 0):
        top.insert(0, maps[i] + top[0].repeat_interleave(2, 2).repeat_interleave(2, 3))
    expected = [top[0]]
    for i in (1, 2, 3):
        expected.append(top[i] + expected[-1][:, :, ::2, ::2])
    for ours, theirs in zip(out, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("norm", ["BN", "SyncBN"])
def test_one_image_trains_with_running_statistics_where_it_has_a_single_value(norm):
    """The pooled branch of one image, and the 1x1 coarsest level of a 64-pixel image."""
    torch.manual_seed(0)
    pyramid = small_pyramid(False, norm=norm).train()
    state = pyramid.context.pooled.norm.running_mean.clone()
    image = torch.randn(1, 3, 64, 64)
    features = pyramid(image)
    assert features["p6"].shape[-2:] == (1, 1)
    sum(x.square().sum() for x in features.values()).backward()
    assert all(p.grad.isfinite().all() for p in pyramid.parameters())
    assert pyramid.context.pooled.weight.grad.abs().sum() > 0
    # There are no batch statistics to learn; the map itself depends on the image.
    assert torch.equal(pyramid.context.pooled.norm.running_mean, state)
    norm_layer = pyramid.context.pooled.norm
    x = torch.randn(1, 8, 1, 1)
    trained = norm_layer(x)
    torch.testing.assert_close(trained, norm_layer.eval()(x))
    assert not torch.equal(trained, norm_layer.train()(-x))
    # Two images have statistics, which are learned as usual.
    pyramid(torch.randn(2, 3, 64, 64))
    assert not torch.equal(pyramid.context.pooled.norm.running_mean, state)


def test_unfit_stages_are_refused_with_the_strides():
    resnet = build_resnet(18, ["res3", "res5"], STEM_OUT_CHANNELS=4, RES2_OUT_CHANNELS=4)
    for names in (["res3", "res5"], ["res5", "res3"], ["res3"], ["res3", "res4"]):
        with pytest.raises(ValueError, match=r"IN_FEATURES.*'res3': 8"):
            ContextPyramid(resnet, names)
