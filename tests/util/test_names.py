"""Names that a user has written: the nearest ones, choices, registered classes, and of files."""

import re
from pathlib import PurePath

import pytest
from fvcore.common.registry import Registry
from hypothesis import given
from hypothesis import strategies as st

from multas.util.names import (
    check_choice,
    did_you_mean,
    lookup,
    nearest,
    plain_name,
    plain_names,
)

CHOICES = ["single", "equal", "adaptive"]


def test_the_nearest_name_is_found_where_one_is_like_it():
    assert nearest("adaptve", CHOICES) == "adaptive"
    assert nearest("mgda", CHOICES) == ""


def test_an_error_ends_with_the_nearest_name_and_the_choices_in_order():
    listed = " Choose from: adaptive, equal, single."
    assert did_you_mean("adaptve", iter(CHOICES)) == f" Did you mean 'adaptive'?{listed}"
    assert did_you_mean("mgda", CHOICES) == listed


def test_a_key_has_one_of_its_values():
    check_choice("KEY", "equal", iter(CHOICES))
    with pytest.raises(
        ValueError, match=r"^KEY is 'Equal'; choose from single, equal, adaptive\.$"
    ):
        check_choice("KEY", "Equal", iter(CHOICES))


@pytest.mark.parametrize("name", ["HandTuned", "hand-tuned", "hand_tuned", "HANDTUNED"])
def test_case_and_hyphens_of_a_registered_name_do_not_matter(name):
    registry = Registry("THING")
    registry._do_register("Hand_Tuned", CHOICES)
    assert lookup(registry, name, "KEY") is CHOICES
    message = r"^KEY: nothing is registered as 'hand-tune'\. Did you mean 'Hand_Tuned'\?"
    with pytest.raises(ValueError, match=message):
        lookup(registry, "hand-tune", "KEY")


@given(st.dictionaries(st.integers(0, 9), st.text("aAÄß. /\\\n", max_size=5)))
def test_plain_names_can_lie_in_one_folder(paths):
    names = plain_names(paths)
    stems = [PurePath(name).stem.casefold() for name in names.values()]
    assert len(set(stems)) == len(paths)
    for name in names.values():
        assert re.fullmatch(r"[\w-][\w.-]*", name)
    # The name of a file does not depend on the order of the others.
    assert plain_names(dict(reversed(paths.items()))) == names


def test_plain_names_are_the_own_ones_where_they_can_be():
    paths = {1: "a/x 1.jpg", 2: "b/Ü.png", 3: "a/y.jpg", "3": "b/Y.png"}
    names = plain_names(paths)
    assert (names[1], names[2]) == ("x_1.jpg", "Ü.png")
    assert re.fullmatch(r"y-[0-9a-f]{8}\.jpg", names[3])
    assert re.fullmatch(r"Y-[0-9a-f]{8}\.png", names["3"])
    assert plain_name("U\N{COMBINING DIAERESIS}.png") == "Ü.png"
