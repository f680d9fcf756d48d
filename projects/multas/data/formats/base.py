"""What a data format is: one registered class, which reads the splits of a data card.

The simplest of them, :class:`Images`, stands here, too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from detectron2.structures import BoxMode
from detectron2.utils.registry import Registry

from multas.data.image_files import load_images
from multas.data.issues import DatasetIssues
from multas.util.annotation import BOXES, Annotation
from multas.util.errors import UserError

_OVERSHOOT = 1.0  # pixels by which a box may leave its image, for which it is cut

DATA_FORMAT_REGISTRY = Registry("DATA_FORMAT")
DATA_FORMAT_REGISTRY.__doc__ = """
Subclasses of :class:`DataFormat`. The name of a class in lower case is the ``format`` of a data
card: ``Voc`` reads the cards with ``format: voc``.
"""

# The dataset dicts of a split, and the metadata that were found while they were read.
Loaded = tuple[list[dict], dict[str, Any]]


@dataclass(frozen=True)
class Source:
    """What a format gets to read a split."""

    where: str  # names the card and the split, for messages
    root: Path  # folder of the data
    ids: Sequence[str] | None  # ids of the images, in order; None for all images
    classes: tuple[str, ...] | None  # names of the classes; None if the card does not give them
    ignore_label: int  # value of the pixels of a mask that do not count
    issues: DatasetIssues  # receives the faults of the data
    splits: Sequence["DataFormat"] = ()  # all splits of the card, for what they have in common
    ids_of: Callable[["DataFormat"], Sequence[str] | None] = lambda split: None
    only: tuple[str, ...] | None = None  # names of the classes that are wanted; None: all of them

    def leaves_out(self, name: str, what: str = "objects") -> bool:
        """Whether the card's `only` leaves out an object of a class, which is then counted.

        A format asks this before it looks for faults, so that those of others do not matter. What
        it does not ask for, chosen_classes.py leaves out after it.
        """
        if self.only is None or name in self.only:
            return False
        self.issues.pass_over(name, what)
        return True


@dataclass(frozen=True, kw_only=True)
class DataFormat:
    """One split of a data card, and how its data are read.

    A format is a registered subclass, again a frozen dataclass. Its fields are the keys that a
    split may have, with their defaults; a field without default is a key that a card must have.
    Their types are ``str``, ``int``, ``bool`` and ``tuple[str, ...]`` (in a card: one word or a
    list). A ``ValueError`` of ``__post_init__`` is reported with the names of card and split.
    """

    main_key: ClassVar[str] = "ids"  # the key of a split that a card gives one value, not a table
    can_annotate: ClassVar[tuple[Annotation, ...]] = ()  # what its images can be annotated with
    default_splits: ClassVar[Mapping[str, Any]] = {}  # where a card names none; empty if it must

    name: str  # of the split
    ids: str | None = None  # file that lists the ids of the images; None for all images
    images: str = "."  # folder of the images below the root
    annotates: tuple[str, ...] = ()  # the ``task`` of each annotation that the images have
    without: tuple[str, ...] = ()  # splits of the card: images that they annotate are left out

    @classmethod
    def format_name(cls) -> str:
        """What a card calls the format."""
        return cls.__name__.lower()

    @classmethod
    def parse_classes(cls, classes: Any) -> Any:
        """The ``classes`` of a card as a list of names, or None to find them in the data.

        Raises:
            UserError: if the format cannot do with ``classes`` as they are.
        """
        return classes

    def list_folders(self) -> tuple[str, ...]:
        """Folders below the root, beside the usual ones, in which lists of ids may lie."""
        return ()

    def load(self, source: Source) -> Loaded:
        """The annotated dataset dicts of the split, and metadata such as the classes."""
        raise NotImplementedError

    def load_unlabeled(self, source: Source) -> Loaded:
        """The same images without annotations, if possible without opening an annotation."""
        return load_images(source.root / self.images, source.ids, source.issues), {}

    def class_metadata(self, classes: Sequence[str]) -> dict[str, Any]:
        """The metadata that name the classes."""
        keys = [kind.classes_key for kind in self.can_annotate if kind.classes_key]
        return {key: list(classes) for key in keys}

    def mask_values(self) -> Any:
        """The MaskValues of the split (mask_files.py), None where masks hold class indices."""
        return None

    def evaluation_metadata(self, root: Path, id_file: Path | None) -> dict[str, Any]:
        """The metadata that evaluators need.

        Args:
            root: folder of the data.
            id_file: the list of the split, None for a split without one.

        Returns:
            "evaluator_type", a list of evaluator types, and what these evaluators look for.
        """
        kinds = [kind for kind in self.can_annotate if kind.task in self.annotates]
        return {"evaluator_type": [kind.evaluator for kind in kinds if kind.evaluator]}


@DATA_FORMAT_REGISTRY.register()
@dataclass(frozen=True, kw_only=True)
class Images(DataFormat):
    """All images of a folder, or those of a list; ``suffix`` stands between id and extension."""

    default_splits = {"all": {}}  # noqa: RUF012

    suffix: str = ""

    def load(self, source: Source) -> Loaded:
        return self.load_unlabeled(source)

    def load_unlabeled(self, source: Source) -> Loaded:
        return load_images(source.root / self.images, source.ids, source.issues, self.suffix), {}

    def class_metadata(self, classes: Sequence[str]) -> dict[str, Any]:
        """The classes of the boxes that pseudo-labels may give to the images."""
        return {BOXES.classes_key: list(classes)}


def remark_copies(annotations: Sequence[dict], where: str, issues: DatasetIssues) -> None:
    """Note objects of an image that have the class and the box of another; they stay."""
    if len({(entry["category_id"], *entry["bbox"]) for entry in annotations}) < len(annotations):
        issues.remark(where, "objects that are annotated twice, with one class and box, are kept")


def cut_box(box: Sequence[float], size: tuple[int, int]) -> list[float]:
    """A box (xmin, ymin, xmax, ymax), in pixels from 0, within an image of (width, height).

    Raises:
        UserError: It has no area, or leaves the image by more than a pixel, as rounding does not.
    """
    xmin, ymin, xmax, ymax = box
    text = "box " + ",".join(f"{value:g}" for value in box)
    if not (xmax > xmin and ymax > ymin):
        raise UserError(f"{text} has no area")
    if max(-xmin, -ymin, xmax - size[0], ymax - size[1]) > _OVERSHOOT:
        raise UserError(f"{text} leaves the image of {size[0]}x{size[1]}")
    return [min(max(value, 0.0), side) for value, side in zip(box, size * 2, strict=True)]


def box_annotation(category_id: int, box: list[float], difficult: int, truncated: int) -> dict:
    """Detectron2's annotation of an object; ``box`` is (xmin, ymin, xmax, ymax) in pixels."""
    flags = {"difficult": difficult, "truncated": truncated}
    return {"category_id": category_id, "bbox": box, "bbox_mode": BoxMode.XYXY_ABS, **flags}
