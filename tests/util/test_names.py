"""Names that a user has written: the nearest ones, choices, and registered classes."""

import pytest
from fvcore.common.registry import Registry

from multas.util.names import check_choice, did_you_mean, lookup, nearest

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
