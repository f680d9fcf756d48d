"""Steps whose paths are compared with the task, in both scopes, against plain autograd."""

import pytest
import torch

from tiny_classifier import PATHS, images, make_distiller
from weighing import parameters_of, run_steps, weighed

pytestmark = pytest.mark.usefixtures("storage")

NAMES = ["gradient_ratio", "gradient_similarity", "dto"]
LAYER = "backbone.res3"
SCOPES = {
    "kept gradients": (),
    "low memory": ("LOW_MEMORY", True),
    "features": ("SCOPE", "features", "SCOPE_LAYERS", [LAYER]),
}


def flat(loss, inputs) -> torch.Tensor:
    gradients = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
    pairs = zip(gradients, inputs, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])


def by_definition(name, scope):
    """The gradient of a step over student and adapters, and v, from whole gradients."""
    plain = make_distiller(PATHS)
    batch = images(4)
    with plain.distillation.student_taps.record() as record:
        task = sum(plain.student(batch).values())
    losses = plain.distillation.path_losses(record, batch, plain._targets(batch))
    within = [record[LAYER]] if scope == "features" else parameters_of(plain.student)
    rows = torch.stack([flat(x, within) for x in losses]).double()
    own = flat(task, within).double()
    aggregator = weighed(make_distiller(PATHS, "NAME", name)).path_weights.aggregator
    products = torch.cat([rows @ own, (own @ own)[None]]), task.detach().double()
    values = torch.stack([x.detach() for x in losses]).double()
    v = aggregator.solve(rows @ rows.T, values, 1.0, products)
    share = float(v[-1]) if name == "dto" else 1.0
    total = share * task + sum(w * x for w, x in zip(v.tolist(), losses, strict=False))
    return flat(total, parameters_of(plain)), v[: len(losses)].float()


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", NAMES)
def test_a_step_has_the_gradient_of_the_weighed_losses(name, scope):
    expected, v = by_definition(name, scope)
    distiller = weighed(make_distiller(PATHS, "NAME", name, *SCOPES[scope]))
    losses = distiller(images(4))
    sum(losses.values()).backward()
    torch.testing.assert_close(distiller.path_weights.aggregator.weights(), v, rtol=1e-4, atol=1e-6)
    parameters = parameters_of(distiller)
    gradient = torch.cat([(p.grad if p.grad is not None else 0 * p).flatten() for p in parameters])
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_without_labels_is_survived(name):
    distiller = weighed(make_distiller(PATHS, "NAME", name, *SCOPES["features"]))
    run_steps(distiller, [images(3, labels=False), images(3), images(3, labels=False)])
    weights = distiller.path_weights.aggregator.weights()
    assert weights.isfinite().all() and weights.max() > 0


def test_on_features_the_task_is_differentiated_once_and_what_is_in_front_once():
    """Passes: each path to the features, the task and the sum of the paths, then the front."""
    passes = []
    grad = torch.autograd.grad
    distiller = weighed(make_distiller(PATHS, "NAME", "gradient_ratio", *SCOPES["features"]))
    output = distiller.forward(images(2))
    front = output.boundary[0].before
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch.autograd, "grad", lambda *a, **k: (passes.append(a[0]), grad(*a, **k))[1]
        )
        distiller.path_weights.weigh(output)
    assert len(passes) == len(PATHS) + 3
    assert sum(x is front for x in passes) == 1
