"""Runs of which nothing, or not everything, is learned are refused; what is learned from is not."""

import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.modeling import build_model
from detectron2.utils import comm

from multas.data import MultasMapper, build_train_loader, register_card
from multas.data.dataset_dicts import load_training_dicts
from multas.data.pseudo_label_files import Header, save_pseudo_labels
from multas.data.task_batches import parse_task_batches
from multas.data.training import build_training_loader
from multas.distillation import Distiller
from multas.engine import Trainer
from multas.engine.checks.annotations import check_annotations
from multas.engine.checks.classes import check_ignored_labels
from multas.util.annotation import Annotation
from training import two_tasks

FEATURES = {"TYPE": "FeatureMSE", "TASKS": ["seg"], "TEACHER_ID": 1}
DETECTIONS = {"TYPE": "SoftDetection", "TASKS": ["det"]}


def batches(name: str, det: str, seg: str, **keys) -> list:
    """Opts: the splits that the two tasks learn from."""
    entries = [
        {"TASK": t, "TRAIN": [f"{name}_{s}"], **keys} for t, s in (("det", det), ("seg", seg))
    ]
    return ["DATASETS.TRAIN", [], "DATASETS.TASK_BATCHES", entries]


def test_a_head_that_no_image_is_annotated_for(tiny_cfg, card):
    with pytest.raises(ValueError, match=r"TRAIN: no image .* 'seg' \(no 'sem_seg_file_name'\)"):
        Trainer(two_tasks(tiny_cfg()))
    names = [f"{card['name']}_half", f"{card['name']}_seg"]
    assert Trainer(two_tasks(tiny_cfg("DATASETS.TRAIN", names)))


def test_a_network_none_of_whose_tasks_is_annotated(tiny_cfg, card):
    cfg = tiny_cfg("DATASETS.TRAIN", [f"{card['name']}_seg"])
    with pytest.raises(ValueError, match=r"not annotated for det .* there is nothing to learn"):
        Trainer(cfg)


def test_paths_to_the_features_teach_no_head(two_teachers_cfg, card):
    data = batches(card["name"], "det", "seg_unlabeled")
    paths = "MODEL.DISTILLATION.PATHS"
    with pytest.raises(ValueError, match="TASK_BATCHES: no image is annotated for the task 'seg'"):
        Trainer(two_teachers_cfg(*data, paths, [FEATURES]))
    assert Trainer(two_teachers_cfg(*data, paths, [FEATURES | {"STUDENT": "heads.seg"}]))


def test_a_mini_batch_whose_labels_are_hidden_needs_a_path(two_teachers_cfg, card):
    data = [*batches(card["name"], "det", "seg"), "MODEL.DISTILLATION.HARD_LABELS", False]
    paths = "MODEL.DISTILLATION.PATHS"
    with pytest.raises(ValueError, match=r"TASK_BATCHES\[1\]: none .* no path works on them"):
        Trainer(two_teachers_cfg(*data, paths, [DETECTIONS]))
    features = {"TYPE": "FeatureMSE"}
    assert Trainer(two_teachers_cfg(*data, paths, [features])), "features alone may be learned"


def test_a_head_may_have_an_annotation_of_its_own(tiny_cfg):
    cfg = two_tasks(tiny_cfg())
    model = build_model(cfg)
    model.heads["seg"].annotation = Annotation("depth", "depth", "depth")
    mapper = MultasMapper(cfg, is_train=True)
    dicts = [{"file_name": "a.jpg", "annotations": []}, {"file_name": "b.jpg", "depth": "b.png"}]
    check_annotations(model, build_train_loader(dicts, mapper, total_batch_size=1, seed=0))
    loader = build_train_loader(dicts[:1], mapper, total_batch_size=1, seed=0)
    with pytest.raises(ValueError, match=r"the task 'seg' \(no 'depth'\)"):
        check_annotations(model, loader)


def test_each_task_has_the_classes_of_its_own_data_set(tiny_cfg, card, card_file, devkit, tmp_path):
    name = f"shapes{tmp_path.name}"
    masks = {
        "name": name, "format": "masks", "root": str(devkit),
        "classes": {number: f"shape{number}" for number in range(12)},
        "splits": {"all": {"images": "JPEGImages", "masks": "SegmentationClass"}},
        "strictness": "skip",
    }  # fmt: skip
    file = tmp_path / "masks.yaml"
    file.write_text(yaml.safe_dump(masks))
    entries = [
        {"TASK": "det", "TRAIN": [f"{card['name']}_det"]},
        {"TASK": "seg", "TRAIN": [f"{name}_all"]},
    ]
    cards = ["DATASETS.CARDS", [str(card_file), str(file)], "DATASETS.TEST", []]
    opts = [*cards, "DATASETS.TRAIN", [], "DATASETS.TASK_BATCHES", entries]
    assert Trainer(two_tasks(tiny_cfg(*opts), classes=12))
    joint = ["DATASETS.TRAIN", [f"{card['name']}_det", f"{name}_all"]]
    assert Trainer(two_tasks(tiny_cfg(*cards, *joint), classes=12))


def test_names_of_boxes_that_nobody_is_annotated_with_may_differ(card):
    other = {**card, "name": f"{card['name']}_other", "classes": card["classes"][::-1]}
    register_card(other)
    names = [f"{card['name']}_det", f"{other['name']}_seg"]
    assert load_training_dicts(names, filter_empty=False)
    names[1] = f"{other['name']}_det"
    with pytest.raises(ValueError, match="they must agree"):
        load_training_dicts(names, filter_empty=False)


def test_the_label_of_unannotated_pixels_is_one_key_for_all_that_reads_masks(tiny_cfg, card):
    register_card({**card, "name": f"{card['name']}_zero", "ignore_label": 0})
    zero, usual = f"{card['name']}_zero_seg", f"{card['name']}_seg"
    cfg = tiny_cfg(
        "MODEL.META_ARCHITECTURE", "SemanticSegmentor",
        "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["p2", "p3", "p4"],
        "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32, "MODEL.SEM_SEG_HEAD.IGNORE_VALUE", 0,
    )  # fmt: skip
    model = build_model(cfg)
    with pytest.raises(ValueError, match=r"SEMANTIC_FPN_HEAD.IGNORE_VALUE is 255, but 0"):
        check_ignored_labels(cfg, model, [zero])
    cfg.MODEL.SEMANTIC_FPN_HEAD.IGNORE_VALUE = 0
    check_ignored_labels(cfg, model, [zero])
    with pytest.raises(ValueError, match=r"SEM_SEG_HEAD.IGNORE_VALUE is 0, but 255"):
        check_ignored_labels(cfg, model, [usual])
    detector = tiny_cfg()
    check_ignored_labels(detector, build_model(detector), [zero])  # reads no mask


def test_a_file_of_pseudo_labels_is_for_the_images_of_any_task(tiny_cfg, card, tmp_path):
    name = card["name"]
    images = [x["image_id"] for x in DatasetCatalog.get(f"{name}_det_unlabeled")]
    header = Header(f"{name}_det_unlabeled", list(card["classes"]), images, 0.0, 0)
    box = {"image_id": images[0], "category_id": 0, "bbox": [1, 2, 3, 4], "score": 0.9}
    file = tmp_path / "labels.json"
    save_pseudo_labels(str(file), header, [box])
    key = ["DATASETS.PSEUDO_LABELS.FILES", [str(file)]]
    build = two_tasks(tiny_cfg(*batches(name, "det_unlabeled", "seg"), *key))
    assert Trainer(build)
    wrong = two_tasks(tiny_cfg(*batches(name, "det", "seg"), *key))
    with pytest.raises(
        ValueError, match=r"none of the unannotated images of DATASETS.TASK_BATCHES"
    ):
        Trainer(wrong)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("vall", "DATA names '.*_vall', which is not registered"),
        ("val_unlabeled", "DATA: 4 of 4 images are not annotated"),
    ],
)
def test_validation_images_of_bilevel_are_annotated(two_teachers_cfg, card, split, message):
    key = "MODEL.DISTILLATION.AGGREGATION"
    names = [f"{card['name']}_{split}"]
    with pytest.raises(ValueError, match=message):
        Trainer(two_teachers_cfg(f"{key}.NAME", "bilevel", f"{key}.DATA", names))


def test_batch_sizes_of_entries_do_not_scale_with_processes(tiny_cfg, card):
    opts = [*batches(card["name"], "det", "seg", IMS_PER_BATCH=2), "SOLVER.REFERENCE_WORLD_SIZE", 1]
    with pytest.raises(ValueError, match=r"\[0\]: IMS_PER_BATCH would not be scaled .* to 0"):
        parse_task_batches(two_tasks(tiny_cfg(*opts)), 0)
    cfg = two_tasks(tiny_cfg(*batches(card["name"], "det", "seg")))
    cfg.SOLVER.IMS_PER_BATCH = 0
    with pytest.raises(ValueError, match=r"SOLVER.IMS_PER_BATCH is 0"):
        build_training_loader(cfg)


def test_a_norm_that_waits_for_other_processes_is_refused(tiny_cfg, card, monkeypatch):
    cfg = tiny_cfg("DATASETS.TRAIN", [f"{card['name']}_half", f"{card['name']}_half2_unlabeled"])
    loader = build_training_loader(cfg)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), NaiveSyncBatchNorm(4))
    model = Distiller(student=network, build=lambda student: None)
    model.distillation = torch.nn.Identity()
    check_annotations(model, loader)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match=r"8 of 16 images .* layer '1', which waits for other"):
        check_annotations(model, loader)
    network.accepts_unannotated = True
    check_annotations(model, loader)
    check_annotations(network, loader)
