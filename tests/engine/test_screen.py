"""What a training shows: one screen before it begins, its losses, each figure once, pictures."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.utils.events import EventStorage

from multas.data.pseudo_label_files import Header, save_pseudo_labels
from multas.engine import Trainer
from multas.engine.evaluation_images import EvaluationImages
from multas.engine.overview import describe_network
from multas.engine.progress import loss_in_words, loss_terms
from multas.engine.report import read_metrics
from training import different, start, weights_in


@pytest.fixture
def pseudo_labels(tiny_cfg, card, tmp_path):
    """A file with a box on each unlabelled image."""
    tiny_cfg()  # registers the data
    records = DatasetCatalog.get(f"{card['name']}_half2_unlabeled")
    ids = [record["image_id"] for record in records]
    box = {"category_id": 1, "bbox": [10, 10, 30, 40], "score": 0.9}
    header = Header(f"{card['name']}_half2_unlabeled", card["classes"], ids, 0.1, 0)
    save_pseudo_labels(str(tmp_path / "p.json"), header, [{"image_id": i, **box} for i in ids])
    return ["DATASETS.PSEUDO_LABELS.FILES", [str(tmp_path / "p.json")]]


@pytest.fixture
def student_cfg(distilled_cfg, pseudo_labels):
    """``student_cfg(KEY, VALUE, ...)``: adaptive distillation with pseudo-labels."""

    def build(*opts, folder="run"):
        return distilled_cfg("MODEL.DISTILLATION.AGGREGATION.NAME", "adaptive", *pseudo_labels,
                             *opts, folder=folder)  # fmt: skip

    return build


def test_a_run_shows_one_screen_and_writes_the_rest(student_cfg, train_net, capsys):
    cfg = student_cfg("SOLVER.MAX_ITER", 2, "TEST.EVAL_PERIOD", 1, "SOLVER.EMA.ENABLED", True)
    train_net(cfg)
    shown = capsys.readouterr().out
    before, _, after = shown.partition("iteration 2/2, loss ")
    assert len(before.splitlines()) < 40 and len(after.splitlines()) < 12
    # Networks, data, pseudo-labels, paths, plan.
    for pattern in (
        r"\nmodel +MultiTaskNetwork \(det\), FPN on ResNet-18, [\d.]+ (M )?parameters, shorter",
        r"\nteacher +MultiTaskNetwork [^:]*teacher\d+\.pth",
        r"half2_unlabeled +8 ",
        r"\npseudo-boxes +disc 0, square 8",
        r"\npseudo-labels +[^:]*p\.json",
        r"\nsoft +SoftDetection +heads\.det",
        r"\nplan +2 iterations of 4 images \(0.5 epochs\) on cpu",
        r"\nprecision +float32",
        r"\nfolder +[^:]*/run/\s",
    ):
        assert re.search(pattern, before), before
    assert "kd_z" not in shown and "Environment" not in shown and "copypaste" not in shown
    assert "WEIGHT_DECAY" not in shown and "Conv2d" not in shown
    table = after[after.index("Evaluation on") :].splitlines()
    assert [line.split()[0] for line in table[1:4]] == ["bbox", "student", "ema"]
    assert re.search(r"The student is .*/run/student\.pth", after)

    log, model = (Path(cfg.OUTPUT_DIR, name).read_text() for name in ("log.txt", "model.txt"))
    for whole in ("Environment info", "WEIGHT_DECAY", "Conv2d", "total_loss: ", "copypaste"):
        assert whole in log
    assert model.startswith("MultiTaskNetwork(")
    names = set().union(*read_metrics(cfg.OUTPUT_DIR).values())
    assert {"bbox/AP", "student/bbox/AP", "loss_kd_z"} <= names
    assert not any(name.startswith("ema/") for name in names), "each figure has one name"


def test_the_loss_that_is_shown_adds_up_and_leaves_regularizers_out():
    with EventStorage(0) as storage:
        for name, value in {"total_loss": 17.0, "loss_cls": 1.0, "loss_kd_a": 2.0,
                            "loss_kd_z": 14.0, "path_loss/a": 9.0}.items():  # fmt: skip
            storage.put_scalar(name, value)
        terms = loss_terms(storage, {"loss_kd_z"})
    assert loss_in_words(terms, few=6) == "loss 3 (cls 1, kd_a 2)"
    assert loss_in_words(terms, few=0) == "loss 3 (tasks 1, paths 2)"
    with EventStorage(0) as storage:
        storage.put_scalar("total_loss", 2.5)
        assert loss_in_words(loss_terms(storage), few=6) == "loss 2.5"
        storage.iter = 1
        storage.put_scalar("loss_seg", 1.5)
        assert loss_terms(storage).keys() == {"loss_seg"}, "of this iteration's task alone"


def test_a_network_is_described_whatever_it_is():
    assert describe_network(torch.nn.Linear(3, 2)) == "Linear, 8 parameters"


@pytest.fixture
def pictures(student_cfg, monkeypatch):
    """``pictures(KEY, VALUE, ...)``: a trained trainer and its pictures by name and iteration."""

    def train(*opts, folder="run"):
        put = {}
        monkeypatch.setattr(
            EventStorage, "put_image",
            lambda storage, name, image: put.update({(name, storage.iter): image}),
        )  # fmt: skip
        trainer = start(student_cfg("SOLVER.MAX_ITER", 2, "TEST.EVAL_PERIOD", 1, *opts,
                                    folder=folder))  # fmt: skip
        trainer.train()
        return trainer, put

    return train


def test_evaluations_are_drawn_and_training_does_not_notice(pictures, card):
    plain, none = pictures("TEST.VIS_IMAGES", 0, folder="plain")
    drawn, put = pictures("TEST.VIS_IMAGES", 1, folder="drawn")
    assert none == {}
    groups = [(name.split("/")[0], iteration) for name, iteration in put]
    test = f"{card['name']}_test"
    assert groups == [(group, i) for i in (0, 2) for group in (test, "pseudo-labels")]
    assert {name for name, i in put if i == 0} == {name for name, i in put if i == 2}
    for image in put.values():
        assert image.dtype == np.uint8 and image.shape[0] == 3
        left, right = np.split(image, 2, axis=2)
        assert (left != right).any(), "annotations beside predictions"
    assert different(*(weights_in(t.cfg) for t in (plain, drawn))) == []
    states = [
        torch.load(os.path.join(t.cfg.OUTPUT_DIR, "model_final.pth"), weights_only=True)["trainer"]
        for t in (plain, drawn)
    ]
    assert torch.equal(*(state["hooks"]["RunState"]["numpy"][1] for state in states))


def test_what_cannot_be_drawn_stops_no_training(student_cfg, caplog):
    class Odd(torch.nn.Module):
        def forward(self, inputs):
            raise KeyError("instances")

    look = EvaluationImages(student_cfg("TEST.VIS_IMAGES", 1), None)
    with EventStorage(0), caplog.at_level("WARNING", "multas"):
        look(Odd())
        look(Odd())
    assert caplog.text.count("no more pictures of evaluations (KeyError") == 1


def test_files_of_older_versions_stay_readable(tmp_path):
    record = {"iteration": 9, "bbox/AP": 2.0, "student/bbox/AP": 1.0, "ema/bbox/AP": 2.0}
    (tmp_path / "metrics.json").write_text(json.dumps(record))
    assert read_metrics(str(tmp_path))[9]["bbox/AP"] == 2.0


def test_nobody_but_the_main_process_shows_anything(tiny_cfg, own_log, capsys, monkeypatch):
    from detectron2.utils import comm

    from multas.engine.run_log import on_screen
    from multas.util.screen import find_screen

    monkeypatch.setattr(comm, "get_rank", lambda: 1)
    with on_screen():
        print("Detectron2's set-up")
    assert find_screen() is None
    trainer = Trainer(tiny_cfg("SOLVER.MAX_ITER", 1, "DATASETS.TEST", []))
    assert trainer is not None and capsys.readouterr().out == ""
