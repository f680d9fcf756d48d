"""Miniatures of CIFAR-10 and CIFAR-100, the Python versions.

The format: "Dataset layout" at cs.toronto.edu/~kriz/cifar.html: pickles of Python 2 with
data (N x 3072, the red plane first), labels or fine_labels and coarse_labels, filenames and
batch_label; batches.meta and meta have the names of the classes. Texts of such files are read as
str, as those written here are.

torchvision opens none but the original files, since a pickle may run code: it knows their MD5
sums. ``accept`` has it open those of a miniature in their place.
"""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torchvision.datasets import CIFAR10, CIFAR100

from reproduction.miniatures.pictures import draw

_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def make_cifar(root: Path) -> None:
    """Make cifar-10-batches-py and cifar-100-python in the folder ``root``."""
    for number, (name, _) in enumerate([*CIFAR10.train_list, *CIFAR10.test_list]):
        content = _content(number, list(range(10)) * 2, "labels")
        _pickle(root / CIFAR10.base_folder / name, content)
    meta = {"num_cases_per_batch": 10000, "label_names": _NAMES, "num_vis": 3072}
    _pickle(root / CIFAR10.base_folder / "batches.meta", meta)
    for name, labels in (("train", list(range(100))), ("test", list(range(0, 100, 5)))):
        content = _content(len(labels), labels, "fine_labels")
        content["coarse_labels"] = [label // 5 for label in labels]
        _pickle(root / CIFAR100.base_folder / name, content)
    names = {"fine_label_names": [f"fine_{i}" for i in range(100)],
             "coarse_label_names": [f"coarse_{i}" for i in range(20)]}  # fmt: skip
    _pickle(root / CIFAR100.base_folder / "meta", names)


def accept(root: Path) -> None:
    """Have torchvision open the files of the miniature in ``root``, in this process."""
    for dataset in (CIFAR10, CIFAR100):
        folder = root / dataset.base_folder
        for files in ("train_list", "test_list"):
            own = [[name, _md5(folder / name)] for name, _ in getattr(dataset, files)]
            setattr(dataset, files, own)
        dataset.meta = dataset.meta | {"md5": _md5(folder / dataset.meta["filename"])}


def _content(number: int, labels: list[int], key: str) -> dict[str, Any]:
    small = [
        cv2.resize(draw(i, (128, 128), 8).image, (32, 32), interpolation=cv2.INTER_AREA)
        for i in range(number, number + len(labels))
    ]
    data = np.stack([pixels.transpose(2, 0, 1).ravel() for pixels in small])
    names = [f"image_s_{i:06d}.png" for i in range(len(labels))]
    return {"batch_label": f"batch {number}", key: labels, "data": data, "filenames": names}


def _pickle(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps(content, protocol=2))


def _md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes()).hexdigest()
