"""One mini-batch per task: order, epochs, resuming, and what a wrong entry says."""

import multiprocessing
from itertools import islice

import pytest

from multas.data.loader import build_train_loader
from multas.data.task_batches import TaskLoader, parse_task_batches, training_sets
from plain_config import plain_config


def make_cfg(*entries, mode="separate"):
    data = ["DATASETS.TASK_BATCHES", list(entries), "DATASETS.TASK_MODE", mode]
    return plain_config(*data, "MODEL.MULTITASK.TASKS", ["det", "seg"])


DET, SEG = {"TASK": "det", "TRAIN": ["a", "b"]}, {"TASK": "seg", "TRAIN": "c"}


def make_loader(mode, sizes=(5, 3), batches=(2, 3)):
    loaders = [
        build_train_loader(
            [{"name": f"{task}{i}"} for i in range(size)],
            dict,
            total_batch_size=batch,
            seed=seed,
        )
        for seed, (task, size, batch) in enumerate(zip("dsc", sizes, batches, strict=False))
    ]
    return TaskLoader(["det", "seg", "cls"][: len(loaders)], loaders, mode)


@pytest.mark.parametrize("mode", ["separate", "mixed"])
def test_an_iteration_has_one_mini_batch_of_each_task(mode):
    for batch in islice(make_loader(mode), 4):
        assert [x["task"] for x in batch] == ["det"] * 2 + ["seg"] * 3
        assert all(x["name"][0] == x["task"][0] for x in batch)
        assert [x.get("mini_batch") for x in batch] == (
            [0, 0, 1, 1, 1] if mode == "separate" else [None] * 5
        )


@pytest.mark.parametrize("start", [0, 4])
def test_there_may_be_any_number_of_tasks(start):
    sizes, batches = (5, 3, 4), (2, 3, 1)
    loader = make_loader("alternate", sizes, batches)
    loader.start_at(start)
    in_turn = [[x["task"] for x in batch] for batch in islice(loader, 6)]
    own = [["det"] * 2, ["seg"] * 3, ["cls"]]
    assert in_turn == [own[(start + i) % 3] for i in range(6)]
    together = next(iter(make_loader("separate", sizes, batches)))
    assert [(x["mini_batch"], x["name"][0]) for x in together] == [
        (0, "d"), (0, "d"), (1, "s"), (1, "s"), (1, "s"), (2, "c")
    ]  # fmt: skip


def test_a_reader_that_is_closed_ends_all_loading_processes():
    loader = make_loader("separate")
    for part in loader.loaders:
        part.num_workers = 1
    batches = iter(loader)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert not multiprocessing.active_children()


def test_alternating_iterations_have_one_task_each():
    batches = list(islice(make_loader("alternate"), 5))
    tasks = ["det", "seg", "det", "seg", "det"]
    assert [{x["task"] for x in batch} for batch in batches] == [{task} for task in tasks]
    assert "mini_batch" not in batches[0][0]


def test_every_task_has_epochs_of_its_own():
    batches = list(islice(make_loader("separate"), 5))
    seen = {t: [x["name"] for b in batches for x in b if x["task"] == t] for t in ("det", "seg")}
    for start in (0, 5):
        assert sorted(seen["det"][start : start + 5]) == [f"d{i}" for i in range(5)]
    for start in range(0, 15, 3):
        assert sorted(seen["seg"][start : start + 3]) == ["s0", "s1", "s2"]


@pytest.mark.parametrize("mode", ["separate", "mixed", "alternate"])
@pytest.mark.parametrize("start", [0, 1, 2, 5])
def test_a_resumed_loader_goes_on_with_the_same_batches(mode, start):
    whole = list(islice(make_loader(mode), 9))
    later = make_loader(mode)
    later.start_at(start)
    assert list(islice(later, 9 - start)) == whole[start:]


def test_options_and_sizes_of_an_entry_are_its_own():
    cfg = make_cfg(DET, SEG | {"IMS_PER_BATCH": 3, "OPTS": ["INPUT.SQUARE_SIZE", 64]})
    cfg.SOLVER.IMS_PER_BATCH, cfg.INPUT.SQUARE_SIZE = 7, 32
    det, seg = parse_task_batches(cfg, seed=5)
    assert (det.cfg.SOLVER.IMS_PER_BATCH, seg.cfg.SOLVER.IMS_PER_BATCH) == (7, 3)
    assert (det.cfg.INPUT.SQUARE_SIZE, seg.cfg.INPUT.SQUARE_SIZE, cfg.INPUT.SQUARE_SIZE) == (
        32,
        64,
        32,
    )
    assert det.cfg.DATASETS.TRAIN == ("a", "b") and seg.cfg.DATASETS.TRAIN == ("c",)
    assert det.seed == 5 != seg.seed
    assert training_sets(cfg) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([DET], "no entry for 'seg'"),
        ([DET, {"TASK": "depth", "TRAIN": "c"}], r"TASK_BATCHES\[1\].*'depth'.*det, seg"),
        ([DET, SEG | {"BATCH": 1}], "unknown key 'BATCH'.*IMS_PER_BATCH"),
        ([DET, {"TASK": "seg"}], "TASK and TRAIN"),
        ([DET, {"TRAIN": "c"}], "TASK and TRAIN"),
        (
            [DET, SEG | {"OPTS": ["SOLVER.BASE_LR", 0.1]}],
            "OPTS has .SOLVER.BASE_LR",
        ),
        ([DET, SEG | {"OPTS": ["MODEL.MASK_ON", True]}], "OPTS has 'MODEL.MASK_ON'"),
        ([DET, SEG | {"OPTS": ["INPUT.FORMAT", "RGB"]}], "OPTS has 'INPUT.FORMAT'"),
        ([DET, SEG | {"OPTS": ["INPUT.SQUARE_SIZE"]}], r"\[1\]: OPTS .* odd length"),
        ([DET, SEG | {"OPTS": ["INPUT.NOPE", 1]}], r"\[1\]: OPTS .* INPUT.NOPE"),
        ([DET, SEG | {"OPTS": ["INPUT.SQUARE_SIZE", "x"]}], r"\[1\]: OPTS .*mismatch"),
    ],
)
def test_a_wrong_entry_says_what_would_be_right(entries, message):
    with pytest.raises(ValueError, match=message):
        parse_task_batches(make_cfg(*entries), 0)


def test_train_sets_beside_task_batches_are_refused():
    cfg = make_cfg(DET, SEG)
    cfg.DATASETS.TRAIN = ("a",)
    with pytest.raises(ValueError, match="both given"):
        parse_task_batches(cfg, 0)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match=r"'joint'.*separate, mixed, alternate"):
        parse_task_batches(make_cfg(DET, SEG, mode="joint"), 0)
