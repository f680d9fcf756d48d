"""YAML files that describe a detector of another program."""

import os
from collections.abc import Mapping
from typing import Any

from multas.config.limits import NUMBER, Limit, above, check_limit, each, from_to, one_of, whole
from multas.deploy.detector import Description
from multas.util.errors import UserError
from multas.util.names import did_you_mean
from multas.util.required_files import require_file
from multas.util.yaml_files import read_yaml

SUFFIXES = (".yaml", ".yml")
_OUTPUTS = ({"boxes", "scores", "classes"}, {"boxes", "scores"}, {"detections"})


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value != ""


_NAME = Limit("a name", _is_name)
_LIMITS: Mapping[str, Limit] = {
    "file": Limit("the name of a file .onnx or .xml", _is_name),
    "outputs": Limit(
        "the names that the file has for its outputs: `boxes`, `scores` and `classes`; or `boxes` "
        "and `scores` (of all classes); or `detections` (box, score and class in one)",
        lambda x: isinstance(x, Mapping) and set(x) in _OUTPUTS and all(map(_is_name, x.values())),
    ),
    "classes": Limit(
        "the list of the names of your classes, in the order of `classes` in your data card",
        lambda x: isinstance(x, list) and len({*x}) == len(x) > 0 and all(map(_is_name, x)),
    ),
    "labels": Limit(
        "a mapping from numbers of the file's classes to names of your classes",
        lambda x: isinstance(x, Mapping) and len(x) > 0 and all(type(k) is int for k in x),
    ),
    "box_format": one_of("xyxy", "xywh", "cxcywh"),
    "box_unit": one_of("pixel", "fraction"),
    "format": one_of("BGR", "RGB"),
    "layout": one_of("NCHW", "NHWC"),
    "resize": one_of("shortest_edge", "fit", "stretch"),
    "size": each(whole(1), length=2),
    "min_size": whole(1),
    "max_size": whole(1),
    "divisor": whole(1),
    "antialias": one_of(True, False),
    "padding": one_of("end", "centre"),
    "pad_value": from_to(0, 255),
    "mean": each(NUMBER, length=3),
    "std": each(above(0), length=3),
    "image_sizes": _NAME,
}
_NEEDED = ("file", "outputs", "classes")


def read_description(file: str) -> tuple[str, Description]:
    """The network that a YAML file describes, and the description.

    The keys are those of :class:`Description`, with ``file``, the network, from the folder of the
    YAML file; ``classes``, a list of names; and ``labels``, names by the numbers in the file.

    Raises:
        FileNotFoundError: There is no such file, or not the network.
        UserError: A key or value is wrong.
    """
    content = read_yaml(file)
    if not isinstance(content, Mapping):
        raise UserError(f"{file} has to be a mapping with the keys {', '.join(_NEEDED)} …")
    for key in content:
        if key not in _LIMITS:
            raise UserError(f"{file}: unknown key '{key}'.{did_you_mean(str(key), list(_LIMITS))}")
    for key in _NEEDED:
        if key not in content:
            raise UserError(f"{file}: the key '{key}' is missing; give {_LIMITS[key].words}.")
    for key, value in content.items():
        check_limit(f"{file}: {key}", value, _LIMITS[key])
    if ("mean" in content) != ("std" in content):
        raise UserError(f"{file}: `mean` and `std` belong together; give both, or neither.")
    values = dict(content)
    folder, names = os.path.dirname(file), values.pop("classes")
    network = os.path.join(folder, os.path.expanduser(values.pop("file")))
    require_file(
        network, f"{file}: file", (".onnx", ".xml"), "Name it from the YAML file's folder."
    )
    labels = {
        number: _number(name, names, file) for number, name in values.pop("labels", {}).items()
    }
    values["size"] = tuple(values.get("size", (0, 0)))
    return network, Description(**values, classes={"classes": names}, labels=labels)


def _number(name: Any, names: list[str], file: str) -> int:
    if name not in names:
        raise UserError(
            f"{file}: labels: {name!r} is not in `classes`.{did_you_mean(str(name), names)}"
        )
    return names.index(name)
