import json
import sys
from pathlib import Path

import detectron2  # noqa: F401  (first: it makes torchvision work without compiled operators)
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image

from multas.evaluation import ClassificationEvaluator, SemanticSegmentationEvaluator
from multas.evaluation import VOCDetectionEvaluator as VOC
from two_ranks import process_group, run_on_two_ranks

KINDS = [VOC, SemanticSegmentationEvaluator, ClassificationEvaluator]
NAME = "on_two_ranks"


def evaluate(evaluator, records, numbers) -> dict | None:
    """Records and outputs of these images; predictions depend on the number of the image."""
    evaluator.reset()
    for number in numbers:
        generator = torch.Generator().manual_seed(number)
        instances = Instances((40, 40))
        instances.pred_boxes = Boxes(torch.tensor([[4.0, 4, 20, 20]]) + number % 3)
        instances.scores = torch.rand(1, generator=generator)
        instances.pred_classes = torch.tensor([number % 2])
        output = {
            "instances": instances,
            "sem_seg": torch.rand(2, 6, 5, generator=generator),
            "scores": torch.rand(4, generator=generator),
            "teacher_scores": torch.rand(4, generator=generator),
        }
        evaluator.process([records[number]], [output])
    return evaluator.evaluate()


def main(folder: Path, rank: int) -> None:
    """Each rank evaluates every second image together, then all images alone."""
    records = json.loads((folder / "records.json").read_text())
    DatasetCatalog.register(NAME, lambda: records)
    MetadataCatalog.get(NAME).set(thing_classes=["ant", "bee"], stuff_classes=["ground", "ant"])
    everything = range(len(records))
    with process_group(folder, rank):
        together = [evaluate(kind(NAME), records, everything[rank::2]) for kind in KINDS]
        alone = [evaluate(kind(NAME, distributed=False), records, everything) for kind in KINDS]
    # As JSON, since torch.load refuses NumPy numbers.
    torch.save(json.dumps([together, alone]), folder / f"rank{rank}.pth")


def test_two_processes_give_the_figures_of_one(tmp_path):
    rng = np.random.default_rng(0)
    records = []
    for number in range(7):
        labels = tmp_path / f"{number}.png"
        Image.fromarray(rng.integers(0, 2, (6, 5)).astype(np.uint8)).save(labels)
        box = {"bbox": [4.0, 4.0, 20.0, 20.0], "bbox_mode": 0, "category_id": number % 2}
        records.append(
            {
                "file_name": f"{number}.jpg",
                "image_id": number,
                "sem_seg_file_name": str(labels),
                "annotations": [box],
                "label": number % 4,
            }
        )
    (tmp_path / "records.json").write_text(json.dumps(records))
    (together, alone), (nothing, _) = map(json.loads, run_on_two_ranks(__file__, tmp_path))
    assert nothing == [None] * len(KINDS)
    assert [list(part) for part in alone] == [["bbox"], ["sem_seg"], ["classification"]]
    assert 0 < alone[0]["bbox"]["AP"] < 100
    for part, expected in zip(together, alone, strict=True):
        for task, figures in expected.items():
            assert part[task] == pytest.approx(figures)


@pytest.mark.parametrize("kind", KINDS)
def test_one_rank_may_evaluate_alone(kind, register):
    name = register(list, thing_classes=["ant"], stuff_classes=["ground"])
    assert not torch.distributed.is_initialized()
    assert kind(name, distributed=False).evaluate() == {}


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
