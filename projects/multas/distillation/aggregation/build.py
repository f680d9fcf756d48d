"""From MODEL.DISTILLATION.AGGREGATION to an aggregator."""

from collections.abc import Sequence

from detectron2.config import CfgNode

from multas.distillation.aggregation.base import AGGREGATOR_REGISTRY, Aggregator
from multas.distillation.aggregation.torchjd import PREFIX, TorchJD
from multas.util.names import lookup


def build_aggregator(cfg: CfgNode, names: Sequence[str], hand_tuned: Sequence[float]) -> Aggregator:
    """The aggregator that ``cfg.MODEL.DISTILLATION.AGGREGATION.NAME`` names.

    ``torchjd:<name>`` is what the library TorchJD calls so, anything else is a registered class.

    Args:
        cfg: the student's config.
        names, hand_tuned: of the K path losses, see :class:`Aggregator`.

    Raises:
        ValueError: unknown name.
        ImportError: TorchJD is wanted, but not installed.
    """
    key = "MODEL.DISTILLATION.AGGREGATION.NAME"
    name = cfg.MODEL.DISTILLATION.AGGREGATION.NAME
    cls = TorchJD if name.startswith(PREFIX) else lookup(AGGREGATOR_REGISTRY, name, key)
    return cls(names=names, hand_tuned=hand_tuned, **cls.options(cfg))
