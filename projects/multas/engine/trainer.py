"""The trainer: Detectron2's DefaultTrainer with our loader, evaluators and distillation."""

import logging
import os
import warnings
import weakref
from collections.abc import Generator, Mapping
from contextlib import closing
from functools import partial
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, SimpleTrainer
from detectron2.engine.hooks import EvalHook
from detectron2.evaluation import DatasetEvaluator, verify_results
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from torch import nn

from multas.config.limits import check_limits
from multas.data import build_test_loader
from multas.data.training import build_training_loader
from multas.deploy.exported_model import check_trainable
from multas.distillation import Distiller, unwrap
from multas.engine.checkpointer import Checkpointer, find_checkpoint
from multas.engine.checks.images import checked_images
from multas.engine.contract import config_facts, data_facts
from multas.engine.epochs import resolve_epochs
from multas.engine.evaluation_images import EvaluationImages
from multas.engine.finite import LossRecord, describe_losses
from multas.engine.hooks import CacheHits, RunState, SaveStudent, TaskImages
from multas.engine.interruption import Interruption
from multas.engine.lr_schedule import build_lr_scheduler
from multas.engine.optimizer import build_optimizer
from multas.engine.overview import announce, networks
from multas.engine.path_weights import PathWeights
from multas.engine.preflight import preflight
from multas.engine.progress import ShowProgress
from multas.engine.run_folder import claimed_folder
from multas.engine.steps.mixed_precision import (
    MixedPrecisionTrainer,
    describe_precision,
    resolve_precision,
)
from multas.engine.steps.separate_momentum import SeparateMomentum, SeparateMomentumSGD
from multas.engine.steps.task_gradients import TaskGradients, TaskWeights
from multas.engine.validation_weights import ValidationWeights
from multas.engine.weights.ema import MeanTeachers
from multas.engine.weights.final_weights import FinalWeights
from multas.engine.writers import LateWriters, event_writers
from multas.evaluation import build_evaluator
from multas.modeling import MultiTaskNetwork
from multas.modeling.building import building
from multas.modeling.layers import channels_last_
from multas.modeling.strict_loading import SafeCheckpointer
from multas.util.allocator import freed_memory_kept
from multas.util.errors import UserError
from multas.util.messages import Message
from multas.util.screen import Counted

logger = logging.getLogger(__name__)


class EndOfTraining(BaseException):
    """Leaves the training loop early. Detectron2 would log an Exception as a failure."""


class Trainer(DefaultTrainer):
    """Trains what a config describes, a plain model or a distillation.

    Metrics ("bbox/AP") belong to the final weights: the average if SOLVER.EMA.ENABLED, the best of
    SOLVER.EARLY_STOPPING once training has ended, otherwise the student. Those of other models have
    its name before them: "student/bbox/AP" beside an average, "teacher/bbox/AP".

    A run with one process can be killed at any iteration and resumed to bit-identical weights: the
    loader's n-th batch depends only on SEED and n, and a checkpoint carries the rest. On SIGTERM or
    SIGINT it leaves with a checkpoint. Nothing is written before :meth:`train`.
    """

    _trainer: SimpleTrainer
    iter: int
    build_lr_scheduler = staticmethod(build_lr_scheduler)
    build_optimizer = staticmethod(build_optimizer)
    build_train_loader = staticmethod(build_training_loader)

    def __init__(self, cfg: CfgNode) -> None:
        check_trainable(cfg)
        cfg = resolve_precision(cfg)
        # Of the config as it was given: epochs of other data are other iterations.
        self._facts = config_facts(cfg)
        self._given, self._resumes, self._interruption = cfg, False, Interruption()
        with checked_images(cfg):
            cfg = resolve_epochs(cfg)
            check_limits(cfg)
            with warnings.catch_warnings():
                # Detectron2's scaler for CUDA, which build_hooks replaces, warns of a CPU.
                warnings.filterwarnings("ignore", "torch.cuda.amp.GradScaler is enabled")
                super().__init__(cfg)
            preflight(self.cfg, self._trainer.model, self._trainer.data_loader)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        with building(cfg):
            model = super().build_model(cfg)
        if isinstance(model, Distiller):
            # DistributedDataParallel must know the adapters when it wraps the model.
            model.prepare()
        if cfg.SOLVER.CHANNELS_LAST:
            channels_last_(model)
        network, distillation = unwrap(model)
        logger.info(networks(cfg, network, distillation.teachers if distillation else ()))
        return model

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Counted:
        return Counted(build_test_loader(cfg, dataset_name), f"evaluating {dataset_name}")

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        folder = os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        return build_evaluator(cfg, dataset_name, folder)

    def build_hooks(self) -> list[HookBase]:
        cfg, model = self.cfg, self._trainer.model
        if cfg.SOLVER.AMP.ENABLED:
            loader, optimizer = self._trainer.data_loader, self._trainer.optimizer
            self._trainer = MixedPrecisionTrainer(model, loader, optimizer)
        logger.info(Message(describe_precision(cfg)))
        contract = self._facts | data_facts(cfg, self._trainer.data_loader)
        self.checkpointer = Checkpointer(
            model, cfg.OUTPUT_DIR, contract, trainer=weakref.proxy(self)
        )
        weights = self._build_weights()
        self._losses = LossRecord(model)
        weigher = self.path_weights
        self._progress = ShowProgress(lambda: weigher.regularizers if weigher else ())
        build = partial(event_writers, cfg.OUTPUT_DIR, cfg.SOLVER.MAX_ITER)
        self._writers = LateWriters(build, cfg.OUTPUT_DIR)
        network, distillation = unwrap(model)
        teachers = () if distillation is None else distillation.teachers
        pictures = EvaluationImages(cfg, self._trainer.data_loader)
        self._final = FinalWeights(cfg, model, teachers, self.test, pictures)
        # They come before Detectron2's hooks: its checkpointer must find what they changed, and its
        # writer, which is the last one, what they logged.
        own: list[HookBase | None] = [RunState(model), *weights]
        if isinstance(network, MultiTaskNetwork):
            own.append(TaskImages(network))
        if caches := [teacher.cache for teacher in teachers if teacher.cache is not None]:
            own.append(CacheHits(caches))
        if any(teacher.mean_teacher for teacher in teachers):
            own.append(MeanTeachers(model, teachers))
        default: list[HookBase | None] = []
        for hook in super().build_hooks():
            if isinstance(hook, EvalHook):
                # The student is saved before the last evaluation, which may fail.
                save = SaveStudent(self._final, model, cfg) if comm.is_main_process() else None
                hook = EvalHook(cfg.TEST.EVAL_PERIOD, self._evaluate)
                default += [self._progress, save]
            default.append(hook)
        return [*own, *self._final.hooks, *default]

    def build_writers(self) -> list[EventWriter]:
        return [self._writers]

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
        if isinstance(self._trainer.optimizer, SeparateMomentumSGD):
            return [self.path_weights, SeparateMomentum(model, self.path_weights)]
        validation = ValidationWeights.from_config(cfg, self.path_weights, unwrap(model)[0])
        return [self.path_weights, validation]

    def _evaluate(self) -> Mapping[str, Any]:
        finished = self.iter >= self.max_iter
        if finished:
            self._interruption.may_leave()
        done = self.max_iter if finished else self.iter + 1
        self._last_eval_results = self._final.evaluate(finished, done)
        return self._last_eval_results

    def train(self) -> Mapping[str, Any] | None:
        with (
            freed_memory_kept(),
            claimed_folder(self._given, self._resumes),
            self._interruption.noting(),
            closing(self._writers),
            closing(self._progress),
        ):
            network, loader = unwrap(self._trainer.model)[0], self._trainer.data_loader
            announce(self.cfg, network, loader, self.start_iter, self.max_iter)
            try:
                return self._train()
            finally:
                batches = self._trainer._data_loader_iter
                if isinstance(batches, Generator):  # not an iterator of a user's own loader
                    # The loading processes end. If Python ended them, torch would see a failure.
                    batches.close()

    def _train(self) -> Mapping[str, Any] | None:
        try:
            return super().train()
        except EndOfTraining:
            if not self.cfg.TEST.EXPECTED_RESULTS or not comm.is_main_process():
                return None
            verify_results(self.cfg, self._last_eval_results)
            return self._last_eval_results

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
        # Detectron2's checkpointer only knows the planned end.
        if self.iter + 1 == self.max_iter < self.cfg.SOLVER.MAX_ITER and comm.is_main_process():
            self.checkpointer.save("model_final", iteration=self.iter)
        if self.iter + 1 < self.max_iter and self._interruption.is_asked(self.iter):
            name = f"model_{self.iter:07d}"
            self.checkpointer.save(name, iteration=self.iter)
            comm.synchronize()  # the others would be ended with the first that leaves
            file = os.path.join(self.cfg.OUTPUT_DIR, f"{name}.pth")
            self._interruption.leave(f"{file} is written, and --resume goes on from it")

    def after_train(self) -> None:
        # Detectron2 counts one more where no iteration was left, as in a run that has ended before.
        self.iter = min(self.iter, self.max_iter)
        super().after_train()

    # Detectron2 0.6 leaves the inner trainer, and with it the optimiser, out of the checkpoint.
    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    def resume_or_load(self, resume: bool = True) -> None:
        self._resumes = resume
        path = find_checkpoint(self.cfg.OUTPUT_DIR) if resume else ""
        if path:
            self.checkpointer.resume(path)
            self.start_iter = self.iter + 1
        else:
            # Layers of other shapes are looked up by their names in the student.
            SafeCheckpointer(unwrap(self._trainer.model)[0]).load(self.cfg.MODEL.WEIGHTS)
        if self.start_iter > self.max_iter:
            raise UserError(
                f"SOLVER.MAX_ITER is {self.max_iter}, but {path} has trained {self.start_iter} "
                "iterations. Give at least as many, or start anew in another OUTPUT_DIR."
            )
        self._trainer.data_loader.start_at(self.start_iter)
