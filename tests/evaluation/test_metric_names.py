"""The metrics that are known before an evaluation are those that it reports."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from multas.evaluation.build import EVALUATOR_REGISTRY
from multas.evaluation.metric_names import check_metric, lower_is_better
from multas.util.errors import UserError
from plain_config import plain_config

CLASSES = ["cat", "dog"]


@pytest.fixture
def named(forget_registered):
    """``named(*types)``: a registered data set that these evaluators judge."""

    def register(*types: str) -> str:
        keys = ("thing_classes", "stuff_classes", "label_classes")
        DatasetCatalog.register("measured", list)
        entries = dict.fromkeys(keys, CLASSES)
        MetadataCatalog.get("measured").set(evaluator_type=list(types), **entries)
        return "measured"

    return register


@pytest.mark.parametrize(
    ("evaluator", "metrics"),
    [
        ("coco", ["bbox/AP", "bbox/APl", "bbox/AP-dog"]),
        ("voc", ["bbox/AP", "bbox/AP50_11pt", "bbox/AP_area", "bbox/AP75-cat"]),
        ("detectron2_voc", ["bbox/AP", "bbox/AP50", "bbox/AP75"]),
        ("sem_seg", ["sem_seg/mIoU", "sem_seg/IoU-cat", "sem_seg/ACC-dog"]),
        ("classification", ["classification/top1_error", "classification/top5_error"]),
    ],
)
def test_what_is_reported_is_accepted_and_nothing_else(named, evaluator, metrics):
    cfg, name = plain_config(), named(evaluator)
    for metric in metrics:
        check_metric(cfg, name, metric, "--metric")
    for wrong in ("", "AP", "bbox", "bbox/AP-cow", "total_loss", "student/bbox/AP",
                  "teacher/bbox/AP", metrics[0].upper(), f"{metrics[0]}/", "segm/AP"):  # fmt: skip
        with pytest.raises(UserError, match=rf"--metric '{wrong}' is not measured on 'measured'"):
            check_metric(cfg, name, wrong, "--metric")


def test_the_nearest_is_named_and_what_the_config_evaluates(named):
    cfg, name = plain_config("SOLVER.EMA.ENABLED", True), named("coco", "sem_seg")
    check_metric(cfg, name, "student/sem_seg/mIoU", "--metric")
    with pytest.raises(UserError, match=r"Did you mean 'sem_seg/mIoU'"):
        check_metric(cfg, name, "ema/sem_seg/mIoU", "--metric")
    with pytest.raises(UserError, match=r"Did you mean 'sem_seg/mIoU'\?.* bbox/AP50, .*-name"):
        check_metric(cfg, name, "sem_seg/miou", "--metric")
    check_metric(plain_config("TEST.EVALUATOR", "voc"), name, "bbox/AP_11pt", "--metric")


def test_an_own_evaluator_may_report_anything(named, monkeypatch):
    monkeypatch.setitem(EVALUATOR_REGISTRY._obj_map, "counting", print)
    check_metric(plain_config(), named("counting"), "count/error", "--metric")


def test_errors_are_better_if_they_are_lower():
    assert lower_is_better("classification/top1_error")
    assert not lower_is_better("bbox/AP")
