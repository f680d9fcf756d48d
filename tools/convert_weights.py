#!/usr/bin/env python3
"""Turn ImageNet weights of other libraries into a file that a config can name.

    python tools/convert_weights.py resnet18.pth output/weights/resnet18.pth
    python tools/convert_weights.py mobilenet_v2.pth mobilenetv2_100.pth --timm mobilenetv2_100

Of a torchvision-style ResNet, for MODEL.WEIGHTS: the result has the names of Detectron2's ResNet
without a prefix. Loading matches names by their ends, so that one file serves ResNets, FPNs,
students and teachers. Such weights expect

    INPUT.FORMAT "RGB", MODEL.PIXEL_MEAN [123.675, 116.28, 103.53],
    MODEL.PIXEL_STD [58.395, 57.12, 57.375] and MODEL.RESNETS.STRIDE_IN_1X1 False.

With --timm, of a MobileNetV2 (torchvision's, and older ones) or an EfficientNet of
efficientnet_pytorch, for MODEL.TIMM.PRETRAINED: the result has the names of the model of timm that
is given, such as mobilenetv2_100, efficientnet_b0 or, since its weights come from TensorFlow,
tf_efficientnet_lite0. The files of timm itself need no conversion.
"""

import argparse
import pickle
import re
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from multas.modeling.timm_models import import_timm
from multas.modeling.weight_files import check_is_file, read_weights
from multas.util.command_line import argument_parser, run
from multas.util.errors import UserError
from multas.util.files import written_whole

RENAMES = (
    (r"^bn1\.", "stem.conv1.norm."),
    (r"^conv1\.", "stem.conv1."),
    (r"^layer(\d+)\.", lambda match: f"res{int(match[1]) + 1}."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
    (r"^fc\.", "linear."),
)
KNOWN = re.compile(
    r"(conv1\.weight|bn1\.\w+|fc\.(weight|bias)"
    r"|layer[1-4]\.\d+\.(conv[1-3]\.weight|bn[1-3]\.\w+|downsample\.(0\.weight|1\.\w+)))"
)

# Families of networks whose layers stand in the same order there as in timm.
SAME_ORDER = (
    # EfficientNet of efficientnet_pytorch
    r"(_conv_stem|_bn0|_blocks\.\d+\._\w+|_conv_head|_bn1|_fc)\.\w+",
    # MobileNetV2
    r"(features\.\d+(\.conv)?(\.\d+)+|classifier(\.1)?)\.\w+",
)
CLASSIFIER = re.compile(r"(_fc|classifier(\.1)?)\.(weight|bias)")


def convert(weights: Mapping[str, Tensor], classifier: bool = False) -> dict[str, Tensor]:
    """Rename the entries of a torchvision-style ResNet state dict.

    Args:
        weights: names like "conv1.weight", "layer1.0.bn1.bias", "layer2.0.downsample.0.weight".
        classifier: whether "fc" is kept (as "linear").

    Returns:
        Names like "stem.conv1.weight", "res2.0.conv1.norm.bias", "res3.0.shortcut.weight".

    Raises:
        UserError: The entries are not those of a ResNet.
    """
    unknown = [name for name in weights if not KNOWN.fullmatch(name)]
    if unknown or "conv1.weight" not in weights:
        raise UserError(
            "These are not the weights of a torchvision-style ResNet: "
            + (f"unknown names {unknown[:5]}" if unknown else "there is no 'conv1.weight'")
            + ". Give the state dict of resnet18 … resnet152 (or a ResNeXt)."
        )
    converted = {}
    for name, value in weights.items():
        if name.endswith("num_batches_tracked") or (name.startswith("fc.") and not classifier):
            continue
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name)
        converted[name] = value
    return converted


def convert_to_timm(
    weights: Mapping[str, Tensor], name: str, classifier: bool = False
) -> dict[str, Tensor]:
    """Give the entries of a MobileNetV2 or an EfficientNet the names that timm has for them.

    Args:
        weights: names like "features.1.conv.0.weight" or "_blocks.0._depthwise_conv.weight", in the
            order of the layers.
        name: the model of timm.
        classifier: whether the last linear layer is kept.

    Raises:
        UserError: The entries are of no such network, or of another one than ``name``.
    """
    if not any(all(re.fullmatch(known, n) for n in weights) for known in SAME_ORDER):
        raise UserError(
            f"These are not the weights of a MobileNetV2 or an EfficientNet: {list(weights)[:3]} … "
            "Files of timm need no conversion; those of a ResNet are converted without --timm."
        )
    with torch.device("meta"):
        wanted = import_timm().create_model(name).state_dict()
    given = [n for n in weights if not n.endswith("num_batches_tracked")]
    given = [n for n in given if classifier or not CLASSIFIER.fullmatch(n)]
    own = [n for n in wanted if not n.endswith("num_batches_tracked")]
    own = [n for n in own if classifier or not CLASSIFIER.fullmatch(n)]
    for theirs, ours in zip_longest(given, own):
        if (
            theirs is None
            or ours is None
            or weights[theirs].shape != wanted[ours].shape
            or theirs.rpartition(".")[2] != ours.rpartition(".")[2]
        ):
            raise UserError(
                f"These are not the weights of {name}: where it has {ours}, they have {theirs}, or "
                "the shapes differ. Give --timm the model that they are of."
            )
    return {ours: weights[theirs] for theirs, ours in zip(given, own, strict=True)}


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict, bare or as the entry "state_dict" or "model" of a checkpoint."""
    check_is_file(str(path), "The input")
    weights = read_weights(str(path), inside=("state_dict",))["model"]
    tensors = {name: torch.as_tensor(value) for name, value in weights.items()}
    return {name.removeprefix("module."): value for name, value in tensors.items()}


def write_checkpoint(path: Path, weights: Mapping[str, Tensor], by_ends: bool = True) -> None:
    """Write a file in the format of its own end; ``by_ends``: it is loaded by the ends of names."""
    header = {"__author__": "multas", "matching_heuristics": by_ends}
    if path.suffix not in (".pth", ".safetensors", ".pkl"):
        raise UserError(f"The output '{path}' must end in .pth, .safetensors or .pkl.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as partial, open(partial, "wb") as file:
        if path.suffix == ".safetensors":
            file.write(save(dict(weights), {"matching_heuristics": str(by_ends)}))
        elif path.suffix == ".pkl":
            arrays = {name: value.numpy() for name, value in weights.items()}
            pickle.dump({"model": arrays, **header}, file)
        else:
            torch.save({"model": dict(weights), **header}, file)


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("input", type=Path, help="the state dict of a network")
    parser.add_argument("output", type=Path, help="the .pth, .safetensors or .pkl to write")
    parser.add_argument("--classifier", action="store_true", help="keep the last linear layer, too")
    parser.add_argument(
        "--timm", metavar="NAME", default="", help="the model of timm that it is of"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    if args.output.resolve() == args.input.resolve():
        raise UserError(f"The output '{args.output}' is the input; give it another name.")
    weights = read_state_dict(args.input)
    if args.timm:
        weights = convert_to_timm(weights, args.timm, args.classifier)
    else:
        weights = convert(weights, args.classifier)
    write_checkpoint(args.output, weights, by_ends=not args.timm)
    print(f"{len(weights)} tensors written to {args.output}")


if __name__ == "__main__":
    raise SystemExit(run(main))
