import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_model
from detectron2.modeling.backbone.fpn import build_retinanet_resnet_fpn_backbone
from detectron2.modeling.backbone.resnet import build_resnet_backbone
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from multas.config.modeling import add_modeling_config
from small_resnet import build_resnet

RGB = ShapeSpec(channels=3)
STAGES = ["res2", "res3", "res4", "res5"]


def make_cfg(name: str, depth: int = 18, width: int = 64):
    cfg = get_cfg()
    add_modeling_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = name
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = width
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = width if depth < 50 else 4 * width
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = width
    cfg.MODEL.RESNETS.OUT_FEATURES = STAGES
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    return cfg


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_full_width_has_the_weights_of_detectron2s_own_resnet(depth):
    cfg = make_cfg("build_multas_resnet_backbone", depth)
    with torch.device("meta"):
        ours = build_backbone(cfg)
        cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
        theirs = build_backbone(cfg)
    shapes = {name: value.shape for name, value in theirs.state_dict().items()}
    assert {name: value.shape for name, value in ours.state_dict().items()} == shapes
    assert ours.output_shape() == theirs.output_shape()


@pytest.mark.parametrize("depth", [18, 50])
def test_outputs_equal_detectron2s_with_the_same_weights(depth):
    cfg = make_cfg("build_multas_resnet_backbone", depth)
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    ours = build_backbone(cfg).eval()
    theirs = build_resnet_backbone(cfg, input_shape=RGB).eval()
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(1, 3, 64, 32)
    with torch.no_grad():
        for name, value in theirs(image).items():
            assert torch.equal(ours(image)[name], value)


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
@pytest.mark.parametrize("max_pool", [True, False])
def test_strides_with_and_without_max_pooling(depth, max_pool):
    with torch.device("meta"):
        resnet = build_resnet(depth, ["stem", *STAGES], STEM_MAX_POOL=max_pool).eval()
    features = resnet(torch.zeros(1, 3, 64, 96, device="meta"))
    first = 4 if max_pool else 2
    strides = dict(zip(["stem", *STAGES], [first, *(first << i for i in range(4))], strict=True))
    for name, shape in resnet.output_shape().items():
        assert shape.stride == strides[name]
        height, width = 64 // shape.stride, 96 // shape.stride
        assert features[name].shape == (1, shape.channels, height, width)


@pytest.mark.parametrize("depth", [18, 50])
def test_the_stem_of_cifar_keeps_the_size(depth):
    cfg = make_cfg("build_multas_resnet_backbone", depth)
    cfg.merge_from_list(["MODEL.RESNETS.STEM_MAX_POOL", False])
    cfg.merge_from_list(["MODEL.RESNETS.STEM_KERNEL_SIZE", 3, "MODEL.RESNETS.STEM_STRIDE", 1])
    cfg.MODEL.RESNETS.OUT_FEATURES = ["stem", *STAGES]
    with torch.device("meta"):
        resnet = build_backbone(cfg).eval()
    assert resnet.stem.conv1.weight.shape == (64, 3, 3, 3)
    features = resnet(torch.zeros(1, 3, 32, 40, device="meta"))
    for name, stride in zip(["stem", *STAGES], [1, 1, 2, 4, 8], strict=True):
        assert resnet.output_shape()[name].stride == stride
        assert features[name].shape[2:] == (32 // stride, 40 // stride)


@pytest.mark.parametrize(("kernel", "stride"), [(4, 2), (3, 3)])
def test_a_stem_that_does_not_fit_its_stride_is_refused(kernel, stride):
    with pytest.raises(ValueError, match=rf"STEM_KERNEL_SIZE is {kernel} and STEM_STRIDE {stride}"):
        build_resnet(18, STAGES, STEM_KERNEL_SIZE=kernel, STEM_STRIDE=stride)


@pytest.mark.parametrize(("depth", "width"), [(18, 8), (34, 6), (50, 4)])
def test_narrow_variants_train(depth, width):
    torch.manual_seed(0)
    cfg = make_cfg("build_multas_resnet_backbone", depth, width)
    resnet = build_backbone(cfg)
    factor = 1 if depth < 50 else 4
    channels = [shape.channels for shape in resnet.output_shape().values()]
    assert channels == [width * factor << i for i in range(4)]
    sum(x.square().sum() for x in resnet(torch.randn(2, 3, 32, 32)).values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in resnet.parameters())


def test_a_stem_of_another_width_gets_a_projection():
    resnet = build_resnet(18, ["res2"], STEM_OUT_CHANNELS=8, RES2_OUT_CHANNELS=12)
    assert resnet(torch.randn(1, 3, 32, 32))["res2"].shape == (1, 12, 8, 8)


def test_freezing_stops_the_first_stages_and_their_norms():
    resnet = build_resnet(18, STAGES, STEM_OUT_CHANNELS=4, RES2_OUT_CHANNELS=4, freeze_at=2)
    trained = {name.split(".")[0] for name, p in resnet.named_parameters() if p.requires_grad}
    assert trained == {"res3", "res4", "res5"}
    assert not list(resnet.res2[0].conv1.norm.parameters())


def test_wrong_keys_are_named():
    with pytest.raises(ValueError, match=r"DEPTH is 19; choose one of \[18, 34"):
        build_resnet(19, ["res2"])
    cfg = make_cfg("build_multas_resnet_backbone")
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 256
    with pytest.raises(ValueError, match="set it to 64"):
        build_backbone(cfg)
    cfg = make_cfg("build_multas_resnet_backbone", 50)
    cfg.MODEL.RESNETS.RES5_DILATION = 2
    with pytest.raises(ValueError, match="build_resnet_backbone"):
        build_backbone(cfg)
    cfg = make_cfg("build_multas_fpn_backbone")
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res4", "res5"]
    with pytest.raises(ValueError, match="must be a non-empty part"):
        build_backbone(cfg)


def test_two_extra_levels_are_those_of_retinanet():
    cfg = make_cfg("build_multas_fpn_backbone")
    cfg.MODEL.FPN.NUM_EXTRA_LEVELS = 2
    ours = build_backbone(cfg).eval()
    theirs = build_retinanet_resnet_fpn_backbone(cfg, RGB).eval()
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected, features = theirs(image), ours(image)
    assert list(features) == ["p3", "p4", "p5", "p6", "p7"]
    assert all(torch.equal(features[name], expected[name]) for name in expected)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_any_number_of_extra_levels(count):
    cfg = make_cfg("build_multas_fpn_backbone", width=4)
    cfg.MODEL.FPN.NUM_EXTRA_LEVELS = count
    backbone = build_backbone(cfg).eval()
    features = backbone(torch.randn(1, 3, 256, 256))
    assert list(features) == [f"p{level}" for level in range(3, 6 + count)]
    for name, shape in backbone.output_shape().items():
        assert features[name].shape[-1] == 256 // shape.stride


@pytest.mark.parametrize(
    "name",
    ["build_multas_fpn_backbone", "build_context_fpn_backbone", "build_context_pafpn_backbone"],
)
def test_detectron2s_retinanet_trains_and_predicts_on_our_backbones(name):
    torch.manual_seed(0)
    cfg = make_cfg(name, width=8)
    cfg.MODEL.RESNETS.STEM_MAX_POOL = name == "build_multas_fpn_backbone"
    cfg.MODEL.NECK.OUT_CHANNELS = 16
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    cfg.MODEL.RETINANET.NUM_CLASSES = 3
    cfg.MODEL.RETINANET.IN_FEATURES = ["p3", "p4", "p5"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16], [32], [64]]
    model = build_model(cfg)
    objects = Instances((64, 64))
    objects.gt_boxes = Boxes(torch.tensor([[8.0, 8, 40, 40]]))
    objects.gt_classes = torch.tensor([1])
    inputs = [{"image": torch.rand(3, 64, 64) * 255, "instances": objects} for _ in range(2)]
    with EventStorage():
        losses = model(inputs)
        sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert "instances" in model.eval()(inputs)[0]
