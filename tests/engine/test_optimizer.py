"""SOLVER.OPTIMIZER: Detectron2's SGD, or AdamW with the same groups and clipping."""

import copy

import pytest
import torch
from detectron2.config import get_cfg
from torch import nn

from multas.config import add_multas_config
from multas.config.limits import check_limits
from multas.engine.optimizer import build_optimizer
from multas.util.errors import UserError
from training import start


def config(*opts):
    cfg = get_cfg()
    add_multas_config(cfg)
    cfg.merge_from_list([*opts, "SOLVER.BASE_LR", 0.002, "SOLVER.WEIGHT_DECAY", 0.05])
    return cfg


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def test_the_default_is_sgd():
    assert type(build_optimizer(config(), network())) is torch.optim.SGD


def test_adamw_takes_the_keys_of_the_solver_as_sgd_does():
    opts = ["SOLVER.WEIGHT_DECAY_NORM", 0.0, "SOLVER.WEIGHT_DECAY_BIAS", 0.01,
            "SOLVER.BIAS_LR_FACTOR", 2.0]  # fmt: skip
    model, settings = network(), []
    for kind, name in ((torch.optim.SGD, "sgd"), (torch.optim.AdamW, "adamw")):
        found = build_optimizer(config("SOLVER.OPTIMIZER", name, *opts), model)
        assert isinstance(found, kind)
        groups = {p: group for group in found.param_groups for p in group["params"]}
        settings.append([(groups[p]["lr"], groups[p]["weight_decay"]) for p in model.parameters()])
    assert settings[1][:3] == [(0.002, 0.05), (0.004, 0.01), (0.002, 0.0)]
    assert settings[0] == settings[1]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_gradients_are_clipped_as_in_detectron2(name):
    clip = ["SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm",
            "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.5]  # fmt: skip
    model = network()
    found = build_optimizer(config("SOLVER.OPTIMIZER", name, *clip), model)
    (1e3 * model(torch.randn(8, 3))).square().sum().backward()
    found.step()
    assert max(p.grad.norm() for p in model.parameters()) <= 0.5 + 1e-4


def test_adamw_takes_the_steps_of_torch():
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    theirs = copy.deepcopy(ours)
    found = build_optimizer(config("SOLVER.OPTIMIZER", "adamw"), ours)
    wanted = torch.optim.AdamW(theirs.parameters(), lr=0.002, weight_decay=0.05)
    for step in range(3):
        image = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        for model, optimizer in ((ours, found), (theirs, wanted)):
            optimizer.zero_grad()
            model(image).square().sum().backward()
            optimizer.step()
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["SOLVER.OPTIMIZER", "adam"], "SOLVER.OPTIMIZER .*'adamw'"),
        (["SOLVER.OPTIMIZER", "adamw", "SOLVER.NESTEROV", True], "NESTEROV is True, but .* adamw"),
    ],
)
def test_what_does_not_fit_is_refused(opts, message):
    with pytest.raises(UserError, match=message):
        cfg = config(*opts)
        check_limits(cfg)
        build_optimizer(cfg, network())


def test_a_momentum_of_z_that_adamw_lacks_is_refused(distilled_cfg):
    opts = ["SOLVER.OPTIMIZER", "adamw", "MODEL.DISTILLATION.AGGREGATION.Z_MOMENTUM", 0.5]
    with pytest.raises(UserError, match=r"sets momentum .*, but AdamW has none"):
        start(distilled_cfg(*opts))
