"""How alpha ends; how it grows is tested beside the hook that applies it."""

import math

import pytest
from detectron2.config import CfgNode
from hypothesis import given
from hypothesis import strategies as st

from multas.config.distillation import add_distillation_config
from multas.engine.alpha import DECAY_SHAPES, Alpha


def ending(fraction: float, final: float, shape: str = "cosine", length: int = 200) -> Alpha:
    """Alpha of a config, 2 in full."""
    cfg = CfgNode({"MODEL": {}, "SOLVER": {"MAX_ITER": length}})
    add_distillation_config(cfg)
    keys = cfg.MODEL.DISTILLATION
    keys.ALPHA = 2.0
    keys.DECAY.FRACTION, keys.DECAY.FINAL_FRACTION, keys.DECAY.SHAPE = fraction, final, shape
    return Alpha.from_config(cfg)


iterations, shares = st.integers(0, 199), st.floats(0, 0.5)


@given(iterations, iterations, shares, shares, st.sampled_from(DECAY_SHAPES))
def test_alpha_falls_to_0_before_the_end_and_stays(a, b, fraction, final, shape):
    alpha = ending(fraction, final, shape)
    early, late = (alpha.at(i) for i in sorted((a, b)))
    assert 0 <= late <= early <= 2
    end = 200 - round(200 * final)
    assert alpha.at(max(0, end - round(200 * fraction) - 1)) == 2
    if fraction or final:
        assert alpha.at(max(a, end)) == alpha.at(200) == 0
    else:
        assert alpha.at(a) == 2


@given(st.integers(0, 20), st.integers(0, 20), st.sampled_from(DECAY_SHAPES), st.floats(0, 1))
def test_a_longer_training_has_the_same_course(fraction, final, shape, share):
    short, long = (ending(fraction / 40, final / 40, shape, n) for n in (40, 4000))
    iteration = round(40 * share)
    assert short.at(iteration) == pytest.approx(long.at(100 * iteration), abs=1e-12)


def test_shapes_of_the_end():
    corner = 1 + math.cos(math.pi / 4)
    for shape, between in (("linear", [1.5, 1, 0.5]), ("cosine", [corner, 1, 2 - corner])):
        alpha = ending(0.4, 0.2, shape, length=10)
        assert [alpha.at(i) for i in range(2, 11)] == pytest.approx([2, 2, 2, *between, 0, 0, 0])
    alpha = ending(0.0, 0.25, length=8)
    assert [alpha.at(i) for i in range(5, 8)] == [2, 0, 0]
    alpha = ending(0.5, 0.0, "linear", length=4)
    assert [alpha.at(i) for i in range(5)] == [2, 2, 2, 1, 0]


def test_growth_and_end_are_multiplied():
    alpha = Alpha(iters=10, decay_start=5, decay_end=15, decay_shape="linear")
    assert [alpha.at(i) for i in (5, 10, 15)] == [0.5, 0.5, 0]


def test_a_wrong_end_is_refused_before_training():
    message = r"FRACTION 0\.7 and FINAL_FRACTION 0\.5 add up to more than 1"
    with pytest.raises(ValueError, match=message):
        ending(0.7, 0.5)
    with pytest.raises(ValueError, match=r"DECAY\.SHAPE is 'step'; choose from linear, cosine"):
        ending(0.1, 0.1, "step")
