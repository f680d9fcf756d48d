"""Two processes train as one with the same batch: NCCL on two GPUs, gloo on CPUs."""

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from detectron2.engine import defaults, launch
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel

from device_checks.check import Check, Place, Skipped
from device_checks.steps import TWO_PATHS
from device_checks.trainings import largest_difference, losses_of, train
from multas.engine import load_config

# Statistics of a batch would be those of the images of a process.
_NORM = ["MODEL.RESNETS.NORM", "FrozenBN"]
_AGGREGATIONS = ("hand_tuned", "adaptive", "mgda")


def _rank(folder: str) -> None:
    """Train what the config in a folder says, and leave there what this process has found."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    trainer = train(load_config(f"{folder}/job.yaml"))
    weights = {name: x.cpu() for name, x in trainer.model.state_dict().items()}
    file = f"{folder}/rank{comm.get_rank()}.pth"
    torch.save({"losses": losses_of(trainer), "weights": weights}, file)


def _on_cpu(rank: int, folder: str) -> None:
    """What Detectron2's launch does, for a process without a GPU."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    comm._LOCAL_PROCESS_GROUP = torch.distributed.new_group([0, 1])
    defaults.create_ddp_model = lambda model, **_: DistributedDataParallel(
        model, broadcast_buffers=False
    )
    _rank(folder)
    torch.distributed.destroy_process_group()


def _check(place: Place) -> str:
    if place.is_gpu and torch.cuda.device_count() < 2:
        raise Skipped("there is one GPU")
    differences = []
    for name in _AGGREGATIONS:
        opts = [*_NORM, "MODEL.DISTILLATION.AGGREGATION.NAME", name]
        cfg = place.trainings.config(TWO_PATHS, place.device, *opts)
        folder = Path(cfg.OUTPUT_DIR)
        folder.mkdir(parents=True)
        (folder / "job.yaml").write_text(cfg.dump())
        if place.is_gpu:
            launch(_rank, 2, dist_url="auto", args=(str(folder),))
        else:
            torch.multiprocessing.spawn(_on_cpu, args=(str(folder),), nprocs=2)
        first, second = (torch.load(folder / f"rank{rank}.pth") for rank in range(2))
        apart = [k for k, x in first["weights"].items() if not torch.equal(x, second["weights"][k])]
        assert not apart, f"{name}: {apart[0]} differs between the processes"
        alone = place.trainings.losses(TWO_PATHS, place.device, *opts)
        differences.append(largest_difference(first["losses"], alone))
    backend = "NCCL" if place.is_gpu else "gloo"
    return f"{backend}, {', '.join(_AGGREGATIONS)}: {max(differences):.0e} from one process"


def checks() -> Iterator[Check]:
    yield Check("two processes", _check)
