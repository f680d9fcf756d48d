"""The teachers that a student's config names."""

from collections.abc import Iterator, Mapping

from detectron2.config import CfgNode

from multas.config.distillation import teacher_node
from multas.config.merging import merge_content
from multas.distillation.teacher.teacher import KEY, Teacher, check_teacher_files
from multas.modeling.weight_files import read_weights
from multas.util.errors import UserError


def build_teachers(cfg: CfgNode) -> list[Teacher]:
    """All teachers: TEACHER, then MORE_TEACHERS.

    Raises:
        FileNotFoundError, UserError: See :meth:`Teacher.from_config`.
    """
    return [Teacher.from_config(node, cfg, key) for key, node in teacher_nodes(cfg)]


def check_teachers(cfg: CfgNode) -> None:
    """Read the configs and weights of all teachers, without building them.

    Raises:
        FileNotFoundError: One is missing; the message names the key.
        UserError: One is damaged or foreign, or a key is wrong.
    """
    for key, options in teacher_nodes(cfg):
        check_teacher_files(options, key)
        if options.CONFIG_FILE:
            Teacher.load_config(options.CONFIG_FILE, options.OPTS)
        if options.WEIGHTS and "://" not in options.WEIGHTS:
            read_weights(options.WEIGHTS)


def teacher_nodes(cfg: CfgNode) -> Iterator[tuple[str, CfgNode]]:
    """The keys of each teacher, and the key that they stand below."""
    yield KEY, cfg.MODEL.DISTILLATION.TEACHER
    for number, entry in enumerate(cfg.MODEL.DISTILLATION.MORE_TEACHERS):
        key, node = f"MODEL.DISTILLATION.MORE_TEACHERS[{number}]", teacher_node()
        if not isinstance(entry, Mapping):
            raise UserError(f"{key} is {entry!r}; give a mapping with the keys of {KEY}.")
        merge_content(node, entry, key)
        yield key, node
