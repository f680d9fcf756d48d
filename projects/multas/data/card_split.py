"""One split of a data card: its keys, their defaults, and which formats they mean something to."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from multas.data.issues import DatasetError

UNLABELED = "_unlabeled"

# Formats, and what their splits hand out unless the card says otherwise.
FORMATS: dict[str, tuple[str, ...]] = {
    "voc": ("det",),
    "coco": ("det",),
    "masks": ("seg",),
    "images": (),
    "vedai": ("det",),
    "folders": ("cls",),
    "cifar10": ("cls",),
    "cifar100": ("cls",),
}
_CIFAR_PARTS = ("train", "test")
# What the value of a split is that is no table.
_MAIN_KEYS = {"coco": "json", "folders": "images", "cifar10": "part", "cifar100": "part"}
# Keys that mean something to these formats alone.
OWN_KEYS = {
    "suffix": ("vedai", "images", "masks"),
    "mask_suffix": ("masks",),
    "labels": ("folders",),
    "part": ("cifar10", "cifar100"),
    "only_complete": ("voc", "masks"),
}
# Where a format keeps its files; what it does not say is as in _PLACES.
_PLACES = {"images": ".", "annotations": "Annotations"}
_PLACES |= dict.fromkeys(("suffix", "mask_suffix", "labels", "part"), "")
_OWN_PLACES = {
    "voc": {"images": "JPEGImages"},
    "vedai": {"images": "Vehicules512", "annotations": "Annotations512", "suffix": "_co"},
}
_MASKS = "SegmentationClass"
_SPLIT_KEYS = ["ids", "json", "images", "annotations", "masks", *OWN_KEYS, "annotates"]
# What a card may say for all its splits at once.
SHARED_KEYS = _SPLIT_KEYS[2:]


@dataclass(frozen=True)
class Split:
    """One split of a card. Paths are as written: `ids` a list file, `json` a COCO file, the others
    folders, `masks` one or more of them; `suffix` stands between id and extension of its images,
    `mask_suffix` of its masks, `labels` is a file of their classes, `part` one of CIFAR's two;
    `annotates` says which of "det", "seg" and "cls" they are annotated for, and `only_complete`
    whether images that lack one of these are left out."""

    name: str
    ids: str | None
    json: str
    images: str
    annotations: str
    masks: tuple[str, ...]
    suffix: str
    mask_suffix: str
    labels: str
    part: str
    annotates: tuple[str, ...]
    only_complete: bool


def parse_split(name: str, value: object, card: dict, where: str) -> Split:
    """Check one split of a card's content.

    Args:
        name: of the split.
        value: what the card has below it.
        card: content of the card, whose `format` is known to be right.
        where: names card and split in messages.

    Raises:
        DatasetError: the split has unknown, missing or contradictory keys.
    """
    if name.endswith(UNLABELED):
        raise DatasetError(f"{where}: names ending in {UNLABELED} are made by themselves")
    kind = card["format"]
    table = value if isinstance(value, dict) else {_MAIN_KEYS.get(kind, "ids"): value}
    require_keys(table, _SPLIT_KEYS, ("json",) if kind == "coco" else (), where)
    if kind == "voc" and table.get("ids") is None:
        raise DatasetError(f"{where}: needs a list of ids, like Main/train")
    annotates = table.get("annotates", card.get("annotates", FORMATS[kind]))
    annotates = (annotates,) if isinstance(annotates, str) else tuple(annotates)
    allowed = ("det", "seg") if kind == "voc" else FORMATS[kind]
    if not set(annotates) <= set(allowed):
        raise DatasetError(
            f"{where}: annotates {list(annotates)}, but format {kind} can give {list(allowed)}"
        )
    given = {key: value for key, value in {**card, **table}.items() if value is not None}
    places = {
        key: str(given.get(key, default))
        for key, default in {**_PLACES, **_OWN_PLACES.get(kind, {})}.items()
    }
    if kind == "masks" and not given.get("masks"):
        raise DatasetError(f"{where}: format masks needs `masks`, the folder of the masks")
    masks = given.get("masks", _MASKS)
    for key, kinds in OWN_KEYS.items():
        if key in given and kind not in kinds:
            raise DatasetError(
                f"{where}: format {kind} has no use for `{key}` ({', '.join(kinds)} have), drop it"
            )
    if kind in OWN_KEYS["part"] and given.get("part") not in _CIFAR_PARTS:
        raise DatasetError(f"{where}: format {kind} has the splits {' and '.join(_CIFAR_PARTS)}")
    only_complete = given.get("only_complete", False)
    if not isinstance(only_complete, bool):
        raise DatasetError(f"{where}: only_complete {only_complete!r}, choose true or false")
    ids = table.get("ids")
    return Split(
        name=name,
        ids=None if ids is None else str(ids),
        json=str(table.get("json", "")),
        masks=tuple(map(str, masks)) if isinstance(masks, list) else (str(masks),),
        annotates=annotates,
        only_complete=only_complete,
        **places,
    )


def require_keys(table: dict, known: Sequence[str], needed: Sequence[str], where: str) -> None:
    """Make sure that a table of a card has the needed keys, and no others than the known.

    Raises:
        DatasetError: it has not; the nearest known key is named.
    """
    for key in table:
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(known)}"
            raise DatasetError(f"{where}: unknown key {key!r}, {hint}")
    for key in needed:
        if table.get(key) is None:
            raise DatasetError(f"{where}: key {key!r} is missing")
