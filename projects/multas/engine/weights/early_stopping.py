"""Early stopping on a validation set, keeping the best weights."""

import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from torch import Tensor

from multas.engine.checkpoint_files import damage_of
from multas.modeling.weight_files import read_weights
from multas.util.errors import UserError
from multas.util.files import written_whole
from multas.util.names import check_choice

RULES = ("streak", "fixed", "never")

logger = logging.getLogger(__name__)


@dataclass
class Progress:
    """The course of a validation metric, counted in evaluations."""

    longest: int  # length of the longest streak without improvement; at first the patience
    best: float = -math.inf
    best_iteration: int = -1  # -1 = nothing was measured
    since: int = 0  # number of evaluations since the best one

    def update(self, value: float, iteration: int, min_delta: float) -> bool:
        """Record a value, and return whether it is an improvement (NaN never is)."""
        if math.isfinite(value) and value > self.best + min_delta:
            self.longest = max(self.longest, self.since)
            self.best, self.best_iteration, self.since = value, iteration, 0
            return True
        self.since += 1
        return False

    def exhausted(self, rule: str, patience: int) -> bool:
        """Whether nothing better is to be expected, by SOLVER.EARLY_STOPPING.RULE."""
        if rule == "streak":
            return self.since > 1.5 * self.longest
        return rule == "fixed" and self.since >= patience


class EarlyStopping(HookBase):
    """Evaluates periodically, keeps the best weights in ``model_best.pth``, and ends training.

    It ends training by lowering the trainer's ``max_iter``. Its state is part of a checkpoint, so
    that a resumed run stops where an uninterrupted one does. ``evaluate`` gives the results on the
    validation set (on the main process), and ``weights`` the weights that it judges.
    """

    def __init__(
        self,
        cfg: CfgNode,
        evaluate: Callable[[], Mapping[str, Any]],
        weights: Callable[[], Mapping[str, Tensor]],
    ) -> None:
        _check_options(cfg)
        options = self._options = cfg.SOLVER.EARLY_STOPPING
        self._evaluate, self._weights = evaluate, weights
        self._path = os.path.join(cfg.OUTPUT_DIR, "model_best.pth")
        self._first = options.START * cfg.SOLVER.MAX_ITER
        self._earliest = options.EARLIEST * cfg.SOLVER.MAX_ITER
        self.progress = Progress(longest=options.PATIENCE)
        self.stopped = False

    def before_train(self) -> None:
        if self.stopped:
            self.trainer.max_iter = self.trainer.start_iter

    def after_step(self) -> None:
        done, options = self.trainer.iter + 1, self._options
        if done != self.trainer.max_iter and (done < self._first or done % options.PERIOD):
            return
        results = self._evaluate()
        # Only the main process knows the result, but all have to come to the same decision.
        value = comm.all_gather(self._value(results) if comm.is_main_process() else math.nan)[0]
        progress = self.progress
        if progress.update(value, self.trainer.iter, options.MIN_DELTA):
            self._save()
        logger.info(
            f"Validation after {done} iterations on {options.DATASET}: {value:.2f} "
            f"({' + '.join(options.METRICS)}), the best is {progress.best:.2f} after "
            f"{progress.best_iteration + 1}."
        )
        if done >= self._earliest and progress.exhausted(options.RULE, options.PATIENCE):
            logger.info(
                f"Early stopping after {done} iterations: the best value, {progress.best:.4f} at "
                f"iteration {progress.best_iteration}, is {progress.since} evaluations old."
            )
            self.stopped = True
            self.trainer.max_iter = done

    def _value(self, nested: Mapping[str, Any]) -> float:
        results = flatten_results_dict(nested)
        missing = [name for name in self._options.METRICS if name not in results]
        if missing:
            raise UserError(
                f"SOLVER.EARLY_STOPPING.METRICS names {', '.join(missing)}, which the evaluation "
                f"on '{self._options.DATASET}' does not give. Choose from {', '.join(results)}."
            )
        values = {f"validation/{name}": float(results[name]) for name in self._options.METRICS}
        self.trainer.storage.put_scalars(**values, smoothing_hint=False)
        return sum(values.values())

    def _save(self) -> None:
        if comm.is_main_process():
            with written_whole(self._path) as path:
                torch.save({"model": dict(self._weights())}, path)
        comm.synchronize()

    def best_weights(self) -> dict[str, Tensor] | None:
        """The best weights, on the CPU; None if nothing was evaluated."""
        if self.progress.best_iteration < 0:
            return None
        return read_weights(self._path)["model"]

    def state_dict(self) -> dict[str, Any]:
        return {"progress": asdict(self.progress), "stopped": self.stopped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.progress = Progress(**state["progress"])
        self.stopped = state["stopped"]
        damage = damage_of(self._path) if self.progress.best_iteration >= 0 else ""
        if damage:
            raise UserError(
                f"{self._path}, the best weights of the run until now, {damage}. Put back a copy, "
                "or start anew, without --resume and in another OUTPUT_DIR."
            )


def _check_options(cfg: CfgNode) -> None:
    options, key = cfg.SOLVER.EARLY_STOPPING, "SOLVER.EARLY_STOPPING"
    if not options.DATASET:
        raise UserError(f"{key}.DATASET is empty; name a registered validation set.")
    if (period := options.PERIOD) <= 0:
        raise UserError(f"{key}.PERIOD is {period}; set the iterations between evaluations.")
    check_choice(f"{key}.RULE", options.RULE, RULES)
    if not options.METRICS:
        raise UserError(f"{key}.METRICS is empty; name at least one, for example 'bbox/AP'.")
    if options.DATASET in cfg.DATASETS.TEST and not options.SELECT_ON_TEST:
        raise UserError(
            f"{key}.DATASET '{options.DATASET}' is also in DATASETS.TEST: selecting on the test "
            "set makes its figures too good. Name a validation set, or set "
            f"{key}.SELECT_ON_TEST True to do it all the same."
        )
