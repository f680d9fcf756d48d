"""The check that a model shows its network what the config says."""

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from multas.distillation import Distiller
from multas.modeling import MultiTaskNetwork
from multas.util.errors import UserError


def check_network_input(cfg: CfgNode) -> None:
    """Make sure that the model can stretch and crop test images itself where the config wants it.

    Raises:
        UserError: It is a meta-architecture that does not.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    model = META_ARCH_REGISTRY.get(name)  # which may be a function
    if isinstance(model, type) and issubclass(model, MultiTaskNetwork | Distiller):
        return
    for key in ("SQUARE_SIZE", "CENTER_CROP_TEST"):
        if cfg.INPUT[key]:
            raise UserError(
                f"INPUT.{key} is {cfg.INPUT[key]}, but {name} (MODEL.META_ARCHITECTURE) takes test "
                "images as they are, so that it would be served with other pixels than it was "
                f"trained with. Set MODEL.META_ARCHITECTURE Distiller and "
                f"MODEL.DISTILLATION.STUDENT {name} (without PATHS it trains plainly), or "
                f"INPUT.{key} 0."
            )
