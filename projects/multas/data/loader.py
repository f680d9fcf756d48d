"""Batches for training, in an order that an interrupted run can take up exactly.

The n-th batch is a function of the seed and n alone: which images, in which order and size, with
which augmentation. So there is no sampler state to save: a resumed run starts at batch n, whatever
the number of workers.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, get_worker_info

from multas.data.batch_sampler import BatchSampler, Index
from multas.data.mapper import MultasMapper
from multas.data.mixing import Mixing
from multas.data.packed_batches import pack, unpack
from multas.data.shared_list import SharedList
from multas.data.worker_errors import Raising, or_error, raise_errors
from multas.util.errors import UserError
from multas.util.signals import load_on

# Keeps the sizes independent of the order of the images, which is drawn from the same seed.
_SIZES = 0x5CA1E


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds the global generators of the CPU, from which Detectron2's augmentations draw.

    Those of the training process, which loads without workers, are then set back. Those of a worker
    are not, since nothing else draws from them: it would take nearly as long as decoding a small
    image.
    """
    states = None
    if get_worker_info() is None:
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed)
        # Not torch.manual_seed, which seeds GPUs, too, and is slow where there is none.
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        if states is not None:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])


@dataclass(eq=False)
class SeededDataset(Dataset):
    """Maps a sample with random numbers that depend on the seed and its position alone.

    Args:
        dicts: dataset dicts.
        mapper: makes a model input of a dataset dict.
        seed: seed of the run.
        batch_sizes: gives the size, in pixels, of the images of a batch by its number, which the
            mapper gets as second argument; None if the size does not change.
        views: number of different views of every image (INPUT.VIEWS); 0 for no limit.
        copies: number of copies of every image in a batch.
        mixing: makes samples of several images in place of the mapper; None if it does not.

    Raises:
        UserError: if views is negative, or too small for the copies.
    """

    dicts: Sequence[dict]
    mapper: Callable[..., dict]
    seed: int
    batch_sizes: Callable[[int], int] | None = None
    views: int = 0
    copies: int = 1
    mixing: Mixing | None = None

    def __post_init__(self) -> None:
        if self.views < 0:
            raise UserError(f"INPUT.VIEWS is {self.views}; give 0 (unlimited) or more.")
        if 0 < self.views < self.copies:
            raise UserError(
                f"INPUT.VIEWS is {self.views} and INPUT.COPIES {self.copies}: copies in a batch "
                f"would be the same. Set VIEWS to {self.copies} or more, or to 0 (unlimited)."
            )

    def __len__(self) -> int:
        return len(self.dicts)

    def __getitem__(self, index: Index) -> dict:
        sequence = np.random.SeedSequence([self.seed, *self._view(index)])
        size = () if self.batch_sizes is None else (self.batch_sizes(index.batch),)
        with _seeded(int(sequence.generate_state(1)[0])):
            if self.mixing is not None and index.batch < self.mixing.final_from:
                return self.mixing(self.dicts, index.image, *size)
            return self.mapper(self.dicts[index.image], *size)

    def _view(self, index: Index) -> list[int]:
        """Numbers that tell this augmentation from all others of the run."""
        if not self.views:
            return [index.position, *filter(None, [index.copy])]
        epoch = index.position // len(self.dicts)
        return [index.image, (epoch * self.copies + index.copy) % self.views]


@dataclass(eq=False)
class _Guarded(Dataset):
    """A data set that gives a user's mistake as a value."""

    dataset: SeededDataset

    def __getitem__(self, index: Index) -> Any:
        return or_error(self.dataset.__getitem__, index)


@dataclass(eq=False)
class TrainLoader:
    """An iterable of batches, each a list of model inputs.

    ``num_workers`` processes load the samples; with 0 the training process does it itself.
    """

    dataset: SeededDataset
    sampler: BatchSampler
    num_workers: int

    def start_at(self, iteration: int) -> None:
        """Skip the batches before an iteration, at which a run resumes."""
        self.sampler.start = iteration

    def __iter__(self) -> Iterator[list[dict]]:
        # A generator, so that workers start only with the first batch: a trainer learns the
        # iteration to resume at after it has called iter().
        batches = DataLoader(
            _Guarded(self.dataset),
            batch_sampler=self.sampler,
            num_workers=self.num_workers,
            collate_fn=pack if self.num_workers else list,
            pin_memory=False,
            # Starting workers must not draw from the generator of the training process.
            generator=torch.Generator(),
            worker_init_fn=load_on,
        )
        yield from raise_errors(batches, unpack if self.num_workers else list)


def build_train_loader(
    dicts: Sequence[dict],
    mapper: Callable[..., dict],
    *,
    total_batch_size: int,
    seed: int,
    num_workers: int = 0,
    group_by_aspect: bool = True,
    copies: int = 1,
    batch_sizes: Callable[[int], int] | None = None,
    views: int = 0,
    mixing: Mixing | None = None,
    repeats: Sequence[float] | None = None,
    batch_size_key: str = "SOLVER.IMS_PER_BATCH",
) -> TrainLoader:
    """Compose a :class:`TrainLoader`.

    Args:
        dicts, mapper, seed, batch_sizes, views, mixing: see :class:`SeededDataset`. The dicts and
            the seed must be the same on all ranks. The dicts are copied into memory that workers
            share.
        total_batch_size: number of images of all ranks together.
        num_workers: loading processes per rank.
        group_by_aspect: whether landscape and portrait images must not share a batch.
        copies: number of independently augmented copies of every image (INPUT.COPIES).
        repeats: how often each image comes in an epoch; None: once.
        batch_size_key: the config key that holds the batch size, for messages.

    Raises:
        UserError: if the batch is empty, or cannot be divided among the ranks; or images are to
            be repeated, but in views that are counted.
    """
    if repeats is not None and views:
        raise UserError(
            f"INPUT.VIEWS is {views}, which counts the epochs of an image, but "
            "DATASETS.TRAIN_REPEAT_FACTOR repeats images within an epoch. Give one of them."
        )
    for key, value in ((batch_size_key, total_batch_size), ("INPUT.COPIES", copies)):
        if value < 1:
            raise UserError(f"{key} is {value}; it must be 1 or more.")
    world = comm.get_world_size()
    if total_batch_size % world:
        raise UserError(
            f"{batch_size_key} is {total_batch_size}, which {world} processes cannot share "
            f"equally; use a multiple of {world}."
        )
    groups = None
    if group_by_aspect and all("width" in d and "height" in d for d in dicts):
        groups = [int(d["width"] > d["height"]) for d in dicts]
    own = total_batch_size // world
    sampler = BatchSampler(len(dicts), own, seed, groups, copies=copies, repeats=repeats)
    dataset = SeededDataset(SharedList(dicts), mapper, seed, batch_sizes, views, copies, mixing)
    return TrainLoader(dataset, sampler, num_workers)


def build_test_loader(cfg: CfgNode, dataset: str | Sequence[dict]) -> Raising:
    """Detectron2's test loader, with images as the network sees them.

    ``dataset`` is the name of a registered data set, or dataset dicts.
    """
    mapper = partial(or_error, MultasMapper(cfg, is_train=False))
    if isinstance(dataset, str):
        loader = build_detection_test_loader(cfg, dataset, mapper=mapper)
    else:
        workers = cfg.DATALOADER.NUM_WORKERS
        loader = build_detection_test_loader(dataset=dataset, mapper=mapper, num_workers=workers)
    loader.worker_init_fn = load_on
    return Raising(loader)


def build_batch_sizes(cfg: CfgNode, seed: int) -> Callable[[int], int] | None:
    """The function of INPUT.MULTI_SCALE from the number of a batch to its size, if it has SIZES.

    Raises:
        UserError: if the size of the final iterations is missing.
    """
    options = cfg.INPUT.MULTI_SCALE
    if not options.SIZES:
        return None
    if not cfg.INPUT.SQUARE_SIZE:
        raise UserError(
            f"INPUT.MULTI_SCALE.SIZES is {list(options.SIZES)}, but INPUT.SQUARE_SIZE is 0; set "
            "it to the size of the final iterations and of testing."
        )
    final_from = round((1 - options.FINAL_FRACTION) * cfg.SOLVER.MAX_ITER)
    sizes, final = tuple(options.SIZES), cfg.INPUT.SQUARE_SIZE
    return partial(_size_of_batch, sizes=sizes, final=final, final_from=final_from, seed=seed)


def _size_of_batch(
    batch: int, *, sizes: Sequence[int], final: int, final_from: int, seed: int
) -> int:
    """One of the sizes, equally likely; from batch ``final_from`` on the final one."""
    if batch >= final_from:
        return final
    return sizes[int(np.random.default_rng([seed, _SIZES, batch]).integers(len(sizes)))]
