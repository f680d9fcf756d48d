"""Where paths that need the boxes of objects take them from."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

import torch
from detectron2.structures import Boxes

from multas.distillation.paths.base import Targets

BOX_SOURCES = ("auto", "teacher", "ground_truth")


def check_box_source(source: str) -> None:
    """Refuse what MODEL.DISTILLATION.BOXES does not know.

    Raises:
        ValueError: unknown.
    """
    if source not in BOX_SOURCES:
        raise ValueError(
            f"MODEL.DISTILLATION.BOXES is '{source}'; choose from {', '.join(BOX_SOURCES)}."
        )


def wants_detections(targets: Targets, source: str) -> bool:
    """Whether a teacher has to detect the objects of a batch, because nobody has annotated them.

    Args:
        targets: of the batch.
        source: MODEL.DISTILLATION.BOXES.
    """
    pairs = zip_longest(targets.instances, targets.sem_seg)
    known = all(instances is not None or mask is not None for instances, mask in pairs)
    return source == "teacher" or (source == "auto" and not known)


def with_boxes(targets: Targets, source: str, detected: Sequence[Boxes]) -> Targets:
    """The targets with ``boxes`` and ``from_masks``.

    Args:
        targets: of the batch.
        source: MODEL.DISTILLATION.BOXES.
        detected: by the teacher, of each image; empty = it was not asked.

    Raises:
        ValueError: an image has neither.
    """
    boxes: list[Boxes] = []
    from_masks: list[int] = []
    pairs = zip_longest(targets.instances, targets.sem_seg)
    for i, (instances, mask) in enumerate(pairs):
        if source != "teacher" and instances is not None:
            boxes.append(instances.gt_boxes)
        elif source != "teacher" and mask is not None:
            boxes.append(Boxes(mask.new_zeros((0, 4), dtype=torch.float32)))
            from_masks.append(i)
        elif detected:
            boxes.append(detected[i])
        else:
            raise ValueError(
                "MODEL.DISTILLATION.BOXES is 'ground_truth', but the batch has an image "
                "without annotation. Set it to 'auto' or 'teacher'."
            )
    return replace(targets, boxes=boxes, from_masks=from_masks)
