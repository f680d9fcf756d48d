"""Finds the images that a file names in one of the many ways in which files name images."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


class Match(NamedTuple):
    """An image that a name means."""

    image_id: str
    parts: int  # the folders and the name that agree; 0 if the name alone does, below other folders


class ImageNames:
    """The ids of some images, found by names with or without extension and folders.

    Args:
        ids: paths below the folder of the images, without extension, with "/" between folders.
    """

    def __init__(self, ids: Iterable[str]):
        self._ids = set(ids)
        times = Counter(map(_end, self._ids))
        self._by_end = {_end(own): own for own in self._ids if times[_end(own)] == 1}

    def match(self, name: str) -> Match | None:
        """The image that a name means by itself; see :meth:`find_all`."""
        parts = name.replace("\\", "/").split("/")
        for start in range(len(parts)):
            path = "/".join(parts[start:])
            for image_id in (path, without_suffix(path)):
                if image_id in self._ids:
                    return Match(image_id, len(parts) - start)
        for end in (parts[-1], without_suffix(parts[-1])):
            if end in self._by_end:
                return Match(self._by_end[end], 0)
        return None

    def find_all(self, names: Iterable[str]) -> dict[str, str]:
        """The ids of those names that are those of images.

        What a path has before the folders that are here, as that of another computer, does not
        matter, and folders need not be given where a name is that of one image alone. But of paths
        that would come to mean one image, such as 2019/1.jpg and 2020/1.jpg, none is found that is
        not the image's own.
        """
        found: dict[str, list[str]] = defaultdict(list)
        for name in dict.fromkeys(names):
            if (match := self.match(name)) is not None:
                found[match.image_id].append(name)
        ids: dict[str, str] = {}
        for image_id, own in found.items():
            paths = {name: without_suffix(name.replace("\\", "/")) for name in own}
            longest = max(paths.values(), key=len)
            is_clear = all(f"/{longest}".endswith(f"/{path}") for path in paths.values())
            ids |= {n: image_id for n, path in paths.items() if is_clear or path == image_id}
        return ids


def without_suffix(path: str) -> str:
    """A path without the extension of an image; dots in names stay."""
    suffix = next((s for s in IMAGE_SUFFIXES if path.lower().endswith(s)), "")
    return path[: len(path) - len(suffix)] if suffix else path


def _end(image_id: str) -> str:
    return image_id.rpartition("/")[2]
