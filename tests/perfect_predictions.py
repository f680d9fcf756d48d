"""Evaluators that are given the ground truth."""

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances

from multas.data.formats.mask_files import MASK_VALUES, read_mask


def perfect_predictions(evaluator, name):
    """Scores of an evaluator that is given the ground truth as detections."""
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        boxes = [
            BoxMode.convert(entry["bbox"], entry["bbox_mode"], BoxMode.XYXY_ABS)
            for entry in record["annotations"]
        ]
        instances = Instances((record["height"], record["width"]))
        instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
        instances.pred_classes = torch.tensor(
            [entry["category_id"] for entry in record["annotations"]], dtype=torch.int64
        )
        instances.scores = torch.linspace(1, 0.5, len(boxes))
        evaluator.process([record], [{"instances": instances}])
    return evaluator.evaluate()["bbox"]


def perfect_masks(evaluator, name):
    """Scores of an evaluator that is given the masks as predictions; what is ignored is class 0."""
    evaluator.reset()
    metadata = MetadataCatalog.get(name)
    for record in DatasetCatalog.get(name):
        mask = read_mask(record["sem_seg_file_name"], record.get(MASK_VALUES)).astype(np.int64)
        mask[mask == metadata.ignore_label] = 0
        scores = torch.nn.functional.one_hot(torch.as_tensor(mask), len(metadata.stuff_classes))
        evaluator.process([record], [{"sem_seg": scores.permute(2, 0, 1).float()}])
    return evaluator.evaluate()["sem_seg"]
