"""The classes of masks that have a colour for each, from a file that names them or the colours."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from multas.data.formats.mask_files import color_name, read_colors
from multas.data.json_files import read_json
from multas.data.looking.inventory import Inventory, join, parent
from multas.util.errors import UserError
from multas.util.files import read_text

BACKGROUND = "background"
UNKNOWN = ("unlabeled", "unlabelled", "void", "ignore", "ignored", "unknown")
_READ = 500  # masks of which the colours are taken
_MOST = 256  # colours that can be classes
_MOST_UNNAMED = 64  # the same where nothing says that they are
_LARGEST = 1_000_000  # bytes of a file that names colours
_NUMBER = r"(\d{1,3})"
_RGB = rf"{_NUMBER}[\s,;]+{_NUMBER}[\s,;]+{_NUMBER}"
# "road:128,64,128::" of CVAT, "road,128,64,128" of tables, "128 64 128<tab>road" of CamVid.
_NAME_FIRST = re.compile(rf"(?:\d+[,;])?\s*(.*?\D.*?)[\s:,;]+{_RGB}[\s:,;]*")
_COLOR_FIRST = re.compile(rf"\s*{_RGB}[\s:,;]+(.*\D.*?)\s*")
_HEX = re.compile("#?([0-9a-fA-F]{6})")


def color_classes(
    found: Inventory, folders: Sequence[str], notes: list[str], must_be_named: bool
) -> dict[str, Any]:
    """The keys of a card that name the colours of the masks in some folders.

    A class that is called so is the background and comes first; one whose name tells that its
    pixels do not count comes last.

    Args:
        found: what lies in the folder of the data.
        folders: those of the masks.
        notes: receives where the names are from.
        must_be_named: whether colours without names are no classes.

    Raises:
        UserError: The masks have more colours than classes can be, or colours have no names.
    """
    colors = _colors(found, folders)
    named = _named(found, folders, colors, notes)
    if not named and must_be_named:
        raise UserError(
            f"nothing names the colours of the masks in {', '.join(folders)}: write labelmap.txt, "
            "with a line such as road:128,64,128 for each class"
        )
    if not named:
        _require_few(colors, _MOST_UNNAMED, found, folders[0])
        shown = ", ".join(map(color_name, sorted(colors)[:8]))
        more = f" and {len(colors) - 8} more" if len(colors) > 8 else ""
        notes.append(
            f"nothing names the colours of the masks, {shown}{more}: write labelmap.txt, with a "
            "line such as road:128,64,128 for each class"
        )
        named = {f"color_{color:06x}": color for color in sorted(colors)}
        if 0 in colors:
            one = {"object": max(colors)} if len(colors) == 2 else {}
            named = {BACKGROUND: 0, **(one or {n: c for n, c in named.items() if c})}
    names = sorted(named, key=lambda name: (name.lower() != BACKGROUND, name.lower() in UNKNOWN))
    keys: dict[str, Any] = {"classes": names, "colors": [color_name(named[name]) for name in names]}
    if names[-1].lower() in UNKNOWN:
        keys["ignore_label"] = len(names) - 1
        notes.append(f"pixels of the colour {keys['colors'][-1]}, {names[-1]}, do not count")
    return keys


def places_near(folders: Sequence[str]) -> list[str]:
    """Folders of masks, those above them and the root: where a file may tell their classes."""
    return list(dict.fromkeys([*folders, *map(parent, folders), "."]))


def _colors(found: Inventory, folders: Sequence[str]) -> set[int]:
    """The colours of masks, of some where there are very many, as 0xRRGGBB."""
    masks = [mask for folder in dict.fromkeys(folders) for mask in found.below(folder)]
    colors: set[int] = set()
    for mask in masks[:: max(1, len(masks) // _READ)]:
        try:
            colors.update(np.unique(read_colors(found.root / mask)).tolist())
        except Exception:  # Pillow has many for damaged files, which are reported by the loading
            continue
        _require_few(colors, _MOST, found, parent(mask))
    return colors


def _require_few(colors: set[int], most: int, found: Inventory, folder: str) -> None:
    if len(colors) > most:
        raise UserError(
            f"{found.root}: the masks in {folder} have more than {most} colours. Save them without "
            "smoothing, in a format that keeps colours such as PNG, each class in a colour of its "
            "own"
        )


def _named(
    found: Inventory, folders: Sequence[str], colors: set[int], notes: list[str]
) -> dict[str, int]:
    """The names of the colours in a file near the masks; {} if none names all of them."""
    for folder in places_near(folders):
        for suffix, read in ((".txt", _read_lines), (".csv", _read_lines), (".json", _read_json)):
            for name in found.texts[suffix].get(folder, ()):
                place = join(folder, name)
                try:
                    if (found.root / place).stat().st_size > _LARGEST:
                        continue
                    pairs = list(read(found.root / place))
                except (OSError, UserError):
                    continue
                named = dict(pairs)
                missing = colors - set(named.values())
                if not missing and len(named) == len(pairs) == len(set(named.values())):
                    notes.append(f"{place} names the colours of the masks")
                    return named
                if colors & set(named.values()) and len(named) > 1:
                    missed = ", ".join(map(color_name, sorted(missing)[:3])) or "nothing"
                    notes.append(
                        f"{place} is passed over: of the masks' colours it does not name {missed}, "
                        "or it has something twice"
                    )
    return {}


def _read_lines(file: Path) -> Iterator[tuple[str, int]]:
    """Names and colours of a text, one of each on a line; other lines are passed over."""
    for line in read_text(file).splitlines():
        if match := _NAME_FIRST.fullmatch(line):
            name, *rgb = match.groups()
        elif match := _COLOR_FIRST.fullmatch(line):
            *rgb, name = match.groups()
        else:
            continue
        if not name.startswith("#") and (color := _number(rgb)) is not None:
            yield name.strip(), color


def _read_json(file: Path) -> Iterator[tuple[str, int]]:
    """Names and colours of a JSON file: {"road": "#804080"}, or a list of tables.

    The list may be in "classes". A colour is [red, green, blue] or #rrggbb; a name is called name,
    title or label.
    """
    content = read_json(file)
    if isinstance(content, Mapping):
        lists = [content.get(key) for key in ("classes", "categories", "labels")]
        content = next((own for own in lists if isinstance(own, list)), content)
    if isinstance(content, Mapping):
        content = [{"name": name, "color": color} for name, color in content.items()]
    for entry in content if isinstance(content, list) else ():
        if not isinstance(entry, Mapping):
            continue
        name = next((entry[key] for key in ("name", "title", "label") if entry.get(key)), None)
        color = _number(entry.get("color"))
        if isinstance(name, str) and color is not None:
            yield name, color


def _number(color: Any) -> int | None:
    """A colour as 0xRRGGBB; None if it is none."""
    if isinstance(color, str):
        match = _HEX.fullmatch(color.strip())
        return int(match[1], 16) if match else None
    if not isinstance(color, Sequence) or len(color) != 3:
        return None
    try:
        red, green, blue = (int(value) for value in color)
    except (TypeError, ValueError):
        return None
    return (red << 16) | (green << 8) | blue if {red, green, blue} <= set(range(256)) else None
