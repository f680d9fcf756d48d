"""Where a training step waits for the device, or would on a GPU."""

import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from detectron2.engine import HookBase
from torch.utils._python_dispatch import TorchDispatchMode

from device_checks.check import Check, Place
from device_checks.steps import PATHS, TWO_PATHS
from device_checks.trainings import train

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
    "multas/util/ranks.py": "gradients are weighed on the host",
    "multas/distillation/paths/localization.py": "places are chosen whose number is not known",
    "multas/modeling/network_input.py": "the images are sent",
    "multas/modeling/multitask_network.py": "images and annotations are sent",
    "multas/modeling/matcher.py": "the boxes are sent",
    "multas/modeling/heads/semantic_fpn.py": "the masks are sent",
    "multas/distillation/teacher/teacher.py": "the images are sent to the teacher",
    "multas/distillation/paths/targets.py": "the boxes are sent",
}
# Operations whose result the host needs, or whose shape depends on values.
_WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2"}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
# On the host on every device: the loading of images, and Detectron2's sizes of them.
_HOST = ("multas/data/", "detectron2/structures/image_list.py")
_FOLDERS = ("multas/", "detectron2/")

Places = Counter[str]


def _place() -> str:
    """The innermost line of multas or Detectron2 that runs now: its file, line and code."""
    found = ""
    for frame in traceback.extract_stack():
        path = Path(frame.filename).as_posix()
        for folder in _FOLDERS:
            start = path.rfind(f"/{folder}")
            if start >= 0 and "/tools/" not in path:
                found = f"{path[start + 1 :]}:{frame.lineno}: {frame.line}"
    return found


def _is_host(places: str) -> bool:
    return not places or places.startswith(_HOST)


class _Watched(TorchDispatchMode):
    """Notes operations that would make the host wait, on whatever device they run."""

    def __init__(self, places: Places) -> None:
        super().__init__()
        self.places = places

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        waits = name in _WAITING
        if name in _INDEXING:
            kinds = [x.dtype for x in args[1] if isinstance(x, torch.Tensor)]
            waits = torch.bool in kinds or torch.uint8 in kinds
        if waits and not _loads():
            self.places[_place()] += 1
        return func(*args, **(kwargs or {}))


def _loads() -> bool:
    """Whether images are being loaded."""
    return any("/multas/data/" in frame.filename for frame in traceback.extract_stack())


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
            places[_place()] += 1

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
        self._context = watched(self._places, self._is_gpu)
        self._context.__enter__()

    def after_step(self) -> None:
        self._context.__exit__(None, None, None)
        if self.trainer.iter == self.trainer.start_iter:
            self._places.clear()


def _check(place: Place) -> str:
    """Each row waits nowhere but where it has to."""
    waits = {}
    for row in _ROWS:
        places: Places = Counter()
        cfg = place.trainings.config(row, place.device)
        train(cfg, lambda trainer, p=places: trainer.register_hooks([_Step(p, place.is_gpu)]))
        found = {x: n for x, n in places.items() if not _is_host(x)}
        surprising = [x for x in found if x.partition(":")[0] not in NEEDED]
        name = row.partition("#")[2]
        assert not surprising, f"{name} waits {found[surprising[0]]} times at {surprising[0]}"
        waits[name.rpartition("/")[2]] = sum(found.values()) / (cfg.SOLVER.MAX_ITER - 1)
    told = ", ".join(f"{name} {n:.0f}" for name, n in waits.items())
    return f"times a step{'' if place.is_gpu else ' of a GPU'} waits: {told}"


def checks() -> Iterator[Check]:
    yield Check("synchronisation", _check)
