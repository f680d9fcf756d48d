"""From MODEL.DISTILLATION.AGGREGATION to an aggregator."""

from collections.abc import Sequence

from detectron2.config import CfgNode

from multas.distillation.aggregation.base import AGGREGATOR_REGISTRY, Aggregator
from multas.distillation.registry import lookup


def build_aggregator(
    cfg: CfgNode, names: Sequence[str], hand_tuned: Sequence[float]
) -> Aggregator:
    """The aggregator that ``cfg.MODEL.DISTILLATION.AGGREGATION.NAME`` names.

    Args:
        cfg: the student's config.
        names, hand_tuned: of the K path losses, see :class:`Aggregator`.

    Raises:
        ValueError: unknown name.
    """
    key = "MODEL.DISTILLATION.AGGREGATION.NAME"
    cls = lookup(AGGREGATOR_REGISTRY, cfg.MODEL.DISTILLATION.AGGREGATION.NAME, key)
    return cls(names=names, hand_tuned=hand_tuned, **cls.options(cfg))
