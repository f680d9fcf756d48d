import re

import pytest
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import FPN

from convert_weights import convert, convert_to_timm, main
from multas.modeling.strict_loading import SafeCheckpointer
from small_resnet import build_resnet

STAGES = ["res2", "res3", "res4", "res5"]


def torchvision_resnet(depth: int, max_pool: bool) -> torch.nn.Module:
    """A model whose weights and statistics all differ."""
    torch.manual_seed(depth)
    model = getattr(torchvision.models, f"resnet{depth}")(weights=None).eval()
    for name, value in model.state_dict().items():
        if "bn" in name or "downsample.1" in name:
            value.copy_(torch.rand(value.shape) + 0.5)
    if not max_pool:
        model.maxpool = torch.nn.Identity()
    return model


@torch.no_grad()
def stage_outputs(model: torch.nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    x = model.maxpool(model.relu(model.bn1(model.conv1(image))))
    outputs = []
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        x = stage(x)
        outputs.append(x)
    return outputs


@pytest.mark.parametrize(
    ("depth", "max_pool", "suffix"),
    [(18, True, ".pth"), (18, False, ".pkl"), (50, False, ".pth"), (18, True, ".safetensors")],
)
def test_a_converted_resnet_computes_what_the_original_computes(tmp_path, depth, max_pool, suffix):
    original = torchvision_resnet(depth, max_pool)
    torch.save(original.state_dict(), tmp_path / "in.pth")
    main([str(tmp_path / "in.pth"), str(tmp_path / f"out{suffix}")])
    ours = build_resnet(depth, STAGES, STEM_MAX_POOL=max_pool).eval()
    SafeCheckpointer(ours).load(str(tmp_path / f"out{suffix}"))
    image = torch.randn(1, 3, 64, 32)
    with torch.no_grad():
        features = ours(image)
    for name, expected in zip(STAGES, stage_outputs(original, image), strict=True):
        torch.testing.assert_close(features[name], expected, rtol=1e-4, atol=1e-5)


def test_names_match_at_any_depth_of_the_model(tmp_path):
    """The same file also fits the ResNet in an FPN, with frozen norms."""
    original = torchvision_resnet(18, True)
    torch.save({"state_dict": original.state_dict()}, tmp_path / "in.pth")
    main([str(tmp_path / "in.pth"), str(tmp_path / "out.pth")])
    resnet = build_resnet(18, STAGES, NORM="FrozenBN", freeze_at=2)
    fpn = FPN(resnet, ["res4", "res5"], 8)
    DetectionCheckpointer(fpn).load(str(tmp_path / "out.pth"))
    expected = convert(original.state_dict())
    loaded = {n: v for n, v in resnet.state_dict().items() if "num_batches_tracked" not in n}
    assert set(loaded) == set(expected)
    assert all(torch.equal(loaded[name], value) for name, value in expected.items())


def test_every_entry_of_the_model_is_given_and_nothing_else():
    weights = torchvision_resnet(50, True).state_dict()
    wanted = {n for n in build_resnet(50, STAGES).state_dict() if "num_batches_tracked" not in n}
    assert set(convert(weights)) == wanted
    assert set(convert(weights, classifier=True)) == wanted | {"linear.weight", "linear.bias"}


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"unknown names \['features"):
        convert({"conv1.weight": torch.zeros(1), "features.0.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=re.escape("no 'conv1.weight'")):
        convert({"fc.weight": torch.zeros(1)})
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "in.pth")
    with pytest.raises(ValueError, match="must end in"):
        main([str(tmp_path / "in.pth"), str(tmp_path / "out.txt")])


def older_mobilenet(weights):
    """The names that MobileNetV2 had before torchvision's blocks of convolution and norm."""
    layers = [n.rpartition(".") for n in weights]
    counts: dict[str, dict[str, int]] = {}
    renamed = {}
    for layer, _, leaf in layers:
        start = re.match(r"features\.\d+\.conv", layer)
        if start:
            # ReLU6 stood behind all norms but the last one of a block.
            own = counts.setdefault(start[0], {})
            number = own.setdefault(layer, len(own) + len(own) // 2)
            renamed[f"{start[0]}.{number}.{leaf}"] = weights[f"{layer}.{leaf}"]
        elif layer.startswith("features"):
            renamed[f"{layer}.{leaf}"] = weights[f"{layer}.{leaf}"]
    return renamed


@pytest.mark.parametrize("older", [False, True])
def test_a_converted_mobilenet_computes_what_the_original_computes(tmp_path, older):
    timm = pytest.importorskip("timm")
    original = torchvision.models.mobilenet_v2(weights=None, width_mult=0.35).eval()
    for name, value in original.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            value.copy_(torch.rand(value.shape) + 0.5)
    weights = original.state_dict()
    weights = older_mobilenet(weights) if older else weights
    torch.save(weights, tmp_path / "in.pth")
    main([str(tmp_path / "in.pth"), str(tmp_path / "out.pth"), "--timm", "mobilenetv2_035"])
    ours = timm.create_model("mobilenetv2_035", num_classes=0).eval()
    timm.models.load_checkpoint(ours, str(tmp_path / "out.pth"))
    image = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        assert torch.equal(ours.forward_features(image), original.features(image))


def efficientnet_names(weights):
    """The names of efficientnet_pytorch for those of timm."""
    numbers: dict[str, int] = {}
    names = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1",
             "classifier": "_fc"}  # fmt: skip
    renamed = {}
    for name, value in weights.items():
        layer, _, leaf = name.rpartition(".")
        if layer.startswith("blocks"):
            block, _, own = layer.rpartition(".")
            number = numbers.setdefault(block, len(numbers))
            # The first block has no expansion.
            names_of = {"conv_dw": "_depthwise_conv", "conv_pwl": "_project_conv", "bn3": "_bn2"}
            first = {"conv_pw": "_project_conv", "bn1": "_bn1", "bn2": "_bn2"}
            later = {"conv_pw": "_expand_conv", "bn1": "_bn0", "bn2": "_bn1"}
            layer = f"_blocks.{number}.{(names_of | (later if number else first))[own]}"
        else:
            layer = names[layer]
        renamed[f"{layer}.{leaf}"] = value
    return renamed


def test_a_converted_efficientnet_has_all_names_of_timm():
    timm = pytest.importorskip("timm")
    weights = timm.create_model("tf_efficientnet_lite0").state_dict()
    foreign = efficientnet_names(weights)
    found = convert_to_timm(foreign, "tf_efficientnet_lite0", classifier=True)
    wanted = {n: v for n, v in weights.items() if not n.endswith("num_batches_tracked")}
    assert list(found) == list(wanted)
    assert all(found[name] is value for name, value in wanted.items())
    with pytest.raises(ValueError, match="not the weights of tf_efficientnet_lite1: where it has"):
        convert_to_timm(foreign, "tf_efficientnet_lite1")
    with pytest.raises(ValueError, match="not the weights of a MobileNetV2 or an EfficientNet"):
        convert_to_timm(weights, "tf_efficientnet_lite0")
