"""Entries of a config as arguments of a class."""

import pytest

from multas.util.options import parse_options


class Aggregator:
    """What a user may register."""

    def __init__(self, weights, power=1.0, *, per_layer=False):
        pass


class Typed:
    """As of a module with annotations that are texts, one of them of a name that is not there."""

    def __init__(self, weights: "Tensor", size: "float" = 1.0, name: str = "", count: int = 0):  # noqa: F821
        pass


def parse(entry):
    return parse_options(Aggregator, entry, "KEY", given=("weights",), keys=("TYPE",))


def test_keys_become_arguments():
    entry = {"TYPE": "Aggregator", "POWER": 0.5, "PER_LAYER": True}
    assert parse(entry) == {"power": 0.5, "per_layer": True}
    assert parse({}) == {}


@pytest.mark.parametrize("key", ["POWR", "WEIGHTS", "SELF"])
def test_a_key_is_an_argument_that_the_entry_may_set(key):
    choices = r"Choose from: PER_LAYER, POWER, TYPE\.$"
    with pytest.raises(ValueError, match=rf"^KEY: unknown key '{key}'\..*{choices}"):
        parse({"TYPE": "Aggregator", key: 1})


def test_the_nearest_key_is_named():
    with pytest.raises(ValueError, match="Did you mean 'POWER'"):
        parse({"POWR": 1})


def test_plain_arguments_have_a_type():
    good = {"SIZE": 2, "NAME": "a", "COUNT": 3}
    assert parse_options(Typed, good, "KEY") == {"size": 2, "name": "a", "count": 3}
    for key, wrong in (("SIZE", "2"), ("SIZE", True), ("NAME", 3), ("COUNT", 2.5), ("COUNT", None)):
        with pytest.raises(ValueError, match=rf"^KEY: {key} is .*; it must be of type"):
            parse_options(Typed, {key: wrong}, "KEY")
