"""The vectorised label assignment against loops over anchors and objects."""

import math
import random

import pytest
import torch
from detectron2.structures import Boxes, Instances

from multas.modeling.box_coding import decode_boxes
from multas.modeling.label_assignment import assign_iou, assign_mutual_guidance
from multas.modeling.matcher import PaddedObjects, pad_objects


def naive_iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    area_a, area_b = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    inter = width * height
    return inter / (area_a + area_b - inter)


def first_best(values):
    return max(range(len(values)), key=lambda i: (values[i], -i))


def naive_iou_targets(boxes, labels, anchors, num_classes):
    """Rows (classes, mask, object, box, weight), one per anchor."""
    overlaps = [[naive_iou(box, anchor) for anchor in anchors] for box in boxes]
    owner, quality = [], []
    for a in range(len(anchors)):
        column = [row[a] for row in overlaps]
        owner.append(first_best(column) if column else -1)
        quality.append(column[owner[a]] if column else 0.0)
    for g, row in enumerate(overlaps):
        best = first_best(row)
        if row[best] > 0:
            owner[best], quality[best] = g, 1.0
    rows = []
    for a, anchor in enumerate(anchors):
        classes, mask = [0.0] * num_classes, [True] * num_classes
        positive = quality[a] >= 0.5
        if positive:
            classes[labels[owner[a]]] = 1.0
        elif quality[a] >= 0.4:
            mask[labels[owner[a]]] = False
        index = owner[a] if positive else -1
        rows.append((classes, mask, index, boxes[index] if positive else anchor, float(positive)))
    return rows


def naive_choice(values, topk=15):
    """(owner, value, positive) of each anchor from values (objects, anchors)."""
    count = len(values[0]) if values else 0
    owner = [first_best([row[a] for row in values]) for a in range(count)]
    kept = [
        [v if owner[a] == g else 0.0 for a, v in enumerate(row)] for g, row in enumerate(values)
    ]
    positive = [False] * count
    for row in kept:
        ranked = sorted(range(count), key=lambda a: (-row[a], a))
        k = max(1, math.floor(sum(row[a] for a in ranked[:topk])))
        for a in ranked[: min(k, sum(v > 0 for v in row))]:
            positive[a] = True
    return [(owner[a], kept[owner[a]][a], positive[a]) for a in range(count)]


def naive_mutual_targets(boxes, labels, anchors, predicted, gain, num_classes):
    by_box = naive_choice([[naive_iou(box, p) for p in predicted] for box in boxes])
    by_score = naive_choice(
        [
            [min(1.0, naive_iou(box, anchor) * gain[a][label]) for a, anchor in enumerate(anchors)]
            for box, label in zip(boxes, labels, strict=True)
        ]
    )
    rows = []
    for a, anchor in enumerate(anchors):
        classes, index, box, weight = [0.0] * num_classes, -1, anchor, 0.0
        if boxes and by_box[a][2]:
            classes[labels[by_box[a][0]]] = by_box[a][1]
        if boxes and by_score[a][2]:
            index, weight = by_score[a][0], by_score[a][1]
            box = boxes[index]
        rows.append((classes, [True] * num_classes, index, box, weight))
    return rows


def random_scene(rng, num_classes):
    """Objects of one image: integer corners make ties frequent; tiny, equal, flat, far boxes."""
    boxes = []
    for _ in range(rng.choice([0, 1, 1, 2, 3, 6])):
        kind = rng.random()
        x, y = rng.randrange(0, 28), rng.randrange(0, 28)
        if kind < 0.15 and boxes:
            boxes.append(list(rng.choice(boxes)))
        elif kind < 0.3:
            boxes.append([x + 0.4, y + 0.3, x + 0.4 + rng.random(), y + 0.3 + rng.random()])
        elif kind < 0.35:
            boxes.append([x, y, x, y + 3])
        elif kind < 0.4:
            boxes.append([x + 100, y + 100, x + 109, y + 109])
        else:
            boxes.append([x, y, x + rng.randrange(1, 16), y + rng.randrange(1, 16)])
    return boxes, [rng.randrange(num_classes) for _ in boxes]


def pad(scenes):
    images = []
    for boxes, labels in scenes:
        image = Instances((32, 32))
        image.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
        image.gt_classes = torch.tensor(labels, dtype=torch.long)
        images.append(image)
    objects = pad_objects(images)
    return objects._replace(boxes=objects.boxes.double())


def grid_anchors():
    """45 anchors on a 32 x 32 image, with duplicates and many equal overlaps."""
    places = [
        (x, y, s)
        for s, step in ((8, 8), (12, 8))
        for y in range(4, 32, step)
        for x in range(4, 32, step)
    ]
    rows = [(x - s / 2, y - s / 2, x + s / 2, y + s / 2) for x, y, s in places]
    rows += [*rows[5:15], (0, 0, 32, 32), (0, 0, 32, 16), (0, 0, 16, 32)]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("group", range(5))
def test_assignment_equals_the_naive_one_on_random_scenes(group):
    """5 groups x 50 batches x 2 images = 500 scenes, each assigned in both ways."""
    rng = random.Random(group)
    generator = torch.Generator().manual_seed(group)
    num_classes, anchors = 3, grid_anchors()
    for _ in range(50):
        scenes = [random_scene(rng, num_classes) for _ in range(2)]
        objects = pad(scenes)
        logits = torch.randn(2, len(anchors), num_classes, generator=generator).double()
        # With deltas of 0 there are ties among the predicted boxes, too.
        deltas = torch.randn(2, len(anchors), 4, generator=generator).double()
        deltas *= rng.choice([0.0, 1.0, 3.0])
        # Both sides use torch's transcendental functions, whose last bit is not defined.
        predicted = decode_boxes(deltas, anchors).tolist()
        gain = (logits.sigmoid() / 2).exp().tolist()
        found = (
            assign_iou(objects, anchors, num_classes),
            assign_mutual_guidance(objects, anchors, logits, deltas),
        )
        for i, (_, labels) in enumerate(scenes):
            boxes = objects.boxes[i][objects.valid[i]].tolist()
            expected = (
                naive_iou_targets(boxes, labels, anchors.tolist(), num_classes),
                naive_mutual_targets(
                    boxes, labels, anchors.tolist(), predicted[i], gain[i], num_classes
                ),
            )
            for targets, rows in zip(found, expected, strict=True):
                classes, mask, index, box, weight = zip(*rows, strict=True)
                assert targets.classes[i].tolist() == list(map(list, classes))
                assert targets.class_mask[i].tolist() == list(map(list, mask))
                assert targets.box_index[i].tolist() == list(index)
                assert targets.boxes[i].tolist() == list(map(list, box))
                assert targets.box_weights[i].tolist() == list(weight)


@pytest.mark.gpu
def test_ties_are_broken_alike_on_both_devices():
    rng = random.Random(0)
    scenes = [random_scene(rng, 3) for _ in range(32)]
    objects, anchors = pad(scenes), grid_anchors()
    logits, deltas = torch.zeros(32, len(anchors), 3), torch.zeros(32, len(anchors), 4)
    results = []
    for device in ("cpu", "cuda"):
        scene = PaddedObjects(*(x.to(device) for x in objects))
        dense = [x.double().to(device) for x in (anchors, logits, deltas)]
        results.append((assign_iou(scene, dense[0], 3), assign_mutual_guidance(scene, *dense)))
    for here, there in zip(*results, strict=True):
        for field in ("class_mask", "class_index", "boxes", "box_index"):
            assert torch.equal(getattr(here, field), getattr(there, field).cpu()), field
