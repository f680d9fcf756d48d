"""Data formats: one registered class in one file each."""

from multas.data.formats.base import DATA_FORMAT_REGISTRY, DataFormat, Source
from multas.data.formats.cifar import Cifar10, Cifar100
from multas.data.formats.coco import Coco
from multas.data.formats.folders import Folders
from multas.data.formats.images import Images
from multas.data.formats.masks import Masks
from multas.data.formats.vedai import Vedai
from multas.data.formats.voc import Voc

__all__ = [
    "DATA_FORMAT_REGISTRY",
    "Cifar10",
    "Cifar100",
    "Coco",
    "DataFormat",
    "Folders",
    "Images",
    "Masks",
    "Source",
    "Vedai",
    "Voc",
]
