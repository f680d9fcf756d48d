"""A miniature of ADE20K as the scene parsing benchmark has it (ADEChallengeData2016).

- README.md of CSAILVision/sceneparsing, the benchmark's development kit, has the paths
  "images/training/ADE_train_00000001.jpg", "annotations/validation/ADE_val_00000001.png" and so on.
  "Note: annotations masks contain labels ranging from 0 to 150, where 0 refers to "other objects".
  We do not consider those pixels in our evaluation." "objectInfo150.txt contains the information
  about the labels of the 150 semantic categories, including indices, pixel ratios and names"; the
  file there starts with the columns Idx, Ratio, Train, Val and Name, with tabs between them.
- datasets/prepare_ade20k_sem_seg.py of Detectron2 writes annotations_detectron2: "img = img - 1
  # 0 (ignore) becomes 255. others are shifted by 1", and asserts masks of uint8.
- Sizes differ: "those large-sized images were rescaled to make their minimum heights or widths as
  512" (the card of the data set scene_parse_150, after Zhou et al., Semantic Understanding of
  Scenes through the ADE20K Dataset); so smaller ones remain, some narrower than the paper's crop.

Not checked against a document: sceneCategories.txt, which nothing here reads, with the name of an
image and its scene on each line, as others read it.
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
