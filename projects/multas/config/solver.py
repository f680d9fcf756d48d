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
    # The length of the training in epochs; 0 = SOLVER.MAX_ITER iterations. An epoch has as many
    # iterations as the loaded images divided by SOLVER.IMS_PER_BATCH, whatever INPUT.COPIES is.
    # With DATASETS.TASK_BATCHES it is the epoch of the task that has the most iterations.
    cfg.SOLVER.EPOCHS = 0.0
    # How an epoch becomes a whole number of iterations: "floor", "ceil", or "none" = it keeps its
    # fraction, and only the result is rounded (200 epochs of 390.625 iterations are 78125).
    cfg.SOLVER.EPOCH_ROUNDING = "none"
    # SOLVER.STEPS and SOLVER.CHECKPOINT_PERIOD in epochs. They prevail over those in iterations
    # unless they are empty or 0.
    cfg.SOLVER.STEPS_EPOCHS = ()
    cfg.SOLVER.CHECKPOINT_PERIOD_EPOCHS = 0.0

    # "sgd", Detectron2's, or "adamw", with SOLVER.WEIGHT_DECAY. It has no MOMENTUM and no NESTEROV.
    cfg.SOLVER.OPTIMIZER = "sgd"

    # SOLVER.LR_SCHEDULER_NAME may also be "WarmupCosineToFloorLR", a linear warm-up and then a
    # cosine over the remaining iterations (Lê and Pham: WARMUP_FACTOR 0.1, WARMUP_ITERS 500), or
    # "WarmupPolyLR", (1 - i / MAX_ITER)^POLY_LR_POWER (Chennupati et al., segmentation: 0.9).
    cfg.SOLVER.POLY_LR_POWER = 0.9
    # The share of the base rate that either of them reaches at the last iteration.
    cfg.SOLVER.FINAL_LR_FACTOR = 0.1

    # Momentum of their own for task and distillation (DOT; Zhao et al., ICCV 2023): MOMENTUM minus
    # this for the task's gradient, plus this for that of the paths; 0 = the same for both. Their
    # code has 0.075 (CIFAR-100) and 0.09 (ImageNet) at 0.9. It is for aggregations by losses, and
    # has no meaning where nothing is distilled.
    cfg.SOLVER.MOMENTUM_DELTA = 0.0

    # SOLVER.AMP.ENABLED: True trains in mixed precision, bfloat16 on CPUs and on GPUs from Ampere
    # on, float16 with scaled losses on older GPUs. "auto" does so where the hardware multiplies
    # 16-bit numbers (AVX512_BF16, AMX, every GPU); the config that is logged and written has True
    # or False then, which a resumed run must have, too. Weights stay in float32.

    # Whether convolutions store channels last, as fixed teachers always do. The results only differ
    # by rounding, and a CPU needs up to a fifth less time, in bfloat16 up to a third less.
    cfg.SOLVER.CHANNELS_LAST = False

    cfg.SOLVER.EMA = CN()
    # Whether an exponential moving average of the student's weights and BatchNorm statistics is
    # kept. These are then the final weights: student.pth holds them, and plain metrics ("bbox/AP")
    # judge them.
    cfg.SOLVER.EMA.ENABLED = False
    # The decay is DECAY (1 - exp(-k / RAMP)) at update k, so that the memory is short at first.
    cfg.SOLVER.EMA.DECAY = 0.9998
    cfg.SOLVER.EMA.RAMP = 2000.0

    stop = cfg.SOLVER.EARLY_STOPPING = CN()
    # Whether a validation set is evaluated during training, the best weights are kept
    # (model_best.pth) and become the final ones, and training ends when nothing better is expected.
    # "Reference" in the comments below is the implementation by Lê and Pham.
    stop.ENABLED = False
    # The registered name of the validation set.
    stop.DATASET = ""
    # The metrics whose sum is maximised (for two tasks: bbox/AP, sem_seg/mIoU).
    stop.METRICS = ["bbox/AP"]
    # The iterations between two evaluations, and the same in epochs (reference: 1.0), which
    # prevails unless it is 0.
    stop.PERIOD = 0
    stop.PERIOD_EPOCHS = 0.0
    # The gain, in the metric's unit, above which a value is an improvement (reference: 0.07 points
    # for supervised training, 0.04 for distillation).
    stop.MIN_DELTA = 0.07
    # The shares of MAX_ITER before which there is no evaluation (reference: 1 / 1.75), and before
    # which training does not end (reference: 50 of 70 epochs).
    stop.START = 0.571
    stop.EARLIEST = 0.714
    # When training ends, in evaluations since the best one: "streak" = after more than 1.5 times
    # the longest streak without improvement so far, which is PATIENCE at first (reference),
    # "fixed" = after PATIENCE, "never" = the best weights are kept, but training goes on.
    stop.RULE = "streak"
    stop.PATIENCE = 5
    # Whether DATASET may also be in DATASETS.TEST. The reported figure is then the best of many on
    # the test set itself, as in the reference on VOC.
    stop.SELECT_ON_TEST = False
