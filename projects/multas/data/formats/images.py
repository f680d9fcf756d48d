"""Unlabelled images in a folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from multas.data.formats.base import DATA_FORMAT_REGISTRY, DataFormat, Loaded, Source
from multas.data.image_files import load_images
from multas.util.annotation import BOXES


@DATA_FORMAT_REGISTRY.register()
@dataclass(frozen=True, kw_only=True)
class Images(DataFormat):
    """All images of a folder, or those of a list; ``suffix`` stands between id and extension."""

    default_splits = {"all": {}}  # noqa: RUF012

    suffix: str = ""

    def load(self, source: Source) -> Loaded:
        return self.load_unlabeled(source)

    def load_unlabeled(self, source: Source) -> Loaded:
        return load_images(source.root / self.images, source.ids, source.issues, self.suffix), {}

    def class_metadata(self, classes: Sequence[str]) -> dict[str, Any]:
        """Those of the boxes that pseudo-labels may give to the images."""
        return {BOXES.classes_key: list(classes)}
