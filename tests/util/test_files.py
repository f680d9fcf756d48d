"""Texts in any encoding, and files that are never left half written."""

import os

import pytest

from multas.util.errors import UserError
from multas.util.files import read_text, written_whole


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


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_is_read_in_the_encodings_of_unicode(tmp_path, encoding):
    file = tmp_path / "a.txt"
    file.write_bytes("Ä 1\r\nb\rc\n".encode(encoding))
    assert read_text(file) == "Ä 1\nb\nc\n"


def test_marks_of_joined_files_are_dropped(tmp_path):
    (tmp_path / "a.txt").write_bytes("a\n".encode("utf-8-sig") + "b\n".encode("utf-8-sig"))
    assert read_text(tmp_path / "a.txt") == "a\nb\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\nb\né".encode("latin-1"), r"a.txt: line 3 is not UTF-8; save .* UTF-8"),
        ("é".encode("utf-16")[:-1], r"a.txt: line 1 is not UTF-16; save .* UTF-8"),
        ("ab".encode("utf-16-le"), r"a.txt is not a text, .*; save .* UTF-8"),
    ],
)
def test_other_encodings_are_refused_by_line(tmp_path, content, message):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_text(tmp_path / "a.txt")
