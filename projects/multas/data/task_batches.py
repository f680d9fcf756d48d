"""One mini-batch per task: which data each gets, and how an iteration combines them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from multas.config.limits import check_limits
from multas.data.loader import TrainLoader
from multas.util.errors import UserError
from multas.util.names import check_choice, did_you_mean

KEY = "DATASETS.TASK_BATCHES"
MODES = ("separate", "mixed", "alternate")
_KEYS = ("TASK", "TRAIN", "IMS_PER_BATCH", "OPTS")
# The keys that an entry may set for its own images.
_OPTS = ("INPUT.", "DATALOADER.", "DATASETS.PSEUDO_LABELS.")
_NOT_OPTS = ("INPUT.FORMAT", "DATALOADER.SAMPLER_TRAIN")


@dataclass(frozen=True)
class TaskBatch:
    """One checked entry of DATASETS.TASK_BATCHES; see the key."""

    key: str  # the config key of this entry, for messages
    task: str  # name of a task of the network
    batch_size_key: str  # the config key that holds its number of images, for messages
    cfg: CfgNode  # the config of the run as it holds for these images
    seed: int  # seed of the order and the augmentation of these images


def parse_task_batches(cfg: CfgNode, seed: int) -> list[TaskBatch]:
    """The entries of DATASETS.TASK_BATCHES in a run with this seed.

    Raises:
        UserError: if a key or value is wrong, or DATASETS.TRAIN is given as well.
    """
    entries = list(cfg.DATASETS.TASK_BATCHES)
    if not entries:
        return []
    check_choice("DATASETS.TASK_MODE", cfg.DATASETS.TASK_MODE, MODES)
    if cfg.DATASETS.TRAIN:
        raise UserError(
            f"DATASETS.TRAIN {tuple(cfg.DATASETS.TRAIN)} and {KEY} are both given; leave one of "
            "them empty."
        )
    batches = [_parse(cfg, seed, number, entry) for number, entry in enumerate(entries)]
    for task in cfg.MODEL.MULTITASK.TASKS:
        if task not in [batch.task for batch in batches]:
            raise UserError(
                f"{KEY} has no entry for '{task}' of MODEL.MULTITASK.TASKS: its head would never "
                "be trained. Add one, or drop the task."
            )
    return batches


def _parse(cfg: CfgNode, seed: int, number: int, entry: Mapping[str, Any]) -> TaskBatch:
    key = f"{KEY}[{number}]"
    if not isinstance(entry, Mapping) or not {"TASK", "TRAIN"} <= set(entry):
        raise UserError(f"{key} must be a mapping with the keys TASK and TRAIN, is {entry!r}.")
    for name in entry:
        if name not in _KEYS:
            raise UserError(f"{key}: unknown key '{name}'.{did_you_mean(name, _KEYS)}")
    if entry["TASK"] not in cfg.MODEL.MULTITASK.TASKS:
        raise UserError(
            f"{key}: TASK is '{entry['TASK']}', MODEL.MULTITASK.TASKS are "
            f"{', '.join(cfg.MODEL.MULTITASK.TASKS)}."
        )
    opts = entry.get("OPTS", [])
    if not isinstance(opts, list | tuple):
        raise UserError(f"{key}: OPTS is {opts!r}; it must be a list of keys and values in turn.")
    opts = list(opts)
    for name in opts[::2]:
        if not str(name).startswith(_OPTS) or name in _NOT_OPTS:
            raise UserError(
                f"{key}: OPTS has '{name}', but the images of an entry have keys of their own "
                f"only below {', '.join(_OPTS)} (not {', '.join(_NOT_OPTS)}): give it in the "
                "config itself."
            )
    own = cfg.clone()
    own.defrost()
    try:
        own.merge_from_list(opts)
    except (AssertionError, KeyError, ValueError) as error:  # what yacs raises
        raise UserError(f"{key}: OPTS {opts}: {error}. Give pairs of key and value.") from error
    train = entry["TRAIN"]
    own.DATASETS.TRAIN = (train,) if isinstance(train, str) else tuple(train)
    own.DATASETS.TASK_BATCHES = []
    if "IMS_PER_BATCH" in entry and cfg.SOLVER.REFERENCE_WORLD_SIZE:
        raise UserError(
            f"{key}: IMS_PER_BATCH would not be scaled to the number of processes as "
            "SOLVER.IMS_PER_BATCH is: set SOLVER.REFERENCE_WORLD_SIZE to 0."
        )
    own.SOLVER.IMS_PER_BATCH = entry.get("IMS_PER_BATCH", cfg.SOLVER.IMS_PER_BATCH)
    check_limits(own, f"{key}, ")
    if cfg.DATASETS.TASK_MODE == "alternate":
        # Schedules of the data count the batches of this entry.
        own.SOLVER.MAX_ITER = -(-cfg.SOLVER.MAX_ITER // len(cfg.DATASETS.TASK_BATCHES))
    if number:
        # So that data sets of the same size are not gone through in the same order.
        seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    batch_size_key = f"{key}.IMS_PER_BATCH" if "IMS_PER_BATCH" in entry else "SOLVER.IMS_PER_BATCH"
    return TaskBatch(key, str(entry["TASK"]), batch_size_key, own, seed)


def training_sets(cfg: CfgNode) -> list[str]:
    """Names of all data sets that a config trains on."""
    sets = [*cfg.DATASETS.TRAIN]
    for batch in parse_task_batches(cfg, 0):
        sets.extend(name for name in batch.cfg.DATASETS.TRAIN if name not in sets)
    return sets


@dataclass(eq=False)
class TaskLoader:
    """Batches that are put together from one mini-batch per task.

    Every image names its "task"; in mode "separate" it also has the number of its "mini_batch".

    Args:
        tasks: the task of each loader.
        loaders: the loaders of the mini-batches.
        mode: see DATASETS.TASK_MODE.
    """

    tasks: Sequence[str]
    loaders: Sequence[TrainLoader]
    mode: str
    _start: int = field(default=0, init=False)

    def start_at(self, iteration: int) -> None:
        """Skip the images of the iterations before ``iteration``."""
        self._start = iteration
        for number, loader in enumerate(self.loaders):
            own = range(number, iteration, len(self.loaders))
            loader.start_at(len(own) if self.mode == "alternate" else iteration)

    def __iter__(self) -> Iterator[list[dict]]:
        streams = [iter(loader) for loader in self.loaders]
        if self.mode == "alternate":
            for iteration in count(self._start):
                number = iteration % len(streams)
                yield self._named(number, next(streams[number]))
        while True:
            yield [x for i, stream in enumerate(streams) for x in self._named(i, next(stream))]

    def _named(self, number: int, batch: list[dict]) -> list[dict]:
        extra = {"mini_batch": number} if self.mode == "separate" else {}
        return [{**x, "task": self.tasks[number], **extra} for x in batch]
