"""Detectron2's own VOC evaluator, on data sets of any format."""

import tempfile
from collections import OrderedDict
from functools import cached_property
from pathlib import Path

from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, PascalVOCDetectionEvaluator
from detectron2.utils import comm

from multas.evaluation.voc_ground_truth import GroundTruth, ground_truth_of, image_set_file

_SPLIT = "all"
_OBJECT = (
    "<object><name>{}</name><pose>Unspecified</pose><truncated>0</truncated>"
    "<difficult>{:d}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax>"
    "<ymax>{}</ymax></bndbox></object>"
)


class Detectron2VOCEvaluator(DatasetEvaluator):
    """Hands the detections to Detectron2's ``PascalVOCDetectionEvaluator``.

    It reads a VOC devkit, so the ground truth is written as one, in which images and classes are
    numbered and corners are whole pixels, as in VOC. Its results below ``bbox`` are ``AP``,
    ``AP50`` and ``AP75`` alone, in percent; ``VOCDetectionEvaluator`` gives the same and more, in
    less time.

    Args:
        dataset_name: registered name. Its metadata needs ``thing_classes``.
        metric: "11pt", "area", or "" for the metric of the metadata's ``year``: 11pt before 2010,
            otherwise area.
    """

    def __init__(self, dataset_name: str, *, metric: str = ""):
        metadata = MetadataCatalog.get(dataset_name)
        self._dataset_name = dataset_name
        self._class_names = list(metadata.thing_classes)
        self._is_2007 = metric == "11pt" if metric else (metadata.get("year") or 2010) < 2010
        self._folder = tempfile.TemporaryDirectory(prefix="multas_devkit_")
        self._evaluator = self._on_devkit(self._folder.name)

    @cached_property
    def _ground_truth(self) -> GroundTruth:
        return ground_truth_of(self._dataset_name, self._class_names)

    def _on_devkit(self, folder: str) -> PascalVOCDetectionEvaluator:
        if comm.is_main_process():  # which alone reads it
            write_devkit(self._ground_truth, folder)
        # The evaluator knows its devkit by the name of a data set.
        name = f"{self._dataset_name}, as VOC devkit {folder}"
        MetadataCatalog.get(name).set(
            dirname=folder,
            split=_SPLIT,
            year=2007 if self._is_2007 else 2012,
            thing_classes=[str(number) for number in range(len(self._class_names))],
        )
        try:
            return PascalVOCDetectionEvaluator(name)
        finally:
            MetadataCatalog.remove(name)

    def reset(self) -> None:
        self._evaluator.reset()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Add the predictions of a batch; see ``VOCDetectionEvaluator.process``."""
        for record, output in zip(inputs, outputs, strict=True):
            # Images without annotation are not in the devkit.
            number = self._ground_truth.image_index.get(str(record["image_id"]))
            if number is not None and "instances" in output:
                self._evaluator.process([{"image_id": number}], [output])

    def evaluate(self) -> OrderedDict | None:
        """``{"bbox": {"AP", "AP50", "AP75"}}``; None on other ranks than 0."""
        return self._evaluator.evaluate()


def write_devkit(truth: GroundTruth, folder: str) -> None:
    """Write ground truth as the annotations and the image list of a VOC devkit.

    Images and classes are called by their numbers.
    """
    objects: list[list[str]] = [[] for _ in truth.image_index]
    corners = truth.boxes.round().astype(int).tolist()
    rows = zip(truth.image.tolist(), truth.category.tolist(), truth.difficult.tolist(), corners,
               strict=True)  # fmt: skip
    for image, category, difficult, box in rows:
        objects[image].append(_OBJECT.format(category, difficult, *box))
    listed = Path(image_set_file(folder, _SPLIT))
    listed.parent.mkdir(parents=True)
    listed.write_text("".join(f"{number}\n" for number in range(len(objects))))
    annotations = Path(folder, "Annotations")
    annotations.mkdir()
    for number, content in enumerate(objects):
        text = f"<annotation>{''.join(content)}</annotation>"
        (annotations / f"{number}.xml").write_text(text)
