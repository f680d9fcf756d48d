"""The tables of both papers: where their recipes are, and which metric is a row's number.

Which recipes are rows, what they are called and what the paper reports for them stands in their
heads (heads.py, rows.py).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

SCALES = ("tiny", "full")
DATA_NAMES = {
    "toy": "embedded set",
    "voc": "Pascal VOC",
    "vedai": "VEDAI",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "imagenet200": "ImageNet-200",
    "imagenet1k": "ImageNet-1K",
    "cityscapes": "Cityscapes",
    "ade20k": "ADE20K",
    "coco": "COCO",
}


@dataclass(frozen=True)
class Metric:
    """A number of a row: what the papers call it, its key in metrics.json, and which way is up."""

    name: str
    key: str
    lower_is_better: bool = False

    @property
    def title(self) -> str:
        return f"{self.name} {'↓' if self.lower_is_better else '↑'}"


METRICS = {
    metric.name: metric
    for metric in (
        Metric("mAP", "bbox/AP"),
        Metric("AP50", "bbox/AP50"),
        Metric("AP75", "bbox/AP75"),
        Metric("mAP50", "bbox/AP50"),
        Metric("AP10", "bbox/AP10"),
        Metric("AP25", "bbox/AP25"),
        Metric("IoU", "sem_seg/mIoU"),
        Metric("mIoU", "sem_seg/mIoU"),
        Metric("mAcc", "sem_seg/mACC"),
        Metric("top-1 error", "classification/top1_error", lower_is_better=True),
        Metric("agreement error", "classification/top1_agreement_error", lower_is_better=True),
    )
}


@dataclass(frozen=True)
class Column:
    """A column of a table: recipes (patterns below a data set) that compete with each other."""

    name: str = ""
    files: tuple[str, ...] = ("*.yaml",)
    labels: float = 0.0  # share of the images that are annotated, to plot against


@dataclass(frozen=True)
class Table:
    """A table of a paper.

    Args:
        name: on the command line, A for paper A and B for paper B.
        place: how the heads of its rows call it.
        title: of the report.
        root: folder below configs/ with a folder for each data set.
        data: the paper's data sets, in its order. The embedded set stands for all of them.
        metrics: of the rows.
        parts: columns of each data set.
        baseline: name of a row's file -> that of the row that it is compared with, if that is one.
    """

    name: str
    place: str
    title: str
    root: str
    data: tuple[str, ...]
    metrics: tuple[str, ...]
    parts: tuple[Column, ...] = (Column(),)
    baseline: Callable[[str], str] = lambda row: "student"


def _limited(
    name: str,
    place: str,
    title: str,
    parts: tuple[Column, ...],
    data: tuple[str, ...] = ("voc",),
    metrics: tuple[str, ...] = ("mAP",),
) -> Table:
    return Table(
        name, place, title, "limited-data", data, metrics, parts, baseline=lambda row: "supervised"
    )


def _unseen(teacher: str, student: str, labels: float = 0.0) -> Column:
    """The students see other images than the teacher and the supervised row."""
    files = (f"{teacher}/*.yaml", f"{teacher}_to_{student}/*.yaml")
    return Column(f"{teacher} → {student}", files, labels)


def _hand_tuned_twin(row: str) -> str:
    return re.sub("^adaptive", "hand_tuned", row)


SHARES = {"half": 1 / 2, "quarter": 1 / 4, "eighth": 1 / 8}
TABLES = {
    table.name: table
    for table in (
        _limited(
            "A1",
            "Table 1",
            "Supervised students on half, self-trained students on all images",
            (Column("half", ("half/*.yaml",)),),
            data=("voc", "vedai"),
            metrics=("mAP", "AP50", "AP75", "AP10", "AP25"),
        ),
        _limited(
            "A2",
            "Table 2",
            "Fewer annotated images",
            tuple(Column(name, (f"{name}/*.yaml",), share) for name, share in SHARES.items()),
        ),
        _limited(
            "A3",
            "Table 3",
            "Students on the second half, which no teacher has seen",
            tuple(_unseen(name, "half2", share) for name, share in SHARES.items()),
        ),
        _limited(
            "A4",
            "Table 4",
            "Students on all images that their teacher has not seen",
            (
                _unseen("half", "half2"),
                _unseen("quarter", "3quarter"),
                _unseen("eighth", "7eighth"),
                _unseen("eighth", "3quarter"),
            ),
        ),
        Table(
            "A5",
            "Table 5",
            "Detectors that learn from the features of segmentation networks",
            "limited-data/table5",
            data=("voc",),
            metrics=("mAP", "IoU"),
            parts=(
                Column("half of the images", ("det2*.yaml", "teacher*.yaml")),
                Column("the images for detection", ("det.yaml", "det_*.yaml", "teacher*.yaml")),
            ),
            baseline=lambda row: row.partition("_")[0],
        ),
        Table(
            "A6",
            "Table 6",
            "Self-training and multi-task learning on partly annotated data",
            "limited-data/table6",
            data=("voc",),
            metrics=("mAP", "IoU"),
            baseline=lambda row: "supervised",
        ),
        Table(
            "B1",
            "Table 1",
            "Hand-tuned against adaptive weights, detection",
            "adaptive/detection",
            data=("cityscapes",),
            metrics=("mAP", "mAP50"),
        ),
        Table(
            "B2",
            "Table 2",
            "Classification, two paths",
            "adaptive/classification",
            data=("cifar10", "cifar100", "imagenet200", "imagenet1k"),
            metrics=("top-1 error", "agreement error"),
        ),
        Table(
            "B3",
            "Table 3",
            "Classification, up to ten paths",
            "adaptive/classification",
            data=("cifar100", "imagenet200"),
            metrics=("top-1 error", "agreement error"),
        ),
        Table(
            "B4",
            "Table 4",
            "Semantic segmentation",
            "adaptive/segmentation",
            data=("cityscapes", "ade20k"),
            metrics=("mIoU", "mAcc"),
        ),
        Table(
            "B5",
            "Table 5",
            "Object detection",
            "adaptive/detection",
            data=("cityscapes", "coco"),
            metrics=("mAP",),
        ),
        Table(
            "BF2",
            "Figure 2",
            "Pairs of paths, hand-tuned against adaptive weights",
            "adaptive/classification",
            data=("cifar10", "cifar100", "imagenet200"),
            metrics=("top-1 error",),
            baseline=_hand_tuned_twin,
        ),
    )
}
