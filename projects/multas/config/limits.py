"""Which values keys may have, where their types leave room for nonsense."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from detectron2.config import CfgNode

from multas.config.opts import value_of
from multas.util.errors import UserError


class Limit(NamedTuple):
    """What a value must be, in words that complete "it must be …", and whether it is."""

    words: str
    holds: Callable[[Any], bool]


def check_limits(cfg: CfgNode, where: str = "") -> None:
    """Make sure that every key of :data:`LIMITS` has a value that makes sense.

    Messages begin with ``where``, which says whose config it is.

    Raises:
        UserError: One does not. The message names the key, its value and what it must be.
    """
    for key, limit in LIMITS.items():
        check_limit(f"{where}{key}", value_of(cfg, key), limit)
    crop = cfg.INPUT.CROP
    if crop.ENABLED:
        limit = whole(1) if crop.TYPE.startswith("absolute") else from_to(0, 1)
        check_limit(f"{where}INPUT.CROP.SIZE ({crop.TYPE})", crop.SIZE, each(limit, length=2))
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range":
        limit = ascending(_WHOLE, length=2)
        check_limit(f"{where}INPUT.MIN_SIZE_TRAIN (a range)", cfg.INPUT.MIN_SIZE_TRAIN, limit)


def check_limit(key: str, value: Any, limit: Limit) -> None:
    """Make sure that a value is within its limit.

    Raises:
        UserError: It is not. The message starts with ``key``.
    """
    try:
        holds = limit.holds(value)
    except (TypeError, ValueError):  # of another type altogether
        holds = False
    if not holds:
        raise UserError(f"{key} is {value!r}; it must be {limit.words}.")


def from_to(low: float, high: float) -> Limit:
    """A number of a closed interval."""
    return Limit(f"a number from {low:g} to {high:g}", lambda x: low <= _number(x) <= high)


def at_least(low: float) -> Limit:
    """A finite number that is not smaller."""
    return Limit(f"{low:g} or more", lambda x: low <= _number(x) < math.inf)


def above(low: float) -> Limit:
    """A finite number that is larger."""
    return Limit(f"greater than {low:g}", lambda x: low < _number(x) < math.inf)


def below(high: float) -> Limit:
    """A number that is 0 or more, and smaller."""
    return Limit(f"0 or more and less than {high:g}", lambda x: 0 <= _number(x) < high)


def one_of(*choices: Any) -> Limit:
    """One of a few values."""
    words = "one of " + ", ".join(repr(choice) for choice in choices)
    return Limit(words if len(choices) > 1 else repr(choices[0]), lambda x: x in choices)


def each(limit: Limit, *, length: int | None = None, empty: bool = False) -> Limit:
    """A list whose items are within a limit."""
    count = "" if length is None else f"{length} "
    words = f"a list of {count}items, each {limit.words}" + (", or empty" if empty else "")

    def holds(values: Any) -> bool:
        if isinstance(values, str) or not isinstance(values, Sequence):
            return False
        if not values or length not in (None, len(values)):
            return empty and not values
        return all(limit.holds(value) for value in values)

    return Limit(words, holds)


def whole(low: float) -> Limit:
    """A whole number that is not smaller."""
    return Limit(f"a whole number, {low:g} or more", lambda x: type(x) is int and x >= low)


def ascending(limit: Limit, *, length: int | None = None, empty: bool = False) -> Limit:
    """A list as :func:`each` has it whose items do not fall."""
    own = each(limit, length=length, empty=empty)
    return Limit(
        f"{own.words}, in ascending order", lambda x: own.holds(x) and list(x) == sorted(x)
    )


def _is_folder(value: Any) -> bool:
    """Whether a value can be the name of a folder: no URL, and not one for a shell to complete."""
    named = isinstance(value, str) and value.strip().encode()  # which raises for half a character
    return bool(named) and "\0" not in value and "://" not in value and value[0] != "~"


def _number(value: Any) -> float:
    """The value, if it is a number and no truth value; NaN is in no interval."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return value


NUMBER = Limit("a number", lambda x: math.isfinite(_number(x)))
_SHARE = from_to(0, 1)
_INSIDE = Limit("between 0 and 1", lambda x: 0 < _number(x) < 1)
_COUNT, _SIZE = at_least(0), at_least(1)
_WHOLE, _POSITIVE = whole(0), whole(1)
_NORM = one_of("", "BN", "SyncBN", "FrozenBN", "GN")
# Those of Detectron2 0.6 and of its main branch.
_STOCK_NORM = one_of(
    "", "BN", "SyncBN", "FrozenBN", "GN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", "LN"
)
_NUMBERS = each(NUMBER)
_EXPECTED = Limit(
    "[task, metric, value, tolerance]",
    lambda x: len(x) == 4 and all(isinstance(v, str) for v in x[:2]) and _NUMBERS.holds(x[2:]),
)

_NAMES = each(Limit("a name", lambda x: isinstance(x, str) and x != ""), empty=True)
_CARDS = each(Limit("a file or its content", lambda x: isinstance(x, str | Mapping)), empty=True)

LIMITS: Mapping[str, Limit] = {
    "DATALOADER.NUM_WORKERS": from_to(0, 256),  # each takes hundreds of MB
    "DATASETS.CARDS": _CARDS,
    "DATASETS.PSEUDO_LABELS.CLASS_SCORE_THRESH": each(_SHARE, empty=True),
    "DATASETS.PSEUDO_LABELS.SCORE_THRESH": _SHARE,
    "DATASETS.PSEUDO_LABELS.TOPK": _COUNT,
    "DATASETS.TEST": _NAMES,
    "DATASETS.TRAIN": _NAMES,
    "IMPORT_MODULES": _NAMES,
    "INPUT.CENTER_CROP_TEST": _COUNT,
    "INPUT.COPIES": _SIZE,
    "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA": _SHARE,
    "INPUT.CROP.SIZE": each(above(0), length=2),
    "INPUT.CROP.TYPE": one_of("relative_range", "relative", "absolute", "absolute_range"),
    "INPUT.FORMAT": one_of("BGR", "RGB"),
    "INPUT.MASK_FORMAT": one_of("polygon", "bitmask"),
    "INPUT.MAX_SIZE_TEST": _SIZE,
    "INPUT.MAX_SIZE_TRAIN": _SIZE,
    "INPUT.MIN_SIZE_TEST": _COUNT,
    "INPUT.MIN_SIZE_TRAIN": each(_WHOLE),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": one_of("choice", "range"),
    "INPUT.MIX.COPY_PASTE": _SHARE,
    "INPUT.MIX.FINAL_FRACTION": _SHARE,
    "INPUT.MIX.MIN_VISIBLE": _SHARE,
    "INPUT.MIX.MIXUP": _SHARE,
    "INPUT.MIX.MIXUP_ALPHA": above(0),
    "INPUT.MIX.MOSAIC": _SHARE,
    "INPUT.MIX.MOSAIC_SCALE": ascending(above(0), length=2),
    "INPUT.MULTI_SCALE.FINAL_FRACTION": _SHARE,
    "INPUT.MULTI_SCALE.SIZES": each(_POSITIVE, empty=True),
    "INPUT.RANDOM_FLIP": one_of("horizontal", "vertical", "none"),
    "INPUT.SQUARE_SIZE": _COUNT,
    "INPUT.VIEWS": _COUNT,
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": each(each(above(0))),
    "MODEL.ANCHOR_GENERATOR.OFFSET": below(1),
    "MODEL.ANCHOR_GENERATOR.SIZES": each(each(above(0))),
    "MODEL.BACKBONE.FREEZE_AT": from_to(0, 5),
    "MODEL.CLASSES.CLS": _NAMES,
    "MODEL.CLASSES.DET": _NAMES,
    "MODEL.CLASSES.SEG": _NAMES,
    "MODEL.DENSE_HEAD.BBOX_REG_WEIGHTS": each(above(0), length=4),
    "MODEL.DENSE_HEAD.BOX_LOSS_WEIGHT": at_least(0),
    "MODEL.DENSE_HEAD.FOCAL_ALPHA": from_to(-1, 1),
    "MODEL.DENSE_HEAD.FOCAL_GAMMA": at_least(0),
    "MODEL.DENSE_HEAD.IOU_THRESHOLDS": ascending(_SHARE, length=2),
    "MODEL.DENSE_HEAD.MUTUAL_SIGMA": above(0),
    "MODEL.DENSE_HEAD.MUTUAL_TOPK": _SIZE,
    "MODEL.DENSE_HEAD.NMS_THRESH_TEST": _SHARE,
    "MODEL.DENSE_HEAD.NORM": _NORM,
    "MODEL.DENSE_HEAD.NUM_CLASSES": _SIZE,
    "MODEL.DENSE_HEAD.NUM_CONVS": _COUNT,
    "MODEL.DENSE_HEAD.PRIOR_PROB": _INSIDE,
    "MODEL.DENSE_HEAD.QUALITY_FOCAL_GAMMA": at_least(0),
    "MODEL.DENSE_HEAD.SCORE_THRESH_TEST": below(1),
    "MODEL.DENSE_HEAD.SMOOTH_L1_BETA": at_least(0),
    "MODEL.DENSE_HEAD.TOPK_CANDIDATES_TEST": _COUNT,
    "MODEL.DISTILLATION.ALPHA": at_least(0),
    "MODEL.DISTILLATION.BOX_SCORE_THRESH": below(1),
    "MODEL.DISTILLATION.CACHE.MAX_GB": above(0),
    "MODEL.DISTILLATION.DECAY.FINAL_FRACTION": _SHARE,
    "MODEL.DISTILLATION.DECAY.FRACTION": _SHARE,
    "MODEL.DISTILLATION.RAMP.ITERS": _COUNT,
    "MODEL.DISTILLATION.RAMP.START": _COUNT,
    "MODEL.EXPORTED.LIBRARY": one_of("", "onnxruntime", "openvino"),
    "MODEL.EXPORTED.PRECISION": one_of("", "f32", "bf16"),
    "MODEL.EXPORTED.THREADS": _WHOLE,
    "MODEL.FPN.NORM": _STOCK_NORM,
    "MODEL.FPN.NUM_EXTRA_LEVELS": _COUNT,
    "MODEL.FPN.OUT_CHANNELS": _SIZE,
    "MODEL.GFL_HEAD.ATSS_TOPK": _SIZE,
    "MODEL.GFL_HEAD.IOU_THRESHOLDS": ascending(_SHARE, length=2),
    "MODEL.GFL_HEAD.NMS_THRESH_TEST": _SHARE,
    "MODEL.GFL_HEAD.NORM": _NORM,
    "MODEL.GFL_HEAD.NUM_CLASSES": _SIZE,
    "MODEL.GFL_HEAD.NUM_CONVS": _COUNT,
    "MODEL.GFL_HEAD.PRIOR_PROB": _INSIDE,
    "MODEL.GFL_HEAD.REG_MAX": _SIZE,
    "MODEL.GFL_HEAD.SCORE_THRESH_TEST": below(1),
    "MODEL.GFL_HEAD.TOPK_CANDIDATES_TEST": _COUNT,
    "MODEL.LINEAR_HEAD.NUM_CLASSES": _SIZE,
    "MODEL.MULTITASK.LOSS_WEIGHTS": each(at_least(0), empty=True),
    "MODEL.NECK.NORM": _NORM,
    "MODEL.NECK.NUM_LEVELS": _SIZE,
    "MODEL.NECK.OUT_CHANNELS": _SIZE,
    "MODEL.PIXEL_MEAN": each(NUMBER, length=3),
    "MODEL.PIXEL_STD": each(above(0), length=3),
    "MODEL.RESNETS.NORM": _STOCK_NORM,
    "MODEL.RESNETS.OUT_FEATURES": each(one_of("stem", "res2", "res3", "res4", "res5", "linear")),
    "MODEL.RESNETS.RES2_OUT_CHANNELS": _SIZE,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": _SIZE,
    "MODEL.SEMANTIC_FPN_HEAD.CONVS_DIM": _SIZE,
    "MODEL.SEMANTIC_FPN_HEAD.NORM": _NORM,
    "MODEL.SEMANTIC_FPN_HEAD.NUM_CLASSES": _SIZE,
    "MODEL.SEMANTIC_FPN_HEAD.NUM_FINAL_CONVS": _COUNT,
    "MODEL.TIMM.DROP_PATH": below(1),
    "MODEL.TIMM.NORM": one_of("", "FrozenBN", "SyncBN"),
    "MODEL.TIMM.OUT_FEATURES": each(one_of(*(f"res{i}" for i in range(1, 7)))),
    "OUTPUT_DIR": Limit("the name of a folder, in full", _is_folder),
    # NumPy's seeds end at 2^32; each process adds its rank.
    "SEED": Limit(
        "less than 4294900000 (negative: another one each time)", lambda x: x < 4294900000
    ),
    "SOLVER.AMP.ENABLED": one_of(True, False, "auto"),
    "SOLVER.BASE_LR": above(0),
    "SOLVER.CHECKPOINT_PERIOD": _SIZE,
    "SOLVER.CHECKPOINT_PERIOD_EPOCHS": at_least(0),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": one_of("value", "norm"),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": above(0),
    "SOLVER.EARLY_STOPPING.EARLIEST": _SHARE,
    "SOLVER.EARLY_STOPPING.MIN_DELTA": at_least(0),
    "SOLVER.EARLY_STOPPING.PATIENCE": _SIZE,
    "SOLVER.EARLY_STOPPING.PERIOD": _COUNT,
    "SOLVER.EARLY_STOPPING.PERIOD_EPOCHS": at_least(0),
    "SOLVER.EARLY_STOPPING.START": _SHARE,
    "SOLVER.EMA.DECAY": _SHARE,
    "SOLVER.EMA.RAMP": at_least(0),
    "SOLVER.EPOCHS": at_least(0),
    "SOLVER.FINAL_LR_FACTOR": at_least(0),
    "SOLVER.GAMMA": above(0),
    "SOLVER.IMS_PER_BATCH": _POSITIVE,
    "SOLVER.LR_SCHEDULER_NAME": one_of(
        "WarmupMultiStepLR",
        "WarmupCosineLR",
        "WarmupStepWithFixedGammaLR",  # Detectron2's main branch
        "WarmupCosineToFloorLR",
        "WarmupPolyLR",
    ),
    "SOLVER.MAX_ITER": _SIZE,
    "SOLVER.MOMENTUM": below(1),
    "SOLVER.MOMENTUM_DELTA": below(1),
    "SOLVER.OPTIMIZER": one_of("sgd", "adamw"),
    "SOLVER.POLY_LR_POWER": above(0),
    "SOLVER.STEPS": ascending(_WHOLE, empty=True),
    "SOLVER.STEPS_EPOCHS": ascending(at_least(0), empty=True),
    "SOLVER.WARMUP_FACTOR": _SHARE,
    "SOLVER.WARMUP_ITERS": _COUNT,
    "SOLVER.WARMUP_METHOD": one_of("linear", "constant"),
    "SOLVER.WEIGHT_DECAY": at_least(0),
    "TEST.AUG.ENABLED": Limit(
        "False, since test images are not augmented here", lambda x: x is False
    ),
    "TEST.DETECTIONS_PER_IMAGE": _COUNT,
    "TEST.EVALUATOR": one_of("", "voc", "detectron2_voc", "coco"),
    "TEST.EVAL_PERIOD": _COUNT,
    "TEST.EVAL_PERIOD_EPOCHS": at_least(0),
    "TEST.EXPECTED_RESULTS": each(_EXPECTED, empty=True),
    "TEST.PRECISE_BN.NUM_ITER": _SIZE,
    "TEST.SEM_SEG_RESOLUTION": one_of("image", "network"),
    "TEST.VIS_IMAGES": _WHOLE,
    "TEST.VOC_IOU_THRESHOLDS": each(below(1)),
    "TEST.VOC_METRIC": one_of("", "11pt", "area"),
    "TEST.VOC_REPORT_THRESHOLDS": each(below(1), empty=True),
}
