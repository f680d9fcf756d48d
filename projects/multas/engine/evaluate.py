"""Evaluation of a trained model apart from its training, as train_net.py --eval-only does it."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn

from multas.distillation import Distiller
from multas.distillation.teacher.teacher import build_teachers
from multas.engine.weights.evaluated_models import TeacherModel, teacher_models, with_teacher_scores
from multas.evaluation.summary import results_table

logger = logging.getLogger(__name__)

Results = Mapping[str, Any]


def evaluate(
    cfg: CfgNode, model: nn.Module, test: Callable[[CfgNode, nn.Module], Results]
) -> Results:
    """Results of a model and, with TEST.EVALUATE_TEACHER, of its teachers, loaded for it.

    Args:
        cfg: of any model; of a distillation, it names the teachers.
        model: with trained weights; a Distiller is its student.
        test: Detectron2's ``Trainer.test``.

    Returns:
        As after training: the model's own results ("bbox", "classification" …, of a classifier
        with its agreement with the first teacher) and below "teacher", "teacher1" … those of the
        teachers; only on the main process.

    Raises:
        FileNotFoundError: a teacher's config or weights are missing.
    """
    teachers = _fixed_teachers(cfg) if isinstance(model, Distiller) else {}
    own = test(cfg, with_teacher_scores(cfg, model, teachers))
    taught = {}
    for name, teacher in teachers.items():
        logger.info(f"Evaluating '{name}'.")
        taught[name] = test(cfg, teacher)
    if not comm.is_main_process():
        return {}
    logger.info("Results:\n" + results_table({"model": own} | taught))
    return {**own, **taught}


def _fixed_teachers(cfg: CfgNode) -> dict[str, TeacherModel]:
    if not cfg.TEST.EVALUATE_TEACHER:
        return {}
    fixed = {}
    for name, model in teacher_models(cfg, build_teachers(cfg)).items():
        if model.teacher.mean_teacher is None:
            fixed[name] = model
        else:
            logger.warning(
                f"'{name}' follows the student: its weights are in the checkpoints of the run "
                "alone, so it is evaluated in training and not here."
            )
    return fixed
