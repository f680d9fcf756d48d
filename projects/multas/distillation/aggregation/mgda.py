"""Multiple-gradient descent (Chennupati et al., BMVC 2021, section 3.4, eq. 4)."""

from collections.abc import Sequence

from torch import Tensor

from multas.distillation.aggregation.base import AGGREGATOR_REGISTRY, KEY
from multas.distillation.aggregation.gradient import GradientAggregator
from multas.distillation.gradients.min_norm import NORMALISATIONS, mgda_weights
from multas.util.names import check_choice


@AGGREGATOR_REGISTRY.register()
class MGDA(GradientAggregator):
    """v = argmin ||sum_i v_i g_i||^2 on the simplex (Désidéri 2012; eq. 4), solved exactly.

    The direction reduces every path loss, or is zero. See
    :func:`multas.distillation.gradients.min_norm.mgda_weights` for the normalisations. Without one
    (the paper's text) nearly all weight goes to the shortest gradient, and of losses as unlike as
    AT and ST (1000 : 0.1) the others would not be learned. Hence "l2" is the default.

    Args:
        task_as_objective: see :class:`GradientAggregator`.
        normalisation: "none", "l2", "loss" or "loss+".
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
