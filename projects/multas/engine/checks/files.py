"""The check that all files that a run starts from can be read."""

import os
from argparse import Namespace

from detectron2.config import CfgNode

from multas.data.dataset_dicts import require_registered
from multas.data.task_batches import training_sets
from multas.distillation.teacher.teacher import check_teachers
from multas.modeling.weight_files import check_is_file, read_weights


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
        require_registered(training_sets(cfg), "DATASETS.TRAIN")
    going_on = args.resume and os.path.isfile(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint"))
    weights = cfg.MODEL.WEIGHTS
    if not going_on and (weights or args.eval_only) and "://" not in weights:
        check_is_file(weights, "MODEL.WEIGHTS")
        read_weights(weights)
    distillation = cfg.MODEL.DISTILLATION
    taught = (
        cfg.MODEL.META_ARCHITECTURE == "Distiller" and distillation.PATHS and distillation.ALPHA
    )
    if taught and (not args.eval_only or cfg.TEST.EVALUATE_TEACHER):
        check_teachers(cfg)
