"""Loading a trained model to use it."""

from collections.abc import Iterator
from contextlib import contextmanager

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn


def load_model(cfg: CfgNode, weights: str) -> nn.Module:
    """The model of a config with trained weights, in eval mode.

    Args:
        cfg: of any model; of a distillation, the student is returned ready to use.
        weights: a checkpoint.
    """
    model = build_model(cfg)
    DetectionCheckpointer(model).load(weights)
    return model.eval()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, the former mode of every submodule after."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
