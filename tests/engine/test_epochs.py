"""Epochs become iterations: the arithmetic, the trainer, and every schedule of the papers."""

from fractions import Fraction
from pathlib import Path

import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog
from hypothesis import given
from hypothesis import strategies as st

from multas.config import add_multas_config, merge_config, merge_opts
from multas.engine.epochs import ROUNDINGS, epoch_length, resolve_epochs, to_iterations
from reproduction.hours import task_sizes
from shipped import TABLES, row_of, rows
from training import train

counts = st.integers(1, 2_000_000)
batch_sizes = st.integers(1, 512)
lengths = st.integers(1, 800)


@given(counts, batch_sizes)
def test_an_epoch_is_rounded_to_a_neighbour(images, batch_size):
    down, up, exact = (epoch_length(images, batch_size, rounding) for rounding in ROUNDINGS)
    assert exact * batch_size == images
    assert down <= max(exact, 1) and exact <= up and 0 <= up - down <= 1
    assert down == up if images % batch_size == 0 else down.denominator == up.denominator == 1


@given(counts, batch_sizes, lengths, st.sampled_from(ROUNDINGS))
def test_whole_epochs_of_whole_iterations_are_exact(images, batch_size, number, rounding):
    epoch = epoch_length(images, batch_size, rounding)
    iterations = to_iterations(number, epoch)
    assert iterations >= 1
    if epoch.denominator == 1:
        assert iterations == number * epoch
    assert abs(iterations - number * epoch) <= Fraction(1, 2) or iterations == 1


@given(counts, batch_sizes, lengths, lengths)
def test_more_epochs_are_not_fewer_iterations(images, batch_size, number, other):
    epoch = epoch_length(images, batch_size, "none")
    pair = sorted((number, other))
    assert to_iterations(pair[0], epoch) <= to_iterations(pair[1], epoch)


def test_halves_round_up():
    epoch = Fraction(50_000, 128)
    assert [to_iterations(n, epoch) for n in (60, 100, 200)] == [23_438, 39_063, 78_125]


# Configs


def config(**images: int) -> CfgNode:
    """A config that trains on sets with so many images, in batches of 4."""
    for name, count in images.items():
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
        DatasetCatalog.register(name, lambda count=count: [{}] * count)
    cfg = get_cfg()
    add_multas_config(cfg)
    merge_opts(cfg, ["SOLVER.IMS_PER_BATCH", 4, "DATASETS.TRAIN", list(images)])
    return cfg


def test_every_key_in_epochs_is_resolved():
    cfg = config(epochs_a=30, epochs_b=12)
    merge_opts(cfg, ["SOLVER.EPOCHS", 10, "SOLVER.STEPS_EPOCHS", [4, 8], "INPUT.COPIES", 2,
                     "SOLVER.CHECKPOINT_PERIOD_EPOCHS", 0.5, "TEST.EVAL_PERIOD_EPOCHS", 2,
                     "SOLVER.EARLY_STOPPING.PERIOD_EPOCHS", 1])  # fmt: skip
    cfg.freeze()
    found = resolve_epochs(cfg)
    assert found.SOLVER.MAX_ITER == 105 and found.SOLVER.STEPS == (42, 84)
    assert (found.SOLVER.CHECKPOINT_PERIOD, found.TEST.EVAL_PERIOD) == (5, 21)
    assert found.SOLVER.EARLY_STOPPING.PERIOD == 11
    assert found.is_frozen() and cfg.SOLVER.MAX_ITER == 40000
    assert resolve_epochs(found) == found


def test_without_epochs_no_data_is_loaded():
    cfg = config()
    cfg.DATASETS.TRAIN = ("there_is_no_such_set",)
    assert resolve_epochs(cfg) is cfg


@pytest.mark.parametrize("mode", ["separate", "mixed", "alternate"])
def test_an_epoch_is_that_of_the_longest_task(mode):
    cfg = config(epochs_a=30, epochs_b=12)
    batches = [{"TASK": "det", "TRAIN": ["epochs_a"], "IMS_PER_BATCH": 10},
               {"TASK": "seg", "TRAIN": ["epochs_b"]}]  # fmt: skip
    opts = ["DATASETS.TRAIN", [], "DATASETS.TASK_BATCHES", batches, "DATASETS.TASK_MODE", mode]
    merge_opts(cfg, [*opts, "MODEL.MULTITASK.TASKS", ["det", "seg"], "SOLVER.EPOCHS", 10])
    # One of two tasks in turn: its images take twice as many iterations.
    assert (60 if mode == "alternate" else 30) == resolve_epochs(cfg).SOLVER.MAX_ITER


def test_another_rounding_is_refused():
    cfg = config(epochs_a=30)
    merge_opts(cfg, ["SOLVER.EPOCHS", 1, "SOLVER.EPOCH_ROUNDING", "round"])
    with pytest.raises(ValueError, match="EPOCH_ROUNDING is 'round'; choose from floor, ceil"):
        resolve_epochs(cfg)


def test_the_trainer_has_the_iterations_of_the_epochs(tiny_cfg, caplog):
    cfg = tiny_cfg()
    merge_opts(cfg, ["SOLVER.EPOCHS", 2, "SOLVER.STEPS_EPOCHS", [1.5]])
    cfg.freeze()
    with caplog.at_level("INFO", "multas"):
        trainer = train(cfg)
    # 8 images in batches of 4.
    assert (trainer.iter, trainer.max_iter, trainer.cfg.SOLVER.STEPS) == (4, 4, (3,))
    assert "2 epochs of 2 iterations: SOLVER.MAX_ITER is 4." in caplog.text
    assert (Path(cfg.OUTPUT_DIR) / "student.pth").is_file()


# The papers' schedules, from the documented numbers of images

# The data, the split that an epoch goes through, the batch size -> an epoch's iterations where it
# has a whole number of them, and all.
PERIODS = {
    ("voc", "half", 5): (1654, 115_780),
    ("voc", "half", 10): (827, 57_890),
    ("voc", "quarter", 5): (827, 57_890),
    ("voc", "quarter", 10): (413, 28_910),
    ("voc", "eighth", 5): (413, 28_910),
    ("voc", "eighth", 10): (206, 14_420),
    ("voc", "trainval", 10): (1655, 115_850),
    ("voc", "half2", 10): (891, 62_370),
    ("voc", "3quarter", 10): (1304, 91_280),
    ("voc", "7eighth", 10): (1481, 103_670),
    ("vedai", "half", 5): (109, 7630),
    ("vedai", "half", 10): (54, 3780),
    ("vedai", "trainval", 10): (108, 7560),
    ("voc", "det", 10): (756, 52_920),
    ("voc", "det2", 10): (378, 26_460),
    ("voc", "det2", 5): (755, 52_850),
    ("voc", "seg", 5): (1532, 107_240),
    ("voc", "seg2", 5): (766, 53_620),
    ("voc", "all_seg", 5): (2096, 146_720),
    ("voc", "det+seg", 10): (1522, 106_540),
    # Two tasks: 70 epochs of the 7656 images with masks.
    ("voc", "seg", 10): (766, 53_620),
    ("voc", "seg", 7): (1094, 109_400),
    ("toy", "trainval", 8): (0, 1000),
    ("toy", "det+seg", 8): (0, 1000),
    ("toy", "3quarter", 8): (0, 750),
    ("toy", "7eighth", 8): (0, 875),
    ("toy", "half2", 8): (0, 500),
    ("toy", "det", 8): (0, 500),
    ("small", "trainval", 8): (0, 3000),
    ("small", "det+seg", 8): (0, 3000),
    ("small", "det", 8): (0, 1500),
}
STEPS = {
    "cifar10": (78_125, (39_063, 58_594), 3906),
    "cifar100": (78_125, (23_438, 46_875, 62_500), 3906),
    "imagenet200": (39_063, (11_719, 23_438, 35_156), 1953),
    "imagenet1k": (500_456, (150_137, 300_274, 450_410), 5005),
    "cityscapes": (64 * 372, (56 * 372,), 5000),
    "coco": (12 * 14_658, (8 * 14_658, 11 * 14_658), 5000),
}
# The epochs of the papers and their batch sizes: A, section 4 and its usage notes (teacher 5,
# student 10), B, section 4. Segmentation counts iterations.
PAPER_EPOCHS = {
    "voc": (70, {5, 10}), "vedai": (70, {5, 10}), "cifar10": (200, {128}), "cifar100": (200, {128}),
    "imagenet200": (100, {256}), "imagenet1k": (100, {256}), "cityscapes": (64, {8}),
    "coco": (12, {8}),
}  # fmt: skip
SEGMENTATION = (80_000, 8)
# Multi-task learning by the usage notes of A's authors.
NOTES = (100, {7})
# The authors train teachers by one program and every student by another, supervised ones, too
# (their usage notes: "hard" for supervised training), each with its own least gain.
LEAST_GAINS = {"teacher": 0.07, "student": 0.04}


@pytest.mark.parametrize("table", TABLES)
def test_schedules_of_the_papers(table):
    for address in rows(table):
        data = row_of(address)[0]
        if data in ("small", "source"):  # rows of our own, of which no paper has a schedule
            continue
        cfg = get_cfg()
        add_multas_config(cfg)
        merge_config(cfg, address)
        if not cfg.SOLVER.EPOCHS:
            found = (cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH)
            assert data == "toy" or found == SEGMENTATION, address
            continue
        sizes = task_sizes(data, cfg)
        solver = resolve_epochs(cfg, lambda _, own=sizes: list(own.values())).SOLVER
        if data in STEPS:
            assert STEPS[data] == (solver.MAX_ITER, solver.STEPS, solver.CHECKPOINT_PERIOD), address
        else:
            longest = max(sizes, key=lambda split: sizes[split][0])
            found = (solver.EARLY_STOPPING.PERIOD, solver.MAX_ITER)
            assert found == PERIODS[data, longest, solver.IMS_PER_BATCH], address
        if data != "toy":
            notes = row_of(address)[1] == "multi_task_notes"
            epochs_of_paper, batch_sizes = NOTES if notes else PAPER_EPOCHS[data]
            images, batch_size = max(sizes.values())
            # An epoch is rounded to whole iterations, so its length may be a batch off.
            tolerance = epochs_of_paper * batch_size / images
            trained = solver.MAX_ITER * batch_size / images
            assert trained == pytest.approx(epochs_of_paper, abs=tolerance), address
            assert batch_size in batch_sizes, address
        if data in ("voc", "vedai"):
            kind = "teacher" if cfg.MODEL.RESNETS.DEPTH == 50 else "student"
            assert LEAST_GAINS[kind] == solver.EARLY_STOPPING.MIN_DELTA, address
