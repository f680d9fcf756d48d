"""Data formats: each is a registered class, and importing this package registers them all."""

# First: where torchvision's compiled operators do not load, Detectron2 makes torchvision work.
import detectron2  # noqa: F401

from multas.data.formats import (
    cifar,
    coco,
    csv,
    folders,
    instances,
    kitti,
    labelme,
    masks,
    vedai,
    voc,
    yolo,
)
from multas.data.formats.base import DATA_FORMAT_REGISTRY, DataFormat, Source

__all__ = ["DATA_FORMAT_REGISTRY", "DataFormat", "Source"]
__all__ += ["cifar", "coco", "csv", "folders", "instances", "kitti", "labelme", "masks", "vedai"]
__all__ += ["voc", "yolo"]
