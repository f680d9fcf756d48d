"""Classification data: class folders, lists of labels, CIFAR, the crops of both recipes, and the
embedded set of cut-out objects."""

import pickle

import numpy as np
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

import make_dataset
from multas.data import (
    DatasetError,
    MultasMapper,
    build_test_loader,
    check_toy,
    make_toy_classes,
    register_card,
)
from multas.data.dataset_dicts import load_training_dicts
from multas.data.toy.scene import CLASSES
from multas.data.transforms.augmentation import build_augmentations
from multas.data.transforms.crops import CenterCrop, RandomAreaCrop, ShiftedCrop
from plain_config import plain_config


def paint(file, colour=0, size=(12, 10)):
    """An image of one colour, (width, height) pixels."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, colour, colour)).save(file)
    return file


def labels(name: str) -> dict[str, int | None]:
    return {record["image_id"]: record.get("label") for record in DatasetCatalog.get(name)}


# Class folders


@pytest.fixture
def animals(tmp_path):
    """Three classes in `train`, the images of one in a sub-folder; two of them in `val`."""
    for number, name in enumerate(("cat", "dog/images", "emu")):
        paint(tmp_path / "train" / name / "a.png", number)
        paint(tmp_path / "train" / name / "b.JPEG", number)
    for name in ("cat", "emu"):
        paint(tmp_path / "val" / name / "c.jpg")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    return tmp_path


def card(root, **keys) -> dict:
    content = {"name": "animals", "format": "folders", "root": str(root)}
    return {**content, "splits": {"train": "train", "val": "val"}, **keys}


def test_folders_are_the_classes_the_same_for_all_splits(animals):
    (animals / "val" / "dog").mkdir()
    assert register_card(card(animals)) == [
        "animals_train", "animals_train_unlabeled", "animals_val", "animals_val_unlabeled",
    ]  # fmt: skip
    assert labels("animals_train") == {
        "cat/a": 0, "cat/b": 0, "dog/images/a": 1, "dog/images/b": 1, "emu/a": 2, "emu/b": 2,
    }  # fmt: skip
    assert labels("animals_val") == {"cat/c": 0, "emu/c": 2}
    for name in ("animals_train", "animals_val"):
        assert MetadataCatalog.get(name).label_classes == ["cat", "dog", "emu"]
        assert MetadataCatalog.get(name).evaluator_type == "classification"


def test_a_card_orders_and_chooses_classes(animals):
    register_card(card(animals, classes=["emu", "cat"]))
    assert MetadataCatalog.get("animals_train").label_classes == ["emu", "cat"]
    assert labels("animals_train") == {"cat/a": 1, "cat/b": 1, "emu/a": 0, "emu/b": 0}


def test_a_class_without_folder_is_a_fault(animals):
    register_card(card(animals, classes=["cat", "dgo"], strictness="stop"))
    with pytest.raises(DatasetError, match=r"train/dgo: no such folder"):
        DatasetCatalog.get("animals_train")


def test_without_class_folders_the_cure_is_named(tmp_path):
    (tmp_path / "train").mkdir()
    register_card(card(tmp_path, splits={"train": "train"}))
    with pytest.raises(DatasetError, match=r"no class folders in .*train; correct the folders"):
        DatasetCatalog.get("animals_train")


def test_a_list_chooses_images_and_unlabelled_ones_have_no_label(animals):
    (animals / "few.txt").write_text("emu/b\ncat/a\n")
    register_card(card(animals, splits={"few": {"images": "train", "ids": "few"}}))
    assert list(labels("animals_few").items()) == [("emu/b", 2), ("cat/a", 0)]
    assert labels("animals_few_unlabeled") == {"emu/b": None, "cat/a": None}
    assert MetadataCatalog.get("animals_few_unlabeled").get("evaluator_type") is None
    (animals / "few.txt").write_text("emu/z\n")
    with pytest.raises(DatasetError, match="emu/z: no image of this id"):
        DatasetCatalog.get("animals_few")


def test_labels_in_a_list_as_in_tiny_imagenet(repository, tmp_path):
    content = yaml.safe_load((repository / "datasets/cards/imagenet200.yaml").read_text())
    for wnid in ("n02", "n01"):
        paint(tmp_path / "train" / wnid / "images" / f"{wnid}_0.JPEG")
    for number in range(3):
        paint(tmp_path / "val" / "images" / f"val_{number}.JPEG")
    listed = tmp_path / "val" / "val_annotations.txt"
    listed.write_text("val_2.JPEG\tn02\t0\t32\t44\t62\nval_0.JPEG\tn01\t1\t1\t5\t5\n")
    register_card({**content, "name": "tiny200", "root": str(tmp_path)})
    assert labels("tiny200_train") == {"n01/images/n01_0": 0, "n02/images/n02_0": 1}
    assert labels("tiny200_val") == {"val_2": 1, "val_0": 0}
    listed.unlink()  # of no use to unlabelled images
    assert labels("tiny200_val_unlabeled") == dict.fromkeys(["val_0", "val_1", "val_2"])
    with pytest.raises(DatasetError, match=r"val_annotations.txt: not a readable list of labels"):
        DatasetCatalog.get("tiny200_val")
    listed.write_text("val_0.JPEG n01\n")
    splits = {**content["splits"], "val": {**content["splits"]["val"], "part": "val"}}
    register_card({**content, "name": "parted", "root": str(tmp_path), "splits": splits})
    with pytest.raises(DatasetError, match=r"val_annotations.txt: .*`part` is that of a CSV file"):
        DatasetCatalog.get("parted_val")
    listed.write_text("val_0.JPEG n03\nval_9.JPEG n01\nval_1.JPEG\n")
    with pytest.raises(DatasetError) as caught:
        DatasetCatalog.get("tiny200_val")
    for line in ("line 1: unknown class 'n03'", "line 2: no image val_9", "line 3: unknown class"):
        assert line in str(caught.value)


# CIFAR


def make_cifar(folder, dataset, monkeypatch, per_file: int = 4):
    """Writes a few images in CIFAR's own layout, and makes torchvision content with it."""
    key = "labels" if dataset is CIFAR10 else "fine_labels"
    generator = np.random.default_rng(0)
    folder.mkdir()
    for name, _ in [*dataset.train_list, *dataset.test_list]:
        pixels = generator.integers(0, 256, (per_file, 3072), dtype=np.uint8)
        content = {"data": pixels, key: [3, 0, 2, 1][:per_file]}
        (folder / name).write_bytes(pickle.dumps(content))
    names = {dataset.meta["key"]: ["ant", "bee", "cow", "doe"]}
    (folder / dataset.meta["filename"]).write_bytes(pickle.dumps(names))
    for files in ("train_list", "test_list"):
        unchecked = [[name, None] for name, _ in getattr(dataset, files)]
        monkeypatch.setattr(dataset, files, unchecked)
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": None})
    return folder


@pytest.mark.parametrize(("dataset", "files"), [(CIFAR10, 5), (CIFAR100, 1)])
def test_cifar_gives_labels_and_pixels(repository, tmp_path, monkeypatch, dataset, files):
    name = dataset.__name__.lower()
    content = yaml.safe_load((repository / f"datasets/cards/{name}.yaml").read_text())
    root = make_cifar(tmp_path / content["root"], dataset, monkeypatch)
    name = f"tiny{name}"
    register_card({**content, "name": name, "root": str(root)})
    records = load_training_dicts([f"{name}_train"], filter_empty=True)
    assert [record["label"] for record in records] == [3, 0, 2, 1] * files
    assert [record["image_id"] for record in records[:2]] == ["train/00000", "train/00001"]
    assert MetadataCatalog.get(f"{name}_test").evaluator_type == "classification"
    assert list(labels(f"{name}_test").values()) == [3, 0, 2, 1]
    assert list(labels(f"{name}_test_unlabeled").values()) == [None] * 4
    assert MetadataCatalog.get(f"{name}_test").label_classes == ["ant", "bee", "cow", "doe"]
    rows = pickle.loads((root / dataset.train_list[0][0]).read_bytes())["data"]
    expected = torch.from_numpy(rows[1].reshape(3, 32, 32))
    opts = ["INPUT.MIN_SIZE_TRAIN", [32], "INPUT.RANDOM_FLIP", "none"]
    sample = MultasMapper(plain_config(*opts, "INPUT.FORMAT", "RGB"), is_train=True)(records[1])
    assert torch.equal(sample["image"], expected)
    assert sample["label"] == 0 and "pixels" not in sample
    sample = MultasMapper(plain_config(*opts, "INPUT.FORMAT", "BGR"), is_train=True)(records[1])
    assert torch.equal(sample["image"], expected.flip(0))
    assert "pixels" in records[1], "the mapper must not change the data set"


def test_labels_and_pixels_reach_a_model_in_test(tmp_path, monkeypatch):
    root = make_cifar(tmp_path / "cifar-10-batches-py", CIFAR10, monkeypatch)
    register_card(
        {"name": "c", "format": "cifar10", "root": str(root), "splits": {"t": {"part": "test"}}}
    )
    opts = ["INPUT.MIN_SIZE_TEST", 32, "DATALOADER.NUM_WORKERS", 0]
    batches = list(build_test_loader(plain_config(*opts), "c_t"))
    assert [x["label"] for batch in batches for x in batch] == [3, 0, 2, 1]
    assert all(batch[0]["image"].shape == (3, 32, 32) for batch in batches)


def test_cifars_errors_say_where_its_files_must_lie(tmp_path, monkeypatch):
    content = {"name": "c", "format": "cifar100", "splits": {"train": "train"}}
    register_card({**content, "root": str(tmp_path / "cifar-100-python")})
    with pytest.raises(DatasetError, match=r"is not a folder, tried .*DETECTRON2_DATASETS"):
        DatasetCatalog.get("c_train")
    (tmp_path / "cifar-100-python").mkdir()
    with pytest.raises(DatasetError, match=r"lacks files of cifar100.*unpack https://\S+tar.gz"):
        DatasetCatalog.get("c_train")
    register_card({**content, "name": "d", "root": str(tmp_path)})
    with pytest.raises(DatasetError, match="is not named cifar-100-python: unpack"):
        DatasetCatalog.get("d_train")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"format": "cifar10", "splits": {"val": "val"}}, "'val': format cifar10 has the splits"),
        ({"format": "cifar10", "classes": ["a"]}, "the files of cifar10 name its classes"),
        ({"format": "folders", "suffix": "_x"}, "format folders has no use for `suffix`"),
        ({"format": "masks", "classes": ["a"], "masks": "m", "labels": "l"}, "use for `labels`"),
        ({"format": "folders", "annotates": "det"}, r"folders can give \['cls'\]"),
    ],
)
def test_contradictory_cards(keys, message):
    content = {"name": "c", "root": ".", "splits": {"train": "train"}, **keys}
    with pytest.raises(DatasetError, match=message):
        register_card(content)


# Augmentation


def test_a_shifted_crop_shows_the_image_moved_on_black():
    image = np.random.default_rng(0).integers(1, 256, (32, 24, 3), dtype=np.uint8)
    seen = set()
    for _ in range(300):
        transform = ShiftedCrop(4).get_transform(image)
        seen.add((transform.x0, transform.y0))
        moved = transform.apply_image(image)
        border = np.pad(image, ((4, 4), (4, 4), (0, 0)))
        y, x = transform.y0 + 4, transform.x0 + 4
        np.testing.assert_array_equal(moved, border[y : y + 32, x : x + 24])
    assert {x for x, _ in seen} == {y for _, y in seen} == set(range(-4, 5))


def test_a_random_crop_has_the_area_and_the_ratio_of_its_recipe():
    image = np.zeros((60, 90, 3), np.uint8)
    shapes = [RandomAreaCrop().get_transform(image).apply_image(image).shape for _ in range(400)]
    areas = np.array([height * width / image[..., 0].size for height, width, _ in shapes])
    ratios = np.array([width / height for height, width, _ in shapes])
    assert 0.07 < areas.min() < 0.15 and 0.8 < areas.max() <= 1
    assert 0.7 < ratios.min() < 0.8 and 1.25 < ratios.max() < 1.4


def test_the_centre_and_less_where_the_image_is_smaller():
    image = np.arange(35).reshape(5, 7)
    crop = CenterCrop(3).get_transform(image).apply_image(image)
    np.testing.assert_array_equal(crop, image[1:4, 2:5])
    assert CenterCrop(6).get_transform(image).apply_image(image).shape == (5, 6)


def test_the_two_recipes_end_at_the_size_of_the_network(tmp_path):
    record = {"file_name": str(paint(tmp_path / "a.png", 9, size=(50, 40))), "label": 1}
    imagenet = plain_config(
        "INPUT.AUGMENTATION", "resized_crop", "INPUT.MIN_SIZE_TRAIN", [24],
        "INPUT.MIN_SIZE_TEST", 28, "INPUT.CENTER_CROP_TEST", 24,
    )  # fmt: skip
    for is_train in (True, False):
        sample = MultasMapper(imagenet, is_train=is_train)(record)
        assert sample["image"].shape == (3, 24, 24)
        assert sample["image"].unique().tolist() == [9]
        assert sample["label"] == 1
    cifar = plain_config("INPUT.AUGMENTATION", "padded_crop", "INPUT.MIN_SIZE_TRAIN", [40])
    assert MultasMapper(cifar, is_train=True)(record)["image"].shape == (3, 40, 50)
    names = [type(x).__name__ for x in build_augmentations(cifar, is_train=True)]
    assert names == ["ShiftedCrop", "RandomFlip", "ResizeShortestEdge"]
    cifar.MODEL.SEMANTIC_FPN_HEAD.IGNORE_VALUE = 7
    shift = build_augmentations(cifar, is_train=True)[0]
    mask = np.ones((32, 24), np.uint8)
    seen = {
        value
        for _ in range(20)
        for value in np.unique(shift.get_transform(mask).apply_segmentation(mask))
    }
    assert seen == {1, 7}, "what lies outside of a mask is not annotated"


# The embedded set

SIZES = {"train": 10, "val": 3, "test": 4}


def contents(root):
    files = sorted(file for file in root.rglob("*") if file.is_file())
    return {str(file.relative_to(root)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def small_classes(tmp_path_factory):
    return make_toy_classes(tmp_path_factory.mktemp("classes") / "toy_classes", **SIZES)


def test_the_embedded_set_is_the_same_each_time_and_repaired(small_classes, tmp_path, capsys):
    root = tmp_path / "again"
    arguments = ["--classes", "--root", str(root), "--train", "10", "--val", "3", "--test", "4"]
    assert make_dataset.main([*arguments, "--check"]) == 1
    make_toy_classes(root, train=12, val=3, test=4)
    assert make_dataset.main(arguments) == 0
    assert make_dataset.main([*arguments, "--check"]) == 0
    assert contents(root) == contents(small_classes)
    damaged = sorted(root.rglob("*.png"))[3]
    damaged.write_bytes(b"")
    assert check_toy(root) == [damaged.relative_to(root).as_posix()]
    make_toy_classes(root, **SIZES)
    assert contents(root) == contents(small_classes)


def test_the_embedded_set_is_registered_by_its_card(repository, small_classes):
    content = yaml.safe_load((repository / "datasets/cards/toy_classes.yaml").read_text())
    # Of so few scenes not every class is in every part.
    tiny = {"name": "tinyobjects", "root": str(small_classes), "strictness": "skip"}
    register_card({**content, **tiny})
    assert tuple(MetadataCatalog.get("tinyobjects_train").label_classes) == CLASSES
    scenes: dict[str, set[str]] = {}
    for part in SIZES:
        records = DatasetCatalog.get(f"tinyobjects_{part}")
        assert all(CLASSES[r["label"]] == r["image_id"].split("/")[0] for r in records)
        scenes[part] = {r["image_id"].split("/")[1][:6] for r in records}
        assert Image.open(records[0]["file_name"]).size == (32, 32)
    assert not scenes["train"] & (scenes["val"] | scenes["test"])
    assert not scenes["val"] & scenes["test"]
