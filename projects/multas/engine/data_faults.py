"""What is wrong with data, or odd, by kind: tables for the console and lists for a page."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from multas.data.inspection import Split
from multas.util.document import Block, Code, Grid, Heading

_FEW_ROWS, _WIDTH = 20, 80  # of a table on the console, and of its texts
_MOST_LINES = 1000  # places of one kind that the page lists
# What is different from one fault to the next of its kind: names, files and numbers.
_DETAIL = re.compile(r"'[^']*'|\"[^\"]*\"|\S+\.[A-Za-z]\w{1,3}\b|(?<![\w-])-?\d[\d.,x]*")
_RATHER = re.compile(r", did you mean .*?\?")

Kinds = Mapping[str, Sequence[str]]  # what, and where


def faults_of(split: Split) -> Iterable[tuple[str, str]]:
    """What is wrong, and where."""
    for where, what in split.issues.faults:
        kind = _RATHER.sub("", _below(split.root, what))
        yield _DETAIL.sub("…", kind), f"{where}: {what}"


def remarks_of(split: Split) -> Iterable[tuple[str, str]]:
    """What is used or left out, but odd, and where."""
    for what, places in split.issues.remarks.items():
        yield from ((what, where) for where in places)
    for why, images in split.issues.left_out.items():
        yield from ((f"left out: {why}", image) for image in images)
    for what, numbers in split.issues.passed_over.items():
        kind = f"left out: {what} of classes that `only` does not name"
        yield from ((kind, f"{number} {name} in {split.name}") for name, number in numbers.items())
    for names in [*split.numbers.classes.values(), split.masks.images]:
        for name, number in names.items():
            if not number:
                yield "a class has no object", f"{name} in {split.name}"


def kinds_of(
    splits: Sequence[Split], source: Callable[[Split], Iterable[tuple[str, str]]]
) -> dict[str, list[str]]:
    """The places of each kind of fault, the most frequent kind first; each place once."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for split in splits:
        for what, where in source(split):
            found[what][_below(split.root, where)] = None
    return {what: list(found[what]) for what in sorted(found, key=lambda w: -len(found[w]))}


def _below(root: str, text: str) -> str:
    """A message without the folder of the data, which is always the same."""
    return text.replace(f"{root}/", "") if root else text


def kind_grid(kinds: Kinds) -> list[Block]:
    """Kinds, how often there are, and an example."""
    if not kinds:
        return []
    first = list(kinds.items())[:_FEW_ROWS]
    rows = [[_short(what), in_digits(len(places)), _short(places[0])] for what, places in first]
    return [Grid(["what", "places", "such as"], rows)]


def _short(text: str) -> str:
    """One line of a table."""
    text = text.split("\n", 1)[0]
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]}…"


def kind_lists(kinds: Kinds) -> list[Block]:
    """A list of the places of each kind."""
    blocks: list[Block] = []
    for what, places in kinds.items():
        lines = places[:_MOST_LINES]
        if more := len(places) - len(lines):
            lines = [*lines, f"and {more} more"]
        noun = "place" if len(places) == 1 else "places"
        blocks += [Heading(f"{what} ({len(places)} {noun})", 3), Code("\n".join(lines))]
    return blocks


def in_digits(number: int) -> str:
    """A number with its thousands apart, or a dash for 0."""
    return f"{number:,}".replace(",", " ") if number else "–"
