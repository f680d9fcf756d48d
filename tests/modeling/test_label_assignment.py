"""Label assignment: reference numbers, invariances, ties, degenerate scenes.

Reference boxes are normalised; IoUs and deltas do not depend on the unit.
"""

from functools import partial

import pytest
import torch
from detectron2.structures import Boxes, Instances

import golden_cases
from multas.modeling import matcher
from multas.modeling.heads.dense_loss import DenseLoss
from multas.modeling.label_assignment import assign_iou, assign_mutual_guidance
from multas.modeling.matcher import PaddedObjects, match_iou, match_mutual_guidance, pad_objects

DTYPES = [torch.float64, torch.float32]


load = partial(golden_cases.load, "multas")


def to_corners(priors):
    center, half = priors[:, :2], priors[:, 2:] / 2
    return torch.cat([center - half, center + half], dim=1)


def to_instances(data, num_images):
    """Reference targets (x0, y0, x1, y1, label from 1) as Detectron2 instances, labels from 0."""
    images = []
    for i in range(num_images):
        rows = data["in_targets"][data["in_targets_image"] == i]
        image = Instances((1, 1))
        image.gt_boxes = Boxes(rows[:, :4])
        image.gt_classes = rows[:, 4].long() - 1
        images.append(image)
    return images


def to_objects(data, num_images, dtype):
    objects = pad_objects(to_instances(data, num_images))
    return objects._replace(boxes=objects.boxes.to(dtype))


def at(values, index):
    return values.gather(1, index)


def boxes_at(objects, index):
    return objects.boxes.gather(1, index[..., None].expand(-1, -1, 4))


@pytest.mark.parametrize("scale", [1, 320])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ["320", "a", "huge", "overlap", "shared_best", "tiny"])
def test_iou_assignment_equals_the_reference(case, dtype, scale):
    data = load(f"match_iou_{case}", dtype)
    overlap, label = data["out_overlap_t"], data["out_conf_t"]
    objects = to_objects(data, len(overlap), dtype)
    pixels = objects._replace(boxes=objects.boxes * scale)
    match = match_iou(pixels, to_corners(data["in_priors"]) * scale)
    torch.testing.assert_close(match.quality.double(), overlap, rtol=0, atol=1e-5)
    met = overlap > 0
    assert torch.equal(at(objects.classes, match.object_index)[met] + 1, label[met])
    assert torch.equal(boxes_at(objects, match.object_index)[met].float(), data["out_loc_t"][met])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ["far", "init", "overlap", "random", "tiny", "trained"])
def test_mutual_guidance_equals_the_reference(case, dtype):
    data = load(f"match_mutual_{case}", dtype)
    overlap, pred = data["out_overlap_t"], data["out_pred_t"]
    objects = to_objects(data, len(overlap), dtype)
    by_box, by_score = match_mutual_guidance(
        objects,
        to_corners(data["in_priors"]),
        data["in_conf_data"],
        data["in_loc_data"],
        topk=data["in_topk"].item(),
        sigma=data["in_sigma"].item(),
    )
    for match, stored in ((by_box, overlap), (by_score, pred)):
        assert torch.equal(match.positive, stored >= 3)
        found = match.quality.double() + 3 * match.positive
        torch.testing.assert_close(found, stored, rtol=0, atol=1e-5)
    met = overlap > 0
    assert torch.equal(at(objects.classes, by_box.object_index)[met] + 1, data["out_conf_t"][met])
    met = pred > 0
    assert torch.equal(
        boxes_at(objects, by_score.object_index)[met].float(), data["out_loc_t"][met]
    )


DETECTION_CASES = [
    "iou_focal_a",
    "iou_qfl_a",
    "iou_qfl_init",
    "mg_focal_a",
    "mg_qfl_a",
    "mg_qfl_far",
    "mg_qfl_init",
]


def dense_loss_of(data):
    return DenseLoss(
        num_classes=data["in_conf_data"].shape[2],
        assignment="mutual_guidance" if data["in_mutual_guide"] else "iou",
        cls_loss="focal" if data["in_use_focal"] else "quality_focal",
    )


@pytest.mark.parametrize("case", DETECTION_CASES)
def test_dense_targets_equal_the_reference(case):
    data = load(f"det_loss_{case}", torch.float64)
    objects = to_objects(data, len(data["in_loc_data"]), torch.float64)
    targets = dense_loss_of(data).assign(
        objects, to_corners(data["in_priors"]), data["in_conf_data"], data["in_loc_data"]
    )
    classes = torch.where(targets.class_mask, targets.classes, -1.0)
    torch.testing.assert_close(classes.float(), data["out_cls_target"], rtol=1e-5, atol=0)
    assert torch.equal(targets.box_weights > 0, data["out_positive"])
    if data["in_mutual_guide"]:
        assert targets.class_mask.all()
        share = targets.box_weights / targets.box_weights.sum()
        torch.testing.assert_close(share, data["out_loc_weight"], rtol=1e-7, atol=1e-12)
    else:
        assert torch.equal(targets.class_mask, data["out_cls_mask"])
        assert torch.equal(~targets.class_mask.all(2), data["out_ignored"])
        background = targets.class_mask.all(2) & (targets.box_index < 0)
        assert torch.equal(background, data["out_negative"])
        assert torch.equal(targets.box_index >= 0, data["out_positive"])


@pytest.mark.parametrize("case", DETECTION_CASES)
def test_detection_loss_in_float32_equals_the_reference(case):
    data = load(f"det_loss_{case}", torch.float32)
    logits, deltas = (data[key].requires_grad_() for key in ("in_conf_data", "in_loc_data"))
    instances = to_instances(data, len(deltas))
    losses = dense_loss_of(data)(logits, deltas, to_corners(data["in_priors"]), instances)
    for key, stored, inputs, gradient in (
        ("loss_cls", data["out_loss_c"], logits, data["grad_conf_data"]),
        ("loss_box_reg", data["out_loss_l"], deltas, data["grad_loc_data"]),
    ):
        torch.testing.assert_close(losses[key], stored.float(), rtol=1e-4, atol=1e-6)
        (found,) = torch.autograd.grad(losses[key], inputs)
        limit = 1e-4 * gradient.abs().max().item()
        torch.testing.assert_close(found, gradient, rtol=0, atol=limit)


def random_batch(num_images=3, num_objects=5, num_classes=4, dtype=torch.float32):
    """A batch without ties: (objects, anchors, logits, deltas)."""
    anchors = torch.rand(200, 4) * 24
    anchors[:, 2:] = anchors[:, :2] + 4 + torch.rand(200, 2) * 12
    corner = torch.rand(num_images, num_objects, 2) * 24
    boxes = torch.cat([corner, corner + 3 + torch.rand(num_images, num_objects, 2) * 12], 2)
    valid = torch.arange(num_objects) < torch.tensor([[num_objects], [2], [0]])[:num_images]
    classes = torch.randint(0, num_classes, valid.shape)
    logits, deltas = torch.randn(num_images, 200, num_classes), torch.randn(num_images, 200, 4)
    objects = PaddedObjects(boxes.to(dtype), classes, valid)
    return objects, anchors.to(dtype), logits.to(dtype), deltas.to(dtype)


def both(objects, anchors, logits, deltas):
    return (
        assign_iou(objects, anchors, logits.shape[2]),
        assign_mutual_guidance(objects, anchors, logits, deltas),
    )


def assert_same(found, expected, fields=None):
    for ours, theirs in zip(found, expected, strict=True):
        for field in fields or ours._fields:
            assert torch.equal(getattr(ours, field), getattr(theirs, field)), field


def test_images_do_not_influence_each_other():
    objects, anchors, logits, deltas = random_batch()
    order = torch.tensor([2, 0, 1])
    moved = both(PaddedObjects(*(x[order] for x in objects)), anchors, logits[order], deltas[order])
    expected = both(objects, anchors, logits, deltas)
    assert_same(moved, [type(t)(*(x[order] for x in t)) for t in expected])
    for i in range(3):
        alone = PaddedObjects(*(x[i : i + 1] for x in objects))
        single = both(alone, anchors, logits[i : i + 1], deltas[i : i + 1])
        assert_same(single, [type(t)(*(x[i : i + 1] for x in t)) for t in expected])


def test_targets_follow_a_permutation_of_the_anchors():
    objects, anchors, logits, deltas = random_batch()
    order = torch.randperm(len(anchors))
    moved = both(objects, anchors[order], logits[:, order], deltas[:, order])
    expected = both(objects, anchors, logits, deltas)
    assert_same(moved, [type(t)(*(x[:, order] for x in t)) for t in expected])


def test_order_and_padding_of_the_objects_do_not_matter():
    objects, anchors, logits, deltas = random_batch()
    order = torch.tensor([3, 1, 4, 0, 2])
    moved = both(PaddedObjects(*(x[:, order] for x in objects)), anchors, logits, deltas)
    expected = both(objects, anchors, logits, deltas)
    fields = ("classes", "class_mask", "boxes", "box_weights")
    assert_same(moved, expected, fields)
    for ours, theirs in zip(moved, expected, strict=True):
        index = ours.box_index
        assert torch.equal(torch.where(index >= 0, order[index], -1), theirs.box_index)
    junk = PaddedObjects(
        torch.cat([objects.boxes, anchors[:7].expand(3, 7, 4)], 1),
        torch.cat([objects.classes, torch.ones(3, 7, dtype=torch.long)], 1),
        torch.cat([objects.valid, torch.zeros(3, 7, dtype=torch.bool)], 1),
    )
    assert_same(both(junk, anchors, logits, deltas), expected)


def test_large_batches_are_worked_through_in_groups_with_the_same_result(monkeypatch):
    batch = random_batch()
    expected = both(*batch)
    for pairs in (1, 2 * 5 * 200):
        monkeypatch.setattr(matcher, "MAX_PAIRS", pairs)
        assert_same(both(*batch), expected)


def test_scaling_the_scene_changes_no_assignment():
    objects, anchors, logits, deltas = random_batch(dtype=torch.float64)
    wide = both(objects._replace(boxes=objects.boxes * 7.3), anchors * 7.3, logits, deltas)
    expected = both(objects, anchors, logits, deltas)
    assert_same(wide, expected, ("class_mask", "class_index", "box_index"))
    torch.testing.assert_close(wide[1].classes, expected[1].classes)
    torch.testing.assert_close(wide[1].boxes, expected[1].boxes * 7.3)


def test_a_higher_positive_threshold_never_adds_positives():
    objects, anchors, *_ = random_batch()
    counts = [
        int((assign_iou(objects, anchors, 4, (0.4, t)).box_index >= 0).sum())
        for t in (0.4, 0.5, 0.6, 0.8, 1.1)
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


def test_equal_overlaps_go_to_the_first_object_and_the_first_anchor():
    anchors = torch.tensor([[0.0, 0, 8, 8], [0, 0, 8, 8], [20, 20, 28, 28]])
    twice = torch.tensor([[[0.0, 0, 8, 8], [0, 0, 8, 8]]])
    objects = PaddedObjects(twice, torch.tensor([[0, 1]]), torch.ones(1, 2, dtype=torch.bool))
    match = match_iou(objects, anchors)
    # Both objects have anchor 0 as their best: it goes to the last one; anchor 1 to the first.
    assert match.object_index[0, :2].tolist() == [1, 0]
    assert match.positive.tolist() == [[True, False, False]]
    by_box, _ = match_mutual_guidance(objects, anchors, torch.zeros(1, 3, 2), torch.zeros(1, 3, 4))
    assert by_box.object_index[0, :2].tolist() == [0, 0]
    one = PaddedObjects(*(x[:, :1] for x in objects))
    slightly = torch.cat([anchors[:2] + torch.tensor([0.0, 0, 4, 0]), anchors[2:]])
    # Two equal overlaps of 2/3 sum up to one positive: the first anchor.
    by_box, _ = match_mutual_guidance(one, slightly, torch.zeros(1, 3, 2), torch.zeros(1, 3, 4))
    assert by_box.positive.tolist() == [[True, False, False]]


def losses_of(loss, boxes, labels, anchors, logits, deltas):
    images = []
    for box, label in zip(boxes, labels, strict=True):
        image = Instances((32, 32))
        image.gt_boxes = Boxes(torch.tensor(box).reshape(-1, 4))
        image.gt_classes = torch.tensor(label, dtype=torch.long)
        images.append(image)
    return loss(logits, deltas, anchors, images)


LOSSES = [
    DenseLoss(num_classes=3, assignment=assignment, cls_loss=cls_loss)
    for assignment in ("iou", "mutual_guidance")
    for cls_loss in ("focal", "quality_focal")
]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "boxes",
    [
        [[], []],
        [[], [[4.0, 4, 12, 12]]],
        [[[5.0, 5, 5, 9]], [[5.0, 5, 5, 5]]],
        [[[200.0, 200, 210, 210]], []],
        [[[5.0, 5, 5.0001, 5.0001]], [[1.0, 1, 2, 2]]],
    ],
    ids=["no object", "one empty image", "flat", "out of reach", "tiny"],
)
def test_losses_of_degenerate_scenes_are_finite_and_teach_the_background(loss, boxes):
    anchors = random_batch()[1]
    logits = torch.randn(2, len(anchors), 3, requires_grad=True)
    deltas = torch.randn(2, len(anchors), 4, requires_grad=True)
    labels = [[1] * len(box) for box in boxes]
    losses = losses_of(loss, boxes, labels, anchors, logits, deltas)
    total = sum(losses.values())
    total.backward()
    assert total.isfinite()
    assert losses["loss_cls"] > 0
    assert logits.grad.isfinite().all()
    assert deltas.grad.isfinite().all()
    if not any(boxes):
        assert losses["loss_box_reg"].item() == 0
        assert (logits.grad >= 0).all()  # all scores decrease


def test_an_empty_image_is_background_and_changes_no_other_image():
    objects, anchors, logits, deltas = random_batch()
    for targets in both(objects, anchors, logits, deltas):
        assert targets.classes[2].eq(0).all()
        assert targets.class_mask[2].all()
        assert targets.box_weights[2].eq(0).all()
        assert targets.class_index[2].eq(-1).all()
        assert torch.equal(targets.boxes[2], anchors)


def test_a_batch_without_images_gives_empty_targets():
    objects, anchors, logits, deltas = random_batch()
    for targets in both(PaddedObjects(*(x[:0] for x in objects)), anchors, logits[:0], deltas[:0]):
        assert targets.classes.shape == (0, 200, 4)
        assert targets.boxes.shape == (0, 200, 4)


def test_non_finite_predictions_become_no_positives():
    objects, anchors, logits, deltas = random_batch()
    deltas[0, :100] = float("nan")
    deltas[1, :100] = float("inf")
    targets = assign_mutual_guidance(objects, anchors, logits, deltas)
    assert targets.classes.isfinite().all()
    assert targets.class_index[0, :100].eq(-1).all()
    assert targets.class_index[0, 100:].ge(0).any()


def test_targets_carry_no_gradient_and_are_float32_for_short_floats():
    objects, anchors, logits, deltas = random_batch()
    logits, deltas = logits.half().requires_grad_(), deltas.half().requires_grad_()
    for targets in both(objects, anchors, logits, deltas):
        assert not any(x.requires_grad for x in targets)
        assert targets.classes.dtype == targets.box_weights.dtype == torch.float32


def test_every_object_in_reach_has_a_positive_anchor():
    objects, anchors, *_ = random_batch()
    targets = assign_iou(objects, anchors, 4)
    for i, count in enumerate((5, 2, 0)):
        assert set(targets.box_index[i].tolist()) == {-1, *range(count)}


def test_pad_objects_marks_padding():
    images = []
    for count in (0, 3):
        image = Instances((10, 10))
        image.gt_boxes = Boxes(torch.rand(count, 4))
        image.gt_classes = torch.arange(count)
        images.append(image)
    objects = pad_objects(images)
    assert objects.valid.tolist() == [[False] * 3, [True] * 3]
    assert objects.classes.tolist() == [[0, 0, 0], [0, 1, 2]]
    assert torch.equal(objects.boxes[1], images[1].gt_boxes.tensor)
    only_empty = pad_objects(images[:1])
    assert only_empty.boxes.shape == (1, 1, 4)
    assert not only_empty.valid.any()
    with pytest.raises(ValueError, match="no image"):
        pad_objects([])
