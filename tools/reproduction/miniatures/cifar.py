"""Miniatures of CIFAR-10 and CIFAR-100, the Python versions.

- "Dataset layout" at cs.toronto.edu/~kriz/cifar.html: "Each of these files is a Python "pickled"
  object", a dictionary with "data -- a 10000x3072 numpy array of uint8s. Each row of the array
  stores a 32x32 colour image. The first 1024 entries contain the red channel values, the next 1024
  the green, and the final 1024 the blue" and "labels -- a list of 10000 numbers in the range 0-9";
  "The dataset contains another file, called batches.meta. It too contains a Python dictionary
  object", with label_names.
- The same page on CIFAR-100: "The python and Matlab versions are identical in layout to the
  CIFAR-10, so I won't waste space describing them here". So it does not name fine_labels,
  coarse_labels, meta and fine_label_names; torchvision.datasets.CIFAR100 reads these.

Not checked against a document: filenames, batch_label ("training batch 1 of 5" is what readers of
the original files print), and the other entries of batches.meta. The original files were written by
Python 2: torchvision reads their texts as str ("latin1"), as those written here are.

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
_TESTING = "testing batch 1 of 1"


def make_cifar(root: Path) -> None:
    """Make cifar-10-batches-py and cifar-100-python in the folder ``root``."""
    batches = [f"training batch {number} of 5" for number in range(1, 6)] + [_TESTING]
    files = zip([*CIFAR10.train_list, *CIFAR10.test_list], batches, strict=True)
    for number, ((name, _), batch) in enumerate(files):
        content = _content(batch, number, list(range(10)) * 2, "labels")
        _pickle(root / CIFAR10.base_folder / name, content)
    meta = {"num_cases_per_batch": 10000, "label_names": _NAMES, "num_vis": 3072}
    _pickle(root / CIFAR10.base_folder / "batches.meta", meta)
    for name, batch, labels in (("train", "training batch 1 of 1", list(range(100))),
                                ("test", _TESTING, list(range(0, 100, 5)))):  # fmt: skip
        content = _content(batch, len(labels), labels, "fine_labels")
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


def _content(batch: str, number: int, labels: list[int], key: str) -> dict[str, Any]:
    small = [
        cv2.resize(draw(i, (128, 128), 8).image, (32, 32), interpolation=cv2.INTER_AREA)
        for i in range(number, number + len(labels))
    ]
    data = np.stack([pixels.transpose(2, 0, 1).ravel() for pixels in small])
    names = [f"image_s_{i:06d}.png" for i in range(len(labels))]
    return {"batch_label": batch, key: labels, "data": data, "filenames": names}


def _pickle(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps(content, protocol=2))


def _md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes()).hexdigest()
