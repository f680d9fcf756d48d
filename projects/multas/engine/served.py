"""What a file of weights says of the model besides them, so that it can be served."""

import logging
from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode

from multas.data.class_names import class_names, name_classes
from multas.util.annotation import STANDARD

logger = logging.getLogger(__name__)

SERVED = "served"  # the entry of a checkpoint
_INPUT = ("FORMAT", "MIN_SIZE_TEST", "MAX_SIZE_TEST", "CENTER_CROP_TEST", "SQUARE_SIZE")


def served_facts(cfg: CfgNode) -> dict[str, dict[str, Any]]:
    """The names of the classes by task, and the keys of INPUT that make test images."""
    classes = {kind.task.upper(): names for kind, names in class_names(cfg).items()}
    return {"CLASSES": classes, "INPUT": {key: cfg.INPUT[key] for key in _INPUT}}


def heed_served_facts(cfg: CfgNode, facts: Any, weights: str) -> None:
    """Take from a file of weights the names that data sets lack, and warn of another input.

    Args:
        cfg: the config that the model is served with.
        facts: the entry of the file, in which anything may stand.
        weights: the file, for the message.
    """
    if not isinstance(facts, Mapping):
        return
    parts = [facts.get(key) for key in ("CLASSES", "INPUT")]
    classes, trained = (part if isinstance(part, Mapping) else {} for part in parts)
    tasks = {kind.task.upper() for kind in STANDARD}
    name_classes(
        cfg,
        {k: v for k, v in classes.items() if k in tasks and isinstance(v, list)
         and all(isinstance(name, str) for name in v)},
    )  # fmt: skip
    other = [
        f"INPUT.{key} {value!r} (now {cfg.INPUT[key]!r})"
        for key in _INPUT
        if (value := trained.get(key, cfg.INPUT[key])) != cfg.INPUT[key]
    ]
    if other:
        logger.warning(
            f"{weights} was trained with {', '.join(other)}: it sees other pixels than it was "
            "trained for."
        )
