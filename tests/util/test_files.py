"""Files that are never left half written."""

import os

import pytest

from multas.util.files import written_whole


def test_a_file_is_there_when_the_block_has_ended(tmp_path):
    file = tmp_path / "a.json"
    file.write_text("old")
    with written_whole(file) as partial:
        assert (os.path.dirname(partial), partial != str(file)) == (str(tmp_path), True)
        with open(partial, "w") as stream:
            stream.write("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new" and os.listdir(tmp_path) == ["a.json"]


def test_a_failed_write_keeps_the_old_file(tmp_path):
    file = tmp_path / "a.json"
    file.write_text("old")
    with pytest.raises(KeyError), written_whole(str(file)) as partial:
        with open(partial, "w") as stream:
            stream.write("half")
        raise KeyError
    assert file.read_text() == "old"


def test_processes_may_write_at_once(tmp_path):
    file = tmp_path / "a"
    with written_whole(file, ".1") as one, written_whole(file, ".2") as two:
        assert one != two
        for name in (one, two):
            with open(name, "w") as stream:
                stream.write(name[-1])
    assert file.read_text() == "1" and os.listdir(tmp_path) == ["a"]
