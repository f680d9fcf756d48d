"""The networks of a job, and the weights that they start from."""

import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Sequence

from multas.config.files import read_file
from multas.engine import load_config
from multas.modeling.timm_models import HUB, create_timm_model
from multas.modeling.weight_files import check_is_file
from multas.util.errors import UserError
from own_data.config_files import Config, set_key
from own_data.scripts import REPOSITORY

SIZES = REPOSITORY / "configs" / "sizes"
# The teacher of a student of each size.
TEACHERS = {"nano": "medium", "small": "large", "medium": "large"}
NONE = "none"
PIXELS = ("PIXEL_MEAN", "PIXEL_STD")


def network_of(size: str, weights: str = HUB) -> Config:
    """The keys of a network for any tasks; without weights one that learns quickly from random."""
    folder = SIZES if weights else SIZES / "from_scratch"
    config = read_file(str(folder / f"{size}.yaml"))
    del config["MODEL"]["MULTITASK"]
    return config


def pretrained_weights(size: str, given: Sequence[str]) -> tuple[str, str]:
    """What student and teacher start from: MODEL.TIMM.PRETRAINED of both, "" for random weights.

    Args:
        size: of the student.
        given: "hub", files, or "none", of both or of the student alone; empty: the hub's weights,
            if they can be had.

    Raises:
        UserError: A file, or what was asked for of the hub, cannot be had.
    """
    for weights in given:
        if weights not in (HUB, NONE):
            check_is_file(weights, "--pretrained")
    if given:
        student, teacher = (*given, given[0] if given[0] in (HUB, NONE) else NONE)[:2]
        return ("" if student == NONE else student), ("" if teacher == NONE else teacher)
    if not _hub_answers():
        os.environ["HF_HUB_OFFLINE"] = "1"  # or it would be asked for a minute
    try:
        for name in (size, TEACHERS[size]):
            cfg = load_config(str(SIZES / f"{name}.yaml"), ["MODEL.TIMM.PRETRAINED", HUB])
            create_timm_model(cfg, len(cfg.MODEL.PIXEL_MEAN))
    except UserError as error:
        print(f"Both networks start from random weights. {error}\n", flush=True)
        return "", ""
    return HUB, HUB


def _hub_answers() -> bool:
    """Whether the host of timm's hub is known here, or a proxy that knows it."""
    if urllib.request.getproxies():
        return True
    host = urllib.parse.urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
    try:
        socket.create_connection((host or "", 443), timeout=3).close()
    except OSError:
        return False
    return True


def start_from(config: Config, weights: str, size: str) -> None:
    """Start from weights, in place; their pixels are then those that they were trained on."""
    if weights:
        set_key(config, "MODEL.TIMM.PRETRAINED", weights)
        config["MODEL"] |= {key: network_of(size)["MODEL"][key] for key in PIXELS}
