"""One whole distillation step of the authors' code: losses, weights and all gradients."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from multas.distillation.aggregation.adaptive import Adaptive
from multas.distillation.aggregation.fixed import HandTuned
from multas.distillation.functional.attention import attention_transfer
from multas.distillation.functional.features import (
    feature_map_loss,
    nst_channel_gram,
    softmax_regression,
)
from multas.distillation.functional.logits import l2_logits, soft_target

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "adaptive"
CASES = sorted(path.stem for path in GOLDEN.glob("step_*.npz"))
STAGES = range(4)


def load(case):
    with np.load(GOLDEN / f"{case}.npz", allow_pickle=False) as file:
        arrays = dict(file)
    names = arrays.pop("in_path_names").tolist()
    return names, {k: torch.from_numpy(np.asarray(v)) for k, v in arrays.items()}


def raw_losses(golden: dict) -> tuple[dict, torch.Tensor]:
    """Losses of every method, one for each stage where there are stages, and the student scores."""
    student, teacher = ([golden[f"in_f{side}{i}"] for i in STAGES] for side in "st")

    def scores(side, last):
        return last.mean((2, 3)) @ golden[f"in_w_head_{side}"].T + golden[f"in_b_head_{side}"]

    def adapted(i):
        conv, gamma, beta = (
            golden[f"in_w_adapt_{part}{i}"] for part in ("conv", "bn_gamma", "bn_beta")
        )
        return F.batch_norm(F.conv2d(student[i], conv), None, None, gamma, beta, training=True)

    zs, zt = scores("s", student[3]), scores("t", teacher[3])
    losses = {
        "attention_transfer": [
            attention_transfer(s, t, reduction="mean")
            for s, t in zip(student, teacher, strict=True)
        ],
        "soft_target": [soft_target(zs, zt)],
        "logits": [l2_logits(zs, zt)],
    }
    if "in_w_adapt_conv0" in golden:
        maps = [adapted(i) for i in STAGES]
        pairs = list(zip(maps, teacher, strict=True))
        losses["nst"] = [nst_channel_gram(a, t) for a, t in pairs]
        losses["feature_map"] = [feature_map_loss(a, t) for a, t in pairs]
        head = golden["in_w_head_t"], golden["in_b_head_t"]
        losses["softmax_regression"] = [softmax_regression(maps[3], zt, *head)]
    return losses, zs


def loss_of(name: str, losses: dict) -> torch.Tensor:
    method, _, stage = name.removeprefix("loss_kd_").partition(":")
    return losses[method][int(stage)] if stage else torch.stack(losses[method]).sum()


@pytest.mark.parametrize("case", CASES)
def test_a_whole_step_equals_the_authors_code(case):
    names, golden = load(case)
    leaves = {k.removeprefix("grad_"): v for k, v in golden.items() if k.startswith("grad_")}
    for name in leaves:
        if name != "z":
            golden[f"in_{name}"].requires_grad_()
    losses, zs = raw_losses(golden)
    raw = torch.stack([loss_of(name, losses) for name in names])
    factors = golden["in_path_loss_weights"]
    if golden["in_adaptive"]:
        # The code of the authors multiplies by fixed factors first; they are 1 in all its recipes.
        aggregator = Adaptive(names=names, hand_tuned=[1.0] * len(names), max_weighted_loss=0.0)
        aggregator = aggregator.double()
        aggregator.z.data = golden["in_z"].clone()
        weighted, extra = aggregator(factors * raw)
    else:
        aggregator = HandTuned(names=names, hand_tuned=factors.tolist())
        weighted, extra = aggregator(raw)
    alpha = golden["in_alpha"]
    task = F.cross_entropy(zs, golden["in_labels"])
    total = task + alpha * (weighted.sum() + sum(extra.values()))
    total.backward()

    def close(actual, expected, tolerance):
        scale = float(expected.abs().max())
        torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * max(scale, 1e-12))

    close(task.detach(), golden["out_loss_cls"], 1e-9)
    close((factors * raw).detach(), golden["out_path_losses_weighted"], 1e-9)
    close((alpha * weighted).detach(), golden["out_path_losses_final"], 1e-9)
    close(total.detach(), golden["out_total"], 1e-9)
    if golden["in_adaptive"]:
        close(aggregator.weights(), golden["out_v"], 1e-12)
        close(alpha * extra["z"].detach(), golden["out_loss_z"], 1e-12)
        close(aggregator.z.grad, golden["grad_z"], 1e-9)
    for name, expected in leaves.items():
        if name != "z":
            gradient = golden[f"in_{name}"].grad
            gradient = torch.zeros_like(expected) if gradient is None else gradient
            close(gradient, expected, 1e-7)
