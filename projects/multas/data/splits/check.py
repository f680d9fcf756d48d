"""Checks lists of image ids: sizes, overlaps, nesting, repetitions, and leaks into test lists."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise, product
from pathlib import Path

from tabulate import tabulate

from multas.data.splits.make import NAMES, part_size
from multas.util.errors import UserError
from multas.util.id_lists import read_id_list

PARTS = ("train", "val", "trainval", "test")

_SHARES = {pair[rest]: (share, bool(rest)) for share, pair in NAMES.items() for rest in (0, 1)}

# VOC2012 repeats images of VOC2007 under a longer name.
_VOC2007_COPY = re.compile(r"2007_(\d{6})")

Lists = dict[str, list[str]]  # "<name>/<part>" -> ids as listed


@dataclass
class SplitReport:
    """The result of :func:`check_splits`: tables of sizes and overlaps, and a line per issue."""

    sizes: str
    overlaps: str
    issues: list[str]

    def __str__(self) -> str:
        issues = "\n  ".join([f"Issues: {len(self.issues)}", *(self.issues or ["none"])])
        tables = f"Sizes (distinct ids)\n{self.sizes}\n\nImages in common\n{self.overlaps}"
        return f"{tables}\n\n{issues}"


def read_lists(folder: str | Path) -> Lists:
    """Read ``<name>/<part>.txt`` below a folder or below its ImageSets, part in ``PARTS``.

    Raises:
        FileNotFoundError: if there is no such list.
        UserError: if a list is not a text.
    """
    folder = Path(folder)
    base = folder / "ImageSets" if (folder / "ImageSets").is_dir() else folder
    lists: Lists = {}
    for file in sorted(base.glob("*/*.txt")):
        if file.stem in PARTS:
            listed = read_id_list(file)
            lists[f"{file.parent.name}/{file.stem}"] = [image_id for _, image_id in listed]
    if not lists:
        raise FileNotFoundError(f"no lists like Half/trainval.txt or Main/test.txt below {base}")
    return lists


def image_key(image_id: str) -> str:
    """The identity of an image: VOC2012's ``2007_NNNNNN`` is VOC2007's ``NNNNNN``."""
    if not image_id.startswith("2007_"):
        return image_id
    copy = _VOC2007_COPY.fullmatch(image_id)
    return copy.group(1) if copy else image_id


def check_splits(sources: dict[str, Lists], tests: Sequence[str] = ()) -> SplitReport:
    """Check the lists of one data set, or of several that are used together (VOC 2007 and 2012).

    Args:
        sources: the lists of each data set by its name.
        tests: lists like MXEdet/val on which models are scored, besides all ``<name>/test``.

    Raises:
        UserError: if one of ``tests`` does not exist.
    """
    names = _ordered({name for lists in sources.values() for name in lists})
    for name in tests:
        if name not in names:
            raise UserError(f"there is no list {name!r}, known are {', '.join(names)}")
    together = {
        name: {image_key(i) for lists in sources.values() for i in lists.get(name, ())}
        for name in names
    }
    issues = list(_repetitions(sources, together))
    for source, lists in sources.items():
        sets = {name: set(ids) for name, ids in lists.items()}
        issues += [f"{source}: {line}" for line in _relations(sets)]
    issues += _leaks(together, tests)
    return SplitReport(_size_table(sources, names), _overlap_tables(together), issues)


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


def _size_table(sources: dict[str, Lists], names: Sequence[str]) -> str:
    rows: list[list] = []
    for name in names:
        counts = [len(set(lists[name])) if name in lists else None for lists in sources.values()]
        rows.append([name, *counts, sum(filter(None, counts))])
    return _table(rows, ["", *sources, "sum"])


def _overlap_tables(together: dict[str, set[str]]) -> str:
    tables = []
    for part in PARTS:
        sets = _of_part(together, part)
        rows = [
            [name, *[""] * i, *(len(own & other) for other in list(sets.values())[i:])]
            for i, (name, own) in enumerate(sets.items())
        ]
        if len(rows) > 1:
            tables.append(_table(rows, [part, *sets]))
    return "\n".join(tables)


def _table(rows: list[list], heads: list[str]) -> str:
    align = ["left", *["right"] * (len(heads) - 1)]
    return tabulate(rows, heads, "plain", missingval="-", disable_numparse=True, colalign=align)


def _repetitions(sources: dict[str, Lists], together: dict[str, set[str]]) -> Iterator[str]:
    for source, lists in sources.items():
        for name, ids in lists.items():
            if again := [image_id for image_id, count in Counter(ids).items() if count > 1]:
                yield (
                    f"{source}: {name} has {len(again)} ids more than once "
                    f"({len(ids)} lines, first {again[0]})"
                )
    for name, images in together.items():
        if sum(len(set(lists.get(name, ()))) for lists in sources.values()) == len(images):
            continue
        spelled: dict[str, set[str]] = {}
        for source, lists in sources.items():
            for image_id in lists.get(name, ()):
                spelled.setdefault(image_key(image_id), set()).add(f"{source} {image_id}")
        if twice := [places for places in spelled.values() if len(places) > 1]:
            example = " = ".join(sorted(min(twice, key=sorted)))
            yield f"{name}: {len(twice)} images under two names ({example})"


def _relations(sets: dict[str, set[str]]) -> Iterator[str]:
    """Lines on lists that are not nested or complementary, and on images in train and val."""
    for part in PARTS[:3]:
        own = _of_part(sets, part)
        shares = {name: share for name in own if (share := _share(name)) is not None}
        shares = dict(sorted(shares.items(), key=lambda item: item[1], reverse=True))
        small = [name for name, (_, rest) in shares.items() if not rest]
        large = [name for name, (_, rest) in shares.items() if rest]
        for outer, inner in [*pairwise(small), *((b, a) for a, b in pairwise(large))]:
            if outside := own[inner] - own[outer]:
                yield f"{inner}/{part} has {_some(outside)} outside {outer}/{part}"
        unions: dict[str, set[str]] = {}
        fitting = True
        for name, rest in product(small, large):
            shared = own[name] & own[rest]
            if shared and shares[name][0] <= shares[rest][0]:
                yield f"{name}/{part} and {rest}/{part} have {_some(shared)} in common"
            if shares[name][0] == shares[rest][0]:
                both = unions[f"{name} + {rest} ({part})"] = own[name] | own[rest]
                sizes = part_size(shares[name][0], len(both)), len(both) - len(own[rest])
                fitting &= sizes == (len(own[name]), len(own[name]))
        wholes = unions
        if "Main" in own and not (fitting and _have_one_union(unions, own["Main"])):
            wholes = {f"Main/{part}": own["Main"], **unions}
        reference, *others = wholes or [""]
        for whole in others:
            for lacking, other in ((whole, reference), (reference, whole)):
                if missing := wholes[other] - wholes[lacking]:
                    yield f"{lacking} lacks {_some(missing)} of {other}"
    for folder, ids in sorted(_of_part(sets, "train").items()):
        if shared := ids & sets.get(f"{folder}/val", set()):
            yield f"{folder}/train and {folder}/val have {_some(shared)} in common"


def _have_one_union(unions: dict[str, set[str]], main: set[str]) -> bool:
    """Whether all pairs divide the same images of a larger Main: they were made of a part of it."""
    first = next(iter(unions.values()), set())
    return first <= main and all(union == first for union in unions.values())


def _of_part(sets: dict[str, set[str]], part: str) -> dict[str, set[str]]:
    """The sets of ``<name>/<part>`` by name."""
    return {name.split("/")[0]: ids for name, ids in sets.items() if name.endswith(f"/{part}")}


def _leaks(together: dict[str, set[str]], tests: Sequence[str]) -> Iterator[str]:
    """One line for each list that shares images with a test list; equal test lists count once."""
    scored = [name for name in together if name.endswith("/test") or name in tests]
    groups: dict[frozenset[str], list[str]] = {}
    for name in scored:
        groups.setdefault(frozenset(together[name]), []).append(name)
    for name, ids in together.items():
        found = []
        for content, same in groups.items():
            if shared := ids & content:
                alike = f" (and {len(same) - 1} equal lists)" if len(same) > 1 else ""
                found.append(f"{_some(shared)} in {same[0]}{alike}")
        if found and name not in scored:
            yield f"leak: {name} has {'; '.join(found)}"


def _some(ids: set[str]) -> str:
    noun = "image" if len(ids) == 1 else "images"
    return f"{len(ids)} {noun} (first {min(ids)})"
