"""Losses of the generalized focal loss head: loops that follow the paper, and properties."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from gfl_scene import (
    BINS,
    CLASSES,
    REG_MAX,
    SCENE,
    SIZE,
    STRIDES,
    level_anchors,
    make_features,
    make_head,
    make_instances,
    random_outputs,
)
from multas.modeling.generalized_focal import atss_match
from multas.modeling.heads.gfl_loss import GFLLoss
from multas.modeling.label_assignment import assign_atss
from multas.modeling.matcher import pad_objects
from no_transfer import NoTransfer

# The paper's formulas in loops over plain numbers


def iou_giou(a, b) -> tuple[float, float]:
    def area(box):
        return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)

    inter = area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])
    hull = area([min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])])
    union = area(a) + area(b) - inter
    return inter / union, inter / union - (hull - union) / hull


def literal_atss(levels, boxes, topk) -> list[int]:
    owner: dict[int, tuple[float, int]] = {}
    for g, box in enumerate(boxes):
        candidates, start = [], 0
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        for level in levels:
            order = sorted(
                range(len(level)),
                key=lambda i: math.dist(
                    ((level[i][0] + level[i][2]) / 2, (level[i][1] + level[i][3]) / 2), middle
                ),
            )
            candidates += [(start + i, level[i]) for i in order[:topk]]
            start += len(level)
        ious = [iou_giou(anchor, box)[0] for _, anchor in candidates]
        mean = sum(ious) / len(ious)
        threshold = mean + math.sqrt(sum((x - mean) ** 2 for x in ious) / (len(ious) - 1))
        for (i, anchor), iou in zip(candidates, ious, strict=True):
            x, y = (anchor[0] + anchor[2]) / 2, (anchor[1] + anchor[3]) / 2
            inside = box[0] < x < box[2] and box[1] < y < box[3]
            if inside and iou >= threshold and iou > owner.get(i, (-1.0, 0))[0]:
                owner[i] = (iou, g)
    return [owner[i][1] if i in owner else -1 for i in range(sum(map(len, levels)))]


def literal_iou_assignment(levels, boxes, low=0.4, high=0.5) -> tuple[list[int], list[int]]:
    """Object of each positive anchor, and of each anchor ignored for the object's class."""
    anchors = [anchor for level in levels for anchor in level]
    overlaps = [[iou_giou(anchor, box)[0] for box in boxes] for anchor in anchors]
    best = [max(range(len(boxes)), key=row.__getitem__) for row in overlaps]
    value = [max(row) for row in overlaps]
    positive = [g if v >= high else -1 for g, v in zip(best, value, strict=True)]
    for g in range(len(boxes)):
        positive[max(range(len(anchors)), key=lambda i: overlaps[i][g])] = g
    ignored = [
        g if low <= v < high and p < 0 else -1
        for g, v, p in zip(best, value, positive, strict=True)
    ]
    return positive, ignored


def literal_losses(logits, sides, levels, scene, assignment: str, topk: int) -> dict[str, float]:
    cls, box, dfl, count, total = 0.0, 0.0, 0.0, 0, 0.0
    flat = [(anchor, s) for level, s in zip(levels, STRIDES, strict=True) for anchor in level]
    for image, (boxes, classes) in enumerate(scene):
        ignored = [-1] * len(flat)
        if assignment == "atss":
            owner = literal_atss(levels, boxes, topk)
        else:
            owner, ignored = literal_iou_assignment(levels, boxes)
        for i, (anchor, stride) in enumerate(flat):
            x, y = (anchor[0] + anchor[2]) / 2, (anchor[1] + anchor[3]) / 2
            p = [side.softmax(0) for side in sides[image, i].reshape(4, BINS)]
            left, top, right, bottom = (sum(j * float(v) for j, v in enumerate(q)) for q in p)
            predicted = [x - left * stride, y - top * stride, x + right * stride,
                         y + bottom * stride]  # fmt: skip
            g = owner[i]
            quality = iou_giou(predicted, boxes[g])[0] if g >= 0 else 0.0
            scores = logits[image, i].sigmoid().tolist()
            for k, s in enumerate(scores):
                if ignored[i] >= 0 and classes[ignored[i]] == k:
                    continue
                q = quality if g >= 0 and classes[g] == k else 0.0
                entropy = -(q * math.log(s) + (1 - q) * math.log(1 - s))
                cls += abs(q - s) ** 2 * entropy
            if g < 0:
                continue
            weight = max(scores)
            count, total = count + 1, total + weight
            box += weight * (1 - iou_giou(predicted, boxes[g])[1])
            b = boxes[g]
            for q, distance in zip(p, (x - b[0], y - b[1], b[2] - x, b[3] - y), strict=True):
                d = min(max(distance / stride, 0.0), REG_MAX - 0.1)
                n = int(d)
                near, far = math.log(q[n]), math.log(q[n + 1])
                dfl -= weight * ((n + 1 - d) * near + (d - n) * far) / 4
    return {"loss_cls": cls / count, "loss_box_reg": 2 * box / total, "loss_dfl": dfl / total / 4}


@pytest.mark.parametrize(("assignment", "per_place"), [("atss", 1), ("iou", 2)])
@pytest.mark.parametrize("topk", [2, 9])
def test_losses_are_those_of_a_literal_reading(assignment, per_place, topk):
    levels = level_anchors(per_place)
    logits, sides = random_outputs(levels)
    loss = GFLLoss(num_classes=CLASSES, reg_max=REG_MAX, assignment=assignment, atss_topk=topk)
    instances = [make_instances(*image) for image in SCENE]
    losses = loss(logits, sides, levels, STRIDES, instances)
    plain = [level.tolist() for level in levels]
    wanted = literal_losses(logits, sides, plain, SCENE, assignment, topk)
    assert {k: v.item() for k, v in losses.items()} == pytest.approx(wanted, rel=1e-5)


# Assignment


def test_a_batch_is_matched_as_its_images_alone_are():
    levels = level_anchors()
    images = [*(boxes for boxes, _ in SCENE), [], [[1.0, 2, 62, 63]] * 5]
    padded = pad_objects([make_instances(boxes, [0] * len(boxes)) for boxes in images])
    index, thresholds = atss_match(levels, padded.boxes)
    for row, (boxes, found) in enumerate(zip(images, index, strict=True)):
        alone, own = atss_match(levels, torch.tensor(boxes).reshape(-1, 4))
        assert torch.equal(found, alone)
        torch.testing.assert_close(thresholds[row, : len(boxes)], own)
    targets = assign_atss(padded, levels, CLASSES)
    assert torch.equal(targets.box_index, index)
    assert torch.equal(targets.classes.sum(-1), (index >= 0).float())


def test_nearest_anchors_are_found_far_from_the_origin():
    """float32 distances by a matrix product are wrong by a pixel there."""
    shift = torch.tensor([4096.0, 4096.0, 4096.0, 4096.0])
    levels, boxes = level_anchors(), torch.tensor(SCENE[0][0])
    near, _ = atss_match(levels, boxes, topk=3)
    far, _ = atss_match([level + shift for level in levels], boxes + shift, topk=3)
    assert torch.equal(near, far)


# Properties of the losses


def test_order_of_objects_images_and_anchors_of_a_level_does_not_matter():
    levels = level_anchors()
    logits, sides = random_outputs(levels)
    loss = GFLLoss(num_classes=CLASSES, reg_max=REG_MAX)
    plain = loss(logits, sides, levels, STRIDES, [make_instances(*image) for image in SCENE])
    reverse = [make_instances(boxes[::-1], classes[::-1]) for boxes, classes in SCENE[::-1]]
    orders = [torch.randperm(len(level)) for level in levels]
    starts = [0, len(levels[0]), len(levels[0]) + len(levels[1])]
    rows = torch.cat([order + start for order, start in zip(orders, starts, strict=True)])
    mixed = [level[order] for level, order in zip(levels, orders, strict=True)]
    other = loss(logits.flip(0)[:, rows], sides.flip(0)[:, rows], mixed, STRIDES, reverse)
    for name in plain:
        torch.testing.assert_close(other[name], plain[name])


def test_gradients_agree_with_finite_differences_where_targets_are_constant():
    levels = level_anchors()
    logits, sides = random_outputs(levels, images=1)
    loss = GFLLoss(num_classes=CLASSES, reg_max=REG_MAX, atss_topk=2)
    instances = [make_instances([SCENE[0][0][0]], [1])]
    # The quality depends on the sides, the weights on the logits, but both are constants.
    rows = (atss_match(levels, instances[0].gt_boxes.tensor, topk=2)[0] >= 0).nonzero().flatten()

    def with_logits(x):
        return loss(x, sides, levels, STRIDES, instances)["loss_cls"]

    def with_sides(x):
        changed = sides.index_copy(1, rows, x)
        losses = loss(logits, changed, levels, STRIDES, instances)
        return losses["loss_box_reg"] + losses["loss_dfl"]

    assert gradcheck(with_logits, logits[:, :, :].clone().requires_grad_())
    assert gradcheck(with_sides, sides[:, rows].clone().requires_grad_())
    sides.requires_grad_()
    assert not loss(logits, sides, levels, STRIDES, instances)["loss_cls"].requires_grad
    logits.requires_grad_()
    assert not loss(logits, sides.detach(), levels, STRIDES, instances)[
        "loss_box_reg"
    ].requires_grad


@pytest.mark.parametrize("assignment", ["atss", "iou"])
def test_every_parameter_is_trained(assignment):
    head = make_head(per_place=2, ASSIGNMENT=assignment)
    features = make_features()
    annotations = [make_instances(*SCENE[0]), make_instances([], [])]
    with NoTransfer():  # the host never waits for the device
        losses = head.losses(head(features), features, annotations, (SIZE, SIZE))
        sum(losses.values()).backward()
    assert list(losses) == ["loss_cls", "loss_box_reg", "loss_dfl"]
    assert all(loss > 0 for loss in losses.values())
    assert all(p.grad.isfinite().all() and p.grad.any() for p in head.parameters())


def test_images_without_objects_are_background_and_unannotated_ones_nothing():
    head, features = make_head(), make_features()
    predictions = head(features)
    empty = make_instances([], [])
    flat = make_instances([[10.0, 10, 10, 30], [70, 70, 90, 90]], [0, 1])  # no area, outside
    for annotations in ([empty, empty], [flat, None]):
        losses = head.losses(predictions, features, annotations, (SIZE, SIZE))
        assert losses["loss_cls"] > 0 and losses["loss_box_reg"] == losses["loss_dfl"] == 0
        sum(losses.values()).backward(retain_graph=True)
        boxes = [*head.predictor.bbox_subnet.parameters(), head.scales]
        assert all(p.grad is not None and not p.grad.any() for p in boxes)
    head.zero_grad()
    nothing = head.losses(predictions, features, [None, None], (SIZE, SIZE))
    assert nothing.keys() == losses.keys() and not any(nothing.values())
    sum(nothing.values()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())
    # An image without annotation does not change the loss of the other.
    alone = head.losses(
        tuple([x[:1] for x in maps] for maps in predictions),
        features, [make_instances(*SCENE[0])], (SIZE, SIZE),
    )  # fmt: skip
    both = head.losses(predictions, features, [make_instances(*SCENE[0]), None], (SIZE, SIZE))
    torch.testing.assert_close(alone, both)


@pytest.mark.parametrize("assignment", ["atss", "iou"])
def test_pseudo_scores_weight_positives_only(assignment):
    levels = level_anchors()
    logits, sides = random_outputs(levels)

    def losses(scores: list, use_scores: bool) -> torch.Tensor:
        instances = [make_instances(*image) for image in SCENE]
        for image, score in zip(instances, scores, strict=True):
            if score is not None:
                image.gt_scores = torch.full((len(image),), score)
        loss = GFLLoss(
            num_classes=CLASSES, reg_max=REG_MAX, assignment=assignment, use_scores=use_scores
        )
        return torch.stack(list(loss(logits, sides, levels, STRIDES, instances).values()))

    plain = losses([1.0, 1.0], False)
    torch.testing.assert_close(losses([0.3, 0.6], False), plain)
    torch.testing.assert_close(losses([1.0, None], True), plain)
    low, middle = losses([0.0, 0.0], True), losses([0.5, 0.5], True)
    assert not low[1:].any()
    # Linear in the score, except for the background part.
    torch.testing.assert_close(2 * middle, low + plain)
    assert 0 < low[0] < plain[0]


def test_the_config_says_whether_pseudo_scores_count():
    assert make_head(WEIGHT_BY_SCORE=True).loss.use_scores
    assert not make_head().loss.use_scores


def test_losses_are_computed_in_full_precision():
    levels = level_anchors()
    logits, sides = (x.to(torch.bfloat16) for x in random_outputs(levels))
    loss = GFLLoss(num_classes=CLASSES, reg_max=REG_MAX)
    instances = [make_instances(*image) for image in SCENE]
    half = loss(logits, sides, levels, STRIDES, instances)
    whole = loss(logits.float(), sides.float(), levels, STRIDES, instances)
    assert all(torch.equal(half[name], whole[name]) for name in whole)
