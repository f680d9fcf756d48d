"""What was found in data cards as blocks: a short text for the console, and a whole page."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.data.catalog import Metadata

from multas.data.drawing import draw_truth
from multas.data.inspection import Split
from multas.data.measures import PERCENTILES
from multas.data.overlaps import Alike, count_alike
from multas.data.statistics import BOX, LABEL, NOTHING
from multas.data.suggestions import as_yaml
from multas.engine.comparison.pictures import save_picture
from multas.engine.comparison.plots import colour_of, plot_curves
from multas.engine.data_faults import (
    faults_of,
    in_digits,
    kind_grid,
    kind_lists,
    kinds_of,
    remarks_of,
)
from multas.engine.data_pictures import sheet_blocks
from multas.util.document import Block, Code, Gallery, Grid, Heading, Legend, Paragraph, Picture
from multas.util.errors import UserError

_FEW_ROWS, _FEW_COLUMNS = 20, 5  # of tables on the console
_MOST_PAIRS = 6  # of images that look alike, as pictures
_SHOWN = "images that show it"
_BINS = 30


@dataclass(frozen=True)
class Found:
    """What was found in the splits of data cards; see multas/data/overlaps.py for the others."""

    splits: Sequence[Split]
    shared: Mapping[tuple[str, str], int]
    alike: Sequence[Alike]
    loose: Mapping[str, int]

    @property
    def num_faults(self) -> int:
        """Faults of lists that overlap count once."""
        return len({fault for split in self.splits for fault in split.issues.faults})


def summary(found: Found) -> list[Block]:
    """What fits on a screen or two."""
    faults, remarks = kinds_of(found.splits, faults_of), kinds_of(found.splits, remarks_of)
    blocks = [_split_grid(found.splits), *_class_grids(found.splits, short=True)]
    blocks += [Paragraph(_in_words(found)), *kind_grid(faults), *kind_grid(remarks)]
    return [*blocks, *_overlap_grid(found, short=True), *_suggestion_blocks(found.splits)]


def whole_page(found: Found, title: str, folder: Path) -> list[Block]:
    """All that was found, with plots and pictures, which are written to a folder."""
    blocks: list[Block] = [Heading(title, 1), Paragraph(_in_words(found))]
    blocks += [Heading("Splits"), _split_grid(found.splits)]
    blocks += [
        Paragraph(f"{n} images of {place} are in no split.") for place, n in found.loose.items()
    ]
    blocks += [Heading("Faults")] if found.num_faults else []
    blocks += kind_lists(kinds_of(found.splits, faults_of))
    if remarks := kinds_of(found.splits, remarks_of):
        blocks += [Heading("What is used, but odd"), *kind_lists(remarks)]
    if grid := _overlap_grid(found):
        blocks += [Heading("Images of several splits"), *grid, *_pairs(found.alike, folder)]
    for heading, part in (
        ("Classes", _class_grids(found.splits)),
        ("Sizes", _size_blocks(found.splits, folder)),
    ):
        blocks += [Heading(heading), *part] if part else []
    blocks += _suggestion_blocks(found.splits)
    seen: dict[frozenset, set[str]] = defaultdict(set)  # by what they are annotated with
    for number, split in enumerate(found.splits):
        own = {image["file_name"] for image in split.images}
        before = seen[frozenset(split.numbers.annotated)]
        blocks += sheet_blocks(split, folder, number) if own - before else []
        before |= own
    return blocks


def _in_words(found: Found) -> str:
    count = found.num_faults
    if not count:
        return "No faults."
    faulty = [split.name for split in found.splits if split.issues.faults]
    more = f" and {len(faulty) - _FEW_COLUMNS} more" if len(faulty) > _FEW_COLUMNS else ""
    noun = "fault" if count == 1 else "faults"
    where = f"{', '.join(faulty[:_FEW_COLUMNS])}{more}"
    return f"{count} {noun}, in {where}. All numbers are of what has none."


def _split_grid(splits: Sequence[Split]) -> Grid:
    kinds = list(dict.fromkeys(kind for s in splits for kind in s.numbers.annotated))
    named = [kind if kind == NOTHING else f"with {kind}" for kind in kinds]
    head = ["split", "images", *named, "empty", "objects", "left out", "faults"]
    rows = []
    for s in splits:
        left_out = sum(map(len, s.issues.left_out.values()))
        left_out += sum(numbers.total() for numbers in s.issues.passed_over.values())
        cells = [s.numbers.images, *(s.numbers.annotated.get(kind, 0) for kind in kinds), s.empty]
        cells += [len(s.sizes.objects), left_out, len(s.issues.faults)]
        rows.append([s.name, *map(in_digits, cells)])
    return Grid(head, rows)


def _class_grids(splits: Sequence[Split], short: bool = False) -> list[Block]:
    """Objects, images with a label, and images whose masks show a class, by class and split."""
    tables: dict[str, list[Mapping[str, int]]] = {
        "objects": [s.numbers.classes.get(BOX, {}) for s in splits],
        "images": [s.numbers.classes.get(LABEL, {}) for s in splits],
        _SHOWN: [s.masks.images for s in splits],
    }
    names = [s.name for s in splits]
    blocks: list[Block] = []
    for what, columns in tables.items():
        if any(columns):
            blocks.append(_class_grid(what, names, columns, short))
    shares = [_shares(s.masks.pixels) for s in splits]
    if any(shares) and not short:
        classes = dict.fromkeys(name for share in shares for name in share if share[name])
        rows = [[name, *(f"{share.get(name, 0):.2f}" for share in shares)] for name in classes]
        blocks.append(Grid(["class (% of pixels)", *names], rows))
    return blocks


def _class_grid(
    what: str, names: Sequence[str], columns: Sequence[Mapping[str, int]], short: bool
) -> Grid:
    used = [i for i, column in enumerate(columns) if column]
    kept = used[:_FEW_COLUMNS] if short else used
    classes = list(dict.fromkeys(name for i in used for name in columns[i] if columns[i][name]))
    shown = classes[:_FEW_ROWS] if short else classes
    rows = [[name, *(in_digits(columns[i].get(name, 0)) for i in kept)] for name in shown]
    if len(shown) < len(classes):
        rows.append([f"… {len(classes) - len(shown)} more", *("…" for _ in kept)])
    if what != _SHOWN:
        rows.append(["all", *(in_digits(sum(columns[i].values())) for i in kept)])
    return Grid([f"class ({what})", *(names[i] for i in kept)], rows)


def _shares(pixels: Mapping[str, int]) -> dict[str, float]:
    """Per cent of all pixels."""
    total = sum(pixels.values())
    return {name: 100 * n / total for name, n in pixels.items()} if total else {}


def _overlap_grid(found: Found, short: bool = False) -> list[Block]:
    same, view = (count_alike(found.alike, same=kind) for kind in (True, False))
    pairs = sorted({*found.shared, *same, *view}, key=lambda p: (-same[p], -view[p], p))
    rows = [
        [
            f"{a}, {b}",
            *(in_digits(numbers.get((a, b), 0)) for numbers in (found.shared, same, view)),
        ]
        for a, b in (pairs[:_FEW_ROWS] if short else pairs)
    ]
    head = ["splits", "images in common", "others that are near-identical", "of one view"]
    return [Grid(head, rows)] if rows else []


def _pairs(alike: Sequence[Alike], folder: Path) -> list[Block]:
    """Some pairs of images that look alike, side by side."""
    pictures = []
    chosen = sorted(alike, key=lambda pair: not pair.same)[:_MOST_PAIRS]
    for number, pair in enumerate(chosen):
        try:
            left, right = (draw_truth(image, Metadata()) for image in pair.images)
        except UserError:
            continue
        height = max(len(left), len(right))
        both = np.zeros((height, left.shape[1] + right.shape[1], 3), np.uint8)
        both[: len(left), : left.shape[1]] = left
        both[: len(right), left.shape[1] :] = right
        names = [
            f"{Path(image['file_name']).name} in {', '.join(splits)}"
            for image, splits in zip(pair.images, pair.splits, strict=True)
        ]
        pictures.append(save_picture(both, folder / f"pair{number}.jpg", " = ".join(names)))
    if not pictures:
        return []
    text = (
        "Files that differ, but show the same, or another time what a camera that stands still has "
        f"in view: results on one of the splits say little then. Here are {len(pictures)} of "
        f"{len(alike)} pairs."
    )
    return [Paragraph(text), Gallery(pictures, width=420)]


def _size_blocks(splits: Sequence[Split], folder: Path) -> list[Block]:
    quantities = {
        "width of images (px)": [s.sizes.images[:, 0] for s in splits],
        "height of images (px)": [s.sizes.images[:, 1] for s in splits],
        "√area of objects (px)": [s.sizes.sides for s in splits],
        "√area of objects (% of the image's)": [100 * s.sizes.relative_sides for s in splits],
        "objects of an image": [s.sizes.counts for s in splits],
    }
    plots: list[Picture] = []
    grids: list[Block] = []
    for number, (what, values) in enumerate(quantities.items()):
        shown = {i: x for i, x in enumerate(values) if len(x)}
        rows = []
        for i, x in shown.items():
            levels = [x.min(), *np.percentile(x, PERCENTILES), x.max()]
            rows.append([splits[i].name, *(f"{level:.4g}" for level in levels)])
        if rows:
            head = [what, "least", *(f"{p} %" for p in PERCENTILES), "largest"]
            grids.append(Grid(head, rows))
        if any(len(np.unique(x)) > 1 for x in shown.values()):
            file = folder / f"sizes{number}.svg"
            plots.append(_histogram(file, what, shown))
    if not plots:
        return grids
    entries = [(s.name, colour_of(i)) for i, s in enumerate(splits)]
    return [Legend(entries), Gallery(plots), *grids]


def _histogram(file: Path, what: str, values: Mapping[int, np.ndarray]) -> Picture:
    """Shares of equal bins, up to the 99th percentile of each."""
    whole = np.concatenate(list(values.values()))
    top = float(np.percentile(whole, 99))
    edges = np.linspace(min(float(whole.min()), top), max(top, float(whole.min()) + 1), _BINS + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    curves = {
        i: (middles, 100 * np.histogram(x.clip(max=edges[-1]), edges)[0] / len(x))
        for i, x in values.items()
    }
    return Picture(plot_curves(file, what, ("", "%"), curves), what)


def _suggestion_blocks(splits: Sequence[Split]) -> list[Block]:
    return [
        block
        for split in splits
        if split.suggestions
        for block in (
            Heading(f"Settings that follow from {split.name}"),
            Code(as_yaml(split.suggestions).rstrip()),
        )
    ]
