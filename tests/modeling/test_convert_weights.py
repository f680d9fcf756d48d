import re

import pytest
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import FPN

from convert_weights import convert, main
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
