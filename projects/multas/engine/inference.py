"""Loading a trained model to use it."""

import os

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from multas.modeling.strict_loading import is_file, load_strictly


def load_model(cfg: CfgNode, weights: str) -> nn.Module:
    """The model of a config with trained weights, in eval mode.

    Args:
        cfg: of any model; of a distillation, the student is returned ready to use.
        weights: a checkpoint.

    Raises:
        FileNotFoundError: none is named, or there is no such file.
        ValueError: it lacks parameters of the model, which would stay random.
    """
    if not is_file(weights):
        raise FileNotFoundError(
            f"The weights (MODEL.WEIGHTS, or --weights of a tool) are '{weights}': no such file. "
            "Name the checkpoint of a trained model, such as student.pth in the OUTPUT_DIR of its "
            "training; without one the model would be random."
        )
    model = build_model(cfg)
    try:
        load_strictly(model, weights)
    except ValueError as error:
        raise ValueError(
            f"The weights '{weights}' do not fit the config: {error}. Use the config that they "
            "were trained with, and a checkpoint of the whole model."
        ) from error
    return model.eval()


def weights_to_evaluate(cfg: CfgNode, resume: bool) -> str:
    """MODEL.WEIGHTS, or with ``resume`` the last checkpoint in OUTPUT_DIR if there is one."""
    record = os.path.join(cfg.OUTPUT_DIR, "last_checkpoint")
    if resume and os.path.isfile(record):
        with open(record) as file:
            return os.path.join(cfg.OUTPUT_DIR, file.read().strip())
    return cfg.MODEL.WEIGHTS
