"""Looks for images without annotations: all that there is, or beside those that have some."""

from collections.abc import Collection

from multas.data.looking.coco import unread_files
from multas.data.looking.inventory import (
    Inventory,
    Reading,
    annotation_stems,
    is_named_mask,
    join,
    top_of,
)
from multas.data.looking.roles import role_of

# Files that could annotate images, but cannot be read here.
_UNREAD = (".csv", ".json", ".txt", ".xml", ".gif")
_TOLD = 4  # of such files


def add_unlabeled(found: Inventory, reading: Reading, masks: Collection[str]) -> list[str]:
    """Give a card the split ``unlabeled`` of the images that none of its splits annotates.

    They lie in a folder called so, or among those that are annotated. Other folders are passed
    over, as nobody says what they are for.

    Args:
        found: what lies in the folder.
        reading: whose card is changed, unless it has unlabelled images already.
        masks: images that are masks.

    Returns:
        Notes for those who wonder.
    """
    splits = reading.card["splits"]
    if reading.card.get("root", str(found.root)) != str(found.root):
        return []  # the data of a data.yaml that lie elsewhere
    annotated = set().union(*reading.images.values())
    if any(split.get("annotates") == [] for split in splits.values()):
        return []
    rest = {f: {join(f, name) for name in names} for f, names in found.images.items()}
    rest = {f: left for f, own in rest.items() if (left := own - annotated - set(masks))}
    named: dict[str, set[str]] = {}  # by the folder that is called so, which may have others in it
    for folder, left in rest.items():
        if role_of(folder) == "unlabeled":
            named.setdefault(top_of(folder), set()).update(left)
    among = {f: left for f, left in rest.items() if set(found.below(f)) & annotated}
    # The reader of a folder also reads those below it.
    usable = {
        f: left for f, left in (named or among).items() if not set(found.below(f)) & set(masks)
    }
    best = max(usable, key=lambda folder: len(usable[folder]), default=None)
    notes = []
    if best is not None:
        key = "files" if reading.card["format"] == "yolo" else "images"
        own = splits["unlabeled"] = {key: best, "annotates": []}
        below = set(found.below(best))
        if without := [name for name, images in reading.images.items() if images & below]:
            own["without"] = without
        notes.append(f"{len(below - annotated)} images in {best} are unlabelled: split unlabeled")
    for folder, left in rest.items():
        if best is None or not left <= below:
            notes.append(
                f"{folder} has {len(left)} images without annotations, which are passed over: call "
                "the folder unlabeled to have them learned from"
            )
    return notes


def look_for_images(found: Inventory) -> Reading | None:
    """The card of images without any annotation.

    None if there are no images, some are called masks, or other files, such as a text beside each,
    might annotate them.
    """
    named = annotation_stems(found)
    stems = {stem for folder in found.images for stem in found.stems(folder)}
    if not found.images or any(map(is_named_mask, found.images)) or not stems.isdisjoint(named):
        return None
    folder = next(iter(found.images)) if len(found.images) == 1 else "."
    told = unread_files(found)
    notes = [f"{folder} has {len(found.below(folder))} images, and nothing annotates them", *told]
    others = [
        place
        for kind in _UNREAD
        for f, own in found.texts[kind].items()
        for place in (join(f, name) for name in own)
        if not any(note.startswith(f"{place} ") for note in told)
    ]
    if others:
        more = f" and {len(others) - _TOLD} more" if len(others) > _TOLD else ""
        notes.append(f"{', '.join(others[:_TOLD])}{more}: not read")
    card = {"format": "images", "splits": {"unlabeled": {"images": folder}}}
    return Reading("images", card, notes, {})
