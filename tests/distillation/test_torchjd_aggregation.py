"""TorchJD's aggregators by name."""

import sys

import pytest
import torch
from detectron2.config import get_cfg

from multas.config import add_multas_config
from multas.distillation.aggregation.build import build_aggregator
from multas.distillation.aggregation.torchjd import TorchJD
from multas.util.errors import UserError

library = pytest.importorskip("torchjd.aggregation")


def build(name: str, *opts, count: int = 3):
    cfg = get_cfg()
    add_multas_config(cfg)
    cfg.MODEL.DISTILLATION.AGGREGATION.NAME = f"torchjd:{name}"
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        cfg.MODEL.DISTILLATION.AGGREGATION[key.upper()] = value
    names = [str(i) for i in range(count)]
    return build_aggregator(cfg.clone(), names, [1.0] * count)


def rows_of(seed: int, count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 8, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("UPGrad", {}),
        ("AlignedMTL", {"scale_mode": "median"}),
        ("IMTLG", {}),
        ("MGDA", {"epsilon": 1e-9, "max_iters": 5000}),
        ("PCGrad", {}),
        ("Krum", {"n_byzantine": 0, "n_selected": 2}),
    ],
)
def test_direction_equals_that_of_the_library(name, arguments):
    rows = rows_of(1)
    if name == "UPGrad":
        pytest.importorskip("quadprog")
        pytest.importorskip("qpsolvers")
    torch.manual_seed(3)
    expected = getattr(library, name)(**arguments)(rows)
    torch.manual_seed(3)
    aggregator = build(name, *(x for pair in arguments.items() for x in pair))
    v = aggregator.solve(rows @ rows.T, torch.ones(3).double(), 1.0, None)
    torch.testing.assert_close(rows.T @ v, expected, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(aggregator.weights(), v.float())


def test_an_unknown_name_gets_the_nearest_one():
    with pytest.raises(ValueError, match=r"no aggregator 'UPGard'.*Did you mean 'UPGrad'"):
        build("UPGard")


def test_what_needs_the_gradients_themselves_is_no_choice():
    with pytest.raises(ValueError, match="works from the Gram matrix"):
        build("GradDrop")


def test_a_missing_argument_is_explained():
    with pytest.raises(ValueError, match=r"AGGREGATION: Krum\w* takes .*n_byzantine"):
        build("Krum")


def test_an_unknown_argument_gets_the_nearest_one():
    with pytest.raises(ValueError, match=r"unknown key 'N_BYZANTIN'. Did you mean 'N_BYZANTINE'"):
        build("Krum", "N_BYZANTIN", 1)


def test_the_task_may_be_an_objective():
    aggregator = build("Krum", "n_byzantine", 1, "task_as_objective", True)
    assert aggregator.objectives == ["0", "1", "2", "task"]


def test_without_the_library_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchjd", None)
    monkeypatch.setitem(sys.modules, "torchjd.aggregation", None)
    with pytest.raises(UserError, match=r"pip install 'multas\[torchjd\]', or use mgda"):
        build("UPGrad")


def test_arguments_survive_a_dump_of_the_config(tmp_path):
    cfg = get_cfg()
    add_multas_config(cfg)
    text = "MODEL: {DISTILLATION: {AGGREGATION: {NAME: 'torchjd:Krum', N_BYZANTINE: 1}}}"
    (tmp_path / "a.yaml").write_text(text)
    cfg.merge_from_file(str(tmp_path / "a.yaml"))
    (tmp_path / "b.yaml").write_text(cfg.dump())
    again = get_cfg()
    add_multas_config(again)
    again.merge_from_file(str(tmp_path / "b.yaml"))
    assert isinstance(build_aggregator(again, list("abcd"), [1.0] * 4), TorchJD)
