"""The gradient of a step whose paths are weighed by gradients, against plain autograd."""

import pytest
import torch

from multas.distillation.gradients.min_norm import min_norm_weights
from tiny_classifier import PATHS, images, make_distiller
from weighing import copies, parameters_of, run_steps, weighed

NAMES = ["at", "fm", "st"]
pytestmark = pytest.mark.usefixtures("storage")


def mgda(*opts, paths=PATHS, alpha=1.0):
    """A Distiller with the hook of aggregation mgda; ``opts``: further keys of it, values."""
    return weighed(make_distiller(paths, "NAME", "mgda", *opts, alpha=alpha))


def flat(loss, parameters) -> torch.Tensor:
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return joined(gradients, parameters)


def joined(gradients, parameters) -> torch.Tensor:
    pairs = zip(gradients, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])


def rows_of(distiller, batch):
    """Task gradient, path gradients over the student, and path losses, by definition."""
    losses = distiller.forward(batch)
    student = parameters_of(distiller.student)
    rows = torch.stack([flat(x, student) for x in losses.paths])
    return flat(sum(losses.task.values()), student), rows, losses.paths


def gradient_of(module) -> torch.Tensor:
    return joined([p.grad for p in parameters_of(module)], parameters_of(module))


def backward(distiller, batch):
    """What a trainer does before the optimiser steps; the losses, and the aggregator."""
    losses = distiller(batch)
    sum(losses.values()).backward()
    return losses, distiller.path_weights.aggregator


MODES = {
    "kept gradients": (),
    "low memory": ("LOW_MEMORY", True),
    "all layers by name": ("SCOPE_LAYERS", ["backbone", "heads"]),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_gradient_is_the_tasks_plus_alpha_times_the_min_norm_point(mode, alpha):
    distiller = mgda("NORMALISATION", "none", *MODES[mode], alpha=alpha)
    batch = images(4)
    task, rows, _ = rows_of(distiller, batch)
    v = min_norm_weights(rows.double() @ rows.double().T)
    _, aggregator = backward(distiller, batch)
    torch.testing.assert_close(aggregator.weights().double(), v, rtol=1e-4, atol=1e-6)
    expected = task + alpha * rows.T @ v.float()
    torch.testing.assert_close(gradient_of(distiller.student), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_adapters_get_the_gradient_of_the_weighted_path_losses(mode):
    distiller = mgda(*MODES[mode], alpha=0.5)
    batch = images(4)
    raw = flat(distiller.forward(batch).paths[1], parameters_of(distiller.distillation))
    v = backward(distiller, batch)[1].weights()
    assert v[1] > 0 and raw.abs().max() > 0
    torch.testing.assert_close(gradient_of(distiller.distillation), 0.5 * v[1] * raw)


@pytest.mark.parametrize("mode", MODES)
def test_task_as_one_more_objective_gives_a_descent_direction_for_all(mode):
    distiller = mgda("TASK_AS_OBJECTIVE", True, *MODES[mode])
    batch = images(4)
    task, rows, _ = rows_of(distiller, batch)
    _, aggregator = backward(distiller, batch)
    direction = gradient_of(distiller.student)
    assert (torch.cat([rows, task[None]]) @ direction).min() > 0
    share = aggregator.monitors()["task_weight"]
    norms = torch.cat([rows, task[None]]).norm(dim=1)
    shares = torch.cat([aggregator.weights(), share.float()[None]]) * norms
    assert shares.min() > 0 and float(shares.sum()) == pytest.approx(float(norms.mean()), rel=1e-4)
    expected = rows.T @ aggregator.weights() + share.float() * task
    torch.testing.assert_close(direction, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mgda", "grad_norm", "torchjd:PCGrad"])
def test_logged_losses_are_the_weighted_raw_ones(name):
    if name.startswith("torchjd"):
        pytest.importorskip("torchjd")
    distiller = mgda("NAME", name, alpha=0.5)
    batch = images(4)
    raw = distiller.forward(batch)
    losses, aggregator = backward(distiller, batch)
    terms = zip(NAMES, 0.5 * aggregator.weights(), raw.paths, strict=True)
    expected = raw.task | {f"loss_kd_{name}": weight * x for name, weight, x in terms}
    assert losses.keys() == expected.keys()
    for key, value in expected.items():
        assert losses[key].item() == pytest.approx(value.item(), rel=1e-5)
    assert sum(loss.requires_grad for loss in losses.values()) == 1, "one term for the gradient"


def test_gradients_at_features_give_the_gram_matrix_of_the_upper_bound():
    layer = "backbone.res3"
    plain = make_distiller(PATHS)
    batch = images(4)
    with plain.distillation.student_taps.record() as record:
        task = sum(plain.student(batch).values())
    losses = plain.distillation.path_losses(record, batch, plain._targets(batch))
    at_features = torch.stack([flat(x, [record[layer]]) for x in losses])
    v = min_norm_weights(at_features.double() @ at_features.double().T)
    total = task + sum(w * x for w, x in zip(v.tolist(), losses, strict=True))
    expected = flat(total, parameters_of(plain.student))
    distiller = mgda("NORMALISATION", "none", *at_layers(layer))
    _, aggregator = backward(distiller, batch)
    torch.testing.assert_close(aggregator.weights().double(), v, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradient_of(distiller.student), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layers", [["res3", "res4", "res5"], ["res3.0.shortcut", "res3.0.conv1"]])
@pytest.mark.parametrize("task_as_objective", [False, True])
def test_the_boundary_changes_no_gradient(layers, task_as_objective):
    layers = [f"backbone.{layer}" for layer in layers]
    paths = PATHS if "res5" in layers[-1] else [{**p, "NAME": f"{p['TYPE']}"} for p in PATHS[1:]]
    distiller = mgda(*at_layers(*layers), "TASK_AS_OBJECTIVE", task_as_objective, paths=paths)
    batch = images(3)
    _, aggregator = backward(distiller, batch)
    share = float(aggregator.monitors()["task_weight"]) if task_as_objective else 1.0
    plain = make_distiller(paths)
    losses = plain(batch)
    total = share * sum(losses.task.values())
    weights = aggregator.weights().tolist()
    total = total + sum(w * x for w, x in zip(weights, losses.paths, strict=True))
    for part in ("student", "distillation"):
        expected = flat(total, parameters_of(getattr(plain, part)))
        own = gradient_of(getattr(distiller, part))
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-6)


def test_gradients_at_nested_features_are_partial():
    """Of two layers in a row, the gradient of the first does not contain that of the second."""
    layers = ["backbone.res4", "backbone.res5"]
    losses = mgda(*at_layers(*layers), paths=[{**PATHS[0], "STUDENT": layers}, PATHS[1]]).forward(
        images(2)
    )
    both, last = losses.paths
    first, second = (behind for _, behind in losses.boundary)
    assert all(g is not None for g in torch.autograd.grad(both, [first, second], retain_graph=True))
    assert torch.autograd.grad(last, [first], allow_unused=True) == (None,)


def at_layers(*layers):
    return ("SCOPE", "features", "SCOPE_LAYERS", list(layers))


RES3 = "backbone.res3.0."


@pytest.mark.parametrize(
    ("paths", "options", "message"),
    [
        (PATHS, at_layers("backbone.res4"), "paths at depend on layers in front of backbone.res4"),
        (PATHS[:2], at_layers("heads.cls.linear"), "do not pass through|depend on layers"),
        (
            [
                {"TYPE": "AttentionTransfer", "STUDENT": RES3 + layer, "NAME": layer}
                for layer in ("shortcut", "conv1")
            ],
            at_layers(RES3 + "shortcut", RES3 + "conv1"),
            "Gram matrix is diagonal",
        ),
        (PATHS, at_layers(), "SCOPE_LAYERS names no layer"),
        (PATHS, ("SCOPE", "layers"), "choose from parameters, features"),
        (PATHS, ("NORMALISATION", "l1"), r"choose from none, l2, loss, loss\+"),
        (PATHS, ("SCOPE_LAYERS", ["backbone.res6"]), "no layer 'backbone.res6'"),
        (PATHS, at_layers("backbone.res6"), "no layer 'backbone.res6'"),
    ],
)
def test_a_scope_that_cannot_work_is_explained(paths, options, message):
    with pytest.raises(ValueError, match=message):
        backward(mgda(*options, paths=paths), images(2))


def test_frozen_features_are_explained():
    distiller = make_distiller(PATHS, "NAME", "mgda", *at_layers("backbone.stem"))
    for parameter in distiller.student.backbone.stem.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing is trained in front of"):
        backward(weighed(distiller), images(2))


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_without_labels_is_distilled_alone(mode):
    distiller = mgda(*MODES[mode])
    distiller.hard_labels = False
    batch = images(4, labels=False)
    losses = distiller.forward(batch)
    rows = torch.stack([flat(x, parameters_of(distiller.student)) for x in losses.paths])
    v = backward(distiller, batch)[1].weights()
    torch.testing.assert_close(gradient_of(distiller.student), rows.T @ v, rtol=1e-4, atol=1e-6)


SCOPES = [(), ("LOW_MEMORY", True), at_layers("backbone.res3")]


@pytest.mark.parametrize("options", SCOPES)
def test_a_loss_scaler_changes_neither_weights_nor_parameters(options):
    batches = [images(4)] * 3
    plain, scaled = mgda(*options), mgda(*options)
    run_steps(plain, batches)
    run_steps(scaled, batches, scaler=torch.amp.GradScaler("cpu", init_scale=2.0**12))
    expected = copies(plain)
    for name, value in copies(scaled).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    hooks = scaled.path_weights, plain.path_weights
    torch.testing.assert_close(*(hook.aggregator.weights() for hook in hooks))
    norms = (hook.monitors["path_gradient_norm"] for hook in hooks)
    torch.testing.assert_close(*norms, rtol=1e-4, atol=0)


@pytest.mark.parametrize("options", [(), ("LOW_MEMORY", True), ("TASK_AS_OBJECTIVE", True)])
def test_an_overflowing_scale_skips_the_step_and_is_lowered(options):
    distiller = mgda(*options)
    before = copies(distiller)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    run_steps(distiller, [images(4)], scaler=scaler)
    after = copies(distiller)
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert scaler.get_scale() == 2.0**126
    assert distiller.path_weights.aggregator.weights().isfinite().all()


def test_without_a_scaler_an_infinite_gradient_names_its_path():
    distiller = mgda()
    path = distiller.distillation.paths["fm"]
    path.register_forward_hook(lambda *call: {k: v * torch.inf for k, v in call[-1].items()})
    with pytest.raises(FloatingPointError, match="paths fm are not finite"):
        distiller(images(2))


@pytest.mark.parametrize("name", ["mgda", "grad_norm"])
def test_bfloat16_autocast_trains(name):
    distiller = mgda("NAME", name)
    before = copies(distiller)
    run_steps(distiller, [images(4)] * 3, bfloat16=True)
    after = copies(distiller)
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in after.values())
    assert any(not torch.equal(before[n], after[n]) for n in before)


def test_v_norms_cosines_and_conflicts_are_logged():
    distiller = mgda()
    distiller.distillation.teachers[0].optimize_for_inference()  # as training begins
    batch = images(4)
    task, rows, losses = rows_of(distiller, batch)
    trainer = run_steps(distiller, [batch])
    logged = {k: v for k, (v, _) in trainer.storage.latest().items()}
    norms = rows.norm(dim=1)
    for i, name in enumerate(NAMES):
        assert logged[f"path_loss/{name}"] == pytest.approx(losses[i].item(), rel=1e-5)
        assert logged[f"path_gradient_norm/{name}"] == pytest.approx(float(norms[i]), rel=1e-4)
        assert logged[f"path_conflict/{name}"] == float(rows[i] @ task < 0)
    cosine = float(rows[0] @ rows[2] / norms[0] / norms[2])
    assert logged["path_cosine/at~st"] == pytest.approx(cosine, rel=1e-3, abs=1e-4)
    assert {"path_cosine/at~fm", "path_cosine/fm~st", "total_loss", "loss_class"} <= logged.keys()
    shares = [logged[f"path_weight/{n}"] * logged[f"path_gradient_norm/{n}"] for n in NAMES]
    assert sum(shares) == pytest.approx(float(norms.mean()), rel=1e-4)


def test_scaler_state_is_saved_and_restored():
    scalers = [torch.amp.GradScaler("cpu", init_scale=scale) for scale in (2.0**9, 2.0)]
    first, other = (run_steps(mgda(), [images(2)], scaler=scaler) for scaler in scalers)
    other.load_state_dict(first.state_dict())
    assert scalers[1].get_scale() == 2.0**9
