"""A step on a device that is only pretended: what meets what, and what is copied where.

torch's device "meta" has tensors without values. Where the host asks for one, it gets a 1 here, and
that it has asked is noted, so that whole steps run, as they would on a GPU, without any.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from typing import Any
from unittest import mock

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from device_checks.check import Check, Place
from device_checks.steps import OPTIONS_OF_PATHS, PATHS, TWO_PATHS
from device_checks.synchronisation import (
    INDEXING,
    WAITING,
    Places,
    is_needed,
    place_of_code,
)
from device_checks.trainings import train
from multas.engine import Trainer

# Rows whose steps differ in what is computed where, beside one with each path.
_MORE = (
    TWO_PATHS,
    "configs/adaptive/table2.yaml#toy/adaptive",
    "configs/adaptive/table2.yaml#toy/multiobjective",
    "configs/limited-data/table6.yaml#toy/multi_task_self_trained_pdf",
)


class Pretended(TorchDispatchMode):
    """Tensors on "meta" act as if they had values.

    Attributes:
        copies: how often tensors went from the host to the device or back, by place.
        waits: how often the host needed a value, or a number of values.
        mixed: how often tensors of both met in one operation, which is an error on a GPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.copies: Places = Counter()
        self.waits: Places = Counter()
        self.mixed: Places = Counter()

    def clear(self) -> None:
        for places in (self.copies, self.waits, self.mixed):
            places.clear()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if not any(x.is_meta for x in tensors):
            return self._on_host(func, name, args, kwargs)
        if name == "_to_copy" and torch.device(kwargs.get("device") or "meta").type != "meta":
            self.waits[place_of_code()] += 1
            return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if name == "copy_" and args[0].is_meta != args[1].is_meta:
            (self.copies if args[0].is_meta else self.waits)[place_of_code()] += 1
            return args[0]
        # A number of the host without dimensions may meet a tensor of any device, and so may
        # places in it.
        if name not in INDEXING and any(x.dim() and not x.is_meta for x in tensors):
            self.mixed[f"{place_of_code()} ({name})"] += 1
        if name in INDEXING:
            args = self._counted(args)
        elif name in (*WAITING, "nms"):
            self.waits[place_of_code()] += 1
            return self._instead(name, args[0])
        return func(*args, **kwargs)

    def _on_host(self, func: Callable, name: str, args: tuple, kwargs: dict) -> Any:
        if name == "_to_copy" and torch.device(kwargs.get("device") or "cpu").type == "meta":
            self.copies[place_of_code()] += 1
        return func(*args, **kwargs)

    def _counted(self, args: tuple) -> tuple:
        """The arguments of an indexing, with one place instead of each mask."""
        indices: list[Tensor | None] = []
        for index in args[1]:
            if index is None or index.dtype not in (torch.bool, torch.uint8):
                indices.append(index)
                continue
            self.waits[place_of_code()] += 1
            one = torch.zeros(1, dtype=torch.long, device="meta")
            indices += [one] * index.dim()
        return args[0], indices, *args[2:]

    @staticmethod
    def _instead(name: str, x: Tensor) -> Any:
        if name == "_local_scalar_dense":
            return torch.ones((), dtype=x.dtype).item()
        if name == "nonzero":
            return torch.zeros((1, x.dim()), dtype=torch.long, device="meta")
        if name in ("masked_select", "nms"):
            kind = torch.long if name == "nms" else x.dtype
            return torch.zeros(1, dtype=kind, device="meta")
        return True


class _Enough(BaseException):
    """Ends a training that has shown what it does."""


class _Second(HookBase):
    """Forgets what the first step did, in which networks are probed, and ends after the second."""

    def __init__(self, device: Pretended) -> None:
        self._device = device

    def after_step(self) -> None:
        if self.trainer.iter > self.trainer.start_iter:
            raise _Enough
        self._device.clear()


def second_step(cfg: CfgNode, device: Pretended) -> None:
    """Train for two steps on a pretended device, which knows of the second then."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    cfg.freeze()

    def prepare(trainer: Trainer) -> None:
        trainer.register_hooks([_Second(device)])

    # There is no autocast of this device.
    none = mock.patch.object(torch, "autocast", lambda *_, **__: nullcontext())
    off = mock.patch.object(torch, "is_autocast_enabled", lambda *_: False)
    with suppress(_Enough), device, none, off:
        train(cfg, prepare)


def _check(place: Place) -> str:
    rows = [
        *((row, []) for row in _MORE),
        *((PATHS[p], OPTIONS_OF_PATHS.get(p, [])) for p in PATHS),
    ]
    sent = 0
    for row, opts in rows:
        device = Pretended()
        second_step(place.trainings.config(row, "cpu", *opts), device)
        name = row.partition("#")[2]
        assert not device.mixed, f"{name}: host and device meet at {next(iter(device.mixed))}"
        for places, what in ((device.waits, "waits"), (device.copies, "sends")):
            surprising = [x for x in places if not is_needed(x)]
            assert not surprising, f"{name} {what} at {surprising[0]}"
        sent = max(sent, sum(device.copies.values()))
    return f"{len(rows)} rows on a pretended device, at most {sent} tensors sent a step"


def checks() -> Iterator[Check]:
    yield Check("transfers", _check)
