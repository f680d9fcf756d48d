"""Multiple-gradient descent (paper B, section 3.4, eq. 4)."""

from collections.abc import Sequence

from torch import Tensor

from multas.distillation.aggregation.base import AGGREGATOR_REGISTRY, KEY
from multas.distillation.aggregation.gradient import GradientAggregator
from multas.distillation.gradients.min_norm import NORMALISATIONS, mgda_weights
from multas.util.names import check_choice


@AGGREGATOR_REGISTRY.register()
class MGDA(GradientAggregator):
    """v = argmin ||sum_i v_i g_i||^2 on the simplex (Desideri 2012; eq. 4), solved exactly.

    The direction reduces every path loss, or is zero. With a normalisation the problem is solved
    for g_i / n_i; v then refers to the raw gradients again (v_i proportional to v~_i / n_i, on the
    simplex), so the direction keeps that property. A path whose gradient is zero gets no weight:
    it would be the optimum, and stop all others.

    Without normalisation (the paper's text) nearly all weight goes to the shortest gradient: with
    losses as unlike as AT and ST (1000 : 0.1) the others would not be learned. Hence "l2" is the
    default.

    Args:
        names, hand_tuned, task_as_objective: see :class:`GradientAggregator`.
        normalisation: n_i: "none" 1, "l2" ||g_i||, "loss" L_i, "loss+" L_i ||g_i||.
    """

    def __init__(
        self,
        *,
        names: Sequence[str],
        hand_tuned: Sequence[float],
        task_as_objective: bool = False,
        normalisation: str = "l2",
    ) -> None:
        super().__init__(names=names, hand_tuned=hand_tuned, task_as_objective=task_as_objective)
        check_choice(f"{KEY}.NORMALISATION", normalisation, NORMALISATIONS)
        self.normalisation = normalisation

    def weigh(self, gram: Tensor, losses: Tensor) -> Tensor:
        return mgda_weights(gram, losses, self.normalisation)
