"""The meta-architecture: one backbone, any number of task heads, partly annotated batches."""

from collections.abc import Iterable
from itertools import groupby
from typing import Any, NamedTuple, cast

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import ImageList
from torch import Tensor, nn

from multas.modeling.heads import TaskHead, build_task_head
from multas.modeling.heads.build import Features, pick_images
from multas.modeling.network_input import NetworkInput
from multas.util.annotation import Annotation
from multas.util.errors import UserError


class RawOutputs(NamedTuple):
    """What a forward pass computes before losses or inference."""

    images: ImageList
    features: Features
    predictions: dict[str, Any]  # for each task whose head ran, what it returned


def mini_batches(batched_inputs: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The parts of a batch that pass through the network one after the other.

    The images of one part stand together and share its number, "mini_batch"; without the key all
    are one part.
    """
    return [list(part) for _, part in groupby(batched_inputs, lambda x: x.get("mini_batch"))]


def add_losses(total: dict[str, Tensor], more: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sums by name; a loss that only one side has is kept as it is."""
    return total | {name: total[name] + x if name in total else x for name, x in more.items()}


def _is_for(image: dict[str, Any], task: str) -> bool:
    """Whether an image takes part in a task: if it names this task, or none."""
    return image.get("task", task) == task


@META_ARCH_REGISTRY.register()
class MultiTaskNetwork(nn.Module):
    """A backbone and task heads; serves as teacher and as student, with one task or several.

    Args:
        backbone: any Detectron2 backbone.
        heads: the head of each task by name, in the order of the losses.
        loss_weights: factor of the losses of a task by its name; 1 if missing.
        pixel_mean, pixel_std: one number for each channel, in the channel order of the input.
        network_input: makes what the network sees of test images; by default images as they are.

    Attributes:
        task_of_loss: the task of each loss that training has seen.
        annotated_images: for each task the number of annotated images seen in training, until its
            reader sets it back.

    Raises:
        UserError: if two heads write the same result.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    # A Distiller may give it batches in which images lack annotations.
    accepts_unannotated = True

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        heads: dict[str, TaskHead],
        pixel_mean: list[float],
        pixel_std: list[float],
        loss_weights: dict[str, float] | None = None,
        network_input: NetworkInput | None = None,
    ) -> None:
        super().__init__()
        results = [head.result for head in heads.values()]
        if len(set(results)) < len(results) or not heads:
            raise UserError(
                f"MODEL.MULTITASK.HEADS of the tasks {list(heads)} give the results {results}: "
                "there must be at least one head, and each must give a result of its own."
            )
        self.backbone = backbone
        self.heads = nn.ModuleDict(heads)
        self.loss_weights = dict(loss_weights or {})
        self.network_input = network_input or NetworkInput(channels=len(pixel_mean))
        self.always_run: frozenset[str] = frozenset()
        self.task_of_loss: dict[str, str] = {}
        self.annotated_images: dict[str, int] = {}
        # Not persistent: they belong to the config, and a checkpoint must load with another one.
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        multitask = cfg.MODEL.MULTITASK
        tasks, entries = list(multitask.TASKS), list(multitask.HEADS)
        weights = list(multitask.LOSS_WEIGHTS) or [1.0] * len(tasks)
        if not len(tasks) == len(entries) == len(weights) or len(set(tasks)) < len(tasks):
            raise UserError(
                f"MODEL.MULTITASK.TASKS {tasks}, HEADS {entries} and LOSS_WEIGHTS {weights} belong "
                "together entry by entry: give distinct tasks and equally many of each "
                "(LOSS_WEIGHTS may be empty)."
            )
        for task in tasks:
            # Their names are those of modules, losses and paths.
            if not str(task).isidentifier():
                raise UserError(
                    f"MODEL.MULTITASK.TASKS has {task!r}; a task's name has letters, digits and "
                    "'_' alone."
                )
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        heads = [build_task_head(entry, cfg, shapes) for entry in entries]
        return {
            "backbone": backbone,
            "heads": dict(zip(tasks, heads, strict=True)),
            "loss_weights": dict(zip(tasks, weights, strict=True)),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "network_input": NetworkInput.from_config(cfg),
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def _task_heads(self) -> list[tuple[str, TaskHead]]:
        return [(task, cast(TaskHead, head)) for task, head in self.heads.items()]

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalise, pad (right and below, with zeros) and batch the images."""
        images = [x["image"].to(self.device, non_blocking=True) for x in batched_inputs]
        images = [(image - self.pixel_mean) / self.pixel_std for image in images]
        return ImageList.from_tensors(images, self.backbone.size_divisibility)

    def require_heads(self, tasks: Iterable[str]) -> None:
        """Run these heads in every training pass, since paths tap them whatever the task is."""
        self.always_run = frozenset(tasks) & frozenset(self.heads)

    @property
    def annotations(self) -> dict[str, Annotation]:
        """What images are annotated with for each task."""
        return {task: head.annotation for task, head in self._task_heads()}

    def raw_outputs(self, batched_inputs: list[dict[str, Any]]) -> RawOutputs:
        """The predictions of backbone and heads; no annotation is read, nothing is decoded.

        In training, images that name their "task" run its head alone.
        """
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        predictions = {
            task: head({name: pick_images(x, index) for name, x in features.items()})
            for task, head in self._task_heads()
            if (index := self._images_of(task, batched_inputs))
        }
        return RawOutputs(images, features, predictions)

    def _images_of(self, task: str, batched_inputs: list[dict[str, Any]]) -> list[int]:
        """The images that the head of a task runs on."""
        everywhere = not self.training or task in self.always_run
        return [i for i, x in enumerate(batched_inputs) if everywhere or _is_for(x, task)]

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict]:
        """Losses in training, results in inference.

        Args:
            batched_inputs: one dict for each image: "image" (C, H, W), in inference the whole one,
                see :class:`NetworkInput`, and "height" and "width" of the wanted output, if it is
                another than the image's; in training the annotations that it has, such as
                "instances" (empty: annotated as empty), "sem_seg" (H, W) or "label". An image
                without the annotation of a task takes no part in its losses, and an image with a
                "task" takes part in the losses of this task alone. "mini_batch": see
                :func:`mini_batches`; the losses of the parts are added.

        Returns:
            In training all losses of all heads, scalars, which are exact zeros for a task without
            annotated images. In inference a dict for each image with an entry for each head, such
            as "instances", "sem_seg" or "scores".

        Raises:
            UserError: if two heads give a loss the same name, or an input is no image.
        """
        if not self.training:
            inputs = self.network_input(batched_inputs)
            return self.results(self.raw_outputs(inputs), inputs)
        losses: dict[str, Tensor] = {}
        for part in mini_batches(batched_inputs):
            losses = add_losses(losses, self._losses(self.raw_outputs(part), part))
        return losses

    def _losses(self, outputs: RawOutputs, batched_inputs: list[dict]) -> dict[str, Tensor]:
        image_size = tuple(outputs.images.tensor.shape[-2:])
        losses: dict[str, Tensor] = {}
        idle: list[Tensor] = []
        for task, head in self._task_heads():
            if task not in outputs.predictions:
                idle.extend(p.reshape(-1)[0] for p in head.parameters() if p.requires_grad)
                continue
            index = self._images_of(task, batched_inputs)
            inputs = [batched_inputs[i] for i in index]
            key = head.annotation.input_key
            annotations = [x.get(key) if _is_for(x, task) else None for x in inputs]
            features = {name: pick_images(x, index) for name, x in outputs.features.items()}
            own = head.losses(outputs.predictions[task], features, annotations, image_size)
            if taken := own.keys() & losses.keys():
                raise UserError(
                    f"The head of task {task} calls a loss {', '.join(sorted(taken))}, as another "
                    "head does: give the losses of each head names of their own."
                )
            weight = self.loss_weights.get(task, 1.0)
            losses.update({name: loss * weight for name, loss in own.items()})
            self.task_of_loss.update(dict.fromkeys(own, task))
            count = sum(annotation is not None for annotation in annotations)
            self.annotated_images[task] = self.annotated_images.get(task, 0) + count
        if idle and "mini_batch" not in batched_inputs[0]:
            # Of a head that does not run in this iteration the gradient is 0, not absent: DDP waits
            # for it, and with one process and with several the same weights decay.
            first = next(iter(losses))
            losses[first] = losses[first] + 0.0 * torch.stack(idle).sum()
        return losses

    def results(self, outputs: RawOutputs, batched_inputs: list[dict]) -> list[dict[str, Any]]:
        """The results that the heads make of their predictions, as :meth:`forward` returns them."""
        sizes = outputs.images.image_sizes
        images = zip(batched_inputs, sizes, strict=True)
        output_sizes = [(x.get("height", size[0]), x.get("width", size[1])) for x, size in images]
        results: list[dict[str, Any]] = [{} for _ in batched_inputs]
        for task, head in self._task_heads():
            own = head.inference(outputs.predictions[task], outputs.features, sizes, output_sizes)
            for result, value in zip(results, own, strict=True):
                result[head.result] = value
        return results
