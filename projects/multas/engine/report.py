"""Tables and pictures of finished runs, made from what they left on disk."""

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.visualizer import Visualizer

from multas.data.image_files import read_image
from multas.data.loader import build_test_loader
from multas.engine.inference import load_model


def read_metrics(folder: str) -> dict[int, dict[str, float]]:
    """The metrics of a run by iteration. Of an iteration that was repeated, the last ones count."""
    records: dict[int, dict[str, float]] = {}
    with open(os.path.join(folder, "metrics.json")) as file:
        for line in file:
            try:
                # The next line follows directly on one that was cut off with its process.
                record = json.loads(line[max(line.rfind("{"), 0) :])
            except json.JSONDecodeError:
                continue
            records.setdefault(record["iteration"], {}).update(record)
    return records


def last_values(folder: str) -> dict[str, float]:
    """The latest value of each metric of a run."""
    records = sorted(read_metrics(folder).items())
    return {name: value for _, record in records for name, value in record.items()}


def final_values(folder: str) -> dict[str, float]:
    """What was measured of a run after its last iteration; nothing if it has not come so far.

    The losses of the last iteration are in the record before.
    """
    if not os.path.isfile(os.path.join(folder, "metrics.json")):
        return {}
    records = read_metrics(folder)
    last = records[max(records)] if records else {}
    return {} if "total_loss" in last else last


def training_seconds(folder: str) -> float:
    """The time of all iterations, from the time per iteration in the metrics."""
    seconds, before = 0.0, -1
    for iteration, record in sorted(read_metrics(folder).items()):
        if "time" in record:
            seconds += record["time"] * (iteration - before)
            before = iteration
    return seconds


def plot_paths(folder: str, output: str) -> None:
    """Draw the weight v, the loss L and v·L of every path over the iterations of a run."""
    records = sorted(read_metrics(folder).items())
    names = sorted({k.split("/", 1)[1] for _, r in records for k in r if k.startswith("path_loss")})
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), constrained_layout=True)
    titles = ["path weight v", "raw path loss L", "weighted path loss v·L"]
    for name in names:
        keys = f"path_weight/{name}", f"path_loss/{name}"
        rows = [(i, r[keys[0]], r[keys[1]]) for i, r in records if all(k in r for k in keys)]
        iterations, weights, losses = (np.array(column) for column in zip(*rows, strict=True))
        for axis, values in zip(axes, [weights, losses, weights * losses], strict=True):
            axis.plot(iterations, values, label=name)
    for axis, title in zip(axes, titles, strict=True):
        axis.set(title=title, xlabel="iteration", yscale="log")
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(output, dpi=110)
    plt.close(figure)


def contact_sheet(
    models: Mapping[str, tuple[CfgNode, str]],
    dataset: str,
    output: str,
    *,
    count: int = 6,
    score_thresh: float = 0.5,
    scale: float = 2.0,
) -> None:
    """Draw the ground truth, and the predictions of models, on the first images of a data set.

    ``models`` are configs and weights by name, and ``output`` is the PNG file to write. Boxes with
    a score up to ``score_thresh`` are not drawn.
    """
    metadata = MetadataCatalog.get(dataset)
    first, _ = next(iter(models.values()))
    samples = [batch[0] for batch in itertools.islice(build_test_loader(first, dataset), count)]
    annotated = {d["file_name"]: _drawable(d) for d in DatasetCatalog.get(dataset)}

    def canvas(sample: Mapping) -> Visualizer:
        image = read_image(sample["file_name"], "RGB")
        return Visualizer(image, metadata, scale=scale)

    truth = [canvas(x).draw_dataset_dict(annotated[x["file_name"]]) for x in samples]
    rows = {"ground truth": [drawn.get_image() for drawn in truth]}
    for name, (cfg, weights) in models.items():
        model = load_model(cfg, weights)
        with torch.no_grad():
            found = [model([sample])[0]["instances"].to("cpu") for sample in samples]
        best = [instances[instances.scores > score_thresh] for instances in found]
        pairs = zip(samples, best, strict=True)
        rows[name] = [canvas(x).draw_instance_predictions(y).get_image() for x, y in pairs]
    _draw_grid(rows, output)


def _drawable(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """A dataset dict as Detectron2 can draw it: with outlines of all its objects, or of none."""
    objects = record.get("annotations", ())
    if all("segmentation" in own for own in objects):
        return record
    boxes = [{key: own[key] for key in own if key != "segmentation"} for own in objects]
    return {**record, "annotations": boxes}


def _draw_grid(rows: Mapping[str, Sequence[np.ndarray]], output: str) -> None:
    shape = len(rows), max(len(images) for images in rows.values())
    size = (2.4 * shape[1], 2.5 * shape[0])
    figure, axes = plt.subplots(*shape, figsize=size, constrained_layout=True, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(line, images, strict=False):
            axis.imshow(image)
        line[0].set_title(name, loc="left", fontsize=10)
    figure.savefig(output, dpi=110)
    plt.close(figure)
