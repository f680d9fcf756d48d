"""The score from which on a teacher's boxes are used: chosen on a val split, or given."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from hypothesis import given, settings
from hypothesis import strategies as st

from multas.data import make_toy
from multas.data.pseudo_label_files import Header, file_sha256, save_pseudo_labels
from multas.engine.comparison.data import Data
from multas.engine.comparison.matching import Matches, best_thresholds, match
from multas.engine.comparison.predictions import Predictions
from own_data import job as job_module
from own_data import thresholds
from own_data.data import prepare
from own_data.job import Job, _has_labels
from own_data.recipe import THRESHOLDS, write_configs, write_thresholds
from own_data.thresholds import FIXED, PRIOR, pseudo_label_thresholds

KEY = "DATASETS.PSEUDO_LABELS.SCORE_THRESH"
# So that a network that has learned nothing finds boxes everywhere, some of which are right.
EVERYTHING = (
    "MODEL.GFL_HEAD.SCORE_THRESH_TEST", "0.0", "MODEL.GFL_HEAD.NMS_THRESH_TEST", "0.95",
    "MODEL.GFL_HEAD.TOPK_CANDIDATES_TEST", "0", "TEST.DETECTIONS_PER_IMAGE", "2000",
)  # fmt: skip


def scene(right: list[list[float]], wrong: list[list[float]]) -> Matches:
    """An image with as many objects of each class as are found; ``right`` and ``wrong`` scores."""
    objects, found = [], []
    for k, (good, bad) in enumerate(zip(right, wrong, strict=True)):
        for number, score in enumerate(good):
            box = [30.0 * number, 30.0 * k, 20.0, 20.0]
            objects.append({"bbox": box, "bbox_mode": 1, "category_id": k})
            found.append((k, score, *box[:2], box[0] + 20, box[1] + 20))
        found += [(k, score, 0, 1000, 20, 1020) for score in bad]
    table = np.array(found).reshape(-1, 6)
    nothing = np.zeros((0, 0))
    data = Data("scene", [{"image_id": "a", "file_name": "", "annotations": objects}])
    predictions = Predictions(
        ("instances",), 0, np.zeros(len(table), np.int64), table[:, 0].astype(np.int64),
        table[:, 1].astype(np.float32), table[:, 2:].astype(np.float32), (), nothing, nothing,
    )  # fmt: skip
    return match(data, predictions, len(right))


SCORES = st.lists(st.integers(50, 999).map(lambda n: n / 1000), max_size=30)


@settings(max_examples=30)
@given(st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=4))
def test_a_threshold_lies_between_the_best_of_the_class_and_that_of_all(scores):
    right, wrong = (list(own) for own in zip(*scores, strict=True))
    matches = scene(right, wrong)
    chosen, best = pseudo_label_thresholds(matches), best_thresholds(matches)
    every = chosen[-1]
    for k, own in enumerate([*right, [score for scores in right for score in scores]]):
        towards = FIXED if k == len(right) else every
        low, high = sorted([towards, best[k] if own else towards])
        assert low - 1e-3 <= chosen[k] <= high + 1e-3
        if not own:
            assert chosen[k] == towards, "nothing is known of this class"


def test_many_objects_have_their_own_threshold_and_few_that_of_all():
    many, few = [0.3] * 990 + [0.9] * 10, [0.9]
    chosen = pseudo_label_thresholds(scene([many, few], [[0.2] * 50, []]))
    assert chosen[0] == pytest.approx(0.3, abs=0.01)
    assert chosen[2] == pytest.approx((1001 * 0.3 + PRIOR * FIXED) / (1001 + PRIOR), abs=1e-3)
    assert chosen[1] == pytest.approx((0.9 + PRIOR * chosen[2]) / (1 + PRIOR), abs=2e-3)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_toy(tmp_path_factory.mktemp("devkit"), train=20, val=4, test=4)


@pytest.fixture
def job(root, tmp_path, repository):
    """``job(*opts, splits)``: a job with a teacher that has learned nothing."""
    toy = yaml.safe_load((repository / "datasets" / "cards" / "toy.yaml").read_text())
    keys = {"format": "voc", "root": str(root), "annotates": ["det"], "classes": toy["classes"]}

    def make(*opts: str, splits: tuple[str, ...] = ("train", "val", "test")) -> Job:
        card = {"name": "cells", **keys, "splits": {split: f"Main/{split}" for split in splits}}
        data = prepare([card], tmp_path / "data", Fraction(1, 2))
        output = tmp_path / "out"
        made = Job(output / "configs", output, [*EVERYTHING, *opts], flip=True)
        write_configs(data, made.configs, output, size="nano", seed=1, iterations=2)
        cfg = made.config("teacher")
        folder = Path(made.folder("teacher"))
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(cfg.dump())
        torch.save({"model": build_model(cfg).state_dict()}, made.weights("teacher"))
        return made

    return make


def options_of(job: Job) -> CfgNode:
    return job.config("distilled").DATASETS.PSEUDO_LABELS


def test_they_are_chosen_once_and_can_be_read(job, capsys):
    made = job()
    file = made.configs / THRESHOLDS
    assert options_of(made).SCORE_THRESH == FIXED
    made.choose_thresholds()
    said, chosen = capsys.readouterr().out, options_of(made).CLASS_SCORE_THRESH
    assert options_of(made).SCORE_THRESH == 0.0
    # Boxes of a random network have low scores.
    assert all(0 < threshold <= FIXED for threshold in chosen) and min(chosen) < FIXED
    for text in (said, file.read_text()):
        assert "cells_val (4 images)" in text
        lines = [line.removeprefix("# ").split()[:2] for line in text.splitlines()]
        names = MetadataCatalog.get("cells_val").thing_classes
        for name, threshold in zip(names, chosen, strict=True):
            assert [name, f"{threshold:.3f}"] in lines

    before = file.read_bytes()
    Path(made.weights("teacher")).unlink()  # so that nothing can be found with it
    made.choose_thresholds()
    assert file.read_bytes() == before and "as the config has them" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wanted", "flip", "is_told"),
    [(True, "horizontal", True), (True, "none", False), (False, "horizontal", False)],
)
def test_a_teacher_labels_mirror_images_where_it_learns_from_them(
    job, wanted, flip, is_told, monkeypatch
):
    made, calls = replace(job("INPUT.RANDOM_FLIP", flip), flip=wanted), []
    monkeypatch.setattr("own_data.job.call", lambda *words: calls.append(words))
    monkeypatch.setattr("own_data.job.chosen_on", lambda *_, flip: calls.append(flip) or ([], []))
    made.label()
    assert calls[0] is is_told and ("--flip" in calls[1]) is is_told


def test_thresholds_are_chosen_on_what_the_teacher_labels(job, monkeypatch):
    found, real = [], thresholds.predictions_of
    monkeypatch.setattr(
        thresholds,
        "predictions_of",
        lambda *words, **keys: found.append(keys) or real(*words, **keys),
    )
    job().choose_thresholds()
    assert found == [{"flip": True}]


@pytest.mark.parametrize("value", ["0.7", str(FIXED)])
def test_a_threshold_given_by_hand_wins(job, value):
    made = job(KEY, value)
    made.choose_thresholds()
    assert float(value) == options_of(made).SCORE_THRESH
    assert options_of(made).CLASS_SCORE_THRESH == []


def test_a_threshold_written_into_the_file_wins(job):
    made = job()
    file = made.configs / THRESHOLDS
    file.write_text(file.read_text().replace(str(FIXED), "0.6"))
    made.choose_thresholds()
    assert options_of(made).SCORE_THRESH == 0.6 and options_of(made).CLASS_SCORE_THRESH == []


def test_thresholds_of_classes_given_by_hand_win(job):
    made = job("DATASETS.PSEUDO_LABELS.CLASS_SCORE_THRESH", str([0.6] * 8))
    before = (made.configs / THRESHOLDS).read_bytes()
    made.choose_thresholds()
    assert (made.configs / THRESHOLDS).read_bytes() == before
    assert options_of(made).CLASS_SCORE_THRESH == [0.6] * 8


@pytest.mark.parametrize("splits", [("train", "test"), ("train", "val")])
def test_without_a_split_to_choose_on_it_is_fixed_and_said_why(job, capsys, splits):
    made = job(splits=splits)  # with train and val alone, val is what is reported on
    made.choose_thresholds()
    assert options_of(made).SCORE_THRESH == FIXED and options_of(made).CLASS_SCORE_THRESH == []
    assert f"{FIXED}, since there is no val split" in capsys.readouterr().out


def test_a_recipe_of_its_own_keeps_its_threshold(capsys):
    folder = Path("configs/quickstart")
    Job(folder, Path("output/quickstart")).choose_thresholds()
    assert "as the config has them: 0.45" in capsys.readouterr().out
    assert not (folder / THRESHOLDS).exists()


def test_the_teacher_labels_once_and_from_the_lowest_threshold_on(job, monkeypatch, capsys):
    made, calls = job(), []
    monkeypatch.setattr(job_module, "call", lambda *words: calls.append(words))
    write_thresholds(made.configs / THRESHOLDS, {"CLASS_SCORE_THRESH": [0.3] * 7 + [0.2]}, [])
    made.label()
    ((_, *words),) = calls
    words.remove("--flip")  # the one without a value
    given = dict(zip(words[::2], words[1::2], strict=True))
    assert float(given["--score-thresh"]) == 0.2
    of = {"teacher_sha256": file_sha256(made.weights("teacher"))}
    header = Header(given["--dataset"], ["a"], ["1"], 0.2, 0, **of)
    save_pseudo_labels(given["--output"], header, [])
    made.label()
    assert len(calls) == 1 and "already written" in capsys.readouterr().out


def test_labels_are_made_again_where_boxes_are_missing(tmp_path):
    weights, file = tmp_path / "teacher.pth", str(tmp_path / "labels.json")
    weights.write_bytes(b"weights")

    def is_there(lowest: float, **header) -> bool:
        of = {"teacher_sha256": file_sha256(str(weights)), **header}
        save_pseudo_labels(file, Header("cells", ["a"], ["1"], 0.4, 0, **of), [])
        return _has_labels(file, str(weights), lowest)

    assert not _has_labels(file, str(weights), 0.4)
    assert is_there(0.4) and is_there(0.5)
    assert not is_there(0.3)
    assert is_there(0.3, reviewed="a"), "what a person has looked through is not replaced"
    assert not is_there(0.5, teacher_sha256="another")
