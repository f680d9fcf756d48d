"""Loading and evaluating a trained model apart from its training."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils import comm
from torch import nn

from multas.config import prefer_exported_file
from multas.deploy.exported_model import NAME as EXPORTED
from multas.distillation import Distiller
from multas.distillation.teacher.build import build_teachers
from multas.engine.checkpointer import find_checkpoint
from multas.engine.served import SERVED, heed_served_facts
from multas.engine.weights.evaluated_models import teacher_models, with_teacher_scores
from multas.evaluation.summary import results_message
from multas.modeling.building import building
from multas.modeling.strict_loading import WeightsMisfit, load_strictly
from multas.modeling.weight_files import check_is_file
from multas.util.allocator import freed_memory_kept
from multas.util.errors import UserError
from multas.util.messages import Message

logger = logging.getLogger(__name__)


def load_model(cfg: CfgNode, weights: str) -> nn.Module:
    """The model of a config (of a distillation, the student) with trained weights, in eval mode.

    For MODEL.META_ARCHITECTURE ExportedModel, the weights are the file of the network; "" takes the
    one that the config names.

    Raises:
        FileNotFoundError: There is no such file, or its name is empty.
        UserError: It is no file of weights, or lacks parameters of the model, which would stay
            random; or an exported network cannot be run.
    """
    if cfg.MODEL.META_ARCHITECTURE == EXPORTED:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.WEIGHTS = weights
        prefer_exported_file(cfg)
        return build_model(cfg).eval()
    # Without weights the model would be random.
    check_is_file(weights, "MODEL.WEIGHTS (or --weights of a tool)")
    own = cfg.clone()
    own.defrost()
    own.MODEL.WEIGHTS = weights  # so that no pretrained backbone is looked for
    with building(own):
        model = build_model(own)
    try:
        rest = load_strictly(model, weights)
    except WeightsMisfit as error:
        raise UserError(
            f"The weights do not fit the config: {error}. Use the config that they "
            "were trained with, and a checkpoint of the whole model."
        ) from error
    heed_served_facts(cfg, rest.get(SERVED), weights)
    return model.eval()


def weights_to_evaluate(cfg: CfgNode, resume: bool) -> str:
    """MODEL.WEIGHTS, or with ``resume`` the newest checkpoint in OUTPUT_DIR if there is one.

    Raises:
        UserError: There are checkpoints, but none is intact.
    """
    return (find_checkpoint(cfg.OUTPUT_DIR) if resume else "") or cfg.MODEL.WEIGHTS


def evaluate(
    cfg: CfgNode, model: nn.Module, test: Callable[[CfgNode, nn.Module], Mapping[str, Any]]
) -> Mapping[str, Any]:
    """The results of a trained model and, with TEST.EVALUATE_TEACHER, of its fixed teachers.

    ``test`` is Detectron2's ``Trainer.test``.

    Returns:
        The model's own results ("bbox", "classification" …), and those of the teachers under
        "teacher", "teacher1" …, as after training. Processes other than the main one get nothing.

    Raises:
        FileNotFoundError: A teacher's config or weights are missing.
    """
    teachers = {}
    if isinstance(model, Distiller) and cfg.TEST.EVALUATE_TEACHER:
        teachers = teacher_models(cfg, build_teachers(cfg))
    for name in [n for n, t in teachers.items() if t.teacher.mean_teacher is not None]:
        del teachers[name]
        logger.warning(
            f"'{name}' follows the student: its weights are only in the checkpoints of the run, so "
            "that it is evaluated in training and not here."
        )
    taught = {}
    with freed_memory_kept():
        own = test(cfg, with_teacher_scores(cfg, model, teachers))
        for name, teacher in teachers.items():
            logger.info(Message(f"Evaluating '{name}'."))
            taught[name] = test(cfg, teacher)
    if not comm.is_main_process():
        return {}
    title = f"Evaluation on {', '.join(cfg.DATASETS.TEST)}:"
    logger.info(results_message({"model": own} | taught, "model", title))
    return {**own, **taught}
