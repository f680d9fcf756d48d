"""Files of ImageNet weights as others distribute them, with random values in place of learned ones.

- torchvision's resnet18 … resnet101: state dicts of torchvision.models.
- Detectron2's ImageNetPretrained/MSRA/R-50.pkl and R-101.pkl: NumPy arrays by the names of Caffe2
  (conv1_w, res2_0_branch2a_w, res2_0_branch2a_bn_s, …; the statistics of the norms are folded into
  s and b), without "model" and "__author__" (detectron2/checkpoint/c2_model_loading.py).
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import Tensor

import convert_weights

DEPTHS = (18, 50, 101)  # of the papers' networks


def make_weights(folder: Path) -> None:
    """Make resnet18.pth, resnet50.pth and resnet101.pth, converted as output/weights is."""
    for depth in DEPTHS:
        name = f"resnet{depth}.pth"
        if not (folder / name).is_file():
            original = folder / f"torchvision_{name}"
            write_torchvision(original, depth)
            convert_weights.main([str(original), str(folder / name)])
            original.unlink()


def torchvision_weights(depth: int) -> dict[str, Tensor]:
    """A state dict of torchvision, drawn from a seed.

    The last norm of each block is small: so deep a network without learned statistics would
    otherwise have features beyond all bounds.
    """
    torch.manual_seed(depth)
    model = getattr(torchvision.models, f"resnet{depth}")(weights=None)
    weights = model.state_dict()
    last = f"bn{2 if depth < 50 else 3}.weight"
    for name, value in weights.items():
        if name.startswith("layer") and name.endswith(last):
            value.fill_(0.1)
    return weights


def write_torchvision(file: Path, depth: int) -> None:
    """Write a file as torchvision distributes it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(torchvision_weights(depth), file)


def msra_arrays(weights: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """What is in R-50.pkl or R-101.pkl, which are plain pickles, of a state dict of torchvision."""
    return {
        _caffe2_name(name): value.numpy()
        for name, value in weights.items()
        if "running" not in name and "num_batches" not in name
    }


def _caffe2_name(name: str) -> str:
    """layer1.0.conv2.weight -> res2_0_branch2b_w."""
    stem = {"conv1.weight": "conv1_w", "bn1.weight": "res_conv1_bn_s", "bn1.bias": "res_conv1_bn_b",
            "fc.weight": "pred_w", "fc.bias": "pred_b"}  # fmt: skip
    if name in stem:
        return stem[name]
    found = re.fullmatch(
        r"layer(\d)\.(\d+)\.(?:(conv|bn)(\d)|downsample\.([01]))\.(weight|bias)", name
    )
    assert found, name
    stage, block, kind, number, shortcut, end = found.groups()
    branch = "branch1" if shortcut else f"branch2{'abc'[int(number) - 1]}"
    is_norm = kind == "bn" or shortcut == "1"
    suffix = f"bn_{'s' if end == 'weight' else 'b'}" if is_norm else "w"
    return f"res{int(stage) + 1}_{block}_{branch}_{suffix}"
