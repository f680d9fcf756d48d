"""Networks as ONNX files, which ONNX Runtime, OpenVINO and TensorRT read."""

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from multas.deploy.describe import IMAGE, SIZES, with_size
from multas.deploy.detector import KEY, Description
from multas.deploy.graph import ExportGraph
from multas.util.errors import UserError
from multas.util.files import written_whole

OPSET = 17  # of 2022: the newest that current releases of all three runtimes read


def write_onnx(
    graph: ExportGraph,
    description: Description,
    file: str,
    dynamic_batch: bool = False,
    dynamic_size: bool = False,
) -> Description:
    """Write a network and its description into a file.

    Args:
        graph: the network, in eval mode on the CPU.
        description: how images are prepared, with the size of the example to trace with.
        dynamic_batch: whether several images may be given at once.
        dynamic_size: whether images of other sizes may be given.

    Returns:
        The description as the file has it, with the names of the outputs.

    Raises:
        UserError: A layer has no counterpart in ONNX; the message names it.
    """
    onnx = import_onnx()
    black = black_image(description, len(graph.normalise.mean))
    inputs = {name: torch.from_numpy(x) for name, x in black.items()}
    with torch.no_grad(), warnings.catch_warnings():
        # Sizes and numbers of candidates are constants of the graph on purpose.
        warnings.simplefilter("ignore")
        outputs = list(graph.results(*inputs.values()))
        axes: dict[str, dict[int, str]] = {}
        if dynamic_batch:
            axes = {name: {0: "images"} for name in [*inputs, *outputs]}
        if dynamic_size:
            axes.setdefault(IMAGE, {}).update({2: "height", 3: "width"})
        with written_whole(file) as partial:
            try:
                torch.onnx.export(
                    graph, tuple(inputs.values()), partial, opset_version=OPSET, dynamo=False,
                    input_names=list(inputs), output_names=outputs, dynamic_axes=axes,
                )  # fmt: skip
            except torch.onnx.errors.UnsupportedOperatorError as error:
                raise UserError(
                    f"The network cannot be written as ONNX: {error}. Replace the layer that "
                    "computes it, or run the network with PyTorch."
                ) from error
            model = onnx.load(partial)
            described = with_size(description, (0, 0)) if dynamic_size else description
            described = replace(described, outputs={name: name for name in outputs})
            onnx.helper.set_model_props(model, {KEY: described.to_json()})
            onnx.checker.check_model(model)
            onnx.save(model, partial)
    return described


def black_image(description: Description, channels: int = 3) -> dict[str, np.ndarray]:
    """Inputs of a network by name: an image, and its size where the network pads."""
    inputs = {IMAGE: np.zeros((1, channels, *description.size), np.uint8)}
    if description.image_sizes:
        inputs[SIZES] = np.array([description.size], np.float32)
    return inputs


def import_onnx() -> Any:
    """The library onnx.

    Raises:
        UserError: It is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise UserError("ONNX needs the library onnx: pip install 'multas[onnx]'.") from None
    return onnx
