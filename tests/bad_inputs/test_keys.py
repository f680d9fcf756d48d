"""Keys of a config with values that make no sense, given to train_net.py."""

import pytest

from bad_inputs.entry import check_refusal

D = "MODEL.DISTILLATION."
MSE = {"TYPE": "FeatureMSE", "STUDENT": "backbone"}


def paths(*entries, **keys):
    """PATHS of these entries, or of one with these keys."""
    return {f"{D}PATHS": list(entries) or [MSE | keys]}


def batches(*entries, **keys):
    """TASK_BATCHES in place of DATASETS.TRAIN."""
    entry = {"TASK": "det", "TRAIN": ["tiny_half"]}
    return {"DATASETS.TRAIN": (), "DATASETS.TASK_BATCHES": list(entries) or [entry | keys]}


def stop(**keys):
    """Early stopping with these keys."""
    own = {"ENABLED": True, "PERIOD": 1, "DATASET": "tiny_val"}
    own = {key: value for key, value in own.items() if key not in keys} | keys
    return {f"SOLVER.EARLY_STOPPING.{key}": value for key, value in own.items()}


def aggregation(name, **options):
    return {f"{D}AGGREGATION.NAME": name} | {f"{D}AGGREGATION.{k}": v for k, v in options.items()}


# The keys and values, and what the message must have beside the last key.
STUDENT = [
    ({"MODEL.MULTITASK.TASKS": []}, "give distinct tasks"),
    ({"MODEL.MULTITASK.TASKS": ["det", "det"]}, "give distinct tasks"),
    ({"MODEL.MULTITASK.TASKS": ["a.b"]}, "letters, digits"),
    ({"MODEL.MULTITASK.HEADS": ["DenseHead"]}, "Did you mean 'DenseDetectionHead'?"),
    ({"MODEL.MULTITASK.HEADS": [{"TYPE": "GFLHead", "LOS": 1}]}, "Did you mean 'LOSS'?"),
    ({"MODEL.MULTITASK.HEADS": [3]}, "give a name"),
    ({"MODEL.MULTITASK.LOSS_WEIGHTS": [1, 2]}, "equally many of each"),
    ({"MODEL.MULTITASK.LOSS_WEIGHTS": ["a"]}, "0 or more"),
    ({"MODEL.MULTITASK.LOSS_WEIGHTS": [-1]}, "0 or more"),
    ({"MODEL.MULTITASK.GRADIENTS": "mean"}, "sum, mgda"),
    ({"MODEL.DENSE_HEAD.NUM_CLASSES": 0}, "1 or more"),
    ({"MODEL.DENSE_HEAD.NUM_CLASSES": 7}, "NUM_CLASSES 8"),
    ({"MODEL.DENSE_HEAD.IN_FEATURES": ["p9"]}, "'p2', 'p3', 'p4'"),
    ({"MODEL.DENSE_HEAD.NORM": "XX"}, "'BN'"),
    ({"MODEL.DENSE_HEAD.PRIOR_PROB": 0.0}, "between 0 and 1"),
    ({"MODEL.DENSE_HEAD.BBOX_REG_WEIGHTS": (1, 2)}, "4 items"),
    ({"MODEL.DENSE_HEAD.BBOX_REG_WEIGHTS": (0.0, 1.0, 1.0, 1.0)}, "greater than 0"),
    ({"MODEL.DENSE_HEAD.ASSIGNMENT": "x"}, "iou, mutual_guidance"),
    ({"MODEL.DENSE_HEAD.IOU_THRESHOLDS": [0.5]}, "2 items"),
    ({"MODEL.DENSE_HEAD.IOU_THRESHOLDS": [0.6, 0.4]}, "ascending"),
    ({"MODEL.DENSE_HEAD.CLS_LOSS": "x"}, "focal, quality_focal"),
    ({"MODEL.DENSE_HEAD.BOX_LOSS": "x"}, "balanced_l1, smooth_l1"),
    ({"MODEL.DENSE_HEAD.NUM_CONVS": -1}, "0 or more"),
    ({"MODEL.DENSE_HEAD.SCORE_THRESH_TEST": 2.0}, "less than 1"),
    ({"MODEL.DENSE_HEAD.NMS_THRESH_TEST": -1.0}, "from 0 to 1"),
    ({"MODEL.DENSE_HEAD.TOPK_CANDIDATES_TEST": -3}, "0 or more"),
    ({"MODEL.ANCHOR_GENERATOR.SIZES": []}, "greater than 0"),
    ({"MODEL.ANCHOR_GENERATOR.SIZES": [[16], [32]]}, "3 levels"),
    ({"MODEL.ANCHOR_GENERATOR.SIZES": [["a"], [32], [64]]}, "greater than 0"),
    ({"MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[]]}, "greater than 0"),
    ({"MODEL.ANCHOR_GENERATOR.OFFSET": 2.0}, "less than 1"),
    ({"MODEL.RESNETS.DEPTH": 17}, "18, 34, 50"),
    ({"MODEL.RESNETS.NORM": "XX"}, "'FrozenBN'"),
    ({"MODEL.RESNETS.OUT_FEATURES": ["res9"]}, "'res5'"),
    ({"MODEL.RESNETS.OUT_FEATURES": []}, "'res5'"),
    ({"MODEL.RESNETS.STEM_OUT_CHANNELS": 0}, "1 or more"),
    ({"MODEL.FPN.IN_FEATURES": ["res7"]}, "MODEL.RESNETS.OUT_FEATURES"),
    ({"MODEL.FPN.OUT_CHANNELS": 0}, "1 or more"),
    ({"MODEL.FPN.NUM_EXTRA_LEVELS": -1}, "0 or more"),
    ({"MODEL.BACKBONE.FREEZE_AT": 9}, "from 0 to 5"),
    ({"MODEL.PIXEL_MEAN": [1.0]}, "3 items"),
    ({"MODEL.PIXEL_STD": [0.0, 0.0, 0.0]}, "greater than 0"),
    ({"INPUT.FORMAT": "XYZ"}, "'BGR', 'RGB'"),
    ({"INPUT.MIN_SIZE_TRAIN": [-5]}, "0 or more"),
    ({"INPUT.MIN_SIZE_TRAIN": []}, "0 or more"),
    ({"INPUT.MIN_SIZE_TRAIN_SAMPLING": "x"}, "'choice', 'range'"),
    ({"INPUT.MAX_SIZE_TRAIN": 0}, "1 or more"),
    ({"INPUT.RANDOM_FLIP": "diagonal"}, "'horizontal'"),
    ({"INPUT.AUGMENTATION": "single_shoot"}, "'single_shot'"),
    ({"INPUT.COPIES": 0}, "1 or more"),
    ({"INPUT.VIEWS": -1}, "0 or more"),
    ({"INPUT.SQUARE_SIZE": -3}, "0 or more"),
    ({"INPUT.CROP.ENABLED": True, "INPUT.CROP.TYPE": "x"}, "'absolute'"),
    ({"INPUT.CROP.ENABLED": True, "INPUT.CROP.SIZE": [5.0]}, "2 items"),
    ({"INPUT.MIX.MOSAIC": 2.0}, "from 0 to 1"),
    ({"INPUT.MIX.MOSAIC_SCALE": [1.0]}, "2 items"),
    ({"INPUT.MIX.MOSAIC_SCALE": [0.0, 1.0]}, "greater than 0"),
    ({"INPUT.MIX.MIXUP_ALPHA": 0.0}, "greater than 0"),
    ({"INPUT.MIX.MIN_VISIBLE": -0.1}, "from 0 to 1"),
    ({"INPUT.MIX.FINAL_FRACTION": 1.5}, "from 0 to 1"),
    ({"MODEL.MASK_ON": True, "INPUT.MIX.COPY_PASTE": 0.5}, "'bitmask'"),
    ({"INPUT.MULTI_SCALE.SIZES": [64]}, "INPUT.SQUARE_SIZE is 0"),
    ({"INPUT.SQUARE_SIZE": 64, "INPUT.MULTI_SCALE.SIZES": [0]}, "1 or more"),
    ({"DATASETS.TRAIN": ()}, "no image to train on"),
    ({"DATASETS.TRAIN": ("nope",)}, "'nope', which is not registered"),
    ({"DATASETS.TEST": ("nope",)}, "'nope', which is not registered"),
    (batches(3), "mapping"),
    (batches(TASK="seg"), "TASKS are det"),
    (batches({"TASK": "det"}), "the keys TASK and TRAIN"),
    (batches(TRAIN=["nope"]), "not registered"),
    (batches(IMS_PER_BATCH=0), "1 or more"),
    (batches(IMS_PER_BATCH="a"), "'a'; it must be a whole number, 1 or more"),
    (batches(OPTS=3), "OPTS is 3; it must be a list"),
    (batches(TRIAN=1), "Did you mean 'TRAIN'?"),
    (batches() | {"DATASETS.TASK_MODE": "x"}, "separate, mixed, alternate"),
    ({"DATALOADER.SAMPLER_TRAIN": "x"}, "'TrainingSampler'"),
    ({"DATALOADER.NUM_WORKERS": -1}, "from 0 to 256"),
    ({"SOLVER.MAX_ITER": 0}, "1 or more"),
    ({"SOLVER.MAX_ITER": -5}, "1 or more"),
    ({"SOLVER.IMS_PER_BATCH": 0}, "1 or more"),
    ({"SOLVER.BASE_LR": 0.0}, "greater than 0"),
    ({"SOLVER.BASE_LR": -0.1}, "greater than 0"),
    ({"SOLVER.MOMENTUM": 1.0}, "less than 1"),
    ({"SOLVER.CHECKPOINT_PERIOD": 0}, "1 or more"),
    ({"SOLVER.STEPS": (5, 3)}, "ascending"),
    ({"SOLVER.WARMUP_METHOD": "x"}, "'linear'"),
    ({"SOLVER.WARMUP_ITERS": -1}, "0 or more"),
    ({"SOLVER.LR_SCHEDULER_NAME": "x"}, "'WarmupCosineLR'"),
    ({"SOLVER.EMA.ENABLED": True, "SOLVER.EMA.DECAY": 1.5}, "from 0 to 1"),
    ({"SOLVER.EPOCHS": -1.0}, "0 or more"),
    ({"SOLVER.EARLY_STOPPING.ENABLED": True}, "name a registered validation set"),
    (stop(PERIOD=0), "set the iterations"),
    (stop(DATASET="tiny_test"), "SELECT_ON_TEST"),
    (stop(RULE="x"), "streak, fixed, never"),
    (stop(PATIENCE=-1), "1 or more"),
    (stop(METRICS=[]), "'bbox/AP'"),
    ({"TEST.EVALUATOR": "x"}, "'voc', 'detectron2_voc'"),
    ({"TEST.EVAL_PERIOD": -1}, "0 or more"),
    ({"TEST.VOC_IOU_THRESHOLDS": (1.5,)}, "less than 1"),
    ({"TEST.VOC_METRIC": "x"}, "'11pt'"),
    ({"TEST.SEM_SEG_RESOLUTION": "x"}, "'network'"),
    ({"TEST.AUG.ENABLED": True}, "not augmented"),
    ({"TEST.DETECTIONS_PER_IMAGE": -1}, "0 or more"),
    ({"TEST.EXPECTED_RESULTS": [["bbox", "AP"]]}, "[task, metric, value, tolerance]"),
    ({"OUTPUT_DIR": ""}, "name of a folder"),
    ({"OUTPUT_DIR": " "}, "name of a folder"),
    ({"OUTPUT_DIR": "'a\\x00b'"}, "zero byte"),
    ({"OUTPUT_DIR": "'a\\ud800b'"}, "name of a folder"),
    ({"OUTPUT_DIR": "s3://bucket/run"}, "name of a folder"),
    ({"OUTPUT_DIR": "~/run"}, "name of a folder"),
    ({"SEED": 2**32}, "less than 4294900000"),
    ({"SEED": 10**30}, "less than 4294900000"),
    ({"DATALOADER.NUM_WORKERS": 100000}, "from 0 to 256"),
    ({"SOLVER.STEPS": (0.5,)}, "a whole number"),
    ({"INPUT.MIN_SIZE_TRAIN": [64.5]}, "a whole number"),
    ({"INPUT.SQUARE_SIZE": 64, "INPUT.MULTI_SCALE.SIZES": [64.5]}, "a whole number"),
    ({"INPUT.MIN_SIZE_TRAIN_SAMPLING": "range", "INPUT.MIN_SIZE_TRAIN": [64]}, "2 items"),
    ({"INPUT.MIN_SIZE_TRAIN_SAMPLING": "range", "INPUT.MIN_SIZE_TRAIN": [9, 8]}, "ascending"),
    ({"INPUT.CROP.ENABLED": True, "INPUT.CROP.SIZE": [2.0, 2.0]}, "from 0 to 1"),
    (
        {"INPUT.CROP.ENABLED": True, "INPUT.CROP.TYPE": "absolute", "INPUT.CROP.SIZE": [0.5, 0.5]},
        "a whole number",
    ),
    ({"MODEL.DEVICE": "meta"}, "choose from cpu"),
    ({"MODEL.ANCHOR_GENERATOR.NAME": "RotatedAnchorGenerator"}, "DefaultAnchorGenerator"),
    ({"TEST.EXPECTED_RESULTS": [["segm", "AP", 1.0, 1.0]]}, "Choose from: bbox/AP"),
    ({"TEST.EXPECTED_RESULTS": [["bbox", "APx", 1.0, 1.0]]}, "not measured on 'tiny_test'"),
    ({"DATASETS.TEST": (), "TEST.EXPECTED_RESULTS": [["bbox", "AP", 1.0, 1.0]]}, "one data set"),
]
DISTILLED = [
    (paths(TYPE="FeatureMS"), "Did you mean 'FeatureMSE'?"),
    (paths(STUDENT=[]), "must name the layer"),
    (paths(STUDENT=3), "a list of names"),
    (paths(STUDENT=[3]), "a list of names"),
    (paths(WEIGHT="a"), "must be a number"),
    (paths(WEIGHT=-1), "0 or more"),
    (paths(LAYERWISE="x"), "type bool"),
    (paths(TEACHER_ID=4), "counted from 0"),
    (paths(TEACHER_ID="a"), "type int"),
    (paths(TASKS=["det"]), "DATASETS.TASK_BATCHES"),
    (paths(TASKS=3), "a list of names"),
    (paths(NAME=""), "without '.'"),
    (paths(NAME="a.b"), "without '.'"),
    (paths(NAME="a/b"), "without '.'"),
    (paths(WIEGHT=1), "Did you mean 'WEIGHT'?"),
    (paths(3), "mapping"),
    (paths("FeatureMSE"), "mapping"),
    (paths({}), "key TYPE"),
    (paths(MSE, MSE), "give each its own NAME"),
    (paths({"TYPE": "AttentionTransfer", "STUDENT": "backbone", "P": "x"}), "type float"),
    ({f"{D}ALPHA": -1.0}, "0 or more"),
    ({f"{D}RAMP.START": -1}, "0 or more"),
    ({f"{D}RAMP.SHAPE": "x"}, "linear, sigmoid"),
    ({f"{D}DECAY.SHAPE": "x"}, "linear, cosine"),
    ({f"{D}DECAY.FRACTION": 1.5}, "from 0 to 1"),
    ({f"{D}DECAY.FRACTION": 0.6, f"{D}DECAY.FINAL_FRACTION": 0.6}, "more than 1"),
    (aggregation("mgda") | {f"{D}BUDGET": True}, "weighs gradients"),
    ({f"{D}BUDGET": True, f"{D}HARD_LABELS": False}, "alpha is then a factor"),
    ({f"{D}BOX_SCORE_THRESH": 2.0}, "less than 1"),
    ({f"{D}STUDENT": "Distiller"}, "MultiTaskNetwork"),
    ({f"{D}TEACHER.CONFIG_FILE": ""}, "no such file"),
    ({f"{D}TEACHER.CONFIG_FILE": "no.yaml"}, "no such file"),
    ({f"{D}TEACHER.WEIGHTS": ""}, "no such file"),
    ({f"{D}TEACHER.WEIGHTS": "no.pth"}, "weights of a trained model"),
    ({f"{D}TEACHER.EMA_DECAY": 1.5}, "a number below 1"),
    ({f"{D}TEACHER.EMA_START": -1}, "0 or more iterations"),
    ({f"{D}TEACHER.PRECISION": "x"}, "bfloat16"),
    ({f"{D}MORE_TEACHERS": [3]}, "mapping with the keys of"),
    ({f"{D}MORE_TEACHERS": [{"WEIGHT": 1}]}, "Did you mean 'WEIGHTS'?"),
    ({f"{D}MORE_TEACHERS": [{"CONFIG_FILE": "no.yaml"}]}, "no such file"),
    (aggregation("x"), "Adaptive"),
    (aggregation("torchjd:X"), "UPGrad"),
    (aggregation("adaptive", FOO=1), "unknown key 'FOO'"),
    (aggregation("mgda", NORMALISATION="x"), "l2"),
    (aggregation("mgda", LENGTH="x"), "simplex"),
    (aggregation("mgda", SCOPE="x"), "parameters"),
    (aggregation("mgda", SCOPE_LAYERS=["x"]), "no layer 'x'"),
    (aggregation("dwa", TEMPERATURE=0.0), "above 0"),
    (aggregation("dwa", PERIOD=0), "at least 1"),
    (aggregation("uw_so", TEMPERATURE=0.0), "greater than 0"),
    (aggregation("fading", MAX_WEIGHTED_LOSS=1.0), "above 1"),
    (aggregation("adaptive", MAX_WEIGHTED_LOSS=-1.0), "above 1"),
    (aggregation("adaptive", Z_MOMENTUM=2.0), "less than 1"),
    (aggregation("grad_norm", LR=-1.0), "greater than 0"),
    (aggregation("grad_norm", ASYMMETRY="x"), "type float"),
    (aggregation("bilevel"), "name annotated data sets"),
    ({"INPUT.VIEWS": 2, f"{D}CACHE.FOLDER": "cache", f"{D}CACHE.MAX_GB": 0.0}, "greater than 0"),
    ({f"{D}CACHE.FOLDER": "cache"}, "INPUT.VIEWS"),
    ({f"{D}CACHE.FOLDER": "'a\\x00b'"}, "zero byte"),
    ({f"{D}CACHE.FOLDER": "pseudo.json"}, "name a folder"),
    ({"MODEL.ANCHOR_GENERATOR.SIZES": [[99], [32], [64]],
      f"{D}PATHS": [{"TYPE": "SoftDetection"}]}, "an anchor"),
    ({"MODEL.ANCHOR_GENERATOR.SIZES": [[16], [32], [99]],
      f"{D}PATHS": [{"TYPE": "PDFDistil"}]}, "an anchor"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "cure"), STUDENT, ids=str)
def test_a_key_of_the_student_is_named(world, keys, cure):
    message = world.train(*_pairs(keys))
    check_refusal(message, cure, *_named(keys))


@pytest.mark.parametrize(("keys", "cure"), DISTILLED, ids=str)
def test_a_key_of_the_distillation_is_named(world, keys, cure):
    message = world.train(*_pairs(keys), config="distilled.yaml")
    check_refusal(message, cure, *_named(keys))


def _named(keys):
    """The last word of the key at fault, which is the last one that is given, or a part of it."""
    *_, last = keys
    return [] if last.endswith(("ENABLED", "AGGREGATION.NAME")) else [last.rpartition(".")[2]]


def _pairs(keys):
    return [word for key, value in keys.items() for word in (key, str(value))]
