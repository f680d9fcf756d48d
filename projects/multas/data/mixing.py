"""Training samples of several images: mosaic, copy-paste and mixup.

Which images, and how, is drawn from NumPy's generator, which the loader seeds for each sample. A
Detectron2 transform takes one image to one image: so each image has its own augmentations and, as
the last, its place on the canvas. What is joined here has the same annotations and size.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode

from multas.data.composing import blend, half_of_classes, paste, put_beside, windows_around
from multas.data.formats.masks import MASK_VALUES
from multas.data.mapper import MultasMapper
from multas.data.transforms.place import Place
from multas.util.annotation import BOXES, LABELS, MASKS
from multas.util.errors import UserError

logger = logging.getLogger(__name__)

_KEY = "INPUT.MIX"
# What images may be annotated with. A mask has no class for a pixel that shows two things.
_TAKES = {
    "MOSAIC": {BOXES.dataset_key, MASKS.dataset_key},
    "COPY_PASTE": {BOXES.dataset_key, MASKS.dataset_key},
    "MIXUP": {BOXES.dataset_key, LABELS.dataset_key},
}
# Keys of a dataset dict that say nothing of what the image shows.
_NEUTRAL = {"file_name", "image_id", "height", "width", "pixels", MASK_VALUES}
_KEYPOINTS = "keypoints"


@dataclass(frozen=True)
class Group:
    """Images with the same annotations, and what is done with them.

    An image without annotations must not become a part of one that has some: what it shows would
    count as background.

    Attributes:
        images: (N,) their numbers.
        probs: (3,) of MOSAIC, COPY_PASTE and MIXUP.
    """

    images: np.ndarray
    probs: np.ndarray


@dataclass(eq=False)
class Mixing:
    """Makes samples of images and others that are drawn from those with the same annotations.

    Mosaic (Bochkovskiy et al., YOLOv4, 2020): four images meet at a point of the canvas, which is
    as large as the first one. Copy-paste: one half of the objects of another image are shown at
    their places (Ghiasi et al., CVPR 2021); without outlines in windows around them, as in CutMix
    (Yun et al., ICCV 2019); where there are masks alone, one half of the classes (ClassMix, Olsson
    et al., WACV 2021). Mixup: a weighted mean with another image (Zhang et al., ICLR 2018), of
    which all objects count in full, as in YOLOX and YOLOv5.

    Args:
        mapper: makes a model input of a dataset dict.
        group_of: the group of each image.
        groups: at least one.
        final_from: batch from which on images are not mixed.
        scale, alpha, min_visible: see INPUT.MIX.
        ignore_value: of pixels of masks that are not annotated.
    """

    mapper: MultasMapper
    group_of: np.ndarray
    groups: Sequence[Group]
    final_from: int
    scale: tuple[float, float] = (0.5, 1.5)
    alpha: float = 32.0
    min_visible: float = 0.2
    ignore_value: int = 255
    _with_bitmasks: MultasMapper = field(init=False)

    def __post_init__(self) -> None:
        self._with_bitmasks = self.mapper.with_bitmasks()

    def __call__(self, dicts: Sequence[dict], image: int, size: int = 0) -> dict:
        """
        Args:
            dicts: all dataset dicts.
            image: number of the image that the sample is of.
            size: see :class:`MultasMapper`.

        Returns:
            A model input as the mapper gives it, of the size that this image alone would have.
        """
        group = self.groups[self.group_of[image]]
        mosaic, copy_paste, mixup = np.random.uniform(size=3) < group.probs
        view = partial(self._view, size=size, bitmasks=copy_paste)

        def other(**place: Any) -> dict:
            return view(dicts[np.random.choice(group.images)], **place)

        first = partial(view, dicts[image])
        sample = self._mosaic(first, other) if mosaic else first()
        canvas = tuple(sample["image"].shape[1:])
        if copy_paste:
            second = other(canvas=canvas)
            paste(sample, second, self._region(second), self.min_visible)
        if mixup:
            blend(sample, other(canvas=canvas), np.random.beta(self.alpha, self.alpha))
        objects = sample.get("instances")
        if not self.mapper.use_instance_mask and objects is not None and objects.has("gt_masks"):
            objects.remove("gt_masks")  # which were of use for cutting alone
        return sample

    def _view(self, record: dict, size: int, bitmasks: bool, **place: Any) -> dict:
        """The augmented image, at its place if it gets one."""
        annotations = self.mapper.pseudo_labels.join(record).get(BOXES.dataset_key, ())
        outlined = bitmasks and all("segmentation" in a for a in annotations)
        mapper = self._with_bitmasks if outlined else self.mapper
        if not place:
            return mapper(record, size)
        place |= {"min_visible": self.min_visible, "mask_value": self.ignore_value}
        return mapper(record, size, [Place(**place)])

    def _mosaic(self, first: Callable[..., dict], other: Callable[..., dict]) -> dict:
        x, y = np.random.uniform(0.25, 0.75, size=2)
        samples: list[dict] = []
        windows = []
        for corner, view in zip(np.random.permutation(4), (first, *[other] * 3), strict=True):
            right, low = int(corner % 2), int(corner // 2)
            windows.append(((0.0, x)[right], (0.0, y)[low], (x, 1.0)[right], (y, 1.0)[low]))
            canvas = tuple(samples[0]["image"].shape[1:]) if samples else None
            place = {"window": windows[-1], "scale": self.scale, "corner": (1 - right, 1 - low)}
            samples.append(view(canvas=canvas, **place))
        return put_beside(samples, windows)

    def _region(self, sample: dict) -> np.ndarray:
        """The pixels of a sample that are pasted onto another, (H, W) bool."""
        size = tuple(sample["image"].shape[1:])
        if "instances" not in sample:
            return half_of_classes(sample["sem_seg"].numpy(), self.ignore_value)
        if not (count := len(sample["instances"])):
            return np.zeros(size, dtype=bool)
        chosen = np.random.permutation(count)[: np.random.randint(1, count + 1)]
        instances = sample["instances"][torch.from_numpy(chosen)]
        if instances.has("gt_masks"):
            return instances.gt_masks.tensor.any(dim=0).numpy()
        return windows_around(instances.gt_boxes.tensor.numpy(), size)


def build_mixing(
    cfg: CfgNode, dicts: Sequence[dict], mapper: MultasMapper, key: str
) -> Mixing | None:
    """What INPUT.MIX asks for; None if nothing.

    Args:
        cfg: the config as it holds for these images.
        dicts: all dataset dicts.
        mapper: makes model inputs of them.
        key: the config key that names their data sets, for messages.

    Raises:
        UserError: none of the images has annotations that can be mixed so, or instance masks are
            polygons, of which nothing can be cut out.
    """
    mix = cfg.INPUT.MIX
    wanted = [name for name in _TAKES if mix[name] > 0]
    if not wanted:
        return None
    if mix.COPY_PASTE and cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT != "bitmask":
        raise UserError(
            f"{_KEY}.COPY_PASTE cuts hidden parts out of instance masks, which INPUT.MASK_FORMAT "
            f"'{cfg.INPUT.MASK_FORMAT}' does not allow; set it to 'bitmask'."
        )
    images: dict[frozenset[str], list[int]] = {}
    for number, record in enumerate(dicts):
        images.setdefault(_annotations(mapper.pseudo_labels.join(record)), []).append(number)
    for name in wanted:
        if not any(_can_take(name, kinds) for kinds in images):
            found = " or ".join(", ".join(sorted(kinds)) or "nothing" for kinds in images)
            raise UserError(
                f"{_KEY}.{name} is {mix[name]:g}, but takes images with "
                f"{' and '.join(sorted(_TAKES[name]))} alone, and those of {key} are annotated "
                f"with {found}. Set it to 0."
            )
    group_of = np.zeros(len(dicts), dtype=np.int64)
    groups = []
    for number, (kinds, members) in enumerate(images.items()):
        probs = [mix[name] if _can_take(name, kinds) else 0.0 for name in _TAKES]
        groups.append(Group(np.array(members), np.array(probs)))
        group_of[members] = number
    final_from = round((1 - mix.FINAL_FRACTION) * cfg.SOLVER.MAX_ITER)
    mixed = sum(len(group.images) for group in groups if group.probs.any())
    logger.info(
        f"{_KEY}: {', '.join(f'{name} {mix[name]:g}' for name in wanted)} until iteration "
        f"{final_from}, for {mixed} of {len(dicts)} images of {key}."
    )
    return Mixing(
        mapper,
        group_of,
        groups,
        final_from,
        scale=tuple(mix.MOSAIC_SCALE),
        alpha=mix.MIXUP_ALPHA,
        min_visible=mix.MIN_VISIBLE,
        ignore_value=cfg.MODEL.SEMANTIC_FPN_HEAD.IGNORE_VALUE,
    )


def _annotations(record: Mapping[str, Any]) -> frozenset[str]:
    """What an image is annotated with, by the keys of its dict, and what is unknown."""
    has_points = any(_KEYPOINTS in a for a in record.get(BOXES.dataset_key, ()))
    return frozenset({*record.keys() - _NEUTRAL, *([_KEYPOINTS] if has_points else [])})


def _can_take(name: str, kinds: frozenset[str]) -> bool:
    """Whether images with these annotations can be mixed so."""
    return kinds <= _TAKES[name] and bool(kinds or name != "COPY_PASTE")
