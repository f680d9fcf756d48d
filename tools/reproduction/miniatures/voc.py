"""Miniatures of Pascal VOC 2007 and 2012, of the authors' lists, and of SBD.

The development kits of VOC (devkit_doc.pdf and htmldoc/devkit_doc.html of VOC2007 and VOC2012):

- On ImageSets/Main/<class>_<imgset>.txt: "-1: Negative: The image contains no objects of the class
  of interest." "1: Positive: The image contains at least one object of the class of interest."
  "0: "Difficult": The image contains only objects of the class of interest marked as 'difficult'."
- "an object marked as 'truncated' indicates that the bounding box specified for the object does not
  correspond to the full extent of the object"; "an object marked as 'difficult' indicates that the
  object is considered difficult to recognize".
- On masks: "pixel indices correspond to classes in alphabetical order (1=aeroplane, 2=bicycle,
  3=bird, ...)"; "The VOClabelcolormap function creates the color map which has been used for all
  provided indexed images"; its size "should generally be set to 256 to include a color for the
  'void' label". Readers add that void, 255, is used in border regions and masks difficult objects;
  here only borders have it.
- VOCcode/VOCreadrecxml.m reads the elements <part> of an object like objects, with a name and a
  <bndbox>, and <actions>, <truncated>, <occluded> and <difficult> as 1 or not; VOCcode/VOCevaldet.m
  takes xmax - xmin + 1 as the width of a box. It is Detectron2 that counts pixels from 1: "Original
  annotations are integers in the range [1, W or H]" (data/datasets/pascal_voc.py). <point> is of
  the action task, where a person "is indicated only by a single point lying somewhere on their
  body".

What readers of the annotation files report: "<ymin>45.70000076293945</ymin>" in 2011_003353 and a
similar one in 2011_006777. Not checked against a document: that the files have no XML declaration,
and that those since 2008 have another order of corners. What tools write that save files anew, a
declaration of another encoding or a byte order mark, is here, too.

SBD (README of its archive benchmark_RELEASE): "The dataset is bundled together in the directory
'dataset'", with img, cls and inst, of which only cls is here. "Each mat file contains a struct
called GTcls with 3 fields": Segmentation, where "Pixels that belong to category k have value k,
pixels that do not belong to any category have value 0", so there is no void; Boundaries, "a cell
array", "stored as sparse arrays"; and CategoriesPresent. "There are in addition two text files,
train.txt and val.txt, containing the names (without the extension)". Not checked against a
document: that Segmentation is uint8, which the reader here asks for.

The lists (datasets/imgsetVOC of lhoangan/multas, the authors' code) "are to replace the original
`ImageSets`": `Main`, `Half`, `Quarter`, `Eighth` are "the overlapping training sets", `Half2`,
`3Quarter`, `7Eighth` "the complementary sets" (its README.md). They have an id on each line, most
without a newline at the end, not sorted; images of the test set are among the lists to learn from,
and pictures have two names (2007_000032 of 2012 is 000032 of 2007).
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat
from scipy.sparse import csc_matrix

from multas.data.formats.mask_files import voc_palette
from reproduction.miniatures.pictures import VOID, Picture, Thing, draw, save, write, write_lines

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
SIZES = ((500, 375), (500, 333), (375, 500), (353, 500))

LEARNED = {
    "2007": [
        "000032", "000005", "000007", "000009", "000012", "000016", "000017", "000019", "000020",
        "000021", "000023", "000024", "000026", "000030", "000033", "000034",
    ],
    "2012": [
        "2007_000032", "2008_000002", "2008_000003", "2008_000007", "2009_000001", "2009_000006",
        "2010_000001", "2010_000002", "2011_000006", "2011_003353", "2007_000033", "2007_000042",
        "2007_000061", "2008_000008", "2009_000009", "2010_000009",
    ],
}  # fmt: skip
TESTED = [f"{number:06d}" for number in (1, 2, 3, 4, 6, 8)]
# Evaluated in Tables 5 and 6: VOC2012's own segmentation images, with boxes and masks.
VALIDATED = ["2007_000033", "2007_000042", "2007_000061", "2008_000008"]
# Those that have a mask of VOC; the other masks of 2012 are SBD's.
MASKED = {"2007": {"000032", "000033", "000009", "000023"}, "2012": {"2007_000032", *VALIDATED}}
DET = {
    "2007": ["000005", "000007", "000012", "000016", "000017", "000019"],
    "2012": ["2008_000002", "2009_000001", "2011_003353", "2010_000001"],
}
SEG = {
    "2007": ["000032", "000009", "000023"],
    "2012": ["2008_000003", "2008_000007", "2009_000006", "2010_000002", "2011_000006"],
}
SBD = [*SEG["2012"], "2008_000002", "2009_000001", "2007_000033"]  # more than one list needs


def make_voc(root: Path) -> None:
    """Make VOC2007, VOC2012 and SBD in the folder ``root``."""
    for year in ("2007", "2012"):
        devkit, tested = root / f"VOC{year}", TESTED if year == "2007" else []
        for image_id in [*LEARNED[year], *tested]:
            _make_image(devkit, image_id, _picture(image_id), image_id in MASKED[year])
        _make_lists(devkit / "ImageSets", year, LEARNED[year], tested)
    for image_id in SBD:
        _make_sbd(root / "SBD", image_id, _picture(image_id).mask)
    write_lines(root / "SBD" / "train.txt", SBD[1:])
    write_lines(root / "SBD" / "val.txt", SBD[:1])


@cache
def _picture(image_id: str) -> Picture:
    known = [*LEARNED["2007"], *TESTED, *LEARNED["2012"]]
    number = known.index("000032" if image_id == "2007_000032" else image_id)
    return draw(number, SIZES[number % len(SIZES)], len(CLASSES))


def _make_image(devkit: Path, image_id: str, picture: Picture, masked: bool) -> None:
    save(devkit / "JPEGImages" / f"{image_id}.jpg", picture.image, quality=90)
    text, encoding = _annotation(devkit.name, image_id, picture, masked)
    write(devkit / "Annotations" / f"{image_id}.xml", text, encoding)
    if masked:
        number = np.zeros_like(picture.mask)
        for i, thing in enumerate(picture.things, start=1):
            number[thing.pixels] = i
        number[picture.mask == VOID] = VOID
        for folder, values in (("Class", picture.mask), ("Object", number)):
            mask = Image.fromarray(values)
            mask.putpalette(voc_palette())
            save(devkit / f"Segmentation{folder}" / f"{image_id}.png", mask)


def _annotation(devkit: str, image_id: str, picture: Picture, masked: bool) -> tuple[str, str]:
    """The text of an annotation file, and its encoding."""
    height, width = picture.mask.shape
    start, encoding = "", "utf-8"
    if image_id.endswith("7"):
        start, encoding = '<?xml version="1.0" encoding="ISO-8859-1"?>\n', "latin-1"
    elif image_id.endswith("6"):
        start, encoding = '<?xml version="1.0" encoding="utf-8"?>\n', "utf-8-sig"
    objects = [_object(devkit, i, thing) for i, thing in enumerate(picture.things)]
    owner = f"<owner>\n\t\t<flickrid>René {image_id}</flickrid>\n\t\t<name>?</name>\n\t</owner>"
    text = (
        f"{start}<annotation>\n\t<folder>{devkit}</folder>\n"
        f"\t<filename>{image_id}.jpg</filename>\n"
        f"\t<source>\n\t\t<database>The {devkit} Database</database>\n"
        f"\t\t<annotation>PASCAL {devkit}</annotation>\n\t\t<image>flickr</image>\n"
        "\t\t<flickrid>325991873</flickrid>\n\t</source>\n"
        f"\t{owner}\n\t<size>\n\t\t<width>{width}</width>\n\t\t<height>{height}</height>\n"
        f"\t\t<depth>3</depth>\n\t</size>\n\t<segmented>{int(masked)}</segmented>\n"
        + "".join(objects)
        + "</annotation>\n"
    )
    return text, encoding


def _object(devkit: str, number: int, thing: Thing) -> str:
    x0, y0, x1, y1 = thing.box
    corners = {"xmin": f"{x0 + 1}", "ymin": f"{y0 + 1}", "xmax": f"{x1}", "ymax": f"{y1}"}
    if devkit == "VOC2012":
        corners = {key: corners[key] for key in ("xmax", "xmin", "ymax", "ymin")}
        if number == 1 and y1 - y0 > 2:
            corners["ymin"] = f"{y0 + 1.70000076293945}"
    box = "".join(f"\t\t\t<{key}>{value}</{key}>\n" for key, value in corners.items())
    name, more = CLASSES[thing.label], ""
    if number == 0:  # the parts of a person have a name and a box, too
        part = f"<name>head</name>\n\t\t\t<bndbox>\n{box}\t\t\t</bndbox>"
        more += f"\t\t<part>\n\t\t\t{part}\n\t\t</part>\n"
    if devkit == "VOC2012":
        more += "\t\t<actions>\n\t\t\t<jumping>0</jumping>\n\t\t</actions>\n"
        more += f"\t\t<point>\n\t\t\t<x>{x0 + 1}</x>\n\t\t\t<y>{y0 + 1}</y>\n\t\t</point>\n"
        more += "\t\t<occluded>0</occluded>\n"
    return (
        f"\t<object>\n\t\t<name>{name}</name>\n\t\t<pose>Unspecified</pose>\n"
        f"\t\t<truncated>{int(thing.truncated)}</truncated>\n"
        f"\t\t<difficult>{int(thing.difficult)}</difficult>\n\t\t<bndbox>\n{box}\t\t</bndbox>\n"
        f"{more}\t</object>\n"
    )


def _make_lists(folder: Path, year: str, learned: Sequence[str], tested: Sequence[str]) -> None:
    half = len(learned) // 2
    official = {"train": learned[:half], "val": learned[half:], "trainval": learned}
    official |= {"test": tested} if tested else {}
    for part, ids in official.items():
        write_lines(folder / "Main" / f"{part}.txt", sorted(ids))
        for label, kind in enumerate(CLASSES):
            lines = [f"{image_id} {_shows(image_id, label):2d}" for image_id in sorted(ids)]
            write_lines(folder / "Main" / f"{kind}_{part}.txt", lines)
        masked = sorted(MASKED[year].intersection(ids))
        write_lines(folder / "Segmentation" / f"{part}.txt", masked)
    # Nested parts and their complements; one image of the test set is among those to learn from.
    for name, complement, count in (("Half", "Half2", 8), ("Quarter", "3Quarter", 4),
                                    ("Eighth", "7Eighth", 2)):  # fmt: skip
        members = [*tested[:1], *learned[1 : 1 + count]]
        others = [image_id for image_id in learned if image_id not in members]
        write_lines(folder / name / "trainval.txt", members, end="")
        write_lines(folder / complement / "trainval.txt", others, end="")
    valid = VALIDATED if year == "2012" else ["000033"]
    det, seg = DET[year], SEG[year]
    lists = {"MXEdet": det, "MXEdet2": det[1::2], "MXEseg": seg, "MXEseg2": seg[1::2]}
    for name, members in (lists | {"MXEall": [*det, *seg]}).items():
        write_lines(folder / name / "train.txt", members, end="")
        write_lines(folder / name / "val.txt", valid, end="")


def _shows(image_id: str, label: int) -> int:
    """1 where an image shows a class, 0 where only as a difficult object, else -1."""
    found = [thing for thing in _picture(image_id).things if thing.label == label]
    return -1 if not found else int(not all(thing.difficult for thing in found))


def _make_sbd(root: Path, image_id: str, mask: np.ndarray) -> None:
    segmentation = np.where(mask == VOID, 0, mask)
    boundaries = np.empty((len(CLASSES), 1), object)
    for label in range(len(CLASSES)):
        boundaries[label, 0] = csc_matrix(mask.shape, dtype=np.float64)
    present = np.unique(segmentation[segmentation > 0])[:, None].astype(np.uint8)
    content = {"Boundaries": boundaries, "Segmentation": segmentation, "CategoriesPresent": present}
    file = root / "cls" / f"{image_id}.mat"
    file.parent.mkdir(parents=True, exist_ok=True)
    savemat(file, {"GTcls": content}, do_compression=True)
