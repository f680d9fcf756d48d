"""The trainer: Detectron2's DefaultTrainer with our loader, evaluators and distillation."""

import logging
import os
import weakref
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase
from detectron2.evaluation import DatasetEvaluator
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from detectron2.utils import comm
from torch import nn

from multas.data.loader import TrainLoader, build_train_loader, load_training_dicts
from multas.data.mapper import MultasMapper
from multas.distillation import Distillation, Distiller
from multas.engine.hooks import PathMonitor, RunState, SaveStudent
from multas.engine.step import build_step
from multas.evaluation import build_evaluator

logger = logging.getLogger(__name__)


class Checkpointer(DetectionCheckpointer):
    """Writes so that a process killed at any moment leaves the last good checkpoint."""

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        path = os.path.join(self.save_dir, "last_checkpoint")
        with open(f"{path}.partial", "w") as file:
            file.write(last_filename_basename)
        os.replace(f"{path}.partial", path)


class Trainer(DefaultTrainer):
    """Trains what a config describes, plain models and distillations alike.

    A run can be killed at any iteration and resumed to bit-identical weights (one process): the
    loader's n-th batch depends on SEED and n alone, and a checkpoint carries the rest
    (:class:`RunState`, optimiser, schedule, path weights and adapters).
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__(cfg)
        self._trainer = build_step(cfg, self._trainer)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        model = super().build_model(cfg)
        if isinstance(model, Distiller):
            model.prepare()
            if model.distillation is not None:
                logger.info(model.distillation.table)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """Detectron2's SGD, with weight decay and momentum of their own for z."""
        aggregation = cfg.MODEL.DISTILLATION.AGGREGATION
        momentum = cfg.SOLVER.MOMENTUM if aggregation.Z_MOMENTUM < 0 else aggregation.Z_MOMENTUM
        z = {"weight_decay": aggregation.Z_WEIGHT_DECAY, "momentum": momentum}
        params = get_default_optimizer_params(
            model,
            base_lr=cfg.SOLVER.BASE_LR,
            weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
            bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
            weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
            overrides={"z": z},
        )
        return maybe_add_gradient_clipping(cfg, torch.optim.SGD)(
            params,
            lr=cfg.SOLVER.BASE_LR,
            momentum=cfg.SOLVER.MOMENTUM,
            nesterov=cfg.SOLVER.NESTEROV,
            weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        )

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> TrainLoader:
        if cfg.DATALOADER.SAMPLER_TRAIN != "TrainingSampler":
            raise ValueError(
                f"DATALOADER.SAMPLER_TRAIN is '{cfg.DATALOADER.SAMPLER_TRAIN}'; multas' loader, "
                "which resumes exactly, knows 'TrainingSampler' only."
            )
        dicts = load_training_dicts(
            cfg.DATASETS.TRAIN, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        )
        return build_train_loader(
            dicts,
            MultasMapper(cfg, is_train=True),
            total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
            seed=cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed(),
            num_workers=cfg.DATALOADER.NUM_WORKERS,
            group_by_aspect=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        )

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        return build_detection_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        folder = os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        return build_evaluator(cfg, dataset_name, folder)

    def build_hooks(self) -> list[HookBase]:
        model = self._trainer.model
        distillation = find_distillation(model)
        # DefaultTrainer calls this at the end of its constructor: the hooks below must hold the
        # checkpointer that also knows the adapters and path weights.
        extra = {} if distillation is None else {"distillation": distillation}
        self.checkpointer = Checkpointer(
            model, self.cfg.OUTPUT_DIR, trainer=weakref.proxy(self), **extra
        )
        own: list[HookBase | None] = [
            RunState(model),
            None if distillation is None else PathMonitor(distillation),
        ]
        default = super().build_hooks()
        # Monitors before Detectron2's writer, which comes last and writes what is there.
        last = [SaveStudent(model, self.cfg.OUTPUT_DIR)] if comm.is_main_process() else []
        return [*own, *default, *last]

    # Detectron2 0.6 leaves the inner trainer, and with it the optimiser, out of the checkpoint.
    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    def resume_or_load(self, resume: bool = True) -> None:
        super().resume_or_load(resume)
        self._trainer.data_loader.sampler.start = self.start_iter


def find_distillation(model: nn.Module) -> Distillation | None:
    """The distillation inside a (DDP-wrapped) Distiller, if there is one."""
    model = getattr(model, "module", model)
    return model.distillation if isinstance(model, Distiller) else None
