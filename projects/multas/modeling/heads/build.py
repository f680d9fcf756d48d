"""The registry of task heads and what every head offers to the meta-architecture."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import build_anchor_generator
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from multas.util.annotation import Annotation
from multas.util.errors import UserError
from multas.util.names import lookup
from multas.util.options import parse_options

TASK_HEAD_REGISTRY = Registry("TASK_HEAD")
TASK_HEAD_REGISTRY.__doc__ = """
Heads of :class:`multas.modeling.MultiTaskNetwork`, subclasses of :class:`TaskHead`.

A class is called with ``(cfg, input_shape: dict[str, ShapeSpec])`` and the options of its entry in
MODEL.MULTITASK.HEADS. With Detectron2's ``@configurable`` its constructor gets the arguments that
``from_config(cls, cfg, input_shape)`` returns, and the options, which prevail. A head of your own
is one class in one file that IMPORT_MODULES names.
"""

_KEY = "MODEL.MULTITASK.HEADS"
Features = dict[str, Tensor]  # maps (N, D, Hi, Wi) of the backbone by name
Size = tuple[int, int]  # (H, W), pixels
Sizes = list[Size]


class TaskHead(nn.Module):
    """One task on the features of a backbone.

    A head predicts in :meth:`forward`, so that distillation can tap what it returned; losses and
    inference are computed from the predictions.

    Attributes:
        annotation: what images are annotated with for this task.
        result: key of this task's result in the output of the network.
        config_node: the node of the config from which the head is built, for messages; "" if it
            has none. A head that has the attribute ``num_classes`` is compared with the data.
    """

    annotation: Annotation
    result: str
    config_node: ClassVar[str] = ""

    def forward(self, features: Features) -> Any:
        """Raw predictions for all N images."""
        raise NotImplementedError

    def losses(
        self, predictions: Any, features: Features, annotations: list[Any], image_size: Size
    ) -> dict[str, Tensor]:
        """Scalar losses by name.

        Args:
            predictions: what :meth:`forward` returned.
            features: its input.
            annotations: one for each image; None for an image that is not annotated and must not
                take part in the losses.
            image_size: size of the padded batch.

        Returns:
            Always the same names. If no image is annotated, the losses are exact zeros that depend
            on all predictions, so that every parameter has a gradient.
        """
        raise NotImplementedError

    def inference(
        self, predictions: Any, features: Features, image_sizes: Sizes, output_sizes: Sizes
    ) -> list[Any]:
        """One result for each image; unless a head decodes them, its raw predictions.

        Args:
            predictions, features: as of :meth:`losses`.
            image_sizes: size of each image without padding.
            output_sizes: size in which each result is to be given.
        """
        return list(predictions)

    def export(
        self, predictions: Any, features: Features, image_sizes: Tensor, nms: bool
    ) -> dict[str, Tensor]:
        """The results of N images as tensors that an exported graph gives, by name.

        Args:
            predictions, features: as of :meth:`losses`.
            image_sizes: (N, 2), height and width of each image without padding.
            nms: whether the weaker of overlapping boxes are dropped.

        Raises:
            UserError: unless a head says what it gives.
        """
        raise UserError(
            f"{type(self).__name__} cannot be exported: it has no method `export`, which gives "
            "its results as tensors. Write it as in DenseDetectionHead, or leave the head out."
        )


def build_task_head(
    entry: str | Mapping[str, Any], cfg: CfgNode, input_shape: dict[str, ShapeSpec]
) -> TaskHead:
    """Build the head of an entry of MODEL.MULTITASK.HEADS.

    Args:
        entry: a registered name, or a mapping with the key TYPE and with arguments of its
            constructor in capitals, like {"TYPE": "LinearClassificationHead", "NUM_CLASSES": 8}.
        cfg: config of the network.
        input_shape: the shapes of the backbone's outputs by name.

    Raises:
        UserError: if a name or an argument is unknown; the message has the known ones.
    """
    options = {"TYPE": entry} if isinstance(entry, str) else entry
    if not isinstance(options, Mapping) or "TYPE" not in options:
        raise UserError(f"{_KEY} has {entry!r}: give a name, or a mapping with the key TYPE.")
    cls = lookup(TASK_HEAD_REGISTRY, options["TYPE"], _KEY)
    where = f"{_KEY}, {options['TYPE']}"
    given = ("cfg", "input_shape")
    return cls(cfg, input_shape, **parse_options(cls, options, where, given=given, keys=("TYPE",)))


def annotated_images(annotations: list[Any]) -> tuple[list[int], list[Any]]:
    """Positions of the images that are annotated (not None), and their annotations."""
    index = [i for i, annotation in enumerate(annotations) if annotation is not None]
    return index, [annotations[i] for i in index]


def pick_images(predictions: Tensor, index: list[int]) -> Tensor:
    """Rows ``index``, ascending, of (N, …); without a copy if they follow on each other."""
    if len(index) == len(predictions):
        return predictions
    first, last = index[0], index[-1] + 1
    return predictions[first:last] if last - first == len(index) else predictions[index]


def build_anchors(cfg: CfgNode, levels: Sequence[ShapeSpec]) -> Any:
    """The anchor generator of MODEL.ANCHOR_GENERATOR for these levels.

    Raises:
        UserError: a list does not have an entry for each level, or the anchors are rotated.
    """
    options = cfg.MODEL.ANCHOR_GENERATOR
    for key in ("SIZES", "ASPECT_RATIOS"):
        if len(options[key]) not in (1, len(levels)):
            raise UserError(
                f"MODEL.ANCHOR_GENERATOR.{key} has {len(options[key])} lists for {len(levels)} "
                "levels; give one for each level, or one for all."
            )
    generator = build_anchor_generator(cfg, list(levels))
    if getattr(generator, "box_dim", 4) != 4:
        raise UserError(
            f"MODEL.ANCHOR_GENERATOR.NAME is '{options.NAME}', whose anchors are rotated; this "
            "head needs upright ones, such as those of DefaultAnchorGenerator."
        )
    return generator


def select_features(
    names: list[str], input_shape: dict[str, ShapeSpec], key: str
) -> tuple[list[str], list[ShapeSpec]]:
    """Names and shapes of a head's input maps, finest first; without ``names`` all of the backbone.

    Raises:
        UserError: if the backbone lacks one; the message begins with the config ``key``.
    """
    unknown = [name for name in names if name not in input_shape]
    if unknown:
        raise UserError(f"{key} names {unknown}; the backbone offers {list(input_shape)}.")
    chosen = sorted(names or input_shape, key=lambda name: input_shape[name].stride)
    return chosen, [input_shape[name] for name in chosen]
