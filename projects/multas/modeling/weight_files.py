"""Files of weights in the formats that Detectron2 reads, and safetensors; none runs code."""

import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from multas.modeling.array_pickles import load_arrays
from multas.util.errors import UserError
from multas.util.required_files import require_file

# What a file begins with that holds no weights, and what to do about it.
_OTHER_CONTENT = (
    (b"version https://git-lfs", "is a pointer of Git LFS; fetch the file with `git lfs pull`"),
    (b"\x89HDF", "is HDF5 (of Keras), which Detectron2 cannot read; convert it"),
    (b"\x93NUMPY", "is a single NumPy array; save all weights by name, as a .pth file"),
    (b"\x1f\x8b", "is compressed; unpack it (gzip -d)"),
)
# By the ends of names, since they begin with anything.
_OTHER_FORMATS = {".onnx": "ONNX", ".keras": "Keras", ".tflite": "TensorFlow Lite", ".npz": "NumPy"}
# Infinite values and whole numbers may stand in masks and counters, but not here.
_LEARNED = (".weight", ".bias", ".running_mean", ".running_var")
_EXPORTED = "MODEL.META_ARCHITECTURE ExportedModel"
_CURE = "Name a checkpoint (.pth, .safetensors, or .pkl of Detectron2's model zoo)."


def check_is_file(path: str, key: str) -> None:
    """Make sure that a file of weights is there; a URL is not checked.

    Args:
        path: the name of the file.
        key: the config key or argument that gives it, for the message.

    Raises:
        FileNotFoundError: There is none. The message has what is there instead.
    """
    cure = "Name the weights of a trained model, such as student.pth in the OUTPUT_DIR of its run."
    require_file(path, key, (".pth", ".safetensors", ".pkl"), cure)


def read_weights(path: str, inside: Sequence[str] = ()) -> dict[str, Any]:
    """Read a file of weights, on the CPU, and run nothing that it holds.

    Args:
        path: a local file. One that ends in .safetensors is of that format, .pkl is a pickle of
            Detectron2's or Caffe2's model zoo, .pyth is of pycls, and all others are of torch.save.
        inside: names of entries that may hold the weights in place of "model".

    Returns:
        What Detectron2's checkpointer expects: "model" with tensors or arrays by name, and what
        else the file has, such as "matching_heuristics" and "__author__".

    Raises:
        UserError: The file is damaged or foreign, or wants to run code. The message names it.
    """
    try:
        _refuse_other_formats(path)
        content = _read(path)
        for key in inside:
            if isinstance(content, Mapping) and key in content:
                content = {"model": content[key]}
        return _checked(content, path)
    # A parser of damaged bytes raises anything, from EOFError to MemoryError.
    except Exception as error:
        unreadable = isinstance(error, OSError) and error.filename is not None
        if unreadable or isinstance(error, UserError):
            raise
        raise UserError(_reason(path, error)) from error


def _read(path: str) -> Any:
    if path.endswith(".safetensors"):
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            model = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        # What tools/convert_weights.py writes; there are no values but texts.
        return {"model": model, "matching_heuristics": about.get("matching_heuristics") == "True"}
    if path.endswith(".pkl") and not zipfile.is_zipfile(path):  # else it is of torch.save
        with open(path, "rb") as stream:
            return _of_model_zoo(load_arrays(stream, path))
    content = torch.load(path, map_location="cpu", weights_only=True)
    if path.endswith(".pyth") and isinstance(content, Mapping) and "model_state" in content:
        state = content["model_state"].items()
        model = {k: v for k, v in state if not k.endswith("num_batches_tracked")}
        return {"model": model, "__author__": "pycls", "matching_heuristics": True}
    return content


def _of_model_zoo(content: Any) -> Any:
    """Detectron2's own form, or that of Caffe2 and Detectron, which becomes it."""
    if not isinstance(content, Mapping) or {"model", "__author__"} <= content.keys():
        return content
    blobs = content.get("blobs", content)
    if isinstance(blobs, Mapping):
        blobs = {name: v for name, v in blobs.items() if not str(name).endswith("_momentum")}
    return {"model": blobs, "__author__": "Caffe2", "matching_heuristics": True}


def _checked(content: Any, path: str) -> dict[str, Any]:
    """The content with "model", which has nothing but tensors and arrays."""
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds {_kind(content)}, not weights by name. {_CURE}")
    own = dict(content) if "model" in content else {"model": content}
    model = own["model"]
    if not isinstance(model, Mapping):
        raise UserError(
            f"{path}: 'model' is {_kind(model)}, not weights by name. Save the network's "
            "state_dict() there."
        )
    if not model:
        raise UserError(f"{path} holds no weights: it is an empty mapping. {_CURE}")
    if {"state", "param_groups"} <= model.keys():
        raise UserError(f"{path} is the state of an optimiser, without weights. {_CURE}")
    for name, value in model.items():
        if not isinstance(name, str):
            raise UserError(f"{path}: {name!r} is no name of a parameter. {_CURE}")
        if not isinstance(value, Tensor | np.ndarray):
            raise UserError(f"{path}: '{name}' is {_kind(value)}, not a tensor. {_inner(model)}")
        if fault := _fault_of(name, value):
            raise UserError(f"{path}: '{name}' {fault}")
    return own


def _fault_of(name: str, value: Tensor | np.ndarray) -> str:
    """What makes a tensor or array no weight, with a cure; "" if nothing does."""
    try:
        tensor = torch.as_tensor(value)
    except TypeError:
        # Texts may stand beside the weights in old files.
        fault = f"is an array of {value.dtype}, not of numbers that torch knows. {_CURE}"
        return fault if name.endswith(_LEARNED) else ""
    plain = tensor.layout is torch.strided and not (
        tensor.is_quantized or tensor.is_meta or tensor.is_nested
    )
    learned = name.endswith(_LEARNED)
    if not plain or (learned and not tensor.is_floating_point()):
        return (
            "is sparse, quantised, without values, or not of real numbers "
            f"({tensor.dtype}, {tensor.layout}). Save it as a dense tensor of float32."
        )
    if not tensor.is_floating_point() or not (learned or isinstance(value, Tensor)):
        return ""
    if tensor.sum().isfinite():  # then all are; to look at each of them takes 40 times as long
        return ""
    if (tensor.isnan() | (tensor.isinf() & learned)).any():
        return (
            "has values that are not numbers (NaN) or infinite: its training diverged. Take an "
            "earlier checkpoint."
        )
    return ""


def _inner(model: Mapping) -> str:
    """The cure where the weights are one level further down, as other libraries have them."""
    for name, value in model.items():
        if isinstance(value, Mapping) and any(isinstance(v, Tensor) for v in value.values()):
            return f"The weights are in '{name}': save {{\"model\": content['{name}']}} by torch."
    return _CURE


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a value of the type {type(value).__name__}"


def _refuse_other_formats(path: str) -> None:
    with open(path, "rb") as file:
        start = file.read(64)
    if not start:
        raise UserError(f"{path} is empty. Copy or download it again.")
    if start.lstrip().startswith(b"<") and b"\0" not in start:
        if path.endswith(".xml"):
            raise UserError(f"{path} is XML, which is no checkpoint. To run it, set {_EXPORTED}.")
        raise UserError(f"{path} is a web page or XML: its download went wrong. Get it again.")
    for begin, what in _OTHER_CONTENT:
        if start.startswith(begin):
            raise UserError(f"{path} {what}.")
    name = _OTHER_FORMATS.get(os.path.splitext(path)[1].lower())
    if name:
        cure = _CURE if name != "ONNX" else f"To run it, set {_EXPORTED}."
        raise UserError(f"{path} is of {name}, which is no checkpoint. {cure}")
    if start.startswith(b"PK"):
        _refuse_other_archives(path)


def _refuse_other_archives(path: str) -> None:
    with zipfile.ZipFile(path) as archive:
        names = [name.partition("/")[2] for name in archive.namelist()]
        damaged = archive.testzip()  # torch does not look at the checksums that it writes
    if "constants.pkl" in names:
        raise UserError(
            f"{path} is a TorchScript archive, a program. Save the state_dict() of its network as "
            "a .pth file."
        )
    if "data.pkl" not in names:
        raise UserError(f"{path} is an archive without a checkpoint; unpack it. {_CURE}")
    if damaged is not None:
        raise UserError(
            f"{path} is damaged: the checksum of its part '{damaged}' is wrong. Copy or download "
            "it again, or take another checkpoint."
        )


def _reason(path: str, error: Exception) -> str:
    """The message about a file that could not be read."""
    # A sentence of torch has what its safe reader met.
    wanted = re.search(r"(?:GLOBAL|global) ([\w.]+)", str(error))
    if wanted:
        return (
            f"{path} wants to run {wanted[1]}, which a file of weights has no need for, so that "
            "nothing of it was read. If you trust its source, load it there and save the "
            "state_dict() alone."
        )
    first = re.split(r"\.\s", str(error).strip())[0]
    return (
        f"{path} is damaged, or no file of weights ({type(error).__name__}: {first}). Copy or "
        f"download it again. {_CURE}"
    )
