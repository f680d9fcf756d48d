"""What a config should have for the images of a user."""

from collections.abc import Mapping, Sequence
from typing import Any

from multas.data.suggestions import STRIDES, Suggestion, suggest
from multas.util.annotation import LABELS, Annotation

LARGEST_CLASSIFIED = 224  # px, the side of what a classifier sees


def settings_of(
    records: Sequence[Mapping[str, Any]],
    annotation: Annotation,
    strides: Sequence[int] = STRIDES,
    image_format: str = "BGR",
    most: int = 0,
    one_anchor: bool = False,
) -> dict[str, Suggestion]:
    """What a config should have for annotated images, by key; see :func:`suggest`.

    A classifier sees squares of the size of the images, of at most 224 px.
    """
    found = suggest(
        records, image_format=image_format, strides=strides, most=most, one_anchor=one_anchor
    )
    if annotation is not LABELS:
        return found
    side = min(found["INPUT.MIN_SIZE_TEST"].value, LARGEST_CLASSIFIED)
    reason = f"the size of the images, at most {LARGEST_CLASSIFIED}"
    values = {"MIN_SIZE_TRAIN": [side], "MIN_SIZE_TEST": side, "CENTER_CROP_TEST": side}
    values["AUGMENTATION"] = "resized_crop"
    kept = {key: value for key, value in found.items() if not key.startswith("INPUT.M")}
    return kept | {f"INPUT.{key}": Suggestion(value, reason) for key, value in values.items()}
