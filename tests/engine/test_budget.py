"""A budget: distillation as large as a share of the task loss, with every aggregator of losses."""

import logging
from types import SimpleNamespace

import pytest
import torch

from multas.distillation import StepLosses
from multas.engine.budget import Budget
from no_transfer import NoTransfer
from tiny_classifier import PATHS, images, make_distiller
from weighing import copies, run_steps, weighed

SHARE = 0.5
STEPS = {"hand_tuned": [], "equal": [], "dwa": ["PERIOD", 1], "uw_so": ["TEMPERATURE", 5.0]}
SETTLING = {"adaptive": [], "imtl_l": [], "fading": []}
GRADIENTS = ("mgda", "grad_norm", "bilevel")


def budgeted(name, *opts, paths=PATHS, hard_labels=True, share=SHARE):
    distiller = make_distiller(paths, "NAME", name, *opts, alpha=share)
    distiller.cfg.MODEL.DISTILLATION.BUDGET = True
    distiller.cfg.MODEL.DISTILLATION.HARD_LABELS = hard_labels
    return weighed(distiller)


def parts(losses: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """The task loss, and the sum of the weighted path losses."""
    distilled = {k: v for k, v in losses.items() if k.startswith("loss_kd_")}
    distilled.pop("loss_kd_z", None)
    task = [v for k, v in losses.items() if not k.startswith("loss_kd_")]
    return torch.stack(task).sum(), torch.stack(list(distilled.values())).sum()


@pytest.mark.parametrize("name", STEPS)
def test_paths_together_are_a_share_of_the_task_loss_in_every_step(name):
    distiller = budgeted(name, *STEPS[name])
    for seed in range(3):
        task, distilled = parts(distiller(images(4, seed=seed)))
        assert distilled.item() == pytest.approx(SHARE * task.item(), rel=1e-5)


@pytest.mark.parametrize("name", SETTLING)
def test_or_are_so_as_soon_as_the_weights_have_settled(name):
    distiller = budgeted(name)
    hook, count = distiller.path_weights, len(PATHS)
    task, distilled = parts(distiller(images(4)))
    raw = hook.monitors["path_loss"]
    # At first all v are 1; two of these aggregators bound weighted losses.
    bounded = raw if name == "imtl_l" else raw.clamp(max=10.0)
    expected = SHARE * task / count * bounded.sum()
    assert distilled.item() == pytest.approx(expected.item(), rel=1e-5)
    if name == "fading":
        return
    (parameter,) = hook.aggregator.parameters()
    parameter.data = raw.log() if name == "adaptive" else -raw.log()
    task, distilled = parts(distiller(images(4)))
    assert distilled.item() == pytest.approx(SHARE * task.item(), rel=1e-5)


def test_the_scale_of_fixed_weights_does_not_matter_and_that_of_the_task_does():
    gradients = []
    for factor in (1.0, 10.0):
        paths = [p | {"WEIGHT": factor * p.get("WEIGHT", 1.0)} for p in PATHS]
        distiller = budgeted("hand_tuned", paths=paths)
        torch.stack(list(distiller(images(4)).values())).sum().backward()
        gradients.append([p.grad for p in distiller.student.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    hook = distiller.path_weights
    paths = torch.ones(3, requires_grad=True)
    for size in (1.0, 4.0):
        task = torch.tensor(size, requires_grad=True)
        losses = hook.weigh(StepLosses({"loss": task}, paths.unbind()))
        parts(losses)[1].backward(retain_graph=True)
        assert task.grad is None, "the share has no gradient of its own"
    assert paths.grad.sum().item() == pytest.approx(SHARE * (1 + 4))


def factors(*task_losses) -> list[float]:
    budget, found = Budget(torch.device("cpu")), []
    for loss in task_losses:
        task = {} if loss is None else {"loss": torch.tensor(loss)}
        found.append(budget.factor(1.0, task, torch.tensor(2.0)).item())
    return found


def test_a_step_without_task_loss_takes_the_last_one():
    assert factors(None, 0.0, 4.0, None, 0.0, 6.0) == [0, 0, 2, 2, 2, 3]


def test_path_losses_that_have_vanished_stay_so():
    budget = Budget(torch.device("cpu"))
    assert budget.factor(1.0, {"loss": torch.tensor(3.0)}, torch.tensor(0.0)).item() == 0


def test_a_pass_without_gradients_changes_nothing():
    distiller = budgeted("hand_tuned")
    distiller(images(4))
    before = distiller.path_weights.state_dict()["budget"]["task_loss"].clone()
    with torch.no_grad():
        distiller(images(4, seed=9))
    assert torch.equal(distiller.path_weights.state_dict()["budget"]["task_loss"], before)


def test_images_without_labels_are_distilled_as_much_as_those_with():
    distiller = budgeted("hand_tuned")
    task, _ = parts(distiller(images(4)))
    _, distilled = parts(distiller(images(4, seed=5, labels=False)))
    assert distilled.item() == pytest.approx(SHARE * task.item(), rel=1e-5)


def test_a_checkpoint_carries_the_last_task_loss():
    first, second = budgeted("imtl_l"), budgeted("imtl_l")
    first(images(4))
    second.path_weights.load_state_dict(first.path_weights.state_dict())
    unlabelled = [d(images(4, seed=5, labels=False)) for d in (first, second)]
    for one, other in zip(*map(parts, unlabelled), strict=True):
        assert torch.equal(one, other)
    assert parts(unlabelled[0])[1] > 0


def test_the_first_batch_without_labels_is_told(caplog):
    with caplog.at_level(logging.WARNING):
        _, distilled = parts(budgeted("adaptive")(images(4, labels=False)))
    assert distilled.item() == 0
    assert "BUDGET is True, but the first batch of this process has no labels" in caplog.text
    caplog.clear()
    budgeted("adaptive")(images(4))
    assert "BUDGET" not in caplog.text


@pytest.mark.parametrize("name", GRADIENTS)
def test_aggregators_of_gradients_are_refused(name):
    with pytest.raises(ValueError, match=rf"BUDGET .* aggregation {name} weighs gradients. Set "):
        budgeted(name)


def test_so_is_a_student_that_sees_no_labels():
    with pytest.raises(ValueError, match=r"BUDGET .*HARD_LABELS False leaves"):
        budgeted("adaptive", hard_labels=False)


@pytest.mark.parametrize("name", ["adaptive", "hand_tuned"])
def test_it_trains_in_half_precision_and_is_logged(storage, name):
    distiller = budgeted(name)
    before = copies(distiller)
    logged = run_steps(distiller, [images(4)] * 2, bfloat16=True).storage.latest()
    after = copies(distiller)
    assert any(not torch.equal(before[n], after[n]) for n in before)
    assert all(p.isfinite().all() for p in after.values())
    task = logged["loss_class"][0]
    sizes = [
        logged[f"path_weight/{n}"][0] * logged[f"path_loss/{n}"][0] for n in ("at", "fm", "st")
    ]
    at_rest = 3 if name == "adaptive" else sum(sizes)
    assert logged["path_alpha"][0] == pytest.approx(SHARE * task / at_rest, rel=1e-3)
    assert "alpha 0.5 of the task loss" in distiller.path_weights.table()


def test_alpha_still_follows_its_schedule(storage):
    distiller = make_distiller(PATHS, "NAME", "hand_tuned", alpha=SHARE)
    distiller.cfg.MODEL.DISTILLATION.BUDGET = True
    distiller.cfg.MODEL.DISTILLATION.DECAY.FINAL_FRACTION = 0.5
    distiller.cfg.SOLVER.MAX_ITER = 10
    hook = weighed(distiller).path_weights
    for iteration, share in ((4, SHARE), (5, 0.0)):
        hook.trainer = SimpleNamespace(iter=iteration, storage=storage)
        hook.before_step()
        task, distilled = parts(distiller(images(4)))
        assert distilled.item() == pytest.approx(share * task.item(), rel=1e-5)


def test_the_host_does_not_wait_for_the_device():
    hook = budgeted("adaptive").path_weights
    paths = [torch.ones((), requires_grad=True) for _ in PATHS]
    output = StepLosses({"a": torch.ones((), requires_grad=True), "b": torch.ones(())}, paths)
    hook.weigh(output)  # the first step has a check that waits
    for name in (*STEPS, *SETTLING):
        hook = budgeted(name, *(STEPS | SETTLING)[name]).path_weights
        hook.weigh(output)
        with NoTransfer():
            hook.weigh(output)
