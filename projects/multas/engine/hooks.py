"""Hooks: what happens around a training step."""

import itertools
import os
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from multas.distillation import Distillation
from multas.distillation.teacher.cache import TeacherCache
from multas.engine.weights.evaluated_models import Weights, live_weights
from multas.engine.weights.final_weights import FinalWeights
from multas.modeling import MultiTaskNetwork


class RunState(HookBase):
    """Carries through a checkpoint what no state dict holds.

    That is the state of the random number generators, and running normalisers that models keep
    as plain attributes (RetinaNet's ``loss_normalizer``).

    Args:
        model: the model that is trained.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def _normalizers(self) -> dict[str, nn.Module]:
        return {n: m for n, m in self._model.named_modules() if hasattr(m, "loss_normalizer")}

    def state_dict(self) -> dict[str, Any]:
        kind, keys, *rest = cast(tuple, np.random.get_state())
        state = {
            "torch": torch.get_rng_state(),
            # Plain numbers and tensors alone: torch.load(weights_only=True) takes nothing else.
            "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *rest],
            "python": random.getstate(),
            "normalizers": {n: m.loss_normalizer for n, m in self._normalizers().items()},
        }
        if torch.cuda.is_available():
            state["cuda"] = torch.cuda.get_rng_state_all()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        torch.set_rng_state(state["torch"].cpu())
        kind, keys, *rest = state["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
        version, values, gauss = state["python"]
        random.setstate((version, tuple(values), gauss))
        modules = dict(self._model.named_modules())
        for name, value in state["normalizers"].items():
            modules[name].loss_normalizer = value
        if "cuda" in state and torch.cuda.device_count() == len(state["cuda"]):
            torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])


class PathMonitor(HookBase):
    """Puts v, z, the raw losses of all paths … into the EventStorage.

    A vector has one value for each path, a symmetric matrix one for each pair of paths.

    Args:
        distillation: whose monitors are read; one transfer from the device per step.
    """

    def __init__(self, distillation: Distillation) -> None:
        self._distillation = distillation
        self._pairs = list(itertools.combinations(distillation.names, 2))

    def after_step(self) -> None:
        monitors = self._distillation.monitors
        values = iter(torch.cat([m.float().flatten() for m in monitors.values()]).tolist())
        names = self._distillation.names
        for monitor, value in monitors.items():
            shares = dict(zip(itertools.product(names, repeat=value.dim()), values, strict=False))
            for place in self._pairs if value.dim() == 2 else shares:
                # Unsmoothed: a median over 20 steps would hide what an aggregator does.
                key = "/".join(filter(None, [monitor, "~".join(place)]))
                self.trainer.storage.put_scalar(key, shares[place], smoothing_hint=False)


class CacheHits(HookBase):
    """Logs which share of the images of each step the teachers' caches knew, "teacher_cache/hits".

    Args:
        caches: of the teachers of a run.
    """

    def __init__(self, caches: Sequence[TeacherCache]) -> None:
        self._caches = caches

    def after_step(self) -> None:
        hits = sum(cache.hits for cache in self._caches)
        asked = hits + sum(cache.misses for cache in self._caches)
        for cache in self._caches:
            cache.hits = cache.misses = 0
        if asked:
            self.trainer.storage.put_scalar("teacher_cache/hits", hits / asked)


class TaskImages(HookBase):
    """Logs how many images of each step, of all ranks, were annotated for each task,
    "images/<task>".

    Args:
        network: whose counts are taken.
    """

    def __init__(self, network: MultiTaskNetwork) -> None:
        self._network = network

    def after_step(self) -> None:
        total: Counter[str] = Counter()
        for counts in comm.gather(self._network.annotated_images):
            total.update(counts)
        self._network.annotated_images = {}
        for task, count in total.items():
            self.trainer.storage.put_scalar(f"images/{task}", count, smoothing_hint=False)


class SaveStudent(HookBase):
    """Writes ``student.pth`` when training has finished: the product, weights alone.

    With an average or early stopping, the product is not the student as trained, which is then
    written as well, as ``student_raw.pth``. (The training checkpoints also hold it under "model",
    but beside it what resuming needs.)

    Args:
        product: of the run.
        model: the model that is trained.
        folder: where the files go.
    """

    def __init__(self, product: FinalWeights, model: nn.Module, folder: str) -> None:
        self._final = product
        self._model = model
        self._folder = folder

    def after_train(self) -> None:
        if self.trainer.iter < self.trainer.max_iter:
            return
        trained = live_weights(self._model)
        product = list(self._final.named_weights(finished=True).values())[-1]
        if product is not None:
            self._save(trained, "student_raw.pth")
        self._save(trained if product is None else product, "student.pth")

    def _save(self, weights: Weights, name: str) -> None:
        path = os.path.join(self._folder, name)
        torch.save({"model": dict(weights)}, f"{path}.partial")
        os.replace(f"{path}.partial", path)
