"""Aggregators of the library TorchJD, by name: ``torchjd:UPGrad``."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from multas.distillation.aggregation.base import KEY
from multas.distillation.aggregation.gradient import GradientAggregator
from multas.util.errors import UserError
from multas.util.names import did_you_mean

PREFIX = "torchjd:"


def weighting_named(name: str) -> type:
    """The weighting of the Gram matrix that belongs to an aggregator of TorchJD.

    Raises:
        UserError: TorchJD is not installed.
        UserError: it has no such aggregator.
    """
    try:
        import torchjd.aggregation as library
    except ImportError as error:
        raise UserError(
            f"{KEY}.NAME starts with '{PREFIX}', but TorchJD is not installed: "
            "pip install 'multas[torchjd]', or use mgda, which needs no library."
        ) from error
    found = {}
    for known in library.__all__:
        kind, weighting = getattr(library, known), getattr(library, f"{known}Weighting", None)
        from_gram = inspect.isclass(kind) and issubclass(kind, library.GramianWeightedAggregator)
        if from_gram and weighting is not None:
            found[known] = weighting
    if name not in found:
        raise UserError(
            f"{KEY}.NAME: TorchJD has no aggregator '{name}' that works from the Gram matrix."
            f"{did_you_mean(name, found)}"
        )
    return found[name]


class TorchJD(GradientAggregator):
    """v from one of TorchJD's weightings of the Gram matrix (float64).

    Weightings that remember former steps (GradVac, PCD) start anew when a run is resumed.

    Args:
        task_as_objective: see :class:`GradientAggregator`.
        weighting: a class from :func:`weighting_named`.
        arguments: the arguments of its constructor.

    Raises:
        UserError: another library that this weighting needs is not installed.
        UserError: the weighting does not take these arguments.
    """

    def __init__(
        self,
        *,
        names: Sequence[str],
        hand_tuned: Sequence[float],
        weighting: Callable[..., Any],
        task_as_objective: bool = False,
        arguments: Mapping[str, Any],
    ) -> None:
        super().__init__(names=names, hand_tuned=hand_tuned, task_as_objective=task_as_objective)
        try:
            self._weighting = weighting(**arguments)
        except ImportError as error:
            raise UserError(f"{KEY}: {weighting.__name__}: {error}") from error
        except TypeError as error:
            raise UserError(
                f"{KEY}: {weighting.__name__} takes {inspect.signature(weighting)}, but the "
                f"options are {dict(arguments)}."
            ) from error

    def weigh(self, gram: Tensor, losses: Tensor) -> Tensor:
        return self._weighting(gram)
