"""The training step with aggregation by gradients, against plain autograd."""

import pytest
import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import EventStorage
from torch import nn

from multas.distillation.gradients.min_norm import min_norm_weights
from multas.engine.hooks import PathMonitor
from multas.engine.steps.gradient_step import GradientStep
from multas.engine.steps.mixed_precision import MixedPrecision
from multas.engine.steps.path_gradients import PathGradients
from tiny_classifier import PATHS, images, make_distiller

NAMES = ["at", "fm", "st"]


@pytest.fixture(autouse=True)
def storage():
    """Detectron2's models log while they train."""
    with EventStorage() as storage:
        yield storage


def step_of(distiller, batch, **options) -> GradientStep:
    optimizer = torch.optim.SGD(distiller.parameters(), lr=1e-2)
    paths = PathGradients(distiller.student, distiller.distillation)
    step = GradientStep(distiller, [batch] * 20, optimizer, paths, **options)
    for module in distiller.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return step


def parameters_of(module) -> list[torch.Tensor]:
    return [p for p in module.parameters() if p.requires_grad]


def flat(loss, parameters) -> torch.Tensor:
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    pairs = zip(gradients, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])


def losses_of(distiller, batch):
    task = sum(distiller(batch).values())
    return task, distiller.distillation.take_losses()[0]


def rows_of(distiller, batch):
    """Task gradient, path gradients over the student, and path losses, by definition."""
    task, losses = losses_of(distiller, batch)
    student = parameters_of(distiller.student)
    return flat(task, student), torch.stack([flat(x, student) for x in losses]), losses


def gradient_of(module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in parameters_of(module)])


def backward(distiller, batch, scale=None) -> dict:
    """One step without the optimiser's part."""
    step = step_of(distiller, batch)
    return step._gradients.backward(distiller(batch), scale)


MODES = {
    "kept gradients": (),
    "low memory": ("LOW_MEMORY", True),
    "all layers by name": ("SCOPE_LAYERS", ["backbone", "heads"]),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_gradient_is_the_tasks_plus_alpha_times_the_min_norm_point(mode, alpha):
    distiller = make_distiller(
        PATHS, "NAME", "mgda", "NORMALISATION", "none", *MODES[mode], alpha=alpha
    )
    batch = images(4)
    task, rows, _ = rows_of(distiller, batch)
    v = min_norm_weights(rows.double() @ rows.double().T)
    backward(distiller, batch)
    torch.testing.assert_close(
        distiller.distillation.aggregator.weights().double(), v, rtol=1e-4, atol=1e-6
    )
    expected = task + alpha * rows.T @ v.float()
    torch.testing.assert_close(gradient_of(distiller.student), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_adapters_get_the_gradient_of_the_weighted_path_losses(mode):
    distiller = make_distiller(PATHS, "NAME", "mgda", *MODES[mode], alpha=0.5)
    batch = images(4)
    _, losses = losses_of(distiller, batch)
    adapters = parameters_of(distiller.distillation)
    raw = flat(losses[1], adapters)
    backward(distiller, batch)
    v = distiller.distillation.aggregator.weights()
    assert v[1] > 0 and raw.abs().max() > 0
    torch.testing.assert_close(gradient_of(distiller.distillation), 0.5 * v[1] * raw)


@pytest.mark.parametrize("mode", MODES)
def test_task_as_one_more_objective_gives_a_descent_direction_for_all(mode):
    options = ("NAME", "mgda", "TASK_AS_OBJECTIVE", True)
    distiller = make_distiller(PATHS, *options, *MODES[mode])
    batch = images(4)
    task, rows, _ = rows_of(distiller, batch)
    backward(distiller, batch)
    direction = gradient_of(distiller.student)
    assert (torch.cat([rows, task[None]]) @ direction).min() > 0
    aggregator = distiller.distillation.aggregator
    share = aggregator.monitors()["task_weight"]
    assert 0 < share < 1 and float(aggregator.weights().sum() + share) == pytest.approx(1)
    expected = rows.T @ aggregator.weights() + share.float() * task
    torch.testing.assert_close(direction, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mgda", "grad_norm", "torchjd:PCGrad"])
def test_logged_losses_are_the_weighted_raw_ones(name):
    if name.startswith("torchjd"):
        pytest.importorskip("torchjd")
    distiller = make_distiller(PATHS, "NAME", name, alpha=0.5)
    batch = images(4)
    losses = [x.detach() for x in losses_of(distiller, batch)[1]]
    terms = backward(distiller, batch)
    v = distiller.distillation.aggregator.weights()
    expected = {f"loss_kd_{n}": 0.5 * w * x for n, w, x in zip(NAMES, v, losses, strict=True)}
    assert terms.keys() == expected.keys()
    for key, value in expected.items():
        assert float(terms[key]) == pytest.approx(float(value), rel=1e-5)
        assert not terms[key].requires_grad


def test_gradients_at_features_give_the_gram_matrix_of_the_upper_bound():
    layer = "backbone.res3"
    options = (
        "NAME",
        "mgda",
        "NORMALISATION",
        "none",
        "SCOPE",
        "features",
        "SCOPE_LAYERS",
        [layer],
    )
    plain = make_distiller(PATHS)
    batch = images(4)
    with plain.distillation.student_taps.record() as record:
        task = sum(plain.student(batch).values())
    losses = plain.distillation.path_losses(record, batch, plain._targets(batch))
    at_features = torch.stack([flat(x, [record[layer]]) for x in losses])
    at_features = at_features.double()
    v = min_norm_weights(at_features @ at_features.T)
    total = task + sum(w * x for w, x in zip(v.tolist(), losses, strict=True))
    expected = flat(total, parameters_of(plain.student))
    distiller = make_distiller(PATHS, *options)
    backward(distiller, batch)
    torch.testing.assert_close(
        distiller.distillation.aggregator.weights().double(), v, rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(gradient_of(distiller.student), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layers", [["res3", "res4", "res5"], ["res3.0.shortcut", "res3.0.conv1"]])
@pytest.mark.parametrize("task_as_objective", [False, True])
def test_cuts_change_no_gradient(layers, task_as_objective):
    layers = [f"backbone.{layer}" for layer in layers]
    paths = PATHS if "res5" in layers[-1] else [{**p, "NAME": f"{p['TYPE']}"} for p in PATHS[1:]]
    options = ("NAME", "mgda", "SCOPE", "features", "SCOPE_LAYERS", layers)
    distiller = make_distiller(paths, *options, "TASK_AS_OBJECTIVE", task_as_objective)
    batch = images(3)
    backward(distiller, batch)
    aggregator = distiller.distillation.aggregator
    share = float(aggregator.monitors()["task_weight"]) if task_as_objective else 1.0
    plain = make_distiller(paths, "NAME", "mgda")
    task, losses = losses_of(plain, batch)
    total = share * task
    total = total + sum(w * x for w, x in zip(aggregator.weights().tolist(), losses, strict=True))
    for own, other in (
        (distiller.student, plain.student),
        (distiller.distillation, plain.distillation),
    ):
        expected = flat(total, parameters_of(other))
        torch.testing.assert_close(gradient_of(own), expected, rtol=1e-4, atol=1e-6)


def test_gradients_at_nested_features_are_partial():
    """Of two layers in a row, the gradient of the first does not contain that of the second."""
    layers = ["backbone.res4", "backbone.res5"]
    paths = [{**PATHS[0], "STUDENT": ["backbone.res4", "backbone.res5"]}, PATHS[1]]
    options = ("NAME", "mgda", "SCOPE", "features", "SCOPE_LAYERS", layers)
    distiller = make_distiller(paths, *options)
    distiller(images(2))
    (both, last), cuts = distiller.distillation.take_losses()
    first, second = (behind for _, behind in cuts)
    assert all(g is not None for g in torch.autograd.grad(both, [first, second], retain_graph=True))
    assert torch.autograd.grad(last, [first], allow_unused=True) == (None,)


def features_scope(*layers):
    return ("NAME", "mgda", "SCOPE", "features", "SCOPE_LAYERS", list(layers))


LAYERWISE = [{**PATHS[0], "LAYERWISE": True}]


@pytest.mark.parametrize(
    ("paths", "options", "message"),
    [
        (
            PATHS,
            features_scope("backbone.res4"),
            "paths at depend on layers in front of backbone.res4",
        ),
        (PATHS[:2], features_scope("heads.cls.linear"), "do not pass through|depend on layers"),
        (
            [
                {"TYPE": "AttentionTransfer", "STUDENT": f"backbone.res3.0.{layer}", "NAME": layer}
                for layer in ("shortcut", "conv1")
            ],
            features_scope("backbone.res3.0.shortcut", "backbone.res3.0.conv1"),
            "Gram matrix is diagonal",
        ),
        (PATHS, features_scope(), "SCOPE_LAYERS names no layer"),
        (PATHS, ("NAME", "mgda", "SCOPE", "layers"), "choose from parameters, features"),
        (PATHS, ("NAME", "mgda", "NORMALISATION", "l1"), "choose from none, l2, loss, loss+"),
        (PATHS, ("NAME", "mgda", "SCOPE_LAYERS", ["backbone.res6"]), "no layer 'backbone.res6'"),
    ],
)
def test_a_scope_that_cannot_work_is_explained(paths, options, message):
    with pytest.raises(ValueError, match=message.replace("+", r"\+")):
        backward(make_distiller(paths, *options), images(2))


def test_frozen_features_are_explained():
    distiller = make_distiller(PATHS, *features_scope("backbone.stem"))
    for parameter in distiller.student.backbone.stem.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing is trained in front of"):
        backward(distiller, images(2))


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_without_labels_is_distilled_alone(mode):
    distiller = make_distiller(PATHS, "NAME", "mgda", *MODES[mode])
    distiller.hard_labels = False
    batch = images(4, labels=False)
    distiller(batch)
    losses = distiller.distillation.take_losses()[0]
    rows = torch.stack([flat(x, parameters_of(distiller.student)) for x in losses])
    backward(distiller, batch)
    v = distiller.distillation.aggregator.weights()
    mine = torch.cat([
        (torch.zeros_like(p) if p.grad is None else p.grad).flatten()
        for p in parameters_of(distiller.student)
    ])  # fmt: skip
    torch.testing.assert_close(mine, rows.T @ v, rtol=1e-4, atol=1e-6)


def test_a_plain_trainer_is_refused_from_its_second_step():
    distiller = make_distiller(PATHS, "NAME", "mgda")
    trainer = SimpleTrainer(
        distiller, [images(2)] * 3, torch.optim.SGD(distiller.parameters(), 1e-3)
    )
    trainer.run_step()
    with pytest.raises(RuntimeError, match=r"multas.engine.Trainer.*\(adaptive\)"):
        trainer.run_step()


def test_a_pass_without_gradients_leaves_no_losses_behind():
    distiller = make_distiller(PATHS, "NAME", "mgda")
    with torch.no_grad():
        for _ in range(2):
            distiller(images(2))
    with pytest.raises(RuntimeError, match="has left path losses"):
        distiller.distillation.take_losses()


CPU = torch.device("cpu")


def scaling(scaler) -> MixedPrecision:
    return MixedPrecision(CPU, scaler=scaler)


def run_steps(distiller, batch, count=3, **options) -> dict:
    step = step_of(distiller, batch, **options)
    for _ in range(count):
        step.run_step()
    return {n: p.detach().clone() for n, p in distiller.named_parameters()}


@pytest.mark.parametrize("options", [(), ("LOW_MEMORY", True), features_scope("backbone.res3")[2:]])
def test_a_loss_scaler_changes_neither_weights_nor_parameters(options):
    batch = images(4)
    plain = make_distiller(PATHS, "NAME", "mgda", *options)
    scaled = make_distiller(PATHS, "NAME", "mgda", *options)
    expected = run_steps(plain, batch)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    for name, value in run_steps(scaled, batch, precision=scaling(scaler)).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        scaled.distillation.aggregator.weights(), plain.distillation.aggregator.weights()
    )
    logs = [d.distillation.monitors["path_gradient_norm"] for d in (scaled, plain)]
    torch.testing.assert_close(*logs, rtol=1e-4, atol=0)


@pytest.mark.parametrize("options", [(), ("LOW_MEMORY", True), ("TASK_AS_OBJECTIVE", True)])
def test_an_overflowing_scale_skips_the_step_and_is_lowered(options):
    distiller = make_distiller(PATHS, "NAME", "mgda", *options)
    before = {n: p.detach().clone() for n, p in distiller.named_parameters()}
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    after = run_steps(distiller, images(4), count=1, precision=scaling(scaler))
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert scaler.get_scale() == 2.0**126
    assert distiller.distillation.aggregator.weights().isfinite().all()


def test_without_a_scaler_an_infinite_gradient_names_its_path():
    distiller = make_distiller(PATHS, "NAME", "mgda")
    step = step_of(distiller, images(2))
    task_losses = distiller(images(2))
    losses, features = distiller.distillation.take_losses()
    distiller.distillation._pending = [losses[0], losses[1] * float("inf"), losses[2]], features
    with pytest.raises(FloatingPointError, match="paths fm are not finite"):
        step._gradients.backward(task_losses)


@pytest.mark.parametrize("name", ["mgda", "grad_norm"])
def test_bfloat16_autocast_trains(name):
    distiller = make_distiller(PATHS, "NAME", name)
    before = {n: p.detach().clone() for n, p in distiller.named_parameters()}
    after = run_steps(distiller, images(4), precision=MixedPrecision(CPU, torch.bfloat16))
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in after.values())
    assert any(not torch.equal(before[n], after[n]) for n in before)


def test_v_norms_cosines_and_conflicts_are_logged(storage):
    distiller = make_distiller(PATHS, "NAME", "mgda")
    batch = images(4)
    task, rows, losses = rows_of(distiller, batch)
    step = step_of(distiller, batch)
    monitor = PathMonitor(distiller.distillation)
    monitor.trainer = type("", (), {"storage": storage})
    step.run_step()
    monitor.after_step()
    logged = {k: v for k, (v, _) in storage.latest().items()}
    norms = rows.norm(dim=1)
    for i, name in enumerate(NAMES):
        assert logged[f"path_loss/{name}"] == pytest.approx(losses[i].item(), rel=1e-5)
        assert logged[f"path_gradient_norm/{name}"] == pytest.approx(float(norms[i]), rel=1e-4)
        assert logged[f"path_conflict/{name}"] == float(rows[i] @ task < 0)
    cosine = float(rows[0] @ rows[2] / norms[0] / norms[2])
    assert logged["path_cosine/at~st"] == pytest.approx(cosine, rel=1e-3, abs=1e-4)
    assert {"path_cosine/at~fm", "path_cosine/fm~st", "total_loss", "loss_class"} <= logged.keys()
    assert sum(logged[f"path_weight/{n}"] for n in NAMES) == pytest.approx(1)


def test_scaler_state_is_saved_and_restored():
    step = step_of(
        make_distiller(PATHS, "NAME", "mgda"),
        images(2),
        precision=scaling(torch.amp.GradScaler("cpu", init_scale=2.0**9)),
    )
    step.run_step()
    state = step.state_dict()
    other = step_of(
        make_distiller(PATHS, "NAME", "mgda"),
        images(2),
        precision=scaling(torch.amp.GradScaler("cpu", init_scale=2.0)),
    )
    other.load_state_dict(state)
    assert other.precision.scaler.get_scale() == 2.0**9
