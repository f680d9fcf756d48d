"""Assignment and detection losses against the same in loops over images and objects."""

from collections.abc import Callable
from functools import partial

import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.structures import Boxes, Instances
from tabulate import tabulate
from torch import Tensor

from multas.modeling.heads.dense_loss import DenseLoss
from naive_loss import naive_losses
from stock import random_batch
from tables import round_ratios, spread
from timing import take_turns

BATCH, CLASSES = 4, 20
# (size of the image, objects of an image): one grows, the other stays.
CASES = ((320, 1), (320, 10), (320, 50), (320, 200), (160, 10), (640, 10))
ASSIGNMENTS = ("iou", "mutual_guidance")

Losses = Callable[[Tensor, Tensor, Tensor, list[Instances]], dict[str, Tensor]]


def retinanet_anchors(size: int) -> Tensor:
    """(A, 4): nine at each place of p3 to p7."""
    strides = (8, 16, 32, 64, 128)
    sizes = [[4 * stride * 2 ** (octave / 3) for octave in range(3)] for stride in strides]
    generator = DefaultAnchorGenerator(
        sizes=sizes, aspect_ratios=[[0.5, 1.0, 2.0]], strides=strides
    )
    maps = [torch.empty(1, 1, -(-size // stride), -(-size // stride)) for stride in strides]
    return Boxes.cat(generator(maps)).tensor


def compare(
    assignment: str, size: int, objects: int, rounds: int
) -> tuple[dict[str, list[float]], int]:
    """Seconds of both, forward and backward, and the number of anchors.

    Raises:
        RuntimeError: the losses differ, so that there is nothing to compare.
    """
    torch.manual_seed(0)
    anchors = retinanet_anchors(size)
    logits = (torch.randn(BATCH, len(anchors), CLASSES) - 4).requires_grad_()
    deltas = (0.1 * torch.randn(BATCH, len(anchors), 4)).requires_grad_()
    instances = [x["instances"] for x in random_batch(BATCH, size, objects, CLASSES)]
    ours = DenseLoss(num_classes=CLASSES, assignment=assignment)
    naive = partial(naive_losses, assignment=assignment)

    def call(losses: Losses) -> Callable[[], None]:
        def both_ways() -> None:
            terms = losses(logits, deltas, anchors, instances)
            torch.stack(list(terms.values())).sum().backward()

        return both_ways

    with torch.no_grad():
        pair = [losses(logits, deltas, anchors, instances) for losses in (ours, naive)]
    for name, value in pair[0].items():
        if not torch.isclose(value, pair[1][name], rtol=1e-4):
            raise RuntimeError(f"{name} is {value:.6f}, in loops {pair[1][name]:.6f}.")
    return take_turns({"ours": call(ours), "loops": call(naive)}, rounds), len(anchors)


def run(rounds: int) -> str:
    """The Markdown section of this benchmark."""
    rows = []
    for assignment in ASSIGNMENTS:
        for size, objects in CASES:
            seconds, anchors = compare(assignment, size, objects, rounds)
            ours, loops = seconds.values()
            row = [assignment, f"{anchors:,}", str(objects)]
            row += [spread((BATCH / t for t in times), 1) for times in (ours, loops)]
            row += [f"{min(loops) / min(ours):.2f}", spread(round_ratios(loops, ours))]
            rows.append(row)
    header = ["assignment", "anchors", "objects an image"]
    header += ["images/s: min / median / max", "in loops", "speed of minima"]
    header += ["speed in a round: min / median / max"]
    table = tabulate(rows, header, tablefmt="github", disable_numparse=True)
    return (
        f"## Assignment and losses: batch {BATCH}, {CLASSES} classes, {rounds} rounds\n\n"
        "Given logits and deltas, forward and backward. Both sides give the same losses (to "
        f"1e-4).\n\n{table}"
    )
