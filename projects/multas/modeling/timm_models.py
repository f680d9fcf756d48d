"""Models of timm by name, with weights of a file or of its hub, as extractors of feature maps."""

import difflib
import logging
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from multas.modeling.depthwise import replace_slow_convolutions
from multas.modeling.strict_loading import series
from multas.modeling.weight_files import check_is_file, read_weights
from multas.util.errors import UserError

logger = logging.getLogger(__name__)

KEY = "MODEL.TIMM"
HUB = "hub"
# How a model is told to take images of any size, whichever of these it knows.
_ANY_SIZE = ({"dynamic_img_size": True}, {"strict_img_size": False})
# Mean and deviation may differ by that from those of the training, of pixels from 0 to 255.
_TOLERANCE = 5.0


class Level(NamedTuple):
    """A feature map that a model of timm gives: where it is, and what it is like."""

    number: int  # among its features
    channels: int
    stride: int
    module: str  # that returns it


def import_timm() -> Any:
    """The library timm.

    Raises:
        UserError: It is not installed.
    """
    try:
        return import_module("timm")
    except ImportError:
        raise UserError(f"{KEY}.NAME needs the library timm: pip install 'multas[timm]'.") from None


def create_timm_model(cfg: CfgNode, channels: int) -> Any:
    """The model that MODEL.TIMM names, without its classifier, in training mode.

    Its weights are random, unless MODEL.TIMM.PRETRAINED names some and MODEL.WEIGHTS, which would
    replace them, is empty.

    Args:
        cfg: the config.
        channels: the number of channels of images.

    Raises:
        FileNotFoundError: There is no such file of weights.
        UserError: No such model, it gives no feature maps or takes images of one size alone; or its
            weights cannot be had or belong to another one.
    """
    timm = import_timm()
    options = cfg.MODEL.TIMM
    _check_name(timm, options.NAME)
    arguments: dict[str, Any] = {"num_classes": 0, "in_chans": channels}
    if options.DROP_PATH:
        arguments["drop_path_rate"] = options.DROP_PATH
    model, more = _create(timm, options.NAME, arguments)
    replace_slow_convolutions(model, timm.layers.Conv2dSame)
    if not hasattr(model, "forward_intermediates") or not getattr(model, "feature_info", None):
        raise UserError(
            f"{KEY}.NAME is '{options.NAME}', which gives no feature maps. Choose a model with "
            "stages, such as mobilenetv2_100, regnety_002, convnext_atto or resnet50."
        )
    if not options.PRETRAINED or cfg.MODEL.WEIGHTS:
        return model
    source = model.pretrained_cfg
    wanted = source["input_size"][0]
    if channels != wanted:
        raise UserError(
            f"{KEY}.PRETRAINED: {options.NAME} was trained on images of {wanted} channels, but the "
            f"images have {channels} (MODEL.PIXEL_MEAN). Train it from random weights: ''."
        )
    if options.PRETRAINED == HUB:
        model = _from_hub(timm, options.NAME, arguments | more, source)
        replace_slow_convolutions(model, timm.layers.Conv2dSame)
    else:
        load_timm_weights(model, options.PRETRAINED, options.NAME)
    _check_pixels(cfg, source)
    return model


def levels_of(model: nn.Module) -> dict[str, Level]:
    """The last map of each stride, by the names ``res<log2 of the stride>``, finest first.

    A patch of 14 px counts as one of 16 px, since images are made smaller for it, see
    :func:`scale_of`.
    """
    scale = scale_of(model)
    found = {}
    for number, info in enumerate(_features(model)):
        stride = round(info["reduction"] / scale)
        name = f"res{stride.bit_length() - 1}"
        found[name] = Level(number, info["num_chs"], stride, info["module"])
    return found


def scale_of(model: nn.Module) -> float:
    """What the sides of images are multiplied by, so that all strides are powers of two."""
    coarsest = int(_features(model)[-1]["reduction"])
    return coarsest / (1 << (coarsest - 1).bit_length())


def is_plain(model: nn.Module) -> bool:
    """Whether all maps have one stride, as those of a plain ViT."""
    return len({info["reduction"] for info in _features(model)}) == 1


def load_timm_weights(model: nn.Module, path: str, name: str) -> None:
    """Load a local file with the names of timm, or with older ones that timm converts.

    The file may have a classifier, which is left out.

    Raises:
        FileNotFoundError: There is no such file.
        UserError: It cannot be read as weights, or is of another model; the message has the names
            of parameters that it lacks.
    """
    key = f"{KEY}.PRETRAINED"
    check_is_file(path, key)
    content = read_weights(path, inside=("state_dict",))["model"]
    weights = {n.removeprefix("module."): torch.as_tensor(v) for n, v in content.items()}
    own = model.state_dict()
    lost = _lost(own, weights)
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if lost and convert is not None:
        weights = _converted(convert, weights, model)
        lost = _lost(own, weights)
    known = {start for parameter in own for start in series(parameter)}
    more = [n for n in weights if n not in own and not known.isdisjoint(series(n))]
    if lost or more:
        what = (
            f"lacks {len(lost)} of its {len(own)} parameters, or has them in another shape: "
            f"{', '.join(lost[:4])}"
            if lost
            else f"has {len(more)} parameters of layers that it lacks: {', '.join(more[:4])}"
        )
        raise UserError(
            f"{key} '{path}' is not of {name}: it {what} … Name the weights of this model, or the "
            f"model that they are of in {KEY}.NAME."
        )
    model.load_state_dict(weights, strict=False)
    logger.info(f"{len(own)} parameters of {name} loaded from {path}.")


def _features(model: Any) -> list[Mapping[str, Any]]:
    info = model.feature_info
    return list(getattr(info, "info", info))


def _check_name(timm: Any, name: str) -> None:
    plain, _, tag = name.partition(".")
    if not timm.is_model(plain):
        near = difflib.get_close_matches(plain, timm.list_models(), n=5)
        hint = f"Nearest: {', '.join(near)}. " if near else ""
        raise UserError(
            f"{KEY}.NAME is '{name}', which is no model of timm {timm.__version__}. {hint}Names "
            "are those of timm.list_models(), such as mobilenetv2_100 or vit_small_patch14_dinov2; "
            f"a file of weights goes into {KEY}.PRETRAINED."
        )
    tags = [n.partition(".")[2] for n in timm.list_pretrained(f"{plain}.*")]
    if tag and tag not in tags:
        raise UserError(
            f"{KEY}.NAME is '{name}', but {plain} has no weights called '{tag}'; it has "
            f"{', '.join(tags) or 'none'}."
        )


def _create(timm: Any, name: str, arguments: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A model that takes images of any size, and the arguments that make it do so."""
    one_size = timm.get_pretrained_cfg(name).fixed_input_size
    for more in _ANY_SIZE if one_size else ({},):
        try:
            return timm.create_model(name, **arguments, **more), dict(more)
        except TypeError as error:
            if "drop_path_rate" in str(error):
                raise UserError(
                    f"{KEY}.DROP_PATH is {arguments['drop_path_rate']}, but {name} cannot leave "
                    "out paths; set it to 0.0."
                ) from error
            if not any(argument in str(error) for argument in more):
                raise
    raise UserError(
        f"{KEY}.NAME is '{name}', which takes images of one size alone. Choose a model of "
        "convolutions or a ViT."
    )


def _from_hub(
    timm: Any, name: str, arguments: dict[str, Any], source: Mapping[str, Any]
) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=True, **arguments)
    # The model itself can be built, so that it is the weights, and each client of the network has
    # errors of its own.
    except Exception as error:
        first = str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".")
        place = source.get("hf_hub_id") or source.get("url")
        cure = f"fetch them where there is one ({place}) and name" if place else "name"
        raise UserError(
            f"{KEY}.PRETRAINED is '{HUB}', but the weights of {name} cannot be had "
            f"({type(error).__name__}: {first:.200}). Without a network, {cure} a file "
            "(.safetensors or .pth), or '' for random weights."
        ) from error


def _converted(convert: Any, weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The same with today's names; as they are where timm cannot make sense of them."""
    try:
        return convert(dict(weights), model)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return weights


def _lost(own: Mapping[str, Tensor], weights: Mapping[str, Any]) -> list[str]:
    return [
        name
        for name, value in own.items()
        if not name.endswith("num_batches_tracked")
        and (name not in weights or weights[name].shape != value.shape)
    ]


def _check_pixels(cfg: CfgNode, source: Mapping[str, Any]) -> None:
    """Warn where pretrained weights meet other pixels than those that they were trained on."""
    wanted = [np.array(source[name]) * 255 for name in ("mean", "std")]
    found = [np.array(x) for x in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)]
    apart = max(np.abs(a - b).max() for a, b in zip(wanted, found, strict=True))
    if cfg.INPUT.FORMAT != "RGB" or apart > _TOLERANCE:
        mean, std = ([round(float(x), 3) for x in values] for values in wanted)
        logger.warning(
            f"{KEY}.PRETRAINED: {cfg.MODEL.TIMM.NAME} was trained on other pixels. Set "
            f"INPUT.FORMAT RGB (now {cfg.INPUT.FORMAT}), MODEL.PIXEL_MEAN {mean} (now "
            f"{list(cfg.MODEL.PIXEL_MEAN)}) and MODEL.PIXEL_STD {std} (now "
            f"{list(cfg.MODEL.PIXEL_STD)})."
        )
