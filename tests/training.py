"""A trainer and its run, as train_net.py has them, whole or interrupted."""

import os

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase, TrainerBase, defaults
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel

from multas.engine import Trainer, load_config

PATHS = [
    {
        "TYPE": "AttentionTransfer",
        "STUDENT": ["backbone.bottom_up.res3", "backbone.bottom_up.res4"],
    },
    {"TYPE": "FeatureMSE", "STUDENT": "backbone"},
    {"TYPE": "SoftDetection"},
]
HEADS = {"det": "DenseDetectionHead", "seg": "SemanticFPNHead"}


def two_tasks(cfg, tasks=("det", "seg"), classes: int = 9):
    """The heads of these tasks."""
    key = "MODEL.MULTITASK"
    heads = [f"{key}.TASKS", list(tasks), f"{key}.HEADS", [HEADS[task] for task in tasks]]
    seg = ["MODEL.SEMANTIC_FPN_HEAD.NUM_CLASSES", classes, "MODEL.SEMANTIC_FPN_HEAD.CONVS_DIM", 32]
    cfg.merge_from_list([*heads, *seg])
    return cfg


def start(cfg: CfgNode, resume: bool = False, kind: type[Trainer] = Trainer) -> Trainer:
    """The trainer with its weights, before the first step."""
    torch.manual_seed(cfg.SEED)
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    trainer = kind(cfg)
    trainer.resume_or_load(resume)
    return trainer


def train(cfg: CfgNode, resume: bool = False) -> Trainer:
    """The trainer after its last step."""
    trainer = start(cfg, resume)
    trainer.train()
    return trainer


class _Interrupt(HookBase):
    def __init__(self, iteration: int) -> None:
        self._iteration = iteration

    def after_step(self) -> None:
        if self.trainer.iter == self._iteration:
            raise InterruptedError


def interrupt(trainer: TrainerBase, iteration: int) -> None:
    """Train until this iteration has ended, and no further."""
    trainer.register_hooks([_Interrupt(iteration)])
    with pytest.raises(InterruptedError):
        trainer.train()


def train_in_parts(cfg: CfgNode, last: int) -> Trainer:
    """The trainer after a run that was interrupted behind iteration ``last`` and taken up again
    from its last checkpoint, with other random numbers."""
    interrupt(start(cfg), last)
    torch.rand(5)
    trainer = start(cfg, resume=True)
    assert 0 < trainer.start_iter <= last + 1
    trainer.train()
    return trainer


def weights_in(cfg: CfgNode, name: str = "student.pth") -> dict[str, torch.Tensor]:
    """The weights in a file of a run."""
    return torch.load(os.path.join(cfg.OUTPUT_DIR, name), weights_only=True)["model"]


def copies(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in weights.items()}


def different(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    """The names of the tensors that are not equal to the bit."""
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


def learned(trainer: Trainer) -> dict[str, torch.Tensor]:
    """All that a distillation has learned: student, adapters, aggregator."""
    hook = trainer.path_weights
    parts = trainer.model.state_dict(), hook.distillation.state_dict(), hook.aggregator.state_dict()
    assert sum(map(len, parts)) == len(parts[0] | parts[1] | parts[2])
    return copies(parts[0] | parts[1] | parts[2])


def train_on_two_ranks(config_file: str, rank: int) -> Trainer:
    """The trainer after its last step, in a process group of two; the ranks draw different
    random numbers."""
    # Detectron2 launches processes on GPUs alone; this is what it does, on CPUs.
    comm._LOCAL_PROCESS_GROUP = torch.distributed.new_group([0, 1])
    defaults.create_ddp_model = lambda model, **_: DistributedDataParallel(
        model, broadcast_buffers=False
    )
    torch.manual_seed(rank)
    trainer = Trainer(load_config(config_file))
    trainer.resume_or_load(False)
    trainer.train()
    return trainer
