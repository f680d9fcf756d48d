"""The registry of task heads and what every head offers to the meta-architecture."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.utils.registry import Registry
from torch import Tensor, nn

TASK_HEAD_REGISTRY = Registry("TASK_HEAD")
TASK_HEAD_REGISTRY.__doc__ = """
Heads of :class:`multas.modeling.MultiTaskNetwork`. The registered class is called with
``(cfg, input_shape: dict[str, ShapeSpec])`` and returns a :class:`TaskHead`.
"""


class TaskHead(nn.Module):
    """One task on the features of a backbone.

    A head predicts in :meth:`forward`, so that distillation can tap what it returned, and knows
    its losses and its inference separately.

    Attributes:
        annotation: key of a dataset dict that holds this task's annotation. An image without the
            key is not annotated for the task.
        result: key of this task's result in the output of the network.
    """

    annotation: str
    result: str

    def forward(self, features: dict[str, Tensor]) -> Any:
        """Raw predictions for all N images from maps (N, D, Hi, Wi)."""
        raise NotImplementedError

    def losses(
        self,
        predictions: Any,
        features: dict[str, Tensor],
        annotations: list[Any],
        image_size: tuple[int, int],
    ) -> dict[str, Tensor]:
        """Scalar losses by name.

        Args:
            predictions: what :meth:`forward` returned.
            annotations: per image; None where it is not annotated, and has no part in the loss.
            image_size: (H, W) of the padded batch, pixels.

        Returns:
            Always the same names; exact zeros that hang on all predictions when no image is
            annotated.
        """
        raise NotImplementedError

    def inference(
        self,
        predictions: Any,
        features: dict[str, Tensor],
        image_sizes: list[tuple[int, int]],
        output_sizes: list[tuple[int, int]],
    ) -> list[Any]:
        """One result per image.

        Args:
            predictions: what :meth:`forward` returned.
            image_sizes: (H, W) of each image without padding, pixels.
            output_sizes: (H, W) in which results are to be given, pixels.
        """
        raise NotImplementedError


def build_task_head(name: str, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> TaskHead:
    """Build the head registered as ``name``.

    Raises:
        KeyError: for an unknown name; lists the known ones.
    """
    if name not in TASK_HEAD_REGISTRY:
        known = ", ".join(sorted(key for key, _ in TASK_HEAD_REGISTRY))
        raise KeyError(
            f"MODEL.MULTITASK.HEADS names '{name}', which is no task head. Known: {known}."
        )
    return TASK_HEAD_REGISTRY.get(name)(cfg, input_shape)


def annotated_images(annotations: list[Any]) -> tuple[list[int], list[Any]]:
    """Positions of the images that are annotated (not None), and their annotations."""
    index = [i for i, annotation in enumerate(annotations) if annotation is not None]
    return index, [annotations[i] for i in index]


def pick_images(predictions: Tensor, index: list[int]) -> Tensor:
    """Rows ``index``, ascending, of (N, …); without a copy where they follow on each other."""
    if len(index) == len(predictions):
        return predictions
    first, last = index[0], index[-1] + 1
    return predictions[first:last] if last - first == len(index) else predictions[index]


def select_features(
    names: list[str], input_shape: dict[str, ShapeSpec], key: str
) -> tuple[list[str], list[ShapeSpec]]:
    """Names and shapes of a head's input maps, finest first.

    Args:
        names: chosen outputs of the backbone; empty = all of them.
        input_shape: what the backbone offers.
        key: the config key that holds ``names``, for the error message.

    Raises:
        ValueError: a name that the backbone does not offer.
    """
    unknown = [name for name in names if name not in input_shape]
    if unknown:
        raise ValueError(f"{key} names {unknown}; the backbone offers {list(input_shape)}.")
    chosen = sorted(names or input_shape, key=lambda name: input_shape[name].stride)
    return chosen, [input_shape[name] for name in chosen]
