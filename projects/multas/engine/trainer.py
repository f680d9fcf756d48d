"""The trainer: Detectron2's DefaultTrainer with our loader, evaluators and distillation."""

import os
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, SimpleTrainer
from detectron2.engine.hooks import EvalHook
from detectron2.evaluation import DatasetEvaluator, verify_results
from detectron2.utils import comm
from torch import nn

from multas.data.loader import TrainLoader, build_test_loader
from multas.data.task_batches import TaskLoader
from multas.data.training import build_training_loader
from multas.distillation import Distillation, Distiller, unwrap
from multas.engine.checkpointer import Checkpointer
from multas.engine.epochs import resolve_epochs
from multas.engine.finite import LossRecord, describe_losses
from multas.engine.hooks import CacheHits, RunState, SaveStudent, TaskImages
from multas.engine.lr_schedule import build_lr_scheduler
from multas.engine.path_weights import PathWeights
from multas.engine.preflight import preflight
from multas.engine.steps.mixed_precision import MixedPrecisionTrainer
from multas.engine.steps.task_gradients import TaskGradients
from multas.engine.task_weights import TaskWeights
from multas.engine.validation_weights import ValidationWeights
from multas.engine.weights.ema import MeanTeachers
from multas.engine.weights.final_weights import FinalWeights
from multas.evaluation import build_evaluator
from multas.modeling import MultiTaskNetwork
from multas.modeling.layers import channels_last_


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
        cfg = resolve_epochs(cfg)
        super().__init__(cfg)
        preflight(cfg, self._trainer.model, self._trainer.data_loader)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        model = super().build_model(cfg)
        if isinstance(model, Distiller):
            # Before it is wrapped, so that DistributedDataParallel knows the adapters.
            model.prepare()
        if cfg.SOLVER.CHANNELS_LAST:
            channels_last_(model)
        return model

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
        if cfg.SOLVER.AMP.ENABLED:
            parts = model, self._trainer.data_loader, self._trainer.optimizer
            self._trainer = MixedPrecisionTrainer(*parts)
        self.checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        weights = self._build_weights()
        self._losses = LossRecord(model)
        _, distillation = unwrap(model)
        self._final = FinalWeights(cfg, model, distillation, self.test)
        # Ours before Detectron2's: its checkpointer must find what they changed, its writer,
        # which comes last, what they logged.
        own: list[HookBase | None] = [
            RunState(model),
            *weights,
            *_task_hooks(model),
            *([] if distillation is None else _teacher_hooks(model, distillation)),
            *self._final.hooks,
        ]
        default = [
            EvalHook(cfg.TEST.EVAL_PERIOD, self._evaluate) if isinstance(hook, EvalHook) else hook
            for hook in super().build_hooks()
        ]
        last = [SaveStudent(self._final, model, cfg.OUTPUT_DIR)] if comm.is_main_process() else []
        return [*own, *default, *last]

    def _build_weights(self) -> list[HookBase | None]:
        """The hooks that weigh paths and tasks."""
        cfg, model = self.cfg, self._trainer.model
        tasks = TaskGradients.from_config(cfg, model)
        self.path_weights = PathWeights.for_trainer(self, tasks)
        if self.path_weights is None:
            return [] if tasks is None else [TaskWeights(model, tasks)]
        if self.path_weights.gradients is None and tasks is not None:
            z = self.path_weights.aggregator.parameters()
            return [self.path_weights, TaskWeights(model, tasks, z)]
        validation = ValidationWeights.from_config(cfg, self.path_weights, unwrap(model)[0])
        return [self.path_weights, validation]

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
            what = describe_losses(self._losses.terms, self.path_weights, last)
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


def _teacher_hooks(model: nn.Module, distillation: Distillation) -> list[HookBase]:
    teachers = distillation.teachers
    caches = [teacher.cache for teacher in teachers if teacher.cache is not None]
    averaged = any(teacher.mean_teacher for teacher in teachers)
    return [
        *([CacheHits(caches)] if caches else []),
        *([MeanTeachers(model, teachers)] if averaged else []),
    ]


def _task_hooks(model: nn.Module) -> list[HookBase]:
    network, _ = unwrap(model)
    return [TaskImages(network)] if isinstance(network, MultiTaskNetwork) else []
