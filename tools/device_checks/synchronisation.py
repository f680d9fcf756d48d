"""Where a training step waits for the device, or would on a GPU."""

import linecache
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

import torch
from detectron2.engine import HookBase
from torch.utils._python_dispatch import TorchDispatchMode

from device_checks.check import Check, Place
from device_checks.steps import PATHS, TWO_PATHS
from device_checks.trainings import train
from multas.engine import Trainer

# A classifier of two paths by their losses and by their gradients, and detectors.
_ROWS = (
    TWO_PATHS,
    "configs/adaptive/table2.yaml#toy/multiobjective",
    "configs/adaptive/table5.yaml#toy/hand_tuned_feats_p",
    PATHS["PDFDistil"],
    PATHS["DeFeat"],
)
# Where the host has to wait, by the file of the code, and why.
NEEDED = {
    "detectron2/engine/train_loop.py": "Detectron2 logs the losses",
    "multas/engine/path_weights.py": "the path weights are logged, in one transfer",
    "multas/distillation/aggregation/gradient.py": "gradients are weighed on the host",
    "multas/distillation/gradients/min_norm.py": "gradients are weighed on the host",
    "multas/distillation/gradients/gramian.py": "gradients are weighed on the host",
    "multas/engine/steps/path_gradients.py": "gradients are weighed on the host",
    "multas/distillation/paths/localization.py": "places are chosen whose number is not known",
    "multas/modeling/multitask_network.py": "images are sent",
    "multas/distillation/distiller.py": "masks are sent",
    "multas/modeling/heads/semantic_fpn.py": "masks are sent",
    "multas/modeling/heads/linear.py": "labels are sent",
    "detectron2/structures/boxes.py": "boxes are sent",
    "detectron2/structures/instances.py": "boxes are sent",
}
# Operations whose result the host needs, or whose shape depends on values.
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
# On the host on every device: the loading of images, and Detectron2's sizes of them.
_HOST = ("multas/data/", "detectron2/structures/image_list.py")
_FOLDERS = ("multas/", "detectron2/")

Places = Counter[str]


def _frames() -> Iterator[FrameType]:
    """The frames of the code that runs now, from within."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def place_of_code() -> str:
    """The innermost line of multas or Detectron2 that runs now: its file, line and code."""
    for frame in _frames():
        file = Path(frame.f_code.co_filename).as_posix()
        starts = [file.rfind(f"/{folder}") for folder in _FOLDERS]
        if max(starts) >= 0 and "/tools/" not in file:
            line = linecache.getline(file, frame.f_lineno).strip()
            return f"{file[max(starts) + 1 :]}:{frame.f_lineno}: {line}"
    return ""


def is_needed(place: str) -> bool:
    """Whether the host has to wait at a place, or is not at work for the device there."""
    return not place or place.startswith(_HOST) or place.partition(":")[0] in NEEDED


class _Watched(TorchDispatchMode):
    """Notes operations that would make the host wait, on whatever device they run."""

    def __init__(self, places: Places) -> None:
        super().__init__()
        self.places = places

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        waits = name in WAITING
        if name in INDEXING:
            kinds = [x.dtype for x in args[1] if isinstance(x, torch.Tensor)]
            waits = torch.bool in kinds or torch.uint8 in kinds
        if waits and not is_loading():
            self.places[place_of_code()] += 1
        return func(*args, **(kwargs or {}))


def is_loading() -> bool:
    """Whether images are being loaded."""
    return any("/multas/data/" in frame.f_code.co_filename for frame in _frames())


@contextmanager
def watched(places: Places, is_gpu: bool) -> Iterator[None]:
    """Note in ``places`` where the host waits inside the block.

    Args:
        places: how often, by place.
        is_gpu: whether CUDA itself tells it; otherwise what would wait there is looked for.
    """
    if not is_gpu:
        with _Watched(places):
            yield
        return

    def note(message, *_, **__) -> None:
        if "synchronizing" in str(message):
            places[place_of_code()] += 1

    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)


class _Step(HookBase):
    """Watches the steps of a training, but not the first, in which much is set up."""

    def __init__(self, places: Places, is_gpu: bool) -> None:
        self._places, self._is_gpu = places, is_gpu

    def before_step(self) -> None:
        self._open = ExitStack()
        self._open.enter_context(watched(self._places, self._is_gpu))

    def after_step(self) -> None:
        self._open.close()
        if self.trainer.iter == self.trainer.start_iter:
            self._places.clear()

    def after_train(self) -> None:
        self._open.close()  # if a step has failed


def _check(place: Place) -> str:
    """Each row waits nowhere but where it has to."""
    waits = {}
    for row in _ROWS:
        places: Places = Counter()
        cfg = place.trainings.config(row, place.device)
        step = _Step(places, place.is_gpu)
        train(cfg, partial(Trainer.register_hooks, hooks=[step]))
        found = {x: n for x, n in places.items() if x and not x.startswith(_HOST)}
        surprising = [x for x in found if not is_needed(x)]
        name = row.partition("#")[2]
        assert not surprising, f"{name} waits {found[surprising[0]]} times at {surprising[0]}"
        waits[name.rpartition("/")[2]] = sum(found.values()) / (cfg.SOLVER.MAX_ITER - 1)
    told = ", ".join(f"{name} {n:.0f}" for name, n in waits.items())
    return f"times a step{'' if place.is_gpu else ' of a GPU'} waits: {told}"


def checks() -> Iterator[Check]:
    yield Check("synchronisation", _check)
