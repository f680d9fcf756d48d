"""Samples of several images: boxes and masks stay on their pixels, and nothing is taught that no
annotation says. Every object has a colour that tells its class, on black; what no image fills is
gray."""

import itertools

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BitMasks
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from multas.data.formats.masks import MASK_VALUES
from multas.data.training import build_training_loader
from multas.data.transforms.place import PlaceTransform, clip_polygon
from plain_config import plain_config

COLOURS = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250], [250, 250, 0], [0, 250, 250]])
IGNORED = 255
SEEDS = st.integers(0, 10**6)
few = settings(max_examples=25)


def box_of(x0, y0, x1, y1, number, **keys):
    outline = [[x0, y0, x1, y0, x1, y1, x0, y1]]
    return {"bbox": [x0, y0, x1, y1], "bbox_mode": 0, "category_id": number,
            "segmentation": [[float(v) for v in outline[0]]], **keys}  # fmt: skip


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Six images of 50 to 80 pixels with up to three objects that do not touch each other."""
    folder, rng = tmp_path_factory.mktemp("scenes"), np.random.default_rng(3)
    dicts = []
    for number in range(6):
        height, width = rng.integers(50, 81, size=2)
        pixels, mask = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
        mask[:3] = IGNORED
        objects = []
        for place in range(number % 4):
            x0, x1 = np.sort(rng.choice(np.arange(2, width - 2, 9), 2, replace=False))
            y0 = 4 + place * (height // 3)
            y1, which = y0 + height // 3 - 6, rng.integers(len(COLOURS))
            pixels[y0:y1, x0:x1], mask[y0:y1, x0:x1] = COLOURS[which], which + 1
            objects.append(box_of(*(int(v) for v in (x0, y0, x1, y1, which))))
        files = [str(folder / f"{kind}{number}.png") for kind in ("image", "mask")]
        Image.fromarray(pixels).save(files[0])
        Image.fromarray(mask).save(files[1])
        dicts.append({"file_name": files[0], "image_id": number, "width": int(width),
                      "height": int(height), "annotations": objects,
                      "sem_seg_file_name": files[1]})  # fmt: skip
    return dicts


def loader_of(dicts, *opts, **mix):
    """The loader of a training on these images, in batches of two, without any other change."""
    DatasetCatalog.data.pop("scenes", None)
    MetadataCatalog.pop("scenes", None)
    DatasetCatalog.register("scenes", lambda: dicts)
    MetadataCatalog.get("scenes").set(thing_classes=[str(i) for i in range(len(COLOURS))])
    keys = [word for key, value in mix.items() for word in (f"INPUT.MIX.{key}", value)]
    return build_training_loader(plain_config(
        "DATASETS.TRAIN", ["scenes"], "INPUT.FORMAT", "RGB", "INPUT.MIN_SIZE_TRAIN", [0],
        "SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 20, "SEED", 5, "DATALOADER.NUM_WORKERS", 0,
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS", False, *keys, *opts
    ))  # fmt: skip


def draw(loader, seed):
    """One sample, and the image that it is of alone."""
    np.random.seed(seed)
    dataset = loader.dataset
    number = seed % len(dataset)
    return dataset.mixing(dataset.dicts, number), dataset.dicts[number]


def without(dicts, *keys):
    return [{k: v for k, v in d.items() if k not in keys} for d in dicts]


def shows(sample, which):
    """Which pixels have the colour of a class, (H, W) bool."""
    pixels = sample["image"].numpy().transpose(1, 2, 0).astype(int)
    return np.abs(pixels - COLOURS[which]).max(axis=-1) < 60


def tinted(sample, which):
    """Which pixels have the colour of a class or a darker one, as at the edge of an object."""
    pixels = sample["image"].numpy().transpose(1, 2, 0).astype(float)
    length = np.linalg.norm(pixels, axis=-1)
    along = pixels @ COLOURS[which] / np.linalg.norm(COLOURS[which])
    return (length > 10) & (along > 0.95 * length)


def eroded(region):
    """What is more than two pixels away from all else, and so of one colour after scaling."""
    inside = np.pad(region, 2).astype(np.uint8)
    return cv2.erode(inside, np.ones((5, 5)))[2:-2, 2:-2].astype(bool)


def grown(region):
    return cv2.dilate(region.astype(np.uint8), np.ones((3, 3))).astype(bool)


def check_boxes(sample):
    """Boxes are inside, as tight as the pixels that they show, and each object has one."""
    instances = sample["instances"]
    height, width = sample["image"].shape[1:]
    assert instances.image_size == (height, width)
    found = [np.zeros((height, width), bool) for _ in COLOURS]
    for box, which in zip(instances.gt_boxes.tensor, instances.gt_classes.tolist(), strict=True):
        x0, y0, x1, y1 = box.tolist()
        assert 0 <= x0 <= x1 - 2 and x1 <= width and 0 <= y0 <= y1 - 2 and y1 <= height
        left, top, right, bottom = np.rint(box.numpy()).astype(int)
        found[which][top:bottom, left:right] = True
        rows, columns = tinted(sample, which)[top:bottom, left:right].nonzero()
        extent = [left + columns.min(), top + rows.min(), left + columns.max() + 1,
                  top + rows.max() + 1]  # fmt: skip
        assert np.abs(box.numpy() - extent).max() <= 2
    for which in range(len(COLOURS)):
        assert not (eroded(shows(sample, which)) & ~grown(found[which])).any()


def check_mask(sample):
    """Classes are those of the pixels; what shows no image is not annotated."""
    pixels, mask = sample["image"].numpy(), sample["sem_seg"].numpy()
    assert mask.shape == pixels.shape[1:]
    for which in range(len(COLOURS)):
        assert (mask[eroded(shows(sample, which))] == which + 1).all()
        # Two objects of a class may meet, so that there are edges inside.
        assert tinted(sample, which)[eroded(mask == which + 1)].all()
    assert (mask[eroded((pixels == 114).all(axis=0))] == IGNORED).all()
    assert np.isin(mask, [*range(len(COLOURS) + 1), IGNORED]).all()


@pytest.mark.parametrize("name", ["MOSAIC", "COPY_PASTE"])
@given(seed=SEEDS)
@few
def test_boxes_and_classes_stay_on_their_pixels(scenes, name, seed):
    sample, alone = draw(loader_of(scenes, **{name: 1.0, "MIN_VISIBLE": 0.0}), seed)
    check_boxes(sample)
    check_mask(sample)
    assert sample["image"].shape[1:] == (alone["height"], alone["width"])
    assert not sample["instances"].has("gt_masks")


@given(seed=SEEDS, some=st.sampled_from([2, 7]))
@few
def test_so_they_do_without_outlines_and_after_one_another(scenes, seed, some):
    """Half of the images, or all but the first, which shows nothing, have none."""
    bare = [
        {**d, "annotations": without(d["annotations"], "segmentation")} if i % some else d
        for i, d in enumerate(scenes)
    ]
    mix = {"MOSAIC": 0.5, "COPY_PASTE": 0.8, "MIN_VISIBLE": 0.0}
    sample, _ = draw(loader_of(bare, "INPUT.SQUARE_SIZE", 72, **mix), seed)
    check_boxes(sample)
    check_mask(sample)
    assert sample["image"].shape == (3, 72, 72)


@given(seed=SEEDS)
@few
def test_masks_alone_stay_on_their_pixels(scenes, seed):
    """Half of the classes that another image has are pasted."""
    sample, _ = draw(loader_of(without(scenes, "annotations"), COPY_PASTE=1.0, MOSAIC=0.3), seed)
    check_mask(sample)
    assert "instances" not in sample


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
@given(seed=SEEDS)
@few
def test_masks_of_objects_agree_with_boxes_and_pixels(scenes, mask_format, seed):
    paste = 0.7 if mask_format == "bitmask" else 0.0
    loader = loader_of(
        without(scenes, "sem_seg_file_name"), "MODEL.MASK_ON", True,
        "INPUT.MASK_FORMAT", mask_format, "INPUT.AUGMENTATION", "single_shot",
        MOSAIC=0.8, COPY_PASTE=paste, MIN_VISIBLE=0.0,
    )  # fmt: skip
    loader.dataset.mapper.augmentations.pop(0)  # colours tell the class
    instances = draw(loader, seed)[0]["instances"]
    if not len(instances):
        return
    masks = instances.gt_masks
    if mask_format == "polygon":
        masks = BitMasks.from_polygon_masks(masks, *instances.image_size)
    outer = masks.get_bounding_boxes().tensor
    assert (outer - instances.gt_boxes.tensor).abs().max() <= 1.5
    sample, _ = draw(loader, seed)
    for mask, which in zip(masks.tensor.numpy(), instances.gt_classes.tolist(), strict=True):
        assert shows(sample, which)[eroded(mask)].all()


@given(seed=SEEDS)
@few
def test_both_images_of_a_mixup_are_seen_and_their_boxes_kept(scenes, seed):
    dicts = without(scenes, "sem_seg_file_name")
    loader = loader_of(dicts, "INPUT.RANDOM_FLIP", "none", "INPUT.SQUARE_SIZE", 64, MIXUP=1.0)
    sample, alone = draw(loader, seed)
    np.random.seed(seed)
    np.random.uniform(size=3)
    partner = loader.dataset.dicts[np.random.choice(len(dicts))]
    first, second = (loader.dataset.mapper(d) for d in (alone, partner))
    np.random.seed(seed)
    pair = np.stack([x["image"].numpy().astype(float) for x in (first, second)])
    middle = sample["image"].numpy()
    assert ((middle >= pair.min(axis=0) - 1) & (middle <= pair.max(axis=0) + 1)).all()
    boxes = [x["instances"].gt_boxes.tensor for x in (first, second)]
    assert torch.equal(sample["instances"].gt_boxes.tensor, torch.cat(boxes))


@pytest.mark.parametrize("name", ["MOSAIC", "COPY_PASTE", "MIXUP"])
def test_images_join_those_with_the_same_annotations_alone(scenes, name):
    """Every class is that of images with one kind of annotation."""
    kinds = [("sem_seg_file_name",), ("annotations",), ("annotations", "sem_seg_file_name")]
    dicts, own = [], []
    for number, hidden in enumerate(kinds * 2):
        pixels = np.zeros((40, 50, 3), np.uint8)
        pixels[5:35, 5:45] = COLOURS[number % 3]
        whole = {**scenes[0], "annotations": [box_of(5, 5, 45, 35, number % 3)],
                 "pixels": pixels, "width": 50, "height": 40}  # fmt: skip
        mask = np.full((40, 50), number % 3 + 1, np.uint8)
        file = scenes[0]["sem_seg_file_name"] + f".own{number}.png"
        Image.fromarray(mask + 10).save(file)
        values = bytes(max(value - 10, 0) for value in range(256))
        dicts += without([{**whole, "sem_seg_file_name": file, MASK_VALUES: values}], *hidden)
        own.append(number % 3)
    loader = loader_of(dicts, **{name: 1.0})
    for seed in range(60):
        sample, _ = draw(loader, seed)
        number = own[seed % 6]
        assert ("instances" in sample) == (number == 0)
        assert ("sem_seg" in sample) == (number == 1)
        for other in {0, 1, 2} - {number}:
            assert not shows(sample, other).any()
        classes = sample["instances"].gt_classes.tolist() if number == 0 else []
        if number == 1:
            classes = np.setdiff1d(sample["sem_seg"], [IGNORED]) - 1
        assert set(classes) <= {number}


def test_pseudo_labels_keep_their_scores_and_crowds_are_no_objects(scenes):
    dicts = []
    for d in without(scenes, "sem_seg_file_name"):
        boxes = [b | {"score": b["category_id"] / 10, "pseudo": 1} for b in d["annotations"]]
        dicts.append({**d, "annotations": [
            b | {"iscrowd": int(b["category_id"] == 2)} for b in boxes
        ]})  # fmt: skip
    loader = loader_of(dicts, MOSAIC=0.5, COPY_PASTE=0.5, MIXUP=0.5)
    seen = set()
    for seed in range(40):
        instances = draw(loader, seed)[0]["instances"]
        assert instances.gt_pseudo.all()
        torch.testing.assert_close(instances.gt_scores, instances.gt_classes / 10)
        seen.update(instances.gt_classes.tolist())
    assert seen and 2 not in seen


def test_slivers_are_dropped(scenes):
    counts = []
    for least in (0.0, 0.5, 1.0):
        loader = loader_of(scenes, MOSAIC=1.0, MIN_VISIBLE=least)
        counts.append(sum(len(draw(loader, seed)[0]["instances"]) for seed in range(40)))
    assert counts[0] > counts[1] > counts[2] > 0


def first_batches(loader, count=8):
    return list(itertools.islice(iter(loader), count))


def same(batches, others):
    """Whether all images, boxes and masks are equal to the bit."""

    def tensors(x):
        return x["image"], x["instances"].gt_boxes.tensor, x["sem_seg"]

    pairs = zip(itertools.chain(*batches), itertools.chain(*others), strict=True)
    return [all(map(torch.equal, tensors(a), tensors(b))) for a, b in pairs]


def test_a_batch_depends_on_seed_and_number_alone(scenes):
    mix = {"MOSAIC": 0.5, "COPY_PASTE": 0.5, "FINAL_FRACTION": 0.5}
    whole = first_batches(loader_of(scenes, **mix), 14)
    np.random.seed(9)
    resumed = loader_of(scenes, **mix)
    resumed.start_at(6)
    assert all(same(first_batches(resumed), whole[6:]))
    workers = loader_of(scenes, "DATALOADER.NUM_WORKERS", 2, **mix)
    assert all(same(first_batches(workers, 3), whole[:3]))
    assert not all(same(first_batches(loader_of(scenes, "SEED", 6, **mix), 3), whole[:3]))
    # Half of 20 iterations are mixed; then each image is what it is without.
    plain = loader_of(scenes)
    assert plain.dataset.mixing is None
    equal = same(first_batches(plain, 14), whole)
    assert all(equal[20:])
    assert not all(equal[:20])


def test_views_come_back(scenes):
    epochs_of_one_batch = ["SOLVER.IMS_PER_BATCH", 6, "DATALOADER.ASPECT_RATIO_GROUPING", False]
    loader = loader_of(scenes, "INPUT.VIEWS", 2, *epochs_of_one_batch, MOSAIC=1.0,
                       FINAL_FRACTION=0.0)  # fmt: skip
    epochs = [sorted(batch, key=lambda x: x["image_id"]) for batch in first_batches(loader, 4)]
    assert all(same(epochs[:2], epochs[2:]))
    assert not any(same(epochs[:1], epochs[1:2]))


def test_labels_become_shares(scenes):
    dicts = [
        {**d, "label": number} for number, d in
        enumerate(without(scenes, "annotations", "sem_seg_file_name"))
    ]  # fmt: skip
    loader = loader_of(dicts, MIXUP=1.0, MIXUP_ALPHA=0.5)
    labels = [draw(loader, seed)[0]["label"] for seed in range(30)]
    assert all(sum(label.values()) == pytest.approx(1) for label in labels)
    assert {len(label) for label in labels} == {1, 2}


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("MOSAIC", {"label": 3}, "annotated with label"),
        ("MIXUP", {"sem_seg_file_name": "a.png"}, "annotated with sem_seg_file_name"),
        ("COPY_PASTE", {}, "annotated with nothing"),
        ("COPY_PASTE", {"annotations": [], "count": 3}, "annotated with annotations, count"),
        ("MOSAIC", {"annotations": [{"keypoints": [], "iscrowd": 1}]}, "keypoints"),
    ],
)
def test_what_cannot_be_mixed_is_named(name, keys, message):
    with pytest.raises(ValueError, match=rf"INPUT\.MIX\.{name} is 0\.5.*{message}.*Set it to 0"):
        loader_of([{"file_name": "a.jpg", "image_id": 1, **keys}], **{name: 0.5})


def test_polygons_of_instance_masks_cannot_be_cut_out(scenes):
    with pytest.raises(ValueError, match=r"MASK_FORMAT 'polygon' does not.*'bitmask'"):
        loader_of(scenes, "MODEL.MASK_ON", True, COPY_PASTE=0.5)


@given(SEEDS)
def test_a_clipped_polygon_is_what_both_have_in_common(seed):
    rng = np.random.default_rng(seed)
    polygon, (low, high) = rng.uniform(-10, 50, (6, 2)), np.sort(rng.uniform(0, 40, (2, 2)), axis=0)

    def filled(points):
        canvas = np.zeros((600, 600), np.uint8)
        cv2.fillPoly(canvas, [np.rint(10 * (points + 10)).astype(np.int32)], 1)
        return canvas

    rectangle = filled(np.array([low, [high[0], low[1]], high, [low[0], high[1]]]))
    clipped = clip_polygon(polygon, low, high)
    expected = filled(polygon) & rectangle
    found = filled(clipped) if len(clipped) else np.zeros_like(expected)
    assert not eroded(found ^ expected).any()
    assert len(clipped) == 0 or ((clipped >= low - 1e-9) & (clipped <= high + 1e-9)).all()


def test_an_image_at_its_own_scale_is_copied():
    pixels = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)
    place = PlaceTransform((12, 17), (30, 40), (5, 3, 40, 30), 1.0, (-4, 10), min_visible=0.5)
    canvas = place.apply_image(pixels[:, ::-1])  # as a mirrored one is
    assert (canvas[10:22, 5:13] == pixels[:, ::-1][:, 9:]).all()
    canvas[10:22, 5:13] = 114
    assert (canvas == 114).all()
    boxes = np.array([[0.0, 0, 17, 12], [8, 0, 17, 12], [-50, 0, 10, 12], [0, 0, 5, 5]])
    assert place.apply_box(boxes).tolist() == [[0] * 4, [5, 10, 13, 22], [0] * 4, [0] * 4]
