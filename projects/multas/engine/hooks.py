"""Hooks that carry state through checkpoints, log, and write the student."""

import logging
import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from multas.distillation.teacher.cache import TeacherCache
from multas.engine.served import SERVED, served_facts
from multas.engine.weights.evaluated_models import Weights, live_weights
from multas.engine.weights.final_weights import FinalWeights
from multas.modeling import MultiTaskNetwork
from multas.util.files import written_whole

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class RunState(HookBase):
    """Carries through a checkpoint what is in no state dict of the model that is trained.

    That is the state of the random number generators, and running normalisers that models keep
    as plain attributes (RetinaNet's ``loss_normalizer``).
    """

    model: nn.Module

    def state_dict(self) -> dict[str, Any]:
        kind, keys, *rest = cast(tuple, np.random.get_state())
        modules = self.model.named_modules()
        normalizers = {n: m.loss_normalizer for n, m in modules if hasattr(m, "loss_normalizer")}
        state = {
            "torch": torch.get_rng_state(),
            # torch.load(weights_only=True) accepts nothing but plain numbers and tensors.
            "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *rest],
            "python": random.getstate(),
            "normalizers": normalizers,
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
        modules = dict(self.model.named_modules())
        for name, value in state["normalizers"].items():
            modules[name].loss_normalizer = value
        if "cuda" in state and torch.cuda.device_count() == len(state["cuda"]):
            torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])


@dataclass(eq=False)
class CacheHits(HookBase):
    """Logs the share of each step's images that the teachers' caches knew, "teacher_cache/hits".

    Where entries were damaged, "teacher_cache/damaged" is their number since the start.
    """

    caches: Sequence[TeacherCache]

    def after_step(self) -> None:
        hits = sum(cache.hits for cache in self.caches)
        asked = hits + sum(cache.misses for cache in self.caches)
        for cache in self.caches:
            cache.hits = cache.misses = 0
        if asked:
            self.trainer.storage.put_scalar("teacher_cache/hits", hits / asked)
        if damaged := sum(cache.damaged for cache in self.caches):
            name = "teacher_cache/damaged"
            self.trainer.storage.put_scalar(name, damaged, smoothing_hint=False)


@dataclass(eq=False)
class TaskImages(HookBase):
    """Logs as "images/<task>" how many images of each step, on all ranks, had its annotation."""

    network: MultiTaskNetwork

    def after_step(self) -> None:
        total: Counter[str] = Counter()
        for counts in comm.gather(self.network.annotated_images):
            total.update(counts)
        self.network.annotated_images = {}
        for task, count in total.items():
            self.trainer.storage.put_scalar(f"images/{task}", count, smoothing_hint=False)


@dataclass(eq=False)
class SaveStudent(HookBase):
    """Writes ``student.pth`` when training has finished: the final weights, ready to be served.

    Beside them are the names of the classes and the keys that make test images, which loaders that
    do not ask for them pass over. With an average or early stopping, these are not the weights of
    the last iteration, which are then written as well, as ``student_raw.pth``.
    """

    final: FinalWeights
    model: nn.Module  # that is trained
    cfg: CfgNode

    def after_train(self) -> None:
        if self.trainer.iter < self.trainer.max_iter:
            return
        trained = live_weights(self.model)
        final = list(self.final.named_weights(finished=True).values())[-1]
        if final is not None:
            self._save(trained, "student_raw.pth")
        self._save(trained if final is None else final, "student.pth")
        logger.info(f"The student is {os.path.join(self.cfg.OUTPUT_DIR, 'student.pth')}.")

    def _save(self, weights: Weights, name: str) -> None:
        with written_whole(os.path.join(self.cfg.OUTPUT_DIR, name)) as path:
            torch.save({"model": dict(weights), SERVED: served_facts(self.cfg)}, path)
