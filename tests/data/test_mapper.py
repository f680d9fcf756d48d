"""From a dataset dict to a model input: what is not annotated stays different from empty."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import transform_instance_annotations
from detectron2.structures import BoxMode
from PIL import Image

from multas.data import MultasMapper
from multas.data.formats.mask_files import voc_palette
from multas.data.pseudo_labels import PseudoLabels
from plain_config import plain_config

BOX = {"bbox": [10.0, 5.0, 30.0, 25.0], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 2}


@pytest.fixture
def image_file(tmp_path):
    """A 60 x 40 image of noise."""
    pixels = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    file = tmp_path / "image.png"
    Image.fromarray(pixels).save(file)
    return str(file)


@pytest.fixture
def mask_file(tmp_path):
    """Its mask with VOC's palette: classes 0, 5, 20 and 255 (unlabelled)."""
    mask = np.zeros((40, 60), np.uint8)
    mask[:10], mask[10:20], mask[:, 50:] = 5, 20, 255
    picture = Image.fromarray(mask, mode="P")
    picture.putpalette(voc_palette())
    file = tmp_path / "mask.png"
    picture.save(file)
    return str(file)


def mapper(*augmentations, is_train=True, **options):
    return MultasMapper(
        is_train=is_train, augmentations=augmentations, image_format="BGR", **options
    )


def test_a_missing_annotation_gives_no_key(image_file):
    output = mapper()({"file_name": image_file, "image_id": "a"})
    assert not {"instances", "sem_seg", "label", "annotations"} & output.keys()
    assert output["image"].shape == (3, 40, 60)
    assert output["image"].dtype == torch.uint8


def test_an_empty_annotation_gives_empty_instances(image_file):
    instances = mapper()({"file_name": image_file, "annotations": []})["instances"]
    assert len(instances) == 0
    assert instances.gt_boxes.tensor.shape == (0, 4)
    assert instances.gt_classes.dtype == torch.int64
    assert instances.gt_scores.shape == instances.gt_pseudo.shape == (0,)
    assert instances.gt_pseudo.dtype == torch.bool


def test_every_annotation_is_taken_by_itself(image_file, mask_file):
    with_mask = mapper()({"file_name": image_file, "sem_seg_file_name": mask_file})
    assert {"sem_seg", "image"} <= with_mask.keys()
    assert "instances" not in with_mask
    labelled = mapper()({"file_name": image_file, "label": 4})
    assert labelled["label"] == 4
    assert not {"instances", "sem_seg"} & labelled.keys()


def test_for_testing_no_annotation_is_opened(image_file):
    sample = {"file_name": image_file, "annotations": [BOX], "sem_seg_file_name": "missing.png"}
    output = mapper(is_train=False)(sample)
    assert output.keys() == {"file_name", "image", "height", "width"}


def test_palette_masks_keep_their_class_indices(image_file, mask_file):
    flip = T.RandomFlip(1.0)
    sem_seg = mapper(flip)({"file_name": image_file, "sem_seg_file_name": mask_file})["sem_seg"]
    assert sem_seg.dtype == torch.int64
    assert sem_seg.unique().tolist() == [0, 5, 20, 255]
    assert (sem_seg[:, :10] == 255).all()
    assert (sem_seg[:10, 10:] == 5).all()


def test_boxes_follow_the_augmentations_and_crowds_are_left_out(image_file):
    crowd = {**BOX, "iscrowd": 1}
    output = mapper(T.RandomFlip(1.0), square_size=120)(
        {"file_name": image_file, "annotations": [BOX, crowd]}
    )
    instances = output["instances"]
    assert output["image"].shape == (3, 120, 120)
    assert instances.image_size == (120, 120)
    np.testing.assert_allclose(instances.gt_boxes.tensor, [[60, 15, 100, 75]])
    assert instances.gt_classes.tolist() == [2]
    assert instances.gt_scores.tolist() == [1.0]
    assert instances.gt_pseudo.tolist() == [False]


@pytest.mark.parametrize("part", [0, 0.5])
def test_boxes_are_moved_by_parts_of_a_pixel(image_file, part):
    """Those of whole numbers, too."""
    boxes = [{**BOX, "bbox": [11 + part, 5, 32, 27]},
             {**BOX, "bbox": [11 + part, 5, 21 - part, 22], "bbox_mode": 1}]  # fmt: skip
    instances = mapper(T.ResizeTransform(40, 60, 50, 75))(
        {"file_name": image_file, "annotations": boxes}
    )["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[13.75 + 1.25 * part, 6.25, 40.0, 33.75]] * 2


def test_boxes_are_those_of_detectron2_to_the_bit(image_file):
    rng = np.random.default_rng(0)
    boxes = [
        {"bbox": (20 * rng.random(4) + [0, 0, 30, 30]).tolist(), "bbox_mode": BoxMode(number % 2),
         "category_id": number, "iscrowd": number % 3 == 0}
        for number in range(12)
    ]  # fmt: skip
    move = T.TransformList([T.ResizeTransform(40, 60, 51, 77), T.CropTransform(5, 7, 60, 40)])
    instances = mapper(*move.transforms)({"file_name": image_file, "annotations": boxes})[
        "instances"
    ]
    kept = [box for box in boxes if not box["iscrowd"]]
    one_by_one = [transform_instance_annotations(dict(b), move, (40, 60))["bbox"] for b in kept]
    assert torch.equal(instances.gt_boxes.tensor, torch.tensor(np.array(one_by_one)).float())
    assert instances.gt_classes.tolist() == [box["category_id"] for box in kept]


def test_what_a_model_changes_stays_as_it_was_in_the_data(image_file):
    sample = {"file_name": image_file, "boxes_of_others": [1]}
    mapper()(sample)["boxes_of_others"].append(2)
    assert sample == {"file_name": image_file, "boxes_of_others": [1]}


def test_masks_are_kept_for_a_model_with_masks_alone(image_file):
    outline = [[10.0, 5.0, 30.0, 5.0, 30.0, 25.0]]
    sample = {"file_name": image_file, "annotations": [{**BOX, "segmentation": outline}]}
    with_masks, without = mapper(use_instance_mask=True), mapper()
    assert with_masks.trim(sample) == sample
    assert without.trim(sample) == {"file_name": image_file, "annotations": [BOX]}
    assert without.trim({"label": 1}) == {"label": 1}
    assert sample["annotations"] == [{**BOX, "segmentation": outline}]
    assert with_masks(sample)["instances"].gt_masks.polygons[0][0].tolist() == outline[0]
    assert not without(sample)["instances"].has("gt_masks")
    assert sample["annotations"] == [{**BOX, "segmentation": outline}]


def test_boxes_that_an_augmentation_removes_are_gone(image_file):
    outside = {**BOX, "bbox": [40.0, 5.0, 55.0, 25.0]}
    output = mapper(T.CropTransform(0, 0, 32, 40))(
        {"file_name": image_file, "annotations": [outside, BOX]}
    )
    assert output["instances"].gt_boxes.tensor.tolist() == [BOX["bbox"]]


def test_a_size_replaces_the_stretch(image_file):
    stretching = mapper(square_size=64)
    assert stretching({"file_name": image_file})["image"].shape[1:] == (64, 64)
    assert stretching({"file_name": image_file}, 96)["image"].shape[1:] == (96, 96)
    assert mapper()({"file_name": image_file}, 32)["image"].shape[1:] == (32, 32)


def test_the_dataset_dict_is_not_changed(image_file):
    sample = {"file_name": image_file, "annotations": [dict(BOX)]}
    mapper(T.RandomFlip(1.0))(sample)
    assert sample == {"file_name": image_file, "annotations": [BOX]}


def test_pseudo_boxes_are_marked_and_scored(image_file):
    pseudo = {**BOX, "score": 0.7, "pseudo": 1}
    labels = PseudoLabels({"a": [pseudo], "b": []})
    instances = mapper(pseudo_labels=labels)({"file_name": image_file, "image_id": "a"})[
        "instances"
    ]
    assert instances.gt_pseudo.tolist() == [True]
    assert instances.gt_scores.tolist() == pytest.approx([0.7])
    known = mapper(pseudo_labels=labels)(
        {"file_name": image_file, "image_id": "a", "annotations": [BOX, BOX]}
    )
    assert known["instances"].gt_pseudo.tolist() == [False, False]
    empty = mapper(pseudo_labels=labels)({"file_name": image_file, "image_id": "b"})
    assert len(empty["instances"]) == 0
    assert "instances" not in mapper(pseudo_labels=labels)({"file_name": image_file})


def test_an_image_of_another_size_than_declared_is_an_error(image_file):
    with pytest.raises(Exception, match=r"(?i)size"):
        mapper()({"file_name": image_file, "width": 61, "height": 40})


def test_for_testing_it_equals_detectron2s_mapper(image_file):
    cfg = plain_config()
    sample = {
        "file_name": image_file, "width": 60, "height": 40, "image_id": "a",
        "annotations": [BOX],
    }  # fmt: skip
    ours = MultasMapper(cfg, is_train=False)(sample)
    theirs = DatasetMapper(cfg, is_train=False)(sample)
    assert ours.keys() == theirs.keys()
    assert torch.equal(ours["image"], theirs["image"])


def test_for_training_boxes_equal_those_of_detectron2s_mapper(image_file):
    cfg = plain_config("INPUT.MIN_SIZE_TRAIN", (50, 70))
    sample = {"file_name": image_file, "width": 60, "height": 40, "annotations": [BOX]}
    for seed in range(4):
        np.random.seed(seed)
        ours = MultasMapper(cfg, is_train=True)(sample)
        np.random.seed(seed)
        theirs = DatasetMapper(cfg, is_train=True)(sample)
        assert torch.equal(ours["image"], theirs["image"])
        boxes = [x["instances"].gt_boxes.tensor for x in (ours, theirs)]
        torch.testing.assert_close(*boxes)
