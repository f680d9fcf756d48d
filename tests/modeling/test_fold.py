import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import Conv2d, get_norm
from detectron2.modeling import build_backbone
from torch import nn

from multas.config.modeling import add_modeling_config
from multas.modeling import MultiTaskNetwork
from multas.modeling.fold import fold_batch_norm


def make_cfg(backbone: str, norm: str = "BN"):
    cfg = get_cfg()
    add_modeling_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = backbone
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if backbone == "build_resnet_fpn_backbone" else 8
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.RESNETS.STEM_MAX_POOL = False
    cfg.MODEL.RESNETS.NORM = norm
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.NORM = norm
    cfg.MODEL.FPN.OUT_CHANNELS = cfg.MODEL.NECK.OUT_CHANNELS = 16
    cfg.MODEL.NECK.NORM = cfg.MODEL.DENSE_HEAD.NORM = cfg.MODEL.SEMANTIC_FPN_HEAD.NORM = norm
    cfg.MODEL.SEMANTIC_FPN_HEAD.CONVS_DIM = 8
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32.0]]
    cfg.MODEL.MULTITASK.TASKS = ["det", "seg", "cls"]
    cfg.MODEL.MULTITASK.HEADS = [
        "DenseDetectionHead", "SemanticFPNHead", "LinearClassificationHead"
    ]  # fmt: skip
    return cfg


@torch.no_grad()
def randomise_norms(model: nn.Module) -> nn.Module:
    """Set all statistics and affine parameters to random values, as after training."""
    torch.manual_seed(0)
    for module in model.modules():
        if hasattr(module, "running_var"):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2.0)
            if module.weight is not None:
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
    return model.eval()


def foldable_norms(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, Conv2d) and m.norm is not None]


@pytest.mark.parametrize("norm", ["BN", "SyncBN", "FrozenBN"])
@pytest.mark.parametrize("name", ["build_context_pafpn_backbone", "build_resnet_fpn_backbone"])
def test_folded_backbones_compute_the_same(name, norm):
    model = randomise_norms(build_backbone(make_cfg(name, norm)))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = fold_batch_norm(model)
    assert len(foldable_norms(model)) > 20
    assert not foldable_norms(folded)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for key, expected in model(image).items():
            error = (folded(image)[key] - expected).abs().max()
            assert error <= 1e-5 * expected.abs().max()


def test_a_folded_network_predicts_the_same_with_all_heads():
    model = randomise_norms(MultiTaskNetwork(make_cfg("build_context_fpn_backbone")))
    folded = fold_batch_norm(model.train())
    assert model.training and not folded.training
    assert not foldable_norms(folded)
    image = [{"image": torch.rand(3, 64, 64) * 255}]
    with torch.no_grad():
        ours, theirs = model.eval().raw_outputs(image), folded.raw_outputs(image)
    for task in model.heads:
        expected, got = (
            x.predictions[task] if torch.is_tensor(x.predictions[task])
            else torch.cat([y.flatten() for part in x.predictions[task] for y in part])
            for x in (ours, theirs)
        )  # fmt: skip
        assert (expected - got).abs().max() <= 1e-5 * expected.abs().max()


def test_folding_is_exact_in_double_precision():
    model = randomise_norms(build_backbone(make_cfg("build_context_fpn_backbone"))).double()
    folded, image = fold_batch_norm(model), torch.randn(1, 3, 64, 64).double()
    for key, expected in model(image).items():
        torch.testing.assert_close(folded(image)[key], expected, rtol=1e-11, atol=1e-11)


def test_other_norms_and_standalone_norms_stay():
    conv = Conv2d(4, 32, 1, norm=get_norm("GN", 32))
    model = nn.Sequential(conv, nn.Conv2d(32, 4, 1), nn.BatchNorm2d(4))
    folded = fold_batch_norm(model)
    assert isinstance(folded[0].norm, nn.GroupNorm)
    assert isinstance(folded[2], nn.BatchNorm2d)


def test_norms_without_running_statistics_are_refused():
    conv = Conv2d(4, 4, 1, norm=nn.BatchNorm2d(4, track_running_stats=False))
    with pytest.raises(ValueError, match="track_running_stats=True"):
        fold_batch_norm(conv)
