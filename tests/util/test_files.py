"""Texts in any encoding, and files that are never left half written."""

import os
import re
import resource
import shutil
import subprocess

import pytest
import torch

from multas.util.errors import UserError
from multas.util.files import read_text, written_whole
from multas.util.files import write_text as write_whole_text


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


def test_a_failed_write_leaves_no_partial_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), written_whole(tmp_path / "a") as partial:
        with open(partial, "w") as stream:
            stream.write("half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


@pytest.fixture
def limited_files():
    """No file may grow above half a megabyte, which fails as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def full_disk(tmp_path):
    """A folder on a disk of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs the rights of root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def write_text(path):
    with open(path, "w") as stream:
        stream.write("x" * 4_000_000)


def write_tensor(path):
    torch.save({"weights": torch.zeros(1_000_000)}, path)


def write_tensors(path):
    torch.save({str(i): torch.zeros(1000) for i in range(1000)}, path)


def write_to_stream(path):
    with open(path, "wb") as stream:
        write_tensor(stream)


WRITERS = [write_text, write_tensor, write_tensors, write_to_stream]


def assert_keeps_the_old_file(folder, write):
    file = folder / "a.pth"
    file.write_text("old")
    with pytest.raises(UserError) as caught, written_whole(file) as partial:
        write(partial)
    assert re.match(
        rf"{file} could not be written: .* MB of its disk are free\)", str(caught.value)
    )
    assert os.listdir(folder) == ["a.pth"] and file.read_text() == "old"


@pytest.mark.parametrize("write", WRITERS)
def test_on_a_full_disk_the_old_file_stays(full_disk, write):
    assert_keeps_the_old_file(full_disk, write)


@pytest.mark.parametrize("write", WRITERS)
def test_so_it_does_where_a_file_grows_too_large(tmp_path, limited_files, write):
    assert_keeps_the_old_file(tmp_path, write)


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path):
    for error in (RuntimeError("shapes"), PermissionError(13, "no")):
        with pytest.raises(type(error)), written_whole(tmp_path / "a") as partial:
            write_text(partial)
            raise error


def test_links_and_devices_stay_what_they_are(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_whole_text(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "text"
    write_whole_text("/dev/null", "text")
    assert not os.path.isfile("/dev/null")
    with pytest.raises(OSError, match="directory"):
        write_whole_text(tmp_path, "text")
