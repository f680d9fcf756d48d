"""From MODEL.DISTILLATION.AGGREGATION to an aggregator."""

from collections.abc import Sequence

from detectron2.config import CfgNode

from multas.distillation.aggregation.base import AGGREGATOR_REGISTRY, KEY, Aggregator
from multas.distillation.aggregation.gradient import GradientAggregator, GradientScope
from multas.distillation.aggregation.torchjd import PREFIX, TorchJD, weighting_named
from multas.util.errors import UserError
from multas.util.names import lookup
from multas.util.options import parse_options

# Keys that say how an aggregator is used; the others are options of its constructor.
_KEYS = ("NAME", "SCOPE", "SCOPE_LAYERS", "LOW_MEMORY", "DATA")
_GIVEN = ("names", "hand_tuned")


def build_aggregator(cfg: CfgNode, names: Sequence[str], hand_tuned: Sequence[float]) -> Aggregator:
    """The aggregator that ``cfg.MODEL.DISTILLATION.AGGREGATION`` describes.

    ``NAME`` is that of a registered class, or ``torchjd:`` and the name of an aggregator of the
    library TorchJD; the other keys are arguments of its constructor, in capitals.

    Raises:
        UserError: unknown name or option, or an aggregator that compares paths with a task that is
            not learned.
        ImportError: TorchJD is wanted, but not installed.
    """
    entry = cfg.MODEL.DISTILLATION.AGGREGATION
    where = f"{KEY} ({entry.NAME})"
    cls = _class_named(entry.NAME)
    if getattr(cls, "needs_task", False) and not cfg.MODEL.DISTILLATION.HARD_LABELS:
        raise UserError(
            f"{where} compares the paths with the task's own loss, which MODEL.DISTILLATION."
            "HARD_LABELS False leaves out. Set that to True, or choose another aggregation."
        )
    if cls is not TorchJD:
        options = parse_options(cls, entry, where, given=_GIVEN, keys=_KEYS)
        return cls(names=names, hand_tuned=hand_tuned, **options)
    weighting = weighting_named(entry.NAME.removeprefix(PREFIX))
    return TorchJD(
        names=names,
        hand_tuned=hand_tuned,
        weighting=weighting,
        arguments=parse_options(weighting, entry, where, keys=(*_KEYS, "TASK_AS_OBJECTIVE")),
        task_as_objective=entry.get("TASK_AS_OBJECTIVE", False),
    )


def boundary_layers(cfg: CfgNode) -> tuple[str, ...]:
    """Student layers at which the graph is cut: those of SCOPE "features", for gradients alone.

    Raises:
        UserError: an unknown aggregator or scope, or a scope without layers.
    """
    scope = GradientScope.from_config(cfg)
    cls = _class_named(cfg.MODEL.DISTILLATION.AGGREGATION.NAME)
    cuts = scope.kind == "features" and issubclass(cls, GradientAggregator)
    return scope.layers if cuts else ()


def _class_named(name: str) -> type[Aggregator]:
    if name.startswith(PREFIX):
        return TorchJD
    return lookup(AGGREGATOR_REGISTRY, name, f"{KEY}.NAME")
