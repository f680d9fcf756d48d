"""Batches: a function of seed and number alone, in fair shares, also without any annotation."""

import itertools
import multiprocessing
import os
import shutil
import time
from collections import Counter

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T

from multas.data import MultasMapper, build_train_loader, register_card
from multas.data.batch_sampler import Index
from multas.data.dataset_dicts import load_training_dicts
from multas.data.loader import (
    SeededDataset,
    build_test_loader,
)
from multas.data.training import build_training_loader
from multas.util.errors import UserError
from plain_config import plain_config


@pytest.fixture
def toy(toy_card):
    """The registered names of the small embedded set, by the end of their names."""
    return register(toy_card)


def register(card):
    names = register_card({**card, "name": "small"})
    return {name.removeprefix("small_"): name for name in names}


def config(*opts):
    return plain_config(
        "INPUT.SQUARE_SIZE", 64, "INPUT.AUGMENTATION", "single_shot", "INPUT.FORMAT", "BGR", *opts
    )


def first_batches(loader, count=4):
    return list(itertools.islice(iter(loader), count))


def signature(batches):
    """All that tells two sequences of batches apart."""
    return [
        [(x["image_id"], x["image"].sum().item(), tuple(x["image"].shape)) for x in batch]
        for batch in batches
    ]


def loader_of(names, cfg=None, **options):
    dicts = load_training_dicts(names, filter_empty=True)
    mapper = MultasMapper(cfg or config(), is_train=True)
    return build_train_loader(dicts, mapper, **{"total_batch_size": 4, "seed": 7, **options})


def test_empty_images_go_unless_they_are_annotated_for_another_task():
    box = {"bbox": [0, 0, 4, 4], "bbox_mode": 0, "category_id": 0}
    dicts = [
        {"file_name": "unknown.jpg"},
        {"file_name": "empty.jpg", "annotations": []},
        {"file_name": "crowd.jpg", "annotations": [box | {"iscrowd": 1}]},
        {"file_name": "object.jpg", "annotations": [box]},
        {"file_name": "mask.jpg", "annotations": [], "sem_seg_file_name": "mask.png"},
        {"file_name": "label.jpg", "annotations": [], "label": 3},
        {"file_name": "own.jpg", "annotations": [], "count": 0},
    ]
    DatasetCatalog.register("some_empty", lambda: dicts)
    MetadataCatalog.get("some_empty").annotation_keys = ("annotations", "count")
    kept = [d["file_name"] for d in load_training_dicts(["some_empty"], filter_empty=True)]
    assert load_training_dicts(["some_empty"], filter_empty=False) == dicts
    assert kept == ["unknown.jpg", "object.jpg", "mask.jpg", "label.jpg", "own.jpg"]


def test_batches_do_not_depend_on_workers_or_global_random_numbers(toy):
    reference = signature(first_batches(loader_of([toy["half"]])))
    for workers in (0, 2):
        np.random.seed(workers + 5)
        torch.manual_seed(workers + 5)
        assert signature(first_batches(loader_of([toy["half"]], num_workers=workers))) == reference
    assert signature(first_batches(loader_of([toy["half"]], seed=8))) != reference


def test_loading_draws_no_random_number_of_the_training(toy):
    for workers in (0, 1):
        torch.manual_seed(3)
        np.random.seed(3)
        first_batches(loader_of([toy["half"]], num_workers=workers), 2)
        drawn = torch.rand(1).item(), np.random.rand()
        torch.manual_seed(3)
        np.random.seed(3)
        assert drawn == (torch.rand(1).item(), np.random.rand())


def test_loading_seeds_no_gpu(monkeypatch):
    def fail(seed):
        raise AssertionError

    monkeypatch.setattr(torch.cuda, "manual_seed_all", fail)
    draws = SeededDataset([{}], lambda _: torch.rand(1).item(), seed=1)
    assert draws[Index(0, 0)] == draws[Index(0, 0)] != draws[Index(1, 0)]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_ends_the_loading_processes_at_once(workers):
    def fail(sample):
        raise UserError("broken image")

    batches = iter(build_train_loader(
        [{}] * 4, fail, total_batch_size=2, seed=0, num_workers=workers
    ))  # fmt: skip
    with pytest.raises(UserError, match="broken image") as kept:
        next(batches)
    deadline = time.monotonic() + 1
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not multiprocessing.active_children(), f"{kept.value} keeps them alive"


def test_no_polygon_is_kept_for_a_model_without_masks():
    box = {"bbox": [1.0, 1.0, 9.0, 9.0], "bbox_mode": 0, "category_id": 0}
    outlined = {**box, "segmentation": [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]]}
    DatasetCatalog.register("outlined", lambda: [{"image_id": 1, "annotations": [outlined]}])
    MetadataCatalog.get("outlined").set(thing_classes=["cat"])
    for mask_on, kept in ((False, box), (True, outlined)):
        cfg = config("DATASETS.TRAIN", ["outlined"], "MODEL.MASK_ON", mask_on)
        assert build_training_loader(cfg).dataset.dicts[0]["annotations"] == [kept]


def test_a_loader_may_start_at_any_batch(toy):
    whole = signature(first_batches(loader_of([toy["half"]]), 7))
    later = loader_of([toy["half"]])
    iterator = iter(later)
    # As a trainer does: it learns where to resume only after iter().
    later.sampler.start = 4
    assert signature(itertools.islice(iterator, 3)) == whole[4:]


def test_an_image_is_augmented_anew_in_every_epoch(toy):
    batches = first_batches(loader_of([toy["half"]], total_batch_size=12), 2)
    assert len({x["image_id"] for x in batches[0]}) == 12
    once, twice = (sorted(signature([batch])[0]) for batch in batches)
    assert [s[0] for s in once] == [s[0] for s in twice]
    assert sum(a[1] == b[1] for a, b in zip(once, twice, strict=True)) < 3


@pytest.mark.parametrize(("views", "copies"), [(1, 1), (2, 1), (2, 2), (3, 2)])
def test_an_image_comes_back_in_so_many_views(toy, views, copies):
    options = {"total_batch_size": 12, "views": views, "copies": copies}
    epochs = [
        sorted(signature([batch])[0])
        for batch in first_batches(loader_of([toy["half"]], **options), 2 * views)
    ]
    # Every image is seen, over all epochs, in exactly its views, each of them equally often.
    seen = [view for epoch in epochs for view in epoch]
    assert len(set(seen)) == pytest.approx(12 * views, abs=2)  # two crops may look alike
    assert epochs[:views] == epochs[views:]
    assert signature(first_batches(loader_of([toy["half"]], **options, num_workers=1), 2)) == (
        signature(first_batches(loader_of([toy["half"]], **options), 2))
    )


def test_a_number_of_views_is_not_negative(toy):
    with pytest.raises(ValueError, match=r"INPUT.VIEWS is -1"):
        loader_of([toy["half"]], views=-1)
    with pytest.raises(ValueError, match=r"INPUT.VIEWS is 1 and INPUT.COPIES 2"):
        loader_of([toy["half"]], views=1, copies=2)


def test_data_sets_are_repeated_by_name(toy):
    opts = ["DATASETS.TRAIN", (toy["half"], toy["half_unlabeled"]), "SOLVER.IMS_PER_BATCH", 4]
    opts += ["DATASETS.TRAIN_REPEAT_FACTOR", [[toy["half"], 3.0]]]
    loader = build_training_loader(plain_config(*opts))
    own = len(load_training_dicts([toy["half"]], True))
    epoch = [i.image for batch in itertools.islice(loader.sampler, own) for i in batch]
    assert Counter(epoch) == {image: 3 if image < own else 1 for image in range(2 * own)}
    assert len(loader.dataset.dicts) == 2 * own


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ([["nobody", 2.0]], "names 'nobody'; this trains on small_half"),
        (["half"], "pairs of a data set and a number"),
        ([["half", 0]], "above 0"),
        ([["half", "often"]], "'often'; it must be above 0"),
    ],
)
def test_wrong_repeat_factors_are_named(toy, factors, message):
    named = [[toy.get(f[0], f[0]), f[1]] if isinstance(f, list) else f for f in factors]
    cfg = plain_config("DATASETS.TRAIN", (toy["half"],), "DATASETS.TRAIN_REPEAT_FACTOR", named)
    with pytest.raises(UserError, match=f"DATASETS.TRAIN_REPEAT_FACTOR .*{message}"):
        build_training_loader(cfg)


def test_images_are_not_repeated_in_views_that_are_counted(toy):
    cfg = plain_config("DATASETS.TRAIN", (toy["half"],), "INPUT.VIEWS", 2,
                       "DATASETS.TRAIN_REPEAT_FACTOR", [[toy["half"], 2.0]])  # fmt: skip
    with pytest.raises(UserError, match=r"VIEWS is 2.*TRAIN_REPEAT_FACTOR"):
        build_training_loader(cfg)


def test_landscape_and_portrait_images_are_told_apart_by_the_dicts():
    dicts = [{"width": 4 + i % 2, "height": 4.5} for i in range(10)]
    options = {"total_batch_size": 2, "seed": 0}
    assert build_train_loader(dicts, dict, **options).sampler.groups == [0, 1] * 5
    assert build_train_loader(dicts, dict, group_by_aspect=False, **options).sampler.groups is None
    assert build_train_loader([{}], dict, **options).sampler.groups is None


def test_copies_are_augmented_independently_and_enlarge_the_batch(toy):
    single = first_batches(loader_of([toy["half"]]), 2)
    double = first_batches(loader_of([toy["half"]], copies=2), 2)
    for one, two in zip(single, double, strict=True):
        assert len(two) == 2 * len(one)
        assert [x["image_id"] for x in two[::2]] == [x["image_id"] for x in two[1::2]]
        # The first copy is the one of a run without copies.
        assert signature([two[::2]]) == signature([one])
        assert signature([two[1::2]]) != signature([one])


def test_all_images_of_a_batch_have_its_size(toy):
    sizes = [64, 96, 64, 32]
    batches = first_batches(loader_of([toy["half"]], batch_sizes=sizes.__getitem__, copies=2))
    for size, batch in zip(sizes, batches, strict=True):
        assert {tuple(x["image"].shape) for x in batch} == {(3, size, size)}


def test_images_annotated_as_empty_are_dropped_and_unlabelled_ones_never():
    box = {"bbox": [0, 0, 1, 1], "category_id": 0, "iscrowd": 0}
    dicts = [
        {"image_id": 0, "annotations": [box]},
        {"image_id": 1, "annotations": []},
        {"image_id": 2, "annotations": [{**box, "iscrowd": 1}]},
        {"image_id": 3},
    ]
    DatasetCatalog.register("mixed", lambda: dicts)
    MetadataCatalog.get("mixed").thing_classes = ["a"]
    kept = {f: [d["image_id"] for d in load_training_dicts(["mixed"], f)] for f in (True, False)}
    assert kept == {True: [0, 3], False: [0, 1, 2, 3]}


@pytest.mark.parametrize("masks", [False, True])
def test_a_training_holds_polygons_for_a_model_with_masks_alone(masks):
    entry = {"bbox": [0, 0, 4, 4], "bbox_mode": 0, "category_id": 0, "segmentation": [[0.0] * 6]}
    DatasetCatalog.register("outlined", lambda: [{"image_id": 1, "annotations": [entry]}])
    MetadataCatalog.get("outlined").thing_classes = ["a"]
    cfg = config("DATASETS.TRAIN", ("outlined",), "MODEL.MASK_ON", masks, "SEED", 1)
    (held,) = build_training_loader(cfg).dataset.dicts
    assert ("segmentation" in held["annotations"][0]) is masks


def test_wrong_data_sets_are_named(toy):
    with pytest.raises(ValueError, match=r"'small_hafl', which is not registered.*small_half"):
        load_training_dicts(["small_hafl"], True)
    DatasetCatalog.register("other", lambda: [{}])
    MetadataCatalog.get("other").thing_classes = ["something else"]
    with pytest.raises(ValueError, match="'other' has the classes"):
        load_training_dicts([toy["half"], "other"], True)
    with pytest.raises(ValueError, match=r"'smal_half', which is not registered.*small_half"):
        load_training_dicts(["smal_half"], True)

    def found_by_loading():
        MetadataCatalog.get("lazy").thing_classes = ["something else"]
        return [{}]

    DatasetCatalog.register("lazy", found_by_loading)
    with pytest.raises(ValueError, match="'lazy' has the classes"):
        load_training_dicts([toy["half"], "lazy"], True)
    DatasetCatalog.register("nothing", list)
    with pytest.raises(ValueError, match="no image to train on"):
        load_training_dicts(["nothing"], True)


@pytest.mark.parametrize(
    ("key", "sizes"),
    [
        ("SOLVER.IMS_PER_BATCH", {"total_batch_size": 0}),
        ("SOLVER.IMS_PER_BATCH", {"total_batch_size": -2}),
        ("INPUT.COPIES", {"total_batch_size": 2, "copies": 0}),
    ],
)
def test_a_batch_of_nothing_is_an_error(key, sizes):
    # The sampler would look for the end of its first batch for ever.
    with pytest.raises(ValueError, match=f"{key} is .*must be 1 or more"):
        build_train_loader([{}], lambda d: d, seed=0, **sizes)


def test_a_batch_must_divide_among_the_processes(monkeypatch):
    monkeypatch.setattr("multas.data.loader.comm.get_world_size", lambda: 3)
    with pytest.raises(ValueError, match=r"IMS_PER_BATCH is 4.*multiple of 3"):
        build_train_loader([{}], dict, total_batch_size=4, seed=0)


def test_withheld_annotations_are_never_opened(toy_card, small_toy, tmp_path):
    root = tmp_path / "toy"
    shutil.copytree(small_toy, root)
    names = register({**toy_card, "root": str(root)})
    expected = signature(first_batches(loader_of([names["half_unlabeled"]])))
    labelled = first_batches(loader_of([names["half"]]), 1)
    assert all("instances" in x for x in labelled[0])
    for folder in ("Annotations", "SegmentationClass"):
        for file in (root / folder).iterdir():
            os.remove(file)
    for name in list(names.values()):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    # Another process, after the files are gone: the same batches, and nothing annotated.
    names = register({**toy_card, "root": str(root)})
    batches = first_batches(loader_of([names["half_unlabeled"]]))
    assert signature(batches) == expected
    assert not any({"instances", "sem_seg", "label"} & x.keys() for b in batches for x in b)
    with pytest.raises(Exception, match=r"(?i)annotation|xml"):
        load_training_dicts([names["half"]], True)


def test_test_images_are_stretched_as_training_images_are(toy):
    batch = next(iter(build_test_loader(config("DATALOADER.NUM_WORKERS", 0), toy["test"])))
    assert batch[0]["image"].shape == (3, 64, 64)
    assert (batch[0]["height"], batch[0]["width"]) != (64, 64)
    assert "instances" not in batch[0]


def test_the_random_numbers_of_a_sample_belong_to_its_position():
    draws = SeededDataset([{}], lambda _: np.random.uniform(), seed=1)
    first = draws[Index(5, 0)]
    assert draws[Index(5, 0, batch=3)] == first
    assert len({first, draws[Index(6, 0)], draws[Index(5, 0, copy=1)]}) == 3


def test_random_augmentations_differ_between_samples():
    flip = T.RandomFlip()
    blank = np.zeros((2, 2, 3), np.uint8)
    dataset = SeededDataset([{}], lambda _: type(flip.get_transform(blank)), seed=0)
    assert len({dataset[Index(i, 0)] for i in range(20)}) == 2
