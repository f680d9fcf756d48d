"""Lists of ids: with spaces, and with the flags of VOC's lists by class."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multas.util.id_lists import read_id_list


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("a\n\n b \r\nc\t\n", [(1, "a"), (3, "b"), (4, "c")]),
        ("my image\nother\n", [(1, "my image"), (2, "other")]),
        ("000012 -1\n000017  1\n000023\t0\n", [(1, "000012"), (2, "000017"), (3, "000023")]),
        ("photo 1\nphoto 2\n", [(1, "photo 1"), (2, "photo 2")]),
        ("my image 1\nmy image 12 -1\n", [(1, "my image"), (2, "my image 12")]),
        ("scan 0\nscan 1\nlast 1\n", [(1, "scan 0"), (2, "scan 1"), (3, "last 1")]),
        ("", []),
    ],
)
def test_lines_are_ids(tmp_path, text, ids):
    (tmp_path / "a.txt").write_text(text, newline="")
    assert read_id_list(tmp_path / "a.txt") == ids


@given(
    ids=st.lists(st.from_regex(r"[^\s\0\ufeff]([^\x00-\x1f\x85\ufeff\u2028]*[^\s\0\ufeff])?",
                               fullmatch=True), min_size=1, unique=True))  # fmt: skip
def test_what_is_written_is_read(tmp_path_factory, ids):
    file = tmp_path_factory.mktemp("ids") / "a.txt"
    flags = itertools.cycle(["1", " 0", "-1"])
    file.write_text("".join(f"{name} {next(flags)}\n" for name in ids))
    assert [name for _, name in read_id_list(file)] == ids
