"""Cards of one task each: what a job of several tasks has a card for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from multas.data.card import Card, read_card
from multas.util.annotation import STANDARD, Annotation
from multas.util.errors import UserError


def by_task(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A card as one card for each task ("det", "seg", "cls") that its images are annotated for.

    Raises:
        UserError: the card is wrong, or has no annotated images.
    """
    card = read_card(dict(content))
    tasks = [kind.task for kind in STANDARD if any(kind.task in s.annotates for s in card.splits)]
    if not tasks:
        raise UserError(
            f"{card.name}: none of its images are annotated in a way that can be read; "
            "docs/own_data.md lists the layouts that can."
        )
    if len(tasks) == 1:
        return {tasks[0]: dict(content)}
    given = {split.name: split.annotates for split in card.splits}
    found = {}
    for task in tasks:
        splits = {
            name: table_of(card, value) | {"annotates": [task] if given[str(name)] else []}
            for name, value in content["splits"].items()
            if task in given[str(name)] or not given[str(name)]
        }
        found[task] = {**content, "name": f"{card.name}_{task}", "splits": splits}
    return found


def annotation_of(card: Card) -> Annotation:
    """What the images of a card are annotated with.

    Raises:
        UserError: with nothing, or with more than one thing.
    """
    kinds = {kind.task: kind for split in card.splits for kind in split.can_annotate}
    tasks = {task for split in card.splits for task in split.annotates}
    if len(tasks) != 1:
        raise UserError(
            f"{card.name} is annotated with {', '.join(sorted(tasks)) or 'nothing'}: give one card "
            "for each task (`annotates` in datasets/README.md)."
        )
    return kinds[tasks.pop()]


def table_of(card: Card, split: Any) -> dict[str, Any]:
    """A split of a card as a table of keys; one value alone is that of the main key."""
    return dict(split) if isinstance(split, Mapping) else {type(card.splits[0]).main_key: split}


def with_parts(
    card: Card, splits: Mapping[str, Any], parts: Mapping[str, Mapping[str, str]], folder: Path
) -> dict[str, Any]:
    """The splits of a card, and the parts of some, by their lists in a folder."""
    found = dict(splits)
    for split in card.splits:
        # What a split is without, it is also without in parts.
        if more := [name for base in split.without for name in parts.get(base, {}).values()]:
            table = table_of(card, splits[split.name])
            found[split.name] = table | {"without": [*split.without, *more]}
    for base, names in parts.items():
        for name in names.values():
            ids = str((folder / name / card.name).absolute())
            found[name] = table_of(card, splits[base]) | {"ids": ids}
    return found
