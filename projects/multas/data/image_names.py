"""Finds the images that a file names in one of the many ways in which files name images."""

import os
from collections import Counter
from collections.abc import Iterable


class ImageNames:
    """The ids of some images, found by names with or without extension and folders.

    Args:
        ids: paths below the folder of the images, without extension, with "/" between folders.
    """

    def __init__(self, ids: Iterable[str]):
        self._ids = set(ids)
        ends = [image_id.rpartition("/")[2] for image_id in self._ids]
        twice = {end for end, times in Counter(ends).items() if times > 1}
        pairs = zip(ends, self._ids, strict=True)
        self._by_end = {end: image_id for end, image_id in pairs if end not in twice}

    def find(self, name: str) -> str | None:
        """The id of an image, or None if there is none of this name.

        Folders of another computer before those that are here do not matter, and none need be
        given where a name is that of one image alone.
        """
        parts = name.replace("\\", "/").split("/")
        for tail in (parts[start:] for start in range(len(parts))):
            path = "/".join(tail)
            for image_id in (os.path.splitext(path)[0], path):
                if image_id in self._ids:
                    return image_id
        return self._by_end.get(os.path.splitext(parts[-1])[0]) or self._by_end.get(parts[-1])
