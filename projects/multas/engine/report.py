"""Tables and pictures of finished runs, made from what they left on disk."""

import json
import os
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.utils.visualizer import Visualizer

from multas.data.loader import build_test_loader
from multas.engine.inference import load_model


def read_metrics(folder: str) -> dict[int, dict[str, float]]:
    """iteration -> metrics of a run; of a resumed one the last word on each iteration."""
    path = os.path.join(folder, "metrics.json")
    records: dict[int, dict[str, float]] = {}
    with open(path) as file:
        for line in file:
            try:
                # A line cut off when the process was killed has the next one behind it.
                record = json.loads(line[max(line.rfind("{"), 0) :])
            except json.JSONDecodeError:
                continue
            records.setdefault(record["iteration"], {}).update(record)
    return records


def last_values(folder: str) -> dict[str, float]:
    """Metrics of a run, each the latest that was written."""
    latest: dict[str, float] = {}
    for _, record in sorted(read_metrics(folder).items()):
        latest.update(record)
    return latest


def training_seconds(folder: str) -> float:
    """Time of all iterations, from the time per iteration in the metrics."""
    records = sorted(read_metrics(folder).items())
    seconds, before = 0.0, -1
    for iteration, record in records:
        if "time" in record:
            seconds += record["time"] * (iteration - before)
            before = iteration
    return seconds


def plot_paths(folder: str, output: str) -> None:
    """Draw v, raw loss and v x loss of every path over the iterations of a distillation."""
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
    """Draw the ground truth and the predictions of several models side by side.

    Args:
        models: name -> (config, weights).
        dataset: registered, annotated; its first ``count`` images are drawn.
        output: PNG to write.
        count: number of images.
        score_thresh: of the boxes drawn.
        scale: enlargement.
    """
    metadata = MetadataCatalog.get(dataset)
    rows: dict[str, list[np.ndarray]] = {"ground truth": []}
    first = next(iter(models.values()))[0]
    loader = build_test_loader(first, dataset)
    samples = [batch[0] for _, batch in zip(range(count), loader, strict=False)]
    annotated = {d["file_name"]: d for d in DatasetCatalog.get(dataset)}

    def canvas(sample: Mapping) -> Visualizer:
        image = utils.read_image(sample["file_name"], "RGB")
        return Visualizer(image, metadata, scale=scale)

    for sample in samples:
        drawn = canvas(sample).draw_dataset_dict(annotated[sample["file_name"]])
        rows["ground truth"].append(drawn.get_image())
    for name, (cfg, weights) in models.items():
        model = load_model(cfg, weights)
        rows[name] = []
        for sample in samples:
            with torch.no_grad():
                found = model([sample])[0]["instances"].to("cpu")
            drawn = canvas(sample).draw_instance_predictions(found[found.scores > score_thresh])
            rows[name].append(drawn.get_image())
    _draw_grid(rows, output)


def _draw_grid(rows: Mapping[str, Sequence[np.ndarray]], output: str) -> None:
    columns = max(len(images) for images in rows.values())
    size = (2.4 * columns, 2.5 * len(rows))
    figure, axes = plt.subplots(
        len(rows), columns, figsize=size, constrained_layout=True, squeeze=False
    )
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for axis in line:
            axis.axis("off")
        for axis, image in zip(line, images, strict=False):
            axis.imshow(image)
        line[0].set_title(name, loc="left", fontsize=10)
    figure.savefig(output, dpi=110)
    plt.close(figure)
