"""Shipped recipes made small enough for a test: narrow networks, few images, two iterations."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model

from multas.config import add_multas_config, merge_config
from multas.distillation import Teacher
from multas.engine import load_config


@cache
def as_shipped(address: str) -> CfgNode:
    """What a file or row says, before anything of it is registered; frozen."""
    cfg = get_cfg()
    add_multas_config(cfg)
    merge_config(cfg, address)
    cfg.freeze()
    return cfg


def narrow(address: str) -> list:
    """KEY VALUE pairs that leave a network's structure and classes and make it narrow (CPU)."""
    deep = as_shipped(address).MODEL.RESNETS.DEPTH >= 50
    width = 12 if "teacher" in address else 8
    return [
        "MODEL.DEVICE", "cpu",
        "MODEL.WEIGHTS", "",
        "MODEL.RESNETS.STEM_OUT_CHANNELS", 4,
        "MODEL.RESNETS.RES2_OUT_CHANNELS", 16 if deep else 4,
        "MODEL.RESNETS.WIDTH_PER_GROUP", 4 if deep else 64,
        "MODEL.NECK.OUT_CHANNELS", width,
        "MODEL.FPN.OUT_CHANNELS", width,
        "MODEL.SEMANTIC_FPN_HEAD.CONVS_DIM", 8,
        "MODEL.SEM_SEG_HEAD.CONVS_DIM", 8,
    ]  # fmt: skip


def shrunk(address: str) -> list:
    """The same with the classes of the embedded sets."""
    return [
        *narrow(address),
        "MODEL.DENSE_HEAD.NUM_CLASSES", 8,
        "MODEL.GFL_HEAD.NUM_CLASSES", 8,
        "MODEL.LINEAR_HEAD.NUM_CLASSES", 8,
        "MODEL.SEMANTIC_FPN_HEAD.NUM_CLASSES", 9,
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 9,
    ]  # fmt: skip


class TinyRecipes:
    """Makes configs; teachers have random weights, which are written once.

    Args:
        folder: for the weights of the teachers.
        shrink: gives the KEY VALUE pairs that make the network of a recipe small.
    """

    def __init__(self, folder: Path, shrink: Callable[[str], list] = shrunk) -> None:
        self._folder, self._shrink = folder, shrink
        self._weights: dict[str, str] = {}

    def __call__(self, address: str, *opts, output: Path) -> CfgNode:
        """A recipe for two iterations; ``opts`` name at least its data sets."""
        pairs = [
            *self._shrink(address),
            "DATASETS.CARDS", [],
            "INPUT.MIN_SIZE_TRAIN", [64],
            "INPUT.MIN_SIZE_TEST", 64,
            "DATALOADER.NUM_WORKERS", 0,
            "SOLVER.IMS_PER_BATCH", 2,
            "SOLVER.MAX_ITER", 2,
            "SOLVER.STEPS", [],
            "TEST.VIS_IMAGES", 0,
            "OUTPUT_DIR", str(output),
        ]  # fmt: skip
        teacher = as_shipped(address).MODEL.DISTILLATION.TEACHER.CONFIG_FILE
        if teacher:
            key = "MODEL.DISTILLATION.TEACHER"
            pairs += [f"{key}.WEIGHTS", self.teacher(teacher), f"{key}.OPTS", self._shrink(teacher)]
        return load_config(address, [*pairs, *opts])

    def teacher(self, address: str) -> str:
        """The weights of a narrow teacher."""
        if address not in self._weights:
            self._weights[address] = str(self._folder / f"{len(self._weights)}.pth")
            torch.manual_seed(5)
            model = build_model(Teacher.load_config(address, self._shrink(address)))
            torch.save({"model": model.state_dict()}, self._weights[address])
        return self._weights[address]
