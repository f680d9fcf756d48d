"""A person's decisions on a file of pseudo-labels, and the file that they make of it.

The page of review_page.py writes them as JSON: "sha256" of the file that they are about; "boxes",
a list of ``{"box", "decision"}`` with the place of the box in "annotations" of that file, "accept",
"reject" or "relabel", and for the last its new "category_id"; "complete", the places in "image_ids"
of images that are right as they are shown; "thresholds", by class, the score below which boxes that
were not decided on are dropped.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from multas.data.json_files import Kind, entry_fault, is_number, read_json
from multas.data.pseudo_label_files import Header, file_sha256, read_pseudo_labels
from multas.util.errors import UserError

VERSION = 1
ACCEPT, REJECT, RELABEL = DECISIONS = ("accept", "reject", "relabel")
KEEP, DROP = UNREVIEWED = ("keep", "drop")
CERTAIN = 1.0  # the score of a box that a person has confirmed
_AGAIN = "Download the decisions again from the page that was made for this file."

_WHOLE = Kind("a whole number, 0 or more", lambda v: type(v) is int and v >= 0)
_SHARES = Kind(
    "a table of classes and numbers from 0 to 1",
    lambda v: type(v) is dict and all(is_number(x) and 0 <= x <= 1 for x in v.values()),
)
_FILE = {
    "version": Kind(f"{VERSION}, which this multas reads", lambda v: v == VERSION),
    "sha256": Kind("a text", lambda v: type(v) is str),
    "boxes": Kind("a list", lambda v: type(v) is list),
    "complete": Kind(
        "a list of whole numbers", lambda v: type(v) is list and all(map(_WHOLE.fits, v))
    ),
}
_BOX = {"box": _WHOLE, "decision": Kind(" or ".join(DECISIONS), lambda v: v in DECISIONS)}


@dataclass(frozen=True)
class Review:
    """Checked decisions on a file of pseudo-labels.

    Attributes:
        boxes: by the place of a box in the file, None for a rejected one and else its class.
        complete: ids of images of which all boxes are right that are above the thresholds.
        thresholds: by class index, the score below which undecided boxes are dropped.
        sha256: the hash of the file.
    """

    boxes: Mapping[int, int | None]
    complete: frozenset[Any] = frozenset()
    thresholds: Mapping[int, float] = field(default_factory=dict)
    sha256: str = ""


def read_review(file: str, labels: str) -> tuple[Review, Header, list[dict]]:
    """Decisions, and the content of the file of pseudo-labels that they are about.

    Raises:
        OSError: A file is missing.
        UserError: A file has wrong entries, or the decisions are about other pseudo-labels.
    """
    header, annotations = read_pseudo_labels(labels)
    content = read_json(file)
    if fault := entry_fault(content, _FILE, {"thresholds": _SHARES}):
        raise UserError(f"{file} has no decisions of a review: {fault}. {_AGAIN}")
    if content["sha256"] != file_sha256(labels):
        raise UserError(
            f"{file} is about another file than {labels}: the hash of the pseudo-labels differs. "
            "Name the file that the page was made for; one that was labelled again needs a review "
            "of its own."
        )
    boxes: dict[int, int | None] = {}
    for number, entry in enumerate(content["boxes"]):
        if fault := entry_fault(entry, _BOX) or _fault(entry, boxes, len(annotations), header):
            raise UserError(f"{file}: boxes[{number}]: {fault}. {_AGAIN}")
        place, own = entry["box"], annotations[entry["box"]]["category_id"]
        boxes[place] = {ACCEPT: own, REJECT: None, RELABEL: entry.get("category_id")}[
            entry["decision"]
        ]
    if unknown := [n for n in content["complete"] if n >= len(header.image_ids)]:
        raise UserError(
            f"{file}: complete has {unknown[0]}, but there are {len(header.image_ids)} images in "
            f"{labels}. {_AGAIN}"
        )
    thresholds = content.get("thresholds", {})
    if names := thresholds.keys() - set(header.classes):
        raise UserError(f"{file}: thresholds has {names.pop()!r}, no class of {labels}. {_AGAIN}")
    by_class = {header.classes.index(name): share for name, share in thresholds.items()}
    complete = frozenset(header.image_ids[n] for n in content["complete"])
    return Review(boxes, complete, by_class, content["sha256"]), header, annotations


def _fault(entry: Mapping, seen: Mapping, count: int, header: Header) -> str | None:
    """What is wrong with a decision that has its keys, or None."""
    if entry["box"] >= count:
        return f"box is {entry['box']}, but the file has {count}"
    if entry["box"] in seen:
        return f"box {entry['box']} is decided on twice"
    category = entry.get("category_id")
    if entry["decision"] == RELABEL and not (
        type(category) is int and 0 <= category < len(header.classes)
    ):
        return f"category_id is {category!r}, need a class from 0 to {len(header.classes) - 1}"
    return None


def apply_review(
    header: Header, annotations: Sequence[Mapping], review: Review, unreviewed: str = KEEP
) -> tuple[Header, list[dict], Counter[str]]:
    """The pseudo-labels after a review.

    A box that was accepted or relabelled, and one that was left as it is on a complete image, gets
    the score 1: a person has confirmed it. Other boxes keep their score if they reach the threshold
    of their class. With ``unreviewed`` "drop" they are left out, and an image that nobody has
    decided anything of counts as not labelled, not as background.

    Returns:
        The header, the annotations, and numbers of boxes and images by what became of them.
    """
    seen = {annotations[place]["image_id"] for place in review.boxes} | review.complete
    kept: list[dict] = []
    counts: Counter[str] = Counter()
    for place, box in enumerate(annotations):
        category = review.boxes.get(place, box["category_id"])
        if place in review.boxes:
            word = "accepted" if category == box["category_id"] else "relabelled"
            word = "rejected" if category is None else word
        elif box["score"] < review.thresholds.get(box["category_id"], 0):
            word = "below the threshold"
        elif box["image_id"] in review.complete:
            word = "accepted with their image"
        else:
            word = "not looked at, kept" if unreviewed == KEEP else "not looked at, dropped"
        counts[word] += 1
        if word in ("accepted", "relabelled", "accepted with their image"):
            kept.append({**box, "category_id": category, "score": CERTAIN})
        elif word == "not looked at, kept":
            kept.append(dict(box))
    image_ids = [i for i in header.image_ids if unreviewed == KEEP or i in seen]
    lowest = [review.thresholds.get(k, 0) for k in range(len(header.classes))]
    changed = replace(
        header,
        image_ids=image_ids,
        score_thresh=max(header.score_thresh, min(lowest, default=0)),
        reviewed=review.sha256,
    )
    return changed, kept, counts
