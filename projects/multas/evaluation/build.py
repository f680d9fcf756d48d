"""The evaluators of a data set, chosen by its metadata."""

import os
from functools import partial

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from fvcore.common.registry import Registry

from multas.evaluation.classification import ClassificationEvaluator
from multas.evaluation.coco import QuietCOCOEvaluator
from multas.evaluation.detectron2_voc import Detectron2VOCEvaluator
from multas.evaluation.sem_seg import SemanticSegmentationEvaluator
from multas.evaluation.voc import VOCDetectionEvaluator
from multas.util.errors import UserError
from multas.util.names import check_choice

EVALUATOR_REGISTRY = Registry("EVALUATOR")
EVALUATOR_REGISTRY.__doc__ = """
Functions ``(cfg, dataset_name, output_folder) -> DatasetEvaluator``, registered under the
``evaluator_type`` that the metadata of a data set names.
"""

COCO_DETECTIONS = 100  # of an image, in COCO's own evaluation
# Types whose figures are of boxes, and the values of TEST.EVALUATOR beside "".
BOX_TYPES = ("pascal_voc", "detectron2_voc", "coco")
BOX_EVALUATORS = ("voc", "detectron2_voc", "coco")
# Types that Detectron2's own registrations use. The Cityscapes figures are computed from the
# registered labels: the official scripts behind Detectron2's evaluators need a GPU.
_SAME_AS = {"voc": "pascal_voc", "cityscapes_instance": "coco", "cityscapes_sem_seg": "sem_seg"}


@EVALUATOR_REGISTRY.register()
def pascal_voc(cfg: CfgNode, dataset_name: str, output_folder: str) -> DatasetEvaluator:
    """VOC average precision of boxes."""
    return VOCDetectionEvaluator(
        dataset_name,
        cfg.TEST.VOC_IOU_THRESHOLDS,
        cfg.TEST.VOC_REPORT_THRESHOLDS,
        metric=cfg.TEST.VOC_METRIC,
        skip_absent_classes=cfg.TEST.VOC_SKIP_ABSENT_CLASSES,
    )


@EVALUATOR_REGISTRY.register()
def detectron2_voc(cfg: CfgNode, dataset_name: str, output_folder: str) -> DatasetEvaluator:
    """VOC average precision of boxes by Detectron2's own evaluator."""
    return Detectron2VOCEvaluator(dataset_name, metric=cfg.TEST.VOC_METRIC)


@EVALUATOR_REGISTRY.register()
def coco(cfg: CfgNode, dataset_name: str, output_folder: str) -> DatasetEvaluator:
    """COCO average precision of boxes; other formats are written as JSON to the folder first.

    As many detections of an image count as the model keeps (TEST.DETECTIONS_PER_IMAGE), and at
    least COCO's 100.
    """
    metadata = MetadataCatalog.get(dataset_name)
    make = partial(
        QuietCOCOEvaluator,
        dataset_name,
        ("bbox",),
        output_dir=output_folder,
        max_dets_per_image=max_detections(cfg),
    )
    if hasattr(metadata, "json_file"):
        return make()
    # By itself, the evaluator takes the file of an earlier run, even one on other data.
    file = os.path.join(output_folder, f"{dataset_name}_coco_format.json")
    convert_to_coco_json(dataset_name, file, allow_cached=False)
    metadata.json_file = file
    try:
        return make()  # which reads the file
    finally:
        del metadata.json_file  # the next evaluation may have another folder


def max_detections(cfg: CfgNode) -> int:
    """How many detections of an image count in COCO's average precision."""
    return max(cfg.TEST.DETECTIONS_PER_IMAGE, COCO_DETECTIONS)


@EVALUATOR_REGISTRY.register()
def sem_seg(cfg: CfgNode, dataset_name: str, output_folder: str) -> DatasetEvaluator:
    """Mean IoU and accuracy of label maps."""
    return SemanticSegmentationEvaluator(
        dataset_name, output_dir=output_folder, resolution=cfg.TEST.SEM_SEG_RESOLUTION
    )


@EVALUATOR_REGISTRY.register()
def classification(cfg: CfgNode, dataset_name: str, output_folder: str) -> DatasetEvaluator:
    """Top-k error and agreement with the teacher."""
    return ClassificationEvaluator(dataset_name)


def evaluator_types(dataset_name: str) -> list[str]:
    """The evaluator types that a data set's metadata names, as keys of the registry.

    Raises:
        UserError: if the metadata has no ``evaluator_type`` or one that is not registered.
    """
    named = MetadataCatalog.get(dataset_name).get("evaluator_type")
    choices = sorted({name for name, _ in EVALUATOR_REGISTRY} | set(_SAME_AS))
    if not named:
        raise UserError(
            f"Data set '{dataset_name}' has no evaluator_type in its metadata. Set one of "
            f"{choices}, or a list of them for several tasks."
        )
    types = [_SAME_AS.get(name, name) for name in ([named] if isinstance(named, str) else named)]
    for name in types:
        if name not in EVALUATOR_REGISTRY:
            raise UserError(
                f"evaluator_type '{name}' of data set '{dataset_name}' is unknown; choose from "
                f"{choices} or register your own in EVALUATOR_REGISTRY."
            )
    return types


def chosen_types(cfg: CfgNode, dataset_name: str) -> list[str]:
    """The evaluator types of a data set, each once, where TEST.EVALUATOR judges the boxes.

    Raises:
        UserError: if there is no evaluator type or an unknown one, or TEST.EVALUATOR is unknown.
    """
    types = evaluator_types(dataset_name)
    if forced := cfg.TEST.EVALUATOR:
        check_choice("TEST.EVALUATOR", forced, BOX_EVALUATORS)
        chosen = _SAME_AS.get(forced, forced)
        types = [chosen if name in BOX_TYPES else name for name in types]
    return list(dict.fromkeys(types))


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_folder: str | None = None
) -> DatasetEvaluator:
    """Build the evaluators of a data set, for every task that its metadata names.

    Args:
        cfg: a config with ``TEST.EVALUATOR`` (the metric that judges boxes) and the keys beside it.
        dataset_name: registered name with ``evaluator_type`` in its metadata, one type or a list.
        output_folder: folder for the files of the evaluators; default ``OUTPUT_DIR/inference``.

    Raises:
        UserError: if there is no evaluator type or an unknown one.
        UserError: if ``TEST.EVALUATOR`` is unknown.
    """
    folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
    builders = [EVALUATOR_REGISTRY.get(name) for name in chosen_types(cfg, dataset_name)]
    evaluators = [build(cfg, dataset_name, folder) for build in builders]
    return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)
