"""Momentum of their own for task and distillation: the optimiser, and a training with it."""

import copy

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.solver.build import maybe_add_gradient_clipping
from hypothesis import given
from hypothesis import strategies as st

from multas.config import add_multas_config
from multas.engine.optimizer import build_optimizer
from multas.engine.steps.separate_momentum import SeparateMomentumSGD
from tiny_classifier import PATHS, images, make_distiller
from training import different, learned, start, train, train_in_parts
from weighing import copies, run_steps, weighed

LR, MOMENTUM, DECAY = 0.1, 0.9, 0.01


def steps_of(kind, parts, start=None, **options) -> torch.Tensor:
    """A parameter after steps with these gradients of task and distillation (None: none)."""
    parameter = torch.nn.Parameter(torch.ones(4).double() if start is None else start.clone())
    options = {"lr": LR, "momentum": MOMENTUM, "weight_decay": DECAY} | options
    optimizer = kind([parameter], **options)
    for task, distilled in parts:
        known = [x for x in (task, distilled) if x is not None]
        parameter.grad = sum(known) if known else None
        if isinstance(optimizer, SeparateMomentumSGD):
            optimizer.take([parameter], [task], [distilled])
        optimizer.step()
    return parameter.detach()


def random_parts(seed: int, steps: int, absent: float = 0.0):
    generator = torch.Generator().manual_seed(seed)

    def draw():
        gradient = torch.randn(4, generator=generator, dtype=torch.float64)
        return None if torch.rand(1, generator=generator) < absent else gradient

    return [(draw(), draw()) for _ in range(steps)]


@given(st.integers(0, 99), st.integers(1, 8), st.sampled_from([0.0, 0.4]))
def test_without_a_difference_it_is_sgd_up_to_rounding(seed, steps, absent):
    parts = random_parts(seed, steps)
    # A part may be missing in later steps; both have reached the parameter in the first.
    parts += [p for p in random_parts(seed + 1, steps, absent) if p != (None, None)]
    expected = steps_of(torch.optim.SGD, parts)
    torch.testing.assert_close(steps_of(SeparateMomentumSGD, parts, delta=0.0), expected)


@given(st.integers(0, 99), st.booleans())
def test_what_only_one_of_them_reaches_is_sgd_to_the_bit(seed, task):
    parts = [(x, None) if task else (None, x) for x, _ in random_parts(seed, 5)]
    own = steps_of(SeparateMomentumSGD, parts, delta=0.08)
    assert torch.equal(own, steps_of(torch.optim.SGD, parts))


@given(st.integers(0, 99), st.integers(1, 6), st.floats(0, 0.09))
def test_it_is_the_formula_of_the_paper(seed, steps, delta):
    parts = random_parts(seed, steps)
    w = torch.ones(4).double()
    v, u = torch.zeros_like(w), torch.zeros_like(w)
    for task, distilled in parts:
        v = (MOMENTUM - delta) * v + task + DECAY * w
        u = (MOMENTUM + delta) * u + distilled
        w = w - LR * (v + u)
    torch.testing.assert_close(steps_of(SeparateMomentumSGD, parts, delta=delta), w)


def test_a_constant_pull_ends_with_the_length_that_its_momentum_gives():
    one = torch.ones(4).double()
    options = {"delta": 0.05, "weight_decay": 0.0}
    before, after = (
        steps_of(SeparateMomentumSGD, [(0 * one, one)] * n, **options) for n in (500, 501)
    )
    torch.testing.assert_close(before - after, LR / (1 - 0.95) * one)


@pytest.mark.parametrize("kind", ["norm", "value"])
def test_clipping_shortens_both_parts_alike(kind):
    cfg = get_cfg()
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE, cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = kind, 0.5
    clipped = maybe_add_gradient_clipping(cfg, SeparateMomentumSGD)
    parts = random_parts(3, 1)
    (task, distilled), options = parts[0], {"delta": 0.08}
    total = task + distilled
    factor = 0.5 / total.norm() if kind == "norm" else total.clamp(-0.5, 0.5) / total
    expected = steps_of(SeparateMomentumSGD, [(task * factor, distilled * factor)], **options)
    torch.testing.assert_close(steps_of(clipped, parts, **options), expected)


def test_parts_that_cancel_each_other_move_nothing():
    one = torch.ones(4).double()
    options = {"delta": 0.08, "weight_decay": 0.0}
    assert torch.equal(steps_of(SeparateMomentumSGD, [(one, -one)] * 3, **options), one)


def test_parts_are_of_one_step_and_gradients_stay_after_it():
    one = torch.ones(4).double()
    parameter = torch.nn.Parameter(one.clone())
    optimizer = SeparateMomentumSGD([parameter], lr=LR, momentum=MOMENTUM, delta=0.08)
    optimizer.take([parameter], [one], [2 * one])
    for _ in range(2):  # in the second step it is the task's gradient alone
        parameter.grad = 3 * one
        optimizer.step()
        assert torch.equal(parameter.grad, 3 * one)
    state = optimizer.state[parameter]
    torch.testing.assert_close(state["momentum_buffer"], (MOMENTUM - 0.08) * one + 3 * one)
    torch.testing.assert_close(state["distillation"], (MOMENTUM + 0.08) * 2 * one)


def test_the_state_goes_through_a_checkpoint():
    parameters = [torch.nn.Parameter(torch.ones(4).double()) for _ in range(2)]
    first, second = (
        SeparateMomentumSGD([p], lr=LR, momentum=MOMENTUM, delta=0.08) for p in parameters
    )

    def step(optimizer, parameter, parts):
        parameter.grad = sum(parts)
        optimizer.take([parameter], parts[:1], parts[1:])
        optimizer.step()

    for parts in random_parts(5, 3):
        step(first, parameters[0], parts)
    parameters[1].data.copy_(parameters[0].data)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for parts in random_parts(6, 2):
        for pair in zip((first, second), parameters, strict=True):
            step(*pair, parts)
    assert torch.equal(*parameters)


def trained(delta, name="adaptive", batches=None, **options):
    distiller = weighed(make_distiller(PATHS, "NAME", name))
    batches = [images(4, seed) for seed in range(4)] if batches is None else batches
    run_steps(distiller, batches, momentum=MOMENTUM, delta=delta, **options)
    return copies(distiller) | copies(distiller.path_weights.aggregator)


@pytest.mark.parametrize("name", ["adaptive", "hand_tuned"])
def test_a_training_without_a_difference_is_the_usual_one_up_to_rounding(name):
    expected, own = trained(None, name), trained(0.0, name)
    for key, value in expected.items():
        torch.testing.assert_close(own[key], value, rtol=1e-4, atol=1e-6, msg=key)
    other = trained(0.08, name)
    assert not torch.allclose(
        other["student.backbone.stem.conv1.weight"],
        expected["student.backbone.stem.conv1.weight"],
        rtol=1e-3,
    )


def test_a_loss_scaler_changes_nothing():
    expected = trained(0.08)
    scaled = trained(0.08, scaler=torch.amp.GradScaler("cpu", init_scale=2.0**12))
    for key, value in expected.items():
        torch.testing.assert_close(scaled[key], value, rtol=1e-5, atol=1e-6, msg=key)


def test_an_overflowing_scale_skips_the_step():
    before = trained(0.08, batches=[])
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    after = trained(0.08, batches=[images(4)], scaler=scaler)
    assert different(before, after) == [] and scaler.get_scale() == 2.0**126


def test_images_without_labels_and_bfloat16_train():
    batches = [images(4, labels=False), images(4), images(4, labels=False)]
    after = trained(0.08, batches=batches, bfloat16=True)
    assert all(x.isfinite().all() for x in after.values())


KEY = "SOLVER.MOMENTUM_DELTA"


def test_a_stopped_run_resumes_to_the_same_bits(distilled_cfg):
    opts = [KEY, 0.08, "SOLVER.MAX_ITER", 6, "DATASETS.TEST", []]
    whole = train(distilled_cfg(*opts, folder="whole"))
    assert isinstance(whole._trainer.optimizer, SeparateMomentumSGD)
    parts = distilled_cfg(*opts, "SOLVER.CHECKPOINT_PERIOD", 3, folder="parts")
    assert different(learned(train_in_parts(parts, last=4)), learned(whole)) == []


def test_the_layers_of_both_have_two_momenta_and_others_one(distilled_cfg):
    trainer = start(distilled_cfg(KEY, 0.08, "DATASETS.TEST", []))
    trainer.train()
    state = trainer._trainer.optimizer.state
    apart = {p for p, own in state.items() if "distillation" in own}
    network = trainer.model
    assert apart >= set(network.student.backbone.bottom_up.stem.parameters())
    assert apart.isdisjoint([*network.distillation.parameters(), trainer.path_weights.aggregator.z])


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        ([KEY, 0.2], "their sum is that of the distillation and must be less than 1"),
        ([KEY, 0.05, "SOLVER.MOMENTUM", 0.01], "the momentum of the task and must be 0 or more"),
        ([KEY, -0.1], f"{KEY} is -0.1; it must be 0 or more"),
        ([KEY, 0.05, "SOLVER.NESTEROV", True], "needs SOLVER.NESTEROV False, but it is True"),
        ([KEY, 0.05, "SOLVER.OPTIMIZER", "adamw"], "needs SOLVER.OPTIMIZER sgd, but it is adamw"),
        ([KEY, 0.05, "MODEL.DISTILLATION.AGGREGATION.NAME", "mgda"], "MGDA weighs gradients"),
        ([KEY, 0.05, "MODEL.MULTITASK.GRADIENTS", "mgda"], "needs MODEL.MULTITASK.GRADIENTS sum"),
    ],
)
def test_what_does_not_fit_is_refused(distilled_cfg, opts, message):
    with pytest.raises(ValueError, match=message):
        start(distilled_cfg(*opts))


def test_a_student_without_paths_has_plain_sgd():
    cfg = get_cfg()
    add_multas_config(cfg)
    cfg.SOLVER.MOMENTUM_DELTA = 0.05
    assert type(build_optimizer(cfg, torch.nn.Linear(1, 1))) is torch.optim.SGD
