"""A miniature of ADE20K as the scene parsing benchmark has it (ADEChallengeData2016).

The format: README.md of the benchmark (sceneparsing.csail.mit.edu): images/{training,
validation}/ADE_{train,val}_<8 digits>.jpg, annotations/… as PNG of 8 bits with 1 to 150, 0 = none
of these; objectInfo150.txt and sceneCategories.txt; and datasets/prepare_ade20k_sem_seg.py of
Detectron2, which writes annotations_detectron2 with 1 subtracted, so that 0 becomes 255. Sizes
differ; some images are narrower than the paper's crop.
"""

from pathlib import Path

import numpy as np
from detectron2.data.datasets.builtin_meta import ADE20K_SEM_SEG_CATEGORIES

from reproduction.miniatures.pictures import bands, draw, save, write_lines

CLASSES = 150
SIZES = ((683, 512), (512, 683), (300, 225), (256, 341))
PARTS = {"training": ("train", 16), "validation": ("val", 4)}


def make_ade20k(root: Path) -> None:
    """Make ADEChallengeData2016 in the folder ``root``."""
    folder, scenes = root / "ADEChallengeData2016", []
    for part, (short, count) in PARTS.items():
        for number in range(count):
            size, name = SIZES[number % len(SIZES)], f"ADE_{short}_{number + 1:08d}"
            picture = draw(number, size, CLASSES)
            labels = bands(number, size, CLASSES + 1)
            for thing in picture.things:
                labels[thing.pixels] = thing.label + 1
            labels[picture.mask == 255] = 0
            save(folder / "images" / part / f"{name}.jpg", picture.image, quality=90)
            save(folder / "annotations" / part / f"{name}.png", labels)
            save(folder / "annotations_detectron2" / part / f"{name}.png", labels - np.uint8(1))
            scenes.append(f"{name} bathroom")
    write_lines(folder / "sceneCategories.txt", scenes)
    header = "Idx\tRatio\tTrain\tVal\tName"
    names = [f"{i + 1}\t0.1\t1\t1\t{name}" for i, name in enumerate(ADE20K_SEM_SEG_CATEGORIES)]
    write_lines(folder / "objectInfo150.txt", [header, *names])
