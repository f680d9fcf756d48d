"""Batches for training, in an order that an interrupted run can take up exactly.

The n-th batch is a function of the seed and n alone: which images, in which order, with which
augmentation. So there is no sampler state to save: a resumed run starts at batch n, whatever the
number of workers.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from typing import NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from multas.data.mapper import MultasMapper


class Index(NamedTuple):
    """Names one sample of the endless stream.

    Attributes:
        position: in the stream.
        image: index of the image.
        batch: number of the batch it is in.
        copy: which of its augmented copies, from 0.
    """

    position: int
    image: int
    batch: int = 0
    copy: int = 0


def require_registered(names: Sequence[str], key: str) -> None:
    """Make sure that all names are registered data sets.

    Args:
        names: of data sets.
        key: of the config that has them, for the message.

    Raises:
        ValueError: one is not; names like it are given.
    """
    known = set(DatasetCatalog.list())
    for name in names:
        if name not in known:
            near = {n for n in known if n.split("_")[0] == name.split("_")[0]}
            near.update(get_close_matches(name, known))
            raise ValueError(
                f"{key} names '{name}', which is not registered. "
                + (f"Like it there are: {', '.join(sorted(near))}. " if near else "")
                + "Own data is registered by a card in DATASETS.CARDS."
            )


def load_training_dicts(
    names: Sequence[str], filter_empty: bool, key: str = "DATASETS.TRAIN"
) -> list[dict]:
    """Dataset dicts of several data sets.

    Args:
        names: registered data sets.
        filter_empty: DATALOADER.FILTER_EMPTY_ANNOTATIONS: drop images of which nothing is known
            but that they have no objects. Images that are not annotated, or for another task as
            well, always stay.
        key: of the config that has the names, for messages.

    Raises:
        ValueError: no image is left, or the data sets disagree on their classes.
    """
    require_registered(names, key)
    # Before the classes are compared: those of a card that does not list them are found by loading.
    dicts = list(itertools.chain.from_iterable(DatasetCatalog.get(name) for name in names))
    metadata = {name: MetadataCatalog.get(name) for name in names}
    declared = [
        (name, list(data.thing_classes))
        for name, data in metadata.items()
        if data.get("thing_classes") and "det" in (data.get("annotates") or ("det",))
    ]
    for name, own in declared[1:]:
        first, theirs = declared[0]
        if own != theirs:
            raise ValueError(
                f"{key}: '{name}' has the classes {own}, '{first}' has {theirs}; they must agree."
            )
    if filter_empty:
        dicts = [d for d in dicts if not _annotated_as_empty(d)]
    if not dicts:
        raise ValueError(f"{key} {tuple(names)} has no image to train on.")
    return dicts


def _annotated_as_empty(dataset_dict: dict) -> bool:
    if "annotations" not in dataset_dict or dataset_dict.keys() & {"sem_seg_file_name", "label"}:
        return False
    return all(a.get("iscrowd", 0) for a in dataset_dict["annotations"])


class SeededDataset(Dataset):
    """Maps a sample with random numbers that depend on the seed and its position alone.

    Args:
        dicts: dataset dicts.
        mapper: from a dataset dict to a model input.
        seed: of the run.
        batch_sizes: batch number -> size that the mapper is called with, too; None = without.
        views: of every image that are different (INPUT.VIEWS); 0 = unlimited.
        copies: of every image in a batch.

    Raises:
        ValueError: views is negative, or too small for the copies.
    """

    def __init__(
        self,
        dicts: Sequence[dict],
        mapper: Callable[..., dict],
        seed: int,
        batch_sizes: Callable[[int], int] | None = None,
        views: int = 0,
        copies: int = 1,
    ) -> None:
        if views < 0:
            raise ValueError(f"INPUT.VIEWS is {views}; give 0 (unlimited) or more.")
        if 0 < views < copies:
            raise ValueError(
                f"INPUT.VIEWS is {views} and INPUT.COPIES {copies}: copies in a batch would be the "
                f"same. Set VIEWS to {copies} or more, or to 0 (unlimited)."
            )
        self.dicts = dicts
        self.mapper = mapper
        self.seed = seed
        self.batch_sizes = batch_sizes
        self.views = views
        self.copies = copies

    def __len__(self) -> int:
        return len(self.dicts)

    def __getitem__(self, index: Index) -> dict:
        # Detectron2's augmentations draw from numpy's global generator. Without workers that is
        # also the training process's own, which must not notice.
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        try:
            sequence = np.random.SeedSequence([self.seed, *self._view(index)])
            seed = sequence.generate_state(1)[0]
            random.seed(int(seed))
            np.random.seed(seed)
            torch.manual_seed(int(seed))
            size = () if self.batch_sizes is None else (self.batch_sizes(index.batch),)
            return self.mapper(self.dicts[index.image], *size)
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])

    def _view(self, index: Index) -> list[int]:
        """Numbers that tell this augmentation from all others of the run."""
        if not self.views:
            return [index.position, *([index.copy] if index.copy else [])]
        epoch = index.position // len(self.dicts)
        return [index.image, (epoch * self.copies + index.copy) % self.views]


class BatchSampler:
    """Endless batches of :data:`Index`, the share of this rank.

    Every epoch is a new permutation. With ``groups``, images of one group (aspect ratio) share a
    batch, as Detectron2's loader does.

    Args:
        size: number of images.
        batch_size: of this rank.
        seed: of the run, the same on all ranks.
        groups: group number of each image, or None.
        start: number of batches to skip (the iteration to resume at).
        copies: of every image in a batch, which has ``copies * batch_size`` samples.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        groups: Sequence[int] | None = None,
        start: int = 0,
        copies: int = 1,
    ) -> None:
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.groups = groups
        self.start = start
        self.copies = copies
        self.rank, self.world = comm.get_rank(), comm.get_world_size()

    def __iter__(self) -> Iterator[list[Index]]:
        yield from itertools.islice(self._batches(), self.start, None)

    def _batches(self) -> Iterator[list[Index]]:
        buckets: dict[int, list[tuple[int, int]]] = {}
        numbers = itertools.count()
        for position, image in itertools.islice(self._stream(), self.rank, None, self.world):
            group = self.groups[image] if self.groups is not None else 0
            bucket = buckets.setdefault(group, [])
            bucket.append((position, image))
            if len(bucket) == self.batch_size:
                number = next(numbers)
                yield [Index(*p, number, copy) for p in bucket for copy in range(self.copies)]
                buckets[group] = []

    def _stream(self) -> Iterator[tuple[int, int]]:
        positions = itertools.count()
        for epoch in itertools.count():
            order = np.random.default_rng([self.seed, epoch]).permutation(self.size)
            for image in order.tolist():
                yield next(positions), image


class TrainLoader:
    """An iterable of batches (list of model inputs) that starts at ``start`` when first iterated.

    Args:
        dataset: what :class:`BatchSampler` indexes.
        sampler: its batches.
        num_workers: processes that load (0 = none).
    """

    def __init__(self, dataset: Dataset, sampler: BatchSampler, num_workers: int) -> None:
        self.dataset = dataset
        self.sampler = sampler
        self.num_workers = num_workers

    def start_at(self, iteration: int) -> None:
        """Skip so many batches (of the iteration to resume at)."""
        self.sampler.start = iteration

    def __iter__(self) -> Iterator[list[dict]]:
        # A generator, so that workers start only with the first batch: a trainer learns the
        # iteration to resume at after it has called iter().
        yield from DataLoader(
            self.dataset,
            batch_sampler=self.sampler,
            num_workers=self.num_workers,
            collate_fn=_as_list,
            pin_memory=False,
            # Its own: starting workers must not draw from the training process's.
            generator=torch.Generator(),
        )


def _as_list(batch: list) -> list:
    return batch


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
    batch_size_key: str = "SOLVER.IMS_PER_BATCH",
) -> TrainLoader:
    """Compose a :class:`TrainLoader`.

    Args:
        dicts: dataset dicts; identical on all ranks.
        mapper: to model inputs.
        total_batch_size: over all ranks.
        seed: of the run; identical on all ranks.
        num_workers: loading processes per rank.
        group_by_aspect: landscape and portrait images do not share a batch.
        copies: independently augmented, of every image (INPUT.COPIES).
        batch_sizes: see :class:`SeededDataset`.
        views: see :class:`SeededDataset`.
        batch_size_key: of the config that has the batch size, for messages.

    Raises:
        ValueError: the batch is empty, or does not divide among the ranks.
    """
    for key, value in ((batch_size_key, total_batch_size), ("INPUT.COPIES", copies)):
        if value < 1:
            raise ValueError(f"{key} is {value}; it must be 1 or more.")
    world = comm.get_world_size()
    if total_batch_size % world:
        raise ValueError(
            f"{batch_size_key} is {total_batch_size}, which {world} processes cannot share "
            f"equally; use a multiple of {world}."
        )
    groups = None
    if group_by_aspect and all("width" in d and "height" in d for d in dicts):
        groups = [int(d["width"] > d["height"]) for d in dicts]
    sampler = BatchSampler(len(dicts), total_batch_size // world, seed, groups, copies=copies)
    dataset = SeededDataset(dicts, mapper, seed, batch_sizes, views, copies)
    return TrainLoader(dataset, sampler, num_workers)


def build_test_loader(cfg: CfgNode, dataset_name: str) -> DataLoader:
    """Detectron2's test loader, with images stretched where INPUT.SQUARE_SIZE says so."""
    return build_detection_test_loader(cfg, dataset_name, mapper=MultasMapper(cfg, is_train=False))
