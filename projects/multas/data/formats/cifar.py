"""CIFAR-10 and CIFAR-100, as torchvision.datasets reads them.

The images are parts of a few large files, which are pickles and could run code: torchvision opens
only those that have the MD5 sums of the original ones, each time. So the dicts carry "pixels",
(32, 32, 3) uint8 RGB, which the mapper takes in place of "file_name", here a mere name. Nothing is
downloaded.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torchvision.datasets import CIFAR10, CIFAR100

from multas.data.formats.base import DATA_FORMAT_REGISTRY, DataFormat, Loaded, Source
from multas.data.formats.folders import select_records, without_labels
from multas.data.issues import DatasetError
from multas.util.annotation import LABELS
from multas.util.errors import UserError


@DATA_FORMAT_REGISTRY.register()
@dataclass(frozen=True, kw_only=True)
class Cifar10(DataFormat):
    """CIFAR-10; ``part`` is "train" or "test", ids are like "train/00007"."""

    main_key = "part"
    can_annotate = (LABELS,)
    dataset: ClassVar[Any] = CIFAR10

    part: str
    annotates: tuple[str, ...] = (LABELS.task,)

    def __post_init__(self) -> None:
        if self.part not in ("train", "test"):
            raise UserError(f"format {self.format_name()} has the splits train and test")

    @classmethod
    def parse_classes(cls, classes: Any) -> Any:
        if classes is not None:
            raise UserError(f"the files of {cls.format_name()} name its classes, drop `classes`")
        return None

    def load(self, source: Source) -> Loaded:
        """
        Raises:
            DatasetError: if files are missing or damaged.
        """
        root, dataset = source.root, self.dataset
        cure = f"unpack {dataset.url} so that its folder {dataset.base_folder} is `root`"
        if root.name != dataset.base_folder:
            raise DatasetError(f"{root} is not named {dataset.base_folder}: {cure}")
        try:
            content = dataset(root.parent, train=self.part == "train", download=False)
        except RuntimeError:
            lacking = f"{root} lacks files of {self.format_name()}, or they are damaged"
            raise DatasetError(f"{lacking}: {cure}") from None
        records = []
        for number, (pixels, label) in enumerate(zip(content.data, content.targets, strict=True)):
            image_id = f"{self.part}/{number:05d}"
            height, width = pixels.shape[:2]
            record = {"file_name": str(root / image_id), "image_id": image_id, "pixels": pixels}
            records.append({**record, "height": height, "width": width, "label": int(label)})
        records = select_records(records, root, source, content.classes)
        return records, self.class_metadata(content.classes)

    def load_unlabeled(self, source: Source) -> Loaded:
        return without_labels(self.load(source))  # the labels lie in the files of the images


@DATA_FORMAT_REGISTRY.register()
@dataclass(frozen=True, kw_only=True)
class Cifar100(Cifar10):
    """CIFAR-100 with its hundred fine classes, in the same layout."""

    dataset: ClassVar[Any] = CIFAR100
