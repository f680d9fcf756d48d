"""The hook that learns or solves for the weights of distillation paths."""

import itertools
import logging
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.solver.build import get_default_optimizer_params
from detectron2.utils import comm
from rich.console import Group
from torch import Tensor, nn

from multas.distillation import (
    Distillation,
    Distiller,
    GradientAggregator,
    StepLosses,
    unwrap,
)
from multas.distillation.aggregation.build import build_aggregator
from multas.distillation.aggregation.gradient import GradientScope
from multas.distillation.aggregation.state import load_state_by_path, state_by_path
from multas.distillation.paths.build import brief_path_table, path_table
from multas.engine.alpha import Alpha
from multas.engine.budget import Budget
from multas.engine.checks.path_losses import check_path_losses
from multas.engine.loss_hook import LossHook, with_gradient
from multas.engine.steps.path_gradients import PathGradients
from multas.engine.steps.task_gradients import TaskGradients
from multas.util.errors import UserError
from multas.util.messages import Message
from multas.util.ranks import GradientRow, mean_over_ranks

logger = logging.getLogger(__name__)


class PathWeights(LossHook):
    """Weighs the K path losses of a Distiller in every step, between forward and backward pass.

    An aggregator of losses weighs them itself, and the trainer's optimiser learns its parameters
    (z). For an aggregator of gradients (MGDA), the losses are given the gradient that it makes of
    those of all paths. The hook logs v, the raw losses and what the aggregator monitors, and
    carries the aggregator and the adapters through checkpoints. It works with Detectron2's own
    trainer, too: ``trainer.register_hooks([PathWeights.for_trainer(trainer)])``.

    Args:
        cfg: the config of the run, with MODEL.DISTILLATION.
        model: a prepared Distiller, wrapped or not.
        tasks: combines the gradients of several tasks, where path gradients are aggregated.

    Attributes:
        aggregator: gives the weights v.
        monitors: what was logged of the last step, by name: vectors (K,), matrices (K, K) or
            scalars.
        gradients: makes the gradient for an aggregator of gradients; None for one of losses.
        path_rows: the K path gradients of the last step, where they were kept.
        regularizers: the names of the terms of the last step's loss that keep weights in bounds
            (adaptive: "loss_kd_z"). They say nothing of how well the student learns.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module, tasks: TaskGradients | None = None) -> None:
        student, distillation = unwrap(model)
        if distillation is None:
            raise UserError("PathWeights needs a Distiller that is prepared and has paths.")
        self.distillation = distillation
        aggregator = build_aggregator(cfg, distillation.names, distillation.hand_tuned)
        scope = GradientScope.from_config(cfg)
        self.aggregator = aggregator
        self.gradients: PathGradients | None = None
        if isinstance(aggregator, GradientAggregator):
            self.gradients = PathGradients(student, distillation, aggregator, scope, tasks)
        super().__init__(model, reduces=self.gradients is not None)
        aggregator.to(self._device)
        self._alpha = Alpha.from_config(cfg)
        self._current = self._alpha.value
        self._budget = Budget.from_config(cfg, aggregator, self._device)
        self._evaluates_teachers = cfg.TEST.EVALUATE_TEACHER
        self._is_first = True
        self.monitors: dict[str, Tensor] = {}
        self.path_rows: Sequence[GradientRow] = ()
        self.regularizers: frozenset[str] = frozenset()

    @classmethod
    def for_trainer(
        cls, trainer: DefaultTrainer, tasks: TaskGradients | None = None
    ) -> "PathWeights | None":
        """The hook of Detectron2's DefaultTrainer, or of one derived from it.

        It prepares the Distiller, and gives the trainer's optimiser and learning rate schedule the
        parameters that they do not know yet (adapters and z).

        Returns:
            None where there is nothing to distill. DefaultTrainer accepts that as a hook.

        Raises:
            RuntimeError: The Distiller was wrapped in DistributedDataParallel before it was
                prepared.
        """
        cfg, inner = trainer.cfg, trainer._trainer
        distiller = next((m for m in inner.model.modules() if isinstance(m, Distiller)), None)
        if distiller is None:
            return None
        late = not distiller.prepared
        distillation = distiller.prepare().distillation
        if distillation is None:
            return None
        if late and distiller is not inner.model:
            raise RuntimeError(
                "DistributedDataParallel does not know the adapters of a Distiller that is "
                "prepared after it was wrapped: train with multas.engine.Trainer, or call "
                "prepare() in build_model."
            )
        hook = cls(cfg, inner.model, tasks)
        groups = _adapter_groups(cfg, distillation) if late else []
        for group in [*groups, *hook.aggregator.param_groups()]:
            if lost := group.keys() - inner.optimizer.defaults.keys() - {"params"}:
                raise UserError(
                    f"MODEL.DISTILLATION.AGGREGATION sets {', '.join(lost)} of what it learns, but "
                    f"{type(inner.optimizer).__name__} has none. Leave that key out."
                )
            inner.optimizer.add_param_group({"lr": cfg.SOLVER.BASE_LR, **group})
        # It is built again because it holds the learning rate of every group.
        trainer.scheduler = trainer.build_lr_scheduler(cfg, inner.optimizer)
        logger.info(Message(hook.table(), hook.brief_table()))
        return hook

    @property
    def distilled(self) -> frozenset[str]:
        """The names of the terms of a step's loss that are distillation, not the task's own."""
        return frozenset(self._term_names) | self.regularizers

    def table(self) -> str:
        """The paths with their layers, shapes, adapters and weights."""
        return "\n".join([self._title, path_table(*self._rows_and_weights), *self._followers])

    def brief_table(self) -> Group:
        """The same for a screen."""
        return Group(self._title, brief_path_table(*self._rows_and_weights), *self._followers)

    @property
    def _title(self) -> str:
        name, alpha = type(self.aggregator).__name__, self._alpha.value
        unit = "" if self._budget is None else " of the task loss"
        return f"Distillation paths, aggregation {name}, alpha {alpha:g}{unit}:"

    @property
    def _rows_and_weights(self) -> tuple[Sequence[Sequence[str]], list[list[float]]]:
        pairs = zip(self.distillation.labels, self.aggregator.weights().tolist(), strict=True)
        weights = [[w for _, w in own] for _, own in groupby(pairs, key=lambda pair: pair[0][0])]
        return self.distillation.rows, weights

    @property
    def _followers(self) -> list[str]:
        averages = [teacher.mean_teacher for teacher in self.distillation.teachers]
        return [f"Teacher {i} {average}." for i, average in enumerate(averages) if average]

    def weigh(self, output: StepLosses) -> dict[str, Tensor]:
        if self._is_first:
            check_path_losses(output, self.distillation, self.aggregator)
            if self._budget is not None:
                self._budget.warn_without_labels(output.task)
            self._is_first = False
        if self.gradients is None:
            return output.task | self._weigh_losses(output)
        if torch.is_grad_enabled():
            return self._weigh_gradients(self.gradients, output)
        # This is no training step: PreciseBN, for instance, or a loss on validation images.
        raw = torch.stack(list(output.paths))
        return output.task | self._terms(self._current * self.aggregator.weights().to(raw) * raw)

    def _weigh_losses(self, output: StepLosses) -> dict[str, Tensor]:
        raw = torch.stack(list(output.paths))
        if comm.get_world_size() > 1:
            # The weights follow from the mean over all ranks, the gradient from the own images.
            raw = raw - raw.detach() + mean_over_ranks(raw.detach())
        weighted, extra = self.aggregator(raw)
        self._monitor(raw.detach())
        alpha: float | Tensor = self._current
        if self._budget is not None:
            at_rest = self.aggregator.at_rest(weighted)
            alpha = self._budget.factor(self._current, output.task, at_rest)
            self.monitors["path_alpha"] = alpha
        more = {f"loss_kd_{name}": alpha * loss for name, loss in extra.items()}
        self.regularizers = frozenset(more)
        return self._terms(alpha * weighted) | more

    def _weigh_gradients(self, gradients: PathGradients, output: StepLosses) -> dict[str, Tensor]:
        scale = self.loss_scale()
        # The autocast of the trainer is meant for the forward pass, which has just ended.
        with torch.autocast(self._device.type, enabled=False):
            combined = gradients.combine(output, self._current, scale)
        self.path_rows = combined.paths
        self._monitor(combined.losses)
        weighted = self._current * combined.v[: len(combined.losses)] * combined.losses
        terms = output.task | self._terms(weighted)
        return with_gradient(terms, gradients.parameters, combined.row, scale)

    def _terms(self, weighted: Tensor) -> dict[str, Tensor]:
        """The (K,) weighted path losses by their names in the log."""
        return dict(zip(self._term_names, weighted, strict=True))

    @property
    def _term_names(self) -> list[str]:
        return [f"loss_kd_{name}" for name in self.aggregator.names]

    def _monitor(self, losses: Tensor) -> None:
        self.monitors = {
            "path_loss": losses,
            "path_weight": self.aggregator.weights(),
            **{f"path_{name}": value for name, value in self.aggregator.monitors().items()},
        }

    def before_train(self) -> None:
        for teacher in self.distillation.teachers:
            teacher.optimize_for_inference(evaluated=self._evaluates_teachers)

    def before_step(self) -> None:
        super().before_step()
        self.path_rows = ()  # their memory is needed for the gradients of this step
        self._current = self._alpha.at(self.trainer.iter)
        if self._budget is None:  # otherwise it depends on the task loss
            self.trainer.storage.put_scalar("path_alpha", self._current, smoothing_hint=False)

    def after_step(self) -> None:
        super().after_step()
        names = self.aggregator.names
        # All of them are transferred from the device at once.
        values = iter(torch.cat([m.float().flatten() for m in self.monitors.values()]).tolist())
        for monitor, tensor in self.monitors.items():
            shares = dict(zip(itertools.product(names, repeat=tensor.dim()), values, strict=False))
            # A symmetric matrix has a value for each pair of paths.
            for place in itertools.combinations(names, 2) if tensor.dim() == 2 else shares:
                name = "/".join(filter(None, [monitor, "~".join(place)]))
                # A median over 20 steps would hide what an aggregator does.
                self.trainer.storage.put_scalar(name, shares[place], smoothing_hint=False)

    def state_dict(self) -> dict[str, Any]:
        state = {
            "aggregator": state_by_path(self.aggregator),
            "adapters": self.distillation.state_dict(),
        }
        return state if self._budget is None else state | {"budget": self._budget.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        load_state_by_path(self.aggregator, state["aggregator"])
        own, saved = self.distillation.state_dict().keys(), state["adapters"].keys()
        if own != saved:
            raise UserError(
                "The adapters in the checkpoint are not those of MODEL.DISTILLATION.PATHS: absent "
                f"there are {', '.join(sorted(own - saved)) or 'none'}, absent here are "
                f"{', '.join(sorted(saved - own)) or 'none'}. Continue with the old paths."
            )
        self.distillation.load_state_dict(state["adapters"])
        if self._budget is not None:
            self._budget.load_state_dict(state["budget"])


def _adapter_groups(cfg: CfgNode, distillation: Distillation) -> list[dict[str, Any]]:
    """The adapters as Detectron2's ``build_optimizer`` would have grouped them."""
    keys = "BASE_LR", "WEIGHT_DECAY_NORM", "BIAS_LR_FACTOR", "WEIGHT_DECAY_BIAS"
    return get_default_optimizer_params(distillation, **{k.lower(): cfg.SOLVER[k] for k in keys})
