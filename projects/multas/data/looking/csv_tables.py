"""The CSV files that tell about images of a folder, and where these images lie."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import NamedTuple

from multas.data.csv_files import CsvFile, image_names, read_csv
from multas.data.image_names import ImageNames, Match, without_suffix
from multas.data.looking.inventory import Inventory, join, parent
from multas.data.looking.roles import role_of
from multas.util.errors import UserError

_TRIED = 100  # images of a file, by which their folder is found
_FOLDERS = 8  # that are tried
_LEAST = 0.5  # of the images of a file that must be there
_MOST_COLUMNS = 200  # others have the values of pixels
_PASSED_OVER = ("submission",)  # Kaggle's example of an answer has labels that say nothing


@dataclass(frozen=True)
class Table:
    """A CSV file that tells about images of a folder.

    Attributes:
        place: its path from the root.
        file: its content.
        folder: that of the images.
        images: the paths of images from the root, by their names in the file.
        names_are_ids: whether these names, without extension, are the ids of the images.
    """

    place: str
    file: CsvFile
    folder: str
    images: Mapping[str, str]
    names_are_ids: bool


class CsvTables(NamedTuple):
    """The CSV files that tell about images that are there, and why others are passed over."""

    tables: Sequence[Table]
    notes: Sequence[str]


def find_tables(found: Inventory) -> CsvTables:
    """Read the CSV files of a folder, and find the images that each of them names."""
    tables: list[Table] = []
    notes: list[str] = []
    places = [join(folder, name) for folder, own in found.texts[".csv"].items() for name in own]
    by_end: dict[str, list[str]] = defaultdict(list)
    for path in found.below(".") if places else ():
        by_end[without_suffix(path.rpartition("/")[2])].append(path)
    images: dict[str, _Images] = {}
    for place in places:
        try:
            file = read_csv(found.root / place)
            names = image_names(file)
        except OSError as error:
            notes.append(f"{place} is passed over: it cannot be read ({error.strerror})")
            continue
        except UserError as error:
            notes.append(f"{place} is passed over: {error}")
            continue
        names = list(dict.fromkeys(names))
        is_example = any(word in place.lower() for word in _PASSED_OVER)
        if not names or len(file.columns) > _MOST_COLUMNS or is_example:
            continue
        tried = names[:: len(names) // _TRIED + 1]
        likely = _likely(tried, by_end)
        images |= {folder: _Images(found, folder) for folder in likely if folder not in images}
        ours = {folder: images[folder] for folder in likely}
        if (folder := _best_folder(found, ours, tried, place)) is None:
            notes.append(f"{place} is passed over: its images, such as {names[0]}, are not there")
            continue
        paths = images[folder].paths_of(names)
        names_are_ids = all(map(images[folder].is_id, paths))
        tables.append(Table(place, file, folder, paths, names_are_ids))
    return CsvTables(tables, notes)


class _Images:
    """The images in a folder and below it."""

    def __init__(self, found: Inventory, folder: str):
        start = 0 if folder == "." else len(folder) + 1
        self._paths = {without_suffix(path[start:]): path for path in found.below(folder)}
        self._names = ImageNames(self._paths)

    def paths_of(self, names: Sequence[str]) -> dict[str, str]:
        """The paths from the root of those of some names that are those of images."""
        return {n: self._paths[own] for n, own in self._names.find_all(names).items()}

    def matches(self, names: Sequence[str]) -> list[Match]:
        """The images that names mean, each by itself."""
        own = self._names.find_all(names)
        return [match for name in own if (match := self._names.match(name)) is not None]

    def is_id(self, name: str) -> bool:
        """Whether a name is the id of an image, but for an extension."""
        return without_suffix(name) in self._paths


def _likely(names: Sequence[str], by_end: Mapping[str, Sequence[str]]) -> list[str]:
    """The folders that have most images of these names, without others before them."""
    counts: dict[str, set[str]] = defaultdict(set)
    for name in names:
        end = name.replace("\\", "/").rpartition("/")[2]
        for path in (*by_end.get(end, ()), *by_end.get(without_suffix(end), ())):
            for folder in map(str, PurePath(path).parents):
                counts[folder].add(path)
    ranked = sorted(counts, key=lambda folder: (-len(counts[folder]), folder.count("/"), folder))
    return ranked[:_FOLDERS]


def _best_folder(
    found: Inventory, images: Mapping[str, _Images], names: Sequence[str], place: str
) -> str | None:
    """The folder that has most of some images; None if none has enough of them.

    Of equal ones it is the one whose paths agree most with the names, that of the file itself, one
    with the role that the file's path tells, one to train on, or the lowest.
    """

    def rank(folder: str) -> tuple[float, ...]:
        matches = images[folder].matches(names)
        share = len({match.image_id for match in matches}) / len(names)
        agreeing = sum(match.parts for match in matches) / max(len(matches), 1)
        beside = folder == parent(place) and folder in found.images
        is_meant = role_of(place) in ("", role_of(folder))
        depth = folder.count("/") + (folder != ".")
        return share, agreeing, beside, is_meant, role_of(folder) == "train", depth

    ranks = {folder: rank(folder) for folder in images}
    best = max(ranks, key=ranks.__getitem__, default=None)
    return best if best is not None and ranks[best][0] >= _LEAST else None
