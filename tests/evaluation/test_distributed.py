import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from multas.evaluation import ClassificationEvaluator, SemanticSegmentationEvaluator
from multas.evaluation import VOCDetectionEvaluator as VOC

# Each of two processes sees every second image, then the first one sees all of them alone. What is
# predicted follows from the number of the image.
SCRIPT = """
import json, os, sys
import detectron2
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from multas.evaluation import (
    ClassificationEvaluator, SemanticSegmentationEvaluator, VOCDetectionEvaluator,
)

folder, rank = sys.argv[1], int(sys.argv[2])
meeting = "file://" + os.path.join(folder, "meeting")
torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
records = json.load(open(os.path.join(folder, "records.json")))
DatasetCatalog.register("toy", lambda: records)
MetadataCatalog.get("toy").set(thing_classes=["ant", "bee"], stuff_classes=["ground", "ant"])
kinds = [VOCDetectionEvaluator, SemanticSegmentationEvaluator, ClassificationEvaluator]


def evaluate(evaluator, numbers):
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


together = [evaluate(kind("toy"), range(rank, len(records), 2)) for kind in kinds]
if rank == 0:
    alone = [evaluate(kind("toy", distributed=False), range(len(records))) for kind in kinds]
    json.dump([together, alone], open(os.path.join(folder, "results.json"), "w"))
else:
    assert together == [None] * len(kinds)
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def start(folder, rank):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    arguments = [sys.executable, "-c", SCRIPT, str(folder), str(rank)]
    return subprocess.Popen(
        arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


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
    processes = [start(tmp_path, rank) for rank in (0, 1)]
    for process in processes:
        output, _ = process.communicate(timeout=200)
        assert process.returncode == 0, output
    together, alone = json.loads((tmp_path / "results.json").read_text())
    assert [list(part) for part in alone] == [["bbox"], ["sem_seg"], ["classification"]]
    assert 0 < alone[0]["bbox"]["AP"] < 100
    for part, expected in zip(together, alone, strict=True):
        for task, figures in expected.items():
            assert part[task] == pytest.approx(figures)


@pytest.mark.parametrize("kind", [VOC, SemanticSegmentationEvaluator, ClassificationEvaluator])
def test_one_rank_may_evaluate_alone(kind, register):
    name = register(list, thing_classes=["ant"], stuff_classes=["ground"])
    assert not torch.distributed.is_initialized()
    assert kind(name, distributed=False).evaluate() == {}
