"""Networks in 8 bits, for ONNX Runtime and OpenVINO alike, by NNCF; and OpenVINO's files."""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from multas.deploy.describe import IMAGE
from multas.deploy.detector import KEY, Description
from multas.deploy.onnx_file import import_onnx
from multas.util.errors import UserError

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}  # of the files of each library
# Normalisation, decoding and NMS stay as they are: they cost little, and coordinates need more than
# 8 bits. Their nodes have the names of the graph's modules.
_KEPT = [".*/normalise/.*", ".*/decoding/.*"]
Inputs = Mapping[str, np.ndarray]
Gain = Callable[[Any], float]  # of a compiled network


def require_libraries(names: Collection[str], int8: bool) -> None:
    """Make sure that the libraries are there that write files of these names.

    Raises:
        UserError: One is not installed; the message has the extra that installs it.
    """
    import_onnx()  # everything is written by way of ONNX
    if "openvino" in names:
        _import("openvino")
    if "onnx" in names:
        _import("onnxruntime", "onnx")
    if int8:
        _import("nncf")


def read_network(library: str, onnx_file: str) -> Any:
    """The network of an ONNX file as ``onnx.ModelProto`` or ``openvino.Model``.

    Raises:
        UserError: The library is not installed.
    """
    if library == "onnx":
        return import_onnx().load(onnx_file)
    return _import("openvino").Core().read_model(onnx_file)


def save_network(network: Any, description: Description, file: str) -> None:
    """Write a network and its description into a file .onnx, or .xml and .bin."""
    if file.endswith(SUFFIXES["onnx"]):
        onnx = import_onnx()
        onnx.helper.set_model_props(network, {KEY: description.to_json()})
        onnx.save(network, file)
        return
    network.set_rt_info(description.to_json(), [KEY])
    # The .bin first, so that no .xml lacks it.
    partial = Path(file).with_suffix(".partial.xml")
    _import("openvino").save_model(network, str(partial), compress_to_fp16=False)
    partial.with_suffix(".bin").replace(Path(file).with_suffix(".bin"))
    partial.replace(file)


def quantise(
    network: Any, inputs: Sequence[Inputs], gain: Gain | None = None, max_drop: float = 0.0
) -> Any:
    """A network in 8 bits: weights per channel, activations calibrated.

    Args:
        network: as :func:`read_network` gives it.
        inputs: of the network, for images as it will meet them.
        gain: if given, NNCF's accuracy control finds the layers that cost more than ``max_drop``
            of it and keeps them in single precision. That evaluates many networks.

    Raises:
        UserError: The library is not installed, or there is no input.
    """
    nncf = _import("nncf")
    if not inputs:
        raise UserError(
            "There is no image to calibrate 8 bits with; name a data set that has some."
        )
    nncf.set_log_level(logging.ERROR)
    dataset = nncf.Dataset(list(inputs))
    kept = nncf.IgnoredScope(patterns=_KEPT, validate=False)
    options = {"ignored_scope": kept, "subset_size": len(inputs)}
    if gain is None:
        return nncf.quantize(network, dataset, **options)

    def validate(compiled: Any, data: Iterable[Inputs]) -> tuple[float, list[float]]:
        # NNCF divides by the value of the network in full precision, and its gain may be 0. Without
        # values of single images it would ask for each alone, and the gain is always that of all.
        value = 100.0 + gain(compiled)
        return value, [value for _ in data]

    return nncf.quantize_with_accuracy_control(
        network, dataset, dataset, validate,
        max_drop=max_drop, drop_type=nncf.DropType.ABSOLUTE, **options,
    )  # fmt: skip


class Compiled:
    """A network in memory that accuracy control asks about, as a :class:`detector.Runtime`."""

    def __init__(self, network: Any, description: Description) -> None:
        if hasattr(network, "SerializeToString"):  # ONNX's own form of a network, which cannot run
            network = _import("onnxruntime", "onnx").InferenceSession(
                network.SerializeToString(), providers=["CPUExecutionProvider"]
            )
        self.network, self.description = network, description.to_json()
        self.outputs = list(description.outputs.values())
        sizes = {description.image_sizes: ((1, 2), np.dtype("float32"))}
        image = {IMAGE: ((1, 3, *description.size), np.dtype("uint8"))}
        self.inputs: dict[str, Any] = image | (sizes if description.image_sizes else {})

    def __call__(self, inputs: Inputs) -> dict[str, np.ndarray]:
        if hasattr(self.network, "run"):  # ONNX Runtime
            names = [x.name for x in self.network.get_outputs()]
            return dict(zip(names, self.network.run(None, dict(inputs)), strict=True))
        results = self.network(dict(inputs))
        return {x.any_name: np.array(results[x]) for x in self.network.outputs}


def _import(library: str, extra: str = "openvino") -> Any:
    try:
        return import_module(library)
    except ImportError:
        raise UserError(
            f"This needs the library {library}: pip install 'multas[{extra}]'."
        ) from None
