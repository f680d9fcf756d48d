"""Ways to break an image file, each a function of its path."""

import io
import os
import struct
import zlib
from pathlib import Path

from PIL import Image

CURE = "Mend or remove these images"  # what every message about them says


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def lose_the_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("<html>404 Not Found</html>")


def png(path: Path, cut: int = 0) -> None:
    """A PNG with the suffix of a JPEG, perhaps cut."""
    stream = io.BytesIO()
    with Image.open(path) as image:
        image.save(stream, "PNG")
    path.write_bytes(stream.getvalue()[: len(stream.getvalue()) - cut])


def cut_png(path: Path) -> None:
    png(path, 2000)


def floats(path: Path) -> None:
    """Numbers with a point, whose white nobody knows."""
    Image.new("F", (8, 8)).save(path, "TIFF")


def remove(path: Path) -> None:
    path.unlink()


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere.jpg")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def bomb(path: Path) -> None:
    """A small file that claims to hold 400 million pixels."""
    png(path)
    content = path.read_bytes()
    size = struct.pack(">II", 20_000, 20_000)
    checksum = struct.pack(">I", zlib.crc32(b"IHDR" + size + content[24:29]))
    path.write_bytes(content[:16] + size + content[24:29] + checksum + content[33:])
