import shutil

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.evaluation import COCOEvaluator, DatasetEvaluators

from multas.config import add_multas_config
from multas.evaluation import (
    EVALUATOR_REGISTRY,
    ClassificationEvaluator,
    SemanticSegmentationEvaluator,
    VOCDetectionEvaluator,
    build_evaluator,
)
from multas.evaluation.build import chosen_types
from multas.evaluation.voc import IOU_THRESHOLDS
from multas.util.errors import UserError

OBJECTS = [[("ant", 0, 11, 11, 30, 30)], [("bee", 0, 1, 1, 20, 20), ("ant", 0, 41, 41, 70, 70)]]
EXACT = [
    ("000000", [0], np.float32([0.9]), np.float32([[10, 10, 30, 30]])),
    ("000001", [1, 0], np.float32([0.8, 0.7]), np.float32([[0, 0, 20, 20], [40, 40, 70, 70]])),
]


@pytest.fixture
def cfg(tmp_path):
    cfg = get_cfg()
    add_multas_config(cfg)
    cfg.OUTPUT_DIR = str(tmp_path)
    return cfg


@pytest.fixture
def voc_set(make_devkit):
    return make_devkit(OBJECTS, ["ant", "bee"])


def test_metadata_chooses_the_evaluator(cfg, voc_set, register):
    assert isinstance(build_evaluator(cfg, voc_set), VOCDetectionEvaluator)
    labels = register(list, evaluator_type="classification")
    assert isinstance(build_evaluator(cfg, labels), ClassificationEvaluator)
    for kind in ("sem_seg", "cityscapes_sem_seg"):
        masks = register(list, evaluator_type=kind, stuff_classes=["ground", "sky"])
        assert isinstance(build_evaluator(cfg, masks), SemanticSegmentationEvaluator)


def test_coco_evaluator_takes_the_same_predictions(cfg, voc_set, run_evaluator):
    ours = run_evaluator(build_evaluator(cfg, voc_set), EXACT)["bbox"]
    cfg.TEST.EVALUATOR = "coco"
    evaluator = build_evaluator(cfg, voc_set, cfg.OUTPUT_DIR)
    assert isinstance(evaluator, COCOEvaluator)
    theirs = run_evaluator(evaluator, EXACT)["bbox"]
    for key in ("AP", "AP50", "AP75", "AP-ant", "AP-bee"):
        assert ours[key] == pytest.approx(100.0)
        assert theirs[key] == pytest.approx(100.0)


def test_coco_s_form_of_a_data_set_lasts_as_long_as_its_folder(
    cfg, voc_set, run_evaluator, tmp_path
):
    cfg.TEST.EVALUATOR = "coco"
    for name in ("first", "second"):
        folder = tmp_path / name
        found = run_evaluator(build_evaluator(cfg, voc_set, str(folder)), EXACT)["bbox"]["AP"]
        assert found == pytest.approx(100.0)
        shutil.rmtree(folder)


def test_coco_s_form_of_other_data_is_written_anew(cfg, voc_set, run_evaluator, tmp_path):
    cfg.TEST.EVALUATOR = "coco"
    file = tmp_path / "before" / f"{voc_set}_coco_format.json"
    file.parent.mkdir()
    file.write_text('{"images": [], "annotations": [], "categories": []}')
    found = run_evaluator(build_evaluator(cfg, voc_set, str(file.parent)), EXACT)["bbox"]["AP"]
    assert found == pytest.approx(100.0)


def test_a_file_of_coco_s_form_is_evaluated_as_it_is(cfg, voc_set, run_evaluator, tmp_path):
    file = str(tmp_path / "own.json")
    convert_to_coco_json(voc_set, file)
    metadata = MetadataCatalog.get(voc_set)
    metadata.json_file = file
    cfg.TEST.EVALUATOR = "coco"
    found = run_evaluator(build_evaluator(cfg, voc_set, str(tmp_path / "out")), EXACT)["bbox"]
    assert found["AP"] == pytest.approx(100.0) and metadata.json_file == file
    assert not (tmp_path / "out" / f"{voc_set}_coco_format.json").exists()


def test_coco_counts_as_many_detections_as_the_model_keeps(cfg, make_devkit, run_evaluator):
    corners = [(10 * (i % 12) + 1, 10 * (i // 12) + 1) for i in range(120)]
    objects = [("ant", 0, x, y, x + 7, y + 7) for x, y in corners]
    crowd = make_devkit([objects, objects[:1]], ["ant"])
    boxes = np.float32([[x - 1, y - 1, x + 7, y + 7] for x, y in corners])
    scores = np.linspace(0.9, 0.5, 120, dtype=np.float32)
    exact = [("000000", [0] * 120, scores, boxes), ("000001", [0], scores[:1], boxes[:1])]
    cfg.TEST.EVALUATOR = "coco"
    cfg.TEST.DETECTIONS_PER_IMAGE = 20  # COCO's own number is the least
    cut = run_evaluator(build_evaluator(cfg, crowd, cfg.OUTPUT_DIR), exact)["bbox"]["AP"]
    cfg.TEST.DETECTIONS_PER_IMAGE = 120
    whole = run_evaluator(build_evaluator(cfg, crowd, cfg.OUTPUT_DIR), exact)["bbox"]["AP"]
    assert 80 < cut < 85 and whole == pytest.approx(100.0)


def test_voc_metric_on_a_set_of_another_format(cfg, voc_set, register, run_evaluator):
    records = DatasetCatalog.get(voc_set)
    other = register(lambda: records, thing_classes=["ant", "bee"], evaluator_type="coco")
    cfg.TEST.EVALUATOR = "voc"
    evaluator = build_evaluator(cfg, other)
    assert isinstance(evaluator, VOCDetectionEvaluator)
    assert run_evaluator(evaluator, EXACT)["bbox"]["AP"] == pytest.approx(100.0)


def test_the_metric_of_boxes_takes_the_place_of_other_ones_of_boxes_alone(cfg, register):
    name = register(list, evaluator_type=["voc", "sem_seg", "coco"])
    assert chosen_types(cfg, name) == ["pascal_voc", "sem_seg", "coco"]
    cfg.TEST.EVALUATOR = "coco"
    assert chosen_types(cfg, name) == ["coco", "sem_seg"]


def test_several_tasks_give_several_evaluators(cfg, voc_set):
    meta = MetadataCatalog.get(voc_set)
    MetadataCatalog.remove(voc_set)
    types = ["pascal_voc", "sem_seg", "classification"]
    values = {**meta.as_dict(), "evaluator_type": types, "stuff_classes": ["ground", "ant"]}
    MetadataCatalog.get(voc_set).set(**{k: v for k, v in values.items() if k != "name"})
    evaluator = build_evaluator(cfg, voc_set)
    assert isinstance(evaluator, DatasetEvaluators)
    evaluator.reset()
    # A model of one task alone is judged by that one.
    evaluator.process([{"label": 0, "file_name": "0.jpg"}], [{"scores": np.float32([0.9, 0.1])}])
    assert evaluator.evaluate() == {"classification": {"top1_error": 0.0, "top5_error": 0.0}}


def test_unknown_choices_are_answered_with_the_known_ones(cfg, voc_set, register):
    with pytest.raises(UserError, match=r"no evaluator_type.*pascal_voc"):
        build_evaluator(cfg, register(list))
    with pytest.raises(UserError, match=r"'panoptic'.*unknown.*pascal_voc"):
        build_evaluator(cfg, register(list, evaluator_type="panoptic"))
    cfg.TEST.EVALUATOR = "kitti"
    with pytest.raises(
        ValueError, match=r"EVALUATOR is 'kitti'; choose from voc, detectron2_voc, coco"
    ):
        build_evaluator(cfg, voc_set)


def test_keys_reach_the_voc_evaluator(cfg, voc_set, run_evaluator):
    assert cfg.TEST.VOC_IOU_THRESHOLDS == IOU_THRESHOLDS
    cfg.TEST.VOC_IOU_THRESHOLDS = (0.5,)
    cfg.TEST.VOC_REPORT_THRESHOLDS = (0.1, 0.25)
    cfg.TEST.VOC_METRIC = "area"
    cfg.TEST.VOC_SKIP_ABSENT_CLASSES = True
    first = [EXACT[0], ("000001", [0], np.float32([0.95]), np.float32([[80, 80, 90, 90]]))]
    results = run_evaluator(build_evaluator(cfg, voc_set), first)["bbox"]
    assert results["AP"] == results["AP_area"] == pytest.approx(12.5)
    assert results["AP10"] == pytest.approx(12.5)
    assert "AP75" not in results


def test_users_can_register_their_own(cfg, register, monkeypatch):
    def my_evaluator(cfg, dataset_name, output_folder):
        return (dataset_name, output_folder)

    monkeypatch.setitem(EVALUATOR_REGISTRY._obj_map, "my_type", my_evaluator)
    name = register(list, evaluator_type="my_type")
    assert build_evaluator(cfg, name) == (name, f"{cfg.OUTPUT_DIR}/inference")
