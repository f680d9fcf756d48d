"""Networks as OpenVINO IR (an .xml and a .bin), and in 8 bits, by NNCF."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from multas.deploy.describe import IMAGE
from multas.deploy.detector import KEY, Description
from multas.util.errors import UserError

# Normalisation, decoding and NMS stay as they are: they cost little, and coordinates need more than
# 8 bits. Their nodes have the names of the graph's modules.
_KEPT = [".*/normalise/.*", ".*/decoding/.*"]
Inputs = Mapping[str, np.ndarray]
Score = Callable[[Any], float]  # of a compiled network, higher is better


def write_openvino(onnx_file: str, description: Description, file: str) -> None:
    """Write the network of an ONNX file as OpenVINO IR, in single precision.

    Raises:
        UserError: The library is not installed.
    """
    openvino = _import("openvino")
    save_openvino(openvino.Core().read_model(onnx_file), description, file)


def save_openvino(model: Any, description: Description, file: str) -> None:
    """Write a network of OpenVINO and its description; the .bin first, so that no .xml lacks it."""
    openvino = _import("openvino")
    model.set_rt_info(description.to_json(), [KEY])
    partial = Path(file).with_suffix(".partial.xml")
    openvino.save_model(model, str(partial), compress_to_fp16=False)
    partial.with_suffix(".bin").replace(Path(file).with_suffix(".bin"))
    partial.replace(file)


def quantise(
    model: Any, inputs: Sequence[Inputs], score: Score | None = None, max_drop: float = 0.0
) -> Any:
    """A network of OpenVINO or ONNX in 8 bits: weights per channel, activations calibrated.

    Args:
        model: ``openvino.Model`` or ``onnx.ModelProto``, as this package writes them.
        inputs: of the network, for images as it will meet them.
        score: if given, NNCF's accuracy control finds the layers that cost more than ``max_drop``
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
    if score is None:
        return nncf.quantize(model, dataset, **options)
    return nncf.quantize_with_accuracy_control(
        model, dataset, dataset, lambda compiled, _: (score(compiled), None),
        max_drop=max_drop, drop_type=nncf.DropType.ABSOLUTE, **options,
    )  # fmt: skip


def _import(library: str) -> Any:
    try:
        return __import__(library)
    except ImportError:
        raise UserError(
            f"This needs the library {library}: pip install 'multas[openvino]'."
        ) from None


class Compiled:
    """A network in memory that accuracy control asks about, as a :class:`detector.Runtime`."""

    def __init__(self, network: Any, description: Description) -> None:
        self.network, self.description = network, description.to_json()
        sizes = {description.image_sizes: ((1, 2), np.dtype("float32"))}
        image = {IMAGE: ((1, 3, *description.size), np.dtype("uint8"))}
        self.inputs: dict[str, Any] = image | (sizes if description.image_sizes else {})

    def __call__(self, inputs: Inputs) -> dict[str, np.ndarray]:
        if hasattr(self.network, "run"):  # ONNX Runtime
            names = [x.name for x in self.network.get_outputs()]
            return dict(zip(names, self.network.run(None, dict(inputs)), strict=True))
        results = self.network(dict(inputs))
        return {x.any_name: np.array(results[x]) for x in self.network.outputs}
