"""The checks that a machine has the devices that a run asks for."""

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

from multas.util.errors import UserError


def check_device(name: str) -> None:
    """Make sure that MODEL.DEVICE is a device of this machine.

    Raises:
        UserError: It is not. The message has those that there are.
    """
    try:
        torch.empty(0, device=name)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        raise UserError(
            f"MODEL.DEVICE is '{name}', which this machine cannot use; choose from "
            f"{', '.join(there)}."
        ) from error


def check_gpus(count: int) -> None:
    """Make sure that there is a GPU for each process of ``--num-gpus``.

    Raises:
        UserError: There is not.
    """
    there = torch.cuda.device_count()
    if not 0 <= count <= max(1, there):
        raise UserError(
            f"--num-gpus is {count}, but this machine has {there}. Give 1, or leave it out, to "
            "train in one process, which may be on a CPU."
        )


def check_world_size(cfg: CfgNode) -> None:
    """Make sure that a batch can be scaled from SOLVER.REFERENCE_WORLD_SIZE to these processes.

    Raises:
        UserError: It is no multiple of it.
    """
    reference, batch = cfg.SOLVER.REFERENCE_WORLD_SIZE, cfg.SOLVER.IMS_PER_BATCH
    if reference not in (0, comm.get_world_size()) and (reference < 0 or batch % reference):
        raise UserError(
            f"SOLVER.REFERENCE_WORLD_SIZE is {reference}, of which SOLVER.IMS_PER_BATCH {batch} is "
            "no multiple; give 0, or the number of processes that this batch is meant for."
        )
