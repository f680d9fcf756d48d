"""A small copy of the embedded set, and catalogs that forget what a test registered."""

import pytest
import yaml

from layouts import lay_out
from multas.data import make_toy


@pytest.fixture(scope="session")
def small_toy(tmp_path_factory):
    """Folder of an embedded set of 24 + 6 + 8 images; tests must not change it."""
    return make_toy(tmp_path_factory.mktemp("small") / "toy", train=24, val=6, test=8)


@pytest.fixture
def toy_card(repository, small_toy):
    """The content of the shipped card, with the small copy as root."""
    content = yaml.safe_load((repository / "datasets/cards/toy.yaml").read_text())
    return {**content, "root": str(small_toy)}


@pytest.fixture(autouse=True)
def no_data_sets_stay(forget_registered):
    """No test finds what another registered."""


@pytest.fixture
def lay(tmp_path):
    """``lay({path: content})`` makes a folder, see :func:`layouts.lay_out`."""
    return lambda files, name="my set": lay_out(tmp_path / name, files)
