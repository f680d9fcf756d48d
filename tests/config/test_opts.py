"""KEY VALUE pairs: new keys, whole numbers, iterations against epochs, and what is refused."""

import pytest

from multas.config import merge_opts
from multas.config.opts import value_of
from multas.config.solver import EPOCH_KEYS
from multas.util.errors import UserError
from plain_config import plain_config


def test_new_keys_are_added_where_they_are_allowed():
    cfg = plain_config("MODEL.DISTILLATION.AGGREGATION.POWER", "0.5")
    assert cfg.MODEL.DISTILLATION.AGGREGATION.POWER == 0.5


def test_a_whole_number_is_a_fraction_too():
    cfg = plain_config("SOLVER.EPOCHS", "3", "SOLVER.BASE_LR", 1)
    assert (cfg.SOLVER.EPOCHS, cfg.SOLVER.BASE_LR) == (3.0, 1.0)


@pytest.mark.parametrize(
    ("opts", "error", "message"),
    [
        (["SOLVER.MAX_ITER"], ValueError, "SOLVER.MAX_ITER: options are pairs of KEY VALUE"),
        (["SOLVER.MAX_ITR", 1], UserError, "SOLVER has no key 'MAX_ITR'. Did you mean 'MAX_ITER'?"),
        (["SLOVER.MAX_ITER", 1], UserError, "the config has no key 'SLOVER'.*'SOLVER'"),
        (["SOLVER.MAX_ITER.X", 1], UserError, "SOLVER.MAX_ITER is a value, not a group"),
        (["MODEL.DISTILLATION.AGGREGATION.A.B", 1], UserError, "AGGREGATION has no key 'A'"),
        (["INPUT.STRETCH", 1], UserError, "INPUT.SQUARE_SIZE"),
        (["SOLVER.MAX_ITER", 1, "SOLVER.EPOCHS", 2], ValueError, "say the same thing twice"),
        (["SOLVER.MAX_ITER", "soon"], ValueError, "SOLVER.MAX_ITER"),
        (["SOLVER.BASE_LR", True], ValueError, "SOLVER.BASE_LR"),
    ],
)
def test_wrong_pairs_are_refused(opts, error, message):
    with pytest.raises(error, match=message.replace("?", r"\?")):
        plain_config(*opts)


def test_a_deprecated_key_has_no_effect():
    cfg = plain_config()
    cfg.register_deprecated_key("SOLVER.OLD")
    merge_opts(cfg, ["SOLVER.OLD", 1])
    assert cfg == plain_config()


def test_iterations_turn_epochs_of_the_file_off(tmp_path):
    file = tmp_path / "epochs.yaml"
    file.write_text("SOLVER: {EPOCHS: 70.0, STEPS_EPOCHS: [8]}\n")

    def solver(*opts):
        return plain_config(*opts, address=str(file)).SOLVER

    found = solver("SOLVER.MAX_ITER", 20)
    assert (found.MAX_ITER, found.EPOCHS, found.STEPS_EPOCHS) == (20, 0, (8,))
    found = solver("SOLVER.MAX_ITER", 20, "SOLVER.EPOCHS", 0.0)
    assert (found.MAX_ITER, found.EPOCHS) == (20, 0)
    assert solver("SOLVER.STEPS", [5]).STEPS_EPOCHS == ()


@pytest.mark.parametrize(("key", "in_epochs"), EPOCH_KEYS.items())
def test_every_key_in_iterations_has_one_in_epochs(key, in_epochs):
    value, epochs = ([5], [2.0]) if key == "SOLVER.STEPS" else (5, 2.0)
    cfg = plain_config(in_epochs, epochs)
    merge_opts(cfg, [key, value])
    assert not value_of(cfg, in_epochs)
    with pytest.raises(ValueError, match=f"{key} and {in_epochs} say the same thing twice"):
        merge_opts(cfg, [key, value, in_epochs, epochs])
