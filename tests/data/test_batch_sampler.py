"""The stream of batches: every image as often as it should, in fair shares."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from multas.data.batch_sampler import BatchSampler


class Ranked(BatchSampler):
    """The sampler of one of several processes."""

    def __init__(self, rank, world, **options):
        super().__init__(**options)
        self.rank, self.world = rank, world


@given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 5), st.integers(0, 10**6))
def test_every_epoch_has_every_image_once(size, batch_size, start, seed):
    sampler = BatchSampler(size, batch_size, seed, start=start)
    batches = list(itertools.islice(iter(sampler), 40))
    stream = [index for batch in batches for index in batch]
    assert [i.position for i in stream] == list(
        range(start * batch_size, (start + 40) * batch_size)
    )
    assert [b[0].batch for b in batches] == list(range(start, start + 40))
    for epoch, part in itertools.groupby(stream, key=lambda i: i.position // size):
        images = [i.image for i in part]
        assert len(images) == len(set(images)), epoch


@given(st.integers(1, 25), st.integers(2, 4), st.integers(1, 3), st.integers(0, 10**6))
def test_shares_of_processes_are_disjoint_and_make_up_the_stream(size, world, batch_size, seed):
    options = {"size": size, "batch_size": batch_size, "seed": seed}
    shares = [
        list(itertools.islice(iter(Ranked(rank, world, **options)), 12)) for rank in range(world)
    ]
    one = itertools.islice(iter(BatchSampler(size, batch_size * world, seed)), 12)
    for number, whole in enumerate(one):
        parts = [(i.position, i.image) for share in shares for i in share[number]]
        assert sorted(parts) == sorted((i.position, i.image) for i in whole)
        assert {i.batch for share in shares for i in share[number]} == {number}


@given(st.lists(st.integers(0, 1), min_size=1, max_size=30), st.integers(1, 4))
def test_a_batch_has_one_aspect(groups, batch_size):
    sampler = BatchSampler(len(groups), batch_size, 0, groups)
    batches = list(itertools.islice(iter(sampler), 30))
    for batch in batches:
        assert len(batch) == batch_size
        assert len({groups[i.image] for i in batch}) == 1
    positions = [i.position for batch in batches for i in batch]
    assert len(positions) == len(set(positions))


def test_repeated_images_come_in_another_order_in_every_epoch():
    sampler = BatchSampler(30, 60, 0, repeats=[2.0] * 30)
    first, second = ([i.image for i in batch] for batch in itertools.islice(iter(sampler), 2))
    assert sorted(first) == sorted(second) == sorted([*range(30)] * 2)
    assert first != second and sorted(first) not in (first, second)


@given(
    st.lists(st.floats(0.25, 4.0), min_size=1, max_size=8), st.integers(0, 6), st.integers(0, 99)
)
def test_images_come_as_often_as_they_are_repeated(repeats, start, seed):
    options = {"size": len(repeats), "batch_size": 2, "seed": seed, "repeats": repeats}
    stream = [i for b in itertools.islice(iter(BatchSampler(**options)), 400) for i in b]
    assert [i.position for i in stream] == list(range(800))
    later = itertools.islice(iter(BatchSampler(start=start, **options)), 400 - start)
    assert [i for batch in later for i in batch] == stream[2 * start :]
    epochs = len(stream) / sum(repeats)
    for image, factor in enumerate(repeats):
        # Each epoch rounds by chance, with a variance of a quarter at the most; and the last one is
        # cut off.
        own = sum(i.image == image for i in stream)
        assert abs(own - factor * epochs) < 6 * (0.25 * epochs) ** 0.5 * (1 + factor) + 2 * factor
