"""The page on which a person looks through pseudo-labels: one HTML file that needs no network.

Pictures are small copies inside the page, or beside it in a folder where they would make it too
large. review.js, which runs in the browser, takes the decisions that review.py applies.
"""

import base64
import io
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image
from tqdm import tqdm

from multas.data.image_files import read_image
from multas.data.pseudo_label_files import Header, file_sha256
from multas.data.review_masks import mask_pictures
from multas.util.document import PALETTE
from multas.util.errors import UserError
from multas.util.files import write_text

_SIDE = 400  # of a picture, in pixels
_QUALITY = 80  # of JPEG
_MOST_BYTES = 30_000_000  # of a page with its pictures
_SUFFIX = "_files"  # of the folder beside a larger one


def write_review_page(
    page: str | os.PathLike,
    labels: str,
    header: Header,
    annotations: Sequence[Mapping],
    images: Sequence[Mapping],
    *,
    verdicts: Sequence[bool | None] | None = None,
    objects: Sequence[int] | None = None,
    most: int = 0,
    masks: str = "",
) -> int:
    """Write the page of a file of pseudo-labels.

    Args:
        page: the HTML file.
        labels: the file of pseudo-labels.
        header, annotations: its content.
        images: dataset dicts of its images.
        verdicts: by withheld ground truth, whether each annotation is right; None: does not count.
        objects: by withheld ground truth, the number of objects of each class.
        most: the number of images that are shown, those with the most doubtful boxes; 0 = all. The
            others count in the numbers at each threshold.
        masks: a folder of pseudo-masks of the same images, shown over these; "" = none.

    Returns:
        The number of images that are shown.

    Raises:
        FileNotFoundError: There is no such folder of masks.
        UserError: None of the images is there, or the masks are not theirs.
        DatasetError: An image cannot be read.
    """
    places = {image_id: place for place, image_id in enumerate(header.image_ids)}
    boxes: dict[int, list[list]] = defaultdict(list)
    for number, a in enumerate(annotations):
        verdict = None if verdicts is None else verdicts[number]
        box = [number, a["category_id"], a["score"], *a["bbox"], verdict]
        boxes[places[a["image_id"]]].append(box)
    known = {places[i]: sample for sample in images if (i := sample.get("image_id")) in places}
    if not known:
        raise UserError(
            f"{labels} was made for '{header.dataset}', but none of its images is in the data set."
        )
    order = sorted(known, key=lambda place: _doubt(boxes[place]))
    shown = order[: most or None]
    overlays = mask_pictures(masks, header)
    entries: list[dict[str, Any]] = []
    pictures: dict[str, bytes] = {}  # by the name of a file
    for place in tqdm(shown, desc="review", unit="image", delay=2):
        name, sample = f"{len(entries):06d}", known[place]
        pictures[f"{name}.jpg"], size = _picture(sample)
        entry = _entry(place, sample, size, boxes[place], Path(page)) | {"src": f"{name}.jpg"}
        if (overlay := overlays.of(sample["image_id"], size, _SIDE)) is not None:
            pictures[f"{name}.png"], entry["values"] = overlay
            entry["mask"] = f"{name}.png"
        entries.append(entry)
    sources = dict(zip(pictures, _sources(pictures, Path(page)), strict=True))
    for entry in entries:
        entry |= {key: sources[entry[key]] for key in ("src", "mask") if key in entry}
    hidden = boxes.keys() - set(shown)
    content = {
        "sha256": file_sha256(labels),
        "file": os.path.basename(labels),
        "dataset": header.dataset,
        "classes": header.classes,
        "lowest": header.score_thresh,
        "objects": None if objects is None else list(objects),
        "masks": overlays.colours,
        "images": entries,
        "total": len(header.image_ids),
        "others": [[*box[1:3], box[-1]] for place in sorted(hidden) for box in boxes[place]],
    }
    write_text(page, _html(content))
    return len(entries)


def _doubt(boxes: Sequence[Sequence]) -> float:
    """What sorts images: the lowest score; those without a box come last."""
    return min((box[2] for box in boxes), default=2.0)


def _picture(sample: Mapping) -> tuple[bytes, tuple[int, int]]:
    """A small JPEG of an image, upright, and the image's own (width, height)."""
    pixels = sample.get("pixels")
    if pixels is None:
        pixels = read_image(sample["file_name"], "RGB")
    image = Image.fromarray(pixels)
    size = image.size
    image.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue(), size


def _entry(
    place: int, sample: Mapping, size: tuple[int, int], boxes: list[list], page: Path
) -> dict[str, Any]:
    """What the page knows of an image. Its name and the link to it are data, never markup."""
    file = Path(sample.get("file_name", ""))
    link = os.path.relpath(file.absolute(), page.absolute().parent)
    rounded = [[n, k, round(s, 4), *(round(x, 1) for x in xywh), v] for n, k, s, *xywh, v in boxes]
    width, height = size
    return {
        "place": place,
        "name": file.name,
        "full": quote(Path(link).as_posix()),
        "width": width,
        "height": height,
        "boxes": rounded,
    }


def _sources(pictures: Mapping[str, bytes], page: Path) -> Iterator[str]:
    """The address of each picture: its content, or a file where the page would be too large."""
    if sum(map(len, pictures.values())) * 4 / 3 <= _MOST_BYTES:
        for name, picture in pictures.items():
            kind = "png" if name.endswith(".png") else "jpeg"
            yield f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
        return
    folder = page.with_name(page.stem + _SUFFIX)
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        (folder / name).write_bytes(picture)
        yield quote(f"{folder.name}/{name}")


def _html(content: Mapping[str, Any]) -> str:
    """The page: its parts are package data, and what comes from files is JSON."""
    parts = files("multas.data")
    page = parts.joinpath("review.html").read_text(encoding="utf-8")
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    # No text of a file name or class can end the element that holds it.
    data = data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    for name, text in {
        "title": escape(f"Review of {content['file']}"),
        "palette": PALETTE,
        "script": parts.joinpath("review.js").read_text(encoding="utf-8"),
        "data": data,
    }.items():
        page = page.replace(f"<!--{name}-->", text, 1)
    return page
