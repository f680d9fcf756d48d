"""The names of the metrics that evaluators report, known before anything is evaluated."""

from collections.abc import Iterator

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from multas.evaluation.build import chosen_types
from multas.evaluation.voc import METRICS
from multas.util.errors import UserError
from multas.util.names import nearest

_COCO = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_SEGMENTATION = ("mIoU", "fwIoU", "mACC", "pACC")
_CLASSIFICATION = ("top1_error", "top5_error", "top1_agreement_error", "top5_agreement_error")


def lower_is_better(metric: str) -> bool:
    """Whether a metric counts errors."""
    return metric.endswith("_error")


def check_metric(cfg: CfgNode, dataset_name: str, metric: str, key: str) -> None:
    """Make sure that the evaluation of a data set, which is loaded, will report a metric.

    Own evaluators of a user may report anything.

    Args:
        cfg: the config of the evaluation.
        dataset_name: the registered name.
        metric: a task and the name of a figure, such as "bbox/AP", of the final weights; after a
            name, of others that are evaluated ("student/bbox/AP" beside an average).
        key: what names the metric, for the message.

    Raises:
        UserError: It will not. The message has the nearest name and the choices.
    """
    types = chosen_types(cfg, dataset_name)
    if not set(types) <= _NAMES.keys():
        return
    names = {name: general for kind in types for name, general in _NAMES[kind](cfg, dataset_name)}
    weights = ["student", "ema"][: 1 + cfg.SOLVER.EMA.ENABLED]
    weights += ["best"] if cfg.SOLVER.EARLY_STOPPING.ENABLED else []
    others = [] if cfg.TEST.FINAL_WEIGHTS_ONLY else weights[:-1]
    first, _, rest = metric.partition("/")
    if metric in names or (first in others and rest in names):
        return
    near = nearest(metric, names, cutoff=0.5)
    general = [name for name, is_general in names.items() if is_general]
    raise UserError(
        f"{key} '{metric}' is not measured on '{dataset_name}'."
        + (f" Did you mean '{near}'?" if near else "")
        + f" Choose from: {', '.join(general)}"
        + (", or one of a class, such as AP-name." if len(general) < len(names) else ".")
    )


def _of_classes(dataset_name: str, key: str) -> list[str]:
    return list(MetadataCatalog.get(dataset_name).get(key) or ())


def _pascal_voc(cfg: CfgNode, dataset_name: str) -> Iterator[tuple[str, bool]]:
    reported = sorted(set(cfg.TEST.VOC_REPORT_THRESHOLDS))
    for figure in ["AP", *(f"AP{100 * value:g}" for value in reported)]:
        yield f"bbox/{figure}", True
        yield from ((f"bbox/{figure}_{kind}", True) for kind in METRICS)
        for name in _of_classes(dataset_name, "thing_classes"):
            yield f"bbox/{figure}-{name}", False


def _detectron2_voc(_cfg: CfgNode, _dataset_name: str) -> Iterator[tuple[str, bool]]:
    yield from ((f"bbox/{name}", True) for name in ("AP", "AP50", "AP75"))


def _coco(_cfg: CfgNode, dataset_name: str) -> Iterator[tuple[str, bool]]:
    yield from ((f"bbox/{name}", True) for name in _COCO)
    classes = _of_classes(dataset_name, "thing_classes")
    yield from ((f"bbox/AP-{name}", False) for name in (classes if len(classes) > 1 else ()))


def _sem_seg(_cfg: CfgNode, dataset_name: str) -> Iterator[tuple[str, bool]]:
    yield from ((f"sem_seg/{name}", True) for name in _SEGMENTATION)
    for name in _of_classes(dataset_name, "stuff_classes"):
        yield from ((f"sem_seg/{figure}-{name}", False) for figure in ("IoU", "ACC"))


def _classification(_cfg: CfgNode, _dataset_name: str) -> Iterator[tuple[str, bool]]:
    yield from ((f"classification/{name}", True) for name in _CLASSIFICATION)


# The metrics of each evaluator type, and whether they are of all classes together.
_NAMES = {
    "pascal_voc": _pascal_voc,
    "detectron2_voc": _detectron2_voc,
    "coco": _coco,
    "sem_seg": _sem_seg,
    "classification": _classification,
}
