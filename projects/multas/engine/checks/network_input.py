"""The check that a model shows its network what the config says."""

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from multas.distillation import Distiller
from multas.modeling import MultiTaskNetwork
from multas.modeling.network_input import NetworkInput
from multas.util.errors import UserError


def check_network_input(cfg: CfgNode) -> None:
    """Make sure that the model can stretch and crop test images itself where the config wants it.

    Raises:
        UserError: It is a meta-architecture that does not, or a size is negative.
    """
    wanted = NetworkInput.from_config(cfg)
    name = cfg.MODEL.META_ARCHITECTURE
    if not (wanted.square_size or wanted.center_crop) or name not in META_ARCH_REGISTRY:
        return
    if issubclass(META_ARCH_REGISTRY.get(name), MultiTaskNetwork | Distiller):
        return
    key = "SQUARE_SIZE" if wanted.square_size else "CENTER_CROP_TEST"
    raise UserError(
        f"INPUT.{key} is {cfg.INPUT[key]}, but {name} (MODEL.META_ARCHITECTURE) takes test images "
        "as they are, so that it would be served with other pixels than it was trained with. Set "
        f"MODEL.META_ARCHITECTURE Distiller and MODEL.DISTILLATION.STUDENT {name} (without PATHS "
        f"it trains plainly), or INPUT.{key} 0."
    )
