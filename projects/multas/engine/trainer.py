"""The trainer: Detectron2's DefaultTrainer with our loader, evaluators and distillation."""

import logging
import os
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, SimpleTrainer
from detectron2.engine.hooks import EvalHook
from detectron2.evaluation import DatasetEvaluator, verify_results
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from detectron2.utils import comm
from torch import nn

from multas.data.loader import TrainLoader, build_test_loader
from multas.data.task_batches import TaskLoader, training_sets
from multas.data.training import build_training_loader
from multas.distillation import Distillation, Distiller
from multas.engine.checkpointer import Checkpointer
from multas.engine.checks.annotations import check_annotations
from multas.engine.checks.cache_size import check_cache
from multas.engine.checks.classes import check_classes, check_ignored_labels, check_test_sets
from multas.engine.epochs import resolve_epochs
from multas.engine.finite import LossRecord, describe_losses
from multas.engine.hooks import CacheHits, PathMonitor, RunState, SaveStudent, TaskImages
from multas.engine.lr_schedule import build_lr_scheduler
from multas.engine.path_ramp import PathRamp
from multas.engine.steps.build import build_step
from multas.engine.weights.ema import MeanTeachers
from multas.engine.weights.final_weights import FinalWeights
from multas.evaluation import build_evaluator
from multas.modeling import MultiTaskNetwork
from multas.modeling.memory_format import channels_last_

logger = logging.getLogger(__name__)


class EndOfTraining(BaseException):
    """Leaves the training loop before its last iteration.

    No Exception: Detectron2 would log it as a failure.
    """


class Trainer(DefaultTrainer):
    """Trains what a config describes, plain models and distillations alike.

    What is evaluated has a name in the metrics ("student/bbox/AP", "ema/bbox/AP", …). Without a
    name ("bbox/AP") they are of the product: the average if SOLVER.EMA.ENABLED, the best of
    SOLVER.EARLY_STOPPING once training has ended, else the student.

    A run can be killed at any iteration and resumed to bit-identical weights (one process): the
    loader's n-th batch depends on SEED and n alone, and a checkpoint carries the rest
    (:class:`RunState`, optimiser, schedule, path weights and adapters).
    """

    _trainer: SimpleTrainer

    def __init__(self, cfg: CfgNode) -> None:
        check_test_sets(cfg)
        names = training_sets(cfg)
        cfg = resolve_epochs(cfg)
        super().__init__(cfg)
        check_classes(self._trainer.model, [*names, *cfg.DATASETS.TEST])
        check_ignored_labels(cfg, self._trainer.model, names)
        check_annotations(self._trainer.model, self._trainer.data_loader)
        check_cache(cfg, self._trainer.model, self._trainer.data_loader)
        self._trainer = build_step(cfg, self._trainer, self.build_train_loader)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        model = super().build_model(cfg)
        if isinstance(model, Distiller):
            model.prepare()
            if model.distillation is not None:
                logger.info(model.distillation.table)
        if cfg.SOLVER.CHANNELS_LAST:
            channels_last_(model)
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
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer):
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> TrainLoader | TaskLoader:
        return build_training_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        folder = os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        return build_evaluator(cfg, dataset_name, folder)

    def build_hooks(self) -> list[HookBase]:
        cfg, model = self.cfg, self._trainer.model
        distillation = find_distillation(model)
        # DefaultTrainer calls this at the end of its constructor: the hooks below must hold the
        # checkpointer that also knows the adapters and path weights.
        extra = {} if distillation is None else {"distillation": distillation}
        self.checkpointer = Checkpointer(
            model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self), **extra
        )
        self._losses = LossRecord(model)
        self._final = FinalWeights(cfg, model, distillation, self.test)
        # Ours before Detectron2's: its checkpointer must find what they changed, its writer,
        # which comes last, what they logged.
        own: list[HookBase | None] = [
            RunState(model),
            *_task_hooks(model),
            *([] if distillation is None else _path_hooks(cfg, model, distillation)),
            *self._final.hooks,
        ]
        default = [
            EvalHook(cfg.TEST.EVAL_PERIOD, self._evaluate) if isinstance(hook, EvalHook) else hook
            for hook in super().build_hooks()
        ]
        last = [SaveStudent(self._final, model, cfg.OUTPUT_DIR)] if comm.is_main_process() else []
        return [*own, *default, *last]

    def _evaluate(self) -> Mapping[str, Any]:
        self._last_eval_results = self._final.evaluate(finished=self.iter >= self.max_iter)
        return self._last_eval_results

    def train(self) -> Mapping[str, Any] | None:
        try:
            return super().train()
        except EndOfTraining:
            results = self._last_eval_results
            if not self.cfg.TEST.EXPECTED_RESULTS or not comm.is_main_process():
                return None
            verify_results(self.cfg, results)
            return results

    def before_step(self) -> None:
        if self.iter >= self.max_iter:
            raise EndOfTraining
        super().before_step()

    def run_step(self) -> None:
        self._losses.terms = {}
        try:
            super().run_step()
        except FloatingPointError as error:
            checkpointer = self.checkpointer
            last = checkpointer.get_checkpoint_file() if checkpointer.has_checkpoint() else ""
            distillation = find_distillation(self._trainer.model)
            what = describe_losses(self._losses.terms, distillation, last)
            raise FloatingPointError(f"{what}\n{error}") from error

    def after_step(self) -> None:
        super().after_step()
        # Detectron2's checkpointer knows the planned end alone.
        if self.iter + 1 == self.max_iter < self.cfg.SOLVER.MAX_ITER and comm.is_main_process():
            self.checkpointer.save("model_final", iteration=self.iter)

    # Detectron2 0.6 leaves the inner trainer, and with it the optimiser, out of the checkpoint.
    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    def resume_or_load(self, resume: bool = True) -> None:
        super().resume_or_load(resume)
        self._trainer.data_loader.start_at(self.start_iter)


def _path_hooks(cfg: CfgNode, model: nn.Module, distillation: Distillation) -> list[HookBase]:
    ramp = cfg.MODEL.DISTILLATION.RAMP
    hooks: list[HookBase] = [
        PathMonitor(distillation),
        PathRamp(distillation, iters=ramp.ITERS, shape=ramp.SHAPE, start=ramp.START),
    ]
    caches = [teacher.cache for teacher in distillation.teachers if teacher.cache is not None]
    if caches:
        hooks.append(CacheHits(caches))
    if any(teacher.mean_teacher for teacher in distillation.teachers):
        hooks.append(MeanTeachers(model, distillation.teachers))
    return hooks


def _task_hooks(model: nn.Module) -> list[HookBase]:
    network = getattr(model, "module", model)
    network = network.student if isinstance(network, Distiller) else network
    return [TaskImages(network)] if isinstance(network, MultiTaskNetwork) else []


def find_distillation(model: nn.Module) -> Distillation | None:
    """The distillation inside a (DDP-wrapped) Distiller, if there is one."""
    model = getattr(model, "module", model)
    return model.distillation if isinstance(model, Distiller) else None
