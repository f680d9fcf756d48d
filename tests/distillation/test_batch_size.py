"""What a path makes of a batch with every image twice is what docs/batches.md says."""

import pytest
import torch
from detectron2.structures import Boxes
from torch import nn

from multas.distillation.paths.base import Targets
from path_building import build_path

SIZES = ((4, 4), (2, 2))


def maps(channels):
    return [torch.randn(3, channels, *size).double() for size in SIZES]


def head():
    """Logits of 3 classes and deltas, 6 anchors in a cell."""
    return maps(18), maps(24)


def linear():
    teacher = nn.Module()
    teacher.fc = nn.Linear(5, 7).double()
    return teacher


def normed():
    teacher = nn.Module()
    teacher.norm = nn.BatchNorm2d(5).double()
    teacher.norm.running_mean.fill_(0.1)
    return teacher


# (path, tapped layers of one network, the teacher, options, the loss of twice the images).
CASES = [
    ("AttentionTransfer", lambda: maps(4), None, {}, 1.0),
    ("NeuronSelectivity", lambda: maps(4), None, {}, 1.0),
    ("FeatureMap", lambda: maps(4), None, {"ADAPTER": "conv_bn_always"}, 1.0),
    ("FeatureMSE", lambda: maps(4), None, {}, 1.0),
    ("SoftTarget", lambda: maps(4)[:1], None, {}, 1.0),
    ("L2Logits", lambda: maps(4)[:1], None, {"REDUCTION": "sum"}, 1.0),
    ("Overhaul", lambda: maps(5)[:1], normed, {"NORMS": ["norm"]}, 1.0),
    ("FKD", lambda: maps(4), None, {}, 1.0),
    ("FKD", lambda: maps(4), None, {"NORMALISE": True}, 1.0),
    ("SoftDetection", lambda: [head()], None, {}, 1.0),
    ("PDFDistil", lambda: [maps(4), head()], None, {}, 1.0),
    ("DeFeat", lambda: [maps(4)], None, {}, 0.5),
]


def twice(layers):
    if torch.is_tensor(layers):
        return torch.cat([layers, layers])
    return type(layers)(twice(layer) for layer in layers)


def targets(times: int) -> Targets:
    boxes = [Boxes(torch.tensor([[0.0, 0, 40, 30 + 10 * i]])) for i in range(3)] * times
    return Targets([(64, 64)] * len(boxes), (64, 64), [None] * len(boxes), boxes)


@pytest.mark.parametrize(("kind", "make", "teacher", "options", "factor"), CASES)
def test_every_image_twice(kind, make, teacher, options, factor):
    ours, theirs = make(), make()
    path = build_path(kind, ours, theirs, teacher and teacher(), **options).double()
    once = path(ours, theirs, targets(1))
    double = path(twice(ours), twice(theirs), targets(2))
    for name, loss in once.items():
        assert loss > 0
        torch.testing.assert_close(double[name], factor * loss)


def test_every_image_twice_in_softmax_regression():
    student, logits = maps(4)[:1], [torch.randn(3, 7).double()]
    options = {"CLASSIFIER": "fc"}
    path = build_path("SoftmaxRegression", student, logits, linear(), **options).double()
    (once,) = path(student, logits, targets(1)).values()
    (double,) = path(twice(student), twice(logits), targets(2)).values()
    torch.testing.assert_close(double, once)
