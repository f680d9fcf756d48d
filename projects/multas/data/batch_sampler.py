"""Which images are in which batch: an endless stream, of which each rank takes its share."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from detectron2.utils import comm


class Index(NamedTuple):
    """Names one sample of the endless stream of training images."""

    position: int  # place in the stream
    image: int  # index of the image
    batch: int = 0  # number of its batch
    copy: int = 0  # number of the augmented copy


@dataclass(eq=False)
class BatchSampler:
    """This rank's share of an endless stream of batches of :data:`Index`.

    Every epoch is a new permutation. With ``groups``, images of one group (aspect ratio) share a
    batch, as in Detectron2's loader. With ``repeats``, an image comes so often in an epoch on
    average: 2.5 is 2 or 3 times, by chance.

    Args:
        size: number of images.
        batch_size: number of images of this rank.
        seed: seed of the run, the same on all ranks.
        groups: group number of each image, or None.
        start: number of batches to skip (the iteration to resume at).
        copies: number of copies of every image; a batch has ``copies * batch_size`` samples.
        repeats: how often each image comes in an epoch, or None: once.
    """

    size: int
    batch_size: int
    seed: int
    groups: Sequence[int] | None = None
    start: int = 0
    copies: int = 1
    repeats: Sequence[float] | None = None

    def __post_init__(self) -> None:
        self.rank, self.world = comm.get_rank(), comm.get_world_size()

    def __iter__(self) -> Iterator[list[Index]]:
        yield from itertools.islice(self._batches(), self.start, None)

    def _batches(self) -> Iterator[list[Index]]:
        buckets: dict[int, list[tuple[int, int]]] = {}
        numbers = itertools.count()
        for position, image in itertools.islice(self._stream(), self.rank, None, self.world):
            group = 0 if self.groups is None else self.groups[image]
            bucket = buckets.setdefault(group, [])
            bucket.append((position, image))
            if len(bucket) == self.batch_size:
                number = next(numbers)
                yield [Index(*p, number, copy) for p in bucket for copy in range(self.copies)]
                buckets[group] = []

    def _stream(self) -> Iterator[tuple[int, int]]:
        position = 0
        for epoch in itertools.count():
            order = self._epoch(np.random.default_rng([self.seed, epoch]))
            yield from enumerate(order.tolist(), start=position)
            position += len(order)

    def _epoch(self, random: np.random.Generator) -> np.ndarray:
        """The images of an epoch in order."""
        if self.repeats is None:
            return random.permutation(self.size)
        times = np.floor(np.asarray(self.repeats) + random.random(self.size)).astype(np.int64)
        return random.permutation(np.repeat(np.arange(self.size), times))
