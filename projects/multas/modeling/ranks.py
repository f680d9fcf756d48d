"""The mean over the processes of a data-parallel run; with one process nothing happens."""

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor


def mean_over_ranks(values: Tensor, device: torch.device | None = None) -> Tensor:
    """The mean of a detached tensor over all ranks, the same bits on each of them.

    Args:
        values: of one shape on all ranks.
        device: where the process group communicates; default: where ``values`` are.
    """
    ranks = comm.get_world_size()
    if ranks == 1:
        return values
    sent = values.to(device or values.device, copy=True)
    dist.all_reduce(sent)
    return (sent / ranks).to(values.device)
