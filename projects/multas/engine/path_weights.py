"""The hook that learns or solves for the weights of distillation paths."""

import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.solver.build import get_default_optimizer_params
from detectron2.utils import comm
from torch import Tensor, nn

from multas.distillation import (
    Aggregator,
    Distillation,
    Distiller,
    GradientAggregator,
    StepLosses,
    unwrap,
)
from multas.distillation.aggregation.build import build_aggregator
from multas.distillation.aggregation.gradient import GradientScope
from multas.distillation.paths.build import path_table
from multas.engine.loss_hook import LossHook
from multas.engine.steps.path_gradients import PathGradients
from multas.engine.steps.task_gradients import TaskGradients
from multas.engine.steps.with_gradient import Row, with_gradient
from multas.util.names import check_choice
from multas.util.ranks import mean_over_ranks

logger = logging.getLogger(__name__)
RAMP_SHAPES = ("linear", "sigmoid")


@dataclass(frozen=True)
class Alpha:
    """The weight of all distillation against the task loss, and how it grows at the start.

    With ``t = (iteration - start) / iters`` its share is 0 for t < 0 and 1 from t = 1 on; between
    them "linear" is t and "sigmoid" ``exp(-5 (1 - t)^2)`` (Laine and Aila, ICLR 2017, section
    2.1), flat at both ends.

    Attributes:
        value: MODEL.DISTILLATION.ALPHA (paper B, eqs. 3 and 5).
        start, iters, shape: MODEL.DISTILLATION.RAMP.

    Raises:
        ValueError: unknown shape, negative length or start.
    """

    value: float = 1.0
    start: int = 0
    iters: int = 0
    shape: str = "linear"

    def __post_init__(self) -> None:
        key = "MODEL.DISTILLATION.RAMP"
        check_choice(f"{key}.SHAPE", self.shape, RAMP_SHAPES)
        if self.start < 0:
            raise ValueError(f"{key}.START is {self.start}; give 0 (at once) or more.")
        if self.iters < 0:
            raise ValueError(f"{key}.ITERS is {self.iters}; give 0 (none) or more.")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "Alpha":
        options = cfg.MODEL.DISTILLATION
        return cls(options.ALPHA, options.RAMP.START, options.RAMP.ITERS, options.RAMP.SHAPE)

    def at(self, iteration: int) -> float:
        """alpha in an iteration, counted from 0."""
        return self.value * self._share(iteration - self.start)

    def _share(self, iteration: int) -> float:
        if iteration < 0:
            return 0.0
        if iteration >= self.iters:
            return 1.0
        share = iteration / self.iters
        return share if self.shape == "linear" else math.exp(-5.0 * (1.0 - share) ** 2)


class PathWeights(LossHook):
    """Weighs the path losses of a Distiller in every step.

    It owns the aggregator. Between forward and backward pass it is offered the step's losses and
    gives the trainer the loss dict: path losses that are weighed by an aggregator of losses, whose
    own parameters (z) the trainer's optimiser learns, or the task losses with the gradient that an
    aggregator of gradients (MGDA) makes of those of all paths. It logs v, the raw losses and what
    the aggregator monitors, and carries aggregator and adapters through checkpoints.

    It works with Detectron2's own trainer, too:

        trainer = DefaultTrainer(cfg)
        trainer.register_hooks([PathWeights.for_trainer(trainer)])

    Args:
        model: a prepared Distiller, wrapped or not.
        aggregator: of its K path losses.
        alpha: weight of all distillation.
        scope: with respect to what an aggregator of gradients takes them.
        tasks: make the task's gradient from several tasks', if gradients are aggregated.

    Attributes:
        aggregator: gives v.
        monitors: what was logged of the last step, by name: vectors (K,), matrices (K, K).
        gradients: of an aggregator that weighs gradients, else None.
        path_rows: the K path gradients of the last step, if those were kept.
    """

    def __init__(
        self,
        model: nn.Module,
        aggregator: Aggregator,
        *,
        alpha: Alpha,
        scope: GradientScope | None = None,
        tasks: TaskGradients | None = None,
    ) -> None:
        student, self.distillation = _student_and_paths(model)
        self.aggregator = aggregator
        self.gradients: PathGradients | None = None
        if isinstance(aggregator, GradientAggregator):
            self.gradients = PathGradients(
                student, self.distillation, aggregator, scope or GradientScope(), tasks
            )
        super().__init__(model, reduces=self.gradients is not None)
        aggregator.to(self._device)
        self._alpha = alpha
        self._current = alpha.value
        self._pairs = list(itertools.combinations(aggregator.names, 2))
        self.monitors: dict[str, Tensor] = {}
        self.path_rows: Sequence[Row] = ()

    @classmethod
    def from_config(
        cls, cfg: CfgNode, model: nn.Module, tasks: TaskGradients | None = None
    ) -> "PathWeights":
        """What MODEL.DISTILLATION asks for.

        Args:
            cfg: of the run.
            model: a prepared Distiller, wrapped or not.
            tasks: see the class.
        """
        _, distillation = _student_and_paths(model)
        aggregator = build_aggregator(cfg, distillation.names, distillation.hand_tuned)
        alpha, scope = Alpha.from_config(cfg), GradientScope.from_config(cfg)
        return cls(model, aggregator, alpha=alpha, scope=scope, tasks=tasks)

    @classmethod
    def for_trainer(
        cls, trainer: DefaultTrainer, tasks: TaskGradients | None = None
    ) -> "PathWeights | None":
        """The hook of Detectron2's DefaultTrainer, or of one derived from it.

        Prepares the Distiller, lets the trainer's optimiser learn what it does not know yet
        (adapters, z), and its schedule with it.

        Returns:
            None where there is nothing to distill; DefaultTrainer accepts that as a hook.

        Raises:
            RuntimeError: the adapters of a Distiller that was not prepared come too late for
                DistributedDataParallel.
        """
        cfg, inner = trainer.cfg, trainer._trainer
        distiller = getattr(inner.model, "module", inner.model)
        if not isinstance(distiller, Distiller):
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
        hook = cls.from_config(cfg, inner.model, tasks)
        groups = _adapter_groups(cfg, distillation) if late else []
        for group in [*groups, *hook.aggregator.param_groups()]:
            inner.optimizer.add_param_group({"lr": cfg.SOLVER.BASE_LR, **group})
        # Anew, since it keeps the learning rate of every group.
        trainer.scheduler = trainer.build_lr_scheduler(cfg, inner.optimizer)
        logger.info(hook.table())
        return hook

    def table(self) -> str:
        """The paths with their layers, shapes, adapters and weights."""
        pairs = zip(self.distillation.labels, self.aggregator.weights().tolist(), strict=True)
        weights = [[w for _, w in own] for _, own in groupby(pairs, key=lambda pair: pair[0][0])]
        title = (
            f"Distillation paths, aggregation {type(self.aggregator).__name__}, alpha "
            f"{self._alpha.value:g}:"
        )
        followers = [
            f"Teacher {i} {teacher.mean_teacher}."
            for i, teacher in enumerate(self.distillation.teachers)
            if teacher.mean_teacher
        ]
        return "\n".join([title, path_table(self.distillation.rows, weights), *followers])

    def weigh(self, output: StepLosses) -> dict[str, Tensor]:
        if self.gradients is None:
            return output.task | self._weigh_losses(output.paths)
        if torch.is_grad_enabled():
            return self._weigh_gradients(self.gradients, output)
        # No training step, for instance PreciseBN or a loss on validation images.
        raw = torch.stack(list(output.paths))
        return output.task | self._terms(self._current * self.aggregator.weights().to(raw) * raw)

    def _weigh_losses(self, losses: Sequence[Tensor]) -> dict[str, Tensor]:
        raw = torch.stack(list(losses))
        if comm.get_world_size() > 1:
            # Weights follow from the mean over all ranks; the gradient is that of the own images.
            raw = raw - raw.detach() + mean_over_ranks(raw.detach())
        weighted, extra = self.aggregator(raw)
        self._monitor(raw.detach())
        more = {f"loss_kd_{name}": self._current * loss for name, loss in extra.items()}
        return self._terms(self._current * weighted) | more

    def _weigh_gradients(self, gradients: PathGradients, output: StepLosses) -> dict[str, Tensor]:
        scale = self.loss_scale()
        # Autocast is for the forward pass that has just ended.
        with torch.autocast(self._device.type, enabled=False):
            combined = gradients.combine(output, self._current, scale)
        self.path_rows = combined.paths
        self._monitor(combined.losses)
        weighted = self._current * combined.v[: len(combined.losses)] * combined.losses
        losses = output.task | self._terms(weighted)
        return with_gradient(losses, gradients.parameters, combined.row, scale)

    def _terms(self, weighted: Tensor) -> dict[str, Tensor]:
        """The (K,) weighted path losses by the names that the log has for them."""
        names = (f"loss_kd_{name}" for name in self.aggregator.names)
        return dict(zip(names, weighted, strict=True))

    def _monitor(self, losses: Tensor) -> None:
        self.monitors = {
            "path_loss": losses,
            "path_weight": self.aggregator.weights(),
            **{f"path_{name}": value for name, value in self.aggregator.monitors().items()},
        }

    def before_step(self) -> None:
        super().before_step()
        self.path_rows = ()  # their memory is needed for those of this step
        self._current = self._alpha.at(self.trainer.iter)
        self.trainer.storage.put_scalar("path_alpha", self._current, smoothing_hint=False)

    def after_step(self) -> None:
        super().after_step()
        for name, value in self._scalars():
            # Unsmoothed: a median over 20 steps would hide what an aggregator does.
            self.trainer.storage.put_scalar(name, value, smoothing_hint=False)

    def _scalars(self) -> Iterator[tuple[str, float]]:
        """A value for each path, or of a symmetric matrix for each pair of paths."""
        names = self.aggregator.names
        # One transfer from the device for all of them.
        values = iter(torch.cat([m.float().flatten() for m in self.monitors.values()]).tolist())
        for monitor, tensor in self.monitors.items():
            shares = dict(zip(itertools.product(names, repeat=tensor.dim()), values, strict=False))
            for place in self._pairs if tensor.dim() == 2 else shares:
                yield "/".join(filter(None, [monitor, "~".join(place)])), shares[place]

    def state_dict(self) -> dict[str, Any]:
        return {
            "aggregator": self.aggregator.state_dict(),
            "adapters": self.distillation.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.aggregator.load_state_dict(state["aggregator"])
        self.distillation.load_state_dict(state["adapters"])


def _student_and_paths(model: nn.Module) -> tuple[nn.Module, Distillation]:
    student, distillation = unwrap(model)
    if distillation is None:
        raise ValueError("PathWeights needs a Distiller that is prepared and has paths.")
    return student, distillation


def _adapter_groups(cfg: CfgNode, distillation: Distillation) -> list[dict[str, Any]]:
    """The adapters as Detectron2's ``build_optimizer`` would have grouped them."""
    return get_default_optimizer_params(
        distillation,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
    )
