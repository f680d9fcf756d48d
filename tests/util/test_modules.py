"""Modes of networks."""

import pytest
from torch import nn

from multas.util.modules import evaluation_mode


@pytest.mark.parametrize("fails", [False, True])
def test_every_submodule_gets_its_mode_back(fails):
    model = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.BatchNorm1d(1)))
    model[1].eval()
    before = [module.training for module in model.modules()]
    try:
        with evaluation_mode(model):
            assert not any(module.training for module in model.modules())
            if fails:
                raise InterruptedError
    except InterruptedError:
        pass
    assert [module.training for module in model.modules()] == before == [True, True, False, False]
