"""From command line arguments to a frozen config, with data sets and extensions registered."""

import importlib
from argparse import Namespace

from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_setup

import multas.distillation  # noqa: F401  (registers the Distiller, paths and aggregators)
import multas.modeling  # noqa: F401  (registers backbones, heads and the multi-task network)
from multas.config import add_multas_config
from multas.data import register_cards


def load_config(config_file: str = "", opts: list | tuple = ()) -> CfgNode:
    """A config from a file and KEY VALUE pairs; cards registered, modules imported, not frozen.

    Raises:
        ModuleNotFoundError: a module of IMPORT_MODULES is not on the Python path.
    """
    cfg = get_cfg()
    add_multas_config(cfg)
    if config_file:
        cfg.merge_from_file(config_file)
    cfg.merge_from_list(list(opts))
    for module in cfg.IMPORT_MODULES:
        importlib.import_module(module)
    register_cards(cfg.DATASETS.CARDS)
    return cfg


def setup(args: Namespace) -> CfgNode:
    """What Detectron2's train_net.py calls ``setup``: config, logging, seed."""
    cfg = load_config(args.config_file, args.opts)
    cfg.freeze()
    default_setup(cfg, args)
    return cfg
