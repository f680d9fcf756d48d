"""The meta-architecture that holds teacher and student."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.utils import comm
from torch import Tensor, nn

from multas.distillation.build import build_distillation
from multas.distillation.distillation import Distillation
from multas.distillation.gradients.feature_boundary import BoundaryFeature
from multas.distillation.paths.targets import Targets
from multas.modeling.multitask_network import MultiTaskNetwork, add_losses, mini_batches
from multas.modeling.network_input import NetworkInput
from multas.util.annotation import STANDARD
from multas.util.errors import UserError
from multas.util.sizes import round_up

_SENT = ("instances", "sem_seg")  # annotations that are tensors


@dataclass(frozen=True)
class StepLosses:
    """What a Distiller returns in training: the losses of one step, before paths are weighed.

    The hook :class:`multas.engine.PathWeights` makes of it the loss dict that a trainer takes.

    Attributes:
        task: the student's own losses, scalars by name; empty when no image has labels.
        paths: the K raw path losses, scalars in the order of ``Distillation.names``.
        boundary: the features at which the student's graph was cut; empty unless gradients are
            taken with respect to features.
    """

    task: dict[str, Tensor]
    paths: Sequence[Tensor]
    boundary: Sequence[BoundaryFeature] = ()

    def values(self) -> None:
        """Explains to a trainer that takes this for a loss dict which hook is missing."""
        raise RuntimeError(
            "The path losses of a Distiller are to be weighed before the backward pass: register "
            "the hook PathWeights.for_trainer(trainer) (multas.engine.Trainer does so)."
        )


@META_ARCH_REGISTRY.register()
class Distiller(nn.Module):
    """Any Detectron2 model as student, trained with distillation paths beside its own losses.

    Outside of training it *is* the student: same inputs, same outputs, and its state dict is the
    student's, so a checkpoint loads with and without the Distiller, and no teacher is needed.

    Args:
        student: the student network.
        build: makes the :class:`Distillation` of the student, or None for plain training.
        hard_labels: whether the student's own losses on annotated images are used.
        ignore_value: label of pixels without annotation in "sem_seg".
        network_input: makes what the student sees of test images; by default images as they are.

    Attributes:
        distillation: None before :meth:`prepare`, and where there is nothing to distill.
        prepared: whether :meth:`prepare` was called.
    """

    @configurable
    def __init__(
        self,
        *,
        student: nn.Module,
        build: Callable[[nn.Module], Distillation | None],
        hard_labels: bool = True,
        ignore_value: int = 255,
        network_input: NetworkInput | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.distillation: Distillation | None = None
        self.hard_labels = hard_labels
        self.ignore_value = ignore_value
        self.network_input = network_input or NetworkInput()
        self._build = build
        self.prepared = False
        self._loss_names: list[str] = []  # of the student, once any rank has seen them

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        if cls.__name__ == cfg.MODEL.DISTILLATION.STUDENT:
            raise UserError(
                "MODEL.DISTILLATION.STUDENT is 'Distiller'; it must be the meta-architecture of "
                "the student, such as MultiTaskNetwork or RetinaNet."
            )
        student_cfg = cfg.clone()
        student_cfg.defrost()
        student_cfg.MODEL.META_ARCHITECTURE = cfg.MODEL.DISTILLATION.STUDENT
        return {
            "student": build_model(student_cfg),
            "build": partial(build_distillation, cfg.clone()),
            "hard_labels": cfg.MODEL.DISTILLATION.HARD_LABELS,
            "ignore_value": cfg.MODEL.SEMANTIC_FPN_HEAD.IGNORE_VALUE,
            "network_input": NetworkInput.from_config(cfg),
        }

    def prepare(self) -> "Distiller":
        """Load the teachers and build the adapters, unless done; before the optimiser is built."""
        if not self.prepared:
            self.distillation = self._build(self.student)
            self.prepared = True
        return self

    @property
    def device(self):
        return self.student.device

    # What a checkpoint holds under "model" is the student alone.
    def state_dict(self, **options: Any) -> dict[str, Tensor]:  # type: ignore[override]
        return self.student.state_dict(**options)

    def load_state_dict(self, state_dict, strict: bool = True, assign: bool = False):
        return self.student.load_state_dict(state_dict, strict=strict, assign=assign)

    def forward(self, batched_inputs: list[dict]) -> StepLosses | dict[str, Tensor] | list[dict]:
        """Losses in training, predictions otherwise.

        Args:
            batched_inputs: dicts with "image" and any subset of the annotations; where one is
                missing, the image is not annotated.

        Returns:
            In training :class:`StepLosses`; outside of training, and where there is nothing to
            distill, what the student returns.
        """
        if self.training and not self.prepared:
            raise RuntimeError(
                "A Distiller trains only after prepare() has loaded its teachers: train with "
                "multas.engine.Trainer, or register PathWeights.for_trainer(trainer)."
            )
        if not self.training:
            return self.student(self.network_input(batched_inputs))
        if self.distillation is None:
            return self.student(batched_inputs)
        return self._distill(self.distillation, batched_inputs)

    def _distill(self, distillation: Distillation, batched_inputs: list[dict]) -> StepLosses:
        losses: dict[str, Tensor] = {}
        parts: list[tuple[int, list[Tensor | None]]] = []
        boundary: list[BoundaryFeature] = []
        for inputs, learn in self._groups(batched_inputs):
            (task,) = {x.get("task") for x in inputs} if "mini_batch" in inputs[0] else {None}
            taps = distillation.taps_for(task)
            own_boxes = distillation.boxes.name == "ground_truth"
            shown = self._sent(inputs if own_boxes else self._visible(inputs))
            # In this order, so that a tap at the boundary records the feature behind it.
            with (
                distillation.boundary.record() as features,
                distillation.student_taps.record(stop_early=not learn, names=taps) as record,
            ):
                task_losses = self.student(self._visible(shown))
            if learn:
                losses = add_losses(losses, task_losses)
            losses_of_paths = distillation.path_losses(record, inputs, self._targets(shown), task)
            parts.append((len(inputs), losses_of_paths))
            boundary.extend(features)
        if comm.get_world_size() > 1:
            losses = self._as_on_all_ranks(losses)
        return StepLosses(losses, _mean_over_images(parts), boundary)

    def _as_on_all_ranks(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """The student's losses; on a rank without labels zeros of the same names."""
        # DDP waits for the gradient of every parameter, the log for every loss of every rank.
        if not self._loss_names and self.hard_labels:
            self._loss_names = sorted(set().union(*comm.all_gather(sorted(losses))))
        if losses:
            return losses
        first = [p.reshape(-1)[0] for p in self.student.parameters() if p.requires_grad]
        zero = 0.0 * torch.stack(first).sum()
        return dict.fromkeys(self._loss_names or ["loss_without_labels"], zero)

    def _groups(self, batched_inputs: list[dict]) -> Iterator[tuple[list[dict], bool]]:
        """The batch in parts that the student can take, and whether it learns from their labels."""
        # Mini-batches of tasks stay apart. A student that handles missing annotations itself gets
        # each of them as a whole, any other model annotated and unannotated images apart.
        if getattr(self.student, "accepts_unannotated", False):
            yield from ((part, True) for part in mini_batches(batched_inputs))
            return
        known = self._annotation_keys()
        for whole in mini_batches(batched_inputs):
            annotated = [self.hard_labels and not known.isdisjoint(x) for x in whole]
            for learn in (True, False):
                part = [x for x, a in zip(whole, annotated, strict=True) if a == learn]
                if part:
                    yield part, learn

    def _visible(self, inputs: list[dict]) -> list[dict]:
        """The images with the annotations that the student's own losses may use."""
        if self.hard_labels:
            return inputs
        hidden = self._annotation_keys()
        return [{k: v for k, v in x.items() if k not in hidden} for x in inputs]

    def _annotation_keys(self) -> set[str]:
        """The keys of annotations in a model input, including those of a user's own heads."""
        student = self.student
        own = student.annotations.values() if isinstance(student, MultiTaskNetwork) else ()
        return {annotation.input_key for annotation in (*STANDARD, *own)}

    def _sent(self, inputs: list[dict]) -> list[dict]:
        """The images with their annotations on the device, for the student and the paths alike."""
        return [
            x | {k: x[k].to(self.device) for k in _SENT if x.get(k) is not None} for x in inputs
        ]

    def _targets(self, inputs: list[dict]) -> Targets:
        sizes = [(x["image"].shape[-2], x["image"].shape[-1]) for x in inputs]
        divisor = getattr(getattr(self.student, "backbone", None), "size_divisibility", 0)
        height, width = (round_up(max(side), divisor) for side in zip(*sizes, strict=True))
        instances, masks = ([x.get(key) for x in inputs] for key in _SENT)
        return Targets(
            image_sizes=sizes,
            padded_size=(height, width),
            instances=instances,
            sem_seg=masks,
            ignore_value=self.ignore_value,
        )


def _mean_over_images(parts: list[tuple[int, list[Tensor | None]]]) -> list[Tensor]:
    """The K path losses of a batch, from each part's number of images and losses."""
    means = []
    for k in range(len(parts[0][1])):
        own = [(count, loss) for count, losses in parts if (loss := losses[k]) is not None]
        total = sum(count for count, _ in own)
        means.append(torch.stack([count / total * loss for count, loss in own]).sum())
    return means


def unwrap(model: nn.Module) -> tuple[nn.Module, Distillation | None]:
    """The student of a model, and its distillation if it has one.

    Args:
        model: any network, or a Distiller; it may be wrapped in DistributedDataParallel.
    """
    model = getattr(model, "module", model)
    return (model.student, model.distillation) if isinstance(model, Distiller) else (model, None)
