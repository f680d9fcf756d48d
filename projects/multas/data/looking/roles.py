"""What the splits of a card are for, by their usual names."""

import re
from collections.abc import Mapping
from typing import Any

# Of what a training set may be called, the first that there is; and its usual complement.
_TRAIN = (("train", "training"), ("trainval",), ("half",), ("quarter",), ("eighth",))
_REST = {"half": "half2", "quarter": "3quarter", "eighth": "7eighth"}
_VAL = ("val", "valid", "validation", "dev", "minival")
_TEST = ("test", "testing")
_UNLABELED = ("unlabeled", "unlabelled", "unlabel", "unannotated", "nolabel")


def role_of(name: str) -> str:
    """The role that a name of a split, folder or file tells: "train", "val", "test", "unlabeled".

    "" if it tells none. Numbers and other words do not matter: instances_train2017 is for training.
    """
    words = re.findall(r"[^\W\d_]+", name.lower())
    if {"train", "val"} <= set(words):
        return "train"
    for role, known in (("unlabeled", _UNLABELED), ("test", _TEST), ("val", _VAL)):
        if not set(words).isdisjoint(known):
            return role
    return "train" if {"train", "training", "trainval"} & set(words) else ""


def is_plain_role(name: str) -> bool:
    """Whether a name says its role and nothing else, unlike test_tube."""
    return name.lower() in (*_TRAIN[0], *_VAL, *_TEST, *_UNLABELED)


def roles(card: Mapping[str, Any]) -> dict[str, list[str]]:
    """The splits of a card by what they are for: "train", "val", "test" and "unlabeled".

    Of several names the plain one counts (train, not both_train), and of training sets the largest
    that leaves the others alone: train, else trainval, half, quarter, eighth. The complement of a
    half or quarter is unlabelled then (half2: used as ``<name>_half2_unlabeled``). A card without
    any of these names has splits to train on.

    Args:
        card: the content of a card, see datasets/README.md.
    """
    splits = {str(name): value for name, value in (card.get("splits") or {}).items()}
    bare = [n for n, v in splits.items() if isinstance(v, Mapping) and v.get("annotates") == []]
    bare = list(splits) if card.get("format") == "images" else bare
    others = [name for name in splits if name not in bare]
    found = {role: _named(others, role) for role in ("val", "test")}
    found["unlabeled"] = bare + _named(others, "unlabeled")
    found["train"] = _named(others, "train")
    for names in _TRAIN:
        if own := [name for name in others if name.lower() in names]:
            found["train"] = own
            rest = [name for name in others if name.lower() in map(_REST.get, names)]
            found["unlabeled"] += rest if own[0].lower() in _REST else []
            break
    if not found["train"]:
        known = {name for names in found.values() for name in names}
        found["train"] = [name for name in others if name not in known]
    return {role: found[role] for role in ("train", "val", "test", "unlabeled")}


def _named(names: list[str], role: str) -> list[str]:
    """The names that tell a role, the plain ones if there are some."""
    own = [name for name in names if role_of(name) == role]
    plain = {"val": _VAL, "test": _TEST, "unlabeled": _UNLABELED, "train": _TRAIN[0]}[role]
    return [name for name in own if name.lower() in plain] or own
