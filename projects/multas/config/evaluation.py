"""Config keys of evaluation."""

from detectron2.config import CfgNode


def add_evaluation_config(cfg: CfgNode) -> None:
    """Add the keys below ``TEST``, in place."""
    # The metric of boxes: "voc" (ours, by the keys below), "detectron2_voc" (Detectron2's
    # PascalVOCDetectionEvaluator, which gives the same AP, AP50 and AP75 in more time), "coco"
    # (Detectron2's COCOEvaluator), or "" = that of the data set (evaluator_type in its metadata).
    # Each takes data of every format. The metrics of other tasks do not change.
    cfg.TEST.EVALUATOR = ""
    # IoU thresholds in [0, 1). The VOC evaluator's "AP" is the mean over them.
    cfg.TEST.VOC_IOU_THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
    # IoU thresholds, of the above or others, that the VOC evaluator also reports separately: 0.5 as
    # AP50. (0.1, 0.25) gives the AP10 and AP25 of VEDAI.
    cfg.TEST.VOC_REPORT_THRESHOLDS = (0.5, 0.75)
    # The metric of "AP", "AP50" …: "11pt" (VOC 2007), "area" (from VOC 2010 on), or "" = that of
    # the year in the data set's metadata. AP_11pt and AP_area are always reported.
    cfg.TEST.VOC_METRIC = ""
    # Whether classes without objects are left out of the VOC means. Detectron2 counts them as AP 0.
    cfg.TEST.VOC_SKIP_ABSENT_CLASSES = False
    # The size at which segmentations are compared: that of the original "image", or of the
    # "network" input (as in the multi-task tables of Lê and Pham).
    cfg.TEST.SEM_SEG_RESOLUTION = "image"
    # Whether the final weights alone are evaluated: with an average or early stopping those of the
    # last iteration are evaluated, too, as "student/bbox/AP", which takes as long again.
    cfg.TEST.FINAL_WEIGHTS_ONLY = False
    # The number of images of each test set that every evaluation during a training shows in
    # TensorBoard, ground truth beside predictions, and of images with pseudo-labels; 0 = none.
    cfg.TEST.VIS_IMAGES = 3
    # Whether the teachers are evaluated, too, on the student's test images ("teacher/bbox/AP"):
    # fixed ones once, mean teachers every time. For classifiers it also measures how often the
    # student and the first teacher disagree ("classification/top1_agreement_error"). --eval-only
    # needs the fixed teachers only with this key.
    cfg.TEST.EVALUATE_TEACHER = False
    # TEST.EVAL_PERIOD in epochs, which prevails unless it is 0.
    cfg.TEST.EVAL_PERIOD_EPOCHS = 0.0
