"""Config keys of optimisation."""

from detectron2.config import CfgNode as CN

# Keys in iterations, and the keys that say the same in epochs.
EPOCH_KEYS = {
    "SOLVER.MAX_ITER": "SOLVER.EPOCHS",
    "SOLVER.STEPS": "SOLVER.STEPS_EPOCHS",
    "SOLVER.CHECKPOINT_PERIOD": "SOLVER.CHECKPOINT_PERIOD_EPOCHS",
    "SOLVER.EARLY_STOPPING.PERIOD": "SOLVER.EARLY_STOPPING.PERIOD_EPOCHS",
    "TEST.EVAL_PERIOD": "TEST.EVAL_PERIOD_EPOCHS",
}


def add_solver_config(cfg: CN) -> None:
    """Add the keys below, in place."""
    _add_epoch_config(cfg)
    # Weight decay on biases is Detectron2's SOLVER.WEIGHT_DECAY_BIAS, on norms
    # SOLVER.WEIGHT_DECAY_NORM.

    # SOLVER.LR_SCHEDULER_NAME may also be, beside Detectron2's two,
    #   "WarmupCosineToFloorLR"  linear warm-up, then a cosine over the remaining iterations
    #                            (paper A: WARMUP_FACTOR 0.1, WARMUP_ITERS 500)
    #   "WarmupPolyLR"           (1 - i / MAX_ITER)^POLY_LR_POWER (paper B's segmentation: 0.9)
    # Share of the base rate that either reaches at the last iteration; polynomial schedules
    # usually end at 0.
    cfg.SOLVER.FINAL_LR_FACTOR = 0.1
    cfg.SOLVER.POLY_LR_POWER = 0.9

    # Convolutions channels last, as hardware likes it: the same results but for rounding, and on a
    # CPU up to a fifth less time. (Fixed teachers are always so.)
    cfg.SOLVER.CHANNELS_LAST = False

    cfg.SOLVER.EMA = CN()
    # Exponential moving average of the student's weights and BatchNorm statistics. It is then
    # the product: what student.pth holds and what plain metrics ("bbox/AP") are of.
    cfg.SOLVER.EMA.ENABLED = False
    # decay(k) = DECAY (1 - exp(-k / RAMP)) at update k: short memory at first.
    cfg.SOLVER.EMA.DECAY = 0.9998
    cfg.SOLVER.EMA.RAMP = 2000.0

    stop = cfg.SOLVER.EARLY_STOPPING = CN()
    # Evaluates the product on a validation set, keeps the best (model_best.pth, at the end the
    # product), and ends training when nothing better is to be expected.
    stop.ENABLED = False
    # Registered name of the validation set.
    stop.DATASET = ""
    # What is maximised: the sum of these metrics (paper A with two tasks: bbox/AP, sem_seg/mIoU).
    stop.METRICS = ["bbox/AP"]
    # Iterations between two evaluations, and the same in epochs (paper A: 1.0), which prevails
    # unless it is 0.
    stop.PERIOD = 0
    stop.PERIOD_EPOCHS = 0.0
    # Only a gain above this is an improvement, in the metric's unit (reference: 0.07 points for
    # supervised training, 0.04 for distillation).
    stop.MIN_DELTA = 0.07
    # Evaluations begin after this share of MAX_ITER (reference: 1 / 1.75) …
    stop.START = 0.571
    # … and training does not end before this one (reference: 50 of 70 epochs).
    stop.EARLIEST = 0.714
    # When it ends, counted in evaluations since the best:
    #   "streak"  more than 1.5 times the longest streak without improvement so far, which counts
    #             as PATIENCE at first (reference)
    #   "fixed"   PATIENCE
    #   "never"   only the best is kept
    stop.RULE = "streak"
    stop.PATIENCE = 5
    # Allows a DATASET that is also in DATASETS.TEST: the reported figure is then the best of many
    # on the test set itself, as it is in the reference implementation on VOC.
    stop.SELECT_ON_TEST = False

    # Evaluate the teachers, too, with the student's test images ("teacher/bbox/AP"): fixed ones
    # once, those that follow the student every time. Of classifiers also how far the student and
    # the first teacher disagree ("classification/top1_agreement_error"). --eval-only then loads the
    # fixed ones; without, it needs no teacher.
    cfg.TEST.EVALUATE_TEACHER = False


def _add_epoch_config(cfg: CN) -> None:
    # Length of the training in epochs; 0 = SOLVER.MAX_ITER iterations. The trainer counts the
    # images that it has loaded: an epoch is images / SOLVER.IMS_PER_BATCH iterations, whatever
    # INPUT.COPIES is. With DATASETS.TASK_BATCHES it is the epoch of the task that has the most
    # iterations.
    cfg.SOLVER.EPOCHS = 0.0
    # An epoch that is no whole number of iterations is made one: "floor" leaves its last
    # iteration out, "ceil" makes it whole. With "none" an epoch keeps its fraction, and only the
    # result is rounded (200 epochs of 390.625 iterations are 78125).
    cfg.SOLVER.EPOCH_ROUNDING = "none"
    # SOLVER.STEPS, SOLVER.CHECKPOINT_PERIOD and TEST.EVAL_PERIOD in epochs. Each prevails over its
    # counterpart in iterations, also beside MAX_ITER, unless it is empty or 0.
    cfg.SOLVER.STEPS_EPOCHS = ()
    cfg.SOLVER.CHECKPOINT_PERIOD_EPOCHS = 0.0
    cfg.TEST.EVAL_PERIOD_EPOCHS = 0.0
