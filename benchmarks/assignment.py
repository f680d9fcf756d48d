"""Assignment and detection losses, against loops over images and objects."""

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
# (image size, objects per image): one is varied, the other fixed.
CASES = ((320, 1), (320, 10), (320, 50), (320, 200), (160, 10), (640, 10))
ASSIGNMENTS = ("iou", "mutual_guidance")

Losses = Callable[[Tensor, Tensor, Tensor, list[Instances]], dict[str, Tensor]]


def retinanet_anchors(size: int) -> Tensor:
    """Anchors (A, 4) of p3 to p7, nine per cell."""
    strides = (8, 16, 32, 64, 128)
    sizes = [[4 * stride * 2 ** (octave / 3) for octave in range(3)] for stride in strides]
    generator = DefaultAnchorGenerator(
        sizes=sizes, aspect_ratios=[[0.5, 1.0, 2.0]], strides=strides
    )
    maps = [torch.empty(1, 1, -(-size // stride), -(-size // stride)) for stride in strides]
    return Boxes.cat(generator(maps)).tensor


def calls(assignment: str, size: int, objects: int) -> tuple[list[Callable[[], None]], int]:
    """Forward and backward pass of ours and of the loops, and the number of anchors.

    Raises:
        RuntimeError: the losses differ.
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
    return [call(ours), call(naive)], len(anchors)


def compare(assignment: str, rounds: int) -> list[list[str]]:
    """A row per case."""
    alternatives: dict[str, Callable[[], None]] = {}
    counts = {}
    for case in CASES:
        (ours, loops), counts[case] = calls(assignment, *case)
        alternatives |= {f"ours {case}": ours, f"loops {case}": loops}
    seconds = take_turns(alternatives, rounds)
    rows = []
    for size, objects in CASES:
        case = (size, objects)
        fast, slow = (seconds[f"{side} {case}"] for side in ("ours", "loops"))
        growth = [
            spread(round_ratios(times, seconds[f"{side} {CASES[0]}"]))
            for side, times in (("ours", fast), ("loops", slow))
        ]
        row = [assignment, f"{counts[case]:,}", str(objects)]
        row += [spread((BATCH / t for t in times), 1) for times in (fast, slow)]
        row += [f"{min(slow) / min(fast):.2f}", spread(round_ratios(slow, fast)), *growth]
        rows.append(row)
    return rows


def run(rounds: int) -> str:
    """The Markdown section of this benchmark."""
    rows = [row for assignment in ASSIGNMENTS for row in compare(assignment, rounds)]
    header = ["assignment", "anchors", "objects per image"]
    header += ["images/s: min / median / max", "in loops", "speed of minima"]
    header += ["speed in a round: min / median / max"]
    header += ["time / that of the first case, ours", "in loops "]
    table = tabulate(rows, header, tablefmt="github", disable_numparse=True)
    return (
        f"## Assignment and losses: batch {BATCH}, {CLASSES} classes, {rounds} rounds\n\n"
        "Given logits and deltas, forward and backward. Both sides give the same losses (to "
        f"1e-4). The first case of an assignment is the base of its growth.\n\n{table}"
    )
