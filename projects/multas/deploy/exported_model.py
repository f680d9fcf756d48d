"""An exported network as a model of Detectron2, like any other that does not train."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from torch import nn

from multas.data.mapper import PREPARED
from multas.deploy.describe import OUTPUT_OF
from multas.deploy.description_file import SUFFIXES, read_description
from multas.deploy.detector import Detector
from multas.modeling.network_input import NetworkInput
from multas.util.annotation import BOXES, Annotation
from multas.util.errors import UserError
from multas.util.required_files import require_file

logger = logging.getLogger(__name__)

NAME = "ExportedModel"  # in MODEL.META_ARCHITECTURE

_BOXES = {"boxes", "detections"}
_FIXED = (
    "names ExportedModel, a network that is fixed: it labels images (tools/pseudo_label.py) and is "
    "evaluated (--eval-only), but cannot be trained. Name the architecture that it was exported "
    "from, and its checkpoint in MODEL.WEIGHTS."
)


@META_ARCH_REGISTRY.register()
class ExportedModel(nn.Module):
    """A network in a file .onnx or .xml, or one of another program that a YAML file describes.

    It has no parameters and trains nothing; images and results are on the CPU.

    Args:
        detector: runs the file.
        input_format: "BGR" or "RGB", the order of the channels of the images that it is given.
        file: its name, for messages.
    """

    @configurable
    def __init__(self, *, detector: Detector, input_format: str = "BGR", file: str = "") -> None:
        super().__init__()
        self.detector, self.input_format, self.file = detector, input_format, file
        self.check = NetworkInput()  # which neither crops nor stretches

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        options = cfg.MODEL.EXPORTED
        detector = open_detector(
            options.FILE, library=options.LIBRARY, threads=options.THREADS,
            precision=options.PRECISION,
        )  # fmt: skip
        if cfg.TEST.SEM_SEG_RESOLUTION == "network" and "sem_seg" in detector.description.outputs:
            logger.warning(
                "TEST.SEM_SEG_RESOLUTION is network, but masks are compared at the size of the "
                f"image: {options.FILE} resizes images itself."
            )
        return {"detector": detector, "input_format": cfg.INPUT.FORMAT, "file": options.FILE}

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def classes(self, kind: Annotation) -> list[str] | None:
        """The names of its classes; None if it does not predict this kind of annotation.

        Empty where the file does not tell them.
        """
        known, output = self.detector.description, OUTPUT_OF.get(kind, "")
        found = output in known.outputs or (kind == BOXES and not _BOXES.isdisjoint(known.outputs))
        return list(known.classes.get(output, ())) if found else None

    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Results of whole images.

        Args:
            batched_inputs: one dict for each image: "image" (C, H, W), values from 0 to 255, and
                "height" and "width" of the wanted output, if it is another than the image's.

        Returns:
            For each image those of "instances", "sem_seg" (C, H, W) and "scores" (K,) that the
            network has, on the CPU.

        Raises:
            UserError: In training, or an input is no whole image.
        """
        if self.training:
            raise UserError(f"MODEL.META_ARCHITECTURE {_FIXED}")
        if any(isinstance(x, dict) and x.get(PREPARED) for x in batched_inputs):
            raise UserError(
                f"{self.file} takes whole images, but these are stretched or cropped already: "
                "build their loader from the config that load_config gives for "
                f"MODEL.META_ARCHITECTURE {NAME}."
            )
        inputs = self.check(batched_inputs)
        images = [_bytes(x["image"]).permute(1, 2, 0).numpy() for x in inputs]
        sizes = [(int(x["height"]), int(x["width"])) for x in inputs]
        found = self.detector.results(images, sizes, self.input_format)
        return [_results(*pair) for pair in zip(found, sizes, strict=True)]


def check_trainable(cfg: CfgNode) -> None:
    """Make sure that what a config trains is no exported network.

    Raises:
        UserError: It is.
    """
    for key, name in {
        "MODEL.META_ARCHITECTURE": cfg.MODEL.META_ARCHITECTURE,
        "MODEL.DISTILLATION.STUDENT": cfg.MODEL.DISTILLATION.STUDENT,
    }.items():
        if name == NAME:
            raise UserError(f"{key} {_FIXED}")


def _bytes(image: torch.Tensor) -> torch.Tensor:
    """An image as files have it, on the CPU; values between are those of an ensemble's views."""
    own = image.cpu()
    return own if own.dtype == torch.uint8 else own.float().round().to(torch.uint8)


def _results(found: Mapping[str, np.ndarray], size: tuple[int, int]) -> dict[str, Any]:
    """Results of an image as models of Detectron2 give them."""
    results: dict[str, Any] = {}
    if "boxes" in found:
        boxes = Boxes(torch.from_numpy(found["boxes"]))
        scores, classes = (torch.from_numpy(found[name]) for name in ("scores", "classes"))
        results["instances"] = Instances(
            size, pred_boxes=boxes, scores=scores, pred_classes=classes
        )
    for name, key in (("sem_seg", "sem_seg"), ("scores", "probabilities")):
        if key in found:
            results[name] = torch.from_numpy(np.ascontiguousarray(found[key]))
    return results


def open_detector(file: str, **options: Any) -> Detector:
    """The network of a file .onnx or .xml, or of a YAML file that describes one.

    Args:
        file: its name.
        options: of :class:`Detector`.

    Raises:
        FileNotFoundError: There is no such file.
        UserError: It cannot be used, or a library is missing; with what to do.
    """
    cure = "Name a file that tools/export.py has written, or a YAML file that describes another's."
    require_file(file, "The exported network (MODEL.WEIGHTS)", (".onnx", ".xml", *SUFFIXES), cure)
    description = None
    try:
        if file.endswith(SUFFIXES):
            file, description = read_description(file)
        return Detector(file, description=description, **options)
    except (ImportError, ValueError) as error:
        raise error if isinstance(error, UserError) else UserError(str(error)) from error
