"""ResNets of any depth and width for the tests."""

from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import ResNet

from multas.config.modeling import add_modeling_config
from multas.modeling.backbone import build_multas_resnet_backbone


def build_resnet(depth: int, stages: list[str], freeze_at: int = 0, **resnets) -> ResNet:
    """The ResNet of a default config with these keys of MODEL.RESNETS, and of full width."""
    cfg = get_cfg()
    add_modeling_config(cfg)
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    width = 64 if depth < 50 else 256
    keys = {"NORM": "BN", "STRIDE_IN_1X1": False, "RES2_OUT_CHANNELS": width} | resnets
    cfg.MODEL.RESNETS.update(DEPTH=depth, OUT_FEATURES=stages, **keys)
    return build_multas_resnet_backbone(cfg, ShapeSpec(channels=3))
