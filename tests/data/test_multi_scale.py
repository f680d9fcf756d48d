"""The size of a batch: from the list, the same for all of it, repeatable, fixed at the end."""

from collections import Counter

import numpy as np
import pytest

from multas.data.loader import build_batch_sizes
from plain_config import plain_config


def config(*opts):
    return plain_config(
        "INPUT.SQUARE_SIZE", 320, "INPUT.MULTI_SCALE.SIZES", [256, 320, 384],
        "SOLVER.MAX_ITER", 1000, *opts
    )  # fmt: skip


def test_all_sizes_are_equally_likely_until_the_last_fifth():
    sizes = [build_batch_sizes(config(), seed=3)(i) for i in range(1000)]
    count = Counter(sizes[:800])
    assert count.keys() == {256, 320, 384}
    assert min(count.values()) > 220
    assert set(sizes[800:]) == {320}
    assert sizes[799] in count


def test_the_size_depends_on_seed_and_batch_alone():
    sizes = {seed: [build_batch_sizes(config(), seed)(i) for i in range(50)] for seed in (1, 2)}
    np.random.seed(9)
    later = build_batch_sizes(config(), 1)
    assert [later(i) for i in reversed(range(50))] == sizes[1][::-1]
    assert sizes[1] != sizes[2]


@pytest.mark.parametrize(("fraction", "first"), [(0.0, 1000), (0.2, 800), (0.3, 700), (1.0, 0)])
def test_the_share_at_the_end_is_a_key(fraction, first):
    size = build_batch_sizes(config("INPUT.MULTI_SCALE.FINAL_FRACTION", fraction), 0)
    assert size.keywords["final_from"] == first


def test_without_sizes_there_is_nothing_to_do():
    assert build_batch_sizes(config("INPUT.MULTI_SCALE.SIZES", []), 0) is None


def test_sizes_need_the_final_one():
    with pytest.raises(ValueError, match=r"INPUT\.SQUARE_SIZE is 0"):
        build_batch_sizes(config("INPUT.SQUARE_SIZE", 0), 0)
