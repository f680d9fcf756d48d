"""KEY VALUE pairs: new keys, whole numbers, iterations against epochs, and what is refused."""

import pytest
from detectron2.config import CfgNode, get_cfg

from multas.config import add_multas_config, merge_config, merge_opts


def config(address: str = "", *opts) -> CfgNode:
    cfg = get_cfg()
    add_multas_config(cfg)
    if address:
        merge_config(cfg, address)
    merge_opts(cfg, opts)
    return cfg


def test_new_keys_are_added_where_they_are_allowed():
    cfg = config("", "MODEL.DISTILLATION.AGGREGATION.POWER", "0.5")
    assert cfg.MODEL.DISTILLATION.AGGREGATION.POWER == 0.5


def test_a_whole_number_is_a_fraction_too():
    cfg = config("", "SOLVER.EPOCHS", "3", "SOLVER.BASE_LR", 1)
    assert (cfg.SOLVER.EPOCHS, cfg.SOLVER.BASE_LR) == (3.0, 1.0)


@pytest.mark.parametrize(
    ("opts", "error", "message"),
    [
        (["SOLVER.MAX_ITER"], ValueError, "SOLVER.MAX_ITER: options are pairs of KEY VALUE"),
        (["SOLVER.MAX_ITR", 1], KeyError, "SOLVER has no key 'MAX_ITR'. Did you mean 'MAX_ITER'?"),
        (["SLOVER.MAX_ITER", 1], KeyError, "the config has no key 'SLOVER'.*'SOLVER'"),
        (["SOLVER.MAX_ITER.X", 1], KeyError, "SOLVER.MAX_ITER is a value, not a group"),
        (["INPUT.STRETCH", 1], KeyError, "INPUT.SQUARE_SIZE"),
        (["SOLVER.MAX_ITER", 1, "SOLVER.EPOCHS", 2], ValueError, "say the same thing twice"),
        (["SOLVER.MAX_ITER", "soon"], ValueError, "SOLVER.MAX_ITER"),
    ],
)
def test_wrong_pairs_are_refused(opts, error, message):
    with pytest.raises(error, match=message.replace("?", r"\?")):
        config("", *opts)


def test_iterations_turn_epochs_of_the_file_off(tmp_path):
    file = tmp_path / "epochs.yaml"
    file.write_text("SOLVER: {EPOCHS: 70.0, STEPS_EPOCHS: [8]}\n")
    solver = config(str(file), "SOLVER.MAX_ITER", 20).SOLVER
    assert (solver.MAX_ITER, solver.EPOCHS, solver.STEPS_EPOCHS) == (20, 0, (8,))
    solver = config(str(file), "SOLVER.MAX_ITER", 20, "SOLVER.EPOCHS", 0.0).SOLVER
    assert (solver.MAX_ITER, solver.EPOCHS) == (20, 0)
    assert config(str(file), "SOLVER.STEPS", [5]).SOLVER.STEPS_EPOCHS == ()
