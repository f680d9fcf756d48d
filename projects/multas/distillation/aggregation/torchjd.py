"""Aggregators of the library TorchJD, by name: ``torchjd:UPGrad``."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from torch import Tensor

from multas.distillation.aggregation.gradient import GradientAggregator
from multas.util.names import did_you_mean

PREFIX = "torchjd:"
_KEY = "MODEL.DISTILLATION.AGGREGATION"


def _weightings() -> dict[str, type]:
    """TorchJD's weightings that see only the Gram matrix, by the name of their aggregator."""
    try:
        import torchjd.aggregation as library
    except ImportError as error:
        raise ImportError(
            f"{_KEY}.NAME starts with '{PREFIX}', but TorchJD is not installed: "
            "pip install 'multas[torchjd]', or use mgda, which needs no library."
        ) from error
    found = {}
    for name in library.__all__:
        kind = getattr(library, name)
        if inspect.isclass(kind) and issubclass(kind, library.GramianWeightedAggregator):
            weighting = getattr(library, f"{name}Weighting", None)
            if weighting is not None:
                found[name] = weighting
    return found


class TorchJD(GradientAggregator):
    """v from one of TorchJD's weightings of the Gram matrix (float64).

    Weightings that remember former steps (GradVac, PCD) start anew when a run is resumed.

    Args:
        names, hand_tuned, task_as_objective: see :class:`GradientAggregator`.
        weighting: e.g. "UPGrad", "MGDA", "CAGrad", as TorchJD calls the aggregator.
        arguments: of its constructor.

    Raises:
        ImportError: TorchJD, or what this weighting needs besides, is not installed.
        ValueError: no such weighting, or unfit arguments.
    """

    def __init__(
        self,
        *,
        names: Sequence[str],
        hand_tuned: Sequence[float],
        weighting: str,
        task_as_objective: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(names=names, hand_tuned=hand_tuned, task_as_objective=task_as_objective)
        choices = _weightings()
        if weighting not in choices:
            raise ValueError(
                f"{_KEY}.NAME: TorchJD has no aggregator '{weighting}' that works from the Gram "
                f"matrix.{did_you_mean(weighting, choices)}"
            )
        try:
            self._weighting = choices[weighting](**(arguments or {}))
        except ImportError as error:
            raise ImportError(f"{_KEY}.NAME is '{PREFIX}{weighting}': {error}") from error
        except TypeError as error:
            wanted = inspect.signature(choices[weighting])
            raise ValueError(
                f"{_KEY}.TORCHJD is {dict(arguments or {})}, but {weighting} takes {wanted}."
            ) from error

    @classmethod
    def options(cls, cfg: CfgNode) -> dict[str, Any]:
        aggregation = cfg.MODEL.DISTILLATION.AGGREGATION
        return super().options(cfg) | {
            "weighting": aggregation.NAME.removeprefix(PREFIX),
            "arguments": dict(aggregation.TORCHJD),
        }

    def weigh(self, gram: Tensor, losses: Tensor) -> Tensor:
        return self._weighting(gram)
