"""Runs an exported network with ONNX Runtime or OpenVINO; needs NumPy and Pillow besides.

This file stands alone: it may be copied into another program, without multas, torch or Detectron2::

    detect = Detector("student.onnx")
    found = detect(cv2.imread("street.jpg"))
    for box, score, name in zip(found.boxes, found.scores, found.names):
        ...
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

KEY = "multas"  # of the description among the metadata of a file
_TYPES = {"tensor(uint8)": "uint8", "tensor(float16)": "float16"}  # of inputs; others: float32
NEEDED = {"onnxruntime": "onnx", "openvino": "openvino"}  # extra of each library


@dataclass(frozen=True)
class Description:
    """What has to be known of a network besides the file itself. All sizes are in pixels.

    Attributes:
        resize: "shortest_edge" (as Detectron2, to ``min_size``, but the longer edge at most to
            ``max_size`` and the whole at most to ``size``; 0: as it is), "fit" (as large as
            ``size`` allows) or "stretch" (to ``size``, whatever the shape).
        size: height and width of the input; 0: any.
        divisor: height and width are multiples of it.
        center_crop: side of the square that is cut out of the middle first; 0: no crop.
        padding: where an image that is smaller than the input is put: "end" (it is padded right
            and below) or "centre". ``pad_value`` is the value of the new pixels.
        format: "BGR" or "RGB", the order of the channels.
        layout: "NCHW" or "NHWC".
        mean, std: the network takes ``(pixel - mean) / std``, pixels from 0 to 255; none: pixels.
        image_sizes: name of an input for heights and widths (N, 2) without padding; "": none.
        outputs: the names of "boxes" (N, M, 4), "scores" (N, M) and "classes" (N, M), or of
            "sem_seg" (N, C, H, W) and "probabilities" (N, K), in the file.
        box_format: "xyxy", "xywh" (corner and size) or "cxcywh" (centre and size).
        box_unit: "pixel" of the input, or "fraction" of its size.
        classes: the names of the classes of each output: "classes", "sem_seg", "probabilities".
        labels: number of the class of each label that "classes" has; none: labels are numbers.
        version: of multas; "" for files of other programs.
    """

    resize: str = "fit"
    size: tuple[int, int] = (0, 0)
    min_size: int = 0
    max_size: int = 0
    divisor: int = 1
    center_crop: int = 0
    padding: str = "end"
    pad_value: int = 0
    format: str = "BGR"
    layout: str = "NCHW"
    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    image_sizes: str = ""
    outputs: Mapping[str, str] = field(default_factory=dict)
    box_format: str = "xyxy"
    box_unit: str = "pixel"
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)
    version: str = ""

    @classmethod
    def from_json(cls, text: str) -> "Description":
        content = json.loads(text)
        content["size"] = tuple(content.get("size", (0, 0)))
        return cls(**{f.name: content[f.name] for f in fields(cls) if f.name in content})

    def to_json(self) -> str:
        return json.dumps({f.name: getattr(self, f.name) for f in fields(self)})


@dataclass
class Seen:
    """An image as the network sees it.

    Attributes:
        pixels: input of the network for this image, (C, H, W) or (H, W, C).
        size: height and width of the part that shows the image.
        offset: row and column where that part begins.
    """

    pixels: np.ndarray
    size: tuple[int, int]
    offset: tuple[int, int] = (0, 0)


@dataclass
class Found:
    """What a network has found in an image; parts that it has no head for are empty or None.

    Attributes:
        boxes: (M, 4) XYXY, in pixels of the image, float32; ``scores`` (M,), best first;
            ``classes`` (M,), int64; ``names``, one for each.
        masks: (H, W), int64, the class of each pixel; ``mask_names`` has their names.
        probabilities: (K,), float32, of the classes ``class_names``.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    names: list[str]
    masks: np.ndarray | None = None
    mask_names: Sequence[str] = ()
    probabilities: np.ndarray | None = None
    class_names: Sequence[str] = ()


class Runtime(Protocol):
    """A network in a library that runs it.

    Attributes:
        description: text of the description in the file; "" if it has none.
        inputs: shape (None: any) and dtype of each input.
    """

    description: str
    inputs: dict[str, tuple[tuple[int | None, ...], np.dtype]]

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]: ...


class OnnxRuntime:
    """A file .onnx in ONNX Runtime, on the CPU unless ``providers`` say otherwise."""

    def __init__(self, file: str, threads: int = 0, providers: Sequence[str] = ()) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        names = list(providers) or ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(file, options, names)
        known = self._session.get_modelmeta().custom_metadata_map
        self.description = known.get(KEY, "")
        self.inputs = {
            x.name: (
                tuple(n if isinstance(n, int) else None for n in x.shape),
                np.dtype(_TYPES.get(x.type, "float32")),
            )
            for x in self._session.get_inputs()
        }
        self._outputs = [x.name for x in self._session.get_outputs()]

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(self._outputs, self._session.run(None, dict(inputs)), strict=True))


class OpenVino:
    """A file .xml or .onnx in OpenVINO.

    Args:
        precision: "f32" or "bf16"; "" is what the processor multiplies fastest.
    """

    def __init__(
        self, file: str, threads: int = 0, device: str = "CPU", precision: str = ""
    ) -> None:
        import openvino

        core = openvino.Core()
        model = core.read_model(file)
        has = model.has_rt_info([KEY])
        self.description = str(model.get_rt_info([KEY]).astype(str)) if has else ""
        options = {"PERFORMANCE_HINT": "LATENCY"}
        if threads:
            options["INFERENCE_NUM_THREADS"] = str(threads)
        if precision:
            options["INFERENCE_PRECISION_HINT"] = precision
        self._network = core.compile_model(model, device, options)
        self.inputs = {
            x.any_name: (
                tuple(n.get_length() if n.is_static else None for n in x.partial_shape),
                np.dtype(x.element_type.to_dtype()),
            )
            for x in self._network.inputs
        }

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        results = self._network(dict(inputs))
        return {x.any_name: np.array(results[x]) for x in self._network.outputs}


def open_runtime(file: str, library: str = "", threads: int = 0) -> Runtime:
    """Open a file .onnx or .xml.

    Args:
        library: "onnxruntime" or "openvino"; by default the first of them that reads the file and
            is installed.
        threads: number of threads; 0: all cores.

    Raises:
        FileNotFoundError, ImportError, ValueError: with what to do.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"{file}: no such file.")
    known = {".onnx": ("onnxruntime", "openvino"), ".xml": ("openvino",)}
    libraries = known.get(Path(file).suffix.lower())
    if libraries is None:
        raise ValueError(f"{file} is no exported network; give a file .onnx or .xml.")
    if library and library not in libraries:
        raise ValueError(f"{library} does not read {file}; choose from {', '.join(libraries)}.")
    for name in [library] if library else libraries:
        try:
            return (OnnxRuntime if name == "onnxruntime" else OpenVino)(str(file), threads)
        except ImportError:
            continue
    missing = library or libraries[0]
    raise ImportError(
        f"{file} needs the library {missing}: pip install {missing}, or "
        f"'multas[{NEEDED[missing]}]'."
    )


class Detector:
    """An exported network.

    Args:
        file: of ``tools/export.py``, or of another program with a ``description``.
        library, threads: see :func:`open_runtime`.
        score_thresh: the lowest score of detections that are returned.
        description: instead of the one in the file.

    Raises:
        FileNotFoundError, ImportError, ValueError: The file cannot be used; with what to do.
    """

    def __init__(
        self,
        file: str,
        library: str = "",
        threads: int = 0,
        score_thresh: float = 0.0,
        description: Description | None = None,
    ) -> None:
        self.runtime = open_runtime(file, library, threads)
        if description is None and not self.runtime.description:
            raise ValueError(
                f"{file} does not say how images are prepared for it; give a file of "
                "tools/export.py, or a description."
            )
        self.description = description or Description.from_json(self.runtime.description)
        self.score_thresh = score_thresh
        names = [name for name in self.runtime.inputs if name != self.description.image_sizes]
        self._image = names[0]
        self._dtype = self.runtime.inputs[self._image][1]

    def __call__(self, image: np.ndarray | str) -> Found:
        """What is found in an image, a file or an array (H, W, 3), uint8, BGR as OpenCV has it."""
        pixels = read_bgr(image) if isinstance(image, str) else image
        raw = self.results([pixels], [pixels.shape[:2]], "BGR")[0]
        known = self.description.classes
        empty = np.zeros(0)
        names, classes = known.get("classes", ()), raw.get("classes", empty.astype(np.int64))
        masks = raw.get("sem_seg")
        return Found(
            boxes=raw.get("boxes", np.zeros((0, 4), np.float32)),
            scores=raw.get("scores", empty.astype(np.float32)),
            classes=classes,
            names=[names[k] if k < len(names) else str(k) for k in classes],
            masks=None if masks is None else masks.argmax(0),
            mask_names=known.get("sem_seg", ()),
            probabilities=raw.get("probabilities"),
            class_names=known.get("probabilities", ()),
        )

    def results(
        self, images: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]], order: str
    ) -> list[dict[str, np.ndarray]]:
        """Results of whole images, one after the other, in the coordinates of the outputs.

        Args:
            images: (H, W, C), uint8.
            sizes: height and width that boxes and masks are given for.
            order: "BGR" or "RGB", the order of their channels.

        Returns:
            For each image those that the network gives of "boxes" (M, 4), "scores" (M,) and
            "classes" (M,), "sem_seg" (C, H, W) and "probabilities" (K,).
        """
        results = []
        for image, size in zip(images, sizes, strict=True):
            swapped = image if order == self.description.format else image[..., ::-1]
            seen = prepare(swapped, self.description)
            inputs = {self._image: seen.pixels[None].astype(self._dtype)}
            if self.description.image_sizes:
                inputs[self.description.image_sizes] = np.array([seen.size], np.float32)
            outputs = self.runtime(inputs)
            named = {name: outputs[key][0] for name, key in self.description.outputs.items()}
            results.append(self._finish(named, seen, size))
        return results

    def _finish(
        self, outputs: dict[str, np.ndarray], seen: Seen, size: tuple[int, int]
    ) -> dict[str, np.ndarray]:
        results = {k: v for k, v in outputs.items() if k == "probabilities"}
        if "boxes" in outputs:
            results |= finish_boxes(outputs, seen, size, self.description, self.score_thresh)
        if "sem_seg" in outputs:
            (top, left), (height, width) = seen.offset, seen.size
            inside = outputs["sem_seg"][:, top : top + height, left : left + width]
            results["sem_seg"] = resize_maps(inside, size)
        return results


def read_bgr(file: str) -> np.ndarray:
    """An image file, turned as its Exif entry says, as (H, W, 3), uint8, BGR."""
    from PIL import ImageOps

    with Image.open(file) as image:
        upright = ImageOps.exif_transpose(image)
        return np.asarray(upright.convert("RGB"))[..., ::-1]


def prepare(image: np.ndarray, how: Description) -> Seen:
    """What a network sees of an image (H, W, C), uint8, whose channels are in its order."""
    if how.resize == "stretch":
        image = _resize(_crop(image, how.center_crop), how)
    else:
        image = _crop(_resize(image, how), how.center_crop)
    height, width = image.shape[:2]
    top = left = 0
    whole = [
        full or -(-have // how.divisor) * how.divisor
        for full, have in zip(how.size, (height, width), strict=True)
    ]
    if whole != [height, width]:
        if how.padding == "centre":
            top, left = (whole[0] - height) // 2, (whole[1] - width) // 2
        padded = np.full((*whole, image.shape[2]), how.pad_value, image.dtype)
        padded[top : top + height, left : left + width] = image
        image = padded
    if len(how.mean) > 0:
        image = ((image - np.asarray(how.mean)) / np.asarray(how.std)).astype(np.float32)
    pixels = image.transpose(2, 0, 1) if how.layout == "NCHW" else image
    return Seen(np.ascontiguousarray(pixels), (height, width), (top, left))


def _crop(image: np.ndarray, side: int) -> np.ndarray:
    """The square in the middle of an image, or the whole image."""
    height, width = (min(side or n, n) for n in image.shape[:2])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def _resize(image: np.ndarray, how: Description) -> np.ndarray:
    height, width = resized(image.shape[0], image.shape[1], how)
    if (height, width) == image.shape[:2]:
        return image
    resize = Image.fromarray(np.ascontiguousarray(image)).resize
    return np.asarray(resize((width, height), Image.Resampling.BILINEAR))


def resized(height: int, width: int, how: Description) -> tuple[int, int]:
    """Height and width that an image is resized to."""
    full_height, full_width = how.size
    if how.resize == "stretch":
        return full_height, full_width
    scale = 1.0
    if how.resize == "fit":
        scale = min(full_height / height, full_width / width)
    elif how.min_size:
        scale = how.min_size / min(height, width)
        if how.max_size and max(height, width) * scale > how.max_size:
            scale *= how.max_size / (max(height, width) * scale)
    if (
        full_height
        and not how.center_crop
        and (height * scale > full_height or width * scale > full_width)
    ):
        scale = min(full_height / height, full_width / width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def finish_boxes(
    outputs: Mapping[str, np.ndarray],
    seen: Seen,
    size: tuple[int, int],
    how: Description,
    score_thresh: float,
) -> dict[str, np.ndarray]:
    """Boxes, scores and classes of an image, in the coordinates of an output of ``size``."""
    boxes = outputs["boxes"].astype(np.float32)
    scores, classes = outputs["scores"].astype(np.float32), outputs["classes"].astype(np.int64)
    first, second = boxes[:, :2], boxes[:, 2:]
    if how.box_format == "cxcywh":
        first = first - second / 2
    if how.box_format != "xyxy":
        second = first + second
    boxes = np.concatenate([first, second], 1)
    if how.box_unit == "fraction":
        height, width = seen.pixels.shape[1:] if how.layout == "NCHW" else seen.pixels.shape[:2]
        boxes = boxes * np.array([width, height] * 2, np.float32)
    boxes = boxes - np.array([seen.offset[1], seen.offset[0]] * 2, np.float32)
    ratio = [size[1] / seen.size[1], size[0] / seen.size[0]]
    limits = np.array([size[1], size[0]] * 2, np.float32)
    boxes = np.clip(boxes * np.array(ratio * 2, np.float32), 0, limits)
    keep = (scores > score_thresh) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    if how.labels:
        table = {int(label): number for label, number in how.labels.items()}
        keep &= np.isin(classes, list(table))
        classes = np.array([table.get(int(k), 0) for k in classes], np.int64)
    order = np.flatnonzero(keep)[np.argsort(-scores[keep], kind="stable")]
    return {"boxes": boxes[order].astype(np.float32), "scores": scores[order],
            "classes": classes[order]}  # fmt: skip


def resize_maps(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear resizing of maps (C, H, W), as ``torch.nn.functional.interpolate`` does it."""
    for axis, count in ((1, size[0]), (2, size[1])):
        have = maps.shape[axis]
        if have == count:
            continue
        places = np.clip((np.arange(count) + 0.5) * (have / count) - 0.5, 0, have - 1)
        low = places.astype(np.int64)
        shape = (-1, 1) if axis == 1 else (-1,)
        share = (places - low).astype(maps.dtype).reshape(shape)
        high = np.minimum(low + 1, have - 1)
        maps = maps.take(low, axis) * (1 - share) + maps.take(high, axis) * share
    return maps
