"""A trainer and its run, as train_net.py has them."""

import os

import torch
from detectron2.config import CfgNode
from detectron2.engine import defaults
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel

from multas.engine import Trainer, load_config

HEADS = {"det": "DenseDetectionHead", "seg": "SemanticFPNHead"}


def two_tasks(cfg, tasks=("det", "seg"), classes: int = 9):
    """The heads of these tasks."""
    key = "MODEL.MULTITASK"
    heads = [f"{key}.TASKS", list(tasks), f"{key}.HEADS", [HEADS[task] for task in tasks]]
    seg = ["MODEL.SEMANTIC_FPN_HEAD.NUM_CLASSES", classes, "MODEL.SEMANTIC_FPN_HEAD.CONVS_DIM", 32]
    cfg.merge_from_list([*heads, *seg])
    return cfg


def start(cfg: CfgNode, resume: bool = False) -> Trainer:
    """The trainer with its weights, before the first step."""
    torch.manual_seed(cfg.SEED)
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume)
    return trainer


def train(cfg: CfgNode, resume: bool = False) -> Trainer:
    """The trainer after its last step."""
    trainer = start(cfg, resume)
    trainer.train()
    return trainer


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
