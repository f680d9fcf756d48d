"""Runs an exported network with ONNX Runtime or OpenVINO; needs NumPy and Pillow besides.

This file stands alone: it may be copied into another program, without multas, torch or Detectron2::

    detect = Detector("student.onnx")
    found = detect(cv2.imread("street.jpg"))
    for box, score, name in zip(found.boxes, found.scores, found.names):
        ...
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageOps

KEY = "multas"  # of the description among the metadata of a file
_TYPES = {"tensor(uint8)": "uint8", "tensor(float16)": "float16"}  # of inputs; others: float32


@dataclass(frozen=True)
class Description:
    """What has to be known of a network besides the file itself. All sizes are in pixels.

    Attributes:
        resize: "shortest_edge" (as Detectron2, to ``min_size``, but the longer edge at most to
            ``max_size`` and the whole at most to ``size``; 0: as it is), "fit" (as large as
            ``size`` allows) or "stretch" (to ``size``, whatever the shape).
        size: height and width of the input; 0: any.
        divisor: height and width are multiples of it.
        antialias: whether images are made smaller as Pillow does it, which blurs them first, and
            not as OpenCV; None: with "shortest_edge" alone.
        center_crop: side of the square that is cut out of the middle, after "shortest_edge" and
            before "stretch" and "fit"; 0: no crop.
        padding: where an image that is smaller than the input is put: "end" (it is padded right
            and below) or "centre". ``pad_value`` is the value of the new pixels.
        format: "BGR" or "RGB", the order of the channels.
        layout: "NCHW" or "NHWC".
        mean, std: the network takes ``(pixel - mean) / std``, pixels from 0 to 255; none: pixels.
        image_sizes: name of an input for heights and widths (N, 2) without padding; "": none.
        outputs: the names in the file of "boxes" (N, M, 4), "scores" (N, M) and "classes" (N, M);
            of "boxes" and "scores" (N, M, K) of all classes; of "detections" (N, M, 6), which are
            box, score and class; of "sem_seg" (N, C, H, W); and of "probabilities" (N, K).
        box_format: "xyxy", "xywh" (corner and size) or "cxcywh" (centre and size).
        box_unit: "pixel" of the input, or "fraction" of its size.
        classes: the names of the classes of each output: "classes", "sem_seg", "probabilities".
        labels: number of the class of each label that "classes" has, others are dropped; none:
            labels are numbers.
        version: of multas; "" for files of other programs.
    """

    resize: str = "fit"
    size: tuple[int, int] = (0, 0)
    min_size: int = 0
    max_size: int = 0
    divisor: int = 1
    antialias: bool | None = None
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
    labels: Mapping[int, int] = field(default_factory=dict)
    version: str = ""

    @classmethod
    def from_json(cls, text: str) -> "Description":
        content = json.loads(text)
        known = {f.name: content[f.name] for f in fields(cls) if f.name in content}
        labels = {int(label): number for label, number in known.get("labels", {}).items()}
        return cls(**known | {"size": tuple(known.get("size", (0, 0))), "labels": labels})

    def to_json(self) -> str:
        return json.dumps({f.name: getattr(self, f.name) for f in fields(self)})


@dataclass
class Seen:
    """An image as the network sees it.

    Attributes:
        pixels: input of the network for this image, (C, H, W) or (H, W, C).
        whole: height and width of that input.
        size: height and width of the part that shows the image.
        offset: row and column where that part begins.
    """

    pixels: np.ndarray
    whole: tuple[int, int]
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
    """A network in a library that runs it: arrays of the outputs by name, from those of the inputs.

    Attributes:
        inputs: shape (None: any) and dtype of each input.
        outputs: the names of the outputs.
        description: the text of the description in the file; "" if it has none.
    """

    inputs: dict[str, tuple[tuple[int | None, ...], np.dtype]]
    outputs: list[str]
    description: str

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]: ...


class OnnxRuntime:
    """A file .onnx in ONNX Runtime; with onnxruntime-gpu on the GPU, else on the CPU."""

    def __init__(self, file: str, threads: int = 0, precision: str = "") -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        there = onnxruntime.get_available_providers()
        places = [f"{name}ExecutionProvider" for name in ("CUDA", "CPU")]
        self._session = onnxruntime.InferenceSession(
            file, options, [place for place in places if place in there]
        )
        self.description = self._session.get_modelmeta().custom_metadata_map.get(KEY, "")
        self.inputs = {
            x.name: (
                tuple(n if isinstance(n, int) else None for n in x.shape),
                np.dtype(_TYPES.get(x.type, "float32")),
            )
            for x in self._session.get_inputs()
        }
        self.outputs = [x.name for x in self._session.get_outputs()]

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(self.outputs, self._session.run(None, dict(inputs)), strict=True))


class OpenVino:
    """A file .xml or .onnx in OpenVINO, on the CPU."""

    def __init__(self, file: str, threads: int = 0, precision: str = "") -> None:
        import openvino

        model = openvino.Core().read_model(file)
        places = [p for p in ([KEY], ["framework", KEY]) if model.has_rt_info(p)]  # IR, ONNX
        self.description = str(model.get_rt_info(places[0]).astype(str)) if places else ""
        options = {"PERFORMANCE_HINT": "LATENCY"}
        options |= {"INFERENCE_NUM_THREADS": str(threads)} if threads else {}
        options |= {"INFERENCE_PRECISION_HINT": precision} if precision else {}
        self._network = openvino.Core().compile_model(model, "CPU", options)
        self.inputs = {
            x.any_name: (
                tuple(n.get_length() if n.is_static else None for n in x.partial_shape),
                np.dtype(x.element_type.to_dtype()),
            )
            for x in self._network.inputs
        }
        self.outputs = [x.any_name for x in self._network.outputs]

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        results = self._network(dict(inputs))
        return {x.any_name: np.array(results[x]) for x in self._network.outputs}


_READERS = {".onnx": ("onnxruntime", "openvino"), ".xml": ("openvino",)}


def open_runtime(file: str, library: str = "", threads: int = 0, precision: str = "") -> Runtime:
    """Open a file .onnx or .xml; the arguments are those of :class:`Detector`."""
    libraries = _READERS.get(Path(file).suffix.lower())
    if libraries is None:
        raise ValueError(f"{file} is no exported network; give a file .onnx or .xml.")
    if not Path(file).is_file():
        raise FileNotFoundError(f"{file}: no such file; export the network, or correct the name.")
    if library and library not in libraries:
        raise ValueError(f"{library} does not read {file}; choose from {', '.join(libraries)}.")
    for name in [library] if library else libraries:
        try:
            runtime = OnnxRuntime if name == "onnxruntime" else OpenVino
            return runtime(file, threads, precision)
        except ImportError:
            continue
        except Exception as error:  # each library has its own
            raise ValueError(
                f"{file} cannot be run by {name}: {error}. Export it again, or try another library."
            ) from error
    missing = library or libraries[0]
    raise ImportError(f"{file} needs the library {missing}: pip install {missing}.")


class Detector:
    """An exported network.

    Args:
        file: of ``tools/export.py``, or of another program with a ``description``; or one that is
            open already.
        library: "onnxruntime" or "openvino"; by default the first of them that reads the file and
            is installed.
        threads: number of threads; 0: all cores.
        score_thresh: detections are returned whose score is higher.
        description: instead of the one in the file.
        precision: "f32" or "bf16" in OpenVINO; "" is what the processor multiplies fastest.

    Raises:
        FileNotFoundError, ImportError, ValueError: The file cannot be used; with what to do.
    """

    def __init__(
        self,
        file: str | Path | Runtime,
        library: str = "",
        threads: int = 0,
        score_thresh: float = 0.0,
        description: Description | None = None,
        precision: str = "",
    ) -> None:
        self.runtime: Runtime
        if isinstance(file, str | Path):
            self.runtime = open_runtime(str(file), library, threads, precision)
        else:
            self.runtime = file
        if description is None:
            if not self.runtime.description:
                raise ValueError(
                    f"{file} does not say how images are prepared for it; give a file of "
                    "tools/export.py, or a description."
                )
            description = Description.from_json(self.runtime.description)
        self.score_thresh = score_thresh
        self.description, self._image = fitted(description, self.runtime, str(file))
        self._dtype = self.runtime.inputs[self._image][1]

    def __call__(self, image: np.ndarray | str | Path) -> Found:
        """What is found in an image, a file or an array (H, W, 3), uint8, BGR as OpenCV has it."""
        pixels = image if isinstance(image, np.ndarray) else read_bgr(image)
        if pixels.ndim != 3 or pixels.dtype != np.uint8 or pixels.size == 0:
            raise ValueError(
                f"An image is an array (H, W, 3) of uint8, not {pixels.shape} of {pixels.dtype}."
            )
        raw = self.results([pixels], [pixels.shape[:2]], "BGR")[0]
        known, masks = self.description.classes, raw.get("sem_seg")
        names, classes = known.get("classes", ()), raw.get("classes", np.zeros(0, np.int64))
        return Found(
            boxes=raw.get("boxes", np.zeros((0, 4), np.float32)),
            scores=raw.get("scores", np.zeros(0, np.float32)),
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
        return [self._result(*pair, order) for pair in zip(images, sizes, strict=True)]

    def _result(
        self, image: np.ndarray, size: tuple[int, int], order: str
    ) -> dict[str, np.ndarray]:
        how = self.description
        seen = prepare(image if order == how.format else image[..., ::-1], how)
        inputs = {self._image: seen.pixels[None].astype(self._dtype, copy=False)}
        if how.image_sizes:
            inputs[how.image_sizes] = np.array([seen.size], np.float32)
        raw = self.runtime(inputs)
        outputs = {name: raw[key][0] for name, key in how.outputs.items()}
        results = {k: v for k, v in outputs.items() if k == "probabilities"}
        if "boxes" in outputs or "detections" in outputs:
            results |= finish_boxes(outputs, seen, size, how, self.score_thresh)
        if "sem_seg" in outputs:
            (top, left), (height, width) = seen.offset, seen.size
            inside = outputs["sem_seg"][:, top : top + height, left : left + width]
            results["sem_seg"] = resize_maps(inside, size)
        return results


def fitted(how: Description, runtime: Runtime, file: str) -> tuple[Description, str]:
    """A description with the size of the file's input, and the name of that input.

    Raises:
        ValueError: The two contradict each other.
    """
    wrong = sorted(set(how.outputs.values()).difference(runtime.outputs))
    if wrong or not how.outputs:
        raise ValueError(
            f"{file} has the outputs {', '.join(runtime.outputs)}, but its description names "
            f"{', '.join(wrong) or 'none'}; correct `outputs`."
        )
    names = [name for name in runtime.inputs if name != how.image_sizes]
    shape = runtime.inputs[names[0]][0] if names else ()
    if len(names) != 1 or len(shape) != 4 or shape[0] not in (None, 1):
        raise ValueError(
            f"{file} has the inputs {dict(runtime.inputs)}; it has to take one image (1, C, H, W) "
            "or (1, H, W, C), and besides at most `image_sizes`. Export it so."
        )
    channels, *size = (shape[1], *shape[2:]) if how.layout == "NCHW" else (shape[3], *shape[1:3])
    whole = size[0] or how.size[0], size[1] or how.size[1]
    if channels not in (None, 3) or (any(how.size) and whole != tuple(how.size)):
        raise ValueError(
            f"{file} takes images of the shape {shape}, but its description has `size` "
            f"{list(how.size)} and `layout` {how.layout}; correct them."
        )
    if how.resize != "shortest_edge" and not all(whole):
        raise ValueError(f"{file} takes images of any size; say by `size` which they are given.")
    return replace(how, size=whole), names[0]


def read_bgr(file: str | Path) -> np.ndarray:
    """An image file, turned as its Exif entry says, as (H, W, 3), uint8, BGR."""
    with Image.open(file) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))[..., ::-1]


def prepare(image: np.ndarray, how: Description) -> Seen:
    """What a network sees of an image (H, W, C), uint8, whose channels are in its order."""
    antialias = how.resize == "shortest_edge" if how.antialias is None else how.antialias
    if how.resize == "shortest_edge":
        image = resize_image(image, resized(image.shape[0], image.shape[1], how), antialias)
    if how.center_crop:
        side_y, side_x = (min(how.center_crop, n) for n in image.shape[:2])
        top, left = (image.shape[0] - side_y) // 2, (image.shape[1] - side_x) // 2
        image = image[top : top + side_y, left : left + side_x]
    if how.resize != "shortest_edge":
        image = resize_image(image, resized(image.shape[0], image.shape[1], how), antialias)
    height, width = image.shape[:2]
    top = left = 0
    whole = (
        how.size[0] or -(-height // how.divisor) * how.divisor,
        how.size[1] or -(-width // how.divisor) * how.divisor,
    )
    if whole != (height, width):
        if how.padding == "centre":
            top, left = (whole[0] - height) // 2, (whole[1] - width) // 2
        padded = np.full((*whole, image.shape[2]), how.pad_value, image.dtype)
        padded[top : top + height, left : left + width] = image
        image = padded
    if len(how.mean) > 0:
        image = ((image - np.asarray(how.mean)) / np.asarray(how.std)).astype(np.float32)
    pixels = np.ascontiguousarray(image.transpose(2, 0, 1) if how.layout == "NCHW" else image)
    return Seen(pixels, whole, (height, width), (top, left))


def resized(height: int, width: int, how: Description) -> tuple[int, int]:
    """Height and width that an image is resized to."""
    full_height, full_width = how.size
    if how.resize == "stretch":
        return full_height, full_width
    sides = float(height), float(width)
    if how.resize == "shortest_edge" and how.min_size:
        # The arithmetic of Detectron2's ResizeShortestEdge, with its roundings.
        scale = how.min_size / min(height, width)
        small = float(how.min_size)
        sides = (small, scale * width) if height < width else (scale * height, small)
        if how.max_size and max(sides) > how.max_size:
            sides = _scaled(sides, how.max_size / max(sides))
    too_large = sides[0] > full_height or sides[1] > full_width
    if how.resize == "fit" or (full_height and too_large and not how.center_crop):
        sides = _scaled(sides, min(full_height / sides[0], full_width / sides[1]))
    return max(int(sides[0] + 0.5), 1), max(int(sides[1] + 0.5), 1)


def _scaled(sides: tuple[float, float], scale: float) -> tuple[float, float]:
    return sides[0] * scale, sides[1] * scale


def finish_boxes(
    outputs: Mapping[str, np.ndarray],
    seen: Seen,
    size: tuple[int, int],
    how: Description,
    score_thresh: float,
) -> dict[str, np.ndarray]:
    """Boxes, scores and classes of an image, in the coordinates of an output of ``size``."""
    if "detections" in outputs:
        columns = outputs["detections"]
        boxes, scores, classes = columns[:, :4], columns[:, 4], columns[:, 5]
    else:
        boxes, scores = outputs["boxes"], outputs["scores"]
        classes = outputs["classes"] if "classes" in outputs else scores.argmax(-1)
    scores = (scores.max(-1) if scores.ndim == 2 else scores).astype(np.float32)
    keep = scores > score_thresh  # first: a file may have a row for each anchor and class
    boxes, scores, classes = boxes[keep], scores[keep], classes[keep].astype(np.int64)
    first, second = np.split(boxes.astype(np.float32), 2, axis=1)
    if how.box_format == "cxcywh":
        first = first - second * np.float32(0.5)
    if how.box_format != "xyxy":
        second = first + second
    unit = seen.whole[::-1] if how.box_unit == "fraction" else (1, 1)
    ratio = size[1] / seen.size[1], size[0] / seen.size[0]
    limits = np.array(size[::-1] * 2, np.float32)
    moved = np.concatenate([first, second], 1) * np.array(unit * 2, np.float32)
    moved = moved - np.array(seen.offset[::-1] * 2, np.float32)
    boxes = np.clip(moved * np.array(ratio * 2, np.float32), 0, limits)
    keep = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    if how.labels:
        keep &= np.isin(classes, list(how.labels))
        classes = np.array([how.labels.get(int(k), 0) for k in classes], np.int64)
    order = np.flatnonzero(keep)[np.argsort(-scores[keep], kind="stable")]
    return {"boxes": boxes[order], "scores": scores[order], "classes": classes[order]}


def resize_image(image: np.ndarray, size: tuple[int, int], antialias: bool) -> np.ndarray:
    """Bilinear resizing of an image (H, W, C), uint8: as Pillow, or as OpenCV, to the bit."""
    if size == image.shape[:2]:
        return image
    image = np.ascontiguousarray(image)
    if antialias:
        resize = Image.fromarray(image).resize
        return np.asarray(resize(size[::-1], Image.Resampling.BILINEAR))
    try:
        import cv2
    except ImportError:
        pass
    else:
        return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    # OpenCV's arithmetic in whole numbers.
    low, high, share = neighbours(image.shape[1], size[1])
    part = np.rint(share * 2048).astype(np.int32)[:, None]
    rows = image.take(low, 1) * (2048 - part) + image.take(high, 1) * part >> 4
    low, high, share = neighbours(image.shape[0], size[0])
    part = np.rint(share * 2048).astype(np.int32)[:, None, None]
    sums = (rows[low] * (2048 - part) >> 16) + (rows[high] * part >> 16)
    return (sums + 2 >> 2).astype(np.uint8)


def resize_maps(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear resizing of maps (C, H, W), as ``torch.nn.functional.interpolate`` does it."""
    if maps.shape[1:] == tuple(size):
        return maps
    rows, columns = map(neighbours, maps.shape[1:], size)
    result = np.empty((len(maps), *size), maps.dtype)
    for before, after in zip(maps, result, strict=True):  # one map stays in the cache, many do not
        after[:] = _between(_between(before, columns, 1), rows, 0)
    return result


def _between(
    values: np.ndarray, places: tuple[np.ndarray, np.ndarray, np.ndarray], axis: int
) -> np.ndarray:
    """The values (H, W) at new places of an axis, see :func:`neighbours`."""
    low, high, share = places
    first, second = values.take(low, axis), values.take(high, axis)
    second -= first
    second *= share.astype(values.dtype).reshape((1, -1) if axis else (-1, 1))
    first += second
    return first


def neighbours(have: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of ``count`` new places the old ones around it, and the share of the second."""
    places = ((np.arange(count) + 0.5) * (have / count) - 0.5).astype(np.float32)
    low = np.floor(places)
    first, second = (np.clip(x, 0, have - 1).astype(np.int64) for x in (low, low + 1))
    return first, second, places - low
