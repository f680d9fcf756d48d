"""Which weights are the final ones of a run, and the evaluation of all of them by name."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from multas.distillation import Teacher
from multas.engine.weights.early_stopping import EarlyStopping
from multas.engine.weights.ema import WeightAverage
from multas.engine.weights.evaluated_models import (
    Weights,
    live_weights,
    swapped_weights,
    teacher_models,
    undisturbed_training,
    with_teacher_scores,
)
from multas.evaluation.summary import results_message
from multas.util.messages import Message

logger = logging.getLogger(__name__)

Results = Mapping[str, Any]


class FinalWeights:
    """The final weights of a run: those of the best validation result, averaged, or just trained.

    ``test`` is Detectron2's ``Trainer.test``; ``look`` gets the model with the final weights of
    each evaluation.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: nn.Module,
        teachers: Sequence[Teacher],
        test: Callable[[CfgNode, nn.Module], Results],
        look: Callable[[nn.Module], None] = lambda model: None,
    ) -> None:
        self._cfg, self._model, self._teachers = cfg, model, teachers
        self._test, self._look = test, look
        self._teacher_results: dict[str, Results] = {}
        self.average: WeightAverage | None = None
        self.early_stopping: EarlyStopping | None = None
        if cfg.SOLVER.EMA.ENABLED:
            self.average = WeightAverage(model, cfg.SOLVER.EMA.DECAY, cfg.SOLVER.EMA.RAMP)
        if cfg.SOLVER.EARLY_STOPPING.ENABLED:
            self.early_stopping = EarlyStopping(cfg, self._validate, self._weights)

    @property
    def hooks(self) -> list[HookBase]:
        """The hooks that keep the final weights up to date after every step."""
        return [hook for hook in (self.average, self.early_stopping) if hook is not None]

    def named_weights(self, finished: bool) -> dict[str, Weights | None]:
        """All sets of weights by name, the final ones last; None = those in the model.

        The best weights become the final ones only when training has ``finished``.
        """
        named: dict[str, Weights | None] = {"student": None}
        if self.average is not None:
            named["ema"] = self.average.weights
        best = self.early_stopping.best_weights() if self.early_stopping and finished else None
        return named if best is None else named | {"best": best}

    def _weights(self) -> Weights:
        return live_weights(self._model) if self.average is None else self.average.weights

    def _validate(self) -> Results:
        """The results of the present weights on the validation set."""
        cfg = self._cfg.clone()
        cfg.defrost()
        cfg.DATASETS.TEST = (cfg.SOLVER.EARLY_STOPPING.DATASET,)
        weights = None if self.average is None else self.average.weights
        with undisturbed_training(), swapped_weights(self._model, weights):
            return self._test(cfg, self._model)

    def evaluate(self, finished: bool, iterations: int) -> Results:
        """The results of the final weights, and those of all other models under their names.

        Other weights than the final ones are left out with TEST.FINAL_WEIGHTS_ONLY. Processes other
        than the main one get an empty mapping.

        Args:
            finished: whether training has ended.
            iterations: how many are done.
        """
        weights_by_name = self.named_weights(finished)
        final = list(weights_by_name)[-1]
        if self._cfg.TEST.FINAL_WEIGHTS_ONLY:
            weights_by_name = {final: weights_by_name[final]}
        results: dict[str, Results] = {}
        teachers = teacher_models(self._cfg, self._teachers)
        judged = with_teacher_scores(self._cfg, self._model, teachers)
        with undisturbed_training():
            for name, weights in weights_by_name.items():
                logger.info(Message(f"Evaluating '{name}'."))
                with swapped_weights(self._model, weights):
                    results[name] = self._test(self._cfg, judged)
                    if name == final:
                        self._look(self._model)
            for name, model in teachers.items():
                # The results of a fixed teacher do not change.
                if name not in self._teacher_results or model.teacher.mean_teacher is not None:
                    logger.info(Message(f"Evaluating '{name}'."))
                    self._teacher_results[name] = self._test(self._cfg, model)
        if not comm.is_main_process():
            return {}
        sets = ", ".join(self._cfg.DATASETS.TEST)
        title = f"Evaluation on {sets} after {iterations} iterations:"
        logger.info(results_message(results | self._teacher_results, final, title))
        own = results.pop(final)
        return {**own, **results, **self._teacher_results}
