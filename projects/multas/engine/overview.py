"""What a run says of itself before its first iteration: its networks and its plan."""

import logging
import os
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import ResNet
from detectron2.utils import comm
from torch import nn

import multas
from multas.data.loader import TrainLoader
from multas.data.task_batches import TaskLoader
from multas.distillation import Teacher
from multas.engine.run_log import LOG
from multas.engine.steps.mixed_precision import describe_precision
from multas.modeling.backbone import BLOCKS_PER_STAGE
from multas.util.files import write_text
from multas.util.messages import Message
from multas.util.screen import as_text, facts

logger = logging.getLogger(__name__)

MODEL_FILE = "model.txt"


def networks(cfg: CfgNode, student: nn.Module, teachers: Sequence[Teacher]) -> Message:
    """The networks in a line each: class, backbone, parameters, input."""
    pairs = {"model": f"{describe_network(student)}, {describe_input(cfg)}"}
    for i, teacher in enumerate(teachers):
        words = [describe_network(teacher.model)]
        words += [str(teacher.precision).removeprefix("torch.")] if teacher.precision else []
        words += [teacher.weights or "it follows the student"]
        pairs[f"teacher {i}" if len(teachers) > 1 else "teacher"] = ", ".join(words)
    return _message(pairs)


def describe_network(network: nn.Module) -> str:
    """The class of a network, its tasks, its backbone and its size."""
    heads = getattr(network, "heads", None)
    tasks = f" ({', '.join(heads)})" if isinstance(heads, nn.ModuleDict) else ""
    words = [f"{type(network).__name__}{tasks}"]
    if isinstance(backbone := getattr(network, "backbone", None), nn.Module):
        words.append(_describe_backbone(backbone))
    size = sum(parameter.numel() for parameter in network.parameters())
    words.append(f"{size / 1e6:.2f} M parameters" if size >= 10_000 else f"{size} parameters")
    return ", ".join(words)


def _describe_backbone(backbone: nn.Module) -> str:
    name = type(backbone).__name__
    if isinstance(backbone, ResNet):
        name += _depth(backbone)
    inner = getattr(backbone, "bottom_up", None)
    return f"{name} on {_describe_backbone(inner)}" if isinstance(inner, nn.Module) else name


def _depth(network: ResNet) -> str:
    """The depth in the name of a ResNet, of which the last stages may be left out."""
    own = tuple(len(stage) for stage in network.stages)
    is_deep = hasattr(network.stages[0][0], "conv3")
    depths = [
        f"-{depth}"
        for depth, blocks in BLOCKS_PER_STAGE.items()
        if blocks[: len(own)] == own and (depth >= 50) == is_deep
    ]
    return next(iter(depths), "")


def describe_input(cfg: CfgNode) -> str:
    """The size of training images in pixels, by INPUT."""
    if side := cfg.INPUT.SQUARE_SIZE:
        sizes = cfg.INPUT.MULTI_SCALE.SIZES or [side]
        return f"squares of {_range(sizes)} px"
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    sizes = [sizes] if isinstance(sizes, int) else sizes
    return f"shorter side {_range(sizes)} px" if any(sizes) else "images as they are"


def _range(sizes: Sequence[int]) -> str:
    low, high = min(sizes), max(sizes)
    return f"{low}" if low == high else f"{low} to {high}"


def announce(cfg: CfgNode, network: nn.Module, loader: Any, start: int, end: int) -> None:
    """Log what a run is going to do, and write the model that it trains to model.txt.

    Args:
        cfg: its config.
        network: what it trains, without wrappers.
        loader: its training loader.
        start: the iterations that are done.
        end: all iterations.

    Raises:
        UserError: There is no room on the disk.
    """
    if comm.is_main_process():
        write_text(os.path.join(cfg.OUTPUT_DIR, MODEL_FILE), f"{network}\n")
    how_long = f"{end} iterations of {_batches(cfg, loader, end)}"
    ranks = f"{comm.get_world_size()} × " * (comm.get_world_size() > 1)
    begins = f"from {cfg.MODEL.WEIGHTS}" if cfg.MODEL.WEIGHTS else "with random weights"
    period = cfg.TEST.EVAL_PERIOD
    when = (f"every {period} iterations and " if 0 < period < end else "") + "at the end"
    tests = f"on {', '.join(cfg.DATASETS.TEST)}, {when}" if cfg.DATASETS.TEST else "none"
    files = f"(config.yaml, {MODEL_FILE}, {LOG}, metrics.json)"
    lines = {
        "plan": f"{how_long} on {ranks}{cfg.MODEL.DEVICE}, learning rate {cfg.SOLVER.BASE_LR:g}",
        "precision": describe_precision(cfg).removeprefix("Training in "),
        "begins": f"after {start} iterations" if start else begins,
        "evaluation": tests,
        "folder": f"{os.path.join(cfg.OUTPUT_DIR, '')} {files}",
    }
    logger.info(_message(lines))


def _batches(cfg: CfgNode, loader: Any, end: int) -> str:
    """The images of an iteration and, where they are drawn from one set, the epochs."""
    parts = loader.loaders if isinstance(loader, TaskLoader) else [loader]
    if not all(isinstance(part, TrainLoader) for part in parts):  # a user's own
        return f"{cfg.SOLVER.IMS_PER_BATCH} images"
    sizes = [part.sampler.batch_size * comm.get_world_size() for part in parts]
    if len(parts) == 1:
        epochs = end * sizes[0] / len(parts[0].dataset)
        return f"{sizes[0]} images ({epochs:.3g} epochs)"
    return f"{(' or ' if loader.mode == 'alternate' else ' + ').join(map(str, sizes))} images"


def title(config_file: str) -> str:
    """The first line of a run."""
    return f"multas {multas.__version__}, {config_file or 'a config of defaults'}"


def _message(pairs: dict[str, str]) -> Message:
    table = facts(pairs)
    return Message(as_text(table), table)
