"""LabelMe's format: a JSON file for each image, with the shapes that were drawn on it.

What becomes of the shapes of a file, stands in labelme_shapes.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from multas.data.formats.annotation_files import find_classes, load_with_files
from multas.data.formats.base import DATA_FORMAT_REGISTRY, DataFormat, Loaded, Source, remark_copies
from multas.data.formats.labelme_shapes import (
    convert_shapes,
    group_shapes,
    object_faults,
    object_names,
    place_of,
    read_labelme,
)
from multas.data.issues import or_rather, unread
from multas.util.annotation import BOXES
from multas.util.errors import UserError

_NO_FILE = "no JSON file"


@DATA_FORMAT_REGISTRY.register()
@dataclass(frozen=True, kw_only=True)
class Labelme(DataFormat):
    """Images with LabelMe's JSON files beside them, or in the folder ``annotations``.

    Rectangles, polygons, circles and masks are objects, with the boxes that enclose them; shapes of
    one label and ``group_id`` are one object. Objects that consist of polygons have a
    "segmentation", too. Lines, points, ``__ignore__`` and ``_background_`` are passed over and
    counted. Each annotation also has the integers "difficult" and "truncated", always 0.

    A file without shapes says that its image has no object; a missing file is a fault, or with
    ``only_complete`` the image is left out.
    """

    can_annotate = (BOXES,)

    annotations: str = ""
    only_complete: bool = False
    annotates: tuple[str, ...] = (BOXES.task,)

    def load(self, source: Source) -> Loaded:
        classes = source.classes or find_classes(source, _folder_of, ".json", _names_in)
        folder, why = self.json_folder(source.root), _NO_FILE if self.only_complete else ""
        return load_with_files(self, source, folder, ".json", classes, _read_objects, why)

    def json_folder(self, root: Path) -> Path:
        """Where the JSON files lie."""
        return root / (self.annotations or self.images)


def _folder_of(split: DataFormat, root: Path) -> Path | None:
    return split.json_folder(root) if isinstance(split, Labelme) and split.annotates else None


def _names_in(file: Path) -> set[str]:
    return object_names(read_labelme(file))


def _read_objects(
    file: Path, record: dict, class_ids: Mapping[str, int], source: Source
) -> list[dict] | None:
    """Detectron2's annotations of an image, or None if there are objects but all are faulty."""
    issues, size = source.issues, (record["width"], record["height"])
    try:
        content = read_labelme(file)
    except (OSError, UserError) as error:
        issues.add(str(file), unread(error).removeprefix(f"{file} "))
        return None
    told = content.get("imageWidth"), content.get("imageHeight")
    if None not in told and told != size:
        issues.add(str(file), "says {!r}x{!r}, but the image is {}x{}".format(*told, *size))
        return None
    named = content.get("imagePath")
    if isinstance(named, str) and _stem(named) not in ("", file.stem):
        issues.remark(str(file), "`imagePath` has another name, the image of this name counts")
    objects, faulty = group_shapes(content["shapes"], file, issues)
    annotations = []
    for (label, _), shapes in objects.items():
        if source.leaves_out(label):
            continue
        if label not in class_ids:
            where = place_of(file, shapes[0][0], label)
            issues.add(where, f"label not among the card's classes{or_rather(label, class_ids)}")
        elif faults := object_faults(shapes, size):
            for number, fault in faults:
                issues.add(place_of(file, number, label), fault)
            faulty = True
        else:
            annotations.append(convert_shapes(shapes, class_ids[label], size))
    remark_copies(annotations, str(file), issues)
    # An image whose objects are there but have no usable box must not pass for background.
    return None if faulty and not annotations else annotations


def _stem(path: str) -> str:
    """The name of a file without folder and extension, behind "/" or the "\\" of Windows."""
    return PureWindowsPath(path).stem
