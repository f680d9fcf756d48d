"""The head comment of a recipe: its tables, what its row is called, and the paper's numbers.

    # Tables 1 and 5, single, Box.
    # Paper, on Cityscapes: mAP 39.8 (Table 1: 39.6, mAP50 62.4).

What follows the second sentence is free text.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_PLACE = r"(?:Table|Figure)s? \d+(?:(?:, | and | to )\d+)*(?: \([^)]*\))?"
_HEAD = re.compile(
    rf"(?P<places>{_PLACE}(?:, {_PLACE})*), (?P<label>.+?)\. "
    r"Paper(?:, on (?P<data>[^:]+))?: (?P<numbers>.+?)\.(?: .*)?"
)
_NUMBER = re.compile(r"(?P<name>[A-Za-z][\w -]*) (?P<value>\d+(?:\.\d+)?)")
_NO_NUMBER = re.compile(r"(an? \w+ without|no) (a )?number\b.*")
_SHAPE = (
    "'# Table 1, label of the row.' and '# Paper: mAP 50.1, AP50 70.2.', with 'Paper, on VOC:' "
    "where the numbers are of other data"
)


@dataclass(frozen=True)
class Head:
    """What a head says.

    Args:
        places: "Table 2", "Figure 2", …: where its row stands.
        label: name of the row.
        data: what the paper's numbers are of, if not of the recipe's own data.
        numbers: the paper's, by the paper's name of the metric.
        exceptions: place -> numbers that differ there.
    """

    places: frozenset[str]
    label: str
    data: str
    numbers: Mapping[str, float]
    exceptions: Mapping[str, Mapping[str, float]]

    def paper(self, place: str) -> dict[str, float]:
        """The paper's numbers in one table."""
        return {**self.numbers, **self.exceptions.get(place, {})}


def read_head(file: str | Path) -> Head:
    """Parse the head of a recipe.

    Raises:
        ValueError: it does not say these things, naming the file and what is expected.
    """
    comment = []
    for line in Path(file).read_text().splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("# ").strip())
    found = _HEAD.fullmatch(" ".join(comment))
    if not found:
        raise ValueError(f"{file}: the first lines are not of the form {_SHAPE}.")
    numbers, exceptions = _read_numbers(found["numbers"], str(file))
    return Head(
        frozenset(_read_places(found["places"])),
        found["label"],
        found["data"] or "",
        numbers,
        exceptions,
    )


def _read_places(text: str) -> list[str]:
    places = []
    for kind, numbers in re.findall(r"(Table|Figure)s? (\d+(?:(?:, | and | to )\d+)*)", text):
        first, *others = re.split(r"(, | and | to )", numbers)
        places.append(f"{kind} {first}")
        for joint, number in zip(others[::2], others[1::2], strict=True):
            start = int(places[-1].split()[1]) + 1 if joint == " to " else int(number)
            places += [f"{kind} {n}" for n in range(start, int(number) + 1)]
    return places


def _read_numbers(text: str, file: str) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    numbers: dict[str, float] = {}
    exceptions: dict[str, dict[str, float]] = {}
    if _NO_NUMBER.fullmatch(text):
        return numbers, exceptions
    main, _, aside = text.partition(" (")
    for item in main.split(", "):
        _add_number(numbers, item, file)
    for item in filter(None, aside.rstrip(")").split(", ")):
        place, colon, value = item.partition(": ")
        if not colon:
            _add_number(numbers, item, file)
        elif re.fullmatch(r"(Table|Figure) \d+", place):
            # It replaces the number in front of the bracket.
            exceptions[place] = {list(numbers)[-1]: float(value)}
    return numbers, exceptions


def _add_number(numbers: dict[str, float], item: str, file: str) -> None:
    found = _NUMBER.fullmatch(item)
    if not found:
        raise ValueError(f"{file}: '{item}' is no metric and number like 'mAP 50.1'.")
    numbers[found["name"]] = float(found["value"])
