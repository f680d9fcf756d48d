"""All that can be found wrong with a run before it costs time."""

from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn

from multas.data.loader import TrainLoader
from multas.data.task_batches import TaskLoader, training_sets
from multas.engine.checks.annotations import check_annotations
from multas.engine.checks.cache_size import check_cache
from multas.engine.checks.classes import check_classes, check_ignored_labels, check_test_sets
from multas.engine.checks.leaks import warn_of_leaks
from multas.engine.checks.teachers import check_teacher_statistics


def preflight(cfg: CfgNode, model: nn.Module, loader: TrainLoader | TaskLoader) -> None:
    """Check that the training data, the model (a Distiller is prepared) and the config fit.

    Raises:
        UserError: They do not. The message names the data set, key or layer, and a remedy.
        KeyError: There is no evaluator for a data set.
    """
    tested = check_test_sets(cfg)
    if comm.is_main_process():
        warn_of_leaks(loader, tested)
    names = training_sets(cfg)
    check_classes(model, [*names, *cfg.DATASETS.TEST])
    check_ignored_labels(cfg, model, names)
    check_annotations(model, loader)
    check_cache(cfg, model, loader)
    check_teacher_statistics(model, loader)
