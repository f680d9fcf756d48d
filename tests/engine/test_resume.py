"""Runs that were stopped or killed end with the same bits as those that were not."""

import os
import signal
import subprocess
import sys
import time

import pytest

from training import PATHS, different, learned, train, train_in_parts, weights_in

RETINANET = [
    "MODEL.META_ARCHITECTURE", "RetinaNet",
    "MODEL.RETINANET.IN_FEATURES", ["p2", "p3", "p4"],
    "MODEL.RETINANET.NUM_CLASSES", 8,
    "MODEL.RETINANET.NUM_CONVS", 1,
]  # fmt: skip
AGGREGATIONS = {
    "adaptive": {"NAME": "adaptive"},
    "fading": {"NAME": "fading"},
    "dwa": {"NAME": "dwa", "PERIOD": 2},
    "mgda": {"NAME": "mgda"},
    "mgda, features": {
        "NAME": "mgda", "SCOPE": "features", "SCOPE_LAYERS": ["backbone.bottom_up.stem"]
    },
    "grad_norm": {"NAME": "grad_norm", "SCOPE_LAYERS": ["backbone.bottom_up.res3"]},
    "gradient_ratio": {
        "NAME": "gradient_ratio", "SCOPE": "features", "SCOPE_LAYERS": ["backbone.bottom_up.stem"]
    },
}  # fmt: skip


def assert_resumes(build, *opts):
    """A run that is interrupted behind iteration 4 goes on from its checkpoint behind 2."""
    opts = [*opts, "SOLVER.MAX_ITER", 6, "DATASETS.TEST", []]
    whole = train(build(*opts, folder="whole"))
    second = train_in_parts(build(*opts, "SOLVER.CHECKPOINT_PERIOD", 3, folder="parts"), last=4)
    assert second.start_iter == 3
    assert different(learned(second), learned(whole)) == []
    return whole, second


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_a_stopped_run_resumes_to_the_same_bits(distilled_cfg, name):
    keys = {f"MODEL.DISTILLATION.AGGREGATION.{k}": v for k, v in AGGREGATIONS[name].items()}
    whole, _ = assert_resumes(distilled_cfg, *(x for pair in keys.items() for x in pair))
    own = {
        "dwa": "v", "grad_norm": "v", "adaptive": "z", "fading": "z", "gradient_ratio": "sums"
    }.get(name)  # fmt: skip
    assert own is None or own in learned(whole)


def test_so_does_one_with_a_budget_and_an_end(distilled_cfg):
    key = "MODEL.DISTILLATION."
    whole, _ = assert_resumes(
        distilled_cfg, f"{key}AGGREGATION.NAME", "imtl_l", f"{key}BUDGET", True,
        f"{key}DECAY.FRACTION", 0.5,
    )  # fmt: skip
    assert "s" in learned(whole) and whole.path_weights.state_dict()["budget"]["task_loss"] > 0


def test_so_does_one_with_adamw(distilled_cfg):
    opts = ["SOLVER.OPTIMIZER", "adamw", "SOLVER.BASE_LR", 0.002, "SOLVER.WEIGHT_DECAY", 0.05]
    key = "MODEL.DISTILLATION.AGGREGATION."
    opts += [f"{key}Z_LR", 0.05, f"{key}START", "rest"]
    whole, _ = assert_resumes(distilled_cfg, *opts)
    first, *_, last = whole.optimizer.param_groups
    assert (first["initial_lr"], last["initial_lr"]) == (0.002, 0.05)


def test_so_does_one_in_channels_last(distilled_cfg):
    assert_resumes(distilled_cfg, "SOLVER.CHANNELS_LAST", True)


def test_so_does_one_whose_features_cross_heads(distilled_cfg):
    whole, _ = assert_resumes(
        distilled_cfg, "MODEL.DISTILLATION.PATHS", [{"TYPE": "CrossKD", "LAYERWISE": True}]
    )
    assert whole.path_weights.distillation.names == ["cross_cls", "cross_box_reg"]
    assert "paths.cross.adapters.0.project.weight" in learned(whole)
    assert not any("cross" in name for name in whole.model.state_dict())


def test_so_does_one_in_mixed_precision_with_all_that_follows_the_weights(distilled_cfg):
    teacher = "MODEL.DISTILLATION.TEACHER."
    assert_resumes(
        distilled_cfg, "SOLVER.AMP.ENABLED", True, "SOLVER.CHANNELS_LAST", True,
        "SOLVER.EMA.ENABLED", True, "SOLVER.CLIP_GRADIENTS.ENABLED", True,
        f"{teacher}CONFIG_FILE", "", f"{teacher}WEIGHTS", "", f"{teacher}EMA_DECAY", 0.9,
    )  # fmt: skip


def test_so_does_one_of_mixed_images(distilled_cfg):
    mix = {"MOSAIC": 0.5, "COPY_PASTE": 0.5, "MIXUP": 0.5, "FINAL_FRACTION": 0.2}
    assert_resumes(distilled_cfg, *(w for k, v in mix.items() for w in (f"INPUT.MIX.{k}", v)))


def test_so_does_one_with_a_stock_student(distilled_cfg, teacher_files):
    trainers = assert_resumes(
        distilled_cfg, *RETINANET, *teacher_files(*RETINANET),
        "MODEL.META_ARCHITECTURE", "Distiller", "MODEL.DISTILLATION.STUDENT", "RetinaNet",
        "MODEL.DISTILLATION.PATHS", PATHS[:2],
    )  # fmt: skip
    first, second = (trainer.model.student.loss_normalizer for trainer in trainers)
    assert first == second


def test_a_killed_process_resumes_to_the_same_bits(distilled_cfg, repository):
    opts = ["SOLVER.MAX_ITER", 16, "DATASETS.TEST", []]
    whole = train(distilled_cfg(*opts, folder="whole"))
    killed = distilled_cfg(*opts, "SOLVER.CHECKPOINT_PERIOD", 2, folder="killed")
    os.makedirs(killed.OUTPUT_DIR)
    config = os.path.join(killed.OUTPUT_DIR, "job.yaml")
    with open(config, "w") as file:
        file.write(killed.dump())
    command = [sys.executable, "train_net.py", "--resume", "--config-file", config]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=repository, env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    last = os.path.join(killed.OUTPUT_DIR, "last_checkpoint")
    deadline = time.monotonic() + 120
    while not os.path.exists(last) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert os.path.exists(last), "the run did not reach its first checkpoint"
    assert not os.path.exists(os.path.join(killed.OUTPUT_DIR, "student.pth"))
    subprocess.run(command, cwd=repository, env=environment, check=True, capture_output=True)
    assert different(weights_in(killed), dict(whole.model.state_dict())) == []
