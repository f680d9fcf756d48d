"""Multiple-gradient descent (Chennupati et al., BMVC 2021, section 3.4, eq. 4)."""

from collections.abc import Sequence

from torch import Tensor

from multas.distillation.aggregation.base import AGGREGATOR_REGISTRY, KEY
from multas.distillation.aggregation.gradient import GradientAggregator
from multas.distillation.gradients.min_norm import LENGTHS, NORMALISATIONS, mgda_weights
from multas.util.names import check_choice


@AGGREGATOR_REGISTRY.register()
class MGDA(GradientAggregator):
    """v = argmin ||sum_i v_i g_i||^2 on the simplex (Désidéri 2012; eq. 4), solved exactly.

    The direction reduces every path loss, or is zero. Eq. 4 to the letter is NORMALISATION none
    with LENGTH simplex: the direction is then about as long as the shortest gradient, which gets
    nearly all weight, and of losses as unlike as AT and ST (1000 : 0.1) the others would not be
    learned. By default each gradient counts by its direction alone ("l2"), and the step is as long
    as for a mean path: v_i ||g_i|| is the same for gradients that are orthogonal to each other.

    Args:
        task_as_objective: see :class:`GradientAggregator`.
        normalisation: what each gradient is divided by before the weights are solved for: "none" =
            1, "l2" = its length, "loss" = its loss, "loss+" = both.
        length: "mean" = the summands v_i ||g_i|| add up to the mean length of the gradients,
            "simplex" = the v_i add up to 1, "raw" = v solves the normalised problem, as in the code
            of Sener and Koltun (NeurIPS 2018), where a path may get worse. "auto" is "simplex" for
            NORMALISATION none and "mean" otherwise.
    """

    def __init__(
        self,
        *,
        names: Sequence[str],
        hand_tuned: Sequence[float],
        task_as_objective: bool = False,
        normalisation: str = "l2",
        length: str = "auto",
    ) -> None:
        super().__init__(names=names, hand_tuned=hand_tuned, task_as_objective=task_as_objective)
        check_choice(f"{KEY}.NORMALISATION", normalisation, NORMALISATIONS)
        check_choice(f"{KEY}.LENGTH", length, LENGTHS)
        self.normalisation, self.length = normalisation, length

    def weigh(self, gram: Tensor, losses: Tensor) -> Tensor:
        return mgda_weights(gram, losses, self.normalisation, self.length)
