"""What a path may know of a batch besides features, and where boxes of objects come from."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from multas.util.errors import UserError
from multas.util.names import check_choice

BOX_SOURCES = ("auto", "teacher", "ground_truth")


@dataclass
class Targets:
    """What a path may know of the batch besides features.

    Attributes:
        image_sizes: (height, width) of each image, pixels, without padding.
        padded_size: (height, width) of the batch tensor that the student saw, pixels.
        instances: ground truth of each image in pixels of the network input; None where the image
            is not annotated.
        boxes: boxes of the objects in each image (pixels), from a :class:`BoxSource`; empty for the
            images in ``from_masks``. None unless a path ``needs_boxes``.
        sem_seg: labels of each image, (height, width) integers; None where it has none.
        ignore_value: label of pixels without annotation in ``sem_seg``.
        from_masks: indices of images without boxes whose ``sem_seg`` shows the objects.
    """

    image_sizes: list[tuple[int, int]]
    padded_size: tuple[int, int]
    instances: list[Instances | None]
    boxes: list[Boxes] | None = None
    sem_seg: list[Tensor | None] = field(default_factory=list)
    ignore_value: int = 255
    from_masks: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class BoxSource:
    """Where paths that need the boxes of objects take them from.

    Attributes:
        name: MODEL.DISTILLATION.BOXES, one of :data:`BOX_SOURCES`.
        score_thresh: score above which a detection of the teacher counts as an object.
    """

    name: str
    score_thresh: float

    def __post_init__(self) -> None:
        check_choice("MODEL.DISTILLATION.BOXES", self.name, BOX_SOURCES)

    def wants_detections(self, targets: Targets) -> bool:
        """Whether a teacher has to detect the objects of some image."""
        pairs = zip_longest(targets.instances, targets.sem_seg)
        known = all(instances is not None or mask is not None for instances, mask in pairs)
        return self.name == "teacher" or (self.name == "auto" and not known)

    def fill(self, targets: Targets, detected: Sequence[Boxes]) -> Targets:
        """The targets with ``boxes`` and ``from_masks``.

        Args:
            targets: targets of the batch.
            detected: the teacher's detections in each image; empty if there are none.
        """
        boxes: list[Boxes] = []
        from_masks: list[int] = []
        for i, (instances, mask) in enumerate(zip_longest(targets.instances, targets.sem_seg)):
            if self.name != "teacher" and instances is not None:
                boxes.append(instances.gt_boxes)
            elif self.name != "teacher" and mask is not None:
                boxes.append(Boxes(mask.new_zeros((0, 4), dtype=torch.float32)))
                from_masks.append(i)
            elif detected:
                boxes.append(detected[i])
            else:
                raise UserError(
                    "MODEL.DISTILLATION.BOXES is 'ground_truth', but the batch has an image "
                    "without annotation. Set it to 'auto' or 'teacher'."
                )
        return replace(targets, boxes=boxes, from_masks=from_masks)
