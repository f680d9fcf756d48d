"""Colours, stretching, the reference's preprocessing, and choosing augmentations by config."""

import cv2
import numpy as np
import pytest
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from PIL import Image
from pycocotools import mask as mask_util

from multas.data import AUGMENTATION_REGISTRY, MultasMapper
from multas.data.transforms.augmentation import (
    PhotometricDistortion,
    ResizeToSquare,
    build_augmentations,
    distort_colours,
)
from multas.data.transforms.crops import CropOrExpand, CropOrPadTransform
from plain_config import plain_config


def noise(height=20, width=30):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("name", "tolerance"), [("a", 0.02), ("same", 1e-5)])
def test_test_images_are_the_references(repository, tmp_path, name, tolerance):
    case = np.load(repository / "tests" / "golden" / "multas" / f"preproc_test_{name}.npz")
    file = str(tmp_path / "image.png")
    cv2.imwrite(file, case["in_image_bgr"])
    cfg = plain_config("INPUT.FORMAT", "RGB", "INPUT.SQUARE_SIZE", int(case["in_size"]))
    output = MultasMapper(cfg, is_train=False)({"file_name": file})["image"].numpy()
    # PIXEL_MEAN and PIXEL_STD of the models are these times 255, in the order of INPUT.FORMAT.
    mean = np.array([0.485, 0.456, 0.406]).reshape(3, 1, 1)
    std = np.array([0.229, 0.224, 0.225]).reshape(3, 1, 1)
    np.testing.assert_allclose((output / 255 - mean) / std, case["out_image"], atol=tolerance)


def test_stretch_moves_pixels_masks_and_boxes_together():
    data = T.AugInput(
        np.zeros((20, 40, 3), np.uint8), boxes=np.array([[4.0, 5, 20, 15]]),
        sem_seg=np.zeros((20, 40), np.uint8),
    )  # fmt: skip
    data.sem_seg[5:15, 4:20] = 7
    ResizeToSquare(80)(data)
    assert data.image.shape == (80, 80, 3)
    assert data.boxes.tolist() == [[8, 20, 40, 60]]
    assert (data.sem_seg[20:60, 8:40] == 7).all()
    assert (data.sem_seg == 7).sum() == 40 * 32


def test_stretch_keeps_the_channels_of_a_gray_image():
    transform = ResizeToSquare(5).get_transform(np.zeros((8, 9, 1), np.uint8))
    assert transform.apply_image(np.zeros((8, 9, 1), np.uint8)).shape == (5, 5, 1)
    coords = np.array([[3.0, 4.0]])
    back = transform.inverse().apply_coords(transform.apply_coords(coords))
    np.testing.assert_allclose(back, coords)


@pytest.mark.parametrize("image_format", ["BGR", "RGB"])
def test_brightness_and_contrast_are_clipped_after_each_step(image_format):
    rgb = image_format == "RGB"
    values = noise().astype(float)
    expected = np.clip(np.rint(np.clip(values + 32, 0, 255) * 1.5), 0, 255)
    assert (distort_colours(noise(), rgb=rgb, brightness=32, contrast=1.5) == expected).all()


def test_hue_and_saturation_follow_the_channel_order():
    bgr, rgb = noise(), noise()[:, :, ::-1].copy()
    changed = distort_colours(bgr, rgb=False, hue=15, saturation=0.6)
    turned = distort_colours(rgb, rgb=True, hue=15, saturation=0.6)[:, :, ::-1]
    assert (changed == turned).all()
    hsv = cv2.cvtColor(bgr, cv2.COLOR_BGR2HSV).astype(int)
    hsv[..., 0] = (hsv[..., 0] + 15) % 180
    hsv[..., 1] = np.rint(hsv[..., 1] * 0.6)
    expected = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2BGR)
    assert (changed == expected).all()


def test_colours_leave_masks_and_boxes_alone():
    mask = noise()[..., 0]
    data = T.AugInput(noise(), boxes=np.array([[1.0, 2, 3, 4]]), sem_seg=mask.copy())
    T.AugmentationList([PhotometricDistortion("BGR")] * 5)(data)
    assert (data.image != noise()).any()
    assert (data.sem_seg == mask).all()
    assert data.boxes.tolist() == [[1, 2, 3, 4]]


def test_distortions_have_the_ranges_of_the_recipe():
    aug = PhotometricDistortion("BGR")
    drawn = [aug.get_transform(noise()).op.keywords for _ in range(1000)]
    neutral = {"brightness": 0, "contrast": 1, "hue": 0, "saturation": 1}
    ranges = {"brightness": (-32, 32), "contrast": (0.5, 1.5), "hue": (-18, 18),
              "saturation": (0.5, 1.5)}  # fmt: skip
    for name, (low, high) in ranges.items():
        values = np.array([changes.get(name, neutral[name]) for changes in drawn])
        assert 0.43 < (values != neutral[name]).mean() < 0.57, name
        assert low <= values.min() < low + (high - low) / 20, name
        assert high - (high - low) / 20 < values.max() <= high, name
    assert any(changes.get("hue") == 18 for changes in drawn)
    with pytest.raises(ValueError, match=r"INPUT\.FORMAT is 'L'"):
        PhotometricDistortion("L")


def kinds(cfg, is_train=True):
    return [type(a) for a in build_augmentations(cfg, is_train)]


def test_by_default_the_augmentations_are_detectron2s():
    cfg = plain_config()
    for is_train in (True, False):
        assert kinds(cfg, is_train) == [type(a) for a in utils.build_augmentation(cfg, is_train)]
    cfg.INPUT.CROP.ENABLED = True
    assert kinds(cfg) == [T.RandomCrop, T.ResizeShortestEdge, T.RandomFlip]


SCALED = [
    "INPUT.MIN_SIZE_TRAIN", [32, 128], "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range",
    "INPUT.MAX_SIZE_TRAIN", 256, "INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute",
    "INPUT.CROP.SIZE", [32, 64], "INPUT.CROP.AFTER_RESIZE", True,
]  # fmt: skip


def test_scaled_images_are_cropped_with_their_masks():
    cfg = plain_config(*SCALED)
    assert kinds(cfg) == [T.ResizeShortestEdge, T.RandomCrop, T.RandomFlip]
    assert kinds(cfg, is_train=False) == [T.ResizeShortestEdge]
    augmentations = T.AugmentationList(build_augmentations(cfg, is_train=True))
    rows = np.arange(64, dtype=np.uint8)[:, None].repeat(128, 1)
    spans = []
    for _ in range(60):
        data = T.AugInput(rows[..., None].repeat(3, 2), sem_seg=rows)
        augmentations(data)
        assert data.image.shape == (32, 64, 3) and data.sem_seg.shape == (32, 64)
        assert np.abs(data.image[..., 0].astype(int) - data.sem_seg).max() <= 1
        spans.append(int(data.sem_seg[-1, 0]) - int(data.sem_seg[0, 0]))
    # 32 rows of an image of 64 rows, scaled by 0.5 to 2, show 64 to 16 of them.
    assert 14 <= min(spans) < 20 and 50 < max(spans) <= 64


def test_crops_of_one_class_are_avoided():
    ignored = ["MODEL.SEMANTIC_FPN_HEAD.IGNORE_VALUE", 7]
    cfg = plain_config(*SCALED, *ignored, "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", 0.75)
    (_, crop, _) = build_augmentations(cfg, is_train=True)
    mask = np.zeros((64, 128), np.uint8)
    mask[:, 60:] = 1
    mask[:20] = 7
    image = np.zeros((64, 128, 3), np.uint8)
    shares = []
    for _ in range(40):
        cut = crop.get_transform(image, mask).apply_segmentation(mask)
        known = cut[cut != 7]
        shares.append(max(np.mean(known == 0), np.mean(known == 1)))
    assert np.mean(np.array(shares) < 0.75) > 0.9
    # Nothing is known of an image without a mask.
    assert crop.get_transform(image, None).w == 64


def test_a_crop_of_what_is_stretched_last_is_refused():
    with pytest.raises(ValueError, match=r"CROP\.AFTER_RESIZE crops .*SQUARE_SIZE 320"):
        build_augmentations(plain_config(*SCALED, "INPUT.SQUARE_SIZE", 320), is_train=True)


def test_the_recipe_is_a_key_and_ends_with_one_resize():
    cfg = plain_config("INPUT.AUGMENTATION", "single_shot")
    recipe = [PhotometricDistortion, CropOrExpand, T.RandomFlip]
    assert kinds(cfg) == [*recipe, T.ResizeShortestEdge]
    assert kinds(cfg, is_train=False) == [T.ResizeShortestEdge]
    cfg.INPUT.SQUARE_SIZE = 320
    # The mapper adds the last ResizeToSquare, whose size may change from batch to batch.
    assert kinds(cfg) == [ResizeToSquare, *recipe]
    assert kinds(cfg, is_train=False) == []
    cfg.INPUT.RANDOM_FLIP = "none"
    assert kinds(cfg) == [ResizeToSquare, *recipe[:-1]]


def test_users_register_their_own(monkeypatch):
    def upside_down(cfg):
        return [T.RandomFlip(1.0, horizontal=False, vertical=True)]

    with monkeypatch.context() as patch:
        patch.setitem(AUGMENTATION_REGISTRY._obj_map, "upside_down", upside_down)
        assert kinds(plain_config("INPUT.AUGMENTATION", "upside_down"))[0] is T.RandomFlip
    with pytest.raises(ValueError, match=r"'upside_down'; choose from .*'single_shot'"):
        kinds(plain_config("INPUT.AUGMENTATION", "upside_down"))


def test_what_is_outside_of_an_image_is_in_no_mask_of_an_object(tmp_path):
    # In a mask of classes the same pixels are not annotated.
    file = str(tmp_path / "white.png")
    Image.fromarray(np.full((40, 60, 3), 255, np.uint8)).save(file)
    whole = mask_util.encode(np.ones((40, 60), np.uint8, order="F"))
    box = {"bbox": [0, 0, 60, 40], "bbox_mode": 0, "category_id": 0, "segmentation": whole}
    crop = CropOrPadTransform(-10, -5, 80, 50)
    mapper = MultasMapper(
        is_train=True, augmentations=[crop], image_format="BGR", use_instance_mask=True,
        instance_mask_format="bitmask",
    )  # fmt: skip
    mask = mapper({"file_name": file, "annotations": [box]})["instances"].gt_masks.tensor[0]
    assert mask[5:45, 10:70].all()
    assert mask.sum() == 60 * 40
    assert crop.apply_segmentation(np.zeros((40, 60), np.uint8))[0, 0] == 255


def test_augmented_boxes_stay_on_their_objects(tmp_path):
    # A white square on black: its box and its pixels must agree after every augmentation.
    picture = np.zeros((120, 160, 3), np.uint8)
    picture[40:90, 60:110] = 255
    file = str(tmp_path / "square.png")
    Image.fromarray(picture).save(file)
    box = {"bbox": [60, 40, 110, 90], "bbox_mode": 0, "category_id": 0}
    cfg = plain_config("INPUT.AUGMENTATION", "single_shot", "INPUT.SQUARE_SIZE", 128)
    mapper = MultasMapper(cfg, is_train=True)
    seen = 0
    for seed in range(40):
        np.random.seed(seed)
        output = mapper({"file_name": file, "annotations": [box]})
        assert len(output["instances"]) == 1
        x0, y0, x1, y1 = output["instances"].gt_boxes.tensor[0].round().int().tolist()
        # The background stays below 49 and the fill is 114, whatever the colours.
        bright = (output["image"].numpy().max(0) > 116).nonzero()
        if len(bright[0]) == 0:
            continue  # white was darkened to less than the fill
        extent = (bright[1].min(), bright[0].min(), bright[1].max() + 1, bright[0].max() + 1)
        assert np.abs(np.subtract(extent, (x0, y0, x1, y1))).max() <= 2, seed
        seen += 1
    assert seen > 30
