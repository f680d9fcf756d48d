"""What a teacher said of images, kept on disk, so that no image is shown to it twice.

An entry is found by the content of the image and by the size that it is padded to in its batch,
which decide what a network in eval mode returns for it. INPUT.VIEWS makes images come back.

What is returned has passed through half precision even when the teacher has just said it, so that
a run does not depend on the entries that were there before it, as long as none is dropped.
"""

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import detectron2
import torch
from detectron2.structures import Boxes
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

import multas
from multas.distillation.taps import leaves, map_leaves
from multas.distillation.teacher.entry_files import EntryFiles
from multas.util.errors import UserError
from multas.util.sizes import round_up

_KEY = "MODEL.DISTILLATION.CACHE.FOLDER"


@dataclass
class TeacherOutput:
    """What a teacher said of a batch.

    Attributes:
        record: tap name -> what the layer returned.
        boxes: detections in each image, in pixels of the network input; empty if not wanted.
    """

    record: dict[str, Any]
    boxes: list[Boxes]


@dataclass
class Packed:
    """The tensors of one image: each is its half, times its scale.

    Attributes:
        halves: float16 tensors of any shapes.
        scales: (number of halves,), powers of two.
        boxes: (number of boxes, 4) float32, or None.
    """

    halves: list[Tensor]
    scales: Tensor
    boxes: Tensor | None


Run = Callable[[list[dict], float | None], TeacherOutput]


class TeacherCache:
    """Outputs of a teacher in half precision; at a limit the least recently used ones are dropped.

    Args:
        folder: where they are kept; runs and processes of one machine may share it.
        max_bytes: size limit of all entries together.
        teacher: identifies the teacher, its taps and its number format; see :func:`fingerprint`.
        template: a record of the teacher, which shows how its tensors are nested.
        device: where outputs are wanted.
        divisor: what sides of a padded batch are multiples of (``size_divisibility``).

    Raises:
        UserError: a layer returns something that is no tensor, or the folder is a file.
    """

    def __init__(
        self,
        folder: str,
        max_bytes: int,
        *,
        teacher: str,
        template: dict[str, Any],
        device: torch.device,
        divisor: int = 1,
    ) -> None:
        for name, value in template.items():
            if not _only_tensors(value):
                raise UserError(
                    f"{_KEY}: the teacher's layer '{name}' returns more than tensors, and only "
                    "those can be kept. Tap what is inside, or set FOLDER to ''."
                )
        try:
            self._store = EntryFiles(folder, max_bytes)
        except NotADirectoryError:
            raise UserError(f"{_KEY} is '{folder}', which is a file; name a folder.") from None
        self._teacher = teacher
        self._template = map_leaves(lambda tensor: tensor.new_empty(0), template)
        self._device = device
        self._divisor = max(divisor, 1)
        # Images that were found and not found since the counters were last set to 0.
        self.hits = 0
        self.misses = 0

    @property
    def folder(self) -> str:
        """The folder of the entries, with ``~`` and variables replaced."""
        return self._store.folder

    @property
    def held(self) -> int:
        """Bytes of all entries in the folder."""
        return self._store.held

    @property
    def damaged(self) -> int:
        """The number of entries so far that were there and could not be used."""
        return self._store.damaged

    def output_of(self, inputs: list[dict], score_thresh: float | None, run: Run) -> TeacherOutput:
        """What the teacher says of a batch; it is run only on images that are new to it.

        Args:
            inputs: inputs of the teacher, "image" (C, H, W).
            score_thresh: lowest score of its boxes; None if they are not wanted.
            run: runs the teacher on such inputs.
        """
        images = [x["image"] for x in inputs]
        padded = self._padded_size(images)
        keys = [self._key(image, padded, score_thresh) for image in images]
        entries = [self._find(key) for key in keys]
        new = [i for i, entry in enumerate(entries) if entry is None]
        self.hits += len(images) - len(new)
        self.misses += len(new)
        if new:
            # Alone, new images may be padded less than in the batch, which changes the outputs.
            alone = self._padded_size([images[i] for i in new]) == padded
            shown = new if alone else list(range(len(images)))
            output = run([inputs[i] for i in shown], score_thresh)
            for i, entry in zip(shown, split(output, len(shown)), strict=True):
                entries[i] = unpack(entry)
                self._store.set(keys[i], entry)
        # Autocast would change the halves' format, or refuse it.
        with torch.autocast(self._device.type, enabled=False):
            return self._join([entry for entry in entries if entry is not None])

    def _find(self, key: str) -> Packed | None:
        data = self._store.get(key)
        if data is None:
            return None
        # The checksum says that somebody has written it so, not what it is.
        with contextlib.suppress(KeyError, SafetensorError):
            packed = unpack(data)
            if len(packed.halves) == sum(1 for _ in leaves(self._template)):
                return packed
        self._store.count_damage(key)
        return None

    def _padded_size(self, images: Sequence[Tensor]) -> tuple[int, int]:
        height, width = (max(image.shape[axis] for image in images) for axis in (-2, -1))
        return round_up(height, self._divisor), round_up(width, self._divisor)

    def _key(self, image: Tensor, padded: tuple[int, int], score_thresh: float | None) -> str:
        content = hashlib.blake2b(_bytes_of(image), digest_size=20)
        # A teacher without a precision of its own has that of the training step.
        kind = self._device.type
        autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        about = self._teacher, image.dtype, image.shape, padded, score_thresh, autocast
        content.update(repr(about).encode())
        return content.hexdigest()

    def _join(self, entries: Sequence[Packed]) -> TeacherOutput:
        scales = self._sent(torch.stack([entry.scales for entry in entries], dim=1))
        tensors = []
        for k, scale in enumerate(scales):
            halves = self._sent(torch.stack([entry.halves[k] for entry in entries]))
            tensors.append(halves.float() * scale.view(-1, *[1] * (halves.dim() - 1)))
        rest = iter(tensors)
        boxes = [Boxes(self._sent(e.boxes)) for e in entries if e.boxes is not None]
        return TeacherOutput(map_leaves(lambda _: next(rest), self._template), boxes)

    def _sent(self, tensor: Tensor) -> Tensor:
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()  # else the host would wait for the copy
        return tensor.to(self._device, non_blocking=True)


def pack(tensors: Sequence[Tensor], boxes: Tensor | None = None) -> bytes:
    """Tensors on the CPU in 11 significant bits, whatever their range, and exact boxes.

    The relative error is at most 2^-11, and larger only below 2^-29 of the largest value of a
    tensor.
    """
    scales = [_scale(tensor) for tensor in tensors]
    pairs = enumerate(zip(tensors, scales, strict=True))
    named = {str(k): (tensor.float() / scale).half() for k, (tensor, scale) in pairs}
    named["scales"] = torch.tensor(scales, dtype=torch.float32)
    if boxes is not None:
        named["boxes"] = boxes.float()
    return save({name: tensor.contiguous() for name, tensor in named.items()})


def unpack(data: bytes) -> Packed:
    """The tensors and boxes, on the CPU, of which :func:`pack` made ``data``."""
    named = load(data)
    scales, boxes = named.pop("scales"), named.pop("boxes", None)
    return Packed([named[str(k)] for k in range(len(named))], scales, boxes)


def _scale(tensor: Tensor) -> float:
    """The power of two that takes the largest value just below the largest float16."""
    largest = tensor.abs().max().item() if tensor.numel() else 0.0
    if not 0 < largest < math.inf:
        return 1.0
    # Divisors below 2^-100 would leave float32.
    return 2.0 ** max(math.frexp(largest)[1] - 15, -100)


def split(output: TeacherOutput, count: int) -> Iterable[bytes]:
    """The entries of a batch of ``count`` images.

    Raises:
        UserError: a layer's results are not one row of floating-point numbers for each image.
    """
    for name, value in output.record.items():
        shapes, why = [tuple(tensor.shape) for tensor in leaves(value)], ""
        if any(not shape or shape[0] != count for shape in shapes):
            why = f"the shapes {shapes} for {count} images; only what has one row for each image"
        elif not all(tensor.is_floating_point() for tensor in leaves(value)):
            why = "integers or booleans; only floating point numbers"
        if why:
            raise UserError(
                f"{_KEY}: the teacher's layer '{name}' returned {why} can be kept. Tap another "
                "layer, or set FOLDER to ''."
            )
    tensors = [tensor.cpu() for tensor in leaves(output.record)]
    for i in range(count):
        boxes = output.boxes[i].tensor.cpu() if output.boxes else None
        yield pack([tensor[i] for tensor in tensors], boxes)


def _only_tensors(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_only_tensors(item) for item in value.values())
    if isinstance(value, list | tuple):
        return all(_only_tensors(item) for item in value)
    return value is None or isinstance(value, Tensor)


def fingerprint(model: nn.Module, *about: object) -> str:
    """Identifies what a network computes by its weights, structure, and ``about``.

    Of its code only the versions of libraries count.
    """
    versions = [module.__version__ for module in (multas, detectron2, torch)]
    digest = hashlib.sha256(repr((str(model), versions, *about)).encode())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> Any:
    # NumPy arrays are buffers, whatever their type hints say.
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
