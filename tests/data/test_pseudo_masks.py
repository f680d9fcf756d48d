"""Folders of pseudo-masks: written where a teacher is certain, and joined to what has none."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from PIL import Image

from multas.data import MultasMapper
from multas.data.formats.masks import read_mask
from multas.data.pseudo_labels import PseudoLabels
from multas.data.pseudo_mask_files import (
    MaskHeader,
    certain_labels,
    check_mask_folder,
    read_pseudo_masks,
    writing_masks,
)
from multas.data.pseudo_masks import PseudoMasks, load_pseudo_masks
from plain_config import plain_config

CLASSES = ["background", "cat", "dog"]
HEADER = MaskHeader("pets_unlabeled", CLASSES, 0.9, 255)


def logits(certain=0.95, size=(4, 6)):
    """Rows of class 0, 1, 2 and of none: its best class has the probability 1/3."""
    share = torch.full((3, *size), (1 - certain) / 2)
    for k in range(3):
        share[k, k] = certain
    share[:, 3] = 1 / 3
    return share.log()


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "masks"
    with writing_masks(path, HEADER, ["a", "b/a", 7]) as write:
        write("a", logits())
        write("b/a", logits())
        write(7, logits(0.5))
    return str(path)


def test_pixels_below_the_threshold_are_ignored():
    mask = certain_labels(logits(), 0.9, 255)
    assert mask.dtype == np.uint8
    assert mask[:, 0].tolist() == [0, 1, 2, 255]
    assert set(certain_labels(logits(), 0.0, 255).ravel()) == {0, 1, 2}
    assert set(certain_labels(logits(), 0.96, 7).ravel()) == {7}
    with pytest.raises(ValueError, match="300 classes"):
        certain_labels(torch.zeros(300, 1, 1), 0.9, 255)


def test_a_folder_is_read_as_it_was_written(folder):
    header, files = read_pseudo_masks(folder)
    assert header == HEADER
    assert list(files) == ["a", "b/a", 7]
    assert files[7] == "", "nothing is certain: the image is not annotated"
    assert files["a"] != files["b/a"]
    assert np.array_equal(read_mask(files["a"]), certain_labels(logits(), 0.9, 255))


def test_older_masks_are_removed_and_nothing_else_is_touched(folder, tmp_path):
    with writing_masks(folder, HEADER, ["c"]) as write:
        write("c", logits())
    assert list(read_pseudo_masks(folder)[1]) == ["c"]
    assert len(list((tmp_path / "masks").glob("*.png"))) == 1
    own = tmp_path / "own"
    own.mkdir()
    check_mask_folder(own, "--masks")
    Image.new("L", (3, 3)).save(own / "truth.png")
    with pytest.raises(ValueError, match=r"--masks '.*own' has files that are no pseudo-masks"):
        check_mask_folder(own, "--masks")


def test_an_interrupted_labelling_does_not_pass_for_whole(folder):
    with pytest.raises(KeyboardInterrupt), writing_masks(folder, HEADER, ["a", 7]) as write:
        write("a", logits())
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="its labelling was interrupted"):
        read_pseudo_masks(folder)


def test_before_the_first_mask_the_old_ones_stay(folder):
    message = "5 classes of pixels, but there are 3 names"
    with pytest.raises(ValueError, match=message), writing_masks(folder, HEADER, ["a"]) as write:
        write("a", torch.zeros(5, 4, 6))
    assert list(read_pseudo_masks(folder)[1]) == ["a", "b/a", 7]


def test_masks_join_images_that_have_none(folder):
    masks = load_pseudo_masks([folder], CLASSES, 255)
    labels = PseudoLabels({"a": [{"bbox": [0, 0, 1, 1]}]}, masks=masks)
    joined = labels.join({"image_id": "a"})
    assert set(joined) == {"image_id", "annotations", "sem_seg_file_name"}
    boxes_only = labels.join({"image_id": "a", "annotations": []})
    assert boxes_only["annotations"] == [] and "sem_seg_file_name" in boxes_only
    for sample in ({"image_id": 7}, {"image_id": "z"}, {},
                   {"image_id": "a", "annotations": [], "sem_seg_file_name": "x"}):  # fmt: skip
        assert labels.join(sample) == sample


@pytest.fixture
def image_file(tmp_path):
    file = tmp_path / "image.png"
    Image.new("RGB", (6, 4)).save(file)
    return str(file)


def test_the_mapper_reads_them_in_training_alone(folder, image_file):
    MetadataCatalog.get("pets").stuff_classes = CLASSES
    opts = ["DATASETS.TRAIN", ("pets",), "DATASETS.PSEUDO_LABELS.MASKS", (folder,)]
    cfg = plain_config(*opts, "INPUT.MIN_SIZE_TRAIN", (4,), "INPUT.RANDOM_FLIP", "none")
    sample = {"image_id": "a", "file_name": image_file}
    output = MultasMapper(cfg, is_train=True)(sample)
    assert output["sem_seg"].tolist() == [[0] * 6, [1] * 6, [2] * 6, [255] * 6]
    assert "instances" not in output
    assert "sem_seg" not in MultasMapper(cfg, is_train=False)(sample)


def test_names_of_classes_may_come_from_the_config(folder, image_file):
    MetadataCatalog.get("photos").thing_classes = ["cat"]
    opts = ["DATASETS.TRAIN", ("photos",), "DATASETS.PSEUDO_LABELS.MASKS", (folder,)]
    mapper = MultasMapper(plain_config(*opts, "MODEL.CLASSES.SEG", CLASSES), is_train=True)
    assert "a" in mapper.pseudo_labels.masks.files
    assert not MultasMapper(plain_config(*opts), is_train=True).pseudo_labels.masks.files


def image(image_id="a", **more):
    return {"image_id": image_id, "file_name": f"{image_id}.jpg", "width": 6, "height": 4, **more}


def test_folders_that_do_not_fit_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match=r"made for the classes .*Label again"):
        load_pseudo_masks([folder], ["background", "cat"], 255)
    with pytest.raises(ValueError, match=r"IGNORE_VALUE is 0.*Set that key to 255"):
        load_pseudo_masks([folder], CLASSES, 0)
    with pytest.raises(ValueError, match=r"labelled in .* and again"):
        load_pseudo_masks([folder, folder], CLASSES, 255)
    with pytest.raises(FileNotFoundError, match="MASKS names"):
        read_pseudo_masks(str(tmp_path / "gone"))
    with pytest.raises(ValueError, match=r"has no masks\.json"):
        read_pseudo_masks(str(tmp_path))
    masks = load_pseudo_masks([folder], CLASSES, 255)
    masks.check([image(), image("z")], ["pets_unlabeled"])
    PseudoMasks().check([image()], ["pets"])
    with pytest.raises(ValueError, match=r"labels none of the images of DATASETS\.TRAIN"):
        masks.check([image("z"), image(sem_seg_file_name="x")], ["pets"])
    with pytest.raises(ValueError, match=r"\.png: is 6x4, but the image is 9x4"):
        masks.check([image(width=9)], ["pets"])
    with pytest.raises(ValueError, match=r"the id 'a' is that of a\.jpg and of b\.jpg"):
        masks.check([image(), image(file_name="b.jpg")], ["pets"])


def _without_file(content):
    content["masks"][0]["file"] = "gone.png"


def _outside(content):
    content["masks"][0]["file"] = "../a.png"


INDICES = [
    (lambda c: c["header"].update(ignore_label=-1), "header: ignore_label is -1"),
    (lambda c: c["header"].update(version=2), "need 1, which this multas reads"),
    (lambda c: c["masks"].append(c["masks"][0]), "lists the image 'a' twice"),
    (lambda c: c["masks"].append({}), r"masks\[3\]: lacks the key"),
    (lambda c: c.update(masks={}), "masks must be a list"),
    (lambda c: c.pop("header"), "is not the index of pseudo-masks"),
    (_without_file, r"gone\.png, which masks\.json names, is gone"),
    (_outside, "not inside of"),
]


@pytest.mark.parametrize(("change", "match"), INDICES)
def test_a_broken_index_is_refused(folder, tmp_path, change, match):
    index = tmp_path / "masks" / "masks.json"
    content = json.loads(index.read_text())
    change(content)
    index.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=match):
        read_pseudo_masks(folder)
