"""Names in a config by which Detectron2 builds a model."""

from functools import reduce
from operator import getitem

from detectron2.config import CfgNode
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_HEADS_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
)
from detectron2.modeling.anchor_generator import ANCHOR_GENERATOR_REGISTRY

from multas.util.errors import UserError
from multas.util.names import did_you_mean

_NAMES = {
    "META_ARCHITECTURE": META_ARCH_REGISTRY,
    "DISTILLATION.STUDENT": META_ARCH_REGISTRY,
    "BACKBONE.NAME": BACKBONE_REGISTRY,
    "ANCHOR_GENERATOR.NAME": ANCHOR_GENERATOR_REGISTRY,
    "PROPOSAL_GENERATOR.NAME": PROPOSAL_GENERATOR_REGISTRY,
    "ROI_HEADS.NAME": ROI_HEADS_REGISTRY,
    "SEM_SEG_HEAD.NAME": SEM_SEG_HEADS_REGISTRY,
}


def check_registered(cfg: CfgNode, where: str) -> None:
    """Make sure that the parts of a model that a config names are registered.

    Args:
        cfg: the config.
        where: what the message begins with.

    Raises:
        UserError: One is not, or the model needs files of proposals. The message names the key.
    """
    if cfg.MODEL.LOAD_PROPOSALS:
        raise UserError(
            f"{where}: MODEL.LOAD_PROPOSALS is True, but files of proposals are pickles, which can "
            "run code and are not read. Set it to False, and MODEL.PROPOSAL_GENERATOR.NAME to RPN."
        )
    for key, registry in _NAMES.items():
        name = reduce(getitem, key.split("."), cfg.MODEL)
        if name not in registry:
            raise UserError(
                f"{where}: MODEL.{key} is '{name}', which is not registered."
                f"{did_you_mean(name, dict(registry))} Name the module that "
                "registers one of your own in IMPORT_MODULES."
            )
