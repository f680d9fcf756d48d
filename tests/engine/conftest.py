"""A tiny embedded data set and configs that train on it within seconds."""

import importlib.util
import itertools
import logging
import os
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.logger import setup_logger

from multas.data import make_toy
from multas.engine import load_config
from training import PATHS, two_tasks

_names = itertools.count()


@pytest.fixture(scope="session")
def devkit(tmp_path_factory) -> Path:
    """The embedded data set, 16 training, 4 validation and 4 test images."""
    return make_toy(tmp_path_factory.mktemp("devkit"), train=16, val=4, test=4)


@pytest.fixture(scope="session")
def card(devkit, repository) -> dict:
    """The shipped card of the embedded set, pointed at the tiny one under a name of its own."""
    import yaml

    content = yaml.safe_load((repository / "datasets" / "cards" / "toy.yaml").read_text())
    return {**content, "name": f"tiny{next(_names)}", "root": str(devkit)}


@pytest.fixture(scope="session")
def card_file(card, tmp_path_factory) -> Path:
    import yaml

    path = tmp_path_factory.mktemp("card") / "tiny.yaml"
    path.write_text(yaml.safe_dump(card))
    return path


@pytest.fixture
def tiny_cfg(card, card_file, tmp_path, repository):
    """``tiny_cfg(KEY, VALUE, ...)``: the quickstart's student, shrunk to train in seconds."""

    def build(*opts, folder: str = "run"):
        name = card["name"]
        base = [
            "DATASETS.CARDS", [str(card_file)],
            "DATASETS.TRAIN", [f"{name}_half"],
            "DATASETS.TEST", [f"{name}_test"],
            "MODEL.DEVICE", "cpu",
            "MODEL.RESNETS.STEM_MAX_POOL", True,
            "MODEL.RESNETS.STEM_OUT_CHANNELS", 4,
            "MODEL.RESNETS.RES2_OUT_CHANNELS", 4,
            "MODEL.FPN.OUT_CHANNELS", 8,
            "SOLVER.IMS_PER_BATCH", 4,
            "SOLVER.MAX_ITER", 3,
            "SOLVER.WARMUP_ITERS", 1,
            "SOLVER.CHECKPOINT_PERIOD", 100,
            "SOLVER.AMP.ENABLED", False,
            "SOLVER.CHANNELS_LAST", False,
            "TEST.VIS_IMAGES", 0,
            "OUTPUT_DIR", str(tmp_path / folder),
        ]  # fmt: skip
        return load_config(str(repository / "configs" / "quickstart" / "base.yaml"), [*base, *opts])

    return build


@pytest.fixture
def joint_cfg(tiny_cfg, card):
    """``joint_cfg(KEY, VALUE, ...)``: images to train on have boxes, masks or both."""

    def build(*opts, folder="run"):
        names = [f"{card['name']}_{split}" for split in ("det2", "seg2", "both_val")]
        test = ["DATASETS.TRAIN", names, "DATASETS.TEST", [f"{card['name']}_both_test"]]
        return two_tasks(tiny_cfg(*test, *opts, folder=folder))

    return build


@pytest.fixture
def teacher_files(tiny_cfg, tmp_path):
    """``teacher_files(KEY, VALUE, ...)``: the keys that name config and random weights of a
    teacher, the tiny detector but wider unless they say otherwise."""

    def build(*opts, heads=("det",)):
        wide = ["MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8,
                "MODEL.FPN.OUT_CHANNELS", 16]  # fmt: skip
        cfg = two_tasks(tiny_cfg(*wide, *opts), heads)
        stem = tmp_path / f"teacher{next(_names)}"
        config, weights = f"{stem}.yaml", f"{stem}.pth"
        Path(config).write_text(cfg.dump())
        torch.manual_seed(5)
        torch.save({"model": build_model(cfg).state_dict()}, weights)
        key = "MODEL.DISTILLATION.TEACHER"
        return [f"{key}.CONFIG_FILE", config, f"{key}.WEIGHTS", weights]

    return build


@pytest.fixture
def distilled_cfg(tiny_cfg, teacher_files, card):
    """``distilled_cfg(KEY, VALUE, ...)``: the tiny student, distilled over three paths from
    labelled and unlabelled images."""

    def build(*opts, folder="run"):
        name = card["name"]
        return tiny_cfg(
            *teacher_files(),
            "MODEL.META_ARCHITECTURE", "Distiller",
            "MODEL.DISTILLATION.PATHS", PATHS,
            "DATASETS.TRAIN", [f"{name}_half", f"{name}_half2_unlabeled"],
            *opts, folder=folder,
        )  # fmt: skip

    return build


@pytest.fixture
def two_teachers_cfg(tiny_cfg, teacher_files, card):
    """``two_teachers_cfg(KEY, VALUE, ...)``: a mini-batch per task, each with its own teacher."""

    def build(*opts):
        _, config, _, weights = teacher_files(heads=["seg"])
        name = card["name"]
        cfg = tiny_cfg(
            *teacher_files(),
            "MODEL.META_ARCHITECTURE", "Distiller",
            "MODEL.DISTILLATION.MORE_TEACHERS", [{"CONFIG_FILE": config, "WEIGHTS": weights}],
            "MODEL.DISTILLATION.PATHS", [
                {"TYPE": "FeatureMSE", "NAME": "det", "TASKS": ["det"]},
                {"TYPE": "SoftDetection", "TASKS": ["det"]},
                {"TYPE": "FeatureMSE", "NAME": "seg", "TASKS": ["seg"], "TEACHER_ID": 1},
            ],
            "DATASETS.TRAIN", [],
            "DATASETS.TASK_BATCHES", [
                {"TASK": "det", "TRAIN": [f"{name}_det", f"{name}_seg_unlabeled"]},
                {"TASK": "seg", "TRAIN": [f"{name}_seg"], "IMS_PER_BATCH": 2},
            ],
            *opts,
        )  # fmt: skip
        return two_tasks(cfg)

    return build


@pytest.fixture
def own_log():
    """Lets Detectron2's set-up add handlers to its loggers anew, and takes them away again."""
    setup_logger.cache_clear()
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "multas", "")]
    before = [list(logger.handlers) for logger in loggers]
    propagate = [logger.propagate for logger in loggers]
    yield
    for logger, handlers, value in zip(loggers, before, propagate, strict=True):
        logger.handlers[:] = handlers
        logger.propagate = value


@pytest.fixture
def train_net(repository, own_log):
    """``train_net(cfg, KEY, VALUE, ..., eval_only=False)``: what train_net.py does and returns."""
    spec = importlib.util.spec_from_file_location("train_net", repository / "train_net.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def run(cfg, *opts, eval_only=False):
        os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
        config = os.path.join(cfg.OUTPUT_DIR, "job.yaml")
        with open(config, "w") as file:
            file.write(cfg.dump())
        return script.main(
            Namespace(config_file=config, opts=list(opts), eval_only=eval_only, resume=False)
        )

    return run
