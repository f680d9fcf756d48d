"""A trainer and its run, as train_net.py has them."""

import os

import torch
from detectron2.config import CfgNode

from multas.engine import Trainer


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
