"""Names from data stay below their folder."""

import os

import pytest

from multas.util.errors import UserError
from multas.util.paths import inside


@pytest.mark.parametrize("name", ["a", "a/b.txt", "a/../b", "..a", "a b/ö", "link", "to/x"])
def test_what_stays_inside_is_a_path(tmp_path, name):
    folder = tmp_path / "folder"
    (folder / "real").mkdir(parents=True)
    os.symlink(tmp_path / "victim", folder / "link")  # it may be removed, which spares its target
    os.symlink(folder / "real", folder / "to")
    assert inside(folder, name, "list") == folder / name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/../../x", "/etc/passwd", "out/x", "../folder2/x", "loop/x", "a\0b",
     "a/..", "../folder"],
)  # fmt: skip
def test_what_leaves_is_refused(tmp_path, name):
    folder = tmp_path / "folder"
    folder.mkdir()
    os.symlink(tmp_path, folder / "out")
    os.symlink("loop", folder / "loop")
    with pytest.raises(UserError, match=r"list names .* not inside of"):
        inside(folder, name, "list")


def test_the_folder_itself_may_be_a_link_or_relative(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    os.symlink(tmp_path / "real", tmp_path / "folder")
    monkeypatch.chdir(tmp_path)
    assert str(inside("folder", "x", "list")) == "folder/x"
