"""Milliseconds for an image in the runtimes that tools/export.py writes for, beside PyTorch.

Everything from pixels to detections is in the graph. Weights are random, and 8 bits are fitted to
random images: what accuracy they keep is measured by tools/export.py on trained networks.
"""

import contextlib
import copy
import statistics
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from tabulate import tabulate

from multas.deploy import Description
from multas.deploy.describe import describe_network
from multas.deploy.detector import OnnxRuntime, OpenVino, Runtime
from multas.deploy.graph import ExportGraph
from multas.deploy.onnx_file import black_image, write_onnx
from multas.deploy.quantisation import SUFFIXES, quantise, read_network, save_network
from multas.engine import load_config
from multas.modeling.layers import channels_last_
from stock import retinanet_config
from timing import take_turns

Call = Callable[[], Any]
Make = Callable[[], Call]
SIZE, CLASSES, CALIBRATION = 320, 20, 20
OPTS = ["MODEL.WEIGHTS", "", "DATASETS.CARDS", "()", "MODEL.GFL_HEAD.NUM_CLASSES", CLASSES]
_FILES = {
    "student of Lê and Pham": "configs/limited-data/table1.yaml#voc/half/supervised",
    "student of the quickstart": "configs/quickstart/supervised.yaml",
    "two tasks": "configs/limited-data/table6.yaml#voc/multi_task",
    "nano (MobileNetV2)": "configs/sizes/nano.yaml",
}
STOCK, NANO = "RetinaNet R18-FPN (Detectron2)", "YOLO26n (ultralytics)"
TORCH = "PyTorch fp32"


def configs() -> dict[str, CfgNode]:
    """The networks by name."""
    stock = retinanet_config(18, CLASSES, ["MODEL.RESNETS.NORM", "BN"])
    return {name: load_config(file, OPTS) for name, file in _FILES.items()} | {STOCK: stock}


def of_network(cfg: CfgNode, folder: Path) -> dict[str, Make]:
    """For each runtime what makes a function that runs the network on one image."""
    torch.manual_seed(0)
    cfg.merge_from_list(["INPUT.SQUARE_SIZE", SIZE, "MODEL.DEVICE", "cpu"])
    model = build_model(cfg).eval()
    graph = ExportGraph(model).eval()
    description = describe_network(cfg, model, {})
    file = str(folder / "network.onnx")
    write_onnx(graph, description, file)
    generator = np.random.default_rng(0)
    shape = black_image(description)["image"].shape
    images = [generator.integers(0, 255, shape, dtype=np.uint8) for _ in range(CALIBRATION)]
    image = torch.from_numpy(images[0])
    return {
        TORCH: lambda: partial(_in_torch, graph, image),
        "PyTorch bf16": lambda: partial(_in_torch, channels_last(graph), image, half=True),
        **of_file(file, "image", images),
    }


def of_file(file: str, name: str, images: list[np.ndarray]) -> dict[str, Make]:
    """The same for an ONNX file; ``name`` is that of its input."""
    inputs = [{name: image} for image in images]

    def run(runtime: Runtime) -> Call:
        return partial(runtime, inputs[0])

    def int8(library: str) -> Call:
        whole = str(Path(file).with_name(f"int8{SUFFIXES[library]}"))
        save_network(quantise(read_network(library, file), inputs), Description(), whole)
        return run(OnnxRuntime(whole) if library == "onnx" else OpenVino(whole))

    return {
        "ONNX Runtime fp32": lambda: run(OnnxRuntime(file)),
        "ONNX Runtime int8": partial(int8, "onnx"),
        "OpenVINO fp32": lambda: run(OpenVino(file, precision="f32")),
        "OpenVINO bf16": lambda: run(OpenVino(file, precision="bf16")),
        "OpenVINO int8": partial(int8, "openvino"),
    }


def of_nano(folder: Path) -> dict[str, Make]:
    """The smallest detector of ultralytics, built from its own file of layers, without weights.

    Raises:
        ImportError: It is not installed, which the package never needs.
    """
    threads = torch.get_num_threads()
    from ultralytics import YOLO

    with contextlib.chdir(folder):
        file = YOLO("yolo26n.yaml").export(format="onnx", imgsz=SIZE, simplify=False, verbose=False)
    torch.set_num_threads(threads)  # which it lowers for the whole process
    generator = np.random.default_rng(0)
    images = [generator.random((1, 3, SIZE, SIZE), dtype=np.float32) for _ in range(CALIBRATION)]
    return of_file(str(folder / Path(file).name), "images", images)


def channels_last(graph: ExportGraph) -> ExportGraph:
    copied = copy.deepcopy(graph)
    channels_last_(copied)
    return copied


def _in_torch(graph: ExportGraph, image: torch.Tensor, half: bool = False) -> None:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        graph(image)


def _ratio(
    best: Mapping[tuple[str, str], float], slow: tuple[str, str], fast: tuple[str, str]
) -> str:
    return f"{best[slow] / best[fast]:.1f}" if slow in best else "–"


def run(rounds: int) -> str:
    """The Markdown section of this benchmark."""
    with tempfile.TemporaryDirectory() as name:
        makes: dict[str, dict[str, Make]] = {}
        absent = ""
        for number, (network, cfg) in enumerate(configs().items()):
            (folder := Path(name) / str(number)).mkdir()
            makes[network] = of_network(cfg, folder)
        try:
            makes[NANO] = of_nano(Path(name))
        except ImportError as error:
            absent = f"\n\n{NANO} is not measured: {error}."
        places = {f"{n}, {r}": (n, r) for n, runtimes in makes.items() for r in runtimes}
        seconds = take_turns({key: makes[n][r]() for key, (n, r) in places.items()}, rounds)
    best = {place: 1e3 * min(seconds[key]) for key, place in places.items()}
    rows = [
        [*place, f"{best[place]:.1f}", f"{1e3 * statistics.median(seconds[key]):.1f}",
         _ratio(best, (place[0], TORCH), place),
         _ratio(best, (STOCK, place[1]), place)]
        for key, place in places.items()
    ]  # fmt: skip
    header = ["network", "runtime", "ms min", "median", f"x {TORCH}", f"x {STOCK}"]
    return (
        f"## Deployment: {SIZE} px, one image, {rounds} rounds\n\nFrom pixels to detections. "
        "Weights are random. The last column compares networks in the same runtime. The strides of "
        "the student of Lê and Pham are half as long as RetinaNet's: docs/serving.md has the AP "
        "that both reach.\n\n"
        + tabulate(rows, header, tablefmt="github", disable_numparse=True) + absent
    )  # fmt: skip
