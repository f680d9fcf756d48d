"""Data formats: each is a registered class, and importing this package registers them all."""

from multas.data.formats import cifar, coco, folders, masks, vedai, voc
from multas.data.formats.base import DATA_FORMAT_REGISTRY, DataFormat, Source

__all__ = ["DATA_FORMAT_REGISTRY", "DataFormat", "Source"]
__all__ += ["cifar", "coco", "folders", "masks", "vedai", "voc"]
