"""Checks lists of image ids: sizes, overlaps, nesting, repetitions, and leaks into test lists."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

from multas.data.splits.make import NAMES

PARTS = ("train", "val", "trainval", "test")

_SHARES = {
    name: (share, rest)
    for share, pair in NAMES.items()
    for name, rest in zip(pair, (False, True), strict=True)
}

# VOC2012 repeats images of VOC2007 under a longer name.
_VOC2007_COPY = re.compile(r"2007_(\d{6})")

Lists = dict[str, list[str]]  # "<name>/<part>" -> ids as listed


@dataclass
class SplitReport:
    """The result of :func:`check_splits`: tables of sizes and overlaps, and a line per issue."""

    sizes: list[str] = field(default_factory=list)
    overlaps: list[str] = field(default_factory=list)
    issues: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join(
            [
                "Sizes (distinct ids)",
                *self.sizes,
                "",
                "Images in common",
                *self.overlaps,
                "",
                f"Issues: {len(self.issues)}",
                *([f"  {line}" for line in self.issues] or ["  none"]),
            ]
        )


def read_lists(folder: str | Path) -> Lists:
    """Read ``<name>/<part>.txt`` below a folder or below its ImageSets, part in ``PARTS``.

    Raises:
        FileNotFoundError: if there is no such list.
    """
    folder = Path(folder)
    base = folder / "ImageSets" if (folder / "ImageSets").is_dir() else folder
    lists = {
        f"{file.parent.name}/{file.stem}": [
            line.split()[0] for line in file.read_text().splitlines() if line.strip()
        ]
        for file in sorted(base.glob("*/*.txt"))
        if file.stem in PARTS
    }
    if not lists:
        raise FileNotFoundError(f"no lists like Half/trainval.txt or Main/test.txt below {base}")
    return lists


def image_key(image_id: str) -> str:
    """The identity of an image: VOC2012's ``2007_NNNNNN`` is VOC2007's ``NNNNNN``."""
    copy = _VOC2007_COPY.fullmatch(image_id)
    return copy.group(1) if copy else image_id


def check_splits(sources: dict[str, Lists], tests: Sequence[str] = ()) -> SplitReport:
    """Check the lists of one data set, or of several that are used together (VOC 2007 and 2012).

    Args:
        sources: the lists of each data set by its name.
        tests: lists like MXEdet/val on which models are scored, besides all ``<name>/test``.

    Raises:
        ValueError: if one of ``tests`` does not exist.
    """
    report = SplitReport()
    names = _ordered({name for lists in sources.values() for name in lists})
    for name in tests:
        if name not in names:
            raise ValueError(f"there is no list {name!r}, known are {', '.join(names)}")
    together = {
        name: {image_key(i) for lists in sources.values() for i in lists.get(name, ())}
        for name in names
    }
    report.sizes = _size_table(sources, names)
    report.overlaps = _overlap_tables(together)
    report.issues += _repetitions(sources, names)
    for source, lists in sources.items():
        sets = {name: set(ids) for name, ids in lists.items()}
        report.issues += [f"{source}: {line}" for line in _relations(sets)]
    report.issues += _leaks(together, tests)
    return report


def _ordered(names: set[str]) -> list[str]:
    def key(name: str) -> tuple:
        folder, part = name.split("/")
        share, rest = _share(folder) or (Fraction(0), False)
        return (folder != "Main", -share, rest, folder, PARTS.index(part))

    return sorted(names, key=key)


def _share(name: str) -> tuple[Fraction, bool] | None:
    """(fraction, whether the list is its complement) of a name that ``make_splits`` gives."""
    if name in _SHARES:
        return _SHARES[name]
    match = re.fullmatch(r"(\d+(?:\.\d+)?)pct", name)
    if match is None:
        return None
    share = Fraction(match.group(1)) / 100
    return (share, False) if share <= Fraction(1, 2) else (1 - share, True)


def _size_table(sources: dict[str, Lists], names: Sequence[str]) -> list[str]:
    width = max(map(len, names))
    columns = [max(len(source), 7) for source in sources]
    heads = [source.rjust(column) for source, column in zip(sources, columns, strict=True)]
    rows = [" " * width + "  " + "  ".join(heads) + "      sum"]
    for name in names:
        counts = [len(set(lists[name])) if name in lists else None for lists in sources.values()]
        cells = [
            ("-" if count is None else str(count)).rjust(column)
            for count, column in zip(counts, columns, strict=True)
        ]
        total = sum(count or 0 for count in counts)
        rows.append(f"{name:<{width}}  {'  '.join(cells)}  {total:7d}")
    return rows


def _overlap_tables(together: dict[str, set[str]]) -> list[str]:
    rows: list[str] = []
    for part in PARTS:
        names = [name.split("/")[0] for name in together if name.endswith(f"/{part}")]
        if len(names) < 2:
            continue
        width = max(map(len, names))
        rows.append(f"{part:<{width}}  " + "  ".join(name.rjust(5) for name in names))
        for i, row in enumerate(names):
            cells = [
                str(len(together[f"{row}/{part}"] & together[f"{column}/{part}"])) if j >= i else ""
                for j, column in enumerate(names)
            ]
            padded = [cell.rjust(max(len(n), 5)) for cell, n in zip(cells, names, strict=True)]
            rows.append(f"{row:<{width}}  " + "  ".join(padded).rstrip())
    return rows


def _repetitions(sources: dict[str, Lists], names: Sequence[str]) -> Iterator[str]:
    for source, lists in sources.items():
        for name, ids in lists.items():
            again = [image_id for image_id, count in Counter(ids).items() if count > 1]
            if again:
                yield (
                    f"{source}: {name} has {len(again)} ids more than once "
                    f"({len(ids)} lines, first {again[0]})"
                )
    for name in names:
        spelled: dict[str, set[str]] = {}
        for source, lists in sources.items():
            for image_id in lists.get(name, ()):
                spelled.setdefault(image_key(image_id), set()).add(f"{source} {image_id}")
        twice = [places for places in spelled.values() if len(places) > 1]
        if twice:
            example = " = ".join(sorted(min(twice, key=sorted)))
            yield f"{name}: {len(twice)} images under two names ({example})"


def _relations(sets: dict[str, set[str]]) -> Iterator[str]:
    """Lines on lists that are not nested or complementary, and on images in train and val."""
    for part in PARTS[:3]:
        known = {name[: -len(part) - 1] for name in sets if name.endswith(f"/{part}")}
        shares = {name: share for name in known if (share := _share(name)) is not None}
        shares = dict(sorted(shares.items(), key=lambda item: item[1], reverse=True))
        small = [name for name, (_, rest) in shares.items() if not rest]
        large = [name for name, (_, rest) in shares.items() if rest]
        for outer, inner in [*pairwise(small), *((b, a) for a, b in pairwise(large))]:
            outside = sets[f"{inner}/{part}"] - sets[f"{outer}/{part}"]
            if outside:
                yield f"{inner}/{part} has {_some(outside)} outside {outer}/{part}"
        for name in small:
            for rest in large:
                shared = sets[f"{name}/{part}"] & sets[f"{rest}/{part}"]
                if shared and shares[name][0] <= shares[rest][0]:
                    yield f"{name}/{part} and {rest}/{part} have {_some(shared)} in common"
        wholes = {
            f"{name} + {rest} ({part})": sets[f"{name}/{part}"] | sets[f"{rest}/{part}"]
            for name in small
            for rest in large
            if shares[name][0] == shares[rest][0]
        }
        if wholes and f"Main/{part}" in sets:
            wholes = {f"Main/{part}": sets[f"Main/{part}"], **wholes}
        for whole in list(wholes)[1:]:
            reference = next(iter(wholes))
            for lacking, other in ((whole, reference), (reference, whole)):
                missing = wholes[other] - wholes[lacking]
                if missing:
                    yield f"{lacking} lacks {_some(missing)} of {other}"
    for name in sorted(sets):
        folder, part = name.split("/")
        shared = sets[name] & sets.get(f"{folder}/val", set())
        if part == "train" and shared:
            yield f"{folder}/train and {folder}/val have {_some(shared)} in common"


def _leaks(together: dict[str, set[str]], tests: Sequence[str]) -> Iterator[str]:
    """One line for each list that shares images with a test list; equal test lists count once."""
    scored = [name for name in together if name.endswith("/test") or name in tests]
    groups: dict[frozenset[str], list[str]] = {}
    for name in scored:
        groups.setdefault(frozenset(together[name]), []).append(name)
    for name, ids in together.items():
        if name in scored:
            continue
        found = []
        for content, same in groups.items():
            shared = ids & content
            if shared:
                alike = f" (and {len(same) - 1} equal lists)" if len(same) > 1 else ""
                found.append(f"{_some(shared)} in {same[0]}{alike}")
        if found:
            yield f"leak: {name} has {'; '.join(found)}"


def _some(ids: set[str]) -> str:
    noun = "image" if len(ids) == 1 else "images"
    return f"{len(ids)} {noun} (first {min(ids)})"
