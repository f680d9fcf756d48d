"""Pseudo-masks: a teacher's class of every pixel that it is certain of, kept in a folder.

The folder has a PNG for each image, (H, W) class indices at the size of the image, and masks.json:
"header" says where they come from (:class:`MaskHeader`), "masks" names the file of each image by
``{"image_id", "file"}``. "file" is "" where no pixel is certain; such an image is not annotated.
Other pixels without a certain class have the ignore label. "masks" is null while a folder is being
written, so that an interrupted one does not pass for whole.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from multas.data.formats.mask_files import voc_palette
from multas.data.json_files import ID, Kind, entry_fault, is_number, read_json
from multas.util.errors import UserError
from multas.util.files import write_text
from multas.util.names import plain_names
from multas.util.paths import inside

VERSION = 1
INDEX = "masks.json"
KEY = "DATASETS.PSEUDO_LABELS.MASKS"
AGAIN = "Label the images again with tools/pseudo_label.py --masks."

_TEXT = Kind("a text", lambda v: type(v) is str)
_HEADER = {
    "dataset": _TEXT,
    "classes": Kind("a list of names", lambda v: type(v) is list and all(map(_TEXT.fits, v))),
    "prob_thresh": Kind("a number from 0 to 1", lambda v: is_number(v) and 0 <= v <= 1),
    "ignore_label": Kind("a value of a mask", lambda v: type(v) is int and 0 <= v <= 255),
    "version": Kind(f"{VERSION}, which this multas reads", lambda v: v == VERSION),
}
_ENTRY = {"image_id": ID, "file": _TEXT}


@dataclass(frozen=True)
class MaskHeader:
    """Where a folder of pseudo-masks comes from."""

    dataset: str  # name of the split whose images were labelled
    classes: list[str]  # names of the values 0, 1, …
    prob_thresh: float  # the lowest probability of a class that was kept
    ignore_label: int  # value of the other pixels
    teacher_config: str = ""  # file of the teacher's config
    teacher_weights: str = ""  # file of its weights
    teacher_sha256: str = ""  # hash of that file
    version: int = VERSION


def certain_labels(logits: torch.Tensor, prob_thresh: float, ignore_label: int) -> np.ndarray:
    """The best class of each pixel, or ``ignore_label`` where its probability is too low.

    Args:
        logits: (C, H, W) of a model's "sem_seg".
        prob_thresh: the lowest softmax probability that counts.
        ignore_label: a value from 0 to 255.

    Returns:
        (H, W) uint8.

    Raises:
        UserError: There are more classes than values.
    """
    if len(logits) > 256:
        raise UserError(f"The teacher has {len(logits)} classes of pixels; masks hold up to 256.")
    best, labels = logits.float().softmax(0).max(0)
    labels[best < prob_thresh] = ignore_label
    return labels.to("cpu", torch.uint8).numpy()


def check_mask_folder(folder: str | os.PathLike, what: str) -> None:
    """Make sure that a folder is free for masks, or has nothing but older ones.

    Raises:
        UserError: It is no folder, or has other files; ``what`` is the argument that names it.
    """
    path = Path(folder)
    if os.path.lexists(path) and not path.is_dir():
        raise UserError(f"{what} '{folder}' is no folder; name another.")
    if path.is_dir() and any(path.iterdir()) and not (path / INDEX).is_file():
        raise UserError(
            f"{what} '{folder}' has files that are no pseudo-masks; name another folder, or an "
            "empty one."
        )


@dataclass
class MaskWriter:
    """Writes masks into a folder and remembers what the index says of them.

    Args:
        folder: of the masks.
        header: what they are.
        names: the name of the file of each image, by id.
    """

    folder: Path
    header: MaskHeader
    names: Mapping[Any, str]
    written: list[dict[str, Any]] = field(default_factory=list)
    certain: int = 0  # number of pixels with a class
    pixels: int = 0  # number of all
    digest: Any = field(default_factory=hashlib.sha256)

    def __call__(self, image_id: Any, logits: torch.Tensor) -> None:
        """Write the mask of an image by its "sem_seg", see :func:`certain_labels`."""
        if len(logits) != len(self.header.classes):
            raise UserError(
                f"The teacher has {len(logits)} classes of pixels, but there are "
                f"{len(self.header.classes)} names: {', '.join(self.header.classes)}."
            )
        mask = certain_labels(logits, self.header.prob_thresh, self.header.ignore_label)
        count = int((mask != self.header.ignore_label).sum())
        self.certain, self.pixels = self.certain + count, self.pixels + mask.size
        if not self.written:
            _begin(self.folder, self.header)
        self.digest.update(repr((image_id, mask.shape)).encode() + mask.tobytes())
        self.written.append({"image_id": image_id, "file": self.names[image_id] if count else ""})
        if count:
            picture = Image.fromarray(mask).convert("P")
            picture.putpalette(voc_palette())
            picture.save(self.folder / self.names[image_id], "PNG")

    def summary(self) -> str:
        """How many masks there are, and of how many pixels the teacher was certain."""
        there = sum(bool(entry["file"]) for entry in self.written)
        share = self.certain / max(self.pixels, 1)
        return f"{there} masks of {len(self.written)} images, {share:.0%} of the pixels certain."


@contextmanager
def writing_masks(
    folder: str | os.PathLike, header: MaskHeader, image_ids: Sequence[Any]
) -> Iterator[MaskWriter]:
    """Gives what writes the masks of images into a folder, which has an index when all is well.

    The first mask removes older ones from the folder, see :func:`check_mask_folder`.
    """
    path = Path(folder)
    writer = MaskWriter(path, header, plain_names({i: f"{i}.png" for i in image_ids}))
    yield writer
    if not writer.written:
        _begin(path, header)
    index = {"header": asdict(header), "sha256": writer.digest.hexdigest()}
    write_text(path / INDEX, json.dumps(index | {"masks": writer.written}))


def _begin(folder: Path, header: MaskHeader) -> None:
    """An empty folder, which does not pass for one of masks."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / INDEX, json.dumps({"header": asdict(header), "masks": None}))
    for old in folder.glob("*.png"):
        old.unlink()


def read_pseudo_masks(folder: str) -> tuple[MaskHeader, dict[Any, str]]:
    """The header of a folder, and the file of each labelled image by its id ("" = no mask).

    Raises:
        FileNotFoundError: There is no such folder.
        UserError: It is no folder of pseudo-masks, or its labelling was interrupted, or a mask is
            gone.
    """
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(
            f"{KEY} names '{folder}': no such folder. tools/pseudo_label.py --masks writes it."
        )
    file = path / INDEX
    if not file.is_file():
        raise UserError(f"{KEY} names '{folder}', which has no {INDEX}. {AGAIN}")
    content = read_json(file)
    if not isinstance(content, dict) or not {"header", "masks"} <= content.keys():
        raise UserError(f"{file} is not the index of pseudo-masks. {AGAIN}")
    if fault := entry_fault(content["header"], _HEADER):
        raise UserError(f"{file}: header: {fault}. {AGAIN}")
    if content["masks"] is None:
        raise UserError(f"{folder} is incomplete: its labelling was interrupted. {AGAIN}")
    if not isinstance(content["masks"], list):
        raise UserError(f"{file}: masks must be a list. {AGAIN}")
    there, found = set(os.listdir(path)), {}
    for number, entry in enumerate(content["masks"]):
        if fault := entry_fault(entry, _ENTRY):
            raise UserError(f"{file}: masks[{number}]: {fault}. {AGAIN}")
        image_id, name = entry["image_id"], entry["file"]
        if image_id in found:
            raise UserError(f"{file}: masks lists the image {image_id!r} twice. {AGAIN}")
        if name and name not in there:
            raise UserError(
                f"{inside(path, name, str(file))}, which {INDEX} names, is gone. {AGAIN}"
            )
        found[image_id] = str(path / name) if name else ""
    known = {f.name for f in fields(MaskHeader)}
    return MaskHeader(**{k: v for k, v in content["header"].items() if k in known}), found
