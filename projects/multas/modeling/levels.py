"""From the maps of a dense head to one row per anchor."""

from collections.abc import Sequence

import torch
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from torch import Tensor


def flatten_levels(levels: Sequence[Tensor], channels: int) -> Tensor:
    """Join what a dense head predicts on all levels: L maps (N, A*C, Hi, Wi) -> (N, R, C).

    ``channels`` is C: K for class logits, 4 for box deltas. The R = sum over levels of Hi * Wi * A
    rows are in the order level, y, x, anchor.
    """
    return torch.cat([permute_to_N_HWA_K(level, channels) for level in levels], dim=1)
