"""Exported networks as models of Detectron2, in ONNX Runtime on the device."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
from detectron2.modeling import build_model

from device_checks.check import Check, Place, Skipped
from device_checks.steps import PATHS, TWO_PATHS
from device_checks.trainings import exact, train
from multas.engine import load_config
from multas.engine.exporting import prepare_export

_CUDA = "CUDAExecutionProvider"
_TOLERANCE = 1e-3  # of scores, which are at most 1
# Random networks have low scores, and many of them that are nearly equal.
_ALL = ["MODEL.DENSE_HEAD.SCORE_THRESH_TEST", 0.0, "MODEL.DENSE_HEAD.TOPK_CANDIDATES_TEST", 50]


def _difference(row: str, test: str, place: Place) -> float:
    """How far the best scores of a file are from those of the network that it was made from."""
    cfg = place.trainings.config(row, place.device, "SOLVER.MAX_ITER", 2, *_ALL)
    student = train(cfg).cfg.clone()
    student.defrost()
    student.DATASETS.TEST, student.MODEL.DEVICE = [test], "cpu"
    stem = Path(cfg.OUTPUT_DIR) / "exported"
    weights = f"{cfg.OUTPUT_DIR}/student.pth"
    size = student.INPUT.MIN_SIZE_TEST  # images of this size are not resized
    export = prepare_export(student, weights, (size, size), "", 1, stem=stem)
    model = export.model
    export.cfg.DATASETS.TEST = []
    export.images = []
    export.run(["onnx"], int8=False)
    exported = build_model(
        load_config("", ["MODEL.META_ARCHITECTURE", "ExportedModel", "INPUT.FORMAT",
                         student.INPUT.FORMAT, "MODEL.WEIGHTS", f"{stem}.onnx"])
    ).eval()  # fmt: skip
    there = exported.detector.runtime._session.get_providers()
    wanted = _CUDA if place.is_gpu else "CPUExecutionProvider"
    assert there[0] == wanted, f"ONNX Runtime runs it by {there[0]}; {wanted} could not be loaded"
    torch.manual_seed(0)
    image = {"image": torch.randint(256, (3, size, size)).byte(), "height": size, "width": size}
    with torch.no_grad(), exact():
        (found,), (own,) = exported([image]), model.to(place.device)([image])
    pair = [x["scores"] if "scores" in x else x["instances"].scores for x in (found, own)]
    best = [x.float().cpu().sort(descending=True).values[:20] for x in pair]
    assert best[0].shape == best[1].shape, f"{len(best[0])} results, not {len(best[1])}"
    return float((best[0] - best[1]).abs().max())


def _check(place: Place) -> str:
    for package in ("onnx", "onnxruntime"):
        if find_spec(package) is None:
            raise Skipped(f"{package} is not installed")
    import onnxruntime

    if place.is_gpu and _CUDA not in onnxruntime.get_available_providers():
        raise Skipped("onnxruntime-gpu is not installed")
    rows = {TWO_PATHS: "toy_classes_test", PATHS["PDFDistil"]: "toy_test"}
    worst = max(_difference(row, test, place) for row, test in rows.items())
    assert worst <= _TOLERANCE, f"scores differ by {worst:.1e}"
    return f"scores of a classifier and a detector {worst:.0e} apart"


def checks() -> Iterator[Check]:
    yield Check("ExportedModel", _check)
