"""What the file of an exported network says of it, taken from its config and its data."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from detectron2.config import CfgNode
from torch import nn

import multas
from multas.deploy.detector import Description, resized
from multas.util.annotation import BOXES, LABELS, MASKS, Annotation
from multas.util.errors import UserError

IMAGE, SIZES = "image", "image_sizes"  # the names of the inputs
# The output whose numbers are those of the classes.
OUTPUT_OF: Mapping[Annotation, str] = {
    BOXES: "classes", MASKS: "sem_seg", LABELS: "probabilities"
}  # fmt: skip


def describe_network(
    cfg: CfgNode,
    model: nn.Module,
    classes: Mapping[Annotation, Sequence[str]],
    size: tuple[int, int] = (0, 0),
    image_sizes: Iterable[tuple[int, int]] = (),
) -> Description:
    """How images are prepared for a network, and what its classes are.

    Args:
        cfg: the config of the network.
        model: has a backbone.
        classes: the names of the classes that are known.
        size: height and width of the input; (0, 0): as the config says, or what holds all images.
        image_sizes: heights and widths of images, if the config leaves the size open.

    Raises:
        UserError: The size contradicts the config, or is unknown.
    """
    divisor = max(cast(Any, model).backbone.size_divisibility, 1)
    square, crop = cfg.INPUT.SQUARE_SIZE, cfg.INPUT.CENTER_CROP_TEST
    common: dict[str, Any] = {
        "format": cfg.INPUT.FORMAT,
        "divisor": divisor,
        "center_crop": crop,
        "classes": {OUTPUT_OF[kind]: list(names) for kind, names in classes.items() if names},
        "version": multas.__version__,
    }
    fixed = (square or crop,) * 2
    if fixed[0]:
        if size not in ((0, 0), fixed):
            raise UserError(
                f"--size {size[0]} {size[1]}: the network was trained for {fixed[0]} x {fixed[0]} "
                "pixels (INPUT.SQUARE_SIZE or CENTER_CROP_TEST). Leave it out, or give those."
            )
        resize = "stretch" if square else "shortest_edge"
        smallest = 0 if square else cfg.INPUT.MIN_SIZE_TEST
        sizes = "" if square else SIZES  # a crop of a narrow image is smaller
        return Description(
            resize, fixed, smallest, cfg.INPUT.MAX_SIZE_TEST, image_sizes=sizes, **common
        )
    if size != (0, 0) and (size[0] % divisor or size[1] % divisor):
        better = [-(-side // divisor) * divisor for side in size]
        raise UserError(
            f"--size {size[0]} {size[1]}: the network needs multiples of {divisor} pixels; give "
            f"--size {better[0]} {better[1]}."
        )
    rule = Description(
        "shortest_edge", (0, 0), cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST,
        image_sizes=SIZES, **common,
    )  # fmt: skip
    return with_size(rule, size if size != (0, 0) else _holding(rule, image_sizes))


def with_size(description: Description, size: tuple[int, int]) -> Description:
    """The same with another size of the input."""
    return replace(description, size=size)


def _holding(rule: Description, image_sizes: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """The smallest input that holds all images once they are resized."""
    sizes = [resized(height, width, rule) for height, width in set(image_sizes)]
    if not sizes:
        raise UserError(
            "The size of the input is not known: give --size HEIGHT WIDTH, or a data set "
            "(--evaluate, --calibrate, DATASETS.TEST) whose images it has to hold."
        )
    height, width = (
        -(-max(side) // rule.divisor) * rule.divisor for side in zip(*sizes, strict=True)
    )
    return height, width
