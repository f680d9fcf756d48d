"""The check that all files that a run starts from can be read."""

from argparse import Namespace

from detectron2.config import CfgNode

from multas.data.dataset_dicts import require_registered
from multas.data.task_batches import training_sets
from multas.deploy.exported_model import NAME as EXPORTED
from multas.distillation.teacher.build import check_teachers
from multas.engine.checkpoint_files import has_checkpoints
from multas.modeling.timm_models import HUB
from multas.modeling.weight_files import check_is_file, read_weights
from multas.util.errors import UserError


def check_files(cfg: CfgNode, args: Namespace) -> None:
    """Read weights and teachers' configs, and look data sets up, before a run writes anything.

    Args:
        cfg: the config of the run.
        args: the command line; ``resume`` and ``eval_only`` say what is needed.

    Raises:
        FileNotFoundError: A file is missing.
        UserError: A file is damaged or foreign, or a data set is not registered.
    """
    require_registered(cfg.DATASETS.TEST, "DATASETS.TEST")
    if not args.eval_only:
        batches = cfg.DATASETS.TASK_BATCHES
        key = "DATASETS.TASK_BATCHES" if batches else "DATASETS.TRAIN"
        require_registered(training_sets(cfg), key)
    weights = cfg.MODEL.WEIGHTS
    exported = cfg.MODEL.META_ARCHITECTURE == EXPORTED  # whose file is read when it is built
    begins = not (args.resume and has_checkpoints(cfg.OUTPUT_DIR))
    if begins and (weights or args.eval_only) and "://" not in weights and not exported:
        check_is_file(weights, "MODEL.WEIGHTS")
        read_weights(weights)
    pretrained = cfg.MODEL.TIMM.PRETRAINED
    if not weights and not args.eval_only and pretrained not in ("", HUB):
        check_is_file(pretrained, "MODEL.TIMM.PRETRAINED")
        read_weights(pretrained)
    if args.eval_only and not cfg.DATASETS.TEST:
        raise UserError("DATASETS.TEST is empty: name the data sets to evaluate the model on.")
    distillation = cfg.MODEL.DISTILLATION
    taught = (
        cfg.MODEL.META_ARCHITECTURE == "Distiller" and distillation.PATHS and distillation.ALPHA
    )
    if taught and (not args.eval_only or cfg.TEST.EVALUATE_TEACHER):
        check_teachers(cfg)
