"""Config keys of the evaluators."""

from detectron2.config import CfgNode


def add_evaluation_config(cfg: CfgNode) -> None:
    """Add the keys below ``TEST`` that :func:`multas.evaluation.build_evaluator` reads."""
    # Metric of boxes: "voc", "coco", or "" for the data set's own (evaluator_type in its metadata).
    # The metrics of other tasks stay.
    cfg.TEST.EVALUATOR = ""
    # IoU thresholds in [0, 1); the VOC evaluator's "AP" is the mean over them.
    cfg.TEST.VOC_IOU_THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
    # IoU thresholds that the VOC evaluator reports separately: 0.5 as AP50. They need not be in the
    # list above; (0.1, 0.25) gives the AP10 and AP25 of the VEDAI tables.
    cfg.TEST.VOC_REPORT_THRESHOLDS = (0.5, 0.75)
    # Metric of "AP", "AP50", ...: "11pt" (VOC 2007), "area" (from VOC 2010), or "" for the one that
    # belongs to the year in the data set's metadata. AP_11pt and AP_area are always reported.
    cfg.TEST.VOC_METRIC = ""
    # Exclude classes without objects from the VOC means. False counts them as AP 0, as Detectron2
    # does.
    cfg.TEST.VOC_SKIP_ABSENT_CLASSES = False
    # Size at which segmentations are compared: of the original "image", or of the "network" input
    # (as in the multi-task tables of Lê and Pham, ICCVW 2023).
    cfg.TEST.SEM_SEG_RESOLUTION = "image"
