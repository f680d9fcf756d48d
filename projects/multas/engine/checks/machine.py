"""The checks that a machine has the devices that a run asks for."""

from argparse import Namespace

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
        torch.zeros(1, device=name).item()  # the device "meta" makes tensors, but without values
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        raise UserError(
            f"MODEL.DEVICE is '{name}', which this machine cannot use; choose from "
            f"{', '.join(there)}."
        ) from error


def check_launch(args: Namespace) -> None:
    """Make sure that the processes of a command line can be started, each on a GPU of its own.

    Raises:
        UserError: They cannot.
    """
    machines, rank, count = args.num_machines, args.machine_rank, args.num_gpus
    if not 0 <= rank < machines:
        raise UserError(
            f"--machine-rank is {rank} and --num-machines {machines}: give the number of machines, "
            "and to each of them another rank, from 0 on."
        )
    if machines > 1 and args.dist_url == "auto":
        raise UserError("--dist-url is auto; for several machines give that of the first of them.")
    there = torch.cuda.device_count()
    if machines > 1 and not 1 <= count <= there:
        raise UserError(
            f"--num-machines is {machines}, but --num-gpus {count}, and this machine has {there}: "
            "several machines need one GPU or more on each."
        )
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
