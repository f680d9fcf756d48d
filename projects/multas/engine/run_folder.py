"""The folder of a run: held by one training at a time, and never shared with a former run."""

import itertools
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils import comm

from multas.data.class_names import with_class_names
from multas.distillation.teacher.build import teacher_nodes
from multas.engine.run_log import open_log
from multas.util.errors import UserError
from multas.util.files import write_text
from multas.util.locks import locked
from multas.util.ranks import decided_by_main

logger = logging.getLogger(__name__)

# What a run writes; what else there is belongs to the user.
_WRITTEN = re.compile(
    r"(config\.yaml|model\.txt|metrics\.json|last_checkpoint|model_(\d+|final|best)\.pth"
    r"|student(_raw)?\.pth)(\.partial)?|log\.txt(\.rank\d+)?|events\.out\.tfevents\..*|inference"
)


@contextmanager
def claimed_folder(cfg: CfgNode, resumes: bool) -> Iterator[None]:
    """Hold OUTPUT_DIR for a training, and begin its log and config.yaml.

    The folder is made where it does not exist. What a former run has left there is moved to a
    folder former_1, former_2 … in it, unless this training ``resumes`` it.

    Raises:
        UserError: Another training holds the folder, or it cannot be written to, or what would
            have to be moved is named in the config.
    """
    with ExitStack() as held:
        decided_by_main(lambda: _claim(cfg, resumes, held))
        _begin_records(cfg)
        yield


def begin_evaluation(cfg: CfgNode) -> None:
    """Make OUTPUT_DIR where it does not exist, and begin the log and config.yaml there.

    Raises:
        UserError: It cannot be written to.
    """
    decided_by_main(lambda: _make(cfg.OUTPUT_DIR))
    _begin_records(cfg)


def _begin_records(cfg: CfgNode) -> None:
    open_log(cfg.OUTPUT_DIR)
    if comm.is_main_process():
        write_text(os.path.join(cfg.OUTPUT_DIR, "config.yaml"), with_class_names(cfg).dump())


def _claim(cfg: CfgNode, resumes: bool, held: ExitStack) -> None:
    folder = Path(cfg.OUTPUT_DIR)
    if not resumes:
        _check_unused(_left_by_run(folder), cfg)
    _make(folder)
    held.enter_context(locked(folder, "OUTPUT_DIR", "training"))
    if not resumes and (left := _left_by_run(folder)):
        aside = next(p for n in itertools.count(1) if not (p := folder / f"former_{n}").exists())
        aside.mkdir()
        for path in left:
            path.rename(aside / path.name)
        logger.warning(f"{folder} held a former run, which is in {aside} now: no --resume.")


def _make(folder: str | Path) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"OUTPUT_DIR {folder} cannot be made ({error.strerror}). Name a folder in a place that "
            "you may write to."
        ) from error


def _left_by_run(folder: Path) -> list[Path]:
    if not os.path.isdir(folder):
        return []
    return sorted(path for path in folder.iterdir() if _WRITTEN.fullmatch(path.name))


def _check_unused(left: list[Path], cfg: CfgNode) -> None:
    """Make sure that no file that the config names lies among those that are to be moved."""
    for key, name in _named_files(cfg).items():
        used = Path(name).resolve()
        if any(used.is_relative_to(path.resolve()) for path in left):
            raise UserError(
                f"{key} {name} was written by the former run in OUTPUT_DIR {cfg.OUTPUT_DIR}, which "
                "a new run there would replace. Choose another OUTPUT_DIR, or continue that run "
                "with --resume."
            )


def _named_files(cfg: CfgNode) -> Mapping[str, str]:
    """The files that the config names, by their keys."""
    named = {"MODEL.WEIGHTS": cfg.MODEL.WEIGHTS}
    named["MODEL.TIMM.PRETRAINED"] = cfg.MODEL.TIMM.PRETRAINED
    for key, teacher in teacher_nodes(cfg):
        named |= {f"{key}.WEIGHTS": teacher.WEIGHTS, f"{key}.CONFIG_FILE": teacher.CONFIG_FILE}
    for kind in ("FILES", "MASKS"):
        files = enumerate(cfg.DATASETS.PSEUDO_LABELS[kind])
        named |= {f"DATASETS.PSEUDO_LABELS.{kind}[{i}]": file for i, file in files}
    return {where: name for where, name in named.items() if name}
