"""Means and decisions of a data-parallel run. With one process they change nothing."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor

from multas.util.errors import UserError

# The gradients of one loss, one for each parameter; None where the loss does not depend on it.
GradientRow = Sequence[Tensor | None]


def mean_over_ranks(values: Tensor, device: torch.device | None = None) -> Tensor:
    """The mean of a detached tensor over all ranks, equal to the bit on each of them.

    ``device`` is where the process group communicates; None = where ``values`` are.
    """
    ranks = comm.get_world_size()
    if ranks == 1:
        return values
    sent = values.to(device or values.device, copy=True)
    dist.all_reduce(sent)
    return (sent / ranks).to(values.device)


def root_mean_square_over_ranks(values: Tensor) -> Tensor:
    """The root of the mean square over all ranks, equal on each, with the gradient of the own part.

    The mean over the ranks of these gradients, as DistributedDataParallel takes it, is the gradient
    of the result. Every rank has to call it.
    """
    if comm.get_world_size() == 1:
        return values
    own = values.detach()
    whole = mean_over_ranks(own.square()).sqrt()
    share = torch.where(whole > 0, own / whole, 0.0)
    return whole + share * (values - own)


def from_main_rank(values: Tensor, device: torch.device) -> Tensor:
    """The values of rank 0, on all ranks; ``device`` is where the process group communicates."""
    if comm.get_world_size() == 1:
        return values
    sent = values.to(device)
    dist.broadcast(sent, src=0)
    return sent.to(values.device)


def average_gradients(
    rows: Sequence[GradientRow], parameters: Sequence[Tensor]
) -> list[list[Tensor | None]]:
    """Average gradients over all ranks, with one message for each row.

    A gradient that is None on every rank stays None. Otherwise None counts as zero, since the
    batches of the ranks may reach different parameters. This needs the memory of one more row.
    """
    result = [list(row) for row in rows]
    ranks = comm.get_world_size()
    if ranks == 1 or not result:
        return result
    reached = torch.tensor([[g is not None for g in row] for row in result], dtype=torch.int32)
    reached = reached.to(parameters[0].device)
    dist.all_reduce(reached, op=dist.ReduceOp.MAX)
    for row, flags in zip(result, reached.tolist(), strict=True):
        used = [i for i, flag in enumerate(flags) if flag]
        if not used:
            continue
        pairs = [(row[i], parameters[i]) for i in used]
        pieces = [torch.zeros_like(p) if gradient is None else gradient for gradient, p in pairs]
        flat = torch.cat([piece.reshape(-1) for piece in pieces])
        dist.all_reduce(flat)
        flat /= ranks
        averaged = flat.split([parameters[i].numel() for i in used])
        for i, piece in zip(used, averaged, strict=True):
            row[i] = piece.view_as(parameters[i])
    return result


def decided_by_main(decide: Callable[[], Any]) -> Any:
    """What the main process decides, on all ranks, though files may change between their looks.

    Raises:
        UserError: The main process has met a mistake of the user, or a file that it cannot read.
    """
    if comm.get_world_size() == 1:
        return decide()
    decision, mistake = None, ""
    if comm.is_main_process():
        try:
            decision = decide()
        except (UserError, OSError) as error:
            mistake = str(error)
    decision, mistake = comm.all_gather((decision, mistake))[0]
    if mistake:
        raise UserError(mistake)
    return decision
