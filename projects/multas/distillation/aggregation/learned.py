"""What aggregators that learn v = exp(-z) have in common."""

import torch
from torch import Tensor

from multas.distillation.aggregation.base import KEY
from multas.util.errors import UserError


def check_bound(max_weighted_loss: float) -> None:
    """Make sure that the bound of weighted losses is above what they are at rest, or 0.

    Raises:
        UserError: It is not.
    """
    if 0 < max_weighted_loss <= 1 or max_weighted_loss < 0:
        raise UserError(
            f"{KEY}.MAX_WEIGHTED_LOSS is {max_weighted_loss}; it must be above 1 (the weighted "
            "loss at rest), or 0 for no bound."
        )


def weigh(z: Tensor, losses: Tensor, max_weighted_loss: float) -> tuple[Tensor, Tensor]:
    """Weigh losses by exp(-z).

    Args:
        z: (K,), with graph.
        losses: (K,) raw path losses, with graph.
        max_weighted_loss: what weighted losses are scaled back to; 0 for no bound.

    Returns:
        (K,) weighted losses, and (K,) z for its regulariser. With a bound the latter has no
        gradient where a loss is exactly 0: it has no scale, and z would go to minus infinity.
    """
    # Under autocast the losses may be in half precision, but v keeps the precision of z.
    weighted = torch.exp(-z) * losses.to(z.dtype)
    if max_weighted_loss == 0:
        return weighted, z
    size = weighted.detach()
    weighted = weighted * (max_weighted_loss / size).clamp(max=1.0)
    return weighted, torch.where(losses.detach() == 0, z.detach(), z)
