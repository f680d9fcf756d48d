"""Sizes of padded batches."""

from hypothesis import given
from hypothesis import strategies as st

from multas.util.sizes import round_up


@given(st.integers(0, 10**6), st.sampled_from([0, 1, 2, 3, 32, 64]))
def test_a_size_is_the_next_multiple(length, divisor):
    rounded = round_up(length, divisor)
    assert rounded % max(divisor, 1) == 0 and 0 <= rounded - length < max(divisor, 1)
