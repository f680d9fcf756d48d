"""The mapper from dataset dicts to model inputs, which joins ground truth and pseudo-labels."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.data.catalog import Metadata
from detectron2.structures import BoxMode, Instances
from PIL import Image

from multas.data.formats.mask_files import MASK_VALUES, MaskValues, read_mask
from multas.data.image_files import as_array, read_image
from multas.data.pseudo_labels import PseudoLabels, load_pseudo_labels
from multas.data.pseudo_masks import PseudoMasks, load_pseudo_masks
from multas.data.transforms.augmentation import ResizeToSquare, build_augmentations
from multas.data.transforms.place import for_objects
from multas.util.annotation import BOXES, MASKS, STANDARD, Annotation
from multas.util.errors import UserError

# A model input with this key holds the very pixels that the network is to see. A model that gets
# a whole image instead, as from Detectron2's DefaultPredictor, stretches or crops it the same way.
PREPARED = "prepared"


class MultasMapper:
    """Makes a model input of a dataset dict, whatever subset of annotations the dict has.

    It works like Detectron2's DatasetMapper, but "not annotated" stays different from "annotated as
    empty": a dict without "annotations" gives no "instances"; one with ``[]`` gives empty
    "instances". Without "sem_seg_file_name" there is no "sem_seg". All other entries, such as
    "label" or an annotation of your own, reach the model as they are. Pseudo-labels join images
    that have no annotations. Instances carry ``gt_scores`` (float32, 1 for ground truth) and
    ``gt_pseudo`` (bool).

    Args:
        is_train: whether boxes and masks are handed out.
        augmentations: Detectron2 augmentations, in order.
        square_size: side in pixels of the square to which images are stretched after them; 0 to
            leave their size.
        prepares: whether this gives test images that a model would else stretch or crop itself.
        image_format, instance_mask_format: see INPUT.FORMAT and INPUT.MASK_FORMAT.
        use_instance_mask: whether "segmentation" becomes ``gt_masks`` (MODEL.MASK_ON).
        keep_outlines: whether "segmentation" is of use without that (INPUT.MIX.COPY_PASTE).
        pseudo_labels: boxes and masks for unannotated images.
    """

    @configurable
    def __init__(
        self,
        *,
        is_train: bool,
        augmentations: Sequence[T.Augmentation | T.Transform],
        square_size: int = 0,
        prepares: bool = False,
        image_format: str,
        use_instance_mask: bool = False,
        instance_mask_format: str = "polygon",
        keep_outlines: bool = False,
        pseudo_labels: PseudoLabels | None = None,
    ) -> None:
        self.is_train = is_train
        self.augmentations = list(augmentations)
        self.square_size = square_size
        self.prepares = prepares
        self.image_format = image_format
        self.use_instance_mask = use_instance_mask
        self.instance_mask_format = instance_mask_format
        self.keep_outlines = keep_outlines
        self.pseudo_labels = pseudo_labels or PseudoLabels()

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        return {
            "is_train": is_train,
            "augmentations": build_augmentations(cfg, is_train),
            "square_size": cfg.INPUT.SQUARE_SIZE,
            "prepares": not is_train and bool(cfg.INPUT.SQUARE_SIZE or cfg.INPUT.CENTER_CROP_TEST),
            "image_format": cfg.INPUT.FORMAT,
            "use_instance_mask": cfg.MODEL.MASK_ON,
            "instance_mask_format": cfg.INPUT.MASK_FORMAT,
            "keep_outlines": cfg.INPUT.MIX.COPY_PASTE > 0,
            "pseudo_labels": _pseudo_labels(cfg) if is_train else None,
        }

    def __call__(
        self, dataset_dict: dict, size: int = 0, then: Sequence[T.Augmentation] = ()
    ) -> dict:
        """
        Args:
            dataset_dict: one image in Detectron2's standard format; "pixels", (H, W, 3) uint8 RGB,
                may stand for the image in "file_name".
            size: replaces ``square_size`` (multi-scale training), if it is not 0.
            then: augmentations behind all others.

        Returns:
            The dict with "image" (uint8, (C, H, W), augmented) and, if annotated, "instances"
            (pixels of the augmented image) and "sem_seg" (int64, (H, W)).

        Raises:
            UserError: a file cannot be read or has the wrong size; the message names it.
        """
        dataset_dict = dict(self.pseudo_labels.join(dataset_dict))
        image = self._read_image(dataset_dict, dataset_dict.pop("pixels", None))
        annotations = dataset_dict.pop("annotations", None)
        mask_file = dataset_dict.pop("sem_seg_file_name", None)
        mask_values = dataset_dict.pop(MASK_VALUES, None)
        dataset_dict = copy.deepcopy(dataset_dict)  # what a model may change
        if not self.is_train:
            annotations = mask_file = None
        mask = None if mask_file is None else _read_mask(mask_file, mask_values, image)
        boxes = None if annotations is None else boxes_of(annotations)
        aug_input = T.AugInput(image, boxes=boxes, sem_seg=mask)
        last = [ResizeToSquare(side)] if (side := size or self.square_size) else []
        try:
            transforms = T.AugmentationList([*self.augmentations, *last, *then])(aug_input)
        except ValueError as error:  # Pillow's, where a side of a long, narrow image becomes 0
            extent = "{1}x{0}".format(*image.shape)
            raise UserError(
                f"{dataset_dict.get('file_name')} of {extent} cannot be prepared ({error}). Leave "
                "it out, or change the sizes in INPUT."
            ) from error
        # A flipped image of one column counts as contiguous, but has a negative stride.
        pixels = np.array(aug_input.image.transpose(2, 0, 1), order="C")
        dataset_dict["image"] = torch.as_tensor(pixels)
        if self.prepares:
            dataset_dict[PREPARED] = True
        if mask is not None:
            dataset_dict["sem_seg"] = torch.as_tensor(aug_input.sem_seg.astype("long"))
        if annotations is not None:
            shape = tuple(dataset_dict["image"].shape[1:])
            moved = self._instances(annotations, aug_input.boxes, transforms, shape)
            dataset_dict["instances"] = moved
        return dataset_dict

    def with_bitmasks(self) -> "MultasMapper":
        """One that gives ``gt_masks`` (BitMasks) of objects, all of which must have outlines."""
        own = copy.copy(self)
        own.use_instance_mask, own.instance_mask_format = True, "bitmask"
        return own

    def trim(self, dataset_dict: dict) -> dict:
        """The dict without what takes memory and is not used: "segmentation" without masks."""
        annotations = dataset_dict.get("annotations")
        if self.use_instance_mask or self.keep_outlines or annotations is None:
            return dataset_dict
        return {**dataset_dict, "annotations": [_without_mask(a) for a in annotations]}

    def _read_image(self, dataset_dict: dict, pixels: np.ndarray | None) -> np.ndarray:
        """The image, (H, W, C), from its file or from ``pixels``."""
        if pixels is None:
            image = read_image(dataset_dict["file_name"], self.image_format)
        else:
            image = as_array(Image.fromarray(pixels), self.image_format)
        try:
            utils.check_image_size(dataset_dict, image)
        except utils.SizeMismatchError as error:
            raise UserError(f"{error} Or has the file changed since the start?") from error
        return image

    def _instances(
        self, annotations: list[dict], boxes: np.ndarray, transforms, size: tuple[int, int]
    ) -> Instances:
        """The objects that are left inside the augmented image, without crowds.

        Args:
            annotations: of the image.
            boxes: theirs in the augmented image, (N, 4) x1, y1, x2, y2.
            transforms: the transforms of the image, for masks and keypoints.
            size: (height, width) of the augmented image.
        """
        is_object = [a.get("iscrowd", 0) == 0 for a in annotations]
        kept = [a for a, is_kept in zip(annotations, is_object, strict=True) if is_kept]
        inside = boxes[is_object].clip(0, size[::-1] * 2)
        moved, transforms = [], for_objects(transforms)
        for annotation, box in zip(kept, inside, strict=True):
            own = annotation if self.use_instance_mask else _without_mask(annotation)
            if {"segmentation", "keypoints"} & own.keys():
                # For boxes alone this would take longer than the rest, since it moves one by one.
                own = utils.transform_instance_annotations(copy.deepcopy(own), transforms, size)
            moved.append({**own, "bbox": box, "bbox_mode": BoxMode.XYXY_ABS})
        instances = utils.annotations_to_instances(moved, size, self.instance_mask_format)
        scores = [a.get("score", 1.0) for a in kept]
        pseudo = [bool(a.get("pseudo", 0)) for a in kept]
        instances.gt_scores = torch.tensor(scores, dtype=torch.float32)
        instances.gt_pseudo = torch.tensor(pseudo, dtype=torch.bool)
        return utils.filter_empty_instances(instances)


def _read_mask(file: str, values: MaskValues | None, image: np.ndarray) -> np.ndarray:
    """The mask of an image, (H, W) uint8."""
    mask = read_mask(file, values)
    if mask.shape != image.shape[:2]:
        sizes = "{1}x{0}, but its image is {3}x{2}".format(*mask.shape, *image.shape)
        raise UserError(f"The mask {file} is {sizes}. Mend or remove the file.")
    return mask


def _pseudo_labels(cfg: CfgNode) -> PseudoLabels:
    """What DATASETS.PSEUDO_LABELS names, as far as images of DATASETS.TRAIN can take it."""
    options, names = cfg.DATASETS.PSEUDO_LABELS, cfg.DATASETS.TRAIN
    masks = PseudoMasks()
    if options.MASKS:
        classes = _training_classes(names, MASKS, "MASKS", cfg.MODEL.CLASSES.SEG)
        if classes is not None:
            ignore_label = cfg.MODEL.SEMANTIC_FPN_HEAD.IGNORE_VALUE
            masks = load_pseudo_masks(options.MASKS, classes, ignore_label)
    boxes = _training_classes(names, BOXES, "FILES") if options.FILES else None
    if boxes is None:
        return PseudoLabels(masks=masks)
    return load_pseudo_labels(
        options.FILES,
        boxes,
        score_thresh=options.SCORE_THRESH,
        class_score_thresh=options.CLASS_SCORE_THRESH,
        topk=options.TOPK,
        empty=options.EMPTY,
        masks=masks,
    )


def _training_classes(
    names: Sequence[str], kind: Annotation, key: str, default: Sequence[str] = ()
) -> Sequence[str] | None:
    """The classes of boxes or masks, from the first data set that has some, or ``default``.

    A plain folder of images has none. If all data sets are annotated, but for other tasks, the
    result is None: such images take no boxes or masks.
    """
    metadata = [MetadataCatalog.get(name) for name in names]
    known = [classes for data in metadata if (classes := data.get(kind.classes_key))]
    known += [default] if default else []
    if not known and not all(_is_for_other_tasks(data, kind) for data in metadata):
        raise UserError(
            f"DATASETS.TRAIN {tuple(names)}: none of them has class names, which "
            f"DATASETS.PSEUDO_LABELS.{key} needs. Give `classes` in the card."
        )
    return known[0] if known else None


def _is_for_other_tasks(data: Metadata, own: Annotation) -> bool:
    """Whether a data set without classes of one kind is annotated with something else."""
    classes = any(data.get(kind.classes_key) for kind in STANDARD)
    return classes or bool(set(data.get("annotates", ())) - {own.task})


def _without_mask(annotation: dict) -> dict:
    return {key: value for key, value in annotation.items() if key != "segmentation"}


def boxes_of(annotations: Sequence[dict]) -> np.ndarray:
    """The boxes of annotations, (N, 4) float64 x1, y1, x2, y2.

    All of a mode at once, to the bits that BoxMode.convert gives for one box: it computes in
    float32, and leaves XYXY_ABS as it is.
    """
    boxes = np.empty((len(annotations), 4))
    for mode in {a["bbox_mode"] for a in annotations}:
        own = [i for i, a in enumerate(annotations) if a["bbox_mode"] == mode]
        kind = np.float64 if mode == BoxMode.XYXY_ABS else np.float32
        given = np.array([annotations[i]["bbox"] for i in own], dtype=kind)
        boxes[own] = BoxMode.convert(given, mode, BoxMode.XYXY_ABS)
    return boxes
