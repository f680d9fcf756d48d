"""All keys that multas adds to Detectron2's config: what they do, and their defaults."""

from detectron2.config import CfgNode

from multas.config.data import add_data_config
from multas.config.distillation import add_distillation_config
from multas.config.evaluation import add_evaluation_config
from multas.config.modeling import add_modeling_config
from multas.config.opts import merge_opts
from multas.config.rows import merge_config
from multas.config.solver import add_solver_config

__all__ = [
    "add_multas_config",
    "merge_config",
    "merge_opts",
    "prefer_exported_file",
    "prefer_square_size",
]


def add_multas_config(cfg: CfgNode) -> None:
    """Add the keys of multas to what ``detectron2.config.get_cfg()`` returned, in place."""
    add_data_config(cfg)
    add_modeling_config(cfg)
    add_distillation_config(cfg)
    add_solver_config(cfg)
    add_evaluation_config(cfg)


def prefer_exported_file(cfg: CfgNode) -> None:
    """Of an exported network, move its file to where no checkpointer looks, in place.

    Test images are left whole, since the file has the rule by which they are resized.
    """
    if cfg.MODEL.META_ARCHITECTURE == "ExportedModel":
        cfg.MODEL.EXPORTED.FILE = cfg.MODEL.WEIGHTS or cfg.MODEL.EXPORTED.FILE
        cfg.MODEL.WEIGHTS = ""
        cfg.INPUT.MIN_SIZE_TEST = cfg.INPUT.SQUARE_SIZE = cfg.INPUT.CENTER_CROP_TEST = 0


def prefer_square_size(cfg: CfgNode) -> None:
    """Leave test images whole where the model stretches them (INPUT.SQUARE_SIZE), in place."""
    if cfg.INPUT.SQUARE_SIZE:
        cfg.INPUT.MIN_SIZE_TEST = 0
