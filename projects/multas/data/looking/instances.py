"""The boxes of objects that masks number: a second way to read them."""

from multas.data.looking.inventory import Reading
from multas.data.looking.mask_classes import ANY_NUMBER

_KEYS = ("images", "masks", "mask_suffix", "ids", "only_complete")


def boxes_of_masks(masks: Reading) -> Reading | None:
    """The card of the boxes, with the splits of the masks; None if the masks number no objects.

    Args:
        masks: how the masks are read as classes: all that have a number are one class.
    """
    if masks.card.get("threshold") != ANY_NUMBER:
        return None
    name = masks.card["classes"][1]
    splits = {
        split: {key: own[key] for key in _KEYS if key in own}
        for split, own in masks.card["splits"].items()
    }
    card = {"format": "instances", "classes": [name], "splits": splits}
    notes = [f"the boxes are those around the objects that masks number: {name}"]
    return Reading("instances", card, notes, masks.images)
