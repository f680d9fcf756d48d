"""Runtimes for a trained network: compiled, traced, exported, or with fewer bits.

Each takes the network and an example input and returns a function of such inputs. It raises if a
library or a compiler is missing; the benchmark prints the message.
"""

import copy
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from multas.modeling.multitask_network import MultiTaskNetwork

Network = Callable[[Tensor], Sequence[Tensor]]


class RawNetwork(nn.Module):
    """Backbone and detection head without decoding and NMS: tensors in, tensors out.

    Args:
        model: Detectron2's RetinaNet, or a MultiTaskNetwork with a head "det".
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone = model.backbone
        if isinstance(model, MultiTaskNetwork):
            self.head, self.levels = model.heads["det"], ()
        else:
            self.head, self.levels = model.head, tuple(model.head_in_features)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) -> logits of all levels, then deltas."""
        features = self.backbone(images)
        if self.levels:
            features = [features[level] for level in self.levels]
        logits, deltas = self.head(features)
        return (*logits, *deltas)


def channels_last(network: nn.Module, example: Tensor) -> Network:
    """Memory format channels last, which is fastest on CPUs and tensor cores."""
    layout = torch.channels_last
    moved = copy.deepcopy(network).to(memory_format=layout)  # type: ignore[call-overload]
    return lambda images: moved(images.contiguous(memory_format=layout))


def compiled(network: nn.Module, example: Tensor) -> Network:
    """torch.compile; needs a C++ compiler on CPUs."""
    torch.compiler.reset()
    return torch.compile(network)


def torchscript(network: nn.Module, example: Tensor) -> Network:
    """Traced and frozen."""
    with warnings.catch_warnings():
        # TorchScript is deprecated, and the trace contains constants on purpose.
        warnings.simplefilter("ignore")
        return torch.jit.freeze(torch.jit.trace(network, example))


def onnx_runtime(network: nn.Module, example: Tensor, *, int8: bool = False) -> Network:
    """ONNX Runtime on the CPU; ``int8``: with dynamic quantisation to 8 bits."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "network.onnx")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                copy.deepcopy(network).cpu(), (example.cpu(),), file, input_names=["images"],
                dynamo=False,
            )  # fmt: skip
        if int8:
            from onnxruntime.quantization import quantize_dynamic

            quantize_dynamic(file, file := str(Path(folder) / "int8.onnx"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])

    def call(images: Tensor) -> list[Tensor]:
        found = session.run(None, {"images": images.cpu().numpy()})
        return [torch.from_numpy(x) for x in found]

    return call


def onnx_runtime_int8(network: nn.Module, example: Tensor) -> Network:
    """ONNX Runtime with dynamic quantisation, which covers convolutions."""
    return onnx_runtime(network, example, int8=True)


def bfloat16(network: nn.Module, example: Tensor) -> Network:
    """Weights and activations in bfloat16."""
    half = copy.deepcopy(network).to(torch.bfloat16)
    return lambda images: [x.float() for x in half(images.bfloat16())]


def dynamic_int8(network: nn.Module, example: Tensor) -> Network:
    """PyTorch's dynamic quantisation, which covers linear layers only."""
    if not any(isinstance(module, nn.Linear) for module in network.modules()):
        raise ValueError("covers linear layers only, and the network has none")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.ao.quantization.quantize_dynamic(network, {nn.Linear})


RUNTIMES: Mapping[str, Callable[[nn.Module, Tensor], Network]] = {
    "channels last": channels_last,
    "torch.compile": compiled,
    "TorchScript": torchscript,
    "ONNX Runtime": onnx_runtime,
    "bfloat16": bfloat16,
    "int8, dynamic (PyTorch)": dynamic_int8,
    "int8, dynamic (ONNX Runtime)": onnx_runtime_int8,
}


def deviation(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest difference, relative to the largest expected value."""
    largest = max(float(x.abs().max()) for x in expected)
    pairs = zip(outputs, expected, strict=True)
    return max(float((x.cpu() - y.cpu()).abs().max()) for x, y in pairs) / largest
