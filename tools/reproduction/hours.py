"""How long trainings take at a number of images per second, also where their data are not there."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from detectron2.config import CfgNode

from multas.engine.epochs import resolve_epochs
from reproduction.run import Run
from reproduction.runs import batch_sizes, images_per_iteration, iterations_of, merged

# The images that rows train on, by data set and split: of VOC those of both years, by the authors'
# lists; of COCO those with objects.
IMAGES: Mapping[str, int | Mapping[str, int]] = {
    "voc": {
        "half": 8274, "quarter": 4136, "eighth": 2066, "half2": 8917, "3quarter": 13045,
        "7eighth": 14811, "trainval": 16551, "det": 7558, "det2": 3778, "seg": 7656, "seg2": 3827,
        "all_seg": 10476,
    },
    "vedai": {"half": 545, "trainval": 1089},
    "cifar10": 50_000, "cifar100": 50_000, "imagenet200": 100_000, "imagenet1k": 1_281_167,
    "cityscapes": 2975, "coco": 117_266, "ade20k": 20_210,
    "toy": {
        "trainval": 480, "half": 240, "quarter": 120, "eighth": 60, "half2": 240, "3quarter": 360,
        "7eighth": 420, "det": 240, "seg": 240,
    },
    "small": {"trainval": 480, "det": 240, "seg": 240},
}  # fmt: skip


class Work(NamedTuple):
    """The iterations of a training, and the images of each, with their copies."""

    iterations: int
    images: int

    def hours(self, images_per_second: float) -> float:
        return self.iterations * self.images / images_per_second / 3600


def task_sizes(data: str, cfg: CfgNode) -> dict[str, tuple[int, int]]:
    """What the mini-batches of an iteration are from -> its images, and how many they have.

    Args:
        data: the name of the data set in a table.
        cfg: the config of a row.

    Raises:
        KeyError: the number of images of the data set is not known.
    """
    counts, sizes = IMAGES[data], batch_sizes(cfg)
    if isinstance(counts, int):
        return {"train": (counts, sizes[0])}
    trained = [entry["TRAIN"] for entry in cfg.DATASETS.TASK_BATCHES] or [cfg.DATASETS.TRAIN]
    return {
        "+".join(splits): (sum(counts[split] for split in splits), size)
        for splits, size in zip(map(_splits, trained), sizes, strict=True)
    }


def _splits(names: Sequence[str]) -> list[str]:
    """The splits of these data sets; those of voc2007 and voc2012 are counted together."""
    plain = (name.removesuffix("_unlabeled").partition("_")[2] for name in names)
    return list(dict.fromkeys(plain))


def work_of(run: Run) -> Work | None:
    """What a run has to do; None where neither its data are there nor their number is known."""
    cfg = merged(run.config_file, run.opts)
    data = run.config_file.partition("#")[2].partition("/")[0]
    iterations = iterations_of(run)
    if not iterations:
        try:
            sizes = list(task_sizes(data, cfg).values())
        except KeyError:
            return None
        iterations = resolve_epochs(cfg, lambda _: sizes).SOLVER.MAX_ITER
    return Work(iterations, images_per_iteration(cfg))


def describe_work(run: Run, images_per_second: float) -> str:
    """A line on a run: its hours, and what they come from."""
    work = work_of(run)
    if work is None:
        return f"? h: {run.title}, whose data are not there to be counted"
    hours = work.hours(images_per_second)
    return f"{hours:,.1f} h: {work.iterations:,} iterations of {work.images} images"


def describe_all(runs: Sequence[Run], images_per_second: float) -> str:
    """A line on all runs together."""
    works = [work_of(run) for run in runs]
    hours = sum(work.hours(images_per_second) for work in works if work)
    unknown = f", and {works.count(None)} of unknown length" * (None in works)
    return (
        f"{hours:,.1f} h for {len(works) - works.count(None)} trainings at {images_per_second:g} "
        f"images per second{unknown}. Early stopping may end them sooner; evaluation comes on top."
    )
