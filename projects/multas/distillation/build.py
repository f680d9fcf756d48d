"""From MODEL.DISTILLATION to a :class:`Distillation`."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn

from multas.distillation.aggregation.build import boundary_layers
from multas.distillation.distillation import Distillation
from multas.distillation.gradients.feature_boundary import FeatureBoundary
from multas.distillation.paths.build import (
    build_path,
    check_anchors,
    find_layers,
    probe_layers,
    table_row,
)
from multas.distillation.paths.spec import check_paths, parse_paths, tapped_heads
from multas.distillation.paths.targets import BoxSource
from multas.distillation.teacher.build import build_teachers, teacher_nodes
from multas.distillation.teacher.teacher import Teacher
from multas.util.errors import UserError

logger = logging.getLogger(__name__)


def build_distillation(
    cfg: CfgNode, student: nn.Module, teachers: Sequence[Teacher] | None = None
) -> Distillation | None:
    """Build what ``cfg.MODEL.DISTILLATION`` describes, on the device of the config.

    Args:
        cfg: the student's config.
        student: the student network, which is not changed.
        teachers: the teachers; by default those that the config names.

    Returns:
        None when there is nothing to distill (no path, or alpha = 0).

    Raises:
        UserError: an entry of the config is wrong, there is a teacher but no path, layers do not
            exist or do not fit each other, or a mean teacher has another network than the student.
            The message names the key.
        FileNotFoundError: a teacher's config or weights are missing.
    """
    options = cfg.MODEL.DISTILLATION
    specs = parse_paths(options.PATHS)
    if not specs:
        _check_plain_training(cfg)
    if not specs or options.ALPHA == 0:
        return None
    # The initialisation of teachers and adapters must not shift the random numbers that the
    # student's own training sees.
    with torch.random.fork_rng():
        teachers = build_teachers(cfg) if teachers is None else teachers
        check_paths(specs, cfg, len(teachers))
        for teacher in teachers:
            if teacher.mean_teacher is not None:
                own, wanted = (teacher.model, teacher.input_format), (student, cfg.INPUT.FORMAT)
                teacher.mean_teacher.check_same_network(own, wanted)
        specs = find_layers(specs, student, teachers)
        probe = probe_layers(student, teachers, specs, cfg)
        check_anchors(student, teachers, specs)
        paths = [build_path(*pair) for pair in zip(specs, probe.layers, strict=True)]
    require_heads = getattr(student, "require_heads", None)
    if require_heads is not None:
        require_heads(tapped_heads(specs))
    _keep_outputs(teachers, probe.teachers, cfg)
    distillation = Distillation(
        specs=specs,
        paths=paths,
        student_taps=probe.taps,
        teachers=teachers,
        boundary=FeatureBoundary(student, boundary_layers(cfg)),
        boxes=BoxSource(options.BOXES, options.BOX_SCORE_THRESH),
        input_format=cfg.INPUT.FORMAT,
        rows=[table_row(*row) for row in zip(specs, paths, probe.layers, strict=True)],
    )
    return distillation.to(torch.device(cfg.MODEL.DEVICE))


def _check_plain_training(cfg: CfgNode) -> None:
    """Say that nothing is distilled, and make sure that nothing was to be."""
    key, student = "MODEL.DISTILLATION", cfg.MODEL.DISTILLATION.STUDENT
    for _, node in teacher_nodes(cfg):
        if node.CONFIG_FILE or node.WEIGHTS or node.EMA_DECAY:
            name = node.CONFIG_FILE or node.WEIGHTS or f"EMA_DECAY {node.EMA_DECAY:g}"
            raise UserError(
                f"{key}.PATHS is empty, so that the teacher ({name}) would teach nothing. Give at "
                f"least one path, such as [{{TYPE: FeatureMSE, STUDENT: backbone}}], or no teacher "
                f"(to train {student} plainly)."
            )
    logger.warning(
        f"{key}.PATHS is empty and no teacher is named: {student} trains by its own losses alone."
    )


def _keep_outputs(
    teachers: Sequence[Teacher], records: Sequence[Mapping[str, Any]], cfg: CfgNode
) -> None:
    """Cache the outputs of the teachers that have taps."""
    cache = cfg.MODEL.DISTILLATION.CACHE
    for teacher, record in zip(teachers, records, strict=True):
        if cache.FOLDER and record:
            teacher.keep_outputs(cache.FOLDER, int(cache.MAX_GB * 1e9), dict(record))
