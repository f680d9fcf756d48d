"""Every data set of the papers in miniature: a few drawn images, in the real layout.

Each module makes one data set and quotes what its own tools or documents say of the format. Where
no document was found, it says who reads or describes the files instead; the rest is marked "not
checked against a document". The documents of VOC, SBD, COCO and CIFAR and the table of VEDAI's
paper were read in copies of their text, or as others quote them. The folder that the data sets are
made in has the layout of the folder that DETECTRON2_DATASETS names.
"""

from pathlib import Path

from multas.util.files import write_text
from reproduction.miniatures.ade20k import make_ade20k
from reproduction.miniatures.cifar import accept, make_cifar
from reproduction.miniatures.cityscapes import make_cityscapes
from reproduction.miniatures.class_folders import make_imagenet, make_tiny_imagenet
from reproduction.miniatures.coco import make_coco
from reproduction.miniatures.vedai import make_vedai
from reproduction.miniatures.voc import make_voc

MAKERS = (
    make_voc, make_vedai, make_coco, make_cityscapes, make_ade20k, make_imagenet,
    make_tiny_imagenet, make_cifar,
)  # fmt: skip
_VERSION = "2"
_MADE = "miniatures.txt"


def make_miniatures(root: Path) -> None:
    """Make all data sets in the folder ``root`` that are not there yet."""
    root.mkdir(parents=True, exist_ok=True)
    made = root / _MADE
    if not is_miniature(root):
        for make in MAKERS:
            make(root)
        write_text(made, _VERSION)


def is_miniature(root: Path) -> bool:
    """Whether a folder has the miniatures, and no real data."""
    made = root / _MADE
    return made.is_file() and made.read_text() == _VERSION


__all__ = ["accept", "is_miniature", "make_miniatures"]
