"""Which weights of a run are its product, and the evaluation of all of them by name."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from multas.distillation import Distillation
from multas.engine.weights.early_stopping import EarlyStopping, check_options
from multas.engine.weights.ema import WeightAverage
from multas.engine.weights.evaluated_models import (
    TeacherModel,
    Weights,
    live_weights,
    swapped_weights,
    teacher_models,
    undisturbed_training,
    with_teacher_scores,
)
from multas.evaluation.summary import results_table

logger = logging.getLogger(__name__)

Results = Mapping[str, Any]


class FinalWeights:
    """The weights that a run is for: those of the best validation result, averaged, or trained.

    Args:
        cfg: of the run.
        model: the model that is trained.
        distillation: whose teachers may be evaluated, too.
        test: Detectron2's ``Trainer.test``.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: nn.Module,
        distillation: Distillation | None,
        test: Callable[[CfgNode, nn.Module], Results],
    ) -> None:
        self._cfg = cfg
        self._model = model
        self._teachers = () if distillation is None else distillation.teachers
        self._test = test
        self._teacher_results: dict[str, Results] = {}
        self.average: WeightAverage | None = None
        self.early_stopping: EarlyStopping | None = None
        if cfg.SOLVER.EMA.ENABLED:
            self.average = WeightAverage(model, cfg.SOLVER.EMA.DECAY, cfg.SOLVER.EMA.RAMP)
        if cfg.SOLVER.EARLY_STOPPING.ENABLED:
            check_options(cfg)
            self.early_stopping = EarlyStopping(
                cfg.SOLVER.EARLY_STOPPING,
                evaluate=self._validate,
                weights=self._weights,
                folder=cfg.OUTPUT_DIR,
                max_iter=cfg.SOLVER.MAX_ITER,
            )

    @property
    def hooks(self) -> list[HookBase]:
        """What keeps the product up to date after every step."""
        return [hook for hook in (self.average, self.early_stopping) if hook is not None]

    def named_weights(self, finished: bool) -> dict[str, Weights | None]:
        """Name -> weights of all that is evaluated, the product last; None: those in the model.

        Args:
            finished: whether training has ended; not before does the best become the product.
        """
        named: dict[str, Weights | None] = {"student": None}
        if self.average is not None:
            named["ema"] = self.average.weights
        if self.early_stopping is not None and finished:
            best = self.early_stopping.best_weights()
            if best is not None:
                named["best"] = best
        return named

    def _weights(self) -> Weights:
        return live_weights(self._model) if self.average is None else self.average.weights

    def _validate(self) -> Results:
        """Results of the product so far, on the validation set."""
        cfg = self._cfg.clone()
        cfg.defrost()
        cfg.DATASETS.TEST = (cfg.SOLVER.EARLY_STOPPING.DATASET,)
        weights = None if self.average is None else self.average.weights
        with undisturbed_training(), swapped_weights(self._model, weights):
            return self._test(cfg, self._model)

    def evaluate(self, finished: bool) -> Results:
        """Results of the product, and below its name of every model; only on the main process."""
        named: dict[str, Results] = {}
        product: Results = {}
        teachers = teacher_models(self._cfg, self._teachers)
        judged = with_teacher_scores(self._cfg, self._model, teachers)
        with undisturbed_training():
            for name, weights in self.named_weights(finished).items():
                logger.info(f"Evaluating '{name}'.")
                with swapped_weights(self._model, weights):
                    named[name] = product = self._test(self._cfg, judged)
            self._evaluate_teachers(teachers)
        if not comm.is_main_process():
            return {}
        logger.info("Results:\n" + results_table(named | self._teacher_results))
        return {**product, **named, **self._teacher_results}

    def _evaluate_teachers(self, teachers: Mapping[str, TeacherModel]) -> None:
        for name, model in teachers.items():
            # A fixed one does not change, so neither do its results.
            if name in self._teacher_results and model.teacher.mean_teacher is None:
                continue
            logger.info(f"Evaluating '{name}'.")
            self._teacher_results[name] = self._test(self._cfg, model)
