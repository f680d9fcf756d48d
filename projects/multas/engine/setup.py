"""From command line arguments to a frozen config, with data sets and extensions registered."""

import importlib
import logging
import warnings
from argparse import Namespace

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import log_first_n

import multas.deploy.exported_model
import multas.distillation
import multas.modeling  # noqa: F401  (registers backbones, heads and meta-architectures)
from multas.config import (
    add_multas_config,
    merge_config,
    merge_opts,
    prefer_exported_file,
    prefer_square_size,
)
from multas.config.limits import check_limits
from multas.data.class_names import register_cards_or_classes
from multas.engine.checks.files import check_files
from multas.engine.checks.machine import check_device, check_world_size
from multas.engine.checks.network_input import check_network_input
from multas.engine.contract import check_resumable
from multas.engine.overview import title
from multas.engine.run_log import keep_log, on_screen
from multas.engine.steps.mixed_precision import resolve_precision
from multas.modeling.registered import check_registered
from multas.util.errors import UserError
from multas.util.messages import Message

logger = logging.getLogger(__name__)


def load_config(config_file: str = "", opts: list | tuple = ()) -> CfgNode:
    """A config that is not frozen, with its data cards registered and its modules imported.

    Args:
        config_file: a YAML file or the address of a row, FILE#DATA/ROW; "" = the defaults.
        opts: keys and values in turn, which prevail over the file.

    Raises:
        FileNotFoundError: There is no such file.
        UserError: A file, key or value is wrong, or names something that does not exist.
    """
    cfg = get_cfg()
    add_multas_config(cfg)
    if config_file:
        merge_config(cfg, config_file)
    merge_opts(cfg, opts)
    prefer_square_size(cfg)
    prefer_exported_file(cfg)
    check_limits(cfg)
    # TorchScript would fuse scripted losses (RetinaNet's focal loss) after some runs and so change
    # their last bits, and no resumed run could equal an uninterrupted one.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript as a whole is deprecated
        torch.jit.set_fusion_strategy([("STATIC", 0), ("DYNAMIC", 0)])
    for module in cfg.IMPORT_MODULES:
        _import(module)
    check_registered(cfg, config_file or "The config")
    check_network_input(cfg)
    register_cards_or_classes(cfg)
    if cfg.MODEL.DEVICE == "cuda" and not torch.cuda.is_available():
        # It is Detectron2's default, and nobody can mean it on a machine without a GPU.
        log_first_n(
            logging.WARNING, "No CUDA device: MODEL.DEVICE is set to cpu.", name=logger.name
        )
        cfg.MODEL.DEVICE = "cpu"
    check_device(cfg.MODEL.DEVICE)
    return resolve_precision(cfg)


def _import(module: str) -> None:
    """Import a module that registers something.

    Raises:
        UserError: There is no such module, or its own code fails.
    """
    try:
        importlib.import_module(module)
    except Exception as error:
        cure = "Correct that module; importing it in Python shows where it fails."
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            cure = (
                "Give its dotted name, such as my_package.my_module, and have the folder that it "
                "is in on the Python path (PYTHONPATH)."
            )
        raise UserError(
            f"IMPORT_MODULES names '{module}', which cannot be imported ({type(error).__name__}: "
            f"{error}). {cure}"
        ) from error


def setup(args: Namespace) -> CfgNode:
    """The frozen config of command line arguments; logging and the seed are set up as well.

    Nothing is written yet: a training or ``begin_evaluation`` opens the log.

    Raises:
        KeyError, UserError: See :func:`load_config`.
        UserError: The run to resume is another one, or its checkpoints are damaged.
    """
    if not comm.is_main_process():
        # Python would write warnings to stderr that no handler takes.
        logging.getLogger("multas").addHandler(logging.NullHandler())
    cfg = load_config(args.config_file, args.opts)
    cfg.freeze()
    if args.resume and not args.eval_only:
        check_resumable(cfg)
    check_world_size(cfg)
    check_files(cfg, args)
    keep_log()
    # Detectron2 opens and prints the config file. Of the config it reads some of the keys without a
    # group, slowly where there are many. In OUTPUT_DIR it would write before anything is checked.
    file, _, row = args.config_file.partition("#")
    keys = {key: value for key, value in cfg.items() if not isinstance(value, CfgNode)}
    without_folder = CfgNode(keys | {"OUTPUT_DIR": None})
    with on_screen():
        default_setup(without_folder, Namespace(**{**vars(args), "config_file": file}))
    logger.info(title(args.config_file))
    logger.info(Message(f"Running with full config:\n{cfg.dump()}"))
    if row:
        logger.info(Message(f"The config is the row {row} of {file}."))
    return cfg
