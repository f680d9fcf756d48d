"""From command line arguments to a frozen config, with data sets and extensions registered."""

import importlib
import logging
import warnings
from argparse import Namespace

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

import multas.distillation
import multas.modeling  # noqa: F401  (registers backbones, heads and the multi-task network)
from multas.config import add_multas_config
from multas.config.merge import merge_opts
from multas.data import register_cards

logger = logging.getLogger(__name__)


def load_config(config_file: str = "", opts: list | tuple = ()) -> CfgNode:
    """A config from a file and KEY VALUE pairs; cards registered, modules imported, not frozen.

    Raises:
        ModuleNotFoundError: a module of IMPORT_MODULES is not on the Python path.
    """
    cfg = get_cfg()
    add_multas_config(cfg)
    if config_file:
        cfg.merge_from_file(config_file)
    merge_opts(cfg, opts)
    # Scripted losses (RetinaNet's focal loss) would change in their last bits once TorchScript has
    # seen them run and fuses them, so that no resumed run could equal an uninterrupted one.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # as TorchScript as a whole is
        torch.jit.set_fusion_strategy([("STATIC", 0), ("DYNAMIC", 0)])
    for module in cfg.IMPORT_MODULES:
        importlib.import_module(module)
    register_cards(cfg.DATASETS.CARDS)
    if cfg.MODEL.DEVICE == "cuda" and not torch.cuda.is_available():
        # Detectron2's default; on a machine without a GPU it can only have been meant as such.
        logger.warning("No CUDA device: MODEL.DEVICE is set to cpu.")
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def setup(args: Namespace) -> CfgNode:
    """What Detectron2's train_net.py calls ``setup``: config, logging, seed."""
    cfg = load_config(args.config_file, args.opts)
    cfg.freeze()
    default_setup(cfg, args)
    # Detectron2 sets up its own loggers alone; ours go to the same console and file.
    setup_logger(cfg.OUTPUT_DIR, comm.get_rank(), name="multas")
    return cfg
