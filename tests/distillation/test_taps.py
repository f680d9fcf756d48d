"""Taps on toy modules whose results can be worked out by hand."""

from collections import namedtuple

import pytest
import torch
from torch import nn

from multas.distillation.taps import TapError, Taps, leaves, map_leaves


class Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


class Toy(nn.Module):
    """twice -> triple (twice, as a shared head) -> dict; the result of `spoiled` is overwritten."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = Scale(2)
        self.triple = Scale(3)
        self.pyramid = Pyramid()
        self.spoiled = Scale(5)
        self.unused = nn.ModuleList([Scale(7)])
        self.last_ran = 0

    def forward(self, batch):
        x = self.twice(batch[0]["image"])
        heads = [self.triple(x), self.triple(x + 1)]
        levels = self.pyramid(x)
        spoiled = self.spoiled(x)
        spoiled += 100
        self.last_ran += 1
        return heads, levels, spoiled


class Pyramid(nn.Module):
    def forward(self, x):
        return {"p3": x + 3, "p4": (x + 4, x + 5)}


def inputs():
    return [{"image": torch.ones(1, 2)}]


def record(names, stop_early=False):
    model = Toy()
    taps = Taps(model, names)
    taps.probe(model, inputs())
    with taps.record(stop_early=stop_early) as values:
        model(inputs())
    return model, values


def test_values_are_what_the_layers_returned():
    _, values = record(["twice", "pyramid.p3", "pyramid.p4.1"])
    assert values["twice"].tolist() == [[2, 2]]
    assert values["pyramid.p3"].tolist() == [[5, 5]]
    assert values["pyramid.p4.1"].tolist() == [[7, 7]]


def test_a_shared_layer_gives_its_results_in_call_order():
    _, values = record(["triple"])
    assert [v.tolist() for v in values["triple"]] == [[[6, 6]], [[9, 9]]]


def test_a_result_that_is_overwritten_in_place_is_kept_as_it_was():
    _, values = record(["spoiled"])
    assert values["spoiled"].tolist() == [[10, 10]]


def test_stopping_early_skips_what_lies_behind_the_last_tap():
    model, values = record(["twice", "triple"], stop_early=True)
    assert model.last_ran == 1, "only the probing pass may reach the end"
    assert len(values["triple"]) == 2


def test_nothing_stays_attached_to_the_model():
    model, _ = record(["twice"])
    assert not any(module._forward_hooks for module in model.modules())


def test_hooks_are_removed_when_the_model_raises():
    model = Toy()
    taps = Taps(model, ["twice"])
    with pytest.raises(KeyError), taps.record():
        model([{}])
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("twicee", "Nearest: twice"),
        ("pyramid.p5", "entries p3, p4"),
        ("pyramid.p4.2", "indices 0 to 1"),
        ("unused", "never called.*Tap what is inside: 0"),
        ("unused.0", "never called"),
    ],
)
def test_a_wrong_name_says_what_would_be_right(name, hint):
    model = Toy()
    with pytest.raises(TapError, match=hint):
        Taps(model, [name], "student").probe(model, inputs())


def test_probing_leaves_modes_and_statistics_alone():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    model[1].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    Taps(model, ["0"]).probe(model, torch.randn(4, 2))
    assert [m.training for m in model] == [True, False]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_leaves_are_in_order():
    nested = {"a": [torch.tensor(1), (torch.tensor(2), None)], "b": torch.tensor(3)}
    assert [int(leaf) for leaf in leaves(nested)] == [1, 2, 3]


def test_a_function_of_all_tensors_keeps_the_nest():
    pair = namedtuple("pair", "a b")
    nest = {"x": [torch.ones(1), pair(torch.ones(2), (torch.ones(3), None))]}
    doubled = map_leaves(lambda t: 2 * t, nest)
    assert [leaf.tolist() for leaf in leaves(doubled)] == [[2.0] * n for n in (1, 2, 3)]
    assert isinstance(doubled["x"][1], pair) and doubled["x"][1].b[1] is None
