"""Training on partly annotated data: gradients of an iteration, with one and two processes."""

import copy
import math
import runpy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from limited_network import network_cfg
from multas.distillation.gradients.min_norm import mgda_weights
from multas.engine.steps.task_gradients import TaskGradients, TaskWeights
from two_ranks import process_group, run_on_two_ranks
from weighing import copies, run_steps, without_statistics

MODES = ("separate", "mixed", "alternate")


def tools() -> dict:
    """The tests of the network have what makes small ones, and images for them."""
    folder = Path(__file__).parents[1] / "modeling"
    return runpy.run_path(str(folder / "test_multitask_network.py"))


KEYS = {"det": "instances", "seg": "sem_seg", "cls": "label"}


def make_network(tasks: tuple[str, ...] = ("det", "seg")) -> nn.Module:
    """With a head for each; images of a batch do not see each other."""
    return without_statistics(tools()["make_network"](tasks).double())


def make_batch(mode: str, count: int = 2, tasks: tuple[str, ...] = ("det", "seg")) -> list[dict]:
    make_image = tools()["make_image"]
    batch = []
    for number, task in enumerate(tasks):
        extra = {"task": task} | ({"mini_batch": number} if mode == "separate" else {})
        # All annotations on all of them: only the task says what counts.
        batch += [make_image(10 * number + i, tasks) | extra for i in range(count)]
    return batch


def one_step(network, batch, *, mgda=False, normalisation="l2", length="auto", lr=0.1, **options):
    """The parameters after a step that takes the plain sum of the tasks, or MGDA over them."""
    hooks = [TaskWeights(network, TaskGradients(network, normalisation, length))] if mgda else []
    run_steps(network, [batch], *hooks, lr=lr, **options)
    return copies(network)


def gradients(network: nn.Module, batch: list[dict]) -> dict[str, torch.Tensor]:
    network.zero_grad()
    torch.stack(list(network(batch).values())).sum().backward()
    return {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}


def only(batch: list[dict], task: str) -> list[dict]:
    """The images of one task, with its annotation alone and no word about tasks."""
    key = KEYS[task]
    return [{"image": x["image"], key: x[key]} for x in batch if x["task"] == task]


@pytest.mark.parametrize("mode", ["separate", "mixed"])
@pytest.mark.parametrize("tasks", [("det", "seg"), tuple(KEYS)])
def test_gradients_of_an_iteration_are_the_sum_of_the_single_tasks(mode, tasks):
    network, batch = make_network(tasks), make_batch(mode, tasks=tasks)
    single = []
    for task in tasks:
        alone = copy.deepcopy(network)
        single.append(gradients(alone, only(batch, task)))
    together = gradients(network, batch)
    for name, gradient in together.items():
        expected = sum(own[name] for own in single if name in own)
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("counts", [(1, 2), (2, 1), (1, 1), (2, 2)])
def test_so_they_are_with_batch_norm_in_training_mode(counts):
    """BatchNorm in training mode; a pooled map of one image has running statistics instead."""
    network = make_network().train()
    number = dict(zip(("det", "seg"), counts, strict=True))
    whole = make_batch("separate", 2)
    batch = [x for t in number for x in [y for y in whole if y["task"] == t][: number[t]]]
    alone, single = copy.deepcopy(network), []
    for task in number:
        # The same network: the second task meets what the first left of the statistics.
        single.append(gradients(alone, only(batch, task)))
    together = gradients(network, batch)
    for name, gradient in together.items():
        expected = sum(own[name] for own in single if name in own)
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12, msg=name)


def test_a_mini_batch_has_batch_norm_statistics_of_its_own():
    """With BatchNorm in training mode, separate is one pass after the other and mixed is not."""
    network = make_network().train()
    batch = make_batch("separate")
    losses = {task: copy.deepcopy(network)(only(batch, task)) for task in ("det", "seg")}
    separate = copy.deepcopy(network)(batch)
    torch.testing.assert_close(separate["loss_cls"], losses["det"]["loss_cls"])
    torch.testing.assert_close(separate["loss_sem_seg"], losses["seg"]["loss_sem_seg"])
    mixed = copy.deepcopy(network)(make_batch("mixed"))
    assert not torch.isclose(mixed["loss_sem_seg"], separate["loss_sem_seg"])
    seen = copy.deepcopy(network)
    seen(batch)
    key = "backbone.bottom_up.stem.conv1.norm.num_batches_tracked"
    assert seen.state_dict()[key] == network.state_dict()[key] + 2


def test_only_the_head_of_the_task_runs():
    network, calls = make_network(), []
    for task, head in network.heads.items():
        head.register_forward_hook(lambda *_, task=task: calls.append(task))
    network(make_batch("separate"))
    assert calls == ["det", "seg"]
    network.require_heads(["det", "no head"])
    network(make_batch("separate"))
    assert calls[2:] == ["det", "det", "seg"]


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [3, 0, 4, 1, 2]])
def test_in_a_mixed_batch_a_head_runs_on_the_images_of_its_task(order):
    network, seen = make_network(), {}
    for task, head in network.heads.items():
        head.register_forward_hook(
            lambda _, inputs, __, task=task: seen.update({task: len(inputs[0]["p3"])})
        )
    batch = make_batch("mixed")
    # Without a task, an image is everyone's.
    batch.append(batch[0] | {"task": "det"})
    del batch[1]["task"]
    losses = network([batch[i] for i in order])
    assert seen == {"det": 3, "seg": 3}
    network.require_heads(["det", "seg"])
    everywhere = network(batch)
    assert seen == {"det": 5, "seg": 5}
    for name, loss in losses.items():
        torch.testing.assert_close(loss, everywhere[name], msg=name)


def test_annotated_images_are_counted_for_each_task():
    network = make_network()
    network(make_batch("separate", count=3))
    assert network.annotated_images == {"det": 3, "seg": 3}


def test_a_head_without_a_batch_keeps_a_gradient_of_zero():
    network = make_network()
    batch = [x for x in make_batch("alternate") if x["task"] == "det"]
    found = gradients(network, batch)
    assert len(found) == len(list(network.parameters()))
    assert all(not g.any() for n, g in found.items() if n.startswith("heads.seg"))


@pytest.mark.parametrize("mode", ["separate", "mixed"])
@pytest.mark.parametrize("tasks", [("det", "seg"), tuple(KEYS)])
def test_mgda_lowers_every_task_and_leaves_the_heads_alone(mode, tasks):
    network, batch = make_network(tasks), make_batch(mode, tasks=tasks)
    before = copies(network)
    single = {t: gradients(copy.deepcopy(network), only(batch, t)) for t in tasks}
    after = one_step(network, batch, mgda=True, lr=1.0)
    step = {n: before[n] - after[n] for n in before}
    shared = [n for n in step if n.startswith("backbone.")]
    for task, own in single.items():
        product = sum((step[n] * own[n]).sum() for n in shared)
        assert product > 0, task
        for name in (n for n in own if n.startswith(f"heads.{task}")):
            torch.testing.assert_close(step[name], own[name], rtol=1e-8, atol=1e-12)


def test_equal_weights_are_the_sum_of_the_tasks(monkeypatch):
    network, batch = make_network(), make_batch("separate")
    other = copy.deepcopy(network)
    monkeypatch.setattr(
        "multas.engine.steps.task_gradients.mgda_weights",
        lambda gram, losses, *how: torch.full((len(gram),), 1 / len(gram)),
    )
    weighed = one_step(network, batch, mgda=True)
    plain = one_step(other, batch)
    for name, value in plain.items():
        torch.testing.assert_close(weighed[name], value, rtol=1e-6, atol=1e-9, msg=name)


def test_a_task_without_annotated_image_has_no_say_in_the_scale():
    network, batch = make_network(), make_batch("mixed")
    for x in batch:
        x.pop("sem_seg")
    other = copy.deepcopy(network)
    weighed = one_step(network, batch, mgda=True)
    plain = one_step(other, batch)
    for name, value in plain.items():
        torch.testing.assert_close(weighed[name], value, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("normalisation", ["l2", "loss+"])
def test_a_loss_scaler_changes_nothing_but_an_overflow_skips_the_step(normalisation):
    plain, batch = make_network(), make_batch("separate")
    scaled, overflown = copy.deepcopy(plain), copy.deepcopy(plain)
    before = copies(plain)
    after = []
    for network, scale in ((plain, None), (scaled, 2.0**12), (overflown, math.inf)):
        scaler = scale and torch.amp.GradScaler("cpu", init_scale=scale)
        weigh = {"mgda": True, "normalisation": normalisation}
        after.append(one_step(network, batch, scaler=scaler, **weigh))
    for name, value in after[0].items():
        torch.testing.assert_close(after[1][name], value, rtol=1e-9, atol=1e-12, msg=name)
        assert torch.equal(after[2][name], before[name])


def test_mgda_over_tasks_trains_under_autocast():
    network, batch = make_network().float(), make_batch("separate")
    before = copies(network)
    after = one_step(network, batch, mgda=True, bfloat16=True)
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in after.values())
    assert any(not torch.equal(before[n], after[n]) for n in before)


def test_the_tasks_together_move_what_they_share_no_further_than_their_sum():
    tasks = tuple(KEYS)
    network, batch = make_network(tasks), make_batch("separate", tasks=tasks)
    before = copies(network)
    single = [gradients(copy.deepcopy(network), only(batch, task)) for task in tasks]
    shared = [n for n in before if n.startswith("backbone.")]

    def length(parts: dict) -> float:
        return float(sum((parts[n] ** 2).sum() for n in shared)) ** 0.5

    steps = {}
    for how in ("mean", "simplex"):
        after = one_step(copy.deepcopy(network), batch, mgda=True, length=how, lr=1.0)
        steps[how] = {n: before[n] - after[n] for n in before}
    longest, shortest = (choose(map(length, single)) for choose in (max, min))
    assert longest > 2 * shortest
    assert length(steps["mean"]) <= sum(map(length, single))
    assert length(steps["simplex"]) < length(steps["mean"])
    product = sum((steps["mean"][n] * steps["simplex"][n]).sum() for n in shared)
    assert float(product) == pytest.approx(length(steps["mean"]) * length(steps["simplex"]))


@pytest.mark.parametrize("normalisation", ["none", "l2", "loss", "loss+"])
def test_task_weights_solve_the_min_norm_problem(normalisation):
    rows = torch.randn(4, 9, dtype=torch.float64)
    losses = torch.rand(4, dtype=torch.float64) + 0.1
    weights = mgda_weights(rows @ rows.T, losses, normalisation, "simplex")
    assert weights.min() >= 0
    torch.testing.assert_close(weights.sum(), torch.ones((), dtype=torch.float64))
    assert ((rows @ rows.T) @ weights >= -1e-12).all(), "no task gets worse"
    if normalisation == "none":
        product = rows @ rows.T @ weights
        assert weights @ product - product.min() < 1e-9


def test_a_task_loss_that_is_not_finite_is_named():
    network, batch = make_network(), make_batch("separate")
    with torch.no_grad():
        network.heads.seg.predictor.weight.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="gradients of the tasks seg are not finite"):
        one_step(network, batch, mgda=True)


def test_the_config_says_whether_tasks_are_weighed():
    cfg = network_cfg(tasks=("det", "seg"))
    network, batch = make_network(), make_batch("separate")
    assert TaskGradients.from_config(cfg, network) is None
    cfg.MODEL.MULTITASK.GRADIENTS, cfg.MODEL.MULTITASK.LENGTH = "mgda", "simplex"
    hook = TaskWeights(network, TaskGradients.from_config(cfg, network))
    storage = run_steps(network, [batch], hook).storage
    weights = [storage.latest()[f"task_weight/{task}"][0] for task in ("det", "seg")]
    assert min(weights) > 0 and sum(weights) == pytest.approx(2)
    cfg.DATASETS.TASK_BATCHES = [{"TASK": "det", "TRAIN": ["a"]}, {"TASK": "seg", "TRAIN": ["b"]}]
    cfg.DATASETS.TASK_MODE = "alternate"
    with pytest.raises(ValueError, match=r"TASK_MODE alternate .* set it to separate or mixed"):
        TaskGradients.from_config(cfg, network)
    cfg.MODEL.MULTITASK.GRADIENTS = "pcgrad"
    with pytest.raises(ValueError, match="'pcgrad'; choose from sum, mgda"):
        TaskGradients.from_config(cfg, network)
    with pytest.raises(ValueError, match=r"MULTITASK\.LENGTH is 'sum'; choose from auto, mean"):
        TaskGradients(network, length="sum")


def test_other_models_are_refused():
    with pytest.raises(ValueError, match="MultiTaskNetwork, not of Linear"):
        TaskGradients(nn.Linear(1, 1))


# ---- two processes ----------------------------------------------------------------------------


def train(how: str, batches: list[list[dict]], wrap: bool) -> dict[str, torch.Tensor]:
    """Parameters after one step per batch."""
    network: nn.Module = make_network()
    model = DistributedDataParallel(network, broadcast_buffers=False) if wrap else network
    hooks = [TaskWeights(model, TaskGradients(model))] if how == "mgda" else []
    run_steps(model, batches, *hooks, lr=0.05, momentum=0.9)
    return copies(network)


def batches_of(mode: str, ranks: slice) -> list[list[dict]]:
    """Three iterations; each rank has one image of each task.

    Those with boxes are alike: a rank divides by its own number of positives, as Detectron2 does.
    """
    whole = make_batch(mode)
    tasks = [[x for x in whole if x["task"] == task] for task in ("det", "seg")]
    tasks = [([own[0]] * 2 if i == 0 else own)[ranks] for i, own in enumerate(tasks)]
    if mode == "alternate":
        return [tasks[0], tasks[1], tasks[0]]
    return [tasks[0] + tasks[1]] * 3


# In turn there is nothing to weigh.
CASES = [
    (how, mode) for how in ("sum", "mgda") for mode in MODES if (how, mode) != ("mgda", "alternate")
]


def rank_main(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    with process_group(folder, rank):
        results = {
            (how, mode): train(how, batches_of(mode, slice(rank, rank + 1)), wrap=True)
            for how, mode in CASES
        }
        torch.save(results, folder / f"rank{rank}.pth")


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory):
    return run_on_two_ranks(__file__, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize(("how", "mode"), CASES)
def test_two_ranks_equal_one_process_with_the_double_batch(on_two_ranks, how, mode):
    one = train(how, batches_of(mode, slice(None)), wrap=False)
    first, second = (ranks[how, mode] for ranks in on_two_ranks)
    for name, value in one.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-8, msg=name)


if __name__ == "__main__":
    rank_main(Path(sys.argv[1]), int(sys.argv[2]))
