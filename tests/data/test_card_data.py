"""What data sets of cards hold, format by format, and that Detectron2's evaluators take it."""

import re
import shutil

import numpy as np
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.pascal_voc import load_voc_instances
from detectron2.evaluation import COCOEvaluator, PascalVOCDetectionEvaluator, SemSegEvaluator
from PIL import Image

from multas.data import DATA_FORMAT_REGISTRY, DatasetError, register_card
from multas.data.formats.mask_files import read_mask
from multas.data.toy.scene import CLASSES
from perfect_predictions import perfect_predictions


@pytest.fixture
def real_card(repository, shared_data, monkeypatch):
    """Path of a card of the repository, its data found in the folder of real data sets."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shared_data))

    def find(name):
        if not (shared_data / name).is_dir():
            pytest.skip(f"no {name}")
        return repository / "datasets" / "cards" / f"{name}.yaml"

    return find


def test_voc_dicts_are_those_of_detectron2(toy_card, small_toy):
    register_card(toy_card)
    own = DatasetCatalog.get("toy_train")
    for record in own:
        for entry in record["annotations"]:
            assert {entry.pop("difficult"), entry.pop("truncated")} <= {0, 1}
    assert own == load_voc_instances(str(small_toy), "train", CLASSES)


@pytest.mark.parametrize("split", ["test", "half"])
def test_detectron2_voc_evaluator_scores_the_ground_truth_100(toy_card, split):
    register_card(toy_card)
    scores = perfect_predictions(PascalVOCDetectionEvaluator(f"toy_{split}"), f"toy_{split}")
    assert scores["AP50"] == pytest.approx(100) and scores["AP"] == pytest.approx(100)


def test_detectron2_coco_evaluator_scores_the_ground_truth_100(toy_card, tmp_path):
    register_card(toy_card)
    evaluator = COCOEvaluator("toy_test", output_dir=str(tmp_path), use_fast_impl=False)
    scores = perfect_predictions(evaluator, "toy_test")
    assert scores["AP"] == pytest.approx(100)


def test_detectron2_mask_evaluator_scores_the_ground_truth_100(toy_card):
    register_card(toy_card)
    evaluator = SemSegEvaluator("toy_seg", distributed=False)
    evaluator.reset()
    for record in DatasetCatalog.get("toy_seg"):
        mask = read_mask(record["sem_seg_file_name"]).astype(np.int64)
        scores = torch.nn.functional.one_hot(torch.as_tensor(mask).clamp(max=8), 9)
        evaluator.process([record], [{"sem_seg": scores.permute(2, 0, 1).float()}])
    assert evaluator.evaluate()["sem_seg"]["mIoU"] == pytest.approx(100)


def test_lists_outside_the_devkit_can_be_evaluated(toy_card, small_toy, tmp_path):
    card = tmp_path / "mine.yaml"
    shutil.copy(small_toy / "ImageSets/Main/val.txt", tmp_path / "few.txt")
    card.write_text(yaml.safe_dump({**toy_card, "splits": {"few": "few.txt"}}))
    register_card(card)
    scores = perfect_predictions(PascalVOCDetectionEvaluator("toy_few"), "toy_few")
    assert scores["AP50"] > 0


def test_a_plain_folder_needs_no_splits(small_toy, tmp_path):
    register_card({"name": "wild", "format": "images", "root": str(small_toy / "JPEGImages")})
    records = DatasetCatalog.get("wild_all")
    assert records == DatasetCatalog.get("wild_all_unlabeled")
    assert [record["image_id"] for record in records] == [f"{i:06d}" for i in range(38)]
    (tmp_path / "some.txt").write_text("000003\n000001\n")
    content = {"name": "few", "format": "images", "root": str(small_toy)}
    register_card({**content, "images": "JPEGImages", "splits": {"x": str(tmp_path / "some.txt")}})
    assert [r["image_id"] for r in DatasetCatalog.get("few_x")] == ["000003", "000001"]


def test_masks_format(small_toy):
    register_card(
        {
            "name": "roads",
            "format": "masks",
            "root": str(small_toy),
            "images": "JPEGImages",
            "masks": "SegmentationClass",
            "classes": ["nothing", *CLASSES],
            "splits": {"val": "Segmentation/val", "all": {}},
        }
    )
    assert len(DatasetCatalog.get("roads_all")) == 38
    records = DatasetCatalog.get("roads_val")
    assert records[0]["sem_seg_file_name"].endswith("SegmentationClass/000024.png")
    metadata = MetadataCatalog.get("roads_val")
    assert metadata.stuff_classes == ["nothing", *CLASSES]
    assert metadata.evaluator_type == "sem_seg"


def test_blood_cells_without_area_are_reported_by_name_or_left_out(real_card, caplog):
    card = real_card("bccd")
    content = yaml.safe_load(card.read_text())
    register_card(card)
    records = DatasetCatalog.get("bccd_trainval")
    assert (len(records), sum(len(r["annotations"]) for r in records)) == (292, 3943 - 2)
    warnings = [record for record in caplog.records if record.name.startswith("multas")]
    assert len(warnings) == 1 and "BloodImage_00338" in warnings[0].getMessage()
    register_card({**content, "name": "strict", "strictness": "stop"})
    with pytest.raises(DatasetError) as error:
        DatasetCatalog.get("strict_trainval")
    message = str(error.value)
    assert "2 issues" in message
    assert "BloodImage_00338.xml: object 12 (RBC): box 504,337,504,337 has no area" in message
    assert "BloodImage_00343.xml: object 3 (RBC): box 181,329,181,329 has no area" in message
    assert len(DatasetCatalog.get("strict_test")) == 72


def test_blood_cells_are_evaluated_by_detectron2(real_card):
    register_card(real_card("bccd"))
    scores = perfect_predictions(PascalVOCDetectionEvaluator("bccd_test"), "bccd_test")
    assert scores["AP50"] == pytest.approx(100)


def test_coco_slice_has_images_annotated_as_empty(real_card, tmp_path):
    register_card(real_card("coco128"))
    records = DatasetCatalog.get("coco128_train")
    assert (len(records), sum(len(r["annotations"]) for r in records)) == (41, 305)
    empty = [record["image_id"] for record in records if record["annotations"] == []]
    assert empty == [250, 508]
    unlabeled = DatasetCatalog.get("coco128_train_unlabeled")
    assert [record["image_id"] for record in unlabeled] == [r["image_id"] for r in records]
    assert not any("annotations" in record for record in unlabeled)


def test_coco_slice_is_evaluated_by_detectron2(real_card, tmp_path):
    register_card(real_card("coco128"))
    name = "coco128_val"
    DatasetCatalog.get(name)
    evaluator = COCOEvaluator(name, output_dir=str(tmp_path), use_fast_impl=False, tasks=("bbox",))
    assert perfect_predictions(evaluator, name)["AP"] > 99.9
    assert not list(tmp_path.glob("*coco_format*"))  # the file itself serves as ground truth


def test_image_sizes_are_those_detectron2_reads(tmp_path):
    pixels = np.zeros((6, 9, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif)
    Image.fromarray(pixels[..., 0]).save(tmp_path / "b.jpg")
    register_card({"name": "wild", "format": "images", "root": str(tmp_path)})
    sizes = [(r["width"], r["height"]) for r in DatasetCatalog.get("wild_all")]
    assert sizes == [(6, 9), (9, 6)]


def test_the_format_of_the_documentation_works(repository, tmp_path, monkeypatch):
    text = (repository / "datasets" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    formats = dict(DATA_FORMAT_REGISTRY._obj_map)
    monkeypatch.setattr(DATA_FORMAT_REGISTRY, "_obj_map", formats)
    exec(code, {"__name__": "own_format_of_the_documentation"})
    for name in ("owl_1", "cat_2", "owl_3"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    (tmp_path / "train.txt").write_text("owl_1\ncat_2\n")
    card = {"name": "named", "format": "namedfiles", "root": str(tmp_path)}
    register_card({**card, "splits": {"train": "train.txt"}})
    labels = {r["image_id"]: r["label"] for r in DatasetCatalog.get("named_train")}
    assert labels == {"owl_1": 1, "cat_2": 0}
    metadata = MetadataCatalog.get("named_train")
    assert (metadata.label_classes, metadata.evaluator_type) == (["cat", "owl"], "classification")
    register_card({**card, "name": "cats", "classes": ["cat"], "splits": {"all": {}}})
    with pytest.raises(DatasetError, match=r"2 issues\n.*unknown class owl"):
        DatasetCatalog.get("cats_all")
