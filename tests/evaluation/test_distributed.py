import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from multas.evaluation import ClassificationEvaluator, SemanticSegmentationEvaluator
from multas.evaluation import VOCDetectionEvaluator as VOC
from PIL import Image

# Each process sees every second image. The label maps and boxes follow from the image's number.
SCRIPT = """
import json, os, sys
import detectron2
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from multas.evaluation import (
    ClassificationEvaluator, SemanticSegmentationEvaluator, VOCDetectionEvaluator,
)

folder, rank, world = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if world > 1:
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
records = json.load(open(os.path.join(folder, "records.json")))
DatasetCatalog.register("toy", lambda: records)
MetadataCatalog.get("toy").set(thing_classes=["ant", "bee"], stuff_classes=["ground", "ant"])
evaluators = [
    VOCDetectionEvaluator("toy"),
    SemanticSegmentationEvaluator("toy", output_dir=os.path.join(folder, f"out{world}")),
    ClassificationEvaluator("toy"),
]
results = {}
for evaluator in evaluators:
    evaluator.reset()
    for number in range(rank, len(records), world):
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
    part = evaluator.evaluate()
    assert (part is None) == (rank > 0)
    results |= part or {}
if rank == 0:
    json.dump(results, open(os.path.join(folder, f"results{world}.json"), "w"))
"""


def start(folder, rank, world, port):
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    arguments = [sys.executable, "-c", SCRIPT, str(folder), str(rank), str(world)]
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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [start(tmp_path, 0, 1, port), *(start(tmp_path, rank, 2, port) for rank in (0, 1))]
    for process in processes:
        output, _ = process.communicate(timeout=200)
        assert process.returncode == 0, output
    one, two = (json.loads((tmp_path / f"results{world}.json").read_text()) for world in (1, 2))
    assert set(one) == {"bbox", "sem_seg", "classification"}
    assert 0 < one["bbox"]["AP"] < 100
    for task, figures in one.items():
        assert two[task] == pytest.approx(figures)


@pytest.mark.parametrize("kind", [VOC, SemanticSegmentationEvaluator, ClassificationEvaluator])
def test_one_rank_may_evaluate_alone(kind, register):
    name = register(list, thing_classes=["ant"], stuff_classes=["ground"])
    assert not torch.distributed.is_initialized()
    assert kind(name, distributed=False).evaluate() == {}
