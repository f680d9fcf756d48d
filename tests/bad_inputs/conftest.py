"""A world of small files for each test to spoil."""

import itertools
import shutil

import pytest

from bad_inputs.world import World, build

_numbers = itertools.count()


@pytest.fixture(scope="session")
def sound_world(tmp_path_factory):
    """What every test gets a copy of."""
    return build(tmp_path_factory.mktemp("world"))


@pytest.fixture
def world(sound_world, tmp_path, forget_registered):
    """A copy of all files, to spoil; nothing that a script registers stays."""
    folder = tmp_path / "world"
    shutil.copytree(sound_world.folder, folder)
    return World(folder)
