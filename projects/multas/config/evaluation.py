"""Config keys of the evaluators."""

from detectron2.config import CfgNode


def add_evaluation_config(cfg: CfgNode) -> None:
    """Add the keys below ``TEST`` that :func:`multas.evaluation.build_evaluator` reads."""
    # Which metric judges boxes: "" = the one of the data set's metadata (evaluator_type),
    # "voc" = VOC average precision on any data set with boxes, "coco" = COCO average precision
    # on any data set with boxes. Other tasks of the data set are not touched.
    cfg.TEST.EVALUATOR = ""
    # IoU thresholds whose mean is "AP" of the VOC evaluator, each in [0, 1).
    cfg.TEST.VOC_IOU_THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
    # IoU thresholds that the VOC evaluator also reports one by one: 0.5 gives AP50. They need not
    # be among the ones above; (0.1, 0.25) gives the AP10 and AP25 of the VEDAI rows.
    cfg.TEST.VOC_REPORT_THRESHOLDS = (0.5, 0.75)
    # Flavour of "AP", "AP50", ...: "11pt" (VOC 2007), "area" (VOC 2010 and later), "" = by the
    # year in the data set's metadata. Both are always reported as AP_11pt and AP_area.
    cfg.TEST.VOC_METRIC = ""
    # Leave classes without any object out of the VOC means. False counts them as AP 0, as
    # Detectron2 does.
    cfg.TEST.VOC_SKIP_ABSENT_CLASSES = False
    # Where segmentations are compared: "image" = at the size of the original image, "network" =
    # at the size of the network's input (what the reference numbers of the multi-task tables use).
    cfg.TEST.SEM_SEG_RESOLUTION = "image"
